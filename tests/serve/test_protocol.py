"""The Hub's interface, request by request, against an image in a registry."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ExpandModelProperty_T, RepoFolder

from downloader.hub.repo import Repo
from downloader.serve.catalogue import Entry, Loaded
from downloader.serve.documents import paths_info, tree
from downloader.serve.server import _listen
from tests.support.command import hf_models
from tests.support.make_image import git_oid, lfs_oid, make_snapshot, put_ours, random_bytes
from tests.support.restore import FILES, layout, pack, registry, restore
from tests.support.serve import Server, resolve_path, serving

pytestmark = pytest.mark.docker
OLD, NEW = "0" * 39 + "1", "c0ffee" + "0" * 34
WEIGHTS = FILES["a.safetensors"]
CARD = b"---\nlicense: mit\ntask_categories: [text-classification]\nlanguage:\n- en\n---\n# Data\n"
DATASET = {"README.md": CARD, "data/train.csv": b"a,b\n1,2\n"}
GGUF = {
    "Model-Q4_K_M.gguf": random_bytes(70_000, seed=4),
    "Model-Q8_0-00001-of-00002.gguf": random_bytes(90_000, seed=5),
    "mmproj-Model-f16.gguf": random_bytes(5_000, seed=6),
}


def lfs_everywhere(files: dict[str, bytes], repo: str) -> object:
    snapshot = make_snapshot(files, repo, commit="9" * 40)
    return replace(
        snapshot,
        files=tuple(replace(f, sha256=lfs_oid(files[f.path])) for f in snapshot.files),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    name, store = registry()
    put_ours(
        store,
        {"config.json": b"old"},
        "old",
        snapshot=make_snapshot({"config.json": b"old"}, revision="v1.0", commit=OLD),
    )
    put_ours(store, FILES, "new", snapshot=make_snapshot(FILES, commit=NEW))
    dataset = replace(make_snapshot(DATASET, "org/data"), repo=Repo("dataset", "org/data"))
    put_ours(store, DATASET, "data", snapshot=dataset)
    put_ours(store, GGUF, "gguf", snapshot=lfs_everywhere(GGUF, "org/gguf"))  # type: ignore[arg-type]
    small = {"config.json": b"{}", "README.md": b"---\npipeline_tag: text-generation\n---\n"}
    put_ours(store, small, "gpt2", snapshot=make_snapshot(small, "gpt2"))
    with serving(name, "--cache-dir", tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture
def api(server: Server) -> HfApi:
    return HfApi(endpoint=server.url, token=False)


def test_two_commits_of_one_repo_are_two_revisions(server: Server) -> None:
    branches = server.ask("/api/models/org/model/refs").json["branches"]
    assert {item["name"]: item["targetCommit"] for item in branches} == {"main": NEW, "v1.0": OLD}
    assert server.ask(resolve_path("config.json", revision="v1.0")).body == b"old"
    assert server.ask(resolve_path("config.json", revision=OLD)).body == b"old"
    assert server.ask(resolve_path("config.json")).body == FILES["config.json"]


def test_model_info_with_blobs_as_huggingface_hub_reads_it(api: HfApi) -> None:
    info = api.model_info("org/model", files_metadata=True)
    assert info.sha == NEW
    found = {item.rfilename: item for item in info.siblings or []}
    assert set(found) == set(FILES)
    weights = found["a.safetensors"]
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.sha256) == (len(WEIGHTS), lfs_oid(WEIGHTS))
    assert found["vocab.txt"].blob_id == git_oid(FILES["vocab.txt"])


def test_expand_returns_only_the_requested_fields(api: HfApi, server: Server) -> None:
    info = api.model_info("org/model", expand=["siblings", "gated"])
    assert len(info.siblings or []) == len(FILES)
    found = server.ask("/api/models/org/model?expand[]=sha&expand=gguf&expand=nothing").json
    assert set(found) == {"_id", "id", "modelId", "sha"}
    every = get_args(ExpandModelProperty_T)
    assert api.model_info("org/model", expand=list(every)).safetensors is None


def test_no_answer_mentions_xet(server: Server) -> None:
    for path in (
        "/api/models/org/model?blobs=true",
        "/api/models/org/model?expand=xetEnabled",
        "/api/models/org/model/tree/main?recursive=true",
        resolve_path("a.safetensors"),
    ):
        answer = server.ask(path, "HEAD" if "resolve" in path else "GET")
        assert "xet" not in str(answer.headers).lower()
        assert b"xet" not in answer.body.lower()


def test_tree_of_one_level_of_a_folder_and_recursive(api: HfApi, server: Server) -> None:
    top = list(api.list_repo_tree("org/model"))
    assert [item.path for item in top if isinstance(item, RepoFolder)] == ["sub folder", "ünïcode"]
    inner = [item.path for item in api.list_repo_tree("org/model", "sub folder", expand=True)]
    assert inner == ["sub folder/b.bin"]
    every = api.list_repo_tree("org/model", recursive=True)
    assert {item.path for item in every} == {*FILES, "sub folder", "ünïcode"}
    assert server.ask("/api/models/org/model/tree/main/nothing").code == "EntryNotFound"


def test_tree_of_a_large_repo_takes_no_time_that_grows_with_its_square() -> None:
    listed = make_snapshot({"config.json": b"{}"})
    [file] = listed.files
    paths = sorted(f"{at // 3}/{at}.json" for at in range(30_000))
    files = tuple(replace(file, path=path) for path in paths)
    loaded = Loaded(replace(listed, files=files), lambda _: Path())
    entry = Entry(listed.repo, listed.commit, (), "", "", lambda: loaded)
    began_at = time.process_time()
    assert len(tree(entry, loaded, "", recursive=True, expand=False)) == 40_000
    asked = [f"{at}{end}" for at in range(10_000) for end in ("", "/x")]
    assert len(paths_info(entry, loaded, asked, expand=False)) == 10_000
    assert time.process_time() - began_at < 5  # it was minutes, and nobody else was answered


def test_pages_of_a_tree_link_to_this_server(server: Server) -> None:
    path: str | None = "/api/models/org/model/tree/main?recursive=true&limit=2"
    found: list[str] = []
    while path:
        answer = server.ask(path)
        found += [item["path"] for item in answer.json]
        link = re.match(r'<([^>]*)>; rel="next"', answer.headers.get("link", ""))
        assert link is None or link[1].startswith(server.url)
        path = link[1].removeprefix(server.url) if link else None
    assert set(found) == {*FILES, "sub folder", "ünïcode"}
    assert len(found) == len(set(found))


def test_paths_info_by_form_and_by_json(api: HfApi, server: Server) -> None:
    found = api.get_paths_info("org/model", ["config.json", "sub folder", "nothing"], expand=True)
    assert [item.path for item in found] == ["config.json", "sub folder"]
    body = json.dumps({"paths": ["vocab.txt"]}).encode()
    path = "/api/models/org/model/paths-info/main"
    answer = server.ask(path, "POST", body, Content_Type="application/json")
    assert [item["path"] for item in answer.json] == ["vocab.txt"]
    assert server.ask(path, "POST", b"[", Content_Type="application/json").status == 400


def test_refs_commits_and_discussions_as_huggingface_hub_reads_them(api: HfApi) -> None:
    assert {ref.name for ref in api.list_repo_refs("org/model").branches} == {"main", "v1.0"}
    assert [commit.commit_id for commit in api.list_repo_commits("org/model")] == [NEW]
    assert list(api.get_repo_discussions("org/model")) == []


def test_list_search_and_author(api: HfApi) -> None:
    assert {item.id for item in api.list_models()} == {"org/model", "org/gguf", "gpt2"}
    assert [item.id for item in api.list_models(search="GGU")] == ["org/gguf"]
    assert [item.id for item in api.list_models(author="org", limit=1)] == ["org/gguf"]
    assert [item.id for item in api.list_datasets()] == ["org/data"]
    assert list(api.list_spaces()) == []


def test_list_by_tags_of_files_and_cards(api: HfApi) -> None:
    assert [item.id for item in api.list_models(filter="gguf")] == ["org/gguf"]
    assert [item.id for item in api.list_models(pipeline_tag="text-generation")] == ["gpt2"]
    assert list(api.list_models(filter=["gguf", "transformers"])) == []
    assert [item.id for item in api.list_datasets(filter="license:mit", language="en")] == [
        "org/data"
    ]
    assert list(api.list_datasets(filter="language:fr")) == []
    assert list(api.list_models(gated=True)) == []


def test_list_with_files(api: HfApi) -> None:
    full = {item.id: len(item.siblings or []) for item in api.list_models(full=True)}
    assert full == {"org/model": len(FILES), "org/gguf": len(GGUF), "gpt2": 2}
    [model] = api.list_models(search="gpt2", expand=["siblings", "pipeline_tag"])
    assert (len(model.siblings or []), model.pipeline_tag) == (2, "text-generation")


def test_pages_of_a_list_keep_every_word_of_the_query(server: Server) -> None:
    answer = server.ask("/api/models?limit=1&expand=sha&expand=siblings")
    [link] = re.findall(r"<([^>]*)>", answer.headers["link"])
    [item] = server.ask(link.removeprefix(server.url)).json
    assert {"sha", "siblings"} <= set(item)


def test_card_gives_the_task_of_a_model(api: HfApi) -> None:
    info = api.model_info("gpt2")
    assert (info.pipeline_tag, info.library_name) == ("text-generation", "transformers")
    assert {"text-generation", "transformers"} <= set(info.tags or [])
    data = api.dataset_info("org/data")
    assert "task_categories:text-classification" in (data.tags or [])
    assert data.card_data is not None
    assert data.card_data.language == ["en"]


def test_auth_check_and_paths_outside_the_interface_are_told_from_missing_repos(
    api: HfApi, server: Server
) -> None:
    api.auth_check("org/model")
    with pytest.raises(RepositoryNotFoundError):
        api.auth_check("org/nothing")
    answer = server.ask("/api/models/org/model/likers")
    assert (answer.status, answer.code) == (404, None)


def test_errors_are_the_exceptions_of_huggingface_hub(api: HfApi) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/nothing")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("org/model")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/model", revision="nothing")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("org/model", "nothing.json")


def test_head_of_a_large_and_a_small_file(server: Server) -> None:
    large = server.ask(resolve_path("a.safetensors"), "HEAD")
    assert large.status == 200
    assert large.headers["etag"] == large.headers["x-linked-etag"] == f'"{lfs_oid(WEIGHTS)}"'
    assert large.headers["x-linked-size"] == large.headers["content-length"] == str(len(WEIGHTS))
    assert large.headers["x-repo-commit"] == NEW
    assert large.headers["accept-ranges"] == "bytes"
    small = server.ask(resolve_path("config.json"), "HEAD")
    assert small.headers["etag"] == f'"{git_oid(FILES["config.json"])}"'
    assert "x-linked-etag" not in small.headers
    assert server.ask(resolve_path("empty.txt")).body == b""
    ranged = server.ask(resolve_path("a.safetensors"), "HEAD", Range="bytes=0-0")
    assert (ranged.status, ranged.headers["content-length"]) == (200, str(len(WEIGHTS)))


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=9000000-", 9_000_000, len(WEIGHTS)),
        ("bytes=-7", len(WEIGHTS) - 7, len(WEIGHTS)),
        ("bytes=5-999999999", 5, len(WEIGHTS)),
    ],
)
def test_range(server: Server, header: str, start: int, end: int) -> None:
    answer = server.ask(resolve_path("a.safetensors"), Range=header)
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"
    assert answer.body == WEIGHTS[start:end]


def test_first_byte_tells_clients_that_ask_for_no_head(server: Server) -> None:
    # The crate hf-hub up to 0.5: from these headers it learns commit, hash and size.
    for path, oid in (
        ("a.safetensors", lfs_oid(WEIGHTS)),
        ("vocab.txt", git_oid(FILES["vocab.txt"])),
    ):
        answer = server.ask(resolve_path(path), Range="bytes=0-0")
        assert (answer.status, len(answer.body)) == (206, 1)
        assert answer.headers["x-repo-commit"] == NEW
        assert answer.headers.get("x-linked-etag", answer.headers["etag"]) == f'"{oid}"'
        assert answer.headers["content-range"] == f"bytes 0-0/{len(FILES[path])}"


@pytest.mark.parametrize("header", ["bytes=0-1,4-5", "bytes=5-4", "lines=1-2", "bytes=x"])
def test_malformed_range_gives_the_whole_file(server: Server, header: str) -> None:
    answer = server.ask(resolve_path("vocab.txt"), Range=header)
    assert (answer.status, answer.body) == (200, FILES["vocab.txt"])


def test_range_outside_the_file_is_refused(server: Server) -> None:
    answer = server.ask(resolve_path("vocab.txt"), Range="bytes=6-")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */6")


def test_conditional_requests(server: Server) -> None:
    etag = server.ask(resolve_path("vocab.txt"), "HEAD").headers["etag"]
    assert server.ask(resolve_path("vocab.txt"), If_None_Match=etag).status == 304
    assert server.ask(resolve_path("vocab.txt"), If_None_Match='"x"').status == 200
    path = resolve_path("vocab.txt")
    assert server.ask(path, Range="bytes=1-", If_Range=etag).status == 206
    assert server.ask(path, Range="bytes=1-", If_Range='"x"').status == 200


def test_raw_gives_the_lfs_pointer(server: Server) -> None:
    text = server.ask("/org/model/raw/main/a.safetensors").body.decode()
    assert f"oid sha256:{lfs_oid(WEIGHTS)}\nsize {len(WEIGHTS)}\n" in text
    assert server.ask("/org/model/raw/main/vocab.txt").body == FILES["vocab.txt"]


def test_old_ids_without_a_namespace(server: Server, api: HfApi) -> None:
    assert api.model_info("gpt2").id == "gpt2"
    assert server.ask(resolve_path("config.json", "gpt2")).body == b"{}"


def test_ids_that_look_like_a_part_of_a_path(tmp_path: Path) -> None:
    ids = ("org/raw", "org/tree", "org/refs", "org/commits")
    for at, repo in enumerate(ids):
        put_ours(layout(tmp_path / f"{at}"), FILES, snapshot=make_snapshot(FILES, repo))
    with serving(tmp_path, "--cache-dir", tmp_path / "cache") as server:
        api = HfApi(endpoint=server.url, token=False)
        for repo in ids:
            assert api.model_info(repo, revision="main").id == repo
            assert "vocab.txt" in api.list_repo_files(repo)
            assert api.file_exists(repo, "vocab.txt")


def test_names_of_files_with_every_kind_of_character(api: HfApi, tmp_path: Path) -> None:
    for path, data in FILES.items():
        found = api.hf_hub_download("org/model", path, cache_dir=tmp_path)
        assert Path(found).read_bytes() == data


def test_manifest_of_a_quantization_for_llama_cpp_and_ollama(server: Server) -> None:
    latest = server.ask("/v2/org/gguf/manifests/latest").json
    assert latest["ggufFile"]["rfilename"] == "Model-Q4_K_M.gguf"
    assert latest["mmprojFile"]["rfilename"] == "mmproj-Model-f16.gguf"
    found = server.ask("/v2/org/gguf/manifests/q8_0").json
    assert found["ggufFile"]["rfilename"] == "Model-Q8_0-00001-of-00002.gguf"
    for blob in (found["config"], *found["layers"]):
        answer = server.ask(f"/v2/org/gguf/blobs/{blob['digest']}")
        assert f"sha256:{lfs_oid(answer.body)}" == blob["digest"]
        assert len(answer.body) == blob["size"]
    assert server.ask("/v2/org/gguf/manifests/Q2_K").code == "EntryNotFound"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/org/model/resolve/main/../../../../etc/passwd",
        "/org/model/resolve/main/..%2F..%2F..%2Fetc%2Fpasswd",
        "/org/model/resolve/main/%2e%2e/%2e%2e/config.json",
        "/org/model/resolve/main/config.json%00",
        "/org/model/resolve/..%2f..%2frefs/main",
        "/org%2Fmodel%2F..%2Fmodel/resolve/main/config.json",
        "/org/model/resolve/main/",
        "/api/models/../models/org/model",
        "/api/models/org/model/tree/main/..",
        "/api/models/%ff%fe/x",
        "/api/models/org/model/revision/" + "%2e%2e%2f" * 50,
        "/v2/org/gguf/blobs/sha256:../../x",
        "/datasets/org/data/resolve/main//etc/passwd",
        "//org/model/resolve/main/nothing",
        "/" + "a" * 5000,
    ],
)
def test_hostile_path_is_not_found(server: Server, path: str) -> None:
    answer = server.ask(path)
    assert answer.status in {400, 404}
    assert b"root:" not in answer.body
    assert all(ord(c) < 128 for c in answer.headers.get("x-error-message", ""))


def test_huge_headers_are_refused(server: Server) -> None:
    answer = server.ask("/api/models/org/model", X_Long="a" * 100_000)
    assert answer.status in {400, 431}
    assert server.ask("/healthz").status == 200


def test_methods_that_write_are_refused(server: Server) -> None:
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        assert server.ask("/api/models/org/model", method).status == 405


def test_uploads_are_told_that_this_server_only_reads(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="read-only"):
        api.create_repo("org/new")
    with pytest.raises(HfHubHTTPError, match="read-only"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="org/model")
    with pytest.raises(HfHubHTTPError, match="read-only"):
        api.create_branch("org/model", branch="new")


def test_page_names_every_repo_and_this_address(server: Server) -> None:
    text = server.ask("/").body.decode()
    assert f"export HF_ENDPOINT={server.url}" in text
    for name in ("org/model", "org/data", "org/gguf", "gpt2"):
        assert f"<code>{name}</code>" in text


def test_log_counts_repos_and_commits(server: Server, tmp_path: Path) -> None:
    assert server.said(": 4 repos, 5 commits")
    name, store = registry()
    small = {"config.json": b"{}", "README.md": b"---\npipeline_tag: text-generation\n---\n"}
    put_ours(store, small, "gpt2", snapshot=make_snapshot(small, "gpt2"))
    with serving(name, "--cache-dir", tmp_path) as running:
        running.stop()
    assert any(line.endswith(": 1 repo, 1 commit") for line in running.lines)


def test_log_for_machines_is_json_in_every_line(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    with serving(tmp_path / "image", "--no-cache", "--log-format", "json") as server:
        server.ask(resolve_path("vocab.txt"), User_Agent="##[error]x")
        server.stop()
    found = [json.loads(line) for line in server.lines]
    assert any(line.get("message", "").endswith("1 repo, 1 commit") for line in found)
    assert "##[error]x" in [line.get("agent") for line in found]
    assert all("time" in line for line in found)


def test_metrics_count_requests_and_bytes(server: Server) -> None:
    before = server.metric("served_bytes_total")
    server.ask(resolve_path("vocab.txt"))
    assert server.metric("served_bytes_total") - before >= len(FILES["vocab.txt"])
    assert server.metric("repos") == 4


def test_a_page_of_another_origin_cannot_read_a_local_server(server: Server) -> None:
    path = resolve_path("vocab.txt")
    ours = server.ask(path, Origin="http://localhost:3000")
    assert ours.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "X-Repo-Commit" in ours.headers["access-control-expose-headers"]
    assert (
        "access-control-allow-origin" not in server.ask(path, Origin="https://evil.example").headers
    )
    assert server.ask(path, Host="evil.example").status == 403
    asked = server.ask(path, "OPTIONS", Origin="http://localhost:3000")
    assert "Range" in asked.headers["access-control-allow-headers"]


def test_token_is_asked_for_and_checked(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    (tmp_path / "token").write_text("s3cret\n")
    flags = ("--token-file", tmp_path / "token", "--cache-dir", tmp_path / "cache")
    with serving(tmp_path / "image", *flags) as server:
        path = resolve_path("vocab.txt")
        assert server.ask(path).status == 401
        assert server.ask(path, Authorization="Bearer wrong").status == 401
        assert server.ask("/api/models/org/model", Authorization="Basic s3cret").status == 401
        assert server.ask(path, Authorization="Bearer s3cret").body == FILES["vocab.txt"]
        user = HfApi(endpoint=server.url, token="s3cret").whoami()
        assert (user["name"], user["auth"]["accessToken"]["role"]) == ("hf-models", "read")
        assert server.ask("/healthz").status == 200
        # The page names repos, private ones too: a browser asks for the token as a password.
        closed = server.ask("/")
        assert closed.headers["www-authenticate"].startswith("Basic ")
        assert b"org/model" not in closed.body
        basic = base64.b64encode(b"anybody:s3cret").decode()
        assert b"org/model" in server.ask("/", Authorization=f"Basic {basic}").body
        assert server.ask("/", Authorization="Bearer s3cret").status == 200
        assert server.ask(path, Authorization=f"Basic {basic}").status == 401
        assert not server.said("s3cret")


def test_one_client_is_served_where_one_is_the_most(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    with serving(tmp_path / "image", "--no-cache", "--clients", "1") as server:
        path = resolve_path("vocab.txt")
        assert server.ask(path, Upgrade="h2c", Connection="Upgrade").status == 200
        server.stop()
    assert not server.said("pgrade")


def test_name_of_a_container_is_a_host(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    with serving(tmp_path / "image", "--no-cache", "--public") as server:
        assert server.ask("/api/models", Host="hf_models:8765").status == 200


def test_listening_for_others_wants_a_token_or_public(tmp_path: Path) -> None:
    ran = hf_models("serve", tmp_path, "--listen", "0.0.0.0:0", "--no-cache", code=2)
    assert "--public" in ran.err


def test_every_kind_of_source(tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    for name in ("one", "two"):
        snapshot = make_snapshot(FILES, f"org/{name}")
        put_ours(layout(dist / name), FILES, snapshot=snapshot)
    archive = pack(dist / "one", tmp_path / "image.tar")
    packed = pack(dist / "two", tmp_path / "image.tar.gz", "w:gz")
    assert restore(dist / "one", tmp_path / "hf" / "hub").code == 0
    for source, repo in (
        (dist, "org/two"),
        (dist / "one", "org/one"),
        (archive, "org/one"),
        (packed, "org/two"),
        (tmp_path / "hf", "org/one"),
    ):
        with serving(source, "--cache-dir", tmp_path / "cache") as server:
            for path in ("vocab.txt", "a.safetensors"):
                found = server.ask(resolve_path(path, repo))
                assert found.body == FILES[path], (source, path, server.lines)


def test_tag_that_a_layout_lacks_is_an_error_at_the_start(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    ran = hf_models("serve", f"{tmp_path / 'image'}:nothing", "--listen", "127.0.0.1:0", code=2)
    assert "not found" in ran.err


@pytest.mark.parametrize("data", [b"", b"a b", b"x" * 5000, "tök".encode()])
def test_token_that_no_client_could_send_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "token").write_bytes(data)
    ran = hf_models("serve", tmp_path, "--token-file", tmp_path / "token", "--no-cache", code=2)
    assert "--token-file" in ran.err


def test_answers_are_sent_without_nagles_delay() -> None:
    # asyncio switches it off only on sockets that name their protocol.
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:x", "192.0.2.1:0", "nowhere.invalid:1"]
)
def test_address_that_cannot_be_listened_on(tmp_path: Path, address: str) -> None:
    ran = hf_models("serve", tmp_path, "--listen", address, "--public", "--no-cache", code=2)
    assert "listen" in ran.err
