"""Commands of the documents, run as they are written: only hosts, paths and the base differ."""

from __future__ import annotations

import os
import re
import shlex
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import ROOT, Ran, program
from tests.support.fake_hub import HubServer, HubSpec, make_repo

FILES = {
    "config.json": b'{"model_type": "t5"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 4096,
    "pytorch_model.bin": b"weights" * 1000,
}


class Reader:
    """Someone who follows the pages: their shell, home and registries."""

    def __init__(self, home: Path, endpoint: str) -> None:
        registry = os.environ.get("HF_TEST_REGISTRY")
        assert registry, "HF_TEST_REGISTRY names no registry"
        self.home = home
        own = f"{registry}/{uuid.uuid4().hex[:12]}"
        image = f"{own}/ghcr/hf-models:codet5-small"
        self.names = {
            "ghcr.io/me/hf-models": f"{own}/ghcr/hf-models",
            "docker.io/me/hf-models": f"{own}/hub/hf-models",
            "registry.example.com/models": f"{own}/other/models",
            "/media/stick": f"{home}/stick",
            "/mnt/stick": f"{home}/other-stick",
            "IMAGE": image,
        }
        programs = home / "bin"
        programs.mkdir()
        program = programs / "hf-models"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m downloader "$@"\n')
        program.chmod(0o755)
        own_python = Path(sys.executable).parent
        self.environment = {
            "PATH": f"{programs}:{own_python}:{os.environ['PATH']}",
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": endpoint,
            "HF_MODELS_BASE": "none",
        }

    def run(self, page: str, marker: str) -> Ran:
        """Run the shell block of a page that has a text in it."""
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        [block] = [block for block in blocks if marker in block]
        for name, real in self.names.items():
            block = re.sub(rf"(?<![\w-]){re.escape(name)}\b", real, block)
        return program("sh", "-euc", block, cwd=self.home, env=self.environment)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    repos = [make_repo(name, FILES) for name in ("Salesforce/codet5-small", "bigcode/starcoder")]
    with HubServer(HubSpec(tuple(repos))) as hub:
        reader = Reader(tmp_path_factory.mktemp("reader"), hub.endpoint)
        reader.run("docs/publish.md", "--to ghcr.io/me/hf-models --to docker.io/me/hf-models")
        yield reader


pytestmark = [pytest.mark.docker, pytest.mark.tools("openssl")]


def test_restore_as_the_page_says(reader: Reader) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^hf-models restore (\S+)$", text, re.MULTILINE)
    snapshot = Path(reader.run("docs/restore.md", f"hf-models restore {command}\n").out.split()[-1])
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == FILES


def test_restore_of_some_files_as_the_page_says(reader: Reader) -> None:
    reader.run("docs/restore.md", "--local-dir ./codet5")
    plain = reader.home / "codet5"
    assert {path.name: path.read_bytes() for path in plain.iterdir() if path.is_file()} == FILES


def test_a_stick_as_the_page_says(reader: Reader) -> None:
    reader.run("docs/restore.md", "hf-models bundle")
    reader.environment["HF_HOME"] = str(reader.home / "cut-off")
    try:
        said = reader.run("docs/restore.md", "hf-models.pyz restore")
    finally:
        del reader.environment["HF_HOME"]
    assert {path.name for path in Path(said.out.split()[-1]).iterdir()} == set(FILES)


def test_signing_and_compression_as_the_page_says(reader: Reader) -> None:
    done = reader.run("docs/publish.md", "--sign-key key.pem")
    assert "signed by key" in done.out + done.err


def test_copies_as_the_page_says(reader: Reader) -> None:
    text = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"^hf-models copy .*$", text, re.MULTILINE))
    for name, real in reader.names.items():
        lines = lines.replace(name, real)
    program("sh", "-euc", lines, cwd=reader.home, env=reader.environment)
    assert (reader.home / "other-stick/images/index.json").exists()
    assert (reader.home / "codet5.tar").exists()
