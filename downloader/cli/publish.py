"""``hf-models publish``: Hub to registries, streaming."""

import time
from collections.abc import Sequence
from typing import Any

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    ConsoleProgress,
    describe_error,
    describe_repo,
    print_json,
    print_result,
    say,
    say_error,
)
from downloader.cli.options import json_option, quiet_option, sign_options, tag_option
from downloader.cli.repos import (
    base_option,
    layer_options,
    modelpack_option,
    plan_instead,
    plan_option,
    repo_options,
)
from downloader.cli.targets import exit_code_of, parse_targets, registry_options, to_option
from downloader.library.connection import Connection, open_session
from downloader.library.publisher import PlanOptions, open_hub, plan_of, publish_plan, tag_of
from downloader.oci.reference import parse_reference
from downloader.plan import Plan, layer_title
from downloader.publish import Outcome, PublishOptions, Shard, StoredImage, parse_shard
from downloader.signing import Signer
from downloader.units import format_bytes, parse_size


@click.command(
    epilog=examples(
        "publish Qwen/Qwen2.5-0.5B --to ghcr.io/me/hf-models",
        "publish meta-llama/Llama-3.1-8B --to quay.io/me/models --shard 1/4 --allow-gated",
    )
)
@repo_options
@layer_options
@tag_option
@to_option()
@click.option("--shard", metavar="I/N", help="Only this share of the layers; then assemble.")
@plan_option("Publish what this plan names, not what the repo is now.")
@click.option(
    "--reuse",
    multiple=True,
    metavar="IMAGE",
    help="Take layers from this image where it has them; repeatable.",
)
@base_option
@modelpack_option
@sign_options
@click.option(
    "--jobs",
    type=click.IntRange(1, 16),
    help="The most layers at once.  [default: as many as the line carries and memory allows]",
)
@click.option(
    "--memory",
    default="256MiB",
    show_default=True,
    metavar="SIZE",
    help="The most memory that the process takes.",
)
@click.option("--allow-gated", is_flag=True, help="Publish a gated or private repo as well.")
@click.option("--force", is_flag=True, help="Overwrite a tag that carries another repo.")
@click.option("--dry-run", is_flag=True, help="Say what would be moved and what is there.")
@registry_options
@json_option
@quiet_option
def publish(
    repo_id: str,
    wanted: PlanOptions,
    tag: str | None,
    targets: tuple[str, ...],
    shard: str | None,
    plan_file: str | None,
    reuse: tuple[str, ...],
    base: str | None,
    modelpack: bool,
    signer: Signer | None,
    jobs: int | None,
    memory: str,
    allow_gated: bool,
    force: bool,
    dry_run: bool,
    connection: Connection,
    as_json: bool,
    quiet: bool,
) -> int:
    """Publish a repo to registries, streaming: no engine, no disk, little memory.

    FILE names single files, or folders by a trailing slash. Interrupted at any moment and run
    again, it continues.
    """
    begun_at = time.monotonic()
    references = parse_targets(targets)
    images = [parse_reference(image) for image in reuse]
    share = parse_shard(shard) if shard else Shard()
    planned = plan_instead(plan_file, repo_id) if plan_file else None
    with (
        ConsoleProgress("publish", "layer", quiet=quiet) as progress,
        open_session(connection, None, progress, references) as session,
    ):
        how = PublishOptions(
            shard=share,
            reuse=[StoredImage(session.open(image), image.target) for image in images],
            memory_bytes=parse_size(memory),
            dry_run=dry_run,
            journal_dir=session.environment.uploads_dir,
            signer=signer,
            jobs=jobs,
            modelpack=modelpack,
            allow_gated=allow_gated,
            force=force,
        )
        hub = open_hub(session)
        plan = planned or plan_of(hub, repo_id, wanted, session.environment)
        outcomes = publish_plan(plan, session, hub, references, tag, base=base, options=how)
    seconds = time.monotonic() - begun_at
    code = report(outcomes, plan, seconds, as_json=as_json, quiet=quiet)
    if share.count > 1 and not (code or dry_run or quiet):
        to = " ".join(f"--to {reference}" for reference in references)
        say(f"once all {share.count} are there: hf-models assemble {tag_of(plan, tag)} {to}")
    return code


def report(
    outcomes: Sequence[Outcome], plan: Plan, seconds: float, *, as_json: bool, quiet: bool
) -> int:
    """Print what became of each target; return the exit code of the first that failed."""
    if as_json:
        print_json(
            {
                **describe_repo(plan.snapshot),
                "seconds": round(seconds, 3),
                "targets": [_to_json(outcome, plan) for outcome in outcomes],
            }
        )
    for outcome in outcomes:
        if not as_json:
            _print(outcome, plan, quiet=quiet)
        if outcome.error:
            say_error(outcome.error.message, outcome.error.hint)
    return exit_code_of(outcome.error for outcome in outcomes)


def _print(outcome: Outcome, plan: Plan, *, quiet: bool) -> None:
    if not quiet:
        # What a target lacks that failed is not known: it may never have answered.
        verbs = ("moved", "reused") if outcome.error else ("moved", "reused", "missing")
        for verb in verbs:
            for layer in getattr(outcome, verb):
                print_result(f"{verb:8}{layer.wire_bytes:>14}  {layer_title(layer, plan)}")
        say(f"{outcome.name}: {_summary(outcome, verbs)}")
    if outcome.error is None and not outcome.missing:
        digest = f"@{outcome.digest}" if outcome.digest else ""
        print_result(f"{outcome.name}{digest}")


def _summary(outcome: Outcome, verbs: Sequence[str]) -> str:
    shown = [verb for verb in verbs if verb != "missing" or outcome.missing]
    return ", ".join(f"{verb} {format_bytes(getattr(outcome, f'{verb}_bytes'))}" for verb in shown)


def _to_json(outcome: Outcome, plan: Plan) -> dict[str, Any]:
    layers = [
        {"status": verb, "size_bytes": layer.wire_bytes, "carries": layer_title(layer, plan)}
        for verb in ("moved", "reused", "missing")
        for layer in getattr(outcome, verb)
    ]
    return {
        "image": outcome.name,
        "digest": outcome.digest,
        "moved_bytes": outcome.moved_bytes,
        "reused_bytes": outcome.reused_bytes,
        "missing_bytes": outcome.missing_bytes,
        "layers": layers,
        "error": describe_error(outcome.error),
    }
