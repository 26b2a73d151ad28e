"""The current address of a file: redirects followed, signed URLs renewed, the token kept home.

The Hub answers with the bytes themselves (small files) or redirects to a CDN with a signed
URL that expires after an hour or so. This is the one place that knows: a download, a child
process and a stream all ask here for the address.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from downloader.errors import (
    HubError,
    IntegrityError,
    ProtocolError,
    TransportError,
    without_secrets,
)
from downloader.net.address import REDIRECTS, parse_address, resolve_address
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange, check_content_range, range_header
from downloader.net.request import Exchange
from downloader.net.retry import (
    Retry,
    RetryPolicy,
    TransientError,
    is_passing,
    parse_retry_after,
)
from downloader.progress import Note, ignore
from downloader.transfer.source import (
    RangesIgnoredError,
    Reader,
    ResumingReader,
    TailReader,
)

_LONGEST_CHAIN = 6  # the Hub needs two: resolve-cache, then the CDN
# What S3, CloudFront and the Hub's CAS bridge answer to a signature that is over.
_SIGNATURE_OVER = frozenset({400, 401, 403, 404, 410})

_HINTS = {
    "GatedRepo": "accept the repo's conditions on its page, then give a token with access",
    "RepoNotFound": "check the repo id and type; a private repo needs a token with access",
    "RevisionNotFound": "check --revision",
    "EntryNotFound": "check the file name and the revision",
}


@dataclass(frozen=True)
class FileSource:
    """The Hub's own address of a file at a commit, and the headers for that host only.

    The Hub redirects large files to a CDN with a signed URL that expires, so ``url`` is
    resolved again whenever a signed one is refused; ``headers`` (the token) stay with the Hub.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Target:
    """An address that answers with bytes, and the headers that may go there."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


class Location:
    """The current address of one file; may be used by several threads.

    Args:
        http: Connections.
        source: The Hub's address of the file, and the headers for that origin only.
        note: Told of a wait for the Hub's rate limit.
    """

    def __init__(
        self,
        http: HttpPool,
        source: FileSource,
        note: Note = ignore,
    ) -> None:
        self._note = note
        self._http = http
        self._home = Target(source.url, source.headers)
        self._target = self._home
        self._is_resolved = False
        self._limit = http.rate_limit(parse_address(source.url).root)
        self._is_asking = False
        self._changed = threading.Condition()

    @property
    def name(self) -> str:
        """For messages."""
        return without_secrets(self._home.url)

    def open(self, want: ByteRange | None) -> Exchange:
        """Ask once for the file or for ``want`` of it; the body is unread.

        Raises:
            TransientError: No answer, a status that passes, or a signed URL that is over; the
                next call asks the Hub again.
            HubError: The Hub said no.
        """
        headers = {"Range": range_header(want)} if want else {}
        with self._changed:  # one asks the Hub, the others wait for what it learns
            self._changed.wait_for(lambda: self._is_resolved or not self._is_asking)
            is_asking = self._is_asking = not self._is_resolved
        try:
            return self._open(headers)
        finally:
            if is_asking:
                with self._changed:
                    self._is_asking = False
                    self._changed.notify_all()

    def resolve(self) -> tuple[Target, bool]:
        """Return the address that answers without a redirect, and whether it honours ranges.

        Raises:
            TransientError, HubError: As `open` does.
        """
        with self.open(ByteRange(0, 1)) as response:
            return self._target, response.status == 206 and not response.inflate(1)

    def _open(self, headers: Mapping[str, str]) -> Exchange:
        for _ in range(_LONGEST_CHAIN):
            target = self._target
            response = self._request(target, headers)
            if response.status in REDIRECTS:
                self._follow(target, response)
                continue
            if response.status in {200, 206}:
                self._is_resolved = True
                return response
            response.drain()
            raise self._refusal(target, response)
        self._target = self._home
        raise ProtocolError(f"{without_secrets(self._home.url)}: more than 5 redirects")

    def _request(self, target: Target, headers: Mapping[str, str]) -> Exchange:
        is_home = target is self._home
        if is_home:
            self._limit.take(time.sleep, self._note)
        said: Mapping[str, str] = {}
        try:
            response = Exchange(self._http, "GET", target.url, {**target.headers, **headers})
            said = response.headers
        except TransportError as error:
            # The CDN's host may be gone; the Hub may name another.
            self._forget(target)
            raise TransientError(error) from error
        finally:
            if is_home:
                self._limit.learn(said)
        return response

    def _follow(self, target: Target, response: Exchange) -> None:
        response.drain()
        url = resolve_address(parse_address(target.url), response.headers.get("Location")).url
        self._target = Target(url, self._home.headers if self._is_home(url) else {})

    def _is_home(self, url: str) -> bool:
        """Whether ``url`` is the Hub's own, so that it may see the token."""
        return parse_address(url).origin == parse_address(self._home.url).origin

    def _forget(self, target: Target) -> None:
        if self._target is target:
            self._target, self._is_resolved = self._home, False

    def _refusal(self, target: Target, response: Exchange) -> Exception:
        is_home = self._is_home(target.url)
        error = _hub_error(target.url, response, is_home)
        self._forget(target)
        if response.status in _SIGNATURE_OVER and not is_home:
            return TransientError(error)
        if response.status == 416:
            message = f"{without_secrets(target.url)}: want a range inside the file, got 416"
            return TransientError(IntegrityError(message))
        if is_passing(response.status):
            return TransientError(error, parse_retry_after(response.headers))
        return error


def _hub_error(url: str, response: Exchange, is_home: bool) -> HubError:
    code = response.headers.get("X-Error-Code", "")
    said = response.headers.get("X-Error-Message", "") or code or response.reason or "no reason"
    hint = _HINTS.get(code)
    if is_home and response.status == 401:
        hint = hint or "the token is missing or not valid: set HF_TOKEN"
    if is_home and response.status == 429:
        hint = "the Hub's rate limit: wait some minutes, or give a token"
    message = f"{without_secrets(url)}: HTTP {response.status}: {said[:300]}"
    return HubError(message, status=response.status, hint=hint)


def _check_answer(response: Exchange, want: ByteRange, size_bytes: int, name: str) -> bool:
    """Return whether the body is exactly ``want``; False where it is the whole file.

    A body that was compressed against our wish is inflated as it is read. Where that is the
    answer to a range, it is of no use, and False: the file is read from its first byte.

    Args:
        response: Status 200 or 206.
        want: The half-open interval of byte offsets that was asked for.
        size_bytes: Of the whole file, as the Hub promised it.
        name: Of the file, for messages.

    Raises:
        TransientError: The headers announce other bytes, or another size.
    """
    is_range = response.status == 206
    expected = want.size_bytes if is_range else size_bytes
    if response.inflate(expected):
        return False
    try:
        if is_range:
            # First the size of the file: another one is the file's fault, not the server's.
            content_range = response.headers.get("Content-Range")
            _check_total((content_range or "*").rpartition("/")[2], size_bytes, name)
            check_content_range(content_range, want)
        _check_total(response.headers.get("Content-Length", "*"), expected, name)
    except (ProtocolError, IntegrityError) as error:
        response.close()
        raise TransientError(error) from error
    return is_range


def _check_total(text: str, want_bytes: int, name: str) -> None:
    if text not in {"*", str(want_bytes)}:
        raise IntegrityError(f"{name}: want {want_bytes} bytes, got an answer of {text[:40]} bytes")


def _check_end(response: Exchange, name: str) -> None:
    """Raise unless the body is over; needed where no Content-Length bounds it.

    Raises:
        TransientError: More bytes follow.
    """
    try:
        more = response.read_some(memoryview(bytearray(1)))
    except TransportError as error:
        raise TransientError(error) from error
    if more:
        raise TransientError(IntegrityError(f"{name}: want the end of the file, got more bytes"))


class HubFile:
    """A file of the Hub at a commit, as a `RangeSource`.

    Args:
        http: Connections.
        source: The Hub's address of the file.
        size_bytes: As the Hub's list has it.
        policy: For each range; bytes that arrive reset its count of failures.
        note: Told before a long wait.
    """

    def __init__(
        self,
        http: HttpPool,
        source: FileSource,
        size_bytes: int,
        *,
        policy: RetryPolicy | None = None,
        note: Note = ignore,
    ) -> None:
        self.location = Location(http, source, note=note)
        self.name = self.location.name
        self.size_bytes = size_bytes
        self.has_ranges = True
        self.policy = policy or RetryPolicy()
        self.note = note
        self._is_blamed = False

    def open(self, wanted: ByteRange) -> Reader:
        """Open a range; without a ``Range`` header where it is the whole file."""
        if self.has_ranges:
            return _HubReader(self, wanted)
        inner = _HubReader(self, ByteRange(0, wanted.end))
        return TailReader(inner, wanted.start, self.name)

    def blame(self) -> bool:
        """Return true once: the cache of a CDN may hold a damaged copy."""
        was_blamed, self._is_blamed = self._is_blamed, True
        return not was_blamed


class _HubReader(ResumingReader):
    def __init__(self, file: HubFile, wanted: ByteRange) -> None:
        super().__init__(file.name, wanted.start, wanted.end)
        self._file = file
        self.retry = Retry(file.policy, self.interrupted.wait, note=file.note, name=file.name)

    def connect(self) -> Exchange:
        size_bytes = self._file.size_bytes
        want = ByteRange(self.at, self.end or 0)
        is_whole = want == ByteRange(0, size_bytes) or not self._file.has_ranges
        response = self._file.location.open(None if is_whole else want)
        is_range = _check_answer(response, want, size_bytes, self.name)
        if not is_range and (want.start or response.status == 206):
            response.close()
            self._file.has_ranges = False
            raise RangesIgnoredError(f"{self.name}: the server sends the whole file, not a range")
        return response

    def read_body(self, exchange: Exchange, buffer: memoryview) -> int:
        count = super().read_body(exchange, buffer)
        if self.at + count == self._file.size_bytes and exchange.status == 200:
            _check_end(exchange, self.name)
        return count
