"""Reading a registry's blob: one stream, continued where a connection broke."""

from downloader.errors import ProtocolError, TransportError
from downloader.net.ranges import ByteRange, check_content_range, range_header
from downloader.net.request import Exchange
from downloader.oci.auth import Scopes
from downloader.oci.client import Client, Request
from downloader.oci.responses import content_length
from downloader.transfer.source import RangesIgnoredError, ResumingReader

# Answers to a Range of servers that know none, or refuse the header.
_NO_RANGES = (400, 403, 416, 501)


class RegistryBlobReader(ResumingReader):
    """A `Reader` of a registry's blob; asks for the rest again when a connection breaks.

    Args:
        client: To ask.
        url: Of the blob.
        what: For messages.
        scopes: That reading needs.
        byte_range: The bytes to read; None for all of the blob.

    Raises (from the constructor and ``readinto``):
        RegistryError: The registry lacks the blob, or refuses it.
        TransportError: It broke more often than the retries allow.
        ProtocolError: Other bytes came than were asked for.
    """

    def __init__(
        self, client: Client, url: str, what: str, scopes: Scopes, byte_range: ByteRange | None
    ) -> None:
        start, end = (byte_range.start, byte_range.end) if byte_range else (0, None)
        super().__init__(what, start, end)
        self.retry = client.retries()
        self._client = client
        self._url = url
        self._scopes = scopes
        self._is_ranged = byte_range is not None
        if end is None or start < end:
            self.open()

    def connect(self) -> Exchange:
        """Ask for the bytes that are left."""
        want = None
        if self._is_ranged or self.at:
            if self.end is None:
                raise TransportError(f"{self.name}: cut, and its size was never told")
            want = ByteRange(self.at, self.end)
        exchange = self._ask({"Range": range_header(want)} if want else {})
        if want is not None and exchange.status in _NO_RANGES:
            # Ranges are refused. From the start, the whole blob serves as well.
            exchange.close()
            if self.at:
                raise self._ranges_ignored(want, f"status {exchange.status}")
            exchange = self._ask({})
        try:
            self._check(exchange, want)
        except ProtocolError:
            exchange.close()
            raise
        return exchange

    def _ask(self, headers: dict[str, str]) -> Exchange:
        expect = (200, 206, *_NO_RANGES) if headers else (200, 206)
        request = Request("GET", self._url, self.name, self._scopes, expect, headers, redirect=True)
        return self._client.open(request, self.retry)

    def _check(self, exchange: Exchange, want: ByteRange | None) -> None:
        size_bytes = content_length(exchange.headers)
        is_range = exchange.status == 206
        plain_bytes = want.size_bytes if want and is_range else want.end if want else None
        is_encoded = exchange.inflate(plain_bytes)
        if is_encoded:
            size_bytes = None
        if is_range:
            if want is None:
                raise ProtocolError(f"{self.name}: want status 200, got 206 without asking")
            if is_encoded:
                raise self._ranges_ignored(want, "a range of its compressed form")
            check_content_range(exchange.headers.get("Content-Range"), want)
        elif want is None:
            self.end = size_bytes
        elif want.start or (size_bytes is not None and size_bytes < want.end):
            raise self._ranges_ignored(want, f"status 200 with {size_bytes} bytes")

    def _ranges_ignored(self, want: ByteRange, got: str) -> RangesIgnoredError:
        return RangesIgnoredError(
            f"{self.name}: want bytes {want.start} to {want.end} (status 206), got {got}",
            hint="this registry, or a proxy before it, ignores ranges",
        )
