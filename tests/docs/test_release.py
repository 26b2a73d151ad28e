"""What a release has: made twice with the same bytes, and used where nothing is installed."""

import hashlib
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.command import ROOT, program
from tests.support.make_image import put_ours
from tests.support.restore import FILES, layout
from tests.support.serve import resolve_path, serving

SCRIPT = ROOT / ".github" / "release.py"
BARE = (sys.executable, "-I", "-S")  # the standard library, and no packages at all


def release(*arguments: str | Path, code: int = 0, **env: str) -> str:
    command = (sys.executable, SCRIPT, *arguments)
    done = program(*command, code=code, env={**os.environ, **env})
    return done.out + done.err


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release")
    release("dist", "--out", out)
    return out


@pytest.fixture(scope="module")
def pyz(dist: Path) -> Path:
    return dist / "hf-models.pyz"


def alone(pyz: Path, *arguments: str | Path, code: int = 0) -> str:
    """Run the zipapp with a Python that has nothing else, isolated from environment and user."""
    home = {"HOME": str(pyz.parent), "HF_HOME": str(pyz.parent / "hf")}
    done = program(*BARE, pyz, *arguments, code=code, env=home)
    return done.out + done.err


def test_every_file_has_its_checksum(dist: Path) -> None:
    lines = (dist / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.name for path in dist.iterdir()} - {"SHA256SUMS", "notes.md"}
    assert set(sums) == files
    assert {path.suffix for path in map(Path, files)} == {".whl", ".gz", ".pyz"}
    for name, digest in sums.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


def test_made_again_it_has_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    release("dist", "--out", tmp_path / "again")
    assert (tmp_path / "again/SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()


def test_the_wheel_has_the_files_that_commands_read(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"downloader/docker/Dockerfile", "downloader/docker/requirements.txt"} <= names
    assert {"downloader/export.sh", "downloader/farm/catalog/page.html"} <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_the_notes_are_a_section_of_the_changelog(dist: Path) -> None:
    notes = (dist / "notes.md").read_text().strip()
    assert notes
    assert notes in (ROOT / "CHANGELOG.md").read_text()
    assert "## " not in notes.replace("### ", "")


def test_zipapp_restores_and_verifies_with_python_alone(pyz: Path, tmp_path: Path) -> None:
    program(*BARE, "-c", "import click", code=1)
    put_ours(layout(tmp_path / "image"), FILES)
    alone(pyz, "restore", tmp_path / "image", "--cache-dir", tmp_path / "hub")
    alone(pyz, "verify", tmp_path / "hub")
    (snapshot,) = (tmp_path / "hub").glob("*/snapshots/*")
    for path, data in FILES.items():
        assert (snapshot / path).read_bytes() == data


def test_zipapp_serves_with_python_alone(pyz: Path, tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    cache = ("--cache-dir", tmp_path / "cache")
    with serving(tmp_path / "image", *cache, program=(*BARE, pyz)) as server:
        assert server.ask(resolve_path("config.json")).body == FILES["config.json"]


def test_zipapp_says_its_version(pyz: Path) -> None:
    assert re.search(r"\d+\.\d+\.\d+", alone(pyz, "--version"))


def test_a_git_tag_of_another_version_ends_the_release(tmp_path: Path) -> None:
    env = {"GITHUB_ACTIONS": "true", "GITHUB_REF_NAME": "v99.0.0"}
    said = release("dist", "--out", tmp_path / "out", code=1, **env)
    assert "want the git tag v" in said
    assert not (tmp_path / "out").exists()
