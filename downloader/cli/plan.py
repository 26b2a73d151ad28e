"""``hf-models plan``: what would be built."""

from typing import Any

import click

from downloader.cli.console import format_bytes, print_json, print_result, print_table
from downloader.cli.options import (
    json_option,
    layer_options,
    repo_options,
    selected,
    selection,
    tag_option,
)
from downloader.hub.repo import RepoFile
from downloader.hub.snapshot import Hub
from downloader.oci.reference import check_tag, tag_from_name
from downloader.plan import Layer, Plan, make_plan, parse_layer_limit, split_shards

FILES_SHOWN = 40  # a screen; --json has them all


def resolve_plan(options: dict[str, Any]) -> tuple[Hub, Plan]:
    """Resolve what the shared flags name, and plan it.

    Args:
        options: The values of `repo_options` and `layer_options`, by name.
    """
    limit_bytes = parse_layer_limit(options["layer_size"])
    repo = selected(options["repo_id"], options["repo_type"])
    wanted = selection(options["filenames"], options["include"], options["exclude"])
    hub = Hub(token=options["token"])
    snapshot = hub.resolve(repo, options["revision"], wanted)
    plan = make_plan(snapshot, layer_limit_bytes=limit_bytes, cache_root=options["cache_root"])
    return hub, plan


def tag_of(plan: Plan, tag: str | None) -> str:
    """Return the tag that was given, else the repo's name as a tag."""
    return check_tag(tag) if tag else tag_from_name(plan.snapshot.repo.name)
