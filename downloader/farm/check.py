"""Completeness of a published image: asks for every manifest and every blob's size."""

from collections.abc import Iterator
from dataclasses import dataclass

from downloader.errors import IntegrityError
from downloader.farm.catalog.published import has_base, read_facts, read_platform
from downloader.oci.digest import Digest
from downloader.oci.manifest import Descriptor, Index, Manifest, parse_manifest
from downloader.oci.store import ListableStore, RawManifest


@dataclass(frozen=True)
class Checked:
    """The size of a complete image.

    Args:
        digest: The digest that its tag names.
        manifests: Number of manifests, without the index.
        blobs: Number of different blobs.
        size_bytes: Of those.
        has_base: Whether it has a base image, and so something that `docker run` can run.
    """

    digest: Digest
    manifests: int
    blobs: int
    size_bytes: int
    has_base: bool


def check_image(store: ListableStore, tag: str, digest: Digest | None = None) -> Checked:
    """Raise unless a tag names ``digest``, and everything below it is there at its size.

    Moves no model bytes: the registry itself has checked every blob's digest on arrival.

    Args:
        store: The registry.
        tag: Of the image.
        digest: The digest that the tag must name; None for any.

    Raises:
        IntegrityError: Something is missing, or another thing than promised.
    """
    top = _get(store, tag)
    if digest and top.digest != digest:
        raise IntegrityError(f"{store.name}:{tag}: want {digest}, got {top.digest}")
    manifests = list(_iter_manifests(store, top))
    blobs = {blob.digest: blob for manifest in manifests for blob in _blobs(manifest)}
    for blob in blobs.values():
        _check_blob(store, tag, blob)
    size_bytes = sum(blob.size_bytes for blob in blobs.values())
    parsed = parse_manifest(top.data)
    facts = read_facts(store, parsed, read_platform(store, tag, parsed))
    return Checked(top.digest, len(manifests), len(blobs), size_bytes, has_base(facts))


def _iter_manifests(store: ListableStore, top: RawManifest) -> Iterator[Manifest]:
    parsed = parse_manifest(top.data)
    if isinstance(parsed, Manifest):
        yield parsed
        return
    for child in parsed.manifests:
        inner = parse_manifest(_get(store, child.digest).data)
        if isinstance(inner, Index):
            raise IntegrityError(f"{store.name}@{child.digest}: want a manifest, got an index")
        yield inner


def _get(store: ListableStore, reference: str) -> RawManifest:
    found = store.get_manifest(reference)
    if found is None:
        raise IntegrityError(f"{store.name}: the manifest {reference} is missing")
    return found


def _blobs(manifest: Manifest) -> tuple[Descriptor, ...]:
    return (manifest.config, *manifest.layers)


def _check_blob(store: ListableStore, tag: str, blob: Descriptor) -> None:
    found = store.blob_size(blob.digest)
    if found != blob.size_bytes:
        got = "none" if found is None else f"{found} bytes"
        raise IntegrityError(
            f"{store.name}:{tag}: want {blob.digest} of {blob.size_bytes} bytes, got {got}",
            hint="publish it again: what is there is not sent twice",
        )
