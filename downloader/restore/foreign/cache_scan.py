"""Snapshots in an image's caches, and the place of each file's bytes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from downloader.document import Document
from downloader.errors import IntegrityError, ProtocolError
from downloader.hub.cache import PartName, parse_part
from downloader.hub.repo import (
    NO_OID,
    Repo,
    RepoFile,
    Snapshot,
    check_repo_path,
    is_commit,
    is_oid,
    parse_revision,
)
from downloader.restore.foreign.budget import FILE_BYTES, parse_document
from downloader.restore.foreign.entries import (
    Content,
    InMemory,
    Node,
    Place,
    parse_folder,
    place_of,
)
from downloader.restore.foreign.overlay import Directory, Tree, is_in_cache, iter_leaves


@dataclass(frozen=True)
class Extent:
    """A content that lies in an image as a whole, or in parts.

    Args:
        oid: Hash of the content; None if the image does not state it.
        parts: Each part's content and its size in bytes, in order.
    """

    oid: str | None
    parts: tuple[tuple[Content, int], ...]

    @property
    def size_bytes(self) -> int:
        """Of all of it."""
        return sum(size_bytes for _, size_bytes in self.parts)


@dataclass(frozen=True)
class FoundSnapshot:
    """A snapshot in an image.

    Args:
        repo: The repo.
        commit: Its commit.
        revisions: The branches and tags that name it in the image, sorted.
        files: The content of each path.
        listing: The whole commit as the library listed it; empty where it did not.
        missing: Paths whose content the image lacks.
        planned: The snapshot of the image's own plan; None without one.
        signature: The bundle over the files; None where there is none.
    """

    repo: Repo
    commit: str
    revisions: tuple[str, ...]
    files: Mapping[str, Extent]
    listing: Mapping[str, RepoFile] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    planned: Snapshot | None = None
    signature: bytes | None = None

    @property
    def promised(self) -> dict[str, RepoFile]:
        """The files of the plan by path; empty where there is none."""
        return {file.path: file for file in self.planned.files} if self.planned else {}

    def to_snapshot(self) -> Snapshot:
        """Return it as a value; the first revision stands for all.

        Raises:
            IntegrityError: A list in the image names other contents.
        """
        files = tuple(
            self._file(path, extent.oid or NO_OID, extent)
            for path, extent in sorted(self.files.items())
        )
        return Snapshot(
            repo=self.repo,
            revision=self.revisions[0] if self.revisions else self.commit,
            commit=self.commit,
            files=files,
            is_partial=set(self.listing) != set(self.files),
        )

    def _file(self, path: str, oid: str, extent: Extent) -> RepoFile:
        listed = self.listing.get(path)
        if listed is not None:
            if (listed.oid, listed.size_bytes) != (oid, extent.size_bytes):
                raise IntegrityError(
                    f"{path}: want {listed.size_bytes} bytes of {listed.oid},"
                    f" got {extent.size_bytes} bytes of {oid}"
                )
            return listed
        return RepoFile.of_oid(path, extent.size_bytes, oid)


def find_snapshots(tree: Tree) -> list[FoundSnapshot]:
    """Return every snapshot of every cache in an image, sorted by repo and commit.

    Raises:
        ProtocolError: A path, link or ref is one that no cache has.
    """
    found: list[FoundSnapshot] = []
    for root in sorted(tree.cache_roots):
        found += _RepoFolder(tree, root).snapshots()
    return sorted(found, key=lambda snapshot: (snapshot.repo, snapshot.commit))


class _RepoFolder:
    def __init__(self, tree: Tree, root: str) -> None:
        self._tree = tree
        self._root = root
        self._directory = tree.directory(root)
        self._repo = parse_folder(root.rpartition("/")[2])
        self._parts = self._find_parts()

    def _area(self, name: str) -> Directory:
        found = self._directory.get(name)
        return found if isinstance(found, Directory) else Directory()

    def snapshots(self) -> Iterator[FoundSnapshot]:
        revisions = self._revisions()
        for commit, directory in sorted(self._area("snapshots").items()):
            if not isinstance(directory, Directory) or not is_commit(commit):
                raise ProtocolError(
                    f"{self._root}: want a snapshot named by a commit, got {commit[:200]!r}"
                )
            if directory:
                yield self._snapshot(commit, directory, revisions.get(commit, []))

    def _snapshot(self, commit: str, directory: Directory, revisions: list[str]) -> FoundSnapshot:
        listing = self._listing(commit)
        files: dict[str, Extent] = {}
        missing = []
        for path, node in iter_leaves(directory):
            check_repo_path(path)
            extent = self._extent(node, f"{self._root}/snapshots/{commit}/{path}")
            if extent is None:
                missing.append(path)
            else:
                listed = listing.get(path)
                oid = extent.oid or (listed.oid if listed else None)
                files[path] = Extent(oid, extent.parts)
        planned = self._planned(commit)
        return FoundSnapshot(
            self._repo,
            commit,
            (planned.revision,) if planned else tuple(sorted(revisions)),
            files,
            listing,
            tuple(missing),
            planned,
            self._document("signatures", commit),
        )

    def _revisions(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for revision, node in iter_leaves(self._area("refs")):
            parse_revision(revision)
            if not isinstance(node.content, InMemory):
                raise ProtocolError(f"refs/{revision[:200]}: want a file, got a {node.kind}")
            commit = node.content.data.strip().decode("ascii", "replace")
            if not is_commit(commit):
                raise ProtocolError(
                    f"refs/{revision[:200]}: want 40 hex digits, got {commit[:80]!r}"
                )
            found.setdefault(commit, []).append(revision)
        return found

    def _listing(self, commit: str) -> dict[str, RepoFile]:
        data = self._document("trees", commit)
        found = parse_listing(data, f"trees/{commit}.json") if data is not None else {}
        self._tree.budget.keep(FILE_BYTES * len(found))
        return found

    def _planned(self, commit: str) -> Snapshot | None:
        data = self._document("plans", commit)
        if data is None:
            return None
        document = parse_document(data, f"plans/{commit}.json")
        snapshot = Snapshot.from_json(document.get("snapshot"), f"plans/{commit}.json: snapshot")
        self._tree.budget.keep(FILE_BYTES * len(snapshot.files))
        return snapshot

    def _document(self, area: str, commit: str) -> bytes | None:
        node = self._area(area).get(f"{commit}.json")
        content = node.content if isinstance(node, Node) else None
        return content.data if isinstance(content, InMemory) else None

    def _find_parts(self) -> dict[str, list[tuple[PartName, Node]]]:
        found: dict[str, list[tuple[PartName, Node]]] = {}
        for name, node in self._area("blobs").items():
            part = parse_part(name)
            if part is not None and isinstance(node, Node) and node.content is not None:
                found.setdefault(part.oid, []).append((part, node))
        return found

    def _extent(self, node: Node, path: str) -> Extent | None:
        """Return the content that a path of a snapshot shows, None where it shows none."""
        if node.kind == "file" and node.content is not None:
            return Extent(None, ((node.content, node.size_bytes),))
        trail, found = self._tree.resolve(path)
        oid = self._check_trail(trail)
        if isinstance(found, Node) and found.content is not None:
            return Extent(oid, ((found.content, found.size_bytes),))
        return self._joined(oid) if found is None else None

    def _check_trail(self, trail: list[str]) -> str:
        """Return the oid that a link names; it may not leave the repo, but for shared blobs."""
        for path in trail:
            place = place_of(path)
            if not is_in_cache(path) or (place is not None and place.root != self._root):
                break
        else:
            if oid := next(filter(None, map(self._oid, map(place_of, trail))), None):
                return oid
        raise ProtocolError(
            f"{trail[0][:300]!r}: want a link to a blob of its repo, got {trail[-1][:300]!r}"
        )

    @staticmethod
    def _oid(place: Place | None) -> str | None:
        return place.oid if place is not None else None

    def _joined(self, oid: str) -> Extent | None:
        parts = sorted(self._parts.get(oid, []), key=lambda item: item[0])
        if not parts:
            return None
        names = [name for name, _ in parts]
        want = [PartName(oid, len(names), i) for i in range(1, len(names) + 1)]
        if names != want:
            raise ProtocolError(
                f"{oid}: want parts 1 to {names[0].parts}, got {[name.part for name in names]}",
                hint="the image is incomplete: a part of a split file is missing",
            )
        contents = [(node.content, node.size_bytes) for _, node in parts if node.content]
        return Extent(oid, tuple(contents))


def parse_listing(data: bytes, where: str) -> dict[str, RepoFile]:
    """Parse ``trees/<commit>.json``, which comes from anybody.

    Raises:
        ProtocolError: It is none.

    Source: huggingface_hub 2.4, ``write_tree_cache`` in _tree_cache.py.
    """
    document = parse_document(data, where)
    files = document.get("files")
    if not isinstance(files, Mapping):
        raise ProtocolError(f"{where}.files: want an object, got {type(files).__name__}")
    return {str(path): _listed(str(path), entry, where) for path, entry in files.items()}


def _listed(path: str, entry: object, where: str) -> RepoFile:
    if not isinstance(entry, Mapping):
        raise ProtocolError(f"{where}: want an object for each file, got {str(entry)[:80]!r}")
    keys: Mapping[str, Any] = entry
    document = {"path": path, "size": keys.get("size"), "blob_id": keys.get("blob_id")}
    sha256 = keys.get("lfs_sha256")
    if sha256 is not None and not (isinstance(sha256, str) and is_oid(sha256)):
        raise ProtocolError(f"{where}: want lfs_sha256 as 64 hex digits, got {str(sha256)[:80]!r}")
    xet_hash = keys.get("xet_hash")
    document |= {"sha256": sha256, "xet_hash": xet_hash if isinstance(xet_hash, str) else None}
    return RepoFile.from_document(Document(document, f"{where}: {json.dumps(path)[:200]}"))
