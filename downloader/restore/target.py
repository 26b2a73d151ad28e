"""Targets of a restore: the library's cache, or a directory of plain files."""

import hashlib
import shutil
import threading
import unicodedata
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from downloader.errors import IntegrityError, ProtocolError, StorageError
from downloader.fs import (
    NewFile,
    hold_lock,
    hold_own_lock,
    make_directory,
    read_small_file,
    remove_abandoned,
    storage_errors,
)
from downloader.hub.cache import (
    blob_path,
    check_cases,
    check_folder,
    finish_snapshot,
    iter_metadata_entries,
    lock_path,
    ref_path,
)
from downloader.hub.repo import NO_OID, REF_LIMIT_BYTES, Repo, RepoFile, Snapshot
from downloader.hub.verify import VerifiedBlobs, check_blob
from downloader.progress import Note, ignore

_PRIVATE = ".hf-models"  # of a local directory: what is not a whole file yet
_READ_BYTES = 1024**2


class Target(Protocol):
    """Takes cache blobs, and shows them under the names of a snapshot in the end."""

    @property
    def root(self) -> Path:
        """The directory that everything lies in."""

    @property
    def scratch(self) -> str:
        """A directory below the root for what has no name yet."""

    def blob(self, repo: Repo, oid: str) -> Path:
        """Return where a cache blob lies when it is right."""

    def existing(self, repo: Repo, oid: str) -> Path | None:
        """Return a file that should hold this content already."""

    def lock(
        self, repo: Repo, oid: str, cancelled: threading.Event
    ) -> AbstractContextManager[None]:
        """Keep others from fetching the same cache blob meanwhile."""

    def check(self, snapshot: Snapshot) -> None:
        """Raise where the names of a snapshot cannot be written; asks for no content."""

    def prepare(self, snapshot: Snapshot) -> None:
        """Learn the names, now that all contents have their oid."""

    def is_right(self, repo: Repo, oid: str, size_bytes: int, *, always: bool) -> bool:
        """Whether the bytes of `existing` are right.

        Hashes them, unless ``always`` is false and another run has done so.
        """

    def finish(self, snapshot: Snapshot, note: Note = ignore, *, may_move: bool = True) -> Path:
        """Show a snapshot whose cache blobs are all there and verified; return its directory.

        ``note`` is told which ref moves, or would if ``may_move`` were true.
        """

    def clean(self) -> None:
        """Remove what has no use when all is finished."""


class CacheTarget:
    """The Hugging Face cache.

    Args:
        root: ``HF_HUB_CACHE``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[Repo, VerifiedBlobs] = {}

    @property
    def scratch(self) -> str:
        """A place in the cache that the library does not take for a repo."""
        return f".locks/{_PRIVATE}"

    def blob(self, repo: Repo, oid: str) -> Path:
        """Return where a cache blob lies when it is right."""
        return self.root / repo.folder_name / blob_path(oid)

    def existing(self, repo: Repo, oid: str) -> Path | None:
        """Return the cache blob if there is one, be it a link to the library's shared store."""
        path = self.blob(repo, oid)
        return path if path.exists() else None

    def lock(
        self, repo: Repo, oid: str, cancelled: threading.Event
    ) -> AbstractContextManager[None]:
        """Hold the library's own lock file."""
        return hold_lock(self.root / lock_path(repo, oid), cancelled)

    def check(self, snapshot: Snapshot) -> None:
        """Raise if the names of a snapshot cannot lie side by side, or its folder has links."""
        iter_metadata_entries(snapshot)
        check_folder(self.root / snapshot.repo.folder_name)
        check_cases(self.root, snapshot)

    def prepare(self, snapshot: Snapshot) -> None:
        """Do nothing: the names of cache blobs are their oids."""

    def is_right(self, repo: Repo, oid: str, size_bytes: int, *, always: bool) -> bool:
        """Whether the cache blob is right; hashed once, unless ``always``."""
        return self._record(repo).is_right(oid, size_bytes, always=always)

    def _record(self, repo: Repo) -> VerifiedBlobs:
        return self._verified.setdefault(repo, VerifiedBlobs(self.root, repo))

    def finish(self, snapshot: Snapshot, note: Note = ignore, *, may_move: bool = True) -> Path:
        """Write refs, links and tree."""
        if not may_move:
            snapshot = self._without_move(snapshot, note)
        path = finish_snapshot(self.root, snapshot, note=note)
        record = self._record(snapshot.repo)
        for oid in snapshot.blobs:
            record.add(oid)
        record.save()
        return path

    def _without_move(self, snapshot: Snapshot, note: Note) -> Snapshot:
        """Return a snapshot that is named by its commit where its ref names another one."""
        ref = ref_path(snapshot.revision)
        found = read_small_file(self.root / snapshot.repo.folder_name / ref, REF_LIMIT_BYTES)
        if found is None or found.strip() == snapshot.commit.encode():
            return snapshot
        note(
            f"{snapshot.repo.id}: {ref} is left as it is: the image's labels do not name the"
            f" repo; load these files with revision={snapshot.commit}"
        )
        return replace(snapshot, revision=snapshot.commit)

    def clean(self) -> None:
        """Remove the scratch directory if no other run uses it."""
        with suppress(OSError):
            (self.root / self.scratch).rmdir()


class LocalTarget:
    """Plain files under their own names.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._private = _PRIVATE
        self._files: dict[str, RepoFile] = {}
        self._paths: dict[str, list[str]] = {}  # of each oid
        self._placed: dict[str, Path] = {}
        self._checked: dict[tuple[str, int, int, int], bool] = {}

    @property
    def scratch(self) -> str:
        """A hidden directory; gone when everything is finished."""
        return f"{_PRIVATE}/scratch"

    def blob(self, repo: Repo, oid: str) -> Path:
        """Return where a content lies until it gets its names."""
        del repo
        return self.root / self._private / blob_path(oid)

    def existing(self, repo: Repo, oid: str) -> Path | None:
        """Return a whole file of this content; by its hash, because its name says nothing."""
        paths = self._paths.get(oid, [])
        candidates = [self.blob(repo, oid), *(self.root / path for path in paths)]
        return next((path for path in candidates if self._holds(path, oid)), None)

    def lock(
        self, repo: Repo, oid: str, cancelled: threading.Event
    ) -> AbstractContextManager[None]:
        """Hold a lock file of our own, which is gone afterwards."""
        del repo
        return hold_own_lock(self.root / self._private / "locks" / f"{oid}.lock", cancelled)

    def check(self, snapshot: Snapshot) -> None:
        """Raise if the names of a snapshot cannot lie side by side, or not here.

        Raises:
            ProtocolError: A name would lie in a git repository's own directory.
            StorageError: Two names would be one on this file system.
        """
        iter_metadata_entries(snapshot)
        check_cases(self.root, snapshot)
        for file in snapshot.files:
            if any(_is_dot_git(segment) for segment in file.path.split("/")):
                raise ProtocolError(
                    f"{file.path!r}: --local-dir writes nothing into a .git directory",
                    hint="restore into the cache, or leave it out with --exclude",
                )

    def prepare(self, snapshot: Snapshot) -> None:
        """Learn the names, now that all contents have their oid.

        Raises:
            StorageError: Another snapshot has one of these names for another content.
        """
        for file in snapshot.files:
            if self._files.setdefault(file.path, file).oid != file.oid:
                raise StorageError(
                    f"{self.root / file.path}: two images have different contents for it",
                    hint="restore one image into each --local-dir",
                )
            if file.path not in self._paths.setdefault(file.oid, []):
                self._paths[file.oid].append(file.path)
        tops = {path.partition("/")[0].casefold() for path in self._files}
        top = self._private.partition("/")[0]
        while top in tops:  # a file of the repo may have our name
            top += "_"
        # Of this snapshot: a run for another one must not take a content that waits here.
        names = [snapshot.repo.name, snapshot.commit]
        if snapshot.commit == NO_OID:
            names = [f"{file.path} {file.oid}" for file in snapshot.files]
        key = self._private.partition("/")[2]
        key = key or hashlib.sha256("\n".join(names).encode("utf-8", "replace")).hexdigest()[:16]
        self._private = f"{top}/{key}"

    def is_right(self, repo: Repo, oid: str, size_bytes: int, *, always: bool) -> bool:
        """Return true: `existing` has hashed the file."""
        del repo, oid, size_bytes, always
        return True

    def finish(self, snapshot: Snapshot, note: Note = ignore, *, may_move: bool = True) -> Path:
        """Give every content its names: the first by renaming, the others by copying."""
        del note, may_move
        for file in snapshot.files:
            self._place(file, self.blob(snapshot.repo, file.oid))
        return self.root

    def clean(self) -> None:
        """Remove our directories, if no other run uses them."""
        own = self.root / self._private
        scratch = self.root / self.scratch
        remove_abandoned(own / "blobs")
        for directory in (own / "blobs", own / "locks", own, own.parent, scratch, scratch.parent):
            with suppress(OSError):
                directory.rmdir()

    def _place(self, file: RepoFile, waiting: Path) -> None:
        path = self.root / file.path
        if not self._holds(path, file.oid):
            make_directory(self.root, file.path.rpartition("/")[0])
            with storage_errors(path):
                if waiting.exists():
                    waiting.replace(path)
                elif file.oid in self._placed:
                    remove_abandoned(path.parent, f"{path.name}.")
                    with NewFile(path) as copy, self._placed[file.oid].open("rb") as source:
                        shutil.copyfileobj(source, copy.file, _READ_BYTES)
                        copy.commit()
                else:
                    raise StorageError(f"{path}: was removed by another program")
        self._placed[file.oid] = path

    def _holds(self, path: Path, oid: str) -> bool:
        """Whether a file holds a content; reads it once, as long as it does not change."""
        if path.is_symlink() or not path.is_file():
            return False
        with storage_errors(path):
            status = path.stat()
        key = (oid, status.st_size, status.st_mtime_ns, status.st_ino)
        if key not in self._checked:
            self._checked[key] = is_right(path, oid, status.st_size)
        return self._checked[key]


def _is_dot_git(segment: str) -> bool:
    # NTFS drops dots and spaces at the end, and has short names; HFS+ ignores some characters.
    name = "".join(c for c in segment.lower() if unicodedata.category(c) != "Cf").rstrip(". ")
    return name.partition(":")[0] in {".git", "git~1"}


def is_right(path: Path, oid: str, size_bytes: int) -> bool:
    """Whether a file holds what its oid says; reads all of it."""
    with storage_errors(path):
        if path.stat().st_size != size_bytes:
            return False
    try:
        check_blob(path, oid, size_bytes)
    except IntegrityError:
        return False
    return True
