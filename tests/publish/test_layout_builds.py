"""Layouts under ``dist/`` from the command line: several builds at once, pushes, archives."""

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from downloader.fs import hold_lock
from tests.support.command import ROOT
from tests.support.fake_hub import faults
from tests.support.faulty_proxy import Door
from tests.support.publish import BUILD_LAYOUT, MODEL, Side, check_image

pytestmark = pytest.mark.docker

DIST = Path("dist/model")


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_second_build_of_a_layout_waits_for_the_first(side: Side) -> None:
    side.hub.add_fault(faults.BandwidthCap(bytes_per_s=1 << 20))
    command = [sys.executable, "-m", "downloader", *BUILD_LAYOUT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    waited = "waiting for another build or push of dist/model to end"
    assert sum(waited in text for text in said) == 1
    assert {path.name for path in DIST.iterdir()} == {"oci-layout", "index.json", "blobs"}
    assert side.run("push", "model", "--engine", "layout", "--to", side.name).code == 0
    check_image(side.store(), "model", MODEL)


def test_the_named_user_is_that_of_the_base_image_s_registry(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.publish("org/other", "--tag", "base", code=0)
    side.proxy.door = Door("basic")
    build = ("build", "org/model", "--engine=layout", "--base", f"{side.name}:base")
    assert "login required" in side.run(*build, code=3).err
    monkeypatch.setattr("sys.stdin", io.StringIO(side.proxy.door.password))
    side.run(*build, "--username", side.proxy.door.username, "--password-stdin", code=0)


def test_a_build_that_waits_for_the_lock_reports_it_once(tmp_path: Path) -> None:
    path, said = tmp_path / "a" / "b.lock", list[str]()
    waiting, done = threading.Event(), threading.Event()

    def wait() -> None:
        said.append("waiting")
        waiting.set()

    def second() -> None:
        with hold_lock(path, on_wait=wait):
            done.set()

    thread = threading.Thread(target=second)
    with hold_lock(path, on_wait=lambda: said.append("nobody has it")):
        thread.start()
        assert waiting.wait(30)
        assert not done.is_set()
    thread.join(30)
    assert said == ["waiting"]
    assert done.is_set()


def test_a_layout_may_be_pushed_under_another_tag(side: Side) -> None:
    assert side.run(*BUILD_LAYOUT).code == 0
    ran = side.run("push", "model", "--engine", "layout", "--to", f"{side.name}:v2", code=0)
    assert ran.out.startswith(f"{side.name}:v2@sha256:")
    check_image(side.store(), "v2", MODEL)
    assert side.store().list_tags() == ["v2"]


@pytest.mark.parametrize("command", [("publish", "org/model"), ("assemble", "model")])
def test_push_to_a_name_with_a_tag_is_refused_with_a_hint(
    side: Side, command: tuple[str, str]
) -> None:
    ran = side.run(*command, "--to", f"{side.name}:v2", code=2)
    hint = f"write {side.name}; publish takes the tag as --tag, assemble as TAG"
    assert f"hint: {hint}" in ran.err


def test_a_push_that_sends_no_byte_reports_it(side: Side) -> None:
    assert side.run(*BUILD_LAYOUT).code == 0
    push = ("push", "model", "--engine", "layout", "--to", side.name)
    ran = side.run(*push)
    assert re.search(r"^push \S+: (\S+ MB) of \1, (\d+)/\2 blobs, ", ran.err, re.MULTILINE), ran.err
    again = side.run(*push, code=0)
    assert again.err == f"push {side.name}: up to date\n"


def test_an_archive_makes_no_directory(side: Side, tmp_path: Path) -> None:
    archive = tmp_path / "none" / "model.tar"
    ran = side.run(*BUILD_LAYOUT, "--archive", str(archive), code=2)
    assert f"--archive: the directory {archive.parent} does not exist" in ran.err
    assert not archive.parent.exists()
    assert not side.hub.log()
    side.run(*BUILD_LAYOUT, "--archive", "dist/model.tar", code=0)
    assert Path("dist/model.tar").is_file()
