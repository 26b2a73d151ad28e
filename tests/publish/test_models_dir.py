"""``/models``: the same image is a cache and a plain directory, for readers nobody here wrote.

Every program here must be installed: one that is missing fails its test.
"""

import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.support.command import AS_ROOT, call
from tests.support.docker import (
    Shelf,
    docker,
    exported,
    exported_by_crane,
    graph_driver_engine,
    pushed_again,
)
from tests.support.fake_hub import Generated, HubServer, HubSpec, make_repo
from tests.support.publish import MIB, MODEL, Side, check_directory, files_of, manifest_of
from tests.support.restore import restored

pytestmark = pytest.mark.docker

BLOBS = "root/.cache/huggingface/hub/models--org--shown/blobs"
WEIGHTS = Generated(5 * MIB + 17, seed=3)
SHOWN = make_repo(
    "org/shown",
    {
        "README.md": b"# A model\n",
        "config.json": b"{}",
        "tokenizer/vocab.txt": b"the same words\n",
        "tokenizer_2/vocab.txt": b"the same words\n",
        "d/__init__.py": b"",
        "model.safetensors": WEIGHTS,
    },
)
SPLIT = make_repo("org/split", {"big.bin": Generated(3 * MIB, seed=4), "SPLIT-FILES.txt": b"x"})
DATA = make_repo("org/data", {"train/a.csv": b"a,b\n"}, type="dataset")
HUB = HubSpec((MODEL, SHOWN, SPLIT, DATA))


@pytest.fixture
def image(side: Side) -> str:
    side.publish("org/shown", code=0)
    return f"{side.direct_name}:shown"


def check_root(root: Path) -> None:
    """Fail unless a root file system shows the files, and the cache has the same inodes."""
    check_directory(root / "models", SHOWN)
    for path, file in SHOWN.files().items():
        assert (root / "models" / path).stat().st_ino == (root / BLOBS / file.oid).stat().st_ino


def test_a_file_comes_before_its_hard_link_in_every_layer(side: Side, image: str) -> None:
    seen = []
    layers = json.loads(call("crane", "manifest", "--insecure", "--platform=linux/amd64", image))
    for layer in layers["layers"]:
        blob = subprocess.run(
            ["crane", "blob", "--insecure", f"{side.direct_name}@{layer['digest']}"],
            capture_output=True,
            check=True,
        )
        with tarfile.open(fileobj=io.BytesIO(blob.stdout), mode="r|") as tar:  # cannot go back
            for member in tar:
                if member.islnk():
                    assert member.linkname in seen
                seen.append(member.name)
    assert {f"models/{path}" for path in SHOWN.files()} <= set(seen)


def test_kserve_fetches_it(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kserve_storage import Storage  # noqa: PLC0415 - not in every environment

    monkeypatch.setenv("KSERVE_OCI_INSECURE_REGISTRY", "true")
    Storage.download(f"oci://{image}", str(tmp_path / "out"))
    check_directory(tmp_path / "out", SHOWN)


def check_export(image: str, directory: Path) -> None:
    """Fail unless ``docker export`` of the image has the files, and the cache the same inodes."""
    with exported(image) as tar:
        tar.extractall(directory, filter="tar")
    check_root(directory)


def test_docker_keeps_one_inode(image: str, tmp_path: Path) -> None:
    docker("pull", "-q", image)
    try:
        check_export(image, tmp_path)
    finally:
        docker("rmi", image)


@pytest.mark.tools("umoci", "skopeo")
def test_umoci_and_skopeo_keep_one_inode(image: str, tmp_path: Path) -> None:
    layout = f"{tmp_path}/layout:model"
    call("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}", f"oci:{layout}")
    call("umoci", "unpack", "--rootless", "--image", layout, f"{tmp_path}/bundle")
    check_root(tmp_path / "bundle/rootfs")


@pytest.mark.tools("podman")
def test_podman_keeps_one_inode(image: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hf") as directory:  # it refuses a longer path
        auth = Path(directory) / "auth.json"
        auth.write_text("{}")
        own = ["--root", f"{directory}/r", "--runroot", f"{directory}/n", "--storage-driver", "vfs"]
        env = {"REGISTRY_AUTH_FILE": str(auth)}
        call("podman", *own, "pull", "-q", "--tls-verify=false", image, env=env)
        container = call("podman", *own, "create", image, "none", env=env).strip()
        call("podman", *own, "export", "-o", f"{directory}/all.tar", container, env=env)
        with tarfile.open(f"{directory}/all.tar") as tar:
            tar.extractall(f"{directory}/root", filter="tar")
        check_root(Path(directory, "root"))


@pytest.mark.mount
@pytest.mark.tools("ctr")
def test_containerd_keeps_one_inode(image: str, tmp_path: Path) -> None:
    # The socket of the engine that the tests have; else the machine's own.
    sockets = [
        Path(os.environ.get("DOCKER_HOST", "").removeprefix("unix://")).parent / "exec",
        Path("/run"),
    ]
    found = [path / "containerd/containerd.sock" for path in sockets]
    address = next(path for path in found if path.exists())
    ctr = [*AS_ROOT, "ctr", "-a", str(address), "-n", "hf-test"]
    try:
        (tmp_path / "root").mkdir()
        call(*ctr, "image", "pull", "--plain-http", image)
        call(*ctr, "image", "mount", image, str(tmp_path / "root"))
        try:
            check_root(tmp_path / "root")
        finally:
            call(*ctr, "image", "unmount", "--rm", str(tmp_path / "root"))
    finally:
        call(*ctr, "image", "rm", "--sync", image)


def test_another_user_reads_a_read_only_mount_of_the_directory(image: str) -> None:
    """As Kubernetes mounts an image with ``subPath: models``, and runs as somebody."""
    docker("pull", "-q", image)
    mount = f"type=image,source={image},target=/mnt,image-subpath=models"
    try:
        said = docker(
            *("run", "--rm", "--network=none", "--user=1000:1000", "--mount", mount),
            *("busybox:stable-musl", "cat", "/mnt/tokenizer_2/vocab.txt", "/mnt/config.json"),
        )
    finally:
        docker("rmi", image)
    assert said == "the same words\n{}"


def test_we_restore_it(image: str, tmp_path: Path) -> None:
    report = restored(image, tmp_path)
    [snapshot] = report["snapshots"]
    check_directory(Path(snapshot["path"]), SHOWN)


def test_the_directory_is_where_it_was_asked_for(side: Side, tmp_path: Path) -> None:
    assert side.publish("org/shown", "--models-dir", "/opt/weights").code == 0
    image = f"{side.direct_name}:shown"
    with exported_by_crane(image) as tar:
        tar.extractall(tmp_path / "root", filter="tar")
    check_directory(tmp_path / "root/opt/weights", SHOWN)
    [snapshot] = restored(pushed_again(image), tmp_path / "cache")["snapshots"]
    check_directory(Path(snapshot["path"]), SHOWN)


def test_no_directory_gives_the_layers_of_format_1(side: Side) -> None:
    assert side.publish("org/shown", "--models-dir", "none").code == 0
    names = set(files_of(side.store(), "shown"))
    assert f"{BLOBS}/{SHOWN.files()['config.json'].oid}" in names
    assert not any(name.startswith("models") for name in names)


def test_a_directory_that_clashes_with_the_cache_is_refused(side: Side) -> None:
    for directory in ("/root", "/root/.cache/huggingface/hub/x", "/usr/local", "models", "/"):
        ran = side.publish("org/shown", "--models-dir", directory, code=2)
        assert directory in ran.err


def test_a_dataset_is_shown_by_its_type(side: Side) -> None:
    side.publish("org/data", "--repo-type", "dataset", code=0)
    with exported_by_crane(f"{side.direct_name}:data") as tar:
        file = tar.extractfile("datasets/train/a.csv")
        assert file is not None
        assert file.read() == b"a,b\n"


def test_a_split_file_is_not_shown_and_a_note_says_so(side: Side, tmp_path: Path) -> None:
    side.publish("org/split", "--layer-size", "1MiB", code=0)
    with exported_by_crane(f"{side.direct_name}:split") as tar:
        tar.extractall(tmp_path / "root", filter="tar")
    shown = {path.name for path in (tmp_path / "root/models").iterdir()}
    assert shown == {"SPLIT-FILES.txt", "_SPLIT-FILES.txt"}  # the first is the repo's own
    assert "big.bin" in (tmp_path / "root/models/_SPLIT-FILES.txt").read_text()


def check_build(shelf: Shelf, directory: Path) -> str:
    """Build with an engine and return the image: one inode a file, and we restore it."""
    image = str(shelf.build("org/shown", "--base", "none")["image"])
    check_export(image, directory / "root")
    [snapshot] = restored(f"docker-daemon:{image}", directory / "cache")["snapshots"]
    check_directory(Path(snapshot["path"]), SHOWN)
    return image


def test_the_engine_builds_the_same_inodes_and_we_restore_them(
    shelf: Shelf, tmp_path: Path
) -> None:
    check_build(shelf, tmp_path)


@pytest.mark.mount
@pytest.mark.tools("dockerd", "ip")
def test_an_engine_with_the_classic_store_keeps_one_inode(
    image: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with graph_driver_engine() as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        assert "snapshotter" not in docker("info", "--format", "{{json .DriverStatus}}")
        docker("pull", "-q", image)
        check_export(image, tmp_path / "pulled")
        shelf = Shelf(hub, tmp_path / "hf-home")
        built = check_build(shelf, tmp_path / "built")
        # What it pushes, compressed and described by it, is the same again.
        docker("tag", built, f"{image}-classic")
        docker("push", "-q", f"{image}-classic")
    [snapshot] = restored(f"{image}-classic", tmp_path / "cache")["snapshots"]
    check_directory(Path(snapshot["path"]), SHOWN)


def test_modelpack_readers_find_a_manifest_by_its_own_tag(
    image: str, side: Side, tmp_path: Path
) -> None:
    """They take what a tag names for a manifest; links keep modelpack-client from unpacking."""
    from modelpack_client import (  # noqa: PLC0415 - not in every environment
        ModelPackClient,
        UnsafePathError,
    )

    manifest = json.loads(call("oras", "manifest", "fetch", "--plain-http", f"{image}.modelpack"))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    layers = manifest_of(side.store(), "shown").layers
    assert [layer["digest"] for layer in manifest["layers"]] == [item.digest for item in layers]
    client = ModelPackClient(insecure=True)
    client.pull(f"{image}.modelpack", tmp_path / "tars", unpack=False)
    for path in sorted((tmp_path / "tars").rglob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / "root", filter="tar")
    check_root(tmp_path / "root")
    with pytest.raises(UnsafePathError):
        client.pull(f"{image}.modelpack", tmp_path / "files")
