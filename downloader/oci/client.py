"""Requests to one registry: who asks, when to try again, and where redirects may lead."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from downloader.errors import ServerError, TransportError
from downloader.net.http import HttpPool
from downloader.net.request import Exchange
from downloader.net.retry import Retry, RetryPolicy, is_passing
from downloader.oci.auth import Auth, Scopes, TokenRequest, is_loopback
from downloader.oci.credentials import Credentials
from downloader.oci.reference import Reference
from downloader.oci.responses import (
    ERROR_BODY_LIMIT_BYTES,
    Answer,
    next_url,
    origin_of,
    registry_error,
)
from downloader.progress import Note, ignore

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECT_LIMIT = 5
# A token that is over may be followed by an older one that is over as well.
_RENEWALS_LIMIT = 3
_PROBE_TIMEOUT_S = 2.0  # on loopback, where whoever listens answers at once


@dataclass(frozen=True)
class Request:
    """One request to a registry.

    Args:
        method: Upper case.
        url: Absolute.
        what: What is wanted, for messages: ``manifest ghcr.io/me/x:tag``.
        scopes: What it needs a token for.
        expect: The statuses that the caller understands; any other raises.
        headers: Besides ``Authorization``.
        body: Whole; bodies that stream are sent by `downloader.oci.upload`.
        redirect: Whether redirects are followed; for reading only.
        read_timeout_s: Instead of the pool's.
    """

    method: str
    url: str
    what: str
    scopes: Scopes
    expect: Collection[int] = (200,)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    redirect: bool = False
    read_timeout_s: float | None = None


class Client:
    """Sends requests to one registry; used by any number of threads.

    Args:
        reference: For the registry.
        pool: Connections.
        credentials: Asked once, when the registry first wants to know.
        policy: When to try again.
        plain_http: See `downloader.oci.registry.Registry`.
        sleep: Waits so many seconds.
        note: Told before a wait that a person would notice.
    """

    def __init__(
        self,
        reference: Reference,
        pool: HttpPool,
        credentials: Credentials,
        *,
        policy: RetryPolicy,
        plain_http: bool | None = None,
        sleep: Callable[[float], None] = time.sleep,
        note: Note = ignore,
    ) -> None:
        self.registry = reference.registry
        self._host = reference.api_host
        self._pool = pool
        self._credentials = credentials
        self._policy = policy
        self._plain_http = plain_http
        self._sleep = sleep
        self._note = note
        self._base_url: str | None = None
        self._auth: Auth | None = None
        self._lock = threading.RLock()

    @property
    def base_url(self) -> str:
        """Scheme and host of the registry's API, ``https://ghcr.io``."""
        with self._lock:
            if self._base_url is None:
                scheme = "http" if self._is_plain() else "https"
                self._base_url = f"{scheme}://{self._host}"
            return self._base_url

    def _is_plain(self) -> bool:
        if self._plain_http is not None:
            return self._plain_http
        _, host, port = origin_of(f"http://{self._host}")
        return is_loopback(host) and not _answers_tls(host, port)

    def retries(self) -> Retry:
        """Begin to count the failures of one piece of work."""
        return Retry(self._policy, self._sleep, note=self._note)

    def call(self, request: Request, *, limit_bytes: int = ERROR_BODY_LIMIT_BYTES) -> Answer:
        """Send ``request`` until it is answered, and return the answer with its body.

        Args:
            request: What to send.
            limit_bytes: Of the body; the rest is not read.

        Raises:
            RegistryError: A status that was not expected.
            TransportError: No answer, after the retries.
            ProtocolError: The registry breaks its specification.
        """
        retries = self.retries()
        while True:
            with self.open(request, retries) as exchange:
                try:
                    body = exchange.read(limit_bytes)
                except TransportError as error:
                    if retries.wait(error):
                        continue
                    raise
                return Answer(exchange.status, exchange.headers, body)

    def open(self, request: Request, retries: Retry | None = None) -> Exchange:
        """Send ``request`` until it is answered, and return the answer with its body unread.

        Raises:
            The same as `call`.
        """
        retries = retries or self.retries()
        url, renewals, redirects = request.url, 0, 0
        while True:
            try:
                exchange, sent = self._send(request, url)
                status = exchange.status
            except TransportError as error:
                if retries.wait(error):
                    continue
                raise
            if status in request.expect:
                return exchange
            with exchange:
                headers = exchange.headers
                if request.redirect and status in _REDIRECTS and redirects < _REDIRECT_LIMIT:
                    url, redirects = next_url(url, headers.get("Location")), redirects + 1
                elif status == 401 and renewals < _RENEWALS_LIMIT and self.owns(url):
                    exchange.read(ERROR_BODY_LIMIT_BYTES)
                    self.challenged(exchange.headers, request.scopes, sent)
                    renewals += 1
                elif not (
                    is_passing(status) and retries.wait(_refusal(request.what, status), headers)
                ):
                    raise self.error(request.what, exchange)

    def error(self, what: str, exchange: Exchange) -> Exception:
        """Return the error for an answer whose status nobody expected."""
        with contextlib.suppress(TransportError):
            body = exchange.read(ERROR_BODY_LIMIT_BYTES)
            return registry_error(
                self.registry, what, Answer(exchange.status, exchange.headers, body)
            )
        return registry_error(self.registry, what, Answer(exchange.status, {}, b""))

    def _send(self, request: Request, url: str) -> tuple[Exchange, str | None]:
        authorization = self.authorization(url, request.scopes)
        headers = dict(request.headers)
        if authorization:
            headers["Authorization"] = authorization
        if request.method in {"POST", "PUT", "PATCH"}:
            headers["Content-Length"] = str(len(request.body))
        exchange = Exchange(
            self._pool, request.method, url, headers, read_timeout_s=request.read_timeout_s
        )
        if len(request.body):
            exchange.send(memoryview(request.body))
        return exchange, authorization

    def owns(self, url: str) -> bool:
        """Whether ``url`` is this registry's, so that it may see credentials."""
        return origin_of(url) == origin_of(self.base_url)

    def begin(
        self, method: str, url: str, headers: Mapping[str, str], scopes: Scopes
    ) -> tuple[Exchange, str | None]:
        """Begin a request whose body the caller sends, once, and the credential it carries."""
        authorization = self.authorization(url, scopes)
        auth = {"Authorization": authorization} if authorization else {}
        return Exchange(self._pool, method, url, {**headers, **auth}), authorization

    def once(self, request: Request) -> Answer:
        """Send ``request`` once, for those that must not be repeated, whatever the answer.

        A 401 renews the credential for the next request.
        """
        exchange, sent = self._send(request, request.url)
        with exchange:
            body = exchange.read(ERROR_BODY_LIMIT_BYTES)
            if exchange.status == 401 and self.owns(request.url):
                self.challenged(exchange.headers, request.scopes, sent)
            return Answer(exchange.status, exchange.headers, body)

    def authorization(self, url: str, scopes: Scopes) -> str | None:
        """Return the ``Authorization`` for ``url``, with a token that is not about to expire."""
        if not self.owns(url):
            return None
        with self._lock:
            if self._auth is None:
                return None
            renewal = self._auth.renewal(scopes, time.monotonic())
            if renewal:
                self._fetch_token(self._auth, renewal)
            return self._auth.header(scopes, time.monotonic())

    def challenged(self, headers: Mapping[str, str], scopes: Scopes, sent: str | None) -> None:
        """Take a 401 answer, so that the next `authorization` is another one.

        Raises:
            RegistryError: There is no other one.
        """
        challenge = headers.get("WWW-Authenticate", "")
        with self._lock:
            if self._auth is None:
                self._auth = Auth(self.registry, self._credentials.find(self.registry))
            now = self._auth.header(scopes, time.monotonic())
            if now is not None and now != sent:
                return  # another thread was quicker
            request = self._auth.challenged(challenge, scopes, sent)
            if request:
                self._fetch_token(self._auth, request)

    def _fetch_token(self, auth: Auth, request: TokenRequest) -> None:
        retries = self.retries()
        while True:
            asked_at_s = time.monotonic()
            try:
                answer = self._ask(request)
            except TransportError as error:
                if retries.wait(error):
                    continue
                raise
            refusal = _refusal(f"token for {self.registry}", answer.status)
            if not (is_passing(answer.status) and retries.wait(refusal, answer.headers)):
                auth.accept(request, answer.status, answer.body, asked_at_s)
                return

    def _ask(self, request: TokenRequest) -> Answer:
        headers = dict(request.headers)
        if request.body:
            headers["Content-Length"] = str(len(request.body))
        with Exchange(self._pool, request.method, request.url, headers) as exchange:
            if request.body:
                exchange.send(memoryview(request.body))
            body = exchange.read(ERROR_BODY_LIMIT_BYTES)
            return Answer(exchange.status, exchange.headers, body)


def _refusal(what: str, status: int) -> ServerError:
    """Return what to say before another try; the body may never come, and is not waited for."""
    return ServerError(f"{what}: HTTP {status}", status=status)


def _answers_tls(host: str, port: int) -> bool:
    # Only whether it speaks TLS; whom it is, every later connection verifies.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except OSError:
        return False
