"""What the Hub's API answers, and what mirrors and proxies answer in its place."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from downloader.errors import HubError, InputError, ProtocolError, TransportError
from downloader.hub.repo import Repo, Selection, Snapshot
from downloader.hub.snapshot import Hub
from downloader.net.http import HttpPool
from tests.support.command import hf_models_apart
from tests.support.fake_hub import Fault, HubServer, HubSpec, faults, make_repo, tiny_repo
from tests.support.hub import QUICK

MODEL = Repo("model", "org/tiny")
ODD = {"config.json": b"{}", "Icon\r": b"", "notes\told.txt": b"x"}
SPEC = HubSpec(
    (
        tiny_repo(),
        make_repo("org/many", {f"{number}.txt": b"x" for number in range(25)}),
        make_repo("org/odd", ODD),
        make_repo("org/data", {"train.csv": b"a\n"}, type="dataset"),
        make_repo("org/gated", {"a.txt": b"x"}, gated="manual", readers=("alice",)),
    ),
    users={"hf_alice": "alice"},
    page_size=10,
)


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer(SPEC) as server:
        yield server


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def hub(server: HubServer, notes: list[str]) -> Iterator[Hub]:
    server.clear_faults()
    server.clear_log()
    http = HttpPool()
    yield Hub(server.endpoint, None, http, retry=QUICK, note=notes.append)
    http.close()
    server.clear_faults()


def refuse(server: HubServer, hub: Hub, fault: Fault) -> str:
    """Return the message where an answer is not the Hub's."""
    server.add_fault(fault)
    with pytest.raises(ProtocolError) as caught:
        hub.resolve(MODEL)
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("route", ["revision", "tree"])
@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("<html>Sign in</html>", "want JSON of the Hub, got 20 bytes of text/html"),
        ("", "want JSON of the Hub, got 0 bytes of text/html"),
        ("null", "got nothing"),
        ("[" * 100_000, "want JSON of the Hub"),
    ],
)
def test_answer_that_is_not_the_hub_s_names_address_and_type(
    server: HubServer, hub: Hub, route: str, body: str, want: str
) -> None:
    said = refuse(server, hub, faults.OtherAnswer(path=f"/api/*/{route}/*", body=body))
    assert want in said
    assert said.startswith(f"{server.endpoint}/api/models/org/tiny/{route}/")


@pytest.mark.parametrize(
    ("route", "values", "want"),
    [
        ("revision", {"sha": "main"}, ": sha: want 40 hex digits, got 'main'"),
        ("revision", {"sha": None}, ": sha: want 40 hex digits, got nothing"),
        ("revision", {"lastModified": "yesterday"}, ": lastModified: want an ISO 8601 date"),
        ("revision", {"gated": "often"}, ": gated: want true, false, 'auto' or 'manual'"),
        ("revision", {"safetensors": {"parameters": {}}}, ": safetensors.total: want a number"),
        ("revision", {"safetensors": {"total": 1}}, ": safetensors.parameters: want an object"),
        ("revision", {"id": "../x"}, ": id: want the id of a repo, got '../x'"),
        ("tree", {"oid": None}, "]: oid: want 40 hex digits, got nothing"),
        ("tree", {"size": None}, "]: size: want a number of at least 0, got nothing"),
        ("tree", {"size": -1}, "]: size: want a number of at least 0, got -1"),
        ("tree", {"size": 2**64}, "]: size: want a number of at least 0"),
        ("tree", {"size": True}, "]: size: want a number of at least 0, got True"),
        ("tree", {"lfs": {"oid": "x", "size": 1}}, "]: lfs.oid: want 64 hex digits"),
        ("tree", {"path": 7}, "]: path: want a text, got 7"),
    ],
)
def test_malformed_value_is_named_by_its_place(
    server: HubServer, hub: Hub, route: str, values: dict[str, object], want: str
) -> None:
    said = refuse(server, hub, faults.ChangedJson(path=f"/api/*/{route}/*", values=values))
    assert want in said


@pytest.mark.parametrize("license_", [4.0, {"name": "mit"}, [1, None], "", None])
def test_model_card_may_hold_anything(server: HubServer, hub: Hub, license_: object) -> None:
    card = {"cardData": {"license": license_, "license_name": 3}}
    server.add_fault(faults.ChangedJson(path="/api/*/revision/*", values=card))
    assert hub.resolve(MODEL).license is None


@pytest.mark.parametrize(
    ("card", "want"),
    [
        ({"description": " A small\n model. "}, "A small model."),
        ({"description": "x" * 201}, "x" * 199 + "…"),
        ({"short_description": "Short", "description": "Long"}, "Short"),
        ({"description": ["A", "list"]}, None),
        ({"description": "a\x1b[31mred"}, None),
        ({}, None),
    ],
)
def test_description_is_one_bounded_line_of_the_card(
    server: HubServer, hub: Hub, card: dict[str, object], want: str | None
) -> None:
    server.add_fault(faults.ChangedJson(path="/api/*/revision/*", values={"cardData": card}))
    found = hub.resolve(MODEL)
    assert found.description == want
    assert Snapshot.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("tag", "want"),
    [("text-generation", "text-generation"), ("<b>", None), ("x" * 65, None), (7, None)],
)
def test_task_and_parameters_are_the_hub_s(
    server: HubServer, hub: Hub, tag: object, want: str | None
) -> None:
    values = {"pipeline_tag": tag, "safetensors": {"parameters": {"BF16": 12}, "total": 12}}
    server.add_fault(faults.ChangedJson(path="/api/*/revision/*", values=values))
    found = hub.resolve(MODEL)
    assert (found.task, found.parameters) == (want, 12)
    assert Snapshot.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("name", "tags", "want"),
    [
        ("transformers", ["safetensors"], "transformers"),
        ("transformers", ["gguf", "safetensors"], "transformers"),
        ("transformers", ["gguf"], "gguf"),
        ("$(id)", [], None),
        (None, [], None),
    ],
)
def test_library_is_the_one_that_loads_the_weights(
    server: HubServer, hub: Hub, name: object, tags: list[str], want: str | None
) -> None:
    values = {"library_name": name, "tags": tags}
    server.add_fault(faults.ChangedJson(path="/api/*/revision/*", values=values))
    found = hub.resolve(MODEL)
    assert found.library == want
    assert Snapshot.from_json(found.to_json()) == found


def test_all_pages_of_a_mirror_that_forgets_to_rewrite_link(server: HubServer, hub: Hub) -> None:
    server.add_fault(faults.LinkNotRewritten(path="/api/*/tree/*"))
    assert len(hub.resolve(Repo("model", "org/many")).files) == 25
    assert all(entry.origin == "hub" for entry in server.log())


def test_page_that_names_itself_as_the_next_ends(server: HubServer, hub: Hub) -> None:
    link = '<http://127.0.0.1:9/api/models/org/tiny/tree/x?cursor=0000000000000002>; rel="next"'
    entry = {"type": "file", "path": "a", "size": 1, "oid": "c" * 40}
    fault = faults.OtherAnswer(
        path="/api/*/tree/*", body=json.dumps([entry]), headers={"Link": link}
    )
    assert "its Link to 127.0.0.1:9 names a page that was read before" in refuse(server, hub, fault)
    assert len(server.log()) == 3


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_answer_compressed_against_our_wish_is_read(
    server: HubServer, hub: Hub, encoding: str
) -> None:
    plain = hub.resolve(MODEL)
    server.add_fault(faults.Compressed(path="/api/*", encoding=encoding))
    assert hub.resolve(MODEL) == plain


def test_answer_in_an_unknown_coding_is_refused(server: HubServer, hub: Hub) -> None:
    said = refuse(server, hub, faults.Compressed(path="/api/*", encoding="br"))
    assert "got Content-Encoding br" in said


def test_renamed_repo_is_followed_and_told(server: HubServer, hub: Hub, notes: list[str]) -> None:
    target = "/api/models/org/tiny/revision/main"
    server.add_fault(
        faults.OtherAnswer(path="/api/*/old/name/*", status=307, headers={"Location": target})
    )
    snapshot = hub.resolve(Repo("model", "old/name"))
    assert snapshot.repo == MODEL
    assert notes == ["model old/name is org/tiny on the Hub; using that name"]


def test_other_spelling_of_an_id_is_replaced(server: HubServer, hub: Hub, notes: list[str]) -> None:
    server.add_fault(faults.ChangedJson(path="/api/*/revision/*", values={"id": "Org/Tiny"}))
    server.add_fault(
        faults.OtherAnswer(path="/api/models/Org/Tiny/tree/*", body="[]", content_type="x/json")
    )
    with pytest.raises(InputError, match="the repo has no files"):
        hub.resolve(MODEL)
    assert notes == ["model org/tiny is Org/Tiny on the Hub; using that name"]


def test_redirect_to_another_host_gets_no_token(server: HubServer, hub: Hub) -> None:
    with_token = replace(hub, token="hf_alice")
    server.add_fault(faults.RedirectElsewhere(path="/api/*/revision/*"))
    with_token.commit_of(MODEL)
    assert [entry.has_auth for entry in server.log()] == [True, False]


@pytest.mark.parametrize(
    "selection",
    [
        Selection(include=("*.json",)),
        Selection(exclude=("Icon*", "notes*")),
        Selection(names=("config.json",)),
    ],
    ids=["include", "exclude", "name"],
)
def test_odd_file_name_that_was_not_selected_does_no_harm(hub: Hub, selection: Selection) -> None:
    snapshot = hub.resolve(Repo("model", "org/odd"), selection=selection)
    assert [file.path for file in snapshot.files] == ["config.json"]
    assert snapshot.is_partial


def test_odd_file_name_that_was_selected_is_refused(hub: Hub) -> None:
    with pytest.raises(ProtocolError, match=r"unsafe file name in repo: 'Icon\\r'") as caught:
        hub.resolve(Repo("model", "org/odd"))
    assert "--exclude" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("repo", "hint"),
    [
        (Repo("model", "org/data"), "org/data is a dataset: add --repo-type dataset"),
        (Repo("space", "org/tiny"), "org/tiny is a model: add --repo-type model"),
        (Repo("model", "org/none"), "check the id, or pass a token with HF_TOKEN"),
    ],
)
def test_repo_of_another_type_is_found(hub: Hub, repo: Repo, hint: str) -> None:
    with pytest.raises(HubError, match="not found, or private") as caught:
        hub.resolve(repo)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("token", "revision", "want"),
    [
        (None, "nope", "has no revision 'nope'"),
        ("hf_stale", "main", "the Hub does not know this token"),
    ],
)
def test_refusal_says_why(hub: Hub, token: str | None, revision: str, want: str) -> None:
    with pytest.raises(HubError, match=re.escape(want)):
        replace(hub, token=token).resolve(MODEL, revision)


def test_offline_variable_is_named(server: HubServer, hub: Hub) -> None:
    with pytest.raises(InputError, match="while TRANSFORMERS_OFFLINE is set"):
        replace(hub, offline="TRANSFORMERS_OFFLINE").resolve(MODEL)
    assert server.log() == []


def test_passing_failures_are_tried_again(server: HubServer, hub: Hub) -> None:
    server.add_fault(faults.ServerError(path="/api/*", times=2))
    assert hub.resolve(MODEL).commit == SPEC.repos[0].sha
    server.add_fault(faults.ServerError(path="/api/*"))
    with pytest.raises(HubError, match="the Hub answered 503"):
        hub.resolve(MODEL)


def test_hub_that_is_not_there_is_named(hub: Hub) -> None:
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:9 \(connection refused"):
        replace(hub, endpoint="http://127.0.0.1:9").resolve(MODEL)


def test_endpoint_of_a_mirror_may_have_a_path(hub: Hub) -> None:
    mirror = replace(hub, endpoint="https://mirror.example/hf/")
    snapshot = Snapshot(Repo("dataset", "org/x"), "main", "1" * 40, ())
    file = replace(hub.resolve(MODEL).files[0], path="a b/#1?.bin")
    url = mirror.source_of(snapshot, file).url
    assert url == (f"https://mirror.example/hf/datasets/org/x/resolve/{'1' * 40}/a%20b/%231%3F.bin")


def test_snapshot_travels_through_json(hub: Hub) -> None:
    snapshot = hub.resolve(MODEL, selection=Selection(exclude=("*.md",)))
    assert Snapshot.from_json(json.loads(json.dumps(snapshot.to_json()))) == snapshot


def test_resolve_asks_for_the_repo_only(
    server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library itself looks up which programs count as agents, once a day."""
    assert hub.endpoint == server.endpoint
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    hf_models_apart("plan", "org/tiny", HF_ENDPOINT=server.endpoint, AI_AGENT="test")
    asked = {entry.path.split("/")[2] for entry in server.log()}
    assert asked == {"models"}
