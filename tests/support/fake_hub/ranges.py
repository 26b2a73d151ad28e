"""Range requests as RFC 9110, section 14 has them, for one range."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.support.fake_hub.http_message import BadRequestError, Reply, Request

if TYPE_CHECKING:
    from tests.support.fake_hub.content import Source

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def make_file_reply(request: Request, source: Source, headers: dict[str, str]) -> Reply:
    """Answer a GET or HEAD of a file: 200, 206 or 416.

    A malformed or multiple range may be ignored by a server; here it is refused,
    because a client that sends one has a mistake in it.
    """
    size_bytes = source.size_bytes
    headers = {"Accept-Ranges": "bytes", **headers}
    value = request.headers.get("range")
    if value is None or not _if_range_holds(request, headers):
        return Reply(200, headers, source, 0, size_bytes, whole=size_bytes)
    start, stop = _parse_range(value, size_bytes)
    if start >= stop:
        refused = Reply.text(416, "Range Not Satisfiable")
        refused.headers["Content-Range"] = f"bytes */{size_bytes}"
        return refused
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
    return Reply(206, headers, source, start, stop, whole=size_bytes)


def _if_range_holds(request: Request, headers: dict[str, str]) -> bool:
    value = request.headers.get("if-range")
    # A weak validator never matches (RFC 9110, section 13.1.5).
    return value is None or value == headers.get("ETag")


def _parse_range(value: str, size_bytes: int) -> tuple[int, int]:
    match = RANGE.fullmatch(value)
    if not match or match.group(0) == "bytes=-":
        raise BadRequestError(f"want one range, bytes=FIRST-LAST, got {value!r}")
    first, last = match.groups()
    if not first:
        return max(0, size_bytes - int(last)), size_bytes
    if last and int(last) < int(first):
        raise BadRequestError(f"want FIRST at most LAST, got {value!r}")
    return int(first), min(int(last) + 1, size_bytes) if last else size_bytes
