"""The published site of the catalogue: its address, and the catalog.json that is there."""

import http
from collections.abc import Callable

from downloader.environment import Environment
from downloader.errors import InputError, ProtocolError, ServerError, TransportError
from downloader.farm.catalog.readme import CATALOG_LIMIT_BYTES
from downloader.net.address import REDIRECTS, parse_address, resolve_address
from downloader.net.http import HttpPool
from downloader.net.request import Exchange
from downloader.net.retry import Retry, RetryPolicy, TransientError, is_passing

_LONGEST_CHAIN = 5  # addresses: a page with a domain of its own is redirected there


def site_url(environment: Environment) -> str | None:
    """Return where the site of this job's repository is, None for a server other than GitHub.

    ``CATALOG_URL`` says it; without, it is at GitHub Pages.

    Raises:
        InputError: This is no job of a repository, or the address has a query or a user.

    Source: https://docs.github.com/pages, "Types of GitHub Pages sites".
    """
    if given := environment.get("CATALOG_URL"):
        if "?" in given or "@" in given:  # it is printed, and a name is added to its end
            raise InputError("want CATALOG_URL without a query, a user or a password")
        return given
    owner, _, name = environment.get("GITHUB_REPOSITORY", "").partition("/")
    if not name:
        raise InputError("the variable CATALOG_URL or GITHUB_REPOSITORY is not set")
    if environment.get("GITHUB_SERVER_URL") != "https://github.com":
        return None
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def fetch_catalog(
    pool: HttpPool, url: str, pause: Callable[[float], object] | None = None
) -> bytes | None:
    """Return the catalog.json of a published site, None where there is none yet.

    Args:
        pool: Connections.
        url: Of the site.
        pause: As `Retry` takes it.

    Raises:
        ServerError: The server says no, and not that there is none.
        TransportError: No answer after the retries.
        ProtocolError: A redirect to no address, too many of them, or a document above 64 MiB.
    """
    retry = Retry(RetryPolicy(), pause)
    while True:
        try:
            return _fetch_once(pool, f"{url.rstrip('/')}/catalog.json")
        except TransientError as failure:
            retry.wait_or_raise(failure)


def _fetch_once(pool: HttpPool, url: str) -> bytes | None:
    address = parse_address(url, "CATALOG_URL", InputError)
    for _ in range(_LONGEST_CHAIN):
        try:
            with Exchange(pool, "GET", address.url, {}) as answer:
                if answer.status in REDIRECTS:
                    address = resolve_address(address, answer.headers.get("Location"))
                    continue
                status, data = answer.status, answer.read(CATALOG_LIMIT_BYTES + 1)
                _check_length(answer, data)
        except TransportError as error:
            raise TransientError(error) from error
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        if status != http.HTTPStatus.OK:
            refused = ServerError(f"{address}: want status 200 or 404, got {status}", status=status)
            raise TransientError(refused) if is_passing(status) else refused
        if len(data) > CATALOG_LIMIT_BYTES:
            raise ProtocolError(f"{address}: want at most {CATALOG_LIMIT_BYTES} bytes")
        return data
    raise ProtocolError(f"{url}: more than {_LONGEST_CHAIN - 1} redirects")


def _check_length(answer: Exchange, data: bytes) -> None:
    length = answer.headers.get("Content-Length", "")
    is_encoded = answer.headers.get("Content-Encoding") is not None
    if not is_encoded and length.isdecimal() and len(data) < min(int(length), CATALOG_LIMIT_BYTES):
        raise TransportError(f"{answer.url}: cut after {len(data)} of {length} bytes")
