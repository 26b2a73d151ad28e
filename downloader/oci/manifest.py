"""Manifests, indexes and configs: values, strict parsing, deterministic bytes.

Source: OCI image specification 1.1; Docker's image manifest v2 schema 2 for what
``docker push`` writes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from downloader.document import check_parsed_size, load_json
from downloader.errors import ProtocolError
from downloader.oci.digest import Digest, digest_of, parse_digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
IMAGE_CONFIGS = {CONFIG, "application/vnd.docker.container.image.v1+json"}
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)

# The specification asks registries to accept 4 MiB; nothing larger can be a manifest.
MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024
# Of a manifest in memory: 1000 layers take 1 MiB, and `list` reads eight manifests at once.
PARSED_LIMIT_BYTES = 16 * 1024 * 1024
LAYERS_LIMIT = 1000  # engines stop at 127; more is an attack, not an image

# The known pattern for an image in two forms: podman, skopeo and CRI-O take the annotated one.
ZSTD_MANIFEST: Mapping[str, str] = MappingProxyType(
    {"io.github.containers.compression.zstd": "true"}
)

_EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Platform:
    """The platform of an image: operating system, architecture and variant."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def to_json(self) -> dict[str, str]:
        """Return the platform as an index holds it."""
        plain = {"architecture": self.architecture, "os": self.os}
        return plain | ({"variant": self.variant} if self.variant else {})


@dataclass(frozen=True)
class Descriptor:
    """A blob or manifest by media type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as a manifest holds it."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
        }
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        if self.platform:
            document["platform"] = self.platform.to_json()
        return document


@dataclass(frozen=True)
class Manifest:
    """An image manifest: a config and layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    media_type: str = MANIFEST
    artifact_type: str | None = None
    subject: Descriptor | None = None  # of a referrer; not read back

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON; equal manifests give equal bytes."""
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        document["config"] = self.config.to_json()
        document["layers"] = [layer.to_json() for layer in self.layers]
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        if self.subject:
            document["subject"] = self.subject.to_json()
        return to_json_bytes(document)


@dataclass(frozen=True)
class Index:
    """An image index: one manifest per platform."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    media_type: str = INDEX

    def to_bytes(self) -> bytes:
        """Return the index as JSON; equal indexes give equal bytes."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [manifest.to_json() for manifest in self.manifests],
        }
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        return to_json_bytes(document)


def to_json_bytes(document: Mapping[str, Any] | list[Any]) -> bytes:
    """Return compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def describe(data: bytes, media_type: str) -> Descriptor:
    """Return the descriptor of ``data``."""
    return Descriptor(media_type, digest_of(data), len(data))


def parse_manifest(data: bytes) -> Manifest | Index:
    """Parse an untrusted manifest or index.

    Raises:
        ProtocolError: It is too large, no JSON, of an unknown media type, or a key is missing
            or malformed; the message names the key.

    >>> parse_manifest(b'{"schemaVersion": 2, "layers": []}')
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: manifest.config: want an object, got NoneType
    """
    document = parse_json_object(data, "manifest", MANIFEST_LIMIT_BYTES, PARSED_LIMIT_BYTES)
    if document.get("schemaVersion") != 2:
        raise ProtocolError(f"manifest.schemaVersion: want 2, got {document.get('schemaVersion')}")
    media_type = document.get("mediaType")
    if media_type is not None and str(media_type) not in MANIFEST_TYPES:
        raise ProtocolError(f"manifest.mediaType: want an image or an index, got {media_type!r}")
    is_index = "manifests" in document if media_type is None else media_type in _INDEX_TYPES
    annotations = _annotations(document, "manifest")
    if is_index:
        items = _descriptors(document, "manifests")
        return Index(items, annotations, media_type or INDEX)
    config = parse_descriptor(_object(document.get("config"), "manifest.config"), "config")
    artifact_type = document.get("artifactType")
    return Manifest(
        config,
        _descriptors(document, "layers"),
        annotations,
        media_type or MANIFEST,
        artifact_type if isinstance(artifact_type, str) else None,
    )


_INDEX_TYPES = {INDEX, DOCKER_INDEX}


def parse_json_object(
    data: bytes, what: str, limit_bytes: int, parsed_limit_bytes: int | None = None
) -> dict[str, Any]:
    """Parse a JSON object of bounded size.

    Args:
        data: As it came.
        what: It, for messages.
        limit_bytes: Of its text.
        parsed_limit_bytes: Of the memory that it takes; None for eight times ``limit_bytes``.

    Raises:
        ProtocolError: It is larger, no JSON, nested too deeply, or no object.
    """
    if len(data) > limit_bytes:
        raise ProtocolError(f"{what}: want at most {limit_bytes} bytes, got {len(data)}")
    check_parsed_size(data, what, parsed_limit_bytes or 8 * limit_bytes)
    try:
        document = load_json(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{what}: want JSON, got {data[:40]!r}") from error
    return dict(_object(document, what))


def parse_descriptor(document: Mapping[str, Any], where: str) -> Descriptor:
    """Parse one descriptor.

    Args:
        document: The JSON object.
        where: Its place, for messages: ``layers[2]``.

    Raises:
        ProtocolError: A key is missing or malformed.
    """
    media_type = document.get("mediaType")
    size = document.get("size")
    if not isinstance(media_type, str):
        raise ProtocolError(f"{where}.mediaType: want a string, got {type(media_type).__name__}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise ProtocolError(f"{where}.size: want a size in bytes, got {size!r}")
    artifact_type = document.get("artifactType")
    return Descriptor(
        media_type=media_type,
        digest=parse_digest(document.get("digest"), f"{where}.digest"),
        size_bytes=size,
        annotations=_annotations(document, where),
        platform=_platform(document.get("platform"), f"{where}.platform"),
        artifact_type=artifact_type if isinstance(artifact_type, str) else None,
    )


def _descriptors(document: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    items = document.get(key)
    if not isinstance(items, list):
        raise ProtocolError(f"manifest.{key}: want a list, got {type(items).__name__}")
    if len(items) > LAYERS_LIMIT:
        raise ProtocolError(f"manifest.{key}: want at most {LAYERS_LIMIT} items, got {len(items)}")
    places = (f"{key}[{i}]" for i in range(len(items)))
    return tuple(
        parse_descriptor(_object(item, where), where)
        for item, where in zip(items, places, strict=True)
    )


def _platform(document: object, where: str) -> Platform | None:
    if document is None:
        return None
    parts = _object(document, where)
    texts = [parts.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(text, str) for text in texts):
        raise ProtocolError(f"{where}: want strings, got {texts!r:.200}")
    # Some tools write an empty object, or leave out what they do not know.
    return Platform(texts[0], texts[1], texts[2] or None) if texts[0] and texts[1] else None


def _annotations(document: Mapping[str, Any], where: str) -> Mapping[str, str]:
    value = document.get("annotations")
    if value is None:
        return _EMPTY
    items = _object(value, f"{where}.annotations")
    if not all(isinstance(text, str) for text in items.values()):
        raise ProtocolError(f"{where}.annotations: want strings only")
    return dict(items)


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ProtocolError(f"{where}: want an object, got {type(value).__name__}")
    return value
