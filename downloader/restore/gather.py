"""An image to the snapshots in it: from what it says of itself, or by looking through it.

The images of this project say which byte lies where, so reading one small layer is enough.
Any other is looked through: an uncompressed layer by ranged reads of its headers, which cost
little whatever its size; a compressed one from its first byte to its last, and what looks
like a cache blob is kept as it passes.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from downloader.errors import IntegrityError, ProtocolError
from downloader.hub.repo import Snapshot
from downloader.image import is_metadata_layer, layer_key, parse_members, plan_path
from downloader.net.ranges import ByteRange
from downloader.oci.compression import HEAD_BYTES, PlainStream, detect_compression
from downloader.oci.downloads import RangesIgnoredError
from downloader.oci.manifest import Descriptor, parse_json_object
from downloader.oci.tar_read import iter_members, read_exactly
from downloader.plan import Plan
from downloader.restore.contents import FoundSnapshot, find_snapshots
from downloader.restore.foreign.extract import Capture
from downloader.restore.foreign.overlay import Tree
from downloader.restore.foreign.scan import (
    Budget,
    LayerScan,
    Locator,
    RangedSource,
    Taker,
    read_all,
    scan_layer,
)
from downloader.restore.image import Image, read_verified
from downloader.restore.places import Visit
from downloader.restore.values import Piece

# The last layer of an image of ours: links and lists of some ten thousand files.
METADATA_LIMIT_BYTES = 64 * 1024**2
# A layer up to here is read as a whole, so that its digest proves every header in it.
WHOLE_LAYER_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class Planned:
    """A snapshot whose image says where each content lies."""

    snapshot: Snapshot
    pieces: dict[str, list[Piece]]


def read_plan(image: Image) -> Planned | None:
    """Return what an image of this project says of itself; None for any other image.

    Raises:
        ProtocolError: It says what cannot be.
        IntegrityError: The layer that says it is not the one that the manifest names.
    """
    ours, layers = image.ours, image.manifest.layers
    if ours is None or not layers or not is_metadata_layer(layers[-1]) or not _is_plain(layers):
        return None
    if layers[-1].size_bytes > METADATA_LIMIT_BYTES:
        raise ProtocolError(
            f"metadata layer: want at most {METADATA_LIMIT_BYTES} bytes,"
            f" got {layers[-1].size_bytes} bytes"
        )
    plan = _find_plan(read_verified(image.places, layers[-1]), ours.commit)
    if plan.snapshot.commit != ours.commit or plan.snapshot.repo != ours.repo:
        raise ProtocolError(
            f"plan: want {ours.repo.id} at {ours.commit},"
            f" got {plan.snapshot.repo.id} at {plan.snapshot.commit}"
        )
    return Planned(plan.snapshot, _pieces(plan, layers[:-1]))


def _is_plain(layers: Iterable[Descriptor]) -> bool:
    # Whoever compressed the layers since kept the annotations, and made them wrong.
    keyed = [layer for layer in layers if layer_key(layer) is not None]
    return all(layer.media_type.endswith(".tar") for layer in keyed)


def _find_plan(tar: bytes, commit: str) -> Plan:
    view = memoryview(tar)
    at = 0

    def read_into(buffer: memoryview) -> int:
        nonlocal at
        count = min(len(buffer), len(view) - at)
        buffer[:count] = view[at : at + count]
        at += count
        return count

    stream = PlainStream(read_into, "metadata layer")
    for member in iter_members(stream, "metadata layer"):
        if member.kind == "file" and member.path.endswith(f"/{plan_path(commit)}"):
            data = read_exactly(stream, member.size_bytes, member.path)
            return Plan.from_json(parse_json_object(data, "plan", METADATA_LIMIT_BYTES))
    raise ProtocolError(f"metadata layer: want {plan_path(commit)}, got none")


def _pieces(plan: Plan, layers: Iterable[Descriptor]) -> dict[str, list[Piece]]:
    by_key = {layer.key: layer for layer in plan.layers}
    found: dict[str, list[Piece]] = {}
    for descriptor in layers:
        members = parse_members(descriptor)
        planned = by_key.get(layer_key(descriptor) or "")
        if members is not None:
            for member in members:
                piece = Piece(descriptor.digest, member.content, member.start)
                found.setdefault(member.oid, []).append(piece)
        elif planned is not None:
            # A list too long for the manifest: the plan leads to the same tar.
            for content, start in planned.placed:
                place = ByteRange(start, start + content.size_bytes)
                piece = Piece(descriptor.digest, place, content.byte_range.start)
                found.setdefault(content.oid, []).append(piece)
    return found


def look_through(image: Image, capture: Capture) -> list[FoundSnapshot]:
    """Return the snapshots in an image that says nothing of itself.

    Raises:
        ProtocolError: A layer is malformed or hostile.
        IntegrityError: A compressed layer is not the one that the manifest names.
    """
    tree, budget = Tree(), Budget()
    for layer in image.manifest.layers:
        tree.apply(_scan(image, layer, capture, budget))
    return find_snapshots(tree)


def _scan(image: Image, layer: Descriptor, capture: Capture, budget: Budget) -> LayerScan:
    places, what = image.places, str(layer.digest)
    with places.open_blob(layer.digest, ByteRange(0, min(HEAD_BYTES, layer.size_bytes))) as reader:
        head = read_all(reader, min(HEAD_BYTES, layer.size_bytes), what)
    if detect_compression(head) is not None:
        return scan_stream(image, layer, capture, budget)
    locator = Locator(layer.digest)
    if layer.size_bytes <= WHOLE_LAYER_BYTES:
        return scan_stream(image, layer, locator, budget)
    # Headers alone prove nothing, so they come from the image's own place, not from a mirror.
    source = RangedSource(
        lambda wanted: places.own.open_blob(layer.digest, wanted), layer.size_bytes, what
    )
    before = budget.left
    try:
        return scan_layer(source, what, locator, budget, image.shown_dirs)
    except RangesIgnoredError:
        budget.left = before
        return scan_stream(image, layer, capture, budget)


def scan_stream(image: Image, layer: Descriptor, taker: Taker, budget: Budget) -> LayerScan:
    """Look through a layer from its first byte to its last, and check its digest.

    Raises:
        ProtocolError: It is malformed or hostile.
        IntegrityError: It is not the one that the manifest names.
    """
    visit, before = Visit(), budget.left
    while True:
        budget.left = before
        try:
            return _scan_once(image, layer, taker, budget, visit)
        except (IntegrityError, ProtocolError):
            if not image.places.blame(visit):
                raise


def _scan_once(
    image: Image, layer: Descriptor, taker: Taker, budget: Budget, visit: Visit
) -> LayerScan:
    what = str(layer.digest)
    with image.places.open_blob(layer.digest, None, visit) as reader:
        digest = hashlib.sha256()
        count = 0

        def read_into(buffer: memoryview) -> int:
            nonlocal count
            got = reader.readinto(buffer)
            digest.update(buffer[:got])
            count += got
            return got

        stream = PlainStream(read_into, what)
        scan = scan_layer(stream, what, taker, budget, image.shown_dirs)
        drain = memoryview(bytearray(1024**2))
        stream.readinto(drain)  # padding, and the checksum of a compressed stream behind it
        while count <= layer.size_bytes and read_into(drain):
            pass
    if count != layer.size_bytes:
        raise IntegrityError(f"{what}: want {layer.size_bytes} bytes, got {count} bytes")
    if f"sha256:{digest.hexdigest()}" != layer.digest:
        raise IntegrityError(f"want layer {what}, got sha256:{digest.hexdigest()}")
    return scan
