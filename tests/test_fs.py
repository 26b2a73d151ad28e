"""Files in a directory that another user can write to as well."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from downloader.errors import StorageError, TransportError
from downloader.fs import (
    NewFile,
    create_file,
    hold_lock,
    make_directory,
    open_own_file,
    remove_abandoned,
    storage_errors,
    temporary_name,
    write_atomically,
)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    return path


Plant = Callable[[Path, Path], object]
PLANTED: dict[str, Plant] = {
    "a symbolic link": lambda path, victim: path.symlink_to(victim),
    "a dangling link": lambda path, victim: path.symlink_to(victim.with_name("new")),
    "a hard link": lambda path, victim: path.hardlink_to(victim),
    "a FIFO": lambda path, victim: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_kept_file_replaces_a_planted_entry(kind: str, victim: Path) -> None:
    path = victim.with_name("blob.journal.incomplete")
    PLANTED[kind](path, victim)
    descriptor = open_own_file(path)
    os.write(descriptor, b"ours")
    os.close(descriptor)
    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() == b"ours"
    assert not path.is_symlink()
    assert not victim.with_name("new").exists()


def test_kept_file_of_another_user_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "partial"
    path.write_bytes(b"forged")
    # Not everybody who runs the tests may give a file away; who the process is, is as good.
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
        os.close(open_own_file(path))
    assert path.read_bytes() == b""


def test_kept_file_keeps_its_bytes_and_appends(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        descriptor = open_own_file(tmp_path / "journal", append=True)
        os.write(descriptor, text)
        os.close(descriptor)
    assert (tmp_path / "journal").read_bytes() == b"onetwo"


def test_kept_file_where_a_directory_is_fails(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StorageError, match="directory"), storage_errors(tmp_path / "x"):
        open_own_file(tmp_path / "x")


@pytest.mark.parametrize("kind", PLANTED)
def test_new_file_refuses_a_name_that_is_taken(kind: str, victim: Path) -> None:
    path = victim.with_name("taken")
    PLANTED[kind](path, victim)
    with pytest.raises(FileExistsError):
        create_file(path)
    assert victim.read_bytes() == b"precious"


def test_atomic_write_replaces_a_link_and_not_its_target(victim: Path) -> None:
    path = victim.with_name("link")
    path.symlink_to(victim)
    write_atomically(path, b"new", durable=True)
    assert (path.read_bytes(), victim.read_bytes()) == (b"new", b"precious")
    assert sorted(item.name for item in victim.parent.iterdir()) == ["link", "victim"]


def test_new_file_is_gone_where_it_was_not_committed(tmp_path: Path) -> None:
    with NewFile(tmp_path / "x") as file:
        file.write(b"half")
    assert not list(tmp_path.iterdir())


def test_only_new_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from downloader.fs import NewFile\n"
    program += "with NewFile(Path(sys.argv[1])) as file: print(flush=True); time.sleep(100)"
    command = [sys.executable, "-c", program, str(tmp_path / "x")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        remove_abandoned(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        child.kill()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    planted = temporary_name(tmp_path / "link")
    planted.symlink_to(victim)
    remove_abandoned(tmp_path, prefix="y.")
    assert len(list(tmp_path.iterdir())) == 3
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([planted, victim])
    os.utime(planted, (0, 0), follow_symlinks=False)
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [victim]


def test_temporary_name_fits_beside_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"
    assert temporary_name(path).name.endswith(".incomplete")


@pytest.mark.parametrize("kind", ["link", "file"])
def test_directory_below_a_root_is_no_link(kind: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "repo").mkdir()
    refs = tmp_path / "repo" / "refs"
    if kind == "link":
        refs.symlink_to(tmp_path / "elsewhere")
    else:
        refs.write_bytes(b"")
    with pytest.raises(StorageError, match=f"want a directory, got a {kind}"):
        make_directory(tmp_path / "repo", "refs/pr")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_root_of_a_directory_may_be_a_link_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    assert make_directory(tmp_path / "cache", "a/b").is_dir()
    assert (tmp_path / "disk" / "a" / "b").is_dir()


@pytest.mark.parametrize("kind", PLANTED)
def test_lock_replaces_a_planted_entry(kind: str, victim: Path) -> None:
    path = victim.with_name("x.lock")
    PLANTED[kind](path, victim)
    with hold_lock(path):
        assert path.is_file()
        assert not path.is_symlink()
    assert victim.read_bytes() == b"precious"


def test_lock_of_another_user_that_may_not_be_opened_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lock"
    path.touch()

    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as other:
        other.setattr(os, "open", denied)
        with pytest.raises(StorageError, match="Permission denied"), hold_lock(path):
            pass
    assert path.exists()


@pytest.mark.parametrize("is_directory", [True, False])
def test_lock_is_held_once(is_directory: bool, tmp_path: Path) -> None:
    path = tmp_path if is_directory else tmp_path / "x.lock"
    waits: list[str] = []
    with hold_lock(path):
        stopped = threading.Event()
        stopped.set()
        with (
            pytest.raises(TransportError, match="held the lock"),
            hold_lock(path, stopped, lambda: waits.append("waits")),
        ):
            pass
    with hold_lock(path, stopped):
        pass
    assert waits == ["waits"]
    assert not is_directory or not list(tmp_path.iterdir())
