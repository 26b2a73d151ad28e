"""Restoring over lines that break: mirrors, stalls, lies, kills; and two at once."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from downloader.fs import hold_lock
from downloader.hub.cache import blob_path
from downloader.transfer.journal import Journal
from downloader.transfer.partial_file import partial_paths
from downloader.units import format_bytes
from tests.support.command import call
from tests.support.fake_hub import HubServer, make_repo
from tests.support.faults import ALL, Asked, Fault, always, of_blobs
from tests.support.make_image import MIB, lfs_oid, make_snapshot, put_ours, random_bytes
from tests.support.restore import (
    FILES,
    FOLDER,
    check_blobs,
    check_cache,
    kill_after,
    layout,
    restore,
    restored,
    said_by,
    sha256,
    start,
)
from tests.support.small_registry import SmallRegistry

LARGE = {"model.safetensors": random_bytes(40 * MIB + 11, seed=9), "config.json": b"{}"}
LAYER_BYTES = 5 * MIB  # smaller layers of FILES are served as they should be
KILLS = 20
LOST_LIMIT_BYTES = 64 * MIB  # what a kill may cost
ONE_TRY = ("--stall-timeout", "1")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    put_ours(layout(root), FILES)
    return root


# Mirrors


def test_a_mirror_serves_everything(image: Path, tmp_path: Path) -> None:
    with SmallRegistry(image) as own, SmallRegistry(image) as mirror:
        restored(f"{own.host}/me/model", tmp_path / "cache", "--mirror", mirror.host)
        assert own.seen == []
        assert mirror.blob_bytes > sum(map(len, set(FILES.values())))
    check_cache(tmp_path / "cache")


def test_mirrors_come_from_the_environment(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SmallRegistry(image) as mirror:
        monkeypatch.setenv("HF_MODELS_MIRRORS", f"127.0.0.1:1, {mirror.host}")
        restored("registry.invalid/me/model", tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_a_mirror_with_a_path(image: Path, tmp_path: Path) -> None:
    with SmallRegistry(image) as mirror:
        restored("x.invalid/me/model", tmp_path / "c", "--mirror", f"{mirror.host}/hub/proxy")
        assert all(asked.path.startswith("/v2/hub/proxy/me/model/") for asked in mirror.seen)


@pytest.mark.parametrize(
    "fault",
    [
        of_blobs("404", status=404),
        of_blobs("403", status=403),
        of_blobs("500", status=500),
        of_blobs("429", status=429),
        always("404 for everything", "/(blobs|manifests)/", status=404),
        always("503 for manifests", "/manifests/", status=503),
        of_blobs("lies", lies=ALL),
        of_blobs("lies about layers", lies=ALL, from_bytes=LAYER_BYTES),
        of_blobs("cut", cut_answer_at=1000),
        of_blobs("layers cut", cut_answer_at=1 * MIB, from_bytes=LAYER_BYTES),
        of_blobs("layers stalled", stall_answer_at=100_000, from_bytes=LAYER_BYTES),
        of_blobs("layers without ranges", strip=("Range",), from_bytes=LAYER_BYTES),
    ],
    ids=lambda fault: fault.name,
)
def test_a_bad_mirror_gives_way_to_the_next_source(
    image: Path, tmp_path: Path, fault: Fault
) -> None:
    with SmallRegistry(image) as own, SmallRegistry(image, fault) as mirror:
        ran = restore(
            f"{own.host}/me/model", tmp_path / "cache", "--mirror", mirror.host, *ONE_TRY, code=0
        )
        assert own.seen
        assert fault.met
        assert "trying the next place" in ran.err
    check_cache(tmp_path / "cache")


def test_mirrors_with_wrong_bytes_only_give_way_to_the_images_registry(
    image: Path, tmp_path: Path
) -> None:
    lies = of_blobs("lies", lies=ALL, from_bytes=LAYER_BYTES)
    with (
        SmallRegistry(image) as own,
        SmallRegistry(image, lies) as one,
        SmallRegistry(image, lies) as two,
    ):
        flags = ["--mirror", one.host, "--mirror", two.host]
        ran = restore(f"{own.host}/me/model", tmp_path / "cache", *flags, code=0)
        assert "sent wrong bytes" in ran.err
    check_cache(tmp_path / "cache")


def test_wrong_bytes_everywhere_are_an_integrity_error(image: Path, tmp_path: Path) -> None:
    with SmallRegistry(image, of_blobs("lies", lies=ALL, from_bytes=LAYER_BYTES)) as own:
        ran = restore(f"{own.host}/me/model", tmp_path / "cache")
    assert ran.code == 6
    check_blobs(tmp_path / "cache" / FOLDER / "blobs")
    assert not (tmp_path / "cache" / FOLDER / "snapshots").exists()


def test_a_slow_connection_gives_the_end_of_its_range_to_one_that_is_idle(tmp_path: Path) -> None:
    alone = {"model.safetensors": LARGE["model.safetensors"]}
    put_ours(layout(tmp_path / "image"), alone)
    slow = Fault("slow", path="/blobs/", from_bytes=LAYER_BYTES, stall_answer_at=1 * MIB)

    def watch(asked: Asked) -> None:
        for one in slow.met:
            if one.range and asked.range and one.range[0] < asked.range[0] < one.range[1]:
                slow.goes_on.set()

    with SmallRegistry(tmp_path / "image", slow, of_blobs("watch", reply=watch)) as own:
        restored(f"{own.host}/me/model", tmp_path / "cache", "--connections", "2", "--tries", "1")
        assert slow.goes_on.is_set()
    check_cache(tmp_path / "cache", alone)


def test_a_digest_protects_against_a_mirror_with_another_image(image: Path, tmp_path: Path) -> None:
    other = {"config.json": b'{"evil": true}'}
    put_ours(layout(tmp_path / "evil"), other)
    digest = str(layout(image).get_manifest("latest").digest)  # type: ignore[union-attr]
    with SmallRegistry(image) as own, SmallRegistry(tmp_path / "evil") as mirror:
        restored(f"{own.host}/me/model@{digest}", tmp_path / "c", "--mirror", mirror.host)
    check_cache(tmp_path / "c")


# The line


def test_a_line_that_is_cut_again_and_again(image: Path, tmp_path: Path) -> None:
    with SmallRegistry(image, Fault("cut", path="/blobs/", times=12, cut_answer_at=700_000)) as own:
        restored(f"{own.host}/me/model", tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_a_stalled_connection_is_replaced(image: Path, tmp_path: Path) -> None:
    with SmallRegistry(
        image, Fault("stall", path="/blobs/", times=2, stall_answer_at=300_000)
    ) as own:
        restored(f"{own.host}/me/model", tmp_path / "cache", "--stall-timeout", "0.5")
    check_cache(tmp_path / "cache")


def test_a_registry_without_ranges(image: Path, tmp_path: Path) -> None:
    with SmallRegistry(image, of_blobs("no ranges", strip=("Range",))) as own:
        restored(f"{own.host}/me/model", tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_hashed_bytes_are_not_overwritten(tmp_path: Path) -> None:
    alone = {"model.safetensors": LARGE["model.safetensors"]}
    put_ours(layout(tmp_path / "image"), alone)
    # The first answer shows that there are no ranges, the second is cut, and the third begins
    # with other bytes; those were hashed already, and have to stay as they are.
    of_layer: Any = {"path": "/blobs/", "from_bytes": LAYER_BYTES, "strip": ("Range",)}
    cut = Fault("cut", times=2, cut_answer_at=900_000, **of_layer)
    lies = Fault("lies", skip=2, times=ALL, lies=500_000, **of_layer)
    no_ranges = of_blobs("no ranges", strip=("Range",))
    with SmallRegistry(tmp_path / "image", cut, lies, no_ranges) as own:
        restored(f"{own.host}/me/model", tmp_path / "cache", "--connections", "1")
    check_cache(tmp_path / "cache", alone)


def test_small_files_of_a_registry_without_ranges_that_cuts(image: Path, tmp_path: Path) -> None:
    cut = Fault("cut", path="/blobs/", times=3, strip=("Range",), cut_answer_at=150_000)
    with SmallRegistry(image, cut, of_blobs("no ranges", strip=("Range",))) as own:
        restored(f"{own.host}/me/model", tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_many_connections_share_one_file(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), LARGE)
    with SmallRegistry(tmp_path / "image", of_blobs("slow", bytes_per_s=3 * MIB)) as own:
        restored(f"{own.host}/me/model", tmp_path / "cache", "--connections", "8")
        assert own.most_under_way == 8
    with SmallRegistry(tmp_path / "image", of_blobs("slow", bytes_per_s=40 * MIB)) as own:
        restored(f"{own.host}/me/model", tmp_path / "cache2", "--connections", "3")
        assert own.most_under_way == 3
    check_cache(tmp_path / "cache2", LARGE)


def test_only_the_wanted_bytes_are_fetched(image: Path, tmp_path: Path) -> None:
    with SmallRegistry(image) as own:
        flags = ["--connections", "1"]  # others would break its answers off
        restored(f"{own.host}/me/model", tmp_path / "cache", "sub folder/b.bin", *flags)
        small_bytes = 64 * 1024  # the config and the metadata; the programs are not read
        assert own.blob_bytes < len(FILES["sub folder/b.bin"]) + small_bytes


# Killed, and continued


def test_a_killed_run_is_continued_from_another_mirror(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), LARGE)
    total, name = sum(map(len, LARGE.values())), "own.invalid/me/model"
    cache = tmp_path / "cache"
    with SmallRegistry(tmp_path / "image") as one:
        process = start(name, cache, "--mirror", one.host)
        # All that was sent may still be on its way when the mirror falls silent.
        kill_after(one, process, total // 2, and_when=lambda: noted_bytes(cache) > 0)
    with SmallRegistry(tmp_path / "image") as two:
        report = restored(name, cache, "--mirror", two.host)
        assert two.blob_bytes < total - report["resumed_bytes"] + MIB
    assert report["resumed_bytes"] > 0
    check_cache(cache, LARGE)


def test_killed_at_random_moments_it_continues(tmp_path: Path) -> None:
    files = {"model.safetensors": LARGE["model.safetensors"] * 5}
    total = sum(map(len, files.values()))
    put_ours(layout(tmp_path / "image"), files)
    cache, seed, kept = tmp_path / "cache", random.Random(4), 0
    with SmallRegistry(tmp_path / "image") as own:
        for _ in range(KILLS):
            before = own.blob_bytes
            # Half of what is left at most: there must be something left to kill.
            sent = int(seed.uniform(0.02, 0.5) * (total - kept))
            kill_after(own, start(f"{own.host}/me/model", cache), sent)
            check_blobs_if_any(cache)
            assert resumed(cache) == (format_bytes(kept) if kept else "")
            sent = own.blob_bytes - before
            kept_before, kept = kept, noted_bytes(cache)
            assert kept_before + sent - kept <= LOST_LIMIT_BYTES
        report = restored(f"{own.host}/me/model", cache)
    assert report["resumed_bytes"] == kept > 0
    check_cache(cache, files)


def resumed(cache: Path) -> str:
    """Return how many bytes of earlier runs the last run said that it kept."""
    found = re.search(r"continuing after (.+)", said_by(cache).read_text())
    return found[1] if found else ""


def noted_bytes(cache: Path) -> int:
    """Return how many bytes the journal says are there, as the next run will read it."""
    (journal,) = (cache / FOLDER / "blobs").glob("*.journal.incomplete")
    size_bytes = journal.with_name(journal.name.replace(".journal", "")).stat().st_size
    boot = journal.read_text().splitlines()[0].split()[3]
    return Journal(journal, size_bytes, boot).read().size_bytes


def check_blobs_if_any(cache: Path) -> None:
    if (cache / FOLDER / "blobs").exists():
        check_blobs(cache / FOLDER / "blobs")


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_a_killed_run_loses_little(tmp_path: Path, at: float) -> None:
    put_ours(layout(tmp_path / "image"), LARGE)
    total = sum(map(len, LARGE.values()))
    cache = tmp_path / "cache"
    with SmallRegistry(tmp_path / "image") as own:
        kill_after(own, start(f"{own.host}/me/model", cache), int(at * total))
        report = restored(f"{own.host}/me/model", cache)
        again = own.blob_bytes - total
    assert again <= LOST_LIMIT_BYTES
    assert report["resumed_bytes"] + report["fetched_bytes"] + report["kept_bytes"] == total
    check_cache(cache, LARGE)


def test_a_kept_part_that_is_damaged_is_fetched_again(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), LARGE)
    total, cache = sum(map(len, LARGE.values())), tmp_path / "cache"
    with SmallRegistry(tmp_path / "image") as own:
        process = start(f"{own.host}/me/model", cache)
        kill_after(own, process, int(0.8 * total), and_when=lambda: noted_bytes(cache) > 0)
        partial, _ = partial_paths(cache / FOLDER / blob_path(lfs_oid(LARGE["model.safetensors"])))
        partial.write_bytes(bytes(partial.stat().st_size))
        ran = restore(f"{own.host}/me/model", cache)
    assert ran.code == 0, ran.err
    assert "fetching it again" in ran.err
    check_cache(cache, LARGE)


@pytest.mark.parametrize("journal", [b"", b"garbage\n", b"hf-models 1 7 x\nr 0 7\n", b"\xff" * 99])
def test_malformed_journal_is_ignored(image: Path, tmp_path: Path, journal: bytes) -> None:
    oid = next(p.name for p in _restored_blobs(image, tmp_path) if p.stat().st_size > 8 * MIB)
    blobs = tmp_path / "cache" / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{oid}.{oid[:8]}.incomplete").write_bytes(bytes(len(FILES["a.safetensors"])))
    (blobs / f"{oid}.{oid[:8]}.journal.incomplete").write_bytes(journal)
    assert restored(image, tmp_path / "cache")["resumed_bytes"] == 0
    check_cache(tmp_path / "cache")


def _restored_blobs(image: Path, tmp_path: Path) -> list[Path]:
    restored(image, tmp_path / "first")
    return list((tmp_path / "first" / FOLDER / "blobs").iterdir())


def test_bytes_of_another_start_of_the_machine_count_only_if_durable(
    image: Path, tmp_path: Path
) -> None:
    oid = next(p.name for p in _restored_blobs(image, tmp_path) if p.stat().st_size > 8 * MIB)
    data, blobs = FILES["a.safetensors"], tmp_path / "cache" / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{oid}.{oid[:8]}.incomplete").write_bytes(data)
    journal = f"hf-models 1 {len(data)} another-boot\nr 0 {8 * MIB}\nd 0 {3 * MIB}\n"
    (blobs / f"{oid}.{oid[:8]}.journal.incomplete").write_text(journal)
    assert restored(image, tmp_path / "cache")["resumed_bytes"] == 3 * MIB
    check_cache(tmp_path / "cache")


def test_run_continues_after_ctrl_c(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), LARGE)
    total, cache = sum(map(len, LARGE.values())), tmp_path / "cache"
    with SmallRegistry(tmp_path / "image") as own:
        silent = of_blobs("silent", silent_after=total // 2)
        own.faults.append(silent)
        command = [sys.executable, "-m", "downloader", "restore", f"{own.host}/me/model"]
        process = subprocess.Popen(
            [*command, "--cache-dir", str(cache), "--quiet"], stderr=subprocess.PIPE
        )
        assert silent.is_waiting.wait(60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert b"Traceback" not in said
        own.faults.remove(silent)
        assert restored(f"{own.host}/me/model", cache)["resumed_bytes"] > 0
    check_cache(cache, LARGE)


# Side by side


def test_two_restores_at_once_fetch_each_large_file_once(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), LARGE)
    with SmallRegistry(tmp_path / "image", of_blobs("slow", bytes_per_s=20 * MIB)) as own:
        both = [start(f"{own.host}/me/model", tmp_path / "cache") for _ in range(2)]
        for process in both:
            process.join(60)
            assert process.exitcode == 0
        assert own.blob_bytes < 1.1 * sum(map(len, LARGE.values()))
    check_cache(tmp_path / "cache", LARGE)


def test_it_waits_for_a_download_of_the_library(image: Path, tmp_path: Path) -> None:
    blobs = _restored_blobs(image, tmp_path)
    large = next(path for path in blobs if path.stat().st_size > 8 * MIB)
    cache = tmp_path / "cache"
    lock = cache / ".locks" / FOLDER / f"{large.name}.lock"
    with SmallRegistry(image) as own:
        with hold_lock(lock):
            process = start(f"{own.host}/me/model", cache)
            other = next(path for path in blobs if 4 * MIB < path.stat().st_size < 8 * MIB)
            while not (cache / FOLDER / "blobs" / other.name).exists():
                assert process.is_alive()
                time.sleep(0.01)
            # The library finishes, and names its blob while it still holds the lock.
            final = cache / FOLDER / "blobs" / large.name
            os.link(large, final)
        process.join(30)
        assert process.exitcode == 0
        assert own.blob_bytes < large.stat().st_size
    check_cache(cache)
    assert sha256(final) == large.name


DOWNLOAD = "from huggingface_hub import snapshot_download\nsnapshot_download('org/model')\n"


def test_the_library_downloads_beside_it(tmp_path: Path) -> None:
    repo, cache = make_repo("org/model", dict(LARGE)), tmp_path / "cache"
    put_ours(layout(tmp_path / "image"), LARGE, snapshot=make_snapshot(LARGE, commit=repo.sha))
    with (
        SmallRegistry(tmp_path / "image", of_blobs("slow", bytes_per_s=2 * MIB)) as own,
        HubServer([repo]) as hub,
    ):
        process = start(f"{own.host}/me/model", cache)
        while own.blob_bytes < MIB:  # from now on it holds the lock of the large file
            assert process.is_alive()
            time.sleep(0.01)
        names = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
        call(sys.executable, "-c", DOWNLOAD, env=names)
        process.join(30)
        assert process.exitcode == 0
        twice = [access for access in hub.log() if access.file.endswith("model.safetensors")]
        assert sum(access.bytes_sent for access in twice) == 0
    check_cache(cache, LARGE, commit=repo.sha)


def test_a_full_disk_is_said_before_the_first_byte(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), LARGE)
    program = (
        "import shutil, sys, downloader.cli\n"
        "usage = shutil.disk_usage('/')\n"
        "shutil.disk_usage = lambda path: usage._replace(free=1000)\n"
        "sys.exit(downloader.cli.run(sys.argv[1:]))"
    )
    with SmallRegistry(tmp_path / "image") as own:
        command = (sys.executable, "-c", program, "restore", f"{own.host}/me/model")
        said = call(*command, "--cache-dir", tmp_path / "cache", code=7)
        assert own.blob_bytes < MIB
    assert "got 1.0 kB" in said
