"""The stand-in in a child process: for hf_transfer, which holds the GIL, and for speed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.fake_hub.accesslog import SETTLE_S, Accesses, parse_log
from tests.support.fake_hub.faults import dump_fault
from tests.support.fake_hub.server import Hub, as_spec
from tests.support.fake_hub.spec import HubSpec, Repo, dump_spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.fake_hub.fault import Fault

ROOT = Path(__file__).parents[3]
STOP_TIMEOUT_S = 10


class HubProcess(Hub):
    """``python -m tests.support.fake_hub`` as a child; it ends with its standard input.

    Args:
        repos: A whole spec, or only repos.
    """

    def __init__(self, repos: HubSpec | Iterable[Repo]) -> None:
        self._spec = as_spec(repos)
        self._child: subprocess.Popen[str] | None = None
        # A proxy of the environment must not stand between a test and loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def start(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_hub", "--spec", "-"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(dump_spec(self._spec) + "\n")
        self._child.stdin.flush()
        ready = self._child.stdout.readline()
        if not ready:
            self.stop()
            raise RuntimeError("the stand-in ended before it was ready; see its standard error")
        for name, value in json.loads(ready).items():
            setattr(self, name, value)
        return self

    def stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with child:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()

    def log(self, settle_s: float = SETTLE_S) -> Accesses:
        return parse_log(self._call("GET", f"log?settle_s={settle_s}"))

    def clear_log(self) -> None:
        self._call("DELETE", "log")

    def add_fault(self, fault: Fault) -> None:
        self._call("POST", "faults", dump_fault(fault))

    def clear_faults(self) -> None:
        self._call("DELETE", "faults")

    def release(self) -> None:
        self._call("POST", "release", {})

    def move(self, repo: Repo | str, branch: str, commit: int | str) -> str:
        key = repo if isinstance(repo, str) else repo.key
        moved = self._call("POST", "move", {"repo": key, "branch": branch, "commit": commit})
        return str(moved)

    def _call(self, method: str, what: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.control_endpoint}/_control/{what}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        with self._opener.open(request, timeout=30) as answer:
            return json.load(answer)
