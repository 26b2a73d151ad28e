"""Repo and revision to a snapshot: the only module that asks huggingface_hub anything.

The package is imported when the Hub is first asked: `push`, `copy` and `login` run without it.

The commit is resolved with ``repo_info``, never through ``snapshot_download``, which falls
back to a stale cached snapshot without a word when the Hub answers 429 or 503.

Source: https://huggingface.co/docs/hub/api; huggingface_hub 2.4, hf_api.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, get_args
from urllib.parse import quote

from downloader import __version__
from downloader.document import Document, objects_of
from downloader.errors import HfModelsError, HubError, InputError, ProtocolError, without_secrets
from downloader.hub.licenses import spdx_from_hub
from downloader.hub.repo import (
    BLOB_ID,
    COMMIT,
    DEFAULT_REVISION,
    DESCRIPTION,
    DESCRIPTION_LIMIT_CHARS,
    HUB_URL,
    LIBRARY,
    SHA256,
    TASK,
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
from downloader.hub.resolver import FileSource
from downloader.hub.selection import select
from downloader.net.address import Address, parse_address
from downloader.net.http import HttpPool
from downloader.net.retry import RetryPolicy
from downloader.progress import Note, ignore

if TYPE_CHECKING:
    from huggingface_hub import HfApi, errors
    from huggingface_hub.hf_api import RepoFile as HubFile


_LISTING_LIMIT_FILES = 5_000_000  # the Hub recommends fewer than 100,000 in a repo

T = TypeVar("T")


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

    endpoint: str = HUB_URL
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
            repo: The repo; where the Hub redirects it, the snapshot has its real id.
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
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return FileSource(self._address(quote(path)).url, headers)

    def commit_of(self, repo: Repo, revision: str | None = None) -> str:
        """Return the commit that ``revision`` names now, without the list of files.

        Raises:
            HubError, TransportError, ProtocolError: As `resolve`.
        """
        return self._info(repo, revision or DEFAULT_REVISION).commit

    def _address(self, path: str) -> Address:
        # A malformed one may hold its password anywhere before the last @.
        scheme, mark, rest = self.endpoint.rpartition("://")
        try:
            base = parse_address(self.endpoint)
        except ProtocolError as error:
            shown = without_secrets(f"{scheme}{mark}{rest.rpartition('@')[2]}")
            raise InputError(
                f"want HF_ENDPOINT like {HUB_URL}, got {shown!r}",
                hint="an address with a user or password is refused" if "@" in rest else None,
            ) from error
        return replace(base, path=f"{base.path.rstrip('/')}/{path}", query=None)

    @property
    def _api(self) -> "HfApi":
        from huggingface_hub import HfApi  # noqa: PLC0415

        return HfApi(
            endpoint=self._address("").url.rstrip("/"),
            token=self.token or False,  # it looks for no other one
            library_name="hf-models",
            library_version=__version__,
        )

    def _info(self, repo: Repo, revision: str) -> Snapshot:
        """Return the snapshot without its files."""
        check_repo_path(revision)
        card: dict[str, Any] = {}
        real = repo

        def check(answer: object, address: Address) -> None:
            nonlocal card, real
            real, card = _check_info(Document(answer, str(address)), repo)

        info = self._call(
            repo,
            revision,
            check,
            lambda: self._api.repo_info(repo.id, revision=revision, repo_type=repo.type),
        )
        if real != repo:
            self.note(f"{repo.type} {repo.id} is {real.id} on the Hub; using that name")
        return Snapshot(
            repo=real,
            revision=revision,
            commit=str(info.sha),
            files=(),
            committed_at=_utc(info.last_modified),
            license=_license(card),
            gated=getattr(info, "gated", False) or False,
            private=bool(info.private),
            description=_description(card, getattr(info, "description", None)),
            task=_task(getattr(info, "pipeline_tag", None)),
            parameters=counted.total if (counted := getattr(info, "safetensors", None)) else None,
            library=_library(getattr(info, "library_name", None), getattr(info, "tags", None)),
        )

    def _list_files(self, repo: Repo, commit: str) -> list[RepoFile]:
        count = 0

        def check(answer: object, address: Address) -> None:
            nonlocal count
            entries = objects_of(answer, str(address))
            for entry in entries:
                _check_entry(entry)
            count += len(entries)
            if count > _LISTING_LIMIT_FILES:
                raise ProtocolError(f"{repo.id}: more than {_LISTING_LIMIT_FILES} files")

        def list_files() -> list[RepoFile]:
            from huggingface_hub.hf_api import RepoFile as HubFile  # noqa: PLC0415

            entries = self._api.list_repo_tree(
                repo.id, recursive=True, revision=commit, repo_type=repo.type
            )
            return [_parse_file(entry) for entry in entries if isinstance(entry, HubFile)]

        return self._call(repo, commit, check, list_files)

    def _call(
        self,
        repo: Repo,
        revision: str,
        check: Callable[[object, Address], None],
        call: Callable[[], T],
    ) -> T:
        """Make a call of huggingface_hub, its requests over our connections."""
        if self.offline:
            raise InputError(
                f"the Hub is not asked while {self.offline} is set", hint=f"unset {self.offline}"
            )
        from huggingface_hub import errors  # noqa: PLC0415

        from downloader.hub.api import Call, answered_by  # noqa: PLC0415

        try:
            with answered_by(Call(self.http, self.retry, self.note, repo.id, check)):
                return call()
        except errors.HfHubHTTPError as error:
            raise self._hub_error(repo, revision, error) from error

    def _hub_error(self, repo: Repo, revision: str, error: "errors.HfHubHTTPError") -> HubError:
        from huggingface_hub import errors  # noqa: PLC0415

        status = error.response.status_code
        hint: str | None = None
        match error:
            case errors.GatedRepoError():
                text, hint = "is gated and the token has no access", "accept its terms on the Hub"
            case errors.RepositoryNotFoundError() if not (status == 401 and self.token):
                text, hint = "not found, or private and the token has no access", self._other(repo)
            case errors.RevisionNotFoundError():
                text, hint = f"has no revision {revision!r}", "check --revision"
            case errors.DisabledRepoError():
                text = "is disabled by the Hub"
            case _ if status == 401 and self.token:
                text = "the Hub does not know this token (401)"
                hint = "check HF_TOKEN, or `hf auth login`"
            case _:
                text = f"the Hub answered {status}"
        return HubError(f"{repo.type} {repo.id}: {text}", status=status, hint=hint)

    def _other(self, repo: Repo) -> str:
        """Return the hint for a repo that was not found: it may be of another type."""
        from huggingface_hub import errors  # noqa: PLC0415

        from downloader.hub.api import Call, answered_by  # noqa: PLC0415

        call = Call(self.http, RetryPolicy(tries=1), ignore, repo.id, lambda *_: None)
        for other in get_args(RepoType):
            if other == repo.type:
                continue
            try:
                with answered_by(call):
                    self._api.repo_info(repo.id, repo_type=other)
            except (errors.HfHubHTTPError, HfModelsError):
                continue
            return f"{repo.id} is a {other}: add --repo-type {other}"
        return "check the id, or pass a token with HF_TOKEN"


def _check_info(info: Document, asked: Repo) -> tuple[Repo, dict[str, Any]]:
    """Check what ``repo_info`` is made from; return the repo's real id, and its model card."""
    info.text("sha", COMMIT, "40 hex digits")
    info.flag("private")
    parse_date(info, "lastModified")
    parse_gated(info)
    if info.get("safetensors"):
        counted = info.object("safetensors")
        counted.integer("total")
        counted.object("parameters")
    card = info.get("cardData")
    return _parse_id(info, asked), card if isinstance(card, dict) else {}


def _check_entry(entry: Document) -> None:
    """Check what an entry of ``list_repo_tree`` is made from."""
    entry.text("path")
    if entry.get("type") != "file":
        return
    entry.integer("size")
    entry.text("oid", BLOB_ID, "40 hex digits")
    if "lfs" in entry:
        lfs = entry.object("lfs")
        lfs.text("oid", SHA256, "64 hex digits")
        lfs.integer("size")


def _parse_id(info: Document, asked: Repo) -> Repo:
    if "id" not in info:
        return asked
    try:
        return parse_repo(info.text("id"), asked.type)
    except InputError as error:
        raise info.failure("id", "the id of a repo") from error


def _parse_file(entry: "HubFile") -> RepoFile:
    xet_hash = entry.xet_hash  # a gated repo shows asterisks
    return RepoFile(
        path=entry.path,
        size_bytes=entry.lfs.size if entry.lfs else entry.size,
        blob_id=entry.blob_id,
        sha256=entry.lfs.sha256 if entry.lfs else None,
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


def _description(card: dict[str, Any], summary: object) -> str | None:
    r"""Return one line of a model card; a dataset's is the Hub's own summary of it.

    >>> _description({"description": " A small\n model. "}, None)
    'A small model.'
    """
    for text in (card.get("short_description"), card.get("description"), summary):
        line = " ".join(text.split()) if isinstance(text, str) else ""
        if len(line) > DESCRIPTION_LIMIT_CHARS:
            line = f"{line[: DESCRIPTION_LIMIT_CHARS - 1].rstrip()}…"
        if DESCRIPTION.fullmatch(line):
            return line
    return None


def _task(found: object) -> str | None:
    """Return the Hub's name of a task; authors may write another, which says nothing here."""
    return found if isinstance(found, str) and TASK.fullmatch(found) else None


def _library(name: object, tags: object) -> str | None:
    """Return what loads a model: the Hub's name of a library, ``gguf`` for GGUF files alone."""
    known = set(map(str, tags)) if isinstance(tags, list) else set()
    if "gguf" in known and known.isdisjoint({"safetensors", "pytorch"}):
        return "gguf"
    return name if isinstance(name, str) and LIBRARY.fullmatch(name) else None


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None
