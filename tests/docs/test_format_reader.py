"""Somebody who has nothing but docs/image-format.md reads an image: plain, compressed, split."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.format_reader import read
from tests.publish.test_compression import PACKS
from tests.publish.test_models_dir import check_directory
from tests.support.fake_hub import HubServer, HubSpec
from tests.support.restore import hf_models


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(HubSpec((PACKS,))) as server:
        yield server


@pytest.mark.parametrize("compress", ["none", "auto", "zstd"])
@pytest.mark.parametrize("layer_size", ["2MiB", "64MiB"])
def test_a_reader_written_from_the_document(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compress: str,
    layer_size: str,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.chdir(tmp_path)
    arguments = ["build", "org/packs", "--engine=layout", "--base=none", "--quiet"]
    ran = hf_models(*arguments, f"--compress={compress}", f"--layer-size={layer_size}")
    assert ran.code == 0, ran.err
    read(tmp_path / "dist/packs", tmp_path / "out")
    check_directory(tmp_path / "out", PACKS)
