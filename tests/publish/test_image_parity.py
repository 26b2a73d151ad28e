"""Both ways to build make the same image: Docker's builder stage, and the engine-free writer."""

import json
import re
from pathlib import Path

import pytest

from downloader.image import PREFIX
from tests.support.command import hf_models_apart
from tests.support.docker import Shelf, docker, exported, inspect
from tests.support.fake_hub import tiny_repo

pytestmark = pytest.mark.docker
HUB = [tiny_repo()]


def build_without_engine(shelf: Shelf, tag: str, directory: Path) -> None:
    archive = directory / "image.tar"
    arguments = ["org/tiny", "--layer-size", "1MiB", "--base", "none", "--image", shelf.name]
    arguments += ["--tag", tag, "--engine", "layout", "--archive", str(archive), "--quiet"]
    hf_models_apart("build", *arguments, HF_ENDPOINT=shelf.hub.endpoint)
    docker("load", "--input", str(archive))


def files_of(image: str) -> dict[str, tuple[object, ...]]:
    """Return what a container of the image would see of ours."""
    with exported(image) as tar:
        return {
            m.name: (m.type, oct(m.mode), m.uid, m.gid, m.mtime, m.size, m.linkname)
            for m in tar
            if m.name.split("/")[0] in {"root", "usr", "models", "README", "SHEET"}
        }


def test_same_files_labels_and_variables(shelf: Shelf, tmp_path: Path) -> None:
    shelf.build("org/tiny", "--layer-size", "1MiB", "--base", "none", "--tag", "by-docker")
    build_without_engine(shelf, "by-layout", tmp_path)
    by_docker, by_layout = shelf.image("by-docker"), shelf.image("by-layout")
    files = files_of(by_docker)
    assert "root/.cache/huggingface/hub/models--org--tiny/refs/main" in files
    assert files_of(by_layout) == files
    configs = [inspect(image)["Config"] for image in (by_docker, by_layout)]
    builder = configs[0]["Labels"].pop(f"{PREFIX}.builder")  # a layout needs none
    assert re.fullmatch(r"python:3[^@]*(@sha256:[0-9a-f]{64})?", builder)
    assert configs[0]["Labels"] == configs[1]["Labels"]
    assert sorted(configs[0]["Env"]) == sorted(configs[1]["Env"])
    assert json.dumps(inspect(by_docker)["Created"]) == json.dumps(inspect(by_layout)["Created"])
