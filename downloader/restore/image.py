"""The image of a source: its manifest for one platform, and the places of its blobs."""

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from downloader.errors import (
    HfModelsError,
    InputError,
    IntegrityError,
    ProtocolError,
    RegistryError,
)
from downloader.image import PREFIX, ZSTD_MANIFEST, ImageLabels, parse_labels
from downloader.net.ranges import ByteRange
from downloader.oci.compression import has_zstd
from downloader.oci.digest import Digest, digest_of
from downloader.oci.image_archive import CONFIG_LIMIT_BYTES, LocalBlobs, NamedManifest
from downloader.oci.manifest import (
    Descriptor,
    Index,
    Manifest,
    parse_json_object,
    parse_manifest,
)
from downloader.progress import Progress
from downloader.restore.foreign.entries import MODELS_DIRS
from downloader.restore.foreign.scan import read_all
from downloader.restore.places import Places

if TYPE_CHECKING:
    from downloader.oci.registry import Registry

_NESTING_LIMIT = 4  # an archive's index, an image's index, a manifest
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_CONFIG_TYPES = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}

GetBlob = Callable[[Digest], bytes | None]


@dataclass(frozen=True)
class Image:
    """An image whose layers can be asked for.

    Args:
        name: As the user named it, for messages.
        digest: Of what the name led to: the index, where there is one.
        manifest: For this machine's platform.
        config: The image config.
        places: Where its blobs are.
    """

    name: str
    digest: Digest
    manifest: Manifest
    config: Mapping[str, Any]
    places: Places

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the config, and the annotations of the manifest over them."""
        return all_labels(self.manifest, self.config)

    @property
    def shown_dirs(self) -> tuple[str, ...]:
        """Where files may lie that the cache names by hard links, without leading slash."""
        label = self.labels.get(f"{PREFIX}.models-dir")
        return (label.strip("/"),) if label else MODELS_DIRS

    @property
    def ours(self) -> ImageLabels | None:
        """What it says of itself, where this project built it."""
        return parse_labels(self.labels)


def all_labels(manifest: Manifest, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of a config, and the annotations of a manifest over them."""
    inner = config.get("config")
    labels = inner.get("Labels") if isinstance(inner, Mapping) else None
    found = labels if isinstance(labels, Mapping) else {}
    texts = {str(key): value for key, value in found.items() if isinstance(value, str)}
    return texts | dict(manifest.annotations)


def choose_manifest(data: bytes, get: GetBlob) -> Manifest:
    """Return the image manifest that ``data`` is or leads to.

    The weights are the same for every platform; this machine's comes first, because its
    blobs are the likeliest to be there.

    Args:
        data: A manifest or an index.
        get: Returns a manifest by digest, None where it is missing.

    Raises:
        ProtocolError: It is malformed, or leads to no image.
    """
    return _choose(data, get, 0)


def _choose(data: bytes, get: GetBlob, depth: int) -> Manifest:
    document = parse_manifest(data)
    if isinstance(document, Manifest):
        return document
    if depth >= _NESTING_LIMIT:
        raise ProtocolError(f"want an index of images, got indexes {depth} deep")
    reason: HfModelsError = ProtocolError("want an index that names an image, got none")
    for descriptor in _by_preference(document):
        below = get(descriptor.digest)
        if below is None:
            continue
        try:
            manifest = _choose(below, get, depth + 1)
        except ProtocolError as error:
            reason = error
            continue
        if manifest.config.media_type in _CONFIG_TYPES and not manifest.artifact_type:
            return manifest
    raise reason


def _by_preference(index: Index) -> list[Descriptor]:
    host = _ARCHITECTURES.get(platform.machine().lower(), "amd64")

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


def open_registry_image(
    name: str, target: str, registries: "list[Registry]", progress: Progress
) -> Image:
    """Return an image of a registry.

    Args:
        name: For messages.
        target: Its tag or digest.
        registries: The same repository at each mirror, in order, and its own at last.
        progress: Told when a mirror fails.

    Raises:
        RegistryError: Nobody has it.
    """
    places = Places(registries, progress.note)
    raw = _first(registries, target, name, progress)

    def get(digest: Digest) -> bytes | None:
        try:
            return _first(registries, digest, name, progress)
        except RegistryError as error:
            if error.status == 404:  # an index may name platforms that were not copied
                return None
            raise

    manifest = choose_manifest(raw, get)
    config = _read_config(places, manifest)
    return Image(name, digest_of(raw), manifest, config, places)


def _first(registries: "list[Registry]", target: str, name: str, progress: Progress) -> bytes:
    for registry in registries:
        is_own = registry is registries[-1]
        try:
            raw = registry.get_manifest(target)
        except HfModelsError as error:
            if is_own:
                raise
            progress.note(f"{registry.name}: {error.message}; trying the next place")
            continue
        if raw is not None:
            return raw.data
        if not is_own:
            progress.note(f"{registry.name}: lacks {target}; trying the next place")
    raise RegistryError(f"{name}: not found", status=404, hint="check the name and the tag")


def _read_config(places: Places, manifest: Manifest) -> dict[str, Any]:
    descriptor = manifest.config
    if descriptor.size_bytes > CONFIG_LIMIT_BYTES:
        raise ProtocolError(
            f"config: want at most {CONFIG_LIMIT_BYTES} bytes, got {descriptor.size_bytes} bytes"
        )
    data = read_verified(places, descriptor)
    return parse_json_object(data, "config", CONFIG_LIMIT_BYTES)


def read_verified(places: Places, descriptor: Descriptor) -> bytes:
    """Return a small registry blob whose digest is right, from whichever place has it.

    Raises:
        ProtocolError: It is shorter than promised in the image's own place.
        IntegrityError: Its bytes are others in the image's own place.
    """
    source = places.source(descriptor.digest, descriptor.size_bytes)
    while True:
        with source.open(ByteRange(0, descriptor.size_bytes)) as reader:
            data = read_all(reader, descriptor.size_bytes, str(descriptor.digest))
            is_longer = reader.readinto(memoryview(bytearray(1))) > 0
        if digest_of(data) == descriptor.digest and not is_longer:
            return data
        if not source.blame():
            raise IntegrityError(f"want {descriptor.digest}, got other bytes")


def open_local_image(name: str, blobs: LocalBlobs, tag: str | None) -> Image:
    """Return an image of a directory or an archive.

    Raises:
        InputError: It holds several, and ``tag`` names none of them.
    """
    named = pick_named(blobs.manifests(), tag, name)
    manifest = choose_manifest(named.data, blobs.get)
    places = Places([blobs])
    return Image(name, digest_of(named.data), manifest, _read_config(places, manifest), places)


def pick_named(manifests: Iterable[NamedManifest], tag: str | None, name: str) -> NamedManifest:
    """Return the manifest that ``tag`` names, or the only one.

    Raises:
        InputError: There are several, or none.
    """
    found = list(manifests)
    if tag is not None:
        found = [item for item in found if any(_is_named(known, tag) for known in item.names)]
    distinct = {item.data: item for item in found}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    names = sorted({known for item in manifests for known in item.names})
    raise InputError(
        f"{name}: want one image, got {len(distinct)}",
        hint=f"name one: {name}:TAG, of {', '.join(names)}" if names else None,
    )


def _is_named(known: str, tag: str) -> bool:
    return known == tag or known.endswith(f":{tag}")
