"""The Hugging Face cache layout: paths, links, refs, trees; one truth for disk and tar.

::

    <cache_dir>/
    ├── .locks/<folder>/<oid>.lock
    └── <folder>/                      models--ORG--NAME
        ├── blobs/<oid>                the bytes; oid = sha256 (64 hex) or git sha1 (40 hex)
        ├── refs/<revision>            40 hex digits of the commit, no newline
        ├── snapshots/<commit>/<path>  -> ../../blobs/<oid>
        └── trees/<commit>.json        the complete list of files of the commit

Source: https://huggingface.co/docs/hub/local-cache; ``trees`` from huggingface_hub 2.4,
_tree_cache.py. Paths inside a repo folder are text with ``/``, because images use them too.
"""

import filecmp
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from downloader.errors import IntegrityError, ProtocolError, StorageError
from downloader.fs import (
    NewFile,
    ignores_case,
    make_directory,
    read_small_file,
    remove_abandoned,
    storage_errors,
    temporary_name,
)
from downloader.hub.repo import REF_LIMIT_BYTES, Repo, RepoFile, Snapshot, is_commit
from downloader.progress import Note, ignore

MAIN_REF = "refs/main"
# Temporary files lie where the library expects them: in refs/ and snapshots/ it would take one
# that a kill left behind for a branch, or for a file of the model.
_SCRATCH = "blobs/metadata"
_TREE_FORMAT_VERSION = 1
_FILE_LIMIT_BYTES = 256 * 1024**2  # a tree of a million files
_PART = re.compile(r"(?P<oid>[0-9a-f]{40}|[0-9a-f]{64})\.part-(?P<part>\d{5})-of-(?P<parts>\d{5})")
_XET_HASH = re.compile(r"[0-9a-f]{64}")  # gated repos redact it to asterisks


def blob_path(oid: str) -> str:
    """Return where the content ``oid`` lies in its repo folder."""
    return f"blobs/{oid}"


@dataclass(frozen=True, order=True)
class PartName:
    """The name of a part of a split blob; parts count from 1."""

    oid: str
    parts: int
    part: int


def part_path(oid: str, part: int, parts: int) -> str:
    """Return where a part of a split blob lies in the repo folder of an image.

    >>> part_path("ab", 1, 2)
    'blobs/ab.part-00001-of-00002'
    """
    return f"{blob_path(oid)}.part-{part:05d}-of-{parts:05d}"


def parse_part(name: str) -> PartName | None:
    """Parse the file name of a part, None for any other name.

    >>> parse_part("ab" * 20 + ".part-00001-of-00002").part
    1
    """
    found = _PART.fullmatch(name)
    if found is None:
        return None
    return PartName(found["oid"], int(found["parts"]), int(found["part"]))


def ref_path(revision: str) -> str:
    """Return where the commit of a branch or tag is written in the repo folder."""
    return f"refs/{revision}"


def snapshot_path(commit: str, path: str) -> str:
    """Return where a file of a commit appears in the repo folder."""
    return f"snapshots/{commit}/{path}"


def tree_path(commit: str) -> str:
    """Return where the list of a commit's files is written in the repo folder."""
    return f"trees/{commit}.json"


def lock_path(repo: Repo, oid: str) -> str:
    """Return the lock file of a blob, relative to the cache directory."""
    return f".locks/{repo.folder_name}/{oid}.lock"


def link_target(path: str, oid: str) -> str:
    """Return what the snapshot link of ``path`` holds.

    >>> link_target("sub/vocab.txt", "422c")
    '../../../blobs/422c'
    """
    return "../" * (2 + path.count("/")) + blob_path(oid)


def tree_json(snapshot: Snapshot) -> bytes:
    """Return ``trees/<commit>.json`` as the library writes it, byte for byte.

    Source: huggingface_hub 2.4, ``write_tree_cache`` in _tree_cache.py.
    """
    files = {file.path: _tree_entry(file) for file in snapshot.files}
    document = {"format_version": _TREE_FORMAT_VERSION, "files": dict(sorted(files.items()))}
    return json.dumps(document, indent=1).encode()


def _tree_entry(file: RepoFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": file.size_bytes, "blob_id": file.blob_id}
    if file.sha256:
        entry |= {"lfs_sha256": file.sha256, "lfs_size": file.size_bytes}
    # The library discards a whole listing for one hash that it cannot read.
    if file.xet_hash and _XET_HASH.fullmatch(file.xet_hash):
        entry["xet_hash"] = file.xet_hash
    return entry


@dataclass(frozen=True, order=True)
class MetadataEntry:
    """One small thing of a repo folder that is not a blob.

    Args:
        path: Relative to the repo folder.
        kind: ``file`` (then ``data``) or ``link`` (then ``target``).
        data: The content of a file.
        target: Target of a link; never leaves the repo folder.
    """

    path: str
    kind: Literal["file", "link"]
    data: bytes = b""
    target: str = ""


def iter_metadata_entries(
    snapshot: Snapshot, extra_files: Mapping[str, bytes] | None = None
) -> tuple[MetadataEntry, ...]:
    """Return everything but the blobs that the folder of a snapshot holds, sorted by path.

    Both ``main`` and the named revision are there, so that loading by repo id works
    offline whatever the user named. A partial snapshot gets no tree: the library would
    call the snapshot incomplete.

    Args:
        snapshot: The snapshot to write.
        extra_files: More files, by path relative to the repo folder.

    Raises:
        ProtocolError: Two entries want one path, or one is a file where another needs a
            directory.
    """
    refs = {MAIN_REF}
    if not is_commit(snapshot.revision):
        refs.add(ref_path(snapshot.revision))
    files = {ref: snapshot.commit.encode() for ref in refs}
    if not snapshot.is_partial:
        files[tree_path(snapshot.commit)] = tree_json(snapshot)
    entries = [MetadataEntry(path, "file", data) for path, data in files.items()]
    entries += [MetadataEntry(path, "file", data) for path, data in (extra_files or {}).items()]
    entries += [_link_entry(snapshot.commit, file) for file in snapshot.files]
    _check_distinct(entry.path for entry in entries)
    return tuple(sorted(entries))


def _link_entry(commit: str, file: RepoFile) -> MetadataEntry:
    target = link_target(file.path, file.oid)
    return MetadataEntry(snapshot_path(commit, file.path), "link", target=target)


def _check_distinct(paths: Iterable[str]) -> None:
    seen: set[str] = set()
    parents: set[str] = set()
    for path in paths:
        if path in seen:
            raise ProtocolError(f"the path {path!r} appears twice")
        seen.add(path)
        parent = path.rpartition("/")[0]
        while parent and parent not in parents:
            parents.add(parent)
            parent = parent.rpartition("/")[0]
    if clash := sorted(seen & parents):
        raise ProtocolError(f"the path {clash[0]!r} is both a file and a directory")


class BlobHasher:
    """Computes the oid of a stream of bytes: sha256, or git's sha1 of a blob, by oid length.

    Args:
        oid: The expected hash of the content; 40 or 64 hex digits.
        size_bytes: The length of the content, which git hashes before its first byte.
    """

    def __init__(self, oid: str, size_bytes: int) -> None:
        self.oid = oid
        self.size_bytes = size_bytes
        self.seen_bytes = 0
        if len(oid) == 64:
            self._hash = hashlib.sha256()
        else:
            self._hash = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Append the next bytes; releases the GIL for all but the smallest pieces."""
        self.seen_bytes += len(data)
        self._hash.update(data)

    def copy(self) -> "BlobHasher":
        """Return one that has seen the same, and goes on by itself."""
        clone = BlobHasher(self.oid, self.size_bytes)
        clone.seen_bytes = self.seen_bytes
        clone._hash = self._hash.copy()
        return clone

    def hexdigest(self) -> str:
        """Return the oid of the bytes so far."""
        return self._hash.hexdigest()

    def check(self, name: str) -> None:
        """Raise unless exactly the wanted bytes were seen.

        Args:
            name: The file, for the message.

        Raises:
            IntegrityError: The size or the hash differs.
        """
        if self.seen_bytes != self.size_bytes:
            raise IntegrityError(
                f"{name}: want {self.size_bytes} bytes, got {self.seen_bytes} bytes"
            )
        if self.hexdigest() != self.oid:
            raise IntegrityError(f"{name}: want oid {self.oid}, got {self.hexdigest()}")


def finish_snapshot(
    cache_dir: Path,
    snapshot: Snapshot,
    *,
    note: Note = ignore,
) -> Path:
    """Write what is missing of the refs, links and tree of a snapshot whose blobs are there.

    ``refs/<revision>`` is set, and ``note`` is told where it named another commit before.
    ``refs/main`` is only created, so that loading by repo id works offline: it stays as it
    is where another revision was asked for.

    Args:
        cache_dir: The directory that holds the repo folders (``HF_HUB_CACHE``).
        snapshot: The snapshot to write.
        note: Told which ref moves, and which one cannot be written.

    Returns:
        The directory ``snapshots/<commit>``.

    Raises:
        StorageError: A blob is missing or has another size, or the disk said no.
        ProtocolError: The snapshot's paths cannot lie side by side in one directory.
    """
    folder = cache_dir / snapshot.repo.folder_name
    entries = iter_metadata_entries(snapshot)
    for oid, size_bytes in snapshot.blobs.items():
        _check_blob(folder / blob_path(oid), size_bytes)
    links = [entry for entry in entries if entry.kind == "link"]
    _make_parents(folder, links)
    remove_abandoned((folder / _SCRATCH).parent)
    for entry in links:
        _make_link(folder, entry)
    files = [entry for entry in entries if entry.kind == "file"]
    for entry in files:
        if not entry.path.startswith("refs/") and not _has_data(folder / entry.path, entry.data):
            _write(folder, entry)
    # Refs come last: what a ref names is complete.
    for entry in files:
        if entry.path.startswith("refs/"):
            _set_ref(folder, entry, snapshot, note)
    return folder / "snapshots" / snapshot.commit


def check_folder(folder: Path) -> None:
    """Raise where a part of a repo folder is a link: it may lead anywhere.

    Raises:
        StorageError: A link, or something that is no directory.
    """
    for name in ("blobs", "refs", "snapshots", "trees"):
        if os.path.lexists(folder / name):
            make_directory(folder, name)


def check_cases(root: Path, snapshot: Snapshot) -> None:
    """Raise where two files of a snapshot would be one on the file system of ``root``.

    Raises:
        StorageError: Their paths differ only in case, which the file system ignores (as those
            of macOS and Windows do), or in how Unicode composes a character.
    """
    seen: dict[str, str] = {}
    for file in snapshot.files:
        other = seen.setdefault(unicodedata.normalize("NFC", file.path).casefold(), file.path)
        if other != file.path and ignores_case(root):
            raise StorageError(
                f"{root}: {other!r} and {file.path!r} would be one file here:"
                " this file system ignores case",
                hint="leave one out with --exclude, or name a directory on another file system",
            )


def _has_data(path: Path, data: bytes) -> bool:
    found = read_small_file(path, _FILE_LIMIT_BYTES)
    if found is None or found == data:
        return found is not None
    # The library writes the same list of files with other blanks, release by release.
    with suppress(ValueError, RecursionError):
        return path.suffix == ".json" and bool(json.loads(found) == json.loads(data))
    return False


def _write(folder: Path, entry: MetadataEntry) -> None:
    make_directory(folder, entry.path.rpartition("/")[0])
    with NewFile(folder / _SCRATCH) as file:
        file.write(entry.data)
        file.commit(folder / entry.path)


def _set_ref(folder: Path, entry: MetadataEntry, snapshot: Snapshot, note: Note) -> None:
    ref = entry.path
    before = read_small_file(folder / ref, REF_LIMIT_BYTES)
    if before is None and os.path.lexists(folder / ref):
        before = b""
    if before == entry.data:
        return
    if before is not None and ref == MAIN_REF != ref_path(snapshot.revision):
        return
    name = f"{snapshot.repo.id}: {ref}"
    if clash := _clash(folder, ref):
        note(f"{name} is not written: {clash} is in the way; use revision={snapshot.commit}")
        return
    _write(folder, entry)
    old = None if before is None else before.decode("ascii", "replace").strip()
    if old not in {None, snapshot.commit}:
        shown = old if is_commit(old or "") else "something that is no commit"
        note(f"{name} moved from {shown} to {snapshot.commit}")


def _clash(folder: Path, ref: str) -> str | None:
    """Return the ref of another branch that this one's name begins with, or is a part of."""
    if (folder / ref).is_dir():
        return f"{ref}/"
    parents = accumulate(ref.split("/")[:-1], "{}/{}".format)
    return next((parent for parent in parents if (folder / parent).is_file()), None)


def _check_blob(path: Path, size_bytes: int) -> None:
    with storage_errors(path):
        got = path.stat().st_size
    if got != size_bytes:
        raise StorageError(f"{path}: want {size_bytes} bytes, got {got} bytes")


def _make_parents(folder: Path, links: Iterable[MetadataEntry]) -> None:
    for parent in sorted({entry.path.rpartition("/")[0] for entry in links}):
        make_directory(folder, parent)


def _make_link(folder: Path, entry: MetadataEntry) -> None:
    """Make a path show a blob: Windows and some network file systems have no links."""
    path, target = folder / entry.path, entry.target
    with storage_errors(path):
        if path.is_symlink() and path.readlink() == Path(target):
            return
        with suppress(OSError, NotImplementedError):
            path.symlink_to(target)
            return
        source = Path(os.path.normpath(path.parent / target))
        is_file = path.is_file() and not path.is_symlink()
        if is_file and path.samefile(source):
            return
        temporary = temporary_name(folder / _SCRATCH)
        try:
            if not _is_linked(temporary, target, source):
                if is_file and filecmp.cmp(path, source, shallow=False):
                    return
                shutil.copyfile(source, temporary)
            temporary.replace(path)
        finally:
            # Renaming a hard link of a file onto another one leaves both.
            with suppress(OSError):
                temporary.unlink()


def _is_linked(path: Path, target: str, source: Path) -> bool:
    """Try a symbolic link, then a hard link; return whether there is one."""
    with suppress(OSError, NotImplementedError):
        path.symlink_to(target)
        return True
    with suppress(OSError, NotImplementedError):
        path.hardlink_to(source)
        return True
    return False
