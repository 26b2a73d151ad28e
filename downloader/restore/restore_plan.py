"""The contents to restore: those of the snapshots that the target lacks, with their sources."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from downloader.fs import allocated_bytes
from downloader.hub.repo import GIT_LIMIT_BYTES, NO_OID, Repo, RepoFile, Selection
from downloader.hub.selection import select
from downloader.net.ranges import ByteRange
from downloader.restore.download import Counts
from downloader.restore.foreign.cache_scan import Extent
from downloader.restore.foreign.entries import InLayer, InMemory, InStream
from downloader.restore.foreign.extract import ContentExtractor, Key
from downloader.restore.image_blobs import ImageBlobs
from downloader.restore.reader import Found
from downloader.restore.target import Target
from downloader.restore.values import BlobPlan, LayerRange, plan_blob
from downloader.transfer.partial_file import partial_paths

# The Hub takes no file above 10 MB into git itself.


def narrow(found: list[Found], selection: Selection) -> list[Found]:
    """Return the snapshots with the selected files only.

    Raises:
        InputError: A name or pattern matches nothing.
    """
    if selection.is_everything:
        return found
    every = {file.path: file for item in found for file in item.snapshot.files}
    names = {file.path for file in select(every.values(), selection)}
    narrowed = []
    for item in found:
        files = tuple(file for file in item.snapshot.files if file.path in names)
        if files:
            partial = item.snapshot.is_partial or len(files) < len(item.snapshot.files)
            snapshot = replace(item.snapshot, files=files, is_partial=partial, selection=selection)
            narrowed.append(replace(item, snapshot=snapshot))
    return narrowed


def keys_to_read(item: Found, extractor: ContentExtractor | None = None) -> set[Key]:
    """Return the contents that have to pass in a stream before the snapshot is complete.

    These are the contents of compressed layers, and those that nothing names: only the digest
    of their whole layer says whether they are right.
    """
    keys: set[Key] = set()
    for file in item.snapshot.files:
        extent = item.extents.get(file.path)
        if extent is not None and is_streamed(extent):
            keys.update(_keys(extent))
    return {key for key in keys if extractor is None or not extractor.has(key)}


def is_streamed(extent: Extent) -> bool:
    """Whether a content has to pass in a stream, from the first byte of its layer."""
    return extent.oid is None or any(isinstance(part, InStream) for part, _ in extent.parts)


def _keys(extent: Extent) -> list[Key]:
    return [(part.layer, part.offset) for part, _ in extent.parts if not isinstance(part, InMemory)]


def read_streams(item: Found, extractor: ContentExtractor) -> Found:
    """Return a snapshot whose every content has its oid; what must pass in streams passes now.

    Raises:
        ProtocolError, IntegrityError, RegistryError, TransportError, StorageError: A layer
            cannot be read, or is not the one that the manifest names.
    """
    keys = keys_to_read(item, extractor)
    if keys and item.read_again is not None:
        extractor.wanted = keys
        item.read_again({layer for layer, _ in keys}, extractor)
    files = [
        _named(file, item.extents[file.path], extractor) if file.oid == NO_OID else file
        for file in item.snapshot.files
    ]
    return replace(item, snapshot=replace(item.snapshot, files=tuple(files)))


def _named(file: RepoFile, extent: Extent, extractor: ContentExtractor) -> RepoFile:
    sha256, *sha1 = extractor.oids(_keys(extent)[0])
    if file.size_bytes > GIT_LIMIT_BYTES or not sha1:
        return replace(file, sha256=sha256)
    return replace(file, blob_id=sha1[0])


@dataclass
class Work:
    """The work of a restore, each content once.

    Args:
        ranges: Contents that are read by range, each with the blobs of its image.
        streams: Contents that pass in streams: repo, oid, and the parts.
    """

    ranges: list[tuple[BlobPlan, ImageBlobs]] = field(default_factory=list)
    streams: list[tuple[Repo, str, list[Key]]] = field(default_factory=list)


def plan_work(wanted: Iterable[Found]) -> Work:
    """Return where each content comes from.

    Raises:
        ProtocolError: An image lacks a part of a content.
    """
    work, seen = Work(), set()
    for item in wanted:
        repo = item.snapshot.repo
        for file in item.snapshot.files:
            if (repo, file.oid) in seen:
                continue
            seen.add((repo, file.oid))
            extent = item.extents.get(file.path)
            if extent is not None and is_streamed(extent):
                work.streams.append((repo, file.oid, _keys(extent)))
            elif item.image_blobs is not None:
                found = item.ranges.get(file.oid, []) if extent is None else _ranges(extent)
                plan = plan_blob(repo, file.oid, file.size_bytes, list(found))
                work.ranges.append((plan, item.image_blobs))
    return work


def _ranges(extent: Extent) -> list[LayerRange]:
    ranges, start = [], 0
    for content, size_bytes in extent.parts:
        if isinstance(content, InLayer):
            place = ByteRange(content.offset, content.offset + size_bytes)
            ranges.append(LayerRange(content.layer, place, start))
        start += size_bytes
    return ranges


def missing_bytes(plans: Iterable[BlobPlan], target: Target) -> int:
    """Return how many bytes the target lacks; partial files of earlier runs count as there."""
    missing = 0
    for plan in plans:
        if target.existing(plan.repo, plan.oid) is None:
            partial, _ = partial_paths(target.blob(plan.repo, plan.oid))
            missing += max(0, plan.size_bytes - allocated_bytes(partial))
    return missing


def count_needed(wanted: Iterable[Found], target: Target, counts: Counts) -> None:
    """Count what a restore would do."""
    for item in wanted:
        repo, unnamed = item.snapshot.repo, [f for f in item.snapshot.files if f.oid == NO_OID]
        sizes = item.snapshot.blobs
        sizes.pop(NO_OID, None)
        counts.fetched_bytes += sum(file.size_bytes for file in unnamed)
        counts.blobs += len(unnamed)
        for oid, size_bytes in sizes.items():
            if target.existing(repo, oid) is None:
                counts.fetched_bytes += size_bytes
                counts.blobs += 1
            else:
                counts.kept_bytes += size_bytes
                counts.kept_blobs += 1
