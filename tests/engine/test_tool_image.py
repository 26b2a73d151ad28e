"""hf-models as an image: publishes and restores as an ordinary user, with nothing installed."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.docker import docker, load_offline, registry
from tests.support.fake_hub import HubServer
from tests.support.publish import MODEL, SPEC

pytestmark = pytest.mark.docker

CACHE = "/root/.cache/huggingface"


@pytest.fixture(scope="module")
def tool() -> Iterator[str]:
    image = f"hf-test-tool-{uuid.uuid4().hex[:12]}"
    ca_bundle = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    docker(
        *("build", "--quiet", "--file", str(ROOT / "docker/Dockerfile"), "--target", "tool"),
        *(("--secret", f"id=ca,src={ca_bundle}") if ca_bundle else ()),
        *("--network=host", "--tag", image, str(ROOT)),
    )
    yield image
    docker("image", "rm", "--force", image)


def run(tool: str, *arguments: str, code: int = 0, mount: Path | None = None, **env: str) -> str:
    variables = [f"--env={name}={value}" for name, value in env.items()]
    mounts = [f"--volume={mount}:{CACHE}"] if mount else []
    return docker("run", "--rm", "--network=host", *variables, *mounts, tool, *arguments, code=code)


@pytest.fixture(scope="module")
def image(tool: str) -> str:
    """Publish a model with the image of the tool, and return the model's image."""
    name = f"{registry()}/hf-test-{uuid.uuid4().hex[:12]}"
    with HubServer(SPEC) as hub:
        arguments = ("publish", MODEL.id, "--to", name, "--tag", "x", "--base", "none")
        said = run(tool, *arguments, HF_ENDPOINT=hub.endpoint)
    assert f"{name}:x" in said
    return f"{name}:x"


def test_restore_as_an_ordinary_user(tool: str, image: str, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 1000, 1000)
    run(tool, "restore", image, mount=tmp_path)
    rows = load_offline(tmp_path, MODEL.id, "main")
    assert {path for _, path, _ in rows} == set(MODEL.files())
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {1000}


def test_restore_into_a_directory_of_another_user_names_it(
    tool: str, image: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o555)
    said = run(tool, "restore", image, mount=tmp_path, code=7)
    assert CACHE in said
    assert "ermission denied" in said
    assert list(tmp_path.iterdir()) == []


def test_without_arguments_the_help(tool: str) -> None:
    assert run(tool).startswith("Usage: hf-models")
