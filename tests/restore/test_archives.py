"""Archives and directories that others write: each restores to the same verified cache."""

import bz2
import io
import json
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command import hf_models, without_overriding_modes
from tests.support.make_archive import CACHE, FILES, LAYERS, entry_of, packed, write_archive
from tests.support.make_image import (
    HUB,
    Member,
    RawLayer,
    cache_members,
    lfs_oid,
    put_image,
    put_ours,
    tar_of,
)
from tests.support.restore import check_cache, layout, pack, restore, restored

Pack = Callable[[bytes], bytes]


@pytest.mark.parametrize("outer", [bytes, packed], ids=["tar", "tar.gz"])
def test_docker_archive_with_gzip_layers(tmp_path: Path, outer: Pack) -> None:
    image = entry_of(LAYERS, [packed(layer) for layer in LAYERS], "me/x:t")
    archive = write_archive(tmp_path / "image.tar", image)
    archive.write_bytes(outer(archive.read_bytes()))
    restored(archive, tmp_path / "cache")
    check_cache(tmp_path / "cache", FILES, has_tree=False)


@pytest.mark.parametrize("outer", [bytes, packed], ids=["tar", "tar.gz"])
def test_gzip_layer_with_other_bytes_than_its_config_names(tmp_path: Path, outer: Pack) -> None:
    other = tar_of([Member("etc/hostname", b"other\n")])
    image = entry_of(LAYERS, [packed(other), packed(LAYERS[1])], "me/x:t")
    archive = write_archive(tmp_path / "image.tar", image)
    archive.write_bytes(outer(archive.read_bytes()))
    ran = restore(archive, tmp_path / "cache", code=6)
    assert f"sha256:{lfs_oid(LAYERS[0])}" in ran.err


def test_two_images_of_one_short_tag_are_named_whole(tmp_path: Path) -> None:
    other = {"other.txt": b"other\n"}
    more = [tar_of(cache_members(other, "org/other"))]
    archive = write_archive(
        tmp_path / "image.tar",
        entry_of(LAYERS, LAYERS, "registry.example:5000/me/one:t"),
        entry_of(more, more, "me/two:t"),
    )
    ran = restore(f"{archive}:t", tmp_path / "cache", code=2)
    assert "me/two:t, registry.example:5000/me/one:t" in ran.err
    restored(f"{archive}:registry.example:5000/me/one:t", tmp_path / "cache")
    check_cache(tmp_path / "cache", FILES, has_tree=False)
    restored(f"{archive}:me/two:t", tmp_path / "cache")
    check_cache(tmp_path / "cache", other, folder="models--org--other", has_tree=False)


def test_layout_that_lists_the_manifests_of_its_index_too(tmp_path: Path) -> None:
    root = tmp_path / "image"
    put_ours(layout(root), FILES, "one")
    path = root / "index.json"
    index = json.loads(path.read_text())
    top = index["manifests"][0]
    nested = json.loads((root / "blobs/sha256" / top["digest"][7:]).read_text())
    inner = nested.get("manifests") or [{**top, "annotations": {}}]
    path.write_text(json.dumps({**index, "manifests": [*inner, top]}))
    restored(root, tmp_path / "cache")
    check_cache(tmp_path / "cache", FILES)


def test_directory_of_skopeo(tmp_path: Path) -> None:
    root, flat = tmp_path / "image", tmp_path / "flat"
    put_image(layout(root), [RawLayer(layer) for layer in LAYERS])
    flat.mkdir()
    for blob in (root / "blobs/sha256").iterdir():
        shutil.copy(blob, flat / blob.name)
    index = json.loads((root / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    (flat / digest).rename(flat / "manifest.json")
    (flat / "version").write_text("Directory Transport Version: 1.1\n")
    for source in (str(flat), f"dir:{flat}"):
        restored(source, tmp_path / "cache")
    check_cache(tmp_path / "cache", FILES, has_tree=False)


@pytest.mark.parametrize("compress", [lzma.compress, bz2.compress], ids=["xz", "bz2"])
def test_archive_compressed_with_xz_or_bzip2(tmp_path: Path, compress: Pack) -> None:
    put_image(layout(tmp_path / "image"), [RawLayer(layer) for layer in LAYERS])
    archive = pack(tmp_path / "image", tmp_path / "image.tar")
    data = archive.read_bytes()
    half = len(data) // 2
    archive.write_bytes(compress(data[:half]) + compress(data[half:]))  # two streams, as pxz does
    restored(archive, tmp_path / "cache")
    check_cache(tmp_path / "cache", FILES, has_tree=False)
    whole = compress(data)
    archive.write_bytes(whole[: len(whole) // 2])
    ran = restore(archive, tmp_path / "again", code=5)
    assert "got damage" in ran.err


@pytest.mark.parametrize(
    "outer", [bytes, packed, lzma.compress, bz2.compress], ids=["tar", "gz", "xz", "bz2"]
)
def test_root_file_system_as_a_tar(tmp_path: Path, outer: Pack) -> None:
    root = [Member("bin/sh", b"#!"), *cache_members(FILES)]
    archive = tmp_path / "root.tar"
    archive.write_bytes(outer(tar_of(root)))
    restored(archive, tmp_path / "cache")
    check_cache(tmp_path / "cache", FILES, has_tree=False)


def test_tar_that_is_no_image_says_so(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(tar_of([Member("readme.txt", b"x")]))
    ran = restore(archive, tmp_path / "cache", code=2)
    assert "want an OCI image layout or what docker save writes" in ran.err


def unpack(members: list[Member], root: Path) -> Path:
    """Write a root file system into a directory, as ``tar -x`` does."""
    with tarfile.open(fileobj=io.BytesIO(tar_of(members))) as tar:
        tar.extractall(root, filter="fully_trusted")
    return root


@pytest.mark.parametrize("where", ["root/.cache/huggingface/hub", "data/hf/hub", "hub"])
def test_root_file_system_as_a_directory(tmp_path: Path, where: str) -> None:
    members = [replace(member, path=member.path.replace(HUB, where)) for member in CACHE]
    root = unpack([Member("bin/sh", b"#!"), *members], tmp_path / "root")
    restored(root, tmp_path / "cache")
    check_cache(tmp_path / "cache", FILES, has_tree=False)
    shown = hf_models("inspect", root, "--json", code=0)
    assert shown.json["kind"] == "image"


def test_root_file_system_as_a_directory_and_its_tar_are_one_image(tmp_path: Path) -> None:
    root = unpack([Member("etc/hostname", b"x"), *CACHE], tmp_path / "root")
    found = restored(root, tmp_path / "cache", "--dry-run")
    blob = next((root / HUB).rglob("blobs/*"))
    verified = hf_models("verify", root, "--json", code=0)
    assert verified.json["size_bytes"] == found["fetched_bytes"]
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert hf_models("verify", root).code == 6
    assert restore(root, tmp_path / "cache").code == 6


def test_models_in_a_root_directory_are_restored_as_plain_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path, data in FILES.items():
        (root / "models" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "models" / path).write_bytes(data)
    (root / "models/linked.txt").symlink_to("/models/vocab.txt")
    (root / "models/.wh.removed").write_bytes(b"")
    (root / "models/outside").symlink_to("../../../etc/passwd")
    os.mkfifo(root / "models/fifo")
    ran = hf_models("restore", root, "--local-dir", tmp_path / "out", code=0)
    assert "has no content for outside" in ran.err
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    names = {path for path in files if not (tmp_path / "out" / path).is_dir()}
    assert {n for n in names if not n.startswith(".hf-models")} == {*FILES, "linked.txt"}
    assert (tmp_path / "out/linked.txt").read_bytes() == FILES["vocab.txt"]


def test_directory_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    unpack(CACHE, tmp_path / "other")
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    (root / "root").symlink_to(tmp_path / "other/root")
    ran = restore(root, tmp_path / "cache", code=2)
    assert "neither a Hugging Face cache nor models" in ran.err


@pytest.mark.parametrize("what", ["models/a.bin", "models/sub"])
def test_part_of_a_root_directory_that_cannot_be_read_is_named(tmp_path: Path, what: str) -> None:
    root = tmp_path / "root"
    (root / "models/sub").mkdir(parents=True)
    (root / "etc/ssl/private").mkdir(parents=True)
    (root / "models/a.bin").write_bytes(b"a")
    (root / "models/sub/b.bin").write_bytes(b"b")
    (root / "etc/ssl/private").chmod(0)
    code, said = without_overriding_modes("restore", root, "--local-dir", tmp_path / "out")
    assert code == 0, said
    assert f"{root / 'etc/ssl/private'}: Permission denied; leaving it out" in said
    (root / what).chmod(0)
    code, said = without_overriding_modes("restore", root, "--local-dir", tmp_path / "again")
    assert code == 7, said
    assert f"{root / what}: Permission denied" in said


def test_directory_that_is_no_image_is_an_error_with_the_readable_kinds(tmp_path: Path) -> None:
    root = tmp_path / "directory"
    (root / "things").mkdir(parents=True)
    ran = restore(root, tmp_path / "cache", code=2)
    assert "got a directory with neither index.json nor manifest.json" in ran.err
    assert "a root file system is read as well" in ran.err
