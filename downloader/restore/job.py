"""Restoring: images to files, from the first look at the manifest to the last link."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from downloader.errors import InputError
from downloader.fs import check_space, write_atomically
from downloader.hub.repo import DEFAULT_REVISION, Repo, RepoFile, Selection, Snapshot
from downloader.image import signature_path
from downloader.progress import NoProgress, Progress
from downloader.restore.download import Counts, Download, DownloadSettings
from downloader.restore.foreign.extract import ContentExtractor, ContentSkipper
from downloader.restore.opening import Network
from downloader.restore.reader import Found, read_source
from downloader.restore.restore_plan import (
    Work,
    count_needed,
    is_streamed,
    missing_bytes,
    narrow,
    plan_work,
    read_streams,
)
from downloader.restore.source import Source
from downloader.restore.target import CacheTarget, Target

if TYPE_CHECKING:
    from downloader.restore.policy import Gate


@dataclass(frozen=True)
class RestoreOptions:
    """Settings of `restore`.

    Args:
        selection: The selected files.
        download: Bounds.
        dry_run: Whether only to say what would be done.
        gate: Checks signatures; None for no check.
    """

    selection: Selection = field(default_factory=Selection)
    download: DownloadSettings = field(default_factory=DownloadSettings)
    dry_run: bool = False
    gate: "Gate | None" = None


@dataclass(frozen=True)
class Restored:
    """One snapshot that was (or would be) restored.

    Args:
        source: The image.
        digest: The digest that the image's name resolved to.
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
    """The result of a restore: snapshots, and bytes."""

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
        target: The target of the files.
        options: Files, revision and checks.
        network: Settings and connections for registries.
        progress: Told of every byte.

    Raises:
        InputError: A source or a pattern that names nothing.
        RegistryError, TransportError: A registry said no, or nothing.
        ProtocolError: An image is malformed or hostile.
        IntegrityError: A content is not what it should be.
        StorageError: This machine's disk.
        EngineError: The local engine.
    """
    return _Restore(
        target, options or RestoreOptions(), network or Network(), progress or NoProgress()
    ).run(sources)


@dataclass(frozen=True)
class _Restore:
    target: Target
    options: RestoreOptions
    network: Network
    progress: Progress

    def run(self, sources: Sequence[Source]) -> Report:
        options, target = self.options, self.target
        verify_existing = options.download.verify_existing
        with ContentExtractor(target, self.progress, verify_existing=verify_existing) as extractor:
            # Of a compressed layer everything is written as it passes, unless only some files
            # are wanted: then their names come first, and the layer passes once more.
            is_whole = options.selection.is_everything and not options.dry_run
            taker = extractor if is_whole else ContentSkipper()
            found = [
                item
                for source in sources
                for item in read_source(source, self.network, taker, self.progress)
            ]
            if options.gate:
                for item in found:
                    options.gate.check_names(item)
            wanted = narrow(found, options.selection)
            self._check_names(wanted)
            line = self.network.pool.line if self.network.pool else None
            names = {file.oid: file.path for item in wanted for file in item.snapshot.files}
            download = Download(target, options.download, self.progress, line, names)
            if options.dry_run:
                count_needed(wanted, target, download.counts)
                self._note_streams(wanted)
            else:
                wanted = [read_streams(item, extractor) for item in wanted]
                for item in wanted:
                    target.prepare(item.snapshot)
                self._fetch(plan_work(wanted), download, extractor)
                self._check_contents(wanted)
        download.counts.kept_bytes += extractor.kept_bytes
        download.counts.kept_blobs += extractor.kept_blobs
        download.counts.fetched_bytes += extractor.fetched_bytes
        restored = tuple(self._finish(item) for item in wanted)
        if not options.dry_run:
            target.clean()
        return Report(restored, download.counts)

    def _check_contents(self, wanted: Sequence[Found]) -> None:
        """Raise before anything gets its name if a file is not what was signed."""
        for item in wanted:
            if self.options.gate:
                self.options.gate.check_contents(item, partial(self._path_of, item.snapshot.repo))

    def _path_of(self, repo: Repo, file: RepoFile) -> Path | None:
        return self.target.existing(repo, file.oid)

    def _check_names(self, wanted: list[Found]) -> None:
        """Raise what would stop the end, before the first byte."""
        for item in wanted:
            if isinstance(self.target, CacheTarget) and not item.has_repo:
                raise InputError(
                    f"{item.source}: does not say which repo and commit its files are from",
                    hint="restore plain files with --local-dir DIR",
                )
            self.target.check(item.snapshot)

    def _note_streams(self, wanted: list[Found]) -> None:
        for item in wanted:
            if any(map(is_streamed, item.extents.values())):
                self.progress.note(
                    f"{item.source}: its layers are compressed, or name no contents:"
                    " they were read to list the files"
                )

    def _fetch(self, work: Work, download: Download, extractor: ContentExtractor) -> None:
        plans = [plan for plan, _ in work.ranges]
        check_space(self.target.root, missing_bytes(plans, self.target))
        if work.ranges:
            self.progress.start(sum(plan.size_bytes for plan in plans), len(plans))
            download.run(work.ranges)
        for repo, oid, keys in work.streams:
            extractor.settle(repo, oid, keys)

    def _finish(self, item: Found) -> Restored:
        snapshot, path = item.snapshot, Path()
        if self.options.dry_run:
            path = self.target.root
        else:
            # An image of another revision has a `main` as well, so that loading by id works.
            asked = [name for name in item.revisions if name != DEFAULT_REVISION]
            for revision in asked or item.revisions or (snapshot.revision,):
                named = replace(snapshot, revision=revision)
                path = self.target.finish(named, self.progress.note, may_move=item.is_labelled)
            if item.signature is not None and isinstance(self.target, CacheTarget):
                folder = self.target.root / snapshot.repo.folder_name
                write_atomically(folder / signature_path(snapshot.commit), item.signature)
        return Restored(item.source, item.digest, snapshot, path, item.missing)
