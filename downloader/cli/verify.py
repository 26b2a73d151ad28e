"""``hf-models verify``: is this cache what its names promise? Offline."""

from dataclasses import asdict
from pathlib import Path

import click

from downloader.cli.console import ConsoleProgress, format_bytes, print_json, print_result
from downloader.cli.options import find_cache_dir, json_option, quiet_option
from downloader.errors import IntegrityError
from downloader.hub.verify import Report, verify_cache

FINDINGS_SHOWN = 100  # a screen or two; --json has them all


@click.command()
@click.argument("path", required=False, metavar="[PATH]")
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True)
@json_option
@quiet_option
def verify(path: str | None, threads: int, as_json: bool, quiet: bool) -> None:
    """Check every blob against its name, every link, and every file that was promised.

    PATH is a cache directory, HF_HOME, or one repo's folder in it.  [default: HF_HUB_CACHE]
    Asks nobody: a blob's name is its hash. Exit code 6 where anything is missing or wrong.
    """
    with ConsoleProgress("verify", quiet=quiet) as progress:
        target = Path(path).expanduser() if path else find_cache_dir(None)
        report = verify_cache(target, threads=threads, progress=progress)
    print_report(report, as_json=as_json, quiet=quiet)


def print_report(report: Report, *, as_json: bool, quiet: bool) -> None:
    """Print what a verification saw.

    Raises:
        IntegrityError: Something is missing or wrong.
    """
    if as_json:
        print_json(asdict(report) | {"good": report.is_good})
    else:
        _print_findings(report, quiet)
    if not report.is_good:
        bad = sum(finding.kind != "extra" for finding in report.findings)
        raise IntegrityError(
            f"want every file as promised, got {bad} missing or wrong",
            hint="fetch or restore again with --verify-existing: what is right is kept",
        )


def _print_findings(report: Report, quiet: bool) -> None:
    for finding in report.findings[:FINDINGS_SHOWN]:
        print_result(f"{finding.kind:8}{finding.path}: want {finding.want}, got {finding.got}")
    hidden = len(report.findings) - FINDINGS_SHOWN
    if hidden > 0:
        print_result(f"... and {hidden} more; --json has all")
    if quiet and report.is_good:
        return
    print_result(
        f"{report.blobs} blobs ({format_bytes(report.size_bytes)}), {report.files} files, "
        f"{report.snapshots} snapshots in {report.repos} repos"
    )
    if report.unchecked_files:
        print_result(f"{report.unchecked_files} files that nothing vouches for were not checked")
