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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from downloader.errors import InputError, TransportError
from downloader.net.ranges import ByteRange
from downloader.net.throughput import Pace
from downloader.transfer.source import (
    RangesIgnoredError,
    RangeSource,
    fill,
    interrupt_of,
    retry_without_ranges,
)
from downloader.transfer.workers import WorkerGroup
from downloader.units import MIB

# Of a ring's buffers, freed together while the consumer has others to go on with: to wake up a
# writer for each of them took a sixth of the time on two busy processors.
_FREED_SHARE = 2


class _ClosedError(Exception):
    """The consumer has left; the threads that fill may stop."""


class BufferPool:
    """A fixed amount of memory for every stream of a run.

    A stream reserves all of its buffers when it opens and keeps them until it closes, so
    streams that are open never wait for each other, and no deadlock can happen. A thread
    that holds a stream must not open a second one.

    Args:
        total_bytes: The bound; buffers are made when first needed, and reused.
        buffer_bytes: Of each buffer. 1 MiB: large enough that locks and calls cost nothing,
            small enough that a stream begins and frees memory early.
    """

    def __init__(self, total_bytes: int, buffer_bytes: int = MIB) -> None:
        self.buffer_bytes = buffer_bytes
        self.buffers = total_bytes // buffer_bytes
        if self.buffers < 1:
            raise InputError(f"want at least {buffer_bytes} bytes of memory, got {total_bytes}")
        self._left = self.buffers
        self._idle: list[bytearray] = []
        self._condition = threading.Condition()

    def reserve(self, least: int, most: int) -> list[bytearray]:
        """Return between ``least`` and ``most`` buffers, waiting until ``least`` are free.

        ``least`` is lowered to what the pool has in all, so that a tiny pool still works.
        """
        least = max(1, min(least, self.buffers))
        with self._condition:
            self._condition.wait_for(lambda: self._left >= least)
            count = min(self._left, max(least, most))
            self._left -= count
            reused = [self._idle.pop() for _ in range(min(count, len(self._idle)))]
        return reused + [bytearray(self.buffer_bytes) for _ in range(count - len(reused))]

    def give_back(self, buffers: list[bytearray]) -> None:
        """Return what `reserve` gave."""
        with self._condition:
            self._idle += buffers
            self._left += len(buffers)
            self._condition.notify_all()


@dataclass(frozen=True)
class StreamSettings:
    """Settings for reading one file.

    Args:
        connections: At most at once, for one file; a CDN gives each only so much.
        at_first: Of these, how many to begin with; another one opens beside a slow one.
        range_bytes: Of one request. Longer ones cost fewer round trips, and more memory to
            keep all connections busy: about ``connections * range_bytes``.
        ring_bytes: The most memory that one file takes from the pool.
    """

    connections: int = 4
    at_first: int = 1
    range_bytes: int = 8 * MIB
    ring_bytes: int = 48 * MIB


class OrderedStream:
    """A range of a file in its order; only the number of bytes is verified: the reader hashes.

    Use it in a ``with`` block and iterate it once: each memoryview is valid until the next one.

    Args:
        source: Of the file; its readers retry.
        wanted: Half-open, inside the file.
        pool: Memory, shared by every stream of a run; blocks until it has some.
        settings: Connections and memory.

    Raises (while iterating):
        TransportError: No bytes, after the retries; or another thread has closed it.
        HfModelsError: Other errors of the source's readers.
    """

    def __init__(
        self,
        source: RangeSource,
        wanted: ByteRange,
        pool: BufferPool,
        settings: StreamSettings | None = None,
    ) -> None:
        self._source = source
        self._wanted = wanted
        self._settings = settings or StreamSettings()
        self._ring = _Ring(pool, wanted.size_bytes, self._settings)
        self._ranges = wanted.split(self._request_bytes())
        self._group = WorkerGroup()  # never joined: a thread may wait for a silent server
        self._workers = 0
        self._sequential_reader: int | None = None
        self._changed = threading.Condition()
        if wanted.size_bytes:
            self._start_worker()

    def __iter__(self) -> Iterator[memoryview]:
        try:
            yield from self._ring
        except _ClosedError as error:
            raise TransportError(f"{self._source.name}: interrupted") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is under way and give the memory back; any thread may, and twice."""
        self._group.cancel()
        self._ring.close()

    def _request_bytes(self) -> int:
        if self._settings.connections == 1:
            return max(1, self._wanted.size_bytes)  # nothing to gain from a second request
        block_bytes = self._ring.block_bytes
        return max(1, self._settings.range_bytes // block_bytes) * block_bytes

    def _start_worker(self) -> None:
        with self._changed:
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
            while self._source.has_ranges:
                claimed = self._claim()
                if claimed is None:
                    return
                with suppress(RangesIgnoredError):
                    self._read(claimed, pace)
            self._read_sequentially(pace)
        except _ClosedError:
            pass
        except BaseException as error:  # noqa: BLE001  # the consumer's thread raises it
            self._ring.fail(error)
        finally:
            with self._changed:
                self._workers -= 1
                self._changed.notify_all()

    def _claim(self) -> ByteRange | None:
        with self._changed:
            return None if self._is_over() else next(self._ranges, None)

    def _read(self, wanted: ByteRange, pace: Pace) -> None:
        """Fill the blocks of a range, which begins with one."""
        first = (wanted.start - self._wanted.start) // self._ring.block_bytes
        with self._source.open(wanted) as reader, self._group.interrupting(interrupt_of(reader)):
            for block, _ in enumerate(wanted.split(self._ring.block_bytes), first):
                with self._ring.writing(block, self._is_over) as view, pace:
                    fill(reader, view, self._source.name)
                self._ring.publish(block)
                if self._workers < self._settings.at_first or pace.is_slow(len(view)):
                    self._start_worker()

    def _read_sequentially(self, pace: Pace) -> None:
        """Read what is missing on one connection, for a server without ranges."""
        with self._changed:
            if self._is_over():
                return
            self._sequential_reader = threading.get_ident()
            self._ring.wake()
            # Two must not write one block; the others stop at their next look at `_is_over`.
            self._changed.wait_for(lambda: self._workers == 1)

        def read_the_rest() -> None:
            start = self._wanted.start + self._ring.rewind() * self._ring.block_bytes
            if start < self._wanted.end:
                self._read(ByteRange(start, self._wanted.end), pace)

        retry_without_ranges(read_the_rest)

    def _is_over(self) -> bool:
        """Whether the calling thread should stop: the stream is closed, or another reads it all."""
        others = self._sequential_reader not in {None, threading.get_ident()}
        return others or self._group.cancelled.is_set()


class _Ring:
    """Blocks of one stream in a window that moves with the consumer.

    Block ``i`` lives in buffer ``i % len(buffers)``, free once block ``i - len(buffers)``
    was consumed: the block that the consumer waits for always has its buffer.

    Args:
        pool: Lends its buffers; the length of one is the length of a block.
        total_bytes: Of the stream; the last block may be shorter.
        settings: The number of buffers.
    """

    def __init__(self, pool: BufferPool, total_bytes: int, settings: StreamSettings) -> None:
        self.block_bytes = pool.buffer_bytes
        self.blocks = -(-total_bytes // self.block_bytes)
        most = max(1, min(self.blocks, settings.ring_bytes // self.block_bytes))
        # Two buffers for each connection: one that fills while the other is consumed.
        self._buffers = pool.reserve(min(most, 2 * settings.connections), most)
        self._pool = pool
        self._total_bytes = total_bytes
        self._filled: set[int] = set()
        self._consumed = 0
        self._written: set[int] = set()  # buffers that a writer has
        self._is_closed = False
        self._error: BaseException | None = None
        self._batch = max(1, len(self._buffers) // _FREED_SHARE)
        # The consumer waits for a full block, the writers for a free buffer: they wake up apart.
        lock = threading.Lock()
        self._is_filled = threading.Condition(lock)
        self._is_freed = threading.Condition(lock)

    @contextmanager
    def writing(self, block: int, is_over: Callable[[], bool]) -> Iterator[memoryview]:
        """Give the buffer of a block to fill, once the consumer has freed it.

        Args:
            block: The block.
            is_over: Whether this writer should stop instead; asked again after `wake`.

        Raises:
            _ClosedError: The consumer has left.
        """
        number = block % len(self._buffers)
        with self._is_freed:
            self._is_freed.wait_for(
                lambda: self._is_closed or is_over() or block < self._consumed + len(self._buffers)
            )
            if self._is_closed or is_over():
                raise _ClosedError
            self._written.add(number)
        try:
            yield self._view(block)
        finally:
            self._let_go(number)

    def _let_go(self, number: int) -> None:
        with self._is_freed:
            self._written.discard(number)
            is_left = self._is_closed
        if is_left:
            self._pool.give_back([self._buffers[number]])

    def publish(self, block: int) -> None:
        """Say that a block is full."""
        with self._is_filled:
            self._filled.add(block)
            if block == self._consumed:
                self._is_filled.notify()

    def wake(self) -> None:
        """Let every writer that waits for its buffer ask again whether it should stop."""
        with self._is_freed:
            self._is_freed.notify_all()

    def rewind(self) -> int:
        """Return the first block that is missing, and forget those that were filled after it."""
        with self._is_filled:
            block = self._consumed
            while block in self._filled:
                block += 1
            self._filled = set(range(self._consumed, block))
            return block

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` at the consumer, once it has what was filled before."""
        with self._is_filled:
            self._error = self._error or error
            self._is_filled.notify_all()

    def __iter__(self) -> Iterator[memoryview]:
        """Yield each block in order; it is valid until the next one is asked for."""
        for block in range(self.blocks):
            self._wait_filled(block)
            yield self._view(block)
            with self._is_freed:
                self._filled.discard(block)
                self._consumed = block + 1
                if self._consumed % self._batch == 0:
                    self._is_freed.notify_all()

    def _wait_filled(self, block: int) -> None:
        with self._is_filled:
            if block not in self._filled:
                self._is_freed.notify_all()  # however few there are
            self._is_filled.wait_for(
                lambda: block in self._filled or self._error is not None or self._is_closed
            )
            if block not in self._filled:
                raise self._error or _ClosedError

    def close(self) -> None:
        """Give the buffers back; a writer gives back its own when it has let go of it."""
        with self._is_freed:
            if self._is_closed:
                return
            self._is_closed = True
            self._is_filled.notify_all()
            self._is_freed.notify_all()
            free = [item for at, item in enumerate(self._buffers) if at not in self._written]
        self._pool.give_back(free)

    def _view(self, block: int) -> memoryview:
        size = min(self.block_bytes, self._total_bytes - block * self.block_bytes)
        return memoryview(self._buffers[block % len(self._buffers)])[:size]
