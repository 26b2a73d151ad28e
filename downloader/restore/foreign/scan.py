"""The scan of one layer: its entries of caches, and the entries of lower layers that it hides."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from downloader.errors import ProtocolError
from downloader.hub.repo import REF_LIMIT_BYTES
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.oci.store import BlobReader
from downloader.oci.tar_read import ByteSource, TarMember, iter_members, read_exactly
from downloader.restore.foreign.budget import DOCUMENT_LIMIT_BYTES, Budget
from downloader.restore.foreign.entries import (
    MODELS_DIRS,
    OPAQUE,
    WHITEOUT,
    Content,
    InLayer,
    InMemory,
    Node,
    Place,
    is_shared_blob,
    place_of,
)
from downloader.transfer.source import read_all

# A ref holds 41 bytes.
# Some bytes after a header is the next header, unless a large file lies between.
_FIRST_WINDOW_BYTES = 64 * 1024
_LARGEST_WINDOW_BYTES = 4 * 1024**2


class Taker(Protocol):
    """Decides where a content is to be read, while it passes."""

    def take(
        self, layer: str, member: TarMember, place: Place | None, source: ByteSource
    ) -> Content:
        """Return where the content will be; may read it from ``source``, or leave it."""


@dataclass
class LayerScan:
    """The changes of a layer to the caches and models of an image.

    Args:
        nodes: Files and links with their paths, in the order of the layer.
        others: Paths of all else that is no directory: they may hide what lies below.
        whiteouts: Paths that the layer removes from lower layers.
        opaque: Directories whose content in lower layers it removes.
    """

    nodes: list[tuple[str, Node]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    whiteouts: list[str] = field(default_factory=list)
    opaque: list[str] = field(default_factory=list)


def scan_layer(
    source: ByteSource,
    layer: str,
    taker: Taker,
    budget: Budget,
    shown: Collection[str] = MODELS_DIRS,
) -> LayerScan:
    """Look through the tar of a layer.

    Args:
        source: At its first byte.
        layer: Its digest or its path in an archive.
        taker: Decides about contents.
        budget: Of the image.
        shown: Directories of files outside the cache; hard links in the cache may name them.

    Raises:
        ProtocolError: It is malformed, costs more than an image may, or holds in a cache what
            no cache holds.
    """
    scan, prefixes = LayerScan(), tuple(f"{directory}/" if directory else "" for directory in shown)
    for member in iter_members(source, layer, step=budget.step):
        budget.member()
        path, kind = member.path, member.kind
        if kind == "directory":
            continue
        parent, _, name = path.rpartition("/")
        if name == OPAQUE:
            scan.opaque.append(budget.text(parent))
        elif name.startswith(WHITEOUT):
            hidden = name.removeprefix(WHITEOUT)
            scan.whiteouts.append(budget.text(f"{parent}/{hidden}" if parent else hidden))
        elif kind == "link" or kind == "hardlink":  # noqa: PLR1714 - the type checker needs it
            scan.nodes.append((budget.text(path), Node(kind, target=budget.text(member.target))))
        else:
            place = place_of(path)
            is_shown = kind in {"file", "sparse"} and path.startswith(prefixes)
            if place is None and not is_shared_blob(path) and not is_shown:
                scan.others.append(budget.text(path))
                continue
            if kind != "file":
                what = "a sparse one" if kind == "sparse" else "a device"
                raise ProtocolError(f"{path[:200]!r}: want a whole file, got {what}")
            if place is not None and place.area in {"refs", "trees", "plans", "signatures"}:
                content: Content = InMemory(_read_document(member, place, source, budget))
            else:
                content = taker.take(layer, member, place, source)
            node = Node("file", member.size_bytes, content=content)
            scan.nodes.append((budget.text(path), node))
    return scan


def _read_document(member: TarMember, place: Place, source: ByteSource, budget: Budget) -> bytes:
    where = repr(member.path[:200])
    limit = REF_LIMIT_BYTES if place.area == "refs" else DOCUMENT_LIMIT_BYTES
    if member.size_bytes > limit:
        raise ProtocolError(f"{where}: want at most {limit} bytes, got {member.size_bytes} bytes")
    budget.keep(member.size_bytes)
    return read_exactly(source, member.size_bytes, where)


class Locator:
    """The taker of a layer that can be read by range: notes where the content lies."""

    def __init__(self, layer: Digest) -> None:
        self._layer = layer

    def take(
        self, layer: str, member: TarMember, place: Place | None, source: ByteSource
    ) -> Content:
        """Return the content's place in the layer; reads nothing."""
        del layer, place, source
        return InLayer(self._layer, member.content_offset)


class RangedSource:
    """A blob as a `ByteSource` that fetches only what is read, in few requests.

    Args:
        open_range: Opens a range of the blob.
        size_bytes: Of the blob.
        what: The blob, for messages.
    """

    def __init__(
        self, open_range: Callable[[ByteRange], BlobReader], size_bytes: int, what: str
    ) -> None:
        self.offset = 0
        self._open_range = open_range
        self._size_bytes = size_bytes
        self._what = what
        self._window = b""
        self._window_start = 0
        self._next_bytes = _FIRST_WINDOW_BYTES

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes at the end only, then 0."""
        filled = 0
        while filled < len(buffer) and self.offset < self._size_bytes:
            data = self._ahead()[: len(buffer) - filled]
            buffer[filled : filled + len(data)] = data
            filled += len(data)
            self.offset += len(data)
        return filled

    def skip(self, size_bytes: int) -> None:
        """Go on so many bytes later, without reading.

        Raises:
            ProtocolError: There are fewer.
        """
        if size_bytes > self._size_bytes - self.offset:
            raise ProtocolError(
                f"{self._what}: want {size_bytes} bytes more at byte {self.offset},"
                f" got a blob of {self._size_bytes} bytes"
            )
        self.offset += size_bytes

    def _ahead(self) -> bytes:
        within = self.offset - self._window_start
        if not 0 <= within < len(self._window):
            self._fetch()
            within = 0
        return self._window[within:]

    def _fetch(self) -> None:
        jumped = self.offset > self._window_start + len(self._window) + _FIRST_WINDOW_BYTES
        size_bytes = _FIRST_WINDOW_BYTES if jumped else self._next_bytes
        self._next_bytes = min(2 * size_bytes, _LARGEST_WINDOW_BYTES)
        end = min(self.offset + size_bytes, self._size_bytes)
        with self._open_range(ByteRange(self.offset, end)) as reader:
            self._window = read_all(reader, end - self.offset, self._what)
        self._window_start = self.offset
