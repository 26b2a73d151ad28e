"""The bytes of a file for one client: from the cache, from a filling, or from its source.

The rule that clients rely on: **the last bytes of a file are sent only after the hash of the
whole file was right.** A client that lacks them has a broken download, and tries again. What
is exempt, because nothing can check it: a range of a file that is not in the cache and that
nobody brings in, which is a short one (`PEEK_BYTES`), or any without a cache.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from downloader.errors import HfModelsError, IntegrityError, StorageError, TransportError
from downloader.fs import storage_errors
from downloader.hub.cache import BlobHasher
from downloader.hub.repo import Repo, RepoFile
from downloader.net.ranges import ByteRange
from downloader.progress import Note
from downloader.serve.cache import Cache, Coming
from downloader.serve.catalogue import Loaded, Location, Lookup, Remote
from downloader.serve.filling import BusyError, Filling, Stream, read_bytes
from downloader.serve.metrics import Metrics
from downloader.serve.neighbours import SMALL_BYTES, Neighbours
from downloader.serve.threads import Threads
from downloader.transfer.source import RangeSource
from downloader.transfer.workers import WorkerGroup
from downloader.units import MIB

K = TypeVar("K")
T = TypeVar("T")
Chunks = AsyncGenerator[bytes, None]

HELD_BYTES = 64 * 1024  # of the end of a file, until its hash was right
# A range up to here is a look at a header or a footer: bringing in a file of 10 GB for it would
# keep the client waiting. Parallel downloads ask for more at once (hf_transfer: 10 MiB).
PEEK_BYTES = 8 * MIB
_REACH_BYTES = 64 * MIB  # behind what is there: soon enough to wait for
_PIECE_BYTES = MIB  # of one client at a time; less when there are many
_SMALLEST_PIECE_BYTES = 16 * 1024
_ABANDONED_AFTER_S = 30.0  # a filling without clients; the partial file waits for the next one
_LOOK_AGAIN_S = 1.0
_LOOKS = 5  # for a file in a cache that others, too, remove files from
_WRONG_FOR_S = 60.0  # until a source that has no other place is read again
_CHECKED_LIMIT = 10_000  # files of this process's life whose hash is known to be right
_DISK_THREADS = 8


@dataclass(frozen=True)
class ServeBounds:
    """Bounds.

    Args:
        connections: Reads of sources at once.
        memory_bytes: For the chunks of all clients together.
    """

    connections: int = 32
    memory_bytes: int = 64 * MIB


class _GoneError(StorageError):
    """A file that was found in the cache was removed, to make room, before it was opened."""


class Contents:
    """Opens files for clients; lives on the event loop.

    Args:
        cache: The cache for files; None to pass everything through.
        bounds: Of threads and memory.
        metrics: Told of bytes, hits and errors.
        note: Told of what an operator wants to know.
        group: Starts the threads.
    """

    def __init__(
        self,
        cache: Cache | None,
        bounds: ServeBounds,
        metrics: Metrics,
        note: Note,
        group: WorkerGroup,
    ) -> None:
        self._cache = cache
        self._bounds = bounds
        self._metrics = metrics
        self._note = note
        self._sources = Threads(group, bounds.connections, "source")
        self._disk = Threads(group, _DISK_THREADS, "disk")
        self._fillings: dict[tuple[str, str], _Shared] = {}
        self._bringing: dict[Neighbours, asyncio.Task[None]] = {}
        self._grouping = asyncio.Lock()
        self._lookups: dict[Lookup, asyncio.Task[None]] = {}
        # Of contents that were wrong, for the next attempt: they know the mirrors to avoid.
        self._remembered: dict[str, RangeSource] = {}
        self._wrong_until: dict[str, float] = {}
        self._checked: OrderedDict[tuple[str, int, int], None] = OrderedDict()
        self._said: set[str] = set()
        # Contents that were ever sent with wrong bytes: a client may still have the beginning.
        self.suspect: set[str] = set()
        self._is_stopping = False
        self._outstanding_bytes = 0

    # What the app calls

    def may_continue(self, oid: str, wanted: ByteRange, size_bytes: int) -> bool:
        """Whether the end of a file may be sent without its beginning.

        A client whose first attempt had wrong bytes continues after them: it gets the whole file
        again, which RFC 9110 allows, so that no file is joined from wrong and right bytes.
        """
        return oid not in self.suspect or not (wanted.start and wanted.end == size_bytes)

    async def read(self, loaded: Loaded, file: RepoFile, wanted: ByteRange) -> Chunks:
        """Yield the bytes of a file, in chunks.

        Raises:
            HfModelsError: They cannot be had, or are wrong; the answer must be broken off.
        """
        looks = 0
        while True:
            looks += 1
            try:
                async with aclosing(await self._open(loaded, file, wanted)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except _GoneError:
                if looks == _LOOKS:
                    raise
            else:
                return

    async def _open(self, loaded: Loaded, file: RepoFile, wanted: ByteRange) -> Chunks:
        until = self._wrong_until.get(file.oid, 0.0)
        if time.monotonic() < until:
            raise IntegrityError(
                f"{file.path}: its bytes were wrong where they come from, a moment ago"
            )
        lookup = loaded.lookup(file.oid)
        path = None
        if lookup is not None:  # the cache may have it from an earlier run
            path = await self._find(loaded.snapshot.repo, file)
        if path is not None:
            self._metrics.add("hits")
            return self._from_disk(path, file, wanted, is_ours=True)
        location = await self._locate(loaded, lookup, file.oid)
        if isinstance(location, Path):
            self._metrics.add("hits")
            is_ours = lookup is not None
            return self._from_disk(location, file, wanted, is_ours=is_ours)
        path = await self._find(location.plan.repo, file)
        if path is not None:
            self._metrics.add("hits")
            return self._from_disk(path, file, wanted, is_ours=True)
        self._metrics.add("misses")
        path = await self._with_neighbours(location, loaded, file)
        if path is not None:
            return self._from_disk(path, file, wanted, is_ours=True)
        shared = await self._filling(location, loaded, file, wanted)
        if shared is not None:
            return self._follow(shared, wanted)
        return self._pass_through(location, file, wanted)

    async def read_small(self, loaded: Loaded, path: str, limit_bytes: int) -> bytes:
        """Return a small file; nothing where there is none, or its image is to be looked through.

        Raises:
            HfModelsError: It cannot be had.
        """
        file = loaded.files.get(path)
        if file is None or not 0 < file.size_bytes <= limit_bytes:
            return b""
        lookup = loaded.lookup(file.oid)
        is_known = lookup is None or lookup.is_over
        if not is_known and await self._find(loaded.snapshot.repo, file) is None:
            return b""
        whole = ByteRange(0, file.size_bytes)
        async with aclosing(self.read(loaded, file, whole)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def look_through(self, loaded: Loaded) -> None:
        """Find out where the contents lie that the cache lacks; compressed ones are there then."""
        cache, repo = self._cache, loaded.snapshot.repo
        found = [(file, loaded.lookup(file.oid)) for file in loaded.snapshot.files]
        unknown = [(file, look) for file, look in found if look is not None and not look.is_over]
        if cache is None or not unknown:
            return

        def lacking() -> dict[Lookup, None]:
            sized = ((look, cache.existing(repo, f.oid, f.size_bytes)) for f, look in unknown)
            return {look: None for look, path in sized if path is None}

        with suppress(HfModelsError):  # said to those who ask for the files
            for lookup in await self._disk.run(lacking):
                await self._look(lookup)

    async def run(self, call: Callable[[], T]) -> T:
        """Run what reads a source on one of the threads for it."""
        return await self._sources.run(call)

    def stop(self) -> None:
        """Let every filling end after its next block; the partial files stay."""
        self._is_stopping = True

    def close(self) -> None:
        """End the threads."""
        self._sources.close()
        self._disk.close()

    # From the disk

    async def _locate(self, loaded: Loaded, lookup: Lookup | None, oid: str) -> Location:
        """Return where a content lies; look through its image where that is not known."""
        if lookup is None:
            return await self.run(lambda: loaded.locate(oid))
        if lookup.is_over:
            location = lookup.locate(oid)
            if isinstance(location, Remote) or location.exists():
                return location
            lookup.forget()  # somebody has removed it from the cache
        await self._look(lookup)
        return lookup.locate(oid)

    async def _look(self, lookup: Lookup) -> None:
        self._metrics.add("waiting")
        try:
            await _once(self._lookups, lookup, partial(self.run, lookup.run))
        finally:
            self._metrics.add("waiting", -1)

    async def _find(self, repo: Repo, file: RepoFile) -> Path | None:
        cache = self._cache
        if cache is None:
            return None
        return await self._disk.run(lambda: cache.existing(repo, file.oid, file.size_bytes))

    async def _from_disk(
        self, path: Path, file: RepoFile, wanted: ByteRange, *, is_ours: bool
    ) -> Chunks:
        descriptor = _open_file(path, is_ours=is_ours)
        try:
            status = os.fstat(descriptor)
            key = (file.oid, status.st_ino, status.st_mtime_ns)
            if status.st_size != file.size_bytes:
                raise StorageError(
                    f"{path}: want {file.size_bytes} bytes, got {status.st_size} bytes"
                )
            is_whole = wanted.size_bytes == file.size_bytes
            hasher = None
            if is_whole and key not in self._checked:
                hasher = BlobHasher(file.oid, file.size_bytes)

            def read(start: int, size_bytes: int) -> bytes:
                data = read_bytes(path, descriptor, start, size_bytes)
                if hasher is not None:
                    hasher.update(data)
                return data

            async with aclosing(self._read_chunks(read, wanted, self._disk.run)) as chunks:
                try:
                    async for chunk in _hold_back(chunks, hasher, str(path)):
                        yield chunk
                except IntegrityError:
                    self._is_wrong(file.oid, str(path), may_pass=is_ours)
                    if is_ours:  # an image has it, too: bring it in again
                        await self._disk.run(lambda: path.unlink(missing_ok=True))
                    raise
            if is_whole:
                self._remember(key)
        finally:
            os.close(descriptor)

    def _remember(self, key: tuple[str, int, int]) -> None:
        self._checked[key] = None
        if len(self._checked) > _CHECKED_LIMIT:
            self._checked.popitem(last=False)

    async def _read_chunks(
        self,
        read: Callable[[int, int], bytes],
        wanted: ByteRange,
        run: Callable[[Callable[[], bytes]], Awaitable[bytes]],
    ) -> Chunks:
        at = wanted.start
        while at < wanted.end:
            with self._lending(wanted.end - at) as size_bytes:
                data = await run(partial(read, at, size_bytes))
                if not data:
                    raise StorageError(f"want {wanted.end - at} bytes more of a file, got its end")
                at += len(data)
                yield data

    @contextmanager
    def _lending(self, most_bytes: int) -> Iterator[int]:
        """Give the size of the next chunk of a client, and count it as long as it has it.

        What slow clients have taken and not received counts, so that many of them leave less.
        """
        left = self._bounds.memory_bytes // 4 - self._outstanding_bytes
        size_bytes = min(max(_SMALLEST_PIECE_BYTES, min(_PIECE_BYTES, left // 4)), most_bytes)
        self._outstanding_bytes += size_bytes
        try:
            yield size_bytes
        finally:
            self._outstanding_bytes -= size_bytes

    # Into the cache

    async def _with_neighbours(
        self, location: Remote, loaded: Loaded, file: RepoFile
    ) -> Path | None:
        """Bring a small file in, with those beside it; None where it has to come by itself."""
        cache, plan = self._cache, location.plan
        if cache is None or file.size_bytes > SMALL_BYTES or self._is_stopping:
            return None
        if (plan.repo.folder_name, plan.oid) in self._fillings:
            return None
        async with self._grouping:  # of two threads, each would make groups of its own
            groups = await self.run(lambda: loaded.neighbours)
        neighbours = groups.get(file.oid)
        if neighbours is None or neighbours.is_refused:
            return None
        commit = loaded.snapshot.commit
        await _once(self._bringing, neighbours, lambda: self._bring(neighbours, cache, commit))
        return await self._find(plan.repo, file)

    async def _bring(self, neighbours: Neighbours, cache: Cache, commit: str) -> None:
        try:
            found = await self.run(neighbours.span.fetch)
            self._metrics.add("fetched_bytes", neighbours.span.byte_range.size_bytes)
            store = partial(neighbours.store, cache, commit, found, self._is_busy)
            neighbours.is_refused = not await self._disk.run(store)
        except HfModelsError:  # the files that have it say so when each comes by itself
            neighbours.is_refused = True

    def _is_busy(self, oid: str) -> bool:
        return any(key[1] == oid for key in self._fillings)

    async def _filling(
        self, location: Remote, loaded: Loaded, file: RepoFile, wanted: ByteRange
    ) -> "_Shared | None":
        """Return the filling of a file, begun where there is none; None to pass it through."""
        plan = location.plan
        key = (plan.repo.folder_name, plan.oid)
        shared = self._fillings.get(key)
        if shared is not None:
            await shared.opened.wait()
            return shared if shared.is_open else None
        is_peek = wanted.size_bytes <= PEEK_BYTES < file.size_bytes
        cache = self._cache
        if cache is None or self._is_stopping or (is_peek and wanted.size_bytes < file.size_bytes):
            return None
        filling = Filling(plan, self._source(location), cache.target)
        shared = self._fillings[key] = _Shared(filling)
        self._metrics.add("filling")
        shared.task = asyncio.create_task(self._fill(shared, cache, loaded, file))
        await shared.opened.wait()
        return shared if shared.is_open else None

    async def _fill(self, shared: "_Shared", cache: Cache, loaded: Loaded, file: RepoFile) -> None:
        filling, plan = shared.filling, shared.filling.plan
        try:
            if not await self._open_filling(shared, cache):
                return
            while not filling.is_verified:
                if self._is_stopping or shared.idle_s > _ABANDONED_AFTER_S:
                    return
                await self._advance(shared)
            commit = loaded.snapshot.commit
            await self._disk.run(lambda: cache.keep(plan.repo, commit, file))
            self._remembered.pop(plan.oid, None)
        except IntegrityError as error:
            filling.error = error
            self._remembered[plan.oid] = filling.source
            self._is_wrong(plan.oid, error.message, may_pass=filling.is_worth_another)
        except HfModelsError as error:
            if not filling.is_verified:
                filling.error = error
                if isinstance(error, StorageError):  # give the disk back what it lacks
                    await self._disk.run(filling.discard)
            self._metrics.add("upstream_errors")
            self._note(f"{plan.oid[:12]}: {error.message}")
        finally:
            self._fillings.pop((plan.repo.folder_name, plan.oid), None)
            self._metrics.add("filling", -1)
            shared.is_ending = True
            if not (filling.is_verified or filling.error):
                filling.error = TransportError("nobody asks for the file any more")
            if not self._is_stopping:  # else a thread may still read into it
                await asyncio.gather(*shared.connections)
                await self._disk.run(filling.end)
            shared.end()

    async def _advance(self, shared: "_Shared") -> None:
        """Do what a filling needs next, or wait for its connections."""
        filling, changed = shared.filling, shared.changed
        if filling.is_behind():
            await self.run(filling.catch_up)
        elif filling.is_whole():
            await self.run(filling.finish)
        elif shared.connections:
            await _wait_for(changed)
            return
        elif shared.error is not None:
            raise shared.error
        else:
            self._connect(shared)
        shared.notify()

    def _connect(self, shared: "_Shared") -> None:
        task = asyncio.create_task(self._fetch(shared))
        shared.connections.add(task)
        task.add_done_callback(shared.connections.discard)

    async def _fetch(self, shared: "_Shared") -> None:
        """Fetch what no other connection fetches, until nothing is left."""
        filling = shared.filling
        try:
            while fetch := filling.claim(max(1, len(shared.connections))):
                try:
                    while not (fetch.is_over or shared.is_ending or self._is_stopping):
                        count = await self.run(partial(filling.step, fetch))
                        self._metrics.add("fetched_bytes", count)
                        shared.notify()
                        if fetch.pace.is_slow(count):
                            self._help(shared)
                except asyncio.CancelledError:  # at the end of the server
                    fetch.stream.interrupt()
                    raise
                finally:
                    filling.give_back(fetch)
                if shared.is_ending or self._is_stopping:
                    return
        except HfModelsError as error:  # raised where no other connection goes on
            shared.error = error
        finally:
            asyncio.get_running_loop().call_soon(shared.notify)

    def _help(self, shared: "_Shared") -> None:
        if len(shared.connections) < self._bounds.connections:
            self._connect(shared)

    async def _open_filling(self, shared: "_Shared", cache: Cache) -> bool:
        filling = shared.filling
        plan = filling.plan
        try:
            coming = self._coming_before(shared)
            make_room = partial(cache.make_room, plan.size_bytes, self._is_busy, coming)
            if not await self._disk.run(make_room):
                self._say_once(
                    f"{cache.target.root}: no room; files that do not fit are passed through"
                )
                return False
            await self._disk.run(filling.open)
            await self._disk.run(partial(cache.mark, plan.repo, plan.oid))
        except BusyError:
            return False  # another server on this cache brings it in; this one passes it through
        except StorageError as error:
            self._say_once(f"{error.message}; files are passed through")
            return False
        shared.is_open = True
        shared.opened.set()
        return True

    def _coming_before(self, shared: "_Shared") -> Coming:
        """Return what of the fillings that were begun before this one the cache will take."""
        before = takewhile(lambda other: other is not shared, self._fillings.values())
        fillings = [other.filling for other in before]
        size_bytes = sum(filling.plan.size_bytes for filling in fillings)
        return Coming(size_bytes, size_bytes - sum(filling.ready_bytes for filling in fillings))

    def _is_wrong(self, oid: str, text: str, *, may_pass: bool) -> None:
        """Note wrong bytes; where no other place is left, clients are refused for a while.

        huggingface_hub tries again for ever, as long as each attempt brings a byte.
        """
        self.suspect.add(oid)
        if not may_pass:
            self._wrong_until[oid] = time.monotonic() + _WRONG_FOR_S
        self._metrics.add("wrong_bytes")
        self._note(f"wrong bytes, the answer was broken off: {text}")

    async def _follow(self, shared: "_Shared", wanted: ByteRange) -> Chunks:
        filling = shared.filling
        size_bytes = filling.plan.size_bytes
        shared.join()
        try:
            at = wanted.start
            gate = max(0, size_bytes - HELD_BYTES)
            if at > filling.ready_bytes + _REACH_BYTES:
                ahead = ByteRange(at, min(wanted.end, gate))
                if ahead.size_bytes > 0:
                    async for chunk in self._read_source(filling.source, ahead):
                        at += len(chunk)
                        yield chunk
            while at < wanted.end:
                limit = filling.ready_bytes
                if not filling.is_verified:
                    limit = min(limit, gate)
                if limit <= at:
                    if filling.error is not None:
                        raise filling.error
                    self._metrics.add("waiting")
                    try:
                        await _wait_for(shared.changed)
                    finally:
                        self._metrics.add("waiting", -1)
                    continue
                with self._lending(min(limit, wanted.end) - at) as count:
                    data = await self._disk.run(partial(filling.read, at, count))
                    at += len(data)
                    yield data
        finally:
            shared.leave()

    # Without the cache

    async def _pass_through(self, location: Remote, file: RepoFile, wanted: ByteRange) -> Chunks:
        is_whole = wanted.size_bytes == file.size_bytes
        if not is_whole:
            self._say_once("ranges of files that are not in a cache are sent unchecked")
        hasher = BlobHasher(file.oid, file.size_bytes) if is_whole else None
        source = self._source(location)
        chunks = self._read_source(source, wanted, hasher)
        try:
            async with aclosing(chunks):
                async for chunk in _hold_back(chunks, hasher, file.path):
                    yield chunk
        except IntegrityError as error:
            blamed = source.blame()
            self._remembered[file.oid] = source
            self._is_wrong(file.oid, error.message, may_pass=blamed)
            raise
        except HfModelsError as error:
            self._metrics.add("upstream_errors")
            self._note(f"{file.path}: {error.message}")
            raise

    def _source(self, location: Remote) -> RangeSource:
        """Return where a file comes from, which remembers mirrors that sent wrong bytes."""
        return self._remembered.get(location.plan.oid) or location.image_blobs.join(location.plan)

    async def _read_source(
        self, source: RangeSource, wanted: ByteRange, hasher: BlobHasher | None = None
    ) -> Chunks:
        stream = Stream(source, wanted)

        def read(_start: int, size_bytes: int) -> bytes:
            buffer = bytearray(size_bytes)
            count = stream.readinto(memoryview(buffer))
            if hasher is not None:
                hasher.update(memoryview(buffer)[:count])
            return bytes(memoryview(buffer)[:count])

        try:
            async for chunk in self._read_chunks(read, wanted, self.run):
                self._metrics.add("fetched_bytes", len(chunk))
                yield chunk
        finally:
            stream.close()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._note(text)


class _Shared:
    """A filling and the clients that follow it, on the event loop."""

    def __init__(self, filling: Filling) -> None:
        self.filling = filling
        self.opened = asyncio.Event()
        self.is_open = False
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.connections: set[asyncio.Task[None]] = set()
        self.error: HfModelsError | None = None
        self.is_ending = False
        self._readers = 0
        self._unused_since = time.monotonic()
        self._is_over = False

    @property
    def idle_s(self) -> float:
        """Time since the last client left."""
        return 0.0 if self._readers else time.monotonic() - self._unused_since

    def notify(self) -> None:
        """Wake everybody who waits for bytes."""
        self.changed.set()
        self.changed = asyncio.Event()

    def join(self) -> None:
        """Count a client in; the file stays open for it."""
        self._readers += 1

    def leave(self) -> None:
        """Count a client out."""
        self._readers -= 1
        self._unused_since = time.monotonic()
        self._close_unused()

    def end(self) -> None:
        """Say that no more bytes come."""
        self._is_over = True
        self.opened.set()
        self.notify()
        self._close_unused()

    def _close_unused(self) -> None:
        if self._is_over and not self._readers:
            self.filling.close()


def _open_file(path: Path, *, is_ours: bool) -> int:
    """Open a file for reading.

    Raises:
        _GoneError: It was in the cache a moment ago.
        StorageError: The disk said no.
    """
    try:
        with storage_errors(path):
            return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except StorageError as error:
        if is_ours and not path.exists():
            raise _GoneError(error.message) from error
        raise


def _once(
    tasks: "dict[K, asyncio.Task[None]]", key: K, work: Callable[[], Coroutine[Any, Any, None]]
) -> "asyncio.Future[None]":
    """Return the one run of ``work`` for a key; a client that leaves does not end it."""
    task = tasks.get(key)
    if task is None:
        task = tasks[key] = asyncio.create_task(work())
        task.add_done_callback(lambda _: tasks.pop(key))
    return asyncio.shield(task)


async def _wait_for(changed: asyncio.Event) -> None:
    """Wait for an event, or for a moment: a long hash of bytes that were there tells nobody."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_AGAIN_S):
            await changed.wait()


async def _hold_back(chunks: Chunks, hasher: BlobHasher | None, name: str) -> Chunks:
    """Yield chunks; the last one only if the hash of all of them is right.

    Raises:
        IntegrityError: It is not.
    """
    last: bytes | None = None
    async for chunk in chunks:
        if last is not None:
            yield last
        last = chunk
    if hasher is not None:
        hasher.check(name)
    if last is not None:
        yield last
