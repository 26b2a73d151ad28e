"""What is there already: layers that the tag has, a shard has, or another image has.

A layer is a pure function of its contents, and every descriptor that we write names the
layer by its key. So what the tag, its shards, a few tags with a similar name or a named image
have costs one question (is the blob still there?), and no byte.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from downloader.errors import HfModelsError, InputError, ProtocolError, RegistryError
from downloader.image import ImageLabels, is_packed, layer_name, parse_labels, stored_layer
from downloader.oci.manifest import (
    Descriptor,
    Index,
    Manifest,
    parse_json_object,
    parse_manifest,
)
from downloader.oci.store import RawManifest, Store
from downloader.plan import Layer, Plan
from downloader.progress import Progress
from downloader.publish.blobs import read_blob
from downloader.publish.checkpoint import Shard, is_image_tag, read_record, shards_among
from downloader.publish.destination import Target
from downloader.transfer.workers import run_all

CONFIG_LIMIT_BYTES = 8 * 1024 * 1024  # labels and a history of some thousand lines
_QUESTIONS = 8  # at once; registries begin to limit small requests at some fifty
# Other tags of the repository that are looked at. Docker Hub counts every manifest that is read
# as a pull, of which a free account has 200 in six hours; a tag costs two.
_NEIGHBOURS = 3
_ALIKE = 0.5  # as difflib counts: v1 and v2 are


@dataclass(frozen=True)
class Image:
    """An image to take layers from."""

    store: Store
    reference: str


@dataclass(frozen=True)
class Find:
    """A layer that some image names."""

    descriptor: Descriptor
    store: Store
    is_pending: bool = False


def find_layers(
    target: Target,
    layers: Sequence[Layer],
    shards: Sequence[Shard],
    images: Sequence[Image] = (),
    *,
    mount: bool = True,
    accepts_plain: bool = False,
    progress: Progress,
) -> None:
    """Fill in which of ``layers`` a target has; take what another repository can give.

    Args:
        target: Where to.
        layers: What is wanted there.
        shards: Whose records are read even where tags cannot be listed.
        images: Where else to look: other tags, other repositories.
        mount: Whether to take layers from other repositories; False only says so.
        accepts_plain: Whether a layer that is there uncompressed need not be compressed.
        progress: Told what cannot be used.

    Raises:
        HfModelsError: The target itself did not answer, or said no.
    """
    found: dict[str, list[Find]] = {}
    wanted = {layer: _names(layer, accepts_plain) for layer in layers}
    tags = _list_tags(target)
    known = sorted({*shards_among(tags, target.tag), *shards})
    for key, find in _iter_finds(target, known, images, progress):
        found.setdefault(key, []).append(find)
    if any(found.keys().isdisjoint(names) for names in wanted.values()):
        for key, find in _iter_neighbours(target, tags, progress):
            found.setdefault(key, []).append(find)
    tasks = [
        partial(_check, target, layer, finds, mount)
        for layer, names in wanted.items()
        if (finds := [find for name in names for find in found.get(name, ())])
    ]
    run_all([(_QUESTIONS, tasks)], threading.Event(), lambda: None)


def _names(layer: Layer, accepts_plain: bool) -> list[str]:
    return [layer.name, layer.key] if layer.is_packed and accepts_plain else [layer.name]


def _check(target: Target, layer: Layer, finds: Sequence[Find], mount: bool) -> None:
    for find in finds:
        is_right = is_packed(find.descriptor) or find.descriptor.size_bytes == layer.size_bytes
        if is_right and _has(target, find, mount):
            target.have[layer.name] = stored_layer(find.descriptor)
            if find.is_pending:
                target.pending.add(layer.name)
            return


def _has(target: Target, find: Find, mount: bool) -> bool:
    digest, size_bytes = find.descriptor.digest, find.descriptor.size_bytes
    if target.store.blob_size(digest) == size_bytes:
        return True
    if find.store is target.store or not _still_has(find):
        return False
    return target.store.mount_blob(digest, find.store) if mount else True


def _still_has(find: Find) -> bool:
    try:
        return find.store.blob_size(find.descriptor.digest) == find.descriptor.size_bytes
    except HfModelsError:
        return False  # the bytes come from the Hub then


def _iter_finds(
    target: Target, shards: Sequence[Shard], images: Sequence[Image], progress: Progress
) -> Iterator[tuple[str, Find]]:
    # Verified layers come first: one that is pending costs reading it again.
    pending: list[tuple[str, Find]] = []
    for image in (Image(target.store, target.tag), *images):
        for layer in _layers_of(image, target, progress):
            if name := layer_name(layer):
                yield name, Find(layer, image.store)
    for other in shards:
        record = read_record(target.store, target.tag, other)
        for key, layer in record.layers.items() if record else ():
            is_pending = record is not None and key in record.pending
            find = Find(layer, target.store, is_pending)
            if is_pending:
                pending.append((key, find))
            else:
                yield key, find
    yield from pending


def _list_tags(target: Target) -> Sequence[str]:
    try:
        return target.store.list_tags()
    except (RegistryError, ProtocolError):
        return ()  # not every registry lets everybody list tags, or has the endpoint


def _iter_neighbours(
    target: Target, tags: Sequence[str], progress: Progress
) -> Iterator[tuple[str, Find]]:
    """Look at other tags of the repository: a revision may have been given one of its own."""
    # A repository may hold hundreds of other models.
    others = [tag for tag in tags if is_image_tag(tag) and tag != target.tag]
    for tag in get_close_matches(target.tag, others, _NEIGHBOURS, _ALIKE):
        for layer in _layers_of(Image(target.store, tag), target, progress):
            if name := layer_name(layer):
                yield name, Find(layer, target.store)


def _layers_of(image: Image, target: Target, progress: Progress) -> Sequence[Descriptor]:
    try:
        manifest = read_image(image.store, image.reference)
    except HfModelsError as error:
        # Another image is a help, not a need; and what lies under the tag may be anything.
        is_own = image.store is target.store and image.reference == target.tag
        if is_own and not isinstance(error, ProtocolError):
            raise
        progress.note(f"{image.store.name}:{image.reference}: not used: {error.message}")
        return ()
    return manifest.layers if manifest else ()


def read_image(store: Store, reference: str) -> Manifest | None:
    """Return the manifest of an image, of an index the first one; None if there is none."""
    raw = store.get_manifest(reference)
    return first_manifest(store, raw) if raw else None


def first_manifest(store: Store, raw: RawManifest) -> Manifest | None:
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


def read_labels(store: Store, reference: str) -> ImageLabels | None:
    """Return what an image says of itself, None if it is absent or says nothing of ours.

    Manifests of `publish` say it in annotations; what `docker push` sent, in its config.
    """
    manifest = read_image(store, reference)
    return labels_of(store, manifest) if manifest else None


def labels_of(store: Store, manifest: Manifest) -> ImageLabels | None:
    """Return what an image says of itself, None if it says nothing of ours."""
    found = parse_labels(manifest.annotations)
    if found is None and manifest.config.size_bytes <= CONFIG_LIMIT_BYTES:
        data = read_blob(store, manifest.config, CONFIG_LIMIT_BYTES)
        inner = parse_json_object(data, "config", CONFIG_LIMIT_BYTES).get("config")
        labels = inner.get("Labels") if isinstance(inner, dict) else None
        texts = labels.items() if isinstance(labels, dict) else ()
        found = parse_labels({key: text for key, text in texts if isinstance(text, str)})
    return found


def check_overwrite(target: Target, plan: Plan, *, force: bool) -> ImageLabels | None:
    """Return what the tag carries; raise if that is anything but the plan's own repo.

    Args:
        target: The store and the tag.
        plan: Of the image that takes the tag.
        force: Whether another repo, or another image, may be overwritten.

    Raises:
        InputError: It is, and may not.
    """
    raw = target.store.get_manifest(target.tag)
    if raw is None:
        return None
    labels = None
    try:
        if manifest := first_manifest(target.store, raw):
            labels = labels_of(target.store, manifest)
    except HfModelsError as error:
        if not force and not isinstance(error, ProtocolError):
            raise
    if not force and (labels is None or labels.repo != plan.snapshot.repo):
        carries = f"{labels.repo.type} {labels.repo.id}" if labels else "another image"
        raise InputError(
            f"{target.name}: want {plan.snapshot.repo.type} {plan.snapshot.repo.id},"
            f" got a tag that carries {carries}",
            hint="choose another --tag, or overwrite it with --force",
        )
    return labels
