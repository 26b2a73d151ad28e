"""How many requests a command makes, of those that one far away would have to wait for."""

from __future__ import annotations

import io

import pytest

from tests.support.fake_hub import faults
from tests.support.faulty_proxy import Door
from tests.support.publish import MANY, Side

pytestmark = pytest.mark.docker


def requests(side: Side) -> list[str]:
    with side.proxy.lock:
        seen = [f"{item.method} {item.target}" for item in side.proxy.seen]
    tokens = [f"token {item.target}" for item in side.proxy.door.token_requests]
    return seen + tokens + [f"hub {entry.path}" for entry in side.hub.log()]


def test_publish_again_with_nothing_changed_makes_at_most_8_requests(side: Side) -> None:
    assert side.publish("org/other").code == 0
    side.forget()
    side.publish("org/other", "--json", code=0)
    assert len(requests(side)) <= 4, requests(side)


def test_publish_again_behind_a_token_server_makes_at_most_8_requests(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.proxy.door = Door("bearer")

    def publish(*more: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(side.proxy.door.password))
        me = ("--username", side.proxy.door.username, "--password-stdin")
        side.publish("org/other", *me, *more, code=0)

    publish()
    side.forget()
    side.proxy.door.token_requests.clear()
    publish()
    assert len(side.proxy.door.token_requests) == 1
    assert len(requests(side)) <= 8, requests(side)


def test_publish_again_over_a_base_asks_only_for_its_digest(side: Side) -> None:
    base = ("--base", f"{side.name}:base")
    assert side.publish("org/other", "--tag", "base").code == 0
    assert side.publish("org/model", *base).code == 0
    side.forget()
    assert side.publish("org/model", *base).code == 0
    assert len(requests(side)) <= 5, requests(side)


def test_first_publish_of_a_small_repo_makes_at_most_25_requests(side: Side) -> None:
    assert side.publish("org/other").code == 0
    found = requests(side)
    assert len(found) <= 25, found
    # Every image of a version has the same programs, so that one blob may well be there.
    assert len([line for line in found if line.startswith("HEAD")]) == 1
    assert not [line for line in found if "PUT" in line and "shard-" in line]


def test_publish_of_many_small_files_stays_below_the_hubs_quota(side: Side) -> None:
    files = len(MANY.commits[0].files)
    quota = faults.Quota(path="*org/many/*", origin="hub", requests=files * 2 // 3, window_s=4)
    side.hub.add_fault(quota)
    side.publish("org/many", code=0)
    asked = side.hub.log().of(origin="hub", path="org/many/resolve/")
    assert len(asked) >= files
    assert {entry.status for entry in asked} == {200}  # and none of 429
