"""One image, one tag, over layers that are there: moves no model bytes. The tag moves last."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from downloader.errors import InputError
from downloader.image import (
    METADATA_ANNOTATIONS,
    PREFIX,
    PROGRAMS_ANNOTATIONS,
    config_json,
    diff_id_of,
    is_signature_layer,
    labels,
    layer_annotations,
    metadata_tar,
    programs_tar,
    stored_layer,
)
from downloader.oci.digest import Digest, digest_of
from downloader.oci.layout import Layout
from downloader.oci.manifest import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    ZSTD_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    describe,
    parse_manifest,
)
from downloader.oci.reference import TAG_LIMIT
from downloader.oci.store import RawManifest, ReadableStore, Store
from downloader.plan import OWN_LAYERS, Layer, Plan, split_shards
from downloader.publish.base import Base
from downloader.publish.checkpoint import MODELPACK_TAG, Shard
from downloader.publish.copy import copy_blob, lacks, put_blob, side_by_side
from downloader.publish.destination import Destination
from downloader.publish.layer_cache import TaggedImage
from downloader.publish.modelpack import (
    MANIFEST_TYPE,
    NO_PLATFORM,
    model_config,
    model_manifest,
)
from downloader.publish.sign import attach_signature, signature_layer
from downloader.units import format_bytes

# Docker stops at 125 layers, other engines at 127.
ENGINE_LAYERS = 125
# Of the annotations that say what lies where in every layer; the specification lets a
# registry refuse a manifest above 4 MiB, and there is more in it than those.
MEMBERS_LIMIT_BYTES = 3 * 1024 * 1024


def find_current(
    destination: Destination,
    plan: Plan,
    base: Base,
    tagged: TaggedImage | None,
    *,
    modelpack: bool,
    signature: bytes | None = None,
) -> Digest | None:
    """Return the digest of the image that the tag names, if `write_image` would write it again.

    Args:
        destination: A destination that has every layer of the plan.
        plan: The plan of the image.
        base: The base image; resolved, not loaded.
        tagged: The image of the tag.
        modelpack: Whether the index carries a ModelPack manifest too.
        signature: As for `write_image`.
    """
    if tagged is None or tagged.manifest is None:
        return None
    index = parse_manifest(tagged.raw.data)
    notes = labels(plan, base.labels)
    if not isinstance(index, Index) or index.annotations != notes:
        return None
    has_modelpack = any(item.platform == NO_PLATFORM for item in index.manifests)
    forms = _forms(destination, plan, signature)
    layers = tuple(forms[0])
    is_same = (
        has_modelpack == modelpack
        and len(forms) == 1  # of two, the tag's first manifest shows only one
        and tagged.manifest.annotations == notes
        and tagged.manifest.layers[-len(layers) :] == layers
        and any(map(is_signature_layer, tagged.manifest.layers)) == bool(signature)
        and (base.store is not None or len(tagged.manifest.layers) == len(layers))
    )
    return tagged.raw.digest if is_same else None


def put_common_blobs(
    destination: Destination, plan: Plan, base: Base, tagged: TaggedImage | None
) -> None:
    """Put what of an image does not depend on its model layers.

    These are the metadata, the programs, and the base's layers.

    Args:
        destination: The destination.
        plan: The plan of the image.
        base: The base image, loaded.
        tagged: The present image of the tag, whose blobs are there.
    """
    store, source = destination.store, base.store
    manifest = tagged.manifest if tagged else None
    there = {item.digest for item in manifest.layers} if manifest else set()
    (programs, program_data), (metadata, data) = _programs(plan), _metadata(plan)
    calls = {}
    if metadata.digest not in there:
        calls[metadata.digest] = partial(put_blob, store, data, metadata.digest)
    if programs.digest not in there:
        calls[programs.digest] = partial(_put_missing, store, program_data, programs)
    for platform in base.platforms.values():
        for layer in platform.layers:
            if source is not None and layer.digest not in there:
                calls[layer.digest] = partial(_copy_missing, source, store, layer)
    side_by_side(calls)


def _put_missing(store: Store, data: bytes, blob: Descriptor) -> None:
    if lacks(store, blob):
        put_blob(store, data, blob.digest)


def _copy_missing(source: ReadableStore, target: Store, blob: Descriptor) -> None:
    if lacks(target, blob):
        copy_blob(source, target, blob)


def write_image(
    destination: Destination,
    plan: Plan,
    base: Base,
    *,
    modelpack: bool,
    signature: bytes | None = None,
) -> RawManifest:
    """Write configs, manifests and index, and move the tag.

    Args:
        destination: A destination with every layer of the plan and the blobs of `put_common_blobs`.
        plan: The plan of the image.
        base: The base image, loaded.
        modelpack: Whether the index carries a ModelPack manifest too.
        signature: The bundle over the files; None for an image without one.

    Returns:
        The index, which the tag names now.

    Raises:
        InputError: Layers are missing, or there are too many with those of the base.
        HfModelsError: The store said no.
    """
    check_complete(destination, plan.stored)
    for platform in base.platforms.values():
        _check_count(len(platform.layers) + len(plan.layers) + OWN_LAYERS + bool(signature))
    blobs: dict[Digest, bytes] = {}
    if signature:
        layer, data = signature_layer(plan, signature)
        blobs[layer.digest] = data
    manifests: list[tuple[Descriptor, bytes]] = []
    forms = _forms(destination, plan, signature)
    for at, layers in enumerate(forms):
        made = [_platform_manifest(plan, base, item, layers, blobs) for item in base.platforms]
        if at:
            made = [(replace(item, annotations=ZSTD_MANIFEST), data) for item, data in made]
        manifests += made
    if modelpack:
        manifests.append(_modelpack_manifest(plan, forms[0], blobs))
    store = destination.store
    side_by_side({digest: partial(put_blob, store, blobs[digest], digest) for digest in blobs})
    side_by_side(
        {
            descriptor.digest: partial(store.put_manifest, descriptor.digest, data, MANIFEST)
            for descriptor, data in manifests
        }
    )
    index = Index(tuple(item for item, _ in manifests), labels(plan, base.labels)).to_bytes()
    image = RawManifest(index, INDEX, store.put_manifest(destination.tag, index, INDEX))
    has_one_tag = isinstance(store, Layout)  # a second one would make a directory ambiguous
    modelpack_tag = f"{destination.tag}{MODELPACK_TAG}"
    if modelpack and len(modelpack_tag) <= TAG_LIMIT and not has_one_tag:
        # Its readers take a tag for a manifest, not an index.
        store.put_manifest(modelpack_tag, manifests[-1][1], MANIFEST)
    if signature and not has_one_tag:
        attach_signature(destination, image.digest, signature)
    return image


def check_complete(destination: Destination, layers: Sequence[Layer]) -> None:
    """Raise unless every layer is there, and verified.

    Raises:
        InputError: Some are not.
    """
    missing = [layer for layer in layers if not destination.is_done(layer)]
    if missing:
        size = format_bytes(sum(layer.size_bytes for layer in missing))
        raise InputError(
            f"{destination.name}: {len(missing)} of {len(layers)} layers missing ({size})",
            hint="publish them first: hf-models publish",
        )


def missing_shards(destination: Destination, plan: Plan, count: int) -> list[Shard]:
    """Return which of ``count`` shards a destination lacks layers of."""
    shares = split_shards(plan.stored, count)
    return [
        Shard(index, count)
        for index, layers in enumerate(shares, start=1)
        if not all(destination.is_done(layer) for layer in layers)
    ]


def _forms(destination: Destination, plan: Plan, signature: bytes | None) -> list[list[Descriptor]]:
    """Return the layers of the image, and after them the compressed ones of ``both``.

    The plain form is first, which engines take that do not know the annotation.
    """
    last = [_programs(plan)[0], _metadata(plan)[0]]
    if signature:
        last.insert(1, signature_layer(plan, signature)[0])
    shown = [[*_describe_layers(destination, plan.layers), *last]]
    if plan.compress == "both" and any(layer.is_packed for layer in plan.layers):
        plain = plan.stored[: len(plan.layers)]
        shown.insert(0, [*_describe_layers(destination, plain), *last])
    return shown


def _describe_layers(destination: Destination, layers: Sequence[Layer]) -> list[Descriptor]:
    notes = [layer_annotations(layer) for layer in layers]
    _fit(notes)
    found = [stored_layer(destination.have[layer.name]) for layer in layers]
    return [
        replace(descriptor, annotations=dict(descriptor.annotations) | note)
        for descriptor, note in zip(found, notes, strict=True)
    ]


def _programs(plan: Plan) -> tuple[Descriptor, bytes]:
    data = programs_tar(plan)
    return replace(describe(data, LAYER), annotations=PROGRAMS_ANNOTATIONS), data


def _metadata(plan: Plan) -> tuple[Descriptor, bytes]:
    data = metadata_tar(plan)
    return replace(describe(data, LAYER), annotations=METADATA_ANNOTATIONS), data


def _fit(notes: Sequence[dict[str, str]]) -> None:
    """Leave out the longest lists of members, which readers find in the tar headers as well."""
    sizes = {at: sum(map(len, note.values())) for at, note in enumerate(notes)}
    for at in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sum(sizes.values()) <= MEMBERS_LIMIT_BYTES:
            return
        for key in [key for key in notes[at] if key.endswith(".members")]:
            sizes[at] -= len(notes[at].pop(key))


def _check_count(count: int) -> None:
    if count > ENGINE_LAYERS:
        raise InputError(
            f"want at most {ENGINE_LAYERS} layers with those of the base image, got {count}",
            hint="raise --layer-size, or choose a smaller --base",
        )


def _platform_manifest(
    plan: Plan,
    base: Base,
    platform: Platform,
    layers: Sequence[Descriptor],
    blobs: dict[Digest, bytes],
) -> tuple[Descriptor, bytes]:
    """Return a platform's manifest and its descriptor; its config goes into ``blobs``."""
    found = base.platforms[platform]
    diff_ids = [diff_id_of(layer) for layer in layers]
    config = config_json(plan, platform, diff_ids, found.config, base.labels)
    blobs[digest_of(config)] = config
    notes = labels(plan, base.labels)
    data = Manifest(describe(config, CONFIG), (*found.layers, *layers), notes).to_bytes()
    return replace(describe(data, MANIFEST), platform=platform), data


def _modelpack_manifest(
    plan: Plan, layers: Sequence[Descriptor], blobs: dict[Digest, bytes]
) -> tuple[Descriptor, bytes]:
    config = model_config(plan, layers)
    blobs[digest_of(config)] = config
    data = model_manifest(plan, config, layers)
    # Not in the descriptor's own `artifactType`: skopeo 1.9 leaves out what it does not know,
    # and then cannot copy the index with its digest.
    notes = {f"{PREFIX}.artifact-type": MANIFEST_TYPE}
    return replace(describe(data, MANIFEST), annotations=notes, platform=NO_PLATFORM), data
