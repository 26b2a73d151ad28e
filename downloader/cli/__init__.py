"""The command line: flags to one library call per command.

The only package that prints, reads the environment, or exits. Commands are loaded when they
are called, so that the consumer's commands never import what only publishers need.
"""

import importlib
import signal
import sys
from collections.abc import Mapping
from types import FrameType

import click

from downloader import __version__
from downloader.cli.console import say_error
from downloader.errors import HfModelsError

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
    "models": "downloader.cli.models",
    "list": "downloader.cli.list:list_tags",
    "catalog": "downloader.cli.catalog",
    "refresh": "downloader.cli.refresh",
    "cleanup": "downloader.cli.cleanup",
    "farm": "downloader.cli.farm",
    "stage": "downloader.cli.stage",
}

HIDDEN = {"stage"}  # what the builder stage runs
EXTRA = "pip install 'hf-models[hub]'"
EXTRA_MODULES = {"huggingface_hub", "hf_transfer", "httpx2"}

INTERRUPTED = 130  # 128 + SIGINT, as every shell reports it


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        name, _, attribute = COMMANDS[cmd_name].partition(":")
        module = importlib.import_module(name)
        command = getattr(module, attribute or cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)  # noqa: S101 - a table of our own
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line per command; a consumer's install lacks what publishing needs."""
        rows = [(name, self._short_help(ctx, name)) for name in COMMANDS if name not in HIDDEN]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        try:
            command = self.get_command(ctx, name)
        except ModuleNotFoundError as error:
            if error.name not in EXTRA_MODULES:
                raise
            return f"(needs {EXTRA})"
        return command.get_short_help_str(limit=100) if command else ""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hf-models")
def cli() -> None:
    """Any Hugging Face repo as a container image, and back into the Hugging Face cache."""


def main() -> None:
    """Run the command line and exit: 0, or the exit code of the error."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are printed, never raised."""
    try:
        result = cli.main(args=arguments, prog_name="hf-models", standalone_mode=False)
    except HfModelsError as error:
        say_error(error.message, error.hint)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        say_error(_one_sentence(error), _help_hint(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say_error("interrupted; run the same command again to continue")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_MODULES:
            raise
        say_error(f"this command needs {error.name}", EXTRA)
        return 2
    return result if isinstance(result, int) else 0


def _one_sentence(error: click.ClickException) -> str:
    message = error.format_message()
    return message[:1].lower() + message[1:].removesuffix(".")


def _help_hint(error: click.ClickException) -> str | None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"see `{context.command_path} --help`" if context else None


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # A runner that is cancelled sends SIGTERM; clean up exactly as on Ctrl-C.
    raise KeyboardInterrupt
