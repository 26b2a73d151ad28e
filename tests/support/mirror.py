"""A small read-only registry over a layout directory: mirrors that are slow, cut, or lie.

Strict by the distribution specification and RFC 9110: a range outside the blob is refused, and
every answer says which bytes it carries. What goes wrong is named, and counted.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from downloader.oci.digest import digest_of

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_PIECE_BYTES = 256 * 1024


@dataclass
class Habits:
    """What a mirror does wrong; all of it, or only to blobs of at least ``from_bytes``.

    Args:
        status: Answer every blob with this.
        manifest_status: Answer every manifest with this.
        lies: Change the bytes of blobs.
        cut_after: Cut every answer after so many bytes.
        cuts: So many answers are cut; the others are whole.
        stall_after: Send so many bytes of a blob, and then nothing more.
        waits_after: Send so many bytes of the first answer, and the rest when another request
            has asked for the end of it.
        lies_later: Change so many first bytes of a blob, from its third answer on.
        ignores_ranges: Always send the whole blob.
        silent_after: Send so many bytes of blobs, over all connections, and then nothing more.
        bytes_per_s: Of each connection.
        from_bytes: Smaller blobs are served as they should be.
    """

    status: int | None = None
    manifest_status: int | None = None
    lies: bool = False
    lies_later: int = 0
    cut_after: int | None = None
    cuts: int = 1_000_000
    stall_after: int | None = None
    waits_after: int | None = None
    ignores_ranges: bool = False
    silent_after: int | None = None
    bytes_per_s: float | None = None
    from_bytes: int = 0


@dataclass
class Log:
    """What a mirror was asked for."""

    blob_bytes: int = 0
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    most_connections: int = 0


class Mirror:
    """A mirror of one layout; use it in a ``with`` statement."""

    def __init__(self, root: Path, habits: Habits | None = None) -> None:
        self.root = root
        self.habits = habits or Habits()
        self.log = Log()
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.silent = threading.Event()
        self.answers: Counter[Path] = Counter()
        self.waiting: tuple[int, int] | None = None  # the range of an answer that waits
        self.taken_over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def silence(self, *, after_bytes: int | None) -> None:
        """Send so many more bytes of blobs, and then nothing; None for all there are."""
        with self.lock:
            self.silent.clear()
            end = None if after_bytes is None else self.log.blob_bytes + after_bytes
            self.habits.silent_after = end

    def manifest(self, reference: str) -> bytes | None:
        path = self.root / "blobs" / "sha256" / reference.removeprefix("sha256:")
        if reference.startswith("sha256:"):
            return path.read_bytes() if path.exists() else None
        index = json.loads((self.root / "index.json").read_text())
        return self.manifest(index["manifests"][0]["digest"])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mirror = self

        class Handler(_Handler):
            pass

        Handler.mirror = mirror
        return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mirror: Mirror

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        log = self.mirror.log
        with self.mirror.lock:
            log.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
            log.connections += 1
            log.most_connections = max(log.most_connections, log.connections)
        try:
            self._answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.mirror.lock:
                log.connections -= 1

    do_HEAD = do_GET  # noqa: N815 - the base class looks for it

    def _answer(self) -> None:
        kind, _, target = self.path.rpartition("/")
        if kind.endswith("/manifests"):
            self._manifest(target)
        elif kind.endswith("/blobs"):
            self._blob(target)
        else:
            self._say(200 if self.path.rstrip("/") == "/v2" else 404, b"")

    def _manifest(self, reference: str) -> None:
        status = self.mirror.habits.manifest_status
        data = self.mirror.manifest(reference)
        if status or data is None:
            self._say(status or 404, b"{}")
            return
        kind = json.loads(data).get("mediaType", "application/vnd.oci.image.index.v1+json")
        self._say(200, data, {"Content-Type": kind, "Docker-Content-Digest": digest_of(data)})

    def _say(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _blob(self, digest: str) -> None:
        path = self.mirror.root / "blobs" / "sha256" / digest.removeprefix("sha256:")
        size_bytes = path.stat().st_size if path.exists() else 0
        habits = self.mirror.habits if size_bytes >= self.mirror.habits.from_bytes else Habits()
        if habits.status or not path.exists():
            self._say(habits.status or 404, b"{}")
            return
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, end = 0, size_bytes
        if asked and not habits.ignores_ranges:
            start, end = int(asked[1]), int(asked[2]) + 1
            if end > size_bytes:
                self._say(416, b"")
                return
        self.send_response(206 if (start, end) != (0, size_bytes) or asked else 200)
        if asked and not habits.ignores_ranges:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size_bytes}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self._send(path, start, end, habits)

    def send_response(self, code: int, message: str | None = None) -> None:
        if code == 206 and self.mirror.habits.ignores_ranges:
            code = 200
        super().send_response(code, message)

    def _send(self, path: Path, start: int, end: int, habits: Habits) -> None:
        sent, begun = 0, time.monotonic()
        with self.mirror.lock:
            self.mirror.answers[path] += 1
            is_later = self.mirror.answers[path] >= 3
            is_waiting = habits.waits_after is not None and self.mirror.waiting is None
            if is_waiting:
                self.mirror.waiting = (start, end)
            elif self.mirror.waiting and self.mirror.waiting[0] < start < self.mirror.waiting[1]:
                self.mirror.taken_over.set()
        with path.open("rb") as file:
            file.seek(start)
            while sent < end - start:
                piece = file.read(min(_PIECE_BYTES, end - start - sent))
                limit = habits.stall_after if habits.cut_after is None else habits.cut_after
                if limit is not None and sent + len(piece) > limit and self._may_fail():
                    self.wfile.write(piece[: max(0, limit - sent)])
                    self._fail(habits)
                    return
                if not self._may_send(len(piece), habits):
                    self.mirror.released.wait(60)
                    self.close_connection = True
                    return
                if is_waiting and sent >= (habits.waits_after or 0):
                    self.mirror.taken_over.wait(60)
                wrong = habits.lies or (is_later and start + sent < habits.lies_later)
                self.wfile.write(bytes(len(piece)) if wrong else piece)
                sent += len(piece)
                if habits.bytes_per_s:
                    behind = sent / habits.bytes_per_s - (time.monotonic() - begun)
                    self.mirror.released.wait(max(0.0, behind))

    def _may_send(self, size_bytes: int, habits: Habits) -> bool:
        log, limit = self.mirror.log, habits.silent_after
        with self.mirror.lock:
            if limit is not None and log.blob_bytes >= limit:
                self.mirror.silent.set()
                return False
            log.blob_bytes += size_bytes
        return True

    def _may_fail(self) -> bool:
        with self.mirror.lock:
            self.mirror.habits.cuts -= 1
            return self.mirror.habits.cuts >= 0

    def _fail(self, habits: Habits) -> None:
        self.wfile.flush()
        if habits.stall_after is not None:
            self.mirror.released.wait(60)
        self.close_connection = True
