"""The published image, checked by programs that nobody here wrote, and by the specification.

Every program here must be installed: one that is missing fails its test.
"""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support import oci_schemas
from tests.support.command import call
from tests.support.fake_hub import HubServer, git_sha1
from tests.support.publish import (
    BUILD_LAYOUT,
    CARD,
    MODEL,
    Side,
    check_image,
    manifest_of,
    read_blob,
)

pytestmark = pytest.mark.docker

REPO_DIR = "root/.cache/huggingface/hub/models--org--model"
BASE = "busybox:stable-musl"


@pytest.fixture
def image(side: Side) -> str:
    """Publish the model with everything that is on by default; return its name."""
    assert side.publish("org/model").code == 0
    return f"{side.direct_name}:model"


def check_tree(root: Path) -> None:
    """Check a root file system: the card through its link, and the name of its blob."""
    folder = root / REPO_DIR
    card = folder / "snapshots" / MODEL.sha / "README.md"
    assert card.read_bytes() == CARD
    assert card.readlink().name == git_sha1(CARD)
    assert (folder / "refs/main").read_text() == MODEL.sha


def test_docker_pulls_and_runs_it(side: Side) -> None:
    base = f"{os.environ['HF_TEST_REGISTRY']}/{BASE}"
    call("docker", "tag", BASE, base)
    call("docker", "push", "-q", base)
    side.publish("org/model", "--base", base, code=0)
    image = f"{side.direct_name}:model"
    call("docker", "pull", "-q", image)
    try:
        path = f"/{REPO_DIR}/snapshots/{MODEL.sha}/README.md"
        assert call("docker", "run", "--rm", image, "cat", path).encode() == CARD
    finally:
        call("docker", "rmi", image)


def test_the_containerd_store_of_an_engine_pulls_it(image: str) -> None:
    """``docker pull`` again, by an engine that unpacks with containerd's own image store."""
    call("docker", "pull", "-q", image)
    driver = call("docker", "info", "--format", "{{json .DriverStatus}}")
    assert "io.containerd.snapshotter" in driver
    call("docker", "rmi", image)


@pytest.mark.tools("podman")
def test_podman_pulls_it(image: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hf") as directory:  # it refuses a longer path
        auth = Path(directory) / "auth.json"
        auth.write_text("{}")
        own = ["--root", f"{directory}/root", "--runroot", f"{directory}/run"]
        podman = ["podman", *own, "--storage-driver", "vfs"]
        env = {"REGISTRY_AUTH_FILE": str(auth)}
        call(*podman, "pull", "-q", "--tls-verify=false", image, env=env)
        found = json.loads(call(*podman, "image", "inspect", image, env=env))
        assert found[0]["Labels"]["org.opencontainers.image.revision"] == MODEL.sha


@pytest.mark.tools("skopeo")
def test_skopeo_inspects_it(image: str) -> None:
    found = json.loads(call("skopeo", "inspect", "--tls-verify=false", f"docker://{image}"))
    assert found["Labels"]["io.github.alphahinex.hf-models.commit"] == MODEL.sha
    assert found["Os"] == "linux"


@pytest.mark.tools("skopeo")
def test_skopeo_copies_every_platform(image: str, side: Side) -> None:
    copy = f"docker://{image}-copy"
    flags = ["--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"]
    call("skopeo", "copy", "--all", "-q", *flags, f"docker://{image}", copy)
    assert side.store().get_manifest("model-copy") == side.store().get_manifest("model")


@pytest.mark.tools("skopeo", "umoci")
def test_umoci_unpacks_it(image: str, tmp_path: Path) -> None:
    layout = f"{tmp_path}/layout:model"
    source = f"docker://{image}"
    call("skopeo", "copy", "-q", "--src-tls-verify=false", source, f"oci:{layout}")
    call("umoci", "unpack", "--rootless", "--image", layout, f"{tmp_path}/bundle")
    check_tree(tmp_path / "bundle/rootfs")


# Of a registry, crane validates with --fast only: without it, it unzips every layer, compressed
# or not (https://github.com/google/go-containerregistry/issues/1826).
CRANE_VALIDATE = ("crane", "validate", "--insecure", "--fast", "--remote")


@pytest.mark.tools("crane")
@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64"])
def test_crane_validates_it_for_each_platform(image: str, platform: str) -> None:
    # By platform, because without one it takes every entry of an index for a runnable image,
    # BuildKit's attestations too (https://github.com/google/go-containerregistry/issues/2409).
    assert "PASS" in call(*CRANE_VALIDATE, image, "--platform", platform)


@pytest.mark.tools("crane")
def test_crane_validates_every_byte_of_a_pulled_image(image: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/image.tar"
    call("crane", "pull", "--insecure", image, path)
    assert "PASS" in call("crane", "validate", "--tarball", path)


@pytest.mark.tools("crane")
def test_crane_validates_the_whole_index_without_modelpack(side: Side) -> None:
    side.publish("org/model", "--no-modelpack")
    assert "PASS" in call(*CRANE_VALIDATE, f"{side.direct_name}:model")


@pytest.mark.tools("oras")
def test_oras_fetches_its_manifest(image: str, side: Side) -> None:
    fetched = call("oras", "manifest", "fetch", "--plain-http", image)
    raw = side.store().get_manifest("model")
    assert raw is not None
    assert fetched.strip().encode() == raw.data


def test_every_document_is_as_the_specification_says(image: str, side: Side) -> None:
    store = side.store()
    raw = store.get_manifest("model")
    assert raw is not None
    check(raw.data, oci_schemas.INDEX)
    for architecture in ("amd64", "arm64", "unknown"):
        manifest = manifest_of(store, "model", architecture)
        check(manifest.to_bytes(), oci_schemas.MANIFEST)
        config = read_blob(store, manifest.config)
        is_model = architecture == "unknown"
        check(config, oci_schemas.MODEL_CONFIG if is_model else oci_schemas.CONFIG)


def test_a_record_of_a_shard_is_as_the_specification_says(side: Side) -> None:
    side.publish("org/model", "--shard", "1/2")
    raw = side.store().get_manifest("model.shard-1-of-2")
    assert raw is not None
    check(raw.data, oci_schemas.MANIFEST)


def check(data: bytes, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(json.loads(data))


# The way without an engine


def build_layout(side: Side, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(directory)
    ran = side.run(*BUILD_LAYOUT, code=0)
    assert ran.out.splitlines()[0] == "dist/model"
    return directory / "dist/model"


@pytest.mark.tools("skopeo", "umoci")
def test_a_layout_is_as_the_specification_says(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = build_layout(side, tmp_path, monkeypatch)
    check((layout / "oci-layout").read_bytes(), oci_schemas.LAYOUT)
    check((layout / "index.json").read_bytes(), oci_schemas.INDEX)
    assert {path.name for path in layout.iterdir()} == {"oci-layout", "index.json", "blobs"}
    source = f"oci:{layout}:model"
    call("skopeo", "copy", "-q", source, f"oci:{tmp_path}/one:model")
    call("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/one:model", f"{tmp_path}/bundle")
    check_tree(tmp_path / "bundle/rootfs")


def test_a_layout_and_a_registry_hold_the_same_image(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = build_layout(side, tmp_path, monkeypatch)
    index = json.loads((layout / "index.json").read_text())
    published = side.publish("org/model", "--json").json
    assert index["manifests"][0]["digest"] == published["targets"][0]["digest"]


def test_building_a_layout_again_reads_nothing_and_leaves_nothing_behind(
    side: Side, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = build_layout(side, tmp_path, monkeypatch)
    blobs = sorted((layout / "blobs/sha256").iterdir())
    hub.move(MODEL.key, "main", 0)
    side.forget()
    build_layout(side, tmp_path, monkeypatch)
    assert side.read_bytes() == 0
    hub.move(MODEL.key, "main", 1)
    build_layout(side, tmp_path, monkeypatch)
    assert sorted((layout / "blobs/sha256").iterdir()) == blobs


def test_a_layout_is_pushed_without_an_engine(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_layout(side, tmp_path, monkeypatch)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    ran = side.run("push", "model", "--to", side.name, code=0)
    assert ran.out.startswith(f"{side.name}:model@sha256:")
    check_image(side.store(), "model", MODEL)
    side.forget()
    assert side.run("push", "model", "--to", side.name).code == 0
    assert side.sent_bytes() == 0


def test_a_layout_goes_to_the_other_registries_when_one_fails(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_layout(side, tmp_path, monkeypatch)
    to = ("--to", "127.0.0.1:1/no/way", "--to", side.name)
    ran = side.run("push", "model", "--engine", "layout", *to, "--tries", "1", "--json", code=4)
    failed, done = ran.json["targets"]
    assert failed["image"] == "127.0.0.1:1/no/way:model"
    assert failed["error"]["message"] in ran.err
    assert failed["digest"] is done["error"] is None
    assert done["image"] == f"{side.name}:model"
    check_image(side.store(), "model", MODEL)


def test_docker_loads_the_archive_of_a_layout(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = side.repository
    ran = side.run(*BUILD_LAYOUT, "--archive", "model.tar", "--image", name, code=0)
    written = r"^write model\.tar: (\d\S* MB) of \1, (\d+)/\2 blobs"
    assert re.search(written, ran.err, re.MULTILINE)
    loaded = call("docker", "load", "-i", "model.tar")
    try:
        assert f"Loaded image: {name}:model" in loaded
        labels = json.loads(
            call("docker", "image", "inspect", f"{name}:model", "-f", "{{json .Config.Labels}}")
        )
        assert labels["io.github.alphahinex.hf-models.commit"] == MODEL.sha
        push = ("push", "model", "--image", name, "--to", side.name)
        ran = side.run(*push, code=2)
        assert f"two images model: {name}:model in the engine and a layout in dist/model" in ran.err
        assert side.run(*push, "--engine", "layout").code == 0
    finally:
        call("docker", "rmi", f"{name}:model")
