"""The stand-in is what the rest of the suite believes; here the real clients prove it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from tests.support.command import program
from tests.support.fake_hub import (
    Commit,
    File,
    Generated,
    Hub,
    HubProcess,
    HubServer,
    HubSpec,
    Repo,
    awkward_names_repo,
    faults,
    make_repo,
    many_files_repo,
    minilm_repo,
    read_all,
    sharded_repo,
    tiny_repo,
)
from tests.support.fake_hub.spec import dump_spec, parse_spec

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


def client_env(hub: Hub, home: Path, token: str = "", **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    own = {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.endpoint}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*", "PYTHONUTF8": "1"}
    return {**kept, **own, **quiet, **({"HF_TOKEN": token} if token else {}), **more}


def ask(hub: Hub, home: Path, *expressions: str, token: str = "", **more: str) -> list[Any]:
    """Evaluate in the real client; an exception becomes the name of its class."""
    env = client_env(hub, home, token, **more)
    return list(program(sys.executable, "-c", CLIENT, env=env, stdin=json.dumps(expressions)).json)


def check_snapshot(path: str, repo: Repo, only: str = "") -> None:
    want = {name: file for name, file in repo.files().items() if only in name}
    root = Path(path)
    got = {one.relative_to(root).as_posix(): one for one in root.rglob("*") if one.is_file()}
    assert sorted(got) == sorted(want)
    for name, file in want.items():
        assert got[name].read_bytes() == read_all(file.source)
        assert got[name].resolve().name == file.oid


# The real huggingface_hub


def test_info_has_the_documented_fields(hub: HubProcess, tmp_path: Path) -> None:
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
    command = (Path(sys.executable).with_name("hf"), "download", "org/tiny", "--quiet")
    downloaded = program(*command, env=client_env(hub, tmp_path)).out.strip()
    check_snapshot(downloaded, TINY)
    hub.clear_log()
    offline = "snapshot_download('org/tiny')"
    assert ask(hub, tmp_path, offline, HF_HUB_OFFLINE="1") == [downloaded]
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
    env = client_env(hub, tmp_path)
    program(sys.executable, "-c", TRANSFER, env=env, stdin=json.dumps(asked))
    assert (tmp_path / "out").read_bytes() == read_all(WEIGHTS.source)
    ranges = [entry.range for entry in hub.log().of(origin="cdn")]
    assert sorted(filter(None, ranges))[:2] == ["bytes=0-0", "bytes=0-1048575"]
    assert not any(entry.has_auth for entry in hub.log().of(origin="cdn"))


def test_faults_reach_a_child_process(hub: HubProcess, tmp_path: Path) -> None:
    hub.add_fault(faults.CutAfter(path="*.safetensors", after_bytes=1_500_000, times=1))
    [path] = ask(hub, tmp_path, "snapshot_download('org/tiny')")
    check_snapshot(path, TINY)
    seen = hub.log().of(origin="cdn")
    assert [entry.faults for entry in seen] == [("CutAfter",), ()]


def test_spec_travels_as_json() -> None:
    assert parse_spec(dump_spec(spec())) == spec()
