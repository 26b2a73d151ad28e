"""The workflows: what they may do, that all they name exists, and that their steps run."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from nox.virtualenv import PassthroughEnv

from downloader.cli import run
from downloader.cli.farm import farm
from downloader.farm.action import INPUTS
from downloader.hub.repo import Selection
from tests.support.command import ROOT, call, program
from tests.support.fake_hub import (
    Commit,
    HubServer,
    HubSpec,
    Repo,
    make_files,
    make_repo,
    tiny_repo,
)
from tests.support.runner_job import MODELS, JobRun, job_of, read_values

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
ACTION = ROOT / "action.yml"
NAMES = [path.name for path in FILES]
PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*$")
WRITE = re.compile(r"^\s+[a-z-]+: (read|write)\b(?P<reason>.*)$")
MOVED = Repo(
    "model",
    "org/other",
    (Commit(make_files({"config.json": b"{}"})), Commit(make_files({"config.json": b"{ }"}))),
)
REPOS = (
    tiny_repo("org/gated", gated="manual", readers=("alice",)),
    MOVED,
    make_repo("org/tiny", {f"{i}.bin": bytes([i]) * 70_000 for i in range(40)}),
)
HUB = HubSpec(REPOS, users={"hf_alice": "alice"})
Yaml = dict[Any, Any]  # YAML 1.1 reads the key `on` as True


def load(path: Path) -> Yaml:
    return cast("Yaml", yaml.safe_load(path.read_text()))


def jobs_of(path: Path) -> dict[str, Yaml]:
    return cast("dict[str, Yaml]", load(path)["jobs"])


ALL_JOBS = [
    pytest.param(job, id=f"{path.name}:{name}")
    for path in FILES
    for name, job in jobs_of(path).items()
]
RUNS = [
    pytest.param(step["run"], job, id=f"{path.name}:{name}:{step['run']}")
    for path in FILES
    for name, job in jobs_of(path).items()
    for step in job.get("steps", [])
    if "run" in step
]


def test_all_are_here() -> None:
    assert [
        *("ci.yml", "model.yml", "pages.yml", "publish.yml", "refresh.yml"),
        *("release.yml", "reusable.yml"),
    ] == NAMES


@pytest.mark.parametrize("path", FILES, ids=NAMES)
class TestEveryWorkflow:
    def test_begins_without_any_permission(self, path: Path) -> None:
        assert load(path)["permissions"] == {}

    def test_says_why_it_needs_each_permission(self, path: Path) -> None:
        for line in path.read_text().splitlines():
            match = WRITE.match(line)
            assert match is None or re.match(r" # \w+", match["reason"]), line

    def test_pins_every_action_to_a_commit_and_says_its_version(self, path: Path) -> None:
        for line in path.read_text().splitlines():
            if "uses:" in line and not line.startswith("#"):
                used = line.strip().removeprefix("- ")
                assert used.startswith("uses: $/") or PINNED.fullmatch(used), line

    def test_pins_every_image_to_a_digest(self, path: Path) -> None:
        for job in jobs_of(path).values():
            for service in job.get("services", {}).values():
                assert re.search(r"@sha256:[0-9a-f]{64}$", service["image"])

    def test_does_not_cancel_a_push(self, path: Path) -> None:
        document = load(path)
        found = [document, *document["jobs"].values()]
        groups = [part["concurrency"] for part in found if "concurrency" in part]
        assert groups, "no concurrency"
        for group in groups:
            cancel = group["cancel-in-progress"]
            assert cancel is False or (path.name == "ci.yml" and "pull_request" in cancel)

    def test_keeps_every_run_that_waits_for_a_tag(self, path: Path) -> None:
        for job in jobs_of(path).values():
            if "matrix.tag" in job.get("concurrency", {}).get("group", ""):
                assert job["concurrency"]["queue"] == "max"

    def test_keeps_no_credentials_in_the_checkout(self, path: Path) -> None:
        for job in jobs_of(path).values():
            for step in job.get("steps", []):
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False

    def test_calls_workflows_that_exist(self, path: Path) -> None:
        for job in jobs_of(path).values():
            if "uses" in job:
                assert (ROOT / job["uses"].removeprefix("$/")).is_file()

    def test_passes_the_inputs_that_the_called_workflow_declares(self, path: Path) -> None:
        for job in jobs_of(path).values():
            if "uses" in job:
                called = load(ROOT / job["uses"].removeprefix("$/"))[True]["workflow_call"] or {}
                assert set(job.get("with", {})) == set(called.get("inputs", {}))
                assert set(job.get("secrets", {})) == set(called.get("secrets", {}))

    def test_grants_the_permissions_that_the_called_workflow_needs(self, path: Path) -> None:
        order = {"none": 0, "read": 1, "write": 2}
        for job in jobs_of(path).values():
            if "uses" in job:
                for inner in jobs_of(ROOT / job["uses"].removeprefix("$/")).values():
                    for name, level in inner.get("permissions", {}).items():
                        given = job["permissions"].get(name, "none")
                        assert order[given] >= order[level], name

    def test_needs_jobs_and_outputs_that_exist(self, path: Path) -> None:
        jobs = jobs_of(path)
        for name, job in jobs.items():
            needs = job.get("needs", [])
            needed = {needs} if isinstance(needs, str) else set(needs)
            assert needed <= set(jobs), name
            used = re.findall(r"needs\.(\w+)\.outputs\.(\w+)", json.dumps(job))
            for other, output in used:
                assert other in needed, f"{name} uses {other}"
                assert output in jobs[other]["outputs"], f"{name} uses {other}.{output}"

    def test_reads_outputs_of_steps_that_exist(self, path: Path) -> None:
        for job in jobs_of(path).values():
            ids = {step["id"] for step in job.get("steps", []) if "id" in step}
            assert set(re.findall(r"steps\.(\w+)\.outputs", json.dumps(job))) <= ids


@pytest.mark.parametrize("job", ALL_JOBS)
class TestEveryJob:
    def test_has_a_timeout_or_calls_a_workflow_that_has_one(self, job: Yaml) -> None:
        assert "uses" in job or 0 < job["timeout-minutes"] < 360

    def test_names_its_permissions(self, job: Yaml) -> None:
        assert "permissions" in job

    def test_gives_secrets_to_steps_only(self, job: Yaml) -> None:
        assert "secrets." not in json.dumps(job.get("env", {}))

    def test_logs_out_where_it_logged_in(self, job: Yaml) -> None:
        runs = [step.get("run", "") for step in job.get("steps", [])]
        if "make farm STEP=login" in runs:
            last = next(step for step in job["steps"] if "STEP=logout" in step.get("run", ""))
            assert last["if"] == "always()"


def nox_sessions() -> set[str]:
    text = (ROOT / "noxfile.py").read_text()
    named = set(re.findall(r'^command\("([a-z-]+)"', text, re.MULTILINE))
    return named | set(re.findall(r"^def ([a-z]+)\(session", text, re.MULTILINE))


def make_targets() -> dict[str, str]:
    """Each target of the Makefile and the session that it calls."""
    text = (ROOT / "Makefile").read_text()
    blocks = re.findall(r"^([a-z-]+):.*## .*\n((?:\t.*\n?)*)", text, re.MULTILINE)
    found = {name: re.search(r"\$\(NOX\) -s ([a-z-]+)", body) for name, body in blocks}
    return {name: match[1] for name, match in found.items() if match}


def pinned_nox() -> str:
    """The version of nox that the Makefile installs."""
    text = (ROOT / ".github/requirements.txt").read_text()
    found = re.search(r"^nox==\S+", text, re.MULTILINE)
    assert found
    return found[0]


@pytest.mark.parametrize(("command", "job"), RUNS)
def test_a_step_is_one_call_of_the_menu(command: str, job: Yaml) -> None:
    assert "${{" not in command
    assert "\n" not in command.strip()
    program, target, *variables = shlex.split(command)
    if program == "pipx":  # where there is no make
        assert command == (f'pipx run {pinned_nox()} -s tests -- -m "portable and not docker"')
        return
    assert program == "make"
    targets = [target]
    if target == "$TARGET":
        matrix = job["strategy"]["matrix"]
        targets = matrix["target"] + [more["target"] for more in matrix.get("include", [])]
    for name in targets:
        assert make_targets()[name] in nox_sessions()
    assert all(re.fullmatch(r"[A-Z]+=[a-z-]+", word) for word in variables)


def test_every_step_of_the_farm_exists() -> None:
    texts = [path.read_text() for path in (*FILES, ACTION)]
    used = {step for text in texts for step in re.findall(r"farm STEP=(\w+)", text)}
    assert used == set(farm.commands)


def test_the_action_declares_the_inputs_that_its_step_knows() -> None:
    assert set(load(ACTION)["inputs"]) == set(INPUTS)


def test_the_action_is_one_call_of_the_menu_and_pins_its_actions() -> None:
    steps = load(ACTION)["runs"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [
        'make -C "$GITHUB_ACTION_PATH" farm STEP=action'
    ]
    used = [line.strip() for line in ACTION.read_text().splitlines() if "uses:" in line]
    assert all(PINNED.fullmatch(line.removeprefix("- ")) for line in used)


def test_every_step_of_a_release_exists() -> None:
    text = (FOLDER / "release.yml").read_text()
    used = set(re.findall(r"release STEP=(\w+)", text))
    script = (ROOT / ".github/release.py").read_text()
    assert used == set(re.findall(r'case "(\w+)":', script))


def test_every_target_of_the_menu_calls_a_session_that_exists() -> None:
    assert set(make_targets().values()) <= nox_sessions()


def test_ci_runs_every_python_that_the_project_claims() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    matrix = jobs_of(FOLDER / "ci.yml")["test"]["strategy"]["matrix"]
    assert matrix["python"] == claimed


def test_the_gate_waits_for_every_job() -> None:
    jobs = jobs_of(FOLDER / "ci.yml")
    assert set(jobs["gate"]["needs"]) == set(jobs) - {"gate"}
    assert jobs["gate"]["if"] == "always()"


def test_the_page_shows_tags_behind_the_hub() -> None:
    runs = [step.get("run") for step in jobs_of(FOLDER / "pages.yml")["build"]["steps"]]
    assert "make catalog ARGS=--check-hub" in runs


def test_the_last_catalog_is_there_before_the_next_is_made() -> None:
    runs = [step.get("run") for step in jobs_of(FOLDER / "pages.yml")["build"]["steps"]]
    assert runs.index("make farm STEP=site") < runs.index("make catalog ARGS=--check-hub")


def test_a_model_that_fails_does_not_keep_the_others_off_the_page() -> None:
    catalog = jobs_of(FOLDER / "publish.yml")["catalog"]["if"]
    assert "!cancelled()" in catalog
    assert "needs.images.result" not in catalog
    for name in ("reusable.yml", "refresh.yml"):
        assert jobs_of(FOLDER / name)["model"]["strategy"]["fail-fast"] is False


def test_the_table_of_the_readmes_is_checked_here_and_not_in_a_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    lint = runpy.run_path("noxfile.py")["lint"].func
    for repository in ("someone/hf-models", "AlphaHinex/hf-models"):
        monkeypatch.setenv("GITHUB_REPOSITORY", repository)
        ran: list[tuple[str, ...]] = []
        run = cast("Any", lambda *words, ran=ran: ran.append(words))
        lint(SimpleNamespace(virtualenv=PassthroughEnv(), posargs=[], run=run))
        is_checked = any("--readme" in words for words in ran)
        assert is_checked == repository.startswith("AlphaHinex/")


def test_the_page_is_not_deployed_from_a_git_tag() -> None:
    assert "default_branch" in jobs_of(FOLDER / "publish.yml")["catalog"]["if"]


def test_the_form_has_the_fields_that_choose_knows(job: JobRun) -> None:
    inputs = load(FOLDER / "publish.yml")[True]["workflow_dispatch"]["inputs"]
    values = {name: field.get("default", "") for name, field in inputs.items()}
    job.env |= {"GITHUB_EVENT_NAME": "workflow_dispatch"}
    job.env["INPUTS"] = json.dumps(values | {"repo_id": "org/tiny"})
    assert job.run("choose") == 0


def test_the_form_gives_the_reusable_workflow_every_field() -> None:
    form = load(FOLDER / "publish.yml")[True]["workflow_dispatch"]["inputs"]
    taken = load(FOLDER / "reusable.yml")[True]["workflow_call"]["inputs"]
    assert set(taken) == set(form) | {"before"}
    given = jobs_of(FOLDER / "publish.yml")["images"]["with"]
    for name in form:
        assert f"inputs.{name} " in given[name], name


def test_workflows_that_others_call_check_out_this_repository() -> None:
    for name in ("model.yml", "reusable.yml"):
        for job in jobs_of(FOLDER / name).values():
            for step in job.get("steps", []):
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["repository"] == "${{ job.workflow_repository }}"
                    assert step["with"]["ref"] == "${{ job.workflow_sha }}"


# ---- the steps, as a runner would run them --------------------------------------------------


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobRun:
    (tmp_path / "models.toml").write_text(MODELS)
    return JobRun(tmp_path, monkeypatch, {"GITHUB_REPOSITORY_OWNER": "Me"})


Form = Callable[..., int]


@pytest.fixture
def form(job: JobRun) -> Form:
    """Fill in the form of publish.yml and press the button."""

    def press(**fields: Any) -> int:
        job.env |= {"GITHUB_EVENT_NAME": "workflow_dispatch", "INPUTS": json.dumps(fields)}
        return job.run("choose")

    return press


def test_a_form_with_a_repo_id_alone_is_enough(job: JobRun, form: Form) -> None:
    assert form(repo_id="Salesforce/codet5-small", tag="", engine="auto", allow_gated=False) == 0
    (chosen,) = job.chosen
    assert chosen.model.tag == "codet5-small"
    assert chosen.model.registries == ("ghcr.io/me/hf-models",)
    assert not chosen.is_exact
    assert "codet5-small" in job.summary


def test_a_form_says_everything_that_flags_can(job: JobRun, form: Form) -> None:
    assert (
        form(
            repo_id="org/data",
            repo_type="dataset",
            revision="v2",
            include='*.json "my file.bin"',
            exclude="*.h5",
            tag="data-v2",
            engine="docker",
            registries="quay.io/me/models docker.io/me/x",
            allow_gated=True,
        )
        == 0
    )
    (chosen,) = job.chosen
    assert chosen.model.repo.type == "dataset"
    assert chosen.model.selection == Selection((), ("*.json", "my file.bin"), ("*.h5",))
    assert (chosen.model.revision, chosen.model.engine) == ("v2", "docker")
    assert chosen.model.allow_gated
    assert chosen.is_exact
    assert chosen.model.registries == ("quay.io/me/models", "docker.io/me/x")


def test_a_form_with_a_tag_alone_takes_the_entry(job: JobRun, form: Form) -> None:
    assert form(tag="other") == 0
    (chosen,) = job.chosen
    assert chosen.model.repo.id == "org/other"
    assert chosen.model.selection.include == ("*.json",)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "neither a repo id nor the tag"),
        ({"repo_id": "https://example.org/a/b"}, "want a repo id like org/name"),
        ({"repo_id": "a/b", "include": '"open'}, "include: want words"),
        ({"repo_id": "a/b", "registries": "ghcr.io/me/x:tag"}, "without tag"),
        ({"repo_id": "a/b", "revision": "../x"}, "unsafe"),
        ({"repo_id": "a/b", "engine": "podman"}, "want an engine of"),
        ({"repo_id": "a/b", "tag": "no tag"}, "want an image tag"),
        ({"tag": "othr"}, "has no model with the tag"),
        ({"repo_id": "a/b", "shell": "x"}, "want only the fields"),
    ],
)
def test_a_form_that_cannot_be_used_says_why(
    form: Form, capsys: pytest.CaptureFixture[str], fields: dict[str, str], said: str
) -> None:
    assert form(**fields) in {2, 5}
    assert said in capsys.readouterr().err


def test_form_values_reach_no_shell_and_set_no_output(job: JobRun, form: Form) -> None:
    evil = "x$(touch pwned)`id`\ncount<<A\n9\nA"
    assert form(repo_id="org/tiny", include=shlex.quote(evil)) == 0
    (chosen,) = job.chosen
    assert chosen.model.selection.include == (evil,)
    assert not (job.directory / "pwned").exists()


def test_a_git_tag_names_an_entry(job: JobRun) -> None:
    job.env |= {"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "tiny"}
    job.env["INPUTS"] = pushed("0" * 40)
    assert job.run("choose") == 0
    assert [chosen.model.tag for chosen in job.chosen] == ["tiny"]


def test_a_git_tag_that_names_none_is_an_error(
    job: JobRun, capsys: pytest.CaptureFixture[str]
) -> None:
    job.env |= {"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "tinny"}
    job.env["INPUTS"] = pushed("0" * 40)
    assert job.run("choose") == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err


def pushed(before: str) -> str:
    """Return the inputs of reusable.yml when a push started publish.yml."""
    form = load(FOLDER / "reusable.yml")[True]["workflow_call"]["inputs"]
    return json.dumps({name: field["default"] for name, field in form.items()} | {"before": before})


def test_a_push_of_a_branch_without_a_commit_before_is_an_error(
    job: JobRun, capsys: pytest.CaptureFixture[str]
) -> None:
    job.env |= {"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "branch", "INPUTS": pushed("")}
    assert job.run("choose") == 2
    assert "neither a repo id" in capsys.readouterr().err


def commit(directory: Path, text: str) -> str:
    def git(*arguments: str) -> str:
        names = ("-c", "user.name=n", "-c", "user.email=n@example.org")
        return call("git", *names, *arguments, cwd=directory).strip()

    git("init", "-q")
    (directory / "models.toml").write_text(text)
    git("add", "models.toml")
    git("commit", "-q", "-m", "models")
    return git("rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("before", "after", "tags"),
    [
        (MODELS, MODELS, []),
        (MODELS, f"# a comment\n{MODELS}", []),
        (MODELS, f'{MODELS}\n[[model]]\ntag = "new"\nrepo = "org/new"\n', ["new"]),
        (MODELS, MODELS.replace('"*.json"', '"*.bin"'), ["other"]),
        (MODELS, MODELS.split('[[model]]\ntag = "other"', maxsplit=1)[0], []),
        ("not toml", MODELS, ["tiny", "other"]),
    ],
    ids=["the same", "a comment", "a new entry", "a changed entry", "a removed one", "a mistake"],
)
def test_a_change_of_models_toml_publishes_the_changed_entries(
    job: JobRun, before: str, after: str, tags: list[str]
) -> None:
    job.env |= {"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "branch"}
    job.env["INPUTS"] = pushed(commit(job.directory, before))
    (job.directory / "models.toml").write_text(after)
    assert job.run("choose") == 0
    assert [chosen.model.tag for chosen in job.chosen] == tags


def test_a_run_takes_no_more_than_a_matrix_may_have(
    job: JobRun, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [f'[[model]]\ntag = "t{i}"\nrepo = "org/r{i}"\n' for i in range(258)]
    head = MODELS.partition("[[model]]")[0]
    (job.directory / "models.toml").write_text(head + "".join(entries))
    job.env |= {
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_REF_TYPE": "branch",
        "INPUTS": pushed("0" * 40),
    }
    assert job.run("choose") == 0
    assert [chosen.model.tag for chosen in job.chosen] == [f"t{i}" for i in range(256)]
    assert "2 more than one run takes, from 't256' on" in capsys.readouterr().err


@pytest.mark.parametrize("before", ["0" * 40, "f" * 40])
def test_where_the_file_before_is_unknown_every_entry_is_new(job: JobRun, before: str) -> None:
    commit(job.directory, MODELS)
    job.env |= {"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "branch", "INPUTS": pushed(before)}
    assert job.run("choose") == 0
    assert [chosen.model.tag for chosen in job.chosen] == ["tiny", "other"]


@pytest.fixture
def plan_job(job: JobRun, hub: HubServer) -> JobRun:
    job.env |= {"HF_ENDPOINT": hub.endpoint, "IMAGES": "ghcr.io/me/hf-models"}
    job.env["JOB"] = job_of("tiny")
    return job


def test_plan_gives_the_workflow_a_matrix_and_people_a_table(plan_job: JobRun) -> None:
    plan_job.env["NOTES"] = "docker.io/me/hf-models: left out, docker.io has no secrets"
    assert plan_job.run("plan") == 0
    assert plan_job.outputs["engine"] == "publish"
    shards = json.loads(plan_job.outputs["matrix"])["include"]
    assert [shard["shard"] for shard in shards] == ["1/1"]
    document = json.loads((plan_job.directory / "dist/plan.json").read_text())
    assert document["plan"]["snapshot"]["commit"] == plan_job.outputs["commit"]
    assert document["plan"]["snapshot"]["revision"] == "main"
    assert "docker.io has no secrets" in plan_job.summary
    assert "`ghcr.io/me/hf-models:tiny`" in plan_job.summary


def test_plan_prints_the_command_that_does_the_same(
    plan_job: JobRun, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_job.env["JOB"] = job_of("other")
    assert plan_job.run("plan") == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("+ "))
    assert "--include='*.json'" in line or "'--include=*.json'" in line
    capsys.readouterr()
    assert run(shlex.split(line)[2:]) == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads((plan_job.directory / "dist/plan.json").read_text())
    assert again["plan"] == first["plan"]


def test_prefer_docker_states_the_reason_of_its_choice(plan_job: JobRun) -> None:
    plan_job.env["JOB"] = job_of("tiny", engine="prefer-docker")
    assert plan_job.run("plan") == 0
    assert plan_job.outputs["engine"] in {"docker", "publish"}
    assert re.search(r"Engine: .*building needs .* free", plan_job.summary)


def test_an_entry_with_compress_is_planned_compressed(plan_job: JobRun) -> None:
    plan_job.env["JOB"] = job_of("tiny", compress="zstd")
    assert plan_job.run("plan") == 0
    layers = json.loads((plan_job.directory / "dist/plan.json").read_text())["plan"]["layers"]
    assert {layer["compression"] for layer in layers} == {"zstd"}


@pytest.mark.parametrize(
    ("changes", "token", "said"),
    [
        ({}, "hf_alice", "--allow-gated"),
        ({"allow_gated": True}, "", "the secret HF_TOKEN is not set"),
    ],
    ids=["without the switch", "without the token"],
)
def test_a_gated_model_stops_before_any_other_job_starts(
    plan_job: JobRun,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, bool],
    token: str,
    said: str,
) -> None:
    plan_job.env |= {"JOB": job_of("gated", **changes), "HF_TOKEN": token}
    assert plan_job.run("plan") == 2
    assert said in capsys.readouterr().err
    assert "matrix" not in plan_job.outputs


def test_a_gated_model_with_switch_and_token_is_planned(plan_job: JobRun) -> None:
    plan_job.env |= {"JOB": job_of("gated", allow_gated=True), "HF_TOKEN": "hf_alice"}
    assert plan_job.run("plan") == 0
    assert plan_job.outputs["engine"] == "publish"


def test_the_commands_of_the_workflows_run_as_they_are_written(
    hub: HubServer, tmp_path: Path
) -> None:
    """Through make and nox, in a checkout, in the order of reusable.yml and model.yml."""
    for name in ("Makefile", "noxfile.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "models.toml").write_text(MODELS)
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.endpoint,
        "GITHUB_OUTPUT": str(tmp_path / "GITHUB_OUTPUT"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "GITHUB_STEP_SUMMARY"),
        "GITHUB_EVENT_NAME": "workflow_dispatch",
        "GITHUB_REPOSITORY_OWNER": "me",
        "INPUTS": json.dumps({"repo_id": "org/tiny", "include": "*.bin", "engine": "auto"}),
        "IMAGES": "ghcr.io/me/hf-models",
    }
    # The environment that this test runs in has what a session would install.
    nox = f"NOX={sys.executable} -m nox --no-venv --no-install"
    ready = ["--assume-old=.venv/bin/nox", nox]
    outputs: dict[str, str] = {}
    for file, job, step in (("reusable.yml", "choose", "choose"), ("model.yml", "plan", "plan")):
        steps = jobs_of(FOLDER / file)[job]["steps"]
        command = next(found["run"] for found in steps if found.get("id") == step)
        if step == "plan":
            env["JOB"] = json.loads(outputs["matrix"])["include"][0]["job"]
        program(*shlex.split(command), *ready, cwd=tmp_path, env=env)
        outputs |= read_values(tmp_path / "GITHUB_OUTPUT")
    assert outputs["count"] == "1"
    assert (
        outputs["commit"]
        == json.loads((tmp_path / "dist/plan.json").read_text())["plan"]["snapshot"]["commit"]
    )


@pytest.mark.parametrize("step", sorted(farm.commands.keys() - {"login", "logout"}))
def test_a_step_that_fails_says_why_on_the_page_of_the_run(
    job: JobRun, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    job.env["GITHUB_ACTIONS"] = "true"
    assert job.run(step) == 2
    known = {"choose": "INPUTS", "action": "INPUTS", "site": "CATALOG_URL or GITHUB_REPOSITORY"}
    wanted = known.get(step, "JOB")
    lines = capsys.readouterr().err.splitlines()
    assert f"::error title=hf-models::the variable {wanted} is not set" in lines
    assert f"the variable {wanted} is not set" in job.summary


def test_a_model_that_fails_to_publish_says_why_on_the_page_of_the_run(
    plan_job: JobRun, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Hub is no registry, and has no shards: the error is one target's, and not the command's."""
    host = hub.endpoint.removeprefix("http://")
    plan_job.env |= {"GITHUB_ACTIONS": "true", "BASE_IMAGE": "none"}
    plan_job.env["IMAGES"] = f"{host}/me/hf-models"
    assert plan_job.run("plan") == 0
    assert plan_job.run("assemble") != 0
    marks = [line for line in capsys.readouterr().err.splitlines() if line.startswith("::")]
    assert len(marks) == 1
    assert re.match(f"::error title=hf-models::.*{host}", marks[0])
    assert "me/hf-models" in plan_job.summary.partition("**error**")[2]


def test_text_from_outside_starts_no_line_with_a_workflow_command(
    job: JobRun, form: Form, capsys: pytest.CaptureFixture[str]
) -> None:
    job.env["GITHUB_ACTIONS"] = "true"
    evil = "\n::warning::a%0A::notice::b\r\n##[group]c"
    assert form(tag=f"t{evil}") == 2
    assert form(repo_id="org/tiny", **{f"field{evil}": "x"}) == 2
    assert form(repo_id="org/tiny", include=f"'{evil}'") == 0
    said = capsys.readouterr()
    lines = [line.strip() for line in (said.out + said.err).splitlines()]
    assert {line.partition(" ")[0] for line in lines if line.startswith("::")} == {"::error"}
    assert not [line for line in lines if "##[" in line]
    assert all("%0A::" not in line for line in lines if line.startswith("::"))
    assert not [line for line in job.summary.splitlines() if line.startswith("::")]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tag": 3}', job_of("tiny", registries=3)])
def test_a_job_that_is_none_is_refused(
    job: JobRun, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    job.env |= {"JOB": text, "IMAGES": "ghcr.io/me/x"}
    assert job.run("plan") == 2
    assert "Traceback" not in capsys.readouterr().err
