"""What the steps of the farm share: their variables, and running a command of ours."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from downloader.cli.console import say
from downloader.cli.github import write_outputs
from downloader.environment import read_environment
from downloader.errors import EngineError, InputError
from downloader.farm.destinations import Login
from downloader.farm.jobs import Job, parse_job
from downloader.plan import Plan

PLAN_FILE = Path("dist/plan.json")
LOGIN_TIMEOUT_S = 120


@dataclass(frozen=True)
class Ran:
    """A command that ended: its exit code, and what it printed as JSON."""

    exit_code: int
    document: Any


def run_command(arguments: Sequence[str]) -> Ran:
    """Run a command of ours with ``--json``, and show it so that anybody can run the same."""
    from downloader.cli import run

    say(f"+ hf-models {shlex.join(arguments)}")
    with redirect_stdout(StringIO()) as output:
        exit_code = run(list(arguments))
    text = output.getvalue()
    return Ran(exit_code, json.loads(text) if text.strip() else None)


def variable(name: str) -> str:
    """Return a variable of the job.

    Raises:
        InputError: It is not set, or empty.
    """
    value = read_environment().get(name)
    if not value:
        raise InputError(f"want the variable {name}, got none")
    return value


def json_variable(name: str) -> Mapping[str, Any]:
    """Return a variable that holds a JSON object.

    Raises:
        InputError: It holds another thing.
    """
    try:
        found = json.loads(variable(name))
    except ValueError as error:
        raise InputError(f"${name}: want JSON, got {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"${name}: want a JSON object, got {type(found).__name__}")
    return found


def current_job() -> Job:
    """Return what this job of the workflow is to publish."""
    return parse_job(variable("JOB"))


def read_plan_document() -> Any:
    """Return what the step `plan` wrote, in the job before.

    Raises:
        InputError: It is not there.
    """
    try:
        return json.loads(PLAN_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"want the plan of the first job in {PLAN_FILE}, got {error}") from error


def read_plan() -> Plan:
    """Return the plan that the step `plan` wrote, in the job before."""
    return Plan.from_json(read_plan_document()["plan"])


def repo_flags(job: Job) -> list[str]:
    """Return the flags that name a job's files and tag."""
    model = job.model
    return [
        f"--repo-type={model.repo.type}",
        f"--revision={model.revision}",
        *(f"--include={glob}" for glob in model.selection.include),
        *(f"--exclude={glob}" for glob in model.selection.exclude),
        f"--layer-size={model.layer_size}",
        f"--tag={model.tag}",
    ]


def to_flags() -> list[str]:
    """Return where to, as the step `login` found it."""
    return [f"--to={name}" for name in variable("IMAGES").split()]


def base_flags() -> list[str]:
    """Return the base image, where the repository's variables name one."""
    base = read_environment().get("BASE_IMAGE")
    return [f"--base={base}"] if base else []


def gated_flags(job: Job) -> list[str]:
    """Return the switch for gated repos, where the entry or the form has it."""
    return ["--allow-gated"] if job.model.allow_gated else []


def write_digests(targets: Sequence[Mapping[str, Any]]) -> None:
    """Give the digest of one image to the jobs that follow.

    GHCR's where there is one: a value that holds a secret, and another registry's user name
    may be one, does not pass from job to job.
    """
    done = [target for target in targets if target["digest"]]
    done.sort(key=lambda target: not target["image"].startswith("ghcr.io/"))
    image, digest = (done[0]["image"], done[0]["digest"]) if done else ("", "")
    write_outputs({"image": image.rpartition(":")[0], "digest": digest})


def docker_login(item: Login) -> None:
    """Log in; the password goes through standard input.

    Raises:
        EngineError: There is no docker command, or the registry said no.
    """
    command = [_docker(), "login", item.registry, "--username", item.username, "--password-stdin"]
    try:
        done = subprocess.run(
            command,
            input=item.password,
            capture_output=True,
            text=True,
            timeout=LOGIN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"cannot log in to {item.registry}: no answer") from None
    if done.returncode:
        said = done.stderr.strip().replace(item.password, "***")
        raise EngineError(f"cannot log in to {item.registry}: {said[-300:]}")


def docker_logout(registry: str) -> None:
    """Forget the password of a registry."""
    subprocess.run([_docker(), "logout", registry], capture_output=True, check=False)


def _docker() -> str:
    found = shutil.which("docker")
    if not found:
        raise EngineError("want the command docker, for its login, got none")
    return found
