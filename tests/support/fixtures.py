"""The fixtures that tests of several directories share; conftest.py registers them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from downloader.net.http import HttpPool, HttpSettings
from tests.support.docker import Shelf
from tests.support.fake_hub import HubServer
from tests.support.faulty_proxy import FaultyProxy
from tests.support.publish import SPEC, Side, new_side


@pytest.fixture(scope="module")
def hub(request: pytest.FixtureRequest) -> Iterator[HubServer]:
    """Give a stand-in of the Hub, with what the module names as HUB, or the repos of publishing."""
    with HubServer(getattr(request.module, "HUB", SPEC)) as server:
        yield server


@pytest.fixture
def side(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    """Give a publisher between that Hub and the real registry."""
    with new_side(hub, monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def shelf(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """Give a name for images in the engine; they go away in the end."""
    found = Shelf(hub, tmp_path_factory.mktemp("hf-home"))
    yield found
    found.remove()


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    """Give the real registry behind a proxy that injects faults."""
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"]) as server:
        yield server


@pytest.fixture
def pool() -> Iterator[HttpPool]:
    """Give connections that wait for no answer longer than some seconds."""
    made = HttpPool(HttpSettings(connect_timeout_s=5, read_timeout_s=5))
    yield made
    made.close()
