"""An answer's body, read from its socket straight into the caller's memory.

`http.client` reads through a buffered file, and a socket says that it is readable as soon as
one packet is there: on a quick line that is a wake-up for every few kilobytes, which cost more
than the copying. Here a reader sleeps until there is enough to be worth it (``SO_RCVLOWAT``).
"""

import http.client
import socket
import sys
import zlib
from typing import Protocol

from urllib3.util import wait_for_read

from downloader.errors import ProtocolError

# Bytes worth waking up for; the kernel's own buffer becomes twice as large.
_ENOUGH_BYTES = 128 * 1024
_PIECE_BYTES = 256 * 1024


class Body(Protocol):
    """The unread rest of an answer's body."""

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes into ``buffer``; 0 at the end, or where the line was cut.

        Raises:
            OSError, http.client.HTTPException: The line broke, or nothing came for too long.
        """

    def end(self) -> None:
        """Leave the connection as the next answer needs it."""


def open_body(sock: object, response: http.client.HTTPResponse) -> Body:
    """Return the body of an answer whose head was read from ``sock``."""
    if type(sock) is socket.socket and response.length:  # no TLS, and its length is known
        return _DirectBody(sock, response)
    return _BufferedBody(response)


GZIP_ENCODINGS = {"gzip", "x-gzip", "deflate"}  # RFC 9110, section 8.4.1


def is_inflatable(encoding: str) -> bool:
    """Whether a ``Content-Encoding`` is one that `inflate` undoes."""
    return encoding.strip().lower() in GZIP_ENCODINGS


def inflate(data: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Return a small body without its ``Content-Encoding``, or its first ``limit_bytes``.

    Raises:
        ProtocolError: It is not encoded so.

    >>> inflate(zlib.compress(b"abc"), "deflate", 2)
    b'ab'
    """
    if not is_inflatable(encoding):
        return data
    try:
        # gzip and zlib by their headers
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, limit_bytes)
    except zlib.error as error:
        raise ProtocolError(f"want a body in Content-Encoding {encoding}, got another") from error


class InflatedBody:
    """A long body without its ``Content-Encoding``, in constant memory.

    Args:
        body: As it is sent.
        encoding: Its ``Content-Encoding``.
    """

    def __init__(self, body: Body, encoding: str) -> None:
        self._body = body
        self._encoding = encoding
        self._inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        self._has_begun = False

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes into ``buffer``; 0 at the end.

        Raises:
            OSError, http.client.HTTPException: The line broke, or nothing came for too long.
            ProtocolError: The body is not encoded so.
        """
        while buffer and not self._inflater.eof:
            data = self._inflater.unconsumed_tail or self._next()
            try:
                piece = self._inflater.decompress(data, len(buffer))
            except zlib.error as error:
                raise ProtocolError(
                    f"want a body in Content-Encoding {self._encoding}, got another"
                ) from error
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
            if not data:
                break
        return 0

    def _next(self) -> bytes:
        data = bytes(self._buffer[: self._body.readinto(self._buffer)])
        if not data and self._has_begun:
            raise http.client.IncompleteRead(b"")
        self._has_begun = True
        return data

    def end(self) -> None:
        """Leave the connection as the next answer needs it."""
        self._body.end()


class _BufferedBody:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def readinto(self, buffer: memoryview) -> int:
        # A reset in the middle of one `readinto` loses the count of what it read.
        return self._response.readinto(buffer[:_PIECE_BYTES])

    def end(self) -> None:
        pass


class _DirectBody:
    def __init__(self, sock: socket.socket, response: http.client.HTTPResponse) -> None:
        self._sock = sock
        self._response = response
        self._left = response.length or 0
        self._buffered = self._left  # until it is known how much came with the head
        self._enough = 1
        self._is_slow = sys.platform != "linux"  # others lack it, or treat it otherwise

    def readinto(self, buffer: memoryview) -> int:
        if not self._left or not buffer:
            return 0
        if self._buffered:
            return self._read_buffered(buffer)
        count = self._receive(buffer[: self._left])
        self._left -= count
        if not self._left:
            self._response.close()
        return count

    def _read_buffered(self, buffer: memoryview) -> int:
        """Read what came with the head; where nothing did, the first bytes that come."""
        self._buffered = min(self._buffered, len(self._response.fp.peek()))
        count = self._response.readinto(buffer[: self._buffered])
        self._buffered -= count
        self._left -= count
        return count

    def _receive(self, buffer: memoryview) -> int:
        self._wait_for(1 if self._is_slow else min(_ENOUGH_BYTES, self._left))
        try:
            return self._sock.recv_into(buffer)
        except TimeoutError:
            # Not enough in all this time; that is a stall only if there is nothing at all.
            self._is_slow = True
            self._wait_for(1)
            if not wait_for_read(self._sock, timeout=0.0):
                raise
            return self._sock.recv_into(buffer)

    def _wait_for(self, enough: int) -> None:
        if enough != self._enough:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, enough)
                self._enough = enough
            except OSError:  # refused, or closed already
                self._is_slow = True

    def end(self) -> None:
        self._wait_for(1)
