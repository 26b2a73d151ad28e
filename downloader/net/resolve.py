"""Names of hosts looked up once: the addresses that were judged are connected to.

A server of names may answer the second question otherwise than the first (DNS rebinding), so
the code that judges the addresses of a host hands the same ones to the connection.
"""

import socket

from downloader.net.address import Address, network_of

_HERE = ("127.0.0.1", "::1")


def look_up(address: Address) -> tuple[str, ...]:
    """Return the IP addresses of a host, in the order to try; empty for an unknown name.

    ``localhost`` and the names below it are this machine, whatever a server of names says.

    Source: RFC 6761, section 6.3.
    """
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        infos = []
    found = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
    if network_of(address.host) != "loopback":
        return found
    return tuple(item for item in found if network_of(item) == "loopback") or _HERE
