"""A snapshot into the cache on disk: side by side, verified, with nothing twice."""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from downloader.errors import TransportError
from downloader.fs import (
    allocated_bytes,
    check_space,
    hold_lock,
    make_directory,
    make_private_directory,
    storage_errors,
)
from downloader.hub import hf_transfer
from downloader.hub.cache import (
    BlobHasher,
    blob_path,
    check_cases,
    check_folder,
    finish_snapshot,
    lock_path,
)
from downloader.hub.hf_transfer import TransferSettings, UnfitError
from downloader.hub.repo import RepoFile, Snapshot
from downloader.hub.resolver import FileSource, HubFile
from downloader.hub.verify import VerifiedBlobs
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy, TransientError
from downloader.progress import Meter, NoProgress, Progress
from downloader.transfer.partial_file import PartialFile, partial_paths
from downloader.transfer.rangeset import RangeSet
from downloader.transfer.scheduler import SMALL_FILE_BYTES, Bounds, FileTask, Scheduler
from downloader.units import MIB

__all__ = ["FetchReport", "FetchSettings", "fetch_snapshot"]


# hf_transfer loses up to 2 MiB a connection on a full disk, and says that all went well.
_FULL_DISK_BYTES = 32 * MIB
_CONTENT = "content"  # the file of hf_transfer in a directory of its own
_BLOCK_BYTES = 4096  # of a file system; its holes are whole ones


@dataclass(frozen=True)
class FetchSettings:
    """Bounds and patience of a fetch.

    Args:
        bounds: Of connections, files at once and memory.
        use_transfer: Whether large files come through hf_transfer first.
        transfer: For hf_transfer.
        small_bytes: Files below it never do: a child process costs a tenth of a second, and
            16 MiB is less than two of hf_transfer's chunks.
        verify_existing: Whether blobs that are there are hashed.
        policy: For each file, range and address.
    """

    bounds: Bounds = field(default_factory=Bounds)
    use_transfer: bool = False
    transfer: TransferSettings = field(default_factory=TransferSettings)
    small_bytes: int = 16 * MIB
    verify_existing: bool = False
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def wants_transfer(self, file: RepoFile) -> bool:
        """Whether a file should come through hf_transfer."""
        return (
            self.use_transfer
            and file.size_bytes >= max(self.small_bytes, SMALL_FILE_BYTES)
            and hf_transfer.is_installed()
        )


@dataclass(frozen=True)
class FetchReport:
    """The result of a fetch.

    Args:
        snapshot_dir: ``snapshots/<commit>``, complete.
        fetched_files: Distinct contents that came from the Hub.
        fetched_bytes: Their size.
        reused_files: Distinct contents that the cache had.
        reused_bytes: Their size.
        ways: Number of contents by way: ``plain``, ``hf_transfer``, ``stream``, ``empty``.
        notes: Remarks for the user, one line each.
    """

    snapshot_dir: Path
    fetched_files: int
    fetched_bytes: int
    reused_files: int
    reused_bytes: int
    ways: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fetch_snapshot(
    snapshot: Snapshot,
    source_of: Callable[[RepoFile], FileSource],
    cache_dir: Path,
    *,
    http: HttpPool,
    settings: FetchSettings | None = None,
    progress: Progress | None = None,
) -> FetchReport:
    """Bring every file of a snapshot into the cache, then write refs, links and tree.

    Blobs that are there under their final name are hashed once, and not fetched again.
    Interrupted at any moment, no half file has its final name.

    Args:
        snapshot: The snapshot to fetch.
        source_of: Returns the source of a file.
        cache_dir: The directory that holds the repo folders (``HF_HUB_CACHE``).
        http: Connections.
        settings: Bounds and patience.
        progress: Told about bytes and files.

    Raises:
        HubError: The Hub said no.
        TransportError: No bytes, after the retries.
        ProtocolError: Answers that break HTTP.
        IntegrityError: Wrong bytes, twice.
        StorageError: Too little space, or the disk said no.
    """
    progress = progress or NoProgress()
    settings = settings or FetchSettings()
    job = _Fetch(snapshot, source_of, cache_dir, http=http, settings=settings, progress=progress)
    job.run()
    folder = finish_snapshot(cache_dir, snapshot, note=progress.note)
    return job.report(folder)


class _Fetch:
    """One call of `fetch_snapshot`."""

    def __init__(
        self,
        snapshot: Snapshot,
        source_of: Callable[[RepoFile], FileSource],
        cache_dir: Path,
        *,
        http: HttpPool,
        settings: FetchSettings,
        progress: Progress,
    ) -> None:
        self._snapshot = snapshot
        self._source_of = source_of
        self._cache_dir = cache_dir
        self._http = http
        self._settings = settings
        self._progress = progress
        self._folder = cache_dir / snapshot.repo.folder_name
        self._files = {file.oid: file for file in snapshot.files}
        self._paths: dict[str, list[str]] = {}
        for file in snapshot.files:
            self._paths.setdefault(file.oid, []).append(file.path)
        self._leftovers = _find_leftovers(self._folder / "blobs")
        self._verified = VerifiedBlobs(cache_dir, snapshot.repo)
        self._ways: dict[str, str] = {}
        self._reused: set[str] = set()
        self._wrong: set[str] = set()
        self._scheduler = Scheduler(settings.bounds, progress, http.line)

    def run(self) -> None:
        """Fetch what is missing."""
        check_folder(self._folder)
        check_cases(self._cache_dir, self._snapshot)
        self._progress.start(sum(self._snapshot.blobs.values()), len(self._snapshot.files))
        missing = [file for file in self._files.values() if not self._take_known(file)]
        make_directory(self._folder, "blobs")
        absent = [file for file in missing if not self._is_there(file)]
        leftovers = [path for file in absent for path in self._leftovers.get(file.oid, [])]
        freed_bytes = sum(allocated_bytes(path) for path in leftovers)
        need_bytes = sum(file.size_bytes for file in absent)
        check_space(self._folder, max(0, need_bytes - freed_bytes))
        try:
            self._scheduler.run([self._task(file) for file in missing])
        finally:
            self._verified.save()

    def report(self, snapshot_dir: Path) -> FetchReport:
        """Return what was done."""
        reused = [self._files[oid].size_bytes for oid in self._reused]
        fetched = [f.size_bytes for f in self._files.values() if f.oid not in self._reused]
        return FetchReport(
            snapshot_dir=snapshot_dir,
            fetched_files=len(fetched),
            fetched_bytes=sum(fetched),
            reused_files=len(reused),
            reused_bytes=sum(reused),
            ways=dict(Counter(self._ways.values())),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterable[str]:
        streamed = list(self._ways.values()).count("stream")
        if not streamed or not self._settings.use_transfer:
            return
        if hf_transfer.is_installed():
            yield f"hf_transfer could not do {streamed} of the large files; our own stream did"
        else:
            yield "hf_transfer is not installed: large files came through our own stream"

    def _task(self, file: RepoFile) -> FileTask:
        source = HubFile(
            self._http,
            self._source_of(file),
            file.size_bytes,
            policy=self._settings.policy,
            note=self._progress.note,
        )
        return FileTask(
            name=self._paths[file.oid][0],
            size_bytes=file.size_bytes,
            final=self._folder / blob_path(file.oid),
            source=source,
            new_hasher=partial(BlobHasher, file.oid, file.size_bytes),
            is_there=partial(self._take_existing, file),
            done=partial(self._fetched, file),
            lock=partial(self._lock, file),
            prefill=partial(self._prefill, file, source),
        )

    @contextmanager
    def _lock(self, file: RepoFile, cancelled: threading.Event) -> Iterator[None]:
        final = self._folder / blob_path(file.oid)
        with hold_lock(self._cache_dir / lock_path(self._snapshot.repo, file.oid), cancelled):
            kept = {*partial_paths(final), _transfer_directory(final)}
            for leftover in self._leftovers.get(file.oid, []):
                if not kept & {leftover, leftover.parent}:
                    leftover.unlink(missing_ok=True)
            yield

    def _prefill(self, file: RepoFile, source: HubFile, partial_file: PartialFile) -> int:
        """Fill a file with hf_transfer where that is wanted; return what an earlier run left.

        hf_transfer writes chunks in any order and keeps no journal. So it works on a file of
        its own, and what a killed run left there is found by its holes. It opens that file by
        name for each chunk, so the directory is one where no other user can replace it.
        """
        directory = _transfer_directory(partial_file.final)
        path = directory / _CONTENT
        is_begun = partial_file.path.exists()
        left = RangeSet()
        if os.path.lexists(directory) or (self._settings.wants_transfer(file) and not is_begun):
            make_private_directory(directory)
        if path.exists() and not is_begun:
            left = find_written(path, file.size_bytes)
        elif self._settings.wants_transfer(file) and not is_begun:
            meter = Meter(self._progress, file.size_bytes, self._paths[file.oid][0])
            if self._transfer(file, source, path, meter):
                path.replace(partial_file.path)
                directory.rmdir()
                meter.set(file.size_bytes)
                self._ways[file.oid] = "hf_transfer"
                whole = RangeSet()
                whole.add(ByteRange(0, file.size_bytes))
                partial_file.open(whole)
                return 0
            meter.set(0)
        if left.size_bytes:
            path.replace(partial_file.path)
        shutil.rmtree(directory, ignore_errors=True)
        return partial_file.open(left if left.size_bytes else None)  # None: what its journal says

    def _transfer(self, file: RepoFile, source: HubFile, path: Path, meter: Meter) -> bool:
        """Run hf_transfer; return whether the file has its size now."""
        for _ in range(self._settings.transfer.tries):
            path.unlink(missing_ok=True)
            try:
                hf_transfer.transfer_file(
                    source.location,
                    path,
                    file.size_bytes,
                    http=self._http.settings,
                    settings=self._settings.transfer,
                    on_growth=meter.set,
                    cancelled=self._scheduler.group.cancelled,
                )
            except UnfitError:
                return False
            except TransientError as failure:
                if self._scheduler.group.cancelled.is_set():
                    raise TransportError(f"{file.path}: cancelled") from failure
                check_space(path.parent, _FULL_DISK_BYTES)
                meter.set(0)
                if failure.asked_s:
                    return False  # the scheduler's own requests know how to wait
                continue
            check_space(path.parent, _FULL_DISK_BYTES)
            return path.stat().st_size == file.size_bytes
        return False

    def _fetched(self, file: RepoFile) -> None:
        self._verified.add(file.oid)
        way = "plain" if file.size_bytes <= SMALL_FILE_BYTES else "stream"
        self._ways.setdefault(file.oid, way if file.size_bytes else "empty")
        self._finish(file)

    def _take_known(self, file: RepoFile) -> bool:
        """Take a blob that was hashed before, unless it shall be hashed again."""
        if self._settings.verify_existing:
            return False
        return self._verified.is_known(file.oid, file.size_bytes) and self._take_existing(file)

    def _take_existing(self, file: RepoFile) -> bool:
        """Take a blob that is there already, if its bytes are right."""
        if not self._verified.is_right(
            file.oid,
            file.size_bytes,
            always=self._settings.verify_existing,
            cancelled=self._scheduler.group.cancelled,
        ):
            path = self._folder / blob_path(file.oid)
            if path.exists() and file.oid not in self._wrong:
                self._wrong.add(file.oid)
                self._progress.note(f"{path}: not what its name says; fetching it again")
            return False
        self._reused.add(file.oid)
        self._progress.skip(file.size_bytes)
        self._finish(file)
        return True

    def _is_there(self, file: RepoFile) -> bool:
        path = self._folder / blob_path(file.oid)
        with storage_errors(path):
            return path.exists() and path.stat().st_size == file.size_bytes

    def _finish(self, file: RepoFile) -> None:
        for path in self._paths[file.oid]:
            self._progress.finish_file(path)


def _find_leftovers(blobs: Path) -> dict[str, list[Path]]:
    """Return by oid what runs that were killed left behind."""
    found: dict[str, list[Path]] = {}
    if blobs.is_dir():
        for path in (*blobs.glob("*.incomplete"), *blobs.glob(f"*.transfer.incomplete/{_CONTENT}")):
            name = path.relative_to(blobs).parts[0]
            found.setdefault(name.partition(".")[0], []).append(path)
    return found


def _transfer_directory(final: Path) -> Path:
    """Return the directory of the file that hf_transfer fills, beside the finished one."""
    return final.with_name(f"{final.name}.{final.name[:8]}.transfer.incomplete")


def find_written(path: Path, size_bytes: int) -> RangeSet:
    """Return what a killed hf_transfer has written of a file, found by the holes it left.

    The last block of each piece may be incomplete, so it is left out. Nothing here has to be
    believed in the end: the whole file is hashed before it gets its name.
    """
    written = RangeSet()
    if not hasattr(os, "SEEK_DATA") or path.stat().st_size > size_bytes:
        return written
    with storage_errors(path), path.open("rb") as file:
        descriptor, at = file.fileno(), 0
        with suppress(OSError):  # ENXIO: no data behind this
            while True:
                start = os.lseek(descriptor, at, os.SEEK_DATA)
                at = os.lseek(descriptor, start, os.SEEK_HOLE)
                end = (at - 1) // _BLOCK_BYTES * _BLOCK_BYTES
                if start < end:
                    written.add(ByteRange(start, end))
    return written
