"""The interface that work reports its progress to. Only the command line shows it."""

from collections.abc import Callable
from typing import Protocol

Note = Callable[[str], None]  # told one line, as `Progress.note` is


def ignore(text: str) -> None:
    """Note nothing."""


class Progress(Protocol):
    """Receives what was done; all methods may be called from several threads at once."""

    def start(self, total_bytes: int, total_files: int) -> None:
        """Say how much there is to do, before the first byte."""

    def start_file(self, path: str, size_bytes: int) -> None:
        """Say that a file begins to move, by its name in the repo."""

    def advance(self, size_bytes: int, path: str = "") -> None:
        """Say that so many more bytes were moved; negative where they have to be moved again.

        Args:
            size_bytes: Of the bytes.
            path: Of the file that they belong to, as `start_file` had it; "" for none.
        """

    def skip(self, size_bytes: int, path: str = "") -> None:
        """Say that so many bytes were there already: done, but not moved; as `advance`."""

    def finish_file(self, path: str) -> None:
        """Say that a file (or layer) is complete and verified."""

    def note(self, text: str) -> None:
        """Say one line that a person wants to know now: a retry, a reuse, a fallback."""

    def warn(self, text: str) -> None:
        """Say one line that a person has to know, also one who wants to see no progress."""


class NoProgress:
    """Shows nothing."""

    def start(self, total_bytes: int, total_files: int) -> None:
        """Ignore it."""

    def start_file(self, path: str, size_bytes: int) -> None:
        """Ignore it."""

    def advance(self, size_bytes: int, path: str = "") -> None:
        """Ignore it."""

    def skip(self, size_bytes: int, path: str = "") -> None:
        """Ignore it."""

    def finish_file(self, path: str) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def warn(self, text: str) -> None:
        """Say it as a note."""
        self.note(text)


class Meter:
    """The progress of one file, which a retry sets back.

    Args:
        progress: Told the differences.
        size_bytes: Of the file; what goes beyond (blocks of a file system) is left out.
        path: Of the file, where it has a line of its own.
    """

    def __init__(self, progress: Progress, size_bytes: int, path: str = "") -> None:
        self._progress = progress
        self._size_bytes = size_bytes
        self._path = path
        self._told_bytes = 0

    def set(self, done_bytes: int) -> None:
        """Say that ``done_bytes`` of the file are done."""
        done_bytes = min(done_bytes, self._size_bytes)
        self._progress.advance(done_bytes - self._told_bytes, self._path)
        self._told_bytes = done_bytes
