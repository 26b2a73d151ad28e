"""What `plan` gives a CI job: a matrix without empty jobs, and values that cannot be forged."""

import re
from pathlib import Path

import pytest

from tests.support.command import hf_models
from tests.support.fake_hub import HubServer, HubSpec
from tests.support.publish import LAYER_SIZE, MODEL, SPLIT, WEIGHTS
from tests.support.runner_job import read_values

HUB = HubSpec((MODEL, SPLIT))


@pytest.fixture(autouse=True)
def at_the_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.clear_log()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)


def test_no_job_of_the_matrix_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    flags = ("--layer-size", LAYER_SIZE, "--shards", "20", "--github-output")
    code, _, err = hf_models("plan", "org/model", *flags)
    assert code == 0
    layers = len(WEIGHTS) + 1  # small files share one
    assert f"{layers} shards instead of 20" in err
    written = read_values(output)
    assert output.read_text().count("<<end-") == len(written)
    assert written["matrix"].count('"shard"') == layers
    assert '"layers": 0' not in written["matrix"]
    assert written["commit"] == MODEL.sha
    assert written["tag"] == "model"
    assert int(written["bytes"]) > 0


def test_the_parts_of_a_file_are_one_job() -> None:
    flags = ("--layer-size", "4MiB", "--shards", "8", "--json")
    said = hf_models("plan", "org/split", *flags, code=0)
    assert '"layers": 0' not in said.out
    assert "instead of 8" in said.err


def test_the_layers_of_an_image_are_counted_as_they_are_listed() -> None:
    code, said, _ = hf_models("plan", "org/model", "--layer-size", LAYER_SIZE)
    assert code == 0
    with_files = len(WEIGHTS) + 1  # small files share one
    assert f"layers:           {with_files} with files, 2 with programs and metadata\n" in said
    rows = re.findall(r"^ *(\d+) ", said.partition("carries")[2], re.MULTILINE)
    assert rows == [str(number) for number in range(1, with_files + 3)]


def test_github_output_outside_of_a_job_fails_before_the_hub_is_asked(hub: HubServer) -> None:
    code, _, err = hf_models("plan", "org/model", "--github-output")
    assert code == 2
    assert "$GITHUB_OUTPUT is not set" in err
    assert not hub.log()
