"""Reading a blob: one stream, continued where a connection broke."""

from typing import Self

from downloader.errors import ProtocolError, TransportError
from downloader.net.body import Inflater, is_inflatable
from downloader.net.ranges import ByteRange, check_content_range, range_header
from downloader.net.request import Exchange
from downloader.oci.auth import Scopes
from downloader.oci.client import Client, Request
from downloader.oci.store import RangesIgnoredError

# Answers to a Range of servers that know none, or refuse the header.
_NO_RANGES = (400, 403, 416, 501)


class RegistryBlobReader:
    """A `BlobReader` on a registry; asks for the rest again when a connection breaks.

    Args:
        client: To ask.
        url: Of the blob.
        what: For messages.
        scopes: That reading needs.
        byte_range: What to read, None for all of it.

    Raises (from the constructor and `readinto`):
        RegistryError: The registry lacks the blob, or refuses it.
        TransportError: It broke more often than the retries allow.
        ProtocolError: Other bytes came than were asked for.
    """

    def __init__(
        self, client: Client, url: str, what: str, scopes: Scopes, byte_range: ByteRange | None
    ) -> None:
        self._client = client
        self._url = url
        self._what = what
        self._scopes = scopes
        self._at = byte_range.start if byte_range else 0
        self._end = byte_range.end if byte_range else None
        self._ranged = byte_range is not None
        self._retries = client.retries()
        self._exchange: Exchange | None = None
        self._inflater: Inflater | None = None
        if self._end is None or self._at < self._end:
            self._exchange = self._open()

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with the next bytes; fewer at the end only, then 0."""
        filled = 0
        while filled < len(buffer) and not self._is_over():
            room = buffer[filled:] if self._end is None else buffer[filled:][: self._left()]
            count = self._read_some(room)
            if count:
                self._retries.succeeded()
            self._at += count
            filled += count
            if count < len(room):
                self._cut_short()
        return filled

    def _is_over(self) -> bool:
        return self._end is not None and self._at >= self._end

    def _left(self) -> int:
        return (self._end or 0) - self._at

    def _read_some(self, buffer: memoryview) -> int:
        if self._exchange is None:
            self._exchange = self._open()
        try:
            return (self._inflater or self._exchange).readinto(buffer)
        except TransportError as error:
            self._close()
            if not self._retries.wait(error):
                raise
            return 0

    def _cut_short(self) -> None:
        if self._exchange is None:
            return  # was counted as a failure where it happened
        if self._end is None:
            self._end = self._at  # no length was promised, so this is the end
        elif not self._is_over():
            self._close()
            cut = TransportError(
                f"{self._what}: want bytes to {self._end}, got none after {self._at}",
                hint="the connection was cut again and again; run it again later",
            )
            if not self._retries.wait(cut):
                raise cut

    def _open(self) -> Exchange:
        ranged = self._ranged or self._at > 0
        want = ByteRange(self._at, self._end or 0)
        if ranged and self._end is None:
            raise TransportError(f"{self._what}: cut, and its size was never told")
        exchange = self._ask({"Range": range_header(want)} if ranged else {})
        if exchange.status in _NO_RANGES:
            # Ranges are refused. From the start, the whole blob serves as well.
            exchange.close()
            if self._at:
                raise self._ranges_ignored(want, f"status {exchange.status}")
            exchange = self._ask({})
        try:
            self._check(exchange, want if ranged else None)
        except ProtocolError:
            exchange.close()
            raise
        return exchange

    def _ask(self, headers: dict[str, str]) -> Exchange:
        expect = (200, 206, *_NO_RANGES) if headers else (200, 206)
        request = Request(
            "GET", self._url, self._what, self._scopes, expect, headers, redirect=True
        )
        return self._client.open(request, self._retries)

    def _check(self, exchange: Exchange, want: ByteRange | None) -> None:
        length = exchange.headers.get("Content-Length", "")
        size_bytes = int(length) if length.isascii() and length.isdigit() else None
        encoding = exchange.headers.get("Content-Encoding", "")
        # A store may say so of a gzip layer that it keeps as it is: then the length is right.
        if is_inflatable(encoding) and (want is None or size_bytes != want.end):
            size_bytes = None
            self._inflater = Inflater(exchange, encoding)
        if exchange.status == 206:
            if want is None:
                raise ProtocolError(f"{self._what}: want status 200, got 206 without asking")
            if self._inflater:
                raise self._ranges_ignored(want, f"a range of its {encoding} form")
            check_content_range(exchange.headers.get("Content-Range"), want)
        elif want is None:
            self._end = size_bytes
        elif want.start or (size_bytes is not None and size_bytes < want.end):
            raise self._ranges_ignored(want, f"status 200 with {size_bytes} bytes")

    def _ranges_ignored(self, want: ByteRange, got: str) -> RangesIgnoredError:
        return RangesIgnoredError(
            f"{self._what}: want bytes {want.start} to {want.end} (status 206), got {got}",
            hint="this registry, or a proxy before it, ignores ranges",
        )

    def _close(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = self._inflater = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
