"""A snapshot into the cache: what lies on disk afterwards, and what every named fault does."""

import errno
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from downloader.errors import HfModelsError, HubError, IntegrityError, StorageError
from downloader.fs import hold_lock
from downloader.hub import fetch, hf_transfer
from downloader.hub.cache import lock_path
from downloader.hub.verify import VerifiedBlobs, verify_cache
from downloader.progress import NoProgress
from downloader.units import MIB, format_bytes
from tests.support.apart import start_apart
from tests.support.command import AS_ROOT, call, hf_models, hf_models_apart
from tests.support.fake_hub import (
    Generated,
    HubServer,
    HubSpec,
    awkward_names_repo,
    faults,
    make_files,
    make_repo,
    many_files_repo,
    read_all,
    tiny_repo,
)
from tests.support.fake_hub.fault import Fault
from tests.support.hub import Side, file_of, fresh

BIG_BYTES = 24 * MIB + 777
BIG = Generated(BIG_BYTES, seed=5)
FILE = "*big.bin"
# A backslash would be a folder on Windows, and is refused before anything is fetched.
NAMES = {
    path: file.source for path, file in awkward_names_repo().files().items() if "\\" not in path
}
BIG_REPO = make_repo("org/big", {"big.bin": BIG, "config.json": b"{}", "empty.bin": b""})
REPOS = (
    BIG_REPO,
    BIG_REPO.but(id="org/gated", gated="manual", readers=("alice",)),
    tiny_repo(),
    make_repo("org/names", NAMES, type="dataset"),
    make_repo("one", {"only.txt": b"one\n"}, type="space"),
    many_files_repo(600),
)
HUB = HubSpec(REPOS, users={"hf_alice": "alice", "hf_bob": "bob"})


@pytest.fixture
def side(hub: HubServer) -> Iterator[Side]:
    with fresh(hub) as one:
        yield one


def leftovers(cache_dir: Path) -> list[str]:
    return sorted(path.name for path in cache_dir.rglob("*.incomplete"))


def check_whole(cache_dir: Path) -> None:
    assert verify_cache(cache_dir).findings == ()
    assert leftovers(cache_dir) == []


def run_library(cache_dir: Path, code: str) -> str:
    """Run code against huggingface_hub, offline, in its own process."""
    program = (sys.executable, "-W", "error", "-c", f"from huggingface_hub import *\n{code}")
    own = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache_dir)}
    return call(*program, env=own).strip()


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "commit"])
def test_the_library_loads_it_offline(side: Side, tmp_path: Path, revision: str) -> None:
    name = side.snapshot("org/tiny").commit if revision == "commit" else revision
    snapshot = side.snapshot("org/tiny", revision=name)
    report = side.fetch(snapshot, tmp_path)
    assert report.snapshot_dir == tmp_path / "models--org--tiny" / "snapshots" / snapshot.commit
    said = run_library(
        tmp_path,
        f"for revision in (None, {name!r}, {snapshot.commit!r}):\n"
        "    print(snapshot_download('org/tiny', revision=revision))\n"
        "    print(hf_hub_download('org/tiny', 'sub/dir/vocab.txt', revision=revision))\n"
        "for repo in scan_cache_dir().repos: print(repo.repo_id, repo.nb_files)\n",
    )
    folder = str(report.snapshot_dir)
    assert said.splitlines() == [folder, f"{folder}/sub/dir/vocab.txt"] * 3 + ["org/tiny 4"]
    check_whole(tmp_path)


def test_hf_cache_ls_lists_it(side: Side, tmp_path: Path) -> None:
    side.fetch(side.snapshot("org/tiny"), tmp_path)
    hf = Path(sys.executable).with_name("hf")
    command = (hf, "cache", "ls", "--cache-dir", tmp_path, "--format", "quiet")
    assert "org/tiny" in call(*command, env={"HF_HUB_OFFLINE": "1"})


def test_awkward_names(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/names", "dataset")
    report = side.fetch(snapshot, tmp_path, small_bytes=60_000)
    check_whole(tmp_path)
    for file in side.hub.state.spec.repos[3].commits[0].files:
        data = (report.snapshot_dir / file.path).read_bytes()
        assert len(data) == file.size_bytes
    listed = run_library(
        tmp_path,
        "import pathlib\n"
        "root = pathlib.Path(snapshot_download('org/names', repo_type='dataset'))\n"
        "print(sum(path.is_file() for path in root.rglob('*')))\n",
    )
    assert int(listed) == len(snapshot.files)


def test_same_content_is_fetched_once(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/names", "dataset")
    side.hub.clear_log()
    report = side.fetch(snapshot, tmp_path)
    asked = [entry for entry in side.log().of(method="GET") if "same" in entry.file]
    assert len([entry for entry in asked if entry.status == 200]) == 2
    assert report.fetched_files == len(snapshot.blobs) < len(snapshot.files)


def test_single_file_space(side: Side, tmp_path: Path) -> None:
    report = side.fetch(side.snapshot("one", "space"), tmp_path)
    assert (report.snapshot_dir / "only.txt").read_bytes() == b"one\n"
    assert run_library(tmp_path, "print(snapshot_download('one', repo_type='space'))") == str(
        report.snapshot_dir
    )


def test_many_small_files_share_connections(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/many")
    report = side.fetch(snapshot, tmp_path)
    assert report.fetched_files == 600
    check_whole(tmp_path)


def test_many_small_files_stay_below_the_hubs_quota(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/many")
    side.hub.add_fault(faults.Quota(path="*org/many/*", origin="hub", requests=400, window_s=4))
    side.hub.clear_log()
    report = side.fetch(snapshot, tmp_path)
    assert report.fetched_files == 600
    assert {entry.status for entry in side.log()} == {200}


def test_large_file_comes_through_hf_transfer(side: Side, tmp_path: Path) -> None:
    report = side.fetch(side.snapshot("org/big"), tmp_path)
    assert dict(report.ways) == {"hf_transfer": 1, "plain": 1, "empty": 1}
    assert any(entry.range for entry in side.log().of(origin="cdn", file="big.bin"))
    check_whole(tmp_path)


def test_without_hf_transfer_the_stream_fetches_and_a_note_says_so(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_transfer, "is_installed", lambda: False)
    report = side.fetch(side.snapshot("org/big"), tmp_path)
    assert report.ways["stream"] == 1
    assert "hf_transfer is not installed" in report.notes[0]
    check_whole(tmp_path)


def test_server_without_ranges_is_noted(side: Side, tmp_path: Path) -> None:
    side.hub.add_fault(faults.NoRanges(path=FILE))
    report = side.fetch(side.snapshot("org/big"), tmp_path)
    assert report.ways["stream"] == 1
    assert "hf_transfer could not do 1" in report.notes[0]


class Seen(NoProgress):
    def __init__(self) -> None:
        self.total_bytes = self.done_bytes = 0
        self.paths: list[str] = []
        self._lock = threading.Lock()

    def start(self, total_bytes: int, total_files: int) -> None:
        self.total_bytes = total_bytes

    def advance(self, size_bytes: int, path: str = "") -> None:
        with self._lock:
            self.done_bytes += size_bytes

    def finish_file(self, path: str) -> None:
        self.paths.append(path)


@pytest.mark.parametrize("use_transfer", [True, False])
def test_progress_is_exact_even_when_bytes_come_twice(
    side: Side, tmp_path: Path, use_transfer: bool
) -> None:
    seen = Seen()
    snapshot = side.snapshot("org/big")
    side.hub.add_fault(faults.WrongBytes(path=FILE, at_byte=5, times=2))
    side.hub.add_fault(faults.CutAfter(path="*config.json", after_bytes=1, times=2))
    side.fetch(snapshot, tmp_path, progress=seen, use_transfer=use_transfer)
    assert seen.done_bytes == seen.total_bytes == sum(snapshot.blobs.values())
    assert sorted(seen.paths) == sorted(file.path for file in snapshot.files)


def test_redirect_inside_the_hub_keeps_the_token(hub: HubServer, tmp_path: Path) -> None:
    # As huggingface.co does for files that git itself holds: 307 to /api/resolve-cache.
    spec = HubSpec(hub.state.spec.repos, hub.state.spec.users, resolve_cache=True)
    with HubServer(spec) as server, fresh(server, "hf_alice") as side:
        side.fetch(side.snapshot("org/gated"), tmp_path)
        moved = side.log().of(origin="hub", path="resolve-cache")
    assert moved
    assert all(entry.has_auth for entry in moved)
    check_whole(tmp_path)


def test_second_run_asks_for_nothing(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/big")
    side.fetch(snapshot, tmp_path)
    side.hub.clear_log()
    report = side.fetch(snapshot, tmp_path)
    assert (report.fetched_files, report.reused_files) == (0, 3)
    assert side.log() == []


def test_blob_with_wrong_bytes_is_fetched_again(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/big")
    folder = side.fetch(snapshot, tmp_path).snapshot_dir
    (folder / "config.json").write_bytes(b"[]")
    assert side.fetch(snapshot, tmp_path).fetched_files == 1
    assert (folder / "config.json").read_bytes() == b"{}"


def test_verify_existing_hashes_known_blobs_again(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/big")
    folder = side.fetch(snapshot, tmp_path).snapshot_dir
    (folder / "config.json").write_bytes(b"[]")
    record = VerifiedBlobs(tmp_path, snapshot.repo)
    record.add(file_of(snapshot, "config.json").oid)  # a disk loses bytes without a write
    record.save()
    assert side.fetch(snapshot, tmp_path).fetched_files == 0
    assert side.fetch(snapshot, tmp_path, verify_existing=True).fetched_files == 1
    assert (folder / "config.json").read_bytes() == b"{}"


def test_blobs_of_another_program_are_hashed_and_kept(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/big")
    side.fetch(snapshot, tmp_path)
    shutil.rmtree(tmp_path / ".locks")  # the record goes with it
    side.hub.clear_log()
    report = side.fetch(snapshot, tmp_path)
    assert (report.fetched_files, report.reused_files) == (0, 3)
    assert side.log() == []
    record = VerifiedBlobs(tmp_path, snapshot.repo)
    assert all(record.is_known(oid, size) for oid, size in snapshot.blobs.items())


def test_complete_cache_that_may_not_be_written_is_enough(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = side.snapshot("org/tiny")
    side.fetch(snapshot, tmp_path)
    shutil.rmtree(tmp_path / ".locks")
    really_open = os.open

    def open_(path: str, flags: int, *args: int) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            refuse()
        return really_open(path, flags, *args)

    def refuse(*_: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as disk:
        disk.setattr(os, "open", open_)
        for name in ("mkdir", "symlink", "link", "replace", "rename", "unlink"):
            disk.setattr(os, name, refuse)
        assert side.fetch(snapshot, tmp_path).fetched_files == 0


def test_moved_branch_fetches_only_changed_files(side: Side, tmp_path: Path) -> None:
    side.fetch(side.snapshot("org/tiny", revision="v1.0"), tmp_path)
    report = side.fetch(side.snapshot("org/tiny"), tmp_path)
    assert (report.fetched_files, report.reused_files) == (1, 3)
    check_whole(tmp_path)


PASSING = [
    faults.ResetAfter(path=FILE, after_bytes=1_000_000, times=3),
    faults.CutAfter(path=FILE, after_bytes=1_000_000, times=3),
    faults.StallAfter(path=FILE, after_bytes=100_000, times=1, skip=2),
    faults.TooManyRequests(path=FILE, times=2),
    faults.TooManyRequests(path="*config.json", times=1),
    faults.ServerError(path=FILE, times=3),
    faults.ServerError(path="*config.json", times=3, status=502),
    faults.CutAfter(path="*config.json", after_bytes=1, times=2),
    faults.ResetAfter(path="*config.json", after_bytes=1, times=2),
    faults.StallAfter(path="*config.json", after_bytes=1, times=1),
    faults.SignedUrlExpired(path=FILE, times=3, skip=1),
    faults.HandsOutExpiredUrls(path=FILE, times=2),
    faults.NoRanges(path=FILE),
    faults.Compressed(path=FILE),
    faults.Compressed(path=FILE, encoding="deflate"),
    faults.RangesIgnoredAfterProbe(path=FILE),
    faults.WrongBytes(path=FILE, at_byte=12_345_678, times=2),
    faults.WrongBytes(path="*config.json", times=1),
    faults.RedirectElsewhere(path=FILE, origin="hub"),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: str(fault)[:70])
def test_fault_that_passes(side: Side, tmp_path: Path, fault: Fault) -> None:
    snapshot = side.snapshot("org/big")
    side.hub.clear_log()
    side.hub.add_fault(fault)
    side.fetch(snapshot, tmp_path)
    assert any(entry.faults for entry in side.log())
    check_whole(tmp_path)


@pytest.mark.parametrize("command", ["fetch", "build --engine layout --base none"])
def test_tries_apply_to_files(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", side.hub.endpoint)
    side.hub.add_fault(faults.ServerError(path="*config.json"))
    hf_models(*command.split(), "org/big", "--tries", "2", "--retry-delay", "0", code=3)
    assert sum(1 for entry in side.log() if entry.faults) == 2


FATAL = [
    (faults.WrongBytes(path=FILE, at_byte=100), IntegrityError, 6),
    (faults.WrongBytes(path="*config.json"), IntegrityError, 6),
    (faults.MoreBytes(path="*config.json"), IntegrityError, 6),
    (faults.FewerBytes(path=FILE), IntegrityError, 6),
    (faults.Compressed(path="*config.json", extra_bytes=64 * MIB), IntegrityError, 6),
    (faults.ServerError(path=FILE), HubError, 3),
    (faults.Unauthorized(path="*config.json"), HubError, 3),
    (faults.ResetAfter(path="*config.json"), HfModelsError, 4),
    (faults.TooManyRequests(path=FILE, retry_after_s=3600), HubError, 3),
]


@pytest.mark.parametrize(("fault", "kind", "code"), FATAL, ids=lambda item: str(item)[:50])
def test_fault_that_stays(
    side: Side, tmp_path: Path, fault: Fault, kind: type[HfModelsError], code: int
) -> None:
    snapshot = side.snapshot("org/big")
    side.hub.add_fault(fault)
    with pytest.raises(kind) as caught:
        side.fetch(snapshot, tmp_path)
    assert caught.value.exit_code == code
    assert "sig=" not in str(caught.value)
    blobs = set((tmp_path / "models--org--big" / "blobs").iterdir())
    for blob in blobs - set(blobs.pop().parent.glob("*.incomplete")):
        data = blob.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        assert blob.name in {git, hashlib.sha256(data).hexdigest()}
    assert not (tmp_path / "models--org--big" / "refs").exists()


def test_wrong_bytes_name_both_oids(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/big")
    side.hub.add_fault(faults.WrongBytes(path=FILE, at_byte=100))
    oid = file_of(snapshot, "big.bin").oid
    with pytest.raises(IntegrityError, match=rf"big\.bin: want oid {oid}, got [0-9a-f]{{64}}"):
        side.fetch(snapshot, tmp_path)


def test_gated_files_and_the_token(hub: HubServer, tmp_path: Path) -> None:
    with fresh(hub, "hf_bob") as bob, pytest.raises(HubError) as caught:
        bob.fetch(bob.snapshot("org/gated"), tmp_path)
    assert "conditions" in (caught.value.hint or "")
    with fresh(hub, "hf_alice") as alice:
        alice.fetch(alice.snapshot("org/gated"), tmp_path)
        seen = alice.log()
    assert seen.of(origin="cdn", file="big.bin")
    assert not any(entry.has_auth for entry in seen.of(origin="cdn"))
    check_whole(tmp_path)


def test_hf_transfer_never_has_the_token(hub: HubServer, tmp_path: Path) -> None:
    # The CDN on the Hub's own host, another port: there hf_transfer would forward it.
    spec = HubSpec(hub.state.spec.repos, hub.state.spec.users, cdn_host="127.0.0.1")
    with HubServer(spec) as near, fresh(near, "hf_alice") as side:
        report = side.fetch(side.snapshot("org/gated"), tmp_path)
        seen = side.log().of(origin="cdn", file="big.bin")
    assert report.ways["hf_transfer"] == 1
    assert not any(entry.has_auth for entry in seen)


def test_child_of_hf_transfer_has_no_secret_and_a_private_directory(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    watch = hf_transfer._watch

    def spy(child: subprocess.Popen[bytes], path: Path, *more: object) -> None:
        environ = Path(f"/proc/{child.pid}/environ").read_text()
        seen.append((environ, stat.S_IMODE(path.parent.stat().st_mode), path.parent.parent))
        watch(child, path, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(hf_transfer, "_watch", spy)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "REGISTRY_PASSWORD"):
        monkeypatch.setenv(name, "hf_secret")
    with fresh(hub, "hf_alice") as side:
        snapshot = side.snapshot("org/gated")
        side.fetch(snapshot, tmp_path, use_transfer=True)
    assert seen
    for environ, mode, blobs in seen:
        assert "secret" not in environ
        assert "hf_alice" not in environ
        assert (mode, blobs) == (0o700, tmp_path / snapshot.repo.folder_name / "blobs")
    check_whole(tmp_path)
    assert not list(tmp_path.glob("models--*/blobs/*.incomplete"))


@pytest.mark.mount
def test_too_little_space_is_known_before_the_first_byte(side: Side, small_disk: Path) -> None:
    snapshot = side.snapshot("org/big")
    side.hub.clear_log()
    with pytest.raises(
        StorageError, match=rf"want {format_bytes(BIG_BYTES + 2)} free, got [0-9.]+ "
    ):
        side.fetch(snapshot, small_disk)
    assert side.log() == []


@pytest.mark.mount
def test_leftover_of_a_killed_run_counts_as_space(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = side.snapshot("org/big")
    usage = shutil.disk_usage(tmp_path)._replace(free=BIG_BYTES - MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="free, got"):
        side.fetch(snapshot, tmp_path)
    blobs = tmp_path / snapshot.repo.folder_name / "blobs"
    leftover = blobs / f"{file_of(snapshot, 'big.bin').oid}.0a1b2c3d.incomplete"
    leftover.write_bytes(b"x" * 2 * MIB)
    # Only what is free before the first byte is pretended; hf_transfer would look again.
    assert side.fetch(snapshot, tmp_path, use_transfer=False).fetched_files == 3
    assert not leftover.exists()


@pytest.mark.mount
@pytest.mark.parametrize("use_transfer", [True, False])
def test_disk_that_fills_up_on_the_way(
    side: Side, small_disk: Path, monkeypatch: pytest.MonkeyPatch, use_transfer: bool
) -> None:
    # Somebody else takes the space after it was looked at.
    monkeypatch.setattr(fetch, "check_space", lambda path, need_bytes: None)
    with pytest.raises(StorageError) as caught:
        side.fetch(side.snapshot("org/big"), small_disk, use_transfer=use_transfer)
    assert "space" in (caught.value.hint or "")
    big = file_of(side.snapshot("org/big"), "big.bin").oid
    assert not (small_disk / "models--org--big" / "blobs" / big).exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a file system of its own, a little smaller than the file."""
    options = f"size={BIG_BYTES - 3 * MIB},mode=1777"
    call(*AS_ROOT, "mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path)
    yield tmp_path / "cache"
    call(*AS_ROOT, "umount", "--lazy", tmp_path)


def test_two_fetches_at_once_download_each_file_once(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/big")
    side.hub.clear_log()
    reports: list[fetch.FetchReport] = []
    threads = [
        threading.Thread(target=lambda: reports.append(side.fetch(snapshot, tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(report.fetched_files for report in reports) == len(snapshot.blobs)
    check_whole(tmp_path)


def test_waits_for_the_librarys_own_lock(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("one", "space")
    lock = tmp_path / lock_path(snapshot.repo, snapshot.files[0].oid)
    done = threading.Event()

    def run() -> None:
        side.fetch(snapshot, tmp_path)
        done.set()

    lock.parent.mkdir(parents=True)
    code = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    library = subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with library:
        assert library.stdout is not None
        assert library.stdout.readline() == b"held\n"
        thread = threading.Thread(target=run)
        thread.start()
        assert not done.wait(0.3)
        library.communicate()
    assert done.wait(30)
    thread.join()
    with hold_lock(lock):
        check_whole(tmp_path)


def fetch_apart(
    side: Side, cache_dir: Path, repo_id: str = "org/big", *, code: int = 0, token: str = ""
) -> str:
    """Run the command line, and return what it says on standard error."""
    command = ("fetch", repo_id, "--cache-dir", cache_dir)
    own = {"HF_ENDPOINT": side.hub.endpoint, "HF_TOKEN": token}
    return hf_models_apart(*command, code=code, **own).err


@pytest.mark.parametrize(
    ("repo_id", "token", "fault", "code"),
    [
        ("org/big", "", faults.WrongBytes(path="*config.json"), 6),
        ("org/gated", "hf_bob", faults.SlowFirstByte(delay_s=0), 3),
        ("org/big", "", faults.Unauthorized(path="*config.json"), 3),
    ],
    ids=["wrong bytes", "gated", "revoked"],
)
def test_exit_code_of_the_command_line(
    side: Side, tmp_path: Path, *, repo_id: str, token: str, fault: Fault, code: int
) -> None:
    side.hub.add_fault(fault)
    said = fetch_apart(side, tmp_path, repo_id, code=code, token=token)
    assert "sig=" not in said
    assert not token or token not in said


def wait_for(is_so: Callable[[], bool], timeout_s: float = 30) -> None:
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s, "it never happened"
        time.sleep(0.02)


def environment_of(script: str) -> bytes:
    """Return the environment of a process of ours that runs a script; empty if there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            mine = f"PPid:\t{os.getpid()}\n" in (process / "status").read_text()
            if mine and script.encode() in (process / "cmdline").read_bytes():
                return (process / "environ").read_bytes()
    return b""


def test_process_of_hf_transfer_gets_no_token(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("REGISTRY_PASSWORD", "another-secret")
    side.hub.add_fault(faults.BandwidthCap(path=FILE, bytes_per_s=4 * MIB))
    seen: list[bytes] = []

    def look() -> None:
        wait_for(lambda: bool(environment_of("hf_transfer_child")))
        seen.append(environment_of("hf_transfer_child"))

    thread = threading.Thread(target=look)
    thread.start()
    side.fetch(side.snapshot("org/big"), tmp_path, use_transfer=True)
    thread.join(10)
    assert seen
    assert b"secret" not in seen[0]


def partial_bytes(cache_dir: Path, oid: str) -> int:
    """Return how many bytes of a cache blob are in its journal."""
    journal = cache_dir / "models--org--big" / "blobs" / f"{oid}.{oid[:8]}.journal.incomplete"
    lines = journal.read_text().splitlines()[1:] if journal.exists() else []
    return sum(int(end) - int(start) for _, start, end in map(str.split, lines))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_fetch_after_a_kill_continues(side: Side, tmp_path: Path, how: signal.Signals) -> None:
    side.hub.add_fault(faults.BandwidthCap(path=FILE, bytes_per_s=2 * MIB))
    snapshot = side.snapshot("org/big")
    oid = file_of(snapshot, "big.bin").oid
    command = ("fetch", "org/big", "--cache-dir", tmp_path)
    first = start_apart(*command, HF_ENDPOINT=side.hub.endpoint)
    wait_for(lambda: partial_bytes(tmp_path, oid) >= 4 * MIB)
    assert first.pid is not None
    os.kill(first.pid, how)
    first.join(20)
    assert first.exitcode == (-how if how == signal.SIGKILL else 130)
    assert not (tmp_path / "models--org--big" / "refs").exists()
    kept = partial_bytes(tmp_path, oid)

    side.hub.clear_faults()
    side.hub.clear_log()
    assert "continuing after" in fetch_apart(side, tmp_path)
    assert not side.log().of(file="config.json")
    assert side.log().of(origin="cdn", file="big.bin").bytes_sent <= BIG_BYTES - kept + MIB
    check_whole(tmp_path)


def test_bytes_of_a_killed_hf_transfer_are_kept(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/big")
    file = file_of(snapshot, "big.bin")
    blobs = tmp_path / "models--org--big" / "blobs"
    directory = blobs / f"{file.oid}.{file.oid[:8]}.transfer.incomplete"
    directory.mkdir(parents=True, mode=0o700)
    with (directory / "content").open("wb") as left:
        for start, end in [(0, 3 * MIB), (10 * MIB, 17 * MIB + 5)]:  # the last block is not whole
            left.seek(start)
            left.write(read_all(BIG, start, end))
    side.hub.clear_log()
    side.fetch(snapshot, tmp_path, use_transfer=True)
    sent = side.log().of(origin="cdn", file="big.bin").bytes_sent
    assert sent < BIG_BYTES - 9 * MIB
    check_whole(tmp_path)


def test_damaged_leftover_of_hf_transfer_is_fetched_again(side: Side, tmp_path: Path) -> None:
    snapshot = side.snapshot("org/big")
    file = file_of(snapshot, "big.bin")
    blobs = tmp_path / "models--org--big" / "blobs"
    directory = blobs / f"{file.oid}.{file.oid[:8]}.transfer.incomplete"
    directory.mkdir(parents=True, mode=0o700)
    (directory / "content").write_bytes(b"x" * 9 * MIB)
    side.fetch(snapshot, tmp_path, use_transfer=True)
    check_whole(tmp_path)
    assert not directory.exists()


def test_planted_directory_for_hf_transfer_is_refused_and_a_link_replaced(
    side: Side, tmp_path: Path
) -> None:
    snapshot = side.snapshot("org/big")
    file = file_of(snapshot, "big.bin")
    blobs = tmp_path / "models--org--big" / "blobs"
    directory = blobs / f"{file.oid}.{file.oid[:8]}.transfer.incomplete"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(StorageError, match="only we may write to"):
        side.fetch(snapshot, tmp_path, use_transfer=True)
    directory.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    directory.symlink_to(elsewhere)
    side.fetch(snapshot, tmp_path, use_transfer=True)
    check_whole(tmp_path)
    assert not list(elsewhere.iterdir())


def test_files_of_a_directory_are_served_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a b.txt").write_bytes(b"from disk")
    repo = make_repo("org/disk", source)
    assert make_files(source) == repo.commits[0].files
    with HubServer([repo]) as server, fresh(server) as side:
        report = side.fetch(side.snapshot("org/disk"), tmp_path / "cache")
    assert (report.snapshot_dir / "a b.txt").read_bytes() == b"from disk"
