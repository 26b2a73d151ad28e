"""An image as files: an OCI image layout or what ``docker save`` writes, unpacked or in a tar.

Source: OCI image specification 1.1, image-layout.md; moby 28, ``image/tarexport`` for
``manifest.json``.
"""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from downloader.errors import InputError, ProtocolError, StorageError
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest, digest_of, hex_of, parse_digest
from downloader.oci.manifest import (
    CONFIG,
    LAYER,
    MANIFEST_LIMIT_BYTES,
    Descriptor,
    Index,
    Manifest,
    parse_json_object,
    parse_manifest,
)
from downloader.oci.store import BlobReader
from downloader.oci.tar_read import iter_members

CONFIG_LIMIT_BYTES = 16 * 1024**2  # a history of many thousand lines
_LINKS_LIMIT = 4  # docker save once linked a layer to its twin
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"


class FileRange:
    """A `BlobReader` on a range of a file.

    Raises:
        StorageError: It cannot be opened or read.
    """

    def __init__(self, path: Path, byte_range: ByteRange) -> None:
        self._path = path
        self._left = byte_range.size_bytes
        try:
            self._file = path.open("rb", buffering=0)
            self._file.seek(byte_range.start)
        except OSError as error:
            raise _unreadable(path, error) from error

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes at the end only, then 0."""
        filled = 0
        want = min(len(buffer), self._left)
        while filled < want:
            try:
                count = self._file.readinto(buffer[filled:want])
            except OSError as error:
                raise _unreadable(self._path, error) from error
            if not count:
                break
            filled += count
        self._left -= filled
        return filled

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
        with _FileSource(path) as source:
            for member in iter_members(source, self.name):
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


@dataclass(frozen=True)
class NamedManifest:
    """A manifest or index that an image's files name, and the names that it has there."""

    data: bytes
    names: tuple[str, ...] = ()


class LocalBlobs:
    """The registry blobs among an image's files, as `downloader.oci.store.Store` reads them."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._paths: dict[Digest, str] = {}

    @property
    def name(self) -> str:
        """For messages."""
        return self._files.name

    def open_blob(self, digest: Digest, byte_range: ByteRange | None = None) -> BlobReader:
        """Open a blob, or exactly ``byte_range`` of it.

        Raises:
            StorageError: It is missing.
        """
        found = self._find(digest)
        if found is None:
            raise StorageError(f"{self.name}: lacks blob {digest}")
        path, place = found
        wanted = byte_range or ByteRange(0, place.size_bytes)
        end = min(place.start + wanted.end, place.end)
        return FileRange(path, ByteRange(place.start + wanted.start, end))

    def _find(self, digest: Digest) -> tuple[Path, ByteRange] | None:
        path = self._paths.get(digest, f"blobs/sha256/{hex_of(digest)}")
        return self._files.find(path)

    def get(self, digest: Digest) -> bytes | None:
        """Return a small blob whose digest is right, None if it is missing.

        Raises:
            ProtocolError: Its bytes are others.
        """
        found = self._find(digest)
        if found is None:
            return None
        data = self.read(self._paths.get(digest, f"blobs/sha256/{hex_of(digest)}"))
        if data is None or digest_of(data) != digest:
            raise ProtocolError(f"{self.name}: want {digest}, got other bytes")
        return data

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

    def manifests(self) -> list[NamedManifest]:
        """Return every manifest or index that the files name at their top.

        Raises:
            InputError: These are no image.
            ProtocolError: They are a malformed one.
        """
        index = self.read("index.json")
        if index is not None:
            return list(self._indexed(parse_manifest(index)))
        saved = self.read("manifest.json")
        if saved is None:
            raise InputError(
                f"{self.name}: want an OCI image layout or what docker save writes,"
                " got neither index.json nor manifest.json"
            )
        entries = parse_saved(saved)
        return [self._saved(entry) for entry in entries]

    def _indexed(self, index: Manifest | Index) -> Iterator[NamedManifest]:
        if isinstance(index, Manifest):
            raise ProtocolError(f"{self.name}: index.json: want an index, got a manifest")
        for descriptor in index.manifests:
            data = self.get(descriptor.digest)
            names = (descriptor.annotations.get(key) for key in (IMAGE_NAME, REF_NAME))
            if data is not None:
                yield NamedManifest(data, tuple(name for name in names if name))

    def _saved(self, entry: "SavedImage") -> NamedManifest:
        config = self.read(entry.config)
        if config is None:
            raise ProtocolError(f"{self.name}: lacks {entry.config[:200]!r}")
        sizes = []
        for path in entry.layers:
            found = self._files.find(path)
            if found is None:
                raise ProtocolError(f"{self.name}: lacks {path[:200]!r}")
            sizes.append(found[1].size_bytes)
        manifest = saved_manifest(entry, config, sizes)
        self._paths[manifest.config.digest] = entry.config
        for layer, path in zip(manifest.layers, entry.layers, strict=True):
            self._paths[layer.digest] = path
        return NamedManifest(manifest.to_bytes(), entry.names)


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
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("manifest.json: want JSON") from error
    if not isinstance(document, list):
        raise ProtocolError("manifest.json: want a list")
    return [_parse_saved_entry(entry, f"manifest.json[{i}]") for i, entry in enumerate(document)]


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


def saved_manifest(entry: SavedImage, config: bytes, sizes: list[int]) -> Manifest:
    """Return the manifest that ``docker save`` does not write; its layers by their diff_ids.

    Args:
        entry: The image.
        config: The image config.
        sizes: Of the layers, in bytes.

    Raises:
        ProtocolError: The config names other layers.
    """
    document = parse_json_object(config, "config", CONFIG_LIMIT_BYTES)
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(entry.layers):
        raise ProtocolError(f"config.rootfs.diff_ids: want {len(entry.layers)} layers")
    layers = tuple(
        Descriptor(LAYER, parse_digest(diff_id, f"config.rootfs.diff_ids[{i}]"), size_bytes)
        for i, (diff_id, size_bytes) in enumerate(zip(diff_ids, sizes, strict=True))
    )
    return Manifest(Descriptor(CONFIG, digest_of(config), len(config)), layers)
