"""``make demo``: from a repo id to a loaded model, on this machine alone.

The Hub is the tests' stand-in, which serves a real model out of a PyPI package; everything
else is real. Each step is a command that a user could type.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_hub import HubProcess, minilm_repo
from tests.support.serve import serving

REPO = "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = "models--sentence-transformers--all-MiniLM-L6-v2"
TAG = "all-minilm-l6-v2"
SIZE_BYTES = sum(file.size_bytes for file in minilm_repo().files().values())
# The default base image lies in a registry that this machine may not reach.
NO_BASE = ["--base", "none"]
LOAD = """
import sys
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import safe_open
from tokenizers import Tokenizer
repo, commit = sys.argv[1:]
for revision in ("main", commit):
    snapshot_download(repo, revision=revision)
    tokenizer = Tokenizer.from_file(hf_hub_download(repo, "tokenizer.json", revision=revision))
    with safe_open(hf_hub_download(repo, "model.safetensors", revision=revision), "numpy") as model:
        names = list(model.keys())
        words = model.get_tensor("embeddings.word_embeddings.weight")
tokenizer.no_padding()
tokens = tokenizer.encode("containers carry models").tokens
print(f"{len(names)} tensors, {words.shape[0]} words, tokens {tokens}")
"""

MAKE_KEYS = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
pem = s.Encoding.PEM
private = key.private_bytes(pem, s.PrivateFormat.PKCS8, s.NoEncryption())
public = key.public_key().public_bytes(pem, s.PublicFormat.SubjectPublicKeyInfo)
for path, data in zip(sys.argv[1:], (private, public)):
    Path(path).write_bytes(data)
"""
# As `docker cp` would, where there is no docker.
TAKE_RECEIVER = """
import json, sys, tarfile
from pathlib import Path
layout, target = map(Path, sys.argv[1:])
document = json.loads((layout / "index.json").read_bytes())
while "manifests" in document:
    digest = document["manifests"][0]["digest"].replace(":", "/")
    document = json.loads((layout / "blobs" / digest).read_bytes())
KEY = "io.github.alphahinex.hf-models.layer.programs"
[programs] = [layer for layer in document["layers"] if KEY in layer.get("annotations", {})]
with tarfile.open(layout / "blobs" / programs["digest"].replace(":", "/")) as tar:
    target.write_bytes(tar.extractfile("usr/local/bin/hf-models.pyz").read())
"""


@dataclass
class Demo:
    """The steps so far.

    Args:
        directory: Everything is written here, and removed at the end.
        environment: Of every command.
        rows: Step, seconds and bytes, for the table.
    """

    directory: Path
    environment: dict[str, str]
    rows: list[tuple[str, float, int]] = field(default_factory=list)

    def step(self, name: str, call: Callable[[], object], *, moves: bool = True) -> None:
        """Run one step; most of them move, or check, the whole model."""
        print(f"\n== {name}", flush=True)
        begun_at = time.monotonic()
        call()
        self.rows.append((name, time.monotonic() - begun_at, SIZE_BYTES if moves else 0))

    def run(self, *command: str, **environment: str) -> None:
        """Run a command in sight of the reader."""
        print("$ " + " ".join(_shown(command)), flush=True)
        env = self.environment | environment
        done = subprocess.run(command, env=env, cwd=self.directory, check=False)
        if done.returncode:
            sys.exit(f"demo: that ended with exit code {done.returncode}")

    def hf_models(self, *arguments: str) -> None:
        """Run `hf-models`."""
        self.run(sys.executable, "-m", "downloader", *arguments)

    def load(self, home: Path) -> None:
        """Load the model offline, by name and by commit."""
        offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        commit = (home / "hub" / FOLDER / "refs" / "main").read_text()
        self.run(sys.executable, "-c", LOAD, REPO, commit, **offline)

    def load_by_id(self, url: str) -> None:
        """Load the model online, by its id, from an endpoint."""
        online = {"HF_ENDPOINT": url, "HF_HOME": str(self.directory / "client")}
        self.run(sys.executable, "-c", LOAD, REPO, minilm_repo().sha, **online)

    def print_table(self) -> None:
        """Print what was done, how long it took and how much it moved."""
        print(f"\n{'step':34}{'seconds':>9}{'bytes':>14}")
        for name, seconds, size_bytes in self.rows:
            print(f"{name:34}{seconds:9.1f}{size_bytes:14}")


def _shown(command: tuple[str, ...]) -> Iterator[str]:
    text = " ".join("…" if "\n" in word else word for word in command)
    yield text.replace(f"{sys.executable} -m downloader", "hf-models").replace(
        sys.executable, "python"
    )


def docker_missing() -> str | None:
    """Return why there is no Docker part, None if there is one."""
    if not shutil.which("docker"):
        return "no docker command"
    for check in (["docker", "info"], ["docker", "buildx", "version"]):
        if subprocess.run(check, capture_output=True, check=False).returncode:
            return f"`{' '.join(check)}` fails"
    return None


@contextmanager
def registry(*, has_docker: bool) -> Iterator[str | None]:
    """Give a registry: the one that HF_TEST_REGISTRY names, else one in a container, else none."""
    given = os.environ.get("HF_TEST_REGISTRY")
    if given or not has_docker:
        yield given
        return
    run = ["docker", "run", "-d", "--rm", "-p", "127.0.0.1::5000", "registry:3"]
    started = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=False)
    if started.returncode:  # docker has said why; most often Docker Hub cannot be reached
        yield None
        return
    container = started.stdout.strip()
    try:
        port = ["docker", "port", container, "5000/tcp"]
        yield subprocess.run(port, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    finally:
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=False)


def docker_way(demo: Demo, host: str) -> None:
    """Build with Docker, push, pull, export, verify, load."""
    name, export = f"{host}/hf-models-demo/docker", demo.directory / "export"
    image = f"{name}:{TAG}"
    export.mkdir()
    demo.step("build", lambda: demo.hf_models("build", REPO, "--engine", "docker", "--force"))
    demo.step("push", lambda: demo.hf_models("push", TAG, "--to", name, "--engine", "docker"))
    demo.run("docker", "image", "rm", f"hf-models:{TAG}")
    demo.step("docker pull", lambda: demo.run("docker", "pull", "-q", image))
    export_command = ["docker", "run", "--rm", "-v", f"{export}:/export", image, "export"]
    demo.step("docker run … export", lambda: demo.run(*export_command))
    demo.step("verify", lambda: demo.hf_models("verify", str(export)))
    demo.step("load offline", lambda: demo.load(export))
    demo.run("docker", "image", "rm", image)


def registry_way(demo: Demo, host: str) -> None:
    """Publish without an engine and without disk, and restore."""
    name = f"{host}/hf-models-demo/stream"
    demo.step("publish", lambda: demo.hf_models("publish", REPO, "--to", name, *NO_BASE))
    restore_and_load(demo, f"{name}:{TAG}", "registry")
    print(f"\n$ hf-models serve {name}", flush=True)
    with serving(name, "--cache-dir", demo.directory / "served") as server:
        demo.step("load by id from serve", lambda: demo.load_by_id(server.url))


def layout_way(demo: Demo) -> None:
    """Build an OCI layout, and restore from it: needs neither engine nor registry."""
    build = ["build", REPO, "--engine", "layout", *NO_BASE]
    demo.step("build --engine layout", lambda: demo.hf_models(*build))
    restore_and_load(demo, f"dist/{TAG}", "layout")


def format_way(demo: Demo) -> None:
    """Compress, sign, and restore with nothing but the program that came out of the image."""
    keys = ("signer.key", "signer.pub")
    demo.run(sys.executable, "-c", MAKE_KEYS, *keys)
    demo.step(
        "plan --compress", lambda: demo.hf_models("plan", REPO, "--compress", "zstd"), moves=False
    )
    build = ["build", REPO, "--engine", "layout", "--tag", "stick", "--archive", "stick.tar"]
    build += ["--compress", "zstd", "--sign-key", keys[0], *NO_BASE]
    demo.step("build, signed, onto a stick", lambda: demo.hf_models(*build))
    verify = ["verify", "stick.tar", "--key", keys[1]]
    demo.step("verify the signature", lambda: demo.hf_models(*verify))
    demo.run(sys.executable, "-c", TAKE_RECEIVER, "dist/stick", "hf-models.pyz")
    home = demo.directory / "restored-by-pyz"
    receive = [sys.executable, "hf-models.pyz", "restore", "stick.tar"]
    demo.step(
        "python hf-models.pyz restore",
        lambda: demo.run(*receive, "--cache-dir", str(home / "hub")),
    )
    demo.step("load offline", lambda: demo.load(home))


def restore_and_load(demo: Demo, source: str, word: str) -> None:
    """Restore into a fresh cache, verify it, and load the model from it offline."""
    home = demo.directory / f"restored-from-{word}"
    hub = str(home / "hub")
    demo.step(
        f"restore from the {word}", lambda: demo.hf_models("restore", source, "--cache-dir", hub)
    )
    demo.step("verify", lambda: demo.hf_models("verify", hub))
    demo.step("load offline", lambda: demo.load(home))


def main() -> None:
    """Run the demo and print its table."""
    begun_at = time.monotonic()
    with HubProcess([minilm_repo()]) as hub, tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": f"{directory}/hf"}
        demo = Demo(Path(directory), environment)
        demo.step("plan", lambda: demo.hf_models("plan", REPO), moves=False)
        layout_way(demo)
        format_way(demo)
        missing = docker_missing()
        if missing:
            print(f"\nno Docker here ({missing}): build, push, pull and export are left out")
        with registry(has_docker=missing is None) as host:
            if host:
                registry_way(demo, host)
            else:
                print("\nno registry here: publish, push and pull are left out")
            if host and not missing:
                docker_way(demo, host)
        demo.print_table()
    print(f"\ndemo: all done and verified in {time.monotonic() - begun_at:.0f} s")


if __name__ == "__main__":
    main()
