"""A reverse proxy before a real registry that breaks what it is told to break.

It also stands before the registry as its door: basic or bearer authentication, strict, by the
token specification; and as a CDN, which refuses whoever shows it a credential.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PIECE_BYTES = 1 << 16


@dataclass
class Fault:
    """What happens to requests that match, the first ``times`` of them after ``skip`` others.

    Args:
        name: For the test's own words.
        method: Of the request; empty for any.
        path: A regular expression that is searched in path and query.
        status: Answer with it, at once, without asking the registry.
        headers: Of that answer.
        body: Of that answer.
        cut_request_at: Pass on so many bytes of the body, then cut the line.
        cut_answer_at: The same with the answer's body.
        keep_bytes: Pass on so many bytes of the body, and let the registry answer for those.
        status_after: Let the registry answer, but change the status on the way back.
        lose_answer: Let the registry answer, and cut the line instead of passing it on. Who
            asks for the upload's status at its old URL is told about the new one, as
            distribution 3 does; distribution 2.8 gives up an upload whose answer was lost.
        silent: Take the request and never answer.
        strip: Headers that the registry does not get to see.
        only_with: Only requests that carry this header.
        answer_headers: Instead of the registry's own; empty to leave one out.
    """

    name: str
    method: str = ""
    path: str = ""
    times: int = 1
    skip: int = 0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_request_at: int | None = None
    cut_answer_at: int | None = None
    keep_bytes: int | None = None
    status_after: int | None = None
    lose_answer: bool = False
    silent: bool = False
    strip: tuple[str, ...] = ()
    only_with: str = ""
    answer_headers: dict[str, str] = field(default_factory=dict)

    def takes(self, method: str, path: str, headers: Any) -> bool:
        """Whether it happens to this request; counts."""
        if (self.method and self.method != method) or not re.search(self.path, path):
            return False
        if self.only_with and self.only_with not in headers:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


@dataclass
class Seen:
    """One request and its answer."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    body_bytes: int = 0


@dataclass
class Door:
    """Who may come in.

    Args:
        scheme: ``basic``, ``bearer``, or empty for everybody.
        username: And ``password``: of the one user.
        password: See above.
        refresh_token: That user's identity token, for ``POST`` to the token server.
        uses: How many requests a token lasts.
        expires_in: What the token server says about it, in seconds; None to leave it out.
        allowed: The actions that the token server grants at most.
        realm: Instead of the proxy's own token server.
        busy: How many requests to the token server are answered with 503 first.
    """

    scheme: str = ""
    username: str = "me"
    password: str = "s3cret-Password"
    refresh_token: str = "s3cret-Refresh"
    uses: int = 1_000_000
    expires_in: int | None = 300
    allowed: tuple[str, ...] = ("pull", "push", "delete")
    realm: str = ""
    busy: int = 0
    tokens: dict[str, list[Any]] = field(default_factory=dict)
    token_requests: list[Seen] = field(default_factory=list)

    def is_user(self, authorization: str | None) -> bool:
        pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return authorization == f"Basic {pair}"

    def is_token(self, authorization: str | None, needed: set[tuple[str, str]]) -> bool:
        token = self.tokens.get((authorization or "").removeprefix("Bearer "))
        if token is None or token[0] <= 0 or not needed <= token[1]:
            return False
        token[0] -= 1
        return True

    def issue(self, scopes: list[str]) -> dict[str, Any]:
        granted = set()
        for scope in scopes:
            kind, repository, actions = scope.split(":")
            assert kind == "repository", scope
            granted |= {(repository, a) for a in actions.split(",") if a in self.allowed}
        value = f"s3cret-token-{len(self.token_requests)}"
        self.tokens[value] = [self.uses, granted]
        lifetime = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return {"token": value, **lifetime}


def needed_for(method: str, path: str) -> set[tuple[str, str]]:
    """What a token must allow; the mount's source is the registry's own affair."""
    match = re.match(r"/v2/(.+?)/(blobs|manifests|tags)/", path)
    if match is None:
        return set()
    action = "pull" if method in {"GET", "HEAD"} else "push"
    if method == "DELETE" and match[2] == "manifests":
        action = "delete"
    if method == "GET" and "/blobs/uploads/" in path:
        action = "push"
    return {(match[1], action)}


class FaultyProxy:
    """A server on loopback; a context manager.

    Args:
        upstream: Host and port of the real registry.
        door: Who may come in.
        cdn: Another proxy's URL, to which blob downloads are sent.
        is_cdn: Refuse whoever shows a credential.
        certificate: A PEM file with key and certificate, to speak TLS.
    """

    def __init__(
        self,
        upstream: str,
        *,
        door: Door | None = None,
        cdn: str = "",
        is_cdn: bool = False,
        certificate: str = "",
    ) -> None:
        self.upstream = upstream
        self.door = door or Door()
        self.cdn = cdn
        self.is_cdn = is_cdn
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.moved: dict[str, str] = {}
        self.add_headers: dict[str, str] = {}  # that the registry gets to see besides
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def of(self, method: str, path: str = "") -> list[Seen]:
        """The requests that matched, oldest first."""
        with self.lock:
            return [s for s in self.seen if s.method == method and re.search(path, s.path)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_lines()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    proxy: FaultyProxy
    daemon_threads = False
    block_on_close = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lines: set[socket.socket] = set()

    def close_lines(self) -> None:
        for line in list(self.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what these tests are about."""


class _CutError(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.lines.add(self.connection)

    def finish(self) -> None:
        self.server.lines.discard(self.connection)
        super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (_CutError, OSError, http.client.HTTPException):
            self.close_connection = True

    def do_any(self) -> None:
        proxy = self.server.proxy
        seen = Seen(self.command, self.path, dict(self.headers.items()))
        self.seen, self.body_left = seen, True
        if urlsplit(self.path).path == "/token":
            proxy.door.token_requests.append(seen)
            self.answer_token()
            return
        with proxy.lock:
            proxy.seen.append(seen)
            faults = [f for f in proxy.faults if f.takes(self.command, self.path, self.headers)]
        fault = faults[0] if faults else Fault("none")
        if fault.silent:
            proxy.closing.wait()
            raise _CutError
        if fault.status is not None:
            self.answer(fault.status, fault.headers, fault.body)
        elif self.may_enter():
            self.forward(fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_any  # noqa: N815

    def may_enter(self) -> bool:
        proxy, given = self.server.proxy, self.headers.get("Authorization")
        door = proxy.door
        if proxy.is_cdn and given:
            self.answer(400, {}, b"a CDN takes no credential")
            return False
        if not door.scheme and given:
            self.answer(400, {}, b"nobody asked for a credential")
            return False
        needed = needed_for(self.command, self.path)
        realm = door.realm or f"{proxy.url}/token"
        scope = " ".join(f"repository:{name}:{action}" for name, action in needed)
        challenge = {
            "basic": 'Basic realm="registry, of tests"',
            "bearer": f'Bearer realm="{realm}",service="tests",scope="{scope}"',
        }.get(door.scheme, "")
        if door.scheme == "bearer":
            good = door.is_token(given, needed)
        else:
            good = not door.scheme or door.is_user(given)
        if not good:
            body = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
            self.answer(401, {"WWW-Authenticate": challenge}, body)
        return good

    def answer_token(self) -> None:
        door = self.server.proxy.door
        if self.command == "POST":
            form = parse_qs(b"".join(self.iter_body()).decode(), strict_parsing=True)
            good = form["refresh_token"] == [door.refresh_token]
            good = good and form["grant_type"] == ["refresh_token"] and bool(form["client_id"])
            scopes = form["scope"][0].split()
        else:
            form = parse_qs(urlsplit(self.path).query, strict_parsing=True)
            good = door.is_user(self.headers.get("Authorization"))
            scopes = form.get("scope", [])
        door.busy -= 1
        if door.busy >= 0:
            self.answer(503, {}, b"")
        elif form.get("service") != ["tests"]:
            self.answer(400, {}, b"want service=tests")
        elif not good:
            self.answer(401, {}, b'{"errors":[{"code":"UNAUTHORIZED","message":"wrong"}]}')
        else:
            self.answer(200, {}, json.dumps(door.issue(scopes)).encode())

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.seen.status = status
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
        for _ in self.iter_body():  # as nginx does: an answer first, then the rest is thrown away
            pass

    def iter_body(self) -> Iterator[bytes]:
        """Yield the request's body, once."""
        if not self.body_left:
            return
        self.body_left = False
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
                raise _CutError
            size -= len(piece)
            self.seen.body_bytes += len(piece)
            yield piece

    def forward(self, fault: Fault) -> None:
        proxy = self.server.proxy
        is_blob = re.search(r"/blobs/sha256:", self.path) and self.command == "GET"
        if proxy.cdn and is_blob:
            self.answer(307, {"Location": f"{proxy.cdn}{self.path}"}, b"")
            return
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=60)
        try:
            self.send_request(upstream, fault)
            self.pass_answer(upstream.getresponse(), fault)
        finally:
            upstream.close()

    def send_request(self, upstream: http.client.HTTPConnection, fault: Fault) -> None:
        limit = fault.cut_request_at if fault.cut_request_at is not None else fault.keep_bytes
        headers = dict(self.headers.items())
        headers.pop("Authorization", None)
        headers.update(self.server.proxy.add_headers)
        for name in fault.strip:
            headers.pop(name, None)
        if fault.keep_bytes is not None and "Content-Length" in headers:
            headers["Content-Length"] = str(fault.keep_bytes)
        if fault.keep_bytes is not None and "Content-Range" in headers:
            first = int(headers["Content-Range"].partition("-")[0])
            headers["Content-Range"] = f"{first}-{first + fault.keep_bytes - 1}"
        path = self.server.proxy.moved.get(self.path, self.path)
        path = path if self.command == "GET" else self.path
        upstream.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            upstream.putheader(name, value)
        upstream.endheaders()
        framed = "Transfer-Encoding" in headers
        passed = 0
        for piece in self.iter_body():
            kept = piece if limit is None else piece[: max(0, limit - passed)]
            passed += len(kept)
            if kept:
                upstream.send(b"%x\r\n%b\r\n" % (len(kept), kept) if framed else kept)
            if fault.cut_request_at is not None and passed >= fault.cut_request_at:
                self.cut(upstream)
        if framed:
            upstream.send(b"0\r\n\r\n")

    def cut(self, upstream: http.client.HTTPConnection) -> None:
        """Cut both lines, the client's when the registry has noticed."""
        upstream.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while upstream.sock.recv(PIECE_BYTES):
                pass
        raise _CutError

    def pass_answer(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        if fault.lose_answer:
            answer.read()
            if location := answer.headers.get("Location"):
                parts = urlsplit(location)
                self.server.proxy.moved[self.path] = f"{parts.path}?{parts.query}"
            raise _CutError
        self.seen.status = fault.status_after or answer.status
        self.send_response_only(self.seen.status)
        answered = {**dict(answer.headers.items()), **fault.answer_headers}
        for name, value in answered.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        passed = 0
        while piece := answer.read1(PIECE_BYTES):
            if fault.cut_answer_at is not None and passed + len(piece) > fault.cut_answer_at:
                self.wfile.write(piece[: fault.cut_answer_at - passed])
                self.wfile.flush()
                raise _CutError
            passed += len(piece)
            self.wfile.write(piece)
        self.wfile.flush()
