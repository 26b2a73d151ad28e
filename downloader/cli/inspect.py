"""``hf-models inspect``: the contents of an image, without its layers."""

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    UNKNOWN,
    ConsoleProgress,
    print_facts,
    print_files,
    print_json,
    print_result,
)
from downloader.cli.options import json_option, network_options, quiet_option
from downloader.library.connection import Connection
from downloader.library.consumer import inspect as inspect_image
from downloader.library.consumer import make_sheet
from downloader.restore import InspectedLayer, Inspection
from downloader.units import format_bytes, format_count


@click.command(
    epilog=examples(
        "inspect ghcr.io/me/hf-models:qwen2.5-0.5b", "inspect dist/qwen2.5-0.5b --files --json"
    )
)
@click.argument("source", metavar="SOURCE")
@click.option("--files", "with_files", is_flag=True, help="List the files as well.")
@click.option("--report", is_flag=True, help="The sheet for the approval desk, and nothing else.")
@network_options
@json_option
@quiet_option
def inspect(
    source: str, with_files: bool, report: bool, as_json: bool, quiet: bool, connection: Connection
) -> None:
    """Show what an image holds: repo, commit, license, files, layers, bytes.

    SOURCE as for restore. Of the layers only the small one that lists the files is read; a
    compressed archive has to be read to its end.
    """
    with ConsoleProgress("inspect", quiet=quiet) as progress:
        if report:
            text = make_sheet(source, progress=progress, connection=connection)
            for line in text.rstrip("\n").split("\n"):
                print_result(line)
            return
        found = inspect_image(
            source, progress=progress, with_files=with_files, connection=connection
        )
    if as_json:
        print_json(found.to_json())
        return
    _print(found)


def _print(found: Inspection) -> None:
    partial = {None: UNKNOWN, True: "some files only", False: "complete"}[found.is_partial]
    repo = f"{found.repo_type or ''} {found.repo_id}" if found.repo_id else UNKNOWN
    files = UNKNOWN if found.files is None else f"{found.files}, {_size(found.size_bytes)}"
    layers = f"{len(found.layers)}, {_size(found.layer_bytes)}"
    print_result(found.source)
    print_facts(
        {
            "kind": found.kind,
            "repo": repo.strip(),
            "commit": found.commit or UNKNOWN,
            "revision": found.revision or UNKNOWN,
            "license": found.license or UNKNOWN,
            "files": f"{files}, {partial}" if found.files is not None else files,
            "digest": found.digest,
            "layers": layers,
        }
    )
    for layer in found.layers:
        print_result(f"{_size(layer.size_bytes):>8} {_carried(layer)}")
        print_result(f"         {layer.digest}")
    if found.listing:
        print_result("")
        print_files(found.listing)


def _carried(layer: InspectedLayer) -> str:
    if not layer.paths:
        return layer.title or layer.media_type or UNKNOWN
    more = len(layer.paths) - 1
    return layer.paths[0] + (f" and {format_count(more, 'more file')}" if more else "")


def _size(size_bytes: int | None) -> str:
    return UNKNOWN if size_bytes is None else format_bytes(size_bytes)
