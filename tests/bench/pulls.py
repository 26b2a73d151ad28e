"""Every way from a registry to files that the bench compares, each as commands to run."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.world import REPO_ID, Cost, Weights, free_port, in_turn, measure, wait_for
from tests.support.fake_hub import HubProcess

_HUB = "root/.cache/huggingface/hub/models--bench--model"
_COMMIT = "c0ffee" + "0" * 34


@dataclass(frozen=True)
class Shop:
    """What every way starts from.

    Args:
        ours: The image of this project, by its full name.
        original: The image of the original's recipe; empty where it is not compared.
        directory: For whatever a way writes; on the disk that is measured.
        files: How many of the image's layers hold weights.
    """

    ours: str
    original: str
    directory: Path
    files: int

    @property
    def out(self) -> Path:
        """An empty place to write to."""
        shutil.rmtree(self.directory / "out", ignore_errors=True)
        (self.directory / "out").mkdir()
        return self.directory / "out"


Way = Callable[[Shop], Cost]


def curl(shop: Shop) -> Cost:
    """Fetch the layers with one curl each, unverified: the floor."""
    return _each_layer(shop, 'curl -sf -o "$1" "$0"')


def hashed(shop: Shop) -> Cost:
    """Do the same, and hash each file on its way: the honest floor."""
    return _each_layer(shop, 'curl -sf "$0" | tee "$1" | openssl sha256 > /dev/null')


def _each_layer(shop: Shop, script: str) -> Cost:
    host, _, rest = shop.ours.partition("/")
    name = rest.rpartition(":")[0]
    raw = subprocess.run(
        ["crane", "manifest", "--insecure", "--platform=linux/amd64", shop.ours],
        capture_output=True,
        check=True,
    ).stdout
    layers = sorted(json.loads(raw)["layers"], key=lambda layer: -int(layer["size"]))
    out = shop.out
    blobs = f"http://{host}/v2/{name}/blobs"
    return measure(
        *(
            ["sh", "-c", script, f"{blobs}/{layer['digest']}", str(out / str(at))]
            for at, layer in enumerate(layers[: shop.files])
        )
    )


def restore(shop: Shop) -> Cost:
    """Restore as a user does, with the defaults."""
    command = [sys.executable, "-m", "downloader", "restore", shop.ours, "--quiet"]
    return measure([*command, "--cache-dir", str(shop.out)])


def crane(shop: Shop) -> Cost:
    """Export the file system, and unpack it."""
    script = 'crane export --insecure "$0" - | tar -x -C "$1"'
    return measure(["sh", "-c", script, shop.ours, str(shop.out)])


def oras(shop: Shop) -> Cost:
    """Copy to a layout: oras pull leaves out what has no title, so its copy stands for it."""
    target = f"{shop.out}:x"
    return measure(["oras", "cp", "--from-plain-http", "--to-oci-layout", shop.ours, target])


def skopeo(shop: Shop) -> Cost:
    """Copy to a directory: not yet files."""
    flags = ["--quiet", "--insecure-policy", "--src-tls-verify=false"]
    return measure(["skopeo", "copy", *flags, f"docker://{shop.ours}", f"dir:{shop.out}"])


def docker_pull(shop: Shop) -> Cost:
    """Pull our image: in the engine, not yet files."""
    with _pulled(shop.ours) as cost:
        return cost


def original(shop: Shop) -> Cost:
    """Pull the original's image, run it, copy the files out: the original's way."""
    with _pulled(shop.original) as pulled:
        name = f"bench-{free_port()}"
        run = ["docker", "run", "-d", "--rm", "--name", name, shop.original]
        try:
            ran = measure([*run, "tail", "-f", "/dev/null"])
            source = f"{name}:/{_HUB}/snapshots/{_COMMIT}/."
            copied = measure(["docker", "cp", "-L", source, str(shop.out)])
        finally:
            subprocess.run(["docker", "rm", "-f", name], capture_output=True)
    return in_turn([pulled, ran, copied])


@contextlib.contextmanager
def _pulled(image: str) -> Iterator[Cost]:
    subprocess.run(["docker", "rmi", "-f", image], capture_output=True)
    try:
        yield measure(["docker", "pull", "-q", image])
    finally:
        subprocess.run(["docker", "rmi", "-f", image], capture_output=True)


WAYS: Mapping[str, Way] = {
    "curl": curl,
    "curl, tee, openssl": hashed,
    "restore": restore,
    "crane export": crane,
    "oras copy": oras,
    "skopeo copy": skopeo,
    "docker pull (ours)": docker_pull,
    "original's way": original,
}
# On a line that gives each connection so much, only what verifies and ends is compared.
CAPPED = ("restore", "crane export", "oras copy", "docker pull (ours)")


def publish(hub: HubProcess, host: str) -> str:
    """Publish the weights as this project does; return the image's name."""
    name = f"{host}/bench/ours"
    command = [sys.executable, "-m", "downloader", "publish", REPO_ID, "--base", "none", "-q"]
    flags = ["--no-modelpack", "--tag", "x", "--to", name]
    measure([*command, *flags], env={"HF_ENDPOINT": hub.endpoint})
    return f"{name}:x"


def push_original(weights: Sequence[Weights], host: str) -> str:
    """Build and push an image like the original's: a python base, one RUN, gzip."""
    image = f"{host}/bench/original:x"
    lines = [f"mkdir -p /{_HUB}/blobs /{_HUB}/refs /{_HUB}/snapshots/{_COMMIT}"]
    for one in weights:
        lines.append(f"cp /weights/{one.path.name} /{_HUB}/blobs/{one.sha256}")
        link = f"/{_HUB}/snapshots/{_COMMIT}/{one.path.name}"
        lines.append(f"ln -s ../../blobs/{one.sha256} {link}")
    lines.append(f"printf {_COMMIT} > /{_HUB}/refs/main")
    run = f"RUN --mount=type=bind,from=weights,target=/weights {' && '.join(lines)}"
    with tempfile.TemporaryDirectory() as context:
        (Path(context) / "Dockerfile").write_text(f"FROM python:3.13-slim\n{run}\n")
        output = f"type=image,name={image},push=true,compression=gzip,force-compression=true"
        directory = weights[0].path.parent
        build = ["docker", "buildx", "build", "-q", "--no-cache", f"--output={output}"]
        measure([*build, f"--build-context=weights={directory}", context])
    subprocess.run(["docker", "rmi", "-f", image], capture_output=True)
    subprocess.run(["docker", "builder", "prune", "-f"], capture_output=True)
    return image


@contextlib.contextmanager
def capped(host: str, directory: Path, bytes_per_s: int) -> Iterator[str]:
    """Run nginx before a registry, which gives each connection so much; give its host."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log;\n"
        "worker_processes 1; events { worker_connections 256; }\n"
        "http { access_log off; client_max_body_size 0;\n"
        + "".join(
            f"{kind}_temp_path {directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{host};"
        " proxy_set_header Host $http_host; proxy_buffering on; proxy_max_temp_file_size 0;"
        f" limit_rate {bytes_per_s}; }} }} }}\n"
    )
    with subprocess.Popen(["nginx", "-p", str(directory), "-c", str(config)]) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/v2/", process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()
