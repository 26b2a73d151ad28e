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
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.faults import (
    PIECE_BYTES,
    Asked,
    CutError,
    Fault,
    FaultHandler,
    FaultServer,
    Reply,
)


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
    token_requests: list[Asked] = field(default_factory=list)

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


class FaultyProxy(FaultServer):
    """The proxy; a context manager.

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
        super().__init__(_Handler, certificate=certificate)
        self.upstream = upstream
        self.door = door or Door()
        self.cdn = cdn
        self.is_cdn = is_cdn
        self.moved: dict[str, str] = {}
        self.add_headers: dict[str, str] = {}  # that the registry gets to see besides


class _Handler(FaultHandler):
    server: FaultyProxy

    def take(self) -> None:
        if self.asked.path == "/token":
            self.server.door.token_requests.append(self.asked)
            self.answer_token()
        else:
            super().take()

    def may_enter(self) -> bool:
        proxy, given = self.server, self.headers.get("Authorization")
        door = proxy.door
        if proxy.is_cdn and given:
            self.answer(Reply(400, b"a CDN takes no credential"))
            return False
        if not door.scheme and given:
            self.answer(Reply(400, b"nobody asked for a credential"))
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
            self.answer(Reply(401, body, {"WWW-Authenticate": challenge}))
        return good

    def answer_token(self) -> None:
        door = self.server.door
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
            self.answer(Reply(503))
        elif form.get("service") != ["tests"]:
            self.answer(Reply(400, b"want service=tests"))
        elif not good:
            self.answer(Reply(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"wrong"}]}'))
        else:
            self.answer(Reply(body=json.dumps(door.issue(scopes)).encode()))

    def forward(self, fault: Fault) -> None:
        proxy = self.server
        if not self.may_enter():
            return
        is_blob = re.search(r"/blobs/sha256:", self.path) and self.command == "GET"
        if proxy.cdn and is_blob:
            self.answer(Reply(307, headers={"Location": f"{proxy.cdn}{self.path}"}))
            return
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=60)
        try:
            self.send_request(upstream, fault)
            answer = upstream.getresponse()
            if fault.lose_answer:
                answer.read()
                if location := answer.headers.get("Location"):
                    parts = urlsplit(location)
                    proxy.moved[self.path] = f"{parts.path}?{parts.query}"
            headers, pieces = dict(answer.headers), iter(lambda: answer.read1(PIECE_BYTES), b"")
            self.pass_answer(answer.status, headers, pieces, fault)
        finally:
            upstream.close()

    def send_request(self, upstream: http.client.HTTPConnection, fault: Fault) -> None:
        limit = fault.cut_request_at if fault.cut_request_at is not None else fault.keep_bytes
        headers = dict(self.headers.items())
        headers.pop("Authorization", None)
        headers.update(self.server.add_headers)
        for name in fault.strip:
            headers.pop(name, None)
        if fault.keep_bytes is not None and "Content-Length" in headers:
            headers["Content-Length"] = str(fault.keep_bytes)
        if fault.keep_bytes is not None and "Content-Range" in headers:
            first = int(headers["Content-Range"].partition("-")[0])
            headers["Content-Range"] = f"{first}-{first + fault.keep_bytes - 1}"
        path = self.server.moved.get(self.path, self.path)
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
        raise CutError
