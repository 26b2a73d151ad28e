"""Values of the Hub: a repo, its files, and a snapshot (a repo at a commit).

Nothing here does I/O.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast, get_args
from urllib.parse import unquote

from downloader.document import Document
from downloader.errors import InputError, ProtocolError

HUB_URL = "https://huggingface.co"
DEFAULT_REVISION = "main"
GIT_LIMIT_BYTES = 10 * 1024**2  # the Hub takes no larger file into git itself
REF_LIMIT_BYTES = 1024  # of a file under refs/: a commit, and what an editor adds
NO_OID = "0" * 40  # of a content that nothing names, or of a git blob that is not known

RepoType = Literal["model", "dataset", "space"]
Gated = Literal["auto", "manual"] | bool

# Source: huggingface_hub, `validate_repo_id` (utils/_validators.py).
_REPO_ID = re.compile(r"(?:[\w\-.]{1,96}/)?[\w\-.]{1,96}", re.ASCII)
_URI = re.compile(
    r"(?P<id>(?>[^/@]+(?:/[^/@]+)?))"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<path>.+))?"
)
HUB_HOSTS = frozenset({"huggingface.co", "hf.co", "hf-mirror.com"})
_FILE_PAGES = {"tree", "blob", "resolve", "raw", "blame", "edit", "commit"}
_PAGES = _FILE_PAGES | {"commits", "discussions", "settings", "viewer", "embed", "community"}
_SEPARATOR = re.compile(r"[/\\]")
# Control characters, those of ISO 8859 too, and the surrogates that stand for invalid UTF-8.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
COMMIT = BLOB_ID = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1, _SHA256 = "40 hex digits", "64 hex digits"


def is_commit(text: str) -> bool:
    """Whether ``text`` is a full commit hash: 40 lower-case hex digits."""
    return COMMIT.fullmatch(text) is not None


def is_oid(text: str) -> bool:
    """Whether ``text`` can name a cache blob: 40 hex (git sha1) or 64 hex (sha256)."""
    return bool(COMMIT.fullmatch(text) or SHA256.fullmatch(text))


def check_repo_path(path: str) -> None:
    r"""Raise unless ``path`` is a relative path that stays inside its repo.

    Raises:
        ProtocolError: The path is empty or absolute, holds ``.``, ``..``, an empty segment,
            a control character (NUL and newline among them), or what no UTF-8 can say.

    >>> check_repo_path("sub folder/config.json")
    >>> check_repo_path("../../etc/passwd")
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: unsafe file name in repo: '../../etc/passwd'
    """
    # Windows takes a backslash for a separator too, and a drive for the beginning of a path.
    leaves = ".." in _SEPARATOR.split(path) or os.path.splitdrive(path)[0]
    bad_segment = any(segment in {"", "."} for segment in path.split("/"))
    if leaves or bad_segment or _UNSAFE.search(path):
        raise ProtocolError(f"unsafe file name in repo: {path!r}")


@dataclass(frozen=True, order=True)
class Repo:
    """A Hugging Face repo: its type and its id (``org/name``, or ``name`` for old ones)."""

    type: RepoType
    id: str

    @property
    def folder_name(self) -> str:
        """Its directory in the cache.

        Source: https://huggingface.co/docs/hub/local-cache

        >>> Repo("dataset", "org/name").folder_name
        'datasets--org--name'
        """
        return "--".join([f"{self.type}s", *self.id.split("/")])

    @property
    def name(self) -> str:
        """The id without its organisation."""
        return self.id.rsplit("/", 1)[-1]

    @property
    def url_path(self) -> str:
        """The repo's path on the Hub's web site: models have no prefix."""
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    @property
    def url(self) -> str:
        """The repo's page on the Hub's web site."""
        return f"{HUB_URL}/{self.url_path}"


def parse_repo(repo_id: str, repo_type: str = "model") -> Repo:
    """Check a repo id and type that the user gave.

    Raises:
        InputError: The id is not ``org/name`` or ``name``, or the type is unknown.

    >>> parse_repo("Salesforce/codet5-small")
    Repo(type='model', id='Salesforce/codet5-small')
    >>> parse_repo("https://huggingface.co/a/b")
    Traceback (most recent call last):
        ...
    downloader.errors.InputError: want a repo id like org/name, got 'https://huggingface.co/a/b'
    """
    if repo_type not in get_args(RepoType):
        raise InputError(f"want repo type model, dataset or space, got {repo_type!r}")
    forbidden = "--" in repo_id or ".." in repo_id or repo_id.endswith(".git")
    edges = any(part[:1] in "-." or part[-1:] in "-." for part in repo_id.split("/"))
    if not _REPO_ID.fullmatch(repo_id) or forbidden or edges:
        raise InputError(f"want a repo id like org/name, got {repo_id!r}")
    return Repo(cast("RepoType", repo_type), repo_id)


@dataclass(frozen=True)
class RepoName:
    """The parts of a pasted repo name.

    Args:
        repo: The repo.
        revision: The revision in the name, or None.
        path: Of a file in the repo, or of a folder with ``/`` at its end, where it has one.
    """

    repo: Repo
    revision: str | None = None
    path: str | None = None


def parse_repo_name(
    text: str, repo_type: str = "model", hosts: Collection[str] = HUB_HOSTS
) -> RepoName:
    """Parse a repo id in the forms that people paste.

    Taken are ``org/name``, ``datasets/org/name``, ``hf://[datasets/]org/name[@revision][/path]``
    and the address of a page or a file on the Hub.

    Args:
        text: Of the user; blanks around it and a slash at its end are dropped.
        repo_type: Of the flag; the text's own takes the place of the default ``model``.
        hosts: The hosts of the Hub's addresses.

    Raises:
        InputError: It is none of these, or the type contradicts ``repo_type``.

    Source: huggingface_hub 2.4, hf_file_system.py and ``hf download``.

    >>> parse_repo_name("hf://datasets/org/name@v1/data/a.csv")
    RepoName(repo=Repo(type='dataset', id='org/name'), revision='v1', path='data/a.csv')
    >>> parse_repo_name("https://huggingface.co/org/name/tree/main/onnx")
    RepoName(repo=Repo(type='model', id='org/name'), revision='main', path='onnx/')
    >>> parse_repo_name("org/name:v1")
    Traceback (most recent call last):
        ...
    downloader.errors.InputError: want a repo id like org/name, got 'org/name:v1'
    """
    name = text.strip()
    scheme, mark, rest = name.partition("://")
    if not mark:
        kind, segments = _split_type(name.rstrip("/"))
        _check_separators(text, name)
        return RepoName(parse_repo("/".join(segments), _agreed(kind, repo_type)))
    if scheme.lower() == "hf":
        return _parse_uri(rest, repo_type)
    if scheme.lower() in {"http", "https"}:
        return _parse_page(text, rest, repo_type, hosts)
    raise InputError(f"want a repo id like org/name, got {text!r}")


def _parse_uri(rest: str, repo_type: str) -> RepoName:
    kind, segments = _split_type(rest.rstrip("/"))
    found = _URI.fullmatch("/".join(segments))
    if found is None:
        raise InputError(f"want hf://org/name@revision/path, got {'hf://' + rest!r}")
    path = unquote(found["path"] or "") or None
    return RepoName(
        parse_repo(found["id"], _agreed(kind, repo_type)),
        unquote(found["revision"]) if found["revision"] else None,
        f"{path}/" if path and rest.endswith("/") else path,
    )


def _parse_page(text: str, rest: str, repo_type: str, hosts: Collection[str]) -> RepoName:
    host, _, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    if host.lower().removeprefix("www.") not in hosts:
        raise InputError(
            f"want a repo id like org/name, got an address of {host!r}",
            hint="set HF_ENDPOINT, if that is a mirror of the Hub",
        )
    kind, segments = _split_type(unquote(path).rstrip("/"))
    at = next((i for i, name in enumerate(segments) if i and name in _PAGES), len(segments))
    repo_id = "/".join(segments[: min(at, 2)]).removesuffix(".git")
    repo = parse_repo(repo_id, _agreed(kind, repo_type))
    page, more = segments[at : at + 1], segments[at + 1 :]
    if not more or page[0] not in _FILE_PAGES:
        if at == len(segments) > 2:
            raise InputError(f"want the address of a repo or a file of the Hub, got {text!r}")
        return RepoName(repo)
    length = 3 if more[:2] in (["refs", "pr"], ["refs", "convert"]) else 1
    file = "/".join(more[length:])
    is_folder = page[0] == "tree" and file
    return RepoName(repo, "/".join(more[:length]), f"{file}/" if is_folder else file or None)


def _split_type(path: str) -> tuple[str | None, list[str]]:
    """Return the type that a path begins with, and the other segments."""
    segments = path.split("/")
    kind = segments[0].removesuffix("s")
    if len(segments) > 1 and f"{kind}s" == segments[0] and kind in get_args(RepoType):
        return kind, segments[1:]
    return None, segments


def _agreed(kind: str | None, repo_type: str) -> str:
    if kind is not None and repo_type not in {"model", kind}:
        raise InputError(f"the name is of a {kind}, but --repo-type says {repo_type}")
    return kind or repo_type


def _check_separators(text: str, name: str) -> None:
    """Raise for what other programs write after an id, and say what to write here."""
    for mark, what in (("@", "revision"), (":", "tag or revision")):
        repo_id, found, rest = name.partition(mark)
        if found and _REPO_ID.fullmatch(repo_id) and rest:
            raise InputError(
                f"want a repo id like org/name, got {text!r}",
                hint=f"write the {what} as: {repo_id} --revision {rest}",
            )


@dataclass(frozen=True)
class RepoFile:
    """One file of a snapshot.

    Args:
        path: Relative to the repo, ``/`` between segments.
        size_bytes: Of the content, not of an LFS pointer.
        blob_id: The git blob's sha1, 40 hex; for an LFS file, of its pointer.
        sha256: 64 hex for LFS and Xet files, None for files that git itself holds.
        xet_hash: 64 hex where the Hub names one.
    """

    path: str
    size_bytes: int
    blob_id: str
    sha256: str | None = None
    xet_hash: str | None = None

    @classmethod
    def of_oid(cls, path: str, size_bytes: int, oid: str) -> "RepoFile":
        """Return the file of which a cache says the oid alone: a sha256, or a git sha1."""
        if len(oid) == 64:
            return cls(path, size_bytes, NO_OID, sha256=oid)
        return cls(path, size_bytes, oid)

    @property
    def oid(self) -> str:
        """The name of the content in the cache: sha256 if there is one, else git sha1."""
        return self.sha256 or self.blob_id

    def to_json(self) -> dict[str, Any]:
        """Return the file as `RepoFile.from_json` reads it."""
        document: dict[str, Any] = {
            "path": self.path,
            "size": self.size_bytes,
            "blob_id": self.blob_id,
        }
        optional = {"sha256": self.sha256, "xet_hash": self.xet_hash}
        return document | {key: value for key, value in optional.items() if value}

    @classmethod
    def from_document(cls, document: Document) -> "RepoFile":
        """Parse what `to_json` returned; untrusted, because it comes from an image.

        Raises:
            ProtocolError: A key is missing or has a value that cannot be.
        """
        sha256 = document.text("sha256", SHA256, _SHA256) if "sha256" in document else None
        file = cls(
            path=document.text("path"),
            size_bytes=document.integer("size"),
            blob_id=document.text("blob_id", BLOB_ID, _SHA1),
            sha256=sha256,
            xet_hash=document.text("xet_hash") if "xet_hash" in document else None,
        )
        check_repo_path(file.path)
        return file


@dataclass(frozen=True)
class Selection:
    """The files of a repo that the user asked for; empty means all of them.

    Args:
        names: Exact paths, or a path that ends in ``/`` for a whole folder.
        include: Patterns as in ``hf download --include``.
        exclude: Patterns as in ``hf download --exclude``.
    """

    names: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether nothing was asked for in particular."""
        return not (self.names or self.include or self.exclude)


DESCRIPTION_LIMIT_CHARS = 200  # one line of a page
DESCRIPTION = re.compile(
    rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{{1,{DESCRIPTION_LIMIT_CHARS}}}"
)
WANT_DESCRIPTION = f"one line of at most {DESCRIPTION_LIMIT_CHARS} characters"
TASK = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
WANT_TASK = "the Hub's name of a task"
LIBRARY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
WANT_LIBRARY = "the Hub's name of a library"


@dataclass(frozen=True)
class Snapshot:
    """A repo at a commit, and those of its files that were asked for.

    Args:
        repo: The repo.
        revision: As the user named it: a branch, a tag or a commit.
        commit: The 40 hex digits that ``revision`` resolved to.
        files: Sorted by path.
        selection: The requested files.
        is_partial: Whether ``selection`` left any file of the commit out.
        committed_at: The commit's date, in UTC.
        license: An SPDX identifier where the model card names one.
        gated: As the Hub says: False, "auto" or "manual".
        private: Whether the Hub shows the repo to its owners only.
        description: One line of the model card, at most `DESCRIPTION_LIMIT_CHARS`.
        task: The Hub's ``pipeline_tag``: ``text-generation``.
        parameters: Number of parameters in the safetensors files, where the Hub counted them.
        library: The library that loads it: the Hub's ``library_name``, or ``gguf`` for GGUF files.
    """

    repo: Repo
    revision: str
    commit: str
    files: tuple[RepoFile, ...]
    selection: Selection = field(default_factory=Selection)
    is_partial: bool = False
    committed_at: datetime | None = None
    license: str | None = None
    gated: Gated = False
    private: bool = False
    description: str | None = None
    task: str | None = None
    parameters: int | None = None
    library: str | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, as a download without a cache would count them."""
        return sum(file.size_bytes for file in self.files)

    @property
    def blobs(self) -> dict[str, int]:
        """Size in bytes of each distinct content, by oid, sorted by oid."""
        return dict(sorted({file.oid: file.size_bytes for file in self.files}.items()))

    def to_json(self) -> dict[str, Any]:
        """Return the snapshot as `Snapshot.from_json` reads it."""
        told = {
            "description": self.description,
            "task": self.task,
            "parameters": self.parameters,
            "library": self.library,
        }
        return {
            "repo_type": self.repo.type,
            "repo_id": self.repo.id,
            "revision": self.revision,
            "commit": self.commit,
            "committed_at": self.committed_at.isoformat() if self.committed_at else None,
            "license": self.license,
            "gated": self.gated,
            "private": self.private,
            "partial": self.is_partial,
            "names": list(self.selection.names),
            "include": list(self.selection.include),
            "exclude": list(self.selection.exclude),
            # Only where known: what a plan says of other repos stays byte for byte as it was.
            **{key: value for key, value in told.items() if value is not None},
            "files": [file.to_json() for file in self.files],
        }

    @classmethod
    def from_json(cls, value: object, where: str = "snapshot") -> "Snapshot":
        """Parse a snapshot; untrusted, because it comes from an image.

        Args:
            value: A result of `to_json`.
            where: Its place in its file, for messages.

        Raises:
            ProtocolError: A key is missing or has a value that cannot be.
        """
        document = Document(value, where)
        try:
            repo = parse_repo(document.text("repo_id"), document.text("repo_type"))
        except InputError as error:
            raise ProtocolError(f"{where}.repo_id: {error.message}") from error
        return cls(
            repo=repo,
            revision=parse_revision(document.text("revision")),
            commit=document.text("commit", COMMIT, _SHA1),
            files=tuple(RepoFile.from_document(file) for file in document.objects("files")),
            selection=Selection(*map(document.texts, ("names", "include", "exclude"))),
            is_partial=document.flag("partial"),
            committed_at=parse_date(document, "committed_at"),
            license=document.text("license") if "license" in document else None,
            gated=parse_gated(document),
            private=document.flag("private"),
            description=_optional(document, "description", DESCRIPTION, WANT_DESCRIPTION),
            task=_optional(document, "task", TASK, WANT_TASK),
            parameters=document.integer("parameters") if "parameters" in document else None,
            library=_optional(document, "library", LIBRARY, WANT_LIBRARY),
        )


def _optional(document: Document, key: str, pattern: re.Pattern[str], want: str) -> str | None:
    return document.text(key, pattern, want) if key in document else None


def parse_revision(text: str) -> str:
    """Check a revision, which becomes a file name under ``refs/``.

    Raises:
        ProtocolError: It would leave the directory.

    >>> parse_revision("refs/pr/1")
    'refs/pr/1'
    """
    check_repo_path(text)
    return text


def parse_gated(document: Document) -> Gated:
    """Return the value of the key ``gated``, False where it is missing.

    Raises:
        ProtocolError: It is none.
    """
    value = document.get("gated")
    if value is None or isinstance(value, bool) or value in {"auto", "manual"}:
        return cast("Gated", value or False)
    raise document.failure("gated", "true, false, 'auto' or 'manual'")


def parse_date(document: Document, key: str) -> datetime | None:
    """Return a date of ISO 8601, None where it is missing.

    Raises:
        ProtocolError: It is none.
    """
    if key not in document:
        return None
    try:
        return datetime.fromisoformat(document.text(key))
    except ValueError as error:
        raise document.failure(key, "an ISO 8601 date") from error
