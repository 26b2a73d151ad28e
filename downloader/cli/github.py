"""The files of a GitHub Actions job for outputs, environment and summary, named by variables.

Source: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
"""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from downloader.environment import read_environment
from downloader.errors import InputError, StorageError
from downloader.fs import storage_errors
from downloader.text import markdown, visible


def check_outputs() -> None:
    """Raise, before anything else is done, where `write_outputs` could not write.

    Raises:
        InputError: This is no such job.
        StorageError: Its file cannot be written.
    """
    _append("GITHUB_OUTPUT", "")


def write_outputs(values: Mapping[str, str]) -> None:
    """Give values to the steps and jobs that follow.

    Raises:
        InputError: This is no such job.
        StorageError: Its file cannot be written.
    """
    _append("GITHUB_OUTPUT", _lines(values))


def write_environment(values: Mapping[str, str]) -> None:
    """Set variables for the steps that follow in this job.

    Raises:
        InputError: This is no such job.
        StorageError: Its file cannot be written.
    """
    _append("GITHUB_ENV", _lines(values))


def write_summary(text: str) -> None:
    """Add to the page that the run shows to people; nowhere outside of such a job.

    Raises:
        StorageError: Its file cannot be written.
    """
    if read_environment().get("GITHUB_STEP_SUMMARY"):
        _append("GITHUB_STEP_SUMMARY", f"{text}\n")


def error_line(message: str, hint: str | None) -> str | None:
    """Put an error on the page of the run; return the command that marks the job with it.

    None outside of a job of GitHub Actions.

    Source: actions/toolkit, packages/core/src/command.ts, `escapeData`.
    """
    if read_environment().get("GITHUB_ACTIONS") != "true":
        return None
    shown = [message, *([f"hint: {hint}"] if hint else [])]
    with suppress(StorageError):  # the error itself matters more
        write_summary("> **error** " + "\n>\n> ".join(map(markdown, shown)) + "\n")
    data = "%0A".join(visible(line).replace("%", "%25") for line in shown)
    return f"::error title=hf-models::{data}"


def _lines(values: Mapping[str, str]) -> str:
    # A delimiter that cannot be guessed: a value with line breaks cannot set other names.
    mark = f"end-{secrets.token_hex(16)}"
    return "".join(f"{name}<<{mark}\n{value}\n{mark}\n" for name, value in values.items())


def _append(variable: str, text: str) -> None:
    path = read_environment().get(variable)
    if not path:
        raise InputError(f"${variable} is not set: only jobs of GitHub Actions have it")
    with storage_errors(Path(path)), Path(path).open("a", encoding="utf-8") as file:
        file.write(text)
