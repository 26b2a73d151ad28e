"""Hub to stores, streaming: no engine, no disk, memory bounded by a constant.

::

    job ─┬─ look ───── layer_cache      what each destination has
         ├─ transfer ─ ramp ─ upload_layers ─┬─ layer_stream     bytes from the Hub, hashed
         │                                   ├─ oci.upload       bytes to the store
         │                                   ├─ checkpoint       layers that are there
         │                                   └─ upload_journal   layers on their way
         └─ finish ─── image_writer     configs, manifests, the tag

`assemble` makes one image of shards; `copy` brings a finished image from store to store.
"""

from downloader.publish.assemble import AssembleOptions, assemble
from downloader.publish.base import Base
from downloader.publish.checkpoint import Shard, parse_shard
from downloader.publish.copy import Copied, SourceImage, StoredImage, copy
from downloader.publish.job import Outcome, PublishOptions, check_gated, publish
from downloader.publish.layer_cache import read_labels

__all__ = [
    "AssembleOptions",
    "Base",
    "Copied",
    "Outcome",
    "PublishOptions",
    "Shard",
    "SourceImage",
    "StoredImage",
    "assemble",
    "check_gated",
    "copy",
    "parse_shard",
    "publish",
    "read_labels",
]
