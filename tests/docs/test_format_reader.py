"""Somebody who has nothing but docs/image-format.md reads an image, and writes its layers."""

import hashlib
import json
import re
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.docs import format_writer
from tests.docs.format_reader import KEY, read
from tests.support.command import hf_models
from tests.support.fake_hub import Generated, HubServer, HubSpec, make_repo
from tests.support.fake_hub.content import read_all
from tests.support.publish import MIB, PACKS, check_directory, shrinking

DOCUMENT = Path("docs/image-format.md").resolve()
ODD = make_repo(
    "org/odd",
    {
        "README.md": b"---\nlicense: mit\n---\n# Odd\n",
        "a/config.json": b"{}",
        "a.json": b"{}",
        "b/na\u00efve \u540d.txt": b"x" * 5000,
        "c/" + "l" * 150 + ".txt": b"long",
        "empty.txt": b"",
        "half.safetensors": shrinking(5 * MIB + 17, 1),
        "sub/again.safetensors": shrinking(5 * MIB + 17, 1),
        "noise.bin": Generated(4 * MIB + 1, seed=2),
        "split.safetensors": shrinking(17 * MIB + 3, 3),
    },
)
HUB = HubSpec((PACKS, ODD))


def build(hub: HubServer, monkeypatch: pytest.MonkeyPatch, directory: Path, *more: str) -> Path:
    """Build a layout and return its directory."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.chdir(directory)
    hf_models("build", *more, "--engine=layout", "--base=none", "--tag=x", "--quiet", code=0)
    return directory / "dist/x"


@pytest.mark.parametrize("compress", ["none", "auto", "zstd"])
@pytest.mark.parametrize("layer_size", ["2MiB", "64MiB"])
def test_a_reader_written_from_the_document(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compress: str,
    layer_size: str,
) -> None:
    flags = (f"--compress={compress}", f"--layer-size={layer_size}")
    layout = build(hub, monkeypatch, tmp_path, "org/packs", *flags)
    read(layout, tmp_path / "out")
    check_directory(tmp_path / "out", PACKS)


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def images_of(layout: Path) -> list[dict[str, Any]]:
    """Return the index of the image and its manifests."""
    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    index = json.loads(blob(layout, entry["digest"]).read_bytes())
    entries = index["manifests"]
    return [index, *(json.loads(blob(layout, item["digest"]).read_bytes()) for item in entries)]


@pytest.mark.parametrize("models_dir", ["/models", "/a/b", "none"])
def test_a_writer_written_from_the_document_makes_the_same_tars(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_dir: str
) -> None:
    flags = ("--compress=both", "--layer-size=12MiB", f"--models-dir={models_dir}")
    layout = build(hub, monkeypatch, tmp_path, "org/odd", *flags)
    contents = {file.oid: read_all(file.source) for file in ODD.files().values()}
    _, plain, _, packed, *_ = images_of(layout)
    with tarfile.open(blob(layout, plain["layers"][-1]["digest"])) as metadata:
        [name] = [name for name in metadata.getnames() if re.search(r"/plans/.+json", name)]
        file = metadata.extractfile(name)
        assert file is not None
        plan = json.load(file)
    forms = set()
    for layers in (plain["layers"], packed["layers"]):
        for planned, layer in zip(plan["layers"], layers, strict=False):
            folder, members, groups = format_writer.members(plan, planned, contents.__getitem__)
            notes, tar = layer["annotations"], format_writer.tar(groups)
            digest = f"sha256:{hashlib.sha256(tar).hexdigest()}"
            assert notes[f"{KEY}key"] == format_writer.key(folder, members)
            said = json.loads(notes[f"{KEY}members"])
            for oid, size, start, count, *at in said:
                whole = contents[oid]
                assert size == len(whole)
                begin = at[0] if at else 0
                assert tar[start : start + count] == whole[begin : begin + count]
            is_packed = layer["mediaType"].endswith("+zstd")
            forms.add(is_packed)
            if not is_packed:
                assert layer["digest"] == digest
                continue
            assert (notes[f"{KEY}diff-id"], notes[f"{KEY}seekable"]) == (digest, layer["digest"])
            data = blob(layout, layer["digest"]).read_bytes()
            number = struct.unpack("<IBI", data[-9:])[0]
            table = list(struct.iter_unpack("<II", data[-9 - 8 * number : -9]))
            large = [(at, at + n) for _, _, at, n, *part in said if part or n > 4 * MIB]
            assert [size for _, size in table] == format_writer.frames(len(tar), large)
    assert forms == {False, True}


def test_the_document_names_every_label_and_annotation(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = build(hub, monkeypatch, tmp_path, "org/odd", "--compress=both", "--layer-size=12MiB")
    index, *manifests = images_of(layout)
    keys = set(index["annotations"])
    for item in (
        *index["manifests"],
        *manifests,
        *(manifests[0]["layers"] + manifests[2]["layers"]),
    ):
        keys |= set(item.get("annotations", {}))
    text = DOCUMENT.read_text()
    for key in sorted(keys):
        name = re.sub(r"^(org\.opencontainers\.image|io\.github\.alphahinex\.hf-models)\.", "", key)
        assert re.search(rf"[`.]{re.escape(name)}\W", text), key
