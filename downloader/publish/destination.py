"""One destination of an image: the blobs it has, and those it got in this run."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from downloader.errors import HfModelsError, RegistryError
from downloader.image import plan_json
from downloader.oci.digest import Digest, digest_of
from downloader.oci.manifest import MANIFEST, Descriptor, Manifest, parse_manifest
from downloader.oci.store import RawManifest, Store
from downloader.plan import Layer, Plan
from downloader.progress import Progress
from downloader.publish.checkpoint import (
    SHARD_TYPE,
    Record,
    Shard,
    plan_descriptor,
    record_manifest,
)
from downloader.publish.copy import put_blob, side_by_side

EMPTY_JSON = b"{}"  # OCI image specification 1.1, manifest.md, "Guidance for an Empty Descriptor"


@dataclass(eq=False)
class Destination:
    """A store, the tag in it, and what is known of its layers.

    Args:
        store: The store of the destination.
        tag: Of the image.
        is_only: Whether the run has no other destination, so that its error is the run's own.
        have: The layers that are there, by `Layer.name`.
        pending: Those of them that carry parts of a file whose oid is not verified yet.
        moved: Names of the layers whose bytes were sent in this run.
        tags: The repository's tags, where they were listed; None where they were not.
        recorded: The shards whose records are there, and the digests of those that this run
            has written.
        mounts_from: Another destination of the run whose layers this one can take without
            their bytes being sent again, as `find_mounts` has tried.
        error: The reason why this destination was given up.
    """

    store: Store
    tag: str
    is_only: bool = False
    have: dict[str, Descriptor] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    tags: Sequence[str] | None = None
    recorded: dict[Shard, Digest | None] = field(default_factory=dict)
    mounts_from: "Destination | None" = None
    error: HfModelsError | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._plan: Descriptor | None = None
        self._takes_records = True
        self._is_changed = False

    @property
    def name(self) -> str:
        """For messages: ``ghcr.io/me/hf-models:codet5-small``."""
        return f"{self.store.name}:{self.tag}"

    def is_done(self, layer: Layer) -> bool:
        """Return whether a layer is there and every byte of it belongs to a verified file."""
        return layer.name in self.have and layer.name not in self.pending

    def give_up(self, error: HfModelsError, progress: Progress) -> None:
        """Remember why nothing more goes here; the first reason counts."""
        with self._lock:
            if self.error is not None:
                return
            self.error = error
        if not self.is_only:
            progress.note(f"{self.name}: given up: {error.message}")

    def add(self, layer: Layer, descriptor: Descriptor, *, is_pending: bool, moved: bool) -> None:
        """Say that a layer is there now; ``moved`` where its bytes were sent."""
        with self._lock:
            self.have[layer.name] = descriptor
            (self.pending.add if is_pending else self.pending.discard)(layer.name)
            if moved:
                self.moved.add(layer.name)
            self._is_changed = True

    def mount(self, layer: Layer, *, is_pending: bool) -> bool:
        """Take a layer from the one that this one mounts from; False if it must be sent."""
        source = self.mounts_from
        descriptor = source.have.get(layer.name) if source else None
        if source is None or descriptor is None:
            return False
        try:
            if not self.store.mount_blob(descriptor.digest, source.store):
                return False
        except HfModelsError:
            return False  # sending it is the answer, and says why if that fails as well
        self.add(layer, descriptor, is_pending=is_pending, moved=False)
        return True

    def verified(self, layers: Iterable[Layer]) -> None:
        """Say that all files of these layers are what the Hub promised."""
        with self._lock:
            self.pending -= {layer.name for layer in layers}
            self._is_changed = True

    def forget(self, layers: Iterable[Layer]) -> None:
        """Say that these layers carry wrong bytes."""
        with self._lock:
            gone = [layer.name for layer in layers if self.have.pop(layer.name, None)]
            self.pending -= set(gone)
            self.moved -= set(gone)
            self._is_changed = True

    def record(self, plan: Plan, shard: Shard, progress: Progress) -> None:
        """Write down in the store what is finished, if anything is since the last time.

        Called by one thread at a time.

        Args:
            plan: Of the image.
            shard: The shard of these layers.
            progress: Told where the store takes no records.

        Raises:
            HfModelsError: The store said no, and other jobs depend on the record.
        """
        with self._lock:
            if not self._is_changed or not self._takes_records:
                return
            self._is_changed = False
            descriptor = self._plan or plan_descriptor(plan_json(plan))
            record = Record(shard, descriptor, dict(self.have), frozenset(self.pending))
        try:
            self._put(record, plan)
        except RegistryError as error:
            if shard.count > 1:
                raise
            self._takes_records = False
            progress.note(f"{self.name}: cannot be continued if interrupted: {error.message}")

    def _put(self, record: Record, plan: Plan) -> None:
        if self._plan is None:
            put_blob(self.store, plan_json(plan), record.plan.digest)
            self._plan = record.plan
        tag = record.shard.tag(self.tag)
        self.recorded[record.shard] = self.store.put_manifest(
            tag, record_manifest(record), MANIFEST
        )


def find_mounts(destinations: Sequence[Destination]) -> None:
    """Find out which destinations can mount from one before them; a blob of two bytes tells.

    A registry that only says that it mounts would cost a second reading from the Hub.
    """
    for at, destination in enumerate(destinations):
        first = (other for other in destinations[:at] if other.mounts_from is None)
        found = next((other for other in first if _can_mount(destination, other)), None)
        destination.mounts_from = found


def _can_mount(destination: Destination, source: Destination) -> bool:
    if not destination.store.is_beside(source.store):
        return False
    try:
        put_blob(source.store, EMPTY_JSON, digest_of(EMPTY_JSON))
        return destination.store.mount_blob(digest_of(EMPTY_JSON), source.store)
    except HfModelsError:
        return False  # whatever is wrong with one of them shows when layers are sent


def replace_records(
    destination: Destination, image: RawManifest, shards: Iterable[Shard], progress: Progress
) -> None:
    """Remove the records of shards, which the image has taken the place of.

    Docker Hub and GHCR delete no tag by this API; there the tags go on to name the
    finished image, so that no later run takes what is old for what is new.

    Args:
        destination: The destination that has the image.
        image: The image that its tag names now.
        shards: The shards with records.
        progress: Told where tags stay behind.
    """
    try:
        side_by_side(
            {shard: partial(_replace_record, destination, image, shard) for shard in shards}
        )
    except HfModelsError as error:
        # The image is complete; a tag that stays behind does no harm.
        progress.note(f"{destination.name}: tags of shards stay behind: {error.message}")


def _replace_record(destination: Destination, image: RawManifest, shard: Shard) -> None:
    store, tag = destination.store, shard.tag(destination.tag)
    if not _delete(store, tag, destination.recorded.get(shard)):
        store.put_manifest(tag, image.data, image.media_type)


def _delete(store: Store, tag: str, digest: Digest | None) -> bool:
    if store.delete_manifest(tag):
        return True
    if digest is not None:
        return store.delete_manifest(digest)
    raw = store.get_manifest(tag)
    record = parse_manifest(raw.data) if raw else None
    # By digest a registry removes every tag of the manifest: of a record only, never an image.
    is_record = isinstance(record, Manifest) and record.artifact_type == SHARD_TYPE
    return raw is not None and is_record and store.delete_manifest(raw.digest)
