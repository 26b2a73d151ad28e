"""One accepted connection, able to misbehave in what it sends."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.fake_hub.content import Disk
from tests.support.fake_hub.http_message import BadRequestError, Request, make_head, parse_head

if TYPE_CHECKING:
    import threading

    from tests.support.fake_hub.accesslog import Access
    from tests.support.fake_hub.http_message import Reply

HEAD_LIMIT_BYTES = 64 * 1024
BODY_LIMIT_BYTES = 8 << 20  # paths-info of many paths; nothing else posts a body
SENDFILE_BYTES = 4 << 20  # per call: few calls, and a stop is noticed soon


class StoppedError(ConnectionError):
    """The connection is over, on purpose."""


class Wire:
    """One accepted connection."""

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.closing = closing
        self._buffer = bytearray()

    def read_request(self) -> Request | None:
        """Give the next request, or None where the client has gone."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT_BYTES:
                raise BadRequestError(f"want a head of at most {HEAD_LIMIT_BYTES} bytes")
            if not self._fill():
                return None
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return self._with_body(parse_head(head))

    def _fill(self) -> bool:
        data = self.sock.recv(65536)
        self._buffer += data
        return bool(data)

    def _with_body(self, request: Request) -> Request:
        size_bytes = int(request.headers.get("content-length", "0"))
        if "transfer-encoding" in request.headers or size_bytes > BODY_LIMIT_BYTES:
            raise BadRequestError(f"want a Content-Length of at most {BODY_LIMIT_BYTES} bytes")
        while len(self._buffer) < size_bytes:
            if not self._fill():
                raise StoppedError
        body = bytes(self._buffer[:size_bytes])
        del self._buffer[:size_bytes]
        return Request(request.method, request.path, request.query, request.headers, body)

    def reset(self) -> None:
        """Send RST: what the kernel has not sent yet is lost."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise StoppedError

    def cut(self) -> None:
        """Close in order, in the middle of the body."""
        raise StoppedError

    def wait(self, released: threading.Event, timeout_s: float | None) -> None:
        """Send nothing until the event, the timeout, or the end of the server."""
        until_s = time.monotonic() + (1e9 if timeout_s is None else timeout_s)
        while not released.wait(0.02) and time.monotonic() < until_s:
            if self.closing.is_set():
                raise StoppedError

    def send(self, reply: Reply, entry: Access, *, body: bool) -> None:
        """Send head and body, counting the body's bytes into the entry as they go."""
        if reply.before:
            reply.before(self)
        self.sock.sendall(make_head(reply))
        if not body:
            return
        at = reply.start
        for offset, action in sorted(reply.steps, key=lambda step: step[0]):
            stop = min(reply.start + offset, reply.stop)
            self._send_range(reply, at, stop, entry)
            at = stop
            if reply.start + offset <= reply.stop:
                action(self)
        self._send_range(reply, at, reply.stop, entry)

    def _send_range(self, reply: Reply, start: int, stop: int, entry: Access) -> None:
        if start >= stop:
            return
        if reply.bytes_per_s:
            self._send_slowly(reply, start, stop, entry)
        elif isinstance(reply.source, Disk):
            with Path(reply.source.path).open("rb") as file:
                self._sendfile(file.fileno(), start, stop, entry)
        else:
            for piece in reply.source.iter_pieces(start, stop):
                self.sock.sendall(piece)
                entry.bytes_sent += len(piece)

    def _sendfile(self, fd: int, start: int, stop: int, entry: Access) -> None:
        while start < stop:
            sent = os.sendfile(self.sock.fileno(), fd, start, min(SENDFILE_BYTES, stop - start))
            if not sent:
                raise StoppedError
            start += sent
            entry.bytes_sent += sent

    def _send_slowly(self, reply: Reply, start: int, stop: int, entry: Access) -> None:
        """Keep to bytes_per_s, in steps of at most a twentieth of a second."""
        bytes_per_s = reply.bytes_per_s or 1
        step = max(1, min(bytes_per_s // 20, 1 << 20))
        began_s, begin = time.monotonic(), start
        for piece in reply.source.iter_pieces(start, stop):
            for at in range(0, len(piece), step):
                part = piece[at : at + step]
                self.sock.sendall(part)
                entry.bytes_sent += len(part)
                start += len(part)
                ahead_s = (start - begin) / bytes_per_s - (time.monotonic() - began_s)
                if ahead_s > 0 and self.closing.wait(ahead_s):
                    raise StoppedError
