"""Tasks side by side in threads, until all are done or one has failed."""

import threading
from collections.abc import Callable, Iterator, Sequence

Task = Callable[[], None]

_LAST_WORDS_S = 3.0  # for workers to remove what they were writing; a silent server cannot hold us


def run_all(
    groups: Sequence[tuple[int, Sequence[Task]]],
    cancelled: threading.Event,
    interrupt: Callable[[], None],
) -> None:
    """Run every task; the first failure, or Ctrl-C, cancels the rest.

    Args:
        groups: How many at once, and what; the groups run beside each other.
        cancelled: Set when the rest should stop.
        interrupt: Called after that, to wake up workers that wait for bytes.

    Raises:
        BaseException: What the first failing task raised.
    """
    crew = _Crew(cancelled)
    for at_once, tasks in groups:
        crew.hire(min(at_once, len(tasks)), iter(tasks))
    try:
        crew.wait(None)
    except BaseException:
        cancelled.set()
        interrupt()
        crew.wait(_LAST_WORDS_S)
        raise
    if crew.error is not None:
        interrupt()
        crew.wait(_LAST_WORDS_S)
        raise crew.error


class _Crew:
    def __init__(self, cancelled: threading.Event) -> None:
        self.error: BaseException | None = None
        self._cancelled = cancelled
        self._working = 0
        self._condition = threading.Condition()

    def hire(self, count: int, tasks: Iterator[Task]) -> None:
        for _ in range(count):
            with self._condition:
                self._working += 1
            # A daemon: one that waits for an answer must not keep the process alive.
            threading.Thread(target=self._work, args=(tasks,), daemon=True).start()

    def wait(self, timeout_s: float | None) -> None:
        """Wait until all workers are gone, or (without a time) until one has failed."""
        with self._condition:
            self._condition.wait_for(
                lambda: not self._working or (timeout_s is None and self.error is not None),
                timeout_s,
            )

    def _work(self, tasks: Iterator[Task]) -> None:
        try:
            while (task := self._next(tasks)) is not None:
                task()
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            with self._condition:
                self.error = self.error or error
                self._cancelled.set()
        finally:
            with self._condition:
                self._working -= 1
                self._condition.notify_all()

    def _next(self, tasks: Iterator[Task]) -> Task | None:
        with self._condition:
            return None if self._cancelled.is_set() else next(tasks, None)
