"""One origin: a listening socket, and a thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.support.fake_hub.accesslog import Access
from tests.support.fake_hub.http_message import BadRequestError, Reply, Request
from tests.support.fake_hub.wire import Wire

if TYPE_CHECKING:
    from tests.support.fake_hub.accesslog import AccessLog

BACKLOG = 1024  # 64 parallel connections at once, and more than one client

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
        """End every connection and join the accepting thread; again is harmless."""
        if self._closing.is_set():
            return
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
            return self._refuse(wire, str(error))
        return request is not None and self._answer(wire, request)

    def _refuse(self, wire: Wire, message: str) -> bool:
        """Answer what could not be read, and trust nothing that follows it."""
        entry = self._entry(Request("?", "?", "", {}))
        entry.status = 400
        try:
            wire.send(Reply.text(400, message, Connection="close"), entry, body=True)
        finally:
            entry.done = True
        return False

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
