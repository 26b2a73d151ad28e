"""Many cache blobs at once, each through many connections, within bounds for both.

::

    file threads (one per unfinished blob)        connection threads
      lock, resume, hash what came early  <────     claim a range of any open blob, read it,
      name it when it is right                      write it in place, hash it if it is next

Connections belong to no file: while one blob waits for a lock or for its hash, they all work
on the others, and the last blob has them all. There are few, as long as each is quick: then a
blob arrives in its order, and nothing has to be read back.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from downloader.errors import IntegrityError, ProtocolError
from downloader.net.ranges import ByteRange
from downloader.net.throughput import Pace
from downloader.oci.store import BlobReader, RangesIgnoredError
from downloader.progress import Progress
from downloader.restore.assembly import Assembly
from downloader.restore.bounds import FIRST_CONNECTIONS, Counts, DownloadSettings
from downloader.restore.places import Places
from downloader.restore.spans import (
    SEQUENTIAL_TRIES,
    SPAN_BYTES,
    Span,
    iter_spans,
    write_small,
)
from downloader.restore.target import Target
from downloader.restore.values import BlobPlan
from downloader.transfer.journal import boot_id

_SYNC_EVERY_S = 15.0  # what a power cut costs at most, in time


@dataclass(frozen=True)
class _Claim:
    """Bytes of a cache blob that one connection fetches, and where it can."""

    assembly: Assembly
    places: Places
    wanted: ByteRange


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
        self._connections = 0
        self._threads: list[threading.Thread] = []
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
            self._start()
            for thread in self._threads:  # which grows meanwhile
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

    def _start(self) -> None:
        self._busy = min(self._settings.jobs, len(self._large))
        has_large, has_work = bool(self._large), bool(self._large or self._spans)
        for _ in range(self._busy):
            self._start_thread(self._follow_files)
        for _ in range(FIRST_CONNECTIONS if has_work else 0):
            self._add_connection()
        if has_large:
            threading.Thread(target=self._sync_often, daemon=True).start()

    def _add_connection(self) -> None:
        with self._changed:
            if self._connections >= self._settings.connections:
                return
            try:
                self._start_thread(self._work)
            except RuntimeError:  # no more threads here
                if not self._connections:
                    raise
            else:
                self._connections += 1

    def _start_thread(self, work: Callable[[], None]) -> None:
        # A daemon: one that waits for an answer must not keep an interrupted process alive.
        thread = threading.Thread(target=self._guard, args=(work,), daemon=True)
        thread.start()
        self._threads.append(thread)

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
            if not self._hash(assembly, buffer):
                return
            if self._is_right(assembly, places):
                assembly.finish()
                self._finished(assembly.plan)
                return

    def _hash(self, assembly: Assembly, buffer: memoryview) -> bool:
        """Follow the bytes to the end; False if the run was stopped before."""
        while True:
            with self._changed:
                while not (assembly.is_hash_behind() or assembly.is_whole()):
                    if self._cancelled.is_set():
                        return False
                    self._changed.wait()
                is_whole = assembly.is_whole()
            assembly.hash_noted(buffer)
            if is_whole:
                return True

    def _is_right(self, assembly: Assembly, places: Places) -> bool:
        """Whether the hash is right; if not, begin again where that may help, else raise."""
        try:
            assembly.check()
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
        """Whether the target has it already; what is there and wrong is replaced later."""
        path = self._target.existing(plan.repo, plan.oid)
        if path is None:
            return False
        if self._target.is_right(
            plan.repo, plan.oid, plan.size_bytes, always=self._settings.verify_existing
        ):
            with self.counts.lock:
                self.counts.kept_bytes += plan.size_bytes
                self.counts.kept_blobs += 1
            self._progress.advance(plan.size_bytes)
            self._progress.finish_file(plan.oid)
            return True
        self._progress.note(f"{path}: not what its name says; fetching it again")
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
        pace = Pace()
        while (task := self._next_task()) is not None:
            if isinstance(task, Span):
                span_buffer = span_buffer or bytearray(SPAN_BYTES)
                self._fetch_span(task, span_buffer, pace)
            else:
                self._fetch_range(task, memoryview(buffer), pace)

    def _next_task(self) -> Span | _Claim | None:
        with self._changed:
            while not self._cancelled.is_set():
                with suppress(IndexError):
                    return self._spans.popleft()
                share = -(-self._connections // max(1, len(self._open)))
                for assembly, places in sorted(self._open, key=lambda item: item[0].readers):
                    claimed = assembly.claim(share)
                    if claimed is not None:
                        return _Claim(assembly, places, claimed)
                if not self._busy:
                    return None
                self._changed.wait()
        return None

    def _fetch_span(self, span: Span, buffer: bytearray, pace: Pace) -> None:
        with pace:
            fetched = span.fetch(buffer)
        if pace.is_slow(span.byte_range.size_bytes):
            self._add_connection()
        for plan, data in fetched:
            write_small(self._target.blob(plan.repo, plan.oid), data)
            self._progress.advance(plan.size_bytes)
            with self.counts.lock:
                self.counts.fetched_bytes += plan.size_bytes
            self._finished(plan)

    def _fetch_range(self, claim: _Claim, buffer: memoryview, pace: Pace) -> None:
        assembly, wanted = claim.assembly, claim.wanted
        at, was_sequential = wanted.start, assembly.is_sequential
        try:
            for end in self._iter_written(claim, buffer, pace):
                assembly.note(ByteRange(at, end))
                at = end
        except RangesIgnoredError:
            if was_sequential:
                assembly.sequential_tries += 1
            if assembly.sequential_tries >= SEQUENTIAL_TRIES:
                raise
            assembly.is_sequential = True
        finally:
            assembly.done_reading(ByteRange(at, wanted.end))

    def _iter_written(self, claim: _Claim, buffer: memoryview, pace: Pace) -> Iterator[int]:
        """Write a range; yield how far it is, now and then and at the end."""
        assembly, wanted = claim.assembly, claim.wanted
        piece = assembly.piece_at(wanted.start)
        layer_range = piece.cut(wanted)
        skipped = layer_range.start if assembly.is_sequential else 0
        asked = ByteRange(layer_range.start - skipped, layer_range.end)
        with pace:
            opened = claim.places.open_blob(piece.layer, asked, assembly.visit)
        with opened as reader:
            _skip(reader, skipped, buffer)
            at = noted = wanted.start
            while at < wanted.end and not self._cancelled.is_set():
                with pace:
                    count = reader.readinto(buffer[: wanted.end - at])
                if not count:
                    raise ProtocolError(f"{piece.layer}: want bytes to {wanted.end}, got {at}")
                assembly.write(buffer[:count], at)
                assembly.hash_written(buffer[:count], at, since=wanted.start)
                at += count
                if pace.is_slow(count):
                    self._add_connection()
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
