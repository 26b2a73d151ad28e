"""What is published, from manifests: list, catalog.json, the page's source, the READMEs."""

from __future__ import annotations

import json
import os
import threading
import uuid
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from downloader.errors import ProtocolError
from downloader.farm.catalog.catalog import Catalog, Entry
from downloader.farm.catalog.commands import commands_of
from downloader.farm.catalog.page import render_feed, render_page, words
from downloader.farm.catalog.published import read_published
from downloader.farm.catalog.readme import BEGIN, END
from downloader.farm.check import check_image
from downloader.farm.models import parse_models
from downloader.net.http import HttpPool
from downloader.oci.layout import Layout
from downloader.oci.manifest import INDEX, MANIFEST, Index
from downloader.oci.reference import parse_reference
from downloader.oci.registry_write import WritableRegistry
from tests.support.catalog_images import LAYERS, make_image_plan, partial, put_image
from tests.support.command import ROOT, Ran, hf_models, hf_models_apart
from tests.support.fake_hub import HubServer, make_repo, tiny_repo

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = "2026-01-02T03:04:05Z"
SCHEMA = json.loads(files("downloader.farm.catalog").joinpath("catalog.schema.json").read_text())


def check_schema(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


# --- one tag ------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [True, False], ids=["index", "manifest"])
@pytest.mark.parametrize("annotated", [True, False], ids=["annotations", "labels"])
def test_a_published_tag_is_described_by_its_labels(
    tmp_path: Path, indexed: bool, annotated: bool
) -> None:
    store = Layout(tmp_path / "layout")
    digest = put_image(store, "tiny", partial(), indexed=indexed, annotated=annotated)
    found = read_published(store, "tiny")
    assert found is not None
    assert found.labels is not None
    assert (found.tag, found.digest) == ("tiny", digest)
    assert (found.labels.repo.id, found.labels.commit) == ("org/tiny", "a" * 40)
    assert (found.labels.is_partial, found.labels.gated) == (True, True)
    assert (found.files, found.size_bytes) == (2, 12345)
    assert (found.layers, found.layer_bytes) == (2, sum(map(len, LAYERS)))
    assert (found.license, found.committed_at) == ("Apache-2.0", "2024-05-06T07:08:09Z")
    assert (found.description, found.task) == ("A small model.", "text-generation")
    assert (found.parameters, found.library) == (1_543_714_304, "transformers")


def test_a_foreign_image_has_layers_only(tmp_path: Path) -> None:
    store = Layout(tmp_path / "layout")
    put_image(store, "theirs", None)
    found = read_published(store, "theirs")
    assert found is not None
    assert (found.labels, found.license, found.files, found.layers) == (None, None, None, 2)


@pytest.mark.parametrize("annotated", [True, False], ids=["annotations", "labels"])
@pytest.mark.parametrize("has_base", [True, False], ids=["base", "bare"])
def test_only_an_image_with_a_base_is_offered_to_docker_run(
    tmp_path: Path, has_base: bool, annotated: bool
) -> None:
    store = Layout(tmp_path / "layout")
    put_image(store, "tiny", make_image_plan(), has_base=has_base, annotated=annotated)
    found = read_published(store, "tiny")
    assert found is not None
    assert found.has_base == check_image(store, "tiny").has_base == has_base
    entries = tuple(Entry(model, found) for model in parse_models(ONE))
    [model] = Catalog(entries, ("me/x",), NOW).to_json()["models"]
    assert ("export" in commands_of(model)) == has_base


def test_a_tag_that_is_not_there(tmp_path: Path) -> None:
    assert read_published(Layout(tmp_path / "layout"), "none") is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"files": "many"}, "label files: want a number, got 'many'"),
        ({"bytes": "-1"}, "label bytes: want a number, got '-1'"),
        ({"created": "<script>"}, "label created: want a date"),
        ({"commit": "main"}, "label commit: want 40 hex digits"),
        ({"repo-id": "../x"}, "label repo-id"),
        (
            {"hf-models.description": "two\nlines"},
            "label description: want one line of at most 200",
        ),
        ({"hf-models.description": "x" * 201}, "label description: want one line of at most 200"),
        ({"task": "<b>"}, "label task: want the Hub's name of a task, got '<b>'"),
        ({"parameters": "1.5B"}, "label parameters: want a number, got '1.5B'"),
        ({"library": "a b"}, "label library: want the Hub's name of a library, got 'a b'"),
    ],
)
def test_an_annotation_that_cannot_be(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    store = Layout(tmp_path / "layout")
    put_image(store, "tiny", make_image_plan(), changed=changed)
    with pytest.raises(ProtocolError, match=said):
        read_published(store, "tiny")


def test_an_index_without_an_image(tmp_path: Path) -> None:
    store = Layout(tmp_path / "layout")
    store.put_manifest("empty", Index(()).to_bytes(), INDEX)
    with pytest.raises(ProtocolError, match="the index names no image"):
        read_published(store, "empty")


def test_a_config_that_is_too_large_to_be_one(tmp_path: Path) -> None:
    class Huge(Layout):
        def get_manifest(self, reference: str) -> Any:
            raw = super().get_manifest(reference)
            assert raw is not None
            size = raw.data.replace(b'"size":26', b'"size":99999999')
            return type(raw)(size, raw.media_type, raw.digest)

    store = Huge(tmp_path / "layout")
    put_image(store, "huge", None, indexed=False)
    with pytest.raises(ProtocolError, match="want at most"):
        read_published(store, "huge")


# --- a real registry ----------------------------------------------------------------------


@pytest.fixture
def name() -> str:
    return f"{os.environ['HF_TEST_REGISTRY']}/catalog/{uuid.uuid4().hex}"


@pytest.fixture
def store(name: str) -> Iterator[WritableRegistry]:
    with closing(HttpPool()) as pool:
        yield WritableRegistry(parse_reference(name), pool)


def models_file(directory: Path, *registries: str, tags: tuple[str, ...] = ("tiny",)) -> Path:
    path = directory / "models.toml"
    text = f"[defaults]\nregistries = {json.dumps(registries)}\n"
    for tag in tags:
        text += f'[[model]]\ntag = "{tag}"\nrepo = "org/{tag}"\n'
    path.write_text(text)
    return path


def read_site(directory: Path) -> tuple[dict[str, Any], str]:
    document = json.loads((directory / "catalog.json").read_text())
    check_schema(document)
    return document, (directory / "index.html").read_text()


@pytest.mark.docker
def test_list_prints_every_image(store: WritableRegistry, name: str) -> None:
    put_image(store, "tiny", make_image_plan())
    put_image(store, "part", partial(), annotated=False)
    put_image(store, "theirs", None)
    put_image(store, "tiny.shard-1-of-2", make_image_plan())
    put_image(store, f"sha256-{'0' * 64}.sig", None)
    code, out, err = hf_models("list", name)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{name}: 3 images"
    assert [line.split()[0] for line in lines[2:]] == ["part", "theirs", "tiny"]
    assert lines[4].split() == [
        *("tiny", "org/tiny", "aaaaaaa", "Apache-2.0", "12.3", "kB", "2", "2", "2024-05-06"),
    ]
    assert lines[2].endswith("partial, gated")
    theirs = lines[3].split()
    assert theirs[:4] == ["theirs", *(3 * ["unknown"])]  # as `inspect` says it
    assert (theirs[6], theirs[8:]) == ("unknown", ["unknown"])


def publish(hub: HubServer, name: str, *more: str) -> None:
    arguments = ("org/tiny", "--to", name, "--base", "none", "--quiet", *more)
    hf_models_apart("publish", *arguments, HF_ENDPOINT=hub.endpoint)


@pytest.mark.docker
def test_list_after_a_real_publication(name: str) -> None:
    repo = tiny_repo()
    with HubServer([repo]) as hub:
        publish(hub, name, "--shard", "1/2")
        assert hf_models("list", name)[0] == 2  # a shard is no image
        publish(hub, name)
    _, out, _ = hf_models("list", name, "--json")
    (image,) = json.loads(out)["images"]
    assert (image["tag"], image["repo_id"], image["commit"]) == ("tiny", "org/tiny", repo.sha)
    assert (image["files"], image["size_bytes"]) == (
        4,
        sum(f.size_bytes for f in repo.files().values()),
    )


@pytest.mark.docker
def test_list_as_json(store: WritableRegistry, name: str) -> None:
    digest = put_image(store, "tiny", make_image_plan())
    _, out, _ = hf_models("list", name, "--json")
    (image,) = json.loads(out)["images"]
    assert image == {
        "tag": "tiny",
        "digest": digest,
        "repo_id": "org/tiny",
        "repo_type": "model",
        "revision": "main",
        "commit": "a" * 40,
        "committed_at": "2024-05-06T07:08:09Z",
        "license": "Apache-2.0",
        "files": 2,
        "size_bytes": 12345,
        "layers": 2,
        "layer_bytes": sum(map(len, LAYERS)),
        "partial": False,
        "gated": False,
        "private": False,
    }


@pytest.mark.docker
def test_list_leaves_out_malformed_tags_and_reports_them(
    store: WritableRegistry, name: str
) -> None:
    put_image(store, "bad", make_image_plan(), changed={"files": "x"})
    put_image(store, "good", make_image_plan())
    code, out, err = hf_models("list", name)
    assert code == 0
    assert "good" in out
    assert err == "bad: left out: label files: want a number, got 'x'\n"


@pytest.mark.docker
def test_list_of_a_repository_without_images(name: str) -> None:
    code, out, err = hf_models("list", name)
    assert (code, out) == (2, "")
    assert f"{name} has no image" in err


@pytest.mark.docker
def test_catalog_writes_page_and_json(store: WritableRegistry, name: str, tmp_path: Path) -> None:
    put_image(store, "tiny", make_image_plan())
    path = models_file(tmp_path, name, tags=("tiny", "later"))
    site = tmp_path / "site"
    code, out, err = hf_models("catalog", "--file", str(path), "--output", str(site))
    assert (code, out, err) == (0, f"{site}/index.html: 2 models, 1 published\n", "")
    document, page = read_site(site)
    tiny, later = document["models"]
    assert tiny["published"]
    assert tiny["registries"] == [name]
    assert (tiny["size_bytes"], tiny["files"], tiny["layers"]) == (12345, 2, 2)
    assert (tiny["description"], tiny["task"]) == ("A small model.", "text-generation")
    assert "1.5B" in page
    assert f"{name}@{tiny['digest']}" in page
    assert tiny["behind"] is None
    assert (later["published"], later["digest"], later["registries"]) == (False, None, [])
    assert f"hf-models restore {name}:tiny" in page
    assert f"hf-models restore {name}:later" not in page


@pytest.mark.docker
def test_catalog_of_an_annotation_that_is_no_text(
    store: WritableRegistry, name: str, tmp_path: Path
) -> None:
    put_image(store, "tiny", make_image_plan(license="MIT"), indexed=False)
    raw = store.get_manifest("tiny")
    assert raw
    store.put_manifest("tiny", raw.data.replace(b'"MIT"', rb'"\ud800"'), MANIFEST)
    path = models_file(tmp_path, name, tags=("tiny",))
    assert hf_models("catalog", "--file", str(path), "--output", str(tmp_path)).code == 0
    assert read_site(tmp_path)[0]["models"][0]["license"] == "?"


@pytest.mark.docker
def test_the_last_catalog_says_since_when_a_digest_is_published(
    store: WritableRegistry, name: str, tmp_path: Path
) -> None:
    put_image(store, "same", make_image_plan("org/same"))
    put_image(store, "moved", make_image_plan("org/moved"))
    path = models_file(tmp_path, name, tags=("same", "moved", "new", "never"))
    arguments = ("catalog", "--file", str(path), "--output", str(tmp_path))
    hf_models(*arguments)
    first, _ = read_site(tmp_path)
    assert [model["published_at"] for model in first["models"]] == [None] * 4
    first["models"][0]["published_at"] = NOW
    (tmp_path / "catalog.json").write_text(json.dumps(first))
    put_image(store, "moved", make_image_plan("org/moved", commit="b" * 40))
    put_image(store, "new", make_image_plan("org/new"))
    hf_models(*arguments)
    second, _ = read_site(tmp_path)
    now = second["generated_at"]
    assert [model["published_at"] for model in second["models"]] == [NOW, now, now, None]


@pytest.mark.docker
@pytest.mark.parametrize("last", ["<html>", '{"format_version": 2}', '{"format_version": 1}'])
def test_a_last_catalog_that_is_none_costs_only_the_dates(
    store: WritableRegistry,
    name: str,
    tmp_path: Path,
    last: str,
) -> None:
    put_image(store, "tiny", make_image_plan())
    (tmp_path / "catalog.json").write_text(last)
    path = models_file(tmp_path, name)
    code, _, err = hf_models("catalog", "--file", str(path), "--output", str(tmp_path))
    assert code == 0
    assert "no dates of publication: " in err
    assert read_site(tmp_path)[0]["models"][0]["published_at"] is None


@pytest.mark.docker
def test_catalog_says_which_registries_have_it(
    store: WritableRegistry, name: str, tmp_path: Path
) -> None:
    put_image(store, "tiny", make_image_plan())
    path = models_file(tmp_path, f"{name}-empty", name)
    hf_models("catalog", "--file", str(path), "--output", str(tmp_path))
    document, _ = read_site(tmp_path)
    assert document["registries"] == [f"{name}-empty", name]
    assert document["models"][0]["registries"] == [name]


@pytest.mark.docker
def test_catalog_asks_the_hub_which_tags_are_behind(
    store: WritableRegistry, name: str, tmp_path: Path
) -> None:
    current, moved = tiny_repo("org/current"), make_repo("org/moved", {"config.json": b"{}"})
    put_image(store, "current", make_image_plan("org/current", commit=current.sha))
    put_image(store, "moved", make_image_plan("org/moved"))
    put_image(store, "gone", make_image_plan("org/gone"))
    path = models_file(tmp_path, name, tags=("current", "moved", "gone"))
    arguments = ("--file", str(path), "--output", str(tmp_path), "--check-hub")
    with HubServer([current, moved]) as hub:
        # A process of its own: huggingface_hub reads HF_ENDPOINT when it is imported.
        done = hf_models_apart("catalog", *arguments, HF_ENDPOINT=hub.endpoint)
    assert done.err == "model org/gone: not found, or private and the token has no access\n"
    document, page = read_site(tmp_path)
    assert [model["behind"] for model in document["models"]] == [False, True, None]
    assert "Behind the Hub</span>" in page


@pytest.mark.docker
def test_catalog_does_not_offer_another_repo_under_the_tag(
    store: WritableRegistry, name: str, tmp_path: Path
) -> None:
    put_image(store, "tiny", make_image_plan("org/other"))
    path = models_file(tmp_path, name)
    code, _, err = hf_models("catalog", "--file", str(path), "--output", str(tmp_path))
    assert code == 0
    assert err == f"{name}:tiny: want model org/tiny, got an image of model org/other\n"
    document, _ = read_site(tmp_path)
    assert not document["models"][0]["published"]


# --- registries that do not answer --------------------------------------------------------


@contextmanager
def refusing_registry(status: int) -> Iterator[str]:
    """Serve a registry on loopback that answers everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815  # the standard library's name

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}/me/models"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_registry_that_does_not_know_the_repository(tmp_path: Path, status: int) -> None:
    with refusing_registry(status) as name:
        path = models_file(tmp_path, name)
        arguments = ("catalog", "--file", str(path), "--output", str(tmp_path), "--tries", "1")
        code, out, _ = hf_models(*arguments)
    assert (code, out) == (0, f"{tmp_path}/index.html: 1 model, 0 published\n")
    assert not read_site(tmp_path)[0]["models"][0]["published"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_registry_that_cannot_say_makes_no_page(tmp_path: Path, status: int) -> None:
    with refusing_registry(status) as name:
        path = models_file(tmp_path, name)
        arguments = ("catalog", "--file", str(path), "--output", str(tmp_path), "--tries", "1")
        code, _, err = hf_models(*arguments)
    assert code == 3
    assert str(status) in err
    assert not (tmp_path / "index.html").exists()


def test_a_registry_that_is_not_there_makes_no_page(tmp_path: Path) -> None:
    path = models_file(tmp_path, "127.0.0.1:1/me/models")
    arguments = ("catalog", "--file", str(path), "--output", str(tmp_path), "--tries", "1")
    code, _, err = hf_models(*arguments)
    assert code == 4
    assert "127.0.0.1" in err
    assert not (tmp_path / "index.html").exists()


# --- the page's source --------------------------------------------------------------------

HOSTILE = "</script><script>alert(1)</script><!-- & \"'"


def page_of(text: str, published: dict[str, Any] | None = None) -> str:
    models = parse_models(text)
    entries = tuple(Entry(model) for model in models)
    document = Catalog(entries, models.registries, NOW).to_json()
    if published:
        document["models"][0] |= {"published": True, "registries": ["me/x"]} | published
    return render_page(document)


ONE = '[[model]]\ntag = "tiny"\nrepo = "org/tiny"\nregistries = ["me/x"]\n'


class Elements(HTMLParser):
    """Counts scripts and reads the data block, as a browser would."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][1].get("id") == "data":
            self.data += data


def test_no_text_of_a_registry_becomes_markup() -> None:
    told = dict.fromkeys(("license", "description", "task", "library"), HOSTILE)
    page = page_of(ONE, {**told, "commit": "a" * 40, "committed_at": NOW})
    elements = Elements(page)
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert json.loads(elements.data)["catalog"]["models"][0]["license"] == HOSTILE
    assert "alert(1)</script>" not in page


def test_the_feed_has_the_newest_first_and_no_text_becomes_markup() -> None:
    document = Catalog(tuple(map(Entry, parse_models(ONE))), ("me/x",), NOW).to_json()
    (model,) = document["models"]
    told = {"published": True, "registries": ["me/x"], "commit": "a" * 40, "description": HOSTILE}
    old = model | told | {"tag": "old", "digest": f"sha256:{'1' * 64}", "committed_at": NOW}
    later = {"digest": f"sha256:{'2' * 64}", "published_at": "2026-02-03T04:05:06+01:00"}
    document["models"] = [old, model, old | later | {"tag": "new"}]
    feed = ET.fromstring(render_feed(document))
    atom = "{http://www.w3.org/2005/Atom}"
    assert feed.findtext(f"{atom}updated") == later["published_at"]
    entries = feed.findall(f"{atom}entry")
    titles = [entry.findtext(f"{atom}title") for entry in entries]
    assert titles == [f"{tag}: {model['repo_id']}" for tag in ("new", "old")]
    assert str(entries[0].findtext(f"{atom}summary")).startswith(HOSTILE)


def test_the_page_refers_to_no_external_file() -> None:
    elements = Elements(page_of(ONE))
    for tag, attributes in elements.found:
        assert tag not in {"iframe", "img", "object", "embed", "form", "base"}
        assert "src" not in attributes
        assert not [key for key in attributes if key.startswith("on") or key == "style"]
        if tag == "link":
            # A feed is named for readers; no browser fetches it on its own.
            is_feed = (attributes["rel"], attributes["href"]) == ("alternate", "atom.xml")
            assert is_feed or (attributes["href"] or "").startswith("data:")


def test_both_languages_have_every_text() -> None:
    found = words()
    assert found["en"].keys() == found["zh"].keys()
    assert all(text for language in found.values() for text in language.values())


def test_the_page_leads_to_the_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "forker/hf-models")
    with refusing_registry(404) as name:
        path = models_file(tmp_path, name)
        hf_models("catalog", "--file", str(path), "--output", str(tmp_path))
    assert 'href="https://github.com/forker/hf-models"' in (tmp_path / "index.html").read_text()


# --- the READMEs --------------------------------------------------------------------------


@pytest.fixture
def readmes(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "README.md", tmp_path / "README.zh-CN.md"]
    for path in paths:
        path.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    return paths


def write(models: Path, paths: list[Path], *more: str) -> Ran:
    names = [str(path) for path in paths]
    return hf_models("catalog", "--file", str(models), "--readme", *names, *more)


def test_the_table_in_both_readmes(tmp_path: Path, readmes: list[Path]) -> None:
    models = tmp_path / "models.toml"
    models.write_text(
        ONE + '[[model]]\ntag = "d"\nrepo = "org/d"\ntype = "dataset"\nregistries = ["me/x"]\n'
        'include = ["*.json", "a|b"]\n'
    )
    assert write(models, readmes)[:2] == (0, "0 up to date, 2 written\n")
    english, chinese = (path.read_text() for path in readmes)
    assert english == (
        f"# Before\n\n{BEGIN}\n\n"
        "| Tag | Model |\n| --- | --- |\n"
        "| `tiny` | [org/tiny](https://huggingface.co/org/tiny) |\n"
        "| `d` | [org/d](https://huggingface.co/datasets/org/d) (dataset, `+*.json` `+a\\|b`) |\n"
        f"\n{END}\n\nAfter\n"
    )
    assert "| 标签 | 模型 |" in chinese
    assert "(数据集, " in chinese


def test_the_table_with_license_and_size(tmp_path: Path, readmes: list[Path]) -> None:
    models = tmp_path / "models.toml"
    models.write_text(ONE)
    facts = tmp_path / "catalog.json"
    known = {"tag": "tiny", "license": "Apache-2.0", "size_bytes": 242_000_000}
    facts.write_text(json.dumps({"format_version": 1, "models": [known]}))
    assert write(models, readmes, "--facts", str(facts))[0] == 0
    row = "| `tiny` | [org/tiny](https://huggingface.co/org/tiny) | Apache-2.0 | 242 MB |\n"
    assert row in readmes[0].read_text()


def test_check_fails_until_it_is_written(tmp_path: Path, readmes: list[Path]) -> None:
    models = tmp_path / "models.toml"
    models.write_text(ONE)
    code, _, err = write(models, readmes, "--check")
    assert code == 2
    assert f"the models in {readmes[0]}, {readmes[1]} are out of date" in err
    assert f"hint: run: nox -s catalog -- --readme {readmes[0]} {readmes[1]}\n" in err
    assert "old" in readmes[0].read_text()
    assert write(models, readmes)[0] == 0
    assert write(models, readmes, "--check")[0] == 0
    models.write_text(ONE.replace("tiny", "other"))
    assert write(models, readmes[:1], "--check")[0] == 2


@pytest.mark.parametrize("text", ["nothing", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_readme_without_the_markers(tmp_path: Path, text: str) -> None:
    models, readme = tmp_path / "models.toml", tmp_path / "README.md"
    models.write_text(ONE)
    readme.write_text(text)
    code, _, err = write(models, [readme])
    assert code == 2
    assert f"in {readme}" in err
    assert readme.read_text() == text


def test_facts_of_another_format(tmp_path: Path, readmes: list[Path]) -> None:
    models, facts = tmp_path / "models.toml", tmp_path / "catalog.json"
    models.write_text(ONE)
    facts.write_text('{"format_version": 2, "models": []}')
    code, _, err = write(models, readmes, "--facts", str(facts))
    assert code == 2
    assert "want a catalog.json of format_version 1, got 2" in err


@pytest.mark.parametrize("arguments", [["--readme"], ["--check"], ["README.md"]])
def test_flags_that_do_not_fit_together(arguments: list[str]) -> None:
    models = str(ROOT / "models.toml")
    known = [str(ROOT / item) if item == "README.md" else item for item in arguments]
    code, _, err = hf_models("catalog", "--file", models, *known)
    assert code == 2
    assert "--readme needs names of READMEs" in err


def test_a_readme_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes(b"\xff\n")
    ran = hf_models("catalog", "--file", str(ROOT / "models.toml"), "--readme", str(readme), code=2)
    assert f"want text in UTF-8 in {readme}" in ran.err
