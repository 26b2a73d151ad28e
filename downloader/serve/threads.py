"""Threads for calls that block, awaited on the event loop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from downloader.transfer.workers import WorkerGroup

T = TypeVar("T")
_Call = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Threads:
    """A fixed number of threads; daemons, so that a silent server delays no exit.

    (The executors of the standard library are joined when the interpreter ends.)

    Args:
        group: Starts them.
        count: Number of calls at once.
        name: Of the threads.
    """

    def __init__(self, group: WorkerGroup, count: int, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            if number == 0:
                group.start(self._work, name=name)
            elif not group.try_start(self._work, name=name):
                break

    async def run(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns on one of the threads; raise what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put((loop, future, call))
        return await future

    def close(self) -> None:
        """Let each thread end after its call."""
        for _ in range(self._count):
            self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            loop, future, call = item
            if future.cancelled():
                continue
            try:
                result, error = call(), None
            except BaseException as raised:  # noqa: BLE001 - raised where it is awaited
                result, error = None, raised
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
