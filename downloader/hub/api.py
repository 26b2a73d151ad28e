"""huggingface_hub's API client over our own connections.

The library knows the Hub's routes, headers and errors. What it sends goes through `HttpPool`,
so that proxies, certificates, retries and messages are those of files and registries; and an
answer is checked before the library reads it, so that a login page is named as one.

Source: huggingface_hub 2.4, utils/_http.py: ``set_client_factory`` is its way to bring another
client; the client is one for the process, so requests from elsewhere take the library's own way.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory
from urllib3 import HTTPHeaderDict

from downloader.document import load_json
from downloader.errors import HubError, ProtocolError, TransportError
from downloader.net.address import REDIRECTS, Address, parse_address, resolve_address
from downloader.net.http import HttpPool
from downloader.net.request import Exchange
from downloader.net.retry import (
    Retry,
    RetryPolicy,
    TransientError,
    is_passing,
    parse_retry_after,
)
from downloader.progress import Note

_LONGEST_CHAIN = 6  # a renamed repo needs one
_ANSWER_LIMIT_BYTES = 64 * 1024**2  # a page has 1000 files; `siblings` has all of them
_READ_BYTES = 256 * 1024
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?', re.IGNORECASE)
RATE_LIMIT_HINT = "set HF_TOKEN: the Hub allows more to users it knows"


@dataclass
class Call:
    """One call of the library's API: every request that it makes is answered here.

    Args:
        http: Connections.
        retry: For each request.
        note: Told of waits.
        name: Of the repo, for notes.
        check: Given the JSON of each answer of status 200 and its address; raises where it is
            not what the Hub answers.
    """

    http: HttpPool
    retry: RetryPolicy
    note: Note
    name: str
    check: Callable[[Any, Address], None]
    _pages: set[Address] = field(default_factory=set)

    def send(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request of the library.

        Raises:
            TransportError: No answer, after the retries.
            HubError: Busy or rate limited, after the retries.
            ProtocolError: An answer that is not the Hub's.
        """
        address = parse_address(str(request.url))
        if address.path.endswith(_AGENTS_PATH):
            return httpx2.Response(404, request=request)
        token = {k: v for k, v in request.headers.items() if k.lower() == "authorization"}
        retry = Retry(self.retry, note=self.note, name=self.name)
        while True:
            try:
                status, headers, body = self._get_once(address, token)
            except TransientError as failure:
                retry.wait_or_raise(failure)
            else:
                return httpx2.Response(status, headers=headers, content=body, request=request)

    def _get_once(
        self, address: Address, token: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return status, headers and body; redirects are followed, the token stays at home."""
        asked, home = address, address.origin
        for _ in range(_LONGEST_CHAIN):
            try:
                sent = token if address.origin == home else {}
                with Exchange(self.http, "GET", address.url, sent) as response:
                    if response.status in REDIRECTS:
                        response.drain()
                        address = resolve_address(address, response.headers.get("Location"))
                        continue
                    body = _read(response, address)
            except TransportError as error:
                raise TransientError(error) from error
            if is_passing(response.status):
                raise _busy(address, response)
            headers = [(k, v) for k, v in response.headers.items() if k.lower() in _KEPT]
            if response.status == 200:
                self.check(_parse_json(body, response.headers, address), address)
                headers += self._next_page(address, response.headers.get("Link"))
            return response.status, headers, body
        raise ProtocolError(f"{asked}: more than {_LONGEST_CHAIN - 1} redirects")

    def _next_page(self, current: Address, link: str | None) -> list[tuple[str, str]]:
        """Return a ``Link`` to the next page at the same host, whatever host it names.

        Mirrors forget to rewrite it, and it then leads to huggingface.co.
        """
        self._pages.add(current)
        found = _NEXT.search(link or "")
        if found is None:
            return []
        named = resolve_address(current, found[1], "Link")
        following = replace(current, query=named.query)
        if following in self._pages:
            raise ProtocolError(
                f"{current}: its Link to {named.netloc} names a page that was read before",
                hint="this mirror gives no further pages; set another HF_ENDPOINT",
            )
        return [("Link", f'<{following.url}>; rel="next"')]


# What the library asks of its own accord, at the endpoint that it read when it was imported: which
# programs count as agents. A missing answer is fine, and ours would be asked with every retry.
_AGENTS_PATH = "/api/agent-harnesses"
# What the library reads of an answer besides its body.
_KEPT = {"x-error-code", "x-error-message", "x-request-id", "content-type"}
_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)


class _Client(httpx2.Client):
    """The library's client, but for the requests of a `Call`.

    It reads no variables itself: a proxy or certificate file that cannot be used is reported
    by our own connections, under its name.
    """

    def __init__(self) -> None:
        super().__init__(trust_env=False)
        self._other: httpx2.Client | None = None  # for a caller that uses the library as well

    def send(self, request: httpx2.Request, **flags: Any) -> httpx2.Response:  # noqa: ANN401
        call = _CURRENT.get()
        if call:
            return call.send(request)
        self._other = self._other or default_client_factory()
        return self._other.send(request, **flags)


set_client_factory(_Client)


@contextmanager
def answered_by(call: Call) -> Iterator[None]:
    """Answer the library's requests by ``call``, in this thread and block."""
    before = _CURRENT.set(call)
    try:
        yield
    finally:
        _CURRENT.reset(before)


def _busy(address: Address, response: Exchange) -> TransientError:
    is_limit = response.status == 429
    said = "rate limited (429)" if is_limit else f"the Hub answered {response.status}"
    hint = RATE_LIMIT_HINT if is_limit else None
    error = HubError(f"{address}: {said}", status=response.status, hint=hint)
    return TransientError(error, parse_retry_after(response.headers))


def _read(response: Exchange, address: Address) -> bytes:
    """Return a body, unpacked: some proxies compress against the request's wish."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
        raise ProtocolError(f"{address}: want an answer as it is, got Content-Encoding {encoding}")
    unpack = None if encoding in {"", "identity"} else zlib.decompressobj(wbits=47)
    body = bytearray()
    buffer = memoryview(bytearray(_READ_BYTES))
    try:
        while count := response.read_some(buffer):
            data = bytes(buffer[:count])
            body += unpack.decompress(data, _ANSWER_LIMIT_BYTES) if unpack else data
            if len(body) >= _ANSWER_LIMIT_BYTES:
                raise ProtocolError(f"{address}: an answer of more than 64 MiB")
    except zlib.error as error:
        raise ProtocolError(f"{address}: want {encoding}, got something else") from error
    return bytes(body)


def _parse_json(body: bytes, headers: HTTPHeaderDict, address: Address) -> Any:  # noqa: ANN401
    try:
        return load_json(body)
    except (ValueError, RecursionError) as error:
        kind = headers.get("Content-Type", "no Content-Type")[:100]
        raise ProtocolError(
            f"{address}: want JSON of the Hub, got {len(body)} bytes of {kind}",
            hint="a login page or a proxy answers instead of the Hub; check HF_ENDPOINT",
        ) from error
