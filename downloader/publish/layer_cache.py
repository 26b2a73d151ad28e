"""Layers that need no upload: in the tag, in a shard's record, or in another image.

A layer is a pure function of its contents, and every descriptor that we write names the
layer by its key. What a manifest of the same repository names is there, because a registry
keeps the blobs of its manifests; what another repository has is mounted or asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from downloader.errors import HfModelsError, InputError, ProtocolError, RegistryError
from downloader.image import ImageLabels, is_packed, layer_name, parse_labels, stored_layer
from downloader.oci.image import CONFIG_LIMIT_BYTES, config_labels
from downloader.oci.manifest import (
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)
from downloader.oci.store import ListableStore, RawManifest, ReadableStore
from downloader.plan import Layer, Plan
from downloader.progress import Progress
from downloader.publish.checkpoint import Record, Shard, is_image_tag, read_record, shards_among
from downloader.publish.copy import StoredImage, read_config, side_by_side
from downloader.publish.destination import Destination

# Other tags of the repository that are looked at. Docker Hub counts every manifest that is read
# as a pull, of which a free account has 200 in six hours; a tag costs two.
_NEIGHBOURS = 3
_ALIKE = 0.5  # as difflib counts: v1 and v2 are


@dataclass(frozen=True)
class TaggedImage:
    """The image that a tag names.

    Args:
        raw: The manifest or index itself.
        manifest: Of an index the first image; None where there is none, or nothing readable.
        labels: Our labels of the image; None for a foreign image.
    """

    raw: RawManifest
    manifest: Manifest | None
    labels: ImageLabels | None


@dataclass(frozen=True)
class _Find:
    """A layer that some image names."""

    descriptor: Descriptor
    store: ListableStore
    is_pending: bool = False


def find_layers(
    destination: Destination,
    layers: Sequence[Layer],
    shards: Sequence[Shard],
    images: Sequence[StoredImage[ListableStore]] = (),
    *,
    tagged: TaggedImage | None,
    accepts_plain: bool = False,
    checks: bool = False,
    mount: bool = True,
    progress: Progress,
) -> None:
    """Fill in which of ``layers`` a destination has; take what another repository can give.

    Nothing is asked once every layer is found.

    Args:
        destination: The destination.
        layers: The layers to find.
        shards: Shards whose records are read even where tags cannot be listed.
        images: Further images to search: other tags, other repositories.
        tagged: The present image of the tag.
        accepts_plain: Whether a layer that is there uncompressed need not be compressed.
        checks: Whether to ask for each blob that a manifest of the repository names.
        mount: Whether to take layers from other repositories; False only says so.
        progress: Told what cannot be used.

    Raises:
        HfModelsError: The destination itself did not answer, or said no.
    """
    wanted = {
        name: layer
        for layer in layers
        for name in ([layer.key] if layer.is_packed and accepts_plain else []) + [layer.name]
    }
    own = tagged.manifest.layers if tagged and tagged.manifest else ()
    sources: Sequence[Callable[[], Iterable[tuple[str, _Find]]]] = (
        partial(_finds_among, own, destination.store),
        partial(_finds_in_records, destination, shards),
        partial(_finds_in_images, lambda: images, progress),
        partial(_finds_in_images, partial(_neighbours, destination), progress),
    )
    for source in sources:
        # Verified layers come first: one that is pending costs reading it again.
        missing = [layer for layer in layers if not destination.is_done(layer)]
        if not missing:
            return
        found: dict[str, list[_Find]] = {}
        for name, find in source():
            layer = wanted.get(name)
            if layer is None or destination.is_done(layer):
                continue
            if is_packed(find.descriptor) or find.descriptor.size_bytes == layer.size_bytes:
                found.setdefault(layer.name, []).append(find)
        side_by_side(
            {
                layer.name: partial(
                    _take, destination, layer, found[layer.name], mount=mount, checks=checks
                )
                for layer in missing
                if layer.name in found
            }
        )


def _take(
    destination: Destination, layer: Layer, finds: Sequence[_Find], *, mount: bool, checks: bool
) -> None:
    # The compressed form first, where that is wanted and either will do.
    for find in sorted(finds, key=lambda item: (item.is_pending, not is_packed(item.descriptor))):
        is_known = layer.name in destination.have
        if (not is_known or not find.is_pending) and _has(destination, find, mount, checks):
            descriptor = stored_layer(find.descriptor)
            destination.add(layer, descriptor, is_pending=find.is_pending, moved=False)
            return


def _has(destination: Destination, find: _Find, mount: bool, checks: bool) -> bool:
    digest, size_bytes = find.descriptor.digest, find.descriptor.size_bytes
    store = destination.store
    if find.store is store:
        return not checks or store.blob_size(digest) == size_bytes
    if mount and store.is_beside(find.store):
        return store.mount_blob(digest, find.store)
    if store.blob_size(digest) == size_bytes:
        return True
    return not mount and store.is_beside(find.store) and _still_has(find)


def _still_has(find: _Find) -> bool:
    try:
        return find.store.blob_size(find.descriptor.digest) == find.descriptor.size_bytes
    except HfModelsError:
        return False  # the bytes come from the Hub then


def _finds_in_records(
    destination: Destination, shards: Sequence[Shard]
) -> Iterable[tuple[str, _Find]]:
    store, tag = destination.store, destination.tag
    calls: dict[Shard | None, Callable[[], Record | None]] = {
        shard: partial(read_record, store, tag, shard) for shard in shards
    }
    calls[None] = partial(_list_tags, destination)
    records = [record for record in side_by_side(calls).values() if record is not None]
    others = sorted({*shards_among(destination.tags or (), tag)} - {*shards})
    read = side_by_side({shard: partial(read_record, store, tag, shard) for shard in others})
    records += [record for record in read.values() if record is not None]
    for record in records:
        destination.recorded.setdefault(record.shard)
    return [
        (key, _Find(layer, store, key in record.pending))
        for record in records
        for key, layer in record.layers.items()
    ]


def _list_tags(destination: Destination) -> None:
    """List the tags, which only serves reuse: not every registry allows it."""
    try:
        destination.tags = destination.store.list_tags()
    except (RegistryError, ProtocolError):
        destination.tags = ()


def _neighbours(destination: Destination) -> list[StoredImage[ListableStore]]:
    """Return other tags of the repository: a revision may have been given one of its own."""
    # A repository may hold hundreds of other models.
    others = [tag for tag in destination.tags or () if is_image_tag(tag) and tag != destination.tag]
    alike = get_close_matches(destination.tag, others, _NEIGHBOURS, _ALIKE)
    return [StoredImage(destination.store, tag) for tag in alike]


def _finds_in_images(
    images: Callable[[], Sequence[StoredImage[ListableStore]]], progress: Progress
) -> Iterator[tuple[str, _Find]]:
    calls = {image: partial(_layers_of, image, progress) for image in images()}
    for image, layers in side_by_side(calls).items():
        yield from _finds_among(layers, image.store)


def _finds_among(layers: Iterable[Descriptor], store: ListableStore) -> Iterator[tuple[str, _Find]]:
    for layer in layers:
        if name := layer_name(layer):
            yield name, _Find(layer, store)


def _layers_of(image: StoredImage[ListableStore], progress: Progress) -> Sequence[Descriptor]:
    try:
        manifest = read_image(image.store, image.reference)
    except HfModelsError as error:
        # Another image is a help, not a need.
        progress.note(f"{image.store.name}:{image.reference}: not used: {error.message}")
        return ()
    return manifest.layers if manifest else ()


def read_image(store: ReadableStore, reference: str) -> Manifest | None:
    """Return the manifest of an image, of an index the first one; None if there is none."""
    raw = store.get_manifest(reference)
    return first_manifest(store, raw) if raw else None


def first_manifest(store: ReadableStore, raw: RawManifest) -> Manifest | None:
    """Return an image's own manifest, of an index the first one; None if there is none."""
    manifest = parse_manifest(raw.data)
    if isinstance(manifest, Manifest):
        return manifest
    assert isinstance(manifest, Index)  # noqa: S101 - the two that there are
    for descriptor in manifest.manifests:
        inner = store.get_manifest(descriptor.digest)
        parsed = parse_manifest(inner.data) if inner else None
        if isinstance(parsed, Manifest):
            return parsed
    return None


def read_labels(store: ReadableStore, reference: str) -> ImageLabels | None:
    """Return what an image says of itself, None if it is absent or says nothing of ours.

    Manifests of `publish` say it in annotations; what `docker push` sent, in its config.
    """
    manifest = read_image(store, reference)
    return labels_of(store, manifest) if manifest else None


def labels_of(store: ReadableStore, manifest: Manifest) -> ImageLabels | None:
    """Return what an image says of itself, None if it says nothing of ours."""
    found = parse_labels(manifest.annotations)
    if found is None and manifest.config.size_bytes <= CONFIG_LIMIT_BYTES:
        found = parse_labels(config_labels(read_config(store, manifest.config, "config")))
    return found


def look_at_tag(destination: Destination, plan: Plan, *, force: bool) -> TaggedImage | None:
    """Return what the tag names; raise if that is anything but the plan's own repo.

    Args:
        destination: The store and the tag.
        plan: Of the image that takes the tag.
        force: Whether another repo, or another image, may be overwritten.

    Raises:
        InputError: It is, and may not.
    """
    raw = destination.store.get_manifest(destination.tag)
    if raw is None:
        return None
    manifest = labels = None
    try:
        if manifest := first_manifest(destination.store, raw):
            labels = labels_of(destination.store, manifest)
    except HfModelsError as error:
        if not force and not isinstance(error, ProtocolError):
            raise
    if not force and (labels is None or labels.repo != plan.snapshot.repo):
        carries = f"{labels.repo.type} {labels.repo.id}" if labels else "another image"
        raise InputError(
            f"{destination.name}: the tag carries {carries},"
            f" not {plan.snapshot.repo.type} {plan.snapshot.repo.id}",
            hint="choose another --tag, or overwrite it with --force",
        )
    return TaggedImage(raw, manifest, labels)
