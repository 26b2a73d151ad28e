"""``hf-models farm``: the steps of the publishing workflow, one subcommand each.

Everything comes from variables, never from a command line that a shell would read: what
people type into a form may hold any character. Each step that publishes runs an ordinary
command of ``hf-models``, and prints it, so that anybody can run the same elsewhere.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from downloader.cli.command import Group, examples
from downloader.cli.console import print_result, say
from downloader.cli.farm_step import (
    PLAN_FILE,
    Ran,
    base_flags,
    current_job,
    docker_login,
    docker_logout,
    gated_flags,
    json_variable,
    read_plan,
    read_plan_document,
    repo_flags,
    run_command,
    to_flags,
    variable,
    write_digests,
)
from downloader.cli.github import write_environment, write_outputs, write_summary
from downloader.cli.models import read_models_file
from downloader.cli.options import http_pool
from downloader.cli.plan import describe_plan, layer_rows
from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.farm.check import check_image
from downloader.farm.cleanup import reclaimable_bytes
from downloader.farm.destinations import (
    Destinations,
    choose_destinations,
    named_images,
    read_logins,
    subject_name,
)
from downloader.farm.engine_choice import choose_engine
from downloader.farm.jobs import (
    MAX_IMAGES,
    SHARD_BYTES,
    Job,
    jobs_of_change,
    jobs_of_inputs,
    jobs_of_tag,
    models_matrix,
    shard_count,
)
from downloader.farm.models import MODELS_FILE, Models, parse_models
from downloader.farm.summary import image_summary, plan_summary, shard_summary, table
from downloader.hub.repo import is_commit
from downloader.oci.credentials import StoredCredentials
from downloader.oci.digest import parse_digest
from downloader.oci.reference import parse_reference
from downloader.oci.registry import Registry
from downloader.plan import Plan, disk_needed_bytes
from downloader.publish import check_gated
from downloader.units import parse_size


@click.group(cls=Group, epilog=examples("farm choose", "farm plan"))
def farm() -> None:
    """Run a step of the publishing workflow; its input is variables of the job."""


@farm.command()
def choose() -> None:
    """Turn a form, a git tag or a change of models.toml into the images to publish."""
    jobs = _chosen_jobs(read_models_file(Path(MODELS_FILE)))
    write_jobs(jobs)
    rows = [(job.model.tag, job.model.repo.type, job.model.repo.id) for job in jobs]
    for row in rows:
        print_result(" ".join(row))
    if not rows:
        say(f"nothing to publish: no entry of {MODELS_FILE} changed")
    write_summary(table(["tag", "type", "repo"], rows) if rows else "Nothing to publish.")


def write_jobs(jobs: Sequence[Job]) -> None:
    """Give the workflow its matrix: one job for each image, as many as one run takes."""
    due, later = jobs[:MAX_IMAGES], jobs[MAX_IMAGES:]
    if later:
        say(f"{len(later)} more than one run takes, from {later[0].model.tag!r} on: for `refresh`")
    write_outputs({"matrix": json.dumps(models_matrix(due)), "count": str(len(due))})


def _chosen_jobs(models: Models) -> list[Job]:
    inputs = json_variable("INPUTS")
    # Only publish.yml says what was before a push; another repository's push is not about ours.
    is_ours = read_environment().get("GITHUB_EVENT_NAME") == "push" and inputs.get("before")
    if inputs.get("repo_id") or inputs.get("tag") or not is_ours:
        return jobs_of_inputs(inputs, models)
    if read_environment().get("GITHUB_REF_TYPE") == "tag":
        return jobs_of_tag(variable("GITHUB_REF_NAME"), models)
    return jobs_of_change(models, _models_before(inputs["before"]))


def _models_before(commit: str) -> Models | None:
    """Return models.toml as it was before the push; None where nobody knows."""
    if not is_commit(commit):
        return None
    shown = subprocess.run(
        ["git", "show", f"{commit}:{MODELS_FILE}"], capture_output=True, text=True, check=False
    )
    try:
        if shown.returncode == 0:
            return parse_models(
                shown.stdout, owner=read_environment().get("GITHUB_REPOSITORY_OWNER")
            )
        said = f"none at {commit}"
    except InputError as error:
        said = error.message
    say(f"{MODELS_FILE} as it was before: {said}; every entry counts as new")
    return None


@farm.command()
def login() -> None:
    """Log in to every registry whose secrets exist, and note where JOB publishes to."""
    logins, named = (
        read_logins(read_environment().variables),
        named_images(read_environment().variables),
    )
    kept = {"NAMED_IMAGES": " ".join(named)}
    if read_environment().get("JOB"):
        job, hosts = current_job(), {item.registry for item in logins}
        found = choose_destinations(job.model.registries, hosts, named, is_exact=job.is_exact)
        for note in found.notes:
            say(note)
        _check_any(found)
        logins = [item for item in logins if item.registry in found.hosts]
        kept |= {"IMAGES": " ".join(found.images), "NOTES": "\n".join(found.notes)}
    for item in logins:
        docker_login(item)
        print_result(f"logged in to {item.registry}")
    write_environment({**kept, "LOGGED_IN": " ".join(item.registry for item in logins)})


def _check_any(found: Destinations) -> None:
    if not found.images:
        raise InputError(
            "want a registry with credentials, got none",
            hint="GHCR needs the permission packages: write; docs/farm.md names the secrets",
        )


@farm.command()
def logout() -> None:
    """Log out of every registry: no password stays behind on a runner that does."""
    for registry in read_environment().get("LOGGED_IN", "").split():
        docker_logout(registry)


@farm.command()
def plan() -> int:
    """Resolve JOB at a commit, choose engine and number of jobs, write the plan for them."""
    job = current_job()
    ran = run_command(["plan", *repo_flags(job), "--json", "--", job.model.repo.id])
    if ran.exit_code:
        return ran.exit_code
    planned = Plan.from_json(ran.document["plan"])
    _check_access(job, planned)
    free_bytes = shutil.disk_usage("/").free + reclaimable_bytes()
    choice = choose_engine(disk_needed_bytes(planned), free_bytes, job.model.engine)
    shard_bytes = parse_size(read_environment().get("SHARD_SIZE") or str(SHARD_BYTES))
    count = shard_count(planned, shard_bytes) if choice.engine == "publish" else 1
    document = describe_plan(planned, job.model.tag, count)
    PLAN_FILE.parent.mkdir(parents=True, exist_ok=True)
    PLAN_FILE.write_text(json.dumps(document), encoding="utf-8")
    count, matrix = len(document["matrix"]["include"]), json.dumps(document["matrix"])
    commit = planned.snapshot.commit
    write_outputs({"matrix": matrix, "engine": choice.engine, "commit": commit})
    print_result(f"engine: {choice.engine}: {choice.reason}")
    print_result(f"jobs: {count} for {planned.size_bytes} bytes in {len(planned.layers)} layers")
    images, notes = (
        variable("IMAGES").split(),
        read_environment().get("NOTES", "").splitlines(),
    )
    write_summary(plan_summary(document, layer_rows(planned), choice.reason, images, notes))
    return 0


@farm.command()
def shard() -> int:
    """Publish the share SHARD (I/N) of JOB's plan."""
    return _publish(current_job(), variable("SHARD")).exit_code


@farm.command()
def assemble() -> int:
    """Make one image of the shards of JOB, in every registry."""
    job = current_job()
    count = len(read_plan_document()["matrix"]["include"])
    arguments = [f"--plan={PLAN_FILE}", f"--shards={count}", *base_flags(), *to_flags()]
    ran = run_command(["assemble", *arguments, "--json", "--", job.model.tag])
    write_digests(ran.document["targets"] if ran.document else [])
    return ran.exit_code


@farm.command()
def build() -> int:
    """Build JOB with Docker; where it does not fit this runner after all, stream it."""
    job = current_job()
    free_bytes = shutil.disk_usage("/").free
    choice = choose_engine(disk_needed_bytes(read_plan()), free_bytes, job.model.engine)
    print_result(f"engine: {choice.engine}: {choice.reason}")
    write_summary(f"Engine: {choice.reason}.")
    write_outputs({"engine": choice.engine})
    if choice.engine == "docker":
        flags = ["--engine=docker", *repo_flags(job), *base_flags(), "--json"]
        return run_command(["build", *flags, "--", job.model.repo.id]).exit_code
    ran = _publish(job, "1/1")
    write_digests(ran.document["targets"] if ran.document else [])
    return ran.exit_code


@farm.command()
def push() -> int:
    """Push what `build` made, to every registry."""
    job = current_job()
    flags = ["--engine=docker", *to_flags(), *gated_flags(job), "--json"]
    ran = run_command(["push", *flags, "--", job.model.tag])
    write_digests(ran.document["targets"] if ran.document else [])
    return ran.exit_code


@farm.command()
def check() -> None:
    """Ask every registry for every part of JOB's image, and say how to pull it."""
    job, digest, images = current_job(), variable("DIGEST"), variable("IMAGES").split()
    pool, credentials = http_pool(), StoredCredentials(read_environment().auth_files)
    for name in images:
        # What is streamed is the same everywhere; Docker compresses anew for each registry.
        is_same = variable("ENGINE") == "publish" or name == read_environment().get("IMAGE")
        store = Registry(parse_reference(name), pool, credentials)
        found = check_image(store, job.model.tag, parse_digest(digest) if is_same else None)
        print_result(f"{name}@{found.digest}: {found.blobs} blobs, {found.size_bytes} bytes")
    signed = read_environment().get("IMAGE") or images[0]
    write_outputs({"subject": subject_name(signed), "digest": digest})
    repository = read_environment().get("GITHUB_REPOSITORY", "OWNER/NAME")
    is_bare = read_environment().get("BASE_IMAGE") == "none"
    page = image_summary(job.model, images, f"{signed}@{digest}", repository, is_bare=is_bare)
    write_summary(page)


def _publish(job: Job, share: str) -> Ran:
    base = base_flags() if share.endswith("/1") else []
    flags = [f"--plan={PLAN_FILE}", f"--shard={share}", f"--tag={job.model.tag}"]
    flags += [*base, *to_flags(), *gated_flags(job), "--json"]
    ran = run_command(["publish", *flags, "--", job.model.repo.id])
    if ran.document:
        write_summary(shard_summary(share, ran.document))
    return ran


def _check_access(job: Job, planned: Plan) -> None:
    """Raise before any other job starts if the repo is not for everybody.

    Raises:
        InputError: It is gated or private, and the switch or the token is missing.
    """
    check_gated(planned, allow=job.model.allow_gated)
    snapshot = planned.snapshot
    if (snapshot.gated or snapshot.private) and not read_environment().get("HF_TOKEN"):
        raise InputError(
            f"want the secret HF_TOKEN for {snapshot.repo.id}, which is not public, got none",
            hint="make a read token on the Hub and save it as the repository's secret HF_TOKEN",
        )
