"""A root file system in a directory, read as an image whose only layer is a tar of it.

The tar is never written: its headers are made, and its contents read, where somebody reads
them. So everything that is held of a layer (budgets, links, whiteouts) is held of a directory.
What can hold no model is left out of it: directories, other files, devices, sockets, FIFOs.
"""

import hashlib
import io
import os
import stat
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from downloader.errors import ProtocolError, StorageError
from downloader.fs import open_same_file, storage_error, storage_errors
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.oci.image_archive import root_image
from downloader.oci.manifest import LAYER, Descriptor
from downloader.oci.store import BlobReader
from downloader.oci.tar_read import MEMBERS_LIMIT
from downloader.oci.tar_write import END_OF_ARCHIVE, PlacedEntry, TarEntry, header_bytes
from downloader.progress import Note
from downloader.restore.foreign.entries import MODELS_DIRS, WHITEOUT, is_shared_blob, place_of

# Beside what the scan of the tar keeps; together they stay below 256 MiB.
_NAMES_LIMIT_BYTES = 48 * 1024**2
_ENTRY_BYTES = 120  # for each entry beside its names: two lists, four arrays, inodes
_NOTES_LIMIT = 5  # directories that cannot be read, each with a line of its own
_PIECE_BYTES = 256 * 1024
_SHOWN = tuple(f"{name}/" for name in MODELS_DIRS)


@dataclass(frozen=True)
class _Found:
    """A file or link of the directory: its path in it, and what the system says of it."""

    path: str
    status: os.stat_result
    target: str | None = None


class RootDirectory:
    """The blobs of such an image, as `downloader.restore.image_blobs.ImageBlobs` reads them.

    Args:
        root: The directory; what it lies on is not looked at, nor is any link followed in it.
        note: Told what could not be read and may not matter.

    Attributes:
        manifest: Of one platform; nobody wrote it.

    Raises:
        StorageError: A file of a cache or of ``/models`` cannot be read.
        ProtocolError: It has more entries, or longer names, than an image may have.
    """

    def __init__(self, root: Path, note: Note) -> None:
        self.name = str(root)
        self._root = root
        self._paths: list[str] = []
        self._targets: dict[int, str] = {}
        self._starts, self._contents, self._sizes = array("q"), array("q"), array("q")
        self._inodes: list[tuple[int, int]] = []
        offset = names_bytes = 0
        for found in _walk(root, note):
            names_bytes += _ENTRY_BYTES + sys.getsizeof(found.path) + sys.getsizeof(found.target)
            if names_bytes > _NAMES_LIMIT_BYTES:
                raise ProtocolError(f"{root}: too many names for the file system of an image")
            offset = self._add(found, offset)
        self.size_bytes = offset + len(END_OF_ARCHIVE)
        self._digest = self._hash()
        layer = Descriptor(LAYER, self._digest, self.size_bytes)
        self.manifest, self._config = root_image(layer, self._digest)

    def _add(self, found: _Found, offset: int) -> int:
        if found.target is not None:
            self._targets[len(self._paths)] = found.target
        self._paths.append(found.path)
        self._starts.append(offset)
        self._sizes.append(found.status.st_size if found.target is None else 0)
        self._inodes.append((found.status.st_dev, found.status.st_ino))
        entry = self._entry(len(self._paths) - 1)
        self._contents.append(offset + header_bytes(entry))
        return self._contents[-1] + entry.size_bytes + PlacedEntry(entry, 0).padding_bytes

    def _entry(self, index: int) -> TarEntry:
        target = self._targets.get(index)
        if target is not None:
            return TarEntry(self._paths[index], "link", target=target)
        return TarEntry(self._paths[index], size_bytes=self._sizes[index])

    def _hash(self) -> Digest:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE_BYTES))
        with _TarReader(self, ByteRange(0, self.size_bytes)) as reader:
            while count := reader.readinto(buffer):
                digest.update(buffer[:count])
        return Digest(f"sha256:{digest.hexdigest()}")

    def open_blob(self, digest: Digest, byte_range: ByteRange | None = None) -> BlobReader:
        """Open the config or the tar, or exactly ``byte_range`` of it.

        Raises:
            StorageError: There is no other blob.
        """
        if digest == self.manifest.config.digest:
            wanted = byte_range or ByteRange(0, len(self._config))
            return io.BytesIO(self._config[wanted.start : wanted.end])
        if digest != self._digest:
            raise StorageError(f"{self.name}: lacks blob {digest}")
        return _TarReader(self, byte_range or ByteRange(0, self.size_bytes))

    def piece_at(self, offset: int) -> "bytes | tuple[int, int, int]":
        """Return what the tar has at an offset.

        Returns:
            Bytes of it; or of a file's content its index, the offset in it, and the bytes left.
        """
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return END_OF_ARCHIVE[offset:]
        content, size_bytes = self._contents[index], self._sizes[index]
        if offset < content:
            header = PlacedEntry(self._entry(index), content).header
            return header[offset - self._starts[index] :]
        if offset < content + size_bytes:
            return index, offset - content, content + size_bytes - offset
        is_last = index + 1 == len(self._starts)
        end = self.size_bytes if is_last else self._starts[index + 1]
        return bytes(end - offset)

    def open_file(self, index: int) -> tuple[Path, BinaryIO]:
        """Open the file that was found when the directory was walked.

        Raises:
            StorageError: It cannot be read, or is another one by now.
        """
        path = self._root / self._paths[index]
        with storage_errors(path):
            return path, os.fdopen(open_same_file(path, *self._inodes[index]), "rb", buffering=0)


class _TarReader:
    """A `BlobReader` on a range of the tar."""

    def __init__(self, tar: RootDirectory, byte_range: ByteRange) -> None:
        self._tar = tar
        self._at = byte_range.start
        self._end = min(byte_range.end, tar.size_bytes)
        self._index = -1
        self._path = Path()
        self._file: BinaryIO | None = None

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes at the end only, then 0.

        Raises:
            StorageError: A file cannot be read, or became shorter.
        """
        filled = 0
        while filled < (want := min(len(buffer), filled + self._end - self._at)):
            piece = self._tar.piece_at(self._at)
            if isinstance(piece, bytes):
                data = piece[: want - filled]
                buffer[filled : filled + len(data)] = data
                count = len(data)
            else:
                index, offset, left = piece
                count = self._read_file(index, offset, buffer[filled:want][:left])
            filled += count
            self._at += count
        return filled

    def _read_file(self, index: int, offset: int, buffer: memoryview) -> int:
        if self._file is None or self._index != index:
            self._close()
            self._path, self._file = self._tar.open_file(index)
            self._index = index
            self._file.seek(offset)
        with storage_errors(self._path):
            count = self._file.readinto(buffer)  # type: ignore[attr-defined]  # a FileIO has it
        if not count:
            raise StorageError(f"{self._path}: became shorter while it was read")
        return int(count)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _walk(root: Path, note: Note) -> Iterator[_Found]:
    """Yield the files and links that matter, in the order of their names; follows no link."""
    pending, entries, unread = [""], 0, 0
    while pending:
        parent = pending.pop()
        try:
            found = _list(root / parent, MEMBERS_LIMIT - entries)
        except OSError as error:
            if not parent or _matters(f"{parent}/x"):
                raise storage_error(root / parent, error) from error
            unread += 1
            if unread <= _NOTES_LIMIT:
                note(f"{root / parent}: {error.strerror}; leaving it out")
            continue
        entries += len(found)
        below = []
        for name, is_directory in found:
            path = f"{parent}/{name}" if parent else name
            if is_directory:
                below.append(path)
            elif (item := _look(root, path)) is not None:
                yield item
        pending += reversed(below)
    if unread > _NOTES_LIMIT:
        note(f"{root}: {unread - _NOTES_LIMIT} more directories cannot be read; leaving them out")


def _list(directory: Path, limit: int) -> list[tuple[str, bool]]:
    """Return the names in a directory, sorted, and whether each is a directory itself."""
    found: list[tuple[str, bool]] = []
    with os.scandir(directory) as listing:
        for entry in listing:
            if len(found) == limit:
                raise ProtocolError(f"{directory}: want at most {MEMBERS_LIMIT} files, got more")
            found.append((entry.name, entry.is_dir(follow_symlinks=False)))
    return sorted(found)


def _look(root: Path, path: str) -> _Found | None:
    try:
        status = (root / path).lstat()
        if stat.S_ISLNK(status.st_mode):
            return _Found(path, status, str((root / path).readlink()))
    except OSError as error:
        if _matters(path):
            raise storage_error(root / path, error) from error
        return None
    return _Found(path, status) if stat.S_ISREG(status.st_mode) and _matters(path) else None


def _matters(path: str) -> bool:
    is_whiteout = path.rpartition("/")[2].startswith(WHITEOUT)
    in_cache = place_of(path) is not None or is_shared_blob(path)
    return is_whiteout or in_cache or path.startswith(_SHOWN)
