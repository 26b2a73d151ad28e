"""Which requests a fault meets, how often, and the set of those that are on."""

from __future__ import annotations

import dataclasses
import fnmatch
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.fake_hub.http_message import Reply, Request


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Which requests are met.

    Args:
        path: A glob over ``model:org/name/path`` for requests of content, and over the
            URL's path for those of the API; ``*`` also matches ``/``.
        origin: ``hub``, ``cdn``, ``elsewhere``, or ``*``.
        method: ``GET``, ``HEAD``, or ``*``.
        times: How many requests are met; None is all.
        skip: How many matching requests pass before the first one is met.
        from_byte: Only requests whose range starts here or later.
    """

    path: str = "*"
    origin: str = "*"
    method: str = "*"
    times: int | None = None
    skip: int = 0
    from_byte: int = 0

    def change(self, reply: Reply, request: Request, world: World) -> Reply:
        """Give the answer that is sent instead."""
        raise NotImplementedError

    def meets(self, request: Request, origin: str, name: str, reply: Reply) -> bool:
        return (
            self.origin in {"*", origin}
            and self.method in {"*", request.method}
            and fnmatch.fnmatchcase(name, self.path)
            and (not self.from_byte or reply.start >= self.from_byte)
        )


@dataclass
class World:
    """What a fault may need of the server that it is in.

    Args:
        elsewhere: Address of an origin that is neither the Hub nor its CDN.
        released: Ends the stalls that have no time of their own.
        windows: Of the quotas that are set; `lock` guards them.
    """

    elsewhere: str = ""
    released: threading.Event = dataclasses.field(default_factory=threading.Event)
    windows: dict[Fault, Window] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


@dataclass
class Window:
    """Of a quota: when it ends, and how many requests it has left."""

    end_s: float
    left: int


@dataclass(frozen=True, kw_only=True)
class BodyFault(Fault):
    """A fault in the bytes of a file: meets only answers that carry some."""

    def meets(self, request: Request, origin: str, name: str, reply: Reply) -> bool:
        carries = reply.whole is not None and request.method == "GET"
        return carries and super().meets(request, origin, name, reply)


class FaultBox:
    """The faults that are set, and how often each has met a request."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._met: list[tuple[Fault, list[int]]] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._met.append((fault, [0]))

    def clear(self) -> None:
        with self._lock:
            self._met = []
        self.release()

    def release(self) -> None:
        """End the stalls that are under way; later ones stall again."""
        self.world.released.set()
        self.world.released = threading.Event()

    def change(
        self, reply: Reply, request: Request, origin: str, name: str
    ) -> tuple[Reply, tuple[str, ...]]:
        """Give the answer that is sent, and the names of the faults in it."""
        names = []
        for fault in self._take(reply, request, origin, name):
            reply = fault.change(reply, request, self.world)
            names.append(type(fault).__name__)
        return reply, tuple(names)

    def _take(self, reply: Reply, request: Request, origin: str, name: str) -> list[Fault]:
        with self._lock:
            matching = [one for one in self._met if one[0].meets(request, origin, name, reply)]
            for _, count in matching:
                count[0] += 1
            return [fault for fault, count in matching if _is_due(fault, count[0])]


def _is_due(fault: Fault, nth: int) -> bool:
    return nth > fault.skip and (fault.times is None or nth <= fault.skip + fault.times)
