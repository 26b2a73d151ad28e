"""One request against servers that answer badly: raw sockets, one fault each."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from downloader.environment import read_environment
from downloader.errors import TransportError
from downloader.net.http import HttpPool, HttpSettings
from downloader.net.proxies import Proxies
from downloader.net.request import Exchange
from tests.support.tls import make_certificate

TIMEOUT_S = 0.4

Send = Callable[[socket.socket, threading.Event], None]


@contextmanager
def server(send: Send) -> Iterator[str]:
    """Give the URL of a server that calls ``send`` on each connection after its request."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while not over.is_set():
                with suppress(OSError):
                    sock, _ = listener.accept()
                    with sock:
                        sock.recv(65536)
                        send(sock, over)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file"
        over.set()
        with suppress(OSError):
            socket.create_connection(listener.getsockname(), 1).close()
        thread.join(5)


def read_proxies(variables: dict[str, str]) -> Proxies:
    return Proxies(read_environment(variables).proxies)


def read_whole(url: str, **settings: object) -> bytes:
    pool = HttpPool(HttpSettings(read_timeout_s=TIMEOUT_S, **settings))  # type: ignore[arg-type]
    with Exchange(pool, "GET", url, {}) as exchange:
        return exchange.read(1 << 20)


def trickle(start: bytes, piece: bytes, pause_s: float = 0.02) -> Send:
    def send(sock: socket.socket, over: threading.Event) -> None:
        sock.sendall(start)
        while not over.wait(pause_s):
            sock.sendall(piece)

    return send


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "send",
    [
        trickle(HEAD, b"X"),
        trickle(HEAD, b"X: y\r\n"),
        trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, 0),
        trickle(HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
        trickle(HEAD + b"\r\n", b"x"),
        trickle(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        trickle(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
        trickle(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n"),
        trickle(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 9000, 0),
    ],
    ids=[
        "head",
        "head-lines",
        "interim-answers",
        "interim-answers-fast",
        "body",
        "body-of-no-length",
        "chunks",
        "chunk-extension",
        "trailers",
        "trailers-fast",
    ],
)
def test_answer_that_is_drawn_out_ends_in_time(send: Send) -> None:
    # Newer releases of Python count interim answers and trailers themselves, and end sooner.
    with (
        server(send) as url,
        pytest.raises(TransportError, match=r"too slow|is not HTTP") as caught,
    ):
        read_whole(url)
    assert caught.value.timed_out or "is not HTTP" in caught.value.message


def test_slow_answer_above_the_lowest_rate_is_read_to_its_end() -> None:
    size = 30_000

    def send(sock: socket.socket, over: threading.Event) -> None:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(30):
            sock.sendall(b"x" * 1000)
            over.wait(0.03)

    with server(send) as url:
        assert len(read_whole(url)) == size


def test_head_that_asks_to_close_keeps_its_body() -> None:
    with server(
        lambda sock, _: sock.sendall(HEAD + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc")
    ) as url:
        assert read_whole(url) == b"abc"


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (lambda sock, over: over.wait(2), "nothing received in time"),
        (lambda sock, over: None, "connection closed without an answer"),
        (lambda sock, over: sock.sendall(b"SSH-2.0-x\r\n"), "the answer is not HTTP"),
    ],
)
def test_failure_names_host_file_and_cause(send: Send, words: str) -> None:
    with server(send) as url, pytest.raises(TransportError) as caught:
        read_whole(url)
    host = url.split("/")[2]
    assert caught.value.message == f"GET {url}: no answer from {host} ({words})"


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_refused_connection_is_unreachable() -> None:
    with pytest.raises(TransportError, match=r"\(connection refused\)") as caught:
        read_whole(f"http://127.0.0.1:{_closed_port()}/x")
    assert caught.value.unreachable
    assert not caught.value.timed_out


def test_unknown_name_is_said() -> None:
    with pytest.raises(TransportError, match=r"no answer from hub\.invalid \(name not known\)"):
        read_whole("http://hub.invalid/x")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_reached_is_named(scheme: str) -> None:
    port = _closed_port()
    proxies = read_proxies({f"{scheme}_proxy": f"http://127.0.0.1:{port}"})
    with pytest.raises(TransportError, match="connection refused") as caught:
        read_whole(f"{scheme}://registry.example/x", proxies=proxies)
    assert f"(proxy http://127.0.0.1:{port} of {scheme}_proxy: " in caught.value.message
    assert f"check {scheme}_proxy" in (caught.value.hint or "")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_refuses_is_named_with_its_answer(scheme: str) -> None:
    def send(sock: socket.socket, over: threading.Event) -> None:
        sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with server(send) as url:
        proxies = read_proxies({f"{scheme}_proxy": url.removesuffix("/file")})
        refused = pytest.raises(TransportError, match=r"\(proxy .*: .*407 Proxy Authentication")
        with refused as caught:
            read_whole(f"{scheme}://registry.example/x", proxies=proxies)
    assert caught.value.hint == f"check the user and password in {scheme}_proxy"


def test_server_without_tls_is_said() -> None:
    no_tls = pytest.raises(TransportError, match=r"\(the server speaks no TLS\)")
    with server(lambda sock, _: sock.sendall(HEAD + b"\r\n")) as url, no_tls:
        read_whole(url.replace("http:", "https:"))


@pytest.mark.tools("openssl")
def test_certificate_that_is_not_trusted_is_said(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(tmp_path, "localhost", "IP:127.0.0.1"))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError), listener:
            sock, _ = listener.accept()
            with sock, context.wrap_socket(sock, server_side=True):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{listener.getsockname()[1]}/x"
    with pytest.raises(TransportError, match=r"\(certificate not trusted: self") as caught:
        read_whole(url)
    assert "SSL_CERT_FILE" in (caught.value.hint or "")
    thread.join(5)
