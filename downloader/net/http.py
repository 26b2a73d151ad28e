"""One pool of HTTP connections: proxies, CA bundle, timeouts, and errors of this project.

Bulk bytes go through urllib3's connections, because a read from them costs a quarter of the
CPU time of the httpx family, and two cores are all that a small runner has.
"""

import http.client
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import urllib3
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from downloader import __version__
from downloader.environment import Environment
from downloader.errors import InputError, TransportError, install_hint
from downloader.net.address import Address, parse_address
from downloader.net.proxies import HostList, Proxies, Proxy
from downloader.net.rate_limit import RateLimit
from downloader.net.throughput import Line, SlowServerError
from downloader.net.trust import Trust, trust_of

# What OpenSSL says of a server that answers in plain HTTP.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}

USER_AGENT = f"hf-models/{__version__}"


@dataclass(frozen=True)
class HttpSettings:
    """Settings of connections to HTTP servers.

    Args:
        trust: Certificates.
        proxies: Proxies, and the hosts that are reached without.
        plain_http: Registries that are reached without TLS.
        connect_timeout_s: For a TCP or TLS connection.
        read_timeout_s: For the next byte; a connection that is silent longer counts as stalled,
            and so does one that is slower than `SLOWEST_BYTES_PER_S` for as long.
        connections: Kept open per host.
    """

    trust: Trust = field(default_factory=Trust)
    proxies: Proxies = field(default_factory=Proxies)
    plain_http: HostList = field(default_factory=lambda: HostList(()))
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    connections: int = 64


def http_settings_of(
    environment: Environment, ca_file: str | None = None, plain_http: Sequence[str] = ()
) -> HttpSettings:
    """Return what the environment says about proxies, certificates and plain http.

    Args:
        environment: The machine's.
        ca_file: Of ``--ca-file``: trusted as well.
        plain_http: Of ``--plain-http``: registries without TLS, as well.

    Raises:
        InputError: A proxy variable is malformed.
    """
    return HttpSettings(
        trust_of(environment).with_file(ca_file),
        Proxies(environment.proxies),
        HostList([*environment.plain_http, *plain_http]),
    )


class HttpPool:
    """Connections to any number of hosts, shared by threads.

    Attributes:
        line: Round trip and push-back that the requests have measured.
    """

    def __init__(self, settings: HttpSettings | None = None) -> None:
        self.settings = settings or HttpSettings()
        self.line = Line()
        self._rate_limits: dict[str, RateLimit] = {}
        self._managers: dict[Proxy | None, urllib3.PoolManager] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def connections_to(self, address: Address) -> urllib3.HTTPConnectionPool:
        """Return the connections that ``address`` goes through, for `downloader.net.request`.

        Raises:
            InputError: The settings for it are wrong: a certificate file, or a SOCKS proxy
                without the extra.
        """
        options: dict[str, Any] = {}
        if address.scheme == "https":
            options["ssl_context"] = self.tls_context(address)
        host = f"[{address.host}]" if ":" in address.host else address.host
        manager = self._manager(self.settings.proxies.find(address))
        return manager.connection_from_host(host, address.port, address.scheme, options)

    def rate_limit(self, root: str) -> RateLimit:
        """Return what the server at ``root`` has told of its rate limit for files."""
        return self._rate_limits.setdefault(root, RateLimit())

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()
            self._managers.clear()

    def tls_context(self, address: Address) -> ssl.SSLContext:
        """Return what TLS connections to ``address`` trust.

        Raises:
            InputError: As `Trust.context`.
        """
        trust = self.settings.trust
        netloc = f"{address.host}:{address.port}"
        key = netloc if trust.has_own(netloc) else ""
        with self._lock:
            if key not in self._contexts:
                self._contexts[key] = trust.context(key)
            return self._contexts[key]

    def _manager(self, proxy: Proxy | None) -> urllib3.PoolManager:
        context = None
        if proxy is not None and proxy.scheme == "https":
            context = self.tls_context(parse_address(proxy.url))
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = self._new_manager(proxy, context)
            return self._managers[proxy]

    def _new_manager(
        self, proxy: Proxy | None, context: ssl.SSLContext | None
    ) -> urllib3.PoolManager:
        options: dict[str, Any] = {"maxsize": self.settings.connections, "num_pools": 64}
        if proxy is None:
            return urllib3.PoolManager(**options)
        if proxy.is_socks:
            return _socks_manager(proxy, options)
        if proxy.username:
            pair = f"{proxy.username}:{proxy.password}"
            options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=pair)
        return urllib3.ProxyManager(proxy.url, proxy_ssl_context=context, **options)


def _socks_manager(proxy: Proxy, options: dict[str, Any]) -> urllib3.PoolManager:
    try:
        from urllib3.contrib.socks import SOCKSProxyManager  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InputError(
            f"{proxy.setting}: a SOCKS proxy needs the package PySocks, which is not installed",
            hint=f"{install_hint('socks')}, or name an HTTP proxy",
        ) from error
    return SOCKSProxyManager(
        proxy.url, username=proxy.username or None, password=proxy.password or None, **options
    )


def connect_to(connection: urllib3.connection.HTTPConnection, addresses: Sequence[str]) -> None:
    """Connect to the first of these IP addresses that answers, under the connection's own name.

    TLS, certificates and the ``Host`` header go by the name, as ever.

    Raises:
        HTTPError, OSError: As ``connect`` of the connection; of the last address.
    """
    name, dial = connection._dns_host, connection._new_conn  # noqa: SLF001 - see below

    def dial_first() -> socket.socket:
        failure: Exception = NameResolutionError(name, connection, socket.gaierror("no address"))
        for address in addresses:
            connection._dns_host = address  # noqa: SLF001 - all that urllib3 looks up
            try:
                return dial()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
            finally:
                connection._dns_host = name  # noqa: SLF001
        raise failure

    connection._new_conn = dial_first  # type: ignore[method-assign]  # noqa: SLF001
    try:
        connection.connect()
    finally:
        del connection._new_conn  # noqa: SLF001


def transport_error(
    method: str, address: Address, error: Exception, proxy: Proxy | None = None
) -> TransportError:
    """Return the error to raise where urllib3 or a socket gave up, without any secret.

    Args:
        method: Of the request.
        address: Of the request.
        error: The exception.
        proxy: The proxy, if ``error`` came up while connecting through one.
    """
    reason = getattr(error, "reason", None)  # an exception in urllib3, a text in ssl
    cause = reason if isinstance(reason, Exception) else error
    text, hint = _in_words(cause)
    if proxy is not None:
        text, hint = f"{proxy}: {text}", f"check {proxy.setting}, and whether the proxy runs"
        if "407" in text.split():
            hint = f"check the user and password in {proxy.setting}"
    # A refused connection is a timeout to urllib3, but it costs no time.
    unreachable = isinstance(cause, NewConnectionError | ConnectionRefusedError)
    return TransportError(
        f"{method} {address}: no answer from {address.netloc} ({text})",
        timed_out=isinstance(cause, TimeoutError | Urllib3TimeoutError) and not unreachable,
        unreachable=unreachable,
        hint=hint.format(netloc=address.netloc),
    )


_HINT = "check the network and the proxy variables, then run it again"
_ADDRESS_HINT = "check the address and the proxy variables"
# The first that fits; {error} is the error's own text.
_CAUSES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "certificate not trusted: {error.verify_message}",
        "name the certificate of its authority by --ca-file or SSL_CERT_FILE",
    ),
    (ssl.SSLError, "TLS failed: {error.reason}", _ADDRESS_HINT),
    (socket.gaierror, "name not known", _ADDRESS_HINT),
    (NameResolutionError, "name not known", _ADDRESS_HINT),
    (SlowServerError, "too slow: {error}", _HINT),
    (ConnectionRefusedError, "connection refused", _ADDRESS_HINT),
    (http.client.RemoteDisconnected, "connection closed without an answer", _HINT),
    (ConnectionError, "connection reset", _HINT),
    (ConnectTimeoutError, "no connection in time", _HINT),
    (TimeoutError, "nothing received in time", _HINT),
    (Urllib3TimeoutError, "nothing received in time", _HINT),
    (http.client.IncompleteRead, "cut in the middle of the answer", _HINT),
    (http.client.HTTPException, "the answer is not HTTP", _ADDRESS_HINT),
    (UnicodeError, "an address that cannot be sent", _ADDRESS_HINT),
    (OSError, "{error.strerror}", _HINT),
)


def _in_words(error: Exception) -> tuple[str, str]:
    """Return the cause of a failure in plain words, and what to do about it."""
    inner = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(inner, ssl.SSLError) and inner.reason in _NO_TLS:
        return (
            "the server speaks no TLS",
            "a registry without TLS is named by --plain-http {netloc}",
        )
    for kind, text, hint in _CAUSES:
        if isinstance(inner, kind):
            if kind is OSError and not getattr(inner, "strerror", None):
                return str(inner)[:200], hint  # `Tunnel connection failed: 407 ...`, PySocks
            return text.format(error=inner), hint
    return "connection failed", _HINT
