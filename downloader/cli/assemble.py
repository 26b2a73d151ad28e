"""``hf-models assemble``: one image of the shards that other machines published."""

import time
from contextlib import closing
from typing import Any

import click

from downloader.cli.bases import base_option, modelpack_option
from downloader.cli.command import examples
from downloader.cli.console import ConsoleProgress
from downloader.cli.options import http_pool, json_option, quiet_option, sign_option
from downloader.cli.plan_file import plan_option, read_plan
from downloader.cli.registries import (
    make_registries,
    parse_targets,
    registry_options,
    to_option,
)
from downloader.cli.targets import at_each, describe_results, report_results
from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.hub.repo import is_commit
from downloader.library.publisher import find_base
from downloader.oci.reference import check_tag, parse_reference
from downloader.publish import AssembleOptions
from downloader.publish import assemble as assemble_shards
from downloader.signing import Signer


@click.command(
    epilog=examples(
        "assemble llama-3.1-8b --to quay.io/me/models",
        "assemble llama-3.1-8b --to quay.io/me/models --shards 4 --base none",
    )
)
@click.argument("tag")
@to_option
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
@sign_option
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
    **options: Any,
) -> int:
    """Make one image, one tag, of shards that other machines published; moves no model bytes."""
    begun_at = time.monotonic()
    check_tag(tag)
    if plan_file and revision:
        raise InputError("want --plan or --revision, got both", hint="a plan names its commit")
    if revision and not is_commit(revision):
        raise InputError(f"want a commit of 40 hex digits, got {revision!r}")
    references = parse_targets(targets)
    plan = read_plan(plan_file) if plan_file else None
    with (
        closing(http_pool(options)) as http,
        ConsoleProgress("assemble", quiet=quiet) as progress,
    ):
        registries = make_registries(options, http, references, progress=progress)
        how = AssembleOptions(
            plan,
            revision,
            shards,
            find_base(base, registries, read_environment(), asks=True),
            modelpack=modelpack,
            force=force,
            signer=Signer(options["sign_key"]) if options["sign_key"] else None,
        )

        def join(image: str) -> str:
            store = registries.open(parse_reference(image), for_writing=True)
            return assemble_shards(store, tag, how, progress)

        done = at_each([str(reference.with_tag(tag)) for reference in references], join)
    seconds = round(time.monotonic() - begun_at, 3)
    document = {"seconds": seconds, "targets": describe_results(done)}
    return report_results(done, document if as_json else None)
