"""The sources of an image's registry blobs: mirrors in their order, then the registry."""

from collections.abc import Sequence
from typing import Self

from downloader.errors import ProtocolError
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.oci.manifest import Descriptor
from downloader.oci.seekable import (
    FRAMES_LIMIT,
    DamagedFrameError,
    FrameReader,
    SeekTable,
    read_table,
)
from downloader.oci.store import Blobs, BlobSource
from downloader.progress import Note, ignore
from downloader.restore.values import BlobPlan
from downloader.transfer.mirrors import MirroredSource, MirrorHealth
from downloader.transfer.source import JoinedSource, RangeSource, Reader


class ImageBlobs:
    """The sources of an image's registry blobs.

    Args:
        stores: In order of preference; the last is the image's own.
        note: Told when a mirror fails.
    """

    def __init__(self, stores: Sequence[Blobs], note: Note = ignore) -> None:
        self._stores = tuple(stores)
        self._health = MirrorHealth()
        self._note = note
        self._packed: dict[Digest, SeekTable] = {}

    def source(self, digest: Digest, size_bytes: int) -> MirroredSource:
        """Return a registry blob, read from whichever has it.

        Args:
            digest: Of the blob.
            size_bytes: Of the blob, or of as much of it as will be read.
        """
        sources = [BlobSource(store, digest, size_bytes) for store in self._stores]
        return MirroredSource(sources, self._health, self._note)

    def tar(self, digest: Digest, size_bytes: int) -> RangeSource:
        """Return the tar of a layer: one that is not compressed, or that `add_packed` knows.

        Args:
            digest: Of the layer.
            size_bytes: Of the tar, or of as much of it as will be read.
        """
        table = self._packed.get(digest)
        if table is None:
            return self.source(digest, size_bytes)
        return _PackedSource(self.source(digest, 0), table, str(digest))

    def own_tar(self, layer: Descriptor) -> RangeSource:
        """Return the tar of a layer as `tar` does, read at the image's own place only."""
        own = BlobSource(self._stores[-1], layer.digest, layer.size_bytes)
        table = self._packed.get(layer.digest)
        return own if table is None else _PackedSource(own, table, str(layer.digest))

    def join(self, plan: BlobPlan) -> JoinedSource:
        """Return a cache blob, read from the layers that hold its ranges."""
        parts = [(self.tar(p.layer, p.byte_range.end), p.byte_range) for p in plan.ranges]
        return JoinedSource(plan.oid[:12], parts)

    def add_packed(self, layer: Descriptor) -> bool:
        """Read ranges of a compressed layer as ranges of its tar from now on.

        Returns:
            Whether the layer has a seek table, without which it is read from its beginning.

        Raises:
            RegistryError, TransportError, ProtocolError: From the image's own place, whose table
                is the only one that is asked for.
        """
        if layer.digest not in self._packed:
            own = BlobSource(self._stores[-1], layer.digest, layer.size_bytes)
            table = read_table(own.open, layer.size_bytes, str(layer.digest))
            if table is None:
                return False
            self._packed[layer.digest] = table
            if sum(known.frames for known in list(self._packed.values())) > FRAMES_LIMIT:
                raise ProtocolError(f"want at most {FRAMES_LIMIT} frames in all layers, got more")
        return True


class _PackedSource:
    """The tar of a layer that is compressed in independent frames."""

    def __init__(self, packed: RangeSource, table: SeekTable, name: str) -> None:
        self.name = name
        self.size_bytes = table.size_bytes
        self._packed = packed
        self._table = table

    @property
    def has_ranges(self) -> bool:
        return self._packed.has_ranges

    def open(self, wanted: ByteRange) -> Reader:
        return _PackedReader(self, wanted)

    def open_frames(self, wanted: ByteRange) -> FrameReader:
        return FrameReader(self._packed.open, self._table, wanted, self.name)

    def blame(self) -> bool:
        return self._packed.blame()


class _PackedReader:
    """A range of such a tar; where a mirror sent a damaged frame, the rest from the next place."""

    def __init__(self, source: _PackedSource, wanted: ByteRange) -> None:
        self._source = source
        self._at, self._end = wanted.start, wanted.end
        self._frames = source.open_frames(wanted)
        self._has_failed = False  # since the last byte came
        self._is_interrupted = False

    def readinto(self, buffer: memoryview) -> int:
        while True:
            try:
                count = self._frames.readinto(buffer)
            except DamagedFrameError:
                # Another connection may have blamed the mirror already; a second failure is raised.
                if not self._source.blame() and self._has_failed:
                    raise
                self._has_failed = True
                self.__exit__()
                self._frames = self._source.open_frames(ByteRange(self._at, self._end))
                if self._is_interrupted:
                    self._frames.interrupt()
                continue
            self._has_failed = False
            self._at += count
            return count

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._frames.interrupt()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.__exit__()
