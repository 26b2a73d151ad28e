"""Requests to one registry: authentication, retries, and which redirects are followed."""

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from downloader.errors import InputError, ProtocolError, ServerError, TransportError
from downloader.net.address import REDIRECTS, Address, is_loopback, network_of, parse_address
from downloader.net.http import HttpPool
from downloader.net.request import Exchange
from downloader.net.resolve import look_up
from downloader.net.retry import Retry, RetryPolicy, is_passing
from downloader.oci.auth import Auth, Scopes, TokenRequest, covers
from downloader.oci.credentials import Credentials
from downloader.oci.reference import Reference
from downloader.oci.responses import (
    ERROR_BODY_LIMIT_BYTES,
    Answer,
    next_url,
    registry_error,
)
from downloader.progress import Note, ignore

_KEEPING_REDIRECTS = frozenset({307, 308})  # method and body stay; RFC 9110, 15.4.8 and 15.4.9
_REDIRECT_LIMIT = 5
# A URL that carries its own credential, on the registry's own host: stores refuse a second one.
_SIGNATURE = re.compile(r"[?&](?:X-Amz-Signature|X-Goog-Signature|Signature|sig)=", re.IGNORECASE)
# A token that is over may be followed by an older one that is over as well.
RENEWALS_LIMIT = 3
_PROBE_TIMEOUT_S = 2.0  # on loopback, where a server answers at once


@dataclass(frozen=True)
class Request:
    """One request to a registry.

    Args:
        method: Upper case.
        url: Absolute.
        what: Its name in messages: ``manifest ghcr.io/me/x:tag``.
        scopes: Scopes that its token needs.
        expect: The statuses that the caller understands; any other raises.
        headers: Besides ``Authorization``.
        body: Whole; bodies that stream are sent by `downloader.oci.upload`.
        redirect: Whether all redirects are followed; for reading only. Those that keep method
            and body are followed in any case.
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


class _Shared:
    """Work that several threads want at once: one does it, the others wait for how it ends.

    No lock is held meanwhile. ``work`` must look first whether it was done a moment ago.
    """

    def __init__(self) -> None:
        self._running: dict[Scopes, Future[None]] = {}
        self._lock = threading.Lock()

    def run(self, key: Scopes, work: Callable[[], None]) -> None:
        """Do ``work``, or wait for the thread that does it, and raise what it raised.

        Work under a key that covers ``key`` ends first.
        """
        with self._lock:
            wider = [it for held, it in self._running.items() if held != key and covers(held, key)]
        wait(wider)  # it may make this work needless; its errors are not ours
        mine: Future[None] = Future()
        with self._lock:
            running = self._running.setdefault(key, mine)
        if running is not mine:
            running.result()
            return
        try:
            work()
            mine.set_result(None)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._running[key]


class Client:
    """Sends requests to one registry; used by any number of threads.

    Args:
        reference: For the registry.
        pool: Connections.
        credentials: Asked once, when the registry first wants to know.
        policy: Number of tries and delays.
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
        sleep: Callable[[float], None] = time.sleep,
        note: Note = ignore,
    ) -> None:
        self.registry = reference.registry
        self._repository = reference.repository
        self._host = reference.api_host
        self._pool = pool
        self._credentials = credentials
        self._policy = policy
        self._sleep = sleep
        self._note = note
        self._base_address: Address | None = None
        self._auth: Auth | None = None
        self._peer: str | None = None
        self._lock = threading.Lock()  # of `_auth`; never held over input or output
        self._address_work, self._auth_work, self._token_work = _Shared(), _Shared(), _Shared()

    @property
    def base_url(self) -> str:
        """Scheme and host of the registry's API, ``https://ghcr.io``."""
        return self._base().root

    def _base(self) -> Address:
        if self._base_address is None:
            self._address_work.run(frozenset(), self._find_base)
        assert self._base_address is not None  # noqa: S101 - for the type checker
        return self._base_address

    def _find_base(self) -> None:
        if self._base_address is None:
            address = parse_address(f"http://{self._host}/", "registry", InputError)
            if not self._is_plain(address):
                address = parse_address(f"https://{self._host}/", "registry", InputError)
            self._base_address = address

    def _is_plain(self, address: Address) -> bool:
        if (address.host, address.port) in self._pool.settings.plain_http:
            return True
        is_here = is_loopback(address.host) and self._pool.settings.proxies.find(address) is None
        return is_here and not _answers_tls(address)

    def retries(self) -> Retry:
        """Begin to count the failures of one piece of work."""
        return Retry(self._policy, self._sleep, note=self._note)

    def call(self, request: Request, *, limit_bytes: int = ERROR_BODY_LIMIT_BYTES) -> Answer:
        """Send ``request`` until it is answered, and return the answer with its body.

        Args:
            request: The request to send.
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
                return Answer(exchange.status, exchange.headers, body, exchange.url)

    def open(self, request: Request, retries: Retry | None = None) -> Exchange:
        """Send ``request`` until it is answered, and return the answer with its body unread.

        Raises:
            The same as `call`.
        """
        retries = retries or self.retries()
        url, renewals, redirects, is_signed = request.url, 0, 0, False
        while True:
            try:
                exchange, sent = self._send(request, url, is_signed=is_signed)
                status = exchange.status
            except TransportError as error:
                if retries.wait(error):
                    continue
                raise
            if status in request.expect:
                return exchange
            with exchange:
                headers = exchange.headers
                if _is_followed(request, status) and redirects < _REDIRECT_LIMIT:
                    url, redirects = next_url(url, headers.get("Location")), redirects + 1
                    is_signed = "/v2/" not in url or bool(_SIGNATURE.search(url))
                elif status == 401 and renewals < RENEWALS_LIMIT and self.owns(url):
                    exchange.read(ERROR_BODY_LIMIT_BYTES)
                    self.challenged(headers, request.scopes, sent)
                    renewals, is_signed = renewals + 1, False
                elif not (
                    is_passing(status) and retries.wait(_refusal(request.what, status), headers)
                ):
                    raise self.error(request.what, exchange)

    def error(self, what: str, exchange: Exchange) -> Exception:
        """Return the error for an answer with an unexpected status."""
        with contextlib.suppress(TransportError):
            body = exchange.read(ERROR_BODY_LIMIT_BYTES)
            return registry_error(
                self.registry, what, Answer(exchange.status, exchange.headers, body)
            )
        return registry_error(self.registry, what, Answer(exchange.status, {}, b""))

    def _send(
        self, request: Request, url: str, *, is_signed: bool = False
    ) -> tuple[Exchange, str | None]:
        authorization = None if is_signed else self.authorization(url, request.scopes)
        headers = dict(request.headers)
        if authorization:
            headers["Authorization"] = authorization
        if request.method in {"POST", "PUT", "PATCH"}:
            headers["Content-Length"] = str(len(request.body))
        exchange = Exchange(
            self._pool, request.method, url, headers, read_timeout_s=request.read_timeout_s
        )
        self._note_peer(exchange)
        if len(request.body):
            exchange.send(memoryview(request.body))
        return exchange, authorization

    def owns(self, url: str) -> bool:
        """Whether ``url`` is this registry's, so that it may see credentials."""
        return parse_address(url).origin == self._base().origin

    def begin(
        self, method: str, url: str, headers: Mapping[str, str], scopes: Scopes
    ) -> tuple[Exchange, str | None]:
        """Begin a request whose body the caller sends, once, and the credential it carries."""
        authorization = self.authorization(url, scopes)
        auth = {"Authorization": authorization} if authorization else {}
        exchange = Exchange(self._pool, method, url, {**headers, **auth})
        self._note_peer(exchange)
        return exchange, authorization

    def _note_peer(self, exchange: Exchange) -> None:
        """Remember the address that the registry answers from: its own network."""
        if self.owns(exchange.url):
            self._peer = exchange.peer

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
        auth = self._auth
        if auth is None:
            return None
        with self._lock:
            is_due = auth.renewal(scopes, time.monotonic()) is not None
        if is_due:
            self._token_work.run(scopes, lambda: self._renew(auth, scopes))
        with self._lock:
            return auth.header(scopes, time.monotonic())

    def _renew(self, auth: Auth, scopes: Scopes) -> None:
        with self._lock:
            request = auth.renewal(scopes, time.monotonic())
        if request:
            self._fetch_token(auth, request)

    def challenged(self, headers: Mapping[str, str], scopes: Scopes, sent: str | None) -> None:
        """Take a 401 answer, so that the next `authorization` is another one.

        Raises:
            RegistryError: There is no other one.
        """
        challenge = headers.get("WWW-Authenticate", "")
        if self._auth is None:
            self._auth_work.run(frozenset(), self._find_credential)
        auth = self._auth
        assert auth is not None  # noqa: S101 - for the type checker
        for _ in range(2):  # the thread that was waited for may have answered another challenge
            self._token_work.run(scopes, lambda: self._answer(auth, challenge, scopes, sent))
            with self._lock:
                if auth.header(scopes, time.monotonic()) != sent:
                    return

    def _find_credential(self) -> None:
        if self._auth is None:
            credential = self._credentials.find(self.registry, self._repository)
            self._auth = Auth(self.registry, credential, self._base())

    def _answer(self, auth: Auth, challenge: str, scopes: Scopes, sent: str | None) -> None:
        with self._lock:
            now = auth.header(scopes, time.monotonic())
            if now is not None and now != sent:
                return  # another thread was quicker
            request = auth.challenged(challenge, scopes, sent)
        if request:
            self._fetch_token(auth, request)

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
                with self._lock:
                    auth.accept(request, answer.status, answer.body, asked_at_s)
                return

    def _ask(self, request: TokenRequest) -> Answer:
        home = parse_address(request.url)
        here, body, headers = home, request.body, dict(request.headers)
        for _ in range(_REDIRECT_LIMIT):
            addresses = self._check_network(here)
            if body:
                headers["Content-Length"] = str(len(body))
            with Exchange(
                self._pool, request.method, here.url, headers, addresses=addresses
            ) as exchange:
                if body:
                    exchange.send(memoryview(body))
                data = exchange.read(ERROR_BODY_LIMIT_BYTES)
                answer = Answer(exchange.status, exchange.headers, data, here.url)
            if answer.status not in REDIRECTS:
                return answer
            there = parse_address(next_url(here.url, answer.headers.get("Location")))
            if there.origin != home.origin:
                if body:  # the credential itself
                    raise ProtocolError(f"{here}: a token server may not redirect to {there}")
                headers.pop("Authorization", None)
            here = there
        raise ProtocolError(f"{home}: more than {_REDIRECT_LIMIT} redirects")

    def _check_network(self, realm: Address) -> tuple[str, ...] | None:
        """Refuse a token server inside a network that the registry itself is not in.

        Else a registry could have this machine send requests to its neighbours, such as the
        metadata service of a cloud.

        Returns:
            The IP addresses to connect to; None for the registry itself and behind a proxy,
            which looks names up by itself.
        """
        base = self._base()
        if realm.host == base.host:
            return None
        addresses = None
        if self._pool.settings.proxies.find(realm) is None:
            addresses = look_up(realm)
        inside = {network_of(host) for host in (realm.host, *(addresses or ()))} - {"public"}
        own = {network_of(host) for host in (base.host, self._peer) if host} - {"link-local"}
        if inside - own:
            raise ProtocolError(
                f"{self.registry}: want a token server that everybody can reach, got {realm}"
                f" on a {min(inside - own)} address",
                hint="the registry names it; it is not asked",
            )
        return addresses


def _is_followed(request: Request, status: int) -> bool:
    if request.method in {"GET", "HEAD"}:
        return request.redirect and status in REDIRECTS
    return status in _KEEPING_REDIRECTS


def _refusal(what: str, status: int) -> ServerError:
    """Return what to say before another try; the body may never come, and is not waited for."""
    return ServerError(f"{what}: HTTP {status}", status=status)


def _answers_tls(address: Address) -> bool:
    # Only whether it speaks TLS; whom it is, every later connection verifies.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for host in look_up(address):
        try:
            with (
                socket.create_connection((host, address.port), _PROBE_TIMEOUT_S) as plain,
                context.wrap_socket(plain, server_hostname=address.host),
            ):
                return True
        except OSError:
            continue
    return False
