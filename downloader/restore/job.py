"""Restoring: images to files, from the first look at the manifest to the last link."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from downloader.errors import InputError
from downloader.fs import check_space
from downloader.hub.repo import DEFAULT_REVISION, Selection, Snapshot
from downloader.hub.selection import select
from downloader.progress import NoProgress, Progress
from downloader.restore.bounds import Counts, DownloadSettings
from downloader.restore.contents import FoundSnapshot
from downloader.restore.download import Download
from downloader.restore.foreign.extract import Capture
from downloader.restore.foreign.stream import ReadInto, look_at_stream, open_compressed, open_saved
from downloader.restore.gather import look_through, read_plan
from downloader.restore.image import Image
from downloader.restore.opening import Network, open_image
from downloader.restore.places import Places
from downloader.restore.restore_plan import (
    Found,
    Origin,
    count_needed,
    find_contents,
    missing_bytes,
    narrowed,
    plans_of,
)
from downloader.restore.source import ArchiveSource, EngineSource, Source
from downloader.restore.target import Target
from downloader.restore.values import BlobPlan


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


def restore(
    sources: Sequence[Source],
    target: Target,
    options: RestoreOptions | None = None,
    network: Network | None = None,
    progress: Progress | None = None,
) -> Report:
    """Restore images to verified files, and return what was done.

    Args:
        sources: The images; several may fill one cache.
        target: Where files go.
        options: What to restore.
        network: How registries are reached.
        progress: Told of every byte.

    Raises:
        InputError: A source or a pattern that names nothing.
        RegistryError, TransportError: A registry said no, or nothing.
        ProtocolError: An image is malformed or hostile.
        IntegrityError: A content is not what it should be.
        StorageError: This machine's disk.
        EngineError: The local engine.
    """
    return _Restore(target, options, network, progress).run(sources)


class _Restore:
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
            plans = plans_of(wanted)
            if writes:
                self._fetch(wanted, plans, download, capture)
            else:
                count_needed(plans, self._target, download.counts)
        download.counts.kept_bytes += capture.kept_bytes
        download.counts.fetched_bytes += capture.fetched_bytes
        restored = tuple(self._finish(item) for item in wanted)
        if writes:
            self._target.clean()
        return Report(restored, download.counts)

    def _look(self, source: Source, capture: Capture) -> list[Found]:
        match source:
            case EngineSource():
                return self._pass(str(source), None, open_saved(source.name), capture)
            case ArchiveSource(compression=str()):
                stream = open_compressed(source.path)
                return self._pass(str(source), source.tag, stream, capture)
        return self._look_at(open_image(source, self._network, self._progress), capture)

    def _look_at(self, image: Image, capture: Capture) -> list[Found]:
        self._progress.note(f"{image.name}: {image.digest}")
        planned = read_plan(image)
        if planned is not None:
            snapshot = planned.snapshot
            item = Found(image.name, image.digest, snapshot, planned.pieces, image.places)
            return [item]
        found = look_through(image, capture)
        if not found:
            raise _no_cache(image.name)
        return [
            self._contents(Origin(image.name, image.digest, image.places), snapshot, capture)
            for snapshot in found
        ]

    def _pass(
        self,
        name: str,
        tag: str | None,
        stream: AbstractContextManager[ReadInto],
        capture: Capture,
    ) -> list[Found]:
        with stream as read_into:
            passed = look_at_stream(read_into, name, tag, capture)
        if not passed.snapshots:
            raise _no_cache(name)
        return [
            self._contents(Origin(name, passed.digest), snapshot, capture)
            for snapshot in passed.snapshots
        ]

    def _contents(self, origin: Origin, found: FoundSnapshot, capture: Capture) -> Found:
        for path in found.missing:
            self._progress.note(f"{origin.name}: has no content for {path}; leaving it out")
        return find_contents(origin, found, capture)

    def _select(self, found: list[Found]) -> list[Found]:
        selection = self._options.selection
        if selection.is_everything:
            return found
        every = {file.path: file for item in found for file in item.snapshot.files}
        names = {file.path for file in select(every.values(), selection)}
        return [item for item in (narrowed(item, names, selection) for item in found) if item]

    def _fetch(
        self,
        wanted: list[Found],
        plans: list[tuple[BlobPlan, Places]],
        download: Download,
        capture: Capture,
    ) -> None:
        check_space(self._target.root, missing_bytes(plans, self._target))
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

    def _finish(self, item: Found) -> Restored:
        snapshot, path = item.snapshot, Path()
        if self._options.dry_run:
            path = self._target.root
        else:
            # An image of another revision has a `main` as well, so that loading by id works.
            asked = [name for name in item.revisions if name != DEFAULT_REVISION]
            for revision in asked or item.revisions or (snapshot.revision,):
                named = replace(snapshot, revision=revision)
                path = self._target.finish(named, self._progress.note)
        return Restored(item.source, item.digest, snapshot, path, item.missing)


def _no_cache(name: str) -> InputError:
    return InputError(
        f"{name}: want a Hugging Face cache in the image, got none",
        hint="hf-models inspect shows what the image says of itself",
    )
