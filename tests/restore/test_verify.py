"""``verify``: a cache or an image against its own names, offline."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from downloader.plan import make_plan
from tests.support.command import call, hf_models
from tests.support.make_image import (
    COMMIT,
    HUB,
    MIB,
    Member,
    RawLayer,
    blobs_of,
    cache_members,
    layer_bytes,
    layer_of,
    lfs_oid,
    link,
    make_snapshot,
    our_layers,
    put_image,
    put_ours,
)
from tests.support.restore import FILES, FOLDER, layout, pack, registry, restored

pytestmark = pytest.mark.portable

MODEL = lfs_oid(FILES["a.safetensors"])


def verify(target: str | Path, *more: str) -> tuple[int, Any]:
    ran = hf_models("verify", target, "--json", *more)
    return ran.code, json.loads(ran.out) if ran.out else ran.err


def findings(document: Any) -> set[tuple[str, str]]:
    return {
        (item["kind"], item["path"].removeprefix(f"{FOLDER}/")) for item in document["findings"]
    }


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    put_ours(layout(root), FILES)
    restored(root, tmp_path / "hub")
    return tmp_path / "hub"


def test_a_right_cache(cache: Path) -> None:
    code, document = verify(cache)
    assert (code, document["good"], document["findings"]) == (0, True, [])
    assert document["files"] == len(FILES)


def test_a_cache_with_wrong_missing_and_extra_files(cache: Path) -> None:
    blobs = cache / FOLDER / "blobs"
    with (blobs / MODEL).open("r+b") as file:
        file.write(b"wrong")
    gone = blobs / lfs_oid(FILES["sub folder/b.bin"])
    gone.unlink()
    (blobs / ("0" * 64)).write_bytes(b"")
    code, document = verify(cache)
    assert code == 6
    assert ("wrong", f"blobs/{MODEL}") in findings(document)
    assert ("missing", f"blobs/{gone.name}") in findings(document)
    assert ("extra", f"blobs/{'0' * 64}") in findings(document)


def test_directory_without_a_cache_is_an_input_error(tmp_path: Path) -> None:
    ran = hf_models("verify", tmp_path, code=2)
    assert ran.err.startswith("verify") or "error:" in ran.err


@pytest.mark.parametrize("limit_bytes", [9_500_000_000, 2 * MIB])
def test_a_right_layout(tmp_path: Path, limit_bytes: int) -> None:
    put_ours(layout(tmp_path), FILES, layer_limit_bytes=limit_bytes)
    code, document = verify(tmp_path)
    assert (code, document["findings"]) == (0, [])
    assert document["files"] == len(FILES)


def test_the_last_line_of_progress_has_all_bytes_and_layers(tmp_path: Path) -> None:
    put_ours(layout(tmp_path), FILES, layer_limit_bytes=2 * MIB)
    last = hf_models("verify", str(tmp_path)).err.splitlines()[-1]
    found = re.match(r"verify: (.+) of (.+), (\d+)/(\d+) layers, ", last)
    assert found, last
    assert (found[1], found[3]) == (found[2], found[4])


@pytest.mark.parametrize("pack_name", ["image.tar", "image.tar.gz", "image.tar.zst"])
def test_a_right_archive(tmp_path: Path, pack_name: str) -> None:
    put_ours(layout(tmp_path / "layout"), FILES, layer_limit_bytes=2 * MIB)
    archive = pack(tmp_path / "layout", tmp_path / pack_name)
    assert verify(archive)[0] == 0


@pytest.mark.docker
def test_a_right_image_in_a_registry() -> None:
    name, store = registry()
    put_ours(store, FILES, tag="right")
    assert verify(f"{name}:right")[0] == 0


def test_parts_that_lie_in_another_order(tmp_path: Path) -> None:
    plan = make_plan(make_snapshot(FILES), layer_limit_bytes=2 * MIB)
    first, *layers, last = our_layers(plan, FILES, annotated=False)
    put_image(layout(tmp_path), [*reversed(layers), first, last])
    code, document = verify(tmp_path)
    assert (code, document["findings"]) == (0, [])


def test_wrong_bytes_in_a_part(tmp_path: Path) -> None:
    plan = make_plan(make_snapshot(FILES), layer_limit_bytes=2 * MIB)
    wrong = {**FILES, "a.safetensors": b"wrong" + FILES["a.safetensors"][5:]}
    blobs = dict(
        zip(blobs_of(FILES, plan.snapshot), blobs_of(wrong, plan.snapshot).values(), strict=True)
    )
    layers = [RawLayer(layer_bytes(layer, blobs)) for layer in plan.layers]
    put_image(layout(tmp_path), [*layers, our_layers(plan, FILES)[-1]])
    code, document = verify(tmp_path)
    assert code == 6
    assert findings(document) == {("wrong", f"blobs/{MODEL}")}


def test_wrong_bytes_in_an_image(tmp_path: Path) -> None:
    members = cache_members(FILES)
    wrong = [
        replace(member, data=b"wrong" + member.data[5:]) if member.path.endswith(MODEL) else member
        for member in members
    ]
    put_image(layout(tmp_path), [layer_of(*wrong)])
    code, document = verify(tmp_path)
    assert code == 6
    assert findings(document) == {("wrong", f"blobs/{MODEL}")}


def test_a_promised_file_that_is_not_there(tmp_path: Path) -> None:
    plan = make_plan(make_snapshot(FILES))
    without = {path: data for path, data in FILES.items() if path != "a.safetensors"}
    layers = our_layers(plan, FILES, annotated=False)
    put_image(
        layout(tmp_path),
        [layer_of(*cache_members(without)), layers[-1]],
    )
    code, document = verify(tmp_path)
    assert code == 6
    assert findings(document) == {("missing", f"snapshots/{COMMIT}/a.safetensors")}


def test_unlinked_blob_and_unlisted_file(tmp_path: Path) -> None:
    plan = make_plan(make_snapshot(FILES))
    root = f"{HUB}/{FOLDER}"
    orphan, more = b"nobody wants me", b"more"
    extra = layer_of(
        Member(f"{root}/blobs/{lfs_oid(orphan)}", orphan),
        Member(f"{root}/blobs/{lfs_oid(more)}", more),
        link(f"{root}/snapshots/{COMMIT}/more.bin", f"../../blobs/{lfs_oid(more)}"),
    )
    put_image(layout(tmp_path), [*our_layers(plan, FILES), extra])
    code, document = verify(tmp_path)
    assert code == 0
    assert findings(document) == {
        ("extra", f"blobs/{lfs_oid(orphan)}"),
        ("extra", f"snapshots/{COMMIT}/more.bin"),
    }


def test_a_layer_with_other_bytes_than_its_digest(tmp_path: Path) -> None:
    put_ours(layout(tmp_path), FILES)
    largest = max((tmp_path / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(MIB)
        file.write(b"wrong")
    ran = hf_models("verify", tmp_path, code=6)
    assert f"want layer sha256:{largest.name}" in ran.err


def test_an_image_without_a_cache(tmp_path: Path) -> None:
    put_image(layout(tmp_path), [layer_of(Member("etc/passwd", b"root"))])
    ran = hf_models("verify", tmp_path, code=5)
    assert "no Hugging Face cache in it" in ran.err


@pytest.mark.docker
def test_an_image_in_the_engine(tmp_path: Path) -> None:
    name, store = registry()
    put_ours(store, FILES, tag="engine", layer_limit_bytes=2 * MIB)
    image = f"{name}:engine"
    call("docker", "pull", "-q", image)
    try:
        code, document = verify(f"docker-daemon:{image}")
    finally:
        call("docker", "image", "rm", image)
    assert (code, document["findings"]) == (0, [])
    assert document["files"] == len(FILES)
