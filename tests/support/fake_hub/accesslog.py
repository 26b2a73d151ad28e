"""What was asked and what was sent: tests count with it."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

SETTLE_S = 1.0  # a client may hold the last byte before the server's thread wakes up


@dataclass
class Access:
    """One request and its answer.

    Args:
        time_s: When it arrived, seconds since the epoch.
        origin: ``hub``, ``cdn`` or ``elsewhere``.
        method: The HTTP method.
        path: The request target's path, as it was sent (encoded).
        query: The same, after the ``?``; signatures are left out.
        file: ``model:org/name/path/of/file`` for requests of content, else empty.
        range: The ``Range`` header, if there was one.
        has_auth: Whether there was an ``Authorization`` header; never its value.
        user_agent: The ``User-Agent`` header.
        status: The status code; 0 while there is none.
        bytes_sent: Bytes of the body, without headers.
        faults: The names of the faults that were applied.
        done: Whether the answer is over, complete or not.
    """

    time_s: float
    origin: str
    method: str
    path: str
    query: str = ""
    file: str = ""
    range: str | None = None
    has_auth: bool = False
    user_agent: str = ""
    status: int = 0
    bytes_sent: int = 0
    faults: tuple[str, ...] = ()
    done: bool = False


class AccessLog:
    """A list of :class:`Access` that many threads write to."""

    def __init__(self) -> None:
        self._entries: list[Access] = []
        self._lock = threading.Lock()

    def add(self, entry: Access) -> None:
        with self._lock:
            self._entries.append(entry)

    def clear(self) -> None:
        with self._lock:
            self._entries = []

    def read(self, settle_s: float = SETTLE_S) -> list[Access]:
        """Give the entries, oldest first, once those that are under way are over.

        Args:
            settle_s: How long to wait for answers that are still being sent.
        """
        until_s = time.monotonic() + settle_s
        while True:
            with self._lock:
                entries = list(self._entries)
            if all(entry.done for entry in entries) or time.monotonic() >= until_s:
                return entries
            time.sleep(0.002)


class Accesses(list[Access]):
    """A log that has been read, with the questions that tests ask."""

    def of(self, *, origin: str = "", file: str = "", method: str = "", path: str = "") -> Accesses:
        """Keep those of an origin, of a file, of a method, with a part of the URL's path.

        Args:
            origin: ``hub``, ``cdn`` or ``elsewhere``.
            file: Its last path segments, all of them if need be: ``config.json`` is not
                ``data_config.json``; or ``model:org/name/config.json``.
            method: The HTTP method.
            path: Any part of the URL's path, as it was sent.
        """
        return Accesses(
            entry
            for entry in self
            if entry.origin.startswith(origin)
            and _is_file(entry, file)
            and entry.method.startswith(method)
            and path in entry.path
        )

    @property
    def bytes_sent(self) -> int:
        return sum(entry.bytes_sent for entry in self)


def _is_file(entry: Access, file: str) -> bool:
    # The last segments: after a slash, or after the colon that ends the type.
    return not file or entry.file == file or entry.file.endswith(("/" + file, ":" + file))


def dump_log(entries: Iterable[Access]) -> list[dict[str, Any]]:
    """Write a log for JSON."""
    return [asdict(entry) for entry in entries]


def parse_log(raw: Iterable[dict[str, Any]]) -> Accesses:
    """Read what :func:`dump_log` wrote."""
    return Accesses(Access(**{**entry, "faults": tuple(entry["faults"])}) for entry in raw)
