"""Hub to stores, streaming: no engine, no disk, memory bounded by a constant."""

from downloader.publish.assemble import assemble_image
from downloader.publish.base import DEFAULT_BASE, Base, no_base, open_base
from downloader.publish.checkpoint import Shard, parse_shard
from downloader.publish.job import (
    Outcome,
    Publication,
    Settings,
    check_gated,
    publish,
)
from downloader.publish.joining import assemble
from downloader.publish.layer_cache import Image, read_labels

__all__ = [
    "DEFAULT_BASE",
    "Base",
    "Image",
    "Outcome",
    "Publication",
    "Settings",
    "Shard",
    "assemble",
    "assemble_image",
    "check_gated",
    "no_base",
    "open_base",
    "parse_shard",
    "publish",
    "read_labels",
]
