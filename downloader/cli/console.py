"""What a person sees: results on stdout, everything else on stderr.

rich is loaded where something is drawn with it: it takes a sixth of a command's start.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from downloader.progress import Note, ignore
from downloader.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

# Without a terminal, one line now and then: a CI log stays short and is never silent for long.
LINE_EVERY_S = 5.0  # while bytes move
FIRST_IDLE_S = 10.0  # nobody takes ten seconds for a hang
IDLE_EVERY_S = 30.0  # the timeout of a connection: something new is said at most as often


def say_error(message: str, hint: str | None = None) -> None:
    """Print an error as one line, and what to do about it as another."""
    say(f"error: {_one_line(message)}")
    if hint:
        say(f"hint: {_one_line(hint)}")


def say(text: str) -> None:
    """Print a line of information."""
    _echo(text, sys.stderr)


def teller(*, quiet: bool) -> Note:
    """Return `say`, or where ``--quiet`` was given, what says nothing."""
    return ignore if quiet else say


def print_result(text: str) -> None:
    """Print a line of the command's result."""
    _echo(text, sys.stdout)


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print the command's result for programs."""
    _echo(json.dumps(document, indent=2, ensure_ascii=False), sys.stdout)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns whose name starts with ``>`` are numbers, set right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    for row in rows:
        table.add_row(*(_escape(cell) for cell in row))
    width = None if sys.stdout.isatty() else 200
    console = Console(file=sys.stdout, width=width, highlight=False)
    with console.capture() as drawn:
        console.print(table)
    _echo(drawn.get().removesuffix("\n"), sys.stdout)


def _echo(text: str, stream: TextIO) -> None:
    try:
        click.echo(text, file=stream)
    except BrokenPipeError:
        # Who reads has left (`| head`), which is no failure: the work goes on, and the exit
        # code says how it ended. click would exit with 1 here, whatever else went wrong.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


class ConsoleProgress:
    """Progress of a transfer: bars on a terminal, a line every few seconds elsewhere.

    Used in a ``with`` statement: what prints the lines is a thread that ends with it.

    Args:
        verb: What is done.
        noun: What is counted, in the singular.
        quiet: Whether to show nothing.
        stream: Where to; None for standard error.
    """

    def __init__(
        self,
        verb: str,
        noun: str = "file",
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._verb, self._noun = verb, noun
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._task: TaskID
        self._total_bytes = self._done_bytes = self._total_files = self._done_files = 0
        self._begun_at = self._line_at = self._moved_at = time.monotonic()
        self._line_bytes = 0
        self._is_idle_said = False
        self._ended = threading.Event()
        self._timer = threading.Thread(target=self._tick, name="progress", daemon=True)

    def start(self, total_bytes: int, total_files: int) -> None:
        """Show how much there is to do."""
        self._total_bytes, self._total_files = total_bytes, total_files
        if self._quiet:
            return
        if self._stream.isatty() and self._bars is None:
            self._bars = _new_bars(self._stream)
            self._task = self._bars.add_task(self._verb, total=total_bytes)
            self._bars.start()
        else:
            count = format_count(total_files, self._noun)
            self._line(f"{self._verb}: {format_bytes(total_bytes)} in {count}")

    def advance(self, size_bytes: int) -> None:
        """Show that so many more bytes are done."""
        with self._lock:
            self._done_bytes += size_bytes
            if size_bytes:
                self._moved_at = time.monotonic()
            if self._bars:
                self._bars.advance(self._task, size_bytes)

    def finish_file(self, path: str) -> None:
        """Count a finished file."""
        with self._lock:
            self._done_files += 1
            if self._bars:
                self._bars.update(self._task, description=f"{self._verb} {path[-40:]}")

    def note(self, text: str) -> None:
        """Show one line."""
        if self._quiet:
            return
        if self._bars:
            self._bars.console.print(text, highlight=False, markup=False)
            return
        with self._lock:
            self._line(text)

    def __enter__(self) -> Self:
        if not self._quiet:
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._timer.is_alive():
            self._timer.join()
        if self._bars:
            self._bars.stop()
        if not self._quiet and kind is None and self._total_files:
            self._line(self._status())

    def _tick(self) -> None:
        while not self._ended.wait(LINE_EVERY_S / 5):
            with self._lock:
                # On a terminal the bars are drawn anew by a thread of their own.
                if self._bars is None and not self._ended.is_set():
                    self._print_due(time.monotonic())

    def _print_due(self, now_s: float) -> None:
        since_line_s, idle_s = now_s - self._line_at, now_s - self._moved_at
        if self._done_bytes != self._line_bytes:
            if since_line_s >= LINE_EVERY_S:
                self._line_bytes, self._is_idle_said = self._done_bytes, False
                self._line(self._status())
        elif min(since_line_s, idle_s) >= (IDLE_EVERY_S if self._is_idle_said else FIRST_IDLE_S):
            self._is_idle_said = True
            self._line(self._idle_status(now_s, idle_s))

    def _idle_status(self, now_s: float, idle_s: float) -> str:
        if not (self._done_bytes or self._total_bytes):  # whoever works does not count bytes
            return f"{self._verb}: {format_seconds(now_s - self._begun_at)} so far"
        done = f"{self._status()}; " if self._done_bytes else f"{self._verb}: "
        return f"{done}nothing moved for {format_seconds(idle_s)}"

    def _status(self) -> str:
        elapsed_s = max(time.monotonic() - self._begun_at, 0.001)
        done, rate = format_bytes(self._done_bytes), format_bytes(self._done_bytes / elapsed_s)
        if self._total_files:  # a reader of a stream cannot know
            total = format_bytes(self._total_bytes)
            done += f" of {total}, {self._done_files}/{format_count(self._total_files, self._noun)}"
        return f"{self._verb}: {done}, {elapsed_s:.0f} s, {rate}/s"

    def _line(self, text: str) -> None:
        self._line_at = time.monotonic()
        _echo(text, self._stream)


def _new_bars(stream: TextIO) -> "Bars":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )
