"""``hf-models refresh``: the published tags that are behind the Hub."""

from collections.abc import Sequence
from pathlib import Path

import click

from downloader.cli.command import examples
from downloader.cli.console import ConsoleProgress, print_json, print_table, say, say_error
from downloader.cli.farm import write_jobs
from downloader.cli.github import write_summary
from downloader.cli.models import models_file_option, read_models_file
from downloader.cli.options import connection_options, json_option
from downloader.cli.targets import parse_target, to_option
from downloader.environment import read_environment
from downloader.errors import TransportError
from downloader.farm.destinations import choose_destinations
from downloader.farm.jobs import Job
from downloader.farm.models import Model
from downloader.farm.refresh import Freshness, check_freshness
from downloader.farm.summary import table
from downloader.library.connection import Connection, open_session
from downloader.library.publisher import open_hub
from downloader.oci.reference import parse_reference
from downloader.oci.registry import Registry
from downloader.units import format_count

COLUMNS = ("tag", "repo", "state", "published", "Hub", "note")


@click.command(epilog=examples("refresh", "refresh --to ghcr.io/me/hf-models --json"))
@models_file_option
@to_option("Look there, not where models.toml says; repeatable.", required=False)
@click.option(
    "--github-output",
    is_flag=True,
    help="Look where `farm login` logged in; write what is due to $GITHUB_OUTPUT.",
)
@connection_options
@json_option
def refresh(
    models_file: Path,
    targets: tuple[str, ...],
    github_output: bool,
    as_json: bool,
    connection: Connection,
) -> int:
    """Compare every tag of models.toml with the Hub's commit; moves no model bytes."""
    models = read_models_file(models_file)
    chosen = tuple(parse_target(target).name for target in targets)
    references = [parse_reference(name) for name in chosen]
    with open_session(connection, None, ConsoleProgress("refresh"), references) as session:
        hub = open_hub(session)

        def stores_of(model: Model) -> dict[str, Registry]:
            names = chosen or model.registries
            if github_output:
                hosts, named = _words("LOGGED_IN"), _words("NAMED_IMAGES")
                names = choose_destinations(names, hosts, named, is_exact=bool(chosen)).images
            return {name: session.open(parse_reference(name)) for name in names}

        found = check_freshness(
            models.entries, stores_of, lambda model: hub.resolve(model.repo, model.revision)
        )
    if github_output:
        due = [item for item in found if item.is_due]
        # What a fork adds is published by the push that adds it; the rest came with the fork.
        left = [item for item in due if models.is_inherited and not item.is_published]
        if left:
            count = format_count(len(left), "model")
            say(
                f"left out: {count} that {models_file} of another owner names, never published here"
            )
        write_jobs([Job(item.model) for item in due if item not in left])
        write_summary(table(COLUMNS, _rows(found)))
    if as_json:
        print_json({"models": [item.to_json() for item in found]})
    else:
        print_table(f"{models_file}: {format_count(len(found), 'model')}", COLUMNS, _rows(found))
    lost = [item for item in found if item.state == "unknown"]
    if found and len(lost) == len(found):
        say_error(f"no answer about {format_count(len(found), 'model')}: {lost[0].note}")
        return TransportError.exit_code
    return 0


def _words(variable: str) -> list[str]:
    return read_environment().get(variable, "").split()


def _rows(found: Sequence[Freshness]) -> list[tuple[str, ...]]:
    return [
        (
            item.model.tag,
            item.model.repo.id,
            item.state,
            ", ".join(sorted({(commit or "none")[:12] for commit in item.published.values()})),
            (item.commit or "")[:12],
            item.note,
        )
        for item in found
    ]
