"""Is this cache what it says it is? Offline, from names alone: a blob's name is its hash.

Nothing here trusts a list that came with the files more than the files' own names; lists
(``trees``, ``plans``) only say what should be there.
"""

import os
import re
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from downloader.errors import HfModelsError, InputError, StorageError, TransportError
from downloader.fs import storage_errors
from downloader.hub.cache import BlobHasher
from downloader.hub.repo_check import Finding, HashJob, RepoCheck
from downloader.progress import NoProgress, Progress

__all__ = ["Finding", "Report", "check_blob", "verify_cache"]

_PIECE_BYTES = 1 << 20
_FOLDER = re.compile(r"(?:models|datasets|spaces|kernels)--.+")


@dataclass(frozen=True)
class Report:
    """What a verification saw.

    Args:
        findings: Sorted; empty if all is well. ``extra`` alone does no harm.
        repos: Repo folders.
        snapshots: Commits with files.
        files: Files of snapshots.
        blobs: Contents that were hashed.
        size_bytes: Bytes that were hashed.
        unchecked_files: Copies in ``snapshots/`` that no name, tree or plan vouches for.
    """

    findings: tuple[Finding, ...]
    repos: int
    snapshots: int
    files: int
    blobs: int
    size_bytes: int
    unchecked_files: int = 0

    @property
    def is_good(self) -> bool:
        """Whether everything promised is there and right."""
        return all(finding.kind == "extra" for finding in self.findings)


def check_blob(
    path: Path,
    oid: str,
    size_bytes: int,
    *,
    name: str | None = None,
    cancelled: threading.Event | None = None,
) -> None:
    """Raise unless the file at ``path`` hashes to ``oid``.

    Args:
        path: Of the bytes.
        oid: 40 or 64 hex digits.
        size_bytes: How many there should be.
        name: For messages, instead of ``path``.
        cancelled: Set by another thread to stop.

    Raises:
        IntegrityError: Another size, or other bytes.
        StorageError: It cannot be read.
        TransportError: ``cancelled`` was set.
    """
    hasher = BlobHasher(oid, size_bytes)
    _hash_files([path], hasher, cancelled)
    hasher.check(name or str(path))


def _hash_files(
    paths: Iterable[Path], hasher: BlobHasher, cancelled: threading.Event | None = None
) -> None:
    buffer = memoryview(bytearray(_PIECE_BYTES))
    for path in paths:
        with storage_errors(path), path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                if cancelled is not None and cancelled.is_set():
                    raise TransportError(f"{path}: cancelled")
                hasher.update(buffer[:count])


def verify_cache(path: Path, *, threads: int = 2, progress: Progress | None = None) -> Report:
    """Compare a cache with what its names promise; asks nobody.

    Args:
        path: A cache directory (``HF_HUB_CACHE``), ``HF_HOME`` (it has ``hub/``), or one
            repo folder.
        threads: That hash side by side; the disk is the limit beyond a few.
        progress: Told about bytes and files.

    Raises:
        InputError: There is no cache at ``path``.
        StorageError: Something cannot be read.
    """
    cache_dir, folders = _find_folders(path)
    checks = [RepoCheck(cache_dir, folder) for folder in folders]
    jobs = [job for check in checks for job in check.plan()]
    progress = progress or NoProgress()
    progress.start(sum(job.size_bytes for job in jobs), len(jobs))
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda job: _run_job(job, progress), jobs))
    findings = {finding for check in checks for finding in check.findings}
    findings.update(finding for finding in results if finding)
    return Report(
        findings=tuple(sorted(findings)),
        repos=len(folders),
        snapshots=sum(check.snapshots for check in checks),
        files=sum(check.files for check in checks),
        blobs=len(jobs),
        size_bytes=sum(job.size_bytes for job in jobs),
        unchecked_files=sum(check.unchecked for check in checks),
    )


def _find_folders(path: Path) -> tuple[Path, list[Path]]:
    path = Path(os.path.abspath(path))  # noqa: PTH100  # links are compared with it as text
    if _FOLDER.fullmatch(path.name) and (path / "snapshots").is_dir():
        return path.parent, [path]
    for cache_dir in (path, path / "hub"):
        if cache_dir.is_dir():
            with storage_errors(cache_dir):
                inside = sorted(cache_dir.iterdir())
            folders = [item for item in inside if _FOLDER.fullmatch(item.name) and item.is_dir()]
            if folders:
                return cache_dir, folders
    raise InputError(f"want a Hugging Face cache with at least one repo, got {str(path)!r}")


def _run_job(job: HashJob, progress: Progress) -> Finding | None:
    hasher = BlobHasher(job.oid, job.size_bytes)
    try:
        _hash_files(job.paths, hasher)
        hasher.check(job.name)
    except StorageError as error:
        return Finding("wrong", job.name, f"oid {job.oid}", error.message)
    except HfModelsError:
        return Finding("wrong", job.name, f"oid {job.oid}", f"oid {hasher.hexdigest()}")
    finally:
        progress.advance(job.size_bytes)
        progress.finish_file(job.name)
    return None
