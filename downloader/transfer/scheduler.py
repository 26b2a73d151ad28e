"""Many files at once, each through many connections, within bounds for both.

::

    file threads (one per unfinished file)        connection threads
      lock, resume, hash what came early  <────     claim a range of any open file, read it,
      name it when it is right                      write it in place, hash it if it is next

Connections belong to no file: while one file waits for a lock or for its hash, they all work
on the others, and the last file has them all. Their number is measured (`connections`). One that
finds no range left has the next file opened; where there is none, it takes over the end of what
another one still has to fetch, so that no slow connection is waited for.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from downloader.errors import IntegrityError, ProtocolError, TransportError
from downloader.fs import NewFile, storage_errors
from downloader.net.ranges import ByteRange
from downloader.net.throughput import Line
from downloader.progress import Progress
from downloader.transfer.connections import CONNECTIONS_LIMIT, REQUEST_BYTES, Connections
from downloader.transfer.partial_file import SMALLEST_RANGE_BYTES, Claim, Hasher, PartialFile
from downloader.transfer.source import (
    SEQUENTIAL_TRIES,
    RangesIgnoredError,
    RangeSource,
    interrupt_of,
)
from downloader.transfer.workers import WorkerGroup
from downloader.units import MIB, format_bytes

_SYNC_EVERY_S = 15.0  # what a power cut costs at most, in time
# Most bytes not yet in the journal, over all connections; lost if the process is killed.
_UNNOTED_BYTES = 8 * MIB
# What is read is hashed and written while it is still in the processor's cache. Not a power of
# two: for large writes at even offsets ext4 (Linux 6.18) takes larger pieces of memory, and up
# to five times the time to get them.
_BUFFER_LIMIT_BYTES = 508 * 1024
# Up to here a file comes by one request, and is not resumed after a kill.
SMALL_FILE_BYTES = 4 * MIB
_FIRST_READ_BYTES = 64 * 1024  # small while a connection is slow, so that its rate is seen early
_QUICK_READ_S = 0.02
_LOOK_AGAIN_S = 0.5  # for a connection that has become slow

# One request: takes a buffer to use, and returns how many bytes came.
Request = Callable[[memoryview], int]


@dataclass(frozen=True)
class Bounds:
    """Bounds.

    Args:
        connections: The most at once, over all files; how many there are is measured.
        jobs: The most large files at once that are locked, resumed and hashed.
        memory_bytes: For the buffers of all threads together.
    """

    connections: int = CONNECTIONS_LIMIT
    jobs: int = 16
    memory_bytes: int = 64 * MIB

    @property
    def buffer_bytes(self) -> int:
        """Of one thread."""
        share = self.memory_bytes // (self.connections + self.jobs)
        return max(64 * 1024, min(_BUFFER_LIMIT_BYTES, share))

    @property
    def note_bytes(self) -> int:
        """Bytes that one connection writes before they are recorded in the journal."""
        return max(self.buffer_bytes, min(4 * MIB, _UNNOTED_BYTES // self.connections))


@dataclass(frozen=True)
class FileTask:
    """One file to be filled and verified.

    Args:
        name: For people: its path in the repo.
        size_bytes: Of the file.
        final: Its name once it is right; the partial file lies beside it.
        source: The source of its bytes.
        new_hasher: Makes a hasher of the expected oid.
        is_there: Whether it is there already; asked before and after `lock` is taken.
        done: Called once it has its name.
        lock: Keeps others from filling the same file; left by an error where waiting was
            cancelled.
        prefill: Another way to fill the file: called with the file, not yet open, before any
            connection works on it; opens it and returns how many bytes an earlier run left.
    """

    name: str
    size_bytes: int
    final: Path
    source: RangeSource
    new_hasher: Callable[[], Hasher]
    is_there: Callable[[], bool] = lambda: False
    done: Callable[[], None] = lambda: None
    lock: Callable[[threading.Event], AbstractContextManager[None]] = lambda _: nullcontext()
    prefill: Callable[[PartialFile], int] = PartialFile.open


@dataclass(frozen=True)
class _Range:
    """Bytes of a file that one connection fetches."""

    file: PartialFile
    task: FileTask
    claim: Claim


class Scheduler:
    """Fills any number of files.

    Args:
        settings: Bounds.
        progress: Told of every byte, and of every byte that has to come again.
        line: Round trip and push-back that the requests have measured; None for local files.

    Attributes:
        group: The group of the workers; cancel it to stop.
        fetched_bytes: Number of bytes received, with those received twice.
        resumed_bytes: Number of bytes kept from an earlier run.
    """

    def __init__(
        self,
        settings: Bounds,
        progress: Progress,
        line: Line | None = None,
    ) -> None:
        self.group = WorkerGroup()
        self.fetched_bytes = self.resumed_bytes = 0
        self._settings = settings
        self._progress = progress
        self._connections = Connections(settings.connections, line)
        self._changed = threading.Condition()
        self._open: list[tuple[PartialFile, FileTask]] = []
        self._large: deque[FileTask] = deque()
        self._requests: deque[Request] = deque()
        self._file_threads = 0

    def run(self, files: Sequence[FileTask], requests: Sequence[Request] = ()) -> None:
        """Fill every file that is not there yet.

        Args:
            files: Small ones by one request each; large ones through as many connections as
                help.
            requests: Run by connection threads before the files: one request each, for what
                is not one file.

        Raises:
            IntegrityError: A content is wrong wherever it comes from.
            ServerError, TransportError, ProtocolError, StorageError: The first error of any
                thread; the others are stopped, and what came stays for the next run.
        """
        small = [task for task in files if task.size_bytes <= SMALL_FILE_BYTES]
        large = [task for task in files if task.size_bytes > SMALL_FILE_BYTES]
        self._requests.extend(requests)
        self._requests.extend(partial(self._bring_small, task) for task in small)
        # The largest first: the last one alone cannot use the disk and the hash at once.
        self._large.extend(sorted(large, key=lambda task: -task.size_bytes))
        if not (self._large or self._requests):
            return
        self._file_threads = min(self._settings.jobs, self._connections.target, len(large))
        with self.group.interrupting(self._wake), self.group:
            for _ in range(self._file_threads):
                self.group.start(self._follow_files, name="file")
            self._add_connections()
            if large:
                self.group.start(self._sync_often, name="sync", is_service=True)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # File threads

    def _follow_files(self) -> None:
        try:
            while not self.group.cancelled.is_set():
                try:
                    task = self._large.popleft()
                except IndexError:
                    return
                if not task.is_there():
                    self._bring(task)
        finally:
            with self._changed:
                self._file_threads -= 1
                self._changed.notify_all()

    def _bring(self, task: FileTask) -> None:
        with task.lock(self.group.cancelled):
            if task.is_there():  # another process brought it while this one waited
                return
            file = PartialFile(task.final, task.size_bytes, task.new_hasher, self._changed)
            try:
                self._fill(task, file)
            finally:
                with self._changed:
                    self._open = [item for item in self._open if item[0] is not file]
                file.close()

    def _fill(self, task: FileTask, file: PartialFile) -> None:
        self._progress.start_file(task.name, task.size_bytes)
        resumed_bytes = task.prefill(file)
        if resumed_bytes:
            self._progress.note(f"{task.name}: continuing after {format_bytes(resumed_bytes)}")
            self._progress.skip(resumed_bytes, task.name)
            self.resumed_bytes += resumed_bytes
        with self._changed:
            self._open.append((file, task))
            self._changed.notify_all()
        while self._hash(file):
            if self._is_right(task, file):
                file.finish()
                task.done()
                return

    def _hash(self, file: PartialFile) -> bool:
        """Hash the file as it grows, to its end; return False if the run was cancelled before."""
        while True:
            with self._changed:
                while not (file.is_hash_behind() or file.is_whole()):
                    if self.group.cancelled.is_set():
                        return False
                    self._changed.wait()
                is_whole = file.is_whole()
            file.hash_to_gap()
            if is_whole:
                return True

    def _is_right(self, task: FileTask, file: PartialFile) -> bool:
        """Whether the hash is right; if not, begin again where that may help, else raise."""
        try:
            file.check(task.name)
        except IntegrityError:
            if not (task.source.blame() or file.is_resumed):
                file.discard()
                raise
            self._progress.note(f"{task.name}: wrong bytes; fetching it again")
            self._progress.advance(-file.forget(), task.name)
            return False
        return True

    def _sync_often(self) -> None:
        while not self.group.cancelled.wait(_SYNC_EVERY_S):
            with self._changed:
                files = [file for file, _ in self._open]
            for file in files:
                file.sync()

    # Connection threads

    def _add_connections(self) -> None:
        # A thread that finds nothing to do ends at once, so without work none is started.
        while (self._requests or self._file_threads) and self._connections.enter():
            if self._connections.active == 1:  # without one nothing moves
                self.group.start(self._work, name="connection")
            elif not self.group.try_start(self._work, name="connection"):
                self._connections.leave()
                return

    def _work(self) -> None:
        buffer = memoryview(bytearray(self._settings.buffer_bytes))
        while not self._connections.leave_surplus():
            task = self._next_task()
            if task is None:
                self._connections.leave()
                return
            if isinstance(task, _Range):
                self._fetch_range(task, buffer)
            else:
                self._count(task(buffer), REQUEST_BYTES)

    def _next_task(self) -> _Range | Request | None:
        with self._changed:
            while not self.group.cancelled.is_set():
                if self._requests:
                    return self._requests.popleft()
                found = self._claim_range()
                if found is not None or not self._file_threads:
                    return found
                self._changed.wait(_LOOK_AGAIN_S)
        return None

    def _claim_range(self) -> _Range | None:
        """Return what one connection should fetch now, if there is anything; requires the lock."""
        share = -(-self._connections.target // max(1, self._file_threads))
        least_bytes = self._connections.range_bytes
        for file, task in sorted(self._open, key=lambda item: item[0].readers):
            claim = file.claim(share, max(SMALLEST_RANGE_BYTES, least_bytes))
            if claim is not None:
                return _Range(file, task, claim)
        if self._large and self._open_one_more():
            return None
        if self._open:
            each = self._connections.each_bytes_per_s
            file, task = max(self._open, key=lambda item: item[0].slowest_s(each))
            claim = file.split(each, self._connections.first_byte_s)
            if claim is not None:
                return _Range(file, task, claim)
        return None

    def _open_one_more(self) -> bool:
        """Open the next file, where that may be; return whether one is being opened."""
        if self._file_threads > len(self._open):
            return True
        if self._file_threads == self._settings.jobs:
            return False
        self._file_threads += 1
        if self.group.try_start(self._follow_files, name="file"):
            return True
        self._file_threads -= 1
        return False

    def _count(self, size_bytes: int, overhead_bytes: int = 0) -> None:
        with self._changed:
            self.fetched_bytes += size_bytes
        if self._connections.moved(size_bytes + overhead_bytes):
            self._add_connections()

    def _bring_small(self, task: FileTask, buffer: memoryview) -> int:
        """Bring a small file by one request; return how many bytes came."""
        if task.is_there():
            return 0
        with task.lock(self.group.cancelled):
            if task.is_there():
                return 0
            self._progress.start_file(task.name, task.size_bytes)
            while not self._write_small(task, buffer):
                self._progress.note(f"{task.name}: wrong bytes; fetching it again")
        task.done()
        return task.size_bytes

    def _write_small(self, task: FileTask, buffer: memoryview) -> bool:
        """Write a small file under its name; return False where wrong bytes are worth a try."""
        hasher = task.new_hasher()
        with storage_errors(task.final):
            task.final.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                NewFile(task.final) as file,
                task.source.open(ByteRange(0, task.size_bytes)) as reader,
                self.group.interrupting(interrupt_of(reader)),
            ):
                while count := reader.readinto(buffer[: task.size_bytes - hasher.seen_bytes]):
                    file.write(buffer[:count])
                    hasher.update(buffer[:count])
                    self._progress.advance(count, task.name)
                hasher.check(task.name)
                file.commit()
        except (IntegrityError, RangesIgnoredError):
            self._progress.advance(-hasher.seen_bytes, task.name)
            if not task.source.blame():
                raise
            return False
        return True

    def _fetch_range(self, found: _Range, buffer: memoryview) -> None:
        file, at = found.file, found.claim.start
        was_sequential = file.is_sequential
        try:
            for end in self._iter_written(found, buffer):
                file.note(ByteRange(at, end))
                at = end
        except RangesIgnoredError:
            file.sequential_tries += was_sequential  # others may see it at the same time
            if file.sequential_tries >= SEQUENTIAL_TRIES:
                raise
            file.is_sequential = True
        except TransportError:
            if not self.group.cancelled.is_set():
                raise
        finally:
            file.release(found.claim, at)

    def _iter_written(self, found: _Range, buffer: memoryview) -> Iterator[int]:
        """Write a range; yield the offset behind what was written, now and then and at the end."""
        file, claim, source = found.file, found.claim, found.task.source
        at = noted = claim.start
        room = min(_FIRST_READ_BYTES, len(buffer))
        with (
            source.open(ByteRange(claim.start, claim.end)) as reader,
            self.group.interrupting(interrupt_of(reader)),
        ):
            while not self.group.cancelled.is_set() and (wanted := file.take(claim, at, room)):
                begun_s = time.monotonic()
                count = reader.readinto(buffer[:wanted])
                if not count:
                    raise ProtocolError(f"{source.name}: ended at {at} of {claim.end}")
                if time.monotonic() - begun_s < _QUICK_READ_S:
                    room = min(2 * room, len(buffer))
                file.write(buffer[:count], at)
                file.hash_written(buffer[:count], at, since=claim.start)
                at += count
                self._progress.advance(count, found.task.name)
                self._count(count)
                if at - noted >= self._settings.note_bytes or at == claim.end:
                    yield at
                    noted = at
