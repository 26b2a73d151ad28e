"""hf_transfer in a child process under a watchdog.

It is quick because of its connections, and careless: it holds the GIL, has no timeout,
verifies nothing and reports success on a full disk. So it gets a process of its own, a
fresh file name, an address that is resolved already, and no token ever: on the same host it
would forward one to another port. The caller checks size and hash.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from downloader.errors import TransportError, without_secrets
from downloader.fs import allocated_bytes
from downloader.hub.resolver import Location, Target
from downloader.net.address import parse_address
from downloader.net.http import HttpSettings
from downloader.net.retry import TransientError
from downloader.units import MIB

_CHUNK_BYTES = 10 * MIB  # what the library itself used it with
_POLL_S = 0.1
_CHILD = Path(__file__).with_name("hf_transfer_child.py")


@dataclass(frozen=True)
class TransferSettings:
    """Settings of hf_transfer.

    Args:
        connections: For one file, 10 MiB of memory or two each. 8 to 16 are quickest;
            100 were slower than one (they fight for the file system).
        stall_s: Kill it when the file has not grown for so long. It writes whole chunks of
            10 MiB, so on a slow line a long time passes between two.
        tries: Before the caller's own stream takes over.
    """

    connections: int = 8
    stall_s: float = 60.0
    tries: int = 2


class UnfitError(Exception):
    """hf_transfer cannot do this file, and trying again would not help."""


def is_installed() -> bool:
    """Whether the package hf_transfer is there; imports nothing."""
    return importlib.util.find_spec("hf_transfer") is not None


def transfer_file(
    location: Location,
    path: Path,
    size_bytes: int,
    *,
    http: HttpSettings,
    settings: TransferSettings,
    on_growth: Callable[[int], None],
    cancelled: threading.Event,
) -> None:
    """Run hf_transfer once; nothing it has written is verified.

    Args:
        location: Of the file.
        path: A fresh name; what is there would be overwritten in part.
        size_bytes: Of the file, not 0.
        http: Proxies and CA bundle for the child.
        settings: Connections and timeouts.
        on_growth: Called with the bytes that are on disk so far.
        cancelled: Set by another thread to kill the child.

    Raises:
        UnfitError: The server has no ranges, or wants the token; or nothing came for long.
        TransientError: It failed, or was cancelled.
        HubError: The Hub said no.
    """
    target, has_ranges = location.resolve()
    if not has_ranges:
        raise UnfitError("the server has no ranges")
    if any(name.lower() == "authorization" for name in target.headers):
        raise UnfitError("the file's own host wants the token")
    call = _make_call(target, path, min(settings.connections, -(-size_bytes // _CHUNK_BYTES)))
    with (
        tempfile.TemporaryDirectory(prefix="hf-models-") as directory,
        subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a panic may print the signed URL
            # No token of the user's; proxies and certificates come with the job. Where an
            # interpreter needs more to start, the fetch goes on without hf_transfer.
            env={"PATH": os.defpath},
        ) as child,
    ):
        environment = _environment(http, target.url, Path(directory, "ca.pem"))
        job = {"parent_pid": os.getpid(), "environment": environment, "call": call}
        try:
            _send(child, job)
            _watch(child, path, settings.stall_s, on_growth, cancelled)
        finally:
            child.kill()
            child.wait()
        _check_answer(child)


def _make_call(target: Target, path: Path, connections: int) -> dict[str, object]:
    return {
        "url": target.url,
        "filename": str(path),
        "max_files": connections,
        "chunk_size": _CHUNK_BYTES,
        # Fewer, and as many failures at once would be an error without a retry.
        "parallel_failures": connections,
        "max_retries": 8,
        "headers": dict(target.headers),
    }


def _environment(http: HttpSettings, url: str, bundle: Path) -> dict[str, str]:
    """Return the variables that reqwest reads; set by the child, so no process list has them."""
    environment = http.proxies.variables_for(parse_address(url))
    if http.trust.files or http.trust.dirs:
        bundle.write_bytes(http.trust.bundle())
        environment["SSL_CERT_FILE"] = str(bundle)
    return environment


def _send(child: "subprocess.Popen[bytes]", job: object) -> None:
    assert child.stdin is not None  # noqa: S101  # for mypy: it was asked for as a pipe
    try:
        child.stdin.write(json.dumps(job).encode())
        child.stdin.close()
    except BrokenPipeError as error:
        raise TransientError(TransportError("hf_transfer's process ended at once")) from error


def _watch(
    child: "subprocess.Popen[bytes]",
    path: Path,
    stall_s: float,
    on_growth: Callable[[int], None],
    cancelled: threading.Event,
) -> None:
    seen_bytes, grown_at_s = 0, time.monotonic()
    while child.poll() is None:
        if cancelled.wait(_POLL_S):
            raise TransientError(TransportError("hf_transfer was cancelled"))
        now_bytes = allocated_bytes(path)
        if now_bytes != seen_bytes:
            seen_bytes, grown_at_s = now_bytes, time.monotonic()
            on_growth(seen_bytes)
        elif time.monotonic() - grown_at_s > stall_s:
            # Perhaps only a slow line: it keeps what it has in memory until a chunk is whole,
            # and would be no quicker the second time. Our own stream sees every byte.
            raise UnfitError(f"no bytes came for {stall_s:g} s")


def _check_answer(child: "subprocess.Popen[bytes]") -> None:
    assert child.stdout is not None  # noqa: S101  # for mypy: it was asked for as a pipe
    try:
        failure = json.loads(child.stdout.read())["error"]
    except ValueError:
        failure = f"its process ended with status {child.returncode}"
    if failure is not None:
        text = without_secrets(str(failure))[:300]
        raise TransientError(TransportError(f"hf_transfer: {text}"))
