"""``hf-models copy``: images between registries, layout directories and archives."""

import click

from downloader.cli.command import examples
from downloader.cli.console import ConsoleProgress
from downloader.cli.options import json_option, mirror_option, quiet_option
from downloader.cli.targets import registry_options, report_results, to_option
from downloader.library.connection import Connection
from downloader.library.copying import copy as copy_images
from downloader.library.publisher import TargetResult


@click.command(
    epilog=examples(
        "copy ghcr.io/me/hf-models:qwen2.5-0.5b --to registry.example.com/models",
        "copy ghcr.io/me/hf-models:qwen2.5-0.5b --to /mnt/stick/images --to qwen.tar",
        "copy qwen.tar --to registry.example.com/models",
    )
)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@to_option("A repository, with another tag behind it or not, a directory, or FILE.tar; repeatable.")
@registry_options
@mirror_option
@json_option
@quiet_option
def copy(
    images: tuple[str, ...],
    targets: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    connection: Connection,
) -> int:
    """Copy images with all that they name; what is there already stays, and is not sent.

    IMAGE is in a registry, an OCI layout directory or an archive (with :TAG where that holds
    several). Interrupted and run again, it continues; an archive begins anew.
    """
    with ConsoleProgress("copy", "blob", quiet=quiet) as progress:
        copied = copy_images(images, targets, progress=progress, connection=connection)
    done = [TargetResult(item.name, item.digest, item.error) for item in copied]
    return report_results(done, as_json=as_json)
