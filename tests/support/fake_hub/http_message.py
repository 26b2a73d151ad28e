"""HTTP/1.1 messages, strict in what is taken.

Not http.server: that one parses headers with the e-mail package, and forgives.

Source: RFC 9112.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_to_bytes

from tests.support.fake_hub.content import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.fake_hub.content import Source
    from tests.support.fake_hub.wire import Wire

# RFC 3986: what may stand in a request target. A raw space, '#', quote or non-ASCII
# letter is the client's mistake, and a server that forgives it would hide that.
TARGET = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*(?:\?\S*)?")


class BadRequestError(Exception):
    """The request breaks HTTP; the text says how."""


@dataclass(frozen=True)
class Request:
    """A parsed request; header names are lower case, path segments are decoded."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def segments(self) -> list[str]:
        """The path, split at ``/`` and only then decoded."""
        try:
            return [unquote_to_bytes(part).decode() for part in self.path[1:].split("/")]
        except UnicodeDecodeError as error:
            raise BadRequestError(f"want UTF-8 under the percent signs: {error}") from None

    @property
    def params(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass
class Reply:
    """An answer before it is sent; faults change it.

    Args:
        status: The status code.
        headers: Without Content-Length, which follows from the interval.
        source: Where the body comes from.
        start: First byte of it that is sent.
        stop: One past the last byte.
        whole: The full representation's size; None where ranges make no sense.
        steps: At how many bytes of the body something happens, and what.
        before: What happens before the first byte of the head.
        bytes_per_s: The cap; None is none.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    source: Source = Memory(b"")  # noqa: RUF009  # frozen
    start: int = 0
    stop: int = 0
    whole: int | None = None
    steps: list[tuple[int, Callable[[Wire], None]]] = field(default_factory=list)
    before: Callable[[Wire], None] | None = None
    bytes_per_s: int | None = None

    @classmethod
    def text(cls, status: int, body: str | bytes, **headers: str) -> Reply:
        """Make an answer of a small body; ``X_Error_Code`` names ``X-Error-Code``."""
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, named, Memory(data), 0, len(data))


def parse_head(head: bytes) -> Request:
    r"""Parse the request line and the headers, strictly.

    Raises:
        BadRequestError: Not a request line of three words, a target with characters
            that must be percent-encoded, a header without a colon.

    Source: RFC 9112, sections 3 and 5.

    >>> parse_head(b"GET /a%20b HTTP/1.1\r\nHost: x").segments
    ['a b']
    >>> parse_head(b"GET /a#b HTTP/1.1\r\nHost: x")
    Traceback (most recent call last):
    tests.support.fake_hub.http_message.BadRequestError: want a percent-encoded target, got b'/a#b'
    """
    line, *fields = head.split(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or words[2] != b"HTTP/1.1":
        raise BadRequestError(f"want METHOD TARGET HTTP/1.1, got {line!r}")
    if not TARGET.fullmatch(words[1]) or b"#" in words[1]:
        raise BadRequestError(f"want a percent-encoded target, got {words[1]!r}")
    headers = dict(_parse_field(one) for one in fields)
    if "host" not in headers:
        raise BadRequestError("want a Host header")
    path, _, query = words[1].decode("ascii").partition("?")
    return Request(words[0].decode("ascii"), path, query, headers)


def _parse_field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.decode("latin-1").partition(":")
    if not colon or not name or name != name.strip():
        raise BadRequestError(f"want NAME: VALUE, got {line!r}")
    return name.lower(), value.strip()


def make_head(reply: Reply) -> bytes:
    """Write the status line and the headers, with their empty line."""
    phrase = HTTPStatus(reply.status).phrase
    headers = {
        "Date": formatdate(usegmt=True),
        "X-Request-Id": f"Root=1-{uuid.uuid4()}",
        "Content-Length": str(reply.stop - reply.start),
        **reply.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} {phrase}\r\n{lines}\r\n".encode("latin-1")
