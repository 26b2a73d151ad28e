"""``hf-models restore``: images back into the Hugging Face cache."""

from typing import Any

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    ConsoleProgress,
    describe_repo,
    print_files,
    print_json,
    print_result,
    say,
)
from downloader.cli.options import (
    gathered,
    json_option,
    memory_option,
    network_options,
    quiet_option,
    selection_options,
    trust_options,
)
from downloader.errors import InputError
from downloader.library.connection import Connection
from downloader.library.consumer import restore_images
from downloader.restore import DownloadSettings, Report, Restored
from downloader.restore.policy import Policy
from downloader.restore.source import looks_like_source
from downloader.units import MIB, format_bytes, format_count, parse_size

# Below this a connection's buffer is so small that its system calls show.
_SMALLEST_MEMORY_BYTES = 4 * MIB


def download_of(
    connections: int, jobs: int, memory: str, verify_existing: bool
) -> DownloadSettings:
    """Return what the flags say of a download.

    Raises:
        InputError: Too little memory.
    """
    memory_bytes = parse_size(memory)
    if memory_bytes < _SMALLEST_MEMORY_BYTES:
        raise InputError(
            f"want at least {format_bytes(_SMALLEST_MEMORY_BYTES)} of memory, "
            f"got {format_bytes(memory_bytes)}",
            hint=f"raise --memory to {_SMALLEST_MEMORY_BYTES // MIB}MiB",
        )
    return DownloadSettings(
        connections=connections,
        jobs=jobs,
        memory_bytes=memory_bytes,
        verify_existing=verify_existing,
    )


@click.command(
    epilog=examples(
        "restore ghcr.io/me/hf-models:qwen2.5-0.5b",
        "restore qwen.tar config.json tokenizer.json --local-dir ./qwen",
    )
)
@click.argument("source", metavar="SOURCE")
@click.argument("arguments", nargs=-1, metavar="[SOURCE|FILE]...")
@selection_options
@click.option("--cache-dir", metavar="DIR", help="Where to.  [default: HF_HUB_CACHE]")
@click.option("--local-dir", metavar="DIR", help="Plain files there instead of a cache.")
@network_options
@trust_options
@click.option(
    "--connections",
    type=click.IntRange(1, 256),
    default=DownloadSettings.connections,
    show_default=True,
    help="At most at once; there are as many as raise the throughput.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=DownloadSettings.jobs,
    show_default=True,
    help="At most so many large files at once.",
)
@memory_option
@click.option("--verify-existing", is_flag=True, help="Hash the files that are there already.")
@gathered("download", download_of)
@click.option("--dry-run", is_flag=True, help="Say what would be restored.")
@json_option
@quiet_option
def restore(
    source: str,
    arguments: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    cache_dir: str | None,
    local_dir: str | None,
    connection: Connection,
    policy: Policy | None,
    download: DownloadSettings,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put the files of an image back into the Hugging Face cache, verified.

    SOURCE is an image in a registry, an OCI layout directory, an archive (OCI or docker save,
    also .gz or .zst), a root file system (a directory or a tar), or docker-daemon:NAME. A further
    argument with a tag or digest, or that is a directory or archive here, is another SOURCE; any
    other is a FILE of the repo, and a FILE that ends in / a whole folder.
    """
    further = [text for text in arguments if looks_like_source(text)]
    with ConsoleProgress("restore", quiet=quiet) as progress:
        report = restore_images(
            [source, *further],
            cache_dir,
            [text for text in arguments if text not in further],
            progress=progress,
            local_dir=local_dir,
            include=include,
            exclude=exclude,
            connection=connection,
            download=download,
            policy=policy,
            dry_run=dry_run,
        )
    if as_json:
        print_json(_to_json(report, dry_run=dry_run))
    else:
        _print_report(report, dry_run=dry_run, quiet=quiet)


def _print_report(report: Report, *, dry_run: bool, quiet: bool) -> None:
    if dry_run:
        for item in report.restored:
            _print_planned(item)
    counts = report.counts
    if not quiet:
        verb = "would download" if dry_run else "downloaded"
        say(
            f"{verb} {format_bytes(counts.fetched_bytes)},"
            f" already present {format_bytes(counts.kept_bytes)},"
            f" resumed {format_bytes(counts.resumed_bytes)}"
        )
    if not dry_run:
        for path in dict.fromkeys(item.path for item in report.restored):
            print_result(str(path))


def _print_planned(item: Restored) -> None:
    snapshot = item.snapshot
    print_result(
        f"{snapshot.repo.type} {snapshot.repo.id} at {snapshot.commit}:"
        f" {format_count(len(snapshot.files), 'file')}, {format_bytes(snapshot.size_bytes)}"
    )
    print_files(snapshot.files)


def _to_json(report: Report, *, dry_run: bool) -> dict[str, Any]:
    counts = report.counts
    return {
        "dry_run": dry_run,
        "fetched_bytes": counts.fetched_bytes,
        "resumed_bytes": counts.resumed_bytes,
        "kept_bytes": counts.kept_bytes,
        "kept_blobs": counts.kept_blobs,
        "snapshots": [_snapshot_json(item) for item in report.restored],
    }


def _snapshot_json(item: Restored) -> dict[str, Any]:
    snapshot = item.snapshot
    return {
        "source": item.source,
        "digest": item.digest,
        **describe_repo(snapshot),
        "revision": snapshot.revision,
        "partial": snapshot.is_partial,
        "path": str(item.path),
        "listing": [
            {"path": file.path, "size_bytes": file.size_bytes, "oid": file.oid}
            for file in snapshot.files
        ],
        "missing": list(item.missing),
    }
