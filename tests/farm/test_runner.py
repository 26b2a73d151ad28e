"""Where a job publishes to, who it logs in as, which engine it takes, and what its page says."""

from __future__ import annotations

import base64
import json
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from downloader.cli.github import write_outputs
from downloader.errors import InputError, RegistryError
from downloader.farm.action import parse_action_inputs
from downloader.farm.destinations import choose_destinations, named_images, read_logins
from downloader.farm.jobs import MAX_SHARDS, Job, choose_engine, shard_count
from downloader.farm.models import parse_models
from downloader.farm.steps import PlannedJob
from downloader.farm.summary import (
    image_summary,
    plan_summary,
    shard_summary,
    table,
    verify_commands,
)
from downloader.hub.repo import RepoFile, Snapshot, parse_repo
from downloader.plan import Plan, make_plan
from downloader.publish import Outcome, Shard
from tests.support.faults import Asked, Reply, always
from tests.support.runner_job import MODELS, JobRun, job_of
from tests.support.small_registry import SmallRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = parse_models(MODELS, owner="me").find("tiny")
PASSWORD = "canary-password"
GITHUB = {"GITHUB_ACTOR": "Me", "GITHUB_TOKEN": "canary-github"}
DOCKERHUB = {"DOCKERHUB_USERNAME": "Me", "DOCKERHUB_TOKEN": PASSWORD}
ALIYUN = {
    "ALIYUN_REGISTRY": "registry.cn-hangzhou.aliyuncs.com",
    "ALIYUN_NAME_SPACE": "Mirror",
    "ALIYUN_REGISTRY_USER": "me@example.com",
    "ALIYUN_REGISTRY_PASSWORD": PASSWORD,
}
OTHER = {
    "OTHER_REGISTRY": "quay.io",
    "OTHER_IMAGE_NAME": "me/models",
    "OTHER_REGISTRY_USER": "me",
    "OTHER_REGISTRY_PASSWORD": PASSWORD,
}
ACTION_INPUTS = {"repo-id": "org/Tiny", "allow-gated": "false"}
EVERY = {**GITHUB, **DOCKERHUB, **ALIYUN, **OTHER}


def test_ghcr_needs_no_set_up() -> None:
    (login,) = read_logins(GITHUB)
    assert (login.registry, login.username) == ("ghcr.io", "Me")
    assert named_images(GITHUB) == []


def test_every_registry_takes_part_when_its_secrets_exist() -> None:
    hosts = ["ghcr.io", "docker.io", "registry.cn-hangzhou.aliyuncs.com", "quay.io"]
    assert [login.registry for login in read_logins(EVERY)] == hosts
    assert named_images(EVERY) == [
        "docker.io/me/hf-models",
        "registry.cn-hangzhou.aliyuncs.com/mirror/hf-models",
        "quay.io/me/models",
    ]


@pytest.mark.parametrize("missing", [*DOCKERHUB, *ALIYUN])
def test_incomplete_settings_of_a_registry_are_ignored(missing: str) -> None:
    found = {**EVERY, missing: ""}
    lost = "docker.io" if missing in DOCKERHUB else "aliyuncs.com"
    assert not [name for name in named_images(found) if lost in name]


def test_a_password_is_in_no_text() -> None:
    assert PASSWORD not in repr(read_logins(EVERY))


def test_an_entrys_own_name_at_a_registry_wins_over_the_secrets() -> None:
    found = choose_destinations(
        ["docker.io/company/models"], ["docker.io", "quay.io"], named_images(EVERY)
    )
    assert found.images == ("docker.io/company/models", "quay.io/me/models")


def test_a_form_publishes_to_exactly_its_registries() -> None:
    found = choose_destinations(
        ["quay.io/me/x"], ["ghcr.io", "quay.io"], named_images(EVERY), is_exact=True
    )
    assert found.images == ("quay.io/me/x",)


def test_the_action_needs_a_repo_id_alone() -> None:
    found = parse_action_inputs(ACTION_INPUTS, GITHUB | {"GITHUB_REPOSITORY_OWNER": "Me"})
    model = found.job.model
    assert (model.tag, model.registries) == ("tiny", ("ghcr.io/me/hf-models",))
    assert [(item.registry, item.username) for item in found.logins] == [("ghcr.io", "Me")]


@pytest.mark.parametrize(
    ("to", "users"),
    [
        ("quay.io/me/x", {"quay.io": "robot"}),
        ("ghcr.io/me/x quay.io/me/x", {"ghcr.io": "Me", "quay.io": "robot"}),
        ("ghcr.io/me/x", {"ghcr.io": "robot"}),
    ],
)
def test_the_actions_user_is_for_the_registry_that_is_not_ghcr(
    to: str, users: dict[str, str]
) -> None:
    given = {"to": to, "username": "robot", "password": PASSWORD}
    found = parse_action_inputs(ACTION_INPUTS | given, GITHUB)
    assert {item.registry: item.username for item in found.logins} == users
    assert PASSWORD not in repr(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repo-id": ""}, "repo-id is missing"),
        ({"username": "me"}, "username and password need each other"),
        ({"to": "a.io/x/y b.io/x/y", "username": "me", "password": "x"}, "got a.io, b.io"),
        ({"allow-gated": "yes"}, "allow-gated: want true or false"),
        ({"compress": "gzip"}, "compress: want one of"),
        ({"registries": "x"}, "want only the inputs"),
    ],
)
def test_inputs_of_the_action_that_cannot_be_used(changes: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_action_inputs(ACTION_INPUTS | changes, GITHUB | {"GITHUB_REPOSITORY_OWNER": "me"})


@pytest.fixture
def door() -> Iterator[SmallRegistry]:
    """A registry that lets one user in."""
    known = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    def answer(asked: Asked) -> Reply:
        if asked.headers.get("Authorization") == known:
            return Reply()
        return Reply(401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    with SmallRegistry(None, always("login", "/v2/$", reply=answer)) as registry:
        yield registry


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: SmallRegistry) -> JobRun:
    """A job that publishes to ``door``, on a machine without a docker command."""
    monkeypatch.setenv("PATH", "")
    more = {
        "OTHER_REGISTRY": door.host,
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "JOB": job_of("tiny", registries=[f"{door.host}/me/models"]),
    }
    return JobRun(tmp_path, monkeypatch, OTHER | more)


def stored(job: JobRun) -> set[str]:
    """The registries that the docker command would find a password of."""
    return set(json.loads((job.directory / "docker/config.json").read_text())["auths"])


def test_login_is_stored_for_the_steps_that_follow(job: JobRun, door: SmallRegistry) -> None:
    assert job.run("login") == 0
    assert stored(job) == {door.host}
    assert job.read("GITHUB_ENV")["IMAGES"] == f"{door.host}/me/models"


def test_login_that_fails_says_why_without_the_password(
    job: JobRun, door: SmallRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    job.env["OTHER_REGISTRY_PASSWORD"] = "canary-wrong"
    assert job.run("login") == 3
    said = capsys.readouterr()
    assert door.host in said.err
    assert "canary-wrong" not in said.out + said.err
    assert not (job.directory / "docker/config.json").exists()


def test_login_without_any_destination_stops_the_job(
    job: JobRun, capsys: pytest.CaptureFixture[str]
) -> None:
    job.env |= {"OTHER_REGISTRY": "", "JOB": job_of("tiny")}
    assert job.run("login") == 2
    said = capsys.readouterr().err
    assert "ghcr.io/me/hf-models: left out, ghcr.io has no secrets" in said
    assert "no registry with credentials" in said


def test_login_without_a_job_is_for_all(job: JobRun, door: SmallRegistry) -> None:
    job.env["JOB"] = ""
    assert job.run("login") == 0
    assert job.read("GITHUB_ENV")["LOGGED_IN"] == door.host
    assert job.read("GITHUB_ENV")["NAMED_IMAGES"] == f"{door.host}/me/models"
    assert job.run("logout") == 0
    assert stored(job) == set()


GB = 10**9


@pytest.mark.parametrize(
    ("wish", "free", "engine", "why"),
    [
        ("auto", 99 * GB, "publish", "streaming is the default"),
        ("publish", 99 * GB, "publish", "publish was asked for"),
        ("docker", 99 * GB, "docker", "docker was asked for"),
        ("docker", 1 * GB, "docker", "needs 12.0 GB and 1.0 GB are free"),
        ("prefer-docker", 12 * GB, "docker", "docker is preferred and fits"),
        ("prefer-docker", 12 * GB - 1, "publish", "needs 12.0 GB and 12.0 GB are free"),
    ],
)
def test_the_engine_and_its_reason(wish: str, free: int, engine: str, why: str) -> None:
    choice = choose_engine(12 * GB, free, wish)  # type: ignore[arg-type]
    assert choice.engine == engine
    assert why in choice.reason


def plan_of(files: int, name: str = "") -> Plan:
    """A plan with a layer for each of so many files of 2 MB."""
    found = tuple(
        RepoFile(f"{i:03}{name}.bin", 2_000_000, f"{i:040x}", sha256=f"{i:064x}")
        for i in range(files)
    )
    snapshot = Snapshot(parse_repo("org/some"), "main", "1" * 40, found)
    return make_plan(snapshot, layer_limit_bytes=2_200_000)


@pytest.mark.parametrize(("shard_bytes", "count"), [(10**12, 1), (3_100_000, 4), (1, 6), (0, 6)])
def test_jobs_are_as_many_as_the_bytes_need_and_the_layers_allow(
    shard_bytes: int, count: int
) -> None:
    plan = plan_of(6)
    assert len(plan.layers) == 6
    assert shard_count(plan, shard_bytes) == count


def test_jobs_leave_room_for_those_of_others() -> None:
    assert shard_count(plan_of(40), 1) == MAX_SHARDS


EVIL = "<script>alert(1)</script> | `x` \n# y"
EVIL_SHOWN = "&#60;script&#62;alert(1)&#60;/script&#62; &#124; &#96;x&#96; &#92;n# y"


def test_a_summary_table_escapes_all_characters_of_names() -> None:
    rows = table(["path"], [[EVIL]]).splitlines()
    assert len(rows) == 3
    assert rows[2] == f"| {EVIL_SHOWN} |"


def test_the_summary_of_a_job_shows_moved_and_present_bytes_and_the_rate() -> None:
    plan = plan_of(2, EVIL)
    moved, reused = plan.layers[:1], plan.layers[1:]
    done = Outcome("ghcr.io/me/hf-models:tiny", None, moved, reused, (), None)
    denied = RegistryError("quay.io: denied")
    broken = Outcome("quay.io/me/x:tiny", None, (), (), (), denied)
    page = shard_summary(Shard(1, 2), plan, [done, broken], 0.02)
    size = f"{plan.layers[0].size_bytes:,}"
    assert f"| ghcr.io/me/hf-models:tiny | {size} | {size} | 100 | done |" in page
    assert "| quay.io: denied |" in page
    assert f"| {size} | moved | 000{EVIL_SHOWN}.bin |" in page
    assert "<script>" not in page


def test_the_summary_of_a_plan_shows_model_registries_and_reasons() -> None:
    plan = plan_of(2)
    job = Job(MODEL)
    images = ["ghcr.io/me/hf-models"]
    notes = ["docker.io: left out", "quay.io: left out"]
    page = plan_summary(job, PlannedJob(plan, 1), "because", images, notes)
    assert "### org/some → tiny" in page
    assert "`ghcr.io/me/hf-models:tiny`" in page
    assert "Engine: because." in page
    assert "\n\n- docker.io: left out\n- quay.io: left out\n\n" in page
    assert "2 files, 4.0 MB, license unknown." in page
    assert f"| 1/1 | 2 | {plan.size_bytes:,} |" in page
    assert f"| 1 | {plan.layers[0].size_bytes:,} | 000.bin |" in page
    assert "<summary>4 layers</summary>" in page


def test_the_page_of_an_image_has_commands_to_copy() -> None:
    images = ["ghcr.io/me/hf-models", "quay.io/me/x"]
    signed = f"{images[0]}@sha256:{'0' * 64}"
    page = image_summary(MODEL, images, signed, "me/hf-models")
    assert f"org/tiny, `sha256:{'0' * 64}`" in page
    assert "hf-models restore ghcr.io/me/hf-models:tiny" in page
    assert "docker pull quay.io/me/x:tiny" in page
    assert "docker run --rm -v ~/.cache/huggingface:/export" in page
    assert "cosign verify-attestation" in page
    assert f"oci://{signed} " in page
    assert "docs/install.md" in page
    assert "A new package on GHCR is private" in page


def test_the_page_of_an_image_without_a_base_has_no_command_that_runs_it() -> None:
    page = image_summary(MODEL, ["quay.io/me/x"], "quay.io/me/x@sha256:0", "me/y", is_bare=True)
    assert "hf-models restore quay.io/me/x:tiny" in page
    assert "docker run" not in page
    assert "GHCR" not in page


def test_signatures_of_other_repositories_are_refused() -> None:
    cosign, gh = verify_commands("ghcr.io/me/x@sha256:0", "me/hf.models")
    words = shlex.split(cosign)
    pattern = words[words.index("--certificate-identity-regexp") + 1]
    signer = "https://github.com/me/hf.models/.github/workflows/model.yml@refs/heads/main"
    assert re.search(pattern, signer)
    assert not re.search(pattern, signer.replace("hf.models", "hfxmodels"))
    assert not re.search(pattern, f"https://evil.example/{signer}")
    assert gh == "gh attestation verify oci://ghcr.io/me/x@sha256:0 --repo me/hf.models"


def test_outputs_outside_of_a_job_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    with pytest.raises(InputError, match=r"\$GITHUB_OUTPUT is not set"):
        write_outputs({"a": "b"})
