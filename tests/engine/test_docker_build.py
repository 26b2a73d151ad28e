"""Build and push with a real engine, through the command line."""

import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from downloader import image as image_format
from downloader.plan import OWN_LAYERS, Plan
from downloader.units import parse_size
from tests.support import docker as docker_side
from tests.support.command import ROOT, hf_models_apart
from tests.support.docker import HUB_DIR, Shelf, docker, inspect, registry
from tests.support.fake_hub import (
    Generated,
    HubServer,
    HubSpec,
    awkward_names_repo,
    faults,
    make_repo,
    tiny_repo,
)

pytestmark = pytest.mark.docker

CANARY = "hf_canary0b5e7f00dfeedfacecafe"
HUGE_BYTES = 1 << 50
HUGE = Generated(HUGE_BYTES, sha256="ab" * 32)
TINY_FOLDER = f"/{HUB_DIR}/models--org--tiny"
REPOS = (
    tiny_repo(),
    tiny_repo("org/other"),
    tiny_repo("org/moving"),
    tiny_repo("org/broken"),
    tiny_repo("org/slow"),
    tiny_repo("org/gated", gated="manual", readers=("alice",)),
    tiny_repo("org/locked", gated="auto", readers=("alice",)),
    make_repo("org/huge", {"model.safetensors": HUGE}),
    awkward_names_repo("org/names"),
)
HUB = HubSpec(REPOS, users={CANARY: "alice"})


@pytest.fixture(scope="module")
def tiny(shelf: Shelf) -> str:
    """Give the image of org/tiny; its weights are in four parts."""
    shelf.build("org/tiny", "--layer-size", "1MiB")
    return shelf.image("tiny")


@pytest.fixture(scope="module")
def plan(tiny: str) -> Plan:
    """Give the plan that lies in the image."""
    commit = inspect(tiny)["Config"]["Labels"][f"{image_format.PREFIX}.commit"]
    path = f"{TINY_FOLDER}/plans/{commit}.json"
    return Plan.from_json(json.loads(docker("run", "--rm", "--network=none", tiny, "cat", path)))


def test_one_layer_for_each_planned_one(tiny: str, plan: Plan) -> None:
    *_, programs, _metadata = layers = docker_side.layer_tars(tiny)[1:]
    assert len(layers) == len(plan.layers) + OWN_LAYERS
    for planned, found in zip(plan.layers, layers, strict=False):
        want = {placed.entry.path: placed.entry.size_bytes for placed in planned.tar.entries}
        assert {member.name: member.size for member in found} == want
    assert image_format.EXPORT_PATH in {member.name for member in programs}


def test_layers_have_no_times_owners_or_modes_of_the_builder(tiny: str) -> None:
    for layer in docker_side.layer_tars(tiny)[1:]:
        for member in layer:
            assert (member.uid, member.gid, member.mtime) == (0, 0, 0), member.name
            runs = member.isdir() or member.name.startswith("usr/local/bin/")
            assert member.issym() or member.mode == (0o755 if runs else 0o644), member.name


def test_labels_describe_the_image(tiny: str, plan: Plan) -> None:
    config = inspect(tiny)["Config"]
    known = dict(item.split("@") for item in inspect("busybox:stable-musl")["RepoDigests"])
    digest = known["busybox"]
    base = {"name": "docker.io/library/busybox:stable-musl", "digest": digest}
    builder = config["Labels"][f"{image_format.PREFIX}.builder"]
    assert builder.startswith("python:3")
    assert config["Labels"] == image_format.labels(plan, base, builder)
    assert set(image_format.environment(plan)) <= set(config["Env"])
    assert inspect(tiny)["Created"] == image_format.created(plan)


def test_same_commit_is_a_cache_hit(shelf: Shelf, hub: HubServer, tiny: str) -> None:
    before = inspect(tiny)["Id"]
    hub.clear_log()
    again = shelf.build("org/tiny", "--layer-size", "1MiB")
    assert not hub.log().of(path="/resolve/")
    assert again["id"] == inspect(tiny)["Id"] == before


def test_moved_branch_is_no_cache_hit(shelf: Shelf, hub: HubServer) -> None:
    first = shelf.build("org/moving")
    commit = hub.move("model:org/moving", "main", 0)
    second = shelf.build("org/moving")
    assert second["commit"] == commit != first["commit"]
    readme = f"/{HUB_DIR}/models--org--moving/snapshots/{commit}/README.md"
    image = shelf.image("moving")
    assert "First." in docker("run", "--rm", "--network=none", image, "cat", readme)


def test_running_container_gives_its_files(tiny: str, plan: Plan, tmp_path: Path) -> None:
    name = f"hf-test-{os.getpid()}-{time.time_ns()}"
    folder = f"{TINY_FOLDER}/snapshots/{plan.snapshot.commit}"
    docker("run", "-d", "--rm", "--network=none", "--name", name, tiny, "tail", "-f", "/dev/null")
    try:
        assert f"{folder}/config.json" in docker("exec", name, "find", f"/{HUB_DIR}").splitlines()
        docker("cp", "-L", f"{name}:{folder}/config.json", str(tmp_path))
    finally:
        docker("rm", "--force", name)
    assert (tmp_path / "config.json").read_bytes() == b'{"model_type": "tiny", "hidden_size": 8}\n'


def test_other_users_can_read(tiny: str, plan: Plan) -> None:
    path = f"{TINY_FOLDER}/snapshots/{plan.snapshot.commit}/sub/dir/vocab.txt"
    text = docker("run", "--rm", "--network=none", "--user", "65534:65534", tiny, "cat", path)
    assert text == "[PAD]\n[UNK]\n"


def test_image_of_files_only(shelf: Shelf, tmp_path: Path) -> None:
    shelf.build("org/tiny", "config.json", "--base", "none", "--tag", "files-only")
    container = docker("create", shelf.image("files-only"), "none").strip()
    try:
        docker("cp", f"{container}:/{HUB_DIR}", str(tmp_path))
    finally:
        docker("rm", container)
    assert (tmp_path / "hub/models--org--tiny/refs/main").stat().st_size == 40


def test_file_names_with_special_characters(shelf: Shelf, tmp_path: Path) -> None:
    built = shelf.build("org/names", "--repo-type", "dataset", "--tag", "names")
    docker_side.run_export(shelf.image("names"), tmp_path)
    found = docker_side.load_offline(tmp_path, "org/names", "main", repo_type="dataset")
    files = awkward_names_repo("org/names").files()
    assert {(path, size) for _, path, size in found} == {
        (path, file.size_bytes) for path, file in files.items()
    }
    assert built["layers"] == 1 + OWN_LAYERS


def _plan_path(plan: Plan) -> str:
    return f"./plans/{plan.snapshot.commit}.json"


def _is_of_parts(path: str) -> bool:
    return ".part-" in path or path.startswith("./plans/")


def command_of_page(**build_args: str) -> list[str]:
    """Return the `docker build` of docs/publish.md, for other values, without tag and context."""
    text = (ROOT / "docs/publish.md").read_text().replace("\\\n", "")
    found = re.search(
        r"^docker (build -f docker/Dockerfile .*) -t hf-models:\S+ \.$", text, re.MULTILINE
    )
    assert found, "docs/publish.md has no docker build"
    words = re.sub(r"(\w+)=\S+", r"\1", found[1]).split()
    assert set(words) >= set(build_args)
    given = {name: f"{name}={value}" for name, value in build_args.items()}
    return [str(ROOT / word) if "/" in word else given.get(word, word) for word in words]


def test_committed_dockerfile_alone(shelf: Shelf, hub: HubServer, tiny: str, plan: Plan) -> None:
    image = shelf.image("alone")
    command = command_of_page(REPO_ID="org/tiny", COMMIT=plan.snapshot.commit)
    ca_bundle = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    docker(
        *(*command, "-t", image, "--network=host", "--build-arg", f"HF_ENDPOINT={hub.endpoint}"),
        *(("--secret", f"id=ca,src={ca_bundle}") if ca_bundle else ()),
        str(ROOT),
    )
    alone = docker_side.file_tree(image, TINY_FOLDER)
    planned = docker_side.file_tree(tiny, TINY_FOLDER)
    # Whole files instead of parts, and the plan says so; nothing else differs.
    same = {path: facts for path, facts in planned.items() if not _is_of_parts(path)}
    assert {path: facts for path, facts in alone.items() if path in same} == same
    weights = next(iter(plan.parts))
    assert set(alone) - set(same) == {f"./blobs/{weights}", _plan_path(plan)}
    labels = inspect(image)["Config"]["Labels"]
    assert labels[f"{image_format.PREFIX}.commit"] == plan.snapshot.commit


@pytest.fixture(scope="module")
def gated(shelf: Shelf) -> str:
    """Give all that the build of a gated repo said."""
    return str(shelf.build("org/gated", HF_TOKEN=CANARY)["said"])


def test_token_is_in_no_layer_label_or_log(shelf: Shelf, gated: str) -> None:
    said, image = gated, shelf.image("gated")
    target = f"{registry()}/{shelf.name}"
    said += hf_models_apart(
        "push", "gated", "--image", shelf.name, "--to", target, "--allow-gated", HF_TOKEN=CANARY
    ).err
    said += docker("history", "--no-trunc", image) + docker("image", "inspect", image)
    assert CANARY not in said
    names = []
    for name, data in docker_side.saved_members(image):
        assert CANARY.encode() not in data, name
        names.append(name)
    assert len(names) > 4


@pytest.mark.usefixtures("gated")
def test_gated_repo_is_not_pushed_unasked(shelf: Shelf) -> None:
    target = f"{registry()}/{shelf.name}-refused"
    said = hf_models_apart("push", "gated", "--image", shelf.name, "--to", target, code=2).err
    assert "org/gated, which is gated on the Hub" in said
    assert "--allow-gated" in said


def test_gated_repo_without_token(shelf: Shelf) -> None:
    said = shelf.build("org/locked", code=3)["said"]
    assert "must have access" in said


def test_push_to_two_names_keeps_weights_as_they_are(shelf: Shelf, tiny: str, plan: Plan) -> None:
    names = [f"{shelf.name}-one", f"{shelf.name}/two"]
    to = [f"--to={registry()}/{name}" for name in names]
    done = hf_models_apart("push", "tiny", "--image", shelf.name, *to, "--json")
    for name, told in zip(names, done.json["targets"], strict=True):
        manifest = docker_side.pushed_manifest(name, "tiny")
        ours = manifest["layers"][-len(plan.layers) - OWN_LAYERS :]
        assert {layer["mediaType"] for layer in ours} == {"application/vnd.oci.image.layer.v1.tar"}
        assert told["image"] == f"{registry()}/{name}:tiny"
    docker("image", "inspect", f"{registry()}/{names[0]}:tiny", code=1)


DENIED = b'{"errors": [{"code": "DENIED", "message": "requested access is denied"}]}'


class Refusing(socketserver.StreamRequestHandler):
    """A registry that says no to everybody; plain HTTP, as it tells who tries TLS."""

    def handle(self) -> None:
        if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":  # a TLS handshake
            self.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            return
        while self.rfile.readline().strip():
            pass
        head = f"HTTP/1.0 403 Forbidden\r\nContent-Length: {len(DENIED)}\r\n"
        self.wfile.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + DENIED)


class RefusingServer(socketserver.ThreadingTCPServer):
    daemon_threads = True  # docker keeps idle connections; nobody waits for their end


def test_one_registry_that_refuses_does_not_stop_the_others(shelf: Shelf, tiny: str) -> None:
    with RefusingServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names = [f"127.0.0.1:{server.server_address[1]}/no/way", f"{registry()}/{shelf.name}-good"]
        command = ["push", "tiny", "--image", shelf.name, *(f"--to={name}" for name in names)]
        done = hf_models_apart(*command, code=3)
        told = hf_models_apart(*command, "--json", code=3).json["targets"]
        server.shutdown()
    assert "no/way" in done.err
    assert [one["image"] for one in told] == [f"{name}:tiny" for name in names]
    assert "no/way" in told[0]["error"]["message"]
    assert told[0]["digest"] is told[1]["error"] is None
    assert done.out == f"{told[1]['image']}@{told[1]['digest']}\n"


FLAKY_DOCKER = """#!/bin/sh
# Fails the first push as dockerd does when a registry answers 503.
if [ "$1" = push ] && [ ! -e "$0.failed" ]; then
    touch "$0.failed"
    echo 'received unexpected HTTP status: 503 Service Unavailable' >&2
    exit 1
fi
exec {docker} "$@"
"""


def test_push_is_tried_again_after_a_503(shelf: Shelf, tiny: str, tmp_path: Path) -> None:
    fake = tmp_path / "docker"
    fake.write_text(FLAKY_DOCKER.format(docker=shutil.which("docker")))
    fake.chmod(0o755)
    to = f"--to={registry()}/{shelf.name}-flaky"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = hf_models_apart("push", "tiny", "--image", shelf.name, to, PATH=path)
    assert "503 Service Unavailable; trying again in 0.5 s" in done.err
    assert "@sha256:" in done.out


def test_image_of_another_repo_is_kept(shelf: Shelf, tiny: str) -> None:
    before = inspect(tiny)["Id"]
    said = shelf.build("org/other", "--tag", "tiny", code=2)["said"]
    assert "exists and holds model org/tiny, not model org/other" in said
    assert "--force" in said
    assert inspect(tiny)["Id"] == before


def test_force_overwrites_an_image_of_another_repo(shelf: Shelf, tiny: str) -> None:
    docker("tag", tiny, shelf.image("shared"))
    shelf.build("org/other", "config.json", "--tag", "shared", "--force")
    labels = inspect(shelf.image("shared"))["Config"]["Labels"]
    assert labels[f"{image_format.PREFIX}.repo-id"] == "org/other"


def test_too_little_disk_is_an_error_before_the_first_byte(shelf: Shelf, hub: HubServer) -> None:
    hub.clear_log()
    said = shelf.build("org/huge", "--layer-size", "100TB", code=7)["said"]
    asked = re.search(r"want ([\d.]+ [TG]B) free to build, got ([\d.]+ \w+)", said)
    assert asked
    assert parse_size(asked[1]) > HUGE_BYTES > parse_size(asked[2])
    assert "docker system prune" in said
    assert not hub.log().of(path="/resolve/")


def test_wrong_bytes_in_the_builder_are_an_integrity_error(shelf: Shelf, hub: HubServer) -> None:
    hub.add_fault(faults.WrongBytes(path="*org/broken/model.safetensors", at_byte=1000))
    try:
        said = shelf.build("org/broken", code=6)["said"]
    finally:
        hub.clear_faults()
    assert "want oid" in said
    docker("image", "inspect", shelf.image("broken"), code=1)


def test_interrupted_build_leaves_nothing_and_continues(
    shelf: Shelf, hub: HubServer, tmp_path: Path
) -> None:
    hub.add_fault(faults.StallAfter(path="*org/slow/model.safetensors", after_bytes=1000))
    arguments = ["build", "org/slow", "--image", shelf.name, "--engine", "docker"]
    with subprocess.Popen(
        [sys.executable, "-m", "downloader", *arguments],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        until = time.monotonic() + 100
        while not _is_stalled(hub) and time.monotonic() < until:
            assert child.poll() is None, child.communicate()[0]
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=60)
    hub.clear_faults()
    assert child.returncode == 130, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    hub.clear_log()
    shelf.build("org/slow")
    fetched = hub.log().of(path="/resolve/")
    assert fetched.of(file="model.safetensors")
    assert not fetched.of(file="config.json")


def _is_stalled(hub: HubServer) -> bool:
    """Whether the weights hang, and all else has arrived."""
    log = hub.log(settle_s=0).of(file="", path="slow")
    done = {entry.file.rsplit("/", 1)[-1] for entry in log if entry.done and entry.file}
    weights = hub.log(settle_s=0).of(origin="cdn", file="slow/model.safetensors")
    return {"config.json", "README.md", "vocab.txt"} <= done and bool(weights)


def test_engine_that_does_not_answer(shelf: Shelf, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nothing.sock"
    said = shelf.build("org/tiny", code=8, DOCKER_HOST=nowhere)["said"]
    assert "no Docker engine answers" in said
    assert "DOCKER_HOST" in said


def test_machine_without_docker(shelf: Shelf, tmp_path: Path) -> None:
    said = shelf.build("org/tiny", code=8, PATH=str(tmp_path))["said"]
    assert "docker: not found in PATH" in said
    assert "install Docker" in said


def test_base_image_that_does_not_exist(shelf: Shelf) -> None:
    base = f"{registry()}/no/such-base:1"
    said = shelf.build("org/tiny", "--tag", "baseless", "--base", base, code=8)["said"]
    assert "no/such-base" in said


def test_quiet_build_says_its_name_only(shelf: Shelf, hub: HubServer, tiny: str) -> None:
    arguments = ("build", "org/tiny", "--layer-size", "1MiB", "--image", shelf.name, "--quiet")
    done = hf_models_apart(*arguments, "--engine", "docker", HF_ENDPOINT=hub.endpoint)
    assert (done.out, done.err) == (f"{tiny}\n", "")
