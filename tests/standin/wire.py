"""HTTP/1.1 over sockets, strict in what it takes and able to misbehave in what it sends.

Not http.server: that one cannot reset a connection in the middle of a body, and parses
headers with the e-mail package.

Source: RFC 9112.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl, unquote_to_bytes

from tests.standin.accesslog import Access, AccessLog
from tests.standin.content import Disk, Memory, Source

HEAD_LIMIT_BYTES = 64 * 1024
BODY_LIMIT_BYTES = 8 << 20  # paths-info of many paths; nothing else posts a body
SENDFILE_BYTES = 4 << 20  # per call: few calls, and a stop is noticed soon
BACKLOG = 1024  # 64 parallel connections at once, and more than one client
# RFC 3986: what may stand in a request target. A raw space, '#', quote or non-ASCII
# letter is the client's mistake, and a server that forgives it would hide that.
TARGET = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*(?:\?\S*)?")


class BadRequestError(Exception):
    """The request breaks HTTP; the text says how."""


class StoppedError(ConnectionError):
    """The connection is over, on purpose."""


@dataclass(frozen=True)
class Request:
    """A parsed request; header names are lower case, path segments are decoded."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def segments(self) -> list[str]:
        """The path, split at ``/`` and only then decoded."""
        try:
            return [unquote_to_bytes(part).decode() for part in self.path[1:].split("/")]
        except UnicodeDecodeError as error:
            raise BadRequestError(f"want UTF-8 under the percent signs: {error}") from None

    @property
    def params(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass
class Reply:
    """An answer before it is sent; faults change it.

    Args:
        status: The status code.
        headers: Without Content-Length, which follows from the interval.
        source: Where the body comes from.
        start: First byte of it that is sent.
        stop: One past the last byte.
        whole: The full representation's size; None where ranges make no sense.
        steps: At how many bytes of the body something happens, and what.
        before: What happens before the first byte of the head.
        bytes_per_s: The cap; None is none.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    source: Source = Memory(b"")  # noqa: RUF009  # frozen
    start: int = 0
    stop: int = 0
    whole: int | None = None
    steps: list[tuple[int, Callable[[Wire], None]]] = field(default_factory=list)
    before: Callable[[Wire], None] | None = None
    bytes_per_s: int | None = None

    @classmethod
    def text(cls, status: int, body: str | bytes, **headers: str) -> Reply:
        """Make an answer of a small body; ``X_Error_Code`` names ``X-Error-Code``."""
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, named, Memory(data), 0, len(data))


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
        self.sock.sendall(_head(reply))
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


def parse_head(head: bytes) -> Request:
    r"""Parse the request line and the headers, strictly.

    Raises:
        BadRequestError: Not a request line of three words, a target with characters
            that must be percent-encoded, a header without a colon.

    Source: RFC 9112, sections 3 and 5.

    >>> parse_head(b"GET /a%20b HTTP/1.1\r\nHost: x").segments
    ['a b']
    >>> parse_head(b"GET /a#b HTTP/1.1\r\nHost: x")
    Traceback (most recent call last):
    tests.standin.wire.BadRequestError: want a percent-encoded target, got b'/a#b'
    """
    line, *fields = head.split(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or words[2] != b"HTTP/1.1":
        raise BadRequestError(f"want METHOD TARGET HTTP/1.1, got {line!r}")
    if not TARGET.fullmatch(words[1]) or b"#" in words[1]:
        raise BadRequestError(f"want a percent-encoded target, got {words[1]!r}")
    headers = dict(_parse_field(one) for one in fields)
    if "host" not in headers:
        raise BadRequestError("want a Host header")
    path, _, query = words[1].decode("ascii").partition("?")
    return Request(words[0].decode("ascii"), path, query, headers)


def _parse_field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.decode("latin-1").partition(":")
    if not colon or not name or name != name.strip():
        raise BadRequestError(f"want NAME: VALUE, got {line!r}")
    return name.lower(), value.strip()


def _head(reply: Reply) -> bytes:
    phrase = HTTPStatus(reply.status).phrase
    headers = {
        "Date": formatdate(usegmt=True),
        "X-Request-Id": f"Root=1-{uuid.uuid4()}",
        "Content-Length": str(reply.stop - reply.start),
        **reply.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} {phrase}\r\n{lines}\r\n".encode("latin-1")


Handler = Callable[[Request, Access], Reply]


class Listener:
    """One origin: a listening socket and a thread for each connection."""

    def __init__(
        self, origin: str, host: str, handle: Handler, log: AccessLog | None, port: int = 0
    ) -> None:
        self.origin = origin
        self._handle = handle
        self._log = log
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._sock = socket.create_server((host, port), backlog=BACKLOG)
        self.port: int = self._sock.getsockname()[1]
        self._host = host
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every connection and join the accepting thread."""
        self._closing.set()
        with contextlib.suppress(OSError):  # wakes accept() on every platform
            socket.create_connection((self._host, self.port), timeout=5).close()
        self._thread.join(5)
        self._sock.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            sock, _ = self._sock.accept()
            if self._closing.is_set():
                sock.close()
                return
            with self._lock:
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        wire = Wire(sock, self._closing)
        try:
            with contextlib.suppress(ConnectionError):
                while self._serve_one(wire):
                    pass
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _serve_one(self, wire: Wire) -> bool:
        try:
            request = wire.read_request()
        except (BadRequestError, ValueError) as error:
            wire.send(
                Reply.text(400, str(error), Connection="close"),
                self._entry(Request("?", "?", "", {})),
                body=True,
            )
            return False
        return request is not None and self._answer(wire, request)

    def _answer(self, wire: Wire, request: Request) -> bool:
        entry = self._entry(request)
        try:
            try:
                reply = self._handle(request, entry)
            except BadRequestError as error:
                reply = Reply.text(400, str(error))
            entry.status = reply.status
            wire.send(reply, entry, body=request.method != "HEAD")
        finally:
            entry.done = True
        return "close" not in (
            request.headers.get("connection", "").lower(),
            reply.headers.get("Connection"),
        )

    def _entry(self, request: Request) -> Access:
        entry = Access(
            time_s=time.time(),
            origin=self.origin,
            method=request.method,
            path=request.path,
            query="" if "sig=" in request.query else request.query,
            range=request.headers.get("range"),
            has_auth="authorization" in request.headers,
            user_agent=request.headers.get("user-agent", ""),
        )
        if self._log is not None:
            self._log.add(entry)
        return entry
