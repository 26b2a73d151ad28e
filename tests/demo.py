"""``make demo``: from a repo id to a loaded model, on this machine alone.

The Hub is the tests' stand-in, which serves a real model out of a PyPI package; everything
else is real. Each step is a command that a user could type.
"""

import json
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

from tests.standin import HubProcess, minilm_repo

REPO = "sentence-transformers/all-MiniLM-L6-v2"
TAG = "all-minilm-l6-v2"
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
tokens = tokenizer.encode("containers carry models").tokens
print(f"{len(names)} tensors, {words.shape[0]} words, tokens {tokens}")
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

    def step(self, name: str, call: Callable[[], int]) -> None:
        """Run one step; it returns the bytes that it moved or checked."""
        print(f"\n== {name}", flush=True)
        begun_at = time.monotonic()
        size_bytes = call()
        self.rows.append((name, time.monotonic() - begun_at, size_bytes))

    def run(self, *command: str, **environment: str) -> str:
        """Run a command in sight of the reader; return what it printed."""
        print("$ " + " ".join(_shown(command)), flush=True)
        env = self.environment | environment
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, end="", flush=True)
        if done.returncode:
            sys.exit(f"demo: that ended with exit code {done.returncode}")
        return done.stdout

    def hf_models(self, *arguments: str) -> str:
        """Run `hf-models`."""
        return self.run(sys.executable, "-m", "downloader", *arguments)

    def load(self, home: Path, commit: str) -> int:
        """Load the model offline, by name and by commit."""
        offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": ""}
        self.run(sys.executable, "-c", LOAD, REPO, commit, **offline)
        return _size_of(home)

    def print_table(self) -> None:
        """Print what was done, how long it took and how much it moved."""
        print(f"\n{'step':34}{'seconds':>9}{'bytes':>14}")
        for name, seconds, size_bytes in self.rows:
            print(f"{name:34}{seconds:9.1f}{size_bytes:14}")


def _shown(command: tuple[str, ...]) -> Iterator[str]:
    text = " ".join("…" if "\n" in word else word for word in command)
    yield text.replace(f"{sys.executable} -m downloader", "hf-models").replace(sys.executable, "python")


def _size_of(directory: Path) -> int:
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def docker_missing() -> str | None:
    """Return why there is no Docker part, None if there is one."""
    if not shutil.which("docker"):
        return "no docker command"
    for check in (["docker", "info"], ["docker", "buildx", "version"]):
        if subprocess.run(check, capture_output=True, check=False).returncode:
            return f"`{' '.join(check)}` fails"
    return None


@contextmanager
def registry() -> Iterator[str]:
    """Give a registry: the one that HF_TEST_REGISTRY names, else one in a container."""
    given = os.environ.get("HF_TEST_REGISTRY")
    if given:
        yield given
        return
    run = ["docker", "run", "-d", "--rm", "-p", "127.0.0.1::5000", "registry:3"]
    container = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    try:
        port = ["docker", "port", container, "5000/tcp"]
        yield subprocess.run(port, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    finally:
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=False)


def docker_way(demo: Demo, size_bytes: int, commit: str) -> None:
    """Build with Docker, push, pull, export, verify, load."""
    local = f"hf-models:{TAG}"
    export = demo.directory / "export"
    export.mkdir()
    with registry() as host:
        name = f"{host}/hf-models-demo"
        image = f"{name}:{TAG}"
        demo.step("build", lambda: len(demo.hf_models("build", REPO, "--force")) and size_bytes)
        demo.step("push", lambda: len(demo.hf_models("push", TAG, "--to", name)) and size_bytes)
        demo.run("docker", "image", "rm", image, local)
        demo.step("docker pull", lambda: len(demo.run("docker", "pull", "-q", image)) and size_bytes)
        mount = f"{export}:/export"
        demo.step(
            "docker run … export",
            lambda: len(demo.run("docker", "run", "--rm", "-v", mount, image, "export")) and size_bytes,
        )
        demo.step("verify", lambda: len(demo.hf_models("verify", str(export))) and size_bytes)
        demo.step("load offline", lambda: demo.load(export, commit))
        demo.run("docker", "image", "rm", image)


def main() -> None:
    """Run the demo and print its table."""
    begun_at = time.monotonic()
    with HubProcess([minilm_repo()]) as hub, tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": f"{directory}/hf"}
        demo = Demo(Path(directory), environment)
        demo.step("plan", lambda: len(demo.hf_models("plan", REPO)) * 0)
        document = json.loads(demo.hf_models("plan", REPO, "--json"))
        size_bytes = document["download_bytes"]
        commit = document["plan"]["snapshot"]["commit"]
        missing = docker_missing()
        if missing:
            print(f"\nno Docker here ({missing}): the Docker part is left out")
        else:
            docker_way(demo, size_bytes, commit)
        demo.print_table()
    print(f"\ndemo: all done and verified in {time.monotonic() - begun_at:.0f} s")


if __name__ == "__main__":
    main()
