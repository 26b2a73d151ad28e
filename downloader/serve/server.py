"""The server: sources looked at again and again, uvicorn, signals, the access log."""

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from downloader.errors import HfModelsError, InputError, ServerError
from downloader.progress import NoProgress, Note
from downloader.restore.opening import Network
from downloader.restore.target import CacheTarget
from downloader.serve.app import AccessPolicy, App, Request
from downloader.serve.cache import Cache
from downloader.serve.catalogue import Entry, Index
from downloader.serve.contents import Contents, ServeBounds
from downloader.serve.metrics import Metrics
from downloader.serve.sources import Reading, Source, open_sources
from downloader.serve.threads import Threads
from downloader.transfer.workers import WorkerGroup
from downloader.units import format_count

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# h11 keeps this much of a request that has no end yet.
_UNENDED_LIMIT_BYTES = 32 * 1024
_KEEP_ALIVE_S = 30  # clients ask again within a second; a proxy before this server within 30
_STALL_S = 600.0  # a client that takes nothing so long is gone
_UNSAID = ("without completing response", "upgrade request", "WebSocket library")
_RETIRED_LIMIT = 1000  # versions whose tags have moved on
_LOOKS_AT_ONCE = 4
_OWN_DESCRIPTORS = 512  # beside a connection and a file for each client: files on their way
_UNREAD_AGAIN_S = 10.0  # a registry that starts together with this server is there soon


@dataclass(frozen=True)
class ServeOptions:
    """Sources, clients and limits of a server.

    Args:
        sources: As the user named them.
        host: To listen on.
        port: To listen on; 0 for any.
        cache_dir: The Hugging Face cache to bring files into; None for no cache.
        cache_limit_bytes: Of what this server puts there; None for the disk's own limit.
        refresh_s: Interval of reading sources again; 0 for never.
        token: That clients have to send; None for none.
        is_public: Whether anybody may ask, wherever they are.
        bounds: Of threads and memory.
        clients: Connections at once; more are answered with 503.
        grace_s: For running answers after SIGTERM.
        log_format: ``text`` or ``json``.
    """

    sources: tuple[str, ...]
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    cache_dir: Path | None = None
    cache_limit_bytes: int | None = None
    refresh_s: float = 300.0
    token: str | None = field(default=None, repr=False)
    is_public: bool = False
    bounds: ServeBounds = field(default_factory=ServeBounds)
    clients: int = 1000
    grace_s: int = 30
    log_format: str = "text"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in _LOOPBACK


def serve(options: ServeOptions, network: Network, log: Note, started: Note) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        options: Sources, clients and limits.
        network: Settings and connections for registries.
        log: Told one line at a time.
        started: Told the address, once the server listens.

    Raises:
        InputError: A source that names nothing, an address that is taken or not this machine's,
            or one that others reach without a token.
        RegistryError: A registry refuses a source at the first look.
    """
    if not (options.is_local or options.token or options.is_public):
        raise InputError(
            f"{options.host}: others can reach this address, and there is no token for it",
            hint="name one with --token-file FILE, or serve anybody with --public",
        )
    _take_descriptors(2 * options.clients + _OWN_DESCRIPTORS)
    cache = None
    if options.cache_dir is not None:
        cache = Cache(CacheTarget(options.cache_dir), options.cache_limit_bytes)
    reading = Reading(network, cache, _Notes(options, log))
    sources = [open_sources(text, reading) for text in options.sources]
    listener = _listen(options.host, options.port)
    with listener:
        asyncio.run(Serving(options, sources, cache, log).run(listener, started))


def _take_descriptors(count: int) -> None:
    """Raise this process's limit of open files, which is 1024 on most systems, if it may be."""
    if os.name == "nt":
        return
    import resource  # noqa: PLC0415 - Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a lower limit than the one that it names
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def note_line(text: str, log_format: str) -> str:
    """Return the line of the log that says something of no request."""
    return _json_line({"message": text}) if log_format == "json" else text


def _json_line(document: Mapping[str, object]) -> str:
    # A CI system takes "##[" for a command; the escape that a plain line gets is none of JSON.
    return json.dumps({"time": _now(), **document}).replace("#", "\\u0023")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # Made by hand, because asyncio switches Nagle's algorithm off (40 ms an answer) only
        # where the socket names its protocol, which those of socket.create_server do not.
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name != "nt":  # there it would let two servers share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise InputError(f"cannot listen on {host}:{port}: {reason}") from error
    return listener


class Serving:
    """One running server."""

    def __init__(
        self,
        options: ServeOptions,
        sources: Sequence[Source],
        cache: Cache | None,
        log: Note,
    ) -> None:
        self._options = options
        self._sources = sources
        self._log = log
        self._note = _Notes(options, log).note
        self._found: dict[int, list[Entry]] = {}
        self._metrics = Metrics()
        group = WorkerGroup()
        self._looks = Threads(group, _LOOKS_AT_ONCE, "look")
        self._contents = Contents(cache, options.bounds, self._metrics, self._note, group)
        self._policy = AccessPolicy(
            options.token, is_local=options.is_local and not (options.is_public or options.token)
        )

    async def run(self, listener: socket.socket, started: Note) -> None:
        """Serve on a listening socket until a signal.

        Raises:
            InputError, RegistryError: The first look at a source failed for good.
        """
        app = App(self._contents, self._policy, self._metrics, self._log_access, self._note)
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=self._options.clients + 1,  # uvicorn counts the one that asks
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=self._options.grace_s,
            h11_max_incomplete_event_size=_UNENDED_LIMIT_BYTES,
        )
        server = _Server(config)
        refreshing = asyncio.create_task(self._refresh(app, server))
        host, port = listener.getsockname()[:2]
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            with _logging_to(self._note):
                await server.serve(sockets=[listener])
        finally:
            self._contents.stop()
            self._contents.close()
            self._looks.close()
            if not refreshing.done():
                refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing

    # The sources

    async def _refresh(self, app: App, server: uvicorn.Server) -> None:
        """Look at every source now and then; the first errors that will not pass end the server."""
        try:
            numbers = range(len(self._sources))
            await asyncio.gather(*(self._look(app, number) for number in numbers))
            await app.update(is_ready=True)
            await asyncio.gather(*(self._look_again(app, number) for number in numbers))
        except HfModelsError:
            server.should_exit = True
            raise

    async def _look_again(self, app: App, number: int) -> None:
        """Look at a source now and then; sooner while it could never be read."""
        while True:
            pause_s = self._options.refresh_s
            if number not in self._found:
                pause_s = min(pause_s or _UNREAD_AGAIN_S, _UNREAD_AGAIN_S)
            if not pause_s:
                return
            await asyncio.sleep(pause_s)
            await self._look(app, number)

    async def _look(self, app: App, number: int) -> None:
        source = self._sources[number]
        is_first = number not in self._found
        try:
            entries = await self._looks.run(source.look)
        except HfModelsError as error:
            is_final = isinstance(error, InputError | ServerError)
            if is_first and is_final and not app.is_ready:
                raise
            self._metrics.add("refresh_errors")
            then = "trying again" if is_first else "what it had is still served"
            self._note(f"{source.name}: {error.message}; {then}")
            return
        if is_first or entries != self._found[number]:
            self._note(f"{source.name}: {_count(entries)}")
        self._found[number] = entries
        current = [entry for key in sorted(self._found) for entry in self._found[key]]
        app.is_whole = len(self._found) == len(self._sources)
        await app.update(Index(current, _retired(app.index, current)))

    # The log

    def _log_access(self, request: Request) -> None:
        self._log(access_line(request, self._options.log_format))


def _retired(index: Index, current: Sequence[Entry]) -> list[Entry]:
    """Return what is reachable by commit alone from now on."""
    kept = {(entry.repo, entry.commit) for entry in current}
    gone = [entry for entry in index.entries if (entry.repo, entry.commit) not in kept]
    return [replace(entry, revisions=()) for entry in gone][-_RETIRED_LIMIT:]


def _count(entries: Sequence[Entry]) -> str:
    repos = {entry.repo for entry in entries}
    commits = {(entry.repo, entry.commit) for entry in entries}
    return f"{format_count(len(repos), 'repo')}, {format_count(len(commits), 'commit')}"


def access_line(request: Request, log_format: str) -> str:
    """Return the line of a request in the access log; no query and no header is in it."""
    seconds = time.monotonic() - request.started_at
    path = request.raw_path.encode("ascii", "backslashreplace").decode()[:1000]
    path = "".join(c if c.isprintable() else "?" for c in path)
    agent = request.headers.get("user-agent", "")[:200]
    agent = "".join(c if c.isprintable() and c.isascii() else "?" for c in agent)
    if log_format == "json":
        return _json_line(
            {
                "client": request.client,
                "method": request.method,
                "path": path,
                "status": request.status,
                "bytes": request.sent_bytes,
                "seconds": round(seconds, 4),
                "broken": request.is_broken,
                "agent": agent,
            }
        )
    broken = " broken off" if request.is_broken else ""
    return (
        f"{_now()} {request.client} {request.method} {path} {request.status}"
        f" {request.sent_bytes} {seconds:.3f}s{broken} {json.dumps(agent)}"
    )


class _Connection(H11Protocol):
    """A connection that ends when its client asks for nothing, or takes nothing.

    uvicorn waits without end for a first request, for the rest of one, and for a client to take
    the last bytes before the connection is closed. (h11, because it refuses headers without end;
    httptools takes them all.)
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unsent_bytes = 0
        self._moved_at = self.loop.time()
        self._watching = self.loop.call_later(_KEEP_ALIVE_S, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watching.cancel()

    def on_response_complete(self) -> None:
        self._moved_at = self.loop.time()
        super().on_response_complete()

    def _watch(self) -> None:
        unsent_bytes, now = self.transport.get_write_buffer_size(), self.loop.time()
        # None before the first request, whatever its annotation says.
        is_answering = bool(self.cycle) and not self.cycle.response_complete
        if unsent_bytes != self._unsent_bytes or (is_answering and not unsent_bytes):
            self._moved_at = now
        self._unsent_bytes = unsent_bytes
        if now - self._moved_at >= (_STALL_S if unsent_bytes else _KEEP_ALIVE_S):
            self.transport.abort()
        else:
            self._watching = self.loop.call_later(_KEEP_ALIVE_S, self._watch)


class _Notes(NoProgress):
    """A progress that only notes."""

    def __init__(self, options: ServeOptions, log: Note) -> None:
        self._format = options.log_format
        self._log = log

    def note(self, text: str) -> None:
        self._log(note_line(text, self._format))


class _Server(uvicorn.Server):
    """uvicorn, which raises a signal again after a clean end; a service must exit with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        except ValueError:  # not the main thread: the caller stops the server
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _LogHandler(logging.Handler):
    """Passes on uvicorn's warnings, but for those of events that are so on purpose.

    Those are answers that were broken off, and offers of other protocols (``Upgrade: h2c``).
    """

    def __init__(self, log: Note) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if not any(text in record.getMessage() for text in _UNSAID):
            self._log(self.format(record))


@contextmanager
def _logging_to(log: Callable[[str], None]) -> Iterator[None]:
    handler = _LogHandler(log)
    logger = logging.getLogger("uvicorn.error")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
