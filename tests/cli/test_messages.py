"""What a person reads while a command works and after it failed: true, short, no secret."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from downloader.cli import INTERRUPTED, console
from downloader.cli.console import ConsoleProgress
from downloader.errors import HfModelsError
from tests.support.command import ROOT
from tests.support.fake_hub import faults
from tests.support.fake_hub.fault import Fault as HubFault
from tests.support.faults import Fault
from tests.support.publish import BLOB_PATH, Side

pytestmark = pytest.mark.docker

NOWHERE = "127.0.0.1:1"
SECRET = "s3cret-Passw0rd"
ONCE = ("--tries", "1")


# The Hub's address and its answers about a repo


@pytest.mark.parametrize(
    ("endpoint", "code"),
    [
        (f"http://u:{SECRET}@{NOWHERE}", 2),
        (f"ftp://u:{SECRET}@{NOWHERE}", 2),
        (f"u:{SECRET}@{NOWHERE}", 2),
        (f"http://u:x@{SECRET}@{NOWHERE}", 2),
        (f"http://u:{SECRET}/more@{NOWHERE}", 2),
    ],
)
def test_a_password_in_the_hub_s_address_is_never_shown(
    side: Side, monkeypatch: pytest.MonkeyPatch, endpoint: str, code: int
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    ran = side.publish("org/other", code=code)
    assert SECRET not in ran.out + ran.err
    assert NOWHERE in ran.err


def test_the_hub_s_address_may_end_with_a_slash(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{side.hub.endpoint}/")
    for command in (("plan", "org/other"), ("fetch", "org/other")):
        side.run(*command, code=0)
    assert side.publish("org/other").code == 0


def test_the_flags_about_tries_hold_for_the_hub_s_answers_too(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://{NOWHERE}")
    ran = side.publish("org/other", "--tries", "2", "--retry-delay", "0.25", code=4)
    waits = [line for line in ran.err.splitlines() if "again in" in line]
    [wait] = waits  # the reason at once, and not again before each try
    assert wait.startswith(f"GET http://{NOWHERE}/api/models/org/other/")
    assert wait.endswith(f": no answer from {NOWHERE} (connection refused); again in 0.25 s")
    assert "again in" not in side.publish("org/other", *ONCE).err
    assert "again in" not in side.publish("org/other", "--quiet").err


def test_a_status_of_the_hub_is_an_answer(side: Side) -> None:
    side.hub.add_fault(faults.TooManyRequests(path="/api/*", retry_after_s=2, times=1))
    ran = side.publish("org/other", code=0)
    assert re.search(r"org/other/.*429.*; again in 2 s$", ran.err, re.MULTILINE), ran.err
    side.hub.add_fault(faults.ServerError(path="/api/*", times=1))
    ran = side.run("fetch", "org/other", "--quiet", code=0)
    assert "again in" not in ran.err


# Waiting


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines as often as a test can wait for."""
    for name, seconds in {"LINE_EVERY_S": 0.05, "FIRST_IDLE_S": 0.1, "IDLE_EVERY_S": 0.2}.items():
        monkeypatch.setattr(console, name, seconds)


def test_a_registry_that_never_answers_is_reported(side: Side, impatient: None) -> None:
    side.proxy.faults.append(Fault("silent", times=99, silent=True))
    flags = ("--timeout", "0.5", "--tries", "2")
    ran = side.publish("org/other", *flags, code=4)
    assert len(re.findall(r"^publish: [\d.]+ s so far$", ran.err, re.MULTILINE)) > 1
    noted = rf"no answer from {side.proxy.host} \(nothing received in time\); again in 0.05 s$"
    assert re.search(noted, ran.err, re.MULTILINE), ran.err
    assert "progress" not in {thread.name for thread in threading.enumerate()}
    quiet = side.publish("org/other", *flags, "--quiet")
    assert [line.partition(":")[0] for line in quiet.err.splitlines()] == ["error", "hint"]


def test_a_file_that_stalls_is_named(side: Side, impatient: None) -> None:
    side.hub.add_fault(faults.StallAfter(path="*w.bin", after_bytes=100_000, times=1))
    ran = side.publish("org/one", "--timeout", "0.5", code=0)
    line = next(line for line in ran.err.splitlines() if "w.bin: GET" in line)
    assert re.match(r"http://\S+/w\.bin: GET \S+: no answer from \S+:\d+ \(", line)


def heard(stream: io.StringIO, pattern: str) -> str:
    """Wait for a line; a lost one fails the test by pytest's own timeout."""
    while not (found := re.search(pattern, stream.getvalue())):
        threading.Event().wait(0.01)
    return found[0]


def test_progress_lines_come_more_seldom_while_no_bytes_arrive(impatient: None) -> None:
    stream = io.StringIO()
    with ConsoleProgress("move", stream=stream) as progress:
        progress.start(2_000_000, 2)
        progress.advance(1_000_000)
        heard(stream, r"move: 1\.0 MB of 2\.0 MB, 0/2 files, \d+ s, .*/s\n")
        heard(stream, r"move: 1\.0 MB of .*/s; nothing moved for [\d.]+ s\n")
        progress.advance(1_000_000)
        heard(stream, r"move: 2\.0 MB of 2\.0 MB")
    said = stream.getvalue()
    threading.Event().wait(0.3)
    assert stream.getvalue() == said


def test_on_a_terminal_the_bars_move_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, ConsoleProgress("move", stream=stream) as progress:
        progress.start(2_000_000, 2)
        drawn = b""
        while drawn.count(b"move") < 3:
            drawn += os.read(ours, 4096)
    os.close(ours)


# What a registry asks for


def test_a_status_of_the_registry_is_an_answer(side: Side) -> None:
    side.proxy.faults.append(Fault("busy", "POST", status=429, headers={"Retry-After": "2"}))
    ran = side.publish("org/other", code=0)
    assert f"upload to {side.name}: HTTP 429; again in 2 s" in ran.err


def test_a_restore_that_waits_reports_it(side: Side, tmp_path: Path) -> None:
    assert side.publish("org/other").code == 0
    side.proxy.faults.append(Fault("busy", "GET", status=429, headers={"Retry-After": "2"}))
    ran = side.run("restore", f"{side.name}:other", "--cache-dir", str(tmp_path), code=0)
    assert f"manifest {side.name}:other: HTTP 429; again in 2 s" in ran.err


def test_a_registry_that_asks_for_an_hour_is_quoted(side: Side) -> None:
    hour = {"Retry-After": "3600"}
    side.proxy.faults.append(Fault("busy", "POST", times=99, status=429, headers=hour))
    ran = side.publish("org/other", code=3)
    assert "(status 429, and asks to wait 3600 s)" in ran.err
    assert "again in" not in ran.err


# Counts and sizes


def test_counts_have_units(side: Side) -> None:
    ran = side.publish("org/other")
    assert re.search(r"^publish: \S+ k?B in 1 layer$", ran.err, re.MULTILINE), ran.err
    assert re.search(r"^publish: .*, 1/1 layer, ", ran.err, re.MULTILINE), ran.err
    ran = side.run("fetch", "org/other")
    assert re.search(r"^fetch: \S+ B in 1 file$", ran.err, re.MULTILINE), ran.err
    assert "in 1 file, already present" in ran.err


def test_a_repo_without_files_is_an_error(side: Side) -> None:
    ran = side.publish("org/empty", code=2)
    assert "error: the repo has no files" in ran.err


@pytest.mark.parametrize(
    ("flags", "asked", "more"),
    [
        (("--memory", "1MB"), "1 job and 1 target, got 1.0 MB", ""),
        (("--jobs", "16"), "16 jobs and 1 target, got 268 MB", ", or lower --jobs"),
    ],
)
def test_too_little_memory_is_answered_with_the_least_amount(
    side: Side, flags: tuple[str, ...], asked: str, more: str
) -> None:
    ran = side.publish("org/other", *flags, code=2)
    assert re.search(rf"^error: want at least \d+ MB of memory for {asked}$", ran.err, re.MULTILINE)
    hint = re.search(rf"^hint: raise --memory to (\d+MiB){more}$", ran.err, re.MULTILINE)
    assert hint, ran.err
    side.publish("org/other", *flags, "--memory", hint[1], code=0)


# Where the fault is the user's or the network's


def test_a_base_image_that_cannot_be_reached_has_a_hint(side: Side) -> None:
    ran = side.publish("org/other", "--base", f"{NOWHERE}/busybox:x", code=4)
    assert f"error: base image {NOWHERE}/busybox:x: " in ran.err
    assert f"no answer from {NOWHERE} (" in ran.err
    assert "--base none" in ran.err.splitlines()[-1]


def test_a_default_base_image_that_cannot_be_reached_is_left_out(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("downloader.library.publisher.DEFAULT_BASE", f"{NOWHERE}/busybox:x")
    ran = side.run("publish", "org/other", "--to", side.name, *ONCE, code=0)
    assert "going on without a base image" in ran.err
    monkeypatch.setenv("HF_MODELS_BASE", f"{NOWHERE}/busybox:x")
    assert side.run("publish", "org/other", "--to", side.name, "--force", *ONCE).code == 4


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("publish", "org/other"), "hf-models publish"),
        (("publish", "org/other", "--to", "a/b", "--jobs", "99"), "hf-models publish"),
        (("plan", "org/other", "--nothing"), "hf-models plan"),
        (("plann",), "hf-models"),
    ],
)
def test_a_mistyped_command_line_is_an_error_like_the_others(
    side: Side, arguments: tuple[str, ...], command: str
) -> None:
    ran = side.run(*arguments, code=2)
    error, hint = ran.err.splitlines()
    assert error.startswith("error: ")
    assert hint == f"hint: see `{command} --help`"


# A reader that leaves, as `| head -1` does


def run_without_a_reader(*arguments: str) -> subprocess.CompletedProcess[str]:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "downloader", *arguments]
    try:
        return subprocess.run(
            command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT
        )
    finally:
        os.close(theirs)


@pytest.mark.parametrize("flags", [("--json",), ()])
def test_a_reader_that_leaves_is_no_error(side: Side, flags: tuple[str, ...]) -> None:
    done = run_without_a_reader("plan", "org/model", *flags)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_hides_no_failure(side: Side) -> None:
    to = ("--to", side.name, "--to", f"{NOWHERE}/me/models")
    done = run_without_a_reader("publish", "org/other", *to, "--base", "none", *ONCE)
    assert done.returncode == 4
    assert f"no answer from {NOWHERE}" in done.stderr
    assert "other" in side.store().list_tags()


# Every error says what to do


@pytest.mark.parametrize(
    ("readme", "line"), [("README.md", "Exit codes: "), ("README.zh-CN.md", "退出码：")]
)
def test_every_exit_code_is_in_the_readme(readme: str, line: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    [codes] = [row for row in text.splitlines() if row.startswith(line)]
    kinds = [kind for kind in HfModelsError.__subclasses__() if kind.exit_code != 1]
    known = {kind.exit_code for kind in kinds}
    assert {int(code) for code in re.findall(r"\d+", codes)} == known | {INTERRUPTED}


def hint_of(side: Side, *more: str, repo: str = "org/one", code: int) -> str:
    ran = side.publish(repo, *more, code=code)
    return ran.err.splitlines()[-1]


@pytest.mark.parametrize(
    "fault",
    [
        faults.WrongBytes(path="*w.bin", at_byte=1000),
        faults.FewerBytes(path="*w.bin"),
        faults.MoreBytes(path="*w.bin"),
        faults.WrongBytes(path="*config.json"),
    ],
    ids=["wrong", "fewer", "more", "wrong-small"],
)
def test_other_bytes_from_the_hub_have_a_hint(side: Side, fault: HubFault) -> None:
    side.hub.add_fault(fault)
    assert hint_of(side, code=6).startswith("hint: run it again; if they stay wrong,")


def test_a_full_disk_of_the_registry_has_a_hint(side: Side) -> None:
    body = b'{"errors":[{"code":"UNKNOWN","message":"no space left on device"}]}'
    side.proxy.faults.append(Fault("full", "PUT", BLOB_PATH, times=99, status=500, body=body))
    assert hint_of(side, code=3).startswith("hint: the registry's disk is full")


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_upload_that_is_always_gone_has_a_hint(side: Side, method: str) -> None:
    side.proxy.faults.append(Fault("gone", method, BLOB_PATH, times=999, status=404))
    flags = ("--layer-size", "20MiB", "--jobs", "1", "--memory", "106MiB")
    said = hint_of(side, *flags, repo="org/split", code=3)
    assert said.startswith("hint: the registry forgets uploads that are under way")


def test_a_terminal_of_60_columns_shows_the_whole_and_each_file_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    ours, theirs = pty.openpty()
    name = "weights/model-00001-of-00002.safetensors"
    with os.fdopen(theirs, "w") as stream, ConsoleProgress("restore", stream=stream) as progress:
        progress.start(9_000_000_000, 3)
        progress.start_file(name, 4_000_000_000)
        progress.advance(1_000_000_000, name)
        drawn = ""
        while "1.0/4.0 GB" not in drawn or "GB/s" not in drawn:
            drawn += os.read(ours, 4096).decode()
        progress.finish_file(name)
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= 60
    [whole] = {line.partition(" ━")[0] for line in lines if line.startswith("restore 0")}
    assert whole.strip() == "restore 0/3 files"
    assert any(re.match(r"  weight\S*…\S*tensors ", line) for line in lines)


def test_a_run_without_downloads_prints_no_rate() -> None:
    stream = io.StringIO()
    with ConsoleProgress("restore", stream=stream) as progress:
        progress.start(25_000_000_000, 2)
        progress.skip(25_000_000_000)
        progress.finish_file("a")
        progress.finish_file("b")
    assert stream.getvalue().splitlines()[-1] == "restore: up to date, 2 files, 25.0 GB"
