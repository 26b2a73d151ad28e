"""Values of a restore: a cache blob, and the place of its bytes in an image."""

from dataclasses import dataclass

from downloader.errors import ProtocolError
from downloader.hub.repo import Repo
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest


@dataclass(frozen=True)
class LayerRange:
    """Bytes of a cache blob that lie together in the tar of a layer.

    Args:
        layer: The layer's registry blob, which is not compressed.
        byte_range: The bytes in it.
        start: The offset in the cache blob of the first of them.
    """

    layer: Digest
    byte_range: ByteRange
    start: int = 0

    @property
    def end(self) -> int:
        """The offset in the cache blob after the last of them."""
        return self.start + self.byte_range.size_bytes

    def cut(self, wanted: ByteRange) -> ByteRange:
        """Return where in the layer the bytes ``wanted`` of the cache blob lie."""
        shift = self.byte_range.start - self.start
        return ByteRange(wanted.start + shift, wanted.end + shift)


@dataclass(frozen=True)
class BlobPlan:
    """A cache blob and all its ranges, in order and without a gap.

    Args:
        repo: The repo of the cache blob.
        oid: Its name, which is what its bytes must hash to.
        size_bytes: Of all of it.
        ranges: Sorted by their start.
    """

    repo: Repo
    oid: str
    size_bytes: int
    ranges: tuple[LayerRange, ...]


def plan_blob(repo: Repo, oid: str, size_bytes: int, ranges: list[LayerRange]) -> BlobPlan:
    """Return the plan of a cache blob.

    Raises:
        ProtocolError: The ranges leave a gap, or do not make up ``size_bytes``.
    """
    covered = 0
    kept: list[LayerRange] = []
    for layer_range in sorted(
        ranges, key=lambda layer_range: (layer_range.start, -layer_range.end)
    ):
        if layer_range.start > covered:
            break
        if layer_range.end > covered or (not kept and layer_range.end == covered):
            # The same content may lie in two layers; what is there already is not needed again.
            kept.append(_without_first(layer_range, covered - layer_range.start))
            covered = layer_range.end
    if covered != size_bytes:
        raise ProtocolError(
            f"{oid}: want the image to hold {size_bytes} bytes of it, got {covered} bytes",
            hint="the image is incomplete: a part of a split file is missing",
        )
    return BlobPlan(repo, oid, size_bytes, tuple(kept))


def _without_first(layer_range: LayerRange, size_bytes: int) -> LayerRange:
    rest = ByteRange(layer_range.byte_range.start + size_bytes, layer_range.byte_range.end)
    return LayerRange(layer_range.layer, rest, layer_range.start + size_bytes)
