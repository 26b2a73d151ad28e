"""Choosing a manifest of an index by platform, and reading an image's labels. No I/O."""

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from downloader.errors import HfModelsError, InputError, ProtocolError
from downloader.oci.compression import has_zstd
from downloader.oci.digest import Digest
from downloader.oci.manifest import (
    IMAGE_CONFIGS,
    ZSTD_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)

CONFIG_LIMIT_BYTES = 16 * 1024**2  # a history of many thousand lines

# Documents that are read to find an image, in sum; each counts as some 128 KiB at least.
_DOCUMENTS_LIMIT_BYTES = 16 * 1024**2
_DOCUMENT_BYTES = 128 * 1024
_NESTING_LIMIT = 4  # an archive's index, an image's index, a manifest
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

GetBlob = Callable[[Digest], bytes | None]


@dataclass(frozen=True)
class NamedManifest:
    """A manifest or index that an image's files name, and the names that it has there."""

    data: bytes
    names: tuple[str, ...] = ()


def all_labels(manifest: Manifest, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of a config, and the annotations of a manifest over them."""
    return config_labels(config) | dict(manifest.annotations)


def config_labels(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of a config that are texts."""
    inner = config.get("config")
    labels = inner.get("Labels") if isinstance(inner, Mapping) else None
    found = labels if isinstance(labels, Mapping) else {}
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


def choose_manifest(data: bytes, get: GetBlob) -> Manifest:
    """Return the image manifest that ``data`` is or leads to.

    The weights are the same for every platform; this machine's comes first, because its
    blobs are the likeliest to be there.

    Args:
        data: A manifest or an index.
        get: Returns a manifest by digest, None where it is missing.

    Raises:
        ProtocolError: It is malformed, leads to no image, or only through too many documents.
    """
    left_bytes = _DOCUMENTS_LIMIT_BYTES

    def get_counted(digest: Digest) -> bytes | None:
        nonlocal left_bytes
        found = get(digest)
        left_bytes -= _DOCUMENT_BYTES + len(found or b"")
        if left_bytes < 0:
            raise ProtocolError("the index names too many documents before an image")
        return found

    return _choose(data, get_counted, 0)


def _choose(data: bytes, get: GetBlob, depth: int) -> Manifest:
    document = parse_manifest(data)
    if isinstance(document, Manifest):
        return document
    if depth >= _NESTING_LIMIT:
        raise ProtocolError(f"want an index of images, got indexes {depth} deep")
    reason: HfModelsError = ProtocolError("the index names no image")
    for descriptor in _by_preference(document):
        below = get(descriptor.digest)
        if below is None:
            continue
        try:
            manifest = _choose(below, get, depth + 1)
        except ProtocolError as error:
            reason = error
            continue
        if manifest.config.media_type in IMAGE_CONFIGS and not manifest.artifact_type:
            return manifest
    raise reason


def host_architecture() -> str:
    """Return the architecture of images for this machine, amd64 where it has none of its own."""
    return _ARCHITECTURES.get(platform.machine().lower(), "amd64")


def _by_preference(index: Index) -> list[Descriptor]:
    host = host_architecture()

    def rank(descriptor: Descriptor) -> int:
        built_for = descriptor.platform
        if built_for is None:
            return 2  # an archive's only entry, or another specification's manifest
        if built_for.os != "linux":
            return 9 if built_for.os == "unknown" else 4
        return {host: 0, "amd64": 1}.get(built_for.architecture, 3)

    def is_zstd(descriptor: Descriptor) -> bool:
        return ZSTD_MANIFEST.items() <= descriptor.annotations.items()

    images = [d for d in index.manifests if not d.artifact_type and rank(d) < 9]
    # Of an image in two forms, the smaller one, if this Python can read it.
    return sorted(images, key=lambda d: (rank(d), is_zstd(d) != has_zstd()))


def pick_named(manifests: Iterable[NamedManifest], tag: str | None, name: str) -> NamedManifest:
    """Return the manifest that ``tag`` names, or the only one.

    Args:
        manifests: The images that the archive's index lists.
        tag: A tag, or a whole name with its tag; None for the only image.
        name: Of the files, for messages.

    Raises:
        InputError: There are several, or none.
    """
    every = list(manifests)
    found = every
    if tag is not None:
        whole = [item for item in every if tag in item.names]
        found = whole or [i for i in every if any(n.endswith(f":{tag}") for n in i.names)]
    elif any(item.names for item in every):
        # Some tools list the manifests of an index beside it, without a name.
        found = [item for item in every if item.names]
    distinct = {item.data: item for item in found}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    names = sorted({known for item in every for known in item.names})
    raise InputError(
        f"{name}: want one image, got {len(distinct)}",
        hint=f"name one: {name}:TAG, of {', '.join(names)}" if names else None,
    )
