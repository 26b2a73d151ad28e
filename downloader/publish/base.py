"""The base image: its layers and config per platform, from any registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from downloader.errors import InputError, ProtocolError, TransportError
from downloader.image import PLATFORMS
from downloader.oci.digest import Digest
from downloader.oci.manifest import (
    IMAGE_CONFIGS,
    LAYER,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_manifest,
)
from downloader.oci.store import RawManifest, ReadableStore
from downloader.publish.copy import read_config, side_by_side

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


class Base:
    """A base image: `resolve` asks which digest its name has, `load` reads its layers and config.

    Args:
        store: The store of the base image; None for no base.
        reference: Its tag or digest there.
        name: As a reader would pull it, for messages and labels.

    Attributes:
        digest: Of what the name means now; empty until `resolve`.
        platforms: Its layers and config for each platform that we build for; empty until `load`.
    """

    def __init__(
        self, store: ReadableStore | None = None, reference: str = "", name: str = ""
    ) -> None:
        self.store = store
        self.name = name
        self.digest = ""
        self.platforms: dict[Platform, BasePlatform] = {}
        self._reference = reference
        self._raw: RawManifest | None = None

    @property
    def labels(self) -> dict[str, str]:
        """``name`` and ``digest`` for the image's labels; empty for no base."""
        return {"name": self.name, "digest": self.digest} if self.store else {}

    @property
    def missing(self) -> list[Platform]:
        """The platforms that the base does not have."""
        return [platform for platform in PLATFORMS if platform not in self.platforms]

    def resolve(self) -> None:
        """Find out which image the name means, in one request.

        Raises:
            InputError: There is none.
            TransportError: Its registry cannot be reached.
        """
        if self.store is None or self._raw is not None:
            return
        try:
            self._raw = self.store.get_manifest(self._reference)
        except TransportError as error:
            raise TransportError(
                f"base image {self.name}: {error.message}",
                hint="name one that can be reached from here with --base, or use --base none",
            ) from error
        if self._raw is None:
            raise InputError(
                f"base image {self.name}: not found", hint="check --base, or use --base none"
            )
        self.digest = self._raw.digest

    def load(self) -> None:
        """Read the base's manifests and configs.

        Raises:
            InputError: It is no image, or an image for none of our platforms.
            ProtocolError: It is malformed.
        """
        self.resolve()
        if self.platforms:
            return
        if self.store is None or self._raw is None:
            self.platforms = {platform: BasePlatform({}, ()) for platform in PLATFORMS}
            return
        parsed, store, name = parse_manifest(self._raw.data), self.store, self.name
        if isinstance(parsed, Index):
            found = side_by_side(
                {
                    platform: partial(_read_platform, store, platform, digest, name)
                    for platform, digest in _digests_of(parsed).items()
                }
            )
        else:
            alone = _platform(store, parsed, name)
            found = {_platform_of(alone.config, name): alone}
        self.platforms = {item: found[item] for item in PLATFORMS if item in found}
        if not self.platforms:
            wanted = " or ".join(str(platform) for platform in PLATFORMS)
            got = ", ".join(str(platform) for platform in found) or "none of them"
            raise InputError(f"base image {name}: want {wanted}, got {got}")


def _digests_of(index: Index) -> dict[Platform, Digest]:
    found: dict[Platform, Digest] = {}
    for descriptor in index.manifests:
        platform = _plain(descriptor.platform)
        if platform is not None and platform in PLATFORMS:
            found.setdefault(platform, descriptor.digest)
    return found


def _read_platform(
    store: ReadableStore, platform: Platform, digest: Digest, name: str
) -> BasePlatform:
    raw = store.get_manifest(digest)
    parsed = parse_manifest(raw.data) if raw else None
    if not isinstance(parsed, Manifest):
        raise ProtocolError(f"base image {name}: {platform}: want a manifest, got none")
    return _platform(store, parsed, name)


def _plain(platform: Platform | None) -> Platform | None:
    """Return the platform without the variant that every 64-bit Arm has."""
    if platform and platform.architecture == "arm64" and platform.variant in {None, "v8"}:
        return Platform(platform.os, "arm64")
    return platform


def _platform(store: ReadableStore, manifest: Manifest, name: str) -> BasePlatform:
    if manifest.config.media_type not in IMAGE_CONFIGS:
        raise InputError(
            f"base image {name}: want an image, got an artifact of {manifest.config.media_type}"
        )
    config = read_config(store, manifest.config, f"base image {name}: config")
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
