"""``hf-models assemble``: one image of the shards that other machines published."""

import time

import click

from downloader.cli.command import examples
from downloader.cli.console import ConsoleProgress
from downloader.cli.options import json_option, quiet_option, sign_options
from downloader.cli.repos import base_option, modelpack_option, plan_option, read_plan
from downloader.cli.targets import parse_targets, registry_options, report_results, to_option
from downloader.errors import InputError
from downloader.hub.repo import is_commit
from downloader.library.connection import Connection
from downloader.library.publisher import assemble as assemble_shards
from downloader.oci.reference import check_tag
from downloader.publish import AssembleOptions
from downloader.signing import Signer


@click.command(
    epilog=examples(
        "assemble llama-3.1-8b --to quay.io/me/models",
        "assemble llama-3.1-8b --to quay.io/me/models --shards 4 --base none",
    )
)
@click.argument("tag")
@to_option()
@click.option(
    "--shards",
    type=click.IntRange(1, 9999),
    metavar="N",
    help="How many there are, for a registry that lists no tags.",
)
@click.option("--revision", metavar="COMMIT", help="Only shards of this commit.")
@plan_option("What was published.  [default: what the shards say]")
@base_option
@modelpack_option
@sign_options
@click.option("--force", is_flag=True, help="Overwrite a tag that carries another repo.")
@registry_options
@json_option
@quiet_option
def assemble(
    tag: str,
    targets: tuple[str, ...],
    shards: int | None,
    revision: str | None,
    plan_file: str | None,
    base: str | None,
    modelpack: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    signer: Signer | None,
    connection: Connection,
) -> int:
    """Make one image, one tag, of shards that other machines published; moves no model bytes."""
    begun_at = time.monotonic()
    check_tag(tag)
    if plan_file and revision:
        raise InputError("--plan and --revision exclude each other", hint="a plan names its commit")
    if revision and not is_commit(revision):
        raise InputError(f"want a commit of 40 hex digits, got {revision!r}")
    names = [reference.name for reference in parse_targets(targets)]
    how = AssembleOptions(
        read_plan(plan_file) if plan_file else None,
        revision,
        shards,
        modelpack=modelpack,
        force=force,
        signer=signer,
    )
    with ConsoleProgress("assemble", quiet=quiet) as progress:
        done = assemble_shards(
            tag,
            names,
            progress=progress,
            base=base,
            options=how,
            connection=connection,
        )
    seconds = round(time.monotonic() - begun_at, 3)
    return report_results(done, as_json=as_json, seconds=seconds)
