"""What a person reads while a command works and after it failed: true, short, no secret."""

from collections.abc import Iterator

import pytest

from tests.publish_side import SPEC, Side, new_side
from tests.standin import HubServer, faults

pytestmark = pytest.mark.docker

NOWHERE = "127.0.0.1:1"
SECRET = "s3cret-Passw0rd"
ONCE = ("--tries", "1")


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(SPEC) as server:
        yield server


@pytest.fixture
def side(
    hub: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Side]:
    with new_side(hub, capsys, monkeypatch) as made:
        yield made


# The Hub's address and its answers about a repo


@pytest.mark.parametrize(
    ("endpoint", "code"),
    [
        (f"http://u:{SECRET}@{NOWHERE}", 4),
        (f"ftp://u:{SECRET}@{NOWHERE}", 2),
        (f"u:{SECRET}@{NOWHERE}", 2),
        (f"http://u:{SECRET}/more@{NOWHERE}", 2),
    ],
)
def test_a_password_in_the_hub_s_address_is_never_shown(
    side: Side, monkeypatch: pytest.MonkeyPatch, endpoint: str, code: int
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    ran = side.publish("org/other")
    assert ran.code == code, ran.err
    assert SECRET not in ran.out + ran.err
    assert NOWHERE in ran.err


def test_the_hub_s_address_may_end_with_a_slash(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{side.hub.endpoint}/")
    for command in (("plan", "org/other"), ("fetch", "org/other")):
        ran = side.run(*command)
        assert ran.code == 0, ran.err
    assert side.publish("org/other").code == 0


def test_the_flags_about_tries_hold_for_the_hub_s_answers_too(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://{NOWHERE}")
    ran = side.publish("org/other", "--tries", "2", "--retry-delay", "0.25")
    assert ran.code == 4
    waits = [line for line in ran.err.splitlines() if "again in" in line]
    assert waits == [f"http://{NOWHERE} gave no answer for org/other; again in 0.25 s"]
    assert "again in" not in side.publish("org/other", *ONCE).err
    assert "again in" not in side.publish("org/other", "--quiet").err


def test_a_status_of_the_hub_is_an_answer(side: Side) -> None:
    side.hub.add_fault(faults.TooManyRequests(path="/api/*", retry_after_s=1, times=1))
    ran = side.publish("org/other")
    assert ran.code == 0, ran.err
    assert f"{side.hub.endpoint} answered 429 for org/other; again in 1 s" in ran.err
    side.hub.add_fault(faults.ServerError(path="/api/*", times=1))
    ran = side.run("fetch", "org/other", "--quiet")
    assert ran.code == 0, ran.err
    assert "again in" not in ran.err
