"""``hf-models verify``: a cache or image compared with its own hashes. Offline."""

from dataclasses import asdict

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    ConsoleProgress,
    describe_error,
    print_json,
    print_result,
    say_error,
)
from downloader.cli.options import (
    json_option,
    network_options,
    quiet_option,
    trust_options,
)
from downloader.errors import IntegrityError
from downloader.hub.verify import Report
from downloader.library.connection import Connection
from downloader.library.consumer import is_image, verify_signatures
from downloader.library.consumer import verify as verify_target
from downloader.restore.policy import Policy, Signed
from downloader.units import format_bytes, format_count

FINDINGS_SHOWN = 100  # a screen or two; --json has them all


@click.command(epilog=examples("verify", "verify ghcr.io/me/hf-models:qwen2.5-0.5b"))
@click.argument("target", required=False, metavar="[PATH_OR_IMAGE]")
@network_options
@trust_options
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True)
@json_option
@quiet_option
def verify(
    target: str | None,
    threads: int,
    as_json: bool,
    quiet: bool,
    connection: Connection,
    policy: Policy | None,
) -> int:
    """Check every blob against its name, every link, and every file that was promised.

    PATH_OR_IMAGE is a cache directory, HF_HOME, or one repo's folder in it; or an image: in a
    registry, in the local engine, an OCI layout, an archive.  [default: HF_HUB_CACHE]

    Asks no Hub: a blob's name is its hash. Exit code 6 where anything is missing or wrong.
    """
    noun = "layer" if target and is_image(target) else "file"
    with ConsoleProgress("verify", noun, quiet=quiet) as progress:
        report = verify_target(target, progress=progress, threads=threads, connection=connection)
        signed = None
        if policy and report.is_good:
            signed = verify_signatures(target, policy, progress=progress, connection=connection)
    return print_report(report, signed, as_json=as_json, quiet=quiet)


def print_report(
    report: Report, signed: list[Signed] | None = None, *, as_json: bool, quiet: bool
) -> int:
    """Print what a verification saw; return its exit code.

    Args:
        report: Of the bytes.
        signed: The signatures that were checked; None where none were asked for.
        as_json: Whether for programs.
        quiet: Whether to say only what is wrong.
    """
    bad = sum(finding.kind != "extra" for finding in report.findings)
    error = None
    if bad:
        error = IntegrityError(
            f"{format_count(bad, 'file')} missing or wrong",
            hint="run fetch or restore with --verify-existing: what is right is kept",
        )
    if as_json:
        print_json(
            asdict(report)
            | {"good": report.is_good, "error": describe_error(error)}
            | ({} if signed is None else {"signed": [asdict(item) for item in signed]})
        )
    else:
        _print_findings(report, quiet)
        for item in signed or ():
            print_result(str(item))
    if error:
        say_error(error.message, error.hint)
        return error.exit_code
    return 0


def _print_findings(report: Report, quiet: bool) -> None:
    for finding in report.findings[:FINDINGS_SHOWN]:
        print_result(f"{finding.kind:8}{finding.path}: want {finding.want}, got {finding.got}")
    hidden = len(report.findings) - FINDINGS_SHOWN
    if hidden > 0:
        print_result(f"... and {hidden} more; --json has all")
    if quiet and report.is_good:
        return
    print_result(
        f"{format_count(report.blobs, 'blob')} ({format_bytes(report.size_bytes)}), "
        f"{format_count(report.files, 'file')}, {format_count(report.snapshots, 'snapshot')} "
        f"in {format_count(report.repos, 'repo')}"
    )
    if report.unchecked_files:
        unchecked = format_count(report.unchecked_files, "file")
        print_result(f"{unchecked} that nothing vouches for: not checked")
