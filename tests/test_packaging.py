"""What a machine installs: pinned by hash, within pyproject's bounds, from no named index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOOL = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["hub"]]
NOX = PROJECT["dependency-groups"]["nox"]


def pinned(path: str) -> dict[str, str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("path", "wanted"), [("docker/requirements.txt", TOOL), (".github/requirements.txt", NOX)]
)
def test_pins_satisfy_pyproject(path: str, wanted: list[str]) -> None:
    versions = pinned(path)
    for line in wanted:
        requirement = Requirement(line)
        name = requirement.name.lower().replace("_", "-")
        assert name in versions, f"{path} lacks {name}: run `nox -s lock`"
        assert requirement.specifier.contains(versions[name]), f"{name} {versions[name]}"


@pytest.mark.parametrize("path", ["docker/requirements.txt", ".github/requirements.txt"])
def test_pins_have_hashes_and_name_no_index(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z0-9-]+==)", text)[1:]
    assert len(entries) == len(pinned(path))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
