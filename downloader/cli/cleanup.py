"""``hf-models cleanup``: free a hosted runner's disk."""

from dataclasses import asdict
from pathlib import Path

import click

from downloader.cli.command import examples
from downloader.cli.console import print_json, print_result, say
from downloader.cli.options import json_option
from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.farm.cleanup import Cleaned, Cleaner, clean_runner, protected_paths
from downloader.units import format_bytes

ROW = "{:18}{:14}{:>10}{:>10}{:>11}  {}"


@click.command(epilog=examples("cleanup --dry-run", "cleanup --yes --json"))
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@click.option("--yes", is_flag=True, help="Also on a machine that is no CI runner.")
@click.option("--root", default="/", type=click.Path(file_okay=False, exists=True), hidden=True)
@json_option
def cleanup(dry_run: bool, yes: bool, root: str, as_json: bool) -> None:
    """Free a hosted CI runner's disk: SDKs, toolsets, images and caches it never needs.

    Deletes system directories such as /usr/share/dotnet, so it runs in CI only, unless --yes
    is given.
    """
    if not (dry_run or yes or is_ci()):
        raise InputError(
            "cleanup runs only in CI: it deletes SDKs and Docker images of the machine",
            hint="see what it would delete with --dry-run; delete it here with --yes",
        )
    cleaner = Cleaner(Path(root), dry_run=dry_run, protected=protected_paths())
    if not as_json:
        print_result(ROW.format("item", "", "before", "after", "disk free", "").rstrip())
    done = clean_runner(cleaner, (lambda _: None) if as_json else _print_row)
    if as_json:
        items = [asdict(cleaned) | {"freed_bytes": cleaned.freed_bytes} for cleaned in done]
        print_json({"dry_run": dry_run, "items": items})
    else:
        _print_total(done, dry_run)


def is_ci() -> bool:
    """Whether the variables of the usual CI services are set."""
    return any(read_environment().get(name) == "true" for name in ("CI", "GITHUB_ACTIONS"))


def _print_row(cleaned: Cleaned) -> None:
    sizes = (cleaned.before_bytes, cleaned.after_bytes, cleaned.free_after_bytes)
    columns = [format_bytes(size) for size in sizes]
    print_result(ROW.format(cleaned.name, cleaned.state, *columns, cleaned.note).rstrip())


def _print_total(done: list[Cleaned], dry_run: bool) -> None:
    before, after = done[0].free_before_bytes, done[-1].free_after_bytes
    if dry_run:
        total = sum(cleaned.before_bytes for cleaned in done)
        print_result(f"would free {format_bytes(total)}, and what Docker's images take")
        say(f"free now: {format_bytes(before)}")
    else:
        freed = sum(cleaned.freed_bytes for cleaned in done)
        text = f"free before: {format_bytes(before)}, free after: {format_bytes(after)}"
        print_result(f"freed {format_bytes(freed)}; {text}")
