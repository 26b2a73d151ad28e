"""One pool of HTTP connections: proxies, CA bundle, timeouts, and errors of this project.

Bulk bytes go through urllib3's connections, because a read from them costs a quarter of the
CPU time of the httpx family, and two cores are all that a small runner has.
"""

import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from downloader import __version__
from downloader.errors import InputError, TransportError, without_secrets
from downloader.net.throughput import Line, SlowServerError

# What OpenSSL says of a server that answers in plain HTTP.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}

USER_AGENT = f"hf-models/{__version__}"


@dataclass(frozen=True)
class HttpSettings:
    """What a user's environment says about the network.

    Args:
        ca_bundle: A PEM file to trust instead of the system's store.
        proxies: Proxy URL by scheme (``http``, ``https``, ``all``), as ``getproxies`` gives them.
        no_proxy: Comma-separated hosts to reach directly, as in ``$no_proxy``.
        connect_timeout_s: For a TCP or TLS connection.
        read_timeout_s: For the next byte; a connection that is silent longer counts as stalled,
            and so does one that is slower than `SLOWEST_BYTES_PER_S` for as long.
        connections: Kept open per host.
    """

    ca_bundle: str | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    connections: int = 64


class HttpPool:
    """Connections to any number of hosts, shared by threads.

    Attributes:
        line: What the requests have measured so far.
    """

    def __init__(self, settings: HttpSettings | None = None) -> None:
        self.settings = settings or HttpSettings()
        self.line = Line()
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def connections_to(self, url: str) -> urllib3.HTTPConnectionPool:
        """Return the connections that ``url`` goes through, for `downloader.net.request`."""
        try:
            return self._manager(url).connection_from_url(url)
        except (LocationParseError, LocationValueError) as error:
            raise InputError(f"want an http or https URL, got {without_secrets(url)!r}") from error

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()
            self._managers.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = self.proxy_of(url)
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = self._new_manager(proxy)
            return self._managers[proxy]

    def _new_manager(self, proxy: str | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {"maxsize": self.settings.connections, "num_pools": 64}
        if self.settings.ca_bundle:
            options["ca_certs"] = self.settings.ca_bundle
        if proxy is None:
            return urllib3.PoolManager(**options)
        auth = urlsplit(proxy)
        if auth.username:
            pair = f"{auth.username}:{auth.password or ''}"
            options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=pair)
        return urllib3.ProxyManager(proxy, **options)

    def proxy_of(self, url: str) -> str | None:
        """Return the proxy that ``url`` goes through, None for a direct connection."""
        parts = urlsplit(url)
        proxies = self.settings.proxies
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        bypass = {"no": self.settings.no_proxy}
        if not proxy or urllib.request.proxy_bypass_environment(  # type: ignore[attr-defined]
            parts.netloc.rpartition("@")[2], bypass
        ):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"


def transport_error(
    method: str, url: str, error: Exception, proxy: str | None = None
) -> TransportError:
    """Return the error to raise where urllib3 or a socket gave up, without any secret.

    Args:
        method: Of the request.
        url: Of the request.
        error: What was raised.
        proxy: The host of the proxy, where ``error`` came up while a connection was made
            through one.
    """
    host = urlsplit(url).netloc.rpartition("@")[2] or "?"
    reason = getattr(error, "reason", None)  # an exception in urllib3, a text in ssl
    cause = reason if isinstance(reason, Exception) else error
    text, hint = _in_words(cause)
    if proxy is not None:
        text = f"proxy {proxy}: {text}"
    # A refused connection is a timeout to urllib3, but it costs no time.
    unreachable = isinstance(cause, NewConnectionError | ConnectionRefusedError)
    return TransportError(
        f"{method} {without_secrets(url)}: no answer from {host} ({text})",
        timed_out=isinstance(cause, TimeoutError | Urllib3TimeoutError) and not unreachable,
        unreachable=unreachable,
        hint=hint,
    )


_HINT = "check the network and the proxy variables, then run it again"
_ADDRESS_HINT = "check the address and the proxy variables"
# The first that fits; {error} is the error's own text.
_CAUSES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "certificate not trusted: {error.verify_message}",
        "name the certificate of the server, or of the proxy, in SSL_CERT_FILE",
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
        return "the server speaks no TLS", "check whether the address is http or https"
    for kind, text, hint in _CAUSES:
        if isinstance(inner, kind):
            if kind is OSError and not getattr(inner, "strerror", None):
                return str(inner)[:200], hint  # `Tunnel connection failed: 407 ...`, PySocks
            return text.format(error=inner), hint
    return "connection failed", _HINT
