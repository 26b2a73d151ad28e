"""A publish that is killed in the middle of a layer loses what was on its way, and no more."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.support.apart import start_apart
from tests.support.fake_hub import Generated, HubServer, HubSpec, make_repo
from tests.support.publish import MIB
from tests.support.sink_registry import Handler, Server, World

SIZE_BYTES = 120 * MIB
BIG = make_repo("org/big", {"w.bin": Generated(SIZE_BYTES, seed=3), "config.json": b"{}"})
KILLS = 4
HUB = HubSpec((BIG,))


class Sink:
    """A registry in this process that keeps no bytes, but checks their digest."""

    def __init__(self, *, keeps_cut: bool) -> None:
        self.world = World(is_hashing=True, keeps_cut=keeps_cut)
        handler = type("Own", (Handler,), {"world": self.world})
        self.server = Server(("127.0.0.1", 0), handler)
        self.name = f"127.0.0.1:{self.server.server_address[1]}/x"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def wait_for(self, taken_bytes: int) -> None:
        with self.world.lock:
            assert self.world.lock.wait_for(lambda: self.world.taken_bytes >= taken_bytes, 60)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(params=[True, False], ids=["kept", "lost"])
def sink(request: pytest.FixtureRequest) -> Iterator[Sink]:
    made = Sink(keeps_cut=request.param)
    yield made
    made.close()


def publish(sink: Sink, hub: HubServer, cache: Path) -> BaseProcess:
    arguments = ("publish", "org/big", "--to", sink.name, "--base", "none", "-q")
    return start_apart(*arguments, HF_ENDPOINT=hub.endpoint, XDG_CACHE_HOME=str(cache))


def test_kill_9_in_the_middle_of_a_layer_loses_only_bytes_in_flight(
    sink: Sink, hub: HubServer, tmp_path: Path
) -> None:
    hub.clear_log()
    for kill in range(1, KILLS + 1):
        child = publish(sink, hub, tmp_path)
        sink.wait_for(sink.world.taken_bytes + 20 * MIB)
        child.kill()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL, f"over before kill {kill}"
    child = publish(sink, hub, tmp_path)
    child.join(120)
    assert child.exitcode == 0
    assert "big" in sink.world.manifests  # the digest of every blob was checked
    # A registry that loses what was cut is sent chunks of 16 MiB after the first time.
    lost_bytes = (1 if sink.world.keeps_cut else 32) * MIB * KILLS
    read_bytes = hub.log().of(origin="cdn").bytes_sent
    assert sink.world.taken_bytes <= SIZE_BYTES + lost_bytes
    # A hash point of 8 MiB, the ring of 32 MiB between both sides, and what sockets hold.
    assert read_bytes <= SIZE_BYTES + lost_bytes + 56 * MIB * KILLS
    assert list((tmp_path / "hf-models/uploads").iterdir()) == []
