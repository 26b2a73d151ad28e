"""Layouts under ``dist/`` from the command line: several builds at once, pushes, archives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.publish_side import MODEL, SPEC, Side, check_image, new_side
from tests.standin import HubServer

pytestmark = pytest.mark.docker

BUILD = ("build", "org/model", "--engine", "layout", "--base", "none", "--layer-size", "6MiB")


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(SPEC) as server:
        yield server


@pytest.fixture
def side(
    hub: HubServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Side]:
    monkeypatch.chdir(tmp_path)
    with new_side(hub, capsys, monkeypatch) as made:
        yield made


def test_a_layout_may_be_pushed_under_another_tag(side: Side) -> None:
    assert side.run(*BUILD).code == 0
    ran = side.run("push", "model", "--engine", "layout", "--to", f"{side.name}:v2")
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{side.name}:v2@sha256:")
    check_image(side.store(), "v2", MODEL)
    assert side.store().list_tags() == ["v2"]


@pytest.mark.parametrize("command", [("publish", "org/model"), ("assemble", "model")])
def test_a_repository_with_a_tag_is_told_where_the_tag_goes(
    side: Side, command: tuple[str, str]
) -> None:
    ran = side.run(*command, "--to", f"{side.name}:v2")
    assert ran.code == 2
    hint = f"write {side.name}; publish takes the tag as --tag, assemble as TAG"
    assert f"hint: {hint}" in ran.err
