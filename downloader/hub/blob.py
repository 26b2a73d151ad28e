"""One content from the Hub into its cache blob: three ways, one check before the final name."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from downloader.errors import IntegrityError, StorageError, TransportError
from downloader.fs import create_file, free_bytes, storage_errors, temporary_name
from downloader.hub import hf_transfer
from downloader.hub.cache import BlobHasher
from downloader.hub.hf_transfer import TransferSettings, UnfitError
from downloader.hub.repo import RepoFile
from downloader.hub.resolver import (
    FileSource,
    Location,
    check_answer,
    check_end,
    iter_fill,
)
from downloader.hub.stream import FileStream, StreamSettings
from downloader.hub.verify import check_blob
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.net.retry import Retry, RetryPolicy, TransientError
from downloader.progress import Meter, Note, ignore
from downloader.transfer.ring import BufferPool
from downloader.units import MIB

# hf_transfer loses up to 2 MiB a connection on a full disk, and says that all went well.
_FULL_DISK_BYTES = 32 * MIB


@dataclass(frozen=True)
class FetchSettings:
    """Bounds and retry of a fetch.

    Args:
        small_bytes: Files below it come through one request of a pooled connection: a
            child process costs a tenth of a second, and 16 MiB is less than two of
            hf_transfer's chunks, so parallel ranges would have nothing to share.
        small_at_once: Small files side by side; each takes one connection and 1 MiB.
        large_at_once: Large files side by side.
        transfer: For hf_transfer.
        use_transfer: Whether hf_transfer is used at all.
        stream: For our own stream, where hf_transfer is missing or has failed.
        memory_bytes: For our own streams in all.
        verify_existing: Whether blobs that are there are hashed.
        policy: For each file, range and address.
        note: Told before a long wait.
    """

    small_bytes: int = 16 * MIB
    small_at_once: int = 8
    large_at_once: int = 2
    transfer: TransferSettings = field(default_factory=TransferSettings)
    use_transfer: bool = True
    stream: StreamSettings = field(default_factory=StreamSettings)
    memory_bytes: int = 96 * MIB
    verify_existing: bool = False
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    note: Note = ignore

    def is_small(self, file: RepoFile) -> bool:
        """Whether a file is not worth parallel ranges."""
        return file.size_bytes < self.small_bytes


class BlobFetcher:
    """Fetches contents; may be used by several threads.

    Args:
        http: Connections.
        settings: Bounds and retry.
        cancelled: Set by another thread to stop; then it calls `interrupt`.
    """

    def __init__(self, http: HttpPool, settings: FetchSettings, cancelled: threading.Event) -> None:
        self._http = http
        self._settings = settings
        self._cancelled = cancelled
        self._pool = BufferPool(settings.memory_bytes)
        self._has_transfer = settings.use_transfer and hf_transfer.is_installed()
        self._open: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()

    def fetch(self, file: RepoFile, source: FileSource, final: Path, meter: Meter) -> str:
        """Fetch one content and give it its name; return which way it came.

        Wrong bytes are fetched once more before they are an error: a CDN's cache may hold
        a damaged copy.

        Raises:
            HubError, TransportError, ProtocolError, IntegrityError, StorageError: As
                `downloader.hub.fetch.fetch_snapshot` says.
        """
        try:
            return self._fetch_once(file, source, final, meter, self._has_transfer)
        except IntegrityError:
            meter.set(0)
            # Not with hf_transfer: it splices wrong bytes where a server ignores ranges.
            return self._fetch_once(file, source, final, meter, False)

    def interrupt(self) -> None:
        """Wake up every thread that waits for bytes, and remove what they were writing."""
        with self._lock:
            callbacks = list(self._open.values())
        for callback in callbacks:
            callback()

    def _fetch_once(
        self, file: RepoFile, source: FileSource, final: Path, meter: Meter, use_transfer: bool
    ) -> str:
        temporary = temporary_name(final)
        with self._interruptible(lambda: temporary.unlink(missing_ok=True)):
            try:
                location = Location(self._http, source)
                way = self._bring(file, location, temporary, meter, use_transfer)
                self._check_cancelled(file)
                with storage_errors(final):
                    temporary.replace(final)
            finally:
                with suppress(OSError):
                    temporary.unlink()
        meter.set(file.size_bytes)
        return way

    def _bring(
        self, file: RepoFile, location: Location, path: Path, meter: Meter, use_transfer: bool
    ) -> str:
        """Write verified bytes to ``path``."""
        if not file.size_bytes:
            self._write(file, path, meter, iter(()))
            return "empty"
        if self._settings.is_small(file):
            self._bring_plainly(file, location, path, meter)
            return "plain"
        if use_transfer and self._try_transfer(file, location, path, meter):
            return "hf_transfer"
        self._bring_stream(file, location, path, meter)
        return "stream"

    def _bring_plainly(self, file: RepoFile, location: Location, path: Path, meter: Meter) -> None:
        settings = self._settings
        retry = Retry(settings.policy, self._cancelled.wait, note=settings.note, name=location.name)
        while True:
            try:
                self._write(file, path, meter, self._iter_plain(file, location))
            except TransientError as failure:
                retry.wait_or_raise(failure)
            else:
                return

    def _iter_plain(self, file: RepoFile, location: Location) -> Iterator[memoryview]:
        whole = ByteRange(0, file.size_bytes)
        buffer = memoryview(bytearray(min(MIB, file.size_bytes)))
        with location.open(None) as response:
            check_answer(response, whole, file.size_bytes, location.name)
            with self._interruptible(response.shutdown):
                for piece in whole.split(len(buffer)):
                    self._check_cancelled(file)
                    view = buffer[: piece.size_bytes]
                    for _ in iter_fill(response, view, location.name):
                        pass
                    yield view
                check_end(response, location.name)

    def _bring_stream(self, file: RepoFile, location: Location, path: Path, meter: Meter) -> None:
        whole = ByteRange(0, file.size_bytes)
        with (
            FileStream(
                location, file.size_bytes, whole, self._pool, self._settings.stream
            ) as stream,
            self._interruptible(stream.close),
        ):
            self._write(file, path, meter, iter(stream))

    def _try_transfer(self, file: RepoFile, location: Location, path: Path, meter: Meter) -> bool:
        for _ in range(self._settings.transfer.tries):
            try:
                hf_transfer.transfer_file(
                    location,
                    path,
                    file.size_bytes,
                    http=self._http.settings,
                    settings=self._settings.transfer,
                    on_growth=meter.set,
                    cancelled=self._cancelled,
                )
            except UnfitError:
                return False
            except TransientError as failure:
                self._check_cancelled(file)
                _check_not_full(path, file, failure)
                with storage_errors(path):
                    path.unlink(missing_ok=True)
                meter.set(0)
                if failure.asked_s:
                    return False  # our own stream knows how to wait
                continue
            self._check_transferred(file, path)
            return True
        return False

    def _check_transferred(self, file: RepoFile, path: Path) -> None:
        try:
            check_blob(path, file.oid, file.size_bytes, name=file.path, cancelled=self._cancelled)
        except IntegrityError as error:
            _check_not_full(path, file, error)
            raise

    def _write(
        self, file: RepoFile, path: Path, meter: Meter, pieces: Iterator[memoryview]
    ) -> None:
        hasher = BlobHasher(file.oid, file.size_bytes)
        with storage_errors(path):
            path.unlink(missing_ok=True)  # of an earlier try
            descriptor = create_file(path)
        with storage_errors(path), os.fdopen(descriptor, "wb") as output:
            for piece in pieces:
                hasher.update(piece)
                output.write(piece)
                meter.set(hasher.seen_bytes)
        hasher.check(file.path)

    def _check_cancelled(self, file: RepoFile) -> None:
        if self._cancelled.is_set():
            raise TransportError(f"{file.path}: cancelled")

    @contextmanager
    def _interruptible(self, callback: Callable[[], None]) -> Iterator[None]:
        key = object()
        with self._lock:
            self._open[key] = callback
        try:
            yield
        finally:
            with self._lock:
                del self._open[key]


def _check_not_full(path: Path, file: RepoFile, error: Exception) -> None:
    free = free_bytes(path.parent)
    if free < _FULL_DISK_BYTES:
        raise StorageError(
            f"{file.path}: want {file.size_bytes} bytes, got a disk with {free} bytes left",
            hint="free some space, or name another directory, then run it again",
        ) from error
