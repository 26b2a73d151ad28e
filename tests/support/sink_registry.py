"""A registry that takes blobs at full speed and keeps none of their bytes.

For measuring what the publisher itself costs: memory that must not grow, a model of a
terabyte that no disk holds. What it was sent is counted, and with ``--hash`` checked against
the digest; manifests are kept. ``python -m tests.support.sink_registry`` prints its address as
the first line and ends with its standard input.
"""

import hashlib
import json
import re
import socket
import sys
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PIECE_BYTES = 1 << 20


@dataclass
class Session:
    """One upload under way; its lock is held by the request that writes into it."""

    size_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class World:
    """What the registry remembers: sizes of blobs, manifests, what was sent.

    Args:
        is_hashing: Whether digests are checked.
        keeps_cut: Whether what arrived of a request that was cut stays in the upload.
    """

    is_hashing: bool = False
    keeps_cut: bool = True
    blobs: dict[str, int] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    taken_bytes: int = 0
    lock: threading.Condition = field(default_factory=threading.Condition)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    world: World
    buffers = threading.local()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/taken":
            self.answer(200, str(self.world.taken_bytes).encode())
        elif path.endswith("/tags/list"):
            tags = [name for name in self.world.manifests if not name.startswith("sha256:")]
            self.answer(200, json.dumps({"tags": tags}).encode())
        elif "/blobs/uploads/" in path:
            session = self.world.sessions.get(path.rpartition("/")[2])
            if session is None:
                self.answer(404)
                return
            with session.lock:
                self.answer(204, Location=path, Range=f"0-{max(0, session.size_bytes - 1)}")
        elif (name := path.rpartition("/manifests/")[2]) in self.world.manifests:
            data, media_type = self.world.manifests[name]
            self.answer(200, data, Content_Type=media_type)
        elif (name := path.rpartition("/")[2]) in self.world.kept:
            self.answer(200, self.world.kept[name])
        else:
            self.answer(200 if path == "/v2/" else 404)

    def do_HEAD(self) -> None:
        size = self.world.blobs.get(urlsplit(self.path).path.rpartition("/")[2])
        if size is None:
            self.answer(404)
        else:
            self.answer(200, Content_Length=str(size))

    def do_POST(self) -> None:
        name = uuid.uuid4().hex
        self.world.sessions[name] = Session()
        self.answer(202, Location=f"{urlsplit(self.path).path}{name}")

    def do_PATCH(self) -> None:
        path = urlsplit(self.path).path
        session = self.world.sessions[path.rpartition("/")[2]]
        with session.lock:
            start = self.headers.get("Content-Range", "").partition("-")[0]
            if start and int(start) != session.size_bytes:
                self.close_connection = True
                self.answer(416)
                return
            before = session.size_bytes, session.digest.copy()
            try:
                self.take(session)
            except ConnectionError:
                if not self.world.keeps_cut:
                    session.size_bytes, session.digest = before
                raise
            size_bytes = session.size_bytes
        self.answer(202, Location=path, Range=f"0-{size_bytes - 1}")

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        if "/manifests/" in parts.path:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            entry = (data, self.headers["Content-Type"])
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            self.world.manifests[parts.path.rpartition("/")[2]] = entry
            self.world.manifests[digest] = entry
            self.answer(201, Docker_Content_Digest=digest)
            return
        session = self.world.sessions.pop(parts.path.rpartition("/")[2])
        digest = parse_qs(parts.query)["digest"][0]
        small = int(self.headers.get("Content-Length", "0"))
        if not session.size_bytes and small < PIECE_BYTES:
            data = self.rfile.read(small)
            self.world.kept[digest] = data
            session.size_bytes = small
            session.digest.update(data)
        else:
            self.take(session)
        if self.world.is_hashing and f"sha256:{session.digest.hexdigest()}" != digest:
            self.answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"other bytes"}]}')
            return
        self.world.blobs[digest] = session.size_bytes
        self.answer(201)

    def do_DELETE(self) -> None:
        self.world.manifests.pop(urlsplit(self.path).path.rpartition("/")[2], None)
        self.answer(202)

    def take(self, session: Session) -> None:
        if not hasattr(self.buffers, "view"):
            self.buffers.view = memoryview(bytearray(PIECE_BYTES))
        view = self.buffers.view
        if "Content-Length" in self.headers:
            self.take_exactly(session, int(self.headers["Content-Length"]), view)
            return
        while size := self.chunk_size():
            self.take_exactly(session, size, view)
            self.rfile.readline()
        self.rfile.readline()

    def chunk_size(self) -> int:
        line = self.rfile.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("cut")
        return int(re.split(rb"[;\r]", line)[0], 16)

    def take_exactly(self, session: Session, left: int, view: memoryview) -> None:
        while left:
            count = self.rfile.readinto1(view[: min(left, PIECE_BYTES)])
            if not count:
                raise ConnectionError("cut")
            if self.world.is_hashing:
                session.digest.update(view[:count])
            left -= count
            session.size_bytes += count
            with self.world.lock:
                self.world.taken_bytes += count
                self.world.lock.notify_all()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that is killed is what some tests are about."""

    def get_request(self) -> tuple[socket.socket, Any]:
        line, address = super().get_request()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        return line, address


def main() -> None:
    """Serve until standard input ends."""
    Handler.world = World(is_hashing="--hash" in sys.argv)
    server = Server(("127.0.0.1", 0), Handler)
    print(f"127.0.0.1:{server.server_address[1]}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
