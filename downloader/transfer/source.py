"""Sources of ranged bytes, and a reader that goes on where a connection broke."""

import io
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from downloader.errors import HfModelsError, ProtocolError, TransportError
from downloader.net.ranges import ByteRange
from downloader.net.retry import Retry, TransientError

if TYPE_CHECKING:  # the receiver inside an image has no urllib3
    from downloader.net.request import Exchange

Result = TypeVar("Result")

_SCRATCH_BYTES = 128 * 1024
# Of a server without ranges: each try reads the file again from its first byte.
SEQUENTIAL_TRIES = 5


class RangesIgnoredError(ProtocolError):
    """A server sends the whole file where a range was asked for; reading from 0 on works."""


def retry_without_ranges(
    read: Callable[[], Result], close: Callable[[], None] = lambda: None
) -> Result:
    """Call ``read`` until it does not fail because its server has no ranges.

    Args:
        read: Reads from a source, beginning anew each time.
        close: Called before it is called again.

    Raises:
        RangesIgnoredError: The server's connection broke each time.
    """
    for left in reversed(range(SEQUENTIAL_TRIES)):
        try:
            return read()
        except RangesIgnoredError:
            if not left:
                raise
            close()
    raise AssertionError


class Reader(Protocol):
    """A stream of bytes, used by one thread in a ``with`` block."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; return how many bytes: fewer at the end, and before an error."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def fill(reader: Reader, buffer: memoryview, what: str) -> None:
    """Fill all of ``buffer``.

    Raises:
        ProtocolError: There are fewer bytes.
    """
    filled = 0
    while filled < len(buffer):
        count = reader.readinto(buffer[filled:])
        if not count:
            raise ProtocolError(f"{what}: want {len(buffer)} bytes, got {filled} before the end")
        filled += count


def read_all(reader: Reader, size_bytes: int, what: str) -> bytes:
    """Return exactly so many bytes of a reader; raise as `fill` does."""
    data = bytearray(size_bytes)
    fill(reader, memoryview(data), what)
    return bytes(data)


class RangeSource(Protocol):
    """The bytes of one file, which any number of threads read by range.

    A file of the Hub, a registry blob, several places of one blob (`transfer.mirrors`), and
    the pieces of a file in several blobs (`JoinedSource`) are sources.
    """

    @property
    def name(self) -> str:
        """Of the file, for messages."""

    @property
    def size_bytes(self) -> int:
        """Of the file."""

    @property
    def has_ranges(self) -> bool:
        """Whether ranges are cheap: False once a server has sent all instead of a range.

        Then `open` reads from the file's first byte and drops what lies before the range, so
        one reader after the other should read all the rest.
        """

    def open(self, wanted: ByteRange) -> Reader:
        """Open exactly the bytes ``wanted``; the reader retries by itself.

        Raises (also from ``readinto``):
            RangesIgnoredError: Now `has_ranges` is False; open it again.
            ServerError: The server said no.
            TransportError: No bytes, after the retries.
            ProtocolError, IntegrityError: Answers that announce other bytes.
        """

    def blame(self) -> bool:
        """Avoid whatever gave the bytes so far, whose hash is wrong.

        Returns:
            Whether reading the file once more may give other bytes.
        """


class ResumingReader(io.RawIOBase):
    """Bytes from one connection after the other, each continuing where the last one broke.

    Args:
        name: Of the file, for messages.
        at: The offset of the first byte.
        end: The offset after the last one, None where `connect` learns it.

    Attributes:
        at: The offset of the next byte.
        retry: Counts failures in a row; set by the subclass.
        interrupted: Set by `interrupt`.
    """

    retry: Retry

    def __init__(self, name: str, at: int, end: int | None) -> None:
        super().__init__()
        self.name = name
        self.at = at
        self.end = end
        self.interrupted = threading.Event()
        self._exchange: Exchange | None = None
        self._error: HfModelsError | None = None

    @abstractmethod
    def connect(self) -> "Exchange":
        """Ask once for the bytes from `at` to `end`; return the answer with its body unread.

        Raises:
            TransientError: Worth another try.
            HfModelsError: No use to try again.
        """

    def read_body(self, exchange: "Exchange", buffer: memoryview) -> int:
        """Read some of the body of an answer; 0 at its end.

        Raises:
            TransportError: The connection was cut.
        """
        return exchange.read_some(buffer)

    def open(self) -> None:
        """Connect now, to raise what `connect` raises before the first `readinto`.

        Raises:
            HfModelsError: As ``readinto`` does.
        """
        while self._exchange is None:
            try:
                self._exchange = self.connect()
            except TransientError as failure:
                self._retry_after(failure)

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as typeshed has it
        """Fill ``buffer``; return how many bytes: fewer at the end, and before an error."""
        view = memoryview(buffer)
        filled = 0
        while filled < len(view) and (self.end is None or self.at < self.end):
            try:
                if self._error is not None:
                    raise self._error
                count = self._read_some(view[filled:])
            except TransientError as failure:
                self._retry_after(failure)
                continue
            except HfModelsError as error:
                if not filled:
                    raise
                self._error = error  # for the next call: what came is not lost
                break
            filled += count
            self.at += count
        return filled

    def _retry_after(self, failure: TransientError) -> None:
        self._disconnect()
        if self.interrupted.is_set():
            raise TransportError(f"{self.name}: interrupted") from failure
        self.retry.wait_or_raise(failure)

    def _read_some(self, room: memoryview) -> int:
        if self._exchange is None:
            self._exchange = self.connect()
        if self.end is not None:
            room = room[: self.end - self.at]
        try:
            count = self.read_body(self._exchange, room) if len(room) else 0
        except TransportError as error:
            raise TransientError(error) from error
        if count:
            self.retry.succeeded()
        elif self.end is None:
            self.end = self.at  # no length was promised, so this is the end
        elif self.at < self.end:
            cut = f"{self.name}: cut after byte {self.at} of {self.end}"
            raise TransientError(TransportError(cut, hint="run it again; it continues there"))
        return count

    def _disconnect(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    def interrupt(self) -> None:
        """Wake up the thread that waits for bytes; any thread may call this."""
        self.interrupted.set()
        exchange = self._exchange
        if exchange is not None:
            exchange.shutdown()

    def close(self) -> None:
        """Close the connection, or give it back where its answer was read to the end."""
        self._disconnect()
        super().close()


def interrupt_of(reader: Reader) -> Callable[[], None]:
    """Return what wakes up a thread that waits in ``reader``; files here need none."""
    return getattr(reader, "interrupt", lambda: None)


class TailReader:
    """A reader of the end of another one, whose first bytes are read and dropped.

    Args:
        inner: Read from its first byte.
        skip_bytes: Number of bytes to drop.
        name: Of the file, for messages.
    """

    def __init__(self, inner: Reader, skip_bytes: int, name: str) -> None:
        self._inner = inner
        self._skip_bytes = skip_bytes
        self._name = name

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; return how many bytes, fewer than its length only at the end."""
        scratch = memoryview(bytearray(min(self._skip_bytes, _SCRATCH_BYTES)))
        while self._skip_bytes:
            count = self._inner.readinto(scratch[: self._skip_bytes])
            if not count:
                raise ProtocolError(f"{self._name}: ended {self._skip_bytes} bytes too early")
            self._skip_bytes -= count
        return self._inner.readinto(buffer)

    def interrupt(self) -> None:
        """Wake up the thread that waits for bytes; any thread may call this."""
        interrupt_of(self._inner)()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.__exit__(None, None, None)


class JoinedSource:
    """One file whose bytes lie in parts of other sources.

    Args:
        name: Of the file.
        parts: Ranges of sources, in order and without a gap.
    """

    def __init__(self, name: str, parts: Sequence[tuple[RangeSource, ByteRange]]) -> None:
        self.name = name
        self._parts = parts
        self.size_bytes = sum(inside.size_bytes for _, inside in parts)

    @property
    def has_ranges(self) -> bool:
        """Whether ranges of every part are cheap."""
        return all(source.has_ranges for source, _ in self._parts)

    def open(self, wanted: ByteRange) -> Reader:
        """Open a range, across parts where it spans several."""
        asked: list[tuple[RangeSource, ByteRange]] = []
        start = 0
        for source, inside in self._parts:
            end = start + inside.size_bytes
            if start < wanted.end and wanted.start < end:
                first = inside.start + max(0, wanted.start - start)
                asked.append((source, ByteRange(first, inside.end - max(0, end - wanted.end))))
            start = end
        if len(asked) == 1:
            return asked[0][0].open(asked[0][1])
        return _JoinedReader(asked)

    def blame(self) -> bool:
        """Blame every part."""
        blamed = [source.blame() for source, _ in self._parts]  # all of them
        return any(blamed)


class _JoinedReader:
    def __init__(self, parts: Sequence[tuple[RangeSource, ByteRange]]) -> None:
        self._parts = iter(parts)
        self._reader: Reader | None = None
        self._next()

    def _next(self) -> None:
        self.__exit__()
        self._reader = None
        for source, inside in self._parts:
            self._reader = source.open(inside)
            return

    def readinto(self, buffer: memoryview) -> int:
        filled = 0
        while self._reader is not None and filled < len(buffer):
            count = self._reader.readinto(buffer[filled:])
            filled += count
            if not count:
                self._next()
        return filled

    def interrupt(self) -> None:
        if self._reader is not None:
            interrupt_of(self._reader)()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.__exit__(None, None, None)
