"""The number of uploads at once: as many as raise the throughput of them all."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from downloader.transfer.workers import Task, WorkerGroup

# A registry on this machine is as quick with two as with eight; a far one is not, and on one that
# is 200 ms away four more after half a second cost a tenth of the time of a gigabyte.
_AT_FIRST = 8
MOST_JOBS = 16  # a registry counts the connections of one address, and each job has its own
_WINDOW_S = 0.5  # long enough to see several pieces of each upload on a slow line
# Of the rate before: what more uploads have to bring to be worth their connections.
_WORTHWHILE = 1.1


@dataclass
class Line:
    """The throughput of all uploads of a run."""

    sent_bytes: int = 0
    interruptions: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sent(self, size_bytes: int) -> None:
        """Count bytes that a store has taken."""
        with self._lock:
            self.sent_bytes += size_bytes

    def interrupted(self) -> None:
        """Count an upload that stopped: the server may have pushed back."""
        with self._lock:
            self.interruptions += 1


def next_count(count: int, rate: float, rate_before: float, *, interrupted: bool, most: int) -> int:
    """Return how many uploads at once to have after one window.

    Args:
        count: The number of uploads at once.
        rate: Their rate in the window, in bytes a second.
        rate_before: The rate of fewer uploads, in the last window before the number grew.
        interrupted: Whether the server has cut or refused one.
        most: The limit.

    >>> next_count(4, 80e6, 0.0, interrupted=False, most=16)
    8
    >>> next_count(8, 81e6, 80e6, interrupted=False, most=16)
    8
    >>> next_count(8, 160e6, 80e6, interrupted=True, most=16)
    7
    """
    if interrupted:
        return max(1, count - 1)
    return min(most, 2 * count) if rate > _WORTHWHILE * rate_before else count


def run_ramped(tasks: Sequence[Task], most: int, group: WorkerGroup, line: Line) -> None:
    """Start ``tasks`` in the group, and more of them at once while that helps.

    Args:
        tasks: In the order in which they begin.
        most: At once.
        group: Waits for them.
        line: Measures their throughput.
    """
    ramp = _Ramp(tasks, min(most, _AT_FIRST), most, group, line)
    ramp.add_workers()
    if len(tasks) > ramp.wanted and most > ramp.wanted:
        group.start(ramp.watch, name="ramp", is_service=True)


class _Ramp:
    def __init__(
        self, tasks: Sequence[Task], wanted: int, most: int, group: WorkerGroup, line: Line
    ) -> None:
        self.wanted = wanted
        self._queue = iter(tasks)
        self._most = most
        self._group = group
        self._line = line
        self._workers = 0
        self._is_empty = not tasks
        self._lock = threading.Lock()

    def add_workers(self) -> None:
        """Start workers until there are as many as wanted, or as the system has threads for."""
        while True:
            with self._lock:
                if self._is_empty or self._workers >= self.wanted:
                    return
                self._workers += 1
            if self._workers == 1:
                self._group.start(self._work, name="layer")
            elif not self._group.try_start(self._work, name="layer"):
                with self._lock:
                    self._workers -= 1
                return

    def watch(self) -> None:
        """Measure the line, window by window, and add or take away workers."""
        before, stops, rate_before = self._line.sent_bytes, self._line.interruptions, 0.0
        begun_s = time.monotonic()
        while not self._group.cancelled.wait(_WINDOW_S) and not self._is_empty:
            now_s, sent = time.monotonic(), self._line.sent_bytes
            rate, interruptions = (sent - before) / (now_s - begun_s), self._line.interruptions
            before, begun_s = sent, now_s
            wanted = next_count(
                self.wanted,
                rate,
                rate_before,
                interrupted=interruptions > stops,
                most=self._most,
            )
            stops = interruptions
            if wanted > self.wanted:
                rate_before = rate
            self.wanted = wanted
            self.add_workers()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Task | None:
        with self._lock:
            if not self._group.cancelled.is_set() and self._workers <= self.wanted:
                task = next(self._queue, None)
                if task is not None:
                    return task
                self._is_empty = True
            self._workers -= 1
            return None
