"""Classes of all commands and groups: examples in the help, suggestions for mistyped names."""

import difflib

import click

from downloader.cli.console import start_log


def examples(*lines: str) -> str:
    """Return the end of a command's help: command lines as a user types them."""
    return "\n".join(["\b", "Examples:", *(f"  hf-models {line}" for line in lines)])


def _start_log(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        start_log()


VERBOSE = click.Option(
    ["-v", "--verbose"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_start_log,
    help="Show requests, answers and choices.  [env: HF_MODELS_DEBUG=1]",
)


class Group(click.Group):
    """A group that answers an unknown name with those that are spelt like it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names.

        Raises:
            click.UsageError: There is none of that name.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=2)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"no such command {name!r}{meant}")
        return super().resolve_command(ctx, args)
