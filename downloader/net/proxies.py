"""The proxy for an address: one rule for the Hub and for registries.

Source: golang.org/x/net/http/httpproxy, the rule of docker, crane, oras and skopeo; curl's
manual, "--proxy", for the schemes.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from downloader.environment import ProxySettings, Setting
from downloader.errors import InputError
from downloader.net.address import Address, is_loopback, parse_address

_PROXY = re.compile(
    r"(?:(?P<scheme>[a-z0-9]+)://)?(?:(?P<user>.*)@)?(?P<host>[^/@]*)/?", re.IGNORECASE
)
_SCHEMES = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"}
_PORTS = {"https": 443, "http": 80}
_SOCKS_PORT = 1080


@dataclass(frozen=True)
class Proxy:
    """A proxy.

    Args:
        scheme: ``http``, ``https``, ``socks4``, ``socks4a``, ``socks5`` or ``socks5h``.
        netloc: Host and port.
        username: Empty for none.
        password: Empty for none.
        setting: The variable that names it, for messages.
    """

    scheme: str
    netloc: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    setting: str

    @property
    def url(self) -> str:
        """Its URL, without user and password."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def secret_url(self) -> str:
        """Its URL with user and password, for another program's environment."""
        if not self.username:
            return self.url
        user, password = quote(self.username, safe=""), quote(self.password, safe="")
        return f"{self.scheme}://{user}:{password}@{self.netloc}"

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS rather than HTTP."""
        return self.scheme.startswith("socks")

    def __str__(self) -> str:
        """Return it for messages."""
        return f"proxy {self.url} of {self.setting}"


class HostList:
    """Hosts as ``NO_PROXY`` lists them.

    A name is that host and its subdomains, with a leading dot (or ``*.``) only these; an
    address may be a network (``10.0.0.0/8``); each may end in a port; ``*`` is every host.

    Args:
        items: Such texts; malformed ones match nothing, as everywhere in the field.

    >>> hosts = HostList(["10.0.0.0/8", ".corp.example", "reg.lan:5000", "[::1]"])
    >>> [host in hosts for host in (("10.1.2.3", 80), ("a.corp.example", 80), ("reg.lan", 80))]
    [True, True, False]
    """

    def __init__(self, items: list[str] | tuple[str, ...]) -> None:
        self._items = [item.strip().lower() for item in items if item.strip()]

    def __contains__(self, place: tuple[str, int]) -> bool:
        """Whether a host (without brackets) and port are among them."""
        host, port = place[0].rstrip(".").lower(), place[1]
        return any(_matches(item, host, port) for item in self._items)


def _matches(item: str, host: str, port: int) -> bool:
    address = _ip(host)
    if "/" in item:
        try:
            network = ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
        return address is not None and address.version == network.version and address in network
    name, wanted_port = item, ""
    if _ip(item.strip("[]")) is None:
        head, colon, tail = item.rpartition(":")
        if colon and tail.isascii() and tail.isdigit():
            name, wanted_port = head, tail
    if wanted_port and int(wanted_port) != port:
        return False
    if (listed := _ip(name.strip("[]"))) is not None:
        return listed == address
    domain = "." + name.removeprefix("*").strip(".")
    is_itself = not name.startswith((".", "*")) and host == domain[1:]
    return name == "*" or is_itself or host.endswith(domain)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class Proxies:
    """The proxies of an environment.

    Args:
        settings: The variables.

    Raises:
        InputError: One of them names no proxy; the message says which.
    """

    def __init__(self, settings: ProxySettings | None = None) -> None:
        found = settings or ProxySettings()
        every = _parse(found.all)
        self._by_scheme = {
            "http": _parse(found.http) or every,
            "https": _parse(found.https) or every,
        }
        self._bypass = HostList(
            found.bypass.value.replace(",", " ").split() if found.bypass else []
        )

    def find(self, address: Address) -> Proxy | None:
        """Return the proxy that ``address`` is reached through, None for a direct connection.

        This machine itself is always reached directly: by its addresses and as ``localhost``.
        The proxy may know another name below that, as everywhere in the field.
        """
        proxy = self._by_scheme[address.scheme]
        is_here = is_loopback(address.host) and not address.host.endswith(".localhost")
        if is_here or (address.host, address.port) in self._bypass:
            return None
        return proxy

    def variables_for(self, address: Address) -> dict[str, str]:
        """Return the variables by which another program takes the same way to ``address``."""
        proxy = self.find(address)
        if proxy is None:
            return {"NO_PROXY": "*", "no_proxy": "*"}
        name = f"{address.scheme}_proxy"
        return {
            name: proxy.secret_url,
            name.upper(): proxy.secret_url,
            "no_proxy": "",
            "NO_PROXY": "",
        }


def _parse(setting: Setting | None) -> Proxy | None:
    if setting is None:
        return None
    match = _PROXY.fullmatch(setting.value)
    scheme = (match["scheme"] or "http").lower() if match else ""
    if match is None or scheme not in _SCHEMES:
        raise _malformed(setting)
    default = _PORTS.get(scheme, _SOCKS_PORT)
    try:
        address = parse_address(f"http://{match['host']}/", error=InputError)
    except InputError:
        raise _malformed(setting) from None
    has_port = re.search(r":[0-9]+\Z", match["host"])
    host = f"[{address.host}]" if ":" in address.host else address.host
    username, _, password = (match["user"] or "").partition(":")
    return Proxy(
        scheme,
        f"{host}:{address.port if has_port else default}",
        unquote(username),
        unquote(password),
        setting.name,
    )


def _malformed(setting: Setting) -> InputError:
    # Not repeated: it may hold a password anywhere.
    return InputError(
        f"{setting.name}: want a proxy like http://HOST:PORT or socks5h://HOST:PORT,"
        " got something else",
        hint=f"correct or unset {setting.name}",
    )
