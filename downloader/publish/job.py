"""Publishing: Hub to any number of stores, and the image over what arrived there."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from downloader.errors import HfModelsError, InputError
from downloader.fs import check_space
from downloader.image import is_packed, stored_layer
from downloader.net.http import HttpPool
from downloader.net.retry import RetryPolicy
from downloader.oci.digest import Digest
from downloader.oci.layout import Layout
from downloader.oci.store import ListableStore, Store
from downloader.plan import Layer, Plan, Sample, group_by_file, split_shards
from downloader.progress import NoProgress, Progress
from downloader.publish.base import Base
from downloader.publish.checkpoint import Shard
from downloader.publish.copy import StoredImage, side_by_side
from downloader.publish.destination import Destination, find_mounts, replace_records
from downloader.publish.image_writer import find_current, put_common_blobs, write_image
from downloader.publish.layer_cache import TaggedImage, find_layers, look_at_tag
from downloader.publish.layer_stream import HubAccess, HubContents, SourceOf
from downloader.publish.memory import DEFAULT_MEMORY_BYTES, fitting_jobs, share_memory
from downloader.publish.ramp import Line, run_ramped
from downloader.publish.sign import find_signature, sign_plan
from downloader.publish.upload_journal import UploadJournals
from downloader.publish.upload_layers import Work, upload_layers
from downloader.signing import Signer
from downloader.transfer.ordered import BufferPool, StreamSettings
from downloader.transfer.workers import WorkerGroup


@dataclass(frozen=True)
class PublishOptions:
    """Settings of `publish`.

    Args:
        shard: The share of the layers; a single shard writes the image, too.
        reuse: Images to take layers from, besides the tag itself.
        base: The base image.
        modelpack: Whether the index carries a ModelPack manifest too.
        jobs: The most layers at once; None for as many as memory allows.
        memory_bytes: Of the whole process.
        allow_gated: Whether a gated or private repo may be published.
        force: Whether a tag that carries another repo may be overwritten, and every blob of
            the image is asked for.
        dry_run: Whether to find out only what would be sent.
        retry: For transient errors of the Hub.
        journal_dir: The directory of upload journals; None for none.
        signer: Signs the files; None for no signature.
    """

    shard: Shard = field(default_factory=Shard)
    reuse: Sequence[StoredImage[ListableStore]] = ()
    base: Base = field(default_factory=Base)
    modelpack: bool = True
    jobs: int | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    allow_gated: bool = False
    force: bool = False
    dry_run: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    journal_dir: Path | None = None
    signer: Signer | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of one destination.

    Args:
        name: ``ghcr.io/me/hf-models:codet5-small``, or a directory and tag; of one shard of
            several the tag of its record.
        digest: Of the image; None for a single shard, a dry run, or a failure.
        moved: The layers whose bytes were sent.
        reused: The layers that were there.
        missing: The layers that are not known to be there: a dry run would send them.
        error: The reason of the failure; None after success.
    """

    name: str
    digest: Digest | None
    moved: tuple[Layer, ...]
    reused: tuple[Layer, ...]
    missing: tuple[Layer, ...]
    error: HfModelsError | None

    @property
    def moved_bytes(self) -> int:
        """What was sent."""
        return _wire_bytes(self.moved)

    @property
    def reused_bytes(self) -> int:
        """What was there."""
        return _wire_bytes(self.reused)

    @property
    def missing_bytes(self) -> int:
        """What a dry run would send."""
        return _wire_bytes(self.missing)


def _wire_bytes(layers: Iterable[Layer]) -> int:
    return sum(layer.wire_bytes for layer in layers)


def publish(
    plan: Plan,
    tag: str,
    stores: Sequence[Store],
    *,
    source_of: SourceOf,
    http: HttpPool,
    options: PublishOptions | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Bring a repo from the Hub to one or several stores, under one tag.

    Interrupted at any moment and run again, it goes on: with layers that are there, and with
    uploads that the registry has kept in part.

    Args:
        plan: The plan to publish.
        tag: The image's tag, in every store.
        stores: The stores to publish to.
        source_of: Returns the source of a file's bytes.
        http: Connections to the Hub.
        options: Settings of the publish.
        progress: Told of everything.

    Returns:
        What became of each store, in their order; one that fails does not stop the others.

    Raises:
        InputError: The repo is gated or private, the tag is too long, or memory is too small.
        HfModelsError: The Hub or the base image failed.
    """
    options = options or PublishOptions()
    share_memory(options.memory_bytes, options.jobs or 1, len(stores))
    job = _Job(plan, tag, stores, options, progress or NoProgress())
    check_gated(plan, allow=options.allow_gated)
    try:
        job.look()
        if not options.dry_run:
            job.transfer(source_of, http)
            job.finish()
    except HfModelsError:
        if job.alive():
            raise  # not the stores' fault; else each has its own error
    return job.outcomes()


class _Job:
    def __init__(
        self,
        plan: Plan,
        tag: str,
        stores: Sequence[Store],
        options: PublishOptions,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._options = options
        self._shard = options.shard
        self._shard.tag(tag)  # a tag that is too long is refused before anything is asked
        self._progress = progress
        self._destinations = [Destination(store, tag, is_only=len(stores) == 1) for store in stores]
        self._layers = split_shards(plan.stored, self._shard.count)[self._shard.index - 1]
        self._journals = UploadJournals(options.journal_dir)
        self._tagged: dict[Destination, TaggedImage | None] = {}
        self._digests: dict[Destination, Digest] = {}
        self._sha256s: dict[str, str] = {}

    @property
    def _writes_image(self) -> bool:
        return self._shard.count == 1 and not self._options.dry_run

    def look(self) -> None:
        """Find out what every destination has."""
        base = self._options.base
        with WorkerGroup() as group:
            # Side by side: a silent one is waited for once, and not by the others.
            for item in self._destinations:
                group.start(partial(self._guarded, item, partial(self._look_at_tag, item)))
            if self._writes_image:
                group.start(base.resolve)
        self._find_layers()
        if self._writes_image and any(item not in self._digests for item in self.alive()):
            base.load()
            for platform in base.missing:
                self._progress.note(
                    f"base image {base.name} has no {platform}; the image has none either"
                )

    def _look_at_tag(self, destination: Destination) -> None:
        plan = self._plan
        tagged = look_at_tag(destination, plan, force=self._options.force)
        labels = tagged.labels if tagged else None
        is_whole = labels and labels.repo == plan.snapshot.repo and not labels.is_partial
        if is_whole and plan.snapshot.is_partial:
            self._progress.note(
                f"{destination.name}: carries the whole repo; a part takes its place"
            )
        self._tagged[destination] = tagged

    def _find_layers(self) -> None:
        for destination in self.alive():
            others = [
                StoredImage(other.store, other.tag)
                for other in self.alive()
                if other is not destination and self._tagged[other]
            ]
            self._guarded(destination, partial(self._find_layers_of, destination, others))

    def _find_layers_of(
        self, destination: Destination, others: Sequence[StoredImage[ListableStore]]
    ) -> None:
        options, tagged = self._options, self._tagged[destination]
        self._find_finished(destination)
        find_layers(
            destination,
            self._layers,
            [self._shard],
            (*options.reuse, *others),
            tagged=tagged,
            accepts_plain=self._plan.compress == "auto",
            checks=options.force,
            mount=not options.dry_run,
            progress=self._progress,
        )
        is_complete = all(destination.is_done(layer) for layer in self._layers)
        signer, signature = options.signer, None
        if self._writes_image and is_complete:
            if signer:
                signature = find_signature(signer, self._plan, destination, {}, tagged)
                if signature is None:
                    return  # a new one makes another image
            digest = find_current(
                destination,
                self._plan,
                options.base,
                tagged,
                modelpack=options.modelpack,
                signature=signature,
            )
            if digest is not None:
                self._digests[destination] = digest

    def _find_finished(self, destination: Destination) -> None:
        """Take what a run of this machine has brought, and no image names yet."""
        store = destination.store
        known = {layer: self._journals.find_finished(store, layer) for layer in self._layers}
        calls = {
            layer: partial(store.blob_size, found.digest) for layer, found in known.items() if found
        }
        for layer, size_bytes in side_by_side(calls).items():
            found = known[layer]
            if found and found.size_bytes == size_bytes:
                is_pending = any(content.parts for content in layer.contents)
                destination.add(layer, stored_layer(found), is_pending=is_pending, moved=False)

    def transfer(self, source_of: SourceOf, http: HttpPool) -> None:
        """Bring every layer of the shard that is missing to every destination that lacks it."""
        options = self._options
        units = [unit for unit in group_by_file(self._layers) if self._is_wanted(unit)]
        missing = [layer for layer in self._layers if not self._is_everywhere(layer)]
        self._progress.start(sum(layer.size_bytes for layer in missing), len(missing))
        for destination in self.alive():
            if isinstance(destination.store, Layout):
                lacking = sum(layer.size_bytes for layer in missing)
                self._guarded(destination, partial(check_space, destination.store.root, lacking))
        if units:
            find_mounts(self.alive())
        count = len(self._destinations)
        jobs = options.jobs or fitting_jobs(options.memory_bytes, count)
        jobs = max(1, min(jobs, len(units)))
        memory = share_memory(options.memory_bytes, jobs, count)
        access = HubAccess(
            source_of,
            http,
            BufferPool(memory.pool_bytes),
            StreamSettings(ring_bytes=memory.ring_bytes),
            options.retry,
            self._progress.note,
        )
        group, line = WorkerGroup(), Line()
        contents = HubContents(self._plan.snapshot, access, group)
        work = Work(
            self._plan,
            self._shard,
            contents,
            self._destinations,
            self._journals,
            self._progress,
            group,
            line,
        )
        # The largest first, so that the last one to finish is a short one.
        units.sort(key=lambda unit: -sum(layer.size_bytes for layer in unit))
        try:
            self._run(units, jobs, work)
        except HfModelsError:
            for item in self.alive():  # so that any machine goes on from here
                self._guarded(item, partial(item.record, self._plan, self._shard, self._progress))
            raise

    def _run(self, units: Sequence[Sequence[Layer]], jobs: int, work: Work) -> None:
        group = work.group
        with group.interrupting(work.contents.close), group:
            group.start(work.record_now_and_then, name="record", is_service=True)
            if self._writes_image:
                for item in self.alive():
                    if item not in self._digests:
                        put = partial(self._put_common_blobs, item)
                        group.start(partial(self._guarded, item, put), name="metadata")
            run_ramped(
                [partial(upload_layers, unit, work) for unit in units], jobs, group, work.line
            )
        self._sha256s = work.contents.sha256s

    def _put_common_blobs(self, destination: Destination) -> None:
        put_common_blobs(destination, self._plan, self._options.base, self._tagged[destination])

    def finish(self) -> None:
        """Record the shard, or, where it is the only one, make the image and move the tag."""
        with WorkerGroup() as group:
            for item in self.alive():
                if item in self._digests:
                    continue
                if self._shard.count > 1:
                    call = partial(item.record, self._plan, self._shard, self._progress)
                else:
                    call = partial(self._write_image, item)
                group.start(partial(self._guarded, item, call), name="image")
        if len(self.alive()) == len(self._destinations):
            self._journals.forget_finished()

    def _write_image(self, destination: Destination) -> None:
        options = self._options
        image = write_image(
            destination,
            self._plan,
            options.base,
            modelpack=options.modelpack,
            signature=self._sign(destination),
        )
        self._digests[destination] = image.digest
        replace_records(destination, image, sorted(destination.recorded), self._progress)

    def _sign(self, destination: Destination) -> bytes | None:
        signer, tagged = self._options.signer, self._tagged[destination]
        if signer is None:
            return None
        return sign_plan(signer, self._plan, destination, self._sha256s, tagged)

    def outcomes(self) -> list[Outcome]:
        """Return what became of each destination, in the order of the stores."""
        return [self._outcome(destination) for destination in self._destinations]

    def _outcome(self, item: Destination) -> Outcome:
        there = [layer for layer in self._layers if layer.name in item.have]
        moved = tuple(_as_stored(layer, item) for layer in there if layer.name in item.moved)
        reused = tuple(_as_stored(layer, item) for layer in there if layer.name not in item.moved)
        missing = tuple(layer for layer in self._layers if layer.name not in item.have)
        tag = item.tag if self._shard.count == 1 else self._shard.tag(item.tag)
        name = f"{item.store.name}:{tag}"
        return Outcome(name, self._digests.get(item), moved, reused, missing, item.error)

    def alive(self) -> list[Destination]:
        """Return the destinations that were not given up."""
        return [destination for destination in self._destinations if destination.error is None]

    def _is_wanted(self, unit: Sequence[Layer]) -> bool:
        return any(not item.is_done(layer) for item in self.alive() for layer in unit)

    def _is_everywhere(self, layer: Layer) -> bool:
        return all(layer.name in item.have for item in self.alive())

    def _guarded(self, destination: Destination, call: Callable[[], None]) -> None:
        try:
            call()
        except HfModelsError as error:
            destination.give_up(error, self._progress)


def _as_stored(layer: Layer, destination: Destination) -> Layer:
    """Return a layer with the size that it has in a store, in place of a sample's promise."""
    found = destination.have[layer.name]
    if not is_packed(found):
        return replace(layer, is_packed=False)
    return replace(layer, sample=Sample(layer.size_bytes, found.size_bytes))


def check_gated(plan: Plan, *, allow: bool) -> None:
    """Raise if a repo is not for everybody, unless that is allowed.

    Raises:
        InputError: It is gated or private.
    """
    snapshot = plan.snapshot
    if (snapshot.gated or snapshot.private) and not allow:
        kind = "private" if snapshot.private else "gated"
        raise InputError(
            f"{snapshot.repo.id} is {kind}",
            hint="publish it only where its license allows: --allow-gated",
        )
