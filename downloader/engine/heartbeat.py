"""A line of progress now and then while another program runs silently."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from downloader.progress import Progress
from downloader.transfer.workers import WorkerGroup

BEAT_S = 10.0  # ten seconds do not look like a hang, and a log of an hour stays readable


@contextmanager
def heartbeat(
    feed: Callable[[str], None],
    work: Callable[[], str],
    progress: Progress,
    *,
    beat_s: float = BEAT_S,
) -> Iterator[Callable[[str], None]]:
    """Give a ``feed`` for the program's lines; where none comes, say how long it has been.

    Args:
        feed: Gets every line.
        work: Returns the present work of the program, for each line.
        progress: Told, as notes.
        beat_s: So long a silence is worth a note, and then every further one.
    """
    group = WorkerGroup()
    heard_at_s = time.monotonic()

    def feed_heard(line: str) -> None:
        nonlocal heard_at_s
        heard_at_s = time.monotonic()
        feed(line)

    def beat() -> None:
        while not group.cancelled.wait(beat_s):
            silent_s = time.monotonic() - heard_at_s
            if silent_s >= beat_s:
                progress.note(f"{work()}: {silent_s:.0f} s")

    with group:
        group.start(beat, name="heartbeat", is_service=True)
        yield feed_heard
