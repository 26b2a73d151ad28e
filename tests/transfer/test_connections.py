"""The number of connections, on simulated lines: no sockets, no waiting."""

import pytest

from downloader.net.throughput import Line
from downloader.transfer.connections import CONNECTIONS_LIMIT, Connections
from downloader.units import MIB

pytestmark = pytest.mark.portable

STEP_S = 0.05


class SimulatedLine:
    """Gives each connection ``each`` MB/s, and all together ``total``."""

    def __init__(
        self, each: float, total: float = 1e9, round_trip_s: float = 0.0, limit: int = 0
    ) -> None:
        self.now = 0.0
        self.each, self.total = each, total
        self.line = Line()
        if round_trip_s:
            self.line.answered(round_trip_s, 200)
        self.connections = Connections(limit or CONNECTIONS_LIMIT, self.line, lambda: self.now)
        self.seen: list[int] = []

    def run(self, seconds: float) -> int:
        """Let time pass; return how many connections there are then."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            while self.connections.leave_surplus():
                pass
            while self.connections.enter():
                pass
            active = self.connections.active
            rate = min(self.each * active, self.total) * MIB
            for _ in range(active):
                self.connections.moved(int(rate * STEP_S / active))
            self.seen.append(active)
        return self.connections.active


@pytest.mark.parametrize(
    ("each", "total", "least", "most"),
    [
        (20, 640, 32, 40),  # each gives 20 MB/s, the line 640
        (5, 1000, CONNECTIONS_LIMIT, CONNECTIONS_LIMIT),
        (100, 100, 8, 8),  # one fills the line
    ],
)
def test_connections_stop_growing_without_gain(
    each: float, total: float, least: int, most: int
) -> None:
    line = SimulatedLine(each, total, round_trip_s=0.2 if each < 100 else 0.0)
    line.run(4)
    assert least <= line.run(0.1) <= most


def test_connections_stop_growing_where_the_processors_are_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    line = SimulatedLine(200)  # each more would give 200 MB/s more
    assert line.run(3.9) == 8


def test_connections_grow_within_two_seconds_on_a_long_line() -> None:
    assert SimulatedLine(20, 10_000, round_trip_s=0.2).run(2.0) >= 32


def test_connections_that_bring_nothing_are_taken_away() -> None:
    line = SimulatedLine(20, 80, round_trip_s=0.2)  # begins with 32; four fill it
    line.run(60)
    assert line.run(10) <= 6


def test_fewer_connections_are_tried_and_given_back_where_the_rate_falls() -> None:
    line = SimulatedLine(20, 640, round_trip_s=0.2)
    line.run(60)
    assert min(line.seen) == 24
    assert line.seen.count(24) * STEP_S < 3
    assert line.seen[-1] >= 30


def test_limit_is_kept() -> None:
    line = SimulatedLine(5, 1000, limit=7)
    assert line.run(3) == 7
    line.run(10)
    assert max(line.seen) == 7


def test_pushback_halves_the_connections_and_probes_come_later() -> None:
    line = SimulatedLine(5, 1000)
    before = line.run(5)
    line.line.answered(0.1, 429)
    line.run(5)
    assert min(line.seen[-100:]) <= before // 2


def test_connections_grow_again_after_the_line_got_faster() -> None:
    line = SimulatedLine(10, 80)
    few = line.run(10)
    line.total = 400
    assert line.run(60) > few


def test_idle_connections_are_no_reason_to_add_others() -> None:
    connections = Connections(64, None, clock := iter(range(1000)).__next__)
    assert connections.enter()
    for _ in range(20):
        connections.moved(MIB)
    assert connections.target == 8
    assert clock() > 0
