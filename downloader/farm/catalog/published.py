"""The published image of a tag: read from its manifests, without a byte of any layer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from downloader.errors import ProtocolError
from downloader.hub.repo import (
    DESCRIPTION,
    LIBRARY,
    TASK,
    WANT_DESCRIPTION,
    WANT_LIBRARY,
    WANT_TASK,
)
from downloader.image import PREFIX, REPO_ID_LABEL, ImageLabels, parse_labels
from downloader.oci.digest import Digest
from downloader.oci.image import config_labels
from downloader.oci.manifest import (
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)
from downloader.oci.store import ListableStore
from downloader.publish.copy import read_config

_ANNOTATION = "org.opencontainers.image"
_PREFERRED = "linux/amd64"
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
WANT_DATE = "a date by RFC 3339"


@dataclass(frozen=True)
class Published:
    """A tag of a registry.

    Args:
        tag: Of the image.
        digest: Of the manifest or index that the tag points to.
        labels: Our labels of the image; None for a foreign image.
        license: An SPDX expression, None where nothing is stated.
        files: Number of files of the repo; None if not stated.
        size_bytes: Of those files; None where nothing is stated.
        layers: Number of layers of one platform, with those of the base image.
        layer_bytes: Of those layers, as they are stored.
        committed_at: The commit's date, RFC 3339; None where nothing is stated.
        description: One line of the model card; None where nothing is stated.
        task: The Hub's ``pipeline_tag``; None where nothing is stated.
        parameters: Number of the model's parameters; None if not stated.
        library: The library that loads it, as the Hub names it; None if not stated.
        has_base: Whether it has a base image, and so something that `docker run` can run.
    """

    tag: str
    digest: Digest
    labels: ImageLabels | None
    license: str | None
    files: int | None
    size_bytes: int | None
    layers: int
    layer_bytes: int
    committed_at: str | None
    description: str | None = None
    task: str | None = None
    parameters: int | None = None
    library: str | None = None
    has_base: bool = False


def read_published(store: ListableStore, tag: str) -> Published | None:
    """Return what a store says of a tag, None where it has no such tag.

    Raises:
        RegistryError: The registry said no.
        TransportError: No usable answer.
        ProtocolError: The manifest, or what it says of the repo, breaks its specification.
        IntegrityError: The config is not what the manifest says.
    """
    raw = store.get_manifest(tag)
    if raw is None:
        return None
    top = parse_manifest(raw.data)
    manifest = read_platform(store, tag, top)
    facts = read_facts(store, top, manifest)
    layers = manifest.layers
    return Published(
        tag=tag,
        digest=raw.digest,
        labels=parse_labels(facts),
        license=facts.get(f"{_ANNOTATION}.licenses"),
        files=_number(facts, "files"),
        size_bytes=_number(facts, "bytes"),
        layers=len(layers),
        layer_bytes=sum(layer.size_bytes for layer in layers),
        committed_at=_date(facts.get(f"{_ANNOTATION}.created")),
        description=_line(facts, "description", DESCRIPTION, WANT_DESCRIPTION),
        task=_line(facts, "task", TASK, WANT_TASK),
        parameters=_number(facts, "parameters"),
        library=_line(facts, "library", LIBRARY, WANT_LIBRARY),
        has_base=has_base(facts),
    )


def read_platform(store: ListableStore, tag: str, top: Manifest | Index) -> Manifest:
    """Return the manifest of one platform of an image, amd64 where it has it.

    Raises:
        ProtocolError: It has none.
    """
    if isinstance(top, Manifest):
        return top
    images = [item for item in top.manifests if _is_image(item)]
    if not images:
        raise ProtocolError(f"{store.name}:{tag}: the index names no image")
    chosen = next((item for item in images if str(item.platform) == _PREFERRED), images[0])
    raw = store.get_manifest(chosen.digest)
    manifest = parse_manifest(raw.data) if raw else None
    if not isinstance(manifest, Manifest):
        raise ProtocolError(f"{store.name}:{tag}: the manifest {chosen.digest} is missing")
    return manifest


def _is_image(item: Descriptor) -> bool:
    # BuildKit lists an attestation as a manifest for the platform unknown/unknown.
    return item.artifact_type is None and str(item.platform) != "unknown/unknown"


def has_base(facts: Mapping[str, str]) -> bool:
    """Whether an image has a base image, by what it says of itself."""
    return f"{_ANNOTATION}.base.name" in facts


def read_facts(
    store: ListableStore, top: Manifest | Index, manifest: Manifest
) -> Mapping[str, str]:
    """Return what an image says of itself: its annotations, or else its labels."""
    for annotations in (top.annotations, manifest.annotations):
        if REPO_ID_LABEL in annotations:
            return annotations
    # `docker push` from the classic image store keeps no annotation; the labels survive.
    config = manifest.config
    return config_labels(read_config(store, config, str(config.digest)))


def _number(facts: Mapping[str, str], key: str) -> int | None:
    text = facts.get(f"{PREFIX}.{key}")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ProtocolError(f"label {key}: want a number, got {text[:40]!r}")
    return int(text)


def _line(facts: Mapping[str, str], key: str, pattern: re.Pattern[str], want: str) -> str | None:
    text = facts.get(f"{PREFIX}.{key}")
    if text is not None and not pattern.fullmatch(text):
        raise ProtocolError(f"label {key}: want {want}, got {text[:40]!r}")
    return text


def _date(text: str | None) -> str | None:
    if text is not None and not DATE.fullmatch(text):
        raise ProtocolError(f"label created: want {WANT_DATE}, got {text[:40]!r}")
    return text
