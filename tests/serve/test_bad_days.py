"""What goes wrong while files are served: one test for each."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from downloader.hub.repo import Repo, RepoFile
from downloader.image import labels
from downloader.oci.manifest import MANIFEST
from downloader.plan import make_plan
from downloader.restore.target import CacheTarget
from downloader.serve.cache import Cache
from tests.support.command import WITHOUT_OVERRIDING_MODES, call, hf_models_apart
from tests.support.faults import ALL, Fault, of_blobs
from tests.support.faulty_proxy import FaultyProxy
from tests.support.make_image import (
    MIB,
    cache_members,
    layer_of,
    lfs_oid,
    make_snapshot,
    our_layers,
    put_image,
    put_ours,
    random_bytes,
)
from tests.support.restore import FILES, check_blobs, layout, registry, restore
from tests.support.serve import Server, resolve_path, serving, with_constants
from tests.support.small_registry import SmallRegistry

pytestmark = pytest.mark.docker
WEIGHTS = random_bytes(24 * MIB + 17, seed=7)
BIG = {"w.safetensors": WEIGHTS, "config.json": b"{}"}
OID = lfs_oid(WEIGHTS)
PATH = resolve_path("w.safetensors")
BLOBS = "models--org--model/blobs"
# Says after half a second that an answer will come, not after five.
SOON_SILENT = with_constants("app._SILENCE_S = 0.5")


def put_big(tag: str = "latest") -> str:
    name, store = registry()
    put_ours(store, BIG, tag)
    return name


@contextmanager
def asked(
    server: Server, receive_bytes: int | None = None, path: str = PATH
) -> Iterator[socket.socket]:
    """Ask for the large file on a socket of its own, and read nothing yet."""
    host, _, port = server.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        if receive_bytes:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        head = f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n"
        line.sendall(head.encode())
        yield line


@contextmanager
def mirror_of_big(tmp_path: Path, *faults: Fault) -> Iterator[SmallRegistry]:
    put_ours(layout(tmp_path / "layout"), BIG)
    with SmallRegistry(tmp_path / "layout", *faults) as mirror:
        yield mirror


def test_registry_gone_in_mid_file_and_back(tmp_path: Path) -> None:
    name = put_big()
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"]) as proxy:
        source = f"{proxy.host}/{name.partition('/')[2]}"
        with serving(source, "--cache-dir", tmp_path / "cache") as server:
            server.ask("/api/models/org/model")
            cut = Fault("cut", "GET", "/blobs/", cut_answer_at=5 * MIB)
            gone = Fault(
                "gone", "GET", "/blobs/", times=2, status=503, headers={"Retry-After": "0"}
            )
            proxy.faults += [cut, gone]
            assert server.ask(PATH).body == WEIGHTS
            assert cut.times < 1
            assert gone.times < 1


def test_while_a_source_does_not_answer_the_others_are_served_and_lists_wait(
    tmp_path: Path,
) -> None:
    name = put_big()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        other = f"127.0.0.1:{silent.getsockname()[1]}/org/models"
        flags = ("--tries", "1", "--cache-dir", tmp_path / "cache")
        with (
            serving(name, other, *flags, is_ready=False) as server,
            ThreadPoolExecutor(1) as pool,
        ):
            assert server.ask(PATH).body == WEIGHTS
            assert server.ask("/healthz").status == 503
            listed = pool.submit(server.ask, "/api/models")
            assert not listed.done()
            silent.close()
            assert [repo["id"] for repo in listed.result().json] == ["org/model"]
            server.wait_until_ready()


def test_registry_gone_for_good_breaks_the_answer_and_the_next_one_continues(
    tmp_path: Path,
) -> None:
    name = put_big()
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"]) as proxy:
        source = f"{proxy.host}/{name.partition('/')[2]}"
        with serving(source, "--cache-dir", tmp_path / "cache") as server:
            server.ask("/api/models/org/model")
            refused = Fault("denied", "GET", "/blobs/", skip=1, times=1000, status=403)
            proxy.faults += [Fault("cut", "GET", "/blobs/", skip=1, cut_answer_at=MIB), refused]
            broken = server.ask(PATH)
            assert not broken.is_whole
            assert broken.body == WEIGHTS[: len(broken.body)]
            refused.times = 0
            with proxy.lock:
                proxy.seen.clear()
            rest = server.ask(PATH, Range=f"bytes={len(broken.body)}-")
            assert broken.body + rest.body == WEIGHTS
            asked = [seen.headers.get("Range", "") for seen in proxy.of("GET", "/blobs/")]
            starts = [int(re.findall(r"\d+", text)[0]) for text in asked]
            assert starts
            assert min(starts) >= len(broken.body)


def test_mirror_with_wrong_bytes_costs_one_attempt_and_no_wrong_file(tmp_path: Path) -> None:
    name = put_big()
    with (
        mirror_of_big(tmp_path, of_blobs("lies", lies=ALL, from_bytes=MIB)) as mirror,
        serving(name, "--mirror", mirror.host, "--cache-dir", tmp_path / "cache") as server,
    ):
        broken = server.ask(PATH)
        assert not broken.is_whole
        assert server.metric("wrong_bytes_total") == 1
        # Another client has the file brought in; then the first one continues behind its wrong
        # bytes, and gets the whole file instead.
        assert server.ask(PATH).body == WEIGHTS
        again = server.ask(PATH, Range=f"bytes={len(broken.body)}-")
        assert (again.status, again.body) == (200, WEIGHTS)
        check_blobs(tmp_path / "cache" / BLOBS)


@pytest.mark.parametrize("flag", ["--cache-dir", "--no-cache"])
def test_wrong_bytes_in_a_layer_are_a_broken_download(tmp_path: Path, flag: str) -> None:
    flags = (flag, tmp_path / "cache") if flag == "--cache-dir" else (flag,)
    with mirror_of_big(tmp_path, of_blobs("lies", lies=ALL, from_bytes=MIB)) as mirror:
        source = f"{mirror.host}/x/y:latest"
        with serving(source, *flags) as server:
            answer = server.ask(PATH)
            assert not answer.is_whole
            assert len(answer.body) < len(WEIGHTS)
            assert server.ask(PATH).status == 502  # and not the same bytes for ever
            # Nor is a real client content.
            script = "from huggingface_hub import snapshot_download as s; s('org/model')"
            env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
            call(sys.executable, "-c", script, code=1, env=env)
    names = {path.name for path in tmp_path.rglob(OID)}
    assert not names


def test_bytes_of_a_large_file_arrive_before_all_of_it_is_there(tmp_path: Path) -> None:
    with (
        mirror_of_big(tmp_path) as mirror,
        serving(f"{mirror.host}/x/y:latest", "--cache-dir", tmp_path / "cache") as server,
    ):
        server.ask("/api/models/org/model")
        silent = of_blobs("silent", from_bytes=MIB, silent_after=12 * MIB)
        mirror.faults.append(silent)
        with asked(server) as line:
            got = b""
            while len(got) < 8 * MIB:
                got += line.recv(MIB)
        body = got.partition(b"\r\n\r\n")[2]
        assert body == WEIGHTS[: len(body)]
        assert not (tmp_path / "cache" / BLOBS / OID).exists()


@pytest.mark.mount
def test_disk_full_in_the_cache_passes_files_through(tmp_path: Path) -> None:
    cache = tmp_path / "small"
    cache.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", cache)
    try:
        (cache / "other").write_bytes(bytes(4 * MIB))
        with serving(put_big(), "--cache-dir", cache) as server:
            assert server.ask(PATH).body == WEIGHTS
            assert server.said("no room")
            assert not (cache / BLOBS / OID).exists()
            assert not list(cache.rglob("*.incomplete"))
    finally:
        call("umount", "-l", cache)


@pytest.mark.mount
def test_full_disk_has_room_for_a_compressed_image_when_older_files_go(tmp_path: Path) -> None:
    cache = tmp_path / "small"
    cache.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", cache)
    old = {f"{at}.bin": random_bytes(24 * MIB, seed=70 + at) for at in range(3)}
    put_ours(layout(tmp_path / "dist/old"), old, snapshot=make_snapshot(old, "org/old"))
    put_gzipped(tmp_path / "dist/new", is_ours=True)
    try:
        with serving(tmp_path / "dist", "--cache-dir", cache) as server:
            for path, data in old.items():
                assert server.ask(resolve_path(path, "org/old")).body == data
            (cache / "other").write_bytes(bytes(110 * MIB))
            assert server.ask(PATH).body == WEIGHTS
            assert (cache / BLOBS / OID).exists()
    finally:
        call("umount", "-l", cache)


def test_fifty_clients_at_once_cost_the_registry_one_read(tmp_path: Path) -> None:
    name = put_big()
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"]) as proxy:
        source = f"{proxy.host}/{name.partition('/')[2]}"
        with serving(source, "--cache-dir", tmp_path / "cache") as server:
            server.ask("/api/models/org/model")
            with proxy.lock:
                proxy.seen.clear()

            def digest(_: int) -> str:
                return hashlib.sha256(server.ask(PATH).body).hexdigest()

            with ThreadPoolExecutor(50) as pool:
                assert set(pool.map(digest, range(50))) == {OID}
            assert server.metric("fetched_bytes_total") == len(WEIGHTS)
            ranges = [seen.headers.get("Range") for seen in proxy.of("GET", "/blobs/")]
            assert len(ranges) == len(set(ranges))
            peak = Path(f"/proc/{server.process.pid}/status").read_text()
            assert int(re.findall(r"VmHWM:\s+(\d+) kB", peak)[0]) < 256 * 1024


def test_slow_client_does_not_delay_others(tmp_path: Path) -> None:
    flags = ("--cache-dir", tmp_path / "cache", "--connections", "1")
    with serving(put_big(), *flags) as server, ExitStack() as slow:
        for _ in range(40):
            assert slow.enter_context(asked(server, receive_bytes=4096)).recv(1)
        assert len(list(Path(f"/proc/{server.process.pid}/task").iterdir())) < 40
        assert server.ask(PATH).body == WEIGHTS
        assert server.metric("clients") >= 40


def test_more_clients_than_files_that_a_process_may_open_by_default(tmp_path: Path) -> None:
    few = ("sh", "-c", 'ulimit -Sn 100; exec "$@"', "sh", sys.executable, "-m", "downloader")
    with serving(put_big(), "--cache-dir", tmp_path / "cache", program=few) as server:
        assert server.ask(PATH).body == WEIGHTS
        with ExitStack() as slow:
            lines = [slow.enter_context(asked(server, receive_bytes=4096)) for _ in range(80)]
            assert {line.recv(12) for line in lines} == {b"HTTP/1.1 200"}


def test_connections_of_clients_that_neither_send_nor_read_are_closed(tmp_path: Path) -> None:
    impatient = with_constants("server._KEEP_ALIVE_S, server._STALL_S = 0.2, 1.0")
    with (
        serving(put_big(), "--cache-dir", tmp_path / "cache", program=impatient) as server,
        ExitStack() as held,
    ):
        host, _, port = server.host.partition(":")
        for begin in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
            line = held.enter_context(socket.create_connection((host, int(port)), timeout=60))
            line.sendall(begin)
            assert line.recv(1) == b""
        assert server.ask(PATH).body == WEIGHTS
        assert held.enter_context(asked(server, receive_bytes=4096)).recv(1)
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        while len(list(descriptors.iterdir())) >= before:
            assert server.process.poll() is None
            time.sleep(0.05)


def test_sigterm_lets_running_answers_end(tmp_path: Path) -> None:
    with (
        mirror_of_big(tmp_path, of_blobs("slow", from_bytes=MIB, bytes_per_s=16 * MIB)) as mirror,
        serving(f"{mirror.host}/x/y:latest", "--cache-dir", tmp_path / "cache") as server,
        ThreadPoolExecutor(1) as pool,
        asked(server) as line,
    ):
        got = line.recv(MIB)
        ended = pool.submit(server.stop)
        while data := line.recv(MIB):
            got += data
        assert got.partition(b"\r\n\r\n")[2] == WEIGHTS
        assert ended.result() == 0


@pytest.mark.parametrize("has_cache", [True, False])
def test_sigterm_ends_in_the_grace_that_it_was_given(tmp_path: Path, *, has_cache: bool) -> None:
    cache = ("--cache-dir", tmp_path / "cache") if has_cache else ("--no-cache",)
    with (
        mirror_of_big(tmp_path) as mirror,
        serving(
            *(f"{mirror.host}/x/y:latest", "--grace", "1", "--stall-timeout", "40"), *cache
        ) as server,
    ):
        server.ask("/api/models/org/model")
        silent = of_blobs("silent", from_bytes=MIB, silent_after=12 * MIB)
        mirror.faults.append(silent)
        with asked(server) as line:
            line.settimeout(1)
            with suppress(TimeoutError):
                while True:  # the server has sent all that it has, and waits for more
                    line.recv(MIB)
            assert silent.is_waiting.is_set()
            begun_s = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begun_s < 20  # half of what the registry may be silent for
    assert not (tmp_path / "cache" / BLOBS / OID).exists()
    if has_cache:
        assert list((tmp_path / "cache" / BLOBS).glob(f"{OID}.*.incomplete"))


def test_tag_that_moves_during_a_download(tmp_path: Path) -> None:
    name, store = registry()
    old, new = "0" * 39 + "1", "0" * 39 + "2"
    put_ours(store, BIG, "tag", snapshot=make_snapshot(BIG, commit=old))
    with serving(f"{name}:tag", "--cache-dir", tmp_path / "cache", "--refresh", "0.2") as server:
        assert server.ask("/api/models/org/model").json["sha"] == old
        put_ours(store, FILES, "tag", snapshot=make_snapshot(FILES, commit=new))
        while server.ask("/api/models/org/model").json["sha"] != new:
            assert server.process.poll() is None
        # The client that resolved the old commit gets the rest of its files.
        assert server.ask(resolve_path("w.safetensors", revision=old)).body == WEIGHTS
        assert server.ask(resolve_path("vocab.txt")).body == FILES["vocab.txt"]


def test_two_servers_on_one_cache(tmp_path: Path) -> None:
    name, cache = put_big(), tmp_path / "cache"
    with serving(name, "--cache-dir", cache) as one, serving(name, "--cache-dir", cache) as two:
        servers = [one, two] * 4
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda server: server.ask(PATH).body, servers))
        assert all(body == WEIGHTS for body in found)
    check_blobs(cache / BLOBS)
    assert (cache / BLOBS / OID).exists()


def test_files_that_two_servers_remove_from_one_small_cache_are_served(tmp_path: Path) -> None:
    files = {f"{at}.bin": random_bytes(10**6, seed=40 + at) for at in range(6)}
    put_ours(layout(tmp_path / "layout"), files)
    flags = (tmp_path / "layout", "--cache-dir", tmp_path / "cache", "--cache-size", "2.5MB")
    with serving(*flags) as one, serving(*flags) as two, ThreadPoolExecutor(12) as pool:

        def is_right(at: int) -> bool:
            path = f"{(at + at // 6) % 6}.bin"
            return (one, two)[at % 2].ask(resolve_path(path)).body == files[path]

        assert all(pool.map(is_right, range(600)))
    kept = [blob for blob in (tmp_path / "cache" / BLOBS).iterdir() if blob.suffix == ""]
    assert len(kept) <= 4  # each server has counted before the other had its file


def test_wrong_blob_in_the_cache_is_replaced(tmp_path: Path) -> None:
    blob = tmp_path / "cache" / BLOBS / OID
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(len(WEIGHTS)))
    with serving(put_big(), "--cache-dir", tmp_path / "cache") as server:
        assert not server.ask(PATH).is_whole
        assert server.ask(PATH, Range="bytes=5000000-").body == WEIGHTS
    check_blobs(blob.parent)


def test_cache_size_removes_the_least_recently_used_files(tmp_path: Path) -> None:
    files = {f"{name}.bin": random_bytes(3 * MIB, seed=at) for at, name in enumerate("abc", 20)}
    name, store = registry()
    put_ours(store, files)
    cache = tmp_path / "cache"
    users = cache / BLOBS / ("f" * 64)
    users.parent.mkdir(parents=True)
    users.write_bytes(bytes(5 * MIB))  # the user's own: neither counted nor removed
    with serving(name, "--cache-dir", cache, "--cache-size", "7MiB") as server:
        for path in ("a.bin", "b.bin", "a.bin", "c.bin"):
            assert server.ask(resolve_path(path)).body == files[path]
        found = {blob.name for blob in (cache / BLOBS).iterdir()}
        assert found == {users.name, lfs_oid(files["a.bin"]), lfs_oid(files["c.bin"])}
        links = {link.name for link in (cache / "models--org--model/snapshots").rglob("*.bin")}
        assert links == {"a.bin", "c.bin"}
        assert server.ask(resolve_path("b.bin")).body == files["b.bin"]


def test_file_that_is_larger_than_the_cache_removes_nothing_from_it(tmp_path: Path) -> None:
    files = {f"{name}.bin": random_bytes(MIB, seed=at) for at, name in enumerate("ab", 30)}
    files["large.bin"] = random_bytes(5 * MIB, seed=32)
    put_ours(layout(tmp_path / "layout"), files)
    flags = ("--cache-dir", tmp_path / "cache", "--cache-size", "3MiB")
    with serving(tmp_path / "layout", *flags) as server:
        assert all(server.ask(resolve_path(path)).body == data for path, data in files.items())
    found = {blob.name for blob in (tmp_path / "cache" / BLOBS).iterdir()}
    assert found == {lfs_oid(files["a.bin"]), lfs_oid(files["b.bin"])}


def test_room_of_many_small_files_takes_no_time_that_grows_with_their_square(
    tmp_path: Path,
) -> None:
    cache, repo = Cache(CacheTarget(tmp_path), 4000), Repo("model", "org/model")
    for at in range(4000):
        file = RepoFile(f"d{at % 50}/{at}.json", 1, f"{at:040x}")
        blob = cache.target.blob(repo, file.oid)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"x")
        cache.keep(repo, "0" * 40, file)
    began_at = time.process_time()
    assert cache.make_room(500, lambda _: False)
    assert time.process_time() - began_at < 5  # it was 29 s
    links = (tmp_path / "models--org--model/snapshots").rglob("*.json")
    assert len(list(links)) == 3500


def test_cache_size_holds_while_many_files_come_at_once(tmp_path: Path) -> None:
    files = {f"{at}.bin": random_bytes(2 * MIB, seed=60 + at) for at in range(8)}
    put_ours(layout(tmp_path / "layout"), files)
    cache = tmp_path / "cache"
    flags = ("--cache-dir", cache, "--cache-size", "5MiB")
    with (
        SmallRegistry(
            tmp_path / "layout", of_blobs("slow", from_bytes=MIB, bytes_per_s=4 * MIB)
        ) as mirror,
        serving(f"{mirror.host}/x/y:latest", *flags) as server,
    ):
        assert ask_for_all(server, files) == files
        assert server.said("no room")
    assert 0 < sum(blob.stat().st_size for blob in (cache / BLOBS).iterdir()) <= 5 * MIB


def test_unfinished_files_without_clients_are_removed_for_space(tmp_path: Path) -> None:
    files = {"w.safetensors": WEIGHTS, "v.safetensors": WEIGHTS[::-1]}
    put_ours(layout(tmp_path / "layout"), files)
    flags = ("--cache-dir", tmp_path / "cache", "--cache-size", "26MiB")
    slow = of_blobs("slow", from_bytes=MIB, bytes_per_s=16 * MIB)
    with (
        SmallRegistry(tmp_path / "layout", slow) as mirror,
        serving(
            *(f"{mirror.host}/x/y:latest", *flags),
            program=with_constants("contents._ABANDONED_AFTER_S = 0.1"),
        ) as server,
    ):
        with asked(server) as line:
            got = 0
            while got < 8 * MIB:
                got += len(line.recv(MIB))
        while server.metric("filling"):
            assert server.process.poll() is None
        blobs = tmp_path / "cache" / BLOBS
        assert list(blobs.glob(f"{OID}.*.incomplete"))
        slow.times = 0
        path, data = resolve_path("v.safetensors"), files["v.safetensors"]
        while [blob.name for blob in blobs.iterdir()] != [lfs_oid(data)]:
            assert server.ask(path).body == data


def test_registry_without_ranges(tmp_path: Path) -> None:
    with (
        mirror_of_big(tmp_path, of_blobs("no ranges", strip=("Range",))) as mirror,
        serving(f"{mirror.host}/x/y:latest", "--cache-dir", tmp_path / "cache") as server,
    ):
        assert server.ask(PATH).body == WEIGHTS


def test_slow_connection_gets_others_beside_it(tmp_path: Path) -> None:
    with (
        mirror_of_big(tmp_path, of_blobs("slow", from_bytes=MIB, bytes_per_s=8 * MIB)) as mirror,
        serving(f"{mirror.host}/x/y:latest", "--cache-dir", tmp_path / "cache") as server,
    ):
        assert server.ask(PATH).body == WEIGHTS
        assert mirror.most_under_way > 1
        assert server.metric("fetched_bytes_total") == len(WEIGHTS)


def test_short_range_of_a_large_file_brings_in_no_file(tmp_path: Path) -> None:
    with serving(put_big(), "--cache-dir", tmp_path / "cache") as server:
        assert server.ask(PATH, Range="bytes=20000000-20000099").body == WEIGHTS[20000000:20000100]
        assert server.metric("fetched_bytes_total") == 100
        assert server.said("unchecked")


@pytest.mark.parametrize("kind", ["gzipped", "zstandard"])
def test_compressed_image_is_brought_into_the_cache(tmp_path: Path, kind: str) -> None:
    name, store = registry()
    plan = make_plan(make_snapshot(BIG))
    layers = [getattr(layer, kind)() for layer in our_layers(plan, BIG)]
    put_image(store, layers, "latest", {"config": {"Labels": labels(plan)}}, labels(plan))
    with serving(name, "--cache-dir", tmp_path / "cache") as server:
        api = HfApi(endpoint=server.url, token=False)
        found = api.snapshot_download("org/model", cache_dir=tmp_path / "client")
        assert (Path(found) / "w.safetensors").read_bytes() == WEIGHTS


def test_client_of_a_compressed_image_hears_of_a_file_before_its_layer_has_come(
    tmp_path: Path,
) -> None:
    plan = make_plan(make_snapshot(BIG))
    layers = [layer.gzipped() for layer in our_layers(plan, BIG)]
    store = layout(tmp_path / "layout")
    put_image(store, layers, "latest", {"config": {"Labels": labels(plan)}}, labels(plan))
    slow = of_blobs("slow", bytes_per_s=1, from_bytes=MIB)
    with (
        SmallRegistry(tmp_path / "layout", slow) as mirror,
        serving(
            *(f"{mirror.host}/org/models:latest", "--cache-dir", tmp_path / "cache"),
            program=SOON_SILENT,
        ) as server,
    ):
        head = server.ask(PATH, "HEAD")
        assert (head.status, head.headers["etag"]) == (200, f'"{OID}"')
        with asked(server) as line, line.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 200 ")
            while answer.readline().strip():
                pass
            assert not slow.goes_on.is_set()
            slow.goes_on.set()
            assert answer.read() == WEIGHTS


def put_gzipped(
    directory: Path, *, is_ours: bool, files: dict[str, bytes] = BIG, repo: str = "org/model"
) -> None:
    """Put an image whose layers must be read from their beginning."""
    store = layout(directory)
    if is_ours:
        plan = make_plan(make_snapshot(files, repo))
        layers = [layer.gzipped() for layer in our_layers(plan, files)]
        put_image(store, layers, "latest", {"config": {"Labels": labels(plan)}}, labels(plan))
    else:
        put_image(store, [layer_of(*cache_members(files, repo)).gzipped()], "latest", {})


@pytest.mark.parametrize("is_ours", [True, False])
def test_lists_of_a_compressed_image_wait_until_its_files_are_there(
    tmp_path: Path, *, is_ours: bool
) -> None:
    # A client that is kept waiting for a file itself gives up after five tries.
    put_gzipped(tmp_path / "layout", is_ours=is_ours)
    slow = of_blobs("slow", bytes_per_s=1, from_bytes=MIB)
    flags = ("--cache-dir", tmp_path / "cache")
    with (
        SmallRegistry(tmp_path / "layout", slow) as mirror,
        serving(
            *(f"{mirror.host}/org/models:latest", *flags), is_ready=is_ours, program=SOON_SILENT
        ) as server,
        asked(server, path="/api/models/org/model/tree/main?recursive=true&limit=1") as line,
        line.makefile("rb") as answer,
    ):
        assert answer.readline().startswith(b"HTTP/1.1 200 ")
        while answer.readline().strip():
            pass
        assert not slow.goes_on.is_set()
        assert server.metric("waiting") == is_ours  # else the source itself is looked through
        slow.goes_on.set()
        body = answer.read()
        assert b" " in body.partition(b"[")[0]
        # Of a list that was begun before it was known, no header can say that it goes on.
        assert all(f'"path":"{path}"'.encode() in body for path in BIG)
        assert (tmp_path / "cache" / BLOBS / OID).exists()


def test_files_of_a_compressed_image_outlive_the_server_in_the_cache(tmp_path: Path) -> None:
    put_gzipped(tmp_path / "layout", is_ours=True)
    flags = ("--cache-dir", tmp_path / "cache")
    with SmallRegistry(tmp_path / "layout") as mirror:
        for _ in range(2):
            with serving(f"{mirror.host}/x/y:latest", *flags) as server:
                assert server.ask("/api/models/org/model").status == 200
                assert server.ask(PATH).body == WEIGHTS
        assert mirror.blob_bytes < 1.5 * len(WEIGHTS)


@pytest.mark.parametrize("is_ours", [True, False])
def test_file_of_a_compressed_image_that_was_removed_is_brought_in_again(
    tmp_path: Path, *, is_ours: bool
) -> None:
    put_gzipped(tmp_path / "layout", is_ours=is_ours)
    blob = tmp_path / "cache" / BLOBS / OID
    with serving(tmp_path / "layout", "--cache-dir", tmp_path / "cache") as server:
        assert server.ask(PATH).body == WEIGHTS
        blob.unlink()
        assert server.ask(PATH).body == WEIGHTS
        blob.chmod(0o644)
        blob.write_bytes(bytes(len(WEIGHTS)))
        assert not server.ask(PATH).is_whole
        assert server.ask(PATH).body == WEIGHTS


@pytest.mark.parametrize("is_ours", [True, False])
def test_files_of_compressed_images_count_in_the_size_of_the_cache(
    tmp_path: Path, *, is_ours: bool
) -> None:
    files = {"org/one": WEIGHTS, "org/two": WEIGHTS[::-1]}
    for at, (repo, data) in enumerate(files.items()):
        put_gzipped(tmp_path / f"dist/{at}", is_ours=is_ours, files={"w.bin": data}, repo=repo)
    cache = tmp_path / "cache"
    with serving(tmp_path / "dist", "--cache-dir", cache, "--cache-size", "30MiB") as server:
        for repo in (*files, *files):
            assert server.ask(resolve_path("w.bin", repo)).body == files[repo]
            assert [blob.name for blob in cache.rglob("blobs/*")] == [lfs_oid(files[repo])]


def test_image_of_docker_push_without_annotations(tmp_path: Path) -> None:
    name, store = registry()
    put_ours(store, BIG, annotated=False)
    with serving(name, "--no-cache") as server:
        assert server.ask(PATH).body == WEIGHTS


def test_unknown_repository_is_an_error_at_the_start(tmp_path: Path) -> None:
    command = ("serve", "--listen", "127.0.0.1:0", "--no-cache", f"{put_big()}:nothing")
    assert "not found" in hf_models_apart(*command, code=3).err


def wait_for_repos(server: Server, *names: str) -> None:
    """Wait until exactly these repos are listed."""
    while {item["id"] for item in server.ask("/api/models").json} != {*names}:
        assert server.process.poll() is None


@pytest.mark.parametrize("kind", ["dist", "cache"])
def test_directory_that_is_gone_and_back_is_looked_at_again(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"

    def put(repo: str) -> None:
        name = repo.partition("/")[2]
        image = source / name if kind == "dist" else tmp_path / name
        put_ours(layout(image), FILES, snapshot=make_snapshot(FILES, repo))
        if kind == "cache":
            assert restore(image, source).code == 0

    put("org/one")
    with serving(source, "--no-cache", "--refresh", "0.1") as server:
        source.rename(tmp_path / "away")
        while not server.metric("refresh_errors_total"):
            assert server.process.poll() is None
        (tmp_path / "away").rename(source)
        put("org/two")
        wait_for_repos(server, "org/one", "org/two")
        assert server.stop() == 0


def test_cache_that_is_empty_at_the_start_is_served_when_it_fills(tmp_path: Path) -> None:
    (tmp_path / "huggingface" / "hub").mkdir(parents=True)
    put_ours(layout(tmp_path / "image"), FILES)
    with serving(tmp_path / "huggingface", "--no-cache", "--refresh", "0.1") as server:
        assert server.ask("/api/models").json == []
        assert restore(tmp_path / "image", tmp_path / "huggingface" / "hub").code == 0
        wait_for_repos(server, "org/model")


def test_directory_in_a_cache_does_not_hide_a_file(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    assert restore(tmp_path / "image", tmp_path / "hub").code == 0
    repo = tmp_path / "hub/models--org--model"
    [snapshot] = (repo / "snapshots").iterdir()
    for pipe in (snapshot / "pipe", repo / "refs" / "pipe"):
        os.mkfifo(pipe)
    for link in (snapshot / "loop", repo / "refs" / "loop"):
        link.symlink_to("loop")
    with serving(tmp_path / "hub", "--no-cache") as server:
        listed = server.ask("/api/models/org/model/tree/main?recursive=true").json
        assert {item["path"] for item in listed if item["type"] == "file"} == set(FILES)
        assert server.ask(resolve_path("vocab.txt")).body == FILES["vocab.txt"]


@pytest.mark.parametrize("kind", ["cache", "directory"])
def test_unreadable_folder_does_not_hide_others(tmp_path: Path, kind: str) -> None:
    for name in ("open", "shut"):
        image = tmp_path / f"directory/{name}"
        put_ours(layout(image), FILES, snapshot=make_snapshot(FILES, f"org/{name}"))
        assert restore(image, tmp_path / "cache").code == 0
    for folder in ("cache/models--org--shut", "directory/shut"):
        (tmp_path / folder).chmod(0)
    with serving(tmp_path / kind, "--no-cache", program=WITHOUT_OVERRIDING_MODES) as server:
        assert [model["id"] for model in server.ask("/api/models").json] == ["org/open"]


def test_file_that_comes_into_a_folder_of_a_cache_is_served(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    assert restore(tmp_path / "image", tmp_path / "hub").code == 0
    [snapshot] = (tmp_path / "hub/models--org--model/snapshots").iterdir()
    with serving(tmp_path / "hub", "--no-cache", "--refresh", "0.1") as server:
        path = resolve_path("sub%20folder/new.json")
        assert server.ask(path).code == "EntryNotFound"
        (snapshot / "sub folder" / "new.json").write_bytes(b"{}")
        while (answer := server.ask(path)).status != 200:
            assert server.process.poll() is None
        assert answer.body == b"{}"


def test_registry_that_is_not_there_at_the_start_is_served_once_it_is(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    absent = Fault("absent", path="/manifests/", lose_answer=True, times=ALL)
    with (
        SmallRegistry(tmp_path / "image", absent) as mirror,
        serving(
            *(f"{mirror.host}/x/y:latest", "--no-cache", "--refresh", "0", "--tries", "1"),
            program=with_constants("server._UNREAD_AGAIN_S = 0.1"),
        ) as server,
    ):
        answer = server.ask("/api/models/org/model")
        assert (answer.status, answer.code) == (503, None)
        absent.times = 0
        wait_for_repos(server, "org/model")
        assert server.ask("/api/models/org/nothing").code == "RepoNotFound"
    assert server.said("trying again")


def test_image_without_its_config_does_not_hide_others(tmp_path: Path) -> None:
    for name in ("whole", "damaged"):
        snapshot = make_snapshot(FILES, f"org/{name}")
        put_ours(layout(tmp_path / name), FILES, snapshot=snapshot, annotated=False)
    with SmallRegistry() as mirror:
        mirror.add_layout(tmp_path / "whole", "whole")
        config = mirror.add_layout(tmp_path / "damaged", "damaged")["config"]["digest"]
        data = mirror.blobs.pop(config)
        flags = ("--cache-dir", tmp_path / "cache", "--refresh", "0.1")
        with serving(f"{mirror.host}/org/models", *flags) as server:
            wait_for_repos(server, "org/whole")
            mirror.blobs[config] = data
            wait_for_repos(server, "org/damaged", "org/whole")
        assert server.said(":damaged: left out")


def test_label_with_half_of_a_surrogate_pair_does_not_break_lists(tmp_path: Path) -> None:
    name, store = registry()
    put_ours(store, FILES, snapshot=replace(make_snapshot(FILES), license="MIT"))
    raw = store.get_manifest("latest")
    assert raw
    store.put_manifest("latest", raw.data.replace(b'"MIT"', rb'"\ud800"'), MANIFEST)
    with serving(name, "--cache-dir", tmp_path / "cache") as server:
        assert "license:?" in server.ask("/api/models").json[0]["tags"]


def test_cache_that_cannot_be_written_passes_files_through(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, no directory")
    with serving(put_big(), "--cache-dir", tmp_path / "cache") as server:
        assert server.ask(PATH).body == WEIGHTS


SMALL = {f"d{at % 7}/{at}.json": b'{"n": %d}' % at for at in range(200)}


def ask_for_all(server: Server, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return every file of the repo as a client gets it that asks for eight at once."""
    with ThreadPoolExecutor(8) as pool:
        answers = dict(
            zip(files, pool.map(server.ask, (resolve_path(path) for path in files)), strict=True)
        )
    return {path: answer.body for path, answer in answers.items() if answer.status == 200}


def test_two_hundred_small_files_cost_the_registry_few_requests(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "layout"), SMALL)
    with (
        SmallRegistry(tmp_path / "layout") as mirror,
        serving(f"{mirror.host}/x/y:latest", "--cache-dir", tmp_path / "cache") as server,
    ):
        assert ask_for_all(server, SMALL) == SMALL
        asked = [seen for seen in mirror.seen if "/blobs/" in seen.path]
        assert len(asked) <= 10, asked
    check_blobs(tmp_path / "cache" / BLOBS)


def test_wrong_bytes_of_a_small_file_do_not_fail_its_neighbours(tmp_path: Path) -> None:
    wrong = {**SMALL, "d3/3.json": b'{"n": 4}'}
    put_ours(layout(tmp_path / "layout"), wrong, snapshot=make_snapshot(SMALL))
    with serving(tmp_path / "layout", "--cache-dir", tmp_path / "cache") as server:
        got = ask_for_all(server, SMALL)
    assert got == {path: data for path, data in SMALL.items() if path != "d3/3.json"}
    check_blobs(tmp_path / "cache" / BLOBS)


def test_small_files_for_which_the_cache_has_no_room_are_served(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "layout"), SMALL)
    flags = ("--cache-dir", tmp_path / "cache", "--cache-size", "20")
    with serving(tmp_path / "layout", *flags) as server:
        assert ask_for_all(server, SMALL) == SMALL
