"""Compressed layers that can be read from the middle: independent frames, and a table of them.

Any zstd reader takes such a layer for an ordinary one; a reader of the table finds the frames
of any range of the tar with one small request at the end of the blob.

Source: Zstandard Seekable Format 0.1.0 (zstd repository, contrib/seekable_format); RFC 8878,
section 3.1.1 (frames) and 3.1.2 (skippable frames).
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from downloader.errors import ProtocolError
from downloader.net.ranges import ByteRange
from downloader.oci.compression import decompress_frame, frame_compressor
from downloader.oci.store import BlobReader
from downloader.transfer.source import interrupt_of, read_all

# Content of every frame but the last: small, because a reader holds a frame of each connection
# in memory, and large enough that the table of a layer of 10 GB stays below 100 KB.
FRAME_BYTES = 1024 * 1024
# No frame may be larger, packed or plain: each connection holds one, and there may be 64.
FRAME_LIMIT_BYTES = 2 * FRAME_BYTES
# Of all layers of an image together: a terabyte, and 16 MB of memory.
FRAMES_LIMIT = 1_000_000
# The first request at the end of a blob; the table of 8 GB fits into it.
TAIL_BYTES = 64 * 1024

_SKIPPABLE_MAGIC = 0x184D2A5E
_SEEKABLE_MAGIC = 0x8F92EAB1
_HEADER = struct.Struct("<II")  # magic, bytes that follow
_ENTRY = struct.Struct("<II")  # compressed and plain bytes of a frame
_CHECKED_ENTRY = struct.Struct("<II4x")  # and a checksum of its content
_FOOTER = struct.Struct("<IBI")  # frames, descriptor, magic
_HAS_CHECKSUMS = 0x80
_RESERVED_BITS = 0x7C

OpenRange = Callable[[ByteRange], BlobReader]


class Packer:
    """Compresses a stream into frames, and tells where they are."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._entries: list[bytes] = []
        self._compress = frame_compressor()

    def feed(self, data: memoryview) -> Iterator[bytes]:
        """Take the next bytes; yield each frame that is complete."""
        while data:
            room = FRAME_BYTES - len(self._pending)
            self._pending += data[:room]
            data = data[room:]
            if len(self._pending) == FRAME_BYTES:
                yield self._frame()

    def cut(self) -> bytes:
        """End the frame here, if one is begun, and return it.

        Frames that begin with a file lie on whole MiB of it, as the ranges do that a restore
        asks for; else each range would cost a frame more.
        """
        return self._frame() if self._pending else b""

    def frames(self) -> list[tuple[int, int]]:
        """Return where each frame that is complete ends, in the blob and in the tar."""
        sizes = [_ENTRY.unpack(entry) for entry in self._entries]
        packed = accumulate(size for size, _ in sizes)
        return list(zip(packed, accumulate(size for _, size in sizes), strict=True))

    def go_back(self, frames: int) -> None:
        """Go on after the first ``frames`` frames, whose bytes stay what they were."""
        del self._entries[frames:]
        self._pending.clear()

    def finish(self) -> bytes:
        """Return what follows: the last frame, and the table in a skippable frame."""
        last = self.cut()
        body = b"".join(self._entries) + _FOOTER.pack(len(self._entries), 0, _SEEKABLE_MAGIC)
        return last + _HEADER.pack(_SKIPPABLE_MAGIC, len(body)) + body

    def _frame(self) -> bytes:
        frame = self._compress(bytes(self._pending))
        self._entries.append(_ENTRY.pack(len(frame), len(self._pending)))
        self._pending.clear()
        return frame


@dataclass(frozen=True)
class SeekTable:
    """The offsets of all frames, in the blob and in the tar.

    Args:
        packed: Offsets of the frames in the blob, and of the end of the last one.
        plain: Offsets of their contents in the tar, and of the end of the last one.
    """

    packed: Sequence[int]
    plain: Sequence[int]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.plain) - 1

    @property
    def size_bytes(self) -> int:
        """Of the tar."""
        return self.plain[-1]

    def frames_of(self, wanted: ByteRange, what: str) -> range:
        """Return the numbers of the frames that hold a range of the tar.

        Raises:
            ProtocolError: The tar is shorter.
        """
        if wanted.end > self.size_bytes:
            raise ProtocolError(
                f"{what}: want bytes {wanted.start} to {wanted.end},"
                f" got a tar of {self.size_bytes} bytes"
            )
        first = bisect_right(self.plain, wanted.start) - 1
        last = bisect_right(self.plain, max(wanted.start, wanted.end - 1)) - 1
        return range(first, min(last + 1, self.frames))


def read_table(open_range: OpenRange, size_bytes: int, what: str) -> SeekTable | None:
    """Return the table at the end of a blob; None for a blob that has none.

    Args:
        open_range: Opens a range of the blob.
        size_bytes: Of the blob.
        what: The blob, for messages.

    Raises:
        ProtocolError: The table is damaged, or describes another blob.
    """
    tail = _read(open_range, ByteRange(max(0, size_bytes - TAIL_BYTES), size_bytes), what)
    need_bytes = table_bytes(tail, size_bytes, what)
    if need_bytes is None:
        return None
    if need_bytes > len(tail):
        tail = _read(open_range, ByteRange(size_bytes - need_bytes, size_bytes), what)
    return parse_table(tail[-need_bytes:], size_bytes, what)


def table_bytes(tail: bytes, size_bytes: int, what: str) -> int | None:
    """Return how many bytes the table takes at the end of a blob, None where there is none.

    Args:
        tail: The last bytes of the blob.
        size_bytes: Of the blob.
        what: The blob, for messages.

    Raises:
        ProtocolError: The blob cannot hold so many entries.
    """
    if len(tail) < _FOOTER.size:
        return None
    count, descriptor, magic = _FOOTER.unpack(tail[-_FOOTER.size :])
    if magic != _SEEKABLE_MAGIC:
        return None
    entry_form = _CHECKED_ENTRY if descriptor & _HAS_CHECKSUMS else _ENTRY
    need_bytes = _HEADER.size + int(count) * entry_form.size + _FOOTER.size
    if not 0 < count <= FRAMES_LIMIT or need_bytes >= size_bytes or descriptor & _RESERVED_BITS:
        raise ProtocolError(
            f"{what}: want a seek table of 1 to {FRAMES_LIMIT} frames inside {size_bytes} bytes,"
            f" got {count} frames"
        )
    return need_bytes


def parse_table(data: bytes, size_bytes: int, what: str) -> SeekTable:
    """Parse an untrusted seek table.

    Args:
        data: The whole skippable frame, and nothing else.
        size_bytes: Of the blob that it ends.
        what: The blob, for messages.

    Raises:
        ProtocolError: It does not describe a blob of that size, or a frame is too large.
    """
    magic, body_bytes = _HEADER.unpack_from(data)
    _, descriptor, _ = _FOOTER.unpack(data[-_FOOTER.size :])
    if magic != _SKIPPABLE_MAGIC or body_bytes != len(data) - _HEADER.size:
        raise ProtocolError(f"{what}: want a seek table of {len(data)} bytes, got another frame")
    entry_form = _CHECKED_ENTRY if descriptor & _HAS_CHECKSUMS else _ENTRY
    entries = memoryview(data)[_HEADER.size : -_FOOTER.size]
    # Tuples of numbers would take five times the memory.
    packed, plain = array("Q", [0]), array("Q", [0])
    for packed_bytes, plain_bytes in entry_form.iter_unpack(entries):
        if not (0 < packed_bytes <= FRAME_LIMIT_BYTES and 0 < plain_bytes <= FRAME_LIMIT_BYTES):
            raise ProtocolError(f"{what}: want frames of 1 to {FRAME_LIMIT_BYTES} bytes")
        packed.append(packed[-1] + packed_bytes)
        plain.append(plain[-1] + plain_bytes)
    if packed[-1] != size_bytes - len(data):
        raise ProtocolError(
            f"{what}: want frames of {size_bytes - len(data)} bytes, got a seek table of"
            f" {packed[-1]} bytes"
        )
    return SeekTable(packed, plain)


class DamagedFrameError(ProtocolError):
    """A frame is not what the table says of it; another place may have the right bytes."""


class FrameReader:
    """A range of the tar, from the frames that hold it; a `BlobReader`.

    Args:
        open_range: Opens a range of the blob.
        table: Of the blob.
        wanted: Of the tar.
        what: The blob, for messages.

    Raises (also from `readinto`):
        ProtocolError: The table lies about its size.
        DamagedFrameError: A frame lies about its size, or is damaged.
    """

    def __init__(
        self, open_range: OpenRange, table: SeekTable, wanted: ByteRange, what: str
    ) -> None:
        self._table = table
        self._what = what
        self._wanted = wanted
        self._frames = iter(numbers := table.frames_of(wanted, what))
        self._plain = memoryview(b"")
        self._reader = None
        if wanted.size_bytes:
            covering = ByteRange(table.packed[numbers.start], table.packed[numbers.stop])
            self._reader = open_range(covering)

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; return how many bytes, fewer than its length only at the end."""
        filled = 0
        while filled < len(buffer):
            if not self._plain:
                self._plain = self._next_frame()
            if not self._plain:
                break
            count = min(len(buffer) - filled, len(self._plain))
            buffer[filled : filled + count] = self._plain[:count]
            self._plain = self._plain[count:]
            filled += count
        return filled

    def interrupt(self) -> None:
        """Wake up the thread that waits for bytes; any thread may call this."""
        if self._reader is not None:
            interrupt_of(self._reader)()

    def _next_frame(self) -> memoryview:
        number = next(self._frames, None)
        if number is None or self._reader is None:
            return memoryview(b"")
        start, end = self._table.plain[number], self._table.plain[number + 1]
        size_bytes = self._table.packed[number + 1] - self._table.packed[number]
        packed = read_all(self._reader, size_bytes, self._what)
        try:
            plain = memoryview(decompress_frame(packed, end - start, self._what))
        except ProtocolError as error:
            raise DamagedFrameError(error.message) from error
        return plain[max(0, self._wanted.start - start) : self._wanted.end - start]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.__exit__(None, None, None)


def _read(open_range: OpenRange, wanted: ByteRange, what: str) -> bytes:
    with open_range(wanted) as reader:
        return read_all(reader, wanted.size_bytes, what)
