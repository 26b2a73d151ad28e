"""A set of byte offsets, kept as ranges."""

from collections.abc import Iterator
from itertools import pairwise

from downloader.net.ranges import ByteRange


class RangeSet:
    """Byte ranges, joined where they touch.

    >>> there = RangeSet()
    >>> for start, end in [(0, 2), (6, 8), (2, 4)]:
    ...     there.add(ByteRange(start, end))
    >>> list(there), there.size_bytes, there.prefix_end
    ([ByteRange(start=0, end=4), ByteRange(start=6, end=8)], 6, 4)
    >>> list(there.gaps(ByteRange(0, 10)))
    [ByteRange(start=4, end=6), ByteRange(start=8, end=10)]
    """

    def __init__(self) -> None:
        self._ranges: list[ByteRange] = []

    def __iter__(self) -> Iterator[ByteRange]:
        return iter(self._ranges)

    @property
    def size_bytes(self) -> int:
        """Number of bytes in the set."""
        return sum(item.size_bytes for item in self._ranges)

    @property
    def prefix_end(self) -> int:
        """Number of bytes from the beginning without a gap."""
        first = self._ranges[0] if self._ranges else ByteRange(0, 0)
        return first.end if first.start == 0 else 0

    def add(self, new: ByteRange) -> None:
        """Add a range; it may overlap what is there."""
        if not new.size_bytes:
            return
        apart = [item for item in self._ranges if item.end < new.start or item.start > new.end]
        touching = [
            item for item in self._ranges if not (item.end < new.start or item.start > new.end)
        ]
        start = min([new.start, *(item.start for item in touching)])
        end = max([new.end, *(item.end for item in touching)])
        self._ranges = sorted([*apart, ByteRange(start, end)])

    def remove(self, old: ByteRange) -> None:
        """Remove a range."""
        kept = []
        for item in self._ranges:
            before = ByteRange(item.start, min(item.end, old.start))
            after = ByteRange(max(item.start, old.end), item.end)
            kept += [part for part in (before, after) if part.start < part.end]
        self._ranges = kept

    def gaps(self, within: ByteRange) -> Iterator[ByteRange]:
        """Yield what of ``within`` is not in it, in order."""
        edges = [ByteRange(within.start, within.start), *self._ranges]
        edges.append(ByteRange(within.end, within.end))
        for left, right in pairwise(edges):
            gap = ByteRange(max(left.end, within.start), min(right.start, within.end))
            if gap.start < gap.end:
                yield gap
