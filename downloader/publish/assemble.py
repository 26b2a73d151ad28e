"""One image, one tag, over layers that are there: moves no model bytes. The tag moves last."""

from collections.abc import Sequence
from dataclasses import replace

from downloader.errors import InputError
from downloader.image import (
    METADATA_ANNOTATIONS,
    PREFIX,
    ZSTD_MANIFEST,
    config_json,
    diff_id_of,
    labels,
    layer_annotations,
    metadata_tar,
    stored_layer,
)
from downloader.oci.digest import Digest, digest_of
from downloader.oci.manifest import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    describe,
)
from downloader.plan import Layer, Plan, split_shards
from downloader.publish.base import Base
from downloader.publish.blobs import copy_blob, lacks, put_blob
from downloader.publish.checkpoint import Shard
from downloader.publish.destination import Target
from downloader.publish.modelpack import (
    MANIFEST_TYPE,
    NO_PLATFORM,
    model_config,
    model_manifest,
)

# Docker stops at 125 layers, other engines at 127.
ENGINE_LAYERS = 125
# Of the annotations that say what lies where in every layer; the specification lets a
# registry refuse a manifest above 4 MiB, and there is more in it than those.
MEMBERS_LIMIT_BYTES = 3 * 1024 * 1024


def assemble_image(target: Target, plan: Plan, base: Base, *, modelpack: bool = False) -> Digest:
    """Write configs, the last layer, manifests and index, and move the tag.

    Args:
        target: Which has every layer of the plan.
        plan: What the image carries.
        base: What lies under it.
        modelpack: Whether the index carries a ModelPack manifest too.

    Returns:
        The digest of the index, which the tag names now.

    Raises:
        InputError: Layers are missing, or there are too many with those of the base.
        HfModelsError: The store said no.
    """
    check_complete(target, plan.stored)
    for platform in base.platforms.values():
        _check_count(len(platform.layers) + len(plan.layers) + 1)
    metadata = _put_metadata(target, plan)
    layers = [*_describe_layers(target, plan.layers), metadata]
    manifests: list[Descriptor] = []
    if plan.compress == "both" and any(layer.is_packed for layer in plan.layers):
        # The plain one first, which engines take that do not know the annotation.
        plain = [*_describe_layers(target, plan.stored[: len(plan.layers)]), metadata]
        manifests = [_put_platform(target, plan, base, item, plain) for item in base.platforms]
        packed = [_put_platform(target, plan, base, item, layers) for item in base.platforms]
        manifests += [replace(item, annotations=ZSTD_MANIFEST) for item in packed]
        layers = plain
    else:
        manifests = [_put_platform(target, plan, base, item, layers) for item in base.platforms]
    if modelpack:
        manifests.append(_put_modelpack(target, plan, layers))
    index = Index(tuple(manifests), labels(plan, base.labels)).to_bytes()
    digest = digest_of(index)
    current = target.store.get_manifest(target.tag)
    if current is None or current.digest != digest:
        target.store.put_manifest(target.tag, index, INDEX)
    return digest


def check_complete(target: Target, layers: Sequence[Layer]) -> None:
    """Raise unless every layer is there, and verified.

    Raises:
        InputError: Some are not.
    """
    missing = [layer for layer in layers if not target.is_done(layer)]
    if missing:
        size_bytes = sum(layer.size_bytes for layer in missing)
        raise InputError(
            f"{target.name}: want {len(layers)} layers, got {len(layers) - len(missing)};"
            f" {size_bytes} bytes are missing",
            hint="publish them first: hf-models publish",
        )


def missing_shards(target: Target, plan: Plan, count: int) -> list[Shard]:
    """Return which of ``count`` shards a target lacks layers of."""
    shares = split_shards(plan.stored, count)
    return [
        Shard(index, count)
        for index, layers in enumerate(shares, start=1)
        if not all(target.is_done(layer) for layer in layers)
    ]


def _describe_layers(target: Target, layers: Sequence[Layer]) -> list[Descriptor]:
    notes = [layer_annotations(layer) for layer in layers]
    _fit(notes)
    found = [stored_layer(target.have[layer.name]) for layer in layers]
    return [
        replace(descriptor, annotations=dict(descriptor.annotations) | note)
        for descriptor, note in zip(found, notes, strict=True)
    ]


def _put_metadata(target: Target, plan: Plan) -> Descriptor:
    data = metadata_tar(plan)
    put_blob(target.store, data, digest_of(data))
    return replace(describe(data, LAYER), annotations=METADATA_ANNOTATIONS)


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


def _put_platform(
    target: Target, plan: Plan, base: Base, platform: Platform, layers: Sequence[Descriptor]
) -> Descriptor:
    found = base.platforms[platform]
    if base.store:
        for layer in found.layers:
            if lacks(target.store, layer):
                copy_blob(base.store, target.store, layer)
    diff_ids = [diff_id_of(layer) for layer in layers]
    config = config_json(plan, platform, diff_ids, found.config, base.labels)
    descriptor = describe(config, CONFIG)
    put_blob(target.store, config, descriptor.digest)
    notes = labels(plan, base.labels)
    data = Manifest(descriptor, (*found.layers, *layers), notes).to_bytes()
    return replace(_put_manifest(target, data), platform=platform)


def _put_modelpack(target: Target, plan: Plan, layers: Sequence[Descriptor]) -> Descriptor:
    config = model_config(plan, layers)
    put_blob(target.store, config, digest_of(config))
    data = model_manifest(plan, config, layers)
    descriptor = _put_manifest(target, data)
    # Not in the descriptor's own `artifactType`: skopeo 1.9 leaves out what it does not know,
    # and then cannot copy the index with its digest.
    notes = {f"{PREFIX}.artifact-type": MANIFEST_TYPE}
    return replace(descriptor, annotations=notes, platform=NO_PLATFORM)


def _put_manifest(target: Target, data: bytes) -> Descriptor:
    descriptor = describe(data, MANIFEST)
    target.store.put_manifest(descriptor.digest, data, MANIFEST)
    return descriptor
