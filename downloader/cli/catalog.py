"""``hf-models catalog``: the page of what is published, and the table in the READMEs."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from downloader.cli.command import examples
from downloader.cli.console import ConsoleProgress, print_result, say
from downloader.cli.models import models_file_option, read_models_file
from downloader.cli.targets import parse_target, registry_options
from downloader.document import Document
from downloader.environment import read_environment
from downloader.errors import InputError, ProtocolError, StorageError
from downloader.farm.catalog.catalog import Catalog, check_hub, date_published, read_catalog
from downloader.farm.catalog.page import SOURCE_URL, render_feed, render_page
from downloader.farm.catalog.readme import (
    CATALOG_LIMIT_BYTES,
    language_of,
    parse_facts,
    render_table,
    replace_table,
)
from downloader.farm.models import Models
from downloader.fs import storage_errors
from downloader.library.connection import Connection, open_session
from downloader.oci.manifest import parse_json_object
from downloader.units import format_count

_README = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog=examples(
        "catalog --output dist/site --check-hub",
        "catalog --readme README.md README.zh-CN.md",
    )
)
@models_file_option
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="dist/site",
    show_default=True,
    metavar="DIR",
    help="Where index.html, atom.xml and catalog.json go; an older catalog.json there has dates.",
)
@click.option(
    "--check-hub", "asks_hub", is_flag=True, help="Ask the Hub which images are behind it."
)
@click.option("--readme", is_flag=True, help="Write the table of models into README... instead.")
@click.option("--check", is_flag=True, help="With --readme: exit code 2 where it is out of date.")
@click.option(
    "--facts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --readme: a catalog.json for license and size.",
)
@click.argument("readmes", nargs=-1, type=_README, metavar="[README]...")
@registry_options
def catalog(
    models_file: Path,
    output: Path,
    asks_hub: bool,
    readme: bool,
    check: bool,
    facts: Path | None,
    readmes: tuple[Path, ...],
    connection: Connection,
) -> None:
    """Write a static page of what is published, read from the registries' manifests.

    With --readme README.md README.zh-CN.md: write the same models, offline, as a table between
    the markers of these files.
    """
    models = read_models_file(models_file)
    if readme != bool(readmes) or ((check or facts) and not readme):
        raise InputError("--readme needs names of READMEs; names, --check and --facts need it")
    if readme:
        _write_readmes(models, readmes, facts, check)
    else:
        _write_site(_read(models, connection, asks_hub), output)


def _read(models: Models, connection: Connection, asks_hub: bool) -> Catalog:
    names = dict.fromkeys(name for model in models for name in model.registries)
    references = {name: parse_target(name) for name in names}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with (
        ConsoleProgress("catalog") as progress,
        open_session(connection, None, progress, references.values()) as session,
    ):
        stores = {name: session.open(reference) for name, reference in references.items()}
        found = read_catalog(models, stores, now, say)
        if not asks_hub:
            return found
        from downloader.library.publisher import open_hub

        return check_hub(found, open_hub(session).commit_of, say)


def _previous(path: Path) -> Document | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return Document(parse_json_object(data, str(path), CATALOG_LIMIT_BYTES), str(path))


def _write_site(found: Catalog, output: Path) -> None:
    document = found.to_json()
    try:
        previous = _previous(output / "catalog.json")
        document = date_published(document, previous) if previous else document
    except ProtocolError as error:  # dates are not worth a page
        say(f"no dates of publication: {error.message}")
    texts = {
        "index.html": render_page(document, _source_url()),
        "atom.xml": render_feed(document, _source_url()),
        "catalog.json": json.dumps(document, indent=2, ensure_ascii=False) + "\n",
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (output / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    published = sum(entry.published is not None for entry in found.entries)
    print_result(
        f"{output}/index.html: {format_count(len(found.entries), 'model')}, {published} published"
    )


def _source_url() -> str:
    """Return the GitHub repository of the job, so that a fork's page leads to the fork."""
    server, name = (
        read_environment().get("GITHUB_SERVER_URL"),
        read_environment().get("GITHUB_REPOSITORY"),
    )
    return f"{server}/{name}" if server and name else SOURCE_URL


def _write_readmes(
    models: Models, readmes: tuple[Path, ...], facts: Path | None, is_check: bool
) -> None:
    known = parse_facts(facts.read_bytes()) if facts else None
    stale: list[str] = []
    for path in readmes:
        try:
            before = path.read_text(encoding="utf-8")
        except ValueError as error:
            raise InputError(f"want text in UTF-8 in {path}, got {error}") from error
        table = render_table(models, language_of(path.name), known)
        after = replace_table(before, table, str(path))
        if after != before and not is_check:
            with storage_errors(path):
                path.write_text(after, encoding="utf-8", newline="\n")
        stale += [str(path)] if after != before else []
    if stale and is_check:
        command = f"nox -s catalog -- --readme {' '.join(map(str, readmes))}"
        command += f" --facts {facts}" if facts else ""
        raise InputError(
            f"the models in {', '.join(stale)} are out of date", hint=f"run: {command}"
        )
    print_result(f"{len(readmes) - len(stale)} up to date, {len(stale)} written")
