"""Whether a connection is so slow that another one beside it would help."""

import time
from typing import Self

from downloader.units import MIB

# A CDN or a mirror gives one connection less; on a line where one has more, a second one
# would only compete with it for the processor.
_QUICK_BYTES_PER_S = 64 * MIB
_SAMPLE_S = 0.5  # a busy machine makes everybody wait for a moment


class Pace:
    """What a thread's connections bring in the time that it waits for them.

    ``with pace:`` counts the time inside, in which a connection is asked for bytes.
    """

    def __init__(self) -> None:
        self._begun_s = self._waited_s = 0.0
        self._seen_bytes = 0

    def __enter__(self) -> Self:
        self._begun_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._waited_s += time.monotonic() - self._begun_s

    def is_slow(self, got_bytes: int) -> bool:
        """Take ``got_bytes`` more, and judge the last half second of waiting once it is over."""
        self._seen_bytes += got_bytes
        is_quick = self._seen_bytes >= _SAMPLE_S * _QUICK_BYTES_PER_S
        is_slow = not is_quick and self._waited_s >= _SAMPLE_S
        if is_quick or is_slow:
            self._seen_bytes, self._waited_s = 0, 0.0
        return is_slow
