"""``hf-models fetch``: the download alone, into a cache directory. The builder stage runs it."""

from pathlib import Path

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    ConsoleProgress,
    describe_repo,
    print_json,
    print_result,
    say,
    teller,
)
from downloader.cli.options import (
    http_options,
    json_option,
    quiet_option,
)
from downloader.cli.repos import plan_instead, plan_option, repo_options
from downloader.hub.cache import blob_path
from downloader.hub.fetch import FetchReport, FetchSettings, fetch_snapshot
from downloader.hub.repo import Snapshot
from downloader.library.connection import Connection, open_session
from downloader.library.publisher import PlanOptions, open_hub, resolve
from downloader.units import format_bytes, format_count


@click.command(
    epilog=examples(
        "fetch Qwen/Qwen2.5-0.5B",
        'fetch org/data --type dataset --include "*.parquet" --cache-dir /mnt/hub',
    )
)
@repo_options
@plan_option("Fetch what this plan names, not what the repo is now.")
@click.option("--cache-dir", metavar="DIR", help="Where to.  [default: HF_HUB_CACHE]")
@click.option("--verify-existing", is_flag=True, help="Hash the files that are there already.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched.")
@http_options
@json_option
@quiet_option
def fetch(
    repo_id: str,
    wanted: PlanOptions,
    plan_file: str | None,
    cache_dir: str | None,
    verify_existing: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    connection: Connection,
) -> None:
    """Download a repo into a Hugging Face cache, every file verified against its oid.

    FILE names single files, or folders by a trailing slash.
    """
    with open_session(connection) as session:
        hub = open_hub(session, teller(quiet=quiet))
        plan = plan_instead(plan_file, repo_id) if plan_file else None
        snapshot = plan.snapshot if plan else resolve(hub, repo_id, wanted, session.environment)
        target = session.environment.cache_dir(cache_dir)
        if dry_run:
            _print_missing(snapshot, target, as_json)
            return
        with ConsoleProgress("fetch", quiet=quiet) as progress:
            report = fetch_snapshot(
                snapshot,
                lambda file: hub.source_of(snapshot, file),
                target,
                http=hub.http,
                settings=FetchSettings(verify_existing=verify_existing, policy=hub.retry),
                progress=progress,
            )
    _print_report(report, snapshot, as_json, quiet)


def _print_missing(snapshot: Snapshot, target: Path, as_json: bool) -> None:
    blobs = target / snapshot.repo.folder_name
    rows = [
        {
            "path": f.path,
            "size_bytes": f.size_bytes,
            "oid": f.oid,
            "is_cached": (blobs / blob_path(f.oid)).exists(),
        }
        for f in snapshot.files
    ]
    if as_json:
        print_json({"dry_run": True, **describe_repo(snapshot), "listing": rows})
        return
    for row in rows:
        state = "have" if row["is_cached"] else "fetch"
        print_result(f"{state:6}{row['size_bytes']:>16}  {row['path']}")


def _print_report(report: FetchReport, snapshot: Snapshot, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(
            {
                "dry_run": False,
                **describe_repo(snapshot),
                "path": str(report.snapshot_dir),
                "fetched_files": report.fetched_files,
                "fetched_bytes": report.fetched_bytes,
                "reused_files": report.reused_files,
                "reused_bytes": report.reused_bytes,
                "ways": dict(report.ways),
            }
        )
        return
    if not quiet:
        for note in report.notes:
            say(note)
        fetched, reused = format_bytes(report.fetched_bytes), format_bytes(report.reused_bytes)
        count = format_count(report.fetched_files, "file")
        say(f"downloaded {fetched} in {count}, already present {reused}; all verified")
    print_result(str(report.snapshot_dir))
