"""Every way from the Hub to a registry that the bench compares, each as commands to run."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.world import REPO_ID, Cost, Weights, in_turn, measure
from tests.support.fake_hub import HubProcess

_PUBLISH = [sys.executable, "-m", "downloader", "publish", REPO_ID, "--base", "none", "-q"]
_LAYOUT = [sys.executable, "-m", "downloader", "build", REPO_ID, "--engine", "layout"]


@dataclass(frozen=True)
class Stage:
    """What every way starts from.

    Args:
        weights: The files on disk.
        hub: That serves them.
        directory: For whatever a way writes; on the disk that is measured.
        modelcar: The program ``oci-modelcar``, of an environment of its own.
        layout: The finished image as an OCI layout, for ``skopeo``.
    """

    weights: Sequence[Weights]
    hub: HubProcess
    directory: Path
    modelcar: str
    layout: Path

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of every command; caches begin empty."""
        return {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.directory / "hf")}


Way = Callable[[Stage, str], Cost]


def curl(stage: Stage, host: str) -> Cost:
    """Send the files, already on disk, with one curl each: the floor."""
    script = (
        'url=$(curl -sf -D - -o /dev/null -X POST "http://$0/v2/bench/x/blobs/uploads/"'
        " | tr -d '\\r' | sed -n 's/^Location: //p');"
        ' curl -sf -o /dev/null -T "$1" -H "Content-Type: application/octet-stream"'
        ' "$url&digest=sha256:$2"'
    )
    return measure(*(["sh", "-c", script, host, str(w.path), w.sha256] for w in stage.weights))


def pipes(stage: Stage, host: str) -> Cost:
    """Do the same work with the system's tools, all files at once: the honest floor.

    Each file comes from the Hub, is hashed twice (its own digest and the layer's), and goes to
    the registry, without a disk between.
    """
    return pipe_up(stage.weights, stage.hub.endpoint, host, "bench/x")


def pipe_up(weights: Sequence[Weights], hub: str, host: str, name: str) -> Cost:
    """Stream each file from a Hub into a repository of a registry, hashed twice on the way."""
    script = (
        'url=$(curl -sf -D - -o /dev/null -X POST "http://$0/v2/$3/blobs/uploads/"'
        " | tr -d '\\r' | sed -n 's/^Location: //p');"
        ' next=$(curl -sfL "$1" | tee >(openssl sha256 >/dev/null) >(openssl sha256 >/dev/null)'
        " | curl -sf -D - -o /dev/null -X PATCH -H Expect: -T - "
        ' -H "Content-Type: application/octet-stream" "$url"'
        " | tr -d '\\r' | sed -n 's/^Location: //p');"
        ' curl -sf -o /dev/null -X PUT -H "Content-Length: 0" "$next&digest=sha256:$2"'
    )
    files = f"{hub}/{REPO_ID}/resolve/main"
    return measure(
        *(["bash", "-c", script, host, f"{files}/{w.path.name}", w.sha256, name] for w in weights)
    )


def publish(stage: Stage, host: str) -> Cost:
    """Publish as a user does, with the defaults."""
    return measure([*_PUBLISH, "--to", f"{host}/bench/x"], env=stage.environment)


def modelcar(workers: int) -> Way:
    """Return the closest peer, with so many workers."""

    def run(stage: Stage, host: str) -> Cost:
        environment = {**stage.environment, "OCI_INSECURE": "1"}
        command = [stage.modelcar, "push", "--hf-repo", REPO_ID, "--hf-endpoint"]
        command += [stage.hub.endpoint, "--registry", f"http://{host}", "--target-repo", "bench/x"]
        command += ["--target-tag", "x", "--workers", str(workers), "--quiet"]
        command += ["--spool-dir", str(stage.directory / "spool")]
        try:
            return measure(command, env=environment)
        finally:
            for name in ("hf", "spool"):
                shutil.rmtree(stage.directory / name, ignore_errors=True)

    return run


def docker(stage: Stage, host: str) -> Cost:
    """Build with one RUN layer that downloads, then push: the original's flow.

    The engine's own time counts, its memory and disk do not: they are the daemon's.
    """
    image = f"{host}/bench/x:docker"
    with tempfile.TemporaryDirectory() as context:
        lines = [
            f"wget -q -O /root/{one.path.name}"
            f" {stage.hub.endpoint}/{REPO_ID}/resolve/main/{one.path.name}"
            for one in stage.weights
        ]
        dockerfile = f"FROM busybox:stable-musl\nRUN {' && '.join(lines)}\n"
        (Path(context) / "Dockerfile").write_text(dockerfile)
        build = ["docker", "build", "-q", "--no-cache", "--network=host", "-t", image, context]
        try:
            built = measure(build)
            pushed = measure(["docker", "push", "-q", image])
        finally:
            subprocess.run(["docker", "rmi", "-f", image], capture_output=True)
            subprocess.run(["docker", "builder", "prune", "-f"], capture_output=True)
    return in_turn([built, pushed])


def skopeo(stage: Stage, host: str) -> Cost:
    """Copy the finished layout, as it is."""
    flags = ["--all", "--preserve-digests", "-q", "--dest-tls-verify=false"]
    return measure(
        ["skopeo", "copy", *flags, f"oci:{stage.layout}:model", f"docker://{host}/bench/x:model"]
    )


WAYS: dict[str, Way] = {
    "curl": curl,
    "curl, tee, openssl, curl": pipes,
    "publish": publish,
    "oci-modelcar, 1 worker": modelcar(1),
    "oci-modelcar, 4 workers": modelcar(4),
    "skopeo copy of a layout": skopeo,
    "docker build + push": docker,
}


def install_modelcar(directory: Path) -> str:
    """Install the peer into an environment of its own, and return its program."""
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    pip = [str(directory / "bin/pip"), "install", "-q", "oci-modelcar==1.2.3"]
    subprocess.run(pip, check=True)
    return str(directory / "bin/oci-modelcar")


def build_layout(hub: HubProcess, directory: Path) -> Path:
    """Build the image as a layout, with the program's own command."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint}
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = str(root)
    command = [*_LAYOUT, "--base", "none", "-q"]
    subprocess.run(command, check=True, cwd=directory, env=environment, stdout=subprocess.DEVNULL)
    return directory / "dist/model"
