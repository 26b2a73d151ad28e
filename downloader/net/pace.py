"""Whether a connection is so slow that another one beside it would help."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from downloader.units import MIB

# A CDN or a mirror gives one connection less; on a line where one has more, a second one
# would only compete with it for the processor.
QUICK_BYTES_PER_S = 64 * MIB
_SAMPLE_BYTES = 2 * MIB


class Pace:
    """What one connection brings in the time that it is waited for.

    Args:
        clock: Seconds, from anywhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waited_s = 0.0
        self._seen_bytes = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside, in which the connection is asked for bytes."""
        begun_s = self._clock()
        try:
            yield
        finally:
            self._waited_s += self._clock() - begun_s

    def is_slow(self, got_bytes: int) -> bool:
        """Take ``got_bytes`` more, and judge; begins anew after each judgement that was made."""
        self._seen_bytes += got_bytes
        if self._seen_bytes < _SAMPLE_BYTES:
            return False
        slow = self._seen_bytes < self._waited_s * QUICK_BYTES_PER_S
        self._seen_bytes, self._waited_s = 0, 0.0
        return slow
