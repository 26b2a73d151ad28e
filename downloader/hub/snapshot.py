"""Repo and revision to a snapshot: the only module that imports huggingface_hub.

The commit is resolved with ``repo_info``, never through ``snapshot_download``, which falls
back to a stale cached snapshot without a word when the Hub answers 429 or 503.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, errors, hf_hub_url, is_offline_mode, set_client_factory
from huggingface_hub.hf_api import RepoFile as HubFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public in its docs

from downloader import __version__
from downloader.errors import (
    HubError,
    InputError,
    ProtocolError,
    TransportError,
    without_secrets,
)
from downloader.hub.licenses import spdx_from_hub
from downloader.hub.repo import (
    DEFAULT_REVISION,
    Repo,
    RepoFile,
    Selection,
    Snapshot,
    check_repo_path,
    is_commit,
)
from downloader.hub.selection import select
from downloader.net.address import parse_address
from downloader.net.http import HttpPool
from downloader.net.request import Exchange
from downloader.net.retry import RetryPolicy, is_passing, parse_retry_after
from downloader.progress import Note, ignore
from downloader.transfer.source import FileSource
from downloader.units import format_seconds

_ANSWER_LIMIT_BYTES = 64 * 1024 * 1024  # repo_info of 100,000 files is some 15 MB

T = TypeVar("T")


class _PoolTransport(httpx2.BaseTransport):
    """Sends huggingface_hub's requests over our connections.

    So that proxies, certificates and timeouts mean the same for the Hub's API, for its files
    and for registries.
    """

    def __init__(self, pool: HttpPool) -> None:
        self._pool = pool

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if is_offline_mode():
            raise errors.OfflineModeIsEnabled(str(request.url))
        body = request.read()
        skipped = {"host", "connection", "accept-encoding", "transfer-encoding"}
        headers = {k: v for k, v in request.headers.items() if k.lower() not in skipped}
        if body:
            headers["content-length"] = str(len(body))
        lower = {"content-length": "Content-Length"}  # as `Exchange` looks it up
        sent = {lower.get(name, name): value for name, value in headers.items()}
        with Exchange(self._pool, request.method, str(request.url), sent) as exchange:
            if body:
                exchange.send(memoryview(body))
            data = exchange.read(_ANSWER_LIMIT_BYTES) if request.method != "HEAD" else b""
            found = list(exchange.headers.items())
            return httpx2.Response(exchange.status, headers=found, content=data)


_pool_lock = threading.Lock()
_pool_in_use: HttpPool | None = None


def _use_pool(pool: HttpPool) -> None:
    """Make huggingface_hub, which has one client for the whole process, use ``pool``."""
    global _pool_in_use  # noqa: PLW0603 - so does the library
    with _pool_lock:
        if _pool_in_use is not pool:
            set_client_factory(
                lambda: httpx2.Client(
                    transport=_PoolTransport(pool), follow_redirects=True, trust_env=False
                )
            )
            _pool_in_use = pool


@dataclass(frozen=True)
class Hub:
    """The Hub at one endpoint, with the token that huggingface_hub finds or that is given.

    Args:
        endpoint: None for huggingface_hub's own (``HF_ENDPOINT``, else huggingface.co).
        token: None for huggingface_hub's own (``HF_TOKEN``, else the stored one); empty to
            ask without a token.
        retry: For metadata calls; huggingface_hub itself does not retry ``repo_info``.
        sleep: Replaced in tests.
        note: Told before each new try, so that nobody waits in silence.
        http: Connections.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(tries=5))
    sleep: Callable[[float], None] = time.sleep
    note: Note = ignore
    http: HttpPool = field(default_factory=HttpPool)

    @property
    def api(self) -> HfApi:
        """The client of huggingface_hub.

        Raises:
            InputError: The endpoint is no URL.
        """
        _use_pool(self.http)
        if self.endpoint:
            self._check_endpoint(self.endpoint)
        return HfApi(
            endpoint=self.endpoint,
            token=False if self.token == "" else self.token,
            library_name="hf-models",
            library_version=__version__,
        )

    def resolve(
        self, repo: Repo, revision: str | None = None, selection: Selection | None = None
    ) -> Snapshot:
        """Resolve a repo to the commit that ``revision`` names now, with the selected files.

        Args:
            repo: Which repo.
            revision: Branch, tag, ``refs/pr/N`` or commit; None for ``main``.
            selection: None for everything.

        Raises:
            HubError: Repo or revision not found, gated, private, rate limited.
            TransportError: The Hub cannot be reached.
            InputError: A pattern of the selection matches nothing.
            ProtocolError: The Hub names a file outside the repo, or a malformed commit.
        """
        wanted = selection or Selection()
        name = revision or DEFAULT_REVISION
        info = self._info(repo, name)
        commit = str(info.sha)
        files = self._call(repo, name, lambda: self._list_files(repo, commit))
        kept = select(files, wanted)
        return Snapshot(
            repo=repo,
            revision=name,
            commit=commit,
            files=kept,
            selection=wanted,
            is_partial=len(kept) < len(files),
            committed_at=_utc(info.last_modified),
            license=_license(info),
            gated=getattr(info, "gated", False) or False,
            private=bool(info.private),
        )

    def source_of(self, snapshot: Snapshot, file: RepoFile) -> FileSource:
        """Return where the bytes of ``file`` come from."""
        url = hf_hub_url(
            snapshot.repo.id,
            file.path,
            repo_type=snapshot.repo.type,
            revision=snapshot.commit,
            endpoint=self.endpoint,
        )
        headers = build_hf_headers(
            token=False if self.token == "" else self.token,
            library_name="hf-models",
            library_version=__version__,
        )
        return FileSource(url, headers)

    def commit_of(self, repo: Repo, revision: str | None = None) -> str:
        """Return the commit that ``revision`` names now, without the list of files.

        Raises:
            HubError, TransportError, ProtocolError: As `resolve`.
        """
        return str(self._info(repo, revision or DEFAULT_REVISION).sha)

    def _info(self, repo: Repo, revision: str) -> Any:  # noqa: ANN401 - a union of untyped models
        check_repo_path(revision)
        info = self._call(
            repo,
            revision,
            lambda: self.api.repo_info(repo.id, revision=revision, repo_type=repo.type),
        )
        if not is_commit(str(info.sha)):
            raise ProtocolError(f"{repo.id}: want a commit of 40 hex digits, got {info.sha!r}")
        return info

    def _list_files(self, repo: Repo, commit: str) -> list[RepoFile]:
        entries = self.api.list_repo_tree(
            repo.id, recursive=True, revision=commit, repo_type=repo.type
        )
        return [_parse_file(entry) for entry in entries if isinstance(entry, HubFile)]

    def _call(self, repo: Repo, revision: str, call: Callable[[], T]) -> T:
        failures = 0
        while True:
            said = "gave no answer"
            try:
                return call()
            except errors.OfflineModeIsEnabled as error:
                raise InputError(
                    "want to ask the Hub, but HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE"
                ) from error
            except errors.HfHubHTTPError as error:
                failures, said = failures + 1, f"answered {error.response.status_code}"
                delay_s = self._delay_s(error, failures)
                if delay_s is None:
                    raise _hub_error(repo, revision, error) from error
            except (TransportError, httpx2.TransportError):
                failures += 1
                delay_s = self.retry.delay_s(failures)
                if delay_s is None:
                    raise
            wait = format_seconds(delay_s)
            self.note(f"{self.api.endpoint} {said} for {repo.id}; again in {wait}")
            self.sleep(delay_s)

    def _delay_s(self, error: errors.HfHubHTTPError, failures: int) -> float | None:
        if not is_passing(error.response.status_code):
            return None
        asked_s = parse_retry_after(error.response.headers, datetime.now(UTC))
        return self.retry.delay_s(failures, asked_s)

    def _check_endpoint(self, endpoint: str) -> None:
        try:
            parse_address(endpoint)
        except ProtocolError as error:
            # It may hold its password anywhere before the last @.
            scheme, mark, rest = endpoint.rpartition("://")
            shown = without_secrets(f"{scheme}{mark}{rest.rpartition('@')[2]}")
            raise InputError(
                f"want HF_ENDPOINT like https://huggingface.co, got {shown!r}",
                hint="an address with a user or password is refused" if "@" in endpoint else None,
            ) from error


def _parse_file(entry: HubFile) -> RepoFile:
    check_repo_path(entry.path)
    # A gated repo shows "xxxx..." instead of the hash.
    xet_hash = entry.xet_hash if entry.xet_hash and set(entry.xet_hash) != {"x"} else None
    sha256 = entry.lfs.sha256 if entry.lfs else None
    return RepoFile(entry.path, entry.size, entry.blob_id, sha256, xet_hash)


def _hub_error(repo: Repo, revision: str, error: errors.HfHubHTTPError) -> HubError:
    status = error.response.status_code
    said = f"{repo.type} {repo.id}"
    hint: str | None = None
    match error:
        case errors.GatedRepoError():
            text, hint = "is gated and the token has no access", "accept its terms on the Hub"
        case errors.RepositoryNotFoundError():
            text = "not found, or private and the token has no access"
            hint = "check the id and --repo-type, or pass a token with HF_TOKEN"
        case errors.RevisionNotFoundError():
            text, hint = f"has no revision {revision!r}", "check --revision"
        case errors.DisabledRepoError():
            text = "is disabled by the Hub"
        case _ if status == 401:
            text, hint = (
                "the Hub does not know this token (401)",
                "check HF_TOKEN, or `hf auth login`",
            )
        case _ if status == 429:
            text = "rate limited (429)"
            hint = "set HF_TOKEN: the Hub allows more to users it knows"
        case _:
            text = f"the Hub answered {status}"
    return HubError(f"{said}: {text}", status=status, hint=hint)


def _license(info: Any) -> str | None:  # noqa: ANN401 - a union of untyped models
    card = getattr(info, "card_data", None)
    found, name = getattr(card, "license", None), getattr(card, "license_name", None)
    if isinstance(found, list):  # some datasets carry several
        parts = [spdx_from_hub(str(item)) for item in found]
        return " AND ".join(part for part in parts if part) or None
    return spdx_from_hub(found, name)


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None
