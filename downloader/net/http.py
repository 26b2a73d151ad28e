"""One pool of HTTP connections: proxies, CA bundle, timeouts, and errors of this project.

Bulk bytes go through urllib3's connections, because a read from them costs a quarter of the
CPU time of the httpx family, and two cores are all that a small runner has.
"""

import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import LocationParseError, LocationValueError, NewConnectionError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from downloader import __version__
from downloader.errors import InputError, TransportError, without_secrets

USER_AGENT = f"hf-models/{__version__}"


@dataclass(frozen=True)
class HttpSettings:
    """What a user's environment says about the network.

    Args:
        ca_bundle: A PEM file to trust instead of the system's store.
        proxies: Proxy URL by scheme (``http``, ``https``, ``all``), as ``getproxies`` gives them.
        no_proxy: Comma-separated hosts to reach directly, as in ``$no_proxy``.
        connect_timeout_s: For a TCP or TLS connection.
        read_timeout_s: For the next byte; a connection that is silent longer counts as stalled.
        connections: Kept open per host.
    """

    ca_bundle: str | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    connections: int = 32


class HttpPool:
    """Connections to any number of hosts, shared by threads."""

    def __init__(self, settings: HttpSettings | None = None) -> None:
        self.settings = settings or HttpSettings()
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


def transport_error(method: str, url: str, error: Exception) -> TransportError:
    """Return the error to raise where urllib3 or a socket gave up, without any secret."""
    host = urlsplit(url).netloc.rpartition("@")[2] or "?"
    reason = getattr(error, "reason", None)  # an exception in urllib3, a text in ssl
    cause = reason if isinstance(reason, Exception) else error
    # A refused connection is a timeout to urllib3, but it costs no time.
    is_refused = isinstance(cause, NewConnectionError)
    return TransportError(
        f"{method} {without_secrets(url)}: no answer from {host} ({type(cause).__name__})",
        timed_out=isinstance(cause, TimeoutError | Urllib3TimeoutError) and not is_refused,
        hint="check the network, the proxy variables and the CA bundle, then run it again",
    )
