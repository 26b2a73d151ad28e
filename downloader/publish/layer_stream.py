"""The bytes of a snapshot's files, from the Hub: large ones as streams, small ones ahead."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from downloader.errors import IntegrityError, TransportError
from downloader.hub.cache import BlobHasher
from downloader.hub.repo import RepoFile, Snapshot
from downloader.hub.stream import FileStream, StreamSettings, open_file
from downloader.net.http import HttpPool
from downloader.plan import Content
from downloader.publish.lanes import ReadAhead
from downloader.transfer.ring import BufferPool
from downloader.transfer.source import FileSource
from downloader.units import MIB

SourceOf = Callable[[RepoFile], FileSource]

# A file up to this size is read whole, beside others: each costs a round trip or two, and
# one after the other a thousand of them would take minutes.
SMALL_FILE_BYTES = 4 * MIB
AHEAD_BYTES = 8 * MIB  # of small files in memory for one layer
AHEAD_FILES = 8  # at once for one layer


@dataclass(frozen=True)
class HubAccess:
    """How to read from the Hub.

    Args:
        source_of: Where the bytes of a file come from.
        http: Connections.
        pool: Memory, shared by every stream of a run.
        settings: How one file is read.
    """

    source_of: SourceOf
    http: HttpPool
    pool: BufferPool
    settings: StreamSettings


class HubContents:
    """The cache blobs of one snapshot; used by any number of threads.

    Args:
        snapshot: Whose files.
        access: How to read them.
    """

    def __init__(self, snapshot: Snapshot, access: HubAccess) -> None:
        self._access = access
        self._files: dict[str, RepoFile] = {}
        for file in snapshot.files:  # one content at two paths is read from the first
            self._files.setdefault(file.oid, file)
        self._streams: set[FileStream] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    def path_of(self, content: Content) -> str:
        """Return a path in the repo, for messages."""
        return self._files[content.oid].path

    @contextmanager
    def opened(self, content: Content) -> Iterator[FileStream]:
        """Open a content as an ordered stream; who reads it verifies it."""
        file = self._files[content.oid]
        access = self._access
        stream = open_file(
            access.source_of(file),
            content.blob_bytes,
            http=access.http,
            pool=access.pool,
            settings=access.settings,
            byte_range=content.byte_range,
        )
        with stream:
            self._enter(stream)
            try:
                yield stream
            finally:
                with self._lock:
                    self._streams.discard(stream)

    def read_ahead(self, contents: Sequence[Content]) -> ReadAhead[bytes]:
        """Begin to read small contents, verified, in the order in which they will be taken."""
        return ReadAhead(
            [partial(self._read, content) for content in contents],
            [content.size_bytes for content in contents],
            window_bytes=AHEAD_BYTES,
            threads=AHEAD_FILES,
        )

    def close(self) -> None:
        """Wake up every thread that reads, and let nobody begin."""
        with self._lock:
            self._is_closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.close()

    def _enter(self, stream: FileStream) -> None:
        with self._lock:
            if self._is_closed:
                raise TransportError("interrupted")
            self._streams.add(stream)

    def _read(self, content: Content) -> bytes:
        try:
            return self._read_once(content)
        except IntegrityError:
            return self._read_once(content)  # a second time may be right; a third would not

    def _read_once(self, content: Content) -> bytes:
        hasher = BlobHasher(content.oid, content.blob_bytes)
        data = b""
        if content.size_bytes:
            with self.opened(content) as stream:
                data = b"".join(stream)
        hasher.update(data)
        hasher.check(self.path_of(content))
        return data
