"""Flags about registries that several commands share, and what they mean."""

from collections.abc import Sequence

import click

from downloader.cli.options import compose, connection_options
from downloader.errors import InputError
from downloader.oci.reference import Reference, parse_reference

to_option = click.option(
    "--to",
    "targets",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Where to, like ghcr.io/me/models; repeatable.",
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
