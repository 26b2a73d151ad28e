"""A registry that is read: one method per endpoint of the distribution specification 1.1.

`oci.registry_write` adds those that write.
"""

import time
from collections.abc import Callable

from downloader.document import check_parsed_size, load_object
from downloader.errors import (
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
from downloader.oci.manifest import MANIFEST_LIMIT_BYTES, MANIFEST_TYPES
from downloader.oci.reference import Reference
from downloader.oci.responses import Answer, content_length, parse_next_link
from downloader.oci.store import BlobReader, RawManifest
from downloader.progress import Note, ignore

_TAGS_LIMIT_BYTES = 16 * 1024 * 1024  # of all pages: 100,000 tags of the longest
_TAGS_PARSED_LIMIT_BYTES = 24 * 1024 * 1024  # of all pages in memory: 300,000 tags of the shortest
_UNTOLD_LIMIT_BYTES = 4 * 1024 * 1024  # of a blob whose size only its bytes tell
# Statuses of HEAD where GET may work: not implemented, or a URL signed for GET only.
_NO_HEAD = (400, 403, 405, 501)
_TAGS_PER_PAGE = 1000
_PAGES_LIMIT = 10_000  # a registry whose pages go round in a circle


class Registry:
    """Blobs and manifests of one repository of a registry.

    Args:
        reference: Registry and repository; tag and digest are ignored.
        pool: Connections, shared by any number of registries.
        credentials: Looks up the user's credential; None for anonymous.
        retry: For whatever may pass by itself.
        sleep: Waits so many seconds between tries.
        note: Told before a wait that a person would notice.
    """

    def __init__(
        self,
        reference: Reference,
        pool: HttpPool,
        credentials: Credentials | None = None,
        *,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
        note: Note = ignore,
    ) -> None:
        self.reference = reference
        self._client = Client(
            reference,
            pool,
            credentials or Anonymous(),
            policy=retry or RetryPolicy(),
            sleep=sleep,
            note=note,
        )

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
        if answer.status == 200 and (size_bytes := content_length(answer.headers)) is not None:
            return size_bytes
        # Refused, or answered without a length: signed for GET only, or a compressing proxy.
        request = Request("GET", url, what, scopes, (200, 404), redirect=True)
        with self._client.open(request) as exchange:
            if exchange.status == 404:
                return None
            is_encoded = is_inflatable(exchange.headers.get("Content-Encoding", ""))
            size_bytes = None if is_encoded else content_length(exchange.headers)
            if size_bytes is None:
                size_bytes = len(exchange.read(_UNTOLD_LIMIT_BYTES))
        if size_bytes >= _UNTOLD_LIMIT_BYTES and content_length(exchange.headers) is None:
            raise ProtocolError(f"{what}: no Content-Length")
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

    def get_manifest(self, reference: str) -> RawManifest | None:
        """Return the manifest of a tag or digest, or None."""
        request = self._ask_manifest("GET", reference)
        what = request.what
        answer = self._client.call(request, limit_bytes=MANIFEST_LIMIT_BYTES + 1)
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
        request = self._ask_manifest("HEAD", reference)
        answer = self._client.call(request)
        if answer.status == 404:
            return None
        found = answer.headers.get("Docker-Content-Digest")
        if found is None:  # the specification leaves the header open
            raw = self.get_manifest(reference)
            return raw.digest if raw is not None else None
        return parse_digest(found, request.what)

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

    def _ask_manifest(self, method: str, reference: str) -> Request:
        return Request(
            method,
            self._manifest_url(reference),
            self._manifest_name(reference),
            self._scopes("pull"),
            expect=(200, 404),
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
            redirect=True,
        )

    def _manifest_url(self, reference: str) -> str:
        return f"{self._url}/manifests/{reference}"

    def _manifest_name(self, reference: str) -> str:
        return f"manifest {self.name}{'@' if ':' in reference else ':'}{reference}"

    def _scopes(self, *actions: str) -> Scopes:
        return scopes_of(self.reference.repository, *actions)


def _check_manifest_digest(reference: str, answer: Answer, what: str) -> Digest:
    digest = digest_of(answer.body)
    promised = reference if ":" in reference else answer.headers.get("Docker-Content-Digest")
    if promised is not None and parse_digest(promised, what) != digest:
        raise IntegrityError(f"{what}: want {promised}, got {digest}")
    return digest


def _parse_tags(body: bytes, key: str, what: str) -> list[str]:
    document = load_object(body)
    tags = document.get(key) if document is not None else ()
    if tags is None:
        return []  # a repository whose tags were all deleted
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ProtocolError(f"{what}: want JSON with a list of {key}, got {len(body)} bytes")
    return tags
