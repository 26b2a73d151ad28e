"""A layer as a sequence of pieces of memory, and the verification of the files in it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from downloader.hub.cache import BlobHasher
from downloader.oci.tar_write import END_OF_ARCHIVE
from downloader.plan import Content, Layer
from downloader.publish.layer_stream import SMALL_FILE_BYTES, HubContents
from downloader.units import MIB

_BATCH_BYTES = 1 * MIB  # headers, padding and tiny files travel together


@dataclass(frozen=True)
class Piece:
    """Some bytes of a layer's tar, in memory that is valid until the next piece.

    Args:
        data: The bytes.
        content: Whose content they are, where it has not been verified yet.
    """

    data: memoryview
    content: Content | None = None


def is_small(content: Content) -> bool:
    """Whether a content is read whole and verified before any of it is passed on."""
    return not content.parts and content.size_bytes <= SMALL_FILE_BYTES


def iter_pieces(layer: Layer, contents: HubContents) -> Iterator[Piece]:
    """Yield the bytes of a layer, in order.

    Raises:
        IntegrityError: A small file is not what the Hub promised, twice.
        HubError, TransportError, ProtocolError: The Hub did not send one.
    """
    small = [content for content in layer.contents if is_small(content)]
    files = iter(layer.contents)
    batch = bytearray()
    with contents.read_ahead(small) as ahead:
        for placed in layer.tar.entries:
            batch += placed.header
            if placed.entry.kind != "file":
                continue
            content = next(files)
            if is_small(content):
                batch += ahead.take()
            else:
                yield Piece(memoryview(bytes(batch)))
                batch.clear()
                with contents.opened(content) as stream:
                    for view in stream:
                        yield Piece(view, content)
            batch += bytes(placed.padding_bytes)
            if len(batch) >= _BATCH_BYTES:
                yield Piece(memoryview(bytes(batch)))
                batch.clear()
    yield Piece(memoryview(bytes(batch) + END_OF_ARCHIVE))


class Verifier:
    """The oids of large files, computed as their bytes pass by, over layers if need be.

    Args:
        path_of: A file's path, for messages.
    """

    def __init__(self, path_of: Callable[[Content], str]) -> None:
        self._path_of = path_of
        self._hashers: dict[str, BlobHasher] = {}

    def update(self, content: Content, data: memoryview) -> None:
        """Take the next bytes of a content.

        Raises:
            IntegrityError: They were the last ones, and the oid is another.
        """
        hasher = self._hashers.setdefault(content.oid, BlobHasher(content.oid, content.blob_bytes))
        hasher.update(data)
        if hasher.seen_bytes >= hasher.size_bytes:
            hasher.check(self._path_of(content))

    def copy(self) -> "Verifier":
        """Return one that has seen the same, and goes on by itself."""
        twin = Verifier(self._path_of)
        twin._hashers = {oid: hasher.copy() for oid, hasher in self._hashers.items()}
        return twin
