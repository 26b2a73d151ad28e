"""The step that brings in the published catalog.json, as pages.yml runs it."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from downloader.environment import read_environment
from downloader.errors import ServerError
from downloader.farm.catalog.site import fetch_catalog, site_url
from downloader.net.http import HttpPool
from downloader.oci.reference import parse_reference
from downloader.oci.registry_write import WritableRegistry
from tests.support.catalog_images import make_image_plan, put_image
from tests.support.runner_job import JobRun

PUBLISHED_AT = "2025-01-02T03:04:05Z"
Answers = dict[str, tuple[int, str]]  # path to status and body, or to status and Location


@pytest.fixture
def answers() -> Answers:
    return {}


@pytest.fixture
def site(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answers.get(self.path, (404, "not here"))
            body = b"" if 300 <= status < 400 else text.encode()
            self.send_response(status)
            if not body:
                self.send_header("Location", text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hf-models/"
        server.shutdown()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: str) -> JobRun:
    return JobRun(tmp_path, monkeypatch, {"CATALOG_URL": site})


@pytest.mark.docker
def test_dates_of_the_published_page_are_kept(job: JobRun, answers: Answers) -> None:
    name = f"{os.environ['HF_TEST_REGISTRY']}/site/{uuid.uuid4().hex}"
    with closing(HttpPool()) as pool:
        put_image(WritableRegistry(parse_reference(name), pool), "tiny", make_image_plan())
    entry = f'registries = ["{name}"]\n[[model]]\ntag = "tiny"\nrepo = "org/tiny"\n'
    (job.directory / "models.toml").write_text(f"[defaults]\n{entry}")
    written = job.directory / "dist/site/catalog.json"

    def run_steps() -> str | None:
        assert job.run("site") == 0
        assert job.call("catalog") == 0
        (model,) = json.loads(written.read_text())["models"]
        date: str | None = model["published_at"]
        return date

    assert run_steps() is None
    document = json.loads(written.read_text())
    document["models"][0]["published_at"] = PUBLISHED_AT
    answers["/hf-models/catalog.json"] = (200, json.dumps(document))
    written.unlink()  # the next run is on another machine
    assert run_steps() == PUBLISHED_AT


def test_a_page_that_has_none_yet_is_no_failure(
    job: JobRun, site: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.run("site") == 0
    assert f"{site} has no catalog.json yet" in capsys.readouterr().err
    assert not (job.directory / "dist").exists()


def test_a_page_that_moved_to_its_own_domain(job: JobRun, answers: Answers) -> None:
    answers["/hf-models/catalog.json"] = (301, "/elsewhere/catalog.json")
    answers["/elsewhere/catalog.json"] = (200, "{}")
    assert job.run("site") == 0
    assert (job.directory / "dist/site/catalog.json").read_text() == "{}"


def test_redirects_without_end(
    job: JobRun, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers["/hf-models/catalog.json"] = (301, "/hf-models/catalog.json")
    assert job.run("site") == 5
    assert "more than 4 redirects" in capsys.readouterr().err


def test_a_server_that_says_no_stops_the_run_before_the_dates_are_lost(
    job: JobRun, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers["/hf-models/catalog.json"] = (403, "no")
    assert job.run("site") == 3
    assert "want status 200 or 404, got 403" in capsys.readouterr().err


@pytest.mark.parametrize("is_short", [True, False], ids=["for a moment", "for long"])
def test_a_server_that_is_busy(site: str, answers: Answers, *, is_short: bool) -> None:
    answers["/hf-models/catalog.json"] = (503, "busy")
    waits: list[float] = []

    def pause(seconds: float) -> bool:
        waits.append(seconds)
        if is_short:
            answers["/hf-models/catalog.json"] = (200, "{}")
        return False

    with closing(HttpPool()) as pool:
        if is_short:
            assert fetch_catalog(pool, site, pause) == b"{}"
        else:
            with pytest.raises(ServerError, match="got 503"):
                fetch_catalog(pool, site, pause)
    assert len(waits) == (1 if is_short else 5)


GITHUB = "https://github.com"


@pytest.mark.parametrize(
    ("repository", "server", "given", "url"),
    [
        ("Me/hf-models", GITHUB, "", "https://me.github.io/hf-models/"),
        ("Me/me.github.io", GITHUB, "", "https://me.github.io/"),
        ("Me/hf-models", GITHUB, "https://models.example.com/", "https://models.example.com/"),
        ("Me/hf-models", "https://git.example.com", "", None),
    ],
)
def test_where_the_page_is(repository: str, server: str, given: str, url: str | None) -> None:
    variables = {"GITHUB_REPOSITORY": repository, "GITHUB_SERVER_URL": server, "CATALOG_URL": given}
    assert site_url(read_environment(variables)) == url


def test_no_address_is_no_failure(job: JobRun, capsys: pytest.CaptureFixture[str]) -> None:
    server = "https://git.example.com"
    variables = {"GITHUB_REPOSITORY": "me/hf-models", "GITHUB_SERVER_URL": server}
    assert job.run("site", CATALOG_URL="", **variables) == 0
    assert "CATALOG_URL" in capsys.readouterr().err
