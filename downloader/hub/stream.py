"""One file as an ordered stream of bytes from parallel ranged requests, in bounded memory.

::

    connection 1 ─ 8 MiB ─┐
    connection 2 ─ 8 MiB ─┤   ring of 1 MiB buffers ── views, in order ── consumer
    connection 3 ─ 8 MiB ─┤
    connection 4 ─ 8 MiB ─┘

A connection waits inside its answer while the ring is full: TCP slows the server down, and
memory is what was reserved at the beginning. There are more of them only where one is slow.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from downloader.errors import TransportError
from downloader.hub.resolver import (
    FileSource,
    Location,
    check_answer,
    check_end,
    iter_fill,
)
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.net.request import Exchange
from downloader.net.retry import Retry, RetryPolicy, TransientError
from downloader.net.throughput import Pace
from downloader.progress import Note, ignore
from downloader.transfer.ring import BufferPool, Ring, RingClosedError
from downloader.transfer.workers import WorkerGroup
from downloader.units import MIB

_SCRATCH_BYTES = 256 * 1024


@dataclass(frozen=True)
class StreamSettings:
    """How one file is read.

    Args:
        connections: At most at once, for one file; a CDN gives each only so much.
        at_first: Of these, how many to begin with; another one opens beside a slow one.
        range_bytes: Of one request. Longer ones cost fewer round trips, and more memory to
            keep all connections busy: about ``connections * range_bytes``.
        ring_bytes: The most memory that one file takes from the pool.
        policy: For each range; bytes that arrive reset its count of failures.
        note: Told before a long wait.
    """

    connections: int = 4
    at_first: int = 1
    range_bytes: int = 8 * MIB
    ring_bytes: int = 48 * MIB
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    note: Note = ignore


class _NoRangesError(Exception):
    """The server sent the whole file where a range was asked for."""


def open_file(
    source: FileSource,
    size_bytes: int,
    *,
    http: HttpPool,
    pool: BufferPool,
    settings: StreamSettings | None = None,
    byte_range: ByteRange | None = None,
) -> "FileStream":
    """Return a file, or a range of it, as an ordered stream; use it in a ``with`` statement.

    Blocks until ``pool`` has memory for it. Only the number of bytes is verified here:
    the reader hashes.

    Args:
        source: Where it is.
        size_bytes: Of the whole file.
        http: Connections.
        pool: Memory, shared by every stream of a run.
        settings: How to read it.
        byte_range: Half-open, inside the file; None for all of it.
    """
    wanted = byte_range or ByteRange(0, size_bytes)
    return FileStream(Location(http, source), size_bytes, wanted, pool, settings)


class FileStream:
    """Iterate it once: each memoryview is valid until the next one.

    Raises (while iterating):
        HubError: The Hub said no.
        TransportError: No bytes, after the retries; or another thread has closed it.
        ProtocolError, IntegrityError: Answers that announce other bytes than were asked for.
    """

    def __init__(
        self,
        location: Location,
        size_bytes: int,
        wanted: ByteRange,
        pool: BufferPool,
        settings: StreamSettings | None = None,
    ) -> None:
        self.wanted = wanted
        self._location = location
        self._size_bytes = size_bytes
        self._settings = settings or StreamSettings()
        self._pool = pool
        self._buffers = self._reserve()
        self._ring = Ring(self._buffers, wanted.size_bytes)
        self._lock = threading.Condition()
        self._pieces = wanted.split(self._piece_bytes())
        self._responses: set[Exchange] = set()
        self._cancelled = threading.Event()
        self._sequential_reader: int | None = None
        self._group = WorkerGroup()  # never joined: a thread may wait for a silent server
        self._workers = 0
        if wanted.size_bytes:
            self._start_worker()

    def __iter__(self) -> Iterator[memoryview]:
        try:
            yield from self._ring
        except RingClosedError as error:
            raise TransportError(f"{self._location.name}: interrupted") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is under way and give the memory back; any thread may, and twice."""
        self._cancelled.set()
        with self._lock:
            for response in self._responses:
                response.shutdown()
        self._ring.close()
        with self._lock:
            buffers, self._buffers = self._buffers, []
        self._pool.give_back(buffers)

    def _reserve(self) -> list[bytearray]:
        block_bytes = self._pool.buffer_bytes
        needed = max(1, -(-self.wanted.size_bytes // block_bytes))
        most = min(needed, max(1, self._settings.ring_bytes // block_bytes))
        # Two buffers for each connection: one that fills while the other is consumed.
        return self._pool.reserve(min(most, 2 * self._settings.connections), most)

    def _piece_bytes(self) -> int:
        if self._settings.connections == 1:
            return max(1, self.wanted.size_bytes)  # nothing to gain from a second request
        blocks = max(1, self._settings.range_bytes // self._pool.buffer_bytes)
        return blocks * self._pool.buffer_bytes

    def _start_worker(self) -> None:
        with self._lock:
            if self._workers >= self._settings.connections or self._is_over():
                return
            name = f"stream-{self._workers + 1}"
            if not self._workers:
                self._group.start(self._work, name=name)
            elif not self._group.try_start(self._work, name=name):
                return
            self._workers += 1

    def _work(self) -> None:
        pace = Pace()
        try:
            while (piece := self._claim()) is not None:
                self._read_piece(piece, pace)
        except RingClosedError:
            pass
        except BaseException as error:  # noqa: BLE001  # the consumer's thread raises it
            self._ring.fail(error)
        finally:
            with self._lock:
                self._workers -= 1
                self._lock.notify_all()

    def _claim(self) -> ByteRange | None:
        with self._lock:
            if self._sequential_reader is not None or self._cancelled.is_set():
                return None
            return next(self._pieces, None)

    def _read_piece(self, piece: ByteRange, pace: Pace) -> None:
        settings, name = self._settings, self._location.name
        retry = Retry(settings.policy, self._cancelled.wait, note=settings.note, name=name)
        position = piece.start
        while position < piece.end:
            try:
                for reached in self._iter_range(ByteRange(position, piece.end), pace):
                    position = reached
                    retry.succeeded()
            except TransientError as failure:
                self._check_open()
                retry.wait_or_raise(failure)
            except _NoRangesError:
                self._become_sequential(retry)
                return

    def _iter_range(self, want: ByteRange, pace: Pace) -> Iterator[int]:
        """Fill the blocks of ``want``; yield the position after each of them, or part of it."""
        position = want.start
        with self._opened(want, pace) as response:
            if not check_answer(response, want, self._size_bytes, self._location.name):
                raise _NoRangesError
            if self._workers < self._settings.at_first:  # the address is known, and ranges work
                self._start_worker()
            while position < want.end:
                block, view_start = self._place(position)
                with self._ring.writing(block, self._is_over) as view, pace:
                    for count in iter_fill(response, view[view_start:], self._location.name):
                        position += count
                        yield position
                self._ring.publish(block)
                if pace.is_slow(len(view) - view_start):
                    self._start_worker()

    def _place(self, position: int) -> tuple[int, int]:
        return divmod(position - self.wanted.start, self._ring.block_bytes)

    @contextmanager
    def _opened(self, want: ByteRange | None, pace: Pace) -> Iterator[Exchange]:
        with pace:
            response = self._location.open(want)
        with response:
            with self._lock:
                self._responses.add(response)
            try:
                self._check_open()
                yield response
            finally:
                with self._lock:
                    self._responses.discard(response)

    def _is_over(self) -> bool:
        """Whether the calling thread should stop: nobody reads, or another reads it all."""
        others = self._sequential_reader not in {None, threading.get_ident()}
        return others or self._cancelled.is_set()

    def _check_open(self) -> None:
        if self._is_over():
            raise RingClosedError

    def _become_sequential(self, retry: Retry) -> None:
        """Read the rest on one connection from the first byte, for a server without ranges."""
        with self._lock:
            if self._sequential_reader is not None:
                return
            self._sequential_reader = threading.get_ident()
            self._ring.wake()
            # Two must not write one block; the others stop at their next look at `_is_over`.
            self._lock.wait_for(lambda: self._workers == 1)
        self._check_open()
        while True:
            try:
                self._read_sequentially(retry)
            except TransientError as failure:
                self._check_open()
                retry.wait_or_raise(failure)
            else:
                return

    def _read_sequentially(self, retry: Retry) -> None:
        scratch = memoryview(bytearray(_SCRATCH_BYTES))
        with self._opened(None, Pace()) as response:
            whole = ByteRange(0, self._size_bytes)
            check_answer(response, whole, self._size_bytes, self._location.name)
            self._skip(response, scratch, self.wanted.start)
            for block in range(self._ring.blocks):
                size = min(
                    self._ring.block_bytes,
                    self.wanted.size_bytes - block * self._ring.block_bytes,
                )
                if self._ring.is_filled(block):
                    self._skip(response, scratch, size)
                    continue
                with self._ring.writing(block, self._is_over) as view:
                    for _ in iter_fill(response, view, self._location.name):
                        pass
                self._ring.publish(block)
                retry.succeeded()
            if self.wanted.end == self._size_bytes:
                check_end(response, self._location.name)

    def _skip(self, response: Exchange, scratch: memoryview, size_bytes: int) -> None:
        for piece in ByteRange(0, size_bytes).split(len(scratch)):
            self._check_open()
            for _ in iter_fill(response, scratch[: piece.size_bytes], self._location.name):
                pass
