"""Publishing: Hub to any number of stores, and the image over what arrived there."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from downloader.errors import HfModelsError, InputError
from downloader.hub.stream import StreamSettings
from downloader.image import is_packed
from downloader.net.http import HttpPool
from downloader.net.retry import RetryPolicy
from downloader.oci.digest import Digest
from downloader.oci.store import Store
from downloader.plan import Layer, Plan, Sample, group_by_file, split_shards
from downloader.progress import NoProgress, Progress
from downloader.publish.assemble import assemble_image
from downloader.publish.base import Base, no_base
from downloader.publish.checkpoint import Shard
from downloader.publish.destination import Target, find_mounts, replace_records
from downloader.publish.layer_cache import Image, check_overwrite, find_layers
from downloader.publish.layer_stream import HubAccess, HubContents, SourceOf
from downloader.publish.memory import DEFAULT_JOBS, DEFAULT_MEMORY_BYTES, share_memory
from downloader.publish.upload_layers import Work, transfer
from downloader.transfer.ring import BufferPool
from downloader.transfer.workers import run_all


@dataclass(frozen=True)
class Settings:
    """How to publish.

    Args:
        jobs: Layers at once.
        memory_bytes: Of the whole process.
        base: What lies under the image.
        modelpack: Whether the index carries a ModelPack manifest too.
        allow_gated: Whether a gated or private repo may be published.
        force: Whether a tag that carries another repo may be overwritten.
        retry: For whatever may pass by itself, at the Hub.
    """

    jobs: int = DEFAULT_JOBS
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    base: Base = field(default_factory=no_base)
    modelpack: bool = False
    allow_gated: bool = False
    force: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True)
class Outcome:
    """What became of one target.

    Args:
        name: ``ghcr.io/me/hf-models:codet5-small``, or a directory and tag; of one shard of
            several the tag of its record.
        digest: Of the image; None for a single shard, a dry run, or a failure.
        moved: The layers whose bytes were sent.
        reused: The layers that were there.
        missing: The layers that are not known to be there: a dry run would send them.
        error: Why it failed, None if it did not.
    """

    name: str
    digest: Digest | None
    moved: tuple[Layer, ...]
    reused: tuple[Layer, ...]
    missing: tuple[Layer, ...]
    error: HfModelsError | None


class Publication:
    """One plan on its way to some stores.

    Args:
        plan: What to publish.
        tag: The image's tag, in every store.
        stores: Where to.
        shard: Which share of the layers; the only one makes the image as well.
        images: Where to look for layers besides the tag itself.
        settings: How.
        progress: Told of everything.
    """

    def __init__(
        self,
        plan: Plan,
        tag: str,
        stores: Sequence[Store],
        *,
        shard: Shard | None = None,
        images: Sequence[Image] = (),
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._plan = plan
        self._shard = shard or Shard()
        self._shard.tag(tag)  # a tag that is too long is refused before anything is asked
        self._images = images
        self._settings = settings or Settings()
        self._progress = progress or NoProgress()
        self._targets = [Target(store, tag, is_only=len(stores) == 1) for store in stores]
        self._layers = split_shards(plan.stored, self._shard.count)[self._shard.index - 1]
        self._cancelled = threading.Event()
        self._digests: dict[Target, Digest] = {}

    def look(self, *, dry_run: bool = False) -> None:
        """Check what is allowed, and find out what every target has; moves no model bytes.

        Raises:
            InputError: The repo is gated or private.
            HfModelsError: Every target failed; what the first one said.
        """
        check_gated(self._plan, allow=self._settings.allow_gated)
        # Side by side: one that does not answer is waited for once, and not by the others.
        checks = [partial(self._guarded, t, partial(self._check, t)) for t in self._targets]
        run_all([(len(checks), checks)], self._cancelled, lambda: None)
        for target in self._alive():
            others = [Image(t.store, t.tag) for t in self._alive() if t is not target]
            self._guarded(target, partial(self._look_at, target, others, dry_run))
        self._check_alive()

    def _check(self, target: Target) -> None:
        labels = check_overwrite(target, self._plan, force=self._settings.force)
        snapshot = self._plan.snapshot
        is_whole = labels and labels.repo == snapshot.repo and not labels.is_partial
        if is_whole and snapshot.is_partial:
            self._progress.note(f"{target.name}: carries the whole repo; a part takes its place")

    def _look_at(self, target: Target, others: Sequence[Image], dry_run: bool) -> None:
        find_layers(
            target,
            self._layers,
            [self._shard],
            (*self._images, *others),
            mount=not dry_run,
            accepts_plain=self._plan.compress == "auto",
            progress=self._progress,
        )

    def transfer(self, source_of: SourceOf, http: HttpPool) -> None:
        """Bring every layer of the shard that is missing to every target that lacks it.

        Raises:
            HfModelsError: The Hub failed, or every target did.
        """
        units = [unit for unit in group_by_file(self._layers) if self._is_wanted(unit)]
        jobs = max(1, min(self._settings.jobs, len(units)))
        memory = share_memory(self._settings.memory_bytes, jobs, len(self._targets))
        access = HubAccess(
            source_of,
            http,
            BufferPool(memory.pool_bytes),
            StreamSettings(
                ring_bytes=memory.ring_bytes,
                policy=self._settings.retry,
                note=self._progress.note,
            ),
        )
        contents = HubContents(self._plan.snapshot, access)
        work = Work(
            self._plan, self._shard, contents, self._targets, self._progress, self._cancelled
        )
        if units:
            find_mounts(self._alive())
        missing = [layer for layer in self._layers if not self._is_everywhere(layer)]
        self._progress.start(sum(layer.size_bytes for layer in missing), len(missing))
        # The largest first, so that the last one to finish is a short one.
        units.sort(key=lambda unit: -sum(layer.size_bytes for layer in unit))
        tasks = [partial(transfer, unit, work) for unit in units]
        run_all([(jobs, tasks)], self._cancelled, contents.close)

    def finish(self) -> None:
        """Record the shard, or, where it is the only one, make the image and move the tag."""
        for target in self._alive():
            if self._shard.count > 1:
                call = partial(target.record, self._plan, self._shard, self._progress)
                self._guarded(target, call)
            else:
                self._guarded(target, partial(self._assemble, target))

    def _assemble(self, target: Target) -> None:
        settings = self._settings
        self._digests[target] = assemble_image(
            target, self._plan, settings.base, modelpack=settings.modelpack
        )
        replace_records(target, self._progress)

    def outcomes(self) -> list[Outcome]:
        """Return what became of each target, in the order of the stores."""
        return [self._outcome(target) for target in self._targets]

    def _outcome(self, target: Target) -> Outcome:
        there = [layer for layer in self._layers if layer.name in target.have]
        moved = tuple(_as_stored(layer, target) for layer in there if layer.name in target.moved)
        reused = tuple(
            _as_stored(layer, target) for layer in there if layer.name not in target.moved
        )
        missing = tuple(layer for layer in self._layers if layer.name not in target.have)
        tag = target.tag if self._shard.count == 1 else self._shard.tag(target.tag)
        name = f"{target.store.name}:{tag}"
        digest = self._digests.get(target)
        return Outcome(name, digest, moved, reused, missing, target.error)

    def _alive(self) -> list[Target]:
        return [target for target in self._targets if target.error is None]

    def _check_alive(self) -> None:
        if not self._alive():
            raise next(target.error for target in self._targets if target.error)

    def _is_wanted(self, unit: Sequence[Layer]) -> bool:
        return any(not target.is_done(layer) for target in self._alive() for layer in unit)

    def _is_everywhere(self, layer: Layer) -> bool:
        return all(layer.name in target.have for target in self._alive())

    def _guarded(self, target: Target, call: partial[None]) -> None:
        try:
            call()
        except HfModelsError as error:
            target.give_up(error, self._progress)


def _as_stored(layer: Layer, target: Target) -> Layer:
    """Return a layer with the size that it has at a target, in place of a sample's promise."""
    found = target.have[layer.name]
    if not is_packed(found):
        return replace(layer, is_packed=False)
    return replace(layer, sample=Sample(layer.size_bytes, found.size_bytes))


def publish(publication: Publication, source_of: SourceOf, http: HttpPool) -> list[Outcome]:
    """Do all of it: look, transfer, finish.

    Args:
        publication: What and where to.
        source_of: Where the bytes of a file come from.
        http: Connections to the Hub.

    Raises:
        HfModelsError: The Hub failed, or what the user asked for is wrong, or every target
            failed before the end. One that failed alone has its error in its outcome.
    """
    publication.look()
    publication.transfer(source_of, http)
    publication.finish()
    return publication.outcomes()


def check_gated(plan: Plan, *, allow: bool) -> None:
    """Raise if a repo is not for everybody, unless that is allowed.

    Raises:
        InputError: It is gated or private.
    """
    snapshot = plan.snapshot
    if (snapshot.gated or snapshot.private) and not allow:
        kind = "private" if snapshot.private else "gated"
        raise InputError(
            f"want a public repo, got {snapshot.repo.id}, which is {kind}",
            hint="publish it only where its license allows: --allow-gated",
        )
