"""``hf-models list``: the images in a repository of a registry."""

from collections.abc import Sequence
from typing import Any

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    UNKNOWN,
    ConsoleProgress,
    print_json,
    print_result,
    print_table,
    say,
)
from downloader.cli.options import json_option
from downloader.cli.targets import parse_target, registry_options
from downloader.errors import HfModelsError, InputError, RegistryError
from downloader.farm.catalog.catalog import REQUESTS_AT_ONCE
from downloader.farm.catalog.published import Published, read_published
from downloader.library.connection import Connection, open_session
from downloader.oci.reference import parse_reference
from downloader.oci.registry import Registry
from downloader.oci.store import ListableStore
from downloader.publish.checkpoint import is_image_tag
from downloader.transfer.workers import map_all
from downloader.units import format_bytes, format_count

_COLUMNS = ("tag", "repo", "commit", "license", ">size", ">files", ">layers", "date", "notes")


@click.command(
    "list", epilog=examples("list ghcr.io/me/hf-models", "list registry.example.com:5000 --json")
)
@click.argument("name", metavar="REGISTRY[/NAME]")
@registry_options
@json_option
def list_tags(name: str, as_json: bool, connection: Connection) -> None:
    """Print every image of a repository, like ghcr.io/me/hf-models, from its manifests alone.

    Of a registry without NAME: its repositories, where it lists them.
    """
    is_host = "/" not in name and (":" in name or "." in name or name == "localhost")
    reference = parse_reference(f"{name}/all") if is_host else parse_target(name)
    with (
        ConsoleProgress("list") as progress,
        open_session(connection, None, progress, [reference]) as session,
    ):
        store = session.open(reference)
        if is_host:
            _print_repositories(name, _list_repositories(store, name), as_json=as_json)
            return
        found = read_all(store)
    if not found:
        raise InputError(f"{store.name} has no image", hint="check the name; it may be private")
    if as_json:
        print_json({"repository": store.name, "images": [describe(image) for image in found]})
    else:
        print_result(f"{store.name}: {format_count(len(found), 'image')}")
        print_table("", _COLUMNS, [_row(item) for item in found])


def _list_repositories(store: Registry, host: str) -> list[str]:
    try:
        return store.list_repositories()
    except RegistryError as error:
        error.hint = f"many registries list none; name a repository: {host}/NAME"
        raise


def _print_repositories(host: str, names: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"registry": host, "repositories": [f"{host}/{name}" for name in names]})
        return
    for name in names:
        print_result(f"{host}/{name}")


def read_all(store: ListableStore) -> list[Published]:
    """Return what a store says of each of its images, by tag; one that cannot be read is left out.

    Raises:
        HfModelsError: None can be read.
    """
    tags = [tag for tag in store.list_tags() if is_image_tag(tag)]
    failures: list[HfModelsError] = []

    def read(tag: str) -> Published | None:
        try:
            return read_published(store, tag)
        except HfModelsError as error:
            say(f"{tag}: left out: {error.message}")
            failures.append(error)
            return None

    found = [image for image in map_all(read, tags, REQUESTS_AT_ONCE) if image]
    if failures and not found:
        raise failures[0]
    return found


def describe(image: Published) -> dict[str, Any]:
    """Return an image for programs; null for what it does not say."""
    labels = image.labels
    return {
        "tag": image.tag,
        "digest": image.digest,
        "repo_id": labels.repo.id if labels else None,
        "repo_type": labels.repo.type if labels else None,
        "revision": labels.revision if labels else None,
        "commit": labels.commit if labels else None,
        "committed_at": image.committed_at,
        "license": image.license,
        "files": image.files,
        "size_bytes": image.size_bytes,
        "layers": image.layers,
        "layer_bytes": image.layer_bytes,
        "partial": labels.is_partial if labels else None,
        "gated": labels.gated if labels else None,
        "private": labels.private if labels else None,
    }


def _row(image: Published) -> tuple[str, ...]:
    labels = image.labels
    notes = [key for key in ("partial", "gated", "private") if describe(image)[key]]
    size_bytes = image.layer_bytes if image.size_bytes is None else image.size_bytes
    return (
        image.tag,
        labels.repo.url_path if labels else UNKNOWN,
        labels.commit[:7] if labels else UNKNOWN,
        image.license or UNKNOWN,
        format_bytes(size_bytes),
        UNKNOWN if image.files is None else str(image.files),
        str(image.layers),
        (image.committed_at or UNKNOWN)[:10],
        ", ".join(notes),
    )
