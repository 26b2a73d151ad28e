"""Blobs and whole images from memory or from one place to another.

What is there stays, every byte is verified on the way, and the tag moves last.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from downloader.errors import HfModelsError, InputError, IntegrityError, ProtocolError
from downloader.image import is_packed
from downloader.net.ranges import ByteRange
from downloader.oci.compression import PlainStream
from downloader.oci.digest import Digest
from downloader.oci.image import CONFIG_LIMIT_BYTES
from downloader.oci.manifest import (
    PARSED_LIMIT_BYTES,
    Descriptor,
    Index,
    parse_json_object,
    parse_manifest,
)
from downloader.oci.seekable import FrameReader, read_table
from downloader.oci.store import (
    BlobReader,
    Blobs,
    BlobSource,
    ListableStore,
    RawManifest,
    ReadableStore,
    Store,
)
from downloader.oci.tar_read import iter_members, read_exactly
from downloader.oci.upload import UploadInterrupted
from downloader.progress import Meter, NoProgress, Progress
from downloader.publish.ramp import MOST_JOBS, Line, run_ramped
from downloader.transfer.workers import WorkerGroup
from downloader.units import MIB

if TYPE_CHECKING:
    from downloader.oci.store import BlobWriter
    from downloader.transfer.source import RangeSource

K = TypeVar("K")
V = TypeVar("V")

COPY_BUFFER_BYTES = 1 * MIB
TITLE = "org.opencontainers.image.title"  # of a file, as oras and ModelPack write it
REQUESTS_AT_ONCE = 8  # registries begin to limit small requests at some fifty


def side_by_side(calls: Mapping[K, Callable[[], V]]) -> dict[K, V]:
    """Make some calls at once, and return the result of each by its key.

    Raises:
        Exception: The exception of the first failing call.
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


def read_blob(store: ReadableStore, descriptor: Descriptor, limit_bytes: int) -> bytes:
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
    check_bytes(descriptor, filled, hashlib.sha256(memoryview(data)[:filled]).hexdigest())
    return bytes(data[:filled])


def read_config(store: ReadableStore, config: Descriptor, what: str) -> dict[str, Any]:
    """Return the config of an image; `list` reads several at once, so its memory is bounded.

    Args:
        store: Where it is.
        config: As the manifest names it.
        what: It, for messages.

    Raises:
        ProtocolError: It is too large, or no JSON object.
        IntegrityError: It is not what the descriptor says.
    """
    data = read_blob(store, config, CONFIG_LIMIT_BYTES)
    return parse_json_object(data, what, CONFIG_LIMIT_BYTES, PARSED_LIMIT_BYTES)


def open_tar(store: ReadableStore, layer: Descriptor, byte_range: ByteRange) -> BlobReader:
    """Open a range of a layer's tar, in the blob itself or in the frames of a compressed one."""
    open_range, what = partial(store.open_blob, layer.digest), str(layer.digest)
    table = read_table(open_range, layer.size_bytes, what) if is_packed(layer) else None
    if table is None:
        return open_range(byte_range)
    return FrameReader(open_range, table, byte_range, what)


def read_member(
    store: ReadableStore, layer: Descriptor, limit_bytes: int, suffix: str
) -> bytes | None:
    """Return the first file of a small uncompressed layer whose path ends so; None without one.

    Raises:
        ProtocolError: The layer is larger than ``limit_bytes``, or no tar.
        IntegrityError: It is not what the descriptor says.
    """
    data = read_blob(store, layer, limit_bytes)
    what = str(layer.digest)
    tar = PlainStream(io.BytesIO(data).readinto, what)
    for member in iter_members(tar, what):
        is_wanted = member.kind == "file" and f"/{member.path}".endswith(suffix)
        if is_wanted and member.size_bytes <= len(data):
            return read_exactly(tar, member.size_bytes, member.path)
    return None


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
    source: ReadableStore,
    target: Store,
    descriptor: Descriptor,
    progress: Progress | None = None,
    *,
    file: "RangeSource | None" = None,
    name: str = "",
    line: Line | None = None,
) -> None:
    """Copy a blob that the target lacks; mount it where that is possible.

    Args:
        source: The store to copy from.
        target: The store to copy to.
        descriptor: The blob's descriptor.
        progress: Told of its bytes, sent or mounted.
        file: The file to read its bytes from; None for ``source``.
        name: The line of the blob in ``progress``; "" for none.
        line: Counts what the target takes.

    Raises:
        IntegrityError: The source has other bytes under this digest.
    """
    meter = Meter(progress or NoProgress(), descriptor.size_bytes, name)
    if not target.mount_blob(descriptor.digest, source):
        file = file or BlobSource(source, descriptor.digest, descriptor.size_bytes)
        while True:
            try:
                with target.create_blob(descriptor.size_bytes) as writer:
                    _send(file, writer, descriptor, meter, line or Line())
                break
            except IntegrityError:
                if not file.blame():
                    raise
    meter.set(descriptor.size_bytes)


def lacks(target: Store, blob: Descriptor) -> bool:
    """Return whether a blob has to be copied."""
    return target.blob_size(blob.digest) != blob.size_bytes


def _send(
    file: "RangeSource", writer: "BlobWriter", blob: Descriptor, meter: Meter, line: Line
) -> None:
    """Send a blob; after an interruption read again what the target has not kept."""
    digest, hashed, offset = hashlib.sha256(), 0, 0
    buffer = memoryview(bytearray(COPY_BUFFER_BYTES))
    while True:
        try:
            if offset < blob.size_bytes:
                with file.open(ByteRange(offset, blob.size_bytes)) as reader:
                    while (count := reader.readinto(buffer)) and offset <= blob.size_bytes:
                        digest.update(buffer[max(0, min(count, hashed - offset)) : count])
                        hashed = max(hashed, offset + count)
                        writer.write(buffer[:count])
                        line.sent(count)
                        offset += count
                        meter.set(offset)
            check_bytes(blob, hashed, digest.hexdigest())
            return writer.commit(blob.digest)
        except UploadInterrupted:
            line.interrupted()
            offset = writer.resume()


def check_bytes(descriptor: Descriptor, size_bytes: int, sha256: str) -> None:
    """Raise `IntegrityError` unless the bytes that came are those of ``descriptor``."""
    if size_bytes != descriptor.size_bytes:
        raise IntegrityError(
            f"{descriptor.digest}: want {descriptor.size_bytes} bytes, got {size_bytes}"
        )
    if descriptor.digest != f"sha256:{sha256}":
        raise IntegrityError(f"want {descriptor.digest}, got sha256:{sha256}")


def image_name(store: Blobs, reference: str) -> str:
    """Return an image's name, for messages: ``ghcr.io/me/hf-models:codet5-small``."""
    if not reference:  # the only image of an archive
        return store.name
    return f"{store.name}{'@' if ':' in reference else ':'}{reference}"


class ImageReader(Protocol):
    """Reads an image from mirrors and its store."""

    def get_manifest(self, reference: str) -> RawManifest | None:
        """Return the manifest of a tag or digest, or None."""

    def source(self, digest: Digest, size_bytes: int) -> "RangeSource":
        """Return a blob, to be read by range."""


@dataclass(frozen=True)
class SourceImage:
    """An image to copy.

    Args:
        store: A registry's repository, a layout, or an archive.
        reference: A tag, or a digest; "" for the only image of an archive.
        reader: Reads its bytes, in place of ``store``.
    """

    store: ReadableStore
    reference: str
    reader: ImageReader | None = None

    @property
    def name(self) -> str:
        """For messages: ``ghcr.io/me/hf-models:codet5-small``."""
        return image_name(self.store, self.reference)

    def find_manifests(self) -> list[RawManifest]:
        """Return every manifest of the image, each after those that it names, its own last.

        Raises:
            InputError: There is no such image, or it lacks one.
        """
        raw = (self.reader or self.store).get_manifest(self.reference)
        if raw is None:
            raise InputError(f"image {self.name}: not found")
        return list(_iter_manifests(self.reader or self.store, self.store.name, raw))

    def source(self, blob: Descriptor) -> "RangeSource":
        """Return a blob, to be read by range."""
        if self.reader is not None:
            return self.reader.source(blob.digest, blob.size_bytes)
        return BlobSource(self.store, blob.digest, blob.size_bytes)


StoreType_co = TypeVar("StoreType_co", bound=ListableStore, covariant=True)


@dataclass(frozen=True)
class StoredImage(Generic[StoreType_co]):
    """An image in a store, or one to be.

    Args:
        store: A registry's repository, or a layout.
        reference: A tag, or a digest.
    """

    store: StoreType_co
    reference: str

    @property
    def name(self) -> str:
        """For messages: ``ghcr.io/me/hf-models:codet5-small``."""
        return image_name(self.store, self.reference)


@dataclass(frozen=True)
class Copied:
    """The result of one destination of a copy.

    Args:
        name: Of the image there.
        reference: Its tag, or its digest.
        digest: Of the image; None where it failed.
        error: The reason of the failure.
    """

    name: str
    reference: str
    digest: Digest | None
    error: HfModelsError | None = None


def copy(
    source: SourceImage,
    destinations: Sequence[StoredImage[Store]],
    progress: Progress | None = None,
    *,
    name_layers: Callable[[], Mapping[Digest, str]] = dict,
) -> list[Copied]:
    """Copy an image with everything that it names to several places, one after the other.

    Blobs that a destination has, or can mount, are not sent; so a copy that was interrupted
    goes on where it was when it runs again.

    Args:
        source: The image to copy.
        destinations: The stores to copy to, each with its tag.
        progress: Told of every blob that is sent.
        name_layers: Returns the files that layers carry, where that is known; called once there
            is something to copy.

    Returns:
        What became of each destination; one that fails does not stop the others.

    Raises:
        HfModelsError: The source is not there, or cannot be read.
    """
    progress = progress or NoProgress()
    manifests = source.find_manifests()
    done: list[Copied] = []
    near: list[Store] = []  # what is there can be mounted by other repositories of the registry
    for destination in destinations:
        try:
            done.append(
                _copy_to(
                    destination,
                    source,
                    manifests,
                    near=near,
                    name_layers=name_layers,
                    progress=progress,
                )
            )
            near.append(destination.store)
        except HfModelsError as error:
            done.append(Copied(destination.name, destination.reference, None, error))
    return done


def copy_image(
    source: Store, reference: str, target: Store, tag: str, progress: Progress
) -> Digest:
    """Copy an image to one place.

    Raises:
        InputError: It is not there.
        HfModelsError: One of the stores said no.
    """
    image, destination = SourceImage(source, reference), StoredImage(target, tag)
    [copied] = copy(image, [destination], progress=progress)
    if copied.error:
        raise copied.error
    assert copied.digest is not None  # noqa: S101 - there is no error
    return copied.digest


def _copy_to(
    destination: StoredImage[Store],
    source: SourceImage,
    manifests: Sequence[RawManifest],
    *,
    near: Sequence[Store],
    name_layers: Callable[[], Mapping[Digest, str]],
    progress: Progress,
) -> Copied:
    """Copy an image whose manifests are given, its own last."""
    store = destination.store
    blobs = blobs_of(manifests)
    missing: list[Descriptor] = []
    line = Line()

    def look(blob: Descriptor) -> None:
        if lacks(store, blob):
            missing.append(blob)

    def send(blob: Descriptor) -> None:
        progress.start_file(names[blob.digest], blob.size_bytes)
        if not any(store.mount_blob(blob.digest, other) for other in near):
            copy_blob(
                source.store,
                store,
                blob,
                progress,
                file=source.source(blob),
                name=names[blob.digest],
                line=line,
            )
        progress.finish_file(names[blob.digest])

    with WorkerGroup() as group:
        group.start_all([partial(look, blob) for blob in blobs.values()], REQUESTS_AT_ONCE)
    missing.sort(key=lambda blob: -blob.size_bytes)  # so that the last to finish is a short one
    names = name_blobs(manifests, name_layers() if missing else {})
    progress.start(sum(blob.size_bytes for blob in missing), len(missing))
    with WorkerGroup() as group:
        run_ramped([partial(send, blob) for blob in missing], MOST_JOBS, group, line)
    for manifest in manifests:
        store.put_manifest(manifest.digest, manifest.data, manifest.media_type)
    raw = manifests[-1]
    if ":" not in destination.reference:
        store.put_manifest(destination.reference, raw.data, raw.media_type)
    return Copied(destination.name, destination.reference, raw.digest)


def name_blobs(manifests: Sequence[RawManifest], known: Mapping[Digest, str]) -> dict[Digest, str]:
    """Return what a person calls each blob of an image: a file, or which layer of how many."""
    names: dict[Digest, str] = {}
    for raw in manifests:
        parsed = parse_manifest(raw.data)
        if isinstance(parsed, Index):
            continue
        names.setdefault(parsed.config.digest, "config of the image")
        count = len(parsed.layers)
        for number, layer in enumerate(parsed.layers, 1):
            title = known.get(layer.digest) or layer.annotations.get(TITLE)
            names.setdefault(layer.digest, title or f"layer {number} of {count}")
    return names


def _iter_manifests(
    source: "ImageReader | ReadableStore", name: str, raw: RawManifest
) -> Iterator[RawManifest]:
    """Yield a manifest after everything that it names."""
    parsed = parse_manifest(raw.data)
    if isinstance(parsed, Index):
        for descriptor in parsed.manifests:
            inner = source.get_manifest(descriptor.digest)
            if inner is None:
                raise InputError(f"{name}: the manifest {descriptor.digest} is missing")
            yield from _iter_manifests(source, name, inner)
    yield raw


def blobs_of(manifests: Sequence[RawManifest]) -> dict[Digest, Descriptor]:
    """Return the configs and layers that manifests name."""
    parsed = [parse_manifest(raw.data) for raw in manifests]
    images = [item for item in parsed if not isinstance(item, Index)]
    return {blob.digest: blob for item in images for blob in (item.config, *item.layers)}


def reachable(store: ReadableStore, tag: str) -> set[Digest]:
    """Return the digest of everything that a tag names, itself included."""
    if store.get_manifest(tag) is None:
        return set()
    manifests = SourceImage(store, tag).find_manifests()
    return blobs_of(manifests).keys() | {manifest.digest for manifest in manifests}
