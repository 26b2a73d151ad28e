"""Byte ranges: half-open here, inclusive only in the two header functions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from downloader.errors import ProtocolError

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,19})-(?P<last>\d{1,19})/(?P<size>\d{1,19}|\*)")


@dataclass(frozen=True, order=True)
class ByteRange:
    """A half-open interval of byte offsets: ``start <= offset < end``."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Number of bytes in the range."""
        return self.end - self.start

    def split(self, piece_bytes: int) -> Iterator["ByteRange"]:
        """Yield consecutive pieces of at most ``piece_bytes``.

        >>> list(ByteRange(0, 5).split(2))
        [ByteRange(start=0, end=2), ByteRange(start=2, end=4), ByteRange(start=4, end=5)]
        """
        for start in range(self.start, self.end, piece_bytes):
            yield ByteRange(start, min(start + piece_bytes, self.end))


def range_header(want: ByteRange) -> str:
    """Return the ``Range`` header that asks for ``want``, which must not be empty.

    >>> range_header(ByteRange(0, 500))
    'bytes=0-499'
    """
    return f"bytes={want.start}-{want.end - 1}"


def check_content_range(value: str | None, want: ByteRange) -> None:
    """Raise unless a 206 answer carries exactly the bytes that were asked for.

    A header that is merely present proves nothing: a proxy that answers with another
    offset would splice wrong bytes into the file, and only the final digest would notice.

    Args:
        value: The ``Content-Range`` header, ``bytes FIRST-LAST/SIZE``, both ends inclusive.
        want: The half-open interval of byte offsets that was asked for.

    Raises:
        ProtocolError: The header is missing, malformed, or names other bytes.

    Source: RFC 9110, section 14.4.

    >>> check_content_range("bytes 0-499/1234", ByteRange(0, 500))
    >>> check_content_range("bytes 0-499/400", ByteRange(0, 500))
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: want Content-Range bytes 0-499, got 'bytes 0-499/400'
    """
    match = _CONTENT_RANGE.fullmatch(value or "")
    if match:
        first, last = int(match["first"]), int(match["last"])
        fits = match["size"] == "*" or last < int(match["size"])
        if ByteRange(first, last + 1) == want and fits:
            return
    raise ProtocolError(f"want Content-Range bytes {want.start}-{want.end - 1}, got {value!r}")
