"""Uploads of one blob each, as each registry wants them.

A blob of at most one chunk goes in one ``PUT``, which every registry takes. A larger one goes
in chunks (``PATCH`` with ``Content-Range``), each of which is kept in memory until the registry
has it, so that a broken connection costs the rest of a chunk. Where a registry refuses chunks,
the blob is one streamed ``PATCH`` as `docker push` sends it; that one cannot be continued.

Bytes leave as they are written, from the caller's memory; the copy in the window is for later.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Self

from downloader.errors import HfModelsError, IntegrityError, ProtocolError, TransportError
from downloader.net.retry import is_passing
from downloader.oci.digest import Digest
from downloader.oci.responses import ERROR_BODY_LIMIT_BYTES, Answer, parse_errors, registry_error
from downloader.oci.session import Target, UploadSession, parse_offset
from downloader.oci.window import Window

if TYPE_CHECKING:
    from downloader.net.request import Exchange

UploadMode = Literal["auto", "chunked", "stream"]

# One chunk is what a writer keeps in memory to send again. The registry brings each to its
# disk before it answers, so longer ones cost less.
CHUNK_BYTES = 32 * 1024 * 1024
_CHUNK_LIMIT_BYTES = 64 * 1024 * 1024  # the most that is kept where a registry wants longer ones
_GONE_HINT = (
    "the registry forgets uploads that are under way, as one of several machines without a common"
    " storage does: try --upload stream, or another registry"
)
_CHUNKS_REFUSED = frozenset({400, 405, 411, 416, 501})


class UploadLost(TransportError):  # noqa: N818 - an event that the caller answers, by name
    """An upload cannot go on, because bytes that the registry lacks are no longer in memory.

    The caller begins the blob again with `create_blob`, from its source.

    Attributes:
        offset: How many bytes of the blob had been written when it was lost.
    """

    def __init__(self, message: str, *, offset: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class RegistryBlobWriter:
    """A `BlobWriter` on a registry.

    Args:
        target: Where the blob goes.
        size_bytes: Of the blob, None if the caller does not know it.
        chunk_bytes: Of one request, and kept in memory.
        stream: Whether to send one streamed request.
        refused: Called when the registry turns out to refuse chunks; None to take its refusal
            for an error.

    Raises (from `write` and `commit`):
        UploadLost: The blob must be sent again from its source.
        TransportError: It broke more often than the retries allow.
        RegistryError: The registry said no.
        IntegrityError: More or fewer bytes than promised, or the registry got other ones.
    """

    def __init__(
        self,
        target: Target,
        size_bytes: int | None,
        *,
        chunk_bytes: int,
        stream: bool,
        refused: Callable[[], None] | None,
    ) -> None:
        self._target = target
        self._size_bytes = size_bytes
        self._chunk_bytes = chunk_bytes
        self._stream = stream
        self._refused = refused
        self._window = Window(chunk_bytes if size_bytes is None else min(chunk_bytes, size_bytes))
        self._session = UploadSession(target)
        self._retries = target.client.retries()
        self._exchange: Exchange | None = None
        self._authorization: str | None = None
        self._is_renewed = False  # a second 401 in a row is an answer
        self._request_start = 0
        self._request_end: int | None = None  # a streamed request ends with the blob
        self._acked = 0  # the registry has these
        self._has_left = False  # whether any byte did; if not, one PUT carries all
        self._fell_short = False  # what a streamed request was said to have carried
        self._is_committed = False

    @property
    def _what(self) -> str:
        return f"upload to {self._target.name}"

    def write(self, data: memoryview) -> None:
        """Append bytes; ``data`` may be reused once this returns."""
        data = data.cast("B")
        end = self._window.end + len(data)
        if self._size_bytes is not None and end > self._size_bytes:
            raise IntegrityError(f"{self._what}: want {self._size_bytes} bytes, got {end}")
        while data:
            if self._room() == 0:
                self._push(None)
            piece = data[: self._room()]
            if self._is_direct() and self._stream and self._is_full():
                self._window.forget()  # half a stream is of no use
            self._window.append(piece)
            if self._is_direct():
                self._push(piece)
            data = data[len(piece) :]

    def commit(self, digest: Digest) -> None:
        """Finish the blob; the repository has it under ``digest`` when this returns."""
        end = self._window.end
        if self._size_bytes is not None and self._size_bytes != end:
            raise IntegrityError(f"{self._what}: want {self._size_bytes} bytes, got {end}")
        while not self._try_commit(digest):
            pass
        self._is_committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_exchange()
        if not self._is_committed:
            self._session.cancel()
        self._window = Window(0)

    def _is_direct(self) -> bool:
        """Whether bytes leave as they are written: the length of their request is known."""
        if self._size_bytes is not None:
            return self._size_bytes > self._chunk_bytes
        return self._stream and self._has_left

    def _room(self) -> int:
        """How many bytes may be written before the registry must have taken some."""
        if self._is_direct() and self._stream:
            # The first bytes are kept as long as they fit, to begin again with.
            left = self._window.capacity_bytes - self._window.end
            return left if left > 0 else self._chunk_bytes
        if self._exchange is not None and self._request_end is not None:
            return self._request_end - self._window.end
        return self._acked + self._chunk_bytes - self._window.end

    def _is_full(self) -> bool:
        return self._window.end >= self._window.capacity_bytes

    def _push(self, piece: memoryview | None, *, last: bool = False) -> None:
        """Send what is in the window and has not left, ``piece`` being the end of it.

        Returns when all of it has left, and with a chunk's end, when the registry has it.
        """
        while not self._try_push(piece, last=last):
            piece = None

    def _try_push(self, piece: memoryview | None, *, last: bool) -> bool:
        if self._exchange is None:
            self._session.start()
            self._honour_min_length()
        try:
            answer = self._attempt(piece, last=last)
        except TransportError as error:
            self._recover(error, {})
            return False
        return answer is None or self._take(answer)

    def _honour_min_length(self) -> None:
        wanted = min(self._session.min_chunk_bytes, _CHUNK_LIMIT_BYTES)
        if wanted > self._chunk_bytes and not self._stream:
            self._chunk_bytes = wanted
            self._window = self._window.grown(wanted)

    def _attempt(self, piece: memoryview | None, *, last: bool) -> Answer | None:
        """Send; return the answer once there is one, None while the request goes on."""
        if self._exchange is None:
            taken = self._begin()
        else:
            taken = piece is None or self._exchange.send(piece)
        if taken and not last and self._window.end != self._request_end:
            return None
        return self._finish()

    def _begin(self) -> bool:
        start, size_bytes = self._acked, self._size_bytes
        end = self._window.end if size_bytes is None else start + self._chunk_bytes
        end = end if size_bytes is None else min(end, size_bytes)
        headers = {"Content-Type": "application/octet-stream"}
        if self._stream:
            # As `docker push` sends it, so every registry knows it: no length, no range.
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(end - start)
            headers["Content-Range"] = f"{start}-{end - 1}"
        self._request_start, self._request_end = start, None if self._stream else end
        self._has_left = True
        self._exchange, self._authorization = self._target.client.begin(
            "PATCH", self._session.start(), headers, self._target.scopes
        )
        return all(self._exchange.send(view) for view in self._window.views(start))

    def _finish(self) -> Answer:
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 - for the type checker
        exchange.finish()
        body = exchange.read(ERROR_BODY_LIMIT_BYTES)
        answer = Answer(exchange.status, exchange.headers, body)
        self._close_exchange()
        client = self._target.client
        if answer.status == 401 and not self._is_renewed and client.owns(self._session.start()):
            client.challenged(answer.headers, self._target.scopes, self._authorization)
        return answer

    def _take(self, answer: Answer) -> bool:
        """Act on an answer to a PATCH; False where something must be sent again."""
        is_first_chunk = self._request_start == 0 and not self._stream
        if is_first_chunk and self._refused and answer.status in _CHUNKS_REFUSED | {201}:
            self._refused()
            self._switch_to_stream(answer)
        elif answer.status in {201, 202, 204}:
            return self._accept(answer)
        elif answer.status == 401 and not self._is_renewed:
            self._is_renewed = True
            self._resync()
        elif is_passing(answer.status) or answer.status in {404, 416}:
            self._recover(self._error(answer), answer.headers)
        else:
            raise self._error(answer)
        return False

    def _accept(self, answer: Answer) -> bool:
        self._session.moved(self._session.start(), answer.headers)
        self._is_renewed = False
        reported = parse_offset(answer.headers.get("Range"))
        if self._stream:
            # Some say nonsense here (aws/containers-roadmap #2831): the digest will tell.
            self._fell_short = reported is not None and reported < self._window.end
            self._acked = self._window.end
            return True
        if reported is None and self._window.end != self._request_end:
            self._resync()
            return False
        self._continue_at(self._window.end if reported is None else reported)
        if self._acked > self._request_start:
            self._retries.succeeded()
        else:
            stuck = TransportError(f"{self._what}: the registry keeps no byte after {self._acked}")
            if not self._retries.wait(stuck):
                raise stuck
        return self._acked == self._window.end

    def _switch_to_stream(self, answer: Answer) -> None:
        """Begin again with a streamed request: the first chunk is still in memory."""
        self._stream = True
        self._session.cancel()
        self._restart(self._error(answer))

    def _recover(self, error: HfModelsError, headers: Mapping[str, str]) -> None:
        """Wait after a failure, and find out where to go on."""
        self._close_exchange()
        if self._stream and self._window.start > 0:
            raise self._lost(error)
        if not self._retries.wait(error, headers):
            raise error
        self._resync()

    def _resync(self) -> None:
        offset = None if self._stream or not self._has_left else self._session.offset()
        if offset is None:
            self._restart(None)
        else:
            self._continue_at(offset)

    def _continue_at(self, offset: int) -> None:
        if offset > self._window.end:
            raise ProtocolError(
                f"{self._what}: want at most {self._window.end} bytes, the registry has {offset}"
            )
        if offset < self._window.start:
            raise self._lost(None)
        self._acked = offset

    def _restart(self, error: HfModelsError | None) -> None:
        """Begin a new session, while the first byte is still in memory."""
        if self._window.start > 0:
            raise self._lost(error)
        self._session.url = None
        self._acked = 0

    def _lost(self, error: HfModelsError | None) -> UploadLost:
        reason = f" ({error.message})" if error else ""
        lost = UploadLost(
            f"{self._what}: lost after {self._window.end} bytes{reason}",
            offset=self._window.end,
            hint=error.hint if error else _GONE_HINT,
        )
        lost.__cause__ = error
        return lost

    def _try_commit(self, digest: Digest) -> bool:
        body = memoryview(b"")
        if not self._has_left:
            body = next(iter(self._window.views(0)), body)
        elif self._acked < self._window.end:
            self._push(None, last=True)
        self._session.start()
        try:
            answer = self._session.put(digest, body)
        except TransportError as error:
            return self._is_there(digest, error, {})
        return self._take_commit(answer, digest)

    def _take_commit(self, answer: Answer, digest: Digest) -> bool:
        if answer.status in {200, 201, 204}:
            return self._check_digest(answer, digest)
        error = self._error(answer)
        if answer.status == 401 and not self._is_renewed:
            self._is_renewed = True
            self._resync()
            return False
        if is_passing(answer.status) or answer.status in {404, 416}:
            return self._is_there(digest, error, answer.headers)
        if "DIGEST_INVALID" in {code for code, _ in parse_errors(answer.body)}:
            if self._fell_short:
                raise self._lost(error)
            raise IntegrityError(f"{self._what}: want {digest}, the registry got other bytes")
        raise error

    def _check_digest(self, answer: Answer, digest: Digest) -> bool:
        got = answer.headers.get("Docker-Content-Digest", digest)
        if got != digest:
            raise IntegrityError(f"{self._what}: want {digest}, the registry has {got[:100]!r}")
        return True

    def _is_there(self, digest: Digest, error: HfModelsError, headers: Mapping[str, str]) -> bool:
        """Whether the blob is there although the answer was lost; if not, go on or begin again."""
        if not self._retries.wait(error, headers):
            raise error
        if self._session.has(digest, self._window.end):
            return True
        self._resync()
        return False

    def _error(self, answer: Answer) -> HfModelsError:
        error = registry_error(self._target.client.registry, self._what, answer)
        if answer.status == 404 and self._session.url is not None:
            error.hint = error.hint or _GONE_HINT
        return error

    def _close_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
