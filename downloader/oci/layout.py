"""An OCI image layout directory as a `Store`.

Source: OCI image specification 1.1, image-layout.md.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from downloader.document import load_object
from downloader.errors import IntegrityError, ProtocolError, StorageError
from downloader.fs import NewFile, hold_lock, make_directory, storage_errors, write_atomically
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest, digest_of, hex_of, parse_digest
from downloader.oci.image_archive import REF_NAME, FileRange
from downloader.oci.manifest import INDEX, MANIFEST, MANIFEST_LIMIT_BYTES
from downloader.oci.store import BlobReader, BlobWriter, RawManifest, ReadableStore, SavedUpload

MARKER = b'{"imageLayoutVersion":"1.0.0"}'

Index = dict[str, Any]


class Layout:
    """Blobs and manifests in a directory, by the OCI image-layout specification 1.1.

    The directory is made with the first write; tags are the annotations
    ``org.opencontainers.image.ref.name`` of ``index.json``.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        """For messages: ``dist/codet5-small``."""
        return str(self.root)

    def path_of(self, digest: Digest) -> Path:
        """Return where a blob lies, or would."""
        return self._blobs / hex_of(digest)

    @property
    def _blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    def blob_size(self, digest: Digest) -> int | None:
        """Return the blob's size in bytes, None if it is not there."""
        with storage_errors(self.path_of(digest)):
            try:
                return self.path_of(digest).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open_blob(self, digest: Digest, byte_range: ByteRange | None = None) -> BlobReader:
        """Open a blob, or exactly ``byte_range`` of it."""
        path = self.path_of(digest)
        size_bytes = self.blob_size(digest)
        want = byte_range or ByteRange(0, size_bytes or 0)
        if size_bytes is None:
            raise StorageError(f"{self.name}: the blob {digest} is missing")
        if want.end > size_bytes:
            raise ProtocolError(
                f"{path}: want bytes {want.start} to {want.end}, got a blob of {size_bytes} bytes"
            )
        return FileRange(path, want)

    def create_blob(
        self,
        size_bytes: int | None,
        saved: SavedUpload | None = None,  # noqa: ARG002
    ) -> BlobWriter:
        """Begin a blob under a temporary name; no process goes on with that of another."""
        self._prepare()
        return _BlobWriter(self.root, self._blobs, size_bytes)

    def is_beside(self, source: ReadableStore) -> bool:
        """Whether ``source`` is a directory, too; it may lie on another disk."""
        return isinstance(source, Layout)

    def mount_blob(self, digest: Digest, source: ReadableStore) -> bool:
        """Link a blob of another layout on the same file system."""
        if not isinstance(source, Layout) or source.blob_size(digest) is None:
            return False
        self._prepare()
        try:
            os.link(source.path_of(digest).resolve(), self.path_of(digest))
        except FileExistsError:
            return True
        except OSError:
            return False  # another file system, or one without links: the bytes must be copied
        return True

    def get_manifest(self, reference: str) -> RawManifest | None:
        """Return the manifest of a tag or digest, or None."""
        descriptors = self._find(self._read_index(), reference)
        if ":" in reference:
            digest = parse_digest(reference)
        elif descriptors:
            digest = parse_digest(descriptors[-1].get("digest"), f"{self.name}/index.json")
        else:
            return None
        size_bytes = self.blob_size(digest)
        if size_bytes is None:
            return None
        path = self.path_of(digest)
        if size_bytes > MANIFEST_LIMIT_BYTES:
            raise ProtocolError(
                f"{path}: want a manifest of at most {MANIFEST_LIMIT_BYTES} bytes, got {size_bytes}"
            )
        with storage_errors(path):
            data = path.read_bytes()
        if digest_of(data) != digest:
            raise IntegrityError(f"{path}: want {digest}, got {digest_of(data)}")
        listed = descriptors[-1].get("mediaType") if descriptors else None
        return RawManifest(data, _media_type(data, listed), digest)

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its own digest; what it names must be there."""
        digest = digest_of(data)
        if ":" in reference and reference != digest:
            raise IntegrityError(f"{self.name}: want a manifest's own digest, which is {digest}")
        document = _parse_object(data, f"{self.name}@{digest}")
        for named in _iter_named(document):
            if self.blob_size(named) is None:
                raise StorageError(f"{self.name}@{digest}: its blob {named} is missing")
        with self.create_blob(len(data)) as writer:
            writer.write(memoryview(data))
            writer.commit(digest)
        if ":" not in reference:
            self._tag(reference, _descriptor(document, digest, len(data), media_type))
        return digest

    def delete_manifest(self, reference: str) -> bool:
        """Remove a tag, or a manifest with every tag that it has."""
        if not self.root.is_dir():
            return True
        with self._locked() as index:
            gone = self._find(index, reference)
            index["manifests"] = [entry for entry in index["manifests"] if entry not in gone]
        if ":" in reference:
            path = self.path_of(parse_digest(reference))
            with storage_errors(path):
                path.unlink(missing_ok=True)
        return True

    def list_tags(self) -> list[str]:
        """Return every tag, sorted; empty where there is no layout yet."""
        entries = self._read_index()["manifests"]
        tags = {entry.get("annotations", {}).get(REF_NAME) for entry in entries}
        return sorted(tag for tag in tags if isinstance(tag, str))

    def _tag(self, tag: str, descriptor: Index) -> None:
        with self._locked() as index:
            others = [entry for entry in index["manifests"] if entry not in self._find(index, tag)]
            index["manifests"] = [*others, {**descriptor, "annotations": {REF_NAME: tag}}]

    def _find(self, index: Index, reference: str) -> list[Index]:
        return [
            entry
            for entry in index["manifests"]
            if reference in (entry.get("digest"), entry.get("annotations", {}).get(REF_NAME))
        ]

    def _read_index(self) -> Index:
        path = self.root / "index.json"
        with storage_errors(path):
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                data = json.dumps({"schemaVersion": 2, "mediaType": INDEX}).encode()
        index = _parse_object(data, str(path))
        entries = index.setdefault("manifests", [])
        if not isinstance(entries, list):
            raise ProtocolError(f"{path}: manifests: want a list, got {type(entries).__name__}")
        for at, entry in enumerate(entries):
            if not isinstance(entry, dict) or not isinstance(entry.get("annotations", {}), dict):
                raise ProtocolError(f"{path}: manifests[{at}]: want a descriptor, got none")
        return index

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Index]:
        """Give the index to change, under the layout's lock; it is written when the block ends."""
        make_directory(self.root, "blobs/sha256")
        with hold_lock(self.root):
            index = self._read_index()
            yield index
            data = json.dumps(index, indent=2).encode() + b"\n"
            write_atomically(self.root / "index.json", data, durable=True)

    def _prepare(self) -> None:
        make_directory(self.root, "blobs/sha256")
        if not (self.root / "oci-layout").exists():
            write_atomically(self.root / "oci-layout", MARKER)
        if not (self.root / "index.json").exists():
            with self._locked():
                pass


class _BlobWriter:
    """A `BlobWriter` on a temporary file, which gets its name when its digest is right.

    Args:
        root: Directory of the temporary file: beside, not in, ``blobs/sha256``, because whatever
            is there must have its digest's name.
        blobs: Directory of the finished blob; on the same file system.
        size_bytes: Of the blob, None if the caller does not know it.
    """

    keeps_session = False
    session_url: str | None = None

    def __init__(self, root: Path, blobs: Path, size_bytes: int | None) -> None:
        self._root = root
        self._blobs = blobs
        self._size_bytes = size_bytes
        self._written_bytes = 0
        self._hash = hashlib.sha256()
        self._file = NewFile(root / "blob")

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        data = data.cast("B")
        self._written_bytes += len(data)
        if self._size_bytes is not None and self._written_bytes > self._size_bytes:
            raise self._wrong_size()
        self._hash.update(data)
        self._file.write(data)

    def resume(self) -> int:
        """Return how many bytes were written."""
        return self._written_bytes

    def commit(self, digest: Digest) -> None:
        """Give the file its name, if it has the size that was promised and this digest."""
        if self._size_bytes not in {None, self._written_bytes}:
            raise self._wrong_size()
        if self._hash.hexdigest() != hex_of(digest):
            raise IntegrityError(
                f"{self._root}: want a blob {digest}, got sha256:{self._hash.hexdigest()}"
            )
        self._file.commit(self._blobs / hex_of(digest))

    def _wrong_size(self) -> IntegrityError:
        return IntegrityError(
            f"{self._root}: want a blob of {self._size_bytes} bytes, got {self._written_bytes}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()


def _parse_object(data: bytes, where: str) -> Index:
    document = load_object(data)
    if document is None:
        raise ProtocolError(f"{where}: want a JSON object, got {len(data)} bytes of something else")
    return document


def _media_type(data: bytes, listed: object) -> str:
    document = _parse_object(data, "manifest")
    default = INDEX if "manifests" in document else MANIFEST
    found = document.get("mediaType") or listed or default
    return found if isinstance(found, str) else default


def _iter_named(document: Index) -> Iterator[Digest]:
    for key in ("config", "layers", "manifests"):
        value = document.get(key, [])
        for at, descriptor in enumerate(value if isinstance(value, list) else [value]):
            where = f"{key}[{at}].digest" if isinstance(value, list) else f"{key}.digest"
            yield parse_digest(
                descriptor.get("digest") if isinstance(descriptor, dict) else None, where
            )


def _descriptor(document: Index, digest: Digest, size_bytes: int, media_type: str) -> Index:
    descriptor: Index = {"mediaType": media_type, "digest": digest, "size": size_bytes}
    if isinstance(document.get("artifactType"), str):
        descriptor["artifactType"] = document["artifactType"]
    return descriptor
