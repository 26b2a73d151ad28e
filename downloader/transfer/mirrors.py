"""One source out of several: mirrors in their order, then the origin.

A mirror may be down, slow, incomplete, or send wrong bytes. The first three are noticed here,
and the next source goes on at the byte where the last one stopped; wrong bytes are noticed by
the hash, and blamed on every mirror that was used.
"""

import threading
from collections.abc import Sequence
from typing import Self

from downloader.errors import HfModelsError, ProtocolError, ServerError, TransportError
from downloader.net.ranges import ByteRange
from downloader.progress import Note, ignore
from downloader.transfer.source import RangesIgnoredError, RangeSource, Reader, interrupt_of

# After so many failures in a row a mirror is left alone: each costs the user a timeout.
_FAILURES_LIMIT = 3


class MirrorHealth:
    """The failures in a row of each mirror, over all files of a run."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._lock = threading.Lock()

    def is_good(self, mirror: str) -> bool:
        """Whether a mirror is worth a try."""
        with self._lock:
            return self._failures.get(mirror, 0) < _FAILURES_LIMIT

    def failed(self, mirror: str) -> None:
        """Count a failure."""
        with self._lock:
            self._failures[mirror] = self._failures.get(mirror, 0) + 1

    def succeeded(self, mirror: str) -> None:
        """Start counting again."""
        with self._lock:
            self._failures.pop(mirror, None)


class MirroredSource:
    """One file at several sources; shared by the threads that fetch it.

    Args:
        sources: The mirrors' in order of preference, the origin's last; each named after the
            place it is at.
        health: Shared by the files of a run.
        note: Told when a mirror fails.
    """

    def __init__(
        self, sources: Sequence[RangeSource], health: MirrorHealth, note: Note = ignore
    ) -> None:
        *self._mirrors, self._origin = sources
        self._health = health
        self._own_health = MirrorHealth()  # one file may be missing where the others are
        self._note = note
        self._used: set[str] = set()
        self._avoided: set[str] = set()

    @property
    def name(self) -> str:
        """The origin's."""
        return self._origin.name

    @property
    def size_bytes(self) -> int:
        """The origin's."""
        return self._origin.size_bytes

    @property
    def has_ranges(self) -> bool:
        """Whether ranges are cheap at the origin; a mirror without them is left alone."""
        return self._origin.has_ranges

    def open(self, wanted: ByteRange) -> Reader:
        """Open a range at the best source; the reader goes on at the next where one fails."""
        return _MirroredReader(self, wanted) if self._mirrors else self._origin.open(wanted)

    def blame(self) -> bool:
        """Avoid every mirror that the wrong bytes came from; return whether there was one."""
        liars = {mirror.name for mirror in self._mirrors} & self._used
        for name in sorted(liars - self._avoided):
            self._note(f"{name}: sent wrong bytes; trying the next place")
        self._avoided |= liars
        self._used.clear()
        return bool(liars) or self._origin.blame()

    def choices(self) -> list[RangeSource]:
        """Return the sources to try now, best first; never none."""
        good = [
            mirror
            for mirror in self._mirrors
            if mirror.name not in self._avoided
            and self._health.is_good(mirror.name)
            and self._own_health.is_good(mirror.name)
        ]
        return [*good, self._origin]

    def is_origin(self, source: RangeSource) -> bool:
        """Whether a source is the last resort."""
        return source is self._origin

    def failed(self, source: RangeSource, error: HfModelsError) -> None:
        """Count a failure of a source."""
        self._health.failed(source.name)
        self._own_health.failed(source.name)
        self._note(f"{source.name}: {error.message}; trying the next place")

    def succeeded(self, source: RangeSource) -> None:
        """Count bytes from a source."""
        self._used.add(source.name)
        self._health.succeeded(source.name)


class _MirroredReader:
    """Bytes from the first source that gives them, and the rest of them from the next."""

    def __init__(self, file: MirroredSource, wanted: ByteRange) -> None:
        self._file = file
        self._at, self._end = wanted.start, wanted.end
        self._reader: Reader | None = None
        self._tried: set[str] = set()  # since the last byte came
        self._source = file.choices()[0]

    def readinto(self, buffer: memoryview) -> int:
        while True:
            try:
                if self._reader is None:
                    self._reader = self._source.open(ByteRange(self._at, self._end))
                count = self._reader.readinto(buffer)
            except (TransportError, ServerError, ProtocolError) as error:
                self._close()
                if isinstance(error, RangesIgnoredError) and self._file.is_origin(self._source):
                    raise  # to be read from its first byte on
                self._go_on_elsewhere(error)
                continue
            if count:
                self._tried.clear()
                self._file.succeeded(self._source)
            self._at += count
            return count

    def _go_on_elsewhere(self, error: HfModelsError) -> None:
        self._tried.add(self._source.name)
        self._file.failed(self._source, error)
        untried = [source for source in self._file.choices() if source.name not in self._tried]
        if not untried:
            raise error
        self._source = untried[0]

    def interrupt(self) -> None:
        if self._reader is not None:
            interrupt_of(self._reader)()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.__exit__(None, None, None)
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
