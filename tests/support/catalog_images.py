"""Small images with the annotations of real ones, for whatever reads only manifests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from downloader.hub.repo import Repo, RepoFile, Selection, Snapshot
from downloader.image import config_json, labels
from downloader.oci.digest import digest_of
from downloader.oci.manifest import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Index,
    Manifest,
    Platform,
    describe,
)
from downloader.plan import Plan, make_plan
from downloader.publish.copy import put_blob

if TYPE_CHECKING:
    from collections.abc import Mapping

    from downloader.oci.store import Store

BASE = {"name": "docker.io/library/busybox:stable-musl", "digest": f"sha256:{'b' * 64}"}
AMD64 = Platform("linux", "amd64")
UNKNOWN = Platform("unknown", "unknown")
LAYERS = (b"first layer", b"second layer")


def make_image_plan(repo_id: str = "org/tiny", **fields: Any) -> Plan:
    """Make the plan of two files of 12345 bytes together; ``fields`` are of the snapshot."""
    files = (
        RepoFile("config.json", 45, "1" * 40),
        RepoFile("model.safetensors", 12300, "2" * 40, "3" * 64),
    )
    usual: dict[str, Any] = {
        "commit": "a" * 40,
        "revision": "main",
        "license": "Apache-2.0",
        "description": "A small model.",
        "task": "text-generation",
        "parameters": 1_543_714_304,
        "library": "transformers",
        "committed_at": datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
    }
    return make_plan(Snapshot(repo=Repo("model", repo_id), files=files, **{**usual, **fields}))


def put_image(
    store: Store,
    tag: str,
    plan: Plan | None,
    *,
    annotated: bool = True,
    indexed: bool = True,
    changed: Mapping[str, str] | None = None,
    has_base: bool = True,
) -> str:
    """Put an image and return the digest that its tag names.

    Args:
        store: Where to.
        tag: Under which name.
        plan: What it says that it carries; None for an image of somebody else.
        annotated: Whether the manifests say it, or only the config, as after `docker push`.
        indexed: Whether it is an index with an attestation beside the image.
        changed: Annotations to overwrite, by the last part of their key.
        has_base: Whether it says that it has a base image.
    """
    base = BASE if has_base else None
    facts = dict(labels(plan, base)) if plan else {}
    for key, value in (changed or {}).items():
        full = next(name for name in facts if name.endswith(f".{key}"))
        facts[full] = value
    for layer in LAYERS:
        put_blob(store, layer, digest_of(layer))
    diff_ids = [digest_of(layer) for layer in LAYERS]
    config = config_json(plan, AMD64, diff_ids, {}, base) if plan else b'{"config":{"Labels":null}}'
    put_blob(store, config, digest_of(config))
    manifest = Manifest(
        describe(config, CONFIG),
        tuple(describe(layer, LAYER) for layer in LAYERS),
        facts if annotated else {},
    )
    data = manifest.to_bytes()
    if not indexed:
        return store.put_manifest(tag, data, MANIFEST)
    other = replace(manifest, layers=manifest.layers[:1], annotations={}).to_bytes()
    for inner in (data, other):
        store.put_manifest(digest_of(inner), inner, MANIFEST)
    index = Index(
        (
            replace(describe(other, MANIFEST), platform=UNKNOWN),
            replace(describe(data, MANIFEST), platform=AMD64),
        ),
        facts if annotated else {},
    )
    return store.put_manifest(tag, index.to_bytes(), INDEX)


def partial(**fields: Any) -> Plan:
    """Make the plan of a gated repo with some of its files."""
    chosen = Selection(include=("*.json",))
    return make_image_plan(is_partial=True, gated="auto", selection=chosen, **fields)
