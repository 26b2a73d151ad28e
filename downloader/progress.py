"""How long work says how far it is. The library calls; only the command line shows."""

from collections.abc import Callable
from typing import Protocol

Note = Callable[[str], None]  # told one line, as `Progress.note` is


def ignore(text: str) -> None:
    """Note nothing."""


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


class Meter:
    """The progress of one file, which a retry sets back.

    Args:
        progress: Told the differences.
        size_bytes: Of the file; what goes beyond (blocks of a file system) is left out.
    """

    def __init__(self, progress: Progress, size_bytes: int) -> None:
        self._progress = progress
        self._size_bytes = size_bytes
        self._told_bytes = 0

    def set(self, done_bytes: int) -> None:
        """Say that ``done_bytes`` of the file are done."""
        done_bytes = min(done_bytes, self._size_bytes)
        self._progress.advance(done_bytes - self._told_bytes)
        self._told_bytes = done_bytes
