"""Work beside the one who asks for it: one thread that does one call after the other."""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Here:
    """A lane that does each call in the caller's thread, for one that has nothing beside it."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def begin(self, call: Callable[[], None]) -> None:
        """Do ``call``, unless an earlier one has failed; what it raises is kept."""
        if self.error is None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # whoever waits looks at it
                self.error = error

    def wait(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to end."""


class Lane(Here):
    """One thread for calls in order; what one raises is kept, and the later ones are skipped.

    Whoever begins a call waits for it before the next one, so that the memory that the call
    looks at may change in between.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        # A daemon: one that waits for an answer must not keep the process alive.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def begin(self, call: Callable[[], None]) -> None:
        """Do ``call`` in the lane's thread, unless an earlier one has failed."""
        self._calls.put(call)

    def wait(self) -> None:
        """Wait until what was begun is over; `error` says how it went."""
        self._done.get()

    def close(self) -> None:
        """End the thread, once it has nothing to do."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            super().begin(call)
            self._done.put(None)


class ReadAhead(Generic[T]):
    """The results of calls in their order, some of them made beforehand by daemon threads.

    Args:
        calls: What to call, in the order in which the results are wanted.
        costs_bytes: What the result of each takes in memory.
        window_bytes: How much may be held that nobody has taken; one result may exceed it.
        threads: How many calls at once.
    """

    def __init__(
        self,
        calls: Sequence[Callable[[], T]],
        costs_bytes: Sequence[int],
        *,
        window_bytes: int,
        threads: int,
    ) -> None:
        self._calls = calls
        self._costs_bytes = costs_bytes
        self._window_bytes = window_bytes
        self._results: dict[int, T | Exception] = {}
        self._next = self._taken = self._held_bytes = 0
        self._is_closed = False
        self._condition = threading.Condition()
        for _ in range(min(threads, len(calls))):
            threading.Thread(target=self._work, name="read-ahead", daemon=True).start()

    def take(self) -> T:
        """Return the next result, or raise what its call raised."""
        with self._condition:
            at = self._taken
            self._condition.wait_for(lambda: at in self._results)
            result = self._results.pop(at)
            self._taken += 1
            self._held_bytes -= self._costs_bytes[at]
            self._condition.notify_all()
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """Begin no more calls."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        while (at := self._claim()) is not None:
            result: T | Exception
            try:
                result = self._calls[at]()
            except Exception as error:  # noqa: BLE001  # whoever takes it raises it
                result = error
            with self._condition:
                self._results[at] = result
                self._condition.notify_all()

    def _claim(self) -> int | None:
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._is_over() or self._has_room())
            if self._is_closed or self._is_over():
                return None
            at = self._next
            self._next += 1
            self._held_bytes += self._costs_bytes[at]
            return at

    def _is_over(self) -> bool:
        return self._next >= len(self._calls)

    def _has_room(self) -> bool:
        need = self._held_bytes + self._costs_bytes[self._next]
        return need <= self._window_bytes or self._next == self._taken
