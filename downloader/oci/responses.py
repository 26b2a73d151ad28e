"""What a registry answered: its errors in words, its links and its redirects. No I/O."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

from downloader.errors import ProtocolError, RegistryError, without_secrets
from downloader.net.retry import parse_retry_after
from downloader.oci.auth import login_hint
from downloader.units import format_seconds

ERROR_BODY_LIMIT_BYTES = 64 * 1024  # an error page, not a blob
_ERRORS_SHOWN = 3  # of those that one answer lists
_TEXT_LIMIT = 300  # characters of a registry's own words in a message
_DISK_FULL = 507  # some say 500, and why in words
_DISK_FULL_HINT = "the registry's disk is full: whoever runs it has to make room; then run it again"
_PORTS = {"https": 443, "http": 80}

_LINK = re.compile(r'\s*<([^<>]*)>((?:\s*;\s*[a-zA-Z*]+\s*=\s*(?:"[^"]*"|[^\s",;]+))*)\s*(?:,|$)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))', re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """An answer whose body was read, as far as its limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def parse_errors(body: bytes) -> list[tuple[str, str]]:
    """Return the (code, message) pairs of an error document, empty if it is none.

    Source: OCI distribution specification 1.1, "Error Codes".

    >>> parse_errors(b'{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}')
    [('NAME_UNKNOWN', 'no such repository')]
    >>> parse_errors(b"<html>502 Bad Gateway</html>")
    []
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return []
    errors = document.get("errors") if isinstance(document, dict) else None
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
        what: What was wanted, ``upload to ghcr.io/me/x``.
        answer: With its status and body.
    """
    errors = parse_errors(answer.body)
    said = "; ".join(f"{code}: {message}" for code, message in errors[:_ERRORS_SHOWN])
    hint = _hint(registry, answer.status, {code for code, _ in errors}, said)
    asked_s = parse_retry_after(answer.headers, datetime.now(UTC))
    wait = f", and asks to wait {format_seconds(asked_s)}" if asked_s else ""
    message = f"{what}: {said or 'no reason given'} (status {answer.status}{wait})"
    return RegistryError(message, status=answer.status, hint=hint)


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


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port, which together decide who sees a credential.

    >>> origin_of("https://GHCR.io/v2/") == origin_of("https://ghcr.io:443/")
    True
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme not in _PORTS or not host:
        raise ProtocolError(f"want an http or https URL, got {without_secrets(url)[:200]!r}")
    return parts.scheme, host, port or _PORTS[parts.scheme]


def next_url(base: str, location: str | None) -> str:
    """Resolve a ``Location`` against the URL that answered with it.

    Raises:
        ProtocolError: There is none, or it leaves https for http.
    """
    if not location or not location.isascii() or not location.isprintable() or " " in location:
        raise ProtocolError(f"{without_secrets(base)}: want a Location header, got none or garbage")
    try:
        url = urljoin(base, location)
    except ValueError:
        url = location
    scheme = origin_of(url)[0]
    if origin_of(base)[0] == "https" and scheme != "https":
        raise ProtocolError(
            f"want a Location on https, got {without_secrets(url)}",
            hint="the registry does not know its own scheme: its proxy must send X-Forwarded-Proto",
        )
    return url


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
        if link is None:
            raise ProtocolError(f'want Link <URL>; rel="next", got {value[:200]!r}')
        rel = _REL.search(link[2])
        if rel and "next" in (rel[1] or rel[2] or "").lower().split():
            return link[1]
        at = link.end()
    return None
