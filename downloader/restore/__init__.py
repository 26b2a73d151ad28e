"""Restoring: an image of a registry, a directory, an archive or the local engine to files.

::

    source ── opening ── image ── reader ──┬── its own list (an image of this project)
                                           └── foreign: layers, scan, overlay, cache_scan, models
                                     │
    restore_plan: what is needed ────┴──┬── transfer (read by range) ──┬── target
                                        └── foreign.extract (streams) ─┘

Nothing here imports huggingface_hub: the consumer's side needs no Hub.
"""

from downloader.restore.download import DownloadSettings
from downloader.restore.inspect import InspectedLayer, Inspection, inspect
from downloader.restore.job import Report, Restored, RestoreOptions, restore
from downloader.restore.opening import Network, open_image
from downloader.restore.source import parse_source
from downloader.restore.target import CacheTarget, LocalTarget, Target
from downloader.restore.verify import verify

__all__ = [
    "CacheTarget",
    "DownloadSettings",
    "InspectedLayer",
    "Inspection",
    "LocalTarget",
    "Network",
    "Report",
    "RestoreOptions",
    "Restored",
    "Target",
    "inspect",
    "open_image",
    "parse_source",
    "restore",
    "verify",
]
