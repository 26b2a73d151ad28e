"""One request whose body the caller pushes, and an answer that is read without a copy.

urllib3 pulls a body from an iterable and copies what ``readinto`` gives. Uploads are pushed
by the thread that has the bytes, and on two cores every copy shows. So its connections (with their
proxies, TLS and keep-alive) are driven here by the methods of `http.client`, which they are.

Redirects are never followed and statuses never raised: what they mean is the caller's
knowledge. Only the absence of an answer becomes an error here.
"""

import contextlib
import http.client
import io
import logging
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from urllib3 import HTTPHeaderDict
from urllib3.exceptions import HTTPError
from urllib3.util import wait_for_read
from urllib3.util.proxy import connection_requires_http_tunnel

from downloader.errors import TransportError
from downloader.net.address import is_loopback, parse_address
from downloader.net.body import Body, InflatedBody, inflate, is_inflatable, open_body
from downloader.net.http import USER_AGENT, HttpPool, connect_to, transport_error
from downloader.net.resolve import look_up
from downloader.net.throughput import Watch

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection

_log = logging.getLogger(__name__)

# The rest of an answer that costs less to read than a new handshake.
_DRAINED_BYTES = 256 * 1024

_PROXY_LOGIN = 407  # RFC 9110, section 15.5.8: not the server's answer, but the proxy's

# The last one: an address that cannot be put on the line.
_FAILURES = (HTTPError, OSError, http.client.HTTPException, UnicodeError)


class _WatchedSocket:
    """A socket for `http.client.HTTPResponse`, whose reads look at a `Watch` each time."""

    def __init__(self, sock: socket.socket, watch: Watch) -> None:
        self._sock = sock
        self._watch = watch

    def makefile(self, mode: str) -> io.BufferedReader:
        # The socket's own file object, because that keeps the socket open after its
        # connection was closed, as http.client does after a head with `Connection: close`.
        raw = self._sock.makefile(mode, buffering=0)  # type: ignore[call-overload]
        return io.BufferedReader(_WatchedReader(raw, self._watch))


class _WatchedReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, watch: Watch) -> None:
        self._raw = raw
        self._watch = watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - as typeshed has it
        count = self._raw.readinto(buffer)
        self._watch.received(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class Exchange:
    """A request under way on a connection of a pool; a context manager that gives it back.

    Used by one thread: construct, `send` the body, then read `status`, `headers`, `readinto`.

    Args:
        pool: Lends the connection.
        method: Upper case.
        url: Absolute, ``http`` or ``https``.
        headers: Sent as they are; they say whether a body follows: ``Content-Length``, or
            ``Transfer-Encoding: chunked``, in which case `send` frames what it sends.
        read_timeout_s: For the next byte, in both directions, and for a head as a whole;
            None for the pool's.
        addresses: The IP addresses that its host was judged by: no other is connected to. None
            where they were not judged.

    Raises:
        TransportError: No connection: DNS, connect, TLS, proxy, timeout or reset.
        ProtocolError: The URL is none, or one that can be read in two ways.
        InputError: The settings for the connection are wrong.
    """

    def __init__(
        self,
        pool: HttpPool,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        read_timeout_s: float | None = None,
        addresses: Sequence[str] | None = None,
    ) -> None:
        self._method = method
        self._address = parse_address(url)
        self._asked = f" ({headers['Range']})" if "Range" in headers else ""
        self._framed = "Transfer-Encoding" in headers
        self._owed_bytes = int(headers.get("Content-Length", 0))
        self._complete = not self._framed and self._owed_bytes == 0
        self._response: http.client.HTTPResponse | None = None
        self._body: Body | None = None
        self._is_closed = False
        self._proxy = pool.settings.proxies.find(self._address)
        if addresses is None and self._proxy is None and is_loopback(self._address.host):
            addresses = look_up(self._address)
        self._addresses = addresses
        self._connections = pool.connections_to(self._address)
        self._line = pool.line
        timeout_s = read_timeout_s or pool.settings.read_timeout_s
        self._watch = Watch(timeout_s)
        with self._mapped():
            self._connection = cast(
                "HTTPConnection",
                self._connections._get_conn(),  # noqa: SLF001 - no public way to borrow one
            )
            self._start(pool, headers, timeout_s)
        self._sent_s = time.monotonic() if self._complete else None

    def _start(self, pool: HttpPool, headers: Mapping[str, str], read_timeout_s: float) -> None:
        connection = self._connection
        proxied, tunnelled = self._route()
        if self._addresses is not None and self.peer not in {None, *self._addresses}:
            connection.close()  # it was made when the name had another address
        if connection.is_closed:
            self._connect(pool.settings.connect_timeout_s, tunnelled=tunnelled)
        self._sock = connection.sock  # the connection forgets one that the server will close
        self._sock.settimeout(read_timeout_s)
        target = self._address.url if proxied and not tunnelled else self._address.target
        connection.putrequest(self._method, target, skip_accept_encoding=True)
        extra = self._connections.proxy_headers if proxied and not tunnelled else {}
        defaults = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        for name, value in {**defaults, **extra, **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()

    def _connect(self, timeout_s: float, *, tunnelled: bool) -> None:
        self._connection.timeout = timeout_s
        try:
            if tunnelled:
                self._connections._prepare_proxy(self._connection)  # noqa: SLF001 - as urlopen does
            elif self._addresses is None:
                self._connection.connect()
            else:
                connect_to(self._connection, self._addresses)
        except _FAILURES as error:
            # Behind a tunnel a TLS error is the server's as a rule, and names its certificate.
            via = None if isinstance(error, ssl.SSLError) else self._proxy
            self._connection.close()
            raise transport_error(self._method, self._address, error, via) from error

    def _route(self) -> tuple[bool, bool]:
        proxy = self._connections.proxy
        tunnelled = connection_requires_http_tunnel(
            proxy, self._connections.proxy_config, self._address.scheme
        )
        return proxy is not None, tunnelled

    def send(self, data: memoryview) -> bool:
        """Send a piece of the body.

        Returns:
            False where the server answered before it had the whole body: nothing more will
            be taken, and `status` says why.

        Raises:
            TransportError: Reset or timeout, and no answer to be read.
        """
        if self._answered_early():
            return False
        try:
            if self._framed:
                # RFC 9112, section 7.1
                self._send_all(memoryview(b"%x\r\n" % len(data)), data, memoryview(b"\r\n"))
            else:
                self._send_all(data)
        except (ConnectionResetError, BrokenPipeError):
            # A refusal is sent before the line is cut, and explains it.
            with self._mapped():
                self._read_head()
            return False
        except (HTTPError, OSError) as error:
            raise self._failed(error) from error
        self._owed_bytes -= 0 if self._framed else len(data)
        self._complete = not self._framed and self._owed_bytes == 0
        return True

    def finish(self) -> None:
        """End a body that was sent with ``Transfer-Encoding: chunked``."""
        if self._framed and self._response is None:
            with self._mapped(), contextlib.suppress(ConnectionResetError, BrokenPipeError):
                self._send_all(memoryview(b"0\r\n\r\n"))
            self._complete = True

    def _answered_early(self) -> bool:
        if self._response is not None:
            return True
        sock = self._sock
        # A TLS 1.3 session ticket makes a socket readable too, so this would wait for ever.
        if hasattr(sock, "pending") or not wait_for_read(sock, timeout=0.0):
            return False
        with self._mapped():
            self._read_head()
        return True

    def _send_all(self, *parts: memoryview) -> None:
        # One call for all parts: the few bytes of a frame, sent by themselves, wait until a
        # third of the socket's buffer is free, in which time the caller hashes nothing.
        gathers = type(self._sock) is socket.socket and hasattr(self._sock, "sendmsg")
        left = [part for part in parts if part]
        while left:
            # `sendall` has one deadline for all of it, which a slow line would miss; here the
            # timeout is that of a line on which nothing moves.
            with self._watch.waiting():
                count = self._sock.sendmsg(left) if gathers else self._sock.send(left[0])
            self._watch.moved(count)
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if count:
                left[0] = left[0][count:]

    @property
    def peer(self) -> str | None:
        """The IP address that answers; None before there is one, and behind a proxy."""
        sock = self._connection.sock
        if sock is None or self._proxy is not None:
            return None
        try:
            return str(sock.getpeername()[0])
        except OSError:  # cut meanwhile
            return None

    @property
    def url(self) -> str:
        """Address of the request."""
        return self._address.url

    @property
    def status(self) -> int:
        """The status of the answer, waiting for it."""
        return self._answer().status

    @property
    def reason(self) -> str:
        """Reason phrase of the status, waiting for it; may be empty."""
        return self._answer().reason

    @property
    def headers(self) -> HTTPHeaderDict:
        """The headers of the answer, waiting for it; names in any case, repeated ones joined."""
        return HTTPHeaderDict(self._answer().headers.items())

    def _answer(self) -> http.client.HTTPResponse:
        if self._response is None:
            with self._mapped():
                self._read_head()
        assert self._response is not None  # noqa: S101 - for the type checker
        return self._response

    def _read_head(self) -> None:
        watch = self._watch

        def open_response(sock: socket.socket, **options: Any) -> http.client.HTTPResponse:  # noqa: ANN401
            return http.client.HTTPResponse(_WatchedSocket(sock, watch), **options)  # type: ignore[arg-type]

        self._connection.response_class = open_response  # type: ignore[assignment]
        with watch.waiting(is_whole=True):
            # urllib3's own `getresponse` belongs to its own `request`.
            self._response = http.client.HTTPConnection.getresponse(self._connection)
        if self._response.status == _PROXY_LOGIN and self._proxy is not None:
            refusal = OSError(f"{_PROXY_LOGIN} {self._response.reason}")
            raise transport_error(self._method, self._address, refusal, self._proxy)
        if self._sent_s is not None:
            self._line.answered(time.monotonic() - self._sent_s, self._response.status)
        self._body = open_body(self._sock, self._response)
        _log.debug(
            "%s %s%s: %s, %s bytes",
            self._method,
            self._address,
            self._asked,
            self._response.status,
            self._response.headers.get("Content-Length", "?"),
        )

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with the answer's body; fewer bytes at its end only, then 0.

        Raises:
            TransportError: The connection was cut, or nothing came for too long.
        """
        filled = 0
        while filled < len(buffer) and (count := self.read_some(buffer[filled:])):
            filled += count
        return filled

    def read_some(self, buffer: memoryview) -> int:
        """Read what is there of the answer's body, waiting for it; 0 at its end.

        Raises:
            TransportError: The connection was cut, or nothing came for too long.
        """
        self._answer()
        assert self._body is not None  # noqa: S101 - for the type checker
        try:
            with self._watch.waiting():
                count = self._body.readinto(buffer)
            self._watch.moved(count)
        except _FAILURES as error:
            raise self._failed(error) from error
        return count

    def read(self, limit_bytes: int) -> bytes:
        """Return the answer's body, or its first ``limit_bytes``.

        A body that was compressed against our wish, as some proxies do, is decompressed.

        Raises:
            TransportError: The connection was cut, or nothing came for too long.
            ProtocolError: The body is not compressed as its head says.
        """
        data = bytearray(limit_bytes)
        body = bytes(data[: self.readinto(memoryview(data))])
        if isinstance(self._body, InflatedBody):
            return body
        encoding = self.headers.get("Content-Encoding", "")
        return inflate(body, encoding, limit_bytes) if body else body

    def inflate(self, size_bytes: int | None) -> bool:
        """Read the body from here on without its ``Content-Encoding``, where it has one.

        Call it before the first read. A store may name an encoding for a file that is itself
        compressed, and that it sends as it is: then the length of the body is the file's.

        Args:
            size_bytes: Of the body without its encoding; None where that is not known.

        Returns:
            Whether the body is encoded: then ``Content-Length`` is not its size.
        """
        encoding = self.headers.get("Content-Encoding", "")
        is_as_it_is = self.headers.get("Content-Length") == str(size_bytes)
        if not is_inflatable(encoding) or is_as_it_is:
            return False
        assert self._body is not None  # noqa: S101 - for the type checker
        self._body = InflatedBody(self._body, encoding)
        return True

    def drain(self) -> None:
        """Read the rest of the answer where that keeps the connection cheaply, and close."""
        response = self._answer()
        with contextlib.suppress(TransportError):
            if response.length is not None and response.length <= _DRAINED_BYTES:
                self.read(_DRAINED_BYTES)
        self.close()

    def shutdown(self) -> None:
        """Wake up another thread that waits for the answer: it sees the end of it."""
        if self._is_closed:  # another exchange may have the connection
            return
        # The TCP socket itself: a TLS one would turn into it under the thread that reads.
        line = getattr(self._sock, "socket", self._sock)  # TLS in TLS is a wrapper of urllib3
        with contextlib.suppress(OSError):
            socket.socket.shutdown(line, socket.SHUT_RD)

    def close(self) -> None:
        """Give the connection back if both bodies are over; else it is of no use any more."""
        response = self._response
        if self._is_closed:
            return
        self._is_closed = True
        if self._body is not None:
            self._body.end()
        if response is not None and self._complete and response.isclosed():
            self._connections._put_conn(self._connection)  # noqa: SLF001 - see `_get_conn`
        else:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop(self) -> None:
        self._is_closed = True
        if self._response is not None:
            self._response.close()
        self._connection.close()

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> TransportError:
        if hasattr(self, "_connection"):
            self._drop()
        if isinstance(error, ConnectionResetError):
            self._line.reset()
        return transport_error(self._method, self._address, error)
