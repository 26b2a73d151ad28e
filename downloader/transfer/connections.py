r"""The number of connections of a run: as many as raise its throughput.

::

    connections
      64 |              ___ no gain, back
      32 |        _____/   \_______   _____ a quarter fewer: kept where nothing is lost
      16 |   ____/ doubled          \_/
       8 |__/      while each doubling gives a quarter more
         +-------------------------------------------- time

Servers and paths limit the rate of one connection, and each request costs a round trip; more
connections help until the line, the server or this machine is saturated. That number is not known
beforehand and changes, so it is measured again and again.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from downloader.net.throughput import Line
from downloader.transfer.partial_file import COMMON_BYTES_PER_S
from downloader.units import MIB, format_bytes

_log = logging.getLogger(__name__)

# The most that a user may set: 64 connections of a slow 2 MB/s fill a gigabit line, and each
# costs half a megabyte of buffers here and a process or a file descriptor at the server.
CONNECTIONS_LIMIT = 64
_INITIAL = 8  # on a line without delay
# One more initial connection for each such share of the round trip: each doubling takes a second
# on a line of 200 ms, in which half a gigabyte can pass.
_ROUND_TRIP_SHARE_S = 0.00125
_INITIAL_LIMIT = 32
# At this rate for each processor they are the limit, and more connections would only share them.
_QUICK_BYTES_PER_S = 256 * MIB
_SETTLE_S = 0.1
_SAMPLE_S = 0.3  # a busy machine makes every thread wait for a moment
_MIN_GAIN_SHARE = 0.25  # twice the connections have to bring a quarter more
_PROBE_S = 4.0  # until the next trial of another number; doubles
_LONGEST_PROBE_S = 60.0
_RANGE_ROUND_TRIPS = 4  # of receiving, for one of waiting
_FIRST_BYTE_ROUND_TRIPS = 3  # TCP, TLS and the request
# Added to the bytes of a small file where work is weighed: the cost of its round trip.
REQUEST_BYTES = 64 * 1024


class Connections:
    """The number of connections that any number of threads share.

    A thread calls `enter` before it opens its connection, `moved` for all bytes,
    `leave_surplus` between two requests, and `leave` at its end.

    Args:
        limit: The most that are allowed.
        line: Round trip and push-back that the requests have measured; None for local files.
        clock: Seconds, for tests.

    Attributes:
        target: Number of connections that there should be now.
        active: Number of connections that there are.
        each_bytes_per_s: Average rate of one connection.
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
        self.target = min(self._limit, max(_INITIAL, min(first, _INITIAL_LIMIT)))
        self.active = 0
        self._lock = threading.Lock()
        self._pushbacks = self._line.pushbacks
        self._before: tuple[int, float] | None = None  # connections, and what they brought
        self.each_bytes_per_s = COMMON_BYTES_PER_S
        self._is_held = False
        self._tries_fewer = True  # at the next probe; else more
        self._probe_s = _PROBE_S
        self._counted_bytes = 0
        self._begin_sample(self._settle_s)
        _log.debug("connections: %d at first; limit %d", self.target, self._limit)

    def enter(self) -> bool:
        """Count one more connection if `target` allows it; return whether it was counted."""
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
        """Count one connection less if there are more than `target`; return whether that was so."""
        with self._lock:
            is_surplus = self.active > self.target
            self.active -= is_surplus
            return is_surplus

    def moved(self, size_bytes: int) -> bool:
        """Count bytes; return whether there are fewer connections than `target`."""
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
        """Least size of a request in bytes, so that receiving outweighs the round trip."""
        return int(self.each_bytes_per_s * _RANGE_ROUND_TRIPS * self._round_trip_s)

    @property
    def first_byte_s(self) -> float:
        """Time until a new connection brings bytes."""
        return _FIRST_BYTE_ROUND_TRIPS * self._round_trip_s

    @property
    def _round_trip_s(self) -> float:
        return self._line.round_trip_s or 0.0

    @property
    def _settle_s(self) -> float:
        return max(_SETTLE_S, self.first_byte_s)

    def _begin_sample(self, settle_s: float) -> None:
        self._from_s = self._clock() + settle_s
        self._until_s = self._from_s + max(_SAMPLE_S, self._round_trip_s)
        self._counted_bytes = 0

    def _judge(self, rate: float) -> None:
        """Choose the next number of connections by the rate of this one; requires the lock."""
        self.each_bytes_per_s = rate / max(1, self.active)
        if self._line.pushbacks > self._pushbacks:
            self._pushbacks = self._line.pushbacks
            self._hold(max(1, min(self.active, self.target) // 2))
        elif self.active != self.target:
            # Not so many ranges are left, not all have begun, or some that are too many go on.
            self._begin_sample(0.0)
        elif self._is_held:
            self._probe(rate)
        elif self._before is None:
            self._judge_first_sample(rate)
        else:
            self._judge_gain(*self._before, rate)

    def _judge_first_sample(self, rate: float) -> None:
        self._before = (self.target, rate)
        if rate >= _QUICK_BYTES_PER_S * (os.cpu_count() or 1):
            self._hold(self.target)
        else:
            self._try(2 * self.target)

    def _probe(self, rate: float) -> None:
        """Try a quarter fewer, or a quarter more where fewer have brought less."""
        self._is_held = False
        self._before = (self.target, rate)
        is_fewer = self._tries_fewer and self.target > 1
        self._try(self.target - self._quarter if is_fewer else self.target + self._quarter)

    def _judge_gain(self, number: int, before: float, rate: float) -> None:
        """Compare the rate of this number of connections with that of the one before."""
        added_share = self.target / number - 1.0  # negative where some were taken away
        if rate < before * (1.0 + _MIN_GAIN_SHARE * added_share):
            self._tries_fewer = added_share > 0.0
            self._hold(number)
            return
        self._probe_s = _PROBE_S
        if added_share < 0.0:
            self._hold(self.target)
            return
        self._before = (self.target, rate)
        self._try(self.target + (self.target if added_share > 0.5 else self._quarter))

    @property
    def _quarter(self) -> int:
        return max(1, self.target // 4)

    def _try(self, number: int) -> None:
        """Measure another number of connections; hold this one at the limit."""
        number = min(number, self._limit)
        if number == self.target:
            self._hold(number)
            return
        self.target = number
        self._begin_sample(self._settle_s)

    def _hold(self, number: int) -> None:
        self.target = number
        self._is_held = True
        self._begin_sample(self._probe_s)
        self._probe_s = min(2 * self._probe_s, _LONGEST_PROBE_S)
