"""The read-through cache: blobs in the Hugging Face cache layout, oldest unused first out.

What this server put there is marked by an empty file, whose time is that of the last use; only
what is marked is counted and removed, because the cache may be the user's own.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from downloader.errors import HfModelsError, StorageError
from downloader.fs import free_bytes, storage_errors
from downloader.hub.cache import blob_path, link_target, snapshot_path
from downloader.hub.repo import Repo, RepoFile, is_oid
from downloader.restore.foreign.entries import parse_folder
from downloader.restore.target import CacheTarget
from downloader.transfer.partial_file import partial_paths
from downloader.units import MIB

_MARKS = ".locks/.hf-models-serve"  # where the library keeps what is no repo
_RESERVE_BYTES = 64 * MIB  # a disk that is full to the last byte breaks more than this server


@dataclass(frozen=True)
class _Marked:
    used_at: float
    size_bytes: int
    mark: Path
    blob: Path


@dataclass(frozen=True)
class Coming:
    """Blobs that are being brought in.

    Args:
        size_bytes: Of all of them.
        missing_bytes: Bytes of them that are not on the disk yet.
    """

    size_bytes: int = 0
    missing_bytes: int = 0


def lock_at_once(target: CacheTarget, repo: Repo, oid: str) -> AbstractContextManager[None]:
    """Hold the lock of a blob.

    Raises:
        TransportError: Another process has it.
    """
    is_over = threading.Event()
    is_over.set()
    return target.lock(repo, oid, is_over)


class Cache:
    """Blobs that were brought in, bounded in size.

    Args:
        target: The cache.
        limit_bytes: Of everything that this server has put there; None for the disk's own.
    """

    def __init__(self, target: CacheTarget, limit_bytes: int | None = None) -> None:
        self.target = target
        self._limit_bytes = limit_bytes

    def existing(self, repo: Repo, oid: str, size_bytes: int) -> Path | None:
        """Return a blob of the right size, and note its use."""
        path = self.target.existing(repo, oid)
        try:
            if path is None or path.stat().st_size != size_bytes:
                return None
        except OSError:  # another server has just removed it
            return None
        with suppress(OSError):
            os.utime(self._mark(repo, oid))
        return path

    def make_room(
        self, size_bytes: int, is_busy: Callable[[str], bool], coming: Coming | None = None
    ) -> bool:
        """Remove what was not used for longest until so many bytes fit; return whether they do.

        Args:
            size_bytes: Of the blob to come.
            is_busy: Whether a blob is being read just now.
            coming: Other files that have room reserved and are not complete yet.
        """
        coming = coming or Coming()
        marked = sorted(self._iter_marked(), key=lambda item: item.used_at)
        removable = [item for item in marked if not is_busy(item.blob.name)]
        # What of a file is being brought in counts in `coming`, as a whole.
        there = (i for i in marked if i.blob.exists() or not is_busy(i.blob.name))
        used = sum(item.size_bytes for item in there) + coming.size_bytes
        need = size_bytes + coming.missing_bytes + _RESERVE_BYTES
        limit = self._limit_bytes

        def is_short(freed_bytes: int = 0) -> bool:
            is_over = limit is not None and used + size_bytes - freed_bytes > limit
            return is_over or free_bytes(self.target.root) + freed_bytes < need

        with suppress(StorageError):
            if is_short(sum(item.size_bytes for item in removable)):
                return False  # and every blob stays
            removed = []
            for item in removable:
                if not is_short():
                    break
                if self._remove(item):
                    removed.append(item.blob)
                    used -= item.size_bytes
            self._remove_links(removed)
            return not is_short()
        return False

    def keep(self, repo: Repo, commit: str, file: RepoFile) -> None:
        """Show a blob that has just got its name as a file of its snapshot, and mark it.

        Raises:
            StorageError: The disk said no.
        """
        self.mark(repo, file.oid)
        link = self.target.root / repo.folder_name / snapshot_path(commit, file.path)
        with storage_errors(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                link.symlink_to(link_target(file.path, file.oid))

    def mark(self, repo: Repo, oid: str) -> None:
        """Count a blob among those that this server has brought in.

        Raises:
            StorageError: The disk said no.
        """
        mark = self._mark(repo, oid)
        with storage_errors(mark):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

    def _mark(self, repo: Repo, oid: str) -> Path:
        return self.target.root / _MARKS / repo.folder_name / oid

    def _iter_marked(self) -> Iterator[_Marked]:
        for mark in (self.target.root / _MARKS).glob("*/*"):
            blob = self.target.root / mark.parent.name / blob_path(mark.name)
            if not is_oid(mark.name):
                continue
            try:
                status = (blob if blob.exists() else partial_paths(blob)[0]).stat()
                yield _Marked(mark.stat().st_mtime, status.st_size, mark, blob)
            except OSError:  # the user, or another server, has removed it
                mark.unlink(missing_ok=True)

    def _remove(self, item: _Marked) -> bool:
        """Remove a blob and its partial files; return False while another holder fills it."""
        try:
            repo = parse_folder(item.mark.parent.name)
            with lock_at_once(self.target, repo, item.blob.name):
                for path in (item.blob, *partial_paths(item.blob), item.mark):
                    path.unlink(missing_ok=True)
        except (OSError, HfModelsError):
            return False
        return True

    @staticmethod
    def _remove_links(blobs: Sequence[Path]) -> None:
        """Remove what names blobs that are gone; the links of a repo are gone through once."""
        names = {blob.name for blob in blobs}
        for folder in {blob.parents[1] for blob in blobs}:
            for link in (folder / "snapshots").rglob("*"):
                with suppress(OSError):  # another server may be removing the same
                    if link.is_symlink() and link.readlink().name in names and not link.exists():
                        link.unlink()
