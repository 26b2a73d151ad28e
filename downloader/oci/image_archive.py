"""An image as files: an OCI image layout or what ``docker save`` writes, unpacked or in a tar.

Source: OCI image specification 1.1, image-layout.md; moby 28, ``image/tarexport`` for
``manifest.json``.
"""

import errno
import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

from downloader.document import load_json
from downloader.errors import InputError, IntegrityError, ProtocolError, StorageError
from downloader.net.ranges import ByteRange
from downloader.oci.compression import HEAD_BYTES, PlainStream, ReadInto, detect_compression
from downloader.oci.digest import Digest, digest_of, hex_of, parse_digest
from downloader.oci.image import CONFIG_LIMIT_BYTES, NamedManifest, pick_named
from downloader.oci.manifest import (
    CONFIG,
    LAYER,
    MANIFEST_LIMIT_BYTES,
    Descriptor,
    Index,
    Manifest,
    describe,
    parse_json_object,
    parse_manifest,
    to_json_bytes,
)
from downloader.oci.store import BlobReader, RawManifest
from downloader.oci.tar_read import iter_members

# An image in an archive has some thousand members; a tar of anything else may have millions.
_NAMES_LIMIT_BYTES = 64 * 1024**2
_MANIFESTS_LIMIT_BYTES = 64 * 1024**2  # of all images of a layout: some thousand
_ENTRY_BYTES = 300  # of the table below, for each member
_LINKS_LIMIT = 4  # docker save once linked a layer to its twin
_FIRST_LIMIT = 16  # headers before the first name: of extensions, and of the root itself
ROOT_PATH = "root.tar"  # what a blob that is the whole file is called
_PIECE_BYTES = 256 * 1024
# Filesystem Hierarchy Standard 3.0, section 3, and what Docker and modelcars add.
ROOT_NAMES = {
    *(".dockerenv", "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32"),
    *("media", "mnt", "models", "opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp"),
    *("usr", "var"),
}
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"


class FileRange:
    """A `BlobReader` on a range of a file.

    Raises:
        StorageError: It cannot be opened or read.
        IntegrityError: It has become shorter.
    """

    def __init__(self, path: Path, byte_range: ByteRange) -> None:
        self._path = path
        self._left = byte_range.size_bytes
        try:
            self._file = path.open("rb")
            self._file.seek(byte_range.start)
        except OSError as error:
            raise _unreadable(path, error) from error

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes at the end only, then 0."""
        wanted = buffer[: self._left]
        try:
            count = self._file.readinto(wanted)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        self._left -= count
        if count < len(wanted):
            raise IntegrityError(f"{self._path}: want {self._left} more bytes, got none")
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: {error.strerror or type(error).__name__}")


class ImageFiles(Protocol):
    """Files by name, each readable by range."""

    @property
    def name(self) -> str:
        """For messages."""

    def find(self, path: str) -> "tuple[Path, ByteRange] | None":
        """Return where a file lies, None if there is none."""


class DirectoryFiles:
    """The files of a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = str(root)

    def find(self, path: str) -> tuple[Path, ByteRange] | None:
        """Return where a file lies, None if there is none."""
        found = self._root / path
        try:
            return (found, ByteRange(0, found.stat().st_size)) if found.is_file() else None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None  # a document may name what no directory can hold
            raise _unreadable(found, error) from error


class ArchiveFiles:
    """The files of a tar that is not compressed.

    Raises:
        ProtocolError: It is none.
        StorageError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        self._files: dict[str, ByteRange] = {}
        self._links: dict[str, str] = {}
        names_bytes = 0
        with _FileSource(path) as source:
            for member in iter_members(source, self.name):
                names_bytes += _ENTRY_BYTES + sys.getsizeof(member.path)
                names_bytes += sys.getsizeof(member.target)
                if names_bytes > _NAMES_LIMIT_BYTES:
                    raise ProtocolError(f"{path}: too many members for an archive of an image")
                if member.kind == "file":
                    end = member.content_offset + member.size_bytes
                    self._files[member.path] = ByteRange(member.content_offset, end)
                elif member.kind in {"link", "hardlink"}:
                    self._links[member.path] = link_path(member.path, member.target, member.kind)

    def find(self, path: str) -> tuple[Path, ByteRange] | None:
        """Return where a file lies, None if there is none."""
        for _ in range(_LINKS_LIMIT):
            if path in self._files:
                return self._path, self._files[path]
            path = self._links.get(path, "")
        return None


class RootArchive:
    """One file that is a root file system as a tar, compressed or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def find(self, path: str) -> tuple[Path, ByteRange] | None:
        """Return the whole file for `ROOT_PATH`."""
        if path != ROOT_PATH:
            return None
        return self.path, ByteRange(0, self.path.stat().st_size)


def is_root_archive(path: Path) -> bool:
    """Whether a tar, compressed or not, begins like a root file system and not like an image.

    Raises:
        ProtocolError: It is no tar, or damaged.
        StorageError: It cannot be read.
    """
    with _FileSource(path) as file:
        stream = PlainStream(file.readinto, str(path))
        for member in iter_members(stream, str(path), members_limit=_FIRST_LIMIT):
            parts = [part for part in member.path.split("/") if part not in {"", "."}]
            if parts:
                return parts[0] in ROOT_NAMES
    return False


def open_files(path: Path) -> "LocalBlobs":
    """Return the blobs of a directory or an archive.

    Raises:
        ProtocolError: It is neither an image nor a root file system.
        StorageError: It cannot be read.
    """
    if path.is_dir():
        return LocalBlobs(DirectoryFiles(path))
    return LocalBlobs(RootArchive(path) if is_root_archive(path) else ArchiveFiles(path))


def link_path(path: str, target: str, kind: str) -> str:
    """Return the path in the archive that a link of it leads to."""
    parent = path.rpartition("/")[0] if kind == "link" else ""
    return os.path.normpath(f"{parent}/{target}" if parent else target).replace(os.sep, "/")


class _FileSource:
    """A file as a `ByteSource` that seeks."""

    def __init__(self, path: Path) -> None:
        self.offset = 0
        self._path = path
        try:
            self._file = path.open("rb")
            self._size_bytes = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise _unreadable(path, error) from error

    def readinto(self, buffer: memoryview) -> int:
        count = self._file.readinto(buffer)
        self.offset += count
        return count

    def skip(self, size_bytes: int) -> None:
        if self.offset + size_bytes > self._size_bytes:
            raise ProtocolError(
                f"{self._path}: want {self.offset + size_bytes} bytes, got {self._size_bytes}",
                hint="the archive is cut: copy it again",
            )
        self.offset += size_bytes
        self._file.seek(self.offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class LocalBlobs:
    """The registry blobs among an image's files, as `downloader.oci.store.Store` reads them."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._paths: dict[Digest, str] = {}
        self._documents: dict[Digest, bytes] = {}  # that the files imply and do not hold
        self._chosen: dict[str | None, NamedManifest] = {}  # some take reading whole layers

    @property
    def name(self) -> str:
        """For messages."""
        return self._files.name

    def open_blob(self, digest: Digest, byte_range: ByteRange | None = None) -> BlobReader:
        """Open a blob, or exactly ``byte_range`` of it.

        Raises:
            StorageError: It is missing.
        """
        document = self._documents.get(digest)
        if document is not None:
            wanted = byte_range or ByteRange(0, len(document))
            return io.BytesIO(document[wanted.start : wanted.end])
        found = self._find(digest)
        if found is None:
            raise StorageError(f"{self.name}: lacks blob {digest}")
        path, place = found
        wanted = byte_range or ByteRange(0, place.size_bytes)
        end = min(place.start + wanted.end, place.end)
        return FileRange(path, ByteRange(place.start + wanted.start, end))

    def _find(self, digest: Digest) -> tuple[Path, ByteRange] | None:
        return self._files.find(self._path_of(digest))

    def _path_of(self, digest: Digest) -> str:
        """Return where a blob lies: a layout's place, or that of skopeo's ``dir:``."""
        if digest in self._paths:
            return self._paths[digest]
        hexadecimal = hex_of(digest)
        names = (f"blobs/sha256/{hexadecimal}", hexadecimal, f"{hexadecimal}.manifest.json")
        return next((name for name in names if self._files.find(name)), names[0])

    def get(self, digest: Digest) -> bytes | None:
        """Return a small blob whose digest is right, None if it is missing.

        Raises:
            ProtocolError: Its bytes are others.
        """
        found = self._find(digest)
        if found is None:
            return None
        data = self.read(self._path_of(digest))
        if data is None or digest_of(data) != digest:
            raise ProtocolError(f"{self.name}: want {digest}, got other bytes")
        return data

    def get_manifest(self, reference: str) -> RawManifest | None:
        """Return a manifest by its digest, or that of the image with a tag; "" for the only one.

        Raises:
            InputError: Several images, or none, have this tag.
            ProtocolError: It is malformed.
        """
        if ":" in reference:
            data = self.get(parse_digest(reference))
        else:
            data = self._without_missing(self.choose(reference or None).data)
        if data is None:
            return None
        return RawManifest(data, parse_manifest(data).media_type, digest_of(data))

    def _without_missing(self, data: bytes) -> bytes:
        """Return an index without the platforms that ``docker save`` left out."""
        index = parse_manifest(data)
        if isinstance(index, Manifest):
            return data
        there = tuple(item for item in index.manifests if self._find(item.digest))
        return data if there == index.manifests else replace(index, manifests=there).to_bytes()

    def read(self, path: str) -> bytes | None:
        """Return a small file, None if it is missing.

        Raises:
            ProtocolError: It is too large for what it should be.
        """
        found = self._files.find(path)
        if found is None:
            return None
        place, byte_range = found
        if byte_range.size_bytes > CONFIG_LIMIT_BYTES:
            raise ProtocolError(
                f"{self.name}: {path}: want at most {CONFIG_LIMIT_BYTES} bytes,"
                f" got {byte_range.size_bytes} bytes"
            )
        data = bytearray(byte_range.size_bytes)
        with FileRange(place, byte_range) as reader:
            count = reader.readinto(memoryview(data))
        return bytes(data[:count])

    def choose(self, tag: str | None) -> NamedManifest:
        """Return the manifest or index that ``tag`` names, or the only one.

        Raises:
            InputError: These are no image, or several, and ``tag`` names none of them.
            ProtocolError: They are a malformed one.
        """
        if tag not in self._chosen:
            self._chosen[tag] = self._choose(tag)
        return self._chosen[tag]

    def _choose(self, tag: str | None) -> NamedManifest:
        if isinstance(self._files, RootArchive):
            return NamedManifest(self._root(self._files).to_bytes())
        index, saved = self.read("index.json"), self.read("manifest.json")
        if index is not None:
            return pick_named(self._indexed(parse_manifest(index)), tag, self.name)
        if saved is None:
            raise InputError(
                f"{self.name}: want an OCI image layout or what docker save writes,"
                " got neither index.json nor manifest.json"
            )
        if saved.lstrip().startswith(b"{"):  # skopeo's dir: holds one image
            return NamedManifest(saved)
        return self._saved(pick_saved(saved, tag, self.name))

    def manifests(self) -> list[NamedManifest]:
        """Return every manifest or index that the files name at their top.

        Raises:
            InputError, ProtocolError: As `choose`.
        """
        saved = self.read("manifest.json") if self.read("index.json") is None else None
        if saved is not None and not saved.lstrip().startswith(b"{"):
            return [self._saved(entry) for entry in parse_saved(saved)]
        index = self.read("index.json")
        return [self.choose(None)] if index is None else list(self._indexed(parse_manifest(index)))

    def _root(self, files: "RootArchive") -> Manifest:
        """Return a manifest whose only layer is the whole file."""
        size_bytes = files.path.stat().st_size
        with FileRange(files.path, ByteRange(0, size_bytes)) as reader:
            layer = measure_layer(reader.readinto, size_bytes, self.name)
        assert layer.digest  # noqa: S101 - for the type checker
        assert layer.plain_digest  # noqa: S101 - for the type checker
        described = Descriptor(layer.media_type, layer.digest, size_bytes)
        manifest, config = root_image(described, layer.plain_digest)
        self._documents[manifest.config.digest] = config
        self._paths[layer.digest] = ROOT_PATH
        return manifest

    def _indexed(self, index: Manifest | Index) -> Iterator[NamedManifest]:
        if isinstance(index, Manifest):
            raise ProtocolError(f"{self.name}: index.json: want an index, got a manifest")
        found: dict[Digest, bytes | None] = {}
        for descriptor in index.manifests:
            if descriptor.digest not in found:
                found[descriptor.digest] = self.get(descriptor.digest)
                if sum(len(data or b"") for data in found.values()) > _MANIFESTS_LIMIT_BYTES:
                    raise ProtocolError(
                        f"{self.name}: index.json: want manifests of at most"
                        f" {_MANIFESTS_LIMIT_BYTES} bytes together, got more"
                    )
            data = found[descriptor.digest]
            if data is not None:
                yield NamedManifest(data, names_of(descriptor))

    def _saved(self, entry: "SavedImage") -> NamedManifest:
        config = self.read(entry.config)
        if config is None:
            raise ProtocolError(f"{self.name}: lacks {entry.config[:200]!r}")
        layers = []
        for path in entry.layers:
            found = self._files.find(path)
            if found is None:
                raise ProtocolError(f"{self.name}: lacks {path[:200]!r}")
            layers.append(_stored_layer(*found, what=path))
        manifest = saved_manifest(entry, config, layers)
        self._paths[manifest.config.digest] = entry.config
        for layer, path in zip(manifest.layers, entry.layers, strict=True):
            self._paths[layer.digest] = path
        return NamedManifest(manifest.to_bytes(), entry.names)


def names_of(descriptor: Descriptor) -> tuple[str, ...]:
    """Return the names that an entry of ``index.json`` has."""
    names = (descriptor.annotations.get(key) for key in (IMAGE_NAME, REF_NAME))
    return tuple(name for name in names if name)


def root_image(layer: Descriptor, diff_id: Digest) -> tuple[Manifest, bytes]:
    """Return the manifest that nobody wrote of a root file system, and its config.

    Args:
        layer: The only one.
        diff_id: The digest of its tar.
    """
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    config = to_json_bytes({"os": "linux", "architecture": "unknown", "rootfs": rootfs})
    return Manifest(describe(config, CONFIG), (layer,)), config


@dataclass(frozen=True)
class SavedImage:
    """One entry of the ``manifest.json`` of ``docker save``."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


def parse_saved(data: bytes) -> list[SavedImage]:
    """Parse the ``manifest.json`` of ``docker save``.

    Raises:
        ProtocolError: It is none.
    """
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ProtocolError(f"manifest.json: want at most {MANIFEST_LIMIT_BYTES} bytes")
    try:
        document = load_json(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("manifest.json: want JSON") from error
    if not isinstance(document, list):
        raise ProtocolError("manifest.json: want a list")
    return [_parse_saved_entry(entry, f"manifest.json[{i}]") for i, entry in enumerate(document)]


def pick_saved(data: bytes, tag: str | None, name: str) -> SavedImage:
    """Return the image of a ``manifest.json`` that ``tag`` names, or the only one.

    Raises:
        InputError, ProtocolError: As `pick_named` and `parse_saved`.
    """
    entries = parse_saved(data)
    named = [NamedManifest(str(i).encode(), entry.names) for i, entry in enumerate(entries)]
    return entries[int(pick_named(named, tag, name).data)]


def _parse_saved_entry(entry: object, where: str) -> SavedImage:
    found: dict[str, Any] = entry if isinstance(entry, dict) else {}
    config, layers, names = (found.get(key) for key in ("Config", "Layers", "RepoTags"))
    if not isinstance(config, str) or not _are_texts(layers) or not _are_texts(names or []):
        raise ProtocolError(f"{where}: want Config, Layers and RepoTags")
    for path in [config, *(layers or [])]:
        if path.startswith("/") or ".." in path.split("/") or not path.isprintable():
            raise ProtocolError(f"{where}: want a path inside the archive, got {path[:200]!r}")
    return SavedImage(config, tuple(layers or []), tuple(names or []))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@dataclass(frozen=True)
class StoredLayer:
    """A layer as an archive holds it.

    Args:
        size_bytes: As it is stored.
        compression: Of it.
        digest: Of the stored bytes; None where nothing but a diff_id need name it.
        plain_digest: Of the bytes without compression; None like ``digest``.
    """

    size_bytes: int
    compression: str | None = None
    digest: Digest | None = None
    plain_digest: Digest | None = None

    @property
    def media_type(self) -> str:
        """The media type; a reader looks at the first bytes all the same."""
        return f"{LAYER}+{self.compression}" if self.compression else LAYER


def measure_layer(read_into: ReadInto, size_bytes: int, what: str) -> StoredLayer:
    """Read a layer to its end and return what it is, stored and plain.

    Args:
        read_into: Fills a buffer with its next bytes.
        size_bytes: Of it, as it is stored.
        what: It, for messages.

    Raises:
        ProtocolError: It is damaged or expands like a bomb.
    """
    stored, plain = hashlib.sha256(), hashlib.sha256()

    def read(buffer: memoryview) -> int:
        count = read_into(buffer)
        stored.update(buffer[:count])
        return count

    stream = PlainStream(read, what)
    buffer = memoryview(bytearray(_PIECE_BYTES))
    while count := stream.readinto(buffer):
        plain.update(buffer[:count])
    while read(buffer):  # what follows the end of the compressed data
        pass
    names = [Digest(f"sha256:{hashed.hexdigest()}") for hashed in (stored, plain)]
    return StoredLayer(size_bytes, stream.compression, names[0], names[1])


def _stored_layer(path: Path, place: ByteRange, what: str) -> StoredLayer:
    head = memoryview(bytearray(HEAD_BYTES))
    with FileRange(path, place) as reader:
        if detect_compression(bytes(head[: reader.readinto(head)])) is None:
            return StoredLayer(place.size_bytes)
    # Its config knows only the digest of the plain bytes, so both are computed.
    with FileRange(path, place) as reader:
        return measure_layer(reader.readinto, place.size_bytes, what)


def saved_manifest(entry: SavedImage, config: bytes, stored: Sequence[StoredLayer]) -> Manifest:
    """Return the manifest that ``docker save`` does not write.

    A plain layer is named by its diff_id, a compressed one by the digest of its file, which
    holds the bytes of that diff_id.

    Args:
        entry: The image.
        config: The image config.
        stored: Its layers, bottom first.

    Raises:
        ProtocolError: The config names other layers.
        IntegrityError: A compressed layer holds other bytes than its diff_id names.
    """
    document = parse_json_object(config, "config", CONFIG_LIMIT_BYTES)
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(entry.layers):
        raise ProtocolError(f"config.rootfs.diff_ids: want {len(entry.layers)} layers")
    layers = []
    for i, (text, layer) in enumerate(zip(diff_ids, stored, strict=True)):
        diff_id = parse_digest(text, f"config.rootfs.diff_ids[{i}]")
        if layer.plain_digest not in {None, diff_id}:
            raise IntegrityError(f"{entry.layers[i]}: want {diff_id}, got {layer.plain_digest}")
        layers.append(Descriptor(layer.media_type, layer.digest or diff_id, layer.size_bytes))
    return Manifest(describe(config, CONFIG), tuple(layers))
