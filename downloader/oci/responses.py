"""Answers of a registry: its errors in words, its links and its redirects. No I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from downloader.document import load_object
from downloader.errors import ProtocolError, RegistryError, without_secrets
from downloader.net.address import parse_address, resolve_address
from downloader.net.retry import parse_retry_after
from downloader.oci.auth import login_hint
from downloader.units import format_seconds

ERROR_BODY_LIMIT_BYTES = 64 * 1024  # an error page, not a blob
_ERRORS_SHOWN = 3  # of those that one answer lists
_TEXT_LIMIT = 300  # characters of a registry's own words in a message
_DISK_FULL = 507  # some say 500, and why in words
_DISK_FULL_HINT = "the registry's disk is full: its operator has to make room; then run it again"

_LINK = re.compile(r'\s*<([^<>]*)>((?:\s*;\s*[a-zA-Z*]+\s*=\s*(?:"[^"]*"|[^\s",;]+))*)\s*(?:,|$)')
_BARE_LINK = re.compile(
    r'\s*([^\s<>;,"]+)\s*;\s*rel\s*=\s*"?next"?\s*', re.IGNORECASE
)  # not by RFC
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))', re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """An answer whose body was read, as far as its limit; ``url`` is where it came from."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""


def parse_errors(body: bytes) -> list[tuple[str, str]]:
    """Return the (code, message) pairs of an error document, empty if it is none.

    Source: OCI distribution specification 1.1, "Error Codes".

    >>> parse_errors(b'{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}')
    [('NAME_UNKNOWN', 'no such repository')]
    >>> parse_errors(b"<html>502 Bad Gateway</html>")
    []
    """
    errors = (load_object(body) or {}).get("errors")
    if not isinstance(errors, list):
        return []
    found = [error for error in errors if isinstance(error, dict)]
    return [(_text(error.get("code")), _text(error.get("message"))) for error in found]


def _text(value: object) -> str:
    text = "".join(c if c.isprintable() else " " for c in str(value or ""))
    return re.sub(r"https?://\S+", lambda url: without_secrets(url[0]), text)[:_TEXT_LIMIT]


def registry_error(registry: str, what: str, answer: Answer) -> RegistryError:
    """Return the error for an answer that was no.

    Args:
        registry: The host, for the hint how to log in.
        what: The failed request, for messages: ``upload to ghcr.io/me/x``.
        answer: With its status and body.
    """
    errors = parse_errors(answer.body)
    said = "; ".join(f"{code}: {message}" for code, message in errors[:_ERRORS_SHOWN])
    codes = {code for code, _ in errors}
    hint = _hint(registry, answer.status, codes, said)
    asked_s = parse_retry_after(answer.headers, datetime.now(UTC))
    wait = f", and asks to wait {format_seconds(asked_s)}" if asked_s else ""
    message = f"{what}: {said or 'no reason given'} (status {answer.status}{wait})"
    error = RegistryError(message, status=answer.status, hint=hint)
    error.codes = frozenset(codes)
    return error


def _hint(registry: str, status: int, codes: set[str], said: str) -> str | None:
    if status == _DISK_FULL or "no space left" in said.lower():
        return _DISK_FULL_HINT
    hints = [
        (401, "UNAUTHORIZED", login_hint(registry)),
        (403, "DENIED", "the account may not do this: check its rights and the repository's name"),
        (None, "NAME_UNKNOWN", "check the repository's name; some registries want it made first"),
        (413, None, "a proxy before the registry limits one request: use smaller upload chunks"),
        (429, "TOOMANYREQUESTS", "log in for a higher limit, or try again later"),
    ]
    found = (hint for number, code, hint in hints if status == number or code in codes)
    return next(found, None)


def next_url(base: str, location: str | None) -> str:
    """Resolve a ``Location`` against the URL that answered with it.

    Raises:
        ProtocolError: There is none, one that can be read in two ways, or it leaves https
            for http.
    """
    here = parse_address(base)
    there = resolve_address(here, location)
    if here.scheme == "https" and there.scheme != "https":
        raise ProtocolError(
            f"want a Location on https, got {there}",
            hint="the registry does not know its own scheme: its proxy must send X-Forwarded-Proto",
        )
    return there.url


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the ``Content-Length`` of an answer, None where it says none."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def parse_next_link(value: str | None) -> str | None:
    """Return the target of the link whose relation is ``next``, None if there is none.

    Raises:
        ProtocolError: The header is malformed.

    Source: RFC 8288, section 3; OCI distribution specification 1.1, "Listing Tags".

    >>> parse_next_link('</v2/a/tags/list?n=2&last=b>; rel="next"')
    '/v2/a/tags/list?n=2&last=b'
    """
    at = 0
    value = value or ""
    while at < len(value):
        link = _LINK.match(value, at)
        if link is None and (bare := _BARE_LINK.fullmatch(value)):
            return bare[1]
        if link is None:
            raise ProtocolError(f'want Link <URL>; rel="next", got {value[:200]!r}')
        rel = _REL.search(link[2])
        if rel and "next" in (rel[1] or rel[2] or "").lower().split():
            return link[1]
        at = link.end()
    return None
