"""The image of a source: its manifest for one platform, and its blobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downloader.errors import (
    HfModelsError,
    IntegrityError,
    ProtocolError,
    RegistryError,
)
from downloader.image import PREFIX, REPO_ID_LABEL, ImageLabels, parse_labels
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest, digest_of
from downloader.oci.image import CONFIG_LIMIT_BYTES, all_labels, choose_manifest
from downloader.oci.image_archive import LocalBlobs
from downloader.oci.manifest import (
    Descriptor,
    Manifest,
    parse_json_object,
)
from downloader.oci.store import RawManifest
from downloader.progress import Note, Progress
from downloader.restore.foreign.entries import MODELS_DIRS
from downloader.restore.foreign.root_directory import RootDirectory
from downloader.restore.image_blobs import ImageBlobs
from downloader.transfer.source import read_all

if TYPE_CHECKING:
    from downloader.oci.registry import Registry


@dataclass(frozen=True)
class Image:
    """An image whose layers can be asked for.

    Args:
        name: As the user named it, for messages.
        digest: Of what the name led to: the index, where there is one.
        manifest: For this machine's platform.
        image_blobs: The sources of its blobs.
    """

    name: str
    digest: Digest
    manifest: Manifest
    image_blobs: ImageBlobs

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The image config, read when it is first asked for."""
        return _read_config(self.image_blobs, self.manifest)

    @property
    def labels(self) -> Mapping[str, str]:
        """The annotations of the manifest, where `publish` has written every label there too.

        Of any other image, the labels of the config, and the annotations over them.
        """
        notes = self.manifest.annotations
        return notes if REPO_ID_LABEL in notes else all_labels(self.manifest, self.config)

    @property
    def shown_dirs(self) -> tuple[str, ...]:
        """Directories of hard links to cache blobs, without leading slash."""
        label = self.labels.get(f"{PREFIX}.models-dir")
        return (label.strip("/"),) if label else MODELS_DIRS

    @property
    def ours(self) -> ImageLabels | None:
        """Our labels, if this project built the image."""
        return parse_labels(self.labels)


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
        RegistryError: No place has it.
    """
    image_blobs = ImageBlobs(registries, progress.note)
    raw = first_manifest(registries, target, name, progress).data

    def get(digest: Digest) -> bytes | None:
        try:
            return first_manifest(registries, digest, name, progress).data
        except RegistryError as error:
            if error.status == 404:  # an index may name platforms that were not copied
                return None
            raise

    manifest = choose_manifest(raw, get)
    return Image(name, digest_of(raw), manifest, image_blobs)


def first_manifest(
    registries: "list[Registry]", target: str, name: str, progress: Progress
) -> RawManifest:
    """Return a manifest from the first place that has it.

    Args:
        registries: The same repository at each mirror, in order, and its own at last.
        target: A tag or digest.
        name: Of the image, for messages.
        progress: Told when a mirror fails.

    Raises:
        RegistryError: No place has it.
    """
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
            return raw
        if not is_own:
            progress.note(f"{registry.name}: lacks {target}; trying the next place")
    raise RegistryError(f"{name}: not found", status=404, hint="check the name and the tag")


def _read_config(image_blobs: ImageBlobs, manifest: Manifest) -> dict[str, Any]:
    descriptor = manifest.config
    if descriptor.size_bytes > CONFIG_LIMIT_BYTES:
        raise ProtocolError(
            f"config: want at most {CONFIG_LIMIT_BYTES} bytes, got {descriptor.size_bytes} bytes"
        )
    data = read_verified(image_blobs, descriptor)
    return parse_json_object(data, "config", CONFIG_LIMIT_BYTES)


def read_verified(image_blobs: ImageBlobs, descriptor: Descriptor) -> bytes:
    """Return a small registry blob whose digest is right, from whichever place has it.

    Raises:
        ProtocolError: It is shorter than promised in the image's own place.
        IntegrityError: Its bytes are others in the image's own place.
    """
    source = image_blobs.source(descriptor.digest, descriptor.size_bytes)
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
    named = blobs.choose(tag)
    manifest = choose_manifest(named.data, blobs.get)
    image_blobs = ImageBlobs([blobs])
    return Image(name, digest_of(named.data), manifest, image_blobs)


def open_root_directory(root: Path, note: Note) -> Image:
    """Return a root file system in a directory as an image.

    Raises:
        StorageError, ProtocolError: As `RootDirectory`.
    """
    blobs = RootDirectory(root, note)
    manifest, image_blobs = blobs.manifest, ImageBlobs([blobs])
    digest = digest_of(manifest.to_bytes())
    return Image(str(root), digest, manifest, image_blobs)
