"""A SOCKS5 proxy on loopback: whatever it is asked for, it leads to one server.

Source: RFC 1928, sections 3 to 6; RFC 1929.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Self

_NO_PASSWORD, _PASSWORD, _REFUSED = 0, 2, 255
_ADDRESS_BYTES = {1: 4, 4: 16}
_NAME = 3


class SocksProxy:
    """The proxy, for a with block.

    Args:
        server: ``HOST:PORT`` that every connection leads to.
        password: That it wants from the user ``me``; empty for none.

    Attributes:
        asked: ``HOST:PORT`` of each connection, as the client named it.
    """

    def __init__(self, server: str, password: str = "") -> None:
        host, _, port = server.rpartition(":")
        self.server = (host, int(port))
        self.password = password
        self.asked: list[str] = []
        proxy = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    proxy._serve(self)

        self._listener = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self.host = f"127.0.0.1:{self._listener.server_address[1]}"

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def _serve(self, client: StreamRequestHandler) -> None:
        version, count = client.rfile.read(2)
        methods = client.rfile.read(count)
        wanted = _PASSWORD if self.password else _NO_PASSWORD
        method = wanted if version == 5 and wanted in methods else _REFUSED
        client.wfile.write(bytes([5, method]))
        if method == _REFUSED or (self.password and not self._is_known(client)):
            return
        _, command, _, kind = client.rfile.read(4)
        size = client.rfile.read(1)[0] if kind == _NAME else _ADDRESS_BYTES[kind]
        address = client.rfile.read(size)
        [port] = struct.unpack("!H", client.rfile.read(2))
        family = {1: socket.AF_INET, 4: socket.AF_INET6}
        name = address.decode() if kind == _NAME else socket.inet_ntop(family[kind], address)
        self.asked.append(f"{name}:{port}")
        assert command == 1  # CONNECT
        with socket.create_connection(self.server) as server:
            client.wfile.write(bytes([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
            back = threading.Thread(target=_pass_on, args=(server, client.connection), daemon=True)
            back.start()
            _pass_on(client.connection, server)
            back.join()

    def _is_known(self, client: StreamRequestHandler) -> bool:
        user = client.rfile.read(client.rfile.read(2)[1])
        password = client.rfile.read(client.rfile.read(1)[0])
        is_known = (user, password.decode()) == (b"me", self.password)
        client.wfile.write(bytes([1, 0 if is_known else 1]))
        return is_known


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(64 * 1024):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
