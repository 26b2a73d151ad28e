"""Request paths of the Hub, parsed: the document, the repo, the revision and the file.

Pure. A path is split before it is decoded, because clients quote the slash of a revision
(``refs%2Fpr%2F1``). Repo ids are found by the marker behind them (``/resolve/``, ``/tree/``),
because old ones (``gpt2``) have no namespace.

Source: huggingface_hub 2.4, hf_api.py and file_download.py; llama.cpp, common/download.cpp;
Ollama's registry client.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from downloader.errors import InputError
from downloader.hub.repo import DEFAULT_REVISION, Repo, RepoType, parse_repo
from downloader.net.ranges import ByteRange

_TYPES: Mapping[str, RepoType] = {"models": "model", "datasets": "dataset", "spaces": "space"}
# What follows the id in /api/models/<id>/…, and whether a revision follows that.
_DOCUMENTS = {
    "revision": True,
    "tree": True,
    "paths-info": True,
    "commits": True,
    "refs": False,
    "discussions": False,
    "auth-check": False,
}
_CONTENTS = ("resolve", "raw")
_LONG_REFS = ("pr", "convert")  # refs/pr/1, refs/convert/parquet: some clients quote no slash
_RANGE = re.compile(r"bytes=(?P<first>\d{0,19})-(?P<last>\d{0,19})")


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the program
    """An answer that is no: status, the Hub's error code and a message.

    Source: huggingface_hub 2.4, utils/_http.py, ``hf_raise_for_status``.
    """

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}
        if code:
            self.headers["X-Error-Code"] = code
        # A client's own text comes back in it, and a header takes neither NUL nor line breaks.
        plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in message[:500])
        self.headers["X-Error-Message"] = plain.strip()


def repo_not_found() -> Refusal:
    """Return the answer that huggingface_hub raises as RepositoryNotFoundError."""
    return Refusal(404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> Refusal:
    """Return the answer that huggingface_hub raises as RevisionNotFoundError."""
    return Refusal(404, f"Invalid rev id: {revision[:100]}", "RevisionNotFound")


def entry_not_found(path: str) -> Refusal:
    """Return the answer that huggingface_hub raises as EntryNotFoundError."""
    return Refusal(404, f"Entry not found: {path[:200]}", "EntryNotFound")


@dataclass(frozen=True)
class Route:
    """A request path, parsed.

    Args:
        name: ``info``, ``tree``, ``paths-info``, ``refs``, ``commits``, ``discussions``,
            ``auth-check``, ``resolve``, ``raw``, ``list``, ``whoami``, ``manifest``, ``blob``,
            ``page``, ``healthz``, ``metrics``, ``version``.
        repo: Of which repo; for ``list`` its type alone counts.
        revision: A branch, tag or commit.
        path: A file or folder of the repo; for ``blob`` and ``manifest`` the digest or tag.
    """

    name: str
    repo: Repo | None = None
    revision: str = DEFAULT_REVISION
    path: str = ""


_FIXED = {
    "/": "page",
    "/healthz": "healthz",
    "/metrics": "metrics",
    "/v2/": "version",
    "/v2": "version",
    "/api/whoami-v2": "whoami",
}


def parse_route(raw_path: str) -> Route:  # noqa: PLR0911 - one a kind of path
    """Return what a request path asks for.

    Args:
        raw_path: As it was sent, percent-encoded, without the query.

    Raises:
        Refusal: Nothing is there.

    >>> parse_route("/api/models/org/name/revision/refs%2Fpr%2F1")
    Route(name='info', repo=Repo(type='model', id='org/name'), revision='refs/pr/1', path='')
    >>> parse_route("/gpt2/resolve/main/sub/x.json")
    Route(name='resolve', repo=Repo(type='model', id='gpt2'), revision='main', path='sub/x.json')
    >>> parse_route("/datasets/org/raw/resolve/main/x.csv")
    Route(name='resolve', repo=Repo(type='dataset', id='org/raw'), revision='main', path='x.csv')
    >>> parse_route("/../etc/passwd")
    Traceback (most recent call last):
        ...
    downloader.serve.routes.Refusal: Repository not found
    """
    if raw_path in _FIXED:
        return Route(_FIXED[raw_path])
    parts = [unquote(part) for part in raw_path.strip("/").split("/")]
    match parts:
        case ["api", kind] if kind in _TYPES:
            return Route("list", Repo(_TYPES[kind], ""))
        case ["api", kind, *rest] if kind in _TYPES:
            return _document(_TYPES[kind], rest)
        case ["v2", *rest]:
            return _registry(rest)
        case [kind, *rest] if kind in {"datasets", "spaces"}:
            return _content(_TYPES[kind], rest)
        case ["models", *rest]:
            return _content("model", rest)
        case ["api", *_]:
            raise Refusal(404, "Not found")
        case _:
            return _content("model", parts)


def _document(kind: RepoType, parts: Sequence[str]) -> Route:
    for at in _id_lengths(parts, _DOCUMENTS):
        name, rest = parts[at], parts[at + 1 :]
        if _DOCUMENTS[name] == bool(rest):
            repo = _repo(parts[:at], kind)
            if not rest:
                return Route(name, repo)
            revision, path = _revision(rest)
            return Route("info" if name == "revision" else name, repo, revision, path)
    if len(parts) > 2:  # a document that the Hub has, of a repo that may be here
        raise Refusal(404, "Not found")
    return Route("info", _repo(parts, kind))


def _content(kind: RepoType, parts: Sequence[str]) -> Route:
    for at in _id_lengths(parts, _CONTENTS):
        if len(parts) > at + 1:
            revision, path = _revision(parts[at + 1 :])
            return Route(parts[at], _repo(parts[:at], kind), revision, path)
    raise repo_not_found()


def _id_lengths(parts: Sequence[str], markers: Container[str]) -> Iterator[int]:
    """Yield after how many parts a marker ends a repo's id; a repo may have a marker's name."""
    return (at for at in (2, 1) if len(parts) > at and parts[at] in markers)


def _registry(parts: Sequence[str]) -> Route:
    """Parse what llama.cpp and Ollama ask for ``hf.co/org/name:quant``."""
    if len(parts) >= 3 and parts[-2] in {"manifests", "blobs"}:
        name = "manifest" if parts[-2] == "manifests" else "blob"
        return Route(name, _repo(parts[:-2], "model"), path=parts[-1])
    raise Refusal(404, "Not found")


def _revision(parts: Sequence[str]) -> tuple[str, str]:
    is_long = len(parts) > 2 and parts[0] == "refs" and parts[1] in _LONG_REFS
    count = 3 if is_long else 1
    if len(parts) < count or not parts[0]:
        return DEFAULT_REVISION, ""
    return "/".join(parts[:count]), "/".join(parts[count:]).strip("/")


def _repo(parts: Sequence[str], kind: RepoType) -> Repo:
    try:
        return parse_repo("/".join(parts), kind)
    except InputError as error:
        raise repo_not_found() from error


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """Return the bytes that a ``Range`` header asks for, None for all of them.

    Several ranges, another unit or a malformed header mean the whole file, as RFC 9110 allows.

    Raises:
        Refusal: 416, nothing of the file is in the range.

    Source: RFC 9110, section 14.

    >>> parse_range("bytes=0-0", 10), parse_range("bytes=-3", 10), parse_range("bytes=4-", 10)
    (ByteRange(start=0, end=1), ByteRange(start=7, end=10), ByteRange(start=4, end=10))
    >>> parse_range("bytes=0-1,5-6", 10), parse_range("bytes=5-4", 10)
    (None, None)
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or not (found["first"] or found["last"]):
        return None
    if not found["first"]:
        start, end = max(0, size_bytes - int(found["last"])), size_bytes
    else:
        start = int(found["first"])
        end = min(size_bytes, int(found["last"]) + 1) if found["last"] else size_bytes
        if found["last"] and int(found["last"]) < start:
            return None
    if start >= size_bytes or start >= end:
        raise Refusal(416, "Range not satisfiable", Content_Range=f"bytes */{size_bytes}")
    return ByteRange(start, end)
