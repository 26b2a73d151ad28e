"""Many cache blobs at once, each through many connections, within bounds for both.

::

    file threads (one per unfinished blob)        connection threads
      lock, resume, hash from the front   <────     claim a range of any open blob,
      name it when it is right                      read it, write it in place

Connections belong to no file: while one blob waits for a lock or for its hash, they all work
on the others, and the last blob has them all.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from downloader.errors import IntegrityError, ProtocolError
from downloader.hub.cache import BlobHasher
from downloader.net.ranges import ByteRange
from downloader.oci.downloads import RangesIgnoredError
from downloader.oci.store import BlobReader
from downloader.progress import Progress
from downloader.restore.assembly import Assembly
from downloader.restore.bounds import Counts, DownloadSettings
from downloader.restore.journal import boot_id
from downloader.restore.places import Places
from downloader.restore.spans import SPAN_BYTES, Span, iter_spans, write_small
from downloader.restore.target import Target, is_right
from downloader.restore.values import BlobPlan

_SYNC_EVERY_S = 15.0  # what a power cut costs at most, in time
_SEQUENTIAL_TRIES = 5  # of a server without ranges, which begins from 0 each time


class Download:
    """One run over the cache blobs of any number of images.

    Args:
        target: Where they go.
        settings: Bounds.
        progress: Told of every byte.
    """

    def __init__(self, target: Target, settings: DownloadSettings, progress: Progress) -> None:
        self.counts = Counts()
        self._target = target
        self._settings = settings
        self._progress = progress
        self._boot = boot_id()
        self._changed = threading.Condition()
        self._cancelled = threading.Event()
        self._open: list[tuple[Assembly, Places]] = []
        self._large: deque[tuple[BlobPlan, Places]] = deque()
        self._spans: deque[Span] = deque()
        self._busy = 0
        self._error: BaseException | None = None

    def run(self, plans: Sequence[tuple[BlobPlan, Places]]) -> None:
        """Fetch every cache blob that is not there yet.

        Args:
            plans: Each with the places of its image.

        Raises:
            IntegrityError: A content is wrong in every place.
            RegistryError, TransportError, ProtocolError, StorageError: The first error of any
                thread; the others are stopped, and what came stays for the next run.
        """
        small = [item for item in plans if self._is_small(item[0])]
        large = [item for item in plans if not self._is_small(item[0])]
        self._spans.extend(iter_spans(item for item in small if not self._is_kept(item[0])))
        # The largest first: the last one alone cannot use the disk and the hash at once.
        self._large.extend(sorted(large, key=lambda item: -item[0].size_bytes))
        try:
            for thread in self._start():
                while thread.is_alive():
                    thread.join(0.5)  # with a limit, or Ctrl-C would wait for it on Windows
        finally:
            self._cancelled.set()
            with self._changed:
                self._changed.notify_all()
        if self._error is not None:
            raise self._error

    def _is_small(self, plan: BlobPlan) -> bool:
        return plan.size_bytes <= self._settings.small_bytes and len(plan.pieces) == 1

    def _start(self) -> list[threading.Thread]:
        work: list[Callable[[], None]] = []
        work += [self._follow_files] * min(self._settings.jobs, len(self._large))
        self._busy = len(work)
        if self._large or self._spans:
            work += [self._work] * self._settings.connections
        # Daemons: one that waits for an answer must not keep an interrupted process alive.
        threads = [threading.Thread(target=self._guard, args=(f,), daemon=True) for f in work]
        for thread in threads:
            thread.start()
        if self._large:
            threading.Thread(target=self._sync_often, daemon=True).start()
        return threads

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - `run` raises it in the caller's thread
            with self._changed:
                self._error = self._error or error
                self._cancelled.set()
                self._changed.notify_all()

    # The side of the files

    def _follow_files(self) -> None:
        buffer = memoryview(bytearray(self._settings.buffer_bytes))
        try:
            while not self._cancelled.is_set():
                try:
                    plan, places = self._large.popleft()
                except IndexError:
                    return
                self._follow(plan, places, buffer)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _follow(self, plan: BlobPlan, places: Places, buffer: memoryview) -> None:
        if self._is_kept(plan):
            return
        with self._target.lock(plan.repo, plan.oid, self._cancelled):
            if self._is_kept(plan):  # whoever had the lock fetched it
                return
            final = self._target.blob(plan.repo, plan.oid)
            assembly = Assembly(plan, final, self._boot, self._changed)
            try:
                self._assemble(assembly, places, buffer)
            finally:
                with self._changed:
                    self._open = [item for item in self._open if item[0] is not assembly]
                assembly.close()

    def _assemble(self, assembly: Assembly, places: Places, buffer: memoryview) -> None:
        resumed = assembly.open()
        if resumed:
            self._progress.note(f"{assembly.plan.oid[:12]}: continuing after {resumed} bytes")
            self._progress.advance(resumed)
            self.counts.resumed_bytes += resumed
        with self._changed:
            self._open.append((assembly, places))
            self._changed.notify_all()
        while not self._cancelled.is_set():
            hasher = BlobHasher(assembly.plan.oid, assembly.plan.size_bytes)
            if not self._hash(assembly, hasher, buffer):
                return
            if self._is_right(assembly, places, hasher):
                assembly.finish()
                self._finished(assembly.plan)
                return

    def _hash(self, assembly: Assembly, hasher: BlobHasher, buffer: memoryview) -> bool:
        """Follow the bytes to the end; False if the run was stopped before."""
        size_bytes = assembly.plan.size_bytes
        while hasher.seen_bytes < size_bytes:
            with self._changed:
                while (end := assembly.prefix_end()) <= hasher.seen_bytes:
                    if self._cancelled.is_set():
                        return False
                    self._changed.wait()
            assembly.hash_until(hasher, end, buffer)
        return True

    def _is_right(self, assembly: Assembly, places: Places, hasher: BlobHasher) -> bool:
        """Whether the hash is right; if not, begin again where that may help, else raise."""
        try:
            hasher.check(assembly.plan.oid)
        except IntegrityError:
            blamed = places.blame(assembly.visit)
            if not blamed and not assembly.is_resumed:
                assembly.discard()
                raise
            self._progress.note(f"{assembly.plan.oid[:12]}: wrong bytes; fetching it again")
            self._progress.advance(-assembly.forget())
            return False
        return True

    def _is_kept(self, plan: BlobPlan) -> bool:
        """Whether the target has it already; what is there and wrong is removed."""
        path = self._target.existing(plan.repo, plan.oid)
        if path is None:
            return False
        if path.stat().st_size == plan.size_bytes and (
            not self._settings.verify_existing or is_right(path, plan.oid, plan.size_bytes)
        ):
            with self.counts.lock:
                self.counts.kept_bytes += plan.size_bytes
                self.counts.kept_blobs += 1
            self._progress.advance(plan.size_bytes)
            self._progress.finish_file(plan.oid)
            return True
        self._progress.note(f"{path}: not what its name says; fetching it again")
        path.unlink()
        return False

    def _finished(self, plan: BlobPlan) -> None:
        with self.counts.lock:
            self.counts.blobs += 1
        self._progress.finish_file(plan.oid)

    def _sync_often(self) -> None:
        while not self._cancelled.wait(_SYNC_EVERY_S):
            with self._changed:
                assemblies = [assembly for assembly, _ in self._open]
            for assembly in assemblies:
                assembly.sync()

    # The side of the connections

    def _work(self) -> None:
        buffer = bytearray(self._settings.buffer_bytes)
        span_buffer = bytearray()
        while (task := self._next_task()) is not None:
            if isinstance(task, Span):
                span_buffer = span_buffer or bytearray(SPAN_BYTES)
                self._fetch_span(task, span_buffer)
            else:
                self._fetch_range(*task, memoryview(buffer))

    def _next_task(self) -> Span | tuple[Assembly, Places, ByteRange] | None:
        with self._changed:
            while not self._cancelled.is_set():
                with suppress(IndexError):
                    return self._spans.popleft()
                for assembly, places in self._open:
                    claimed = assembly.claim(self._settings.connections)
                    if claimed is not None:
                        return assembly, places, claimed
                if not self._busy:
                    return None
                self._changed.wait()
        return None

    def _fetch_span(self, span: Span, buffer: bytearray) -> None:
        for plan, data in span.fetch(buffer):
            write_small(self._target.blob(plan.repo, plan.oid), data)
            self._progress.advance(plan.size_bytes)
            with self.counts.lock:
                self.counts.fetched_bytes += plan.size_bytes
            self._finished(plan)

    def _fetch_range(
        self, assembly: Assembly, places: Places, wanted: ByteRange, buffer: memoryview
    ) -> None:
        at = wanted.start
        try:
            for end in self._iter_written(assembly, places, wanted, buffer):
                assembly.note(ByteRange(at, end))
                at = end
        except RangesIgnoredError:
            if assembly.sequential_tries >= _SEQUENTIAL_TRIES:
                raise
            assembly.sequential_tries += 1
            assembly.is_sequential = True
        finally:
            if at < wanted.end:
                assembly.release(ByteRange(at, wanted.end))

    def _iter_written(
        self, assembly: Assembly, places: Places, wanted: ByteRange, buffer: memoryview
    ) -> Iterator[int]:
        """Write a range; yield how far it is, now and then and at the end."""
        piece = assembly.piece_at(wanted.start)
        layer_range = piece.cut(wanted)
        skipped = layer_range.start if assembly.is_sequential else 0
        asked = ByteRange(layer_range.start - skipped, layer_range.end)
        with places.open_blob(piece.layer, asked, assembly.visit) as reader:
            _skip(reader, skipped, buffer)
            at = noted = wanted.start
            while at < wanted.end and not self._cancelled.is_set():
                count = reader.readinto(buffer[: wanted.end - at])
                if not count:
                    raise ProtocolError(f"{piece.layer}: want bytes to {wanted.end}, got {at}")
                assembly.write(buffer[:count], at)
                at += count
                self._progress.advance(count)
                with self.counts.lock:
                    self.counts.fetched_bytes += count
                if at - noted >= self._settings.note_bytes or at == wanted.end:
                    yield at
                    noted = at


def _skip(reader: BlobReader, size_bytes: int, buffer: memoryview) -> None:
    while size_bytes:
        count = reader.readinto(buffer[:size_bytes])
        if not count:
            raise ProtocolError(f"want {size_bytes} bytes more, got the end")
        size_bytes -= count
