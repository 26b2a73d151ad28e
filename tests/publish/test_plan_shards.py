"""What `plan` gives a CI job: a matrix without empty jobs, and values that cannot be forged."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from downloader.cli import run
from tests.support.fake_hub import HubServer, HubSpec
from tests.support.publish import LAYER_SIZE, MODEL, SPLIT, WEIGHTS
from tests.support.runner_job import read_values


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(HubSpec((MODEL, SPLIT))) as server:
        yield server


@pytest.fixture(autouse=True)
def at_the_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.clear_log()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)


def test_no_job_of_the_matrix_is_empty(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    flags = ("--layer-size", LAYER_SIZE, "--shards", "20", "--github-output")
    assert run(["plan", "org/model", *flags]) == 0
    layers = len(WEIGHTS) + 1  # small files share one
    assert f"{layers} shards instead of 20" in capsys.readouterr().err
    written = read_values(output)
    assert output.read_text().count("<<end-") == len(written)
    assert written["matrix"].count('"shard"') == layers
    assert '"layers": 0' not in written["matrix"]
    assert written["commit"] == MODEL.sha
    assert written["tag"] == "model"
    assert int(written["bytes"]) > 0


def test_the_parts_of_a_file_are_one_job(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--layer-size", "4MiB", "--shards", "8", "--json")
    assert run(["plan", "org/split", *flags]) == 0
    said = capsys.readouterr()
    assert '"layers": 0' not in said.out
    assert "instead of 8" in said.err


def test_the_layers_of_an_image_are_counted_as_they_are_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["plan", "org/model", "--layer-size", LAYER_SIZE]) == 0
    said = capsys.readouterr().out
    with_files = len(WEIGHTS) + 1  # small files share one
    assert f"layers:           {with_files} with files, 2 with programs and metadata\n" in said
    rows = re.findall(r"^ *(\d+) ", said.partition("carries")[2], re.MULTILINE)
    assert rows == [str(number) for number in range(1, with_files + 3)]


def test_without_a_job_nothing_is_asked_of_the_hub(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "org/model", "--github-output"]) == 2
    assert "want $GITHUB_OUTPUT" in capsys.readouterr().err
    assert not hub.log()
