"""How tests run a command, in this process and in one of its own, and other programs."""

import io
import json
import os
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


def hf_models(*arguments: str | Path, code: int | None = None) -> Ran:
    """Run one command in this process, and check how it ends unless the caller does."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        ran = run([str(argument) for argument in arguments])
    assert code in {None, ran}, err.getvalue()
    return Ran(ran, out.getvalue(), err.getvalue())


def hf_models_apart(*arguments: str | Path, code: int = 0, **environment: str) -> Ran:
    """Run one command in a process of its own, as a user does, and check how it ends."""
    command = (sys.executable, "-m", "downloader", *arguments)
    done = program(*command, code=code, cwd=ROOT, env={**os.environ, **environment})
    assert "Traceback" not in done.err
    return done


def without_overriding_modes(*arguments: str | Path) -> tuple[int, str]:
    """Run one command as a user whom permissions stop; return its code and what it said."""
    done = program(*WITHOUT_OVERRIDING_MODES, *arguments, code=None, cwd=ROOT)
    return done.code, done.err


def call(
    *arguments: str | Path,
    code: int = 0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run another program with more variables, and return what it printed; all, if it fails."""
    try:
        done = program(*arguments, code=code, cwd=cwd, env={**os.environ, **(env or {})})
    except FileNotFoundError as error:
        raise AssertionError(f"this test needs {arguments[0]}, which is not installed") from error
    return done.out + (done.err if code else "")


def program(
    *command: str | Path,
    code: int | None = 0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> Ran:
    """Run a program with these variables and no others, and check how it ends unless None."""
    done = subprocess.run(
        command, env=env, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=200
    )
    assert code in {None, done.returncode}, f"{command[0]}: {done.stdout}{done.stderr}"
    return Ran(done.returncode, done.stdout, done.stderr)
