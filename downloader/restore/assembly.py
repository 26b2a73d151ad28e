"""One cache blob while it comes together: written in place from any side, hashed from the front.

The bytes arrive out of order from several connections; the hash needs them in order. The
connection whose bytes come next hashes them while they are in the processor's cache. What
came before its turn is read back, from the page cache as a rule.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

from downloader.errors import StorageError
from downloader.fs import open_own_file, read_at, storage_error, storage_errors, write_at
from downloader.hub.cache import BlobHasher
from downloader.net.ranges import ByteRange
from downloader.restore.places import Visit
from downloader.restore.values import BlobPlan, Piece
from downloader.transfer.journal import Journal
from downloader.transfer.rangeset import RangeSet
from downloader.units import MIB

SMALLEST_RANGE_BYTES = 4 * MIB
LARGEST_RANGE_BYTES = 128 * MIB  # of one request: long enough that its round trip does not show
# So much a connection reads back for the hash to be its own from there on.
_CATCH_UP_BYTES = 8 * MIB
_SCRATCH_BYTES = 128 * 1024


def partial_paths(final: Path) -> tuple[Path, Path]:
    """Return the names of an unfinished file and its journal, beside the finished one.

    They do not change from run to run, or nothing could be continued; and they look like
    the library's own (``<etag>.<8 hex>.incomplete``), so that its clean-up knows them.
    """
    stem = f"{final.name}.{final.name[:8]}"
    return final.with_name(f"{stem}.incomplete"), final.with_name(f"{stem}.journal.incomplete")


class Assembly:
    """An unfinished cache blob on disk. Several threads fetch into it, one hashes.

    Args:
        plan: What it is made of.
        final: The name that it gets when it is right.
        boot: This start of the machine, for the journal.
        changed: Notified whenever there is more to fetch or to hash; guards everything here.
    """

    def __init__(
        self, plan: BlobPlan, final: Path, boot: str, changed: threading.Condition
    ) -> None:
        self.plan = plan
        self.final = final
        self.visit = Visit()
        self.is_sequential = False
        self.is_resumed = False
        self.sequential_tries = 0
        self.readers = 0
        self._hasher = BlobHasher(plan.oid, plan.size_bytes)
        self._hashing = threading.Lock()
        self._partial, journal = partial_paths(final)
        self._journal = Journal(journal, plan.size_bytes, boot)
        self._changed = changed
        self._there = RangeSet()
        self._claimed = RangeSet()
        self._descriptor = -1
        # A file system lets one write at a time into a file; who waits for its lock in the
        # kernel spins, which cost a sixth of all CPU time (ext4, Linux 6).
        self._writing = threading.Lock()

    def open(self) -> int:
        """Open the file, and return how many bytes an earlier run left in it.

        Raises:
            StorageError: The disk said no.
        """
        with storage_errors(self._partial):
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = open_own_file(self._partial)
            if os.fstat(self._descriptor).st_size == self.plan.size_bytes:
                self._there = self._journal.read()
            # Sparse: what it will need was compared with what is free before.
            os.ftruncate(self._descriptor, self.plan.size_bytes)
        self._journal.begin(self._there)
        for there in self._there:
            self._claimed.add(there)
        self.is_resumed = self._there.size_bytes > 0
        return self._there.size_bytes

    def claim(self, connections: int) -> ByteRange | None:
        """Return bytes that nobody fetches yet, as one request's share; None if there are none.

        Who claims is one of `readers` until it says `done_reading`.

        Args:
            connections: How many share the work, so that none waits for the last one's tail.
        """
        if self.is_sequential and self._claimed.size_bytes > self._there.size_bytes:
            return None  # somebody reads already, and will read to the end
        gap = next(self._claimed.gaps(ByteRange(0, self.plan.size_bytes)), None)
        if gap is None:
            return None
        end = min(gap.end, self.piece_at(gap.start).end)
        if not self.is_sequential:
            left = self.plan.size_bytes - self._claimed.size_bytes
            share = max(SMALLEST_RANGE_BYTES, left // (2 * connections) // MIB * MIB)
            end = min(end, gap.start + min(share, LARGEST_RANGE_BYTES))
        claimed = ByteRange(gap.start, end)
        self._claimed.add(claimed)
        self.readers += 1
        return claimed

    def piece_at(self, offset: int) -> Piece:
        """Return the piece that holds the byte ``offset``."""
        return next(piece for piece in self.plan.pieces if piece.start <= offset < piece.end)

    def done_reading(self, unnoted: ByteRange) -> None:
        """Let somebody else fetch what was claimed and did not come.

        What was hashed stays, noted or not: other bytes over it would get its name.
        """
        with self._changed:
            self.readers -= 1
            hashed_end = min(max(unnoted.start, self._hasher.seen_bytes), unnoted.end)
            if unnoted.start < hashed_end and self._descriptor >= 0:
                self._add(ByteRange(unnoted.start, hashed_end))
            if hashed_end < unnoted.end:
                self._claimed.remove(ByteRange(hashed_end, unnoted.end))
            if unnoted.size_bytes or self.is_sequential:
                self._changed.notify_all()

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes where they belong."""
        try:
            with self._writing:
                while data:
                    count = write_at(self._descriptor, data, offset)
                    data, offset = data[count:], offset + count
        except OSError as error:
            raise storage_error(self._partial, error) from error

    def note(self, written: ByteRange) -> None:
        """Say that bytes are there, for the next run and for the hash."""
        with self._changed:
            self._add(written)
            if self.is_hash_behind() or self.is_whole():
                self._changed.notify_all()

    def _add(self, written: ByteRange) -> None:
        self._journal.add(written)
        self._there.add(written)

    def is_whole(self) -> bool:
        """Whether every byte is there."""
        return self._there.prefix_end == self.plan.size_bytes

    def is_hash_behind(self) -> bool:
        """Whether bytes are there that the hash needs next."""
        return self._there.prefix_end > self._hasher.seen_bytes

    def hash_written(self, data: memoryview, offset: int, since: int) -> None:
        """Hash bytes that were just written, if the hash needs them next.

        Args:
            data: The bytes.
            offset: Where they are.
            since: The caller has written everything from here to ``offset`` itself.
        """
        nearest = max(since, offset - _CATCH_UP_BYTES)
        if not nearest <= self._hasher.seen_bytes <= offset:
            return
        if not self._hashing.acquire(blocking=False):
            return  # it is being read back, until a connection can take over
        try:
            if self._hasher.seen_bytes < offset:
                self._read_back(offset, memoryview(bytearray(_SCRATCH_BYTES)))
            if self._hasher.seen_bytes == offset:
                self._hasher.update(data)
        finally:
            self._hashing.release()

    def hash_noted(self, buffer: memoryview) -> None:
        """Read back and hash what is there up to the first gap."""
        with self._changed:
            end = self._there.prefix_end
        while self._hasher.seen_bytes < end:
            with self._hashing:
                self._read_back(min(end, self._hasher.seen_bytes + len(buffer)), buffer)

    def _read_back(self, end: int, buffer: memoryview) -> None:
        while (at := self._hasher.seen_bytes) < end:
            with storage_errors(self._partial):
                count = read_at(self._descriptor, buffer[: end - at], at)
            if not count:
                raise StorageError(f"{self._partial}: was cut by another program")
            self._hasher.update(buffer[:count])

    def check(self) -> None:
        """Raise unless the bytes are what the oid says.

        Raises:
            IntegrityError: They are not.
        """
        with self._hashing:
            self._hasher.check(self.plan.oid)

    def sync(self) -> None:
        """Bring what was written to the disk itself, and note that."""
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
            if self._descriptor >= 0 and not self._is_forgotten(there):
                self._journal.add_durable(there)

    def _is_forgotten(self, ranges: list[ByteRange]) -> bool:
        return any(gap for item in ranges for gap in self._there.gaps(item))

    def forget(self) -> int:
        """Begin again from nothing; return how many bytes that gives up."""
        with self._changed:
            lost = self._there.size_bytes
            self._there, self._claimed = RangeSet(), RangeSet()
            self._hasher = BlobHasher(self.plan.oid, self.plan.size_bytes)
            self._journal.begin(self._there)
            self.is_resumed = False
            self._changed.notify_all()
        return lost

    def finish(self) -> None:
        """Give the file its name: every byte is there, and hashed."""
        self.close()
        with storage_errors(self.final):
            self._partial.replace(self.final)
            self._journal.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file, whose bytes are wrong."""
        self.close()
        with suppress(OSError):
            self._partial.unlink()
        with suppress(OSError):
            self._journal.path.unlink()

    def close(self) -> None:
        """Close the file; what is in it stays for the next run."""
        with self._changed:
            self._journal.close()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
