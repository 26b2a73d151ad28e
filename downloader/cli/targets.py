"""The targets of a command: flags that name them, and the result of each."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from downloader.cli.console import describe_error, print_json, print_result, say_error
from downloader.cli.options import F, compose, connection_options
from downloader.errors import HfModelsError, InputError
from downloader.library.publisher import TargetResult
from downloader.oci.reference import Reference, parse_reference


def to_option(
    help_text: str = "Where to, like ghcr.io/me/models; repeatable.", *, required: bool = True
) -> Callable[[F], F]:
    """Return the flag ``--to NAME``, as the argument ``targets``."""
    return click.option(
        "--to", "targets", multiple=True, required=required, metavar="NAME", help=help_text
    )


registry_options = compose(
    connection_options,
    click.option(
        "--upload",
        type=click.Choice(["auto", "chunked", "stream"]),
        default="auto",
        show_default=True,
        help="How the registry takes a large blob; auto knows and learns.",
    ),
)


def parse_targets(texts: Sequence[str]) -> list[Reference]:
    """Parse what ``--to`` names; what is named twice is one target.

    Raises:
        InputError: As `parse_target`.
    """
    return list(dict.fromkeys(parse_target(text) for text in texts))


def parse_target(text: str) -> Reference:
    """Parse what ``--to`` names: a repository, without a tag.

    Raises:
        InputError: It is none, or it names no registry and no user.
    """
    reference = parse_reference(text)
    if reference.tag or reference.digest:
        raise InputError(
            f"want a repository like ghcr.io/me/models, without tag, got {text!r}",
            hint=f"write {reference.name}; publish takes the tag as --tag, assemble as TAG",
        )
    if "/" not in text:
        raise InputError(
            f"want a repository like ghcr.io/me/models, got {text!r}",
            hint="name its registry, or for Docker Hub its user: docker.io/me/models",
        )
    return reference


def report_results(
    results: Sequence[TargetResult], *, as_json: bool = False, **facts: object
) -> int:
    """Print what became of each target; return the exit code of the first that failed.

    One that fails does not stop the others.

    Args:
        results: Of the targets.
        as_json: Whether for programs.
        facts: More of the document for programs, by key.
    """
    if as_json:
        print_json({**facts, "targets": [_to_json(result) for result in results]})
    for result in results:
        if result.error:
            say_error(result.error.message, result.error.hint)
        elif not as_json:
            print_result(f"{result.image}@{result.digest}")
    return exit_code_of(result.error for result in results)


def _to_json(result: TargetResult) -> dict[str, Any]:
    error = describe_error(result.error)
    return {"image": result.image, "digest": result.digest, "error": error}


def exit_code_of(errors: Iterable[HfModelsError | None]) -> int:
    """Return the exit code of the first target that failed, 0 if none did."""
    return next((error.exit_code for error in errors if error), 0)
