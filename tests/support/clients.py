"""Real clients of the Hub, each in a place of its own, made once on a machine and kept.

What they need comes from PyPI (uv, and pip for torch), npm and Debian (llama.cpp, from sid, with
the libraries that it was built for: unpacked, not installed).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(os.environ.get("HF_TEST_CLIENTS") or "~/.cache/hf-models-test-clients").expanduser()
# The CPU build; later ones bring 3 GB of CUDA.
TORCH = "torch==2.13.0"
_LLAMA_PACKAGES = (
    *("llama.cpp-tools", "libllama0", "libggml0"),
    *("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "libssl3t64"),
)


def _made_once(name: str, key: Sequence[str], make: Callable[[Path], None]) -> Path:
    """Return a directory that ``make`` has filled, on this run or an earlier one."""
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:8]
    directory = ROOT / f"{name}-{digest}"
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / ".made").exists():
            directory.mkdir(exist_ok=True)
            make(directory)
            (directory / ".made").touch()
    return directory


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr


def python_with(name: str, *requirements: str) -> Path:
    """Return the Python of a virtual environment with these packages."""

    def make(directory: Path) -> None:
        # pip, because it alone finds a wheel that lies on this machine (PIP_FIND_LINKS).
        _run(sys.executable, "-m", "venv", directory)
        python = directory / "bin/python"
        if TORCH in requirements:
            _run(python, "-m", "pip", "install", "-q", TORCH)
        index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL")
        flags = ("--default-index", index) if index else ()
        _run(sys.executable, "-m", "uv", "pip", "install", *flags, "-p", python, *requirements)

    return _made_once(name, requirements, make) / "bin/python"


def node_modules(*packages: str) -> Path:
    """Return a directory in which Node finds these packages."""

    def make(directory: Path) -> None:
        _run("npm", "init", "-y", cwd=directory)
        # No scripts: onnxruntime's would download from elsewhere, and no model is run here.
        _run("npm", "install", "--ignore-scripts", "--no-audit", *packages, cwd=directory)

    return _made_once("node", packages, make)


def llama_cpp(program: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a program of llama.cpp, and the variables that it needs."""

    def make(directory: Path) -> None:
        lists = directory / "lists"
        (lists / "partial").mkdir(parents=True)
        sources = Path("/etc/apt/sources.list.d/debian.sources").read_text()
        uri = next(x.split()[1] for x in sources.splitlines() if x.startswith("URIs:"))
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (directory / "sid.list").write_text(f"deb [signed-by={key}] {uri} sid main\n")
        apt = (
            *("apt-get", "-qq", "-o", "APT::Sandbox::User=root"),
            *("-o", f"Dir::Etc::sourcelist={directory / 'sid.list'}"),
            *("-o", "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::Lists={lists}"),
        )
        _run(*apt, "update")
        _run(*apt, "download", *_LLAMA_PACKAGES, cwd=directory)
        for package in directory.glob("*.deb"):
            _run("dpkg", "-x", package, directory / "root")
            package.unlink()

    libraries = _made_once("llama", _LLAMA_PACKAGES, make) / "root/usr/lib/x86_64-linux-gnu"
    command = [
        str(libraries / "ld-linux-x86-64.so.2"),
        *("--library-path", f"{libraries}:{libraries / 'llama'}"),
        str(libraries.parents[1] / "bin" / program),
    ]
    return command, {"GGML_BACKEND_PATH": str(libraries / "ggml/backends0/libggml-cpu-x64.so")}
