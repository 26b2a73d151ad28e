"""Everything that can go wrong while publishing, each with a name: one fault, one test.

Each ends in a correct image or in a clear error with its exit code; never in a tag that
points to wrong bytes.
"""

import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from downloader.oci.manifest import Manifest, parse_manifest
from downloader.receiver import receiver
from tests.support.apart import start_apart
from tests.support.command import Ran
from tests.support.fake_hub import HubServer, Repo, faults
from tests.support.fake_hub.fault import Fault as HubFault
from tests.support.fake_hub.fault import World
from tests.support.faults import Asked, Fault
from tests.support.faulty_proxy import Door, FaultyProxy
from tests.support.publish import (
    BLOB_PATH,
    IMPATIENT,
    LAYER_SIZE,
    MIB,
    MODEL,
    ONE,
    ONE_BYTES,
    SPLIT,
    Side,
    check_image,
)

pytestmark = pytest.mark.docker

# Chunks and a little memory.
CHUNKED = ("--layer-size", "20MiB", "--jobs", "1", "--memory", "112MiB", "--upload", "chunked")
EDGES = (0, 1, 512, 3 * MIB + 1, ONE_BYTES - 1)


def must_work(side: Side, ran: Ran, repo: Repo = ONE) -> None:
    assert ran.code == 0, ran.err
    check_image(side.store(), repo.id.partition("/")[2], repo)


def must_fail(side: Side, ran: Ran, code: int, said: str) -> None:
    """The error is clear, and no tag names anything but the record of what is finished."""
    assert ran.code == code, ran.err
    [error] = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert said in error
    assert "Traceback" not in ran.err
    assert [tag for tag in side.store().list_tags() if ".shard-" not in tag] == []


# The Hub


@pytest.mark.parametrize("at", EDGES)
def test_the_hub_resets_the_connection(side: Side, at: int) -> None:
    side.hub.add_fault(faults.ResetAfter(path="*w.bin", after_bytes=at, times=1))
    must_work(side, side.publish("org/one"))


@pytest.mark.parametrize("at", EDGES)
def test_the_hub_ends_the_answer_early(side: Side, at: int) -> None:
    side.hub.add_fault(faults.CutAfter(path="*w.bin", after_bytes=at, times=1))
    must_work(side, side.publish("org/one"))


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_the_hub_limits_requests(side: Side, as_date: bool) -> None:
    busy = faults.TooManyRequests(path="*w.bin", retry_after_s=2, as_date=as_date, times=1)
    side.hub.add_fault(busy)
    ran = side.publish("org/one")
    must_work(side, ran)
    asked = side.hub.log().of(file="w.bin")
    refused = next(at for at, entry in enumerate(asked) if entry.status == 429)
    waited_s = asked[refused + 1].time_s - asked[refused].time_s
    assert waited_s >= 1  # a date has whole seconds only
    assert as_date or re.search(r"w\.bin: .*429.*; again in 2 s", ran.err)


def test_a_proxy_compresses_answers_of_the_hub(side: Side) -> None:
    side.hub.add_fault(faults.Compressed(path="*w.bin"))
    side.hub.add_fault(faults.Compressed(path="*config.json"))
    must_work(side, side.publish("org/one"))


def test_a_small_file_is_cut_by_a_hub_without_ranges(side: Side) -> None:
    side.hub.add_fault(faults.NoRanges(path="*README.md"))
    side.hub.add_fault(faults.CutAfter(path="*README.md", after_bytes=5, times=2))
    must_work(side, side.publish("org/model"), MODEL)
    asked = side.hub.log().of(file="README.md", path="org/model/resolve/")
    assert len(asked) >= 3


@pytest.mark.parametrize("status", [500, 502])
def test_the_hub_answers_a_server_error_once(side: Side, status: int) -> None:
    side.hub.add_fault(faults.ServerError(path="*w.bin", status=status, times=2))
    must_work(side, side.publish("org/one"))


def test_the_hub_answers_server_errors_for_ever(side: Side) -> None:
    side.hub.add_fault(faults.ServerError(path="*w.bin", status=502))
    must_fail(side, side.publish("org/one"), 3, "502")


def test_the_token_is_revoked_in_the_middle(side: Side) -> None:
    side.hub.add_fault(faults.Unauthorized(path="*w.bin", origin="hub"))
    must_fail(side, side.publish("org/one"), 3, "401")


def test_the_hub_sends_a_wrong_byte_once(side: Side) -> None:
    side.hub.add_fault(faults.WrongBytes(path="*w.bin", at_byte=4 * MIB, times=1))
    ran = side.publish("org/one")
    must_work(side, ran)
    assert "once more from the Hub" in ran.err


def test_the_hub_sends_a_wrong_byte_in_a_small_file_once(side: Side) -> None:
    side.hub.add_fault(faults.WrongBytes(path="*config.json", at_byte=0, times=1))
    must_work(side, side.publish("org/one"))


@pytest.mark.parametrize(
    "fault",
    [
        faults.WrongBytes(path="*w.bin", at_byte=4 * MIB),
        faults.FewerBytes(path="*w.bin"),
        faults.MoreBytes(path="*w.bin"),
        faults.WrongBytes(path="*config.json"),
    ],
    ids=["wrong", "fewer", "more", "wrong-small"],
)
def test_the_hub_sends_other_bytes_every_time(side: Side, fault: HubFault) -> None:
    side.hub.add_fault(fault)
    must_fail(side, side.publish("org/one"), 6, "want")


def test_a_wrong_byte_in_one_part_fails_the_whole_file(side: Side) -> None:
    side.hub.add_fault(faults.WrongBytes(path="*big.bin", at_byte=1000))
    ran = side.publish("org/split", "--layer-size", "4MiB")
    must_fail(side, ran, 6, "want oid")
    side.hub.clear_faults()
    side.forget()
    must_work(side, side.publish("org/split", "--layer-size", "4MiB"), SPLIT)
    assert side.read_bytes() == SPLIT.files()["big.bin"].size_bytes  # no part was trusted


def test_wrong_bytes_keep_the_old_tag(side: Side, hub: HubServer) -> None:
    hub.move(MODEL.key, "main", 0)
    side.publish()
    before = side.store().get_manifest("model")
    hub.move(MODEL.key, "main", 1)
    hub.add_fault(faults.WrongBytes(path="*README.md"))
    side.publish(code=6)
    assert side.store().get_manifest("model") == before


def test_a_redirect_to_another_host_gets_no_token(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    side.hub.add_fault(faults.RedirectElsewhere(path="*w.bin", times=1))
    must_work(side, side.publish("org/one"))
    elsewhere = side.hub.log().of(origin="elsewhere")
    assert elsewhere
    assert not any(entry.has_auth for entry in elsewhere)


def test_the_name_of_the_hub_does_not_resolve(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    must_fail(side, side.publish("org/one"), 4, "no answer from hub.invalid")


def test_the_name_of_the_hubs_cdn_does_not_resolve(side: Side) -> None:
    side.hub.add_fault(RedirectTo(path="*w.bin", url="http://cdn.invalid/w.bin"))
    must_fail(side, side.publish("org/one"), 4, "cdn.invalid")


@dataclass(frozen=True, kw_only=True)
class RedirectTo(HubFault):
    """302 to an address."""

    url: str

    def change(self, reply: Any, request: Any, world: World) -> Any:
        return type(reply).text(302, "", Location=self.url)


# The registry


@pytest.mark.parametrize("at", EDGES)
def test_the_registry_cuts_an_upload(side: Side, at: int) -> None:
    side.proxy.faults.append(Fault("cut", "PUT", BLOB_PATH, cut_request_at=at))
    must_work(side, side.publish("org/one"))


@pytest.mark.parametrize("at", EDGES)
def test_the_registry_cuts_a_chunk(side: Side, at: int) -> None:
    side.proxy.faults.append(Fault("cut", "PATCH", cut_request_at=at))
    must_work(side, side.publish("org/split", *CHUNKED), SPLIT)


@pytest.mark.parametrize("at", EDGES)
def test_the_registry_cuts_a_streamed_upload(side: Side, at: int) -> None:
    side.proxy.faults.append(Fault("cut", "PATCH", cut_request_at=at))
    ran = side.publish("org/split", *CHUNKED, "--upload", "stream")
    must_work(side, ran, SPLIT)


def test_the_answer_to_an_upload_is_lost(side: Side) -> None:
    side.proxy.faults.append(Fault("lost", "PUT", BLOB_PATH, lose_answer=True))
    must_work(side, side.publish("org/one"))


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_the_registry_limits_requests(side: Side, as_date: bool) -> None:
    until = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    wait = format_datetime(until, usegmt=True) if as_date else "2"
    side.proxy.faults.append(Fault("429", "POST", status=429, headers={"Retry-After": wait}))
    must_work(side, side.publish("org/one"))
    assert datetime.now(UTC) >= until


@pytest.mark.parametrize("status", [500, 502])
@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
def test_the_registry_answers_a_server_error_once(side: Side, method: str, status: int) -> None:
    side.proxy.faults.append(Fault("bad", method, times=2, status=status))
    must_work(side, side.publish("org/one"))


def test_a_token_ends_in_the_middle_of_a_blob(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    side.proxy.door = Door("bearer", uses=3)
    monkeypatch.setattr("sys.stdin", io.StringIO(side.proxy.door.password))
    flags = ("--username", side.proxy.door.username, "--password-stdin")
    must_work(side, side.publish("org/split", *CHUNKED, *flags), SPLIT)
    assert len(side.proxy.door.token_requests) > 3


def test_the_password_is_wrong(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    side.proxy.door = Door("basic")
    monkeypatch.setattr("sys.stdin", io.StringIO("wrong-Passw0rd"))
    ran = side.publish("org/one", "--username", "me", "--password-stdin")
    must_fail(side, ran, 3, "the credential is refused")
    assert "wrong-Passw0rd" not in ran.err + ran.out


def test_the_upload_session_is_gone(side: Side) -> None:
    side.proxy.faults.append(Fault("gone", "PATCH", times=2, status=404))
    must_work(side, side.publish("org/split", *CHUNKED), SPLIT)


def test_the_registry_kept_fewer_bytes_than_were_sent(side: Side) -> None:
    side.proxy.faults.append(Fault("less", "PATCH", keep_bytes=100_000))
    must_work(side, side.publish("org/split", *CHUNKED), SPLIT)


@pytest.mark.parametrize("status", [411, 413, 501])
def test_the_registry_refuses_a_streamed_upload(side: Side, status: int) -> None:
    refusal = Fault("no", "PATCH", times=99, status=status, only_with="Transfer-Encoding")
    side.proxy.faults.append(refusal)
    must_work(side, side.publish("org/split", "--layer-size", "20MiB"), SPLIT)


def test_the_registry_is_slower_than_the_timeout(side: Side) -> None:
    side.proxy.faults.append(Fault("silent", "POST", silent=True))
    must_work(side, side.publish("org/one", "--timeout", "0.5"))


def test_the_registry_never_answers(side: Side) -> None:
    side.proxy.faults.append(Fault("silent", "POST", times=99, silent=True))
    must_fail(side, side.publish("org/one", "--timeout", "0.5"), 4, "no answer from 127.0.0.1")


@pytest.mark.parametrize("status", [500, 507])
def test_the_registry_s_disk_is_full(side: Side, status: int) -> None:
    body = b'{"errors":[{"code":"UNKNOWN","message":"no space left on device"}]}'
    side.proxy.faults.append(Fault("full", "PUT", BLOB_PATH, times=99, status=status, body=body))
    must_fail(side, side.publish("org/one"), 3, "no space left on device")


def test_the_registry_refuses_the_tag(side: Side) -> None:
    side.proxy.faults.append(Fault("no", "PUT", "/manifests/one$", times=99, status=403))
    must_fail(side, side.publish("org/one"), 3, "status 403")


def test_the_registry_takes_no_records(side: Side) -> None:
    side.proxy.faults.append(Fault("no", "PUT", "shard-", times=99, status=400))
    side.hub.add_fault(faults.ServerError(path="*c.safetensors", status=502))
    ran = side.publish("org/model")
    must_fail(side, ran, 3, "502")
    assert "cannot be continued if interrupted" in ran.err
    side.hub.clear_faults()
    must_work(side, side.publish("org/model"), MODEL)


def test_the_name_of_the_registry_does_not_resolve(side: Side) -> None:
    ran = side.publish("org/one", to=("registry.invalid/me/models",))
    must_fail(side, ran, 4, "registry.invalid")


# This process


def arguments_of(name: str) -> list[str]:
    sizes = ["--layer-size", LAYER_SIZE, "--base", "none"]
    return ["publish", "org/model", "--to", name, *sizes, *IMPATIENT]


def start_child(name: str, endpoint: str) -> BaseProcess:
    """Publish in a process of its own, as the command line does."""
    return start_apart(*arguments_of(name), HF_ENDPOINT=endpoint)


@dataclass
class Strike(Fault):
    """Sends a signal to the publisher when the request comes, which then goes on as it can."""

    pid: int | None = None
    sent: signal.Signals = signal.SIGKILL
    aimed: threading.Event = field(default_factory=threading.Event)

    def aim(self, pid: int | None) -> None:
        """Say whom to strike; no request is answered before."""
        self.pid = pid
        self.aimed.set()

    def takes(self, asked: Asked, blob_bytes: int | None) -> bool:
        assert self.aimed.wait(60)
        if super().takes(asked, blob_bytes) and self.pid:
            os.kill(self.pid, self.sent)
        return False


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_at_once_and_the_next_run_resumes(side: Side, sent: signal.Signals) -> None:
    strike = Strike("ctrl-c", "PUT", BLOB_PATH, skip=1, sent=sent)
    side.proxy.faults.append(strike)
    command = [sys.executable, "-m", "downloader", *arguments_of(side.name), "--jobs", "1"]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stderr=pipe, stdout=nowhere) as process:
        strike.aim(process.pid)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"error: interrupted; run the same command again to continue" in err
    assert b"Traceback" not in err
    assert "model" not in side.store().list_tags()
    must_go_on(side)


@pytest.fixture(scope="module")
def requests_of_a_run(hub: HubServer) -> int:
    """How many requests a run makes that nobody disturbs."""
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"]) as proxy:
        child = start_child(f"{proxy.host}/tests/{uuid.uuid4().hex}", hub.endpoint)
        child.join(60)
        assert child.exitcode == 0
        return len(proxy.seen)


@pytest.mark.parametrize("seed", range(20))
def test_kill_9_at_any_moment_and_the_next_run_resumes(
    side: Side, seed: int, requests_of_a_run: int
) -> None:
    strike = Strike("kill", skip=random.Random(seed).randrange(requests_of_a_run))
    side.proxy.faults.append(strike)
    child = start_child(side.name, side.hub.endpoint)
    strike.aim(child.pid)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    must_go_on(side)


def must_go_on(side: Side) -> None:
    """The next run completes, and sends nothing again of what was recorded as done."""
    record = side.store().get_manifest("model.shard-1-of-1")
    done = parse_manifest(record.data) if record else None
    done_bytes = sum(layer.size_bytes for layer in done.layers) if isinstance(done, Manifest) else 0
    side.proxy.faults.clear()
    side.forget()
    ran = side.publish("org/model", "--json")
    must_work(side, ran, MODEL)
    [target] = ran.json["targets"]
    assert target["reused_bytes"] >= done_bytes
    ours_bytes = 64 * 1024 + len(receiver())  # configs, metadata, and programs that were not sent
    assert side.sent_bytes() <= target["moved_bytes"] + ours_bytes


def test_two_publishes_of_one_tag_at_the_same_time_both_succeed(side: Side) -> None:
    children = [start_child(side.name, side.hub.endpoint) for _ in range(2)]
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    check_image(side.store(), "model", MODEL)
    assert set(side.store().list_tags()) == {"model", "model.modelpack"}  # and none of a shard
