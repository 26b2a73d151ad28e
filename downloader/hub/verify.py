"""A cache against its own names: a blob's name is its hash, so no server has to be asked.

`VerifiedBlobs` answers for one blob that is there already, `verify_cache` for a whole cache.
Nothing here trusts a list that came with the files more than the files' own names; lists
(``trees``, ``plans``) only say what should be there.
"""

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from downloader.document import Document
from downloader.errors import (
    HfModelsError,
    InputError,
    IntegrityError,
    StorageError,
    TransportError,
)
from downloader.fs import make_directory, read_small_file, storage_errors, write_atomically
from downloader.hub.cache import BlobHasher, blob_path, parse_part, part_path, snapshot_path
from downloader.hub.repo import Repo, RepoFile, Snapshot, is_commit, is_oid
from downloader.progress import NoProgress, Progress
from downloader.transfer.workers import run_all

_READ_BYTES = 1 << 20
_RECORD_LIMIT_BYTES = 256 * 1024**2  # a million blobs
_FOLDER = re.compile(r"(?:models|datasets|spaces|kernels)--.+")

Kind = Literal["missing", "extra", "wrong"]
_Status = tuple[int, int, int, int]


class VerifiedBlobs:
    """The cache blobs of a repo that runs of this user have hashed; may be used by threads.

    The library trusts a blob for its name. This project hashes it once, and remembers the
    file's status: inode, size and both times. Every write changes the last of them (on
    Windows the third), which no program can set back. The record is a file of this user beside
    the library's locks; where it cannot be written, the next run hashes again.

    Args:
        cache_dir: The directory that holds the repo folders (``HF_HUB_CACHE``).
        repo: The repo of the blobs.
    """

    def __init__(self, cache_dir: Path, repo: Repo) -> None:
        self._folder = cache_dir / repo.folder_name
        self._locks = cache_dir / ".locks"
        user = getattr(os, "geteuid", lambda: "user")()
        self._record = self._locks / repo.folder_name / f".verified-{user}.json"
        self._known = _parse_record(read_small_file(self._record, _RECORD_LIMIT_BYTES, own=True))
        self._wrong: dict[str, _Status] = {}
        self._is_changed = False

    def is_known(self, oid: str, size_bytes: int) -> bool:
        """Whether the blob is there and was hashed before; reads none of it."""
        status = self._status(oid)
        return status is not None and status == self._known.get(oid) and status[1] == size_bytes

    def is_right(
        self,
        oid: str,
        size_bytes: int,
        *,
        always: bool = False,
        cancelled: threading.Event | None = None,
    ) -> bool:
        """Whether the blob is there with its bytes; hashes it unless that was done before.

        Args:
            oid: Of the blob.
            size_bytes: Of it.
            always: Whether to hash it in any case: disks lose bytes without a write.
            cancelled: Set by another thread to stop.

        Raises:
            StorageError: It cannot be read.
            TransportError: ``cancelled`` was set.
        """
        if not always and self.is_known(oid, size_bytes):
            return True
        status = self._status(oid)
        if status is None or status[1] != size_bytes or status == self._wrong.get(oid):
            return False
        try:
            check_blob(self._folder / blob_path(oid), oid, size_bytes, cancelled=cancelled)
        except IntegrityError:
            self._known.pop(oid, None)
            self._wrong[oid] = status
            return False
        if status == self._status(oid):
            self._known[oid] = status
            self._is_changed = True
        return True

    def add(self, oid: str) -> None:
        """Note that this run has hashed the blob and given it its name."""
        status = self._status(oid)
        if status is not None and status != self._known.get(oid):
            self._known[oid] = status
            self._is_changed = True

    def save(self) -> None:
        """Write the record, where that is possible."""
        if not self._is_changed:
            return
        # Another process may have added its own meanwhile.
        there = _parse_record(read_small_file(self._record, _RECORD_LIMIT_BYTES, own=True))
        with suppress(StorageError):
            make_directory(self._locks, self._record.parent.name)
            document = json.dumps(there | self._known).encode()
            write_atomically(self._record, document, mode=0o600)
            self._is_changed = False

    def _status(self, oid: str) -> _Status | None:
        try:
            status = (self._folder / blob_path(oid)).stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _parse_record(data: bytes | None) -> dict[str, _Status]:
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        document = json.loads(data or b"{}")
        return {str(oid): tuple(map(int, status)) for oid, status in document.items()}  # type: ignore[misc]
    return {}


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is not as promised.

    Args:
        kind: ``missing``, ``extra`` or ``wrong``.
        path: Relative to the cache directory.
        want: The state that its name, a tree or a plan promises.
        got: The state found.
    """

    kind: Kind
    path: str
    want: str
    got: str


@dataclass(frozen=True)
class Report:
    """The result of a verification.

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


@dataclass(frozen=True)
class HashJob:
    """Bytes to hash, in order, and the oid that they should have."""

    name: str
    oid: str
    paths: tuple[Path, ...]
    size_bytes: int


def check_blob(
    path: Path,
    oid: str,
    size_bytes: int,
    *,
    cancelled: threading.Event | None = None,
) -> None:
    """Raise unless the file at ``path`` hashes to ``oid``.

    Args:
        path: Of the bytes.
        oid: 40 or 64 hex digits.
        size_bytes: The expected size.
        cancelled: Set by another thread to stop.

    Raises:
        IntegrityError: Another size, or other bytes.
        StorageError: It cannot be read.
        TransportError: ``cancelled`` was set.
    """
    hasher = BlobHasher(oid, size_bytes)
    hash_files([path], hasher, cancelled)
    hasher.check(str(path))


def hash_files(
    paths: Iterable[Path], hasher: BlobHasher, cancelled: threading.Event | None = None
) -> None:
    """Give a hasher the bytes of files, one after the other.

    Raises:
        StorageError: One cannot be read.
        TransportError: ``cancelled`` was set.
    """
    buffer = memoryview(bytearray(_READ_BYTES))
    for path in paths:
        with storage_errors(path), path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                if cancelled is not None and cancelled.is_set():
                    raise TransportError(f"{path}: cancelled")
                hasher.update(buffer[:count])


def verify_cache(path: Path, *, threads: int = 2, progress: Progress | None = None) -> Report:
    """Compare the content of a cache with its names; makes no request.

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
    findings = {finding for check in checks for finding in check.findings}
    cancelled = threading.Event()

    def run(job: HashJob) -> None:
        finding = _run_job(job, progress, cancelled)
        if finding is not None:
            findings.add(finding)

    run_all([(threads, [partial(run, job) for job in jobs])], cancelled)
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


def find_folders(path: Path) -> list[Path]:
    """Return the repo folders of a cache; ``path`` as for `verify_cache`.

    Raises:
        InputError: There is no cache at ``path``.
    """
    return _find_folders(path)[1]


def holds_cache(path: Path) -> bool:
    """Whether `verify_cache` finds a cache at ``path``."""
    try:
        return bool(find_folders(path))
    except HfModelsError:
        return False


def _run_job(job: HashJob, progress: Progress, cancelled: threading.Event) -> Finding | None:
    hasher = BlobHasher(job.oid, job.size_bytes)
    try:
        hash_files(job.paths, hasher, cancelled)
        hasher.check(job.name)
    except TransportError:
        raise
    except StorageError as error:
        return Finding("wrong", job.name, f"oid {job.oid}", error.message)
    except HfModelsError:
        return Finding("wrong", job.name, f"oid {job.oid}", f"oid {hasher.hexdigest()}")
    finally:
        progress.advance(job.size_bytes)
        progress.finish_file(job.name)
    return None


@dataclass
class RepoCheck:
    """One repo folder against its own names: everything but the hashing.

    Attributes:
        findings: Deviations from the promised state.
        snapshots: Commits.
        files: Of snapshots.
        unchecked: Copies in ``snapshots/`` that no tree or plan vouches for.
        shown: The oid that a path of a snapshot shows by a link, symbolic or hard.
    """

    cache_dir: Path
    folder: Path
    findings: list[Finding] = field(default_factory=list)
    snapshots: int = 0
    files: int = 0
    unchecked: int = 0
    shown: dict[str, str] = field(default_factory=dict)

    def plan(self) -> list[HashJob]:
        """Look at all names and links; return what has to be hashed."""
        jobs = {job.oid: job for job in [*self._iter_blobs(), *self._iter_parts()]}
        self._check_refs()
        copies = dict(self._iter_snapshot_files(jobs))
        self._check_orphans(jobs)
        checked = list(self._check_promises(list(self._iter_promises()), jobs, copies))
        self.unchecked = len(copies) - len({job.paths for job in checked})
        return [*jobs.values(), *checked]

    def _check_orphans(self, jobs: dict[str, HashJob]) -> None:
        for oid in jobs.keys() - set(self.shown.values()):
            self._report("extra", self.folder / blob_path(oid), "a link from a snapshot", "none")

    def _report(self, kind: Kind, path: Path, want: str, got: str) -> None:
        self.findings.append(Finding(kind, self._name(path), want, got))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.cache_dir).as_posix()

    def _iter_blobs(self) -> Iterator[HashJob]:
        for path in _list(self.folder / "blobs"):
            if path.name.endswith(".incomplete"):
                self._report("extra", path, "no unfinished download", "a leftover")
            elif parse_part(path.name):
                continue
            elif not is_oid(path.name):
                self._report("extra", path, "a name of 40 or 64 hex digits", path.name)
            elif not path.exists():
                self._report("wrong", path, "a file", _describe(path))
            else:
                yield HashJob(self._name(path), path.name, (path,), path.stat().st_size)

    def _iter_parts(self) -> Iterator[HashJob]:
        found: dict[str, dict[int, Path]] = {}
        totals: dict[str, int] = {}
        for path in _list(self.folder / "blobs"):
            if name := parse_part(path.name):
                found.setdefault(name.oid, {})[name.part] = path
                totals[name.oid] = name.parts
        for oid, parts in found.items():
            whole = self.folder / blob_path(oid)
            missing = sorted(set(range(1, totals[oid] + 1)) - set(parts))
            for number in missing:
                path = self.folder / part_path(oid, number, totals[oid])
                self._report("missing", path, "a part of a blob", "nothing")
            if not missing:
                paths = tuple(path for _, path in sorted(parts.items()))
                size = sum(path.stat().st_size for path in paths)
                yield HashJob(self._name(whole), oid, paths, size)

    def _check_refs(self) -> None:
        for path in _walk(self.folder / "refs"):
            with storage_errors(path):
                data = path.read_bytes()
            if not is_commit(data.decode("ascii", "replace")):
                self._report("wrong", path, "40 hex digits, no newline", repr(data[:60])[1:])
            elif not (self.folder / "snapshots" / data.decode()).is_dir():
                self._report("missing", path, f"snapshots/{data.decode()}", "nothing")

    def _iter_snapshot_files(self, jobs: dict[str, HashJob]) -> Iterator[tuple[str, Path]]:
        """Check every link; yield the files that are no links, which have no name to check."""
        self.snapshots = len(_list(self.folder / "snapshots"))
        inodes = {_inode(job.paths[0]): oid for oid, job in jobs.items() if len(job.paths) == 1}
        for path in _walk(self.folder / "snapshots"):
            self.files += 1
            relative = path.relative_to(self.folder).as_posix()
            if path.is_symlink():
                self._check_link(path, relative, jobs)
            elif oid := inodes.get(_inode(path)):
                self.shown[relative] = oid
            else:
                yield relative, path

    def _check_link(self, path: Path, relative: str, jobs: dict[str, HashJob]) -> None:
        target = path.readlink()
        lexical = Path(os.path.normpath(path.parent / target))
        if target.is_absolute() or lexical.parent != self.folder / "blobs":
            self._report("wrong", path, "a relative link into blobs/", str(target))
            return
        self.shown[relative] = lexical.name
        if lexical.name not in jobs:
            self._report("missing", lexical, f"the content of {path.name}", _describe(lexical))

    def _iter_promises(self) -> Iterator[tuple[str, RepoFile, Path]]:
        for path in _list(self.folder / "trees"):
            for file in self._read(path, _parse_tree):
                yield path.stem, file, path
        for path in _list(self.folder / "plans"):
            for commit, file in self._read(path, _parse_plan):
                yield commit, file, path

    def _read(self, path: Path, parse: Callable[[Any], Iterable[Any]]) -> list[Any]:
        try:
            with storage_errors(path):
                document = json.loads(path.read_bytes())
            return list(parse(document))
        except (HfModelsError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._report("wrong", path, "a list of files", f"{type(error).__name__}: {error}")
            return []

    def _check_promises(
        self,
        promises: list[tuple[str, RepoFile, Path]],
        jobs: dict[str, HashJob],
        copies: dict[str, Path],
    ) -> Iterator[HashJob]:
        known: dict[str, set[str]] = {}
        for commit, file, _ in promises:
            relative = snapshot_path(commit, file.path)
            known.setdefault(commit, set()).add(relative)
            path = self.folder / relative
            if relative in copies:
                yield HashJob(self._name(path), file.oid, (path,), file.size_bytes)
            elif relative in self.shown:
                self._check_promise(path, file, self.shown[relative], jobs)
            elif not path.is_symlink():  # a wrong link was reported with the links
                self._report("missing", path, f"{file.size_bytes} bytes", _describe(path))
        for commit, names in known.items():
            self._check_extra(commit, names)

    def _check_promise(
        self, path: Path, file: RepoFile, oid: str, jobs: dict[str, HashJob]
    ) -> None:
        if oid != file.oid:
            self._report("wrong", path, f"oid {file.oid}", f"oid {oid}")
        elif oid in jobs and jobs[oid].size_bytes != file.size_bytes:
            got = f"{jobs[oid].size_bytes} bytes"
            self._report("wrong", path, f"{file.size_bytes} bytes", got)

    def _check_extra(self, commit: str, names: set[str]) -> None:
        for path in _walk(self.folder / "snapshots" / commit):
            if path.relative_to(self.folder).as_posix() not in names:
                self._report("extra", path, "only promised files", "another file")


def _parse_tree(document: Any) -> Iterator[RepoFile]:  # noqa: ANN401  # JSON of anybody
    for path, entry in document["files"].items():
        fields = {"path": path, "size": entry["size"], "blob_id": entry["blob_id"]}
        fields["sha256"] = entry.get("lfs_sha256")
        yield RepoFile.from_document(Document(fields, f"files[{path!r}]"))


def _parse_plan(document: Any) -> Iterator[tuple[str, RepoFile]]:  # noqa: ANN401
    snapshot = Snapshot.from_json(document["snapshot"])
    for file in snapshot.files:
        yield snapshot.commit, file


def _list(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    with storage_errors(directory):
        return sorted(directory.iterdir())


def _walk(directory: Path) -> Iterator[Path]:
    """Yield every file and link below ``directory``; follows no link."""
    for path in _list(directory):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _describe(path: Path) -> str:
    if path.is_symlink():
        return f"a link to {path.readlink()}" + ("" if path.exists() else ", which is not there")
    if path.is_dir():
        return "a directory"
    return "a file" if path.exists() else "nothing"
