r"""The number of connections of a run: as many as raise its throughput.

::

    connections
      32 |              ______________ probe: no gain, back
      16 |        _____/              \_____________
       8 |   ____/  doubled while each doubling gives a quarter more
       4 |__/
         +-------------------------------------------- time

A server or a path gives one connection only so much, and each request costs a round trip;
more connections help until the line, the server or this machine is full. Where that is cannot
be known beforehand, so it is measured, again and again, because it changes.
"""

import logging
import threading
import time
from collections.abc import Callable

from downloader.net.throughput import Line
from downloader.transfer.partial_file import COMMON_BYTES_PER_S
from downloader.units import MIB, format_bytes

_log = logging.getLogger(__name__)

# The most that a user may want: 64 connections of a slow 2 MB/s fill a gigabit line, and each
# costs half a megabyte of buffers here and a process or a file descriptor at the server.
CONNECTIONS_LIMIT = 64
_FIRST = 4  # on a line without delay
# One more to begin with for each so much of a round trip: doubling from 4 would take seconds.
_ROUND_TRIP_SHARE_S = 0.0025
_FIRST_LIMIT = 16
# A connection at this rate is held up by the processor, which others would only divide.
_QUICK_BYTES_PER_S = 64 * MIB
_SETTLE_ROUND_TRIPS = 3  # TCP, TLS and the request, before a new connection brings bytes
_SETTLE_S = 0.1
_SAMPLE_S = 0.3  # a busy machine makes every thread wait for a moment
_WORTH = 0.25  # of what would be fair: twice the connections have to bring a quarter more
_PROBE_S = 4.0  # until the next measurement of whether more would help now; doubles
_LONGEST_PROBE_S = 60.0
_RANGE_ROUND_TRIPS = 4  # of receiving, for one of waiting
# To take over the end of a range costs a request, a new connection there, and what was on its way.
_SPLIT_ROUND_TRIPS = 3
# What a request for a small file counts besides its bytes: its round trip is its cost.
REQUEST_BYTES = 64 * 1024


class Connections:
    """The number of connections that any number of threads share.

    A thread calls `enter` before it opens its connection, `moved` for all bytes,
    `leave_surplus` between two requests, and `leave` at its end.

    Args:
        limit: The most that are allowed.
        line: What the requests have seen so far: round trip and push-back; None for files here.
        clock: Seconds, for tests.

    Attributes:
        target: How many there should be now.
        active: How many there are.
        each_bytes_per_s: What one brings on the average.
    """

    def __init__(
        self,
        limit: int = CONNECTIONS_LIMIT,
        line: Line | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = max(1, limit)
        self._line = line or Line()
        self._clock = clock
        first = int(self._round_trip_s / _ROUND_TRIP_SHARE_S)
        self.target = min(self._limit, max(_FIRST, min(first, _FIRST_LIMIT)))
        self.active = 0
        self._lock = threading.Lock()
        self._pushbacks = self._line.pushbacks
        self._before: tuple[int, float] | None = None  # connections, and what they brought
        self.each_bytes_per_s = COMMON_BYTES_PER_S
        self._is_climbing = True
        self._probe_s = _PROBE_S
        self._counted_bytes = 0
        self._begin_sample(self._settle_s)
        _log.debug("connections: %d at first; limit %d", self.target, self._limit)

    def enter(self) -> bool:
        """Count one more connection, if there should be one more; return whether."""
        with self._lock:
            if self.active >= self.target:
                return False
            self.active += 1
            return True

    def leave(self) -> None:
        """Count one connection less."""
        with self._lock:
            self.active -= 1

    def leave_surplus(self) -> bool:
        """Count one connection less, if there are more than there should be; return whether."""
        with self._lock:
            is_surplus = self.active > self.target
            self.active -= is_surplus
            return is_surplus

    def moved(self, size_bytes: int) -> bool:
        """Count bytes; return whether there should be more connections than there are."""
        with self._lock:
            now, before = self._clock(), self.target
            if now >= self._from_s:
                self._counted_bytes += size_bytes
            if now >= self._until_s:
                self._judge(self._counted_bytes / (now - self._from_s))
            target, wants_more = self.target, self.active < self.target
            each = self.each_bytes_per_s
        if target != before:
            rate = format_bytes(each * before)
            _log.debug("connections: %d, were %d with %s/s", target, before, rate)
        return wants_more

    @property
    def range_bytes(self) -> int:
        """How much one request should ask for at least, so that its round trip does not show."""
        return int(self.each_bytes_per_s * _RANGE_ROUND_TRIPS * self._round_trip_s)

    @property
    def split_s(self) -> float:
        """How long must the work be that is worth taking over from another connection."""
        return _SPLIT_ROUND_TRIPS * self._round_trip_s

    @property
    def _round_trip_s(self) -> float:
        return self._line.round_trip_s or 0.0

    @property
    def _settle_s(self) -> float:
        return max(_SETTLE_S, _SETTLE_ROUND_TRIPS * self._round_trip_s)

    def _begin_sample(self, settle_s: float) -> None:
        self._from_s = self._clock() + settle_s
        self._until_s = self._from_s + max(_SAMPLE_S, self._round_trip_s)
        self._counted_bytes = 0

    def _judge(self, rate: float) -> None:
        """Choose the next number, now that this one's rate is known; requires the lock."""
        self.each_bytes_per_s = rate / max(1, self.active)
        if self._line.pushbacks > self._pushbacks:
            self._pushbacks = self._line.pushbacks
            self._rest(max(1, min(self.active, self.target) // 2))
        elif self.active < self.target:
            self._begin_sample(0.0)  # not so many ranges are left, or not all have begun
        elif not self._is_climbing:
            self._is_climbing = True
            self._before = (self.target, rate)
            self._climb(self.target + max(1, self.target // 4))
        elif self._before is None:
            self._first(rate)
        else:
            self._compare(*self._before, rate)

    def _first(self, rate: float) -> None:
        self._before = (self.target, rate)
        if rate / self.target >= _QUICK_BYTES_PER_S:
            self._rest(self.target)
        else:
            self._climb(2 * self.target)

    def _compare(self, fewer: int, before: float, rate: float) -> None:
        fair = self.target / fewer - 1.0
        if rate < before * (1.0 + _WORTH * fair):
            self._rest(fewer)
            return
        self._before = (self.target, rate)
        self._probe_s = _PROBE_S
        self._climb(2 * self.target if fair > 0.5 else self.target + max(1, self.target // 4))

    def _climb(self, number: int) -> None:
        number = min(number, self._limit)
        if number == self.target:
            self._rest(number)
            return
        self.target = number
        self._begin_sample(self._settle_s)

    def _rest(self, number: int) -> None:
        self.target = number
        self._is_climbing = False
        self._begin_sample(self._probe_s)
        self._probe_s = min(2 * self._probe_s, _LONGEST_PROBE_S)
