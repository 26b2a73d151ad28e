"""A snapshot into the cache on disk: side by side, verified, with nothing twice."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from downloader.fs import allocated_bytes, check_space, hold_lock, make_directory, storage_errors
from downloader.hub import hf_transfer
from downloader.hub.blob import BlobFetcher, FetchSettings
from downloader.hub.cache import blob_path, check_folder, finish_snapshot, lock_path
from downloader.hub.repo import RepoFile, Snapshot
from downloader.hub.resolver import FileSource
from downloader.hub.verify import VerifiedBlobs
from downloader.net.http import HttpPool
from downloader.progress import Meter, NoProgress, Progress
from downloader.transfer.workers import run_all

__all__ = ["FetchReport", "FetchSettings", "fetch_snapshot"]


@dataclass(frozen=True)
class FetchReport:
    """What a fetch did.

    Args:
        snapshot_dir: ``snapshots/<commit>``, complete.
        fetched_files: Distinct contents that came from the Hub.
        fetched_bytes: Their size.
        reused_files: Distinct contents that the cache had.
        reused_bytes: Their size.
        ways: How many contents came which way: ``plain``, ``hf_transfer``, ``stream``, ``empty``.
        notes: What the user may want to know, one line each.
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
    extra_files: Mapping[str, bytes] | None = None,
) -> FetchReport:
    """Bring every file of a snapshot into the cache, then write refs, links and tree.

    Blobs that are there under their final name are hashed once, and not fetched again.
    Interrupted at any moment, no half file has its final name.

    Args:
        snapshot: What to fetch.
        source_of: Where each file comes from.
        cache_dir: The directory that holds the repo folders (``HF_HUB_CACHE``).
        http: Connections.
        settings: Bounds and patience.
        progress: Told about bytes and files.
        extra_files: As `finish_snapshot` takes it.

    Raises:
        HubError: The Hub said no.
        TransportError: No bytes, after the retries.
        ProtocolError: Answers that break HTTP.
        IntegrityError: Wrong bytes, twice.
        StorageError: Too little space, or the disk said no.
    """
    progress = progress or NoProgress()
    settings = _noted(settings or FetchSettings(), progress)
    job = _Fetch(snapshot, source_of, cache_dir, http=http, settings=settings, progress=progress)
    job.run()
    folder = finish_snapshot(cache_dir, snapshot, extra_files=extra_files, note=settings.note)
    return job.report(folder)


def _noted(settings: FetchSettings, progress: Progress) -> FetchSettings:
    stream = replace(settings.stream, note=progress.note)
    return replace(settings, note=progress.note, stream=stream)


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
        self._settings = settings
        self._progress = progress
        self._folder = cache_dir / snapshot.repo.folder_name
        self._cancelled = threading.Event()
        self._fetcher = BlobFetcher(http, self._settings, self._cancelled)
        self._files = {file.oid: file for file in snapshot.files}
        self._paths: dict[str, list[str]] = {}
        for file in snapshot.files:
            self._paths.setdefault(file.oid, []).append(file.path)
        self._leftovers = _find_leftovers(self._folder / "blobs")
        self._verified = VerifiedBlobs(cache_dir, snapshot.repo)
        self._ways: Counter[str] = Counter()
        self._reused: set[str] = set()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Fetch what is missing."""
        check_folder(self._folder)
        self._progress.start(sum(self._snapshot.blobs.values()), len(self._snapshot.files))
        missing = [file for file in self._files.values() if not self._take_known(file)]
        make_directory(self._folder, "blobs")
        absent = [file for file in missing if not self._is_there(file)]
        leftovers = [path for file in absent for path in self._leftovers.get(file.oid, [])]
        freed_bytes = sum(allocated_bytes(path) for path in leftovers)
        need_bytes = sum(file.size_bytes for file in absent)
        check_space(self._folder, max(0, need_bytes - freed_bytes))
        is_small = self._settings.is_small
        # The largest first: the small ones fill what is left of the line beside them.
        large = sorted((f for f in missing if not is_small(f)), key=lambda f: -f.size_bytes)
        small = [file for file in missing if is_small(file)]
        try:
            run_all(
                [
                    (self._settings.large_at_once, [self._task(file) for file in large]),
                    (self._settings.small_at_once, [self._task(file) for file in small]),
                ],
                self._cancelled,
                self._fetcher.interrupt,
            )
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
            ways=dict(self._ways),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterable[str]:
        streamed = self._ways["stream"]
        if not streamed or not self._settings.use_transfer:
            return
        if hf_transfer.is_installed():
            yield f"hf_transfer could not do {streamed} of the large files; our own stream did"
        else:
            yield "hf_transfer is not installed: large files came through our own stream"

    def _task(self, file: RepoFile) -> Callable[[], None]:
        return lambda: self._fetch(file)

    def _fetch(self, file: RepoFile) -> None:
        if self._take_existing(file):  # which needs no lock: the cache may be read-only
            return
        lock = self._cache_dir / lock_path(self._snapshot.repo, file.oid)
        with hold_lock(lock, self._cancelled):
            # Another process may have fetched it while we waited.
            if self._take_existing(file):
                return
            final = self._folder / blob_path(file.oid)
            if final.exists():
                self._settings.note(f"{final}: not what its name says; fetching it again")
            for leftover in self._leftovers.get(file.oid, []):
                leftover.unlink(missing_ok=True)
            path = self._paths[file.oid][0]
            self._progress.start_file(path, file.size_bytes)
            meter = Meter(self._progress, file.size_bytes, path)
            way = self._fetcher.fetch(file, self._source_of(file), final, meter)
            self._verified.add(file.oid)
        with self._lock:
            self._ways[way] += 1
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
            cancelled=self._cancelled,
        ):
            return False
        with self._lock:
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
        for path in blobs.glob("*.incomplete"):
            found.setdefault(path.name.partition(".")[0], []).append(path)
    return found
