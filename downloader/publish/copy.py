"""A whole image from one store to another: what is there stays, the tag moves last."""

import threading
from collections.abc import Iterator
from functools import partial

from downloader.errors import InputError
from downloader.oci.digest import Digest
from downloader.oci.manifest import Descriptor, Index, parse_manifest
from downloader.oci.store import RawManifest, Store
from downloader.progress import Progress
from downloader.publish.blobs import copy_blob, lacks
from downloader.transfer.workers import run_all


def copy_image(
    source: Store, reference: str, target: Store, tag: str, *, jobs: int, progress: Progress
) -> Digest:
    """Copy an image with everything that it names, and move the tag.

    Args:
        source: Where it is.
        reference: Its tag or digest there.
        target: Where to.
        tag: Its tag there.
        jobs: Blobs at once.
        progress: Told of every blob that is not there yet.

    Raises:
        InputError: It is not there.
        HfModelsError: One of the stores said no.
    """
    raw = source.get_manifest(reference)
    if raw is None:
        raise InputError(f"want the image {source.name}:{reference}, got none")
    manifests = list(_iter_manifests(source, raw))
    blobs = {blob.digest: blob for manifest in manifests for blob in _blobs_of(manifest)}
    lacking: set[Digest] = set()
    looks = [partial(_look, target, blob, lacking) for blob in blobs.values()]
    run_all([(jobs, looks)], threading.Event(), lambda: None)
    missing = [blob for blob in blobs.values() if blob.digest in lacking]
    progress.start(sum(blob.size_bytes for blob in missing), len(missing))
    tasks = [partial(_copy, source, target, blob, progress) for blob in missing]
    run_all([(jobs, tasks)], threading.Event(), lambda: None)
    for manifest in manifests:
        target.put_manifest(manifest.digest, manifest.data, manifest.media_type)
    return target.put_manifest(tag, raw.data, raw.media_type)


def _look(target: Store, blob: Descriptor, lacking: set[Digest]) -> None:
    if lacks(target, blob):
        lacking.add(blob.digest)


def _copy(source: Store, target: Store, blob: Descriptor, progress: Progress) -> None:
    copy_blob(source, target, blob, progress)
    progress.finish_file(blob.digest)


def _iter_manifests(source: Store, raw: RawManifest) -> Iterator[RawManifest]:
    """Yield a manifest after everything that it names."""
    parsed = parse_manifest(raw.data)
    if isinstance(parsed, Index):
        for descriptor in parsed.manifests:
            inner = source.get_manifest(descriptor.digest)
            if inner is None:
                raise InputError(f"{source.name}: want the manifest {descriptor.digest}, got none")
            yield from _iter_manifests(source, inner)
    yield raw


def _blobs_of(raw: RawManifest) -> list[Descriptor]:
    parsed = parse_manifest(raw.data)
    return [] if isinstance(parsed, Index) else [parsed.config, *parsed.layers]


def reachable(store: Store, tag: str) -> set[Digest]:
    """Return the digest of everything that a tag names, itself included."""
    raw = store.get_manifest(tag)
    manifests = list(_iter_manifests(store, raw)) if raw else []
    blobs = {blob.digest for manifest in manifests for blob in _blobs_of(manifest)}
    return blobs | {manifest.digest for manifest in manifests}
