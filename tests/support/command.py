"""The two ways in which tests run a command: in this process, and in one of its own."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from downloader.cli import run

ROOT = Path(__file__).parents[2]
_IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
AS_ROOT = [] if _IS_ROOT else ["sudo", "-n"]
# The command line as a user whom permissions stop.
_DROP = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
WITHOUT_OVERRIDING_MODES = [
    *(_DROP if _IS_ROOT else []),
    *(sys.executable, "-m", "downloader"),
]


class Ran(NamedTuple):
    """One command: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def hf_models(*arguments: str | Path) -> Ran:
    """Run one command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


def hf_models_apart(*arguments: str | Path, code: int = 0, **environment: str) -> Ran:
    """Run one command in a process of its own, as a user does, and check how it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "downloader", *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def without_overriding_modes(*arguments: str | Path) -> tuple[int, str]:
    """Run one command as a user whom permissions stop; return its code and what it said."""
    command = [*WITHOUT_OVERRIDING_MODES, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stderr


def call(
    *arguments: str | Path,
    code: int = 0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run another program, check how it ends, and return what it printed; all, if it fails."""
    assert shutil.which(arguments[0]), f"this test needs {arguments[0]}, which is not installed"
    done = subprocess.run(
        arguments,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, f"{arguments[0]}: {done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if code else "")
