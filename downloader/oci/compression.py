"""Bytes of a layer or archive as they were before compression, without trusting them.

A bomb is a small file that becomes a large one. Memory is bounded, because output is made
only as it is asked for; time and disk are bounded by the ratio of output to input.
"""

import bz2
import importlib.util
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from downloader.errors import InputError, ProtocolError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
XZ_MAGIC = b"\xfd7zXZ\x00"
BZIP2_MAGIC = b"BZh"
HEAD_BYTES = 512  # a tar header, or the magic number of a compression

_INPUT_BYTES = 256 * 1024
_OUTPUT_BYTES = 64 * 1024  # at once: zlib copies what is left of its input after each call
# `zstd --long` needs 128 MiB; `--ultra --long=31` would need 2 GiB of memory to read.
_WINDOW_LOG_LIMIT = 27
_XZ_MEMORY_BYTES = 96 * 1024 * 1024  # `xz -9` needs 65 MiB to read
_BZIP2_BLOCK = b"1AY&SY"  # a block's own magic; three letters alone begin many texts
# Weights shrink by a fifth, text tenfold. Sparse files may shrink more, but not for long.
RATIO_LIMIT = 100
RATIO_GRACE_BYTES = 1024**3
# A member of a gzip file (or stream of xz or bzip2) costs a microsecond, whatever is in it, and an
# empty one takes 20 bytes. eStargz has one for each file of a layer, `pigz` some for each megabyte.
SMALL_MEMBER_BYTES = 4096
SMALL_MEMBERS_LIMIT = 1_000_000  # two for each file that a tar may have
# Compressed bytes in a row without any content: empty frames, skippable frames (the list of
# files of zstd:chunked takes some megabytes), zero bytes at the end of a tape.
SILENT_LIMIT_BYTES = 64 * 1024**2
LEVEL = 1  # of zstd: level 3 makes weights no smaller, level 9 takes twelve times as long

ReadInto = Callable[[memoryview], int]
Compression = str | None


class _Reader(Protocol):
    def readinto(self, buffer: memoryview) -> int: ...


def detect_compression(first_bytes: bytes) -> Compression:
    r"""Return ``gzip``, ``zstd``, ``xz``, ``bzip2``, or None for none of them.

    Media types are not asked: ``docker save`` and some registries get them wrong.

    >>> detect_compression(b"\x1f\x8b\x08\x00"), detect_compression(b"etc/")
    ('gzip', None)
    """
    if first_bytes.startswith(GZIP_MAGIC):
        return "gzip"
    if first_bytes.startswith(XZ_MAGIC):
        return "xz"
    if first_bytes.startswith(BZIP2_MAGIC) and first_bytes[4:10] == _BZIP2_BLOCK:
        return "bzip2"
    return "zstd" if first_bytes.startswith(ZSTD_MAGIC) else None


class PlainStream:
    """A stream of bytes, decompressed, as a `downloader.oci.tar_read.ByteSource`.

    Args:
        read_into: Fills a buffer with the next compressed bytes; 0 at the end.
        what: The stream, for messages.

    Attributes:
        head: The first `HEAD_BYTES` of the stream, as they came; they will be read again.
        compression: Of the stream.

    Raises (while reading):
        ProtocolError: The data are damaged or cut, or expand like a bomb.
    """

    def __init__(self, read_into: ReadInto, what: str) -> None:
        self.offset = 0
        self._what = what
        self._input = _Input(read_into, what)
        self.head = self._input.peek(HEAD_BYTES)
        self.compression = detect_compression(self.head)
        self._reader = self._open()
        self._scratch = memoryview(bytearray(_INPUT_BYTES))

    def _open(self) -> _Reader:
        match self.compression:
            case "gzip":
                return _Gzip(self._input, self._what)
            case "zstd":
                return _open_zstd(self._input, self._what)
            case "xz":
                return _Frames(self._input, self._what, _new_xz)
            case "bzip2":
                return _Frames(self._input, self._what, bz2.BZ2Decompressor)
        return self._input

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes at the end only, then 0."""
        filled = 0
        while filled < len(buffer):
            count = self._read_some(buffer[filled:])
            if not count:
                break
            self._input.silent_bytes = 0
            filled += count
        self.offset += filled
        self._check_ratio()
        return filled

    def _read_some(self, buffer: memoryview) -> int:
        try:
            return self._reader.readinto(buffer)
        except _damage() as error:
            message = f"{self._what}: want {self.compression} data, got damage"
            raise ProtocolError(message) from error

    def _check_ratio(self) -> None:
        limit = max(RATIO_GRACE_BYTES, RATIO_LIMIT * self._input.taken_bytes)
        if self.compression and self.offset > limit:
            raise ProtocolError(
                f"{self._what}: want at most {RATIO_LIMIT} bytes from each compressed one,"
                f" got {self.offset} from {self._input.taken_bytes}: a decompression bomb"
            )

    def skip(self, size_bytes: int) -> None:
        """Read and forget so many bytes.

        Raises:
            ProtocolError: There are fewer.
        """
        while size_bytes:
            got = self.readinto(self._scratch[:size_bytes])
            if not got:
                raise ProtocolError(f"{self._what}: want {size_bytes} bytes more, got its end")
            size_bytes -= got


class _Input:
    """Compressed bytes with a look ahead; a file object as far as zstd asks for one."""

    def __init__(self, read_into: ReadInto, what: str) -> None:
        self._read_into = read_into
        self._what = what
        self._ahead = b""
        self.taken_bytes = 0
        self.silent_bytes = 0  # read by a decompressor since it last gave any content

    def peek(self, size_bytes: int) -> bytes:
        while len(self._ahead) < size_bytes:
            data = bytearray(size_bytes - len(self._ahead))
            got = self._read_into(memoryview(data))
            if not got:
                break
            self._ahead += bytes(data[:got])
        return self._ahead

    def readinto(self, buffer: memoryview) -> int:
        if self._ahead:
            count = min(len(buffer), len(self._ahead))
            buffer[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
        else:
            count = self._read_into(buffer)
        self.taken_bytes += count
        return count

    def read(self, size_bytes: int = _INPUT_BYTES) -> bytes:
        data = bytearray(size_bytes if size_bytes > 0 else _INPUT_BYTES)
        count = self.readinto(memoryview(data))
        self.silent_bytes += count
        if self.silent_bytes > SILENT_LIMIT_BYTES:
            raise ProtocolError(
                f"{self._what}: want content in {SILENT_LIMIT_BYTES} compressed bytes, got none"
            )
        return bytes(data[:count])


class _Members:
    """Counts the small members, streams or frames of a compressed stream."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._content_bytes = 0
        self._small = 0

    def add(self, size_bytes: int) -> None:
        """Count content of the present member."""
        self._content_bytes += size_bytes

    def end(self) -> None:
        """End the present member.

        Raises:
            ProtocolError: There are more small ones than any tool writes.
        """
        self._small += self._content_bytes < SMALL_MEMBER_BYTES
        self._content_bytes = 0
        if self._small > SMALL_MEMBERS_LIMIT:
            raise ProtocolError(
                f"{self._what}: want at most {SMALL_MEMBERS_LIMIT} compressed members of less"
                f" than {SMALL_MEMBER_BYTES} bytes, got more"
            )


class _Gzip:
    """The members of a gzip file, one after the other; zero bytes may follow (tape padding)."""

    def __init__(self, source: _Input, what: str) -> None:
        self._source = source
        self._members = _Members(what)
        self._member = zlib.decompressobj(wbits=31)
        self._pending = b""
        self._plain = memoryview(b"")
        self._is_begun = False

    def readinto(self, buffer: memoryview) -> int:
        if not self._plain:
            self._plain = memoryview(self._decompress(max(len(buffer), _OUTPUT_BYTES)))
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _decompress(self, limit_bytes: int) -> bytes:
        while True:
            if not self._pending:
                self._pending = self._source.read()
            if not self._pending:
                if self._is_begun:
                    raise EOFError
                return b""
            if not self._is_begun and not self._begin():
                continue
            data = self._member.decompress(self._pending, limit_bytes)
            self._members.add(len(data))
            self._advance()
            if data:
                return data

    def _begin(self) -> bool:
        self._pending = self._pending.lstrip(b"\0")
        self._is_begun = bool(self._pending)
        return self._is_begun

    def _advance(self) -> None:
        if self._member.eof:
            self._members.end()
            self._pending = self._member.unused_data
            self._member = zlib.decompressobj(wbits=31)
            self._is_begun = False
        else:
            self._pending = self._member.unconsumed_tail


def _new_xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


class _Decompressor(Protocol):
    """Of one stream or frame, as those of the standard library."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _Frames:
    """The streams of an xz or bzip2 file, or the frames of a zstd file, one after the other."""

    def __init__(self, source: _Input, what: str, create: Callable[[], _Decompressor]) -> None:
        self._source = source
        self._members = _Members(what)
        self._create = create
        self._frame: _Decompressor | None = None
        self._next = b""

    def readinto(self, buffer: memoryview) -> int:
        while True:
            if self._frame is None:
                # xz pads its streams with zero bytes, in fours
                self._next = (self._next or self._source.read()).lstrip(b"\0")
                if not self._next:
                    return 0
                self._frame = self._create()
            data = self._next
            if self._frame.needs_input and not data:
                data = self._source.read()
                if not data:
                    raise EOFError
            self._next = b""
            try:
                plain = self._frame.decompress(data, min(len(buffer), _OUTPUT_BYTES))
            except OSError as error:  # what bz2 calls damage
                raise EOFError from error
            self._members.add(len(plain))
            if self._frame.eof:
                self._members.end()
                self._next, self._frame = self._frame.unused_data, None
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)


def _damage() -> tuple[type[Exception], ...]:
    # zstandard is loaded only where a zstd layer was.
    loaded = "zstandard" in sys.modules or sys.version_info >= (3, 14)
    zstd = (_zstd_error(),) if loaded else ()
    return (zlib.error, lzma.LZMAError, EOFError, *zstd)


if sys.version_info >= (3, 14):
    from compression import zstd as _zstd

    def _zstd_error() -> type[Exception]:
        return _zstd.ZstdError

    def _open_zstd(source: _Input, what: str) -> _Reader:
        # Not ZstdFile, which takes ten microseconds for each of any number of empty frames.
        return _Frames(source, what, _new_zstd)

    def _new_zstd() -> _zstd.ZstdDecompressor:
        limit = {_zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_LIMIT}
        return _zstd.ZstdDecompressor(options=limit)

    def has_zstd() -> bool:
        """Whether this Python can read zstd."""
        return True

    def frame_compressor() -> Callable[[bytes], bytes]:
        """Return a function of bytes to one zstd frame that says its content's size."""
        return lambda data: _zstd.compress(data, LEVEL)

    def _frame_content_bytes(frame: bytes) -> int | None:
        return _zstd.get_frame_info(frame).decompressed_size

    def _decompress(frame: bytes, size_bytes: int) -> bytes:
        decompressor = _new_zstd()
        data = decompressor.decompress(frame, size_bytes + 1)
        return data if decompressor.eof and not decompressor.unused_data else b""
else:

    def _zstd_error() -> type[Exception]:
        return cast("type[Exception]", _zstandard().ZstdError)

    def _open_zstd(source: _Input, what: str) -> _Reader:
        del what  # its reader skips empty frames fast enough
        context = _zstandard().ZstdDecompressor(max_window_size=1 << _WINDOW_LOG_LIMIT)
        reader = context.stream_reader(cast("Any", source), read_across_frames=True)
        return cast("_Reader", reader)

    def has_zstd() -> bool:
        """Whether this Python can read zstd."""
        return importlib.util.find_spec("zstandard") is not None

    def frame_compressor() -> Callable[[bytes], bytes]:
        """Return a function of bytes to one zstd frame that says its content's size."""
        return cast("Callable[[bytes], bytes]", _zstandard().ZstdCompressor(level=LEVEL).compress)

    def _frame_content_bytes(frame: bytes) -> int | None:
        return cast("int", _zstandard().get_frame_parameters(frame).content_size)

    def _decompress(frame: bytes, size_bytes: int) -> bytes:
        context = _zstandard().ZstdDecompressor(max_window_size=1 << _WINDOW_LOG_LIMIT)
        data = context.decompress(frame, max_output_size=size_bytes, allow_extra_data=False)
        return cast("bytes", data)

    def _zstandard() -> Any:  # noqa: ANN401 - has no types
        try:
            import zstandard  # noqa: PLC0415 - most images need no zstd
        except ModuleNotFoundError as error:
            raise InputError(
                "this image is compressed with zstd, which this Python cannot read",
                hint="pip install zstandard, or use Python 3.14 or later",
            ) from error
        return zstandard


def decompress_frame(frame: bytes, size_bytes: int, what: str) -> bytes:
    """Return the content of one zstd frame.

    Args:
        frame: All of it, and nothing else.
        size_bytes: Of its content.
        what: For messages.

    Raises:
        ProtocolError: It is damaged, or its content has another size.
        InputError: This Python has no zstd.
    """
    try:
        # Before any memory is taken: a frame of some bytes may claim to be terabytes.
        if _frame_content_bytes(frame) == size_bytes:
            data = _decompress(frame, size_bytes)
            if len(data) == size_bytes:
                return data
    except _zstd_error() as error:
        raise ProtocolError(f"{what}: want a zstd frame, got damage") from error
    raise ProtocolError(f"{what}: want a zstd frame of {size_bytes} bytes, got another one")
