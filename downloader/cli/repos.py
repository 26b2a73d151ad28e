"""Flags that name a repo and its form in an image, or with ``--plan`` an earlier plan."""

from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from downloader.cli.options import F, compose, gathered, repo_type_option, selection_options
from downloader.document import load_json
from downloader.engine.dockerfile import DEFAULT_BASE
from downloader.environment import read_environment
from downloader.errors import InputError, ProtocolError, StorageError
from downloader.library.publisher import PlanOptions, name_of
from downloader.plan import COMPRESS, DEFAULT_CACHE_ROOT, Plan

# Which repo, and what of it: the parameters ``repo_id`` and ``wanted``.
repo_options = compose(
    click.argument("repo_id", metavar="REPO_ID"),
    click.argument("files", nargs=-1, metavar="[FILE]..."),
    click.option("--revision", metavar="REV", help="Branch, tag or commit.  [default: main]"),
    selection_options,
    repo_type_option,
    click.option(
        "--token",
        metavar="TOKEN",
        help="Hub token; prefer HF_TOKEN or `hf auth login`: arguments are visible to others.",
    ),
    gathered("wanted", PlanOptions),
)

# How it lies in the image; ``wanted`` says it, too.
layer_options = compose(
    click.option(
        "--layer-size",
        default="default",
        show_default=True,
        metavar="SIZE",
        help="Largest layer: default (9.5 GB), mirror (1 GB), or a size like 2GB.",
    ),
    click.option(
        "--cache-root",
        default=DEFAULT_CACHE_ROOT,
        show_default=True,
        metavar="DIR",
        help="HF_HOME inside the image.",
    ),
    click.option(
        "--models-dir",
        metavar="DIR",
        help="Where the image shows the files under their names, or none."
        "  [default: /models, /datasets or /spaces]",
    ),
    click.option(
        "--receiver/--no-receiver",
        "has_receiver",
        default=True,
        help="Carry hf-models.pyz, which restores the image with Python alone.  [default: yes]",
    ),
    click.option(
        "--compress",
        type=click.Choice(COMPRESS),
        default="none",
        show_default=True,
        help="zstd layers: all of them, those that shrink by a tenth, or these in both forms.",
    ),
)

# What lies under it, and beside it.
base_option = click.option(
    "--base",
    metavar="IMAGE",
    help="Base image with sh and sha256sum, or none for an image of files only."
    f"  [env: HF_MODELS_BASE; default: {DEFAULT_BASE}, or none where it cannot be reached]",
)

modelpack_option = click.option(
    "--modelpack/--no-modelpack",
    default=True,
    show_default=True,
    help="Whether the tag also carries a CNCF ModelPack manifest over the same layers.",
)

# What a plan has settled, by the names of `repo_options` and `layer_options`.
_SETTLED = {
    "files": "FILE",
    "revision": "--revision",
    "include": "--include",
    "exclude": "--exclude",
    "layer_size": "--layer-size",
    "cache_root": "--cache-root",
    "models_dir": "--models-dir",
    "compress": "--compress",
    "has_receiver": "--no-receiver",
}


def plan_option(help_text: str) -> Callable[[F], F]:
    """Return the flag ``--plan FILE``, as the argument ``plan_file``."""
    return click.option(
        "--plan",
        "plan_file",
        type=click.Path(dir_okay=False, exists=True),
        metavar="FILE",
        help=help_text,
    )


def read_plan(path: str) -> Plan:
    """Read a plan that `hf-models plan --json` or `build` wrote.

    Raises:
        InputError: The file is no plan.
        StorageError: The file cannot be read.
    """
    try:
        document = load_json(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no plan in JSON: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    plan = document.get("plan", document) if isinstance(document, dict) else None
    if not isinstance(plan, dict):
        raise InputError(f"{path} is no plan: no JSON object")
    try:
        return Plan.from_json(plan)
    except ProtocolError as error:
        raise InputError(f"{path} is no plan: {error.message}") from error


def plan_instead(path: str, repo_id: str) -> Plan:
    """Read the plan that takes the place of what the command's other arguments would choose.

    Args:
        path: Of the plan.
        repo_id: As it was given; a command must be running.

    Raises:
        InputError: The file is no plan, or the arguments contradict it.
        StorageError: The file cannot be read.
    """
    plan = read_plan(path)
    values = click.get_current_context().params
    given = [flag for name, flag in _SETTLED.items() if _is_given(name) and values.get(name)]
    if given:
        raise InputError(
            f"--plan and {given[0]} exclude each other",
            hint="a plan has settled commit, files and layers; make another one to change them",
        )
    planned = plan.snapshot.repo
    repo_type = values["repo_type"] if _is_given("repo_type") else planned.type
    wanted = name_of(repo_id, repo_type, read_environment()).repo
    # The plan has the real id of a repo that was renamed, or is spelled otherwise.
    if (wanted.type, wanted.name.lower()) != (planned.type, planned.name.lower()):
        raise InputError(
            f"{path} is a plan of {planned.type} {planned.id}, not of {wanted.type} {wanted.id}"
        )
    return plan


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE
