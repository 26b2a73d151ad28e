"""``hf download`` through ``serve`` and through Olah, beside the same straight from the Hub.

Cold: nothing is in the server's cache. Warm: everything is. The client is the same, with an
empty cache each time. Olah needs a Hub, ``serve`` a registry; both are on this machine.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from downloader.units import MIB
from tests.bench import report
from tests.bench.command import head_of, new_parser
from tests.bench.pulls import publish
from tests.bench.world import (
    REPO_ID,
    Cost,
    Weights,
    free_port,
    fresh_registry,
    measure,
    serving,
    write_weights,
)
from tests.support.fake_hub import HubProcess, make_repo
from tests.support.serve import serving as serving_images

OLAH = "olah==0.5.4"
CLIENTS = 8
SMALL_FILES = 2000
_REQUESTS = 2000  # of a small file, over one connection
_HF = str(Path(sys.executable).with_name("hf"))


@dataclass(frozen=True)
class World:
    """What every way starts from.

    Args:
        hub: The stand-in, which serves the files from disk.
        image: The same files in a registry.
        directory: For whatever a way writes.
        olah: The program of the peer; empty to leave it out.
    """

    hub: HubProcess
    image: str
    directory: Path
    olah: str

    def download(self, url: str, clients: int = 1, repo: str = REPO_ID) -> Cost:
        """Run ``hf download`` with an empty cache, so many times at once."""
        root = self.directory / "clients"
        shutil.rmtree(root, ignore_errors=True)
        commands = [
            ["env", f"HF_HOME={root / str(at)}", _HF, "download", repo, "--quiet"]
            for at in range(clients)
        ]
        try:
            return measure(*commands, env={"HF_ENDPOINT": url})
        finally:
            shutil.rmtree(root, ignore_errors=True)
            os.sync()


@dataclass
class Served:
    """What a server did in the end."""

    peak_mib: float = 0.0
    fetched_bytes: int = 0


@contextlib.contextmanager
def images_served(world: World, seen: Served, image: str = "") -> Iterator[str]:
    """Run ``serve`` with an empty cache."""
    cache = world.directory / "serve-cache"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        with serving_images(image or world.image, "--cache-dir", cache) as server:
            yield server.url
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            peak = int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) / 1024
            seen.peak_mib = max(seen.peak_mib, peak)
            seen.fetched_bytes = server.metric("fetched_bytes_total")
    finally:
        shutil.rmtree(cache, ignore_errors=True)


@contextlib.contextmanager
def olah_served(world: World) -> Iterator[str]:
    """Run Olah with an empty cache before the Hub."""
    cache, port = world.directory / "olah-cache", free_port()
    shutil.rmtree(cache, ignore_errors=True)
    netloc = urlsplit(world.hub.endpoint).netloc
    cdn = urlsplit(world.hub.cdn_endpoint).netloc
    flags = ["--host", "127.0.0.1", "--port", str(port), "--repos-path", str(cache)]
    flags += ["--hf-scheme", "http", "--hf-netloc", netloc, "--hf-lfs-netloc", cdn]
    flags += ["--mirror-scheme", "http", "--mirror-netloc", f"127.0.0.1:{port}"]
    flags += ["--mirror-lfs-netloc", f"127.0.0.1:{port}", "--log-path", str(cache / "logs")]
    with subprocess.Popen(
        [world.olah, *flags],
        cwd=world.directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(cache, ignore_errors=True)


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("olah ended before it listened")


def compare(world: World, runs: int, clients: int, seen: Served) -> dict[str, list[Cost]]:
    """Run every way, in turns, so that a slow minute of the machine meets all of them."""
    found: dict[str, list[Cost]] = {}

    def note(name: str, cost: Cost) -> None:
        found.setdefault(name, []).append(cost)
        print(f"{name}, {clients} clients: {cost.seconds:.1f} s", file=sys.stderr, flush=True)

    for _ in range(runs):
        note("straight from the Hub", world.download(world.hub.endpoint, clients))
        with images_served(world, seen) as url:
            note("serve, cold", world.download(url, clients))
            note("serve, warm", world.download(url, clients))
        if world.olah:
            with olah_served(world) as url:
                note("Olah, cold", world.download(url, clients))
                note("Olah, warm", world.download(url, clients))
    return found


def first_bytes(world: World) -> dict[str, float]:
    """Return milliseconds to the first byte of a large file, and of one that is cached."""
    path = f"/{REPO_ID}/resolve/main/0.safetensors"
    with images_served(world, Served()) as url:
        ask(url, f"/{REPO_ID}/resolve/main/config.json")
        cold = _first_byte(url, path)
        world.download(url)
        return {"first_byte_cold_ms": cold, "first_byte_warm_ms": _first_byte(url, path)}


def _first_byte(url: str, path: str) -> float:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    begun = time.monotonic()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read(1)
    taken = (time.monotonic() - begun) * 1000
    answer.close()
    connection.close()
    return taken


def ask(url: str, path: str) -> bytes:
    """Return a small document."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path)
    data = connection.getresponse().read()
    connection.close()
    return data


def small_files(world: World, host: str, runs: int) -> dict[str, Any]:
    """Return what a repo of many small files takes, and requests a second for one of them."""
    files = {f"d{at % 20}/{at}.json": b'{"n": %d}' % at for at in range(SMALL_FILES)}
    repo = "bench/small"
    with HubProcess([make_repo(repo, files)]) as hub:
        image = f"{host}/bench/small"
        command = [sys.executable, "-m", "downloader", "publish", repo, "--to", image]
        measure(
            [*command, "--base", "none", "-q", "--no-modelpack", "--tag", "x"],
            env={"HF_ENDPOINT": hub.endpoint},
        )
        straight, cold, warm, rates = [], [], [], []
        for _ in range(runs):
            straight.append(world.download(hub.endpoint, repo=repo).seconds)
            with images_served(world, Served(), f"{image}:x") as url:
                cold.append(world.download(url, repo=repo).seconds)
                warm.append(world.download(url, repo=repo).seconds)
                rates.append(_rate(url, f"/{repo}/resolve/main/d1/1.json"))
    return {
        "small_files": SMALL_FILES,
        "small_straight_s": median(straight),
        "small_serve_cold_s": median(cold),
        "small_serve_warm_s": median(warm),
        "requests_per_s": median(rates),
    }


def _rate(url: str, path: str) -> float:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    begun = time.monotonic()
    for _ in range(_REQUESTS):
        connection.request("GET", path)
        connection.getresponse().read()
    connection.close()
    return _REQUESTS / (time.monotonic() - begun)


def install_olah(directory: Path) -> str:
    """Install the peer into an environment of its own, and return its program."""
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    subprocess.run([str(directory / "bin/pip"), "install", "-q", OLAH], check=True)
    return str(directory / "bin/olah-cli")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__, (), "eleven times the files' size")
    parser.add_argument("--olah", help="the program, where it is installed already; '' for none")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="at once, in the second part")
    parser.add_argument("--many-mib", type=int, help="size of each file there; 0 leaves it out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench, and print the tables."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    many_mib = options.file_mib if options.many_mib is None else options.many_mib
    with tempfile.TemporaryDirectory(prefix="hf-bench-", dir=options.work) as name:
        directory = Path(name)
        olah = install_olah(directory / "olah") if options.olah is None else options.olah
        seen, many_seen = Served(), Served()
        with fresh_registry(directory / "registry") as host:

            def with_world(size_mib: int, run: Callable[[World], Any]) -> Any:
                weights: list[Weights] = write_weights(
                    directory / "weights", options.files, size_mib * MIB
                )
                with serving(weights) as hub:
                    return run(World(hub, publish(hub, host), directory, olah))

            rows, numbers = with_world(
                options.file_mib,
                lambda world: (
                    report.summarize(compare(world, options.runs, 1, seen)),
                    first_bytes(world) | small_files(world, host, options.runs),
                ),
            )
            many: list[dict[str, Any]] = []
            if many_mib:
                many = with_world(
                    many_mib,
                    lambda world: report.summarize(compare(world, 1, options.clients, many_seen)),
                )
    numbers |= {
        "serve_peak_mib": seen.peak_mib,
        "many_clients": options.clients,
        "many_file_mib": many_mib,
        "many_serve_peak_mib": many_seen.peak_mib,
        "many_fetched_bytes": many_seen.fetched_bytes,
    }
    document = {**head_of(options), "ways": rows, "many": many, **numbers}
    report.write(document, options.out, "serve", "hf download")
    print(report.table(rows), report.table(many), json.dumps(numbers, indent=2), sep="\n\n")


if __name__ == "__main__":
    main()
