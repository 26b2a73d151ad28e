r"""The one parser of URLs: its result decides which host is connected to and sees a credential.

Two parsers that read one URL differently are a way to steal a credential: `urlsplit` finds
REGISTRY in ``http://CDN\@REGISTRY/``, urllib3 finds CDN. So a URL that can be read in two ways
is refused here, and everything else uses the `Address`, never the text.

Source: RFC 3986, sections 3 and 5; WHATWG URL, "host parsing", for what others read into it.
"""

import contextlib
import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote, urljoin

from downloader.errors import HfModelsError, ProtocolError, without_secrets

REDIRECTS = frozenset({301, 302, 303, 307, 308})  # statuses; RFC 9110, section 15.4
LENGTH_LIMIT = 16 * 1024  # characters; the signed URLs of CDNs have some 2,000

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?:#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(?::(?P<port>[0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")  # some parsers drop them, others do not
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SAFE = "!$%&'()*+,-./:;=?@_~"  # what a path or a query may hold unescaped; RFC 3986, 3.3 and 3.4

# Whose last four bytes are an IPv4 address: compatible and mapped (RFC 4291, 2.5.5), translated
# (RFC 2765), NAT64 (RFC 6052 and 8215).
_WITH_IPV4 = [
    ipaddress.IPv6Network(text)
    for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")
]

Origin = tuple[str, str, int]
Network = Literal["public", "private", "link-local", "loopback"]


@dataclass(frozen=True)
class Address:
    """A URL of http or https, in its only form.

    Args:
        scheme: ``http`` or ``https``.
        host: Lower case; an IPv6 address without brackets, in its shortest form.
        port: The scheme's own where the URL names none.
        path: Begins with ``/``.
        query: Without ``?``; None where there is none.
    """

    scheme: str
    host: str
    port: int
    path: str = "/"
    query: str | None = None

    @property
    def origin(self) -> Origin:
        """Scheme, host and port, which together decide who sees a credential."""
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """Host and port as a URL has them, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query, as a request's first line has them."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.scheme}://{self.netloc}{self.target}"

    @property
    def root(self) -> str:
        """The URL of the host, without a path."""
        return f"{self.scheme}://{self.netloc}"

    def with_query(self, more: str) -> "Address":
        """Return the same address with ``more`` after its query."""
        return replace(self, query=f"{self.query}&{more}" if self.query else more)

    def __str__(self) -> str:
        """Return it for messages: a query may be a signature, so it is left out."""
        return f"{self.scheme}://{self.netloc}{self.path}"


def parse_address(
    text: str, what: str = "URL", error: type[HfModelsError] = ProtocolError
) -> Address:
    r"""Parse an untrusted URL.

    Characters that a request cannot carry are escaped in path and query, as they often are
    sent unescaped; a fragment is dropped. Host and port are taken as they are or refused.

    Args:
        text: The URL.
        what: Its name in messages: ``Location``.
        error: Class to raise: ``InputError`` for the user's own text.

    Raises:
        HfModelsError: It is no http or https URL, or one that another parser may read as
            another host's: with a backslash, a user, a control character, or a host that is
            neither a name nor an address in its usual form.

    >>> parse_address("HTTPS://GHCR.io:443/v2/a b?x=%2f").url
    'https://ghcr.io/v2/a%20b?x=%2f'
    >>> parse_address("http://cdn.example\\@registry.example/v2/")
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: want URL of http or https, got 'http://registry.example/v2/'
    """

    def refused(reason: str = "") -> HfModelsError:
        shown = without_secrets(text)[:200]
        return error(f"want {what} of http or https, got {shown!r}{reason}")

    if len(text) > LENGTH_LIMIT:
        raise error(f"want {what} of at most {LENGTH_LIMIT} characters, got {len(text)}")
    if _FORBIDDEN.search(text):
        raise refused()
    match = _URL.fullmatch(text)
    if match is None or (scheme := match["scheme"].lower()) not in _PORTS:
        raise refused()
    if "@" in match["authority"]:
        raise refused(" with a user")
    authority = _AUTHORITY.fullmatch(match["authority"])
    host = _parse_host(authority["host"]) if authority else None
    if authority is None or host is None:
        raise refused()
    port = int(authority["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        raise refused(f" with port {port}")
    query = match["query"]
    return Address(
        scheme,
        host,
        port,
        _escaped(match["path"] or "/"),
        None if query is None else _escaped(query),
    )


def resolve_address(base: Address, location: str | None, what: str = "Location") -> Address:
    """Resolve what an answer of ``base`` refers to, which may be relative.

    Raises:
        ProtocolError: There is none, or `parse_address` refuses it.

    >>> resolve_address(parse_address("https://ghcr.io/v2/a/"), "../b?n=1").url
    'https://ghcr.io/v2/b?n=1'
    >>> resolve_address(parse_address("https://ghcr.io/v2/a/"), "//cdn.example/x").url
    'https://cdn.example/x'
    """
    if not location:
        raise ProtocolError(f"{base}: want {what}, got none")
    with contextlib.suppress(UnicodeError):  # headers are read as Latin-1, and sent as UTF-8
        location = location.encode("latin-1").decode()
    if _SCHEME.match(location) or _FORBIDDEN.search(location):
        return parse_address(location, what)
    try:
        joined = urljoin(base.url, location)
    except ValueError:
        joined = location
    return parse_address(joined, what)


def network_of(host: str) -> Network:
    """Return how far a host is by its name or address; names are public but for ``localhost``.

    >>> [network_of(host) for host in ("ghcr.io", "10.0.0.1", "169.254.169.254", "::1")]
    ['public', 'private', 'link-local', 'loopback']
    >>> network_of("::ffff:127.0.0.1"), network_of("k3d.localhost"), network_of("64:ff9b::a00:1")
    ('loopback', 'loopback', 'private')
    """
    name = host.rstrip(".").lower().partition("%")[0]
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return "loopback"
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return "public"
    if isinstance(address, ipaddress.IPv6Address):
        address = _embedded(address) or address
    if address.is_loopback or address.is_unspecified:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    return "public" if address.is_global else "private"


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port and brackets, is this machine.

    >>> [is_loopback(h) for h in ("localhost", "127.0.0.9", "::1", "127.0.0.1.example.org")]
    [True, True, True, False]
    """
    return network_of(host) == "loopback"


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for."""
    if address.is_loopback or address.is_unspecified:  # ::1 and :: are in ::/96
        return None
    if any(address in network for network in _WITH_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def _parse_host(text: str) -> str | None:
    if text.startswith("["):
        try:
            return ipaddress.IPv6Address(text[1:-1]).compressed
        except ValueError:
            return None
    host = text.lower()
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    if _NUMBER.fullmatch(labels[-1]):
        # "127.1", "0x7f.1" and "2130706433" are 127.0.0.1 to a resolver, and names to others.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            return None
    return host


def _escaped(text: str) -> str:
    return quote(_LONE_PERCENT.sub("%25", text), safe=_SAFE)
