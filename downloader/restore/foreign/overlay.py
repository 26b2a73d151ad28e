"""The layers of an image laid over each other, as a container would see them.

Source: OCI image specification 1.1, layer.md, "Applying Changesets"; containerd 2.1,
``archive/tar.go`` for what happens where a link stands in a path.
"""

import sys
from collections.abc import Iterator

from downloader.errors import ProtocolError
from downloader.restore.foreign.budget import DIRECTORY_BYTES, Budget
from downloader.restore.foreign.entries import Node, is_shared_blob, place_of
from downloader.restore.foreign.scan import LayerScan

_LINKS_LIMIT = 40  # as Linux has it


class Directory(dict[str, "Directory | Node"]):
    """A directory: names to what they are."""

    __slots__ = ()


class Tree:
    """The files and links of an image that matter to caches and models.

    Args:
        budget: Of the image.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.cache_roots: set[str] = set()
        self._root = Directory()

    def apply(self, scan: LayerScan) -> None:
        """Lay the next layer on top.

        Raises:
            ProtocolError: A hard link in a cache names no file of a cache.
        """
        for path in scan.opaque:
            if isinstance(found := self._at(path), Directory):
                found.clear()
        for path in [*scan.whiteouts, *scan.others]:
            self._remove(path)
        for path, node in scan.nodes:
            self._put(path, node)

    def _put(self, path: str, node: Node) -> None:
        place = place_of(path)
        if node.kind == "hardlink":
            found = self._hard_linked(path, node)
            if found is None:
                return
            node = found
        if place is not None:
            self.cache_roots.add(place.root)
        parent, name = self._parent(path)
        parent[name] = node

    def _hard_linked(self, path: str, node: Node) -> Node | None:
        found = self._at(node.target.removeprefix("./").lstrip("/"))
        if isinstance(found, Node) and found.kind != "hardlink":
            return found
        if place_of(path) is None:
            self._remove(path)
            return None
        raise ProtocolError(
            f"{path[:200]!r}: want a hard link to a file of a cache, got {node.target[:200]!r}",
            hint="restore it from a registry, or from a file: docker save -o FILE",
        )

    def _parent(self, path: str) -> tuple[Directory, str]:
        """Return the directory that ``path`` lies in, made where it is missing."""
        *segments, name = path.split("/")
        directory = self._root
        self.budget.step(len(segments))
        for i, segment in enumerate(segments):
            below = directory.get(segment)
            if isinstance(below, Node) and below.kind == "link":
                below = self._at("/".join(segments[: i + 1]), follow=True)
            if not isinstance(below, Directory):
                self.budget.keep(DIRECTORY_BYTES + sys.getsizeof(segment))
                below = directory[segment] = Directory()
            directory = below
        return directory, name

    def _remove(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        directory = self._at(parent, follow=True)
        if isinstance(directory, Directory):
            directory.pop(name, None)

    def _at(self, path: str, *, follow: bool = False) -> "Directory | Node | None":
        """Return what lies at ``path``; a link that stands there itself only if not ``follow``."""
        if not follow and path:
            parent, _, name = path.rpartition("/")
            directory = self._at(parent, follow=True)
            return directory.get(name) if isinstance(directory, Directory) else None
        return self.resolve(path)[1]

    def resolve(self, path: str) -> "tuple[list[str], Directory | Node | None]":
        """Follow every link of ``path``, inside the image.

        Returns:
            The path, then each path that a link led to; and what lies at the last of them.

        Raises:
            ProtocolError: The links go round in a circle.
        """
        trail = [path]
        for _ in range(_LINKS_LIMIT):
            self.budget.step(1 + trail[-1].count("/"))
            following, found = self._walk(trail[-1])
            if following is None:
                return trail, found
            trail.append(following)
        raise ProtocolError(
            f"{path[:200]!r}: too many levels of symbolic links (limit {_LINKS_LIMIT})"
        )

    def _walk(self, path: str) -> "tuple[str | None, Directory | Node | None]":
        """Return the path that the first link in ``path`` leads to, or what lies there."""
        at: Directory | Node = self._root
        segments = [segment for segment in path.split("/") if segment]
        for i, segment in enumerate(segments):
            below = at.get(segment) if isinstance(at, Directory) else None
            if below is None:
                return None, None
            if isinstance(below, Node) and below.kind == "link":
                return _join(segments[:i], below.target, segments[i + 1 :]), None
            at = below
        return None, at

    def directory(self, path: str) -> Directory:
        """Return the directory at ``path``, an empty one where there is none."""
        found = self._at(path, follow=True)
        return found if isinstance(found, Directory) else Directory()


def _join(parents: list[str], target: str, rest: list[str]) -> str:
    """Return where a link in ``parents`` leads; above the root there is only the root."""
    joined = [] if target.startswith("/") else list(parents)
    for segment in target.split("/"):
        if segment == "..":
            del joined[-1:]
        elif segment not in {"", "."}:
            joined.append(segment)
    return "/".join([*joined, *rest])


def iter_leaves(directory: Directory) -> Iterator[tuple[str, Node]]:
    """Yield every file and link below ``directory`` with its path there, sorted."""
    pending: list[tuple[str, Directory]] = [("", directory)]
    leaves: list[tuple[str, Node]] = []
    while pending:  # not by recursion: an image may nest deeper than Python does
        where, current = pending.pop()
        for name, found in current.items():
            path = f"{where}/{name}" if where else name
            if isinstance(found, Directory):
                pending.append((path, found))
            else:
                leaves.append((path, found))
    yield from sorted(leaves, key=lambda leaf: leaf[0])


def is_in_cache(path: str) -> bool:
    """Whether ``path`` is one where caches keep contents."""
    place = place_of(path)
    return is_shared_blob(path) or (place is not None and place.area in {"blobs", "snapshots"})
