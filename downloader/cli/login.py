"""``hf-models login`` and ``logout``: a registry's credential, where docker and podman look."""

import click

from downloader.cli.command import examples
from downloader.cli.console import print_answer
from downloader.cli.options import (
    Text,
    http_options,
    json_option,
    plain_http_option,
    read_password,
)
from downloader.errors import InputError
from downloader.library import publisher
from downloader.library.connection import Connection


@click.command(
    epilog=examples(
        "login ghcr.io --username me",
        "login registry.example.com:5000 --username me --password-stdin",
    )
)
@click.argument("registry", metavar="REGISTRY")
@click.option(
    "--username", "user", type=Text(), metavar="USER", help="Asked for where it is missing."
)
@click.option(
    "--password-stdin",
    "reads_password",
    is_flag=True,
    help="Read the password from standard input.",
)
@http_options
@plain_http_option
@json_option
def login(
    registry: str, user: str | None, reads_password: bool, as_json: bool, connection: Connection
) -> None:
    """Check a registry's credential and store it where docker and podman look for it.

    A helper of docker's config.json is used where that names one.
    """
    if user is None:
        user = _ask("User", "--username", hide_input=False)
    if reads_password:
        password = read_password()
    else:
        password = _ask("Password or token", "--password-stdin", hide_input=True)
    place = publisher.login(registry, user, password, connection=connection)
    document = {"registry": registry, "username": user, "stored_in": place}
    print_answer(document, f"logged in to {registry} as {user}; stored in {place}", as_json=as_json)


def _ask(what: str, flag: str, *, hide_input: bool) -> str:
    try:
        answer: str = click.prompt(what, hide_input=hide_input, err=True, type=Text())
    except click.Abort as error:
        if isinstance(error.__context__, EOFError):
            raise InputError(f"nobody is there to answer: {flag} is needed") from None
        raise
    return answer


@click.command(epilog=examples("logout ghcr.io", "logout registry.example.com:5000"))
@click.argument("registry", metavar="REGISTRY")
@json_option
def logout(registry: str, as_json: bool) -> None:
    """Remove the stored credential of a registry."""
    was_there = publisher.logout(registry)
    text = f"{registry}: {'credential removed' if was_there else 'none was stored'}"
    print_answer({"registry": registry, "removed": was_there}, text, as_json=as_json)
