"""Measurements of the line: round trips, push-back, and answers that arrive too slowly."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from downloader.units import MIB, format_seconds

# Even a satellite link has more; at this rate a gigabyte takes twelve days.
SLOWEST_BYTES_PER_S = 1024
# Of one call: http.client takes up to 100 header lines of 64 KiB, and reads any number of
# interim answers (1xx) and trailers.
CALL_LIMIT_BYTES = 8 * MIB


class SlowServerError(TimeoutError):
    """A server sends so little in so long that it is not worth waiting for."""


class Watch:
    """Ends a wait that a server draws out, where a timeout for silence sees no silence.

    Each byte restarts the socket's own timeout, so a head, a body or trailers could trickle
    for ever. Therefore bytes must come at `SLOWEST_BYTES_PER_S` over each ``window_s`` of
    waiting, a head must be complete within one, and one call reads at most `CALL_LIMIT_BYTES`
    whatever it returns. The time between calls is the caller's, and counts for nothing.

    Args:
        window_s: The same as the timeout for silence.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._is_whole = False
        self._begun_s = self._waited_s = 0.0
        self._call_bytes = self._moved_bytes = 0

    @contextmanager
    def waiting(self, *, is_whole: bool = False) -> Iterator[None]:
        """Let the block wait for a server: one call of a socket or of `http.client`.

        Args:
            is_whole: Whether the block ends only when all of something is there: a head.
        """
        self._is_whole, self._call_bytes = is_whole, 0
        self._begun_s = time.monotonic()
        yield
        if is_whole:
            self._waited_s, self._moved_bytes = 0.0, 0
        else:
            self._waited_s += time.monotonic() - self._begun_s

    def received(self, size_bytes: int) -> None:
        """Count bytes that came from the socket during the call.

        Raises:
            SlowServerError: The call has lasted too long, or has read too much.
        """
        self._call_bytes += size_bytes
        lasted_s = time.monotonic() - self._begun_s
        is_slow = self._is_whole or self._call_bytes < SLOWEST_BYTES_PER_S * lasted_s
        if (lasted_s > self._window_s and is_slow) or self._call_bytes > CALL_LIMIT_BYTES:
            raise SlowServerError(
                f"{self._call_bytes} bytes in {format_seconds(lasted_s)}, and no end"
            )

    def moved(self, size_bytes: int) -> None:
        """Count bytes that the last call has moved.

        Raises:
            SlowServerError: There were too few of them, in a whole window.
        """
        self._moved_bytes += size_bytes
        if self._waited_s < self._window_s:
            return
        moved, waited_s = self._moved_bytes, self._waited_s
        self._moved_bytes, self._waited_s = 0, 0.0
        if moved < SLOWEST_BYTES_PER_S * waited_s:
            raise SlowServerError(f"only {moved} bytes in {format_seconds(waited_s)}")


class Line:
    """Measurements of the line by the requests of a pool; safe for threads.

    Attributes:
        round_trip_s: From a request to the head of its answer, the shortest; None before
            the first answer.
        pushbacks: Number of answers 429 or 503, and of connections that were reset.
    """

    def __init__(self) -> None:
        self.round_trip_s: float | None = None
        self.pushbacks = 0
        self._lock = threading.Lock()

    def answered(self, seconds: float, status: int) -> None:
        """Count an answer that took ``seconds`` from its request to its head."""
        with self._lock:
            self.round_trip_s = min(seconds, self.round_trip_s or seconds)
            self.pushbacks += status in {429, 503}

    def reset(self) -> None:
        """Count a connection that the server reset."""
        with self._lock:
            self.pushbacks += 1


# A CDN or a mirror gives one connection less; on a line where one has more, a second one
# would only compete with it for the processor.
_QUICK_BYTES_PER_S = 64 * MIB
_SAMPLE_S = 0.5  # a busy machine makes every thread wait for a moment


class Pace:
    """The rate of a thread's connections while it waits for them.

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
