"""What lies under an image and beside it: the base image, the ModelPack manifest."""

import click

from downloader.cli.registries import Registries
from downloader.engine.dockerfile import DEFAULT_BASE, NO_BASE
from downloader.oci.reference import parse_reference
from downloader.publish import Base, no_base

base_option = click.option(
    "--base",
    default=DEFAULT_BASE,
    show_default=True,
    metavar="IMAGE",
    help="Base image with sh and sha256sum, or none for an image of files only.",
)

modelpack_option = click.option(
    "--modelpack/--no-modelpack",
    default=True,
    show_default=True,
    help="Whether the tag also carries a CNCF ModelPack manifest over the same layers.",
)


def find_base(name: str, registries: Registries) -> Base:
    """Return the base image that ``--base`` names; nothing is asked yet."""
    if name == NO_BASE:
        return no_base()
    reference = parse_reference(name)
    return Base(registries.open(reference), reference.target, str(reference))
