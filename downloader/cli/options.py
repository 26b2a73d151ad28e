"""Flags that several commands share, and what they and the environment mean.

Names follow ``hf download``, so that nobody has to learn them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.hub.repo import Repo, Selection, parse_repo
from downloader.net.http import HttpPool, http_settings_of
from downloader.net.retry import RetryPolicy
from downloader.plan import COMPRESS, DEFAULT_CACHE_ROOT, parse_layer_limit

F = TypeVar("F", bound=Callable[..., Any])


def compose(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that applies all of them, the first one outermost."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


selection_options = compose(
    click.option(
        "--include", multiple=True, metavar="GLOB", help="Only files that match; repeatable."
    ),
    click.option(
        "--exclude", multiple=True, metavar="GLOB", help="Not files that match; repeatable."
    ),
)

repo_options = compose(
    click.argument("repo_id", metavar="REPO_ID"),
    click.argument("filenames", nargs=-1, metavar="[FILE]..."),
    click.option("--revision", metavar="REV", help="Branch, tag or commit.  [default: main]"),
    selection_options,
    click.option(
        "--repo-type",
        "--type",
        type=click.Choice(["model", "dataset", "space"]),
        default="model",
        show_default=True,
    ),
    click.option(
        "--token",
        metavar="TOKEN",
        help="Hub token; prefer HF_TOKEN or `hf auth login`: arguments are visible to others.",
    ),
)

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
        "--compress",
        type=click.Choice(COMPRESS),
        default="none",
        show_default=True,
        help="zstd layers: all of them, those that shrink by a tenth, or these in both forms.",
    ),
)

connection_options = compose(
    click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False),
        metavar="PEM",
        help="Certificates to trust beside the system's.",
    ),
    click.option(
        "--plain-http",
        multiple=True,
        metavar="HOST",
        help="A registry without TLS: HOST, HOST:PORT or a network; repeatable."
        "  [env: HF_MODELS_PLAIN_HTTP]",
    ),
)

quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, only the result.")
json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON.")

DEFAULT_IMAGE = "hf-models"
tag_option = click.option("--tag", metavar="TAG", help="Image tag.  [default: the repo's name]")
image_option = click.option(
    "--image",
    default=DEFAULT_IMAGE,
    show_default=True,
    envvar="HF_MODELS_IMAGE",
    show_envvar=True,
    metavar="NAME",
    help="Image name, without tag.",
)


def parse_size_option(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    """Return bytes for a size flag (a click callback)."""
    return None if value is None else parse_layer_limit(value)


def selected(repo_id: str, repo_type: str) -> Repo:
    """Return the repo that the arguments name."""
    return parse_repo(repo_id, repo_type)


def selection(
    filenames: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...]
) -> Selection:
    """Return the selection that the arguments name.

    Raises:
        InputError: File names together with patterns, which ``hf download`` ignores.
    """
    if filenames and (include or exclude):
        raise InputError("want file names or --include/--exclude, got both")
    return Selection(filenames, include, exclude)


def retry_policy(options: Mapping[str, Any]) -> RetryPolicy | None:
    """Return what ``--tries`` and ``--retry-delay`` say; None for a command without them."""
    if "tries" not in options:
        return None
    return RetryPolicy(options["tries"], options["retry_delay"])


def http_pool(options: Mapping[str, Any] | None = None) -> HttpPool:
    """Return connections as the environment and the flags want them.

    Args:
        options: The values of ``--ca-file``, ``--plain-http`` and ``--timeout`` or
            ``--stall-timeout``, by name, as far as the command has them.

    Raises:
        InputError: A proxy variable is malformed.
    """
    given = options or {}
    settings = http_settings_of(
        read_environment(), given.get("ca_file"), given.get("plain_http", ())
    )
    timeout_s = given.get("timeout") or given.get("stall_timeout") or settings.read_timeout_s
    return HttpPool(replace(settings, read_timeout_s=timeout_s))


def find_cache_dir(value: str | None) -> Path:
    """Return the cache directory: the flag, else where huggingface_hub itself looks."""
    return Path(value).expanduser() if value else read_environment().hub_cache_dir
