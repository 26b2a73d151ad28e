"""What restoring is about: a cache blob, and where its bytes lie in an image."""

from dataclasses import dataclass

from downloader.errors import ProtocolError
from downloader.hub.repo import Repo
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest


@dataclass(frozen=True)
class Piece:
    """Bytes of a cache blob that lie together in the tar of a layer.

    Args:
        layer: The layer's registry blob, which is not compressed.
        byte_range: Where in it.
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
    """A cache blob and all its pieces, in order and without a gap.

    Args:
        repo: Whose cache blob.
        oid: Its name, which is what its bytes must hash to.
        size_bytes: Of all of it.
        pieces: Sorted by their start.
    """

    repo: Repo
    oid: str
    size_bytes: int
    pieces: tuple[Piece, ...]


def plan_blob(repo: Repo, oid: str, size_bytes: int, pieces: list[Piece]) -> BlobPlan:
    """Return the plan of a cache blob.

    Raises:
        ProtocolError: The pieces leave a gap, or do not make up ``size_bytes``.
    """
    covered = 0
    kept: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.start, -piece.end)):
        if piece.start > covered:
            break
        if piece.end > covered or (not kept and piece.end == covered):
            # The same content may lie in two layers; what is there already is not needed again.
            kept.append(_without_first(piece, covered - piece.start))
            covered = piece.end
    if covered != size_bytes:
        raise ProtocolError(
            f"{oid}: want the image to hold {size_bytes} bytes of it, got {covered} bytes",
            hint="the image is incomplete: a part of a split file is missing",
        )
    return BlobPlan(repo, oid, size_bytes, tuple(kept))


def _without_first(piece: Piece, size_bytes: int) -> Piece:
    layer_range = ByteRange(piece.byte_range.start + size_bytes, piece.byte_range.end)
    return Piece(piece.layer, layer_range, piece.start + size_bytes)
