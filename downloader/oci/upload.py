"""Uploads of one blob each, in the way that a registry takes them.

::

    small blob                POST   PUT body
    streamed (the default)    POST   PATCH ............................ body ......   PUT
    in chunks                 POST   PATCH body   PATCH body   PATCH body ... ......   PUT

Bytes leave as they are written, and no copy is kept: after an interruption the registry's own
status says where to go on, and the caller reads from there again. ``docker push`` streams, so
every registry takes a streamed request; chunks are for a proxy that limits the length of a
request, and for a registry that keeps nothing of a request that was cut.
"""

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from downloader.errors import HfModelsError, IntegrityError, TransportError
from downloader.net.retry import is_passing
from downloader.oci.auth import Scopes
from downloader.oci.client import RENEWALS_LIMIT, Client, Request
from downloader.oci.digest import Digest
from downloader.oci.responses import (
    ERROR_BODY_LIMIT_BYTES,
    Answer,
    next_url,
    parse_errors,
    registry_error,
)
from downloader.oci.store import SavedUpload
from downloader.units import MIB

if TYPE_CHECKING:
    from downloader.net.request import Exchange

UploadMode = Literal["auto", "chunked", "stream"]

SMALL_BLOB_BYTES = 4 * MIB  # kept in memory and sent in one PUT, which costs a request less
# A registry that keeps nothing of a cut request loses at most this much of a blob.
LONGEST_CHUNK_BYTES = 64 * MIB
_FIRST_CHUNK_BYTES = 16 * MIB
_SHORTEST_CHUNK_BYTES = 1 * MIB  # nginx passes bodies of up to 1 MiB by default
_GAP_SHARE = 20  # one in 20: the wait for a chunk's answer is at most 5 % of sending it

# Some registries copy and hash a blob of 10 GB again before they answer.
COMMIT_TIMEOUT_S = 300.0
_CANCEL_TIMEOUT_S = 5.0  # a courtesy, on the way out
_REDIRECTS = frozenset({307, 308})
_REDIRECTS_LIMIT = 5
_TAKEN = frozenset({200, 201, 202, 204})
# The answers of registries and proxies to a way of uploading that they do not take.
_REFUSALS = frozenset({400, 405, 411, 413, 416, 501})

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_MIN_LENGTH = re.compile(r"\d{1,12}")
_GONE_HINT = (
    "the registry forgets uploads that are under way, as one of several machines without a common"
    " storage does: try again, or another registry"
)
_OTHER_WAY_HINT = "try another way to send: --upload stream, or --upload chunked"

# Registries that a cut upload does not switch to chunks: host (or its parent) -> reason.
_NO_CHUNKS = {
    # Answers 416, "the request body is too large and exceeds the maximum permissible limit of
    # 4 MiB", for a PATCH with a Content-Range; one without it, as `docker push` sends, may be long.
    # Source: oras-project/rust-oci-client #37; openai/tart #179; kitops upload-format.go
    "ghcr.io": "limits a chunk to 4 MiB",
    # Source: cloud.google.com/artifact-registry/docs/reference/docker-api, "chunked uploads";
    # kitops-ml/kitops #777
    "gcr.io": "has no chunked uploads",
    "pkg.dev": "has no chunked uploads",
    # 201 after the first chunk, and a Range header that does not move after it.
    # Source: kitops-ml/kitops upload-format.go; aws/containers-roadmap #2831
    "amazonaws.com": "ends an upload with its first chunk",
    "amazonaws.com.cn": "ends an upload with its first chunk",
    "public.ecr.aws": "ends an upload with its first chunk",
}


def takes_chunks(registry: str) -> bool:
    """Return whether a registry is not known to refuse chunks.

    Args:
        registry: Host, and port if there is one.

    >>> takes_chunks("europe-docker.pkg.dev"), takes_chunks("notghcr.io")
    (False, True)
    """
    host = registry.partition(":")[0].lower()
    return not any(host == known or host.endswith(f".{known}") for known in _NO_CHUNKS)


class UploadInterrupted(TransportError):  # noqa: N818 - an event that the caller answers, by name
    """An upload stopped before its end; `RegistryBlobWriter.resume` says where it goes on."""


@dataclass
class UploadMethod:
    """The way to send large blobs to one registry: set by the user, or learned from its answers.

    Shared by every upload to the registry; each attribute changes by a single assignment.

    Args:
        mode: The user's choice; ``auto`` learns from answers.
        registry: Host and port.
        chunk_bytes: Of one chunk; None to follow the round trip and the rate of the line.
    """

    mode: UploadMode
    registry: str
    chunk_bytes: int | None = None
    is_chunked: bool = field(init=False)
    _measured_bytes: int = field(init=False, default=_FIRST_CHUNK_BYTES)
    _most_bytes: int = field(init=False, default=LONGEST_CHUNK_BYTES)
    _refused_ways: set[bool] = field(init=False, default_factory=set)  # True: in chunks

    def __post_init__(self) -> None:
        self.is_chunked = self.mode == "chunked"

    @property
    def explanation(self) -> str:
        """The way blobs are sent and its reason, for the log."""
        why = f"--upload {self.mode} says so"
        if self.mode == "auto":
            is_learned = self.is_chunked or self._refused_ways
            why = "it was learned" if is_learned else "every registry does so"
        return f"{'chunks' if self.is_chunked else 'one streamed request'}, because {why}"

    def length_of_chunk(self, least_bytes: int) -> int:
        """Return the length of the next chunk.

        Args:
            least_bytes: The registry's minimum (``OCI-Chunk-Min-Length``).
        """
        wanted = self.chunk_bytes or min(self._measured_bytes, self._most_bytes)
        return max(wanted, min(least_bytes, LONGEST_CHUNK_BYTES))

    def measure(self, size_bytes: int, sending_s: float, waiting_s: float) -> None:
        """Adapt the length of chunks to the time that sending one and its answer took."""
        enough = _GAP_SHARE * waiting_s * size_bytes / max(sending_s, 1e-6)
        self._measured_bytes = int(max(self._measured_bytes, min(enough, LONGEST_CHUNK_BYTES)))

    def refuse(self, *, chunked: bool, status: int, sent_bytes: int) -> bool:
        """Record a refusal; return whether there is another way to send."""
        if status == 413 and chunked:
            shorter = max(sent_bytes // 4, _SHORTEST_CHUNK_BYTES)
            if shorter < sent_bytes:
                self._most_bytes, self.chunk_bytes = shorter, None
                return True
        self._refused_ways.add(chunked)
        if self.mode != "auto" or (not chunked) in self._refused_ways:
            return False
        self.is_chunked = not chunked
        return True

    def prefer_chunks(self) -> None:
        """Send chunks from now on: a cut request costs the registry all of its bytes."""
        if self.mode == "auto" and True not in self._refused_ways and takes_chunks(self.registry):
            self.is_chunked = True


@dataclass(frozen=True)
class Target:
    """The destination of blobs: one repository of one registry.

    Args:
        client: Of the registry.
        url: ``https://ghcr.io/v2/me/hf-models``.
        name: For messages.
        scopes: That writing needs.
    """

    client: Client
    url: str
    name: str
    scopes: Scopes


def parse_offset(value: str | None) -> int | None:
    """Return how many bytes a ``Range`` header of an upload says are there.

    None where it says nothing that can be meant: it is absent, ``0--1``, or begins later.
    ``0-0`` is what registries answer for none; that it might be one byte is ignored.

    Source: OCI distribution specification 1.1, "Pushing a blob in chunks".

    >>> parse_offset("0-1023"), parse_offset("0-0"), parse_offset("0--1"), parse_offset("9-12")
    (1024, 0, None, None)
    """
    match = _RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    return int(match[1]) + 1 if int(match[1]) else 0


class UploadSession:
    """The requests of the specification around the bytes: begin, ask, close, cancel.

    Args:
        target: The repository to upload to.
        url: Of a session that was begun before.
    """

    def __init__(self, target: Target, url: str | None = None) -> None:
        self._target = target
        self.url = url
        self.min_chunk_bytes = 0

    def start(self) -> str:
        """Begin the session, if there is none, and return its URL."""
        if self.url is None:
            url = f"{self._target.url}/blobs/uploads/"
            answer = self._target.client.call(self._request("POST", url, _TAKEN))
            self.url = next_url(answer.url, answer.headers.get("Location"))
            length = answer.headers.get("OCI-Chunk-Min-Length", "")
            self.min_chunk_bytes = int(length) if _MIN_LENGTH.fullmatch(length) else 0
        return self.url

    def moved(self, url: str, headers: Mapping[str, str]) -> None:
        """Go on where an answer says: every one may name another ``Location``."""
        location = headers.get("Location")
        if location is not None:
            self.url = next_url(url, location)

    def offset(self) -> int | None:
        """Ask how many bytes the registry has; None where the session is gone or it does not say.

        A lost session is an ordinary answer, so its 404 is not tried again.
        """
        if self.url is None:
            return None
        request = self._request("GET", self.url, {*_TAKEN, 400, 403, 404, 405, 416})
        answer = self._target.client.call(request)
        if answer.status >= 400:
            return None
        self.moved(answer.url, answer.headers)
        return parse_offset(answer.headers.get("Range"))

    def put(self, digest: Digest, body: memoryview) -> Answer:
        """Close the session under ``digest``, ``body`` being its last bytes; tried once."""
        for left in reversed(range(_REDIRECTS_LIMIT)):
            url = self.start()
            request = Request(
                "PUT",
                f"{url}{'&' if '?' in url else '?'}digest={digest.replace(':', '%3A')}",
                f"upload to {self._target.name}",
                self._target.scopes,
                headers={"Content-Type": "application/octet-stream"},
                body=body,
                read_timeout_s=COMMIT_TIMEOUT_S,
            )
            answer = self._target.client.once(request)
            if answer.status not in _REDIRECTS or not left:
                return answer
            self.url = _without_digest(next_url(url, answer.headers.get("Location")))
        raise AssertionError  # the last round returns

    def has(self, digest: Digest, size_bytes: int) -> bool:
        """Return whether the repository has the blob: the answer to a commit may have been lost."""
        url = f"{self._target.url}/blobs/{digest}"
        request = self._request("HEAD", url, {200, 403, 404, 405}, redirect=True)
        answer = self._target.client.call(request)
        size = answer.headers.get("Content-Length", str(size_bytes))
        return answer.status == 200 and size == str(size_bytes)

    def cancel(self) -> None:
        """Tell the registry that nothing more comes; whether it hears does not matter."""
        if self.url is not None:
            with contextlib.suppress(HfModelsError):
                request = self._request("DELETE", self.url, {204}, timeout_s=_CANCEL_TIMEOUT_S)
                self._target.client.once(request)
        self.url = None

    def _request(
        self,
        method: str,
        url: str,
        expect: set[int] | frozenset[int],
        *,
        redirect: bool = False,
        timeout_s: float | None = None,
    ) -> Request:
        return Request(
            method,
            url,
            f"upload to {self._target.name}",
            self._target.scopes,
            expect=expect,
            redirect=redirect,
            read_timeout_s=timeout_s,
        )


def _without_digest(url: str) -> str:
    """Return a ``Location`` that repeats our query without the digest, which `put` adds."""
    return re.sub(r"([?&])digest=[^&]*&?", r"\1", url).rstrip("?&")


@dataclass(frozen=True)
class _Failure:
    """The reason why an upload stopped.

    Args:
        error: Raised where the retries are used up.
        headers: Of the answer, which may say how long to wait.
        is_free: Whether to go on at once, without counting it.
        restarts: Whether the session is of no more use.
    """

    error: HfModelsError
    headers: Mapping[str, str] = field(default_factory=dict)
    is_free: bool = False
    restarts: bool = False


class RegistryBlobWriter:
    """A `BlobWriter` on a registry.

    After `UploadInterrupted` the caller calls `resume` and writes from that offset on.

    Args:
        target: The repository to upload to.
        size_bytes: Of the blob; None where the caller learns it as it writes.
        method: The way that the registry takes blobs.
        saved: The upload that an earlier process began; then call `resume` first.

    Raises (from `write`, `commit` and `resume`):
        UploadInterrupted: Not from `resume`.
        TransportError: It broke more often than the retries allow.
        RegistryError: The registry said no.
        IntegrityError: More or fewer bytes than promised, or the registry got other ones.
    """

    def __init__(
        self,
        target: Target,
        size_bytes: int | None,
        method: UploadMethod,
        saved: SavedUpload | None = None,
    ) -> None:
        self._target = target
        self._size_bytes = size_bytes
        self._method = method
        self._session = UploadSession(target, saved.session_url if saved else None)
        self._retries = target.client.retries()
        largest = min(SMALL_BLOB_BYTES, method.chunk_bytes or SMALL_BLOB_BYTES)
        is_small = size_bytes is not None and size_bytes <= largest and not saved
        self._small = bytearray() if is_small else None
        self._exchange: Exchange | None = None
        self._authorization: str | None = None
        self._offset = saved.sent_bytes if saved else 0  # of the next byte to write
        self._sent_end = 0  # of the last piece, which may have left in part
        self._request_start = 0
        self._request_end: int | None = 0  # None where a streamed request ends with the blob
        self._is_chunk = False  # the request under way
        self._begun_s = 0.0
        self._failure: _Failure | None = None
        self._reached = -1  # where the last resumption went on; beyond it, something moved
        self._renewals = 0  # in a row
        self._redirects = 0
        self._has_odd_range = False  # an answer named another range than was sent
        self._ignores_ranges = False
        self._is_committed = False
        self.keeps_session = False

    @property
    def session_url(self) -> str | None:
        """The session, for a later process to go on with; None before the first large byte."""
        return None if self._small is not None else self._session.url

    @property
    def _what(self) -> str:
        return f"upload to {self._target.name}"

    def write(self, data: memoryview) -> None:
        """Append bytes; ``data`` may be reused once this returns."""
        data = data.cast("B")
        end = self._offset + len(data)
        if self._size_bytes is not None and end > self._size_bytes:
            raise IntegrityError(f"{self._what}: want {self._size_bytes} bytes, got {end}")
        if self._small is not None:
            self._small += data
            self._offset = end
            return
        while data:
            if self._exchange is None:
                self._begin()
            limit = self._request_end
            piece = data if limit is None else data[: limit - self._offset]
            self._send(piece)
            data = data[len(piece) :]

    def resume(self) -> int:
        """Wait as the retries say, and return the offset of the byte to write next."""
        failure, self._failure = self._failure, None
        if (
            failure
            and not failure.is_free
            and not self._retries.wait(failure.error, failure.headers)
        ):
            raise failure.error
        kept = None if failure and failure.restarts else self._session.offset()
        most = self._sent_end if failure else self._size_bytes
        if kept is None or (most is not None and kept > most):
            self._session.cancel()
            kept = 0
        elif self._offset - kept > _FIRST_CHUNK_BYTES:
            self._method.prefer_chunks()
        if kept > self._reached >= 0:
            self._retries.succeeded()
        self._offset = self._reached = kept
        return kept

    def commit(self, digest: Digest) -> None:
        """Finish the blob; the repository has it under ``digest`` when this returns."""
        if self._size_bytes is None:
            self._size_bytes = self._offset
            if self._exchange is not None:
                self._end_request()
        if self._size_bytes != self._offset:
            raise IntegrityError(f"{self._what}: want {self._size_bytes} bytes, got {self._offset}")
        while not self._try_commit(digest):
            pass
        self._is_committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_exchange()
        if not self._is_committed and not (self.keeps_session and self.session_url):
            self._session.cancel()

    def _begin(self) -> None:
        """Begin a request: of a chunk, or of all that is left."""
        url = self._session.start()
        self._is_chunk = self._method.is_chunked
        start = self._request_start = self._offset
        headers = {"Content-Type": "application/octet-stream"}
        self._request_end = self._size_bytes
        if self._is_chunk:
            end = start + self._method.length_of_chunk(self._session.min_chunk_bytes)
            self._request_end = end if self._size_bytes is None else min(end, self._size_bytes)
        if self._size_bytes is None or not self._is_chunk:
            # As `docker push` sends it, so every registry knows it: no length, no range.
            headers["Transfer-Encoding"] = "chunked"
        if self._size_bytes is not None and (self._is_chunk or start):
            assert self._request_end is not None  # noqa: S101 - for the type checker
            headers["Content-Range"] = f"{start}-{self._request_end - 1}"
            if self._is_chunk:
                headers["Content-Length"] = str(self._request_end - start)
        self._begun_s = time.monotonic()
        try:
            self._exchange, self._authorization = self._target.client.begin(
                "PATCH", url, headers, self._target.scopes
            )
        except TransportError as error:
            raise self._interrupted(_Failure(error)) from error

    def _send(self, piece: memoryview) -> None:
        assert self._exchange is not None  # noqa: S101 - for the type checker
        self._sent_end = self._offset + len(piece)
        try:
            is_taken = self._exchange.send(piece)
        except TransportError as error:
            self._close_exchange()
            raise self._interrupted(_Failure(error)) from error
        self._offset += len(piece) if is_taken else 0
        if not is_taken or self._offset == self._request_end:
            self._end_request(is_whole=is_taken)

    def _end_request(self, *, is_whole: bool = True) -> None:
        """Wait for the answer to a request, and act on it."""
        sent_s = time.monotonic()
        try:
            answer = self._read_answer()
        except TransportError as error:
            self._close_exchange()
            raise self._interrupted(_Failure(error)) from error
        if answer.status not in _TAKEN:
            self._raise_refusal(answer)
        if not is_whole:
            early = TransportError(f"{self._what}: answered before the end of the request")
            raise self._interrupted(_Failure(early))
        self._renewals, self._redirects = 0, 0
        self._session.moved(self._session.start(), answer.headers)
        reported = parse_offset(answer.headers.get("Range"))
        if self._is_chunk:
            sending_s, waiting_s = sent_s - self._begun_s, time.monotonic() - sent_s
            self._method.measure(self._offset - self._request_start, sending_s, waiting_s)
            self._check_chunk(reported)
        elif reported is not None and reported != self._offset:
            # Some say nonsense here (aws/containers-roadmap #2831): the digest will tell.
            self._has_odd_range = True

    def _read_answer(self) -> Answer:
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 - for the type checker
        exchange.finish()
        body = exchange.read(ERROR_BODY_LIMIT_BYTES)
        answer = Answer(exchange.status, exchange.headers, body)
        self._close_exchange()
        return answer

    def _check_chunk(self, reported: int | None) -> None:
        """Compare a registry's answer to a chunk with the bytes sent; where they differ, ask it."""
        if self._ignores_ranges:
            return
        kept = reported if reported == self._offset else self._session.offset()
        if kept == self._offset:
            if self._offset > self._reached:
                self._retries.succeeded()
            return
        self._has_odd_range = True
        error = TransportError(
            f"{self._what}: want {self._offset} bytes kept, the registry says"
            f" {'nothing' if kept is None else kept}",
            hint=_OTHER_WAY_HINT,
        )
        is_less = kept is not None and self._request_start <= kept < self._offset
        if is_less and kept == reported and kept != self._reached:  # else it says so of any chunk
            raise self._interrupted(_Failure(error))
        if self._method.refuse(chunked=True, status=0, sent_bytes=0):
            raise self._interrupted(_Failure(error, is_free=True, restarts=True))
        # The user wants chunks: go on; the digest will show whether all of them were kept.

    def _raise_refusal(self, answer: Answer) -> None:
        """Raise the error for an answer that refuses a PATCH.

        Raises:
            UploadInterrupted: The upload can go on, in another way or later.
            RegistryError: The registry takes the blob in no way.
        """
        status, client = answer.status, self._target.client
        error = self._error(answer)
        url = self._session.start()
        if status == 401 and self._renewals < RENEWALS_LIMIT and client.owns(url):
            self._renewals += 1
            client.challenged(answer.headers, self._target.scopes, self._authorization)
            raise self._interrupted(_Failure(error, is_free=True)) from error
        if status in _REDIRECTS and self._redirects < _REDIRECTS_LIMIT:
            self._redirects += 1
            self._session.moved(url, answer.headers)
            raise self._interrupted(_Failure(error, is_free=True)) from error
        if is_passing(status) or status == 404:
            raise self._interrupted(_Failure(error, answer.headers)) from error
        if status in _REFUSALS and self._request_start > 0 and status != 413:
            # It kept less than it reported, or does not continue a request that was cut.
            restarts = not self._is_chunk
            raise self._interrupted(_Failure(error, restarts=restarts)) from error
        sent_bytes = (self._request_end or self._offset) - self._request_start
        if status in _REFUSALS and self._method.refuse(
            chunked=self._is_chunk, status=status, sent_bytes=sent_bytes
        ):
            raise self._interrupted(_Failure(error, is_free=True, restarts=True)) from error
        if status in _REFUSALS and status != 413:
            error.hint = error.hint or _OTHER_WAY_HINT
        raise error

    def _interrupted(self, failure: _Failure) -> UploadInterrupted:
        self._failure = failure
        return UploadInterrupted(failure.error.message, hint=failure.error.hint)

    def _try_commit(self, digest: Digest) -> bool:
        body = memoryview(self._small if self._small is not None else b"")
        try:
            answer = self._session.put(digest, body)
        except TransportError as error:
            return self._is_there(digest, error, {})
        status, refusal = answer.status, self._error(answer)
        if status in _TAKEN:
            got = answer.headers.get("Docker-Content-Digest", digest)
            if got != digest:
                raise IntegrityError(f"{self._what}: want {digest}, the registry has {got[:100]!r}")
            return True
        if status == 401 and self._renewals < RENEWALS_LIMIT:
            self._renewals += 1
            return False  # `once` has renewed the credential
        if is_passing(status) or status in {404, 416}:
            return self._is_there(digest, refusal, answer.headers)
        if "DIGEST_INVALID" in {code for code, _ in parse_errors(answer.body)}:
            self._bytes_differ(digest, refusal)
        raise refusal

    def _bytes_differ(self, digest: Digest, error: HfModelsError) -> None:
        if not self._has_odd_range or self._ignores_ranges:
            raise IntegrityError(f"{self._what}: want {digest}, the registry got other bytes")
        error.hint = _OTHER_WAY_HINT
        self._ignores_ranges = True  # what they said was wrong, if anything was
        self._method.refuse(chunked=self._is_chunk, status=0, sent_bytes=0)
        raise self._interrupted(_Failure(error, restarts=True)) from error

    def _is_there(self, digest: Digest, error: HfModelsError, headers: Mapping[str, str]) -> bool:
        """Return whether the blob is there although its answer was lost; if not, go on or again."""
        if not self._retries.wait(error, headers):
            raise error
        if self._session.has(digest, self._offset):
            return True
        if self._small is not None:
            self._session.url = None  # begin again, with the bytes in memory
            return False
        raise self._interrupted(_Failure(error, is_free=True)) from error

    def _error(self, answer: Answer) -> HfModelsError:
        error = registry_error(self._target.client.registry, self._what, answer)
        if answer.status == 404 and self._session.url is not None:
            error.hint = error.hint or _GONE_HINT
        return error

    def _close_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
