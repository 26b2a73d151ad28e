"""BuildKit's plain log to progress, and to the error behind a failed build."""

import re
from collections import deque

from downloader.document import load_object
from downloader.errors import (
    EngineError,
    HfModelsError,
    HubError,
    InputError,
    IntegrityError,
    ProtocolError,
    StorageError,
    TransportError,
)
from downloader.progress import Progress

# How our own program in the builder stage marks what it tells the host.
PROGRESS_MARK = "@hf-models "

_OUTPUT = re.compile(r"#\d+ \d+\.\d+ (?P<text>.*)")
_STEP = re.compile(r"#\d+ (?P<text>\[.*|exporting layers|pushing layers)")
_EXIT_CODE = re.compile(r"did not complete successfully: exit code: (?P<code>\d+)")
_PULL = re.compile(
    r"(?:failed to resolve source metadata|pull access denied) for (?P<image>\S+?):? "
)
_STEP_CHARS = 100  # a RUN line is a paragraph
_TAIL_LINES = 30  # of what a failing step said

_BY_CODE: dict[int, type[HfModelsError]] = {
    error.exit_code: error
    for error in (InputError, HubError, TransportError, ProtocolError, IntegrityError, StorageError)
}
PRUNE_HINT = "free some space, for example with `docker system prune`, then run it again"


class BuildLog:
    """Reads the log of one build, line by line.

    Args:
        progress: Told what the builder stage says of its bytes, and each step as a note.

    Attributes:
        step: The step that was begun last.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._error = self._hint = self._failure = ""
        self._exit_code = 0
        self.step = "build"

    def feed(self, line: str) -> None:
        """Take the next line."""
        if output := _OUTPUT.fullmatch(line):
            self._feed_output(output["text"])
        elif step := _STEP.fullmatch(line):
            self.step = _shorten(step["text"])
            self._progress.note(self.step)
        elif line.startswith("ERROR: "):
            self._failure = line.removeprefix("ERROR: ")
        elif line and not line.startswith("#"):
            self._tail.append(line)
        if code := _EXIT_CODE.search(line):
            self._exit_code = int(code["code"])

    def _feed_output(self, text: str) -> None:
        if text.startswith(PROGRESS_MARK):
            self._feed_event(text.removeprefix(PROGRESS_MARK))
        elif text.startswith("error: "):
            self._error = text.removeprefix("error: ")
        elif text.startswith("hint: "):
            self._hint = text.removeprefix("hint: ")
        else:
            self._tail.append(text)
            self._progress.note(text)

    def _feed_event(self, text: str) -> None:
        # BuildKit cuts lines that are too long; the next one tells the rest.
        event = load_object(text) or {}
        if "verb" in event:
            self._progress.start(event["total_bytes"], event["total_files"])
        if event.get("bytes"):
            self._progress.advance(event["bytes"])
        for _ in range(event.get("files", 0)):
            self._progress.finish_file("")
        if "note" in event:
            self._progress.note(event["note"])

    def failure(self) -> HfModelsError:
        """Return the error to raise where the build failed."""
        said = "\n".join([self._error, self._failure, *self._tail])
        if self._error and self._exit_code in _BY_CODE:
            return _BY_CODE[self._exit_code](self._error, hint=self._hint or None)
        if "no space left on device" in said.lower():
            return StorageError("the engine's disk is full", hint=PRUNE_HINT)
        if pull := _PULL.search(said):
            return EngineError(
                f"docker build: cannot pull {pull['image']}: {_shorten(self._failure, 300)}",
                hint="check the name of the base image, and the network of the engine",
            )
        last = self._error or self._failure or "no reason given"
        return EngineError(f"docker build: {_shorten(last, 500)}")


def _shorten(text: str, limit: int = _STEP_CHARS) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"
