"""A cache blob on its way from an image into the cache: read once, followed by many clients.

The partial file is the transfer engine's (`transfer.partial_file`): one connection fills it from
its beginning, others ahead of it where that one is slow. The engine's scheduler runs a batch to
its end; here files come and go with the clients, and each step is one block, so that any number
of files share a few threads. Clients read as far as the hash has come. Nothing gets its final
name before its hash is right.
"""

import os
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from downloader.errors import HfModelsError, IntegrityError, ProtocolError, TransportError
from downloader.fs import read_at, storage_errors
from downloader.hub.cache import BlobHasher
from downloader.net.ranges import ByteRange
from downloader.net.throughput import Pace
from downloader.restore.target import CacheTarget
from downloader.restore.values import BlobPlan
from downloader.serve.cache import lock_at_once
from downloader.transfer.partial_file import Claim, PartialFile
from downloader.transfer.source import RangeSource, Reader, interrupt_of, retry_without_ranges
from downloader.units import MIB

BLOCK_BYTES = MIB  # one step; locks and calls cost nothing beside it


class Stream:
    """Bytes of a cache blob in their order; opened when the first are read.

    Args:
        source: The cache blob.
        wanted: The bytes to read.
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
        count = retry_without_ranges(partial(self._read, buffer), self.close)
        if not count and buffer and self._at < self._end:
            raise ProtocolError(f"{self._source.name}: ended at {self._at} of {self._end}")
        self._at += count
        return count

    def _read(self, buffer: memoryview) -> int:
        if self._reader is None:
            self._reader = self._source.open(ByteRange(self._at, self._end))
        return self._reader.readinto(buffer[: self._end - self._at])

    def interrupt(self) -> None:
        """Wake up the thread that waits for bytes, so that `close` does not wait for it."""
        if self._reader is not None:
            interrupt_of(self._reader)()

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
    with storage_errors(path):
        return read_at(descriptor, size_bytes, start)


class BusyError(HfModelsError):
    """Another process fills the same cache blob."""


class Fetch:
    """Bytes of a filling that one connection has claimed and reads.

    Args:
        source: The source of the bytes.
        claim: The claimed range of the file.
    """

    def __init__(self, source: RangeSource, claim: Claim) -> None:
        self.claim = claim
        self.at = claim.start
        self.pace = Pace()
        claimed = ByteRange(claim.start, claim.end)
        self.stream = Stream(source, claimed)
        self.buffer = memoryview(bytearray(min(BLOCK_BYTES, claimed.size_bytes)))

    @property
    def is_over(self) -> bool:
        """Whether all bytes of the claim are written."""
        return self.at == self.claim.end


class Filling:
    """One cache blob while it is brought in.

    `open`, `step`, `catch_up` and `finish` block; everything else does not.

    Args:
        plan: The cache blob and its ranges in layers.
        source: The source of its bytes; remembers which mirrors sent wrong ones.
        target: The cache.

    Attributes:
        is_verified: Whether the file is whole, right and has its name.
        error: The reason why it never will be.
        is_worth_another: Whether wrong bytes came from a mirror or an earlier attempt.
    """

    def __init__(self, plan: BlobPlan, source: RangeSource, target: CacheTarget) -> None:
        self.plan = plan
        self.source = source
        self.is_verified = False
        self.is_worth_another = False
        self.error: HfModelsError | None = None
        self._target = target
        self._held = ExitStack()
        self._descriptor = -1
        self._changed = threading.Condition()
        self._file = PartialFile(
            target.blob(plan.repo, plan.oid),
            plan.size_bytes,
            lambda: BlobHasher(plan.oid, plan.size_bytes),
            self._changed,
        )

    @property
    def ready_bytes(self) -> int:
        """Number of bytes from the beginning that are written and hashed."""
        return self._file.hashed_bytes

    def open(self) -> None:
        """Take the lock and the partial file.

        Raises:
            BusyError: Another process has it.
            StorageError: The disk said no.
        """
        try:
            self._held.enter_context(lock_at_once(self._target, self.plan.repo, self.plan.oid))
        except TransportError as error:
            raise BusyError(error.message) from error
        self._file.open()
        with storage_errors(self._file.path):
            self._descriptor = os.open(self._file.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def claim(self, connections: int) -> Fetch | None:
        """Claim bytes that no connection fetches yet, or the end of what a slow one fetches.

        Args:
            connections: Number of connections that share the work.

        Returns:
            None where there is too little left for one more.
        """
        with self._changed:
            self._file.is_sequential = not self.source.has_ranges
            # Half a share: a connection that comes to help finds the rest, breaking no answer off.
            claim = self._file.claim(2 * connections) or self._file.split()
        return Fetch(self.source, claim) if claim is not None else None

    def step(self, fetch: Fetch) -> int:
        """Read, write and hash the next bytes of a claim; return how many.

        Raises:
            RegistryError, TransportError, ProtocolError, StorageError: As they say; what came
                stays for the next attempt.
        """
        most = self._file.take(fetch.claim, fetch.at, len(fetch.buffer))
        with fetch.pace:
            count = fetch.stream.readinto(fetch.buffer[:most])
        data = fetch.buffer[:count]
        self._file.write(data, fetch.at)
        self._file.hash_written(data, fetch.at, since=fetch.claim.start)
        self._file.note(ByteRange(fetch.at, fetch.at + count))
        fetch.at += count
        return count

    def give_back(self, fetch: Fetch) -> None:
        """End a claim; what of it did not come can be claimed again."""
        fetch.stream.close()
        self._file.release(fetch.claim, fetch.at)

    def is_behind(self) -> bool:
        """Whether written bytes wait for the hash."""
        with self._changed:
            return self._file.is_hash_behind()

    def is_whole(self) -> bool:
        """Whether every byte is there."""
        with self._changed:
            return self._file.is_whole()

    def catch_up(self) -> None:
        """Hash what is there, up to the first gap."""
        self._file.hash_to_gap()

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            IntegrityError: The bytes are wrong; the partial file is gone.
            StorageError: The disk said no.
        """
        try:
            self._file.check(self.plan.oid)
        except IntegrityError:
            self.is_worth_another = self.source.blame() or self._file.is_resumed
            self._file.discard()
            raise
        self._file.finish()
        self.is_verified = True

    def discard(self) -> None:
        """Remove the partial file, which is too large for the disk."""
        self._file.discard()

    def read(self, start: int, size_bytes: int) -> bytes:
        """Return bytes that are there.

        Raises:
            StorageError: The disk said no.
        """
        return read_bytes(self._file.path, self._descriptor, start, size_bytes)

    def end(self) -> None:
        """Let go of everything but the file, which clients may still read."""
        self._file.close()
        self._held.close()

    def close(self) -> None:
        """Close the file, when the last client has read it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
