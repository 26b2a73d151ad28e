"""A layer as a sequence of blocks of memory, from any offset on.

Large files come as streams, small ones are fetched ahead, and every file is verified.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from downloader.errors import IntegrityError, TransportError
from downloader.hub.cache import BlobHasher
from downloader.hub.repo import RepoFile, Snapshot
from downloader.hub.resolver import FileSource, HubFile
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy
from downloader.oci.tar_write import END_OF_ARCHIVE
from downloader.plan import Content, Layer
from downloader.progress import Note
from downloader.publish.sha256 import Sha256
from downloader.transfer.ordered import BufferPool, OrderedStream, StreamSettings
from downloader.transfer.source import interrupt_of, read_all, retry_without_ranges
from downloader.transfer.workers import WorkerGroup
from downloader.units import MIB

SourceOf = Callable[[RepoFile], FileSource]

# A file up to this size is read whole, beside others: each costs a round trip or two, and
# one after the other a thousand of them would take minutes.
PREFETCHED_FILE_BYTES = 4 * MIB
PREFETCH_BYTES = 8 * MIB  # of small files in memory for one layer
# At once for all layers of a run: enough for 2,000 files in 10 s at a round trip of 200 ms.
PREFETCH_FILES = 64
_LEAST_PREFETCH_FILES = 8  # of each layer, where those before it take the others
_BATCH_BYTES = 1 * MIB  # headers, padding and tiny files travel together


@dataclass(frozen=True)
class HubAccess:
    """Source and settings for reading from the Hub.

    Args:
        source_of: Returns the source of a file's bytes.
        http: Connections.
        pool: Memory, shared by every stream of a run.
        settings: Connections and memory for one large file.
        retry: For each request; bytes that arrive reset its count of failures.
        note: Told before a long wait.
    """

    source_of: SourceOf
    http: HttpPool
    pool: BufferPool
    settings: StreamSettings
    retry: RetryPolicy
    note: Note


class HubContents:
    """The cache blobs of one snapshot; used by any number of threads.

    Args:
        snapshot: The snapshot of the files.
        access: Source and settings for reading them.
        group: Of the run; its threads fetch small files.
    """

    def __init__(self, snapshot: Snapshot, access: HubAccess, group: WorkerGroup) -> None:
        self._access = access
        self._group = group
        self._files: dict[str, RepoFile] = {}
        for file in snapshot.files:  # one content at two paths is read from the first
            self._files.setdefault(file.oid, file)
        self._large: dict[str, HubFile] = {}  # the parts of a file ask once for its address
        self.sha256s: dict[str, str] = {}  # of small files outside LFS, which a signature names
        self._interrupts: set[Callable[[], None]] = set()
        self._prefetching = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def path_of(self, content: Content) -> str:
        """Return a path in the repo, for messages."""
        return self._files[content.oid].path

    @contextmanager
    def opened(self, content: Content, skip_bytes: int = 0) -> Iterator[OrderedStream]:
        """Open a content, without its first bytes, as an ordered stream; the reader verifies it."""
        whole = content.byte_range
        wanted = ByteRange(whole.start + skip_bytes, whole.end)
        access, oid = self._access, content.oid
        source = self._large.get(oid) or self._large.setdefault(oid, self._source(content))
        stream = OrderedStream(source, wanted, access.pool, access.settings)
        with stream, self._entered(stream.close):
            yield stream

    def _source(self, content: Content) -> HubFile:
        access = self._access
        return HubFile(
            access.http,
            access.source_of(self._files[content.oid]),
            content.blob_bytes,
            policy=access.retry,
            note=access.note,
        )

    @contextmanager
    def prefetched(self, contents: Sequence[Content]) -> Iterator["Prefetch"]:
        """Fetch small contents ahead, verified, in the order in which they will be taken."""
        calls = [partial(self._read, content) for content in contents]
        prefetch = Prefetch(calls, [content.size_bytes for content in contents])
        with self._group.interrupting(prefetch.close):
            with self._lock:
                left = max(_LEAST_PREFETCH_FILES, PREFETCH_FILES - self._prefetching)
                count = min(left, len(calls))
                self._prefetching += count
            try:
                self._group.start_all([prefetch.work] * count, count, name="prefetch")
                yield prefetch
            finally:
                prefetch.close()
                with self._lock:
                    self._prefetching -= count

    def close(self) -> None:
        """Wake up every thread that reads; further streams are refused."""
        with self._lock:
            self._is_closed = True
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            interrupt()

    @contextmanager
    def _entered(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Have `close` interrupt the read in the block."""
        with self._lock:
            if self._is_closed:
                raise TransportError("interrupted")
            self._interrupts.add(interrupt)
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.discard(interrupt)

    def _read(self, content: Content) -> bytes:
        try:
            return self._read_once(content)
        except IntegrityError:
            return self._read_once(content)  # a second time may be right; a third would not

    def _read_once(self, content: Content) -> bytes:
        hasher = BlobHasher(content.oid, content.blob_bytes)
        data = self._download(content) if content.size_bytes else b""
        hasher.update(memoryview(data))
        hasher.check(self.path_of(content))
        self.sha256s[content.oid] = hashlib.sha256(data).hexdigest()
        return data

    def _download(self, content: Content) -> bytes:
        source = self._source(content)

        def read() -> bytes:
            reader = source.open(ByteRange(0, content.size_bytes))
            with reader, self._entered(interrupt_of(reader)):
                return read_all(reader, content.size_bytes, self.path_of(content))

        return retry_without_ranges(read)


class Prefetch:
    """The results of calls in their order, made ahead by threads that run `work`.

    Args:
        calls: The calls, in the order in which the results are taken.
        costs_bytes: Memory of each result; `PREFETCH_BYTES` are held at most.
    """

    def __init__(self, calls: Sequence[Callable[[], bytes]], costs_bytes: Sequence[int]) -> None:
        self._calls = calls
        self._costs_bytes = costs_bytes
        self._results: dict[int, bytes | Exception] = {}
        self._next = self._taken = self._held_bytes = 0
        self._is_closed = False
        self._condition = threading.Condition()

    def take(self) -> bytes:
        """Return the next result, or raise what its call raised."""
        with self._condition:
            at = self._taken
            self._condition.wait_for(lambda: at in self._results or self._is_closed)
            if at not in self._results:
                raise TransportError("interrupted")
            result = self._results.pop(at)
            self._taken += 1
            self._held_bytes -= self._costs_bytes[at]
            self._condition.notify_all()
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """Begin no more calls."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def work(self) -> None:
        """Make calls until there are no more, or until `close`."""
        while (at := self._claim()) is not None:
            result: bytes | Exception
            try:
                result = self._calls[at]()
            except Exception as error:  # noqa: BLE001  # `take` raises it
                result = error
            with self._condition:
                self._results[at] = result
                self._condition.notify_all()

    def _claim(self) -> int | None:
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._is_over() or self._has_room())
            if self._is_closed or self._is_over():
                return None
            at = self._next
            self._next += 1
            self._held_bytes += self._costs_bytes[at]
            return at

    def _is_over(self) -> bool:
        return self._next >= len(self._calls)

    def _has_room(self) -> bool:
        need = self._held_bytes + self._costs_bytes[self._next]
        return need <= PREFETCH_BYTES or self._next == self._taken


@dataclass(frozen=True)
class Block:
    """Some bytes of a layer's tar, in memory that is valid until the next block.

    Args:
        start: The offset of the first of them in the tar.
        data: The bytes.
        content: The content of the bytes, where it has not been verified yet.
    """

    start: int
    data: memoryview
    content: Content | None = None

    @property
    def end(self) -> int:
        """The offset after the last of them."""
        return self.start + len(self.data)

    def after(self, offset: int) -> memoryview:
        """Return the bytes from an offset in the tar on; none where all come before it."""
        return self.data[max(0, offset - self.start) :]


def is_small(content: Content) -> bool:
    """Whether a content is read whole and verified before any of it is passed on."""
    return not content.parts and content.size_bytes <= PREFETCHED_FILE_BYTES


def iter_blocks(layer: Layer, contents: HubContents, start: int = 0) -> Iterator[Block]:
    """Yield the bytes of a layer from the offset ``start`` on, in order.

    Raises:
        IntegrityError: A small file is not what the Hub promised, twice.
        HubError, TransportError, ProtocolError: The Hub did not send one.
    """
    for block in _iter_overlapping(layer, contents, start):
        if block.end > start:
            yield Block(max(start, block.start), block.after(start), block.content)


def _iter_overlapping(layer: Layer, contents: HubContents, start: int) -> Iterator[Block]:
    """Yield blocks, of which the first may begin before ``start``."""
    content_at = {offset: content for content, offset in layer.placed}
    wanted = [
        content
        for offset, content in content_at.items()
        if is_small(content) and offset + content.size_bytes > start
    ]
    batch, batch_start = bytearray(), 0

    def flush() -> Iterator[Block]:
        nonlocal batch_start
        yield Block(batch_start, memoryview(bytes(batch)))
        batch_start += len(batch)
        batch.clear()

    with contents.prefetched(wanted) as prefetch:
        for placed in layer.tar.entries:
            at, size_bytes = placed.content_offset, placed.entry.size_bytes
            end = at + size_bytes + placed.padding_bytes
            if end <= start:
                batch_start = end
                continue
            batch += placed.header
            content = content_at[at] if placed.entry.kind == "file" else None
            if content and at + size_bytes <= start:
                batch += bytes(size_bytes)  # only the padding after it is wanted
            elif content and is_small(content):
                batch += prefetch.take()
            elif content:
                yield from flush()
                skip_bytes = max(0, start - at)
                batch_start += skip_bytes
                with contents.opened(content, skip_bytes) as stream:
                    for view in stream:
                        yield Block(batch_start, view, content)
                        batch_start += len(view)
            batch += bytes(placed.padding_bytes)
            if len(batch) >= _BATCH_BYTES:
                yield from flush()
        batch += END_OF_ARCHIVE
        yield from flush()


class OidHasher(BlobHasher):
    """A `BlobHasher` whose state can be written down, where the oid is a sha256."""

    def __init__(self, oid: str, size_bytes: int) -> None:
        super().__init__(oid, size_bytes)
        self.sha256 = Sha256() if len(oid) == 64 else None
        if self.sha256:
            self._hash = self.sha256  # type: ignore[assignment]

    @classmethod
    def resumed(cls, oid: str, size_bytes: int, seen_bytes: int, state: bytes) -> "OidHasher":
        """Return one that goes on from a `Sha256.state` after ``seen_bytes``."""
        made = cls(oid, size_bytes)
        made.seen_bytes = seen_bytes
        made._hash = made.sha256 = Sha256.resumed(state)  # type: ignore[assignment]
        return made


class Verifier:
    """The oids of large files, computed as their bytes pass by, over layers if need be.

    Args:
        path_of: A file's path, for messages.
    """

    def __init__(self, path_of: Callable[[Content], str]) -> None:
        self._path_of = path_of
        self._hashers: dict[str, OidHasher] = {}

    def update(self, content: Content, data: memoryview) -> None:
        """Take the next bytes of a content.

        Raises:
            IntegrityError: They were the last ones, and the oid is another.
        """
        hasher = self._hashers.get(content.oid)
        if hasher is None:
            hasher = self._hashers[content.oid] = OidHasher(content.oid, content.blob_bytes)
        hasher.update(data)
        if hasher.seen_bytes >= hasher.size_bytes:
            hasher.check(self._path_of(content))
            del self._hashers[content.oid]

    def states(self) -> dict[str, tuple[int, bytes]] | None:
        """Return bytes seen and sha256 state of every file under way, None if one has no state."""
        found: dict[str, tuple[int, bytes]] = {}
        for oid, hasher in self._hashers.items():
            state = hasher.sha256.state() if hasher.sha256 else None
            if state is None:
                return None
            found[oid] = hasher.seen_bytes, state
        return found

    def restore(self, states: Mapping[str, tuple[int, bytes]], layer: Layer) -> None:
        """Go on from `states`, which were taken in the middle of ``layer``."""
        sizes = {content.oid: content.blob_bytes for content in layer.contents}
        for oid, (seen_bytes, state) in states.items():
            self._hashers[oid] = OidHasher.resumed(oid, sizes[oid], seen_bytes, state)
