"""A cache blob on its way from an image into the cache: read once, followed by many clients.

One connection reads the bytes in their order, and they are hashed and written as they come;
where it is slow, others fetch blocks ahead of it into the same file, and are overtaken by the
hash. Clients read the partial file as far as it is hashed. Nothing gets its final name before
its hash is right.
"""

import os
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from downloader.errors import HfModelsError, IntegrityError, ProtocolError, TransportError
from downloader.fs import read_at, storage_error, storage_errors, write_at
from downloader.hub.cache import BlobHasher
from downloader.net.ranges import ByteRange
from downloader.net.throughput import Pace
from downloader.restore.target import CacheTarget
from downloader.restore.values import BlobPlan
from downloader.transfer.journal import Journal, boot_id
from downloader.transfer.partial_file import partial_paths
from downloader.transfer.rangeset import RangeSet
from downloader.transfer.source import (
    SEQUENTIAL_TRIES,
    RangesIgnoredError,
    RangeSource,
    Reader,
)
from downloader.units import MIB

BLOCK_BYTES = MIB  # one step; locks and calls cost nothing beside it
# One request of a connection: long enough that its round trip costs little, short enough that a
# connection ahead does not keep the hash waiting, and what a kill costs at most.
_CLAIM_BYTES = 8 * MIB


class Stream:
    """Bytes of a cache blob in their order; opened when the first are read.

    Args:
        source: The cache blob.
        wanted: Which of its bytes.
    """

    def __init__(self, source: RangeSource, wanted: ByteRange) -> None:
        self._source = source
        self._at = wanted.start
        self._end = wanted.end
        self._reader: Reader | None = None

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as there are bytes.

        Raises:
            RegistryError, TransportError, ProtocolError: From the last place.
        """
        tries = SEQUENTIAL_TRIES
        while True:
            try:
                if self._reader is None:
                    self._reader = self._source.open(ByteRange(self._at, self._end))
                count = self._reader.readinto(buffer[: self._end - self._at])
            except RangesIgnoredError:
                self.close()
                tries -= 1
                if not tries:
                    raise
                continue
            if not count and buffer and self._at < self._end:
                raise ProtocolError(f"{self._source.name}: ended at {self._at} of {self._end}")
            self._at += count
            return count

    def close(self) -> None:
        """Let go of the connection."""
        if self._reader is not None:
            self._reader.__exit__(None, None, None)
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_bytes(path: Path, descriptor: int, start: int, size_bytes: int) -> bytes:
    """Return bytes of an open file, fewer at its end.

    Raises:
        StorageError: The disk said no.
    """
    buffer = bytearray(size_bytes)
    with storage_errors(path):
        count = read_at(descriptor, memoryview(buffer), start)
    return bytes(memoryview(buffer)[:count])


class BusyError(HfModelsError):
    """Another process fills the same cache blob."""


class Filling:
    """One cache blob while it is brought in; `step` blocks, everything else does not.

    Args:
        plan: What it is made of.
        source: Where its bytes come from; remembers which mirrors sent wrong ones.
        target: The cache.

    Attributes:
        ready_bytes: From the beginning of the file, written and hashed.
        is_verified: Whether the file is whole, right and has its name.
        error: Why it never will be.
        is_worth_another: Whether wrong bytes came from a mirror or an earlier attempt.
    """

    def __init__(self, plan: BlobPlan, source: RangeSource, target: CacheTarget) -> None:
        self.plan = plan
        self.ready_bytes = 0
        self.is_verified = False
        self.is_worth_another = False
        self.error: HfModelsError | None = None
        self.source = source
        self._target = target
        self._final = target.blob(plan.repo, plan.oid)
        self._partial, journal = partial_paths(self._final)
        self._journal = Journal(journal, plan.size_bytes, boot_id())
        self._hasher = BlobHasher(plan.oid, plan.size_bytes)
        self._stream: Stream | None = None
        self._held = ExitStack()
        self._descriptor = -1
        self._is_resumed = False
        self._buffer = memoryview(bytearray(min(BLOCK_BYTES, max(1, plan.size_bytes))))
        self._pace = Pace()
        self._lock = threading.Lock()  # of the two sets and the journal
        self._there = RangeSet()  # written
        self._claimed = RangeSet()  # written, or being fetched
        self._next_end = 0  # of what the connection in order has claimed

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
            if os.fstat(self._descriptor).st_size == self.plan.size_bytes:
                self._there = self._journal.read()
            os.truncate(self._descriptor, self.plan.size_bytes)
        self._journal.begin(self._there)
        for there in self._there:
            self._claimed.add(there)
        self._is_resumed = self._there.size_bytes > 0

    def step(self) -> int:
        """Read, hash and write the next bytes.

        Returns:
            How many came from the source: 0 for bytes that were there, -1 where another
            connection is fetching them and they have to be waited for.

        Raises:
            IntegrityError: The bytes are wrong; the partial file is gone.
            RegistryError, TransportError, ProtocolError, StorageError: As they say; what came
                stays for the next attempt.
        """
        size_bytes = self.plan.size_bytes
        if self.ready_bytes == size_bytes:
            self._finish()
            return 0
        there_end = self._end_of_there()
        if there_end > self.ready_bytes:
            view = self._buffer[: there_end - self.ready_bytes]
            count, fetched = self._read_back(view), 0
        elif self._claim_next():
            view = self._buffer[: self._next_end - self.ready_bytes]
            count = fetched = self._fetch_next(view)
        else:
            return -1
        self._hasher.update(view[:count])
        self.ready_bytes += count
        if self.ready_bytes == size_bytes:
            self._finish()
        return fetched

    def is_slow(self, fetched_bytes: int) -> bool:
        """Whether the connection in order is slow, so that another one may help."""
        return fetched_bytes > 0 and self._pace.is_slow(fetched_bytes)

    def _end_of_there(self) -> int:
        with self._lock:
            at = self.ready_bytes
            gap = next(self._there.gaps(ByteRange(at, self.plan.size_bytes)), None)
        return gap.start if gap is not None else self.plan.size_bytes

    def _claim_next(self) -> bool:
        """Claim what the hash needs next, if nobody has."""
        if self.ready_bytes < self._next_end:
            return True
        claimed = self._claim(ByteRange(self.ready_bytes, self.plan.size_bytes))
        if claimed is None or claimed.start != self.ready_bytes:
            if claimed is not None:
                self._release(claimed)
            return False
        self._next_end = claimed.end
        return True

    def claim_ahead(self) -> ByteRange | None:
        """Claim the next bytes that nobody fetches, None where there are none."""
        return self._claim(ByteRange(0, self.plan.size_bytes))

    def _claim(self, within: ByteRange) -> ByteRange | None:
        with self._lock:
            gap = next(self._claimed.gaps(within), None)
            if gap is None:
                return None
            claimed = ByteRange(gap.start, min(gap.end, gap.start + _CLAIM_BYTES))
            self._claimed.add(claimed)
        return claimed

    def _release(self, claimed: ByteRange) -> None:
        with self._lock:
            self._claimed.remove(claimed)

    def fetch_ahead(self, claimed: ByteRange) -> int:
        """Fetch claimed bytes on a connection of their own; return how many.

        Raises:
            RegistryError, TransportError, ProtocolError, StorageError: They can be claimed again.
        """
        buffer = memoryview(bytearray(BLOCK_BYTES))
        at = claimed.start
        try:
            with Stream(self.source, claimed) as stream:
                while at < claimed.end:
                    count = stream.readinto(buffer[: claimed.end - at])
                    self._write(buffer[:count], at)
                    at += count
        except BaseException:
            self._release(claimed)
            raise
        self._note(claimed)
        return claimed.size_bytes

    def _read_back(self, view: memoryview) -> int:
        with storage_errors(self._partial):
            count = read_at(self._descriptor, view, self.ready_bytes)
        if not count:
            raise IntegrityError(f"{self._partial}: was cut by another program")
        return count

    def _fetch_next(self, view: memoryview) -> int:
        with self._pace:
            if self._stream is None:
                wanted = ByteRange(self.ready_bytes, self._next_end)
                self._stream = Stream(self.source, wanted)
            count = self._stream.readinto(view)
        self._write(view[:count], self.ready_bytes)
        if self.ready_bytes + count == self._next_end:
            self._stream.close()
            self._stream = None
        self._note(ByteRange(self.ready_bytes, self.ready_bytes + count))
        return count

    def _write(self, data: memoryview, offset: int) -> None:
        try:
            while data:
                count = write_at(self._descriptor, data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            raise storage_error(self._partial, error) from error

    def _note(self, written: ByteRange) -> None:
        with self._lock:
            self._there.add(written)
            self._journal.add(written)

    def _finish(self) -> None:
        try:
            self._hasher.check(self.plan.oid)
        except IntegrityError:
            self.discard()
            self.is_worth_another = self.source.blame() or self._is_resumed
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
        return read_bytes(self._partial, self._descriptor, start, size_bytes)

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
