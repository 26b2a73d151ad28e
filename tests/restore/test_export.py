"""The image's own ``export``: in a container, and by this machine's sh where no engine matters."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.support import docker as docker_side
from tests.support.command import ROOT, call, program
from tests.support.docker import Shelf, docker, run_export
from tests.support.fake_hub import git_sha1, tiny_repo

SCRIPT = ROOT / "downloader/export.sh"
COMMIT = "c" * 40
FOLDER = "models--org--name"
HUB = [tiny_repo()]


def export(source: Path, target: Path, *, code: int = 0, **environment: str) -> str:
    """Run the script with the sh of this machine; return what it says."""
    env = {**os.environ, "HF_HUB_CACHE": str(source), **environment}
    done = program("sh", SCRIPT, target, code=code, env=env)
    return done.out + done.err


def add_repo(source: Path, files: dict[str, bytes], folder: str = FOLDER) -> Path:
    """Write a repo as it lies in an image; ``.bin`` files are named by sha256."""
    repo = source / folder
    for path, data in files.items():
        name = hashlib.sha256(data).hexdigest() if path.endswith(".bin") else git_sha1(data)
        write(repo / "blobs" / name, data)
        link = repo / "snapshots" / COMMIT / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("../" * (2 + path.count("/")) + f"blobs/{name}")
    write(repo / "refs/main", COMMIT.encode())
    write(repo / f"trees/{COMMIT}.json", b"{}")
    return repo


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def split(repo: Path, data: bytes, count: int) -> str:
    """Replace a blob by its parts, and return its oid."""
    oid = hashlib.sha256(data).hexdigest()
    (repo / "blobs" / oid).unlink()
    size = -(-len(data) // count)
    for at in range(count):
        name = f"{oid}.part-{at + 1:05d}-of-{count:05d}"
        write(repo / "blobs" / name, data[at * size : (at + 1) * size])
    return oid


def leftovers(target: Path) -> list[Path]:
    return [path for path in target.rglob("*") if "incomplete" in path.name]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "image/hub"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    found = tmp_path / "export"
    found.mkdir()
    return found


def snapshot_of(target: Path) -> dict[str, bytes]:
    folder = target / "hub" / FOLDER / "snapshots" / COMMIT
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_file_arrives(source: Path, target: Path) -> None:
    files = {
        "config.json": b"{}\n",
        "empty.txt": b"",
        "model.bin": b"weights" * 1000,
        "sub dir/-dash 'quote\".txt": b"awkward\n",
        "中文/back\\slash*?.txt": b"more\n",
    }
    add_repo(source, files)
    export(source, target)
    assert snapshot_of(target) == files
    assert (target / "hub" / FOLDER / "refs/main").read_bytes() == COMMIT.encode()
    assert (target / "hub" / FOLDER / f"trees/{COMMIT}.json").exists()
    assert leftovers(target) == []


def refs_of(target: Path) -> dict[str, str]:
    refs = target / "hub" / FOLDER / "refs"
    files = [path for path in refs.rglob("*") if path.is_file()]
    return {path.relative_to(refs).as_posix(): path.read_text() for path in files}


@pytest.mark.parametrize(
    ("plan", "main"),
    [
        (None, COMMIT),
        (b'{"snapshot":{"revision":"main"}}', COMMIT),
        (b'{"snapshot": {"revision": "main"}}', COMMIT),
        (b'{"snapshot":{"revision":"v1"}}', "d" * 40),
    ],
)
def test_ref_of_another_commit_moves_with_a_message_and_main_only_by_an_image_of_main(
    source: Path, target: Path, plan: bytes | None, main: str
) -> None:
    repo = add_repo(source, {"config.json": b"{}"})
    write(repo / "refs/v1", COMMIT.encode())
    if plan is not None:
        write(repo / f"plans/{COMMIT}.json", plan)
    for name in ("main", "v1"):
        write(target / "hub" / FOLDER / "refs" / name, b"d" * 40)
    said = export(source, target)
    assert refs_of(target) == {"main": main, "v1": COMMIT}
    assert f"refs/v1 moved from {'d' * 40} to {COMMIT}" in said
    assert ("refs/main moved from" in said) == (main == COMMIT)
    assert "moved" not in export(source, target)
    assert leftovers(target) == []


@pytest.mark.parametrize(("there", "new"), [("v1", "v1/x"), ("v1/x", "v1")])
def test_ref_that_clashes_with_another_is_reported_and_left_out(
    source: Path, target: Path, there: str, new: str
) -> None:
    repo = add_repo(source, {"config.json": b"{}"})
    write(repo / "refs" / new, COMMIT.encode())
    write(target / "hub" / FOLDER / "refs" / there, b"d" * 40)
    said = export(source, target)
    assert f"refs/{new} is not written" in said
    assert refs_of(target) == {"main": COMMIT, there: "d" * 40}


def test_parts_become_one_file(source: Path, target: Path) -> None:
    data = os.urandom(100_003)
    repo = add_repo(source, {"model.bin": data, "config.json": b"{}"})
    split(repo, data, 12)
    export(source, target)
    assert snapshot_of(target)["model.bin"] == data
    assert not list((target / "hub" / FOLDER / "blobs").glob("*.part-*"))


def test_missing_part_is_an_integrity_error(source: Path, target: Path) -> None:
    data = os.urandom(10_000)
    repo = add_repo(source, {"model.bin": data})
    oid = split(repo, data, 3)
    (repo / f"blobs/{oid}.part-00003-of-00003").unlink()
    assert "want 3 parts, got 2" in export(source, target, code=6)
    assert not (target / "hub" / FOLDER / "blobs" / oid).exists()


@pytest.mark.parametrize("name", ["config.json", "model.bin"])
def test_wrong_bytes_in_the_image_get_no_final_name(source: Path, target: Path, name: str) -> None:
    repo = add_repo(source, {name: b"right"})
    (blob,) = (repo / "blobs").iterdir()
    blob.write_bytes(b"wrong")
    assert f"want oid {blob.name}" in export(source, target, code=6)
    assert list((target / "hub" / FOLDER / "blobs").iterdir()) == []
    assert not (target / "hub" / FOLDER / "refs").exists()


def written(directory: Path) -> dict[str, tuple[int, int]]:
    """Which file each name is, and when it was written; reading and owning it changes neither."""
    stats = {path.name: path.stat() for path in directory.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_right_files_are_not_written_again(source: Path, target: Path) -> None:
    add_repo(source, {"config.json": b"{}", "model.bin": b"weights"})
    export(source, target)
    blobs = target / "hub" / FOLDER / "blobs"
    before = written(blobs)
    said = export(source, target)
    assert written(blobs) == before
    assert "0 files written (0 MB), 2 kept" in said


def test_wrong_file_is_replaced(source: Path, target: Path) -> None:
    add_repo(source, {"config.json": b"{}", "model.bin": b"weights"})
    export(source, target)
    blob = target / "hub" / FOLDER / "blobs" / hashlib.sha256(b"weights").hexdigest()
    blob.write_bytes(b"wheight")
    assert "has wrong bytes: replacing it" in export(source, target)
    assert blob.read_bytes() == b"weights"


def test_other_snapshots_and_repos_stay(source: Path, target: Path) -> None:
    other = target / "hub" / FOLDER / "snapshots" / ("d" * 40) / "old.txt"
    write(other, b"old\n")
    write(target / "hub/models--a--b/refs/main", b"e" * 40)
    add_repo(source, {"config.json": b"{}"})
    export(source, target)
    assert other.read_bytes() == b"old\n"
    assert (target / "hub/models--a--b/refs/main").exists()


def test_stale_ref_and_link_are_replaced(source: Path, target: Path) -> None:
    add_repo(source, {"config.json": b"{}"})
    folder = target / "hub" / FOLDER
    write(folder / "refs/main", b"e" * 40)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").symlink_to("../../blobs/gone")
    export(source, target)
    assert (folder / "refs/main").read_bytes() == COMMIT.encode()
    assert snapshot_of(target) == {"config.json": b"{}"}


@pytest.mark.parametrize("arguments", [["--image"], ["--image", "--help"], ["--help"]])
def test_image_without_a_command_prints_its_description(source: Path, arguments: list[str]) -> None:
    add_repo(source, {"a.txt": b"a\n"})
    said = call("sh", SCRIPT, *arguments, env={"HF_HUB_CACHE": str(source)})
    assert f"model org/name at {COMMIT}" in said
    assert "docker run --rm -v ~/.cache/huggingface:/export IMAGE export" in said


def test_image_runs_other_commands_as_they_are(source: Path) -> None:
    assert call("sh", SCRIPT, "--image", "printf", "%s-", "a b", "c") == "a b-c-"
    call("sh", SCRIPT, "--image", "sh", "-c", "exit 9", code=9)


def test_several_repos_in_one_image(source: Path, target: Path) -> None:
    for folder in (FOLDER, "datasets--org--data"):
        add_repo(source, {"a.txt": folder.encode()}, folder)
    export(source, target)
    assert len(list((target / "hub").glob("*/refs/main"))) == 2


def test_more_small_files_than_one_batch(source: Path, target: Path) -> None:
    files = {f"part-{at % 7}/{at}.json": b"%d" % at for at in range(260)}
    add_repo(source, files)
    assert "260 files written" in export(source, target)
    assert snapshot_of(target) == files


def test_directory_that_is_not_there(source: Path, tmp_path: Path) -> None:
    add_repo(source, {"a.txt": b"a"})
    assert "-v DIR:" in export(source, tmp_path / "nowhere", code=2)


def test_cache_that_a_mount_hides(tmp_path: Path, target: Path) -> None:
    assert "a mount over it hides it" in export(tmp_path / "nothing", target, code=7)


def test_image_without_repo(source: Path, target: Path) -> None:
    source.mkdir(parents=True)
    assert "want a repo" in export(source, target, code=7)


# In a container: busybox, owners, mounts.


@pytest.fixture(scope="module")
def image(shelf: Shelf) -> str:
    """Give an image of org/tiny at tag v1.0, the weights in four parts, at an unusual root."""
    arguments = ("--revision", "v1.0", "--layer-size", "1MiB", "--cache-root", "/data/cache")
    shelf.build("org/tiny", *arguments)
    return shelf.image("tiny")


@pytest.mark.docker
def test_huggingface_hub_loads_the_export_of_a_container(image: str, target: Path) -> None:
    os.chown(target, 12345, 12346)
    run_export(image, target)
    commit = (target / "hub/models--org--tiny/refs/main").read_text()
    found = docker_side.load_offline(target, "org/tiny", "main", "v1.0", commit)
    want = {(path, file.size_bytes) for path, file in tiny_repo().commits[0].by_path.items()}
    for revision in ("main", "v1.0", commit):
        assert {(path, size) for rev, path, size in found if rev == revision} == want
    paths = [target / "hub", *(target / "hub/models--org--tiny").rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(12345, 12346)}
    assert leftovers(target) == []


@pytest.mark.docker
def test_export_keeps_right_files_and_replaces_wrong_ones(image: str, target: Path) -> None:
    run_export(image, target)
    blobs = target / "hub/models--org--tiny/blobs"
    large, *small = sorted(blobs.iterdir(), key=lambda path: -path.stat().st_size)
    kept = {path: path.stat().st_ino for path in small}
    large.write_bytes(large.read_bytes()[:-1] + b"!")
    said = run_export(image, target)
    assert "1 files written" in said
    assert "3 kept" in said
    assert hashlib.sha256(large.read_bytes()).hexdigest() == large.name
    assert {path: path.stat().st_ino for path in small} == kept


@pytest.mark.docker
def test_container_without_a_command_prints_its_description(image: str) -> None:
    for arguments in ([], ["--help"]):
        said = docker("run", "--rm", image, *arguments)
        assert "This image carries files of the Hugging Face Hub" in said
        assert "IMAGE export" in said
    assert docker("run", "--rm", image, "echo", "hello").strip() == "hello"


@pytest.mark.docker
def test_full_disk_is_an_error(image: str) -> None:
    said = docker(
        *("run", "--rm", "--network=none", "--tmpfs", "/export:size=1m", image, "export"), code=7
    )
    assert "want 3145745 bytes free" in said


@pytest.mark.docker
def test_user_without_rights_gets_an_error(image: str, target: Path) -> None:
    target.chmod(0o755)
    said = run_export_as("65534:65534", image, target, code=7)
    assert "permission denied in /export" in said


def run_export_as(user: str, image: str, directory: Path, *, code: int = 0) -> str:
    return run_export(image, directory, "--user", user, code=code)


@pytest.mark.docker
def test_ordinary_user_exports_to_a_directory_of_their_own(image: str, target: Path) -> None:
    os.chown(target, 65534, 65534)
    run_export_as("65534:65534", image, target)
    assert (target / "hub/models--org--tiny/refs/v1.0").stat().st_uid == 65534
