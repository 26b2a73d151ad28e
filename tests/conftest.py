"""What every test gets: a clean environment, and an engine and a registry where it asks."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# A test must not depend on, or write to, what the person who runs it has set up.
_PRIVATE = ("HF_", "HUGGING", "DOCKER_", "GITHUB_", "TRANSFORMERS_")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_KEPT = {"DOCKER_HOST", "DOCKER_CONFIG", "HF_TEST_REGISTRY"}


def _is_private(name: str) -> bool:
    return (name.startswith(_PRIVATE) and name not in _KEPT) or name.upper() in _PROXIES


for _name in list(os.environ):  # before anything imports huggingface_hub, which reads it at once
    if _is_private(_name):
        del os.environ[_name]


# A shell script's background jobs ignore Ctrl-C, and so would each command that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

collect_ignore = ["recordings.py"]  # a program, with a dependency of its own
pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Give every test a home of its own, where no token and no cache lies."""
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf-home")))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@cache
def missing_for_docker() -> str | None:
    """Return what the tests marked ``docker`` lack here, None if nothing."""
    if not os.environ.get("HF_TEST_REGISTRY"):
        return "HF_TEST_REGISTRY names no registry"
    if not shutil.which("docker"):
        return "no docker command"
    for check in (["docker", "info"], ["docker", "buildx", "version"]):
        if subprocess.run(check, capture_output=True, timeout=60).returncode:
            return f"`{' '.join(check)}` fails"
    return None


@cache
def missing_for_mount() -> str | None:
    """Return why this user may not mount a file system here (a container may not), or None."""
    from tests.support.command import AS_ROOT  # noqa: PLC0415 - after the environment is clean

    attempt = [*AS_ROOT, "unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if not all(shutil.which(name) for name in (*AS_ROOT, "unshare", "mount")):
        return "no unshare, mount or sudo command"
    allowed = subprocess.run(attempt, capture_output=True, timeout=60).returncode == 0
    return None if allowed else "this user may not mount"


def missing_for(marker: pytest.Mark) -> str | None:
    """Return what a test with this marker lacks here, None if nothing."""
    match marker.name:
        case "docker":
            return missing_for_docker()
        case "mount":
            return missing_for_mount()
        case "browser":
            return None if shutil.which("chromium") else "no chromium"
        case "tools":
            missing = [name for name in marker.args if not shutil.which(name)]
            return f"no {', no '.join(missing)}" if missing else None
        case _:
            return None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m portable``, import no module without such a test: it may need POSIX itself."""
    if collection_path.suffix != ".py" or "portable" not in config.option.markexpr:
        return None
    return None if "mark.portable" in collection_path.read_text(encoding="utf-8") else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, on a contributor's machine, what it cannot run; in CI such a test fails."""
    if os.environ.get("CI"):
        return
    left_out: dict[pytest.Item, str] = {}
    for item in items:
        reasons = filter(None, map(missing_for, item.iter_markers()))
        if reason := next(reasons, None):
            left_out[item] = reason
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))
    config.stash[_LEFT_OUT] = Counter(left_out.values())


_LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker of pytest-xdist left out to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        left_out = session.config.stash.get(_LEFT_OUT, Counter())
        session.config.workeroutput["left_out"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what the workers left out; every worker collects every test."""
    node.config.stash[_LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say in one line a reason what was left out."""
    for reason, count in config.stash.get(_LEFT_OUT, Counter()).items():
        terminalreporter.write_line(f"{count} tests left out: {reason}", yellow=True)
