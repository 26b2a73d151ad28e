"""The layers of an image, looked through: by ranged reads of their headers where that is enough.

An uncompressed layer costs a few reads, whatever its size, and so does one of zstd frames with
a table of them. Another compressed one passes from its first byte to its last; a taker decides
what becomes of the contents in it.
"""

import hashlib
from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar

from downloader.errors import IntegrityError, ProtocolError
from downloader.net.ranges import ByteRange
from downloader.oci.compression import HEAD_BYTES, PlainStream, detect_compression
from downloader.oci.digest import Digest
from downloader.oci.manifest import Descriptor
from downloader.oci.store import BlobReader
from downloader.restore.foreign.budget import Budget
from downloader.restore.foreign.models import is_artifact, is_file, kind_of
from downloader.restore.foreign.overlay import Tree
from downloader.restore.foreign.scan import (
    LayerScan,
    Locator,
    RangedSource,
    Taker,
    scan_layer,
)
from downloader.restore.image import Image
from downloader.transfer.mirrors import MirroredSource
from downloader.transfer.source import RangesIgnoredError, read_all, retry_without_ranges

# A layer up to here is read as a whole, so that its digest proves every header in it.
WHOLE_LAYER_BYTES = 32 * 1024**2
_DRAIN_BYTES = 1024**2

T = TypeVar("T")


def look_through(image: Image, taker: Taker, *, whole: bool = False) -> Tree:
    """Return what the layers of an image show, laid over each other.

    Args:
        image: Opened.
        taker: Decides about contents of streams.
        whole: Whether to read every layer to its end.

    Raises:
        ProtocolError: A layer is malformed or hostile.
        IntegrityError: A layer that was read to its end is not the one of the manifest.
    """
    tree = Tree(Budget(image.name))
    for layer in tar_layers(image):
        scan = _scan(image, layer, taker, tree.budget, whole=whole)
        tree.apply(scan)
    return tree


def tar_layers(image: Image) -> list[Descriptor]:
    """Return the layers that are tars; an artifact may have others."""
    manifest = image.manifest
    if not is_artifact(manifest):
        return list(manifest.layers)
    kind = kind_of(manifest, image.labels)
    return [layer for layer in manifest.layers if not is_file(layer, kind)]


def read_again(image: Image, layers: Collection[str], taker: Taker) -> None:
    """Let the contents of some layers pass once more.

    Args:
        image: Looked through before.
        layers: Digests.
        taker: Decides about contents.

    Raises:
        IntegrityError: A layer is not the one of the manifest.
    """
    for layer in image.manifest.layers:
        if layer.digest in layers:
            scan_stream(image, layer, taker, Budget(image.name))


def _scan(
    image: Image, layer: Descriptor, taker: Taker, budget: Budget, *, whole: bool
) -> LayerScan:
    image_blobs, what = image.image_blobs, str(layer.digest)
    if whole:
        return scan_stream(image, layer, taker, budget)
    locator = Locator(layer.digest)
    if layer.size_bytes <= WHOLE_LAYER_BYTES:
        return scan_stream(image, layer, taker, budget, locator)
    with image_blobs.source(layer.digest, layer.size_bytes).open(
        ByteRange(0, HEAD_BYTES)
    ) as reader:
        head = read_all(reader, HEAD_BYTES, what)
    compression = detect_compression(head)
    if compression is not None and not (compression == "zstd" and image_blobs.add_packed(layer)):
        return scan_stream(image, layer, taker, budget)

    def open_range(wanted: ByteRange) -> BlobReader:
        # Headers alone prove nothing, so they come from the image's own place, not a mirror.
        budget.receive(wanted.size_bytes)
        return own.open(wanted)

    own = image_blobs.own_tar(layer)
    source = RangedSource(open_range, own.size_bytes, what)
    try:
        return scan_layer(source, what, locator, budget, shown_dirs(image))
    except RangesIgnoredError:
        return scan_stream(image, layer, taker, budget)


def shown_dirs(image: Image) -> Collection[str]:
    """Return the directories whose files matter; an artifact's tars hold nothing else."""
    return ("",) if is_artifact(image.manifest) else image.shown_dirs


def scan_stream(
    image: Image, layer: Descriptor, taker: Taker, budget: Budget, plain: Locator | None = None
) -> LayerScan:
    """Look through a layer from its first byte to its last, and check its digest.

    Args:
        image: Of the layer.
        layer: Compressed or not.
        taker: Decides about contents.
        budget: Of the image.
        plain: Decides instead, where the layer is not compressed.

    Raises:
        ProtocolError: It is malformed or hostile.
        IntegrityError: It is not the one that the manifest names.
    """

    def scan(stream: PlainStream) -> LayerScan:
        chosen = plain if plain is not None and stream.compression is None else taker
        return scan_layer(stream, str(layer.digest), chosen, budget, shown_dirs(image))

    return read_layer(image, layer, budget, scan)


def read_layer(
    image: Image, layer: Descriptor, budget: Budget, read: Callable[[PlainStream], T]
) -> T:
    """Return what ``read`` makes of a layer's tar, once the layer's digest is right.

    Args:
        image: Of the layer.
        layer: Compressed or not.
        budget: Told of every byte.
        read: Need not read to the end; called again where a mirror sent wrong bytes, and where
            a connection broke to a server that cannot send the rest alone.

    Raises:
        IntegrityError: The layer is not the one that the manifest names.
    """
    source = image.image_blobs.source(layer.digest, layer.size_bytes)
    while True:
        try:
            return retry_without_ranges(partial(_read_once, source, layer, budget, read))
        except RangesIgnoredError:
            raise
        except (IntegrityError, ProtocolError):
            if not source.blame():
                raise


def _read_once(
    source: MirroredSource, layer: Descriptor, budget: Budget, read: Callable[[PlainStream], T]
) -> T:
    what = str(layer.digest)
    digest, count = hashlib.sha256(), 0
    with source.open(ByteRange(0, layer.size_bytes)) as reader:

        def read_into(buffer: memoryview) -> int:
            nonlocal count
            got = reader.readinto(buffer)
            digest.update(buffer[:got])
            budget.receive(got)
            count += got
            return got

        stream = PlainStream(read_into, what)
        result = read(stream)
        drain = memoryview(bytearray(_DRAIN_BYTES))
        stream.readinto(drain)  # padding, and the checksum of a compressed stream behind it
        while count <= layer.size_bytes and read_into(drain):
            pass
    if count != layer.size_bytes:
        raise IntegrityError(f"{what}: want {layer.size_bytes} bytes, got {count} bytes")
    if Digest(f"sha256:{digest.hexdigest()}") != layer.digest:
        raise IntegrityError(f"want layer {what}, got sha256:{digest.hexdigest()}")
    return result
