"""``hf-models remove``: a published tag, from its registry."""

import sys

import click

from downloader.cli.command import examples
from downloader.cli.console import print_answer, say
from downloader.cli.options import connection_options, json_option
from downloader.errors import InputError
from downloader.library.connection import Connection
from downloader.library.publisher import remove as remove_image


@click.command(
    epilog=examples(
        "remove ghcr.io/me/hf-models:qwen2.5-0.5b",
        "remove registry.example.com/models:old --yes",
    )
)
@click.argument("image", metavar="IMAGE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
@json_option
def remove(image: str, yes: bool, as_json: bool, connection: Connection) -> None:
    """Remove a published tag; registries free its layers when they clean up.

    Some registries remove the image itself, with every tag of it.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"without a terminal, removing {image} needs --yes")
        click.confirm(f"Remove {image}?", abort=True, err=True)
    remove_image(image, connection=connection, note=say)
    print_answer({"image": image, "removed": True}, f"{image}: removed", as_json=as_json)
