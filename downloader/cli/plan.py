"""``hf-models plan``: the layers of a future image. Downloads nothing."""

import json
from typing import Any

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    UNKNOWN,
    print_facts,
    print_json,
    print_result,
    print_table,
    say,
)
from downloader.cli.github import check_outputs, write_outputs
from downloader.cli.options import http_options, json_option, tag_option
from downloader.cli.repos import layer_options, repo_options
from downloader.farm.jobs import shards_matrix
from downloader.library.connection import Connection
from downloader.library.publisher import PlanOptions, tag_of
from downloader.library.publisher import plan as plan_repo
from downloader.plan import (
    OWN_LAYER_TITLES,
    OWN_LAYERS,
    Layer,
    Plan,
    disk_needed_bytes,
    layer_title,
)
from downloader.units import format_bytes, format_count


@click.command(
    epilog=examples(
        "plan Qwen/Qwen2.5-0.5B",
        'plan bigcode/starcoder --include "*.json" --layer-size mirror --json',
    )
)
@repo_options
@layer_options
@tag_option
@click.option(
    "--shards",
    type=click.IntRange(1, 256),  # a GitHub Actions matrix has at most 256 jobs
    default=1,
    metavar="N",
    help="Share the layers among N jobs, or fewer where there are fewer layers.",
)
@click.option(
    "--github-output",
    is_flag=True,
    help="Write matrix, commit, tag and bytes to $GITHUB_OUTPUT as well.",
)
@http_options
@json_option
def plan(
    repo_id: str,
    wanted: PlanOptions,
    tag: str | None,
    shards: int,
    github_output: bool,
    as_json: bool,
    connection: Connection,
) -> None:
    """Resolve a repo at a commit and print what would be built; downloads nothing.

    FILE names single files, or folders by a trailing slash.
    """
    if github_output:
        check_outputs()
    planned = plan_repo(repo_id, wanted, connection=connection, note=say)
    document = describe_plan(planned, tag_of(planned, tag), shards)
    count = len(document["matrix"]["include"])
    if count < shards:
        layers = format_count(len(planned.layers), "layer")
        said = f"{format_count(count, 'shard')} instead of {shards}"
        say(f"{said}: there are {layers}, and the parts of one file stay in one shard")
    if github_output:
        _write_outputs(document)
    print_plan(planned, document, as_json=as_json)


def describe_plan(plan: Plan, tag: str, shards: int) -> dict[str, Any]:
    """Return the plan for programs; sizes in bytes.

    Args:
        plan: The plan.
        tag: Of the image.
        shards: The most that there are to be; none of them is without a layer.
    """
    return {
        "tag": tag,
        "disk_bytes": disk_needed_bytes(plan),
        "download_bytes": sum(plan.snapshot.blobs.values()),
        "layer_bytes": plan.size_bytes,
        "wire_bytes": plan.wire_bytes,
        "matrix": shards_matrix(plan, shards),
        "plan": plan.to_json(),
    }


def print_plan(plan: Plan, document: dict[str, Any], *, as_json: bool) -> None:
    """Print a plan, for people or for programs.

    Args:
        plan: The plan.
        document: Its description by `describe_plan`.
        as_json: Whether for programs.
    """
    if as_json:
        print_json(document)
        return
    _print_facts(plan, document)
    print_result("")
    print_table("layers", ("#", ">bytes", "form", "carries"), layer_rows(plan))
    jobs = document["matrix"]["include"]
    if len(jobs) > 1:
        print_result("")
        rows = [(job["shard"], str(job["layers"]), str(job["size_bytes"])) for job in jobs]
        print_table("shards", ("shard", ">layers", ">bytes"), rows)


def _print_facts(plan: Plan, document: dict[str, Any]) -> None:
    snapshot = plan.snapshot
    facts = {
        "repo": f"{snapshot.repo.type} {snapshot.repo.id}",
        "revision": snapshot.revision,
        "commit": snapshot.commit,
        "license": snapshot.license or UNKNOWN,
        "gated": str(snapshot.gated).lower(),
        "files": f"{len(snapshot.files)}{' (partial)' if snapshot.is_partial else ''}",
        "bytes": f"{snapshot.size_bytes} ({format_bytes(snapshot.size_bytes)})",
        "layers": f"{len(plan.layers)} with files, {OWN_LAYERS} with programs and metadata",
        "on the wire": _wire(plan),
        "split files": str(len(plan.parts)),
        "disk for build": format_bytes(document["disk_bytes"]),
        "disk for publish": "0 B",
        "tag": document["tag"],
    }
    if document.get("images"):
        facts["starts from"] = ", ".join(document["images"].values())
    print_facts({f"{name}:": value for name, value in facts.items()})


def _wire(plan: Plan) -> str:
    packed = sum(layer.is_packed for layer in plan.layers)
    said = f"{plan.wire_bytes} ({format_bytes(plan.wire_bytes)})"
    if plan.compress == "none":
        return f"{said}, uncompressed: --compress auto looks whether zstd saves a tenth"
    about = "about " if any(layer.is_packed for layer in plan.layers) else ""
    return f"{about}{said}, {packed} of {format_count(len(plan.layers), 'layer')} compressed"


def _compression(layer: Layer) -> str:
    """Say what became of a layer, and why."""
    form = "zstd" if layer.is_packed else "plain"
    if layer.sample is None:
        return form
    return f"{form}: {layer.sample.packed_bytes / layer.sample.plain_bytes:.0%} in a sample"


def layer_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """Return number, bytes, form and contents of every layer, for a table."""
    rows = [
        (str(number), str(layer.size_bytes), _compression(layer), layer_title(layer, plan))
        for number, layer in enumerate(plan.layers, 1)
    ]
    own = enumerate(OWN_LAYER_TITLES, len(rows) + 1)
    return [*rows, *((str(number), "", "", title) for number, title in own)]


def _write_outputs(document: dict[str, Any]) -> None:
    write_outputs(
        {
            "matrix": json.dumps(document["matrix"]),
            "commit": document["plan"]["snapshot"]["commit"],
            "tag": document["tag"],
            "bytes": str(document["download_bytes"]),
        }
    )
