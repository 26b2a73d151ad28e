"""The Dockerfile of a plan and its context; no engine needed."""

import re
import sys
from pathlib import Path

import pytest

from downloader.engine.dockerfile import docker_dir, images_of, render, write_context
from downloader.engine.log import BuildLog
from downloader.engine.push import push_error
from downloader.errors import EngineError, InputError, IntegrityError, StorageError
from downloader.hub.repo import Repo, RepoFile, Snapshot
from downloader.library.docker import image_name
from downloader.plan import Plan, make_plan
from downloader.progress import NoProgress
from downloader.units import MIB
from tests.support.command import call

COMMIT = "c" * 40


@pytest.fixture
def plan() -> Plan:
    files = (
        RepoFile("config.json", 10, "a" * 40),
        RepoFile("model.safetensors", 5 * MIB, "b" * 40, sha256="b" * 64),
    )
    snapshot = Snapshot(Repo("model", "org/name"), "main", COMMIT, files)
    return make_plan(snapshot, layer_limit_bytes=2 * MIB)


def template() -> str:
    return (docker_dir() / "Dockerfile").read_text()


def test_one_copy_line_for_each_layer_then_programs_and_metadata(plan: Plan) -> None:
    _, image = render(template(), plan).split("FROM base\n")
    lines = [line for line in image.splitlines() if line.startswith("COPY --from")]
    names = [*(f"{number:03d}" for number in range(len(plan.layers))), "programs", "metadata"]
    assert lines == [f"COPY --from=builder /layers/{name}/ /" for name in names]


@pytest.mark.parametrize(
    ("base", "image"), [("none", "scratch"), ("r.example/alpine:3", "r.example/alpine:3")]
)
def test_base_replaces_its_line(plan: Plan, base: str, image: str) -> None:
    assert render(template(), plan, base).count(f"FROM {image} AS base\n") == 1


@pytest.mark.parametrize("base", ["busybox:stable-musl", "alpine:3", "none"])
def test_every_image_of_the_build_is_named_by_the_digest_it_was_resolved_to(
    plan: Plan, base: str
) -> None:
    pins = {name: f"{name}@sha256:{'d' * 64}" for name in images_of(base)}
    text = render(template(), plan, base, pins)
    external = re.findall(r"^FROM (\S+:\S+) AS", text, re.MULTILINE)
    assert external
    assert set(external) <= set(pins.values())


def test_changed_template_is_an_error(plan: Plan) -> None:
    with pytest.raises(StorageError, match="want the line 'COPY --from=builder /layers/all/ /'"):
        render(template().replace("/layers/all/", "/layers/"), plan)


def test_context_has_all_that_the_builder_runs(plan: Plan, tmp_path: Path) -> None:
    write_context(tmp_path, plan)
    command = (sys.executable, "-m", "downloader", "stage", "--help")
    assert "--downloads" in call(*command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docker", "downloader", "plan.json"]


def failure(log: str) -> Exception:
    found = BuildLog(NoProgress())
    for line in log.splitlines():
        found.feed(line)
    return found.failure()


def test_builders_own_error_is_the_error() -> None:
    error = failure(
        "#12 [builder 8/8] RUN python -m downloader stage\n"
        "#12 3.456 error: model.bin: want oid aa, got bb\n"
        "#12 3.457 hint: run it again\n"
        '#12 ERROR: process "/bin/sh -c x" did not complete successfully: exit code: 6\n'
        'ERROR: failed to solve: process "/bin/sh -c x" did not complete successfully: exit code: 6'
    )
    assert isinstance(error, IntegrityError)
    assert (error.message, error.hint) == ("model.bin: want oid aa, got bb", "run it again")


def test_full_disk_of_the_engine() -> None:
    error = failure("ERROR: failed to solve: write /x: no space left on device")
    assert isinstance(error, StorageError)
    assert "docker system prune" in str(error.hint)


def test_other_failures_are_the_engines() -> None:
    error = failure("ERROR: failed to solve: frontend grpc server closed unexpectedly")
    assert isinstance(error, EngineError)
    assert "grpc server closed" in error.message


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("denied: requested access to the resource is denied", 3),
        ("unauthorized: authentication required", 3),
        ("received unexpected HTTP status: 502 Bad Gateway", 3),
        ("toomanyrequests: You have reached your rate limit", 3),
        ('Put "https://r.example/v2/": read: connection reset by peer', 4),
        ("dial tcp: lookup r.example: no such host", 4),
        ("the engine fell over", 8),
    ],
)
def test_docker_push_errors_map_to_exit_codes(said: str, code: int) -> None:
    assert push_error("r.example/a:b", said).exit_code == code


def test_image_name_with_a_tag_is_refused() -> None:
    with pytest.raises(InputError, match="want an image name without tag"):
        image_name("me/models:x", "y")
