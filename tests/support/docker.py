"""What the tests of the Docker path share: the command line, images that go away, their files."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.command import AS_ROOT, call, hf_models_apart
from tests.support.fake_hub import Hub
from tests.support.restore import restored

HUB_DIR = "root/.cache/huggingface/hub"
BASES = ("python:3.13-slim", "busybox:stable-musl")
LOAD = """
import sys
from pathlib import Path
from huggingface_hub import snapshot_download
repo, repo_type, *revisions = sys.argv[1:]
for revision in revisions:
    path = Path(snapshot_download(repo, revision=revision, repo_type=repo_type))
    for file in sorted(path.rglob("*")):
        if file.is_file():
            print(revision, file.relative_to(path), file.stat().st_size)
"""


def registry() -> str:
    return os.environ["HF_TEST_REGISTRY"]


def docker(*arguments: str, code: int = 0) -> str:
    return call("docker", *arguments, code=code)


def pushed_again(image: str) -> str:
    """Pull an image and push it, and return its new name.

    As `docker push` leaves it: layers are compressed, and what descriptors say is gone.
    """
    docker("pull", "-q", image)
    docker("tag", image, f"{image}-again")
    docker("rmi", image)
    try:
        docker("push", "-q", f"{image}-again")
    finally:
        docker("rmi", f"{image}-again")
    return f"{image}-again"


def exported(image: str) -> tarfile.TarFile:
    """Return the root file system of an image, as ``docker export`` writes it."""
    container = docker("create", image, "none").strip()
    try:
        done = subprocess.run(["docker", "export", container], capture_output=True, check=True)
    finally:
        docker("rm", container)
    return tarfile.open(fileobj=io.BytesIO(done.stdout))


def exported_by_crane(image: str) -> tarfile.TarFile:
    """Return the root file system of an image of a registry."""
    command = ["crane", "export", "--insecure", "--platform=linux/amd64", image, "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return tarfile.open(fileobj=io.BytesIO(done.stdout))


@contextmanager
def placed(image: str, kind: str, path: Path) -> Iterator[str]:
    """Bring an image of a registry into another kind of place, and yield its name there.

    Args:
        image: With its tag.
        kind: ``registry`` for where it is, ``layout``, ``archive``, ``gzip``, ``engine``, or
            ``cache`` for its files.
        path: Where to, for all but ``registry`` and ``engine``.
    """
    name = str(path)
    match kind:
        case "registry":
            name = image
        case "layout":
            tag = image.rpartition(":")[2]
            flags = ["copy", "-q", "--src-tls-verify=false"]
            call("skopeo", *flags, f"docker://{image}", f"oci:{path}:{tag}")
        case "archive" | "gzip":
            name = f"{path}.tar"
            call("crane", "pull", "--insecure", "--platform=linux/amd64", image, name)
            if kind == "gzip":
                call("gzip", "-1", name)
                name += ".gz"
        case "engine":
            docker("pull", "-q", image)
            name = f"docker-daemon:{image}"
        case "cache":
            restored(image, path)
    try:
        yield name
    finally:
        if kind == "engine":
            docker("rmi", image)


@dataclass
class Shelf:
    """Images under a name of their own, which all go away in the end."""

    hub: Hub
    home: Path
    name: str = field(default_factory=lambda: f"hf-test-{uuid.uuid4().hex[:12]}")
    images: set[str] = field(default_factory=set)

    def build(self, *arguments: str, code: int = 0, **environment: str) -> dict[str, Any]:
        """Build and return what ``--json`` says; ``said`` is all that went to the terminal."""
        done = hf_models_apart(
            *("build", *arguments, "--image", self.name, "--engine", "docker", "--json"),
            code=code,
            **{"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.home), **environment},
        )
        said = {"said": done.out + done.err}
        if code != 0:
            return said
        built = {**done.json, **said}
        self.images.add(built["image"])
        return built

    def image(self, tag: str) -> str:
        name = f"{self.name}:{tag}"
        self.images.add(name)
        return name

    def remove(self) -> None:
        """Remove every image that was built or named here."""
        if self.images:
            command = ["docker", "image", "rm", "--force", *sorted(self.images)]
            subprocess.run(command, capture_output=True, timeout=100)


@contextmanager
def graph_driver_engine() -> Iterator[str]:
    """Start an engine with the classic image store (a graph driver), and yield its DOCKER_HOST.

    It has the base images of the machine's engine, and a bridge of its own: one without
    (``--bridge=none``) removes ``docker0``, which is that engine's.
    """
    bridge = f"hf{uuid.uuid4().hex[:10]}"
    with tempfile.TemporaryDirectory(prefix="hf") as directory:  # a socket's path is short
        host = f"unix://{directory}/docker.sock"
        log = Path(directory, "log")
        command = [
            *(*AS_ROOT, "dockerd", f"--host={host}", f"--pidfile={directory}/pid"),
            *(f"--data-root={directory}/data", f"--exec-root={directory}/exec"),
            *("--feature=containerd-snapshotter=false", f"--bridge={bridge}"),
            *("--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        ]
        call(*AS_ROOT, "ip", "link", "add", bridge, "type", "bridge")
        # Else the engine would take the subnet of docker0.
        call(*AS_ROOT, "ip", "addr", "add", "192.168.213.1/24", "dev", bridge)
        with log.open("wb") as output:
            engine = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 60
            while subprocess.run(["docker", "-H", host, "info"], capture_output=True).returncode:
                assert engine.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            with subprocess.Popen(["docker", "save", *BASES], stdout=subprocess.PIPE) as saved:
                load = ["docker", "-H", host, "load", "-q"]
                subprocess.run(load, stdin=saved.stdout, capture_output=True, check=True)
            assert saved.returncode == 0
            yield host
        finally:
            if engine.poll() is None:
                call(*AS_ROOT, "kill", Path(directory, "pid").read_text())
            engine.wait(timeout=60)
            call(*AS_ROOT, "ip", "link", "delete", bridge)
            if AS_ROOT:
                call(*AS_ROOT, "rm", "-rf", f"{directory}/data", f"{directory}/exec")


def inspect(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image))[0]
    return found


def run_export(image: str, directory: Path, *more: str, code: int = 0) -> str:
    return docker("run", "--rm", "--network=none", f"-v={directory}:/export", *more, image,
                  "export", code=code)  # fmt: skip


def load_offline(
    home: Path, repo: str, *revisions: str, repo_type: str = "model"
) -> list[tuple[str, str, int]]:
    """Load a repo with huggingface_hub and no network: revision, path and size of each file."""
    command = (sys.executable, "-c", LOAD, repo, repo_type, *revisions)
    said = call(*command, env={"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"})
    rows = [line.split(" ", 1) for line in said.splitlines()]
    return [(rev, *_split_size(rest)) for rev, rest in rows]


def _split_size(text: str) -> tuple[str, int]:
    path, _, size = text.rpartition(" ")
    return path, int(size)


def fetch_json(url: str, accept: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Accept": accept})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def pushed_manifest(name: str, tag: str) -> dict[str, Any]:
    """Return the manifest that the test registry has."""
    url = f"http://{registry()}/v2/{name}/manifests/{tag}"
    return fetch_json(url, "application/vnd.oci.image.manifest.v1+json")


def saved_members(image: str) -> Iterator[tuple[str, bytes]]:
    """Yield every file of ``docker save``: configs, manifests, layers (inflated)."""
    done = subprocess.run(["docker", "save", image], capture_output=True, timeout=100, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                data = file.read()
                yield member.name, _inflated(data)


def _inflated(data: bytes) -> bytes:
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def layer_tars(image: str) -> list[list[tarfile.TarInfo]]:
    """Return the members of the image's layers, as docker saves them, bottom first."""
    files = dict(saved_members(image))
    manifest = json.loads(files["manifest.json"])[0]
    return [_members(files[name]) for name in manifest["Layers"]]


def _members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as layer:
        return layer.getmembers()


def file_tree(image: str, folder: str) -> dict[str, str]:
    """Return mode, owner, time and link target of all below a folder, by path."""
    script = f"cd {folder} && find . -exec stat -c '%n|%A %u:%g %Y %N' {{}} +"
    lines = docker("run", "--rm", "--network=none", image, "sh", "-c", script).splitlines()
    return {name: facts for name, _, facts in (line.partition("|") for line in lines)}
