"""``hf-models inspect``: what an image holds, without its layers."""

from typing import Any

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    ConsoleProgress,
    print_json,
    print_result,
    print_table,
)
from downloader.cli.options import json_option, quiet_option
from downloader.cli.restore import FILES_SHOWN, find_network, network_options
from downloader.restore import Inspection, parse_source
from downloader.restore import inspect as inspect_image
from downloader.restore.foreign.stream import engine_has
from downloader.units import format_bytes


@click.command(
    epilog=examples(
        "inspect ghcr.io/me/hf-models:qwen2.5-0.5b", "inspect dist/qwen2.5-0.5b --files --json"
    )
)
@click.argument("source", metavar="SOURCE")
@click.option("--files", "with_files", is_flag=True, help="List the files as well.")
@network_options
@json_option
@quiet_option
def inspect(source: str, with_files: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Show what an image holds: repo, commit, license, files, layers, bytes.

    SOURCE as for restore. Only the manifest and the config are read, but for a compressed
    archive, which has to be read to its end.
    """
    parsed = parse_source(source, engine_has)
    network = find_network(options, [parsed])
    with ConsoleProgress("inspect", quiet=quiet) as progress:
        found = inspect_image(parsed, network, progress, with_files=with_files)
    if as_json:
        print_json(found.to_json())
        return
    _print(found)


def _print(found: Inspection) -> None:
    partial = {None: "", True: "some files only", False: "complete"}[found.is_partial]
    rows = [
        ["repo", f"{found.repo_type or ''} {found.repo_id or 'not said'}".strip()],
        ["commit", found.commit or "not said"],
        ["revision", found.revision or ""],
        ["license", found.license or "not said"],
        ["files", f"{found.files if found.files is not None else 'not said'}"],
        ["content", _size(found.content_bytes)],
        ["carries", partial],
        ["layers", f"{len(found.layers)}"],
        ["layer bytes", format_bytes(found.layer_bytes)],
        ["digest", found.digest],
    ]
    print_result(found.source)
    print_table("", ["", ""], [row for row in rows if row[1]])
    print_table(
        "",
        ["layer", "media type", ">size"],
        [[digest, kind, _size(size)] for digest, kind, size in found.layers],
    )
    if found.listing:
        shown = [[f.path, format_bytes(f.size_bytes)] for f in found.listing[:FILES_SHOWN]]
        print_table("", ["file", ">size"], shown)


def _size(size_bytes: int | None) -> str:
    return "not said" if size_bytes is None else format_bytes(size_bytes)
