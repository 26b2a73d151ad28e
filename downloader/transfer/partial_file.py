"""A file being filled: ranges in any order, hashed from the front, resumed after a kill.

::

    partial file   [####......######....]   written in place from any side
    journal        r 0 4, r 10 16           which ranges count after a kill
    hash           ####                     up to the first gap

The bytes arrive out of order from several connections; the hash needs them in order. The
connection whose bytes come next hashes them while they are in the processor's cache. What
came before its turn is read back, from the page cache as a rule. The file gets its final name
once its hash is right.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from downloader.errors import StorageError
from downloader.fs import open_own_file, read_at, storage_error, storage_errors, write_at
from downloader.net.ranges import ByteRange
from downloader.transfer.journal import Journal, boot_id
from downloader.transfer.rangeset import RangeSet
from downloader.units import MIB

SMALLEST_RANGE_BYTES = 4 * MIB
LARGEST_RANGE_BYTES = 128 * MIB  # of one request: long enough that its round trip does not show
# Before anything was measured: what servers and paths commonly give one connection.
COMMON_BYTES_PER_S = 20e6
# What is worth taking over: the connection that loses it breaks its answer off, and what was on
# its way is wasted.
_SPLIT_S = 0.25
_SPLIT_BYTES = 2 * MIB
_YOUNG_S = 2.0  # until then a request's own rate is not known: its round trip is in it
# So much a connection reads back for the hash to be its own from there on.
_CATCH_UP_BYTES = 8 * MIB
_READ_BACK_BYTES = 256 * 1024


class Hasher(Protocol):
    """Computes the name of a content from its bytes in order."""

    seen_bytes: int

    def update(self, data: bytes | memoryview) -> None:
        """Append the next bytes."""

    def check(self, name: str) -> None:
        """Raise `IntegrityError` unless exactly the wanted bytes were seen."""


def partial_paths(final: Path) -> tuple[Path, Path]:
    """Return the names of an unfinished file and its journal, beside the finished one.

    They do not change from run to run, or nothing could be resumed; and they look like
    the library's own (``<etag>.<8 hex>.incomplete``), so that its clean-up knows them.
    """
    stem = f"{final.name}.{final.name[:8]}"
    return final.with_name(f"{stem}.incomplete"), final.with_name(f"{stem}.journal.incomplete")


class Claim:
    """Bytes of a file that one connection fetches; another may take their end over.

    Used under the lock of its file.

    Args:
        start: The offset of the first byte.
        end: The offset after the last one, for now.

    Attributes:
        at: The offset before which the connection has read, or is just reading.
    """

    def __init__(self, start: int, end: int) -> None:
        self.start = self.at = start
        self.end = end
        self._begun_s = time.monotonic()

    @property
    def left_bytes(self) -> int:
        """Number of bytes that no connection has begun to read."""
        return self.end - self.at

    def left_s(self, each_bytes_per_s: float) -> float:
        """Time that its connection needs for `left_bytes`.

        Args:
            each_bytes_per_s: Average rate of a connection.
        """
        age_s = time.monotonic() - self._begun_s
        rate = each_bytes_per_s if age_s < _YOUNG_S else (self.at - self.start) / age_s
        return self.left_bytes / max(1.0, rate)


class PartialFile:
    """An unfinished file on disk, used under the lock of its final name.

    Several threads `claim` ranges, or `split` those of others, and write them; one calls
    `hash_to_gap`.

    Args:
        final: The name that it gets when it is right.
        size_bytes: Of the finished file.
        new_hasher: Makes a hasher of the expected oid.
        changed: Notified whenever there is more to fetch or to hash; guards all
            numbers here. Files that are filled by the same threads share one.

    Attributes:
        path: The partial file.
        readers: Number of threads with a claim.
        is_sequential: Set where the source has no ranges: one claim at a time, to the end.
        sequential_tries: Number of times a source without ranges began again from 0.
        is_resumed: Whether bytes of an earlier run are in it.
    """

    def __init__(
        self,
        final: Path,
        size_bytes: int,
        new_hasher: Callable[[], Hasher],
        changed: threading.Condition | None = None,
    ) -> None:
        self.final = final
        self.size_bytes = size_bytes
        self.path, journal = partial_paths(final)
        self.readers = 0
        self.is_sequential = False
        self.sequential_tries = 0
        self.is_resumed = False
        self._new_hasher = new_hasher
        self._hasher = new_hasher()
        self._hashing = threading.Lock()
        self._journal = Journal(journal, size_bytes, boot_id())
        self._changed = changed or threading.Condition()
        self._there = RangeSet()
        self._claimed = RangeSet()
        self._claims: list[Claim] = []
        self._descriptor = -1
        self._is_closing = False
        # A file system lets one write at a time into a file; a thread that waits for its lock
        # in the kernel spins, which cost a sixth of all CPU time (ext4, Linux 6).
        self._writing = threading.Lock()

    def open(self, there: RangeSet | None = None) -> int:
        """Open the file, and return how many bytes an earlier run left in it.

        Args:
            there: Ranges that are in it, where something else than this class wrote them;
                None for those of the journal.

        Raises:
            StorageError: The disk said no.
        """
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = open_own_file(self.path)
            if there is not None:
                self._there = there
            elif os.fstat(self._descriptor).st_size == self.size_bytes:
                self._there = self._journal.read()
            # Sparse: what it will need was compared with what is free before.
            os.ftruncate(self._descriptor, self.size_bytes)
        self._journal.begin(self._there)
        for item in self._there:
            self._claimed.add(item)
        self.is_resumed = self._there.size_bytes > 0
        return self._there.size_bytes

    # Filling it

    def claim(self, connections: int, least_bytes: int = SMALLEST_RANGE_BYTES) -> Claim | None:
        """Return bytes that no thread fetches yet, as one request's share; None if there are none.

        Requires the lock. The caller is one of `readers` until it calls `release`.

        Args:
            connections: Number of connections that share the work.
            least_bytes: Of one request, so that its round trip does not show.
        """
        if self.is_sequential and self._claimed.size_bytes > self._there.size_bytes:
            return None  # one connection reads already, and will read to the end
        gap = self._next_gap()
        if gap is None:
            return None
        end = gap.end
        if not self.is_sequential:
            # Equal shares: one that takes longer loses its end to the others (`split`).
            share = max(least_bytes, self.size_bytes // connections // MIB * MIB)
            share = min(share, LARGEST_RANGE_BYTES)
            if end - gap.start >= share + least_bytes:
                end = gap.start + share
        self._claimed.add(ByteRange(gap.start, end))
        return self._begin(Claim(gap.start, end))

    def split(
        self, each_bytes_per_s: float = COMMON_BYTES_PER_S, delay_s: float = 0.0
    ) -> Claim | None:
        """Take over the end of what a connection still has to read, if that is worth it.

        Requires the lock, and is otherwise like `claim`. The connection that loses its end
        learns it from `take`; both then end at the same time.

        Args:
            each_bytes_per_s: Average rate of a connection.
            delay_s: Time until the caller's first byte arrives.
        """
        if self.is_sequential or not self._claims:
            return None
        slowest = max(self._claims, key=lambda claim: claim.left_s(each_bytes_per_s))
        left_s = slowest.left_s(each_bytes_per_s)
        if left_s < delay_s + 2 * _SPLIT_S:
            return None
        taken_bytes = int(slowest.left_bytes * (1.0 - delay_s / left_s) / 2)
        if taken_bytes < _SPLIT_BYTES:
            return None
        end, slowest.end = slowest.end, slowest.end - taken_bytes
        return self._begin(Claim(slowest.end, end))

    def _begin(self, claim: Claim) -> Claim:
        self._claims.append(claim)
        self.readers += 1
        return claim

    def slowest_s(self, each_bytes_per_s: float) -> float:
        """Remaining time of the slowest connection; requires the lock."""
        return max((claim.left_s(each_bytes_per_s) for claim in self._claims), default=0.0)

    def take(self, claim: Claim, at: int, most_bytes: int) -> int:
        """Return how many bytes from ``at`` the owner of a claim may read next; 0 at its end."""
        with self._changed:
            claim.at = min(at + most_bytes, claim.end)
            return claim.at - at

    def _next_gap(self) -> ByteRange | None:
        return next(self._claimed.gaps(ByteRange(0, self.size_bytes)), None)

    def release(self, claim: Claim, noted_end: int) -> None:
        """Give a claim back, and let another thread fetch what did not come.

        Keep hashed bytes even if they are not in the journal: rewriting them would bypass
        the hash.

        Args:
            claim: The claim of a thread that is no longer one of `readers`.
            noted_end: The offset before which its bytes were noted.
        """
        with self._changed:
            self._claims.remove(claim)
            missing = ByteRange(noted_end, claim.end)
            hashed_end = min(max(missing.start, self._hasher.seen_bytes), missing.end)
            hashed = ByteRange(missing.start, hashed_end)
        if hashed.size_bytes:
            self.note(hashed)
        with self._changed:
            self.readers -= 1
            if hashed_end < missing.end:
                self._claimed.remove(ByteRange(hashed_end, missing.end))
            self._changed.notify_all()
            if self._is_closing and not self.readers:
                self._close()

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes where they belong.

        Raises:
            StorageError: The disk said no.
        """
        try:
            with self._writing:
                while data:
                    count = write_at(self._descriptor, data, offset)
                    data, offset = data[count:], offset + count
        except OSError as error:
            raise storage_error(self.path, error) from error

    def note(self, written: ByteRange) -> None:
        """Record that bytes are there, for the next run and for the hash."""
        self._journal.add(written)
        with self._changed:
            self._there.add(written)
            if self.is_hash_behind() or self.is_whole():
                self._changed.notify_all()

    def is_whole(self) -> bool:
        """Whether every byte is there; requires the lock."""
        return self._there.prefix_end == self.size_bytes

    # Hashing it

    @property
    def hashed_bytes(self) -> int:
        """Number of bytes from the beginning that are written and hashed."""
        return self._hasher.seen_bytes

    def is_hash_behind(self) -> bool:
        """Whether the next bytes for the hash are written; requires the lock."""
        return self._there.prefix_end > self._hasher.seen_bytes

    def hash_written(self, data: memoryview, offset: int, since: int) -> None:
        """Hash bytes that were just written, if the hash needs them next.

        Args:
            data: The bytes.
            offset: Their offset in the file.
            since: The caller has written everything from here to ``offset`` itself.
        """
        nearest = max(since, offset - _CATCH_UP_BYTES)
        if not nearest <= self._hasher.seen_bytes <= offset:
            return
        if not self._hashing.acquire(blocking=False):
            return  # it is being read back, until a connection can take over
        try:
            if self._hasher.seen_bytes < offset:
                self._read_back(offset)
            if self._hasher.seen_bytes == offset:
                self._hasher.update(data)
        finally:
            self._hashing.release()

    def hash_to_gap(self) -> None:
        """Read back and hash what is there up to the first gap."""
        with self._changed:
            end = self._there.prefix_end
        while self._hasher.seen_bytes < end:
            with self._hashing:
                self._read_back(min(end, self._hasher.seen_bytes + _READ_BACK_BYTES))

    def _read_back(self, end: int) -> None:
        while (at := self._hasher.seen_bytes) < end:
            with storage_errors(self.path):
                data = read_at(self._descriptor, min(end - at, _READ_BACK_BYTES), at)
            if not data:
                raise StorageError(f"{self.path}: was cut by another program")
            self._hasher.update(data)

    def check(self, name: str) -> None:
        """Raise unless the bytes, all hashed, are the right ones.

        Raises:
            IntegrityError: They are not.
        """
        with self._hashing:
            self._hasher.check(name)

    # Ending

    def sync(self) -> None:
        """Bring what was written to the disk itself, and record that."""
        with self._changed:
            if self._descriptor < 0:
                return
            descriptor = os.dup(self._descriptor)
            there = list(self._there)
        try:
            os.fsync(descriptor)
        except OSError:
            return  # a file system without it; the next start of the machine begins anew
        finally:
            os.close(descriptor)
        with self._changed:
            is_current = self._descriptor >= 0 and not self._lacks(there)
        if is_current:
            self._journal.add_durable(there)

    def _lacks(self, ranges: list[ByteRange]) -> bool:
        return any(gap for item in ranges for gap in self._there.gaps(item))

    def forget(self) -> int:
        """Begin again from nothing; return how many bytes that gives up."""
        self._journal.begin(RangeSet())
        with self._changed:
            lost_bytes = self._there.size_bytes
            self._there, self._claimed = RangeSet(), RangeSet()
            self._hasher = self._new_hasher()
            self.is_resumed = False
            self._changed.notify_all()
        return lost_bytes

    def finish(self) -> None:
        """Give the file its name: every byte is there, and the hash is right."""
        with self._changed:  # on Windows an open file cannot be renamed
            self._changed.wait_for(lambda: not self.readers)
        self.close()
        with storage_errors(self.final):
            self.path.replace(self.final)
            self._journal.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file, whose bytes are wrong."""
        self.close()
        for path in (self.path, self._journal.path):
            with suppress(OSError):
                path.unlink()

    def close(self) -> None:
        """Close the file; its bytes stay for the next run."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            if not self.readers:  # else the last `release` does it: its descriptor is in use
                self._close()

    def _close(self) -> None:
        self._journal.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
