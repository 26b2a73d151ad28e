"""The requests that a server still allows, from its headers; the next one waits its turn.

Source: draft-ietf-httpapi-ratelimit-headers-10: ``RateLimit: "resolvers";r=12;t=240`` says that
12 requests are left of a quota for the next 240 seconds.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping

from downloader.progress import Note, ignore
from downloader.units import format_seconds

_LIMIT = re.compile(r'"[^"]{0,80}"(?=[^,]*;\s*r=(?P<left>\d{1,9}))(?=[^,]*;\s*t=(?P<s>\d{1,6}))')
_SAME_WINDOW_S = 2.0  # the time of its end is told in whole seconds
_LONGEST_WAIT_S = 330.0  # the Hub's windows are 5 minutes


class RateLimit:
    """One quota, shared by the threads that use it.

    Args:
        clock: Seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: int | None = None
        self._until_s = 0.0
        self._in_flight = 0
        self._lock = threading.Lock()

    def take(self, pause: Callable[[float], object], note: Note = ignore) -> None:
        """Wait until one more request is allowed, and count it; `learn` ends it.

        Args:
            pause: Waits so many seconds; returns whether to give up waiting.
            note: Told of the wait.
        """
        with self._lock:
            wait_s = self._wait_s()
            self._in_flight += 1
        while wait_s > 0:
            note(f"the server's rate limit is used up; again in {format_seconds(wait_s)}")
            if pause(wait_s):
                return
            with self._lock:
                self._in_flight -= 1
                wait_s = self._wait_s()
                self._in_flight += 1

    def _wait_s(self) -> float:
        if self._left is None or self._left - self._in_flight > 0:
            return 0.0
        wait_s = self._until_s - self._clock()
        if wait_s <= 0:
            self._left = None  # a new window, of which nothing is known yet
            return 0.0
        return min(wait_s, _LONGEST_WAIT_S)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take what an answer says, and count its request as over.

        Args:
            headers: Of the answer; none where there was no answer.
        """
        found = _LIMIT.search(headers.get("RateLimit", ""))
        with self._lock:
            self._in_flight -= 1
            if found is None:
                return
            left, until_s = int(found["left"]), self._clock() + int(found["s"])
            is_same = self._left is not None and until_s <= self._until_s + _SAME_WINDOW_S
            # Answers overtake each other: of one window the lowest number is the newest.
            self._left = min(left, self._left or 0) if is_same else left
            self._until_s = max(until_s, self._until_s)
