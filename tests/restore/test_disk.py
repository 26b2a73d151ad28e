"""What restoring writes, keeps, removes and refuses on this machine's disk."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from downloader.hub import cache
from downloader.restore import target as targets
from downloader.restore.restore_plan import narrow
from tests.support.command import hf_models, hf_models_apart
from tests.support.faults import of_blobs
from tests.support.make_image import (
    COMMIT,
    HUB,
    MIB,
    Member,
    cache_members,
    layer_of,
    lfs_oid,
    make_snapshot,
    put_image,
    put_ours,
    random_bytes,
)
from tests.support.restore import FOLDER, check_cache, layout, restore, restored, start
from tests.support.small_registry import SmallRegistry

FILES = {"config.json": b"{}", "a.safetensors": random_bytes(6 * MIB, seed=7)}
OTHER = "e" * 40


def put_gzip(root: Path, files: dict[str, bytes] | None = None, **kind: Any) -> Path:
    put_image(layout(root), [layer_of(*cache_members(files or FILES, **kind)).gzipped()])
    return root


def leftovers(cache: Path) -> list[Path]:
    private = [path for path in cache.rglob(".hf-models*") if path.is_dir()]
    return [*cache.rglob("*incomplete"), *private]


# Compressed layers of other people's images


def test_selection_of_a_compressed_layer_writes_only_selected_files(tmp_path: Path) -> None:
    image = put_gzip(tmp_path / "image")
    report = restored(image, tmp_path / "cache", "config.json")
    assert report["fetched_bytes"] == len(FILES["config.json"])
    blobs = list((tmp_path / f"cache/{FOLDER}/blobs").iterdir())
    assert [blob.stat().st_size for blob in blobs] == [len(FILES["config.json"])]
    assert not leftovers(tmp_path / "cache")


def test_selection_keeps_files_that_another_restore_wrote_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, cache = put_gzip(tmp_path / "image"), tmp_path / "cache"

    def restore_everything_first(*arguments: Any) -> Any:
        hf_models_apart("restore", image, "--cache-dir", cache)
        return narrow(*arguments)

    monkeypatch.setattr("downloader.restore.job.narrow", restore_everything_first)
    assert restore(image, cache, "config.json").code == 0
    check_cache(cache, FILES, has_tree=False)


def test_second_restore_of_a_compressed_layer_writes_nothing(tmp_path: Path) -> None:
    image, cache = put_gzip(tmp_path / "image"), tmp_path / "cache"
    restored(image, cache)
    before = {path: path.stat().st_mtime_ns for path in (cache / FOLDER).rglob("*")}
    report = restored(image, cache)
    assert (report["fetched_bytes"], report["kept_blobs"]) == (0, len(FILES))
    assert {path: path.stat().st_mtime_ns for path in (cache / FOLDER).rglob("*")} == before


def test_dry_run_of_a_compressed_layer_says_why_it_reads_it(tmp_path: Path) -> None:
    image = put_gzip(tmp_path / "image")
    ran = restore(image, tmp_path / "cache", "--dry-run")
    assert "were read to list the files" in ran.err
    assert not list(tmp_path.glob("cache/*"))


def test_dry_run_of_an_image_of_this_project_moves_no_content(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    with SmallRegistry(tmp_path / "image") as mirror:
        ran = restore(f"{mirror.host}/x/y:latest", tmp_path / "cache", "--dry-run", "--json")
    assert ran.json["fetched_bytes"] == sum(map(len, FILES.values()))
    assert mirror.blob_bytes < 2 * MIB  # the list of files, and what else lies in its layer


def test_killed_restore_of_a_compressed_layer_leaves_nothing_after_the_next_one(
    tmp_path: Path,
) -> None:
    files = {**FILES, "b.safetensors": random_bytes(6 * MIB, seed=8)}
    image, cache = put_gzip(tmp_path / "image", files), tmp_path / "cache"
    stall = of_blobs("stall", stall_answer_at=9 * MIB, from_bytes=MIB)
    with SmallRegistry(image, stall) as mirror:
        process = start(f"{mirror.host}/x/y:latest", cache)
        scratch = cache / ".locks/.hf-models"
        whole = [lfs_oid(data) for path, data in files.items() if path.endswith("s")]
        while not any((d / oid).exists() for oid in whole for d in scratch.glob("*")):
            assert process.is_alive()
            process.join(0.05)
        process.kill()
        process.join()
        stall.times = 0
        report = restored(f"{mirror.host}/x/y:latest", cache)
    # What the killed run had written and hashed is taken over, not written again.
    assert report["fetched_bytes"] == sum(map(len, files.values())) - 6 * MIB
    check_cache(cache, files, has_tree=False)
    assert not leftovers(cache)


# Local directories


def test_two_restores_into_one_local_directory(tmp_path: Path) -> None:
    """The images share a content, and the first is not done when the second ends."""
    files, others = {**FILES, "shared.json": b"[]"}, {"other.json": b"[]"}
    put_ours(layout(tmp_path / "one"), files)
    put_ours(layout(tmp_path / "two"), others, snapshot=make_snapshot(others, "org/second"))
    target, codes = tmp_path / "files", []
    stall = of_blobs("stall", stall_answer_at=2 * MIB, from_bytes=MIB)
    with SmallRegistry(tmp_path / "one", stall) as mirror:
        command = [sys.executable, "-m", "downloader", "restore", f"{mirror.host}/x/y:latest"]
        first = subprocess.Popen([*command, "--local-dir", target], stderr=subprocess.PIPE)
        while not list(target.glob(".hf-models/*/blobs/*.incomplete")):
            assert first.poll() is None
            threading.Event().wait(0.05)
        codes.append(hf_models("restore", tmp_path / "two", "--local-dir", target).code)
        stall.times = 0
        first.kill()
        first.communicate()
        (blobs,) = target.glob(".hf-models/*/blobs")  # as a kill in a small file leaves it
        (blobs / f"{'e' * 40}.{'0a' * 8}.incomplete").write_bytes(b"half")
        codes.append(hf_models("restore", *command[4:], "--local-dir", target).code)
    assert codes == [0, 0]
    found = {path.name: path.read_bytes() for path in target.iterdir()}
    assert found == {**files, **others}


def test_existing_files_of_a_local_directory_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    target = tmp_path / "files"
    assert hf_models("restore", tmp_path / "image", "--local-dir", target).code == 0
    read: list[str] = []
    original = targets.is_right

    def counted(path: Path, oid: str, size_bytes: int) -> bool:
        read.append(path.name)
        return original(path, oid, size_bytes)

    monkeypatch.setattr(targets, "is_right", counted)
    assert hf_models("restore", tmp_path / "image", "--local-dir", target).code == 0
    assert sorted(read) == sorted(FILES)


@pytest.mark.parametrize(
    "path", [".git/config", "sub/.GIT/hooks/post-checkout", ".git./x", "git~1/x", ".g\u200cit/x"]
)
def test_local_directory_refuses_a_git_directory(tmp_path: Path, path: str) -> None:
    put_ours(layout(tmp_path / "image"), {path: b"x", "ok.txt": b"y"})
    ran = hf_models("restore", tmp_path / "image", "--local-dir", tmp_path / "files", code=5)
    assert ".git" in ran.err
    assert not list(tmp_path.glob("files/*"))
    assert restore(tmp_path / "image", tmp_path / "cache").code == 0


def test_local_directory_follows_no_link_out_of_it(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), {"sub/file.txt": b"new", "top.txt": b"new"})
    outside, target = tmp_path / "outside", tmp_path / "files"
    outside.mkdir()
    target.mkdir()
    (outside / "top.txt").write_bytes(b"old")
    (target / "top.txt").symlink_to(outside / "top.txt")
    (target / "sub").symlink_to(outside)
    ran = hf_models("restore", tmp_path / "image", "--local-dir", target, code=7)
    assert "want a directory, got a link" in ran.err
    (target / "sub").unlink()
    assert hf_models("restore", tmp_path / "image", "--local-dir", target).code == 0
    assert (target / "sub/file.txt").read_bytes() == b"new"
    assert not (target / "top.txt").is_symlink()
    assert {p.name: p.read_bytes() for p in outside.iterdir()} == {"top.txt": b"old"}


def test_files_of_a_repo_named_like_our_private_directory_arrive(tmp_path: Path) -> None:
    files = {".hf-models/blobs/x": b"kept", ".HF-MODELS_/y": b"too", "config.json": b"{}"}
    put_ours(layout(tmp_path / "image"), files)
    target = tmp_path / "files"
    assert hf_models("restore", tmp_path / "image", "--local-dir", target).code == 0
    found = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file()}
    assert {path: file.read_bytes() for path, file in found.items()} == files


# What an image may write


def test_image_writes_only_the_repo_that_its_labels_name(tmp_path: Path) -> None:
    labels = {"repo-id": "org/model", "repo-type": "model", "commit": COMMIT, "revision": "main"}
    prefix = "io.github.alphahinex.hf-models"
    members = [*cache_members(FILES), *cache_members({"x": b"evil"}, "bert/base", commit=OTHER)]
    config = {"config": {"Labels": {f"{prefix}.{key}": text for key, text in labels.items()}}}
    put_image(layout(tmp_path / "image"), [layer_of(*members)], config=config)
    ran = restore(tmp_path / "image", tmp_path / "cache", code=0)
    assert "leaving out bert/base" in ran.err
    check_cache(tmp_path / "cache", FILES, has_tree=False)
    assert not (tmp_path / "cache/models--bert--base").exists()


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_image_without_labels_moves_no_ref(tmp_path: Path, compress: bool) -> None:
    cache = tmp_path / "cache"
    restored(put_gzip(tmp_path / "good"), cache)
    members = cache_members({"config.json": b"[]"}, commit=OTHER)
    other_ref = Member(f"{HUB}/{FOLDER}/refs/v2", OTHER.encode())
    for name, more in (("evil", []), ("worse", [other_ref])):
        layer = layer_of(*members, *more)
        put_image(layout(tmp_path / name), [layer.gzipped() if compress else layer])
    ran = restore(tmp_path / "evil", cache, code=0)
    assert "refs/main is left as it is: the image's labels do not name the repo" in ran.err
    restored(tmp_path / "worse", cache)
    assert (cache / FOLDER / "refs/main").read_text() == COMMIT
    assert (cache / FOLDER / "refs/v2").read_text() == OTHER
    assert (cache / FOLDER / "snapshots" / OTHER / "config.json").read_bytes() == b"[]"


# Space, and what cannot be written


def test_partial_files_of_a_killed_run_count_as_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    oid = lfs_oid(FILES["a.safetensors"])
    blobs = tmp_path / f"cache/{FOLDER}/blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{oid}.{oid[:8]}.incomplete").write_bytes(FILES["a.safetensors"][: 4 * MIB])
    free = 3 * MIB  # of 6 MiB that are needed, 4 are there
    monkeypatch.setattr("downloader.fs.free_bytes", lambda path: free)
    assert restore(tmp_path / "image", tmp_path / "cache").code == 0
    restore(tmp_path / "image", tmp_path / "empty", code=7)


def test_blobs_directory_that_is_a_link_is_an_error_of_one_line(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    cache = tmp_path / "cache"
    restored(tmp_path / "image", cache)
    blobs = cache / FOLDER / "blobs"
    blobs.rename(tmp_path / "aside")
    blobs.symlink_to(tmp_path / "aside")
    ran = restore(tmp_path / "image", cache, code=7)
    assert "Traceback" not in ran.err


# Round trips


def test_small_image_is_restored_in_at_most_seven_requests(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "vocab.txt": b"x" * 5000, "model.bin": random_bytes(70_000)}
    put_ours(layout(tmp_path / "image"), files)
    with SmallRegistry(tmp_path / "image") as mirror:
        restored(f"{mirror.host}/x/y:latest", tmp_path / "cache")
        assert len(mirror.seen) <= 7, mirror.seen
        count = len(mirror.seen)
        restored(f"{mirror.host}/x/y:latest", tmp_path / "cache")
        assert len(mirror.seen) - count <= 3
        count = len(mirror.seen)
        assert hf_models("inspect", f"{mirror.host}/x/y:latest").code == 0
        assert len(mirror.seen) - count <= 3


@pytest.mark.parametrize("target", ["--cache-dir", "--local-dir"])
def test_names_that_differ_only_in_case_are_refused_where_case_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    files = {"Model.bin": b"one", "model.bin": b"two", "config.json": b"{}"}
    put_ours(layout(tmp_path / "image"), files)
    hf_models("restore", tmp_path / "image", target, tmp_path / "here", code=0)
    monkeypatch.setattr(cache, "ignores_case", lambda _: True)  # as on macOS and Windows
    there = tmp_path / "there"
    ran = hf_models("restore", tmp_path / "image", target, there, code=7)
    assert "'Model.bin' and 'model.bin' would be one file here" in ran.err
    assert "--exclude" in ran.err
    assert not [path for path in there.rglob("*") if path.is_file()]
    more = ("--exclude", "model.bin")
    assert hf_models("restore", tmp_path / "image", target, there, *more).code == 0
