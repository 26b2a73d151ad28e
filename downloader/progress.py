"""How long work says how far it is. The library calls; only the command line shows."""

from typing import Protocol


class Progress(Protocol):
    """Receives what was done; all methods may be called from several threads at once."""

    def start(self, total_bytes: int, total_files: int) -> None:
        """Say how much there is to do, before the first byte."""

    def advance(self, size_bytes: int) -> None:
        """Say that so many more bytes are done; negative where they have to be done again."""

    def finish_file(self, path: str) -> None:
        """Say that a file (or layer) is complete and verified."""

    def note(self, text: str) -> None:
        """Say one line that a person wants to know now: a retry, a reuse, a fallback."""


class NoProgress:
    """Shows nothing."""

    def start(self, total_bytes: int, total_files: int) -> None:
        """Ignore it."""

    def advance(self, size_bytes: int) -> None:
        """Ignore it."""

    def finish_file(self, path: str) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
