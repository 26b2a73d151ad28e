"""The contents of an image: its snapshots, and the place of each file's bytes.

Images of this project list the place of every file, so reading one small layer is enough.
In any other image, all layers are scanned for their entries.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from downloader.errors import InputError, ProtocolError
from downloader.hub.repo import Snapshot
from downloader.image import (
    ImageLabels,
    is_metadata_layer,
    is_packed,
    is_signature_layer,
    layer_key,
    parse_labels,
    parse_members,
    plan_path,
    signature_path,
)
from downloader.net.ranges import ByteRange
from downloader.oci.compression import PlainStream
from downloader.oci.image import all_labels
from downloader.oci.manifest import Descriptor
from downloader.oci.tar_read import iter_members, read_exactly
from downloader.plan import Plan
from downloader.progress import Progress
from downloader.restore.foreign.budget import DOCUMENT_LIMIT_BYTES, Budget, parse_document
from downloader.restore.foreign.cache_scan import Extent, FoundSnapshot, find_snapshots
from downloader.restore.foreign.entries import UNNAMED
from downloader.restore.foreign.layers import look_through, read_again, read_layer
from downloader.restore.foreign.models import find_models
from downloader.restore.foreign.scan import Taker
from downloader.restore.foreign.stream import (
    Passed,
    ReadInto,
    look_at_stream,
    open_compressed,
    open_saved,
)
from downloader.restore.image import Image
from downloader.restore.image_blobs import ImageBlobs
from downloader.restore.opening import Network, open_image
from downloader.restore.source import ArchiveSource, EngineSource, Source
from downloader.restore.values import LayerRange
from downloader.transfer.workers import map_all

# Links and lists of some hundred thousand files.
METADATA_LIMIT_BYTES = 512 * 1024**2
# Each is a request before the first byte of a file, and there may be a hundred.
_TABLES_AT_ONCE = 8


@dataclass(frozen=True)
class Found:
    """A snapshot of an image.

    Args:
        source: The image's name, for messages.
        digest: The digest that the name resolved to.
        snapshot: Its files; `NO_OID` for those that nothing names and that were not read.
        image_blobs: The sources of the image's registry blobs; None for a stream.
        ranges: The place of each oid's bytes, in an image that states it.
        extents: The place of each path's bytes, in any other image.
        revisions: The branches and tags that name the commit in the image.
        missing: Paths that the image shows and has no content for.
        is_labelled: Whether the image's labels name this repo and commit.
        read_again: Lets the contents of some layers pass once more; None where none pass at all.
        signature: The signed bundle over the files; None where there is none.
    """

    source: str
    digest: str
    snapshot: Snapshot
    image_blobs: ImageBlobs | None = None
    ranges: Mapping[str, list[LayerRange]] = field(default_factory=dict)
    extents: Mapping[str, Extent] = field(default_factory=dict)
    revisions: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    is_labelled: bool = False
    read_again: Callable[[Collection[str], Taker], None] | None = None
    signature: bytes | None = None

    @property
    def has_repo(self) -> bool:
        """Whether the image says which repo and commit the files are from."""
        return self.snapshot.repo != UNNAMED


def read_source(source: Source, network: Network, taker: Taker, progress: Progress) -> list[Found]:
    """Return the snapshots of an image.

    Args:
        source: The place of the image.
        network: Settings and connections for registries.
        taker: Decides about contents of streams.
        progress: Told what a person should know.

    Raises:
        InputError: The image holds neither a cache nor models.
        ProtocolError: It is malformed or hostile.
        IntegrityError: A layer is not the one that the manifest names.
        RegistryError, TransportError, EngineError, StorageError: It cannot be read.
    """
    match source:
        case EngineSource(name=name):
            return _read_stream(lambda: open_saved(name), str(source), None, taker, progress)
        case ArchiveSource(compression=str(), path=path, tag=tag):
            return _read_stream(lambda: open_compressed(path), str(source), tag, taker, progress)
    return read_image(open_image(source, network, progress), taker, progress)


def read_image(image: Image, taker: Taker, progress: Progress) -> list[Found]:
    """Return the snapshots of an image whose blobs can be asked for; see `read_source`."""
    progress.note(f"{image.name}: {image.digest}")
    planned = read_plan(image)
    if planned is not None:
        return [planned]
    tree = look_through(image, taker)

    def again(layers: Collection[str], taker: Taker) -> None:
        read_again(image, layers, taker)

    item = Passed(image.digest, image.manifest, image.config, tree)
    return _found(image.name, item, image.image_blobs, again, progress)


def _read_stream(
    reopen: Callable[[], AbstractContextManager[ReadInto]],
    name: str,
    tag: str | None,
    taker: Taker,
    progress: Progress,
) -> list[Found]:
    with reopen() as read_into:
        passed = look_at_stream(read_into, name, tag, taker)

    def again(layers: Collection[str], taker: Taker) -> None:
        del layers
        with reopen() as read_into:
            look_at_stream(read_into, name, tag, taker)

    return _found(name, passed, None, again, progress)


def _found(
    name: str,
    passed: Passed,
    image_blobs: ImageBlobs | None,
    again: Callable[[Collection[str], Taker], None],
    progress: Progress,
) -> list[Found]:
    labels = all_labels(passed.manifest, passed.config)
    ours = parse_labels(labels)
    snapshots = find_contents(passed)
    if not snapshots:
        raise InputError(
            f"{name}: neither a Hugging Face cache nor models in the image",
            hint="hf-models inspect shows what the image says of itself",
        )
    if ours is not None:
        for repo in {item.repo for item in snapshots} - {ours.repo}:
            progress.note(f"{name}: leaving out {repo.id}: the labels name only {ours.repo.id}")
        snapshots = [item for item in snapshots if item.repo == ours.repo]
        if not snapshots:
            raise ProtocolError(f"{name}: its labels name {ours.repo.id}, and it holds others")
    for item in snapshots:
        for path in item.missing:
            progress.note(f"{name}: has no content for {path}; leaving it out")
        if not item.files:
            raise InputError(f"{name}: every file of its snapshot was removed by an upper layer")
    return [
        Found(
            source=name,
            digest=passed.digest,
            snapshot=item.to_snapshot(),
            image_blobs=image_blobs,
            extents=item.files,
            revisions=item.revisions,
            missing=item.missing,
            is_labelled=ours is not None and item.commit == ours.commit,
            read_again=again,
            signature=item.signature,
        )
        for item in snapshots
    ]


def find_contents(passed: Passed) -> list[FoundSnapshot]:
    """Return what an image holds that was looked through: caches, or else plain models.

    Raises:
        ProtocolError: A path, link or ref is one that no cache or repo has.
    """
    labels = all_labels(passed.manifest, passed.config)
    models = None
    if not (found := find_snapshots(passed.tree)):
        models = find_models(passed.tree, passed.manifest, labels, passed.config)
    return [models] if models is not None else found


def read_plan(image: Image) -> Found | None:
    """Return the snapshot of an image of this project from its own list; None for any other.

    Raises:
        ProtocolError: The list is malformed, or of another snapshot than the labels say.
        IntegrityError: The layer that holds it is not the one that the manifest names.
    """
    ours, layers = image.ours, image.manifest.layers
    if ours is None or not layers or not is_metadata_layer(layers[-1]) or not _is_plain(layers):
        return None
    plan = _read_plan(image, ours, layers[-1])
    return Found(
        source=image.name,
        digest=image.digest,
        snapshot=plan.snapshot,
        image_blobs=image.image_blobs,
        ranges=_ranges(plan, layers[:-1], image.image_blobs),
        is_labelled=True,
        signature=_read_signature(image, ours.commit),
    )


def read_listed(image: Image) -> Snapshot | None:
    """Return what the last layer of an image of this project lists, wherever the bytes lie.

    An engine that compresses layers on a push drops the annotations that say it: None where the
    last layer has no plan.

    Raises:
        ProtocolError: The list is malformed, or of another snapshot than the labels say.
        IntegrityError: The layer that holds it is not the one that the manifest names.
    """
    ours, layers = image.ours, image.manifest.layers
    if ours is None or not layers:
        return None
    try:
        return _read_plan(image, ours, layers[-1]).snapshot
    except _NoDocumentError:
        return None


class _NoDocumentError(ProtocolError):
    """A layer lacks a file."""


def _read_plan(image: Image, ours: ImageLabels, layer: Descriptor) -> Plan:
    if layer.size_bytes > METADATA_LIMIT_BYTES:
        raise ProtocolError(
            f"metadata layer: want at most {METADATA_LIMIT_BYTES} bytes,"
            f" got {layer.size_bytes} bytes"
        )
    data = _read_document(image, layer, plan_path(ours.commit))
    plan = Plan.from_json(parse_document(data, "plan"))
    if plan.snapshot.commit != ours.commit or plan.snapshot.repo != ours.repo:
        raise ProtocolError(
            f"plan: want {ours.repo.id} at {ours.commit},"
            f" got {plan.snapshot.repo.id} at {plan.snapshot.commit}"
        )
    return plan


def _read_signature(image: Image, commit: str) -> bytes | None:
    found = next(filter(is_signature_layer, image.manifest.layers), None)
    return _read_document(image, found, signature_path(commit)) if found else None


def _read_document(image: Image, layer: Descriptor, path: str) -> bytes:
    """Return a file of the repo folder out of a small layer of ours."""
    budget = Budget(image.name)

    def find(stream: PlainStream) -> bytes:
        for member in iter_members(stream, "metadata layer", step=budget.step):
            budget.member()
            if member.kind == "file" and member.path.endswith(f"/{path}"):
                if member.size_bytes > DOCUMENT_LIMIT_BYTES:
                    raise ProtocolError(
                        f"{path}: want at most {DOCUMENT_LIMIT_BYTES} bytes,"
                        f" got {member.size_bytes} bytes"
                    )
                return read_exactly(stream, member.size_bytes, member.path)
        raise _NoDocumentError(f"metadata layer: lacks {path}")

    return read_layer(image, layer, budget, find)


def _is_plain(layers: Iterable[Descriptor]) -> bool:
    # A program that compressed the layers kept the annotations, and made them wrong.
    keyed = [layer for layer in layers if layer_key(layer) is not None]
    return all(layer.media_type.endswith(".tar") or is_packed(layer) for layer in keyed)


def _ranges(
    plan: Plan, layers: Sequence[Descriptor], image_blobs: ImageBlobs
) -> dict[str, list[LayerRange]]:
    by_key = {layer.key: layer for layer in plan.layers}
    found: dict[str, list[LayerRange]] = {}
    packed = [layer for layer in layers if is_packed(layer)]
    for layer, has_table in zip(
        packed, map_all(image_blobs.add_packed, packed, _TABLES_AT_ONCE), strict=True
    ):
        if not has_table:
            raise ProtocolError(f"{layer.digest}: want a seek table at its end, got none")
    for descriptor in layers:
        members = parse_members(descriptor)
        planned = by_key.get(layer_key(descriptor) or "")
        if members is not None:
            for member in members:
                layer_range = LayerRange(descriptor.digest, member.content, member.start)
                found.setdefault(member.oid, []).append(layer_range)
        elif planned is not None:
            # A list too long for the manifest: the plan leads to the same tar.
            for content, start in planned.placed:
                place = ByteRange(start, start + content.size_bytes)
                layer_range = LayerRange(descriptor.digest, place, content.byte_range.start)
                found.setdefault(content.oid, []).append(layer_range)
    return found
