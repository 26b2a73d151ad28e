"""The places that hold an image's registry blobs: mirrors in their order, then its own.

A mirror may be down, slow, incomplete, or lie. The first three are noticed here, and the
next place goes on at the byte where the last one stopped; the fourth by whoever hashes.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from downloader.errors import HfModelsError, ProtocolError, RegistryError, TransportError
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.oci.manifest import Descriptor
from downloader.oci.seekable import FrameReader, SeekTable, read_table
from downloader.oci.store import BlobReader, RangesIgnoredError
from downloader.progress import NoProgress, Progress
from downloader.restore.values import Blobs

# After so many failures in a row a place is left alone: each costs the user a timeout.
_FAILURES_LIMIT = 3


@dataclass
class Visit:
    """What one cache blob has seen of the places; shared by the threads that fetch it.

    Args:
        used: Names of the places that its bytes came from.
        avoided: Names of those that gave it wrong bytes.
        failures: How often each place failed it.
    """

    used: set[str] = field(default_factory=set)
    avoided: set[str] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)


class Places:
    """Where an image's registry blobs can be read.

    Args:
        places: In order of preference; the last is the image's own.
        progress: Told when a mirror fails.
    """

    def __init__(self, places: Sequence[Blobs], progress: Progress | None = None) -> None:
        self._places = tuple(places)
        self._progress = progress or NoProgress()
        self._failures: dict[str, int] = {}
        self._packed: dict[Digest, SeekTable] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Of the image's own place."""
        return self.own.name

    @property
    def own(self) -> Blobs:
        """The image's own place."""
        return self._places[-1]

    @property
    def has_mirrors(self) -> bool:
        """Whether there is another place than the image's own."""
        return len(self._places) > 1

    def open_blob(
        self, digest: Digest, byte_range: ByteRange | None = None, visit: Visit | None = None
    ) -> BlobReader:
        """Open a blob, or exactly ``byte_range`` of it, wherever it can be had.

        Args:
            digest: Of the blob.
            byte_range: Half-open; None for all of it. Of a layer that `add_packed` knows, a
                range of its tar.
            visit: What the cache blob that it is read for has seen.

        Raises (also from the reader):
            RegistryError, TransportError, ProtocolError: From the last place.
        """
        if byte_range is not None and digest in self._packed:
            return self._open_packed(digest, byte_range, visit)
        return self._open(digest, byte_range, visit)

    def _open(
        self, digest: Digest, byte_range: ByteRange | None, visit: Visit | None
    ) -> BlobReader:
        if not self.has_mirrors:
            return self.own.open_blob(digest, byte_range)
        return _Fallback(self, digest, byte_range, visit or Visit())

    def add_packed(self, layer: Descriptor) -> bool:
        """Read ranges of a compressed layer as ranges of its tar from now on.

        Returns:
            Whether the layer has a seek table, without which it is read from its beginning.

        Raises:
            RegistryError, TransportError, ProtocolError: From the image's own place, whose table
                is the only one that is asked for.
        """
        if layer.digest not in self._packed:
            table = read_table(
                lambda wanted: self.own.open_blob(layer.digest, wanted),
                layer.size_bytes,
                str(layer.digest),
            )
            if table is None:
                return False
            self._packed[layer.digest] = table
        return True

    def open_own(self, digest: Digest, byte_range: ByteRange) -> BlobReader:
        """Open a range as `open_blob` does, at the image's own place only."""
        table = self._packed.get(digest)
        if table is None:
            return self.own.open_blob(digest, byte_range)
        return FrameReader(
            lambda wanted: self.own.open_blob(digest, wanted), table, byte_range, str(digest)
        )

    def tar_bytes(self, layer: Descriptor) -> int:
        """Return the size of a layer's tar, as far as ranges of it can be read."""
        table = self._packed.get(layer.digest)
        return table.size_bytes if table else layer.size_bytes

    def _open_packed(
        self, digest: Digest, byte_range: ByteRange, visit: Visit | None
    ) -> BlobReader:
        def open_range(wanted: ByteRange) -> BlobReader:
            return self._open(digest, wanted, visit)

        return FrameReader(open_range, self._packed[digest], byte_range, str(digest))

    def choices(self, visit: Visit) -> list[Blobs]:
        """Return the places to try now, best first; never none."""
        with self._lock:
            good = [
                place
                for place in self._places
                if place.name not in visit.avoided
                and visit.failures.get(place.name, 0) < _FAILURES_LIMIT
                and self._failures.get(place.name, 0) < _FAILURES_LIMIT
            ]
        return good or [self.own]

    def failed(self, place: Blobs, error: HfModelsError, visit: Visit) -> None:
        """Note that a place failed."""
        with self._lock:
            for failures in (visit.failures, self._failures):
                failures[place.name] = failures.get(place.name, 0) + 1
        self._progress.note(f"{place.name}: {error.message}; trying the next place")

    def succeeded(self, place: Blobs) -> None:
        """Note that a place works."""
        with self._lock:
            self._failures.pop(place.name, None)

    def blame(self, visit: Visit) -> bool:
        """Avoid every mirror that the bytes of a wrong cache blob came from.

        Returns:
            Whether there was one, so that it is worth a try without it.
        """
        liars = {place.name for place in self._places[:-1]} & visit.used
        for name in sorted(liars - visit.avoided):
            self._progress.note(f"{name}: sent wrong bytes; trying the next place")
        visit.avoided |= liars
        visit.used.clear()
        return bool(liars)


class _Fallback:
    """A blob from the first place that gives it, and the rest of it from the next."""

    def __init__(
        self, places: Places, digest: Digest, byte_range: ByteRange | None, visit: Visit
    ) -> None:
        self._places = places
        self._digest = digest
        self._range = byte_range
        self._visit = visit
        self._at = byte_range.start if byte_range else 0
        self._reader: BlobReader | None = None
        self._tried: set[str] = set()
        self._place = places.choices(visit)[0]

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes at the end only, then 0."""
        while True:
            try:
                count = self._open().readinto(buffer)
            except (TransportError, RegistryError, ProtocolError) as error:
                self._close()
                self._go_on_elsewhere(error)
                continue
            if count:
                self._tried.clear()
                self._visit.used.add(self._place.name)
                self._places.succeeded(self._place)
            self._at += count
            return count

    def _go_on_elsewhere(self, error: HfModelsError) -> None:
        """Choose the next place; raise where all have failed since the last byte came."""
        self._tried.add(self._place.name)
        self._places.failed(self._place, error, self._visit)
        choices = self._places.choices(self._visit)
        untried = [place for place in choices if place.name not in self._tried]
        if not untried:
            raise error
        self._place = untried[0]

    def _open(self) -> BlobReader:
        if self._reader is None:
            self._reader = self._place.open_blob(self._digest, self._rest())
        return self._reader

    def _rest(self) -> ByteRange | None:
        if self._range is not None:
            return ByteRange(self._at, self._range.end)
        if self._at:
            raise RangesIgnoredError(f"{self._digest}: cut, and its size was never told")
        return None

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.__exit__(None, None, None)
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
