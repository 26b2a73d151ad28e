"""A registry that is written to: the writing endpoints of the distribution specification 1.1."""

import logging
import time
from collections.abc import Callable
from urllib.parse import urlencode

from downloader.errors import InputError, IntegrityError, RegistryError
from downloader.net.http import HttpPool
from downloader.net.retry import RetryPolicy
from downloader.oci.auth import Scopes, scopes_of
from downloader.oci.client import Request
from downloader.oci.credentials import Credentials
from downloader.oci.digest import Digest, digest_of
from downloader.oci.reference import Reference
from downloader.oci.registry import Registry
from downloader.oci.responses import Answer, next_url
from downloader.oci.store import BlobWriter, ReadableStore, SavedUpload
from downloader.oci.upload import (
    RegistryBlobWriter,
    Target,
    UploadMethod,
    UploadMode,
    UploadSession,
)
from downloader.progress import Note, ignore

_log = logging.getLogger(__name__)

_MAY_COME = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})


class WritableRegistry(Registry):
    """A `Store` in one repository of a registry.

    Reading asks for the right to write as well, because a token that may only read a repository
    that does not exist yet is refused by some registries.

    Args:
        upload: The way to send large blobs; ``auto`` streams, and learns from the answers.
        chunk_bytes: Of one chunk; None to follow the round trip and the rate of the line.

    The others are those of `Registry`.
    """

    def __init__(
        self,
        reference: Reference,
        pool: HttpPool,
        credentials: Credentials | None = None,
        *,
        upload: UploadMode = "auto",
        chunk_bytes: int | None = None,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
        note: Note = ignore,
    ) -> None:
        if chunk_bytes is not None and chunk_bytes < 1:
            raise InputError(f"want an upload chunk of at least 1 byte, got {chunk_bytes}")
        super().__init__(
            reference,
            pool,
            credentials,
            retry=retry,
            sleep=sleep,
            note=note,
        )
        self._method = UploadMethod(upload, reference.api_host, chunk_bytes)

    def create_blob(self, size_bytes: int | None, saved: SavedUpload | None = None) -> BlobWriter:
        """Begin an upload, or go on with one that an earlier process began.

        Raises (from ``write`` and ``commit``):
            UploadInterrupted: Call ``resume``, and write from the offset that it returns.
        """
        _log.debug("upload to %s: %s", self.name, self._method.explanation)
        target = self._target(self._scopes())
        return RegistryBlobWriter(target, size_bytes, self._method, saved)

    def is_beside(self, source: ReadableStore) -> bool:
        """Whether ``source`` is a repository of the same registry."""
        same = isinstance(source, Registry) and source.reference.api_host
        return same == self.reference.api_host

    def mount_blob(self, digest: Digest, source: ReadableStore) -> bool:
        """Take a blob from another repository of the same registry; False if it must be sent."""
        if not isinstance(source, Registry) or not self.is_beside(source):
            return False
        repository = source.reference.repository
        query = urlencode({"mount": digest, "from": repository})
        url = f"{self._url}/blobs/uploads/?{query}"
        scopes = scopes_of(self.reference.repository, "pull", "push", mount_from=repository)
        request = Request("POST", url, f"mount in {self.name}", scopes, expect=(201, 202))
        try:
            answer = self._client.call(request)
        except RegistryError as error:
            # Not allowed, or not known: sending the bytes is the answer to both.
            if error.status in {400, 401, 403, 404, 405}:
                return False
            raise
        if answer.status == 202 and answer.headers.get("Location"):
            location = next_url(answer.url, answer.headers["Location"])
            UploadSession(self._target(scopes), location).cancel()
        return answer.status == 201

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its own digest."""
        what = self._manifest_name(reference)
        digest = digest_of(data)
        if ":" in reference and reference != digest:
            raise IntegrityError(f"{what}: want its own digest, which is {digest}")
        answer = self._call_put(
            Request(
                "PUT",
                self._manifest_url(reference),
                what,
                self._scopes(),
                expect=(200, 201, 202),
                headers={"Content-Type": media_type},
                body=data,
            )
        )
        got = answer.headers.get("Docker-Content-Digest", digest)
        if got != digest:
            raise IntegrityError(f"{what}: want {digest}, the registry has {got[:100]!r}")
        return digest

    def _call_put(self, request: Request) -> Answer:
        # A registry may not see a blob for a moment that it has: while another publisher
        # writes the same one, or until its copies agree.
        retries = self._client.retries()
        while True:
            try:
                return self._client.call(request)
            except RegistryError as error:
                if not (error.codes & _MAY_COME and retries.wait(error)):
                    raise

    def delete_manifest(self, reference: str) -> bool:
        """Remove a tag or manifest; False where the registry does not allow it."""
        answer = self._call_delete(reference)
        return answer is not None and answer.status in {200, 202, 204, 404}

    def _call_delete(self, reference: str) -> Answer | None:
        request = Request(
            "DELETE",
            self._manifest_url(reference),
            self._manifest_name(reference),
            self._scopes("delete"),
            expect=(200, 202, 204, 400, 403, 404, 405),
        )
        try:
            return self._client.call(request)
        except RegistryError as error:
            # A token server that refuses the scope `delete` says no as well.
            if error.status in {400, 401, 403}:
                return None
            raise

    def _scopes(self, *actions: str) -> Scopes:
        return super()._scopes(*actions, "pull", "push")

    def _target(self, scopes: Scopes) -> Target:
        return Target(self._client, self._url, self.name, scopes)
