"""The cache layout against the library's own, and verification from names alone."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import _tree_cache

from downloader.errors import InputError, IntegrityError, ProtocolError, StorageError
from downloader.fs import NewFile
from downloader.hub.cache import (
    BlobHasher,
    MetadataEntry,
    check_folder,
    finish_snapshot,
    iter_metadata_entries,
    tree_json,
)
from downloader.hub.repo import Repo, RepoFile, Selection, Snapshot
from downloader.hub.verify import Finding, Report, VerifiedBlobs, verify_cache

COMMIT = "1" * 40
OTHER = "2" * 40
CONTENTS = {
    "README.md": b"# A model\n",
    "empty.txt": b"",
    "sub dir/#100%?.txt": "中文\n".encode(),
    "twice.txt": b"# A model\n",
    "weights.safetensors": b"w" * 100_000,
}


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def make_file(path: str, data: bytes) -> RepoFile:
    if path.endswith(".safetensors"):
        sha256 = hashlib.sha256(data).hexdigest()
        return RepoFile(path, len(data), git_oid(b"pointer"), sha256, "ab" * 32)
    return RepoFile(path, len(data), git_oid(data))


SNAPSHOT = Snapshot(
    repo=Repo("model", "org/name"),
    revision="main",
    commit=COMMIT,
    files=tuple(make_file(path, data) for path, data in CONTENTS.items()),
)
FOLDER = SNAPSHOT.repo.folder_name
WEIGHTS = SNAPSHOT.files[-1]
README = SNAPSHOT.files[0]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    blobs = tmp_path / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    for file in SNAPSHOT.files:
        (blobs / file.oid).write_bytes(CONTENTS[file.path])
    finish_snapshot(tmp_path, SNAPSHOT)
    return tmp_path


@pytest.fixture
def folder(cache: Path) -> Path:
    return cache / FOLDER


def test_tree_equals_the_one_of_the_library(tmp_path: Path) -> None:
    entries = {
        file.path: _tree_cache.TreeCacheEntry(
            file.size_bytes,
            file.blob_id,
            file.sha256,
            file.size_bytes if file.sha256 else None,
            file.xet_hash,
        )
        for file in SNAPSHOT.files
    }
    _tree_cache.write_tree_cache(str(tmp_path), COMMIT, entries)
    assert tree_json(SNAPSHOT) == (tmp_path / "trees" / f"{COMMIT}.json").read_bytes()


def test_redacted_xet_hash_does_not_spoil_the_tree() -> None:
    redacted = replace(SNAPSHOT, files=(replace(WEIGHTS, xet_hash="*" * 64),))
    assert b"xet_hash" not in tree_json(redacted)


def test_files_on_disk_equal_the_metadata_entries(folder: Path) -> None:
    on_disk = set()
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                target = str(path.readlink())
                on_disk.add(MetadataEntry(relative, "link", target=target))
            elif not relative.startswith("blobs/"):
                on_disk.add(MetadataEntry(relative, "file", path.read_bytes()))
    assert sorted(on_disk) == list(iter_metadata_entries(SNAPSHOT))


@pytest.mark.parametrize(
    ("revision", "refs"),
    [
        ("main", ["refs/main"]),
        ("v1.0", ["refs/main", "refs/v1.0"]),
        ("refs/pr/1", ["refs/main", "refs/refs/pr/1"]),
        (COMMIT, ["refs/main"]),
    ],
)
def test_refs(revision: str, refs: list[str]) -> None:
    entries = iter_metadata_entries(replace(SNAPSHOT, revision=revision))
    found = [entry for entry in entries if entry.path.startswith("refs/")]
    assert [entry.path for entry in found] == refs
    assert {entry.data for entry in found} == {COMMIT.encode()}


def test_partial_snapshot_has_no_tree() -> None:
    partial = replace(SNAPSHOT, is_partial=True, selection=Selection(include=("*.md",)))
    assert not any(entry.path.startswith("trees/") for entry in iter_metadata_entries(partial))


def test_a_path_cannot_be_both_file_and_directory() -> None:
    clash = replace(SNAPSHOT, files=(make_file("a", b""), make_file("a/b", b"")))
    with pytest.raises(ProtocolError, match="is both a file and a directory"):
        iter_metadata_entries(clash)
    twice = replace(SNAPSHOT, files=(make_file("a", b""), make_file("a", b"x")))
    with pytest.raises(ProtocolError, match="appears twice"):
        iter_metadata_entries(twice)


@pytest.mark.parametrize("revision", ["v1", COMMIT, "refs/pr/1"])
def test_main_of_another_commit_stays_where_another_revision_was_asked_for(
    folder: Path, revision: str
) -> None:
    (folder / "refs/main").write_text(OTHER)
    notes: list[str] = []
    finish_snapshot(folder.parent, replace(SNAPSHOT, revision=revision), note=notes.append)
    assert (folder / "refs/main").read_text() == OTHER
    assert revision == COMMIT or (folder / "refs" / revision).read_text() == COMMIT
    assert notes == []


@pytest.mark.parametrize("revision", ["main", "v1"])
def test_moved_ref_is_reported_with_both_commits(folder: Path, revision: str) -> None:
    (folder / "refs" / revision).write_text(OTHER)
    notes: list[str] = []
    for _ in range(2):
        finish_snapshot(folder.parent, replace(SNAPSHOT, revision=revision), note=notes.append)
    assert (folder / "refs" / revision).read_text() == COMMIT
    assert notes == [f"org/name: refs/{revision} moved from {OTHER} to {COMMIT}"]


@pytest.mark.parametrize(("there", "asked"), [("v1", "v1/x"), ("v1/x", "v1")])
def test_ref_that_clashes_with_another_is_reported_and_left_out(
    folder: Path, there: str, asked: str
) -> None:
    finish_snapshot(folder.parent, replace(SNAPSHOT, revision=there))
    notes: list[str] = []
    finish_snapshot(folder.parent, replace(SNAPSHOT, revision=asked), note=notes.append)
    assert (folder / "refs" / there).read_text() == COMMIT
    (said,) = notes
    assert f"refs/{asked} is not written: refs/v1" in said
    assert f"revision={COMMIT}" in said
    assert verify_cache(folder).findings == ()


def test_killed_finish_leaves_nothing_that_the_library_would_take_for_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    really = os.replace

    def replace_(source: Path, target: Path) -> None:
        seen.append(Path(source))
        really(source, target)

    monkeypatch.setattr(os, "replace", replace_)
    finish_snapshot(folder.parent, replace(SNAPSHOT, revision="v2"))
    (folder / "refs/main").write_text(OTHER)
    finish_snapshot(folder.parent, SNAPSHOT)
    assert {path.parent for path in seen} == {folder / "blobs"}


def test_leftovers_of_killed_runs_are_removed(folder: Path) -> None:
    killed = folder / "blobs" / f"{WEIGHTS.oid}.{'0a' * 8}.incomplete"
    resumable = folder / "blobs" / f"{WEIGHTS.oid}.{WEIGHTS.oid[:8]}.incomplete"
    for path in (killed, resumable):
        path.write_bytes(b"x")
    with NewFile(folder / "blobs" / "metadata") as living:
        finish_snapshot(folder.parent, SNAPSHOT)
        assert (killed.exists(), resumable.exists()) == (False, True)
        living.commit()
    assert (folder / "blobs" / "metadata").exists()


def test_second_finish_writes_nothing(folder: Path) -> None:
    def seen() -> dict[Path, int]:
        return {path: path.lstat().st_ctime_ns for path in folder.rglob("*")}

    before = seen()
    finish_snapshot(folder.parent, SNAPSHOT)
    assert seen() == before


def test_tree_with_other_white_space_is_kept(folder: Path) -> None:
    tree = folder / "trees" / f"{COMMIT}.json"
    ours = json.dumps(json.loads(tree.read_bytes()), indent=4)
    tree.write_text(ours)
    finish_snapshot(folder.parent, SNAPSHOT)
    assert tree.read_text() == ours
    tree.write_text("{")
    finish_snapshot(folder.parent, SNAPSHOT)
    assert tree.read_bytes() == tree_json(SNAPSHOT)


@pytest.mark.parametrize("name", ["blobs", "refs", "snapshots", "trees"])
def test_folder_with_a_part_that_is_a_link_is_refused(folder: Path, name: str) -> None:
    check_folder(folder)
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to("elsewhere")
    with pytest.raises(StorageError, match=f"{name}: want a directory, got a link"):
        check_folder(folder)


# Blobs that were hashed


def test_blob_is_hashed_once_and_after_every_write(cache: Path, folder: Path) -> None:
    blob = folder / "blobs" / WEIGHTS.oid
    record = VerifiedBlobs(cache, SNAPSHOT.repo)
    assert not record.is_known(WEIGHTS.oid, WEIGHTS.size_bytes)
    assert record.is_right(WEIGHTS.oid, WEIGHTS.size_bytes)
    record.save()
    assert VerifiedBlobs(cache, SNAPSHOT.repo).is_known(WEIGHTS.oid, WEIGHTS.size_bytes)
    times = blob.stat()
    blob.write_bytes(b"x" * WEIGHTS.size_bytes)
    os.utime(blob, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = VerifiedBlobs(cache, SNAPSHOT.repo)
    assert not again.is_known(WEIGHTS.oid, WEIGHTS.size_bytes)
    assert not again.is_right(WEIGHTS.oid, WEIGHTS.size_bytes)


def test_blob_of_another_size_or_none_is_not_right(cache: Path, folder: Path) -> None:
    record = VerifiedBlobs(cache, SNAPSHOT.repo)
    record.add(WEIGHTS.oid)
    assert not record.is_right(WEIGHTS.oid, 5)
    (folder / "blobs" / WEIGHTS.oid).unlink()
    assert not record.is_right(WEIGHTS.oid, WEIGHTS.size_bytes)


def test_known_blob_is_hashed_where_that_is_asked_for(cache: Path, folder: Path) -> None:
    record = VerifiedBlobs(cache, SNAPSHOT.repo)
    (folder / "blobs" / WEIGHTS.oid).write_bytes(b"x" * WEIGHTS.size_bytes)
    record.add(WEIGHTS.oid)  # what a disk that loses bytes looks like
    assert record.is_right(WEIGHTS.oid, WEIGHTS.size_bytes)
    assert not record.is_right(WEIGHTS.oid, WEIGHTS.size_bytes, always=True)


@pytest.mark.parametrize("damage", ["[]", "{", '{"x": 1}', '{"x": ["y"]}', "null"])
def test_damaged_record_is_ignored(cache: Path, damage: str) -> None:
    record = VerifiedBlobs(cache, SNAPSHOT.repo)
    record.add(WEIGHTS.oid)
    record.save()
    (path,) = (cache / ".locks" / FOLDER).glob(".verified-*.json")
    path.write_text(damage)
    assert not VerifiedBlobs(cache, SNAPSHOT.repo).is_known(WEIGHTS.oid, WEIGHTS.size_bytes)


def test_record_that_is_a_link_is_ignored(cache: Path) -> None:
    record = VerifiedBlobs(cache, SNAPSHOT.repo)
    record.add(WEIGHTS.oid)
    record.save()
    (path,) = (cache / ".locks" / FOLDER).glob(".verified-*.json")
    path.rename(cache / "planted")
    path.symlink_to(cache / "planted")
    assert not VerifiedBlobs(cache, SNAPSHOT.repo).is_known(WEIGHTS.oid, WEIGHTS.size_bytes)


def test_finish_refuses_a_missing_or_short_blob(folder: Path) -> None:
    (folder / "blobs" / WEIGHTS.oid).write_bytes(b"short")
    with pytest.raises(StorageError, match="want 100000 bytes, got 5 bytes"):
        finish_snapshot(folder.parent, SNAPSHOT)
    (folder / "blobs" / WEIGHTS.oid).unlink()
    with pytest.raises(StorageError, match=WEIGHTS.oid):
        finish_snapshot(folder.parent, SNAPSHOT)


def test_finish_replaces_a_wrong_link_and_a_copy(folder: Path) -> None:
    snapshot = folder / "snapshots" / COMMIT
    (snapshot / "README.md").unlink()
    (snapshot / "README.md").symlink_to("../../blobs/none")
    (snapshot / "weights.safetensors").unlink()
    (snapshot / "weights.safetensors").write_bytes(b"old")
    finish_snapshot(folder.parent, SNAPSHOT)
    assert verify_cache(folder).findings == ()
    assert (snapshot / "weights.safetensors").is_symlink()


def refuse(*args: object, **options: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)


def test_hard_links_where_symbolic_ones_are_refused(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder / "snapshots")
    monkeypatch.setattr(os, "symlink", refuse)
    for _ in range(2):
        finish_snapshot(cache, SNAPSHOT)
    for file in SNAPSHOT.files:
        shown = folder / "snapshots" / COMMIT / file.path
        assert shown.samefile(folder / "blobs" / file.oid)
    assert verify_cache(cache).findings == ()
    assert not list(folder.rglob("*.incomplete"))
    (folder / "snapshots" / COMMIT / "README.md").unlink()
    (folder / "snapshots" / COMMIT / "README.md").hardlink_to(folder / "blobs" / WEIGHTS.oid)
    assert [finding.want for finding in findings_of(cache)] == [f"oid {README.oid}"]


@pytest.mark.usefixtures("no_links")
def test_copies_where_the_file_system_has_no_links(cache: Path, folder: Path) -> None:
    shutil.rmtree(folder / "snapshots")
    finish_snapshot(cache, SNAPSHOT)
    copied = {path: path.stat().st_ino for path in (folder / "snapshots").rglob("*")}
    finish_snapshot(cache, SNAPSHOT)
    assert copied == {path: path.stat().st_ino for path in (folder / "snapshots").rglob("*")}
    for path, data in CONTENTS.items():
        file = folder / "snapshots" / COMMIT / path
        assert not file.is_symlink()
        assert file.read_bytes() == data
    assert verify_cache(cache).is_good


@pytest.mark.parametrize("file", SNAPSHOT.files, ids=lambda file: file.path)
def test_hasher(file: RepoFile) -> None:
    data = CONTENTS[file.path]
    hasher = BlobHasher(file.oid, len(data))
    hasher.update(data[:3])
    if len(data) > 3:
        with pytest.raises(IntegrityError, match=f"want {len(data)} bytes, got 3 bytes"):
            hasher.check(file.path)
    hasher.update(memoryview(data)[3:])
    hasher.check(file.path)


# Verification


def findings_of(path: Path) -> list[Finding]:
    return list(verify_cache(path).findings)


def test_good_cache_by_any_of_its_paths(cache: Path, tmp_path: Path) -> None:
    size = sum(SNAPSHOT.blobs.values())
    want = Report((), repos=1, snapshots=1, files=5, blobs=4, size_bytes=size)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(cache / FOLDER, home / "hub" / FOLDER, symlinks=True)
    for path in (cache, cache / FOLDER, home, home / "hub"):
        assert verify_cache(path) == want


def test_wrong_byte(folder: Path) -> None:
    blob = folder / "blobs" / WEIGHTS.oid
    blob.write_bytes(b"W" + b"w" * 99_999)
    (finding,) = findings_of(folder)
    assert (finding.kind, finding.path) == ("wrong", f"{FOLDER}/blobs/{WEIGHTS.oid}")
    assert finding.want == f"oid {WEIGHTS.oid}"
    assert finding.got == f"oid {hashlib.sha256(blob.read_bytes()).hexdigest()}"


def test_missing_blob_is_reported_under_the_file_that_needs_it(folder: Path) -> None:
    (folder / "blobs" / README.oid).unlink()
    found = findings_of(folder)
    assert {finding.kind for finding in found} == {"missing"}
    assert {finding.want for finding in found} == {
        "the content of README.md",
        "the content of twice.txt",
    }


def test_missing_link(folder: Path) -> None:
    (folder / "snapshots" / COMMIT / "README.md").unlink()
    (finding,) = findings_of(folder)
    assert finding.kind == "missing"
    assert finding.path == f"{FOLDER}/snapshots/{COMMIT}/README.md"


def test_link_to_another_blob(folder: Path) -> None:
    link = folder / "snapshots" / COMMIT / "README.md"
    link.unlink()
    link.symlink_to(f"../../blobs/{WEIGHTS.oid}")
    (finding,) = findings_of(folder)
    assert (finding.kind, finding.want) == ("wrong", f"oid {README.oid}")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../outside", "../../refs/main"])
def test_link_that_leaves_the_blobs(folder: Path, target: str) -> None:
    link = folder / "snapshots" / COMMIT / "README.md"
    link.unlink()
    link.symlink_to(target)
    assert "a relative link into blobs/" in {finding.want for finding in findings_of(folder)}


def test_ref_with_a_newline(folder: Path) -> None:
    (folder / "refs/main").write_text(COMMIT + "\n")
    (finding,) = findings_of(folder)
    assert (finding.kind, finding.want) == ("wrong", "40 hex digits, no newline")


def test_ref_to_a_snapshot_that_is_not_there(folder: Path) -> None:
    (folder / "refs/old").write_text("2" * 40)
    (finding,) = findings_of(folder)
    assert (finding.kind, finding.want) == ("missing", f"snapshots/{'2' * 40}")


def test_leftover_and_orphan_are_extra_and_no_failure(folder: Path) -> None:
    (folder / "blobs" / f"{WEIGHTS.oid}.0a1b2c3d.incomplete").write_bytes(b"half")
    (folder / "blobs" / git_oid(b"orphan")).write_bytes(b"orphan")
    report = verify_cache(folder)
    assert [finding.kind for finding in report.findings] == ["extra", "extra"]
    assert report.is_good


def test_file_that_the_tree_does_not_promise(folder: Path) -> None:
    (folder / "snapshots" / COMMIT / "more.txt").symlink_to(f"../../blobs/{README.oid}")
    (finding,) = findings_of(folder)
    assert (finding.kind, finding.path) == ("extra", f"{FOLDER}/snapshots/{COMMIT}/more.txt")


def test_plan_promises_for_a_partial_snapshot(cache: Path, folder: Path) -> None:
    (folder / "trees" / f"{COMMIT}.json").unlink()
    assert findings_of(cache) == []
    plan = json.dumps({"snapshot": replace(SNAPSHOT, is_partial=True).to_json()}).encode()
    finish_snapshot(cache, replace(SNAPSHOT, is_partial=True))
    (folder / "plans").mkdir()
    (folder / "plans" / f"{COMMIT}.json").write_bytes(plan)
    assert findings_of(cache) == []
    (folder / "snapshots" / COMMIT / "empty.txt").unlink()
    assert [finding.kind for finding in findings_of(cache)][:1] == ["extra"]
    assert {finding.kind for finding in findings_of(cache)} == {"extra", "missing"}


def test_damaged_tree(folder: Path) -> None:
    (folder / "trees" / f"{COMMIT}.json").write_text("{")
    (finding,) = findings_of(folder)
    assert (finding.kind, finding.want) == ("wrong", "a list of files")


def test_copies_without_blobs_are_hashed_by_the_tree(folder: Path) -> None:
    snapshot = folder / "snapshots" / COMMIT
    for path, data in CONTENTS.items():
        (snapshot / path).unlink()
        (snapshot / path).write_bytes(data)
    shutil.rmtree(folder / "blobs")
    assert findings_of(folder) == []
    (snapshot / "README.md").write_bytes(b"# A m0del\n")
    (finding,) = findings_of(folder)
    assert (finding.kind, finding.want) == ("wrong", f"oid {README.oid}")
    shutil.rmtree(folder / "trees")
    assert verify_cache(folder).unchecked_files == 5


def split(folder: Path) -> Iterator[Path]:
    blob = folder / "blobs" / WEIGHTS.oid
    data = blob.read_bytes()
    blob.unlink()
    for part in range(4):
        path = blob.with_name(f"{WEIGHTS.oid}.part-{part + 1:05d}-of-00004")
        path.write_bytes(data[part * 30_000 : (part + 1) * 30_000])
        yield path


def test_parts_of_a_blob(folder: Path) -> None:
    paths = list(split(folder))
    assert findings_of(folder) == []
    paths[1].write_bytes(b"x" * 30_000)
    (wrong,) = findings_of(folder)
    assert (wrong.kind, wrong.want) == ("wrong", f"oid {WEIGHTS.oid}")
    paths[1].unlink()
    missing = findings_of(folder)
    assert f"{FOLDER}/blobs/{paths[1].name}" in {finding.path for finding in missing}


def test_blob_in_the_shared_store(cache: Path, folder: Path) -> None:
    shared = cache / "blobs" / "b2" / ("b2" * 32)
    shared.parent.mkdir(parents=True)
    blob = folder / "blobs" / WEIGHTS.oid
    blob.rename(shared)
    blob.symlink_to(f"../../blobs/b2/{'b2' * 32}")
    assert findings_of(cache) == []
    shared.write_bytes(b"x" * 100_000)
    assert [finding.kind for finding in findings_of(cache)] == ["wrong"]
    shared.unlink()
    assert "wrong" in {finding.kind for finding in findings_of(cache)}


def test_no_cache_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="want a Hugging Face cache"):
        verify_cache(tmp_path)
