"""Blobs and whole images from memory or from one store to another.

What is there stays, every byte is verified on the way, and the tag moves last.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from downloader.errors import HfModelsError, InputError, IntegrityError, ProtocolError
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.oci.manifest import Descriptor, Index, parse_manifest
from downloader.oci.store import RawManifest, Store
from downloader.oci.upload import UploadInterrupted
from downloader.progress import Meter, NoProgress, Progress
from downloader.transfer.workers import WorkerGroup
from downloader.units import MIB

if TYPE_CHECKING:
    from downloader.oci.store import BlobWriter

K = TypeVar("K")
V = TypeVar("V")

_COPY_BUFFER_BYTES = 1 * MIB
REQUESTS_AT_ONCE = 8  # registries begin to limit small requests at some fifty


def side_by_side(calls: Mapping[K, Callable[[], V]]) -> dict[K, V]:
    """Make some calls at once, and return the result of each by its key.

    Raises:
        Exception: What the first one that failed has raised.
    """
    results: dict[K, V] = {}

    def call(key: K) -> None:
        results[key] = calls[key]()

    if len(calls) == 1:
        call(*calls)
    else:
        with WorkerGroup() as group:
            tasks = [partial(call, key) for key in calls]
            group.start_all(tasks, REQUESTS_AT_ONCE, name="request")
    return {key: results[key] for key in calls}


def read_blob(store: Store, descriptor: Descriptor, limit_bytes: int) -> bytes:
    """Return a small blob.

    Raises:
        ProtocolError: It is larger than anything of its kind.
        IntegrityError: It is not what the descriptor says.
    """
    if descriptor.size_bytes > limit_bytes:
        raise ProtocolError(
            f"{descriptor.digest}: want at most {limit_bytes} bytes, got {descriptor.size_bytes}"
        )
    data = bytearray(descriptor.size_bytes + 1)  # one more, to see that nothing follows
    filled = 0
    with store.open_blob(descriptor.digest) as reader:
        while filled < len(data) and (count := reader.readinto(memoryview(data)[filled:])):
            filled += count
    _check(descriptor, filled, hashlib.sha256(memoryview(data)[:filled]).hexdigest())
    return bytes(data[:filled])


def put_blob(store: Store, data: bytes, digest: Digest) -> None:
    """Put a small blob, which costs less than asking whether it is there."""
    with store.create_blob(len(data)) as writer:
        offset = 0
        while True:
            try:
                writer.write(memoryview(data)[offset:])
                return writer.commit(digest)
            except UploadInterrupted:
                offset = writer.resume()


def copy_blob(
    source: Store, target: Store, descriptor: Descriptor, progress: Progress | None = None
) -> None:
    """Copy a blob that the target lacks; mount it where that is possible.

    Args:
        source: Where it is.
        target: Where to.
        descriptor: Which one.
        progress: Told of its bytes, sent or mounted.

    Raises:
        IntegrityError: The source has other bytes under this digest.
    """
    meter = Meter(progress or NoProgress(), descriptor.size_bytes)
    if not target.mount_blob(descriptor.digest, source):
        with target.create_blob(descriptor.size_bytes) as writer:
            _send(source, writer, descriptor, meter)
    meter.set(descriptor.size_bytes)


def lacks(target: Store, blob: Descriptor) -> bool:
    """Return whether a blob has to be copied."""
    return target.blob_size(blob.digest) != blob.size_bytes


def _send(source: Store, writer: "BlobWriter", blob: Descriptor, meter: Meter) -> None:
    """Send a blob; after an interruption read again what the target has not kept."""
    digest, hashed, offset = hashlib.sha256(), 0, 0
    buffer = memoryview(bytearray(_COPY_BUFFER_BYTES))
    while True:
        try:
            if offset < blob.size_bytes:
                rest = ByteRange(offset, blob.size_bytes)
                with source.open_blob(blob.digest, rest if offset else None) as reader:
                    while (count := reader.readinto(buffer)) and offset <= blob.size_bytes:
                        digest.update(buffer[max(0, min(count, hashed - offset)) : count])
                        hashed = max(hashed, offset + count)
                        writer.write(buffer[:count])
                        offset += count
                        meter.set(offset)
            _check(blob, hashed, digest.hexdigest())
            return writer.commit(blob.digest)
        except UploadInterrupted:
            offset = writer.resume()


def _check(descriptor: Descriptor, size_bytes: int, sha256: str) -> None:
    if size_bytes != descriptor.size_bytes:
        raise IntegrityError(
            f"{descriptor.digest}: want {descriptor.size_bytes} bytes, got {size_bytes}"
        )
    if descriptor.digest != f"sha256:{sha256}":
        raise IntegrityError(f"want {descriptor.digest}, got sha256:{sha256}")


@dataclass(frozen=True)
class StoredImage:
    """An image in a store.

    Args:
        store: A registry's repository, a layout, or (to read from) an archive.
        reference: A tag, or a digest.
    """

    store: Store
    reference: str

    @property
    def name(self) -> str:
        """For messages: ``ghcr.io/me/hf-models:codet5-small``."""
        return f"{self.store.name}{'@' if ':' in self.reference else ':'}{self.reference}"


@dataclass(frozen=True)
class CopyOptions:
    """How to copy.

    Args:
        jobs: Blobs at once.
    """

    jobs: int = 4


@dataclass(frozen=True)
class Copied:
    """What became of one destination of a copy.

    Args:
        image: The destination.
        digest: Of the image; None where it failed.
        error: Why it failed.
        sizes_bytes: Of the blobs whose bytes were sent, by digest.
    """

    image: StoredImage
    digest: Digest | None
    error: HfModelsError | None
    sizes_bytes: dict[Digest, int] = field(default_factory=dict)


def copy(
    source: StoredImage,
    destinations: Sequence[StoredImage],
    options: CopyOptions | None = None,
    progress: Progress | None = None,
) -> list[Copied]:
    """Copy an image with everything that it names to several places, one after the other.

    Blobs that a destination has, or can mount, are not sent; so a copy that was interrupted
    goes on where it was when it runs again.

    Args:
        source: What to copy.
        destinations: Where to, each with the tag that it gets.
        options: How.
        progress: Told of every blob that is sent.

    Returns:
        What became of each destination; one that fails does not stop the others.

    Raises:
        HfModelsError: The source is not there, or cannot be read.
    """
    options, progress = options or CopyOptions(), progress or NoProgress()
    raw = source.store.get_manifest(source.reference)
    if raw is None:
        raise InputError(f"image {source.name}: not found")
    manifests = list(_iter_manifests(source.store, raw))
    done: list[Copied] = []
    for destination in destinations:
        # What this run has copied can be mounted by the other repositories of its registry.
        near = [item.image.store for item in done if item.error is None]
        try:
            copied = _copy_to(
                destination,
                source.store,
                manifests,
                near=near,
                jobs=options.jobs,
                progress=progress,
            )
        except HfModelsError as error:
            copied = Copied(destination, None, error)
        done.append(copied)
    return done


def copy_image(
    source: Store, reference: str, target: Store, tag: str, *, jobs: int, progress: Progress
) -> Digest:
    """Copy an image to one place.

    Raises:
        InputError: It is not there.
        HfModelsError: One of the stores said no.
    """
    image, destination = StoredImage(source, reference), StoredImage(target, tag)
    [copied] = copy(image, [destination], CopyOptions(jobs), progress)
    if copied.error:
        raise copied.error
    assert copied.digest is not None  # noqa: S101 - there is no error
    return copied.digest


def _copy_to(
    destination: StoredImage,
    source: Store,
    manifests: Sequence[RawManifest],
    *,
    near: Sequence[Store],
    jobs: int,
    progress: Progress,
) -> Copied:
    """Copy an image whose manifests are given, its own last."""
    store = destination.store
    blobs = {blob.digest: blob for manifest in manifests for blob in _blobs_of(manifest)}
    missing: list[Descriptor] = []
    sent: dict[Digest, int] = {}

    def look(blob: Descriptor) -> None:
        if lacks(store, blob):
            missing.append(blob)

    def send(blob: Descriptor) -> None:
        if not any(store.mount_blob(blob.digest, other) for other in near):
            copy_blob(source, store, blob, progress)
            sent[blob.digest] = blob.size_bytes
        progress.finish_file(blob.digest)

    with WorkerGroup() as group:
        group.start_all([partial(look, blob) for blob in blobs.values()], REQUESTS_AT_ONCE)
    missing.sort(key=lambda blob: -blob.size_bytes)  # so that the last to finish is a short one
    progress.start(sum(blob.size_bytes for blob in missing), len(missing))
    with WorkerGroup() as group:
        group.start_all([partial(send, blob) for blob in missing], jobs, name="copy")
    for manifest in manifests:
        store.put_manifest(manifest.digest, manifest.data, manifest.media_type)
    raw = manifests[-1]
    if ":" not in destination.reference:
        store.put_manifest(destination.reference, raw.data, raw.media_type)
    return Copied(destination, raw.digest, None, sent)


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
