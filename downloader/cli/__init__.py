"""The command line: flags to one library call per command.

The only package that prints or exits, but for `downloader.receive`. Commands are loaded when they
are called, so that the consumer's commands never import what only publishers need.
"""

import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType

import click

from downloader import __version__
from downloader.cli.command import VERBOSE, Group, examples
from downloader.cli.console import describe_error, print_json, say, say_error, start_log, stop_log
from downloader.environment import read_environment
from downloader.errors import (
    HfModelsError,
    InputError,
    StorageError,
    UnexpectedError,
    install_hint,
    without_secrets,
)

# name -> module that defines a click command of that name (dashes become underscores), or
# module:attribute where that would be the name of a builtin
COMMANDS: Mapping[str, str] = {
    "plan": "downloader.cli.plan",
    "fetch": "downloader.cli.fetch",
    "verify": "downloader.cli.verify",
    "build": "downloader.cli.build",
    "push": "downloader.cli.push",
    "publish": "downloader.cli.publish",
    "assemble": "downloader.cli.assemble",
    "restore": "downloader.cli.restore",
    "serve": "downloader.cli.serve",
    "inspect": "downloader.cli.inspect",
    "copy": "downloader.cli.copy",
    "bundle": "downloader.cli.bundle:bundle_command",
    "login": "downloader.cli.login",
    "logout": "downloader.cli.login",
    "remove": "downloader.cli.remove",
    "models": "downloader.cli.models",
    "list": "downloader.cli.list:list_tags",
    "catalog": "downloader.cli.catalog",
    "refresh": "downloader.cli.refresh",
    "cleanup": "downloader.cli.cleanup",
    "farm": "downloader.cli.farm",
    "stage": "downloader.cli.stage",
}

HIDDEN = {"stage"}  # what the builder stage runs
EXTRA_MODULES = {"huggingface_hub", "hf_transfer", "httpx2"}

DEBUG_HINT = "this is a fault of hf-models; HF_MODELS_DEBUG=1 shows where, for a report"
# What only this machine can be the cause of; another OSError is one that should be foreseen.
DISK_ERRORS = {
    errno.ENOSPC,
    getattr(errno, "EDQUOT", errno.ENOSPC),
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
}
INTERRUPTED = 130  # 128 + SIGINT, as every shell reports it


class LazyGroup(Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order of `COMMANDS`."""
        return [*COMMANDS]  # `list` is a module here, once that command is loaded

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        name, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(name), attribute or cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)  # noqa: S101 - a table of our own
        if VERBOSE not in command.params:
            command.params.append(VERBOSE)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line per command."""
        commands = {name: self.get_command(ctx, name) for name in COMMANDS if name not in HIDDEN}
        with formatter.section("Commands"):
            formatter.write_dl(
                [(n, c.get_short_help_str(limit=100)) for n, c in commands.items() if c]
            )


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "restore ghcr.io/me/hf-models:qwen2.5-0.5b",
        "publish Qwen/Qwen2.5-0.5B --to ghcr.io/me/hf-models",
    ),
)
@click.version_option(__version__, prog_name="hf-models")
def cli() -> None:
    """Any Hugging Face repo as a container image, and back into the Hugging Face cache."""


cli.params.append(VERBOSE)


def main() -> None:
    """Run the command line and exit: 0, or the exit code of the error."""
    _fill_standard_streams()
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def _fill_standard_streams() -> None:
    """Open what the caller closed (``2>&-``): a socket would get its number, and our messages."""
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - until the end
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are printed, never raised."""
    try:
        if read_environment().debug:
            start_log()
        result = cli.main(args=arguments, prog_name="hf-models", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say_error("interrupted; run the same command again to continue")
        return INTERRUPTED
    except SystemExit:  # click's answer to a reader that has left, as `--help | head` does
        return 0
    except Exception as error:  # noqa: BLE001 - no traceback, ever
        return _report(_known(error), is_json="--json" in arguments)
    finally:
        stop_log()
    return result if isinstance(result, int) else 0


def _report(error: HfModelsError, *, is_json: bool) -> int:
    """Print an error as two lines, and where JSON was wanted as its document; return the code."""
    if read_environment().debug:
        for line in traceback.format_exc().splitlines():
            say(without_secrets(line))
    say_error(error.message, error.hint)
    if is_json:
        with suppress(StorageError):  # standard output may be the error
            print_json({"error": describe_error(error)})
    return error.exit_code


def _known(error: Exception) -> HfModelsError:
    """Return an error of this project for any exception."""
    match error:
        case HfModelsError():
            return error
        case click.ClickException():
            return InputError(_one_sentence(error), hint=_help_hint(error))
        case ModuleNotFoundError(name=str(name)) if name in EXTRA_MODULES:
            return InputError(f"this command needs {name}", hint=install_hint("hub"))
        case MemoryError():
            return StorageError("out of memory", hint="lower --memory or --jobs, or free memory")
        case OSError() if found := _disk_error(error):
            return found
    said = without_secrets(f"{type(error).__name__}: {error}".removesuffix(": "))
    return UnexpectedError(f"unexpected {said}", hint=DEBUG_HINT)


def _disk_error(error: OSError) -> StorageError | None:
    if error.errno == errno.ENOENT and error.filename is None:  # of os.getcwd
        return StorageError("the working directory is gone", hint="change to another one")
    if error.errno not in DISK_ERRORS or error.strerror is None:
        return None
    return StorageError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)


def _one_sentence(error: click.ClickException) -> str:
    message = error.format_message()
    return message[:1].lower() + message[1:].removesuffix(".")


def _help_hint(error: click.ClickException) -> str | None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"see `{context.command_path} --help`" if context else None


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # A runner that is cancelled sends SIGTERM; clean up exactly as on Ctrl-C.
    raise KeyboardInterrupt
