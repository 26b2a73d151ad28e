"""A registry as a `Store`: one method per endpoint of the distribution specification 1.1."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from downloader.document import check_parsed_size
from downloader.errors import (
    InputError,
    IntegrityError,
    ProtocolError,
    RegistryError,
    without_secrets,
)
from downloader.net.address import parse_address, resolve_address
from downloader.net.body import is_inflatable
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy
from downloader.oci.auth import Scope, Scopes, scopes_of
from downloader.oci.client import Client, Request
from downloader.oci.credentials import Anonymous, Credentials
from downloader.oci.digest import Digest, digest_of, parse_digest
from downloader.oci.downloads import RegistryBlobReader
from downloader.oci.reference import Reference
from downloader.oci.responses import Answer, next_url, parse_next_link
from downloader.oci.store import BlobReader, BlobWriter, RawManifest, ReadableStore, SavedUpload
from downloader.oci.upload import (
    RegistryBlobWriter,
    Target,
    UploadMethod,
    UploadMode,
    UploadSession,
)
from downloader.progress import Note, ignore

_log = logging.getLogger(__name__)

MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024  # what the specification wants registries to take
_TAGS_LIMIT_BYTES = 16 * 1024 * 1024  # of all pages: 100,000 tags of the longest
_TAGS_PARSED_LIMIT_BYTES = 24 * 1024 * 1024  # of all pages in memory: 300,000 tags of the shortest
_UNTOLD_LIMIT_BYTES = 4 * 1024 * 1024  # of a blob whose size only its bytes tell
# Statuses of HEAD where GET may work: not implemented, or a URL signed for GET only.
_NO_HEAD = (400, 403, 405, 501)
_MAY_COME = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})
_TAGS_PER_PAGE = 1000
_PAGES_LIMIT = 10_000  # a registry whose pages go round in a circle
_MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class Registry:
    """Blobs and manifests of one repository of a registry.

    Args:
        reference: Registry and repository; tag and digest are ignored.
        pool: Connections, shared by any number of registries.
        credentials: Where the user's credential is looked up; None for anonymous.
        upload: How blobs are sent; ``auto`` streams, and learns from the answers.
        chunk_bytes: Of one chunk; None to follow the round trip and the rate of the line.
        for_writing: Whether this is where an image goes: then reading asks for the right to
            write as well, because a token that may only read a repository that does not
            exist yet is refused by some registries.
        retry: For whatever may pass by itself.
        plain_http: True for http; None for http on loopback hosts that answer no TLS.
        sleep: Waits so many seconds between tries.
        note: Told before a wait that a person would notice.
    """

    def __init__(
        self,
        reference: Reference,
        pool: HttpPool,
        credentials: Credentials | None = None,
        *,
        upload: UploadMode = "auto",
        chunk_bytes: int | None = None,
        for_writing: bool = False,
        retry: RetryPolicy | None = None,
        plain_http: bool | None = None,
        sleep: Callable[[float], None] = time.sleep,
        note: Note = ignore,
    ) -> None:
        if chunk_bytes is not None and chunk_bytes < 1:
            raise InputError(f"want an upload chunk of at least 1 byte, got {chunk_bytes}")
        self.reference = reference
        self._client = Client(
            reference,
            pool,
            credentials or Anonymous(),
            policy=retry or RetryPolicy(),
            plain_http=plain_http,
            sleep=sleep,
            note=note,
        )
        self._method = UploadMethod(upload, reference.api_host, chunk_bytes)
        self._for_writing = for_writing

    @property
    def name(self) -> str:
        """For messages: ``ghcr.io/me/hf-models``."""
        return self.reference.name

    def blob_size(self, digest: Digest) -> int | None:
        """Return the blob's size in bytes, None if the repository lacks it."""
        url, what = f"{self._url}/blobs/{digest}", f"blob {self.name}@{digest}"
        scopes = self._scopes("pull")
        expect = (200, 404, *_NO_HEAD)
        answer = self._client.call(Request("HEAD", url, what, scopes, expect, redirect=True))
        if answer.status == 404:
            return None
        if answer.status == 200 and (size_bytes := _length(answer.headers)) is not None:
            return size_bytes
        # Refused, or answered without a length: signed for GET only, or a compressing proxy.
        request = Request("GET", url, what, scopes, (200, 404), redirect=True)
        with self._client.open(request) as exchange:
            if exchange.status == 404:
                return None
            is_encoded = is_inflatable(exchange.headers.get("Content-Encoding", ""))
            size_bytes = None if is_encoded else _length(exchange.headers)
            if size_bytes is None:
                size_bytes = len(exchange.read(_UNTOLD_LIMIT_BYTES))
        if size_bytes >= _UNTOLD_LIMIT_BYTES and _length(exchange.headers) is None:
            raise ProtocolError(f"{what}: want Content-Length, got none")
        return size_bytes

    def open_blob(self, digest: Digest, byte_range: ByteRange | None = None) -> BlobReader:
        """Open a blob, or exactly ``byte_range`` of it; a cut connection is continued."""
        return RegistryBlobReader(
            self._client,
            f"{self._url}/blobs/{digest}",
            f"blob {self.name}@{digest}",
            self._scopes("pull"),
            byte_range,
        )

    def create_blob(self, size_bytes: int | None, saved: SavedUpload | None = None) -> BlobWriter:
        """Begin an upload, or go on with one that an earlier process began.

        Raises (from ``write`` and ``commit``):
            UploadInterrupted: Call ``resume``, and write from the offset that it returns.
        """
        _log.debug("upload to %s: %s", self.name, self._method.explanation)
        target = self._target(self._scopes("pull", "push"))
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

    def get_manifest(self, reference: str) -> RawManifest | None:
        """Return the manifest of a tag or digest, or None."""
        what = self._manifest_name(reference)
        answer = self._client.call(
            Request(
                "GET",
                self._manifest_url(reference),
                what,
                self._scopes("pull"),
                expect=(200, 404),
                headers={"Accept": ", ".join(_MANIFEST_TYPES)},
                redirect=True,
            ),
            limit_bytes=MANIFEST_LIMIT_BYTES + 1,
        )
        if answer.status == 404:
            return None
        if len(answer.body) > MANIFEST_LIMIT_BYTES:
            raise ProtocolError(f"{what}: want at most {MANIFEST_LIMIT_BYTES} bytes, got more")
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if not answer.body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            raise ProtocolError(
                f"{without_secrets(answer.url)}: want a manifest, got {len(answer.body)} bytes of"
                f" {media_type[:80] or 'no type'}",
                hint="a login page or a proxy answers instead of the registry",
            )
        digest = _check_manifest_digest(reference, answer, what)
        return RawManifest(answer.body, media_type, digest)

    def manifest_digest(self, reference: str) -> Digest | None:
        """Return the digest that a tag leads to now, None where there is no such tag.

        By HEAD, which registries that count pulls (Docker Hub) do not count.
        """
        what = self._manifest_name(reference)
        answer = self._client.call(
            Request(
                "HEAD",
                self._manifest_url(reference),
                what,
                self._scopes("pull"),
                expect=(200, 404),
                headers={"Accept": ", ".join(_MANIFEST_TYPES)},
                redirect=True,
            )
        )
        if answer.status == 404:
            return None
        found = answer.headers.get("Docker-Content-Digest")
        if found is None:  # the specification leaves the header open
            raw = self.get_manifest(reference)
            return raw.digest if raw is not None else None
        return parse_digest(found, what)

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
                self._scopes("pull", "push"),
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
            self._scopes("pull", "delete"),
            expect=(200, 202, 204, 400, 403, 404, 405),
        )
        try:
            return self._client.call(request)
        except RegistryError as error:
            # A token server that refuses the scope `delete` says no as well.
            if error.status in {400, 401, 403}:
                return None
            raise

    def list_tags(self) -> list[str]:
        """Return every tag, sorted; empty for a repository that does not exist yet."""
        scopes = self._scopes("pull")
        return self._list(f"{self._url}/tags/list", "tags", f"tags of {self.name}", scopes)

    def check_login(self) -> None:
        """Raise unless the registry takes the credential.

        Raises:
            RegistryError: It refuses it.

        Source: distribution specification 1.1, end-1.
        """
        url = f"{self._client.base_url}/v2/"
        self._client.call(Request("GET", url, f"login to {self.reference.registry}", frozenset()))

    def list_repositories(self) -> list[str]:
        """Return every repository of this registry, sorted.

        Raises:
            RegistryError: It does not list them, as most public ones.

        Source: distribution, docs/content/spec/api.md, "Listing Repositories".
        """
        url, what = f"{self._client.base_url}/v2/_catalog", f"list of {self.reference.registry}"
        scopes = frozenset({Scope("catalog", frozenset({"*"}), "registry")})
        return self._list(url, "repositories", what, scopes)

    def _list(self, base_url: str, key: str, what: str, scopes: Scopes) -> list[str]:
        queries, tags, left_bytes = [f"n={_TAGS_PER_PAGE}"], set[str](), _TAGS_LIMIT_BYTES
        left_parsed_bytes = _TAGS_PARSED_LIMIT_BYTES
        for _ in range(_PAGES_LIMIT):
            url = base_url + (f"?{queries[-1]}" if queries[-1] else "")
            answer = self._fetch_tags(url, what, left_bytes, scopes)
            if answer.status == 404 and key == "tags":
                break
            if answer.status == 404:
                raise RegistryError(f"{what}: not found", status=404)
            if answer.status == 400:  # it may allow fewer on a page than we asked for
                queries[-1] = ""
                answer = self._fetch_tags(base_url, what, left_bytes, scopes)
            left_bytes -= len(answer.body)
            if left_bytes <= 0:
                raise ProtocolError(f"{what}: want at most {_TAGS_LIMIT_BYTES} bytes, got more")
            left_parsed_bytes -= check_parsed_size(answer.body, what, left_parsed_bytes)
            tags.update(_parse_tags(answer.body, key, what))
            link = parse_next_link(answer.headers.get("Link"))
            if link is None:
                break
            # Only its query counts: behind a proxy a registry knows neither its host nor its path.
            query = resolve_address(parse_address(url), link, "Link").query or ""
            if query in queries:
                raise ProtocolError(f"{what}: want another page, got the same one again")
            queries.append(query)
        else:
            raise ProtocolError(f"{what}: want at most {_PAGES_LIMIT} pages, got more")
        return sorted(tags)

    def _fetch_tags(self, url: str, what: str, limit_bytes: int, scopes: Scopes) -> Answer:
        expect = (200, 404, 400) if "?n=" in url else (200, 404)
        request = Request("GET", url, what, scopes, expect, redirect=True)
        return self._client.call(request, limit_bytes=limit_bytes)

    @property
    def _url(self) -> str:
        return f"{self._client.base_url}/v2/{self.reference.repository}"

    def _manifest_url(self, reference: str) -> str:
        return f"{self._url}/manifests/{reference}"

    def _manifest_name(self, reference: str) -> str:
        return f"manifest {self.name}{'@' if ':' in reference else ':'}{reference}"

    def _scopes(self, *actions: str) -> Scopes:
        if self._for_writing:
            actions = (*actions, "pull", "push")
        return scopes_of(self.reference.repository, *actions)

    def _target(self, scopes: Scopes) -> Target:
        return Target(self._client, self._url, self.name, scopes)


def _check_manifest_digest(reference: str, answer: Answer, what: str) -> Digest:
    digest = digest_of(answer.body)
    promised = reference if ":" in reference else answer.headers.get("Docker-Content-Digest")
    if promised is not None and parse_digest(promised, what) != digest:
        raise IntegrityError(f"{what}: want {promised}, got {digest}")
    return digest


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _parse_tags(body: bytes, key: str, what: str) -> list[str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    tags = document.get(key) if isinstance(document, dict) else ()
    if tags is None:
        return []  # a repository whose tags were all deleted
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ProtocolError(f"{what}: want JSON with a list of {key}, got {len(body)} bytes")
    return tags
