"""Threads that belong together: started, cancelled and joined as one, the first error raised.

Threads are started here, as daemons: one that waits for a silent server must not keep the
process alive after Ctrl-C.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Self, TypeVar

from downloader.errors import StorageError

Task = Callable[[], None]
Item = TypeVar("Item")
Result = TypeVar("Result")

SHUTDOWN_GRACE_S = 3.0  # time for workers to delete temporary files; a silent server gets no more
_INTERRUPTIBLE_S = 0.5  # on Windows a wait without a limit ignores Ctrl-C


class WorkerGroup:
    """Worker threads with one fate: the first error in any of them cancels the rest.

    As a context manager it waits for its workers at the end of the block, and raises the
    first error of any of them; an error in the block itself cancels them::

        with WorkerGroup() as group:
            group.start(read_everything)
            group.start(sync_now_and_then, is_service=True)

    Args:
        cancelled: Set when the workers should stop; pass an event that other code watches
            or sets, by default one of the group's own.

    Attributes:
        cancelled: Set on the first error, by `cancel`, and to stop services at the end.
            Workers look at it between two steps and return.
        error: The first error of any worker, None as long as there is none.
    """

    def __init__(self, cancelled: threading.Event | None = None) -> None:
        self.cancelled = cancelled or threading.Event()
        self.error: BaseException | None = None
        self._workers = 0
        self._services = 0
        self._interrupts: dict[object, Callable[[], None]] = {}
        self._changed = threading.Condition()

    def start(self, work: Task, *, name: str = "worker", is_service: bool = False) -> None:
        """Run ``work`` on a new thread; does nothing once the group is cancelled.

        Args:
            work: The function to run; its exception becomes `error`, if it is the first.
            name: Of the thread.
            is_service: Whether it runs only as long as other workers do; `join` then sets
                `cancelled` to stop it.

        Raises:
            StorageError: The system has no more threads (``ulimit -u``, a cgroup's pids.max).
        """
        with self._changed:
            if self.cancelled.is_set():
                return
            self._count(1, is_service=is_service)
        thread = threading.Thread(target=self._run, args=(work, is_service), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            with self._changed:
                self._count(-1, is_service=is_service)
            raise StorageError(
                "this system starts no more threads",
                hint="raise the limit of processes (ulimit -u), or lower --connections and --jobs",
            ) from error

    def try_start(self, work: Task, *, name: str = "worker") -> bool:
        """Run ``work`` on a new thread where the system has one; return whether it does."""
        with suppress(StorageError):
            self.start(work, name=name)
            return True
        return False

    def start_all(self, tasks: Sequence[Task], at_once: int, *, name: str = "worker") -> None:
        """Run ``tasks`` in order on up to ``at_once`` threads.

        Raises:
            StorageError: The system has not even one more thread.
        """
        queue = iter(tasks)

        def work() -> None:
            while (task := self._next(queue)) is not None:
                task()

        for number in range(min(at_once, len(tasks))):
            if number == 0:
                self.start(work, name=name)
            elif not self.try_start(work, name=name):
                return

    def _next(self, queue: Iterator[Task]) -> Task | None:
        with self._changed:
            return None if self.cancelled.is_set() else next(queue, None)

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call ``interrupt`` if the group is cancelled during the block, or was before.

        It wakes a thread that waits for something other than `cancelled`: shut a socket
        down, kill a child process. It may run on any thread, at the same time as the end of
        the block, and must not block.
        """
        key = object()
        with self._changed:
            self._interrupts[key] = interrupt
        try:
            if self.cancelled.is_set():
                interrupt()
            yield
        finally:
            with self._changed:
                self._interrupts.pop(key, None)

    def cancel(self, error: BaseException | None = None) -> None:
        """Ask every worker to stop, and wake those that wait; returns at once.

        Args:
            error: Raised by `join`, unless a worker has failed before.
        """
        with self._changed:
            self.error = self.error or error
            self.cancelled.set()
            self._changed.notify_all()
            interrupts = list(self._interrupts.values())
        for interrupt in interrupts:  # outside the lock: it may shut sockets down
            with suppress(OSError):
                interrupt()

    def join(self) -> None:
        """Wait until every worker has returned, then stop the services.

        Raises:
            BaseException: The first error of any worker; the others had `SHUTDOWN_GRACE_S`
                to return. Ctrl-C in the waiting thread does the same.
        """
        try:
            self._wait(lambda: self.error is not None or not self._workers)
        except BaseException:  # Ctrl-C
            self._stop()
            raise
        if self.error is not None or self._services:
            self._stop()
        if self.error is not None:
            raise self.error

    def _stop(self) -> None:
        self.cancel()
        self._wait(lambda: not self._workers and not self._services, SHUTDOWN_GRACE_S)

    def _wait(self, is_over: Callable[[], bool], limit_s: float | None = None) -> None:
        with self._changed:
            while not self._changed.wait_for(is_over, limit_s or _INTERRUPTIBLE_S):
                if limit_s is not None:
                    return

    def _run(self, work: Task, is_service: bool) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # `join` raises it in its caller's thread
            self.cancel(error)
        finally:
            with self._changed:
                self._count(-1, is_service=is_service)
                self._changed.notify_all()

    def _count(self, change: int, *, is_service: bool) -> None:
        if is_service:
            self._services += change
        else:
            self._workers += change

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if kind is None:
            self.join()
            return
        first = self.error
        self._stop()
        if first is not None and isinstance(error, Exception):
            raise first from error  # the block saw only what the first error led to


def map_all(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> list[Result]:
    """Call ``function`` for every item on up to ``at_once`` threads; return the results in order.

    Raises:
        BaseException: The exception of the first failing call.
    """
    results: dict[int, Result] = {}

    def call(number: int, item: Item) -> None:
        results[number] = function(item)

    tasks = [partial(call, number, item) for number, item in enumerate(items)]
    run_all([(at_once, tasks)])
    return [results[number] for number in range(len(tasks))]


def run_all(
    groups: Sequence[tuple[int, Sequence[Task]]],
    cancelled: threading.Event | None = None,
) -> None:
    """Run every task; the first failure, or Ctrl-C, cancels the rest.

    Args:
        groups: Number of tasks at once, and the tasks; the groups run beside each other.
        cancelled: As for `WorkerGroup`.

    Raises:
        BaseException: The exception of the first failing task.
    """
    with WorkerGroup(cancelled) as group:
        for at_once, tasks in groups:
            group.start_all(tasks, at_once)
