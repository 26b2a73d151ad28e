"""An OCI image layout directory as a `Store`."""

from pathlib import Path

from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.oci.store import BlobReader, BlobWriter, RawManifest, Store


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

    def blob_size(self, digest: Digest) -> int | None:
        """Return the blob's size in bytes, None if it is not there."""
        raise NotImplementedError

    def open_blob(self, digest: Digest, byte_range: ByteRange | None = None) -> BlobReader:
        """Open a blob, or exactly ``byte_range`` of it."""
        raise NotImplementedError

    def create_blob(self, size_bytes: int | None = None) -> BlobWriter:
        """Begin a blob under a temporary name."""
        raise NotImplementedError

    def mount_blob(self, digest: Digest, source: Store) -> bool:
        """Link a blob of another layout on the same file system."""
        raise NotImplementedError

    def get_manifest(self, reference: str) -> RawManifest | None:
        """Return the manifest of a tag or digest, or None."""
        raise NotImplementedError

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its own digest."""
        raise NotImplementedError

    def delete_manifest(self, reference: str) -> bool:
        """Remove a tag, or a manifest with every tag that it has."""
        raise NotImplementedError

    def list_tags(self) -> list[str]:
        """Return every tag, sorted; empty where there is no layout yet."""
        raise NotImplementedError
