"""Joining: one image of the shards that other machines published."""

from collections.abc import Sequence

from downloader.errors import InputError, ProtocolError
from downloader.image import ImageLabels, layer_key, plan_json
from downloader.oci.digest import Digest
from downloader.oci.manifest import Manifest
from downloader.oci.store import Store
from downloader.plan import Plan
from downloader.progress import NoProgress, Progress
from downloader.publish.assemble import assemble_image, missing_shards
from downloader.publish.checkpoint import (
    Record,
    Shard,
    list_shards,
    plan_descriptor,
    read_plan,
    read_record,
)
from downloader.publish.destination import Target, replace_records
from downloader.publish.job import Settings
from downloader.publish.layer_cache import (
    check_overwrite,
    find_layers,
    first_manifest,
    labels_of,
    read_labels,
)


def assemble(
    store: Store,
    tag: str,
    *,
    plan: Plan | None = None,
    commit: str | None = None,
    count: int | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Digest:
    """Make one image of the shards that other machines published; moves no model bytes.

    Args:
        store: Where the shards are.
        tag: Of the image.
        plan: What was published; None to take it from the shards.
        commit: Only shards of this commit.
        count: Of shards; None for those that the store lists.
        settings: The base and ModelPack; whether to overwrite.
        progress: Told of everything.

    Raises:
        InputError: No shard is there, some are missing, or they carry different plans.
        HfModelsError: The store said no.
    """
    settings = settings or Settings()
    progress = progress or NoProgress()
    target = Target(store, tag)
    records = _read_records(target, count)
    if not records and (assembled := _find_assembled(target, plan, commit)):
        progress.note(f"{target.name}: assembled already")
        return assembled
    planned = plan or _plan_of(target, records, commit)
    check_overwrite(target, planned, force=settings.force)
    find_layers(
        target,
        planned.stored,
        [record.shard for record in records],
        accepts_plain=planned.compress == "auto",
        progress=progress,
    )
    _check_shards(target, planned, records, count)
    digest = assemble_image(target, planned, settings.base, modelpack=settings.modelpack)
    replace_records(target, progress)
    return digest


def _read_records(target: Target, count: int | None) -> list[Record]:
    if count:
        shards = [Shard(index, count) for index in range(1, count + 1)]
    else:
        shards = list_shards(target.store, target.tag)
    read = (read_record(target.store, target.tag, shard) for shard in shards)
    return [record for record in read if record is not None]


def _find_assembled(target: Target, plan: Plan | None, commit: str | None) -> Digest | None:
    """Return what an earlier run has made of the shards, whose records it took away."""
    wanted = plan.snapshot.commit if plan else commit
    try:
        raw = target.store.get_manifest(target.tag) if wanted else None
        image = first_manifest(target.store, raw) if raw else None
        labels = labels_of(target.store, image) if image else None
    except ProtocolError:
        return None  # whatever lies under the tag, it is none of ours
    if raw is None or image is None or labels is None or labels.commit != wanted:
        return None
    return raw.digest if plan is None or _is_of(plan, image, labels) else None


def _is_of(plan: Plan, image: Manifest, labels: ImageLabels) -> bool:
    """Whether an image is of this very plan, and not of another one of the commit."""
    keys = {layer_key(layer) for layer in image.layers}
    same = (labels.repo, labels.is_partial) == (plan.snapshot.repo, plan.snapshot.is_partial)
    return same and keys - {None} == {layer.key for layer in plan.layers}


def _plan_of(target: Target, records: Sequence[Record], commit: str | None) -> Plan:
    descriptors = {record.plan.digest: record.plan for record in records}
    plans = [read_plan(target.store, descriptor) for descriptor in descriptors.values()]
    if commit:
        plans = [plan for plan in plans if plan.snapshot.commit == commit]
    if not plans:
        raise InputError(
            f"{target.name}: want shards{f' of commit {commit}' if commit else ''}, got none",
            hint=_hint_without_shards(target),
        )
    if len(plans) > 1:
        commits = ", ".join(sorted({plan.snapshot.commit for plan in plans}))
        raise InputError(
            f"{target.name}: want shards of one plan, got {len(plans)} plans (commits {commits})",
            hint="choose one with --revision COMMIT or --plan FILE",
        )
    return plans[0]


def _hint_without_shards(target: Target) -> str:
    try:
        labels = read_labels(target.store, target.tag)
    except ProtocolError:
        labels = None
    if labels is None:
        return "publish them first: hf-models publish --shard I/N"
    commit = labels.commit
    return f"the tag carries commit {commit}; if that is the one, say so: --revision {commit}"


def _check_shards(target: Target, plan: Plan, records: Sequence[Record], count: int | None) -> None:
    if all(target.is_done(layer) for layer in plan.stored):
        return
    ours = plan_descriptor(plan_json(plan)).digest
    counts = [record.shard.count for record in records if record.plan.digest == ours]
    missing = missing_shards(target, plan, count or max(counts, default=1))
    names = ", ".join(str(shard) for shard in missing)
    raise InputError(
        f"{target.name}: want every shard, got none of {names}",
        hint=f"publish it first: hf-models publish --shard {missing[0]}",
    )
