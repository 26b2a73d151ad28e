"""Output for people: results on stdout, everything else on stderr.

Every text goes through `downloader.text.visible`: names, labels and answers of servers are
anybody's. rich is loaded where something is drawn with it: it takes a sixth of a command's start.
"""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from downloader.cli.github import error_line
from downloader.errors import HfModelsError, StorageError, without_secrets
from downloader.progress import Note, ignore
from downloader.text import to_json, visible
from downloader.transfer.workers import WorkerGroup
from downloader.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn, Task, TaskID
    from rich.text import Text

    from downloader.hub.repo import RepoFile, Snapshot

# Without a terminal, one line now and then: a CI log stays short and is never silent for long.
LINE_EVERY_S = 5.0  # while bytes move
FIRST_IDLE_S = 10.0  # nobody takes ten seconds for a hang
IDLE_EVERY_S = 30.0  # the timeout of a connection: something new is said at most as often

DRAW_EVERY_S = 0.1
# Columns that a line needs beside its name: bar, "4.3/9.5 GB", "118 MB/s 0:44:10".
_BAR_COLUMNS = 10
_FIXED_COLUMNS = _BAR_COLUMNS + 33
_NAME_COLUMNS = (16, 48)  # the fewest and the most that a name gets
_FILES_SHOWN = 8  # lines; more files than that are small


FILES_SHOWN = 40  # a screen
UNKNOWN = "unknown"  # what an image does not say
FORMAT_VERSION = 1  # of every document that --json prints; docs/json.md


def say_error(message: str, hint: str | None = None) -> None:
    """Print an error as one line, and what to do about it as another; mark a CI job with it."""
    message, hint = _one_line(message), _one_line(hint) if hint else None
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")
    if command := error_line(message, hint):
        _write(command, sys.stderr)


def say(text: str) -> None:
    """Print a line of information."""
    _write(visible(text), sys.stderr)


class _Log(logging.Handler):
    """Shows what the library logs, one line each, without secrets."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line."""
        say(f"debug: {without_secrets(record.getMessage())}")


_LOG, _LOGGER = _Log(), logging.getLogger("downloader")


def start_log() -> None:
    """Show requests, answers and choices on standard error from now on."""
    _LOGGER.addHandler(_LOG)
    _LOGGER.setLevel(logging.DEBUG)


def stop_log() -> None:
    """Show no more of them."""
    _LOGGER.removeHandler(_LOG)
    _LOGGER.setLevel(logging.NOTSET)


def describe_repo(snapshot: "Snapshot") -> dict[str, Any]:
    """Return type, id and commit of a repo, for programs."""
    repo = snapshot.repo
    return {"repo_type": repo.type, "repo_id": repo.id, "commit": snapshot.commit}


def describe_error(error: HfModelsError | None) -> dict[str, Any] | None:
    """Return class, exit code, message and hint of an error; ``docs/json.md`` specifies it."""
    if error is None:
        return None
    return {
        "kind": type(error).__name__,
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint,
    }


def teller(*, quiet: bool) -> Note:
    """Return `say`, or where ``--quiet`` was given, what says nothing."""
    return ignore if quiet else say


def print_result(text: str) -> None:
    """Print a line of the command's result."""
    _write(visible(text), sys.stdout)


def print_json(document: Mapping[str, Any]) -> None:
    """Print the command's result for programs; ``docs/json.md`` specifies it."""
    _write(to_json({"format_version": FORMAT_VERSION, **document}), sys.stdout)


def print_answer(document: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the command's result: a document for programs, a line for people."""
    if as_json:
        print_json(document)
    else:
        print_result(text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns whose name starts with ``>`` are numbers, set right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(visible(title)) if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for name in columns:
        is_number = name.startswith(">")
        table.add_column(
            Text(name.lstrip(">")),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 200
    console = Console(file=sys.stdout, width=width, highlight=False)
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().removesuffix("\n").split("\n"):
        # A cell that wraps begins a line of its own. Colours are only there on a terminal,
        # which knows no workflow commands.
        _write(line if "\x1b" in line else visible(line).rstrip(), sys.stdout)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, one pair a line; a digest fits in 80 columns."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print_result(f"{name:{width}} {value}")


def print_files(files: "Sequence[RepoFile]") -> None:
    """Print the first files of a repo with their sizes; --json has them all."""
    rows = [[file.path, format_bytes(file.size_bytes)] for file in files[:FILES_SHOWN]]
    more = len(files) - len(rows)
    print_table("", ["file", ">size"], [*rows, *([[f"... and {more} more", ""]] if more else [])])


def _write(line: str, stream: TextIO | None) -> None:
    """Write a line; a reader that has left is no failure, a full disk is.

    Raises:
        StorageError: The result cannot be written. Where standard error cannot, nobody is told.
    """
    if stream is None:  # closed before the program began
        return
    try:
        click.echo(line, file=stream)
    except BrokenPipeError:
        # As in `| head`: the work goes on, and the exit code says how it ended. click would
        # exit with 1 here, whatever else went wrong.
        _silence(stream)
    except OSError as error:
        _silence(stream)
        if stream is sys.stdout:
            raise StorageError(f"cannot write the result: {error.strerror}") from error


def _silence(stream: TextIO) -> None:
    """Let what is buffered, and all that follows, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def shorten(text: str, columns: int) -> str:
    """Return text that fits, its middle left out: a path is told by its ends.

    >>> shorten("weights/model-00001-of-00002.safetensors", 20)
    'weights/m…afetensors'
    """
    if len(text) <= columns:
        return text
    end = columns // 2
    return f"{text[: columns - end - 1]}…{text[len(text) - end :]}"


class ConsoleProgress:
    """Progress of a transfer: bars on a terminal, a line every few seconds elsewhere.

    Used in a ``with`` statement: what draws and prints is a thread that ends with it.

    Args:
        verb: The work, as a verb.
        noun: The counted things, in the singular.
        quiet: Whether to show nothing.
        stream: Output; None for standard error.
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
        self._stream = stream or sys.stderr
        self._quiet = quiet or self._stream is None
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._files: dict[str, list[int]] = {}  # in flight: bytes done, size
        self._total_bytes = self._done_bytes = self._total_files = self._done_files = 0
        self._moved_bytes = 0
        self._begun_at = self._line_at = self._moved_at = time.monotonic()
        self._line_bytes = 0
        self._is_idle_said = False
        self._group = WorkerGroup()

    def start(self, total_bytes: int, total_files: int) -> None:
        """Show how much there is to do; a further call, for the next target, adds to it."""
        with self._lock:
            self._total_bytes += total_bytes
            self._total_files += total_files
        if self._quiet:
            return
        if not total_files:
            self._line(f"{self._verb}: up to date")
        elif self._stream.isatty():
            with self._lock:
                self._bars = self._bars or _new_bars(self._stream)
                self._bars.start()
        else:
            count = format_count(total_files, self._noun)
            self._line(f"{self._verb}: {format_bytes(total_bytes)} in {count}")

    def start_file(self, path: str, size_bytes: int) -> None:
        """Show a line for a file, until it is finished."""
        with self._lock:
            self._files[path] = [0, size_bytes]

    def advance(self, size_bytes: int, path: str = "") -> None:
        """Show that so many more bytes were moved."""
        with self._lock:
            self._done_bytes += size_bytes
            self._moved_bytes += size_bytes
            if size_bytes:
                self._moved_at = time.monotonic()
            if path in self._files:
                self._files[path][0] += size_bytes

    def skip(self, size_bytes: int, path: str = "") -> None:
        """Count bytes that were there already; they make no transfer fast."""
        with self._lock:
            self._done_bytes += size_bytes
            if path in self._files:
                self._files[path][0] += size_bytes

    def finish_file(self, path: str) -> None:
        """Count a finished file."""
        with self._lock:
            self._done_files += 1
            self._files.pop(path, None)

    def note(self, text: str) -> None:
        """Show one line."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Show one line, also where nothing else is shown."""
        if self._bars:
            from rich.text import Text

            self._bars.console.print(Text(visible(text)))
            return
        with self._lock:
            self._line(text)

    def __enter__(self) -> Self:
        if not self._quiet:
            self._group.try_start(self._tick, name="progress")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._group.cancel()
        self._group.join()
        if self._bars:
            self._bars.stop()
            self._bars = None
        if not self._quiet and kind is None and self._total_files:
            self._line(self._result())

    def _tick(self) -> None:
        every_s = DRAW_EVERY_S if self._stream.isatty() else LINE_EVERY_S / 5
        while not self._group.cancelled.wait(every_s):
            with self._lock:
                if self._bars:
                    self._draw(self._bars)
                elif not self._group.cancelled.is_set():
                    self._print_due(time.monotonic())

    def _draw(self, bars: "Bars") -> None:
        """Bring the bars to what is counted: the whole, then the files in flight."""
        columns = shutil.get_terminal_size().columns - _FIXED_COLUMNS
        columns = min(max(columns, _NAME_COLUMNS[0]), _NAME_COLUMNS[1])
        shown = list(self._files.items())[:_FILES_SHOWN]
        title = f"{self._verb} {self._done_files}/{format_count(self._total_files, self._noun)}"
        rows = {"": (title, self._done_bytes, self._total_bytes)}
        rows |= {path: (f"  {visible(path)}", done, size) for path, (done, size) in shown}
        for path in self._tasks.keys() - rows.keys():
            bars.remove_task(self._tasks.pop(path))
        for path, (name, done_bytes, size_bytes) in rows.items():
            shown_name, total = shorten(name, columns), max(size_bytes, 1)
            if path not in self._tasks:
                self._tasks[path] = bars.add_task(shown_name, total=total, completed=done_bytes)
            rate = self._rate() if path == "" else ""
            bars.update(
                self._tasks[path],
                description=shown_name,
                completed=done_bytes,
                total=total,
                rate=rate,
            )
        bars.refresh()

    def _rate(self) -> str:
        per_second = self._moved_bytes / max(time.monotonic() - self._begun_at, 0.001)
        left_s = (self._total_bytes - self._done_bytes) / per_second if per_second > 0 else None
        left = "" if left_s is None else f" {int(left_s) // 60}:{int(left_s) % 60:02}"
        return f"{format_bytes(max(per_second, 0))}/s{left}"

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
        if not (self._done_bytes or self._total_bytes):  # this work does not count bytes
            return f"{self._verb}: {format_seconds(now_s - self._begun_at)} so far"
        done = f"{self._status()}; " if self._done_bytes else f"{self._verb}: "
        return f"{done}nothing moved for {format_seconds(idle_s)}"

    def _result(self) -> str:
        if self._moved_bytes or not self._total_bytes:
            return self._status()
        count = format_count(self._total_files, self._noun)
        return f"{self._verb}: up to date, {count}, {format_bytes(self._total_bytes)}"

    def _status(self) -> str:
        elapsed_s = max(time.monotonic() - self._begun_at, 0.001)
        done, rate = format_bytes(self._done_bytes), format_bytes(self._moved_bytes / elapsed_s)
        if self._total_files:  # the length of a stream is not known
            total = format_bytes(self._total_bytes)
            done += f" of {total}, {self._done_files}/{format_count(self._total_files, self._noun)}"
        return f"{self._verb}: {done}, {elapsed_s:.0f} s, {rate}/s"

    def _line(self, text: str) -> None:
        self._line_at = time.monotonic()
        _write(visible(text), self._stream)


def _new_bars(stream: TextIO) -> "Bars":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR_COLUMNS),
        _text_column(lambda task: f"{_pair(task.completed, task.total or 0)}"),
        _text_column(lambda task: str(task.fields.get("rate", ""))),
        console=Console(file=stream, highlight=False),
        auto_refresh=False,
        transient=True,
    )


def _text_column(text_of: "Callable[[Task], str]") -> "ProgressColumn":
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Column(ProgressColumn):
        """Plain text of a task."""

        def render(self, task: "Task") -> "Text":
            """Return it."""
            return Text(text_of(task), no_wrap=True)

    return Column()


def _pair(done_bytes: float, total_bytes: float) -> str:
    """Return two sizes, the unit once where it is the same.

    >>> _pair(4_300_000_000, 9_500_000_000), _pair(5_000, 9_500_000_000)
    ('4.3/9.5 GB', '5.0 kB/9.5 GB')
    """
    done, total = format_bytes(done_bytes), format_bytes(total_bytes)
    number, _, unit = done.partition(" ")
    return f"{number}/{total}" if total.endswith(f" {unit}") else f"{done}/{total}"
