"""Checkpoints: the finished layers of one job, recorded in the store under a tag of its own.

After every finished layer the tag ``TAG.shard-I-of-N`` names a small manifest over the layers
that are there, with the plan as its config. It is what an interrupted run, killed at any
moment, goes on from; it keeps the registry from collecting the layers as garbage; and it is
all that `assemble` needs.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from downloader.errors import HfModelsError, InputError, ProtocolError, RegistryError
from downloader.image import PREFIX, layer_name
from downloader.oci.manifest import (
    Descriptor,
    Manifest,
    describe,
    parse_json_object,
    parse_manifest,
)
from downloader.oci.reference import TAG_LIMIT, check_tag
from downloader.oci.store import ListableStore, ReadableStore
from downloader.plan import PACKED, Plan
from downloader.publish.copy import read_blob, side_by_side

PLAN_TYPE = f"application/vnd.{PREFIX}.plan.v1+json"
SHARD_TYPE = f"application/vnd.{PREFIX}.shard.v1+json"
_PENDING = f"{PREFIX}.layer.pending"
_COUNTS_TRIED = 64  # requests where no tags are listed; a matrix of a CI service has up to 256 jobs
PLAN_LIMIT_BYTES = 256 * 1024 * 1024  # a million files
# What cosign and BuildKit attach to a digest (.sig, .att, .sbom).
_ATTACHED = re.compile(r"sha256-[0-9a-f]{64}(?:\.[a-z]+)?")
MODELPACK_TAG = ".modelpack"  # of the manifest for readers of that specification
_SUFFIX = re.compile(r"\.shard-([1-9]\d{0,3})-of-([1-9]\d{0,3})\Z")


@dataclass(frozen=True, order=True)
class Shard:
    """A share of the layers: ``index`` from 1 to ``count``."""

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def tag(self, tag: str) -> str:
        """Return the tag of this shard of the image ``tag``.

        Raises:
            InputError: It is longer than a tag may be.

        >>> Shard(3, 8).tag("codet5")
        'codet5.shard-3-of-8'
        """
        record_tag = f"{tag}.shard-{self.index}-of-{self.count}"
        if len(record_tag) > TAG_LIMIT:
            most = TAG_LIMIT - len(record_tag) + len(tag)
            raise InputError(
                f"want a tag of at most {most} characters, got one of {len(tag)}",
                hint="the tags of what is under way are longer: TAG.shard-I-of-N",
            )
        return check_tag(record_tag)


def parse_shard(text: str) -> Shard:
    """Parse what the user gave: ``3/8``.

    Raises:
        InputError: It is no such thing.

    >>> parse_shard("3/8")
    Shard(index=3, count=8)
    """
    match = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise InputError(f"want a shard like 3/8, got {text!r}")
    return Shard(int(match[1]), int(match[2]))


def is_image_tag(tag: str) -> bool:
    """Whether a tag can name an image of its own.

    >>> [is_image_tag(tag) for tag in ("starcoder", "starcoder.shard-1-of-8", "sha256-" + "0" * 64)]
    [True, False, False]
    """
    is_ours = tag.endswith(MODELPACK_TAG) or _SUFFIX.search(tag)
    return not (is_ours or _ATTACHED.fullmatch(tag))


def shard_of_tag(tag: str, name: str) -> Shard | None:
    """Return which shard of the image ``tag`` the tag ``name`` is, None if it is none.

    >>> shard_of_tag("codet5", "codet5.shard-3-of-8")
    Shard(index=3, count=8)
    """
    match = _SUFFIX.fullmatch(name[len(tag) :]) if name.startswith(tag) else None
    if match is None or int(match[1]) > int(match[2]):
        return None
    return Shard(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Record:
    """Layers that one shard has finished.

    Args:
        shard: The shard.
        plan: Of the image.
        layers: The finished layers, by `Layer.name`.
        pending: Those of them that carry parts of a file whose oid was not verified yet.
    """

    shard: Shard
    plan: Descriptor
    layers: Mapping[str, Descriptor]
    pending: frozenset[str] = frozenset()


def record_manifest(record: Record) -> bytes:
    """Return the manifest of a record."""
    layers = []
    for name, found in sorted(record.layers.items()):
        notes = {f"{PREFIX}.layer.key": name.removesuffix(PACKED)}
        if name in record.pending:
            notes[_PENDING] = "true"
        layers.append(replace(found, annotations=dict(found.annotations) | notes))
    return Manifest(record.plan, tuple(layers), artifact_type=SHARD_TYPE).to_bytes()


def plan_descriptor(plan_json: bytes) -> Descriptor:
    """Return the descriptor of a plan, as a record names it."""
    return describe(plan_json, PLAN_TYPE)


def read_record(store: ReadableStore, tag: str, shard: Shard) -> Record | None:
    """Return what a shard of the image ``tag`` has finished.

    None if it has not begun, or if the image was assembled and has taken the tag.
    """
    raw = store.get_manifest(shard.tag(tag))
    if raw is None:
        return None
    manifest = parse_manifest(raw.data)
    if not isinstance(manifest, Manifest) or manifest.config.media_type != PLAN_TYPE:
        return None
    layers = {name: layer for layer in manifest.layers if (name := layer_name(layer))}
    pending = frozenset(name for name, layer in layers.items() if _PENDING in layer.annotations)
    return Record(shard, manifest.config, layers, pending)


def read_plan(store: ReadableStore, descriptor: Descriptor) -> Plan:
    """Return the plan that a record names.

    Raises:
        ProtocolError, IntegrityError: It is none, or another one.
    """
    data = read_blob(store, descriptor, PLAN_LIMIT_BYTES)
    return Plan.from_json(parse_json_object(data, "plan", PLAN_LIMIT_BYTES))


def list_shards(store: ListableStore, tag: str) -> list[Shard]:
    """Return the shards of the image ``tag`` to read the records of, sorted.

    Of a registry that lists no tags, the first shard of each number of shards is asked for by
    its tag; where it is there, so may be the others of that number.

    Raises:
        RegistryError, ProtocolError: No tags are listed, and no first shard is there.
    """
    refused: HfModelsError | None = None
    try:
        if tags := store.list_tags():
            return shards_among(tags, tag)
    except (RegistryError, ProtocolError) as error:
        refused = error
    firsts = [Shard(1, count) for count in range(1, _COUNTS_TRIED + 1)]
    read = side_by_side({shard: partial(read_record, store, tag, shard) for shard in firsts})
    counts = [shard.count for shard, record in read.items() if record is not None]
    if refused and not counts:
        refused.hint = "name their number, where it lists no tags: assemble --shards N"
        raise refused
    return [Shard(index, count) for count in counts for index in range(1, count + 1)]


def shards_among(names: Iterable[str], tag: str) -> list[Shard]:
    """Return which shards of the image ``tag`` these tags are, sorted."""
    found = (shard_of_tag(tag, name) for name in names)
    return sorted(shard for shard in found if shard is not None)
