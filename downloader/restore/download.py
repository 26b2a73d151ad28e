"""Cache blobs out of images: large ones as file tasks, small neighbours by one request each."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from downloader.errors import IntegrityError, ProtocolError
from downloader.fs import write_atomically
from downloader.hub.cache import BlobHasher
from downloader.net.ranges import ByteRange
from downloader.net.throughput import Line
from downloader.progress import Progress
from downloader.restore.image_blobs import ImageBlobs
from downloader.restore.target import Target
from downloader.restore.values import BlobPlan
from downloader.transfer.scheduler import Bounds, FileTask, Scheduler
from downloader.transfer.source import RangeSource, retry_without_ranges
from downloader.units import MIB

_SPAN_LIMIT_BYTES = 4 * MIB
# What lies between two wanted blobs is fetched too where that costs less than a round trip.
_GAP_BYTES = 64 * 1024


@dataclass(frozen=True)
class DownloadSettings(Bounds):
    """Bounds.

    Args:
        verify_existing: Whether to hash what the cache has already.
    """

    verify_existing: bool = False

    @property
    def span_bytes(self) -> int:
        """The most that one request brings of small neighbours, in memory."""
        return max(64 * 1024, min(_SPAN_LIMIT_BYTES, self.memory_bytes // self.connections))


@dataclass
class Counts:
    """The result of a download, in bytes and cache blobs."""

    fetched_bytes: int = 0
    resumed_bytes: int = 0
    kept_bytes: int = 0
    kept_blobs: int = 0
    blobs: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


class Download:
    """One run over the cache blobs of any number of images.

    Args:
        target: The target of the files.
        settings: Bounds.
        progress: Told of every byte.
        line: Round trip and push-back that the requests have measured.
        names: Paths in the repo by oid, for people.
    """

    def __init__(
        self,
        target: Target,
        settings: DownloadSettings,
        progress: Progress,
        line: Line | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.counts = Counts()
        self._target = target
        self._settings = settings
        self._progress = progress
        self._line = line
        self._names = names or {}

    def _name(self, plan: BlobPlan) -> str:
        return self._names.get(plan.oid, plan.oid[:12])

    def run(self, plans: Sequence[tuple[BlobPlan, ImageBlobs]]) -> None:
        """Fetch every cache blob that is not there yet.

        Args:
            plans: Each with the blobs of its image.

        Raises:
            IntegrityError: A content is wrong in every place.
            RegistryError, TransportError, ProtocolError, StorageError: The first error of any
                thread; the others are stopped, and what came stays for the next run.
        """
        scheduler = Scheduler(self._settings, self._progress, self._line)
        tiny = [item for item in plans if self._is_tiny(item[0]) and not self._is_kept(item[0])]
        tasks = [
            self._task(plan, image_blobs) for plan, image_blobs in plans if not self._is_tiny(plan)
        ]
        spans = iter_spans(tiny, self._settings.span_bytes)
        try:
            scheduler.run(tasks, [partial(self._fetch_span, span) for span in spans])
        finally:
            self.counts.fetched_bytes += scheduler.fetched_bytes
            self.counts.resumed_bytes += scheduler.resumed_bytes

    def _is_tiny(self, plan: BlobPlan) -> bool:
        return plan.size_bytes <= self._settings.span_bytes and len(plan.ranges) == 1

    def _task(self, plan: BlobPlan, image_blobs: ImageBlobs) -> FileTask:
        return FileTask(
            name=self._name(plan),
            size_bytes=plan.size_bytes,
            final=self._target.blob(plan.repo, plan.oid),
            source=image_blobs.join(plan),
            new_hasher=partial(BlobHasher, plan.oid, plan.size_bytes),
            is_there=partial(self._is_kept, plan),
            done=partial(self._finished, plan),
            lock=partial(self._target.lock, plan.repo, plan.oid),
        )

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
            self._progress.skip(plan.size_bytes)
            self._progress.finish_file(self._name(plan))
            return True
        self._progress.note(f"{path}: not what its name says; fetching it again")
        return False

    def _finished(self, plan: BlobPlan) -> None:
        with self.counts.lock:
            self.counts.blobs += 1
        self._progress.finish_file(self._name(plan))

    def _fetch_span(self, span: "Span", _buffer: memoryview) -> int:
        for plan, data in span.fetch():
            write_atomically(self._target.blob(plan.repo, plan.oid), bytes(data))
            self._progress.advance(plan.size_bytes)
            self._finished(plan)
        return sum(plan.size_bytes for plan in span.plans)


@dataclass
class Span:
    """Small cache blobs that lie near each other in a layer: one request for all of them.

    Args:
        source: The layer.
        byte_range: From the first to the last of them; empty where all are empty files.
        plans: In the order of the layer.
    """

    source: RangeSource
    byte_range: ByteRange
    plans: list[BlobPlan]

    def takes(self, plan: BlobPlan, limit_bytes: int) -> bool:
        """Whether ``plan`` lies near enough behind the last one."""
        before, layer_range = self.plans[-1].ranges[0], plan.ranges[0]
        near = layer_range.byte_range.start - self.byte_range.end <= _GAP_BYTES
        fits = layer_range.byte_range.end - self.byte_range.start <= limit_bytes
        return layer_range.layer == before.layer and near and fits

    def fetch(self) -> list[tuple[BlobPlan, memoryview]]:
        """Return each cache blob with its bytes, which hash to its name.

        Raises:
            IntegrityError: Its bytes are wrong in every place.
        """
        while True:
            view = self._read()
            try:
                return [(plan, self._checked(plan, view)) for plan in self.plans]
            except IntegrityError:
                if not self.source.blame():
                    raise

    def _read(self) -> memoryview:
        view = memoryview(bytearray(self.byte_range.size_bytes))
        filled = retry_without_ranges(partial(self._fill, view)) if view else 0
        if filled < len(view):
            raise ProtocolError(f"{self.source.name}: want {len(view)} bytes, got {filled}")
        return view

    def _fill(self, view: memoryview) -> int:
        filled = 0
        with self.source.open(self.byte_range) as reader:
            while count := reader.readinto(view[filled:]):
                filled += count
        return filled

    def _checked(self, plan: BlobPlan, view: memoryview) -> memoryview:
        wanted = plan.ranges[0].byte_range
        data = view[wanted.start - self.byte_range.start : wanted.end - self.byte_range.start]
        hasher = BlobHasher(plan.oid, plan.size_bytes)
        hasher.update(data)
        hasher.check(plan.oid)
        return data


def iter_spans(plans: Iterable[tuple[BlobPlan, ImageBlobs]], limit_bytes: int) -> Iterator[Span]:
    """Group small cache blobs of one range each by where they lie.

    Args:
        plans: Each with the blobs of its image.
        limit_bytes: Of one request.
    """
    span, span_blobs = None, None
    ordered = sorted(plans, key=lambda p: (p[0].ranges[0].layer, p[0].ranges[0].byte_range))
    for plan, image_blobs in ordered:
        layer_range = plan.ranges[0]
        if span is not None and span_blobs is image_blobs and span.takes(plan, limit_bytes):
            span.plans.append(plan)
            span.byte_range = ByteRange(span.byte_range.start, layer_range.byte_range.end)
            continue
        if span is not None:
            yield span
        span_blobs = image_blobs
        source = image_blobs.tar(layer_range.layer, layer_range.byte_range.end)
        span = Span(source, layer_range.byte_range, [plan])
    if span is not None:
        yield span
