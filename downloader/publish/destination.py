"""One place that an image goes to: what it has already, and what it got in this run."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from downloader.errors import HfModelsError, RegistryError
from downloader.image import plan_json
from downloader.oci.digest import digest_of
from downloader.oci.manifest import MANIFEST, Descriptor, Manifest, parse_manifest
from downloader.oci.store import Store
from downloader.plan import Layer, Plan
from downloader.progress import Progress
from downloader.publish.blobs import put_blob
from downloader.publish.checkpoint import (
    SHARD_TYPE,
    Record,
    Shard,
    list_shards,
    plan_descriptor,
    record_manifest,
)

EMPTY_JSON = b"{}"  # OCI image specification 1.1, manifest.md, "Guidance for an Empty Descriptor"


@dataclass(eq=False)
class Target:
    """A store, the tag in it, and what is known of its layers.

    Args:
        store: Where to.
        tag: Of the image.
        is_only: Whether the run has no other target, so that its error is the run's own.
        have: The layers that are there, by `Layer.name`.
        pending: Those of them that carry parts of a file whose oid is not verified yet.
        moved: Names of the layers whose bytes were sent in this run.
        mounts_from: Another target of the run whose layers this one can take without their
            bytes being sent again, as `find_mounts` has tried.
        error: Why this target was given up.
    """

    store: Store
    tag: str
    is_only: bool = False
    have: dict[str, Descriptor] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    mounts_from: "Target | None" = None
    error: HfModelsError | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._plan: Descriptor | None = None
        self._takes_records = True

    @property
    def name(self) -> str:
        """For messages: ``ghcr.io/me/hf-models:codet5-small``."""
        return f"{self.store.name}:{self.tag}"

    def is_done(self, layer: Layer) -> bool:
        """Whether a layer is there and every byte of it belongs to a verified file."""
        return layer.name in self.have and layer.name not in self.pending

    def give_up(self, error: HfModelsError, progress: Progress) -> None:
        """Remember why nothing more goes here; the first reason counts."""
        with self._lock:
            if self.error is not None:
                return
            self.error = error
        if not self.is_only:
            progress.note(f"{self.name}: given up: {error.message}")

    def finished(self, layer: Layer, descriptor: Descriptor, *, is_pending: bool) -> None:
        """Say that a layer was sent."""
        with self._lock:
            self.have[layer.name] = descriptor
            self.moved.add(layer.name)
            (self.pending.add if is_pending else self.pending.discard)(layer.name)

    def mount(self, layer: Layer, *, is_pending: bool) -> bool:
        """Take a layer from the target that this one mounts from; False if it must be sent."""
        source = self.mounts_from
        descriptor = source.have.get(layer.name) if source else None
        if source is None or descriptor is None:
            return False
        try:
            if not self.store.mount_blob(descriptor.digest, source.store):
                return False
        except HfModelsError:
            return False  # sending it is the answer, and says why if that fails as well
        with self._lock:
            self.have[layer.name] = descriptor
            (self.pending.add if is_pending else self.pending.discard)(layer.name)
        return True

    def verified(self, layers: Iterable[Layer]) -> None:
        """Say that all files of these layers are what the Hub promised."""
        with self._lock:
            self.pending -= {layer.name for layer in layers}

    def forget(self, layers: Iterable[Layer]) -> bool:
        """Say that these layers carry wrong bytes; return whether any of them was there."""
        with self._lock:
            gone = [layer.name for layer in layers if self.have.pop(layer.name, None)]
            self.pending -= set(gone)
            self.moved -= set(gone)
            return bool(gone)

    def record(self, plan: Plan, shard: Shard, progress: Progress) -> None:
        """Write down in the store what is finished.

        Raises:
            HfModelsError: The store said no, and others depend on the record.
        """
        with self._lock:
            if not self._takes_records:
                return
            try:
                self._record(plan, shard)
            except RegistryError as error:
                if shard.count > 1:
                    raise
                self._takes_records = False
                progress.note(f"{self.name}: cannot be continued if interrupted: {error.message}")

    def _record(self, plan: Plan, shard: Shard) -> None:
        if self._plan is None:
            data = plan_json(plan)
            put_blob(self.store, data, plan_descriptor(data).digest)
            self._plan = plan_descriptor(data)
        record = Record(shard, self._plan, self.have, frozenset(self.pending))
        self.store.put_manifest(shard.tag(self.tag), record_manifest(record), MANIFEST)


def find_mounts(targets: Sequence[Target]) -> None:
    """Find out which targets can mount from one before them; a blob of two bytes tells.

    A registry that only says that it mounts would cost a second reading from the Hub.
    """
    for at, target in enumerate(targets):
        first = (other for other in targets[:at] if other.mounts_from is None)
        target.mounts_from = next((other for other in first if _can_mount(target, other)), None)


def _can_mount(target: Target, source: Target) -> bool:
    if not target.store.is_beside(source.store):
        return False
    try:
        put_blob(source.store, EMPTY_JSON, digest_of(EMPTY_JSON))
        return target.store.mount_blob(digest_of(EMPTY_JSON), source.store)
    except HfModelsError:
        return False  # whatever is wrong with one of them shows when layers are sent


def replace_records(target: Target, progress: Progress) -> None:
    """Remove the records of the shards, which the image has taken the place of.

    Docker Hub and GHCR let nobody delete a tag by this API; there the tags go on to name the
    finished image, so that no later run takes what is old for what is new.
    """
    try:
        image = target.store.get_manifest(target.tag)
        for shard in list_shards(target.store, target.tag):
            tag = shard.tag(target.tag)
            if not _delete(target.store, tag) and image is not None:
                target.store.put_manifest(tag, image.data, image.media_type)
    except HfModelsError as error:
        # The image is complete; a tag that stays behind does no harm.
        progress.note(f"{target.name}: tags of shards stay behind: {error.message}")


def _delete(store: Store, tag: str) -> bool:
    if store.delete_manifest(tag):
        return True
    raw = store.get_manifest(tag)
    record = parse_manifest(raw.data) if raw else None
    # By digest a registry removes every tag of the manifest: of a record only, never an image.
    is_record = isinstance(record, Manifest) and record.artifact_type == SHARD_TYPE
    return raw is not None and is_record and store.delete_manifest(raw.digest)
