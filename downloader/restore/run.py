"""Restoring: images to files, from the first look at the manifest to the last link."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from downloader.errors import InputError, IntegrityError
from downloader.hub.disk import check_space
from downloader.hub.repo import Selection, Snapshot
from downloader.hub.selection import select
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy
from downloader.oci.credentials import Anonymous, Credentials
from downloader.oci.image_files import ArchiveFiles, DirectoryFiles, LocalBlobs
from downloader.oci.reference import Reference, parse_reference
from downloader.oci.registry import Registry
from downloader.progress import NoProgress, Progress
from downloader.restore.capture import Capture
from downloader.restore.contents import Extent, FoundSnapshot
from downloader.restore.download import Counts, Download, DownloadSettings
from downloader.restore.gather import look_through, read_plan
from downloader.restore.image import Image, open_local_image, open_registry_image
from downloader.restore.nodes import Captured, InLayer
from downloader.restore.passing import ReadInto, look_at_stream, open_compressed, open_saved
from downloader.restore.places import Places
from downloader.restore.source import (
    ArchiveSource,
    EngineSource,
    LayoutSource,
    RegistrySource,
    Source,
)
from downloader.restore.target import Target
from downloader.restore.values import BlobPlan, Piece, plan_blob

# A mirror has the next place behind it, so nobody waits for it to get better.
_MIRROR_RETRY = RetryPolicy(tries=1)


@dataclass(frozen=True)
class Network:
    """How registries are reached.

    Args:
        pool: Connections; its read timeout is how long a stalled one is waited for.
        credentials: For every registry and mirror.
        mirrors: Hosts, with a path before the repository if need be; in order.
        plain_http: As for `Registry`.
        retry: Of the image's own registry.
    """

    pool: HttpPool = field(default_factory=HttpPool)
    credentials: Credentials = field(default_factory=Anonymous)
    mirrors: tuple[str, ...] = ()
    plain_http: bool | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True)
class RestoreOptions:
    """What to restore, and how.

    Args:
        selection: Which files.
        download: Bounds.
        dry_run: Whether only to say what would be done.
    """

    selection: Selection = field(default_factory=Selection)
    download: DownloadSettings = field(default_factory=DownloadSettings)
    dry_run: bool = False


@dataclass(frozen=True)
class Restored:
    """One snapshot that was (or would be) restored.

    Args:
        source: The image.
        digest: What the image's name led to.
        snapshot: With the files that were asked for.
        path: Its directory.
        missing: Paths that the image shows and has no content for.
    """

    source: str
    digest: str
    snapshot: Snapshot
    path: Path
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a restore did: snapshots, and bytes."""

    restored: tuple[Restored, ...]
    counts: Counts


@dataclass
class _Found:
    """A snapshot of one of the sources, and how its contents get into the target."""

    source: str
    digest: str
    snapshot: Snapshot
    pieces: Mapping[str, list[Piece]]
    places: Places | None
    captured: Mapping[str, list[Captured]] = field(default_factory=dict)
    revisions: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Restore:
    """One restore of any number of images.

    Args:
        target: Where files go.
        options: What to restore.
        network: How registries are reached.
        progress: Told of every byte.
    """

    def __init__(
        self,
        target: Target,
        options: RestoreOptions | None = None,
        network: Network | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._target = target
        self._options = options or RestoreOptions()
        self._network = network or Network()
        self._progress = progress or NoProgress()

    def run(self, sources: Sequence[Source]) -> Report:
        """Restore every source, and return what was done.

        Raises:
            InputError: A source or a pattern that names nothing.
            RegistryError, TransportError: A registry said no, or nothing.
            ProtocolError: An image is malformed or hostile.
            IntegrityError: A content is not what it should be.
            StorageError: This machine's disk.
            EngineError: The local engine.
        """
        settings = self._options.download
        writes = not self._options.dry_run
        with Capture(
            self._target if writes else None,
            self._progress,
            verify_existing=settings.verify_existing,
        ) as capture:
            found = [item for source in sources for item in self._look(source, capture)]
            wanted = self._select(found)
            for item in wanted:
                self._target.prepare(item.snapshot)
            download = Download(self._target, settings, self._progress)
            plans = _plans(wanted)
            if writes:
                self._fetch(wanted, plans, download, capture)
            else:
                _count_needed(plans, self._target, download.counts)
        download.counts.kept_bytes += capture.kept_bytes
        download.counts.fetched_bytes += capture.fetched_bytes
        restored = tuple(self._finish(item) for item in wanted)
        if writes:
            self._target.clean()
        return Report(restored, download.counts)

    def _look(self, source: Source, capture: Capture) -> list[_Found]:
        match source:
            case EngineSource():
                return self._pass(str(source), None, open_saved(source.name), capture)
            case ArchiveSource(compression=str()):
                stream = open_compressed(source.path)
                return self._pass(str(source), source.tag, stream, capture)
        return self._look_at(open_image(source, self._network, self._progress), capture)

    def _look_at(self, image: Image, capture: Capture) -> list[_Found]:
        self._progress.note(f"{image.name}: {image.digest}")
        planned = read_plan(image)
        if planned is not None:
            snapshot = planned.snapshot
            item = _Found(image.name, image.digest, snapshot, planned.pieces, image.places)
            return [item]
        found = look_through(image, capture)
        if not found:
            raise _no_cache(image.name)
        return [
            self._resolved(image.name, image.digest, snapshot, image.places, capture)
            for snapshot in found
        ]

    def _pass(
        self,
        name: str,
        tag: str | None,
        stream: AbstractContextManager[ReadInto],
        capture: Capture,
    ) -> list[_Found]:
        with stream as read_into:
            passed = look_at_stream(read_into, name, tag, capture)
        if not passed.snapshots:
            raise _no_cache(name)
        return [
            self._resolved(name, passed.digest, snapshot, None, capture)
            for snapshot in passed.snapshots
        ]

    def _resolved(
        self,
        name: str,
        digest: str,
        found: FoundSnapshot,
        places: Places | None,
        capture: Capture,
    ) -> _Found:
        for path in found.missing:
            self._progress.note(f"{name}: has no content for {path}; leaving it out")
        pieces: dict[str, list[Piece]] = {}
        captured: dict[str, list[Captured]] = {}
        oids: dict[str, str] = {}
        for path, seen in found.files.items():
            extent = _captured(seen, places, capture)
            oid = oids[path] = extent.oid or _choose_oid(extent)
            _place(extent, pieces.setdefault(oid, []), captured.setdefault(oid, []))
        if not oids:
            raise InputError(f"{name}: want files, got a snapshot whose contents were all removed")
        snapshot = found.to_snapshot(oids)
        return _Found(
            name, digest, snapshot, pieces, places, captured, found.revisions, found.missing
        )

    def _select(self, found: list[_Found]) -> list[_Found]:
        selection = self._options.selection
        if selection.is_everything:
            return found
        every = {file.path: file for item in found for file in item.snapshot.files}
        names = {file.path for file in select(every.values(), selection)}
        return [item for item in (_narrowed(item, names, selection) for item in found) if item]

    def _fetch(
        self,
        wanted: list[_Found],
        plans: list[tuple[BlobPlan, Places]],
        download: Download,
        capture: Capture,
    ) -> None:
        missing_bytes = _missing_bytes(plans, self._target)
        check_space(self._target.root, missing_bytes)
        if plans:
            self._progress.start(sum(plan.size_bytes for plan, _ in plans), len(plans))
            download.run(plans)
        kept = set()
        for item in wanted:
            for oid in item.snapshot.blobs:
                kept.add(self._target.blob(item.snapshot.repo, oid))
                if parts := item.captured.get(oid):
                    capture.settle(item.snapshot.repo, oid, parts)
        for path in capture.new_blobs - kept:
            path.unlink(missing_ok=True)  # passed by, and was not asked for

    def _finish(self, item: _Found) -> Restored:
        snapshot, path = item.snapshot, Path()
        if self._options.dry_run:
            path = self._target.root
        else:
            has_main = not item.revisions or "main" in item.revisions
            for revision in item.revisions or (snapshot.revision,):
                named = replace(snapshot, revision=revision)
                path = self._target.finish(named, set_main=has_main)
        return Restored(item.source, item.digest, snapshot, path, item.missing)


def open_image(
    source: RegistrySource | LayoutSource | ArchiveSource, network: Network, progress: Progress
) -> Image:
    """Return the image of a source whose blobs can be asked for.

    Raises:
        RegistryError, TransportError, ProtocolError, IntegrityError, InputError, StorageError.
    """
    match source:
        case RegistrySource(reference=reference):
            registries = _registries(reference, network)
            return open_registry_image(str(source), reference.target, registries, progress)
        case LayoutSource():
            blobs = LocalBlobs(DirectoryFiles(source.path))
            return open_local_image(str(source.path), blobs, source.tag)
    return open_local_image(str(source.path), LocalBlobs(ArchiveFiles(source.path)), source.tag)


def _registries(reference: Reference, network: Network) -> list[Registry]:
    mirrored = [_mirrored(reference, mirror) for mirror in network.mirrors]
    return [
        *(_registry(item, network, _MIRROR_RETRY) for item in mirrored),
        _registry(reference, network, network.retry),
    ]


def _mirrored(reference: Reference, mirror: str) -> Reference:
    host = mirror.removeprefix("https://").removeprefix("http://").strip("/")
    if not host:
        raise InputError(f"want a mirror's host, got {mirror!r}")
    # The dot or colon that makes a first segment a host is missing where it is only a name.
    is_host = any(mark in host.partition("/")[0] for mark in ".:") or host == "localhost"
    if not is_host:
        raise InputError(f"want a mirror's host like mirror.example.com, got {mirror!r}")
    return parse_reference(f"{host}/{reference.repository}")


def _registry(reference: Reference, network: Network, retry: RetryPolicy) -> Registry:
    return Registry(
        reference, network.pool, network.credentials, retry=retry, plain_http=network.plain_http
    )


def _no_cache(name: str) -> InputError:
    return InputError(
        f"{name}: want a Hugging Face cache in the image, got none",
        hint="hf-models inspect shows what the image says of itself",
    )


def _captured(extent: Extent, places: Places | None, capture: Capture) -> Extent:
    """Return an extent whose oid can be known: one that no link names is read now."""
    if extent.oid is not None or places is None or len(extent.parts) != 1:
        return extent
    content, size_bytes = extent.parts[0]
    if not isinstance(content, InLayer):
        return extent
    wanted = ByteRange(content.offset, content.offset + size_bytes)
    with places.open_blob(content.layer, wanted) as reader:
        return Extent(None, ((capture.take_reader(reader, size_bytes), size_bytes),))


def _choose_oid(extent: Extent) -> str:
    """Return a name for a content that nothing names: the one that the Hub would use."""
    content, size_bytes = extent.parts[0]
    if not isinstance(content, Captured):
        raise IntegrityError("want a content that was read, got one that was not")
    sha256, *sha1 = content.oids
    # The Hub takes no file above 10 MB into git itself.
    return sha256 if size_bytes > _GIT_LIMIT_BYTES or not sha1 else sha1[0]


_GIT_LIMIT_BYTES = 10 * 1024**2


def _place(extent: Extent, pieces: list[Piece], captured: list[Captured]) -> None:
    if pieces or captured:
        return  # another path of the same content was here before
    start = 0
    for content, size_bytes in extent.parts:
        if isinstance(content, InLayer):
            place = ByteRange(content.offset, content.offset + size_bytes)
            pieces.append(Piece(content.layer, place, start))
        elif isinstance(content, Captured):
            captured.append(content)
        start += size_bytes


def _narrowed(item: _Found, names: set[str], selection: Selection) -> _Found | None:
    files = tuple(file for file in item.snapshot.files if file.path in names)
    if not files:
        return None
    is_partial = item.snapshot.is_partial or len(files) < len(item.snapshot.files)
    snapshot = replace(item.snapshot, files=files, is_partial=is_partial, selection=selection)
    return replace(item, snapshot=snapshot)


def _plans(wanted: Iterable[_Found]) -> list[tuple[BlobPlan, Places]]:
    plans: dict[tuple[str, str], tuple[BlobPlan, Places]] = {}
    for item in wanted:
        repo = item.snapshot.repo
        for oid, size_bytes in item.snapshot.blobs.items():
            if item.places is None or item.captured.get(oid):
                continue
            plan = plan_blob(repo, oid, size_bytes, item.pieces.get(oid, []))
            plans.setdefault((repo.folder_name, oid), (plan, item.places))
    return list(plans.values())


def _missing_bytes(plans: list[tuple[BlobPlan, Places]], target: Target) -> int:
    return sum(plan.size_bytes for plan, _ in plans if target.existing(plan.repo, plan.oid) is None)


def _count_needed(plans: list[tuple[BlobPlan, Places]], target: Target, counts: Counts) -> None:
    for plan, _ in plans:
        if target.existing(plan.repo, plan.oid) is None:
            counts.fetched_bytes += plan.size_bytes
            counts.blobs += 1
        else:
            counts.kept_bytes += plan.size_bytes
            counts.kept_blobs += 1
