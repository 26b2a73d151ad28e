"""``hf-models bundle``: a stick with images and the program that restores them."""

import click

from downloader.cli.command import examples
from downloader.cli.console import ConsoleProgress, print_json, print_result
from downloader.cli.options import json_option, network_options, quiet_option
from downloader.library.bundle import PROGRAM, bundle
from downloader.library.connection import Connection
from downloader.units import format_bytes


@click.command(
    name="bundle",
    epilog=examples(
        "bundle ghcr.io/me/hf-models:qwen2.5-0.5b --to /media/stick",
        "bundle dist/qwen2.5-0.5b ghcr.io/me/hf-models:codet5-small --to ./stick",
    ),
)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--to", "directory", required=True, metavar="DIR", help="The stick.")
@network_options
@json_option
@quiet_option
def bundle_command(
    images: tuple[str, ...], directory: str, as_json: bool, quiet: bool, connection: Connection
) -> None:
    """Write images, the program that restores them and a README into a directory.

    The images are one OCI layout and share layers; SHA256SUMS lists every file. On the other
    side, Python alone is enough: `python hf-models.pyz restore .`
    """
    with ConsoleProgress("bundle", "blob", quiet=quiet) as progress:
        made = bundle(images, directory, progress=progress, connection=connection)
    if as_json:
        tags = [{"tag": item.reference, "digest": item.digest} for item in made.images]
        facts = {"directory": str(made.directory), "size_bytes": made.size_bytes}
        print_json({**facts, "images": tags})
        return
    for item in made.images:
        print_result(f"{item.reference} {item.digest}")
    print_result(f"{made.directory}: {format_bytes(made.size_bytes)}; {PROGRAM} restores it")
