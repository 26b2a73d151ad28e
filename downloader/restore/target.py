"""Where restored files go: the library's cache, or a directory of plain files."""

import shutil
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from downloader.errors import IntegrityError, StorageError
from downloader.fs import NewFile, hold_lock, make_directory, storage_errors
from downloader.hub.cache import (
    BlobHasher,
    blob_path,
    check_folder,
    finish_snapshot,
    iter_metadata_entries,
    lock_path,
)
from downloader.hub.repo import Repo, RepoFile, Snapshot
from downloader.hub.verify import VerifiedBlobs
from downloader.progress import Note, ignore

_PRIVATE = ".hf-models"  # of a local directory: what is not a whole file yet
_READ_BYTES = 1024**2


class Target(Protocol):
    """Takes cache blobs, and shows them under the names of a snapshot in the end."""

    @property
    def root(self) -> Path:
        """The directory that everything lies in."""

    @property
    def scratch(self) -> Path:
        """A directory on the same file system for what has no name yet."""

    def blob(self, repo: Repo, oid: str) -> Path:
        """Return where a cache blob lies when it is right."""

    def existing(self, repo: Repo, oid: str) -> Path | None:
        """Return a file that should hold this content already."""

    def lock(
        self, repo: Repo, oid: str, cancelled: threading.Event
    ) -> AbstractContextManager[None]:
        """Keep others from fetching the same cache blob meanwhile."""

    def prepare(self, snapshot: Snapshot) -> None:
        """Learn the names, and raise what would stop `finish`, before the first byte."""

    def is_right(self, repo: Repo, oid: str, size_bytes: int, *, always: bool) -> bool:
        """Whether the bytes of `existing` are right.

        Hashes them, unless ``always`` is false and another run has done so.
        """

    def finish(self, snapshot: Snapshot, note: Note = ignore) -> Path:
        """Show a snapshot whose cache blobs are all there and verified; return its directory.

        ``note`` is told which ref moves.
        """

    def clean(self) -> None:
        """Remove what nobody needs when all is finished."""


class CacheTarget:
    """The Hugging Face cache.

    Args:
        root: ``HF_HUB_CACHE``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[Repo, VerifiedBlobs] = {}

    @property
    def scratch(self) -> Path:
        """A place in the cache that the library does not take for a repo."""
        return self.root / ".locks" / _PRIVATE

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

    def prepare(self, snapshot: Snapshot) -> None:
        """Raise if the names of a snapshot cannot lie side by side."""
        iter_metadata_entries(snapshot)
        check_folder(self.root / snapshot.repo.folder_name)

    def is_right(self, repo: Repo, oid: str, size_bytes: int, *, always: bool) -> bool:
        """Whether the cache blob is right; hashed once, unless ``always``."""
        return self._record(repo).is_right(oid, size_bytes, always=always)

    def _record(self, repo: Repo) -> VerifiedBlobs:
        return self._verified.setdefault(repo, VerifiedBlobs(self.root, repo))

    def finish(self, snapshot: Snapshot, note: Note = ignore) -> Path:
        """Write refs, links and tree."""
        path = finish_snapshot(self.root, snapshot, note=note)
        record = self._record(snapshot.repo)
        for oid in snapshot.blobs:
            record.add(oid)
        record.save()
        return path

    def clean(self) -> None:
        """Remove the scratch directory if nobody uses it."""
        with suppress(OSError):
            self.scratch.rmdir()


class LocalTarget:
    """Plain files under their own names.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[str, RepoFile] = {}
        self._private = root / _PRIVATE

    @property
    def scratch(self) -> Path:
        """A hidden directory; gone when everything is finished."""
        return self.root / _PRIVATE / "scratch"

    def blob(self, repo: Repo, oid: str) -> Path:
        """Return where a content lies until it gets its names."""
        del repo
        return self._private / blob_path(oid)

    def existing(self, repo: Repo, oid: str) -> Path | None:
        """Return a whole file of this content; by its hash, because its name says nothing."""
        waiting = self.blob(repo, oid)
        if waiting.exists():
            return waiting
        for path, file in self._paths.items():
            if file.oid == oid and _holds(self.root / path, file):
                return self.root / path
        return None

    def lock(
        self, repo: Repo, oid: str, cancelled: threading.Event
    ) -> AbstractContextManager[None]:
        """Hold a lock file of our own."""
        del repo
        if cancelled.is_set():
            return nullcontext()
        return hold_lock(self._private / "locks" / f"{oid}.lock", cancelled)

    def prepare(self, snapshot: Snapshot) -> None:
        """Learn the names.

        Raises:
            StorageError: Another snapshot has one of these names for another content.
        """
        iter_metadata_entries(snapshot)
        for file in snapshot.files:
            if self._paths.setdefault(file.path, file).oid != file.oid:
                raise StorageError(
                    f"{self.root / file.path}: want one content, got two of two images",
                    hint="restore one image into each --local-dir",
                )
        # A repo may hold such a directory itself: one that was uploaded too early.
        names = {path.split("/")[0].casefold() for path in self._paths}
        while self._private.name in names:
            self._private = self._private.with_name(f"{self._private.name}_")

    def is_right(self, repo: Repo, oid: str, size_bytes: int, *, always: bool) -> bool:
        """Whether a file that waits for its names is right; others were hashed by `existing`."""
        del always
        path = self.blob(repo, oid)
        return not path.exists() or is_right(path, oid, size_bytes)

    def finish(self, snapshot: Snapshot, note: Note = ignore) -> Path:
        """Give every content its names: the first by renaming, the others by copying."""
        del note
        for file in snapshot.files:
            self._place(file, self.blob(snapshot.repo, file.oid))
        return self.root

    def clean(self) -> None:
        """Remove what only we needed."""
        shutil.rmtree(self._private, ignore_errors=True)
        with suppress(OSError):
            self.scratch.rmdir()
        with suppress(OSError):
            self.scratch.parent.rmdir()

    def _place(self, file: RepoFile, blob: Path) -> None:
        path = self.root / file.path
        if _holds(path, file):
            return
        with storage_errors(path):
            make_directory(self.root, file.path.rpartition("/")[0])
            if blob.exists():
                blob.replace(path)
                return
            with NewFile(path) as copy, self._placed(file).open("rb") as source:
                shutil.copyfileobj(source, copy.file, _READ_BYTES)
                copy.commit()

    def _placed(self, file: RepoFile) -> Path:
        for path, other in self._paths.items():
            if other.oid == file.oid and (self.root / path).exists():
                return self.root / path
        raise StorageError(f"{self.root / file.path}: was removed by another program")


def _holds(path: Path, file: RepoFile) -> bool:
    return path.is_file() and is_right(path, file.oid, file.size_bytes)


def is_right(path: Path, oid: str, size_bytes: int) -> bool:
    """Whether a file holds what its oid says; reads all of it."""
    hasher = BlobHasher(oid, size_bytes)
    with storage_errors(path), path.open("rb", buffering=0) as file:
        if path.stat().st_size != size_bytes:
            return False
        buffer = memoryview(bytearray(_READ_BYTES))
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    try:
        hasher.check(str(path))
    except IntegrityError:
        return False
    return True
