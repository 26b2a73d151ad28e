"""cleanup on a root that stands for a runner's: what goes, what stays, what is said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from downloader.farm.cleanup import Cleaned, Cleaner, reclaimable_bytes
from downloader.farm.freeable import ITEMS, Item
from tests.support.command import Ran, hf_models

MIB = 1 << 20
FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
exit {code}
"""


def put(root: Path, path: str, size_bytes: int = MIB) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size_bytes)
    return file


def put_program(root: Path, name: str, code: int = 0) -> None:
    program = put(root, f"usr/bin/{name}", 0)
    program.write_text(FAKE.format(log=root / "log", code=code))
    program.chmod(0o755)


def log_of(root: Path) -> list[str]:
    log = root / "log"
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small image of a runner: two SDKs, a toolset, a swap file, and what is nobody's."""
    put(tmp_path, "usr/share/dotnet/sdk/a.dll", 3 * MIB)
    put(tmp_path, "usr/local/lib/android/ndk/b.so", 2 * MIB)
    put(tmp_path, "opt/hostedtoolcache/CodeQL/c", MIB)
    put(tmp_path, "opt/hostedtoolcache/Python/3.10.1/d", MIB)
    put(tmp_path, "mnt/swapfile", MIB)
    put(tmp_path, "home/runner/work/keep.txt")
    put(tmp_path, "usr/share/doc/keep.txt")
    return tmp_path


Cleanup = Callable[..., Ran]


@pytest.fixture
def cleanup(root: Path, monkeypatch: pytest.MonkeyPatch) -> Cleanup:
    """Run the command on ``root``; as a person would, unless a variable says CI."""

    def call(*flags: str, **env: str) -> Ran:
        for name in ("CI", "GITHUB_ACTIONS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        return hf_models("cleanup", "--root", root, *flags)

    return call


def rows(done: Ran) -> dict[str, dict[str, Any]]:
    assert done.code == 0, done.err
    return {row["name"]: row for row in json.loads(done.out)["items"]}


def test_cleanup_removes_only_listed_paths(root: Path, cleanup: Cleanup) -> None:
    done = rows(cleanup("--json", CI="true"))
    assert not (root / "usr/share/dotnet").exists()
    assert not (root / "usr/local/lib/android").exists()
    assert not (root / "opt/hostedtoolcache/CodeQL").exists()
    assert (root / "home/runner/work/keep.txt").exists()
    assert (root / "usr/share/doc/keep.txt").exists()
    assert done[".NET"]["state"] == "removed"
    assert 3 * MIB <= done[".NET"]["freed_bytes"] < 3.1 * MIB
    assert done[".NET"]["after_bytes"] == 0


def test_prints_before_and_after_of_each_item_and_the_total(root: Path, cleanup: Cleanup) -> None:
    done = cleanup(CI="true")
    android = next(line for line in done.out.splitlines() if line.startswith("Android"))
    assert android.split()[2:7] == ["removed", "2.1", "MB", "0", "B"]
    assert done.out.splitlines()[-1].startswith("freed 7.")  # 3 + 2 + 1 + 1 MiB
    assert "free before: " in done.out


def test_refuses_outside_ci(root: Path, cleanup: Cleanup) -> None:
    done = cleanup()
    assert done.code == 2
    assert "--dry-run" in done.err
    assert (root / "usr/share/dotnet").exists()


@pytest.mark.parametrize("allowed", [{"CI": "true"}, {"GITHUB_ACTIONS": "true"}])
def test_runs_in_ci(root: Path, cleanup: Cleanup, allowed: dict[str, str]) -> None:
    rows(cleanup("--json", **allowed))
    assert not (root / "usr/share/dotnet").exists()


def test_runs_elsewhere_when_it_is_told_to(root: Path, cleanup: Cleanup) -> None:
    rows(cleanup("--json", "--yes"))
    assert not (root / "usr/share/dotnet").exists()


def test_dry_run_removes_nothing_and_runs_nothing(root: Path, cleanup: Cleanup) -> None:
    put_program(root, "docker")
    put_program(root, "swapoff")
    done = rows(cleanup("--json", "--dry-run"))
    assert (root / "usr/share/dotnet/sdk/a.dll").exists()
    assert done[".NET"]["state"] == "would remove"
    assert done[".NET"]["before_bytes"] >= 3 * MIB
    assert done["Docker images"]["state"] == "would remove"
    assert log_of(root) == []


def test_an_empty_machine_is_no_error(root: Path, cleanup: Cleanup) -> None:
    for name in ("usr", "opt", "mnt"):
        shutil.rmtree(root / name)
    done = rows(cleanup("--json", CI="true"))
    assert {row["state"] for row in done.values()} == {"absent"}


def test_images_are_pruned_and_swap_is_off_before_its_file_goes(
    root: Path, cleanup: Cleanup
) -> None:
    put_program(root, "docker")
    put_program(root, "swapoff")
    done = rows(cleanup("--json", CI="true"))
    assert log_of(root) == ["docker image prune --all --force", "swapoff /mnt/swapfile"]
    assert done["swap file"]["state"] == "removed"
    assert not (root / "mnt/swapfile").exists()


def test_a_swap_file_that_stays_in_use_is_not_deleted(root: Path, cleanup: Cleanup) -> None:
    put_program(root, "swapoff", code=1)
    done = rows(cleanup("--json", CI="true"))
    assert done["swap file"]["state"] == "failed"
    assert (root / "mnt/swapfile").exists()


def test_a_docker_that_fails_fails_no_job(root: Path, cleanup: Cleanup) -> None:
    put_program(root, "docker", code=1)
    done = rows(cleanup("--json", CI="true"))
    assert done["Docker images"]["state"] == "failed"
    assert done["Docker images"]["note"] == "exit code 1"
    assert done[".NET"]["state"] == "removed"


def clean(cleaner: Cleaner, name: str) -> Cleaned:
    return cleaner.clean(next(item for item in ITEMS if item.name == name))


def test_the_running_python_stays_and_its_neighbours_go(root: Path) -> None:
    running = put(root, "opt/hostedtoolcache/Python/3.14.0/x64/bin/python3").resolve()
    cleaner = Cleaner(root, protected=(running,))
    done = clean(cleaner, "Python toolsets")
    assert running.exists()
    assert not (root / "opt/hostedtoolcache/Python/3.10.1").exists()
    assert done.state == "removed"
    assert "3.14.0: in use" in done.note


def test_an_item_that_is_all_in_use_is_kept(root: Path) -> None:
    cleaner = Cleaner(root, protected=((root / "usr/share/dotnet/sdk").resolve(),))
    done = clean(cleaner, ".NET")
    assert done.state == "kept"
    assert (root / "usr/share/dotnet/sdk/a.dll").exists()


def test_a_link_is_removed_and_its_target_stays(root: Path) -> None:
    target = put(root, "home/runner/jdk/keep.txt")
    link = root / "usr/lib/jvm"
    link.parent.mkdir(parents=True)
    link.symlink_to(target.parent)
    assert clean(Cleaner(root), "Java").state == "removed"
    assert not link.is_symlink()
    assert target.exists()


def test_hard_links_count_once(root: Path) -> None:
    file = put(root, "usr/share/swift/a", MIB)
    os.link(file, file.with_name("b"))
    assert clean(Cleaner(root, dry_run=True), "Swift").before_bytes < 1.1 * MIB


def test_without_root_everything_goes_through_sudo_that_never_asks(root: Path) -> None:
    put_program(root, "sudo")
    put_program(root, "docker")
    cleaner = Cleaner(root, is_root=False)
    clean(cleaner, ".NET")
    clean(cleaner, "Docker images")
    assert log_of(root) == [
        f"sudo -n rm -rf --one-file-system -- {root}/usr/share/dotnet",
        f"sudo -n {root}/usr/bin/docker image prune --all --force",
    ]


def test_files_that_cannot_be_deleted_are_reported(root: Path) -> None:
    put_program(root, "sudo", code=1)
    done = clean(Cleaner(root, is_root=False), ".NET")
    assert done.state == "failed"
    assert done.freed_bytes == 0


def test_freeable_space_is_estimated_without_reading_a_tree(root: Path) -> None:
    sizes = {item.name: item.size_bytes for item in ITEMS}
    there = (".NET", "Android SDK", "CodeQL", "Python toolsets", "swap file")
    assert reclaimable_bytes(root) == sum(sizes[name] for name in there)


def test_paths_on_another_disk_are_not_counted(tmp_path: Path) -> None:
    elsewhere = Path("/proc")  # a file system of its own on every Linux
    assert elsewhere.stat().st_dev != tmp_path.stat().st_dev
    (tmp_path / "mnt").symlink_to(elsewhere)
    item = Item("swap file", ("/mnt/swaps",), MIB, "here")
    assert reclaimable_bytes(tmp_path, [item]) == 0


def test_every_item_has_a_source_and_stays_below_the_directories_of_a_system() -> None:
    def is_deep(path: str) -> bool:
        return path.startswith("/") and len(Path(path).parts) >= 3

    assert all(item.source for item in ITEMS)
    assert all(is_deep(path) for item in ITEMS for path in item.paths)
    assert all(item.paths or item.command for item in ITEMS)
    assert len({item.name for item in ITEMS}) == len(ITEMS)


def test_an_item_of_paths_and_a_missing_command_stays(root: Path) -> None:
    item = Item("swap file", ("/mnt/swapfile",), 0, "here", ("swapoff", "/mnt/swapfile"))
    assert Cleaner(root).clean(item).state == "absent"
    assert (root / "mnt/swapfile").exists()
