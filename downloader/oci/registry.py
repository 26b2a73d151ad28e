"""A registry as a `Store`: one method per endpoint of the distribution specification 1.1."""

import time
from collections.abc import Callable

from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy
from downloader.oci.credentials import Credentials
from downloader.oci.digest import Digest
from downloader.oci.reference import Reference
from downloader.oci.store import BlobReader, BlobWriter, RawManifest, Store
from downloader.oci.uploads import CHUNK_BYTES, UploadMode


class Registry:
    """Blobs and manifests of one repository of a registry.

    Args:
        reference: Registry and repository; tag and digest are ignored.
        pool: Connections, shared by any number of registries.
        credentials: Where to look up who asks; None for anonymous.
        upload: How blobs are sent; ``auto`` chooses by host and learns from the answers.
        chunk_bytes: Of one ``PATCH``, and what a writer keeps in memory to send again.
        retry: For whatever may pass by itself.
        plain_http: True for http; None for http on loopback hosts that answer no TLS.
        sleep: Waits so many seconds between tries.
    """

    def __init__(
        self,
        reference: Reference,
        pool: HttpPool,
        credentials: Credentials | None = None,
        *,
        upload: UploadMode = "auto",
        chunk_bytes: int = CHUNK_BYTES,
        retry: RetryPolicy | None = None,
        plain_http: bool | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        raise NotImplementedError

    @property
    def name(self) -> str:
        """For messages: ``ghcr.io/me/hf-models``."""
        raise NotImplementedError

    def blob_size(self, digest: Digest) -> int | None:
        """Return the blob's size in bytes, None if the repository lacks it."""
        raise NotImplementedError

    def open_blob(self, digest: Digest, byte_range: ByteRange | None = None) -> BlobReader:
        """Open a blob, or exactly ``byte_range`` of it; a cut connection is continued."""
        raise NotImplementedError

    def create_blob(self, size_bytes: int | None = None) -> BlobWriter:
        """Begin an upload; a known ``size_bytes`` lets bytes leave as they are written.

        Raises (from ``write`` and ``commit``):
            UploadLost: Begin this blob again from its source.
        """
        raise NotImplementedError

    def mount_blob(self, digest: Digest, source: Store) -> bool:
        """Take a blob from another repository of the same registry; False if it must be sent."""
        raise NotImplementedError

    def get_manifest(self, reference: str) -> RawManifest | None:
        """Return the manifest of a tag or digest, or None."""
        raise NotImplementedError

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its own digest."""
        raise NotImplementedError

    def delete_manifest(self, reference: str) -> bool:
        """Remove a tag or manifest; False where the registry does not allow it."""
        raise NotImplementedError

    def list_tags(self) -> list[str]:
        """Return every tag, sorted; empty for a repository that does not exist yet."""
        raise NotImplementedError
