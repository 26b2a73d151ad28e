"""What every test gets: a clean environment, and an engine and a registry where it asks."""

import os
import shutil
import subprocess
from functools import cache

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


pytest_plugins = ["tests.support.publish"]  # the fixtures of everything that publishes


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
def missing_for_browser() -> str | None:
    """Return what the tests marked ``browser`` lack here, None if nothing."""
    return None if shutil.which("chromium") else "no chromium"


_NEEDS = {"docker": missing_for_docker, "browser": missing_for_browser}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, on a contributor's machine, what it cannot run; in CI such a test fails."""
    if os.environ.get("CI"):
        return
    for marker, missing in _NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        why = missing() if marked else None
        if why:
            items[:] = [item for item in items if item not in marked]
            config.hook.pytest_deselected(items=marked)
            config.stash.setdefault(_LEFT_OUT, []).append(
                f"{len(marked)} tests need {marker} and were left out: {why}"
            )


_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say in one line what was left out."""
    for line in config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(line, yellow=True)
