"""What can go wrong, each with a name; set while the server runs.

Every fault says which requests it meets (``path``, ``origin``, ``method``) and how often
(``skip`` the first, then ``times``). What it does to the answer is in ``change``.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import re
import time
import zlib
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from tests.support.fake_hub.content import Flipped, Resized, read_all
from tests.support.fake_hub.fault import BodyFault, Fault, Window, World
from tests.support.fake_hub.http_message import Reply
from tests.support.fake_hub.ranges import make_file_reply

if TYPE_CHECKING:
    from tests.support.fake_hub.http_message import Request


@dataclass(frozen=True, kw_only=True)
class NoRanges(BodyFault):
    """The server does not know ranges: always 200 and the whole file."""

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        return _whole(reply)


@dataclass(frozen=True, kw_only=True)
class RangesIgnoredAfterProbe(BodyFault):
    """The server honours ``bytes=0-0`` and answers every other range with the whole file."""

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        return reply if request.headers.get("range") == "bytes=0-0" else _whole(reply)


@dataclass(frozen=True, kw_only=True)
class OtherRange(BodyFault):
    """A 206 that carries (and names) other bytes than those asked for."""

    shift: int = 1

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        if reply.status != 206 or reply.whole is None:
            return reply
        start = max(0, reply.start - self.shift)
        stop = start + reply.stop - reply.start
        named = {**reply.headers, "Content-Range": f"bytes {start}-{stop - 1}/{reply.whole}"}
        return dataclasses.replace(reply, start=start, stop=stop, headers=named)


@dataclass(frozen=True, kw_only=True)
class TooManyRequests(Fault):
    """429, with the time to wait in seconds, as a date, or in ``ratelimit`` headers.

    Source: RFC 9110, section 10.2.3; draft-ietf-httpapi-ratelimit-headers.
    """

    retry_after_s: int | None = 1
    as_date: bool = False
    ratelimit: bool = False

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        answer = Reply.text(429, '{"error":"Too Many Requests"}')
        wait_s = self.retry_after_s
        if wait_s is not None and self.ratelimit:
            answer.headers["ratelimit"] = f'"api";r=0;t={wait_s}'
            answer.headers["ratelimit-policy"] = '"fixed window";"api";q=500;w=300'
        elif wait_s is not None and self.as_date:
            answer.headers["Retry-After"] = formatdate(time.time() + wait_s, usegmt=True)
        elif wait_s is not None:
            answer.headers["Retry-After"] = str(wait_s)
        return answer


@dataclass(frozen=True, kw_only=True)
class Quota(Fault):
    """So many requests in each window of time, as headers of every answer say; then 429.

    Source: draft-ietf-httpapi-ratelimit-headers-10; the Hub's own windows are 300 s.
    """

    requests: int = 500
    window_s: int = 300

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        now_s = time.monotonic()
        with world.lock:
            window = world.windows.get(self)
            if window is None or now_s >= window.end_s:
                window = world.windows[self] = Window(now_s + self.window_s, self.requests)
            is_over = not window.left
            window.left -= not is_over
            left, rest_s = window.left, math.ceil(window.end_s - now_s)
        answer = Reply.text(429, '{"error":"Too Many Requests"}') if is_over else reply
        headers = {
            "RateLimit": f'"resolvers";r={left};t={rest_s}',
            "RateLimit-Policy": f'"fixed window";"resolvers";q={self.requests};w={self.window_s}',
        }
        return dataclasses.replace(answer, headers={**answer.headers, **headers})


@dataclass(frozen=True, kw_only=True)
class ServerError(Fault):
    """500, 502 or 503, with a page of HTML as gateways send it."""

    status: int = 503

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        return Reply.text(self.status, "<html>Bad gateway</html>", Content_Type="text/html")


@dataclass(frozen=True, kw_only=True)
class OtherAnswer(Fault):
    """Something else than what was asked for: a login page, or JSON of another shape."""

    body: str = "<html>Please sign in to the network</html>"
    content_type: str = "text/html"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        answer = Reply.text(self.status, self.body, Content_Type=self.content_type)
        answer.headers |= self.headers
        return answer


@dataclass(frozen=True, kw_only=True)
class ChangedJson(Fault):
    """The Hub's own JSON with other values: of the object, or of every object of the list.

    Args:
        values: By key; None takes the key away.
    """

    values: dict[str, Any] = field(default_factory=dict)

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        document = json.loads(read_all(reply.source))
        for item in document if isinstance(document, list) else [document]:
            item.update(self.values)
            for key in [key for key, value in self.values.items() if value is None]:
                del item[key]
        answer = Reply.text(reply.status, json.dumps(document))
        answer.headers |= reply.headers
        return answer


@dataclass(frozen=True, kw_only=True)
class Compressed(Fault):
    """A body that a proxy has compressed, though the request wants it as it is.

    Args:
        encoding: Of the body.
        extra_bytes: Zeros behind the content, which compress to almost nothing.
    """

    encoding: str = "gzip"
    extra_bytes: int = 0

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        data = read_all(reply.source, reply.start, reply.stop) + bytes(self.extra_bytes)
        level = 1 if self.extra_bytes else 0  # noise does not shrink, and clients are impatient
        packed = {"gzip": gzip.compress(data, level), "deflate": zlib.compress(data, level)}
        answer = Reply.text(reply.status, packed.get(self.encoding, data))
        answer.headers |= reply.headers | {"Content-Encoding": self.encoding}
        return answer


@dataclass(frozen=True, kw_only=True)
class LinkNotRewritten(Fault):
    """A mirror that passes on the address of the next page as huggingface.co gave it."""

    host: str = "https://huggingface.co"

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        link = reply.headers.get("Link")
        if link:
            reply.headers["Link"] = re.sub(r"<http://[^/]+", f"<{self.host}", link)
        return reply


@dataclass(frozen=True, kw_only=True)
class Unauthorized(Fault):
    """401 for a request that was fine a moment ago: the token was revoked."""

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        message = "Invalid credentials in Authorization header"
        return Reply.text(401, f'{{"error":"{message}"}}', X_Error_Message=message)


@dataclass(frozen=True, kw_only=True)
class SignedUrlExpired(Fault):
    """The CDN says that the address is no longer valid, as S3 and CloudFront do."""

    origin: str = "cdn"

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        return expired_reply()


@dataclass(frozen=True, kw_only=True)
class HandsOutExpiredUrls(Fault):
    """The Hub redirects to addresses that expired a minute ago."""

    origin: str = "hub"

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        # The CDN looks at the time before the signature, which this one spoils.
        location = reply.headers.get("Location", "")
        head, found, tail = location.partition("expires=")
        if found:
            past = f"{head}expires={int(time.time()) - 60}&{tail.partition('&')[2]}"
            reply.headers["Location"] = past
        return reply


@dataclass(frozen=True, kw_only=True)
class RedirectElsewhere(Fault):
    """302 to another host; that one refuses ``Authorization`` and serves the file."""

    def meets(self, request: Request, origin: str, name: str, reply: Reply) -> bool:
        return origin != "elsewhere" and super().meets(request, origin, name, reply)

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        target = f"{request.path}?{request.query}" if request.query else request.path
        return Reply(302, {**reply.headers, "Location": world.elsewhere + target})


@dataclass(frozen=True, kw_only=True)
class ResetAfter(BodyFault):
    """TCP reset after so many bytes of the body."""

    after_bytes: int = 0

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        reply.steps.append((self.after_bytes, lambda wire: wire.reset()))
        return reply


@dataclass(frozen=True, kw_only=True)
class CutAfter(BodyFault):
    """The connection is closed in order after so many bytes, before Content-Length."""

    after_bytes: int = 0

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        reply.steps.append((self.after_bytes, lambda wire: wire.cut()))
        return reply


@dataclass(frozen=True, kw_only=True)
class StallAfter(BodyFault):
    """Silence after so many bytes: for a time, or until ``release()``."""

    after_bytes: int = 0
    stall_s: float | None = None

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        released = world.released
        reply.steps.append((self.after_bytes, lambda wire: wire.wait(released, self.stall_s)))
        return reply


@dataclass(frozen=True, kw_only=True)
class WrongBytes(BodyFault):
    """The right length, and one bit is wrong at an offset of the file."""

    at_byte: int = 0

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        return dataclasses.replace(reply, source=Flipped(reply.source, self.at_byte))


@dataclass(frozen=True, kw_only=True)
class FewerBytes(BodyFault):
    """The file is shorter than the Hub said, and the headers agree with its length."""

    missing_bytes: int = 1

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        return _resize(reply, request, -self.missing_bytes)


@dataclass(frozen=True, kw_only=True)
class MoreBytes(BodyFault):
    """The file is longer than the Hub said, and the headers agree with its length."""

    extra_bytes: int = 1

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        return _resize(reply, request, self.extra_bytes)


@dataclass(frozen=True, kw_only=True)
class BandwidthCap(BodyFault):
    """So many bytes a second for every connection."""

    bytes_per_s: int = 1 << 20

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        return dataclasses.replace(reply, bytes_per_s=self.bytes_per_s)


@dataclass(frozen=True, kw_only=True)
class SlowFirstByte(Fault):
    """The answer, head and all, comes late: after a time, or after ``release()``."""

    delay_s: float | None = None

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        released = world.released
        return dataclasses.replace(reply, before=lambda wire: wire.wait(released, self.delay_s))


def expired_reply() -> Reply:
    """Give the answer of a CDN to an address that is too old."""
    body = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    return Reply.text(403, body, Content_Type="application/xml")


def _whole(reply: Reply) -> Reply:
    unranged = {
        name: value
        for name, value in reply.headers.items()
        if name not in {"Accept-Ranges", "Content-Range"}
    }
    return dataclasses.replace(
        reply, status=200, headers=unranged, start=0, stop=reply.whole or reply.stop
    )


def _resize(reply: Reply, request: Request, more_bytes: int) -> Reply:
    size_bytes = max(0, (reply.whole or 0) + more_bytes)
    unranged = _whole(reply).headers
    return make_file_reply(request, Resized(reply.source, size_bytes), unranged)


KINDS: dict[str, type[Fault]] = {
    kind.__name__: kind
    for kind in (
        NoRanges, RangesIgnoredAfterProbe, OtherRange, TooManyRequests, Quota, ServerError,
        Unauthorized, SignedUrlExpired, HandsOutExpiredUrls, RedirectElsewhere, ResetAfter,
        OtherAnswer, ChangedJson, Compressed, LinkNotRewritten,
        CutAfter, StallAfter, WrongBytes, FewerBytes, MoreBytes, BandwidthCap, SlowFirstByte,
    )
}  # fmt: skip


def dump_fault(fault: Fault) -> dict[str, Any]:
    """Write a fault for JSON."""
    return {"kind": type(fault).__name__, **dataclasses.asdict(fault)}


def parse_fault(raw: dict[str, Any]) -> Fault:
    """Read what :func:`dump_fault` wrote; also ``{"kind": "ResetAfter", "times": 1}``."""
    fields = dict(raw)
    return KINDS[fields.pop("kind")](**fields)
