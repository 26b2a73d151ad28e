"""The Hub's API: repo and revision to a snapshot, and where each of its files is read.

Two routes are asked, over the same connections as the files and the registries, so that
proxies, certificates and messages are the same for all. The huggingface_hub package has an
HTTP stack of its own, reads the environment when it is imported, and follows a mirror's
``Link`` to any host.

Source: https://huggingface.co/docs/hub/api; huggingface_hub 2.4, hf_api.py and
utils/_http.py for the fields and the error codes.
"""

import json
import re
import zlib
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Any, get_args
from urllib.parse import quote

from urllib3 import HTTPHeaderDict

from downloader.document import Document, objects_of
from downloader.errors import (
    HfModelsError,
    HubError,
    InputError,
    ProtocolError,
    TransportError,
    without_secrets,
)
from downloader.hub.licenses import spdx_from_hub
from downloader.hub.repo import (
    BLOB_ID,
    COMMIT,
    DEFAULT_REVISION,
    SHA256,
    Repo,
    RepoFile,
    RepoType,
    Selection,
    Snapshot,
    check_repo_path,
    parse_date,
    parse_gated,
    parse_repo,
)
from downloader.hub.selection import select
from downloader.net.address import Address, parse_address, resolve_address
from downloader.net.http import HttpPool
from downloader.net.request import Exchange
from downloader.net.retry import (
    Retry,
    RetryPolicy,
    TransientError,
    is_passing,
    parse_retry_after,
)
from downloader.progress import Note, ignore
from downloader.transfer.source import FileSource

DEFAULT_ENDPOINT = "https://huggingface.co"

_REDIRECTS = {301, 302, 303, 307, 308}
_LONGEST_CHAIN = 6  # a renamed repo needs one
_ANSWER_LIMIT_BYTES = 64 * 1024**2  # a page has 1000 files; `siblings` has all of them
_LISTING_LIMIT_FILES = 5_000_000  # the Hub recommends fewer than 100,000 in a repo
_READ_BYTES = 256 * 1024
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?', re.IGNORECASE)


@dataclass(frozen=True)
class Hub:
    """The Hub at one endpoint.

    Args:
        endpoint: Its URL; a mirror's may have a path.
        token: Sent to the endpoint's own origin only.
        http: Connections.
        retry: For the API.
        note: Told of waits, and of a repo that has another id than was asked for.
        offline: The environment variable that forbids to ask the Hub, if one does.
    """

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    http: HttpPool = field(default_factory=HttpPool)
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(tries=5))
    note: Note = ignore
    offline: str | None = None

    def resolve(
        self, repo: Repo, revision: str | None = None, selection: Selection | None = None
    ) -> Snapshot:
        """Resolve a repo to the commit that ``revision`` names now, with the selected files.

        Args:
            repo: Which repo; where the Hub redirects it, the snapshot has its real id.
            revision: Branch, tag, ``refs/pr/N`` or commit; None for ``main``.
            selection: None for everything.

        Raises:
            HubError: Repo or revision not found, gated, private, rate limited.
            TransportError: The Hub cannot be reached.
            InputError: A pattern of the selection matches nothing.
            ProtocolError: An answer that is not the Hub's, or a selected file outside the repo.
        """
        wanted = selection or Selection()
        name = revision or DEFAULT_REVISION
        info = self._info(repo, name)
        files = self._list_files(info.repo, info.commit)
        kept = select(files, wanted)
        for file in kept:
            _check_selected(file.path)
        return replace(
            info,
            files=kept,
            selection=wanted,
            is_partial=len(kept) < len(files),
        )

    def source_of(self, snapshot: Snapshot, file: RepoFile) -> FileSource:
        """Return where the bytes of ``file`` come from."""
        path = f"{snapshot.repo.url_path}/resolve/{snapshot.commit}/{file.path}"
        return FileSource(self._address(quote(path)).url, self._headers)

    def commit_of(self, repo: Repo, revision: str | None = None) -> str:
        """Return the commit that ``revision`` names now, without the list of files.

        Raises:
            HubError, TransportError, ProtocolError: As `resolve`.
        """
        return self._info(repo, revision or DEFAULT_REVISION).commit

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _address(self, path: str, query: str | None = None) -> Address:
        # A malformed one may hold its password anywhere before the last @.
        scheme, mark, rest = self.endpoint.rpartition("://")
        try:
            base = parse_address(self.endpoint)
        except ProtocolError as error:
            shown = without_secrets(f"{scheme}{mark}{rest.rpartition('@')[2]}")
            raise InputError(
                f"want HF_ENDPOINT like {DEFAULT_ENDPOINT}, got {shown!r}",
                hint="an address with a user or password is refused" if "@" in rest else None,
            ) from error
        return replace(base, path=f"{base.path.rstrip('/')}/{path}", query=query)

    def _info(self, repo: Repo, revision: str) -> Snapshot:
        """Return the snapshot without its files."""
        check_repo_path(revision)
        path = f"api/{repo.type}s/{quote(repo.id)}/revision/{quote(revision, safe='')}"
        address = self._address(path)
        answer, _ = self._get(address, repo, revision)
        info = Document(answer, str(address))
        real = _parse_id(info, repo)
        if real != repo:
            self.note(f"{repo.type} {repo.id} is {real.id} on the Hub; using that name")
        card = info.get("cardData")
        date = parse_date(info, "lastModified")
        return Snapshot(
            repo=real,
            revision=revision,
            commit=info.text("sha", COMMIT, "40 hex digits"),
            files=(),
            committed_at=date.astimezone(UTC) if date else None,
            license=_license(card if isinstance(card, dict) else {}),
            gated=parse_gated(info),
            private=info.flag("private"),
        )

    def _list_files(self, repo: Repo, commit: str) -> list[RepoFile]:
        path = f"api/{repo.type}s/{quote(repo.id)}/tree/{commit}"
        address: Address | None = self._address(path, "recursive=true&expand=false")
        seen: set[Address] = set()
        files: list[RepoFile] = []
        while address is not None:
            seen.add(address)
            answer, headers = self._get(address, repo, commit)
            entries = objects_of(answer, str(address))
            files += [_parse_file(entry) for entry in entries if entry.get("type") == "file"]
            address = _next_page(address, headers.get("Link"), seen)
            if len(files) > _LISTING_LIMIT_FILES:
                raise ProtocolError(f"{repo.id}: more than {_LISTING_LIMIT_FILES} files")
        return files

    def _get(self, address: Address, repo: Repo, revision: str) -> tuple[Any, HTTPHeaderDict]:
        if self.offline:
            raise InputError(
                f"want to ask the Hub, but {self.offline} is set", hint=f"unset {self.offline}"
            )
        retry = Retry(self.retry, note=self.note, name=repo.id)
        while True:
            try:
                return self._get_once(address)
            except TransientError as failure:
                retry.wait_or_raise(failure)
            except _RefusalError as refusal:
                raise self._hub_error(repo, revision, refusal) from refusal

    def _get_once(self, address: Address) -> tuple[Any, HTTPHeaderDict]:
        """Return the JSON of an answer, and its headers.

        Raises:
            TransientError: No answer, or one that may be another the next time.
            _RefusalError: The Hub said no.
            ProtocolError: It is no JSON.
        """
        asked, home = address, address.origin
        for _ in range(_LONGEST_CHAIN):
            headers = self._headers if address.origin == home else {}
            try:
                with Exchange(self.http, "GET", address.url, headers) as response:
                    response.wait()
                    if response.status in _REDIRECTS:
                        response.drain()
                        address = resolve_address(address, response.headers.get("Location"))
                        continue
                    body = _read(response, address)
            except TransportError as error:
                raise TransientError(error) from error
            if response.status == 200:
                return _parse_json(body, response.headers, address), response.headers
            refusal = _RefusalError(response.status, response.headers)
            if is_passing(response.status):
                busy = HubError(f"{address}: {refusal}", status=response.status, hint=refusal.hint)
                raise TransientError(busy, parse_retry_after(response.headers))
            raise refusal
        raise ProtocolError(f"{asked}: more than {_LONGEST_CHAIN - 1} redirects")

    def _hub_error(self, repo: Repo, revision: str, refusal: "_RefusalError") -> HubError:
        hint = refusal.hint
        match refusal.code:
            case "GatedRepo":
                text, hint = "is gated and the token has no access", "accept its terms on the Hub"
            case "RepoNotFound":
                text, hint = "not found, or private and the token has no access", self._other(repo)
            case "RevisionNotFound":
                text, hint = f"has no revision {revision!r}", "check --revision"
            case _ if "resource is disabled" in refusal.said:
                text = "is disabled by the Hub"
            case _ if refusal.status == 401 and self.token:
                text, hint = (
                    "the Hub does not know this token (401)",
                    "check HF_TOKEN, or `hf auth login`",
                )
            case _:
                text = str(refusal)
        return HubError(f"{repo.type} {repo.id}: {text}", status=refusal.status, hint=hint)

    def _other(self, repo: Repo) -> str:
        """Return the hint for a repo that was not found: it may be of another type."""
        for other in get_args(RepoType):
            path = f"api/{other}s/{quote(repo.id)}"
            try:
                if other != repo.type:
                    self._get_once(self._address(path))
                    return f"there is a {other} of this name: --repo-type {other}"
            except (HfModelsError, TransientError, _RefusalError):
                continue
        return "check the id, or pass a token with HF_TOKEN"


class _RefusalError(Exception):
    """An answer with another status than 200."""

    def __init__(self, status: int, headers: HTTPHeaderDict) -> None:
        self.status = status
        self.code = headers.get("X-Error-Code", "")
        self.said = headers.get("X-Error-Message", "")
        self.hint = "set HF_TOKEN: the Hub allows more to users it knows" if status == 429 else None
        super().__init__("rate limited (429)" if status == 429 else f"the Hub answered {status}")


def _read(response: Exchange, address: Address) -> bytes:
    """Return a body, unpacked: some proxies compress against the request's wish."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
        raise ProtocolError(f"{address}: want an answer as it is, got Content-Encoding {encoding}")
    unpack = None if encoding in {"", "identity"} else zlib.decompressobj(wbits=47)
    body = bytearray()
    buffer = memoryview(bytearray(_READ_BYTES))
    try:
        while count := response.read_some(buffer):
            data = bytes(buffer[:count])
            body += unpack.decompress(data, _ANSWER_LIMIT_BYTES) if unpack else data
            if len(body) >= _ANSWER_LIMIT_BYTES:
                raise ProtocolError(f"{address}: an answer of more than 64 MiB")
    except zlib.error as error:
        raise ProtocolError(f"{address}: want {encoding}, got something else") from error
    return bytes(body)


def _parse_json(body: bytes, headers: HTTPHeaderDict, address: Address) -> Any:  # noqa: ANN401
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = headers.get("Content-Type", "no Content-Type")[:100]
        raise ProtocolError(
            f"{address}: want JSON of the Hub, got {len(body)} bytes of {kind}",
            hint="a login page or a proxy answers instead of the Hub; check HF_ENDPOINT",
        ) from error


def _next_page(current: Address, link: str | None, seen: set[Address]) -> Address | None:
    """Return the address of the next page, at the same host and path, whatever host it names.

    Mirrors forget to rewrite ``Link``, which then leads to huggingface.co.
    """
    found = _NEXT.search(link or "")
    if found is None:
        return None
    named = resolve_address(current, found[1], "Link")
    following = replace(current, query=named.query)
    if following in seen:
        raise ProtocolError(
            f"{current}: its Link to {named.netloc} names a page that was read before",
            hint="this mirror gives no further pages; set another HF_ENDPOINT",
        )
    return following


def _parse_id(info: Document, asked: Repo) -> Repo:
    if "id" not in info:
        return asked
    try:
        return parse_repo(info.text("id"), asked.type)
    except InputError as error:
        raise info.failure("id", "the id of a repo") from error


def _parse_file(entry: Document) -> RepoFile:
    sha256 = None
    size = entry.integer("size")
    if "lfs" in entry:
        lfs = entry.object("lfs")
        sha256, size = lfs.text("oid", SHA256, "64 hex digits"), lfs.integer("size")
    xet_hash = entry.get("xetHash")  # a gated repo shows asterisks
    return RepoFile(
        path=entry.text("path"),
        size_bytes=size,
        blob_id=entry.text("oid", BLOB_ID, "40 hex digits"),
        sha256=sha256,
        xet_hash=xet_hash if isinstance(xet_hash, str) and SHA256.fullmatch(xet_hash) else None,
    )


def _check_selected(path: str) -> None:
    try:
        check_repo_path(path)
    except ProtocolError as error:
        raise ProtocolError(
            error.message, hint="leave it out: --exclude with ? for each odd character"
        ) from error


def _license(card: dict[str, Any]) -> str | None:
    """Return what a model card says; its authors write it, so it may be anything."""
    found, name = card.get("license"), card.get("license_name")
    if isinstance(found, list):  # some datasets carry several
        parts = [spdx_from_hub(item) for item in found if isinstance(item, str)]
        return " AND ".join(part for part in parts if part) or None
    if not isinstance(found, str):
        return None
    return spdx_from_hub(found, name if isinstance(name, str) else None)
