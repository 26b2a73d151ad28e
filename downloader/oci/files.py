"""Blobs as files: read by range, written under a temporary name until their digest is right."""

import hashlib
from pathlib import Path
from typing import Self

from downloader.errors import IntegrityError
from downloader.fs import NewFile, storage_errors
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest, hex_of


class FileBlobReader:
    """A `BlobReader` on a file."""

    def __init__(self, path: Path, want: ByteRange) -> None:
        self._path = path
        self._left_bytes = want.size_bytes
        with storage_errors(path):
            self._file = path.open("rb", buffering=0)
            self._file.seek(want.start)

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with the next bytes; fewer at the end only, then 0."""
        filled = 0
        while filled < len(buffer) and self._left_bytes:
            with storage_errors(self._path):
                count = self._file.readinto(buffer[filled:][: self._left_bytes])
            if not count:
                raise IntegrityError(f"{self._path}: want {self._left_bytes} more bytes, got none")
            filled += count
            self._left_bytes -= count
        return filled

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class FileBlobWriter:
    """A `BlobWriter` on a temporary file, which gets its name when its digest is right.

    Args:
        root: Where the temporary file lies: beside, not in, ``blobs/sha256``, because whatever
            is there must have its digest's name.
        blobs: Where the blob lies in the end; on the same file system.
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
