"""Snapshot and limits to layers, parts and shards. Pure: same input, same plan, everywhere.

Four kinds of layers, bottom first:

- **file**: one large file, or one part of a file that is larger than a layer may be;
- **shared**: small files together; the model card apart, because it changes most often;
- **programs**: the export script, the receiver and README, the same in all images of a version;
- **metadata**: refs, snapshot links, trees and the plan. Always last, and tiny.

Every layer but these two is a pure function of what lies in it, so an unchanged file keeps
its layer, and its digest, from revision to revision.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from downloader.document import Document
from downloader.errors import INSTALL_FROM, InputError, ProtocolError
from downloader.hub.cache import blob_path, part_path
from downloader.hub.repo import Snapshot
from downloader.net.ranges import ByteRange
from downloader.oci.tar_write import TarEntry, TarLayout, lay_out
from downloader.units import MIB, format_bytes, parse_size

DEFAULT_CACHE_ROOT = "/root/.cache/huggingface"

# Of docs/image-format.md. Images of format 1 have no models directory.
FORMAT_VERSION = 2
NO_MODELS_DIR = "none"
Compress = Literal["none", "auto", "zstd", "both"]
COMPRESS: tuple[Compress, ...] = get_args(Compress)
COMPRESS_BELOW = 0.9  # of its size: a layer that shrinks less is stored as it is
PACKED = "+zstd"
PROGRAMS_DIR = "/usr/local/bin"  # of `export`: in PATH, and no base keeps its own programs there

# From here a file has a layer of its own: a layer costs a round trip or two, which at
# 64 MiB is already less than a tenth of moving the bytes at 100 MB/s.
LARGE_FILE_BYTES = 64 * MIB
# Small files share layers of about this size, so that one changed file moves little, and that
# many of them fill a line: `publish` sends layers side by side, and a layer by one connection
# (64 files of 16 MiB at 20 MB/s a connection: 75 s in one layer, 12 s in eight).
SHARED_LAYER_BYTES = 128 * MIB
# A plan has fewer layers than this: engines stop at 125 to 127, and the base image, the
# layers of `OWN_LAYER_TITLES` and a signature need some of them.
MAX_LAYERS = 100
# Above those of a plan, in every image: the programs, and the metadata.
OWN_LAYER_TITLES = ("export script, receiver, README", "refs, links, plan")
OWN_LAYERS = len(OWN_LAYER_TITLES)
# Headers, long names and parent directories of a layer that carries a single content.
TAR_OVERHEAD_BYTES = 64 * 1024
# Below this a layer is not worth its round trips whatever the registry allows.
SMALLEST_LIMIT_BYTES = 1 * MIB
PART_ALIGNMENT_BYTES = 1 * MIB  # programs that copy parts then move whole buffers

# Measured on the containerd image store: the builder's layers, the image's blobs, and the
# image's unpacked layers are there at once; the base images and the builder's Python beside.
BUILD_DISK_FACTOR = 3
BUILD_DISK_EXTRA_BYTES = 500_000_000

LAYER_PROFILES: Mapping[str, int] = {
    # Docker Hub refuses blobs above about 10 GB; GHCR documents 10 GB.
    "default": 9_500_000_000,
    # Public mirrors serve 1 GiB per address and window; a layer has to fit into one.
    "mirror": 1_000_000_000,
}
MODEL_CARD = "README.md"


@dataclass(frozen=True)
class Content:
    """A cache blob, or a part of one, as a member of a layer.

    Args:
        oid: The cache blob.
        blob_bytes: The size of the whole cache blob.
        byte_range: Its bytes in the blob; all of them unless it is split.
        part: From 1; 0 where the blob is whole.
        parts: Number of the blob's parts; 0 where it is whole.
        paths: Further paths of the file in the image, without leading slash, sorted
            as in a tar: in the models directory, once for each path of the repo.
    """

    oid: str
    blob_bytes: int
    byte_range: ByteRange
    part: int = 0
    parts: int = 0
    paths: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of this member."""
        return self.byte_range.size_bytes

    @property
    def path(self) -> str:
        """Path in the repo folder.

        >>> Content("ab", 7, ByteRange(0, 4), part=1, parts=2).path
        'blobs/ab.part-00001-of-00002'
        """
        if self.parts:
            return part_path(self.oid, self.part, self.parts)
        return blob_path(self.oid)


@dataclass(frozen=True)
class Sample:
    """The result of compressing some bytes of a layer: bytes before and after."""

    plain_bytes: int
    packed_bytes: int

    @property
    def is_worth_it(self) -> bool:
        """Whether enough goes away to pay for the time of both sides."""
        return self.packed_bytes <= COMPRESS_BELOW * self.plain_bytes


@dataclass(frozen=True)
class Layer:
    """One layer of cache blobs.

    Args:
        folder: The repo folder in the image, without leading slash.
        contents: Its contents, in the order of the tar.
        is_packed: Whether its tar is compressed with zstd.
        sample: Result of a compressed sample; None where none was taken.
    """

    folder: str
    contents: tuple[Content, ...]
    is_packed: bool = False
    sample: Sample | None = None

    @cached_property
    def tar(self) -> TarLayout:
        """Every header and offset of the layer's tar; files in the order of `contents`.

        The models directory has the files and the cache hard links to them, in this order: a
        reader that extracts one directory while the tar passes by cannot go back to a file.
        For the same reason a content with several paths is a file at the first of them and
        relative symbolic links at the others: a reader that strips the directory's name off
        the paths would not find the target of a hard link.
        """
        shown = [entry for content in self.contents for entry in self.entries(content)[:-1]]
        cached = [self.entries(content)[-1] for content in self.contents]
        return lay_out(shown, cached)

    def entries(self, content: Content) -> list[TarEntry]:
        """Return the tar members of one content: the file first, the cache's own last."""
        path = f"{self.folder}/{content.path}"
        if not content.paths:
            return [TarEntry(path, size_bytes=content.size_bytes)]
        first, *others = content.paths
        return [
            TarEntry(first, size_bytes=content.size_bytes),
            *(TarEntry(other, "link", target=_relative(first, other)) for other in others),
            TarEntry(path, "hardlink", target=first),
        ]

    @property
    def placed(self) -> list[tuple[Content, int]]:
        """Each content, and the offset of its first byte in the tar."""
        files = [item for item in self.tar.entries if item.entry.kind == "file"]
        return [
            (content, item.content_offset)
            for content, item in zip(self.contents, files, strict=True)
        ]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tar."""
        return self.tar.size_bytes

    @cached_property
    def key(self) -> str:
        """64 hex digits that name the layer before its bytes, and so its digest, are known."""
        members = [[content.path, content.size_bytes, *content.paths] for content in self.contents]
        return hashlib.sha256(json.dumps([self.folder, members]).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Its key, and whether it is compressed: what a store is asked for."""
        return self.key + PACKED if self.is_packed else self.key

    @property
    def wire_bytes(self) -> int:
        """Bytes of the registry blob; where it is compressed, as the sample promises."""
        if not self.is_packed or self.sample is None:
            return self.size_bytes
        return self.size_bytes * self.sample.packed_bytes // max(1, self.sample.plain_bytes)


@dataclass(frozen=True)
class Plan:
    """The assignment of files to layers.

    Args:
        snapshot: The snapshot to build.
        layers: Bottom first, without the metadata layer.
        layer_limit_bytes: No layer is larger.
        cache_root: Absolute path of ``HF_HOME`` in the image.
        models_dir: Absolute path of the directory that shows the files under their names;
            None for none, as in images of format 1.
        compress: The requested mode; `layers` have the result.
        has_receiver: Whether the image carries `hf-models.pyz`.
    """

    snapshot: Snapshot
    layers: tuple[Layer, ...]
    layer_limit_bytes: int
    cache_root: str = DEFAULT_CACHE_ROOT
    models_dir: str | None = None
    compress: Compress = "none"
    has_receiver: bool = False

    @property
    def stored(self) -> tuple[Layer, ...]:
        """The layers that a store gets: with ``both``, compressed ones in both forms."""
        if self.compress != "both":
            return self.layers
        plain = (replace(layer, is_packed=False) for layer in self.layers)
        return (*plain, *(layer for layer in self.layers if layer.is_packed))

    @property
    def wire_bytes(self) -> int:
        """Bytes of all registry blobs of layers, as samples promise; without the metadata."""
        return sum(layer.wire_bytes for layer in self.stored)

    @property
    def folder(self) -> str:
        """The repo folder in the image, without leading slash."""
        return repo_folder(self.cache_root, self.snapshot)

    @property
    def size_bytes(self) -> int:
        """Bytes of all layers' tars, without the metadata layer."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def parts(self) -> dict[str, tuple[Content, ...]]:
        """The parts of every split blob, by oid, in order."""
        found: dict[str, list[Content]] = {}
        for layer in self.layers:
            for content in layer.contents:
                if content.parts:
                    found.setdefault(content.oid, []).append(content)
        return {oid: tuple(sorted(parts, key=lambda c: c.part)) for oid, parts in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `Plan.from_json` reads it."""
        return {
            "format_version": FORMAT_VERSION,
            "cache_root": self.cache_root,
            "models_dir": self.models_dir,
            "compress": self.compress,
            "receiver": self.has_receiver,
            "layer_limit": self.layer_limit_bytes,
            "snapshot": self.snapshot.to_json(),
            "layers": [_layer_json(layer) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Plan":
        """Parse a plan; untrusted, because it may come from an image.

        Raises:
            ProtocolError: A key is missing or has a value that cannot be, or a layer carries
                what no file needs.
        """
        plan = Document(document, "plan")
        if plan.integer("format_version", 1) > FORMAT_VERSION:
            raise ProtocolError(
                plan.failure("format_version", f"1 to {FORMAT_VERSION}").message,
                hint=f"a newer hf-models made it: pip install --upgrade {INSTALL_FROM}",
            )
        snapshot = Snapshot.from_json(plan.get("snapshot"), "plan.snapshot")
        root, limit_bytes = plan.text("cache_root"), plan.integer("layer_limit", 1)
        folder = repo_folder(_parse_directory(root, "cache root", ProtocolError), snapshot)
        models_dir = None
        if plan.get("models_dir"):
            models_dir = _parse_models_dir(plan.text("models_dir"), root, ProtocolError)
        contents = _contents(snapshot, models_dir)
        layers = tuple(_parse_layer(layer, folder, contents) for layer in plan.objects("layers"))
        if len(layers) >= MAX_LAYERS:
            raise ProtocolError(f"plan.layers: want fewer than {MAX_LAYERS}, got {len(layers)}")
        _check_complete(layers, contents)
        compress = plan.text("compress") if "compress" in plan else "none"
        if compress not in COMPRESS:
            raise plan.failure("compress", f"one of {', '.join(COMPRESS)}")
        has_receiver = plan.get("receiver") is True
        return cls(snapshot, layers, limit_bytes, root, models_dir, compress, has_receiver)


def make_plan(
    snapshot: Snapshot,
    *,
    layer_limit_bytes: int = LAYER_PROFILES["default"],
    cache_root: str = DEFAULT_CACHE_ROOT,
    models_dir: str | None = None,
    has_receiver: bool = True,
) -> Plan:
    """Return the plan of a snapshot.

    Args:
        snapshot: The snapshot of the image.
        layer_limit_bytes: No layer is larger.
        cache_root: Absolute path of ``HF_HOME`` in the image.
        models_dir: Absolute path of the directory that shows the files under their names;
            None for `default_models_dir`, ``none`` for no such directory.
        has_receiver: Whether the image carries `hf-models.pyz`.

    Raises:
        InputError: The limit is too small for this many bytes in `MAX_LAYERS` layers, or a
            directory is no absolute path, or both are the same.
    """
    folder = repo_folder(_parse_directory(cache_root, "cache root", InputError), snapshot)
    shown = None
    if models_dir != NO_MODELS_DIR:
        wanted = models_dir or default_models_dir(snapshot)
        shown = _parse_models_dir(wanted, cache_root, InputError)
    contents = _contents(snapshot, shown)
    groups = _group(snapshot, contents, layer_limit_bytes - TAR_OVERHEAD_BYTES)
    layers = tuple(Layer(folder, _sorted(group)) for group in groups)
    return Plan(snapshot, layers, layer_limit_bytes, cache_root, shown, has_receiver=has_receiver)


def split_shards(layers: Sequence[Layer], count: int) -> list[list[Layer]]:
    """Share layers among ``count`` jobs, balanced by bytes; some may be empty.

    Largest first into the emptiest: at most a third above the best possible share (Graham 1969).
    The parts of one file stay in one job, because only a reader of all parts can verify the file.
    """
    if count < 1:
        raise InputError(f"want at least 1 shard, got {count}")
    shards: list[list[Layer]] = [[] for _ in range(count)]
    loads = [0] * count
    sizes = [(sum(layer.size_bytes for layer in unit), unit) for unit in group_by_file(layers)]
    for size_bytes, unit in sorted(sizes, key=lambda item: (-item[0], item[1][0].name)):
        lightest = loads.index(min(loads))
        shards[lightest] += unit
        loads[lightest] += size_bytes
    return shards


def group_by_file(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Group layers that carry parts of the same file, each group in the order of the parts.

    Raises:
        InputError: Two layers each carry a part that has to come before one of the other.
    """
    group_of: dict[tuple[str, bool], list[Layer]] = {}
    groups: list[list[Layer]] = []
    for layer in layers:
        group = [layer]
        # The compressed form of a layer is a reading of its own.
        split = {(content.oid, layer.is_packed) for content in layer.contents if content.parts}
        for file in split:
            known = group_of.get(file, group)
            if known is not group:
                known += group
                groups = [item for item in groups if item is not group]
                group_of |= {key: known for key, item in group_of.items() if item is group}
                group = known
            group_of[file] = group
        if not any(item is group for item in groups):
            groups.append(group)
    return [_in_order_of_parts(group) for group in groups]


def _in_order_of_parts(group: Sequence[Layer]) -> tuple[Layer, ...]:
    """Sort so that every file's first part comes first."""
    left, ordered = list(group), list[Layer]()
    done: set[tuple[str, int]] = set()
    while left:
        ready = [layer for layer in left if _parts_before(layer) <= done]
        if not ready:
            raise InputError(
                "no order of the parts of files fits every layer",
                hint="choose another --layer-size",
            )
        ordered.append(ready[0])
        left.remove(ready[0])
        done |= {(content.oid, content.part) for content in ready[0].contents}
    return tuple(ordered)


def _parts_before(layer: Layer) -> set[tuple[str, int]]:
    split = [content for content in layer.contents if content.parts]
    own = {(content.oid, content.part) for content in split}
    return {(content.oid, part) for content in split for part in range(1, content.part)} - own


def layer_title(layer: Layer, plan: Plan) -> str:
    """Return what a layer carries, for people."""
    first = layer.contents[0]
    path = next(file.path for file in plan.snapshot.files if file.oid == first.oid)
    packed = " (zstd)" if layer.is_packed else ""
    if len(layer.contents) > 1:
        return f"{path} and {len(layer.contents) - 1} more{packed}"
    part = f" part {first.part} of {first.parts}" if first.parts else ""
    return path + part + packed


def disk_needed_bytes(plan: Plan) -> int:
    """Return the free disk that `build` needs where the engine keeps its data, in bytes."""
    return BUILD_DISK_FACTOR * plan.size_bytes + BUILD_DISK_EXTRA_BYTES


def parse_compress(text: object) -> Compress:
    """Return what to compress.

    Raises:
        InputError: It is none of `COMPRESS`.
    """
    for known in COMPRESS:
        if text == known:
            return known
    raise InputError(f"compress: want one of {', '.join(COMPRESS)}, got {text!r}")


def parse_layer_limit(text: str) -> int:
    """Return bytes for a profile's name or a size.

    Raises:
        InputError: It is neither, or too small.

    >>> parse_layer_limit("mirror"), parse_layer_limit("2GB"), parse_layer_limit("512MiB")
    (1000000000, 2000000000, 536870912)
    """
    if text in LAYER_PROFILES:
        return LAYER_PROFILES[text]
    size_bytes = parse_size(text, f"a size like 2GB or one of {', '.join(LAYER_PROFILES)}")
    if size_bytes < SMALLEST_LIMIT_BYTES:
        least = SMALLEST_LIMIT_BYTES // MIB
        raise InputError(f"want a layer size of at least {least}MiB, got {text!r}")
    return size_bytes


def repo_folder(cache_root: str, snapshot: Snapshot) -> str:
    """Return the repo folder in the image, without leading slash."""
    return f"{cache_root.strip('/')}/hub/{snapshot.repo.folder_name}"


def default_models_dir(snapshot: Snapshot) -> str:
    """Return ``/models``, ``/datasets`` or ``/spaces``, after the type of the repo.

    KServe mounts ``/models``; nothing mounts the others by name, so they say what they are.
    """
    return f"/{snapshot.repo.type}s"


def _parse_directory(path: object, what: str, error: type[InputError | ProtocolError]) -> str:
    text = str(path)
    segments = text.strip("/").split("/")
    plain = text.isprintable() and not set(text) & set("\\\"'$ ")
    if not text.startswith("/") or not plain or set(segments) & {"", ".", ".."}:
        raise error(f"want an absolute path as {what}, without spaces, got {text!r}")
    return text


def _parse_models_dir(
    path: object, cache_root: str, error: type[InputError | ProtocolError]
) -> str:
    """Return the models directory, which lies apart from the cache and from programs."""
    text = _parse_directory(path, "models directory", error).rstrip("/")
    for taken in (f"{cache_root.rstrip('/')}/hub", PROGRAMS_DIR):
        if f"{text}/".startswith(f"{taken}/") or f"{taken}/".startswith(f"{text}/"):
            raise error(f"want a models directory apart from {taken}, got {text!r}")
    return text


def _sorted(contents: Iterable[Content]) -> tuple[Content, ...]:
    """Return contents in the order of the tar: the models directory, then the cache."""
    return tuple(
        sorted(
            contents,
            key=lambda content: (not content.paths, (*content.paths, content.path)[0].split("/")),
        )
    )


def _contents(snapshot: Snapshot, models_dir: str | None) -> dict[str, Content]:
    """Return each whole content by oid, in the order of the snapshot's files."""
    paths: dict[str, list[str]] = {}
    for file in snapshot.files:
        shown = paths.setdefault(file.oid, [])
        if models_dir is not None:
            shown.append(f"{models_dir.strip('/')}/{file.path}")
    sizes = snapshot.blobs
    return {
        oid: Content(
            oid,
            sizes[oid],
            ByteRange(0, sizes[oid]),
            paths=tuple(sorted(shown, key=lambda path: path.split("/"))),
        )
        for oid, shown in paths.items()
    }


def _group(
    snapshot: Snapshot, contents: Mapping[str, Content], limit_bytes: int
) -> list[list[Content]]:
    # The first path of a content decides where it goes.
    sizes = {oid: content.size_bytes for oid, content in contents.items()}
    cards = {file.oid for file in snapshot.files if file.path == MODEL_CARD}
    large = {oid: size for oid, size in sizes.items() if size >= min(LARGE_FILE_BYTES, limit_bytes)}
    small = {oid: size for oid, size in sizes.items() if oid not in large}
    card = [[contents[oid]] for oid in small if oid in cards]
    rest = [contents[oid] for oid in small if oid not in cards]
    own = [[content] for oid in large for content in _split(contents[oid], limit_bytes)]
    room = MAX_LAYERS - 1 - len(card)
    fewest_shared = len(_fill(rest, limit_bytes))
    own = _pack_if_needed(own, room - fewest_shared, limit_bytes)
    shared = _fill(rest, _shared_target(rest, room - len(own), limit_bytes))
    groups = own + shared + card
    if len(groups) > MAX_LAYERS - 1:
        raise _too_large(sum(sizes.values()), limit_bytes)
    return groups


def _split(content: Content, limit_bytes: int) -> list[Content]:
    oid, size_bytes = content.oid, content.size_bytes
    if size_bytes <= limit_bytes - _names_bytes(content):
        return [content]
    count = -(-size_bytes // limit_bytes)
    even = -(-size_bytes // count)
    piece = min(even + -even % PART_ALIGNMENT_BYTES, limit_bytes)
    ranges = list(ByteRange(0, size_bytes).split(piece))
    return [
        Content(oid, size_bytes, byte_range, part, len(ranges))
        for part, byte_range in enumerate(ranges, start=1)
    ]


def _pack_if_needed(
    groups: list[list[Content]], room: int, limit_bytes: int
) -> list[list[Content]]:
    """Put large files together, the smallest first, until there are at most ``room`` layers."""
    if len(groups) <= room:
        return groups
    bins: list[list[Content]] = []
    free: list[int] = []
    for group in sorted(groups, key=lambda g: (-g[0].size_bytes, g[0].path)):
        need = group[0].size_bytes + _member_overhead(group[0])
        # Spread over all the room there is before any two share; then the emptiest that fits.
        at = max(range(len(free)), key=free.__getitem__) if len(bins) >= room and free else -1
        if at < 0:
            bins.append(list(group))
            free.append(limit_bytes - need)
        elif free[at] >= need:
            bins[at] += group
            free[at] -= need
        else:
            raise _too_large(sum(g[0].size_bytes for g in groups), limit_bytes)
    return bins


def _member_overhead(content: Content) -> int:
    return 512 + _names_bytes(content) + -content.size_bytes % 512


def _names_bytes(content: Content) -> int:
    """Return at most how much the models directory adds to a tar for one content, in bytes."""
    names = sum(512 * (2 + path.count("/")) for path in content.paths)
    # A path, or the target of a link, of more than 100 bytes takes more blocks.
    targets = [f"{'../' * path.count('/')}{content.paths[0]}" for path in content.paths]
    lengths = [len(text.encode("utf-8", "surrogateescape")) for text in (*content.paths, *targets)]
    return names + sum(1024 + length for length in lengths if length > 100)


def _relative(path: str, link: str) -> str:
    """Return what a symbolic link at ``link`` holds to lead to ``path``.

    >>> _relative("models/a/vocab.txt", "models/b/vocab.txt")
    '../a/vocab.txt'
    """
    return posixpath.relpath(path, posixpath.dirname(link))


def _shared_target(contents: Sequence[Content], room: int, limit_bytes: int) -> int:
    total = sum(content.size_bytes + _member_overhead(content) for content in contents)
    # Filling in order wastes at most one large file per layer; hence the margin.
    even = total // max(1, room) + LARGE_FILE_BYTES
    return min(limit_bytes, max(SHARED_LAYER_BYTES, even))


def _fill(contents: Sequence[Content], target_bytes: int) -> list[list[Content]]:
    groups: list[list[Content]] = []
    filled = target_bytes
    for content in contents:
        need = content.size_bytes + _member_overhead(content)
        if filled + need > target_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(content)
        filled += need
    return groups


def _too_large(size_bytes: int, limit_bytes: int) -> InputError:
    return InputError(
        f"want fewer than {MAX_LAYERS} layers of {format_bytes(limit_bytes)},"
        f" got {format_bytes(size_bytes)} of files",
        hint="raise --layer-size, or build several images with --include",
    )


def _layer_json(layer: Layer) -> dict[str, Any]:
    document: dict[str, Any] = {"contents": [_content_json(item) for item in layer.contents]}
    if layer.sample:
        document["sample"] = [layer.sample.plain_bytes, layer.sample.packed_bytes]
    return document | ({"compression": "zstd"} if layer.is_packed else {})


def _content_json(content: Content) -> dict[str, Any]:
    plain: dict[str, Any] = {"oid": content.oid}
    if content.parts:
        plain |= {"part": content.part, "parts": content.parts}
        plain |= {"start": content.byte_range.start, "end": content.byte_range.end}
    return plain


def _parse_layer(layer: Document, folder: str, contents: Mapping[str, Content]) -> Layer:
    found = _sorted(_parse_content(item, contents) for item in layer.objects("contents"))
    is_packed = "compression" in layer
    if is_packed and layer.text("compression") != "zstd":
        raise layer.failure("compression", "zstd")
    if "sample" not in layer:
        return Layer(folder, found, is_packed)
    sample = layer.get("sample")
    if not isinstance(sample, list) or [type(size) for size in sample] != [int, int]:
        raise layer.failure("sample", "two sizes in bytes")
    return Layer(folder, found, is_packed, Sample(*sample))


def _parse_content(item: Document, contents: Mapping[str, Content]) -> Content:
    whole = contents.get(item.text("oid"))
    if whole is None:
        raise item.failure("oid", "the oid of a file of the snapshot")
    if "part" not in item:
        return whole
    start, end = item.integer("start"), item.integer("end", 1)
    part, parts = item.integer("part", 1), item.integer("parts", 1)
    if part > parts or not start < end <= whole.blob_bytes:
        raise ProtocolError(
            f"{item.where}: want a part inside {whole.blob_bytes} bytes,"
            f" got part {part} of {parts}, bytes {start} to {end}"
        )
    return replace(whole, byte_range=ByteRange(start, end), part=part, parts=parts, paths=())


def _check_complete(layers: Iterable[Layer], contents: Mapping[str, Content]) -> None:
    """Raise unless every byte of every content lies in exactly one layer."""
    found: dict[str, list[Content]] = {}
    for layer in layers:
        for content in layer.contents:
            found.setdefault(content.oid, []).append(content)
    for oid, whole in contents.items():
        parts = sorted(found.get(oid, []), key=lambda content: content.part)
        numbers = [(content.part, content.parts) for content in parts]
        edges = [0, *(content.byte_range.end for content in parts)]
        starts = [content.byte_range.start for content in parts]
        is_split = numbers == [(i, len(parts)) for i in range(1, len(parts) + 1)]
        is_once = bool(parts) and (is_split or numbers == [(0, 0)])
        if not is_once or [*starts, whole.blob_bytes] != edges:
            raise ProtocolError(f"plan.layers: want each byte of the content {oid} in one layer")
