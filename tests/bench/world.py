"""What the bench runs against: weights on disk, a Hub, a registry; and how it measures."""

import contextlib
import hashlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.fake_hub import Generated, HubProcess, make_repo
from tests.support.fake_hub.content import Disk
from tests.support.fake_hub.spec import Repo

GIB = 1 << 30
REPO_ID = "bench/model"
_READY_TIMEOUT_S = 30
_WATCH_EVERY_S = 0.02


@dataclass(frozen=True)
class Weights:
    """One file of weights on disk."""

    path: Path
    sha256: str


def write_weights(directory: Path, count: int, size_bytes: int) -> list[Weights]:
    """Write pseudo-random bf16 weights, the same every time."""
    directory.mkdir(parents=True, exist_ok=True)
    return [_write(directory / f"{at}.safetensors", size_bytes, at) for at in range(count)]


def _write(path: Path, size_bytes: int, seed: int) -> Weights:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in Generated(size_bytes, seed=seed, bf16=True).iter_pieces(0, size_bytes):
            digest.update(piece)
            file.write(piece)
    return Weights(path, digest.hexdigest())


def write_sparse(directory: Path, count: int, size_bytes: int) -> list[Weights]:
    """Write files of zeros that take no disk, each with another end, so another oid."""
    directory.mkdir(parents=True, exist_ok=True)
    prefix, zeros = hashlib.sha256(), bytes(1 << 20)
    for _ in range((size_bytes - 32) // len(zeros)):
        prefix.update(zeros)
    prefix.update(zeros[: (size_bytes - 32) % len(zeros)])
    return [_write_sparse(directory / f"{at}.bin", size_bytes, at, prefix) for at in range(count)]


def _write_sparse(path: Path, size_bytes: int, seed: int, prefix: "hashlib._Hash") -> Weights:
    end = hashlib.sha256(b"%d" % seed).digest()
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.seek(size_bytes - len(end))
        file.write(end)
    digest = prefix.copy()
    digest.update(end)
    return Weights(path, digest.hexdigest())


def repo_of(weights: Sequence[Weights]) -> Repo:
    """Return a repo of these files."""
    files = {one.path.name: Disk(str(one.path), one.sha256) for one in weights}
    return make_repo(REPO_ID, {"config.json": b"{}", "README.md": b"# Bench\n", **files})


@contextlib.contextmanager
def serving(weights: Sequence[Weights]) -> Iterator[HubProcess]:
    """Serve the files as a Hub, from disk with sendfile."""
    with HubProcess([repo_of(weights)]) as hub:
        yield hub


@contextlib.contextmanager
def fresh_registry(directory: Path) -> Iterator[str]:
    """Run an empty docker-registry; give its host, and remove all that it was sent."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    port = free_port()
    config = directory / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    with subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/v2/", process)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until something answers at ``url``; raise if the process ends first."""
    until_s = time.monotonic() + _READY_TIMEOUT_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until_s and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"want {url} to answer, got nothing")


@contextlib.contextmanager
def hole(*, is_hashing: bool) -> Iterator[str]:
    """Run a registry that keeps nothing; give its host."""
    flags = ["--hash"] if is_hashing else []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.sink_registry", *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


@dataclass(frozen=True)
class Cost:
    """What one run took, of the commands and all of their children.

    Args:
        seconds: From start to end.
        cpu_seconds: User and system.
        peak_bytes: The largest resident size of one process of each command, added up.
        written_bytes: To disk.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    written_bytes: int


def in_turn(costs: Sequence[Cost]) -> Cost:
    """Return what commands took that ran one after the other."""
    return Cost(
        sum(cost.seconds for cost in costs),
        sum(cost.cpu_seconds for cost in costs),
        max(cost.peak_bytes for cost in costs),
        sum(cost.written_bytes for cost in costs),
    )


def measure(
    *commands: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Cost:
    """Run commands side by side, and return what they took together.

    Raises:
        RuntimeError: One of them failed.
    """
    environment = {**os.environ, **(env or {})}
    begun_s = time.monotonic()
    children = [
        subprocess.Popen(
            list(command),
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for command in commands
    ]
    with PeakWatch([child.pid for child in children]) as watch:
        used = [_wait(child) for child in children]
        seconds = time.monotonic() - begun_s
    return Cost(
        seconds,
        sum(usage.ru_utime + usage.ru_stime for usage in used),
        watch.peak_bytes,
        sum(usage.ru_oublock * 512 for usage in used),
    )


def _wait(child: "subprocess.Popen[bytes]") -> resource.struct_rusage:
    assert child.stderr
    said = child.stderr.read()
    child.stderr.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{child.args!r}: exit status {child.returncode}: {said[-800:]!r}")
    return usage


class PeakWatch:
    """The most memory of commands that run: of each the largest process, all together.

    Looked up while they run. What `wait4` says includes the process that started them, the
    bench itself, which is larger than most of them.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._peaks = dict.fromkeys(pids, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def peak_bytes(self) -> int:
        return sum(self._peaks.values())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_EVERY_S):
            for pid, peak in self._peaks.items():
                self._peaks[pid] = max(peak, *map(_peak_of, _tree_of(pid)))


def _tree_of(pid: int) -> list[int]:
    children: list[str] = []
    with contextlib.suppress(OSError):  # it ends while it is looked at
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += (thread / "children").read_text().split()
    return [pid, *(below for child in children for below in _tree_of(int(child)))]


def _peak_of(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
