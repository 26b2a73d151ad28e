"""Small cache blobs that lie near each other in a layer: one request for many of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from downloader.errors import IntegrityError, ProtocolError
from downloader.fs import write_atomically
from downloader.hub.cache import BlobHasher
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.oci.store import BlobReader, RangesIgnoredError
from downloader.restore.places import Places, Visit
from downloader.restore.values import BlobPlan

SPAN_BYTES = 4 * 1024**2
SEQUENTIAL_TRIES = 5  # of a server without ranges, which begins from 0 each time
# What lies between two wanted blobs is fetched too where that costs less than a round trip.
GAP_BYTES = 64 * 1024


@dataclass
class Span:
    """Neighbours in one layer.

    Args:
        layer: The registry blob.
        byte_range: From the first to the last of them; empty where all are empty files.
        plans: In the order of the layer.
        places: Where to read.
    """

    layer: Digest
    byte_range: ByteRange
    plans: list[BlobPlan]
    places: Places
    visit: Visit = field(default_factory=Visit)

    def takes(self, plan: BlobPlan) -> bool:
        """Whether ``plan`` lies near enough behind the last one."""
        piece = plan.pieces[0]
        near = piece.byte_range.start - self.byte_range.end <= GAP_BYTES
        fits = piece.byte_range.end - self.byte_range.start <= SPAN_BYTES
        return piece.layer == self.layer and near and fits

    def fetch(self, buffer: bytearray) -> list[tuple[BlobPlan, memoryview]]:
        """Return each cache blob with its bytes, which hash to its name.

        Args:
            buffer: Of `SPAN_BYTES`, to use.

        Raises:
            IntegrityError: Its bytes are wrong in every place.
        """
        view = memoryview(buffer)[: self.byte_range.size_bytes]
        while True:
            self._read(view)
            try:
                for plan in self.plans:
                    _check(plan, self._bytes_of(plan, view))
            except IntegrityError:
                if not self.places.blame(self.visit):
                    raise
                continue
            return [(plan, self._bytes_of(plan, view)) for plan in self.plans]

    def _read(self, view: memoryview) -> None:
        if not view:
            return
        skipped_bytes = 0
        for left in reversed(range(SEQUENTIAL_TRIES)):
            try:
                self._read_after(skipped_bytes, view)
            except RangesIgnoredError:  # no ranges, or cut where there are none
                if not left:
                    raise
                skipped_bytes = self.byte_range.start
            else:
                return

    def _read_after(self, skipped_bytes: int, view: memoryview) -> None:
        """Read the span; ``skipped_bytes`` before it are read and forgotten."""
        start = self.byte_range.start - skipped_bytes
        asked = ByteRange(start, self.byte_range.end)
        with self.places.open_blob(self.layer, asked, self.visit) as reader:
            while skipped_bytes:
                skipped_bytes -= self._fill(reader, view[:skipped_bytes])
            self._fill(reader, view)

    def _fill(self, reader: BlobReader, view: memoryview) -> int:
        filled = 0
        while filled < len(view):
            count = reader.readinto(view[filled:])
            if not count:
                raise ProtocolError(f"{self.layer}: want {len(view)} bytes, got {filled}")
            filled += count
        return filled

    def _bytes_of(self, plan: BlobPlan, view: memoryview) -> memoryview:
        wanted = plan.pieces[0].byte_range
        return view[wanted.start - self.byte_range.start : wanted.end - self.byte_range.start]


def iter_spans(plans: Iterable[tuple[BlobPlan, Places]]) -> Iterator[Span]:
    """Group small cache blobs of one piece each by where they lie."""
    span: Span | None = None
    ordered = sorted(plans, key=lambda p: (p[0].pieces[0].layer, p[0].pieces[0].byte_range))
    for plan, places in ordered:
        if span is not None and span.places is places and span.takes(plan):
            span.plans.append(plan)
            span.byte_range = ByteRange(span.byte_range.start, plan.pieces[0].byte_range.end)
            continue
        if span is not None:
            yield span
        piece = plan.pieces[0]
        span = Span(piece.layer, piece.byte_range, [plan], places)
    if span is not None:
        yield span


def _check(plan: BlobPlan, data: memoryview) -> None:
    hasher = BlobHasher(plan.oid, plan.size_bytes)
    hasher.update(data)
    hasher.check(plan.oid)


def write_small(path: Path, data: memoryview) -> None:
    """Write a small cache blob under its name, at once."""
    write_atomically(path, bytes(data))
