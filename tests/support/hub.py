"""What the tests of the Hub's side share: a stand-in, quick retries, one call for each step."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from downloader.hub.fetch import FetchReport, FetchSettings, fetch_snapshot
from downloader.hub.hf_transfer import TransferSettings
from downloader.hub.repo import RepoFile, Snapshot, parse_repo
from downloader.hub.resolver import FileSource, HubFile
from downloader.hub.snapshot import Hub
from downloader.net.http import HttpPool, HttpSettings
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy
from downloader.transfer.ordered import BufferPool, OrderedStream, StreamSettings
from downloader.transfer.scheduler import Bounds
from downloader.units import MIB
from tests.support.fake_hub import Accesses, HubServer

# One reader may meet every fault of a test in a row: below ``tries`` it still gets through.
QUICK = RetryPolicy(tries=4, first_delay_s=0.01, longest_asked_s=5.0)
READ_TIMEOUT_S = 1.0  # what a stall costs here
STREAM = StreamSettings(at_first=4, range_bytes=2 * MIB, ring_bytes=8 * MIB)


@dataclass
class Side:
    """A stand-in and a client of it."""

    hub: HubServer
    token: str | None = None
    http: HttpPool = field(
        default_factory=lambda: HttpPool(HttpSettings(read_timeout_s=READ_TIMEOUT_S))
    )

    def snapshot(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> Snapshot:
        return self._client().resolve(parse_repo(repo_id, repo_type), revision)

    def source(self, snapshot: Snapshot, file: RepoFile) -> FileSource:
        return self._client().source_of(snapshot, file)

    def fetch(self, snapshot: Snapshot, cache_dir: Path, **options: Any) -> FetchReport:
        settings = FetchSettings(
            policy=QUICK,
            bounds=Bounds(memory_bytes=16 * MIB),
            small_bytes=options.pop("small_bytes", 4 * MIB),
            transfer=TransferSettings(stall_s=2.0),
            use_transfer=options.pop("use_transfer", True),
            verify_existing=options.pop("verify_existing", False),
        )
        return fetch_snapshot(
            snapshot,
            lambda file: self.source(snapshot, file),
            cache_dir,
            http=self.http,
            settings=settings,
            **options,
        )

    @contextmanager
    def open(
        self,
        repo_id: str,
        path: str,
        *,
        wanted: ByteRange | None = None,
        pool: BufferPool | None = None,
        settings: StreamSettings = STREAM,
    ) -> Iterator[OrderedStream]:
        snapshot = self.snapshot(repo_id)
        file = file_of(snapshot, path)
        self.hub.clear_log()
        source = HubFile(self.http, self.source(snapshot, file), file.size_bytes, policy=QUICK)
        wanted = wanted or ByteRange(0, file.size_bytes)
        with OrderedStream(source, wanted, pool or BufferPool(8 * MIB), settings) as stream:
            yield stream

    def read(self, repo_id: str, path: str, **options: Any) -> str:
        """Read a whole stream; return its sha256."""
        digest = hashlib.sha256()
        with self.open(repo_id, path, **options) as stream:
            for view in stream:
                digest.update(view)
        return digest.hexdigest()

    def log(self) -> Accesses:
        return self.hub.log()

    def _client(self) -> Hub:
        return Hub(self.hub.endpoint, self.token, self.http, retry=QUICK)


def file_of(snapshot: Snapshot, path: str) -> RepoFile:
    return next(file for file in snapshot.files if file.path == path)


@contextmanager
def fresh(hub: HubServer, token: str | None = None) -> Iterator[Side]:
    """Give a side without faults and without a log, and close its connections afterwards."""
    hub.clear_faults()
    hub.clear_log()
    side = Side(hub, token)
    try:
        yield side
    finally:
        side.http.close()
        hub.clear_faults()
        _wait_for_streams()


def _wait_for_streams() -> None:
    """Wait for the threads of closed streams: their last requests belong to no other test."""
    for thread in threading.enumerate():
        if thread.name.startswith("stream-"):
            thread.join(2 * READ_TIMEOUT_S)
