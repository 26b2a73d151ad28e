"""``hf-models farm``: the steps of the publishing workflow, one subcommand each.

Everything comes from variables, never from a command line that a shell would read: what
people type into a form may hold any character. Each step that publishes prints the command
that does the same, so that anybody can run it elsewhere.
"""

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from downloader.cli.command import Group, examples
from downloader.cli.console import ConsoleProgress, print_result, say
from downloader.cli.github import write_environment, write_outputs, write_summary
from downloader.cli.models import read_models_file
from downloader.cli.options import image_option
from downloader.cli.publish import report
from downloader.cli.targets import report_results
from downloader.engine.docker import Engine
from downloader.engine.dockerfile import DEFAULT_BASE
from downloader.environment import Environment, read_environment
from downloader.errors import InputError
from downloader.farm.action import parse_action_inputs
from downloader.farm.catalog.site import fetch_catalog, site_url
from downloader.farm.cleanup import reclaimable_bytes
from downloader.farm.destinations import (
    Destinations,
    Login,
    choose_destinations,
    named_images,
    read_logins,
    subject_name,
)
from downloader.farm.jobs import (
    MAX_IMAGES,
    SHARD_BYTES,
    Job,
    choose_engine,
    jobs_of_change,
    jobs_of_inputs,
    jobs_of_tag,
    models_matrix,
    parse_job,
    shards_matrix,
)
from downloader.farm.models import MODELS_FILE, Models, parse_models
from downloader.farm.steps import (
    PlannedJob,
    assemble_command,
    build_command,
    check_images,
    choose_shards,
    digest_outputs,
    plan_command,
    plan_job,
    publish_command,
    publish_shard,
    push_command,
    read_planned_job,
    signer_of_job,
    with_logins,
)
from downloader.farm.summary import image_summary, plan_summary, shard_summary, table
from downloader.fs import write_atomically
from downloader.hub.repo import is_commit
from downloader.keyless import KeylessSigner
from downloader.library import publisher
from downloader.library.connection import Connection, open_session
from downloader.library.docker import build_in_engine, image_name, push_from_engine
from downloader.library.publisher import open_hub
from downloader.oci.digest import parse_digest
from downloader.plan import Plan, disk_needed_bytes
from downloader.publish import AssembleOptions, Outcome, Shard, parse_shard
from downloader.signing import Signer
from downloader.text import markdown
from downloader.units import format_bytes, parse_size


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
    inputs = _json_variable("INPUTS")
    # Only publish.yml says what was before a push; another repository's push is not about ours.
    is_ours = read_environment().get("GITHUB_EVENT_NAME") == "push" and inputs.get("before")
    if inputs.get("repo_id") or inputs.get("tag") or not is_ours:
        return jobs_of_inputs(inputs, models)
    if read_environment().get("GITHUB_REF_TYPE") == "tag":
        return jobs_of_tag(_variable("GITHUB_REF_NAME"), models)
    return jobs_of_change(models, _models_before(inputs["before"]))


def _models_before(commit: str) -> Models | None:
    """Return models.toml as it was before the push; None where that is not known."""
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
        job, hosts = _current_job(), {item.registry for item in logins}
        found = choose_destinations(job.model.registries, hosts, named, is_exact=job.is_exact)
        for note in found.notes:
            say(note)
        _check_any(found)
        logins = [item for item in logins if item.registry in found.hosts]
        kept |= {"IMAGES": " ".join(found.images), "NOTES": "\n".join(found.notes)}
    for item in logins:
        publisher.login(item.registry, item.username, item.password, read_environment())
        print_result(f"logged in to {item.registry}")
    write_environment({**kept, "LOGGED_IN": " ".join(item.registry for item in logins)})


def _check_any(found: Destinations) -> None:
    if not found.images:
        raise InputError(
            "no registry with credentials",
            hint="GHCR needs the permission packages: write; docs/farm.md names the secrets",
        )


@farm.command()
def logout() -> None:
    """Log out of every registry: no password stays behind on a runner that does."""
    for registry in read_environment().get("LOGGED_IN", "").split():
        publisher.logout(registry, read_environment())


@farm.command()
def plan() -> None:
    """Resolve JOB at a commit, choose engine and number of jobs, write the plan for them."""
    job, environment = _current_job(), read_environment()
    _say_command(plan_command(job))
    with (
        ConsoleProgress("plan") as progress,
        open_session(environment=environment, progress=progress) as session,
    ):
        found = plan_job(job, session)
    free_bytes = shutil.disk_usage("/").free + reclaimable_bytes()
    shard_bytes = parse_size(environment.get("SHARD_SIZE") or str(SHARD_BYTES))
    choice, planned = choose_shards(job, found, free_bytes, shard_bytes)
    planned.write()
    matrix = json.dumps(shards_matrix(found, planned.shards))
    commit = found.snapshot.commit
    write_outputs({"matrix": matrix, "engine": choice.engine, "commit": commit})
    print_result(f"engine: {choice.engine}: {choice.reason}")
    layers = f"{format_bytes(found.size_bytes)} in {len(found.layers)} layers"
    print_result(f"jobs: {planned.shards} for {layers}")
    notes = environment.get("NOTES").splitlines()
    write_summary(plan_summary(job, planned, choice.reason, _images(), notes))


@farm.command()
def shard() -> int:
    """Publish the share SHARD (I/N) of JOB's plan."""
    job, share = _current_job(), parse_shard(_variable("SHARD"))
    environment = read_environment()
    # Of several shards `assemble` makes the image.
    signer = signer_of_job(environment) if share.count == 1 else None
    _, code = _publish(job, read_planned_job().plan, share, _images(), environment, signer)
    return code


@farm.command()
def assemble() -> int:
    """Make one image of the shards of JOB, in every registry."""
    job, planned, images, base = _current_job(), read_planned_job(), _images(), _base()
    environment = read_environment()
    signer = signer_of_job(environment)
    _say_command(assemble_command(job, planned.shards, images, base, sign=bool(signer)))
    how = AssembleOptions(planned.plan, count=planned.shards, signer=signer)
    with ConsoleProgress("assemble") as progress:
        done = publisher.assemble(
            job.model.tag, images, environment, progress, base=base, options=how
        )
    _write_digests((item.image, item.digest) for item in done)
    return report_results(done)


@farm.command()
@image_option
def build(image: str) -> int:
    """Build JOB with Docker; where it does not fit this runner after all, stream it."""
    job, found, environment = _current_job(), read_planned_job().plan, read_environment()
    free_bytes = shutil.disk_usage("/").free
    choice = choose_engine(disk_needed_bytes(found), free_bytes, job.model.engine)
    print_result(f"engine: {choice.engine}: {choice.reason}")
    write_summary(f"Engine: {markdown(choice.reason)}.")
    write_outputs({"engine": choice.engine})
    if choice.engine == "docker":
        _say_command(build_command(job, _base()))
        name = image_name(image, job.model.tag)
        engine, base = Engine(dict(environment.variables)), _base() or DEFAULT_BASE
        with (
            ConsoleProgress("build") as progress,
            open_session(environment=environment, progress=progress) as session,
        ):
            hub = open_hub(session)
            build_in_engine(engine, hub, found, name, base=base, session=session, progress=progress)
        print_result(name)
        return 0
    signer = signer_of_job(environment)
    outcomes, code = _publish(job, found, Shard(), _images(), environment, signer)
    _write_digests((item.name, item.digest) for item in outcomes)
    return code


@farm.command()
@image_option
def push(image: str) -> int:
    """Push what `build` made, to every registry."""
    job, images = _current_job(), _images()
    _say_command(push_command(job, images))
    engine, tag = Engine(dict(read_environment().variables)), job.model.tag
    names = [f"{name}:{tag}" for name in images]
    source, allow_gated = image_name(image, tag), job.model.allow_gated
    with ConsoleProgress("push") as progress:
        done = push_from_engine(engine, source, names, progress=progress, allow_gated=allow_gated)
    _write_digests((item.image, item.digest) for item in done)
    return report_results(done)


@farm.command()
def check() -> None:
    """Ask every registry for every part of JOB's image, and say how to pull it."""
    job, digest, images = _current_job(), parse_digest(_variable("DIGEST")), _images()
    environment = read_environment()
    first = environment.get("IMAGE")
    # What is streamed is the same everywhere; Docker compresses anew for each registry.
    is_same = _variable("ENGINE") == "publish"
    expected = {name: digest if is_same or name == first else None for name in images}
    is_bare = False
    with open_session(environment=environment) as session:
        for name, found in check_images(job, expected, session):
            is_bare |= not found.has_base
            size = format_bytes(found.size_bytes)
            print_result(f"{name}@{found.digest}: {found.blobs} blobs, {size}")
    signed = first or images[0]
    write_outputs({"subject": subject_name(signed), "digest": digest})
    repository = environment.get("GITHUB_REPOSITORY", "OWNER/NAME")
    page = image_summary(job.model, images, f"{signed}@{digest}", repository, is_bare=is_bare)
    write_summary(page)


@farm.command()
def site() -> None:
    """Bring in the published catalog.json, whose dates of publication `catalog` keeps."""
    environment, path = read_environment(), Path("dist/site/catalog.json")
    url = site_url(environment)
    if url is None:
        say("no address of a published catalogue; the variable CATALOG_URL names one")
        return
    with closing(Connection().open_pool(environment)) as http:
        data = fetch_catalog(http, url)
    if data is None:
        say(f"{url} has no catalog.json yet")
        return
    write_atomically(path, data)
    print_result(f"{path}: {len(data)} bytes from {url}")


@farm.command()
def action() -> int:
    """Publish what the inputs of action.yml say; their passwords are stored nowhere."""
    environment = read_environment()
    wanted = parse_action_inputs(_json_variable("INPUTS"), environment.variables)
    if wanted.hub_token:
        environment = read_environment({**environment.variables, "HF_TOKEN": wanted.hub_token})
    job = wanted.job
    config = Path(wanted.trust_config) if wanted.trust_config else None
    signer = KeylessSigner(trust_config=config) if wanted.sign else None
    images = job.model.registries
    _say_command(plan_command(job))
    with open_session(environment=environment) as session:
        planned = PlannedJob(plan_job(job, session), 1)
    planned.write()
    write_summary(plan_summary(job, planned, "action.yml streams", images, ()))
    outcomes, code = _publish(
        job, planned.plan, Shard(), images, environment, signer, wanted.logins
    )
    _write_digests((item.name, item.digest) for item in outcomes)
    return code


def _publish(
    job: Job,
    found: Plan,
    share: Shard,
    images: Sequence[str],
    environment: Environment,
    signer: Signer | None,
    logins: Sequence[Login] = (),
) -> tuple[list[Outcome], int]:
    begun_at = time.monotonic()
    _say_command(publish_command(job, share, images, _base(), sign=bool(signer)))
    with (
        ConsoleProgress("publish", "layer") as progress,
        open_session(environment=environment, progress=progress) as session,
    ):
        outcomes = publish_shard(
            job,
            found,
            share,
            images,
            base=_base(),
            session=with_logins(session, logins),
            signer=signer,
        )
    seconds = time.monotonic() - begun_at
    write_summary(shard_summary(share, found, outcomes, seconds))
    return outcomes, report(outcomes, found, seconds, as_json=False, quiet=False)


def _write_digests(done: Iterable[tuple[str, str | None]]) -> None:
    write_outputs(digest_outputs([(image, digest) for image, digest in done if digest]))


def _say_command(arguments: Sequence[str]) -> None:
    say(f"+ hf-models {shlex.join(arguments)}")


def _current_job() -> Job:
    return parse_job(_variable("JOB"))


def _images() -> list[str]:
    """Return where to, as the step `login` found it."""
    return _variable("IMAGES").split()


def _base() -> str | None:
    """Return the base image, where the repository's variables name one."""
    return read_environment().get("BASE_IMAGE") or None


def _variable(name: str) -> str:
    value = read_environment().get(name)
    if not value:
        raise InputError(f"the variable {name} is not set")
    return value


def _json_variable(name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(_variable(name))
    except ValueError as error:
        raise InputError(f"${name}: want JSON, got {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"${name}: want a JSON object, got {type(found).__name__}")
    return found
