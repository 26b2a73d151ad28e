"""The interface of every place of OCI blobs and manifests: registry, layout, archive.

A registry (`downloader.oci.registry`) and an OCI image layout directory
(`downloader.oci.layout`) implement it, so that publishing and restoring exist once.
"""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.transfer.source import RangesIgnoredError, Reader, TailReader


@dataclass(frozen=True)
class RawManifest:
    """A manifest or index as the store holds it; its digest is that of exactly these bytes."""

    data: bytes
    media_type: str
    digest: Digest


@dataclass(frozen=True)
class SavedUpload:
    """An upload that an earlier process began.

    Args:
        session_url: Its `BlobWriter.session_url`.
        sent_bytes: Lower bound of the bytes sent.
    """

    session_url: str = field(repr=False)
    sent_bytes: int


BlobReader = Reader


class Blobs(Protocol):
    """A place that holds registry blobs: a registry, a mirror, a directory, an archive."""

    @property
    def name(self) -> str:
        """For messages: ``ghcr.io/me/hf-models`` or ``dist/codet5-small``."""

    def open_blob(self, digest: Digest, byte_range: ByteRange | None = None) -> BlobReader:
        """Open a blob, or exactly ``byte_range`` of it, for reading."""


class BlobSource:
    """A registry blob as a `RangeSource`, named after the place that holds it.

    Args:
        blobs: The place.
        digest: Of the blob.
        size_bytes: Of the blob, or of as much of it as will be read.
    """

    def __init__(self, blobs: Blobs, digest: Digest, size_bytes: int) -> None:
        self.name = blobs.name
        self.size_bytes = size_bytes
        self.has_ranges = True
        self._blobs = blobs
        self._digest = digest

    def open(self, wanted: ByteRange) -> Reader:
        """Open a range; without a ``Range`` header where it is all of the blob."""
        if wanted == ByteRange(0, self.size_bytes):
            return self._blobs.open_blob(self._digest)
        if not self.has_ranges:
            reader = self._blobs.open_blob(self._digest, ByteRange(0, wanted.end))
            return TailReader(reader, wanted.start, f"{self.name}@{self._digest}")
        try:
            return self._blobs.open_blob(self._digest, wanted)
        except RangesIgnoredError:
            self.has_ranges = False
            raise

    def blame(self) -> bool:
        """There is no other place to read it from."""
        return False


class BlobWriter(Protocol):
    """One blob on its way into a store.

    The caller writes every byte in order, then commits under the digest that it computed;
    leaving the context without a commit abandons the upload, and nothing stays behind
    under a final name.

    Attributes:
        keeps_session: Whether an upload that is left without a commit stays as it is in the
            store, for a later process that knows its `session_url`.
    """

    keeps_session: bool

    @property
    def session_url(self) -> str | None:
        """The state that a later process resumes from, None where it cannot."""

    def write(self, data: memoryview) -> None:
        """Append bytes; ``data`` may be reused by the caller once this returns."""

    def resume(self) -> int:
        """After an interruption, return the offset of the byte to write next."""

    def commit(self, digest: Digest) -> None:
        """Finish the blob; the store has it under ``digest`` when this returns."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ReadableStore(Blobs, Protocol):
    """Blobs and manifests of one image or more: a `Store`, or an archive."""

    def get_manifest(self, reference: str) -> RawManifest | None:
        """Return the manifest named by a tag or digest, checked against a digest; or None."""


class ListableStore(ReadableStore, Protocol):
    """Blobs and manifests of one repository (registry) or directory (layout), to be read.

    Every method raises `RegistryError`, `TransportError`, `ProtocolError` or `StorageError`;
    a blob or tag that does not exist is an ordinary answer (None, False), not an error.
    All methods may be called from several threads at once.
    """

    def blob_size(self, digest: Digest) -> int | None:
        """Return the blob's size in bytes, None if the store lacks it; moves no bytes."""

    def list_tags(self) -> list[str]:
        """Return every tag, sorted; empty for a repository that does not exist yet."""


class Store(ListableStore, Protocol):
    """A place that images are written to."""

    def create_blob(self, size_bytes: int | None, saved: SavedUpload | None = None) -> BlobWriter:
        """Begin a new blob, or go on with an upload that an earlier process began.

        Args:
            size_bytes: Of the blob; None where the caller learns it as it writes.
            saved: The upload of an earlier process; then `BlobWriter.resume` comes first.
        """

    def is_beside(self, source: ReadableStore) -> bool:
        """Whether a mount from ``source`` is worth a try; makes no request."""

    def mount_blob(self, digest: Digest, source: ReadableStore) -> bool:
        """Take a blob from ``source`` without moving its bytes; False where that cannot be."""

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its own digest; every blob it names must be there."""

    def delete_manifest(self, reference: str) -> bool:
        """Remove a tag or manifest; False where the store does not allow it."""
