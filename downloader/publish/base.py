"""The base image: its layers and config per platform, from any registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from downloader.errors import InputError, ProtocolError
from downloader.image import PLATFORMS
from downloader.oci.manifest import (
    CONFIG,
    LAYER,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_json_object,
    parse_manifest,
)
from downloader.oci.store import Store
from downloader.publish.blobs import read_blob
from downloader.publish.layer_cache import CONFIG_LIMIT_BYTES

DEFAULT_BASE = "busybox:stable-musl"

_CONFIG_TYPES = {CONFIG, "application/vnd.docker.container.image.v1+json"}
# The same bytes under the names of the other specification; one manifest has one kind.
_LAYER_TYPES = {
    LAYER: LAYER,
    f"{LAYER}+gzip": f"{LAYER}+gzip",
    f"{LAYER}+zstd": f"{LAYER}+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{LAYER}+zstd",
}


@dataclass(frozen=True)
class BasePlatform:
    """A base image for one platform: its config, and its layers, bottom first."""

    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Base:
    """A base image.

    Args:
        platforms: What it has for each platform that we build for.
        store: Where its layers are; None for no base.
        name: As a reader would pull it.
        digest: Of what that name meant.
    """

    platforms: Mapping[Platform, BasePlatform]
    store: Store | None = None
    name: str = ""
    digest: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """``name`` and ``digest`` for the image's labels; empty for no base."""
        return {"name": self.name, "digest": self.digest} if self.store else {}

    @property
    def missing(self) -> list[Platform]:
        """The platforms that the base does not have."""
        return [platform for platform in PLATFORMS if platform not in self.platforms]


def no_base() -> Base:
    """Return the base of an image of files only."""
    return Base({platform: BasePlatform({}, ()) for platform in PLATFORMS})


def open_base(store: Store, reference: str, name: str) -> Base:
    """Read a base image's manifests and configs.

    Args:
        store: Where it is.
        reference: Its tag or digest there.
        name: As a reader would pull it, for messages and labels.

    Raises:
        InputError: It is not there, no image, or an image for none of our platforms.
        ProtocolError: It is malformed.
    """
    raw = store.get_manifest(reference)
    if raw is None:
        raise InputError(f"base image {name}: not found", hint="check --base, or use --base none")
    parsed = parse_manifest(raw.data)
    if isinstance(parsed, Index):
        manifests = _manifests_of(store, parsed, name)
        platforms = {item: _platform(store, found, name) for item, found in manifests.items()}
    else:
        alone = _platform(store, parsed, name)
        platforms = {_platform_of(alone.config, name): alone}
    ours = {item: platforms[item] for item in PLATFORMS if item in platforms}
    if not ours:
        wanted = " or ".join(str(platform) for platform in PLATFORMS)
        got = ", ".join(str(platform) for platform in platforms) or "none of them"
        raise InputError(f"base image {name}: want {wanted}, got {got}")
    return Base(ours, store, name, raw.digest)


def _manifests_of(store: Store, index: Index, name: str) -> dict[Platform, Manifest]:
    found: dict[Platform, Manifest] = {}
    for descriptor in index.manifests:
        platform = _plain(descriptor.platform)
        if platform not in PLATFORMS or platform in found:
            continue
        raw = store.get_manifest(descriptor.digest)
        parsed = parse_manifest(raw.data) if raw else None
        if not isinstance(parsed, Manifest):
            raise ProtocolError(f"base image {name}: {platform}: want a manifest, got none")
        found[platform] = parsed
    return found


def _plain(platform: Platform | None) -> Platform | None:
    """Return the platform without the variant that every 64-bit Arm has."""
    if platform and platform.architecture == "arm64" and platform.variant in {None, "v8"}:
        return Platform(platform.os, "arm64")
    return platform


def _platform(store: Store, manifest: Manifest, name: str) -> BasePlatform:
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise InputError(
            f"base image {name}: want an image, got an artifact of {manifest.config.media_type}"
        )
    data = read_blob(store, manifest.config, CONFIG_LIMIT_BYTES)
    config = parse_json_object(data, f"base image {name}: config", CONFIG_LIMIT_BYTES)
    layers = tuple(_layer(descriptor, name) for descriptor in manifest.layers)
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(layers):
        raise ProtocolError(f"base image {name}: want a diff_id for each of {len(layers)} layers")
    return BasePlatform(config, layers)


def _layer(descriptor: Descriptor, name: str) -> Descriptor:
    media_type = _LAYER_TYPES.get(descriptor.media_type)
    if media_type is None:
        raise InputError(f"base image {name}: want tar layers, got {descriptor.media_type}")
    return Descriptor(media_type, descriptor.digest, descriptor.size_bytes)


def _platform_of(config: Mapping[str, Any], name: str) -> Platform:
    system, architecture = config.get("os"), config.get("architecture")
    if not isinstance(system, str) or not isinstance(architecture, str):
        raise ProtocolError(f"base image {name}: config: want os and architecture")
    return Platform(system, architecture)
