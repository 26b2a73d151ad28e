"""The stand-in is what the rest of the suite believes; here the real clients prove it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
import urllib3

from tests.standin import (
    Commit,
    Fault,
    File,
    Generated,
    Hub,
    HubProcess,
    HubServer,
    HubSpec,
    Memory,
    Repo,
    awkward_names_repo,
    faults,
    make_repo,
    many_files_repo,
    minilm_repo,
    read_all,
    sha256_of,
    sharded_repo,
    tiny_repo,
)
from tests.standin.content import BLOCK_BYTES
from tests.standin.spec import dump_spec, parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

ALICE, BOB = "hf_alicecanary", "hf_bobcanary"
TINY = tiny_repo()
WEIGHTS = TINY.files()["model.safetensors"]
MANY = 2050  # two full pages and a bit, with the directories
TEBIBYTE = 1 << 40

CLIENT = """
import json, sys
import huggingface_hub
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
api, answers = HfApi(), []
for expression in json.load(sys.stdin):
    try:
        answers.append(eval(expression))
    except Exception as error:
        answers.append(type(error).__name__)
json.dump(answers, sys.stdout)
"""


def spec() -> HubSpec:
    readers = {"readers": ("alice",)}
    page = {"index.html": b"<p>hi</p>"}
    return HubSpec(
        repos=(
            TINY,
            awkward_names_repo(),
            many_files_repo(MANY),
            sharded_repo(2 << 20, 2, subfolder="weights"),
            make_repo("org/page", page, type="space"),
            make_repo("legacy", {"config.json": b"{}"}),
            tiny_repo("org/private", private=True, **readers),
            tiny_repo("org/gated", gated="manual", **readers),
            tiny_repo("org/auto", gated="auto", **readers),
            tiny_repo("org/disabled", disabled=True),
            xet_repo("org/xet"),
            xet_repo("org/gated-xet").but(gated="auto", **readers),
        ),
        users={ALICE: "alice", BOB: "bob"},
    )


def xet_repo(name: str) -> Repo:
    source = Generated(100_000, seed=5)
    return Repo("model", name, (Commit((File("model.safetensors", source, xet=True),)),))


@pytest.fixture(scope="module")
def served() -> Iterator[HubProcess]:
    with HubProcess(spec()) as hub:
        yield hub


@pytest.fixture
def hub(served: HubProcess) -> HubProcess:
    served.clear_faults()
    served.clear_log()
    return served


@pytest.fixture
def local() -> Iterator[HubServer]:
    """In this process: for raw clients, and for faults."""
    with HubServer([TINY]) as server:
        yield server


def client_env(hub: Hub, home: Path, token: str = "", **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    own = {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.endpoint}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*", "PYTHONUTF8": "1"}
    return {**kept, **own, **quiet, **({"HF_TOKEN": token} if token else {}), **more}


def ask(hub: Hub, home: Path, *expressions: str, token: str = "", **more: str) -> list[Any]:
    """Evaluate in the real client; an exception becomes the name of its class."""
    answer = subprocess.run(
        [sys.executable, "-c", CLIENT],
        env=client_env(hub, home, token, **more),
        input=json.dumps(expressions),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    return list(json.loads(answer.stdout))


def check_snapshot(path: str, repo: Repo, only: str = "") -> None:
    want = {name: file for name, file in repo.files().items() if only in name}
    root = Path(path)
    got = {one.relative_to(root).as_posix(): one for one in root.rglob("*") if one.is_file()}
    assert sorted(got) == sorted(want)
    for name, file in want.items():
        assert got[name].read_bytes() == read_all(file.source)
        assert got[name].resolve().name == file.oid


# The real huggingface_hub


def test_info_has_what_the_documentation_says(hub: HubProcess, tmp_path: Path) -> None:
    fields = "(i.id, i.sha, i.private, i.gated, i.card_data.license, str(i.last_modified))"
    files = "sorted((s.rfilename, s.size, s.blob_id, s.lfs and s.lfs.sha256) for s in i.siblings)"
    both = f"[({fields}, {files}) for i in [api.model_info('org/tiny', files_metadata=True)]]"
    old = "api.repo_info('org/tiny', revision='v1.0').sha"
    [[[about, siblings]], first] = ask(hub, tmp_path, both, old)
    date = "2024-06-07 08:09:10+00:00"
    assert about == ["org/tiny", TINY.sha, False, False, "apache-2.0", date]
    assert siblings == [
        [path, file.size_bytes, file.git_oid, file.oid if file.is_lfs else None]
        for path, file in TINY.files().items()
    ]
    assert first == TINY.commits[0].sha


def test_every_kind_of_revision_resolves(hub: HubProcess, tmp_path: Path) -> None:
    names = ["main", "old", "v1.0", "refs/pr/1", TINY.commits[0].sha]
    shas = ask(hub, tmp_path, *(f"api.model_info('org/tiny', revision={n!r}).sha" for n in names))
    first, second = (commit.sha for commit in TINY.commits)
    assert shas == [second, first, first, second, first]


def test_refs_are_listed(hub: HubProcess, tmp_path: Path) -> None:
    kinds = "[[r.name for r in k] for k in (g.branches, g.tags, g.pull_requests)]"
    listed = f"[{kinds} for g in [api.list_repo_refs('org/tiny', include_pull_requests=True)]][0]"
    assert ask(hub, tmp_path, listed) == [[["main", "old"], ["v1.0"], ["refs/pr/1"]]]


def test_a_tree_of_many_files_comes_in_pages(hub: HubProcess, tmp_path: Path) -> None:
    count = "len([e for e in api.list_repo_tree('org/many', recursive=True) if hasattr(e, 'size')])"
    flat = "[e.path for e in api.list_repo_tree('org/sharded', expand=True)]"
    assert ask(hub, tmp_path, count, flat)[0] == MANY
    assert len(hub.log().of(path="org/many/tree")) == 3


def test_paths_info_and_file_exists(hub: HubProcess, tmp_path: Path) -> None:
    paths = "[p.path for p in api.get_paths_info('org/tiny', ['config.json', 'sub', 'nope'])]"
    exists = "[api.file_exists('org/tiny', p) for p in ('config.json', 'nope')]"
    assert ask(hub, tmp_path, paths, exists) == [["sub", "config.json"], [True, False]]


def test_whole_snapshot(hub: HubProcess, tmp_path: Path) -> None:
    [path] = ask(hub, tmp_path, "snapshot_download('org/tiny')")
    check_snapshot(path, TINY)
    assert hub.log().of(origin="cdn", file="model.safetensors").bytes_sent == WEIGHTS.size_bytes


def test_filtered_snapshot(hub: HubProcess, tmp_path: Path) -> None:
    [path] = ask(hub, tmp_path, "snapshot_download('org/tiny', allow_patterns='*.json')")
    check_snapshot(path, TINY, ".json")
    assert not hub.log().of(origin="cdn")


def test_awkward_names_in_a_dataset(hub: HubProcess, tmp_path: Path) -> None:
    download = "snapshot_download('org/awkward.names_1', repo_type='dataset')"
    check_snapshot(ask(hub, tmp_path, download)[0], awkward_names_repo())


def test_space_and_legacy_id(hub: HubProcess, tmp_path: Path) -> None:
    space = "snapshot_download('org/page', repo_type='space')"
    page, legacy = ask(hub, tmp_path, space, "snapshot_download('legacy')")
    assert (Path(page) / "index.html").read_bytes() == b"<p>hi</p>"
    assert (Path(legacy) / "config.json").read_bytes() == b"{}"


def test_one_file_by_tag(hub: HubProcess, tmp_path: Path) -> None:
    [path] = ask(hub, tmp_path, "hf_hub_download('org/tiny', 'README.md', revision='v1.0')")
    assert Path(path).read_bytes().endswith(b"First.\n")


def test_resolve_cache_redirect(tmp_path: Path) -> None:
    with HubProcess(HubSpec((TINY,), resolve_cache=True)) as hub:
        check_snapshot(ask(hub, tmp_path, "snapshot_download('org/tiny')")[0], TINY)
        assert hub.log().of(path="/api/resolve-cache/", method="GET")


def test_private_and_gated_with_access(hub: HubProcess, tmp_path: Path) -> None:
    downloads = [f"snapshot_download('org/{name}')" for name in ("private", "gated", "auto")]
    for path in ask(hub, tmp_path, *downloads, token=ALICE):
        check_snapshot(path, TINY)
    seen = hub.log()
    assert all(entry.has_auth for entry in seen.of(origin="hub", path="resolve"))
    assert not any(entry.has_auth for entry in seen.of(origin="cdn"))
    assert ALICE not in repr(seen)


@pytest.mark.parametrize("token", ["", BOB])
def test_errors_map_to_the_classes_of_the_client(
    hub: HubProcess, tmp_path: Path, token: str
) -> None:
    table = {
        "api.model_info('org/nope')": "RepositoryNotFoundError",
        "api.model_info('org/private')": "RepositoryNotFoundError",
        "api.dataset_info('org/tiny')": "RepositoryNotFoundError",
        "api.model_info('org/gated').gated": "manual",
        "api.model_info('org/auto').gated": "auto",
        "len(list(api.list_repo_tree('org/gated')))": 4,
        "hf_hub_download('org/gated', 'config.json')": "GatedRepoError",
        "hf_hub_download('org/auto', 'model.safetensors')": "GatedRepoError",
        "api.model_info('org/tiny', revision='nope')": "RevisionNotFoundError",
        "hf_hub_download('org/tiny', 'config.json', revision='no')": "RevisionNotFoundError",
        "hf_hub_download('org/tiny', 'nope.json')": "RemoteEntryNotFoundError",
        "list(api.list_repo_tree('org/tiny', 'nope'))": "RemoteEntryNotFoundError",
        "api.model_info('org/disabled')": "DisabledRepoError",
    }
    assert dict(zip(table, ask(hub, tmp_path, *table, token=token), strict=True)) == table
    statuses = {entry.status for entry in hub.log().of(file="org/gated/config.json")}
    assert statuses == {403 if token else 401}
    assert {entry.status for entry in hub.log().of(path="models/org/nope")} == {
        404 if token else 401
    }


def test_whoami(hub: HubProcess, tmp_path: Path) -> None:
    assert ask(hub, tmp_path, "api.whoami()['name']", token=ALICE) == ["alice"]
    [invalid] = ask(hub, tmp_path, "api.model_info('org/tiny')", token="hf_invalid")
    assert invalid == "HfHubHTTPError"


def test_a_branch_moves_while_the_server_runs(hub: HubProcess, tmp_path: Path) -> None:
    first, second = (commit.sha for commit in TINY.commits)
    assert hub.move(TINY, "main", 0) == first
    try:
        assert ask(hub, tmp_path, "api.model_info('org/tiny').sha") == [first]
    finally:
        hub.move(TINY, "main", second)


def test_hf_download_then_offline(hub: HubProcess, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("hf")), "download", "org/tiny", "--quiet"]
    env = client_env(hub, tmp_path)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    check_snapshot(done.stdout.strip(), TINY)
    hub.clear_log()
    offline = "snapshot_download('org/tiny')"
    assert ask(hub, tmp_path, offline, HF_HUB_OFFLINE="1") == [done.stdout.strip()]
    assert not hub.log()


def test_xet_is_named_and_refused_unless_configured(hub: HubProcess, tmp_path: Path) -> None:
    hashes = "[e.xet_hash for e in api.list_repo_tree('org/{}')][0]"
    got = ask(hub, tmp_path, hashes.format("xet"), hashes.format("gated-xet"))
    assert got == [xet_repo("").files()["model.safetensors"].xet_hash, "*" * 64]
    route = f"{hub.endpoint}/api/models/org/xet/xet-read-token/main"
    assert urllib3.request("GET", route).status == 404
    plain = "snapshot_download('org/xet')"
    check_snapshot(ask(hub, tmp_path, plain, HF_HUB_DISABLE_XET="1")[0], xet_repo(""))


def test_xet_token_where_it_is_configured() -> None:
    with HubServer(HubSpec((xet_repo("org/xet"),), xet_cas_url="http://127.0.0.1:9")) as hub:
        answer = urllib3.request("GET", f"{hub.endpoint}/api/models/org/xet/xet-read-token/main")
    assert answer.headers["X-Xet-Cas-Url"] == "http://127.0.0.1:9"
    assert answer.headers["X-Xet-Access-Token"]


def test_the_real_model(tmp_path: Path) -> None:
    repo = minilm_repo()
    with HubProcess([repo]) as hub:
        [path] = ask(hub, tmp_path, "snapshot_download('sentence-transformers/all-MiniLM-L6-v2')")
        assert hub.log().of(origin="cdn").bytes_sent == 90_868_376
    check_snapshot(path, repo)


TRANSFER = """
import json, sys, hf_transfer
hf_transfer.download(**json.load(sys.stdin))
"""


def test_hf_transfer_in_ranges(hub: HubProcess, tmp_path: Path) -> None:
    asked = {
        "url": f"{hub.endpoint}/org/private/resolve/main/model.safetensors",
        "filename": str(tmp_path / "out"),
        "max_files": 4,
        "chunk_size": 1 << 20,
        "headers": {"Authorization": f"Bearer {ALICE}"},
    }
    subprocess.run(
        [sys.executable, "-c", TRANSFER],
        input=json.dumps(asked).encode(),
        env=client_env(hub, tmp_path),
        check=True,
        timeout=60,
    )
    assert (tmp_path / "out").read_bytes() == read_all(WEIGHTS.source)
    ranges = [entry.range for entry in hub.log().of(origin="cdn")]
    assert sorted(filter(None, ranges))[:2] == ["bytes=0-0", "bytes=0-1048575"]
    assert not any(entry.has_auth for entry in hub.log().of(origin="cdn"))


# Raw: what a strict server refuses


def get(url: str, method: str = "GET", **headers: str) -> urllib3.BaseHTTPResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib3.request(
        method, url, headers=named, redirect=False, retries=False, timeout=urllib3.Timeout(20)
    )


def weights_url(hub: Hub) -> str:
    """The signed address, as the Hub gives it."""
    answer = get(f"{hub.endpoint}/org/tiny/resolve/main/model.safetensors")
    assert answer.status == 302
    return answer.headers["Location"]


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
    done = subprocess.run(["git", "hash-object", str(tmp_path / "file")], capture_output=True)
    assert done.stdout.decode().strip() == TINY.files()["sub/dir/vocab.txt"].git_oid


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


def test_cdn_refuses_what_is_not_signed(local: HubServer) -> None:
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


def test_spec_travels_as_json() -> None:
    assert parse_spec(dump_spec(spec())) == spec()


def test_serve_a_directory_by_hand(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    command = [sys.executable, "-m", "tests.standin", "--repo", f"dataset:org/data={tmp_path}"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as child:
        assert child.stdout
        endpoint = json.loads(child.stdout.readline())["endpoint"]
        data = get(f"{endpoint}/datasets/org/data/resolve/main/config.json").data
        child.terminate()
    assert (data, child.returncode) == (b"{}", 0)


# Faults, each seen by a client of few words


class Weights:
    """The signed address of the weights, with a fault set on them."""

    def __init__(self, hub: HubServer, fault: Fault) -> None:
        self.url = weights_url(hub)
        hub.clear_log()
        hub.add_fault(fault)

    def get(self, **headers: str) -> urllib3.BaseHTTPResponse:
        return get(self.url, **headers)

    def read_until_closed(self) -> tuple[bytes, bool]:
        """Read the body until the end; the second says whether it was a reset."""
        address = urlsplit(self.url)
        assert address.port
        data = bytearray()
        with socket.create_connection(("127.0.0.1", address.port), timeout=20) as sock:
            sock.sendall(f"GET {address.path}?{address.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            was_reset = True
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(65536):
                    data += piece
                was_reset = False
        return bytes(data.partition(b"\r\n\r\n")[2]), was_reset


def test_fault_no_ranges(local: HubServer) -> None:
    answer = Weights(local, faults.NoRanges()).get(Range="bytes=0-0")
    assert (answer.status, len(answer.data)) == (200, WEIGHTS.size_bytes)
    assert "Content-Range" not in answer.headers
    assert "Accept-Ranges" not in answer.headers


def test_fault_ranges_ignored_after_the_probe(local: HubServer) -> None:
    weights = Weights(local, faults.RangesIgnoredAfterProbe())
    assert weights.get(Range="bytes=0-0").status == 206
    answer = weights.get(Range="bytes=10-19")
    assert (answer.status, len(answer.data)) == (200, WEIGHTS.size_bytes)


def test_fault_other_range(local: HubServer) -> None:
    answer = Weights(local, faults.OtherRange(shift=10)).get(Range="bytes=100-109")
    assert answer.headers["Content-Range"] == f"bytes 90-99/{WEIGHTS.size_bytes}"
    assert answer.data == read_all(WEIGHTS.source, 90, 100)


def test_fault_429_in_seconds_twice(local: HubServer) -> None:
    local.add_fault(faults.TooManyRequests(path="/api/*", retry_after_s=7, times=2))
    answers = [get(f"{local.endpoint}/api/models/org/tiny") for _ in range(3)]
    assert [answer.status for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert [entry.faults for entry in local.log()] == [("TooManyRequests",)] * 2 + [()]


def test_fault_429_as_a_date(local: HubServer) -> None:
    answer = Weights(local, faults.TooManyRequests(retry_after_s=60, as_date=True)).get()
    after = parsedate_to_datetime(answer.headers["Retry-After"])
    assert 58 <= (after - parsedate_to_datetime(answer.headers["Date"])).total_seconds() <= 62


def test_fault_429_with_ratelimit(local: HubServer) -> None:
    answer = Weights(local, faults.TooManyRequests(retry_after_s=55, ratelimit=True)).get()
    assert (answer.status, answer.headers["ratelimit"]) == (429, '"api";r=0;t=55')
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("status", [500, 502, 503])
def test_fault_server_error_after_the_first(local: HubServer, status: int) -> None:
    weights = Weights(local, faults.ServerError(status=status, skip=1, times=2))
    statuses = [weights.get(Range="bytes=0-0").status for _ in range(4)]
    assert statuses == [206, status, status, 206]


def test_fault_401_in_the_middle(local: HubServer) -> None:
    weights = Weights(local, faults.Unauthorized(from_byte=1000))
    assert weights.get(Range="bytes=0-9").status == 206
    assert weights.get(Range="bytes=1000-1009").status == 401


def test_fault_signed_url_expired(local: HubServer) -> None:
    weights = Weights(local, faults.SignedUrlExpired(times=1))
    assert [weights.get().status for _ in range(2)] == [403, 200]


def test_fault_hands_out_expired_urls(local: HubServer) -> None:
    local.add_fault(faults.HandsOutExpiredUrls(times=1))
    answers = [get(weights_url(local)) for _ in range(2)]
    assert [answer.status for answer in answers] == [403, 200]
    assert b"expired" in answers[0].data


def test_fault_redirect_elsewhere(local: HubServer) -> None:
    answer = Weights(local, faults.RedirectElsewhere(origin="cdn")).get()
    assert answer.status == 302
    url = answer.headers["Location"]
    assert url.startswith(local.elsewhere_endpoint)
    assert urlsplit(url).hostname != urlsplit(local.endpoint).hostname
    assert get(url).data == read_all(WEIGHTS.source)
    assert get(url, Authorization="Bearer hf_canary").status == 400


def test_fault_redirect_elsewhere_from_the_hub(local: HubServer) -> None:
    local.add_fault(faults.RedirectElsewhere(path="*config.json"))
    url = get(f"{local.endpoint}/org/tiny/resolve/main/config.json").headers["Location"]
    assert get(url).data == read_all(TINY.files()["config.json"].source)


def test_fault_reset(local: HubServer) -> None:
    data, was_reset = Weights(local, faults.ResetAfter(after_bytes=1000)).read_until_closed()
    assert was_reset
    assert len(data) <= 1000
    assert local.log().of(origin="cdn").bytes_sent == 1000


def test_fault_cut(local: HubServer) -> None:
    data, was_reset = Weights(local, faults.CutAfter(after_bytes=2_000_000)).read_until_closed()
    assert not was_reset
    assert data == read_all(WEIGHTS.source, 0, 2_000_000)


def test_fault_stall_until_released(local: HubServer) -> None:
    weights = Weights(local, faults.StallAfter(after_bytes=1000))
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(weights.get)
        while local.log(settle_s=0).of(origin="cdn").bytes_sent < 1000:
            assert not pending.done()
        assert not pending.done()
        assert local.log(settle_s=0.1).of(origin="cdn").bytes_sent == 1000
        local.release()
        assert pending.result(20).data == read_all(WEIGHTS.source)


def test_fault_stall_for_a_time(local: HubServer) -> None:
    answer = Weights(local, faults.StallAfter(after_bytes=1000, stall_s=0.05)).get()
    assert answer.data == read_all(WEIGHTS.source)


def test_fault_wrong_bytes(local: HubServer) -> None:
    weights = Weights(local, faults.WrongBytes(at_byte=2_000_000))
    want = read_all(WEIGHTS.source)
    got = weights.get().data
    assert len(got) == len(want)
    wrong = [at for at in range(1_999_990, 2_000_010) if got[at] != want[at]]
    assert wrong == [2_000_000]
    assert got[:2_000_000] + want[2_000_000:2_000_001] + got[2_000_001:] == want
    assert weights.get(Range="bytes=2000000-2000000").data != want[2_000_000:2_000_001]
    assert weights.get(Range="bytes=0-999").data == want[:1000]


def test_fault_fewer_bytes(local: HubServer) -> None:
    weights = Weights(local, faults.FewerBytes(missing_bytes=10))
    assert weights.get().data == read_all(WEIGHTS.source)[:-10]
    ranged = weights.get(Range="bytes=-5").headers["Content-Range"]
    assert ranged.endswith(f"/{WEIGHTS.size_bytes - 10}")


def test_fault_more_bytes(local: HubServer) -> None:
    answer = Weights(local, faults.MoreBytes(extra_bytes=10)).get()
    assert answer.data == read_all(WEIGHTS.source) + bytes(10)
    assert answer.headers["Content-Length"] == str(WEIGHTS.size_bytes + 10)


def test_fault_bandwidth_cap(local: HubServer) -> None:
    weights = Weights(local, faults.BandwidthCap(bytes_per_s=1))
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(weights.get)
        while not (seen := local.log(settle_s=0).of(origin="cdn").bytes_sent):
            assert not pending.done()
        assert seen < 1000  # a second each; without the cap it is a block at once
        local.stop()
        assert isinstance(pending.exception(20), urllib3.exceptions.ProtocolError)


def test_fault_slow_first_byte(local: HubServer) -> None:
    weights = Weights(local, faults.SlowFirstByte())
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(weights.get, Range="bytes=0-9")
        while not local.log(settle_s=0).of(origin="cdn"):
            assert not pending.done()
        assert not local.log(settle_s=0.1).of(origin="cdn")[0].done
        local.release()
        assert pending.result(20).data == read_all(WEIGHTS.source, 0, 10)


def test_faults_reach_a_child_process(hub: HubProcess, tmp_path: Path) -> None:
    hub.add_fault(faults.CutAfter(path="*.safetensors", after_bytes=1_500_000, times=1))
    [path] = ask(hub, tmp_path, "snapshot_download('org/tiny')")
    check_snapshot(path, TINY)
    seen = hub.log().of(origin="cdn")
    assert [entry.faults for entry in seen] == [("CutAfter",), ()]


def test_every_fault_travels_as_json() -> None:
    for kind in faults.KINDS.values():
        fault = kind(path="*.bin", times=2, skip=1)
        assert faults.parse_fault(faults.dump_fault(fault)) == fault


def test_every_fault_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in faults.KINDS if f"faults.{name}(" not in text] == []


def test_memory_files_are_git_files_below_the_limit() -> None:
    assert not File("a.txt", Memory(b"x")).is_lfs
    assert File("a.txt", Memory(b"x"), lfs=True).is_lfs
    assert File("a.bin", Memory(b"x")).is_lfs
