"""A job of a CI runner, as far as its steps see it: its directory, variables and files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from downloader.cli import run
from downloader.farm.jobs import Job, parse_job
from downloader.farm.models import parse_models

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


MODELS = """
defaults.registries = ["ghcr.io/{owner}/hf-models"]
[[model]]
tag = "tiny"
repo = "org/tiny"
[[model]]
tag = "other"
repo = "org/other"
include = ["*.json"]
"""


def job_of(tag: str, **changes: Any) -> str:
    text = MODELS + '[[model]]\ntag = "gated"\nrepo = "org/gated"\n'
    model = parse_models(text, owner="me").find(tag)
    return json.dumps(Job(model).to_json() | changes)


def read_values(path: Path) -> dict[str, str]:
    """Read a file of `NAME<<MARK` blocks, as the runner does."""
    lines = iter(path.read_text().splitlines() if path.exists() else [])
    found = {}
    for line in lines:
        key, _, mark = line.partition("<<")
        found[key] = "\n".join(iter(lines.__next__, mark))
    return found


@dataclass
class JobRun:
    """A job of a runner: its directory, its variables, and its files for outputs."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch
    env: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, **more: str) -> int:
        """Run a step of the farm; what it writes to GITHUB_ENV reaches the next one."""
        return self.call("farm", *arguments, **more)

    def call(self, *arguments: str, **more: str) -> int:
        """Run a command of ours in this job."""
        for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY"):
            (self.directory / name).touch()
            self.monkeypatch.setenv(name, str(self.directory / name))
        for name, value in (self.env | self.read("GITHUB_ENV") | more).items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.chdir(self.directory)
        return run(list(arguments))

    def read(self, name: str) -> dict[str, str]:
        """Read what the steps wrote to one of the job's files."""
        return read_values(self.directory / name)

    @property
    def outputs(self) -> dict[str, str]:
        return self.read("GITHUB_OUTPUT")

    @property
    def summary(self) -> str:
        return (self.directory / "GITHUB_STEP_SUMMARY").read_text()

    @property
    def chosen(self) -> list[Job]:
        matrix = json.loads(self.outputs["matrix"])
        assert self.outputs["count"] == str(len(matrix["include"]))
        return [parse_job(item["job"]) for item in matrix["include"]]
