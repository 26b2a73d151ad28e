"""The Hub's interface as an ASGI application: from a request to a document or to bytes.

Source: ASGI 3.0, HTTP connection scope, https://asgi.readthedocs.io/en/latest/specs/www.html
"""

import asyncio
import base64
import hmac
import json
import mimetypes
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

from downloader.document import load_json
from downloader.errors import HfModelsError, IntegrityError, ProtocolError
from downloader.hub.repo import Repo, RepoFile
from downloader.net.ranges import ByteRange
from downloader.progress import Note
from downloader.serve import documents
from downloader.serve.card import Card, parse_card
from downloader.serve.catalogue import Index, Loaded, Version, find_file
from downloader.serve.contents import Chunks, Contents
from downloader.serve.metrics import Metrics
from downloader.serve.page import render_page
from downloader.serve.routes import (
    Refusal,
    Route,
    entry_not_found,
    parse_range,
    parse_route,
)

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BODY_LIMIT_BYTES = 4 * 1024**2  # the paths of a repo of 50,000 files
_HEADERS_LIMIT_BYTES = 32 * 1024  # a request of the Hub's has some hundred bytes
_LOADED_LIMIT = 64  # lists of files in memory: a megabyte for some thousand files
# llama.cpp asks for one page and takes it for all; the Hub's own limit is 1,000.
_TREE_PAGE = 50_000
_LIST_PAGE = 1000
_FULL_PAGE = 100  # of repos with all their files
_DESCRIBED_AT_ONCE = 16
_CARD_LIMIT_BYTES = 1024**2
_CARDS_LIMIT = 10_000
_SILENCE_S = 5.0  # huggingface_hub waits 10 s for a byte
_BODY_S = 60.0  # paths take a second on any line
_HOST = re.compile(r"[A-Za-z0-9._\-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:]{2,45}\](?::\d{1,5})?")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?")
_LOOPBACK_ORIGIN = re.compile(r"https?://(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?")
# What a browser's script may read of an answer.
_EXPOSED = (
    "Accept-Ranges, Content-Length, Content-Range, ETag, Link, X-Error-Code, X-Error-Message,"
    " X-Linked-ETag, X-Linked-Size, X-Repo-Commit, X-Total-Count"
)
_READ_ONLY = "This server is read-only: its repos are images, which hf-models publish makes"
_OPEN = {"healthz"}  # no token: a cluster's probe


@dataclass(frozen=True)
class AccessPolicy:
    """The clients that are answered: by token and origin.

    Args:
        token: That clients send as ``Authorization: Bearer``; None for everybody.
        is_local: Whether only this machine is served: then a page from elsewhere, which a
            browser of this machine shows, may neither read answers (CORS) nor reach the server
            under another name (DNS rebinding).
    """

    token: str | None = field(default=None, repr=False)
    is_local: bool = True


@dataclass
class Request:
    """One request, and the headers that every answer to it has."""

    method: str
    raw_path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    scheme: str
    client: str
    pairs: Sequence[tuple[str, str]] = ()  # of the query
    status: int = 0
    sent_bytes: int = 0
    is_broken: bool = False
    started_at: float = field(default_factory=time.monotonic)

    @property
    def expand(self) -> list[str]:
        """The keys of a document that are wanted, none for the usual ones."""
        return [value for name, value in self.pairs if name in {"expand", "expand[]"}]

    def is_set(self, name: str) -> bool:
        """Whether a switch of the query is on."""
        return self.query.get(name, "").lower() in {"true", "1"}

    @property
    def url(self) -> str:
        """This server's address, as the client has reached it."""
        return f"{self.scheme}://{self.headers.get('host', '')}"


def parse_request(scope: Scope) -> Request:
    """Return an ASGI scope as a value."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    client = scope.get("client") or ("-", 0)
    return Request(
        scope["method"],
        scope["raw_path"].decode("latin-1").partition("?")[0],
        dict(reversed(pairs)),
        headers,
        scope.get("scheme", "http"),
        str(client[0]),
        pairs,
    )


class App:
    """The application.

    Args:
        contents: Opens files.
        policy: The clients that are answered.
        metrics: The counters.
        log_access: Told of every request that was answered.
        note: Told of what an operator wants to know.
    """

    def __init__(
        self,
        contents: Contents,
        policy: AccessPolicy,
        metrics: Metrics,
        log_access: Callable[[Request], None],
        note: Note,
    ) -> None:
        self.index = Index()
        self.is_ready = False  # until every source has been looked at once
        self.is_whole = False  # until every source has been read once
        self._looked = asyncio.Condition()  # a source has been looked at
        self._contents = contents
        self._policy = policy
        self._metrics = metrics
        self._log_access = log_access
        self._note = note
        self._cards: OrderedDict[Version, Card] = OrderedDict()
        self._loading: OrderedDict[Version, asyncio.Task[Loaded]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = parse_request(scope)
        answer = _Answer(request, receive, send, self._cors(request))
        self._metrics.add("clients")
        try:
            await self._answer(request, answer)
        except _BrokenOffError:
            request.is_broken = True  # the server closes the connection of an unfinished answer
        finally:
            self._metrics.add("clients", -1)
            self._metrics.add("served_bytes", request.sent_bytes)
            self._metrics.statuses[request.status or 499] += 1
            self._log_access(request)

    async def _answer(self, request: Request, answer: "_Answer") -> None:
        try:
            if request.method == "OPTIONS":
                await answer.send(204, b"")
                return
            self._check_headers(request)
            route = self._find_route(request)
            self._check_token(request, route)
            await self._route(request, route, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except HfModelsError as error:
            if answer.is_begun:
                raise _BrokenOffError from error
            self._note(f"{request.raw_path[:200]}: {error.message}")
            is_wrong = isinstance(error, IntegrityError | ProtocolError)
            await answer.refuse(Refusal(502 if is_wrong else 503, error.message, Retry_After="5"))

    # Who may ask

    def _cors(self, request: Request) -> dict[str, str]:
        origin = request.headers.get("origin")
        if origin is None:
            return {}
        if self._policy.is_local and not _LOOPBACK_ORIGIN.fullmatch(origin):
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": origin if self._policy.is_local else "*",
            "Access-Control-Allow-Methods": "GET, HEAD, POST, OPTIONS",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, If-None-Match, Range,"
            " User-Agent, X-HF-Download-Counter",
            "Access-Control-Expose-Headers": _EXPOSED,
            "Access-Control-Max-Age": "3600",
            "Vary": "Origin",
        }

    def _check_headers(self, request: Request) -> None:
        if sum(map(len, request.headers.values())) > _HEADERS_LIMIT_BYTES:
            raise Refusal(431, "The headers are too large")
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            raise Refusal(400, "Malformed Host header")
        if self._policy.is_local and not _LOOPBACK.fullmatch(host):
            raise Refusal(403, "This server answers on this machine only (see --public)")

    def _check_token(self, request: Request, route: Route) -> None:
        token = self._policy.token
        if token is None or route.name in _OPEN:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic" and route.name == "page":  # what a browser's user has typed
            scheme, given = "bearer", _password(given)
        if scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(), token.encode()
        ):
            return
        asked = 'Basic realm="hf-models"' if route.name == "page" else "Bearer"
        # huggingface_hub takes any other 401 for a repo that does not exist.
        raise Refusal(401, "Invalid credentials in Authorization header", WWW_Authenticate=asked)

    @staticmethod
    def _find_route(request: Request) -> Route:
        """Return what a request asks for; what writes is told so, wherever it goes."""
        is_reading = request.method in {"GET", "HEAD"}
        try:
            route = parse_route(request.raw_path)
        except Refusal:
            if is_reading:
                raise
            raise Refusal(405, _READ_ONLY, Allow="GET, HEAD") from None
        if route.name == "paths-info":
            if request.method != "POST":
                raise Refusal(405, "Method not allowed", Allow="POST")
        elif not is_reading:
            raise Refusal(405, _READ_ONLY, Allow="GET, HEAD")
        return route

    async def update(self, index: Index | None = None, *, is_ready: bool = False) -> None:
        """Take what was found in a source, and wake the requests that wait for it.

        Args:
            index: The repos to serve from now on; None for the same as before.
            is_ready: Every source was looked at once.
        """
        async with self._looked:
            self.index = index or self.index
            self.is_ready = self.is_ready or is_ready
            self._looked.notify_all()

    # What is asked for

    async def _route(self, request: Request, route: Route, answer: "_Answer") -> None:
        match route.name:
            case "page":
                await _soon(self._wait_for_sources())
                await answer.send(200, self._page(request).encode(), "text/html; charset=utf-8")
            case "healthz":
                status, text = (200, b"ok\n") if self.is_ready else (503, b"starting\n")
                await answer.send(status, text, "text/plain")
            case "metrics":
                self._metrics.counts["repos"] = len(self.index.repos)
                figures = self._metrics.to_text().encode()
                await answer.send(200, figures, "text/plain; version=0.0.4; charset=utf-8")
            case "version":
                await answer.json({})
            case "whoami":
                await self._whoami(answer)
            case "list":
                await self._list(request, route, answer)
            case "resolve" | "raw":
                await self._file(request, route, answer)
            case "manifest" | "blob":
                await self._gguf(request, route, answer)
            case _:
                await self._document(request, route, answer)

    def _page(self, request: Request) -> str:
        index = self.index
        entries = [index.find(repo, "main").entry for repo in index.repos]
        names = {repo.url_path: list(index.revisions(repo)) for repo in index.repos}
        return render_page(entries, names, request.url)

    async def _whoami(self, answer: "_Answer") -> None:
        if self._policy.token is None:
            raise Refusal(401, "This server has no users")
        name = "hf-models"
        user = {"type": "user", "id": name, "name": name, "fullname": name, "orgs": []}
        token = {"displayName": name, "role": "read"}  # what `hf auth login` says of it
        await answer.json({**user, "auth": {"type": "access_token", "accessToken": token}})

    async def _list(self, request: Request, route: Route, answer: "_Answer") -> None:
        assert route.repo is not None  # noqa: S101 - every list has a type
        await answer.waiting_for(self._wait_for_sources())
        index = self.index
        kind = route.repo.type
        versions = [index.find(repo, "main") for repo in index.repos if repo.type == kind]
        found = documents.search(versions, request.query)
        tags = documents.wanted_tags(request.pairs)
        if tags:  # which are in the files, so that those of every repo are read once
            described = await answer.waiting_for(self._describe(found, has_files=False))
            found = [v for v, item in zip(found, described, strict=True) if tags <= {*item["tags"]}]
        has_files = bool(request.expand) or request.is_set("full")
        page, headers = _page(request, answer, found, _FULL_PAGE if has_files else _LIST_PAGE)
        if tags or has_files:
            items = await answer.waiting_for(self._describe(page, has_files=has_files))
        else:
            items = [documents.summary(version.entry) for version in page]
        if request.expand:
            items = [documents.expanded(item, request.expand) for item in items]
        await answer.json(items, {"X-Total-Count": str(len(found)), **headers})

    async def _describe(
        self, versions: Sequence[Version], *, has_files: bool
    ) -> list[dict[str, Any]]:
        """Return what a list says of repos; of one that cannot be read, what is known without."""
        few = asyncio.Semaphore(_DESCRIBED_AT_ONCE)  # each holds a list of files

        async def describe(version: Version) -> dict[str, Any]:
            try:
                async with few:
                    loaded = await asyncio.shield(self._load(version))
                    document = documents.info(
                        version.entry, loaded, await self._card(version, loaded)
                    )
            except HfModelsError:
                return documents.summary(version.entry)
            if not has_files:
                del document["siblings"]
            return document

        return list(await asyncio.gather(*map(describe, versions)))

    async def _document(self, request: Request, route: Route, answer: "_Answer") -> None:
        body = await answer.body(_BODY_LIMIT_BYTES) if route.name == "paths-info" else b""
        # A foreign or compressed image may take minutes: blanks before JSON keep a client waiting.
        version = await answer.waiting_for(self._version(route))
        headers = {"X-Repo-Commit": version.commit}
        match route.name:
            case "refs":
                await answer.json(documents.refs(self.index.revisions(version.repo)))
                return
            case "auth-check":
                await answer.json({})
                return
            case "discussions":
                await answer.json(documents.discussions())
                return
            case "commits":
                await answer.json(documents.commits(version.entry), {"X-Total-Count": "1"})
                return
        loaded = await answer.waiting_for(asyncio.shield(self._load(version)))
        if route.name in {"info", "tree"}:  # files are asked for next, and cannot wait
            await answer.waiting_for(self._contents.look_through(loaded))
        if route.name == "info":
            card = await self._card(version, loaded)
            document = documents.info(version.entry, loaded, card, blobs=request.is_set("blobs"))
            if request.expand:
                document = documents.expanded(document, request.expand)
            await answer.json(document, headers)
        elif route.name == "tree":
            await self._tree(request, route, version, loaded, answer)
        else:
            paths, expand = _parse_paths(body, request.headers.get("content-type", ""))
            found = documents.paths_info(version.entry, loaded, paths, expand=expand)
            await answer.json(found, headers)

    async def _tree(
        self, request: Request, route: Route, version: Version, loaded: Loaded, answer: "_Answer"
    ) -> None:
        entries = documents.tree(
            version.entry,
            loaded,
            route.path,
            recursive=request.is_set("recursive"),
            expand=request.is_set("expand"),
        )
        page, link = _page(request, answer, entries, _TREE_PAGE)
        await answer.json(list(page), {"X-Repo-Commit": version.commit, **link})

    async def _version(self, route: Route) -> Version:
        """Return what a route names; while sources are still being looked at, wait for them."""
        assert route.repo is not None  # noqa: S101 - the caller's routes have one
        await self._wait_for_sources(route.repo)
        if not (self.is_whole or self.index.has(route.repo)):
            # Not a 404: to clients that is a repo that does not exist.
            raise Refusal(503, "A source that may have it cannot be read", Retry_After="5")
        return self.index.find(route.repo, route.revision)

    async def _wait_for_sources(self, repo: Repo | None = None) -> None:
        """Wait until every source was looked at once, or one of them has the repo."""

        def is_known() -> bool:
            return self.is_ready or (repo is not None and self.index.has(repo))

        async with self._looked:
            await self._looked.wait_for(is_known)

    def _load(self, version: Version) -> "asyncio.Task[Loaded]":
        task = self._loading.get(version)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = asyncio.create_task(self._contents.run(version.load))
            self._loading[version] = task
            if len(self._loading) > _LOADED_LIMIT:
                self._loading.popitem(last=False)
        self._loading.move_to_end(version)
        return task

    async def _card(self, version: Version, loaded: Loaded) -> Card:
        """Return what a repo's README says at its head; nothing, where it cannot be read."""
        card = self._cards.get(version)
        if card is None:
            try:
                data = await self._contents.read_small(loaded, "README.md", _CARD_LIMIT_BYTES)
            except HfModelsError:
                return {}
            card = self._cards[version] = parse_card(data)
            if len(self._cards) > _CARDS_LIMIT:
                self._cards.popitem(last=False)
        return card

    # Files

    async def _file(self, request: Request, route: Route, answer: "_Answer") -> None:
        version = await _soon(self._version(route))
        loaded = await asyncio.shield(self._load(version))
        file = find_file(loaded, route.path)
        headers = {"X-Repo-Commit": version.commit, "Accept-Ranges": "bytes"}
        if route.name == "raw" and file.sha256:
            data = documents.pointer(file)
            await answer.send(200, data, "text/plain; charset=utf-8", headers)
            return
        await self._send_file(request, loaded, file, answer, headers)

    async def _send_file(
        self,
        request: Request,
        loaded: Loaded,
        file: RepoFile,
        answer: "_Answer",
        headers: dict[str, str],
    ) -> None:
        etag = f'"{file.oid}"'
        name = file.path.rpartition("/")[2]
        headers |= {"ETag": etag, "Content-Disposition": _disposition(name)}
        if file.sha256:
            headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(file.size_bytes)}
        if _has_etag(request.headers.get("if-none-match"), etag):
            await answer.send(304, b"", headers=headers)
            return
        whole = ByteRange(0, file.size_bytes)
        wanted = None
        # Of HEAD a range has no meaning (RFC 9110, section 14.2).
        if request.method == "GET" and request.headers.get("if-range", etag) == etag:
            wanted = parse_range(request.headers.get("range"), file.size_bytes)
        if wanted and not self._contents.may_continue(file.oid, wanted, file.size_bytes):
            wanted = None
        status = 200
        if wanted is not None:
            status = 206
            headers["Content-Range"] = f"bytes {wanted.start}-{wanted.end - 1}/{file.size_bytes}"
        wanted = wanted or whole
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers |= {"Content-Length": str(wanted.size_bytes), "Content-Type": _safe_type(kind)}
        if request.method == "HEAD":
            await answer.begin(status, headers, is_over=True)
            return
        await answer.stream(status, headers, self._contents.read(loaded, file, wanted))

    async def _gguf(self, request: Request, route: Route, answer: "_Answer") -> None:
        assert route.repo is not None  # noqa: S101 - the caller's routes have one
        if route.name == "manifest":
            version, tag = await self._tagged(route.repo, route.path)
            loaded = await asyncio.shield(self._load(version))
            document = documents.gguf_manifest(loaded.snapshot, tag)
            await answer.json(
                document, {"X-Repo-Commit": version.commit}, documents.OLLAMA_MANIFEST
            )
            return
        version = await _soon(self._version(Route("blob", route.repo)))
        loaded = await asyncio.shield(self._load(version))
        digest = route.path.removeprefix("sha256:")
        for file in loaded.snapshot.files:
            if file.sha256 == digest:
                await self._send_file(request, loaded, file, answer, {"Accept-Ranges": "bytes"})
                return
            if file.path.lower().endswith(".gguf") and file.sha256:
                config = documents.ollama_config(file)
                if documents.digest_hex(config) == digest:
                    await answer.send(200, config, "application/json")
                    return
        raise entry_not_found(route.path)

    async def _tagged(self, repo: Repo, tag: str) -> tuple[Version, str]:
        """Return what ``org/name:tag`` means: a revision, or a quantization of ``main``."""
        version = await _soon(self._version(Route("manifest", repo)))
        revision = self.index.revisions(repo).get(tag)
        if tag not in {"main", "latest"} and revision is not None:
            return self.index.find(repo, tag), "latest"
        return version, tag


class _BrokenOffError(Exception):
    """An answer was begun and cannot be ended."""


class _Answer:
    """One answer on its way to the client."""

    def __init__(
        self, request: Request, receive: Receive, send: Send, headers: Mapping[str, str]
    ) -> None:
        self._request = request
        self._receive = receive
        self._send = send
        self._headers = headers
        self.is_begun = False
        self.is_blank = False

    async def body(self, limit_bytes: int) -> bytes:
        """Return the request's body.

        Raises:
            Refusal: It is too large, or does not come.
        """
        data = b""
        try:
            async with asyncio.timeout(_BODY_S):
                while True:
                    message = await self._receive()
                    data += bytes(message.get("body", b""))
                    if len(data) > limit_bytes:
                        raise Refusal(413, "The request is too large")
                    if not message.get("more_body"):
                        return data
        except TimeoutError:
            raise Refusal(408, "The request did not come") from None

    async def begin(
        self, status: int, headers: Mapping[str, str], *, is_over: bool = False
    ) -> None:
        """Send status and headers."""
        self.is_begun = True
        self._request.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (name.lower().encode(), value.encode("latin-1", "replace"))
                    for name, value in {**headers, **self._headers}.items()
                ],
            }
        )
        if is_over:
            await self._send({"type": "http.response.body", "body": b""})

    async def send(
        self,
        status: int,
        body: bytes,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole answer."""
        if self.is_blank:
            self._request.sent_bytes += len(body)
            await self._send({"type": "http.response.body", "body": body})
            return
        fixed = dict(headers or {})
        if content_type:
            fixed["Content-Type"] = content_type
        if status not in {204, 304}:
            fixed["Content-Length"] = str(len(body))
        await self.begin(status, fixed)
        if self._request.method != "HEAD":
            self._request.sent_bytes += len(body)
        await self._send({"type": "http.response.body", "body": body})

    async def json(
        self,
        document: Any,  # noqa: ANN401 - any JSON
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json; charset=utf-8",
    ) -> None:
        """Send a document."""
        body = json.dumps(document, separators=(",", ":")).encode()
        await self.send(200, body, content_type, headers)

    async def refuse(self, refusal: Refusal) -> None:
        """Send a no.

        Raises:
            _BrokenOffError: The answer was begun as a yes.
        """
        if self.is_begun:
            raise _BrokenOffError from refusal
        body = json.dumps({"error": refusal.message}).encode()
        await self.send(refusal.status, body, "application/json; charset=utf-8", refusal.headers)

    async def waiting_for(self, work: Awaitable[T]) -> T:
        """Return what ``work`` gives; blanks before a JSON document keep the client waiting."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait([task], timeout=_SILENCE_S)
            if task.done() or self._request.method == "HEAD":
                continue
            if not self.is_begun:
                self.is_blank = True
                await self.begin(200, {"Content-Type": "application/json; charset=utf-8"})
            await self._send({"type": "http.response.body", "body": b" ", "more_body": True})
        return task.result()

    async def stream(self, status: int, headers: Mapping[str, str], chunks: Chunks) -> None:
        """Send bytes as they come, until the client is gone.

        Raises:
            HfModelsError: The bytes cannot be had, or are wrong.
        """
        gone = asyncio.ensure_future(self._wait_gone())
        try:
            async with aclosing(chunks):
                # The first chunk first: an error before it gets a status of its own. But a
                # client that hears nothing for long gives up, so the headers do not wait longer.
                first = asyncio.ensure_future(anext(chunks, b""))
                try:
                    await asyncio.wait([first], timeout=_SILENCE_S)
                    if not first.done():
                        await self.begin(status, headers)
                        await asyncio.wait([first, gone], return_when=asyncio.FIRST_COMPLETED)
                        if not first.done():
                            return
                    chunk = await first
                finally:
                    first.cancel()
                    await asyncio.wait([first])
                if not self.is_begun:
                    await self.begin(status, headers)
                await self._send_piece(chunk)
                async for chunk in chunks:
                    if gone.done():
                        return
                    await self._send_piece(chunk)
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    async def _send_piece(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._request.sent_bytes += len(chunk)

    async def _wait_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _soon(work: Awaitable[T]) -> T:
    """Return what ``work`` gives, for an answer that no blanks can keep its client waiting for.

    Raises:
        Refusal: The sources are still being looked through.
    """
    try:
        async with asyncio.timeout(_SILENCE_S):
            return await work
    except TimeoutError:
        text = "Still looking through the sources; try again"
        raise Refusal(503, text, Retry_After="5") from None


def _page(
    request: Request, answer: _Answer, items: Sequence[T], most: int
) -> tuple[Sequence[T], dict[str, str]]:
    """Return the page of a list that is asked for, and the header that links to the next one.

    A client that was kept waiting has its headers already: it gets the rest of the list.
    """
    limit, most = (None, len(items)) if answer.is_blank else (request.query.get("limit"), most)
    page, cursor = documents.page_of(items, limit, request.query.get("cursor"), most)
    if cursor is None:
        return page, {}
    query = urlencode([*((k, v) for k, v in request.pairs if k != "cursor"), ("cursor", cursor)])
    return page, {"Link": f'<{request.url}{request.raw_path}?{query}>; rel="next"'}


def _password(given: str) -> str:
    """Return the password of Basic credentials; nothing where they are malformed.

    >>> _password("YW55Ym9keTpzM2NyZXQ="), _password("*")
    ('s3cret', '')
    """
    try:
        return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _parse_paths(body: bytes, content_type: str) -> tuple[list[str], bool]:
    """Parse the body of paths-info: a form of Python's client, or JSON of the others.

    Raises:
        Refusal: It is neither.
    """
    try:
        if "json" in content_type:
            document = load_json(body)
            paths, expand = document.get("paths", []), bool(document.get("expand"))
        else:
            form = parse_qs(body.decode())
            paths = form.get("paths", [])
            expand = form.get("expand", ["false"])[0].lower() in {"true", "1"}
    except (ValueError, AttributeError, RecursionError):
        paths, expand = None, False
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise Refusal(400, "paths must be a list of paths")
    return paths, expand


def _has_etag(header: str | None, etag: str) -> bool:
    given = [item.strip().removeprefix("W/") for item in (header or "").split(",")]
    return etag in given or "*" in given


def _disposition(name: str) -> str:
    plain = re.sub(r"[^\w.\- ]", "_", name, flags=re.ASCII)
    return f"inline; filename*=UTF-8''{quote(name)}; filename=\"{plain}\""


def _safe_type(kind: str) -> str:
    # A model's file is nobody's page: HTML and scripts would run as this server's own.
    risky = "html" in kind or "xml" in kind or "javascript" in kind or "svg" in kind
    return "text/plain; charset=utf-8" if risky else kind
