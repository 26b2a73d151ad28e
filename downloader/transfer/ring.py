"""A ring of buffers that several threads fill out of order and one empties in order."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from downloader.errors import InputError
from downloader.units import MIB

# Of a ring's buffers, freed together while the consumer has others to go on with: to wake up a
# writer for each of them took a sixth of the time on two busy processors.
_FREED_SHARE = 2


class RingClosedError(Exception):
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


class Ring:
    """Blocks of one stream in a window that moves with the consumer.

    Block ``i`` lives in buffer ``i % len(buffers)``, free once block ``i - len(buffers)``
    was consumed: the block that the consumer waits for always has its buffer.

    Args:
        buffers: All of one length, which is the length of a block.
        total_bytes: Of the stream; the last block may be shorter.
    """

    def __init__(self, buffers: list[bytearray], total_bytes: int) -> None:
        self.block_bytes = len(buffers[0])
        self.blocks = -(-total_bytes // self.block_bytes)
        self._total_bytes = total_bytes
        self._views = [memoryview(buffer) for buffer in buffers]
        self._filled: set[int] = set()
        self._consumed = 0
        self._writers = 0
        self._is_closed = False
        self._error: BaseException | None = None
        self._batch = max(1, len(buffers) // _FREED_SHARE)
        # Who waits for a full block, and who waits for a free buffer, wake up apart.
        lock = threading.Lock()
        self._is_filled = threading.Condition(lock)
        self._is_freed = threading.Condition(lock)

    @contextmanager
    def writing(self, block: int, is_over: Callable[[], bool]) -> Iterator[memoryview]:
        """Give the place of a block to fill, once the consumer has freed it.

        Args:
            block: Which one.
            is_over: Whether this writer should stop instead; asked again after `wake`.

        Raises:
            RingClosedError: Nobody wants it any more.
        """
        with self._is_freed:
            self._is_freed.wait_for(
                lambda: self._is_closed or is_over() or block < self._consumed + len(self._views)
            )
            if self._is_closed or is_over():
                raise RingClosedError
            self._writers += 1
        try:
            yield self._view(block)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        with self._is_freed:
            self._writers -= 1
            if self._is_closed:
                self._is_freed.notify_all()

    def publish(self, block: int) -> None:
        """Say that a block is full."""
        with self._is_filled:
            self._filled.add(block)
            if block == self._consumed:
                self._is_filled.notify()

    def wake(self) -> None:
        """Let every writer that waits for its place ask again whether it should stop."""
        with self._is_freed:
            self._is_freed.notify_all()

    def is_filled(self, block: int) -> bool:
        """Whether a block is full, or was consumed already."""
        with self._is_filled:
            return block < self._consumed or block in self._filled

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
                raise self._error or RingClosedError

    def close(self) -> None:
        """Turn every writer away, and wait until the last one has let go of its buffer."""
        with self._is_freed:
            self._is_closed = True
            self._is_filled.notify_all()
            self._is_freed.notify_all()
            self._is_freed.wait_for(lambda: not self._writers)

    def _view(self, block: int) -> memoryview:
        size = min(self.block_bytes, self._total_bytes - block * self.block_bytes)
        return self._views[block % len(self._views)][:size]
