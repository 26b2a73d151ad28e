"""Assembling: one image of the shards that other machines published."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from downloader.errors import InputError, ProtocolError
from downloader.image import ImageLabels, is_metadata_layer, layer_key, plan_json, plan_path
from downloader.oci.digest import Digest
from downloader.oci.manifest import Manifest, parse_json_object
from downloader.oci.store import Store
from downloader.plan import Plan
from downloader.progress import NoProgress, Progress
from downloader.publish.base import Base
from downloader.publish.checkpoint import (
    PLAN_LIMIT_BYTES,
    Record,
    Shard,
    list_shards,
    plan_descriptor,
    read_plan,
    read_record,
)
from downloader.publish.copy import read_member, side_by_side
from downloader.publish.destination import Destination, replace_records
from downloader.publish.image_writer import missing_shards, put_common_blobs, write_image
from downloader.publish.layer_cache import (
    find_layers,
    first_manifest,
    labels_of,
    look_at_tag,
    read_labels,
)
from downloader.publish.sign import is_signed_as, sign_plan
from downloader.signing import Signer


@dataclass(frozen=True)
class AssembleOptions:
    """Settings of `assemble`.

    Args:
        plan: The published plan; None to take it from the shards.
        commit: Only shards of this commit.
        count: Of shards; None for those that the store lists.
        base: The base image.
        modelpack: Whether the index carries a ModelPack manifest too.
        force: Whether a tag that carries another repo may be overwritten.
        signer: Signs the files; None for no signature.
    """

    plan: Plan | None = None
    commit: str | None = None
    count: int | None = None
    base: Base = field(default_factory=Base)
    modelpack: bool = True
    force: bool = False
    signer: Signer | None = None


def assemble(
    store: Store,
    tag: str,
    options: AssembleOptions | None = None,
    progress: Progress | None = None,
) -> Digest:
    """Make one image of the shards that other machines published; moves no model bytes.

    Args:
        store: The store of the shards.
        tag: Of the image.
        options: The shards to look for, and the image to make of them.
        progress: Told of everything.

    Returns:
        The digest of the image, which the tag names now.

    Raises:
        InputError: No shard is there, some are missing, or they carry different plans.
        HfModelsError: The store said no.
    """
    options = options or AssembleOptions()
    progress = progress or NoProgress()
    destination = Destination(store, tag)
    records = _read_records(destination, options.count)
    signer = options.signer
    assembled = None if records else _find_assembled(destination, options)
    if assembled and not signer:
        progress.note(f"{destination.name}: assembled already")
        return assembled.digest
    plan = options.plan or (
        _plan_in(destination, assembled)
        if assembled
        else _plan_of(destination, records, options.commit)
    )
    tagged = look_at_tag(destination, plan, force=options.force)
    shards = [record.shard for record in records]
    find_layers(
        destination,
        plan.stored,
        shards,
        tagged=tagged,
        accepts_plain=plan.compress == "auto",
        progress=progress,
    )
    _check_shards(destination, plan, records, options.count)
    signature = None
    if assembled and signer:
        signature = sign_plan(signer, plan, destination, {}, tagged)
        if is_signed_as(signature, destination, tagged):
            progress.note(f"{destination.name}: assembled and signed already")
            return assembled.digest
    options.base.load()
    put_common_blobs(destination, plan, options.base, tagged)
    if signer and signature is None:  # a keyless one cannot be taken back
        signature = sign_plan(signer, plan, destination, {}, tagged)
    image = write_image(
        destination, plan, options.base, modelpack=options.modelpack, signature=signature
    )
    replace_records(destination, image, shards, progress)
    return image.digest


def _read_records(destination: Destination, count: int | None) -> list[Record]:
    store, tag = destination.store, destination.tag
    if count:
        shards = [Shard(index, count) for index in range(1, count + 1)]
    else:
        shards = list_shards(store, tag)
    read = side_by_side({shard: partial(read_record, store, tag, shard) for shard in shards})
    return [record for record in read.values() if record is not None]


@dataclass(frozen=True)
class _Assembled:
    """An image of every shard that the tag names: its digest, or its index's, and its commit."""

    digest: Digest
    image: Manifest
    commit: str


def _find_assembled(destination: Destination, options: AssembleOptions) -> _Assembled | None:
    """Return what an earlier run has made of the shards, whose records it took away."""
    plan, store = options.plan, destination.store
    wanted = plan.snapshot.commit if plan else options.commit
    try:
        raw = store.get_manifest(destination.tag) if wanted else None
        image = first_manifest(store, raw) if raw else None
        labels = labels_of(store, image) if image else None
    except ProtocolError:
        return None  # whatever lies under the tag, it is none of ours
    if raw is None or image is None or labels is None or labels.commit != wanted:
        return None
    is_it = plan is None or _is_of(plan, image, labels)
    return _Assembled(raw.digest, image, labels.commit) if is_it else None


def _plan_in(destination: Destination, assembled: _Assembled) -> Plan:
    suffix = f"/{plan_path(assembled.commit)}"
    for layer in filter(is_metadata_layer, assembled.image.layers):
        found = read_member(destination.store, layer, PLAN_LIMIT_BYTES, suffix)
        if found is not None:
            return Plan.from_json(parse_json_object(found, "plan", PLAN_LIMIT_BYTES))
    raise InputError(
        f"{destination.name}: the image has no plan, which signing its files needs",
        hint="give it with --plan FILE",
    )


def _is_of(plan: Plan, image: Manifest, labels: ImageLabels) -> bool:
    """Return whether an image is of this very plan, and not of another one of the commit."""
    keys = {layer_key(layer) for layer in image.layers}
    same = (labels.repo, labels.is_partial) == (plan.snapshot.repo, plan.snapshot.is_partial)
    return same and keys - {None} == {layer.key for layer in plan.layers}


def _plan_of(destination: Destination, records: Sequence[Record], commit: str | None) -> Plan:
    descriptors = {record.plan.digest: record.plan for record in records}
    plans = [read_plan(destination.store, descriptor) for descriptor in descriptors.values()]
    if commit:
        plans = [plan for plan in plans if plan.snapshot.commit == commit]
    if not plans:
        raise InputError(
            f"{destination.name}: no shards{f' of commit {commit}' if commit else ''}",
            hint=_hint_without_shards(destination),
        )
    if len(plans) > 1:
        commits = ", ".join(sorted({plan.snapshot.commit for plan in plans}))
        raise InputError(
            f"{destination.name}: want shards of one plan,"
            f" got {len(plans)} plans (commits {commits})",
            hint="choose one with --revision COMMIT or --plan FILE",
        )
    return plans[0]


def _hint_without_shards(destination: Destination) -> str:
    try:
        labels = read_labels(destination.store, destination.tag)
    except ProtocolError:
        labels = None
    if labels is None:
        return "publish them first: hf-models publish --shard I/N"
    commit = labels.commit
    return f"the tag carries commit {commit}; if that is the one, say so: --revision {commit}"


def _check_shards(
    destination: Destination, plan: Plan, records: Sequence[Record], count: int | None
) -> None:
    if all(destination.is_done(layer) for layer in plan.stored):
        return
    ours = plan_descriptor(plan_json(plan)).digest
    counts = [record.shard.count for record in records if record.plan.digest == ours]
    missing = missing_shards(destination, plan, count or max(counts, default=1))
    names = ", ".join(str(shard) for shard in missing)
    raise InputError(
        f"{destination.name}: shards missing: {names}",
        hint=f"publish it first: hf-models publish --shard {missing[0]}",
    )
