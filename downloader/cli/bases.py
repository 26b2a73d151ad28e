"""What lies under an image and beside it: the base image, the ModelPack manifest."""

import click

from downloader.engine.dockerfile import DEFAULT_BASE

base_option = click.option(
    "--base",
    metavar="IMAGE",
    help="Base image with sh and sha256sum, or none for an image of files only."
    f"  [env: HF_MODELS_BASE; default: {DEFAULT_BASE}, or none where it cannot be reached]",
)

modelpack_option = click.option(
    "--modelpack/--no-modelpack",
    default=True,
    show_default=True,
    help="Whether the tag also carries a CNCF ModelPack manifest over the same layers.",
)
