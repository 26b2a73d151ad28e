"""What goes wrong between a client and a registry, in one language, and a server that does it.

`FaultyProxy` does it before a real registry, `SmallRegistry` with an image of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

ALL = 1 << 60  # requests, or bytes
PIECE_BYTES = 1 << 18


@dataclass
class Asked:
    """One request, and what it was answered; ``target`` is its path with the query."""

    method: str
    target: str
    headers: Message[str, str]
    body: bytes = b""  # only where a fault has a reply
    body_bytes: int = 0
    status: int = 0
    sent_bytes: int = 0  # of the answer's body

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        found = parse_qs(urlsplit(self.target).query)
        return {name: values[-1] for name, values in found.items()}

    @property
    def range(self) -> tuple[int, int] | None:
        """The first byte that was asked for, and the one after the last."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else None


@dataclass
class Reply:
    """An answer; ``length`` is whether it tells its Content-Length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True


@dataclass
class Fault:
    """What happens to requests that match, the first ``times`` of them after ``skip`` others.

    Of several faults that match a request all count it, and the first happens.

    Args:
        name: For the test's own words.
        method: Of the request; empty for any.
        path: A regular expression that is searched in path and query.
        times: How many requests; 0 from now on ends the fault.
        skip: How many it leaves alone before.
        only_with: Only requests that carry this header.
        from_bytes: Only for blobs that are at least so large; `FaultyProxy` knows no sizes.
        status: Answer with it, at once, without asking the registry.
        headers: Of that answer.
        body: Of that answer.
        reply: Makes the answer to a request; None for the registry's own.
        silent: Take the request and never answer.
        strip: Headers that the registry does not get to see.
        cut_request_at: Pass on so many bytes of the body, then cut the line; a proxy only.
        keep_bytes: Pass on so many bytes of it, and let the registry answer for those.
        lose_answer: Let the registry answer, and cut the line instead of passing it on. Who
            asks for the upload's status at its old URL is told about the new one, as
            distribution 3 does; distribution 2.8 gives up an upload whose answer was lost.
        status_after: Let the registry answer, but change the status on the way back.
        answer_headers: Instead of the registry's own; empty to leave one out.
        cut_answer_at: Pass on so many bytes of the answer's body, then cut the line.
        stall_answer_at: Pass on so many bytes of the answer's body, and then nothing more.
        silent_after: The same for all answers together.
        bytes_per_s: Of each answer.
        lies: So many first bytes of the blob are zeros.

    `SmallRegistry` knows how long its answer will be: there a cut or a stall is only of answers
    that are longer, and counts only those. What was stalled or slow goes on when a test sets
    ``goes_on``; where there was silence, the line is cut then.
    """

    name: str
    method: str = ""
    path: str = ""
    times: int = 1
    skip: int = 0
    only_with: str = ""
    from_bytes: int = 0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reply: Callable[[Asked], Reply | None] | None = None
    silent: bool = False
    strip: tuple[str, ...] = ()
    cut_request_at: int | None = None
    keep_bytes: int | None = None
    lose_answer: bool = False
    status_after: int | None = None
    answer_headers: dict[str, str] = field(default_factory=dict)
    cut_answer_at: int | None = None
    stall_answer_at: int | None = None
    silent_after: int | None = None
    bytes_per_s: float = math.inf
    lies: int = 0
    met: list[Asked] = field(default_factory=list, init=False)  # the requests it happened to
    is_waiting: threading.Event = field(default_factory=threading.Event, init=False)
    goes_on: threading.Event = field(default_factory=threading.Event, init=False)

    def takes(self, asked: Asked, blob_bytes: int | None) -> bool:
        """Whether it happens to this request, for a blob of that size; counts."""
        if (self.method and self.method != asked.method) or not re.search(self.path, asked.target):
            return False
        if (self.only_with and self.only_with not in asked.headers) or self.times <= 0:
            return False
        if (blob_bytes or 0) < self.from_bytes:
            return False
        at = self.stall_answer_at if self.cut_answer_at is None else self.cut_answer_at
        if at is not None and blob_bytes is not None:
            start, end = (None if "Range" in self.strip else asked.range) or (0, blob_bytes)
            if end - start <= at:
                return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


def always(name: str, path: str = "", **what: Any) -> Fault:
    """A fault of all requests, or of those to a path."""
    return Fault(name, path=path, times=ALL, **what)


def of_blobs(name: str, **what: Any) -> Fault:
    """A fault of all requests for blobs."""
    return always(name, "/blobs/", **what)


class CutError(Exception):
    """The line is to be cut."""


class FaultServer(ThreadingHTTPServer):
    """A server on loopback with faults; a context manager.

    Args:
        handler: Answers where no fault does.
        faults: Tests may change the list at any time.
        certificate: A PEM file with key and certificate, to speak TLS.
    """

    daemon_threads = False
    block_on_close = True

    def __init__(
        self, handler: type[FaultHandler], faults: Iterable[Fault] = (), certificate: str = ""
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.faults = list(faults)
        self.seen: list[Asked] = []
        self.under_way = self.most_under_way = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.lines: set[Any] = set()
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def blob_bytes(self) -> int:
        """How many bytes of blobs were sent."""
        with self.lock:
            return sum(asked.sent_bytes for asked in self.seen if "/blobs/" in asked.path)

    def of(self, method: str, path: str = "") -> list[Asked]:
        """The requests that matched, oldest first."""
        with self.lock:
            return [a for a in self.seen if a.method == method and re.search(path, a.target)]

    def blob_size(self, asked: Asked) -> int | None:
        """The size of the blob that is asked for, where it is known."""
        return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        for line in list(self.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.lines.add(request)
        super().process_request(request, client_address)

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what these tests are about."""


class FaultHandler(BaseHTTPRequestHandler):
    """What is the same before every registry; ``forward`` is where they differ."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a client waits 40 ms between a head and its body
    server: FaultServer

    def finish(self) -> None:
        self.server.lines.discard(self.connection)
        super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (CutError, OSError, http.client.HTTPException):
            self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.do_any
        raise AttributeError(name)

    def do_any(self) -> None:
        self.asked = Asked(self.command, self.path, self.headers)
        self.is_body_left = True
        self.take()

    def take(self) -> None:
        """Answer the request, or do to it what a fault says."""
        server, asked = self.server, self.asked
        with server.lock:
            server.seen.append(asked)
            blob_bytes = server.blob_size(asked)
            faults = [fault for fault in server.faults if fault.takes(asked, blob_bytes)]
            fault = faults[0] if faults else Fault("none")
            fault.met.append(asked)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            self.respond(fault)
        finally:
            with server.lock:
                server.under_way -= 1

    def respond(self, fault: Fault) -> None:
        if fault.silent:
            self.wait(fault)
            raise CutError
        reply = None
        if fault.status is not None:
            reply = Reply(fault.status, fault.body, fault.headers)
        elif fault.reply:
            self.asked.body = b"".join(self.iter_body())
            reply = fault.reply(self.asked)
        if reply:
            self.answer(reply)
        else:
            self.forward(fault)

    def forward(self, fault: Fault) -> None:
        raise NotImplementedError

    def answer(self, reply: Reply, fault: Fault | None = None) -> None:
        body, framing = reply.body, {"Content-Length": str(len(reply.body))}
        if not reply.length:
            framing = {"Transfer-Encoding": "chunked"}
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        headers = reply.headers | framing
        self.pass_answer(reply.status, headers, [body], fault or Fault("none"))
        for _ in self.iter_body():  # as nginx does: an answer first, then the rest is thrown away
            pass

    def pass_answer(
        self, status: int, headers: Mapping[str, str], pieces: Iterable[bytes], fault: Fault
    ) -> None:
        """Send the registry's answer, or what the fault leaves of it."""
        if fault.lose_answer:
            raise CutError
        self.asked.status = fault.status_after or status
        self.send_response_only(self.asked.status)
        for name, value in {**headers, **fault.answer_headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
        wrong, begun = fault.lies - (int(found[1]) if found else 0), time.monotonic()
        cut, stall = fault.cut_answer_at, fault.stall_answer_at
        for piece in pieces:
            sent = self.asked.sent_bytes
            zeros = min(max(0, wrong - sent), len(piece))
            data = bytes(zeros) + piece[zeros:]
            if cut is not None and sent + len(data) > cut:
                self.send_piece(data[: cut - sent])
                raise CutError
            if stall is not None and sent <= stall < sent + len(data):
                self.send_piece(data[: stall - sent])
                self.wait(fault)
                data = data[stall - sent :]
            if not self.may_send(fault, len(data)):
                self.wait(fault)
            self.send_piece(data)
            due = self.asked.sent_bytes / fault.bytes_per_s
            self.wait(fault, begun + due - time.monotonic())

    def send_piece(self, data: bytes) -> None:
        self.asked.sent_bytes += len(data)
        self.wfile.write(data)

    def may_send(self, fault: Fault, size_bytes: int) -> bool:
        with self.server.lock:
            if fault.silent_after is None:
                return True
            fault.silent_after -= size_bytes
            return fault.silent_after + size_bytes > 0

    def wait(self, fault: Fault, wait_s: float = math.inf) -> None:
        end = time.monotonic() + wait_s
        while (left_s := end - time.monotonic()) > 0:
            fault.is_waiting.set()
            if fault.goes_on.wait(min(left_s, 0.05)):
                return
            if self.server.closing.is_set():
                raise CutError

    def iter_body(self) -> Iterator[bytes]:
        """Yield the request's body, once."""
        if not self.is_body_left:
            return
        self.is_body_left = False
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                yield from self.iter_exactly(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield from self.iter_exactly(int(self.headers.get("Content-Length", "0")))

    def iter_exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read1(min(size, PIECE_BYTES))
            if not piece:
                raise CutError
            size -= len(piece)
            self.asked.body_bytes += len(piece)
            yield piece
