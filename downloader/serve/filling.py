"""A cache blob on its way from an image into the cache: read once, followed by many clients.

The bytes are read in their order, hashed and written; clients read the partial file as far as
it goes. Nothing gets its final name before its hash is right.
"""

import os
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

from downloader.errors import HfModelsError, IntegrityError, ProtocolError, TransportError
from downloader.fs import storage_error, storage_errors
from downloader.hub.cache import BlobHasher
from downloader.net.ranges import ByteRange
from downloader.oci.downloads import RangesIgnoredError
from downloader.restore.assembly import partial_paths
from downloader.restore.places import Places, Visit
from downloader.restore.target import CacheTarget
from downloader.restore.values import BlobPlan
from downloader.transfer.journal import Journal, boot_id
from downloader.transfer.rangeset import RangeSet
from downloader.units import MIB

if TYPE_CHECKING:
    from downloader.oci.store import BlobReader

BLOCK_BYTES = MIB  # one step; locks and calls cost nothing beside it
_JOURNAL_EVERY_BYTES = 8 * MIB  # what a kill costs at most


class Stream:
    """Bytes of a cache blob in their order, across the layers that hold them.

    Args:
        plan: Where they lie.
        places: Where to read.
        wanted: Which of them.
        visit: What the cache blob has seen of the places.
    """

    def __init__(
        self, plan: BlobPlan, places: Places, wanted: ByteRange, visit: Visit | None = None
    ) -> None:
        self._plan = plan
        self._places = places
        self._at = wanted.start
        self._end = wanted.end
        self._visit = visit or Visit()
        self._reader: BlobReader | None = None
        self._piece_end = 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as there are bytes.

        Raises:
            RegistryError, TransportError, ProtocolError: From the last place.
        """
        filled = 0
        want = min(len(buffer), self._end - self._at)
        while filled < want:
            if self._at >= self._piece_end:
                self._open()
            room = buffer[filled : min(want, filled + self._piece_end - self._at)]
            assert self._reader is not None  # noqa: S101 - for the type checker
            count = self._reader.readinto(room)
            if not count:
                raise ProtocolError(f"{self._plan.oid}: want bytes to {self._end}, got {self._at}")
            filled += count
            self._at += count
        return filled

    def _open(self) -> None:
        self.close()
        piece = next(p for p in self._plan.pieces if p.start <= self._at < p.end)
        end = min(piece.end, self._end)
        asked = piece.cut(ByteRange(self._at, end))
        try:
            self._reader = self._places.open_blob(piece.layer, asked, self._visit)
        except RangesIgnoredError:
            # A server without ranges sends the layer from its beginning.
            self._reader = self._places.open_blob(piece.layer, ByteRange(0, asked.end), self._visit)
            scratch = memoryview(bytearray(BLOCK_BYTES))
            left = asked.start
            while left and (count := self._reader.readinto(scratch[:left])):
                left -= count
        self._piece_end = end

    def close(self) -> None:
        """Let go of the connection."""
        if self._reader is not None:
            self._reader.__exit__(None, None, None)
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BusyError(HfModelsError):
    """Another process fills the same cache blob."""


class Filling:
    """One cache blob while it is brought in; `step` blocks, everything else does not.

    Args:
        plan: What it is made of.
        places: Where to read.
        target: The cache.
        visit: What earlier attempts have seen of the places.

    Attributes:
        ready_bytes: From the beginning of the file, written and hashed.
        is_verified: Whether the file is whole, right and has its name.
        error: Why it never will be.
        is_worth_another: Whether wrong bytes came from a mirror or an earlier attempt.
    """

    def __init__(self, plan: BlobPlan, places: Places, target: CacheTarget, visit: Visit) -> None:
        self.plan = plan
        self.ready_bytes = 0
        self.is_verified = False
        self.is_worth_another = False
        self.error: HfModelsError | None = None
        self._places = places
        self.visit = visit
        self._target = target
        self._final = target.blob(plan.repo, plan.oid)
        self._partial, journal = partial_paths(self._final)
        self._journal = Journal(journal, plan.size_bytes, boot_id())
        self._hasher = BlobHasher(plan.oid, plan.size_bytes)
        self._stream: Stream | None = None
        self._held = ExitStack()
        self._descriptor = -1
        self._resumed_bytes = 0
        self._noted_bytes = 0
        self._buffer = memoryview(bytearray(min(BLOCK_BYTES, max(1, plan.size_bytes))))

    def open(self) -> None:
        """Take the lock and the partial file.

        Raises:
            BusyError: Another process has it.
            StorageError: The disk said no.
        """
        nobody_waits = threading.Event()
        nobody_waits.set()
        try:
            self._held.enter_context(self._target.lock(self.plan.repo, self.plan.oid, nobody_waits))
        except TransportError as error:
            raise BusyError(error.message) from error
        with storage_errors(self._partial):
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self._partial, flags, 0o666)
            there = RangeSet()
            if os.fstat(self._descriptor).st_size == self.plan.size_bytes:
                there = self._journal.read()
            os.truncate(self._descriptor, self.plan.size_bytes)
        self._resumed_bytes = there.prefix_end
        self._journal.begin(there)
        self._noted_bytes = self._resumed_bytes

    def step(self) -> int:
        """Read, hash and write the next bytes; return how many came from the source.

        Raises:
            IntegrityError: The bytes are wrong; the partial file is gone.
            RegistryError, TransportError, ProtocolError, StorageError: As they say; what came
                stays for the next attempt.
        """
        left = self.plan.size_bytes - self.ready_bytes
        if not left:
            self._finish()
            return 0
        view = self._buffer[:left]
        is_resumed = self.ready_bytes < self._resumed_bytes
        if is_resumed:
            count = self._read_back(view[: self._resumed_bytes - self.ready_bytes])
        else:
            count = self._fetch(view)
        self._hasher.update(view[:count])
        self.ready_bytes += count
        if self.ready_bytes == self.plan.size_bytes:
            self._finish()
        return 0 if is_resumed else count

    def _read_back(self, view: memoryview) -> int:
        with storage_errors(self._partial):
            count = os.preadv(self._descriptor, [view], self.ready_bytes)
        if not count:
            raise IntegrityError(f"{self._partial}: was cut by another program")
        return count

    def _fetch(self, view: memoryview) -> int:
        if self._stream is None:
            wanted = ByteRange(self.ready_bytes, self.plan.size_bytes)
            self._stream = Stream(self.plan, self._places, wanted, self.visit)
        count = self._stream.readinto(view)
        try:
            os.pwrite(self._descriptor, view[:count], self.ready_bytes)
        except OSError as error:
            raise storage_error(self._partial, error) from error
        end = self.ready_bytes + count
        if end - self._noted_bytes >= _JOURNAL_EVERY_BYTES:
            self._journal.add(ByteRange(self._noted_bytes, end))
            self._noted_bytes = end
        return count

    def _finish(self) -> None:
        try:
            self._hasher.check(self.plan.oid)
        except IntegrityError:
            self.discard()
            self.is_worth_another = self._places.blame(self.visit) or self._resumed_bytes > 0
            raise
        with storage_errors(self._final):
            self._partial.replace(self._final)
            self._journal.path.unlink(missing_ok=True)
        self.is_verified = True

    def discard(self) -> None:
        """Remove the partial file, whose bytes are wrong or too many for the disk."""
        for path in (self._partial, self._journal.path):
            with suppress(OSError):
                path.unlink()

    def read(self, start: int, size_bytes: int) -> bytes:
        """Return bytes that are there.

        Raises:
            StorageError: The disk said no.
        """
        with storage_errors(self._partial):
            return os.pread(self._descriptor, size_bytes, start)

    def end(self) -> None:
        """Let go of everything but the file, which clients may still read."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._journal.close()
        self._held.close()
        self._buffer = memoryview(b"")

    def close(self) -> None:
        """Close the file, when the last client has read it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
