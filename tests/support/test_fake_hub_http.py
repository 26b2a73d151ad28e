"""What a strict Hub and CDN refuse, and what they send, byte by byte."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest
import urllib3

from tests.support.command import call
from tests.support.fake_hub import (
    File,
    Generated,
    HubServer,
    HubSpec,
    Memory,
    make_repo,
    read_all,
    sha256_of,
    tiny_repo,
)
from tests.support.fake_hub.content import BLOCK_BYTES
from tests.support.fake_hub.raw import get, weights_url

if TYPE_CHECKING:
    from collections.abc import Iterator

TINY = tiny_repo()
WEIGHTS = TINY.files()["model.safetensors"]
TEBIBYTE = 1 << 40


@pytest.fixture
def local() -> Iterator[HubServer]:
    """In this process: for raw clients, and for faults."""
    with HubServer([TINY]) as server:
        yield server


def talk(url: str, request: bytes) -> bytes:
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=20) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize(
    "line",
    [
        b"GET /org/tiny/resolve/main/a b HTTP/1.1",
        b"GET /org/tiny/resolve/main/a#b HTTP/1.1",
        b"GET /org/tiny/resolve/main/100% HTTP/1.1",
        b"GET /org/tiny/resolve/main/100%zz HTTP/1.1",
        b"GET /org/tiny/resolve/main/%ff HTTP/1.1",
        "GET /org/tiny/resolve/main/é HTTP/1.1".encode(),
        b"GET /org/tiny/resolve/main/sub%2Fdir%2Fvocab.txt HTTP/1.1",
        b"GET http://x/org/tiny HTTP/1.1",
        b"GET /org/tiny HTTP/1.0",
        b"GET /api/models/org/tiny?blobs=perhaps HTTP/1.1",
        b"GET /api/models/org/tiny?other=1 HTTP/1.1",
        b"GET /api/models/org/tiny/tree/main?cursor=x HTTP/1.1",
        b"GET /api/models/org/tiny/tree/main?limit=0 HTTP/1.1",
    ],
)
def test_malformed_requests_are_refused(local: HubServer, line: bytes) -> None:
    assert talk(local.endpoint, line + b"\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_read_errors_are_logged(local: HubServer) -> None:
    talk(local.endpoint, b"nonsense\r\n\r\n")
    [entry] = local.log()
    assert (entry.method, entry.status, entry.done) == ("?", 400, True)


def test_log_tells_files_of_one_ending_apart(local: HubServer) -> None:
    get(f"{local.endpoint}/org/tiny/resolve/main/config.json")
    seen = local.log()
    names = ("config.json", "org/tiny/config.json", "model:org/tiny/config.json", "fig.json")
    assert [len(seen.of(file=name)) for name in names] == [1, 1, 1, 0]


def test_a_request_without_host_is_refused(local: HubServer) -> None:
    answer = talk(local.endpoint, b"GET /api/models/org/tiny HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/agent-harnesses",
        "/api/nope?x=1",
        "/api/models/org/tiny/nope?x=1",
        "/org/tiny/resolve/main",
        "/org/tiny/resolve/main/sub//dir/vocab.txt",
        "/models/org/tiny/resolve/main/config.json",
        "/api/models/org/tiny/tree/refs/pr/1",
    ],
)
def test_unknown_routes_are_404(local: HubServer, path: str) -> None:
    assert get(local.endpoint + path).status == 404


def test_an_encoded_slash_does_not_name_a_repo(local: HubServer) -> None:
    assert get(f"{local.endpoint}/api/models/org%2Ftiny").status == 401


def test_git_file_headers(local: HubServer) -> None:
    url = f"{local.endpoint}/org/tiny/resolve/main/sub/dir/vocab.txt"
    file = TINY.files()["sub/dir/vocab.txt"]
    for method, body in (("HEAD", b""), ("GET", read_all(file.source))):
        answer = get(url, method)
        assert (answer.status, answer.data) == (200, body)
        assert answer.headers["ETag"] == f'"{file.git_oid}"'
        assert answer.headers["X-Repo-Commit"] == TINY.sha
        assert answer.headers["Content-Length"] == str(file.size_bytes)


def test_git_oids_are_those_of_git(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"[PAD]\n[UNK]\n")
    oid = call("git", "hash-object", tmp_path / "file").strip()
    assert oid == TINY.files()["sub/dir/vocab.txt"].git_oid


def test_lfs_file_headers(local: HubServer) -> None:
    answer = get(f"{local.endpoint}/org/tiny/resolve/old/model.safetensors", "HEAD")
    assert answer.status == 302
    assert answer.headers["X-Linked-ETag"] == f'"{sha256_of(WEIGHTS.source)}"'
    assert answer.headers["X-Linked-Size"] == str(WEIGHTS.size_bytes)
    assert answer.headers["X-Repo-Commit"] == TINY.commits[0].sha
    assert answer.headers["Location"].startswith(f"{local.cdn_endpoint}/")
    assert urlsplit(local.cdn_endpoint).netloc != urlsplit(local.endpoint).netloc


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, WEIGHTS.size_bytes),
        ("bytes=-7", WEIGHTS.size_bytes - 7, WEIGHTS.size_bytes),
        (f"bytes=1048570-{1 << 40}", 1048570, WEIGHTS.size_bytes),
    ],
)
def test_ranges(local: HubServer, value: str, start: int, stop: int) -> None:
    answer = get(weights_url(local), Range=value)
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{WEIGHTS.size_bytes}"
    assert answer.data == read_all(WEIGHTS.source, start, stop)


def test_range_outside_is_416(local: HubServer) -> None:
    answer = get(weights_url(local), Range=f"bytes={WEIGHTS.size_bytes}-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{WEIGHTS.size_bytes}"


@pytest.mark.parametrize("value", ["bytes=-", "bytes=5-4", "bytes=0-1,3-4", "items=0-1"])
def test_malformed_range_is_400(local: HubServer, value: str) -> None:
    assert get(weights_url(local), Range=value).status == 400


def test_if_range(local: HubServer) -> None:
    url, etag = weights_url(local), f'"{WEIGHTS.oid}"'
    assert get(url, Range="bytes=0-0", If_Range=etag).status == 206
    assert get(url, Range="bytes=0-0", If_Range='"other"').status == 200


def test_cdn_refuses_credentials(local: HubServer) -> None:
    answer = get(weights_url(local), Authorization="Bearer hf_canary")
    assert answer.status == 400
    assert [entry.has_auth for entry in local.log().of(origin="cdn")] == [True]


def test_cdn_refuses_unsigned_addresses(local: HubServer) -> None:
    url = weights_url(local)
    assert get(url.partition("?")[0]).status == 403
    assert get(url[:-1] + ("0" if url[-1] != "0" else "1")).status == 403
    assert get(url.replace("model.safetensors", "other.safetensors")).status == 403


def test_signed_address_expires() -> None:
    with HubServer(HubSpec((TINY,), url_ttl_s=0)) as hub:
        answer = get(weights_url(hub))
    assert (answer.status, b"expired" in answer.data) == (403, True)


def test_cdn_on_another_host() -> None:
    with HubServer(HubSpec((TINY,), cdn_host="127.0.0.2")) as hub:
        url = weights_url(hub)
        assert url.startswith("http://127.0.0.2:")
        assert get(url).data == read_all(WEIGHTS.source)


def test_files_from_disk(tmp_path: Path) -> None:
    data = read_all(Generated(5_000_001, seed=3))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a b.bin").write_bytes(data)
    with HubServer([make_repo("org/disk", tmp_path)]) as hub:
        url = f"{hub.endpoint}/org/disk/resolve/main/sub/{quote('a b.bin')}"
        signed = get(url).headers["Location"]
        assert get(signed).data == data
        assert get(signed, Range="bytes=4194300-4194310").data == data[4194300:4194311]
        assert hub.log().of(origin="cdn", file="sub/a b.bin").bytes_sent == len(data) + 11


def test_a_tebibyte_needs_no_disk() -> None:
    source = Generated(TEBIBYTE, seed=9, sha256="ab" * 32)
    with HubServer([make_repo("org/huge", {"huge.bin": source})]) as hub:
        url = get(f"{hub.endpoint}/org/huge/resolve/main/huge.bin").headers["Location"]
        answer = get(url, Range="bytes=-3000000")
    assert answer.headers["Content-Range"].endswith(f"/{TEBIBYTE}")
    assert answer.data == read_all(source, TEBIBYTE - 3_000_000, TEBIBYTE)


@pytest.mark.parametrize("bf16", [False, True])
def test_generated_bytes_are_the_same_from_any_offset(bf16: bool) -> None:
    source = Generated(3 * BLOCK_BYTES + 5, seed=4, bf16=bf16)
    whole = read_all(source)
    assert len(whole) == source.size_bytes
    for cut in (1, 31, 32, 33, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 33):
        assert read_all(source, 0, cut) + read_all(source, cut) == whole
    blocks = {whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES)}
    assert len(blocks) == 4
    assert hashlib.sha256(whole).hexdigest() == sha256_of(source)
    assert whole != read_all(dataclasses.replace(source, seed=5))


def test_64_connections_at_once(local: HubServer) -> None:
    url, barrier = weights_url(local), threading.Barrier(64)
    want = hashlib.sha256(read_all(WEIGHTS.source, 0, 100_000)).digest()

    def fetch(_: int) -> bytes:
        barrier.wait(30)
        return hashlib.sha256(get(url, Range="bytes=0-99999").data).digest()

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(fetch, range(64))) == {want}


def test_connection_is_kept_alive(local: HubServer) -> None:
    with urllib3.PoolManager() as pool:
        for _ in range(3):
            pool.request("GET", f"{local.endpoint}/api/models/org/tiny")
        [connections] = [pool.pools[key].num_connections for key in pool.pools.keys()]  # noqa: SIM118
    assert connections == 1


def test_serve_a_directory_by_hand(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    command = [
        sys.executable,
        "-m",
        "tests.support.fake_hub",
        "--repo",
        f"dataset:org/data={tmp_path}",
    ]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as child:
        assert child.stdout
        endpoint = json.loads(child.stdout.readline())["endpoint"]
        data = get(f"{endpoint}/datasets/org/data/resolve/main/config.json").data
        child.terminate()
    assert (data, child.returncode) == (b"{}", 0)


def test_memory_files_are_git_files_below_the_limit() -> None:
    assert not File("a.txt", Memory(b"x")).is_lfs
    assert File("a.txt", Memory(b"x"), lfs=True).is_lfs
    assert File("a.bin", Memory(b"x")).is_lfs


def test_bandwidth_of_the_whole_cdn() -> None:
    with HubServer(HubSpec((TINY,), bandwidth_bytes_s=1)) as hub:
        url = urlsplit(weights_url(hub))
        request = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\n\r\n"
        with socket.create_connection(("127.0.0.1", url.port or 0), timeout=20) as sock:
            sock.sendall(request.encode())
            while not (seen := hub.log(settle_s=0.02).of(origin="cdn").bytes_sent):
                pass
        assert seen < 1000  # a second each; without the cap it is a block at once
