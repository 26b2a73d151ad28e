"""``restore`` and ``inspect``: every kind of source, every choice of files, every target."""

from __future__ import annotations

import gzip
import json
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import zstandard
from huggingface_hub import scan_cache_dir, snapshot_download

from downloader.hub.cache import iter_metadata_entries
from downloader.image import EXPORT_PATH, METADATA_ANNOTATIONS, labels
from downloader.oci.tar_write import TarEntry, iter_tar, lay_out
from downloader.plan import make_plan
from tests.support.command import call, hf_models
from tests.support.fake_hub import HubServer, make_repo
from tests.support.make_image import (
    COMMIT,
    HUB,
    MIB,
    Member,
    RawLayer,
    cache_members,
    git_oid,
    hard_link,
    layer_of,
    lfs_oid,
    link,
    make_snapshot,
    our_layers,
    put_image,
    put_ours,
    tar_of,
)
from tests.support.restore import (
    FILES,
    FOLDER,
    check_blobs,
    check_cache,
    layout,
    pack,
    registry,
    restore,
    restored,
)

TOTAL_BYTES = sum(len(data) for data in FILES.values())
BLOB_BYTES = sum(len(data) for data in set(FILES.values()))
SMALL = {path: data for path, data in FILES.items() if len(data) < MIB}


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """An image of this project in a layout directory."""
    root = tmp_path / "image"
    put_ours(layout(root), FILES)
    return root


# Sources


def test_a_layout_of_ours(ours: Path, tmp_path: Path) -> None:
    report = restored(ours, tmp_path / "cache")
    check_cache(tmp_path / "cache")
    assert report["fetched_bytes"] == BLOB_BYTES
    assert report["snapshots"][0]["commit"] == COMMIT


def test_split_files_are_joined(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES, layer_limit_bytes=3 * MIB)
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_a_layout_without_annotations(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES, annotated=False)
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_split_files_without_annotations(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES, annotated=False, layer_limit_bytes=3 * MIB)
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache")


@pytest.mark.parametrize("layer_limit_bytes", [3 * MIB, 9_500_000_000], ids=["split", "whole"])
def test_an_image_of_format_1(tmp_path: Path, layer_limit_bytes: int) -> None:
    plan = make_plan(make_snapshot(FILES), layer_limit_bytes=layer_limit_bytes, models_dir="none")
    *layers, _, _ = our_layers(plan, FILES)
    document = plan.to_json() | {"format_version": 1}
    for key in ("models_dir", "compress", "receiver"):
        del document[key]
    data = {EXPORT_PATH: b"#!/bin/sh"}
    entries = [TarEntry(EXPORT_PATH, size_bytes=len(data[EXPORT_PATH]), executable=True)]
    extra = {f"plans/{COMMIT}.json": json.dumps(document).encode()}
    for entry in iter_metadata_entries(plan.snapshot, extra):
        path = f"{plan.folder}/{entry.path}"
        entries.append(TarEntry(path, entry.kind, len(entry.data), entry.target))
        data[path] = entry.data
    placed = lay_out(entries)
    contents = [data[item.entry.path] for item in placed.entries if item.entry.kind == "file"]
    metadata = b"".join(iter_tar(placed, contents))
    layers.append(RawLayer(metadata, annotations=METADATA_ANNOTATIONS))
    said = {key: value for key, value in labels(plan).items() if not key.endswith(".format")}
    config = {"architecture": "amd64", "os": "linux", "config": {"Labels": said}}
    image = tmp_path / "image"
    put_image(layout(image), layers, config=config, annotations=said)
    report = restored(image, tmp_path / "cache")
    check_cache(tmp_path / "cache")
    assert report["fetched_bytes"] == BLOB_BYTES
    assert hf_models("verify", image).code == 0


def as_plain(directory: Path, tmp_path: Path) -> Path:
    return pack(directory, tmp_path / "image.tar")


def as_gzip(directory: Path, tmp_path: Path) -> Path:
    return pack(directory, tmp_path / "image.tar.gz", "w:gz")


def as_zstd(directory: Path, tmp_path: Path) -> Path:
    plain = pack(directory, tmp_path / "image.tar")
    archive = tmp_path / "image.tar.zst"
    archive.write_bytes(zstandard.compress(plain.read_bytes(), 1))
    return archive


@pytest.mark.parametrize("form", [as_plain, as_gzip, as_zstd])
def test_an_oci_archive(form: Callable[[Path, Path], Path], ours: Path, tmp_path: Path) -> None:
    archive = form(ours, tmp_path)
    restored(archive, tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_split_files_in_a_compressed_archive(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES, layer_limit_bytes=3 * MIB)
    restored(as_gzip(tmp_path / "image", tmp_path), tmp_path / "cache")
    check_cache(tmp_path / "cache")


def docker_save(tmp_path: Path, *, twin_link: bool = False) -> Path:
    """What docker save wrote before version 25, layers named by no digest."""
    layers = [tar_of(cache_members(FILES)), tar_of([Member("etc/hostname", b"x\n")])]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{lfs_oid(x)}" for x in layers]},
        }
    ).encode()
    paths = [f"{at}{'0' * 60}/layer.tar" for at in range(2)]
    members = [Member(path, data) for path, data in zip(paths, layers, strict=True)]
    if twin_link:
        members[0] = Member("real/layer.tar", layers[0])
        members.append(link(paths[0], "../real/layer.tar"))
    name = f"{lfs_oid(config)}.json"
    manifest = [{"Config": name, "RepoTags": ["me/model:latest"], "Layers": paths}]
    members += [Member(name, config), Member("manifest.json", json.dumps(manifest).encode())]
    archive = tmp_path / "saved.tar"
    archive.write_bytes(tar_of(members))
    return archive


@pytest.mark.parametrize("twin_link", [False, True])
def test_archive_of_docker_save_before_oci(tmp_path: Path, twin_link: bool) -> None:
    archive = docker_save(tmp_path, twin_link=twin_link)
    restored(archive, tmp_path / "cache")
    check_cache(tmp_path / "cache", has_tree=False)


def test_compressed_archive_of_docker_save_before_oci(tmp_path: Path) -> None:
    archive = docker_save(tmp_path, twin_link=True)
    packed = tmp_path / "saved.tgz"
    packed.write_bytes(gzip.compress(archive.read_bytes(), 1))
    restored(packed, tmp_path / "cache")
    check_cache(tmp_path / "cache", has_tree=False)


def test_one_of_several_images_of_a_layout_is_named(tmp_path: Path) -> None:
    other = {"other.txt": b"other\n"}
    store = layout(tmp_path / "image")
    put_ours(store, FILES, "one")
    put_ours(store, other, "two", snapshot=make_snapshot(other, "org/other"))
    ran = restore(tmp_path / "image", tmp_path / "cache", code=2)
    assert "one, two" in ran.err
    restored(f"{tmp_path / 'image'}:two", tmp_path / "cache")
    check_cache(tmp_path / "cache", other, folder="models--org--other")


@pytest.mark.parametrize("compress", ["gzipped", "zstandard"])
def test_an_image_of_one_compressed_layer(tmp_path: Path, compress: str) -> None:
    layer = getattr(RawLayer(tar_of(cache_members(FILES))), compress)()
    put_image(layout(tmp_path / "image"), [layer])
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", has_tree=False)


def test_a_layer_of_several_gzip_members(tmp_path: Path) -> None:
    tar = tar_of(cache_members(FILES))
    halves = [tar[: len(tar) // 2], tar[len(tar) // 2 :]]
    layer = RawLayer(tar).gzipped()
    layer.data = b"".join(gzip.compress(half, 1) for half in halves)
    put_image(layout(tmp_path / "image"), [layer])
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", has_tree=False)


@pytest.mark.docker
def test_a_registry(tmp_path: Path) -> None:
    name, store = registry()
    digest = put_ours(store, FILES, "tag")
    for reference in (f"{name}:tag", f"{name}@{digest}"):
        report = restored(reference, tmp_path / "cache")
        assert report["snapshots"][0]["digest"] == digest
        check_cache(tmp_path / "cache")


@pytest.mark.docker
def test_a_tag_that_is_not_there(tmp_path: Path) -> None:
    name, _ = registry()
    ran = restore(f"{name}:missing", tmp_path / "cache", code=3)
    assert "not found" in ran.err


def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    assert restore("./missing.tar", tmp_path / "cache").code == 2


def test_an_image_without_a_cache(tmp_path: Path) -> None:
    put_image(layout(tmp_path / "image"), [layer_of(Member("etc/hostname", b"x\n"))])
    ran = restore(tmp_path / "image", tmp_path / "cache", code=2)
    assert "neither a Hugging Face cache nor models" in ran.err


# Images of others


def test_absolute_links(tmp_path: Path) -> None:
    members = [
        Member(m.path, m.data, m.type, m.target.replace("../../", f"/{HUB}/{FOLDER}/"))
        if m.target.startswith("../../blobs")
        else m
        for m in cache_members(SMALL)
    ]
    put_image(layout(tmp_path / "image"), [layer_of(*members)])
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", SMALL, has_tree=False)


def test_a_cache_behind_a_linked_directory(tmp_path: Path) -> None:
    base = layer_of(link("root/.cache", "/data"), link("root/loop", "loop"))
    put_image(layout(tmp_path / "image"), [base, layer_of(*cache_members(SMALL))])
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", SMALL, has_tree=False)


def test_a_cache_elsewhere_and_of_two_repos(tmp_path: Path) -> None:
    other = {"other.txt": b"other\n"}
    put_image(
        layout(tmp_path / "image"),
        [
            layer_of(*cache_members(SMALL, hub="opt/hf/hub")),
            layer_of(*cache_members(other, repo="org/other", hub="data")),
        ],
    )
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", SMALL, has_tree=False)
    check_cache(tmp_path / "cache", other, folder="models--org--other", has_tree=False)


def test_plain_files_in_the_snapshot(tmp_path: Path) -> None:
    root = f"{HUB}/{FOLDER}"
    members = [Member(f"{root}/snapshots/{COMMIT}/{path}", data) for path, data in SMALL.items()]
    put_image(
        layout(tmp_path / "image"),
        [layer_of(*members, Member(f"{root}/refs/main", COMMIT.encode()))],
    )
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", SMALL, has_tree=False)


def test_the_shared_store_of_the_library(tmp_path: Path) -> None:
    data = FILES["a.safetensors"]
    root, xet = f"{HUB}/{FOLDER}", "ab" * 32
    layer = layer_of(
        Member(f"{HUB}/blobs/ab/{xet}", data),
        link(f"{root}/blobs/{lfs_oid(data)}", f"../../blobs/ab/{xet}"),
        link(f"{root}/snapshots/{COMMIT}/a.safetensors", f"../../blobs/{lfs_oid(data)}"),
        Member(f"{root}/refs/main", COMMIT.encode()),
    )
    for form in (layer, layer.gzipped()):
        put_image(layout(tmp_path / form.media_type[-4:]), [form])
        cache = tmp_path / f"cache{form.media_type[-4:]}"
        restored(tmp_path / form.media_type[-4:], cache)
        check_cache(cache, {"a.safetensors": data}, has_tree=False)


def test_hard_links_inside_a_layer(tmp_path: Path) -> None:
    root = f"{HUB}/{FOLDER}"
    blob = f"{root}/blobs/{git_oid(b'hello')}"
    layer = layer_of(
        Member(blob, b"hello"),
        hard_link(f"{root}/snapshots/{COMMIT}/one.txt", blob),
        link(f"{root}/snapshots/{COMMIT}/two.txt", f"../../blobs/{git_oid(b'hello')}"),
        Member(f"{root}/refs/main", COMMIT.encode()),
    )
    put_image(layout(tmp_path / "image"), [layer])
    restored(tmp_path / "image", tmp_path / "cache")
    files = {"one.txt": b"hello", "two.txt": b"hello"}
    check_cache(tmp_path / "cache", files, has_tree=False)


def test_a_whiteout_removes_a_file_of_a_lower_layer(tmp_path: Path) -> None:
    gone = Member(f"{HUB}/{FOLDER}/snapshots/{COMMIT}/.wh.vocab.txt")
    put_image(layout(tmp_path / "image"), [layer_of(*cache_members(SMALL)), layer_of(gone)])
    restored(tmp_path / "image", tmp_path / "cache")
    left = {path: data for path, data in SMALL.items() if path != "vocab.txt"}
    check_cache(tmp_path / "cache", left, has_tree=False)


def test_an_opaque_directory_hides_a_lower_layer(tmp_path: Path) -> None:
    old, new = {"old.txt": b"old\n"}, {"new.txt": b"new\n"}
    root = f"{HUB}/{FOLDER}"
    top = [Member(f"{root}/snapshots/{COMMIT}/.wh..wh..opq"), *cache_members(new)]
    put_image(layout(tmp_path / "image"), [layer_of(*cache_members(old)), layer_of(*top)])
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", new, has_tree=False)


def test_an_upper_layer_overwrites_a_ref_and_a_wrong_blob(tmp_path: Path) -> None:
    wrong = [
        Member(m.path, b"x" * len(m.data), m.type, m.target) if "/blobs/" in m.path else m
        for m in cache_members(SMALL)
    ]
    lower = layer_of(*wrong, Member(f"{HUB}/{FOLDER}/refs/main", b"f" * 40))
    for form in (lower, lower.gzipped()):
        image, cache = tmp_path / form.media_type[-4:], tmp_path / f"cache{form.media_type[-4:]}"
        put_image(layout(image), [form, layer_of(*cache_members(SMALL))])
        restored(image, cache)
        check_cache(cache, SMALL, has_tree=False)


def test_a_link_to_a_removed_blob_is_left_out_and_reported(tmp_path: Path) -> None:
    gone = Member(f"{HUB}/{FOLDER}/blobs/.wh.{git_oid(b'name' + bytes([10]))}")
    put_image(layout(tmp_path / "image"), [layer_of(*cache_members(SMALL)), layer_of(gone)])
    report = restored(tmp_path / "image", tmp_path / "cache")
    assert report["snapshots"][0]["missing"] == ["ünïcode/#%?.txt"]
    left = {path: data for path, data in SMALL.items() if data != b"name\n"}
    check_cache(tmp_path / "cache", left, has_tree=False)


# Targets


def test_the_library_loads_the_restored_cache(ours: Path, tmp_path: Path) -> None:
    restored(ours, tmp_path / "cache")
    for revision in ("main", COMMIT):
        found = snapshot_download(
            "org/model", revision=revision, cache_dir=tmp_path / "cache", local_files_only=True
        )
        assert Path(found).name == COMMIT
    scanned = scan_cache_dir(tmp_path / "cache")
    assert not scanned.warnings
    assert [(repo.repo_id, repo.nb_files) for repo in scanned.repos] == [
        ("org/model", 6)
    ]  # contents, not paths


def test_the_librarys_own_commands_find_nothing_wrong(tmp_path: Path) -> None:
    repo, cache = make_repo("org/model", dict(FILES)), tmp_path / "home" / "hub"
    put_ours(layout(tmp_path / "image"), FILES, snapshot=make_snapshot(FILES, commit=repo.sha))
    restored(tmp_path / "image", cache)
    with HubServer([repo]) as hub:
        names = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint}
        strict = ["--fail-on-missing-files", "--fail-on-extra-files"]
        said = hf(["cache", "verify", "org/model", *strict, "--format", "json"], names)
    assert json.loads(said)["checked"] == len(FILES)
    listed = json.loads(hf(["cache", "ls", "--format", "json"], names | {"HF_HUB_OFFLINE": "1"}))
    assert [(entry["repo_id"], entry["refs"]) for entry in listed] == [("org/model", ["main"])]


def hf(arguments: list[str], names: Mapping[str, str]) -> str:
    """Run a command of huggingface_hub, which must work, and return what it prints."""
    program = "from huggingface_hub.cli.hf import main; main()"
    return call(sys.executable, "-c", program, *arguments, env=names)


def test_a_local_directory(ours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for kept_bytes in (0, BLOB_BYTES):
        ran = hf_models("restore", ours, "--local-dir", out, "--json", code=0)
        found = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file()}
        assert {path: p.read_bytes() for path, p in found.items()} == FILES
        assert not any(p.is_symlink() for p in found.values())
        assert ran.json["kept_bytes"] == kept_bytes


def test_a_local_directory_keeps_a_repo_s_own_files_of_our_private_name(tmp_path: Path) -> None:
    files = {".hf-models/blobs/z.json": b"mine", ".hf-models_/x": b"too", "config.json": b"{}"}
    put_ours(layout(tmp_path / "image"), files)
    out = tmp_path / "out"
    for _ in range(2):
        assert hf_models("restore", tmp_path / "image", "--local-dir", out).code == 0
        found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        assert found == files


def test_a_local_directory_replaces_a_file_of_the_same_size(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vocab.txt").write_bytes(b"HELLO\n")
    assert hf_models("restore", ours, "--local-dir", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == b"hello\n"


def test_cache_and_local_directory_exclude_each_other(ours: Path, tmp_path: Path) -> None:
    assert restore(ours, tmp_path / "cache", "--local-dir", tmp_path / "out").code == 2


def test_a_cache_that_cannot_be_written(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    ran = restore(ours, tmp_path / "cache", code=7)
    assert "cache" in ran.err


# What is there already


def test_present_files_are_not_fetched_again(ours: Path, tmp_path: Path) -> None:
    restored(ours, tmp_path / "cache")
    report = restored(ours, tmp_path / "cache")
    assert report["fetched_bytes"] == 0
    assert report["kept_bytes"] == BLOB_BYTES


def test_a_blob_of_the_wrong_size_is_fetched_again(ours: Path, tmp_path: Path) -> None:
    restored(ours, tmp_path / "cache")
    blob = tmp_path / "cache" / FOLDER / "blobs" / lfs_oid(FILES["a.safetensors"])
    blob.write_bytes(b"short")
    restored(ours, tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_a_blob_with_wrong_bytes_is_replaced(ours: Path, tmp_path: Path) -> None:
    restored(ours, tmp_path / "cache")
    blob = tmp_path / "cache" / FOLDER / "blobs" / lfs_oid(FILES["a.safetensors"])
    blob.write_bytes(bytes(blob.stat().st_size))
    report = restored(ours, tmp_path / "cache")
    assert report["fetched_bytes"] == len(FILES["a.safetensors"])
    check_cache(tmp_path / "cache")


def test_a_newer_image_moves_main(ours: Path, tmp_path: Path) -> None:
    restored(ours, tmp_path / "cache")
    newer = {**FILES, "vocab.txt": b"newer\n"}
    put_ours(layout(tmp_path / "newer"), newer, snapshot=make_snapshot(newer, commit="d" * 40))
    before = (tmp_path / "cache" / FOLDER / "refs" / "main").read_text()
    ran = restore(tmp_path / "newer", tmp_path / "cache", "--json")
    assert f"refs/main moved from {before} to {'d' * 40}" in ran.err
    assert ran.json["fetched_bytes"] == len(b"newer\n")
    assert (tmp_path / "cache" / FOLDER / "refs" / "main").read_text() == "d" * 40


def test_main_stays_where_the_image_is_of_another_revision(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    put_ours(layout(tmp_path / "new"), FILES)
    old = {**FILES, "vocab.txt": b"older\n"}
    put_ours(
        layout(tmp_path / "v1"), old, snapshot=make_snapshot(old, commit="d" * 40, revision="v1")
    )
    restored(tmp_path / "new", cache)
    newest = (cache / FOLDER / "refs" / "main").read_text()
    restored(tmp_path / "v1", cache)
    assert (cache / FOLDER / "refs" / "main").read_text() == newest
    assert (cache / FOLDER / "refs" / "v1").read_text() == "d" * 40


def test_a_named_revision_gets_its_ref(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), SMALL, snapshot=make_snapshot(SMALL, revision="v1.0"))
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", SMALL, ref="v1.0")


# Only some files


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["vocab.txt"], {"vocab.txt"}),
        (["sub folder/", "config.json"], {"sub folder/b.bin", "config.json"}),
        (["--include", "*.txt", "--exclude", "empty*"], None),
        (["--exclude", "*.safetensors", "--exclude", "*.bin"], set(SMALL)),
    ],
)
def test_only_some_files(
    ours: Path, tmp_path: Path, arguments: list[str], want: set[str] | None
) -> None:
    wanted = want or {"vocab.txt", "copy of vocab.txt", "ünïcode/#%?.txt"}
    files = {path: data for path, data in FILES.items() if path in wanted}
    report = restored(ours, tmp_path / "cache", *arguments)
    assert report["fetched_bytes"] == sum(len(data) for data in set(files.values()))
    check_cache(tmp_path / "cache", files, has_tree=False)


def test_only_some_files_of_a_compressed_layer(tmp_path: Path) -> None:
    layer = RawLayer(tar_of(cache_members(FILES))).gzipped()
    put_image(layout(tmp_path / "image"), [layer])
    restored(tmp_path / "image", tmp_path / "cache", "config.json")
    check_cache(tmp_path / "cache", {"config.json": FILES["config.json"]}, has_tree=False)


@pytest.mark.parametrize("arguments", [["no-such-file"], ["--include", "*.gguf"]])
def test_names_or_patterns_without_a_match_are_an_error(
    ours: Path, tmp_path: Path, arguments: list[str]
) -> None:
    assert restore(ours, tmp_path / "cache", *arguments).code == 2
    assert not (tmp_path / "cache").exists()


def test_several_images_fill_one_cache(tmp_path: Path) -> None:
    halves = [dict(list(FILES.items())[::2]), dict(list(FILES.items())[1::2])]
    for at, files in enumerate(halves):
        snapshot = make_snapshot(files, is_partial=True)
        put_ours(layout(tmp_path / f"image-0{at}"), files, snapshot=snapshot)
    ran = restore(
        tmp_path / "image-00", tmp_path / "cache", tmp_path / "image-01", "--quiet", code=0
    )
    assert ran.out.splitlines() == [str(tmp_path / "cache" / FOLDER / "snapshots" / COMMIT)]
    check_cache(tmp_path / "cache", has_tree=False)
    found = snapshot_download("org/model", cache_dir=tmp_path / "cache", local_files_only=True)
    assert Path(found).name == COMMIT


def test_a_partial_image_leaves_no_tree(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "i"), SMALL, snapshot=make_snapshot(SMALL, is_partial=True))
    restored(tmp_path / "i", tmp_path / "cache")
    check_cache(tmp_path / "cache", SMALL, has_tree=False)


def test_a_dry_run_writes_nothing(ours: Path, tmp_path: Path) -> None:
    report = restored(ours, tmp_path / "cache", "--dry-run", "--include", "*.bin")
    assert report["fetched_bytes"] == len(FILES["sub folder/b.bin"])
    assert [file["path"] for file in report["snapshots"][0]["listing"]] == ["sub folder/b.bin"]
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_of_a_compressed_layer_writes_nothing(tmp_path: Path) -> None:
    put_image(layout(tmp_path / "i"), [RawLayer(tar_of(cache_members(FILES))).gzipped()])
    report = restored(tmp_path / "i", tmp_path / "cache", "--dry-run")
    assert {file["path"] for file in report["snapshots"][0]["listing"]} == set(FILES)
    assert not (tmp_path / "cache").exists()


# inspect, and the command line


def test_inspect_shows_the_contents_of_an_image(ours: Path) -> None:
    ran = hf_models("inspect", ours, "--json", "--files", code=0)
    found = ran.json
    assert (found["repo_id"], found["commit"], found["files"]) == ("org/model", COMMIT, 7)
    assert found["size_bytes"] == TOTAL_BYTES
    assert {item["path"] for item in found["listing"]} == set(FILES)
    table = hf_models("inspect", ours).out
    assert "org/model" in table
    assert COMMIT in table
    assert "export script, receiver, README" in table
    assert "refs, links, plan" in table


def test_inspect_reads_no_layer_of_files(ours: Path) -> None:
    for blob in (ours / "blobs" / "sha256").iterdir():
        if blob.stat().st_size > 4 * MIB:
            blob.unlink()
    assert hf_models("inspect", ours, "--json").code == 0


@pytest.mark.parametrize("form", [as_plain, as_gzip, as_zstd])
def test_inspect_says_the_same_of_an_archive(
    form: Callable[[Path, Path], Path], ours: Path, tmp_path: Path
) -> None:
    archive = form(ours, tmp_path)
    wanted = hf_models("inspect", ours, "--json", "--files").json
    assert hf_models("inspect", archive, "--json", "--files").json == wanted | {
        "source": str(archive)
    }


def test_inspect_of_an_image_of_others(tmp_path: Path) -> None:
    put_image(layout(tmp_path / "i"), [layer_of(*cache_members(SMALL))])
    found = hf_models("inspect", tmp_path / "i", "--json").json
    assert found["repo_id"] is None
    assert len(found["layers"]) == 1


def test_the_result_is_one_path_on_standard_output(ours: Path, tmp_path: Path) -> None:
    ran = restore(ours, tmp_path / "cache", "--quiet")
    assert ran.out == f"{tmp_path / 'cache' / FOLDER / 'snapshots' / COMMIT}\n"
    assert ran.err == ""


def test_the_consumer_needs_no_huggingface_hub(ours: Path, tmp_path: Path) -> None:
    program = (
        "import sys, downloader.cli\n"
        "code = downloader.cli.run(sys.argv[1:])\n"
        "assert not {'huggingface_hub', 'hf_transfer', 'httpx2'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    command = (sys.executable, "-c", program, "restore", ours, "--quiet")
    call(*command, "--cache-dir", tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_memory_has_a_lower_bound(ours: Path, tmp_path: Path) -> None:
    assert restore(ours, tmp_path / "cache", "--memory", "1MiB").code == 2
    restored(ours, tmp_path / "cache", "--memory", "4MiB", "--connections", "1", "--jobs", "1")
    check_cache(tmp_path / "cache")


def test_a_reader_without_rights_can_read_the_cache(ours: Path, tmp_path: Path) -> None:
    restored(ours, tmp_path / "cache")
    for path in (tmp_path / "cache" / FOLDER).rglob("*"):
        mode = path.stat().st_mode & 0o777
        assert mode & (0o055 if path.is_dir() else 0o044), oct(mode)


def test_files_of_tar_in_gnu_and_ustar_format(tmp_path: Path) -> None:
    long = {f"{'d' * 90}/{'f' * 90}.txt": b"long\n"}
    for at, tar_format in enumerate([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]):
        put_image(layout(tmp_path / f"{at}"), [RawLayer(tar_of(cache_members(long), tar_format))])
        restored(tmp_path / f"{at}", tmp_path / f"cache{at}")
        check_cache(tmp_path / f"cache{at}", long, has_tree=False)
    put_image(
        layout(tmp_path / "u"), [RawLayer(tar_of(cache_members(SMALL), tarfile.USTAR_FORMAT))]
    )
    restored(tmp_path / "u", tmp_path / "cache-u")
    check_cache(tmp_path / "cache-u", SMALL, has_tree=False)
    check_blobs(tmp_path / "cache-u" / FOLDER / "blobs")
