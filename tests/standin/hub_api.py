"""The Hub's origin: metadata, trees, refs, and /resolve.

Source: https://huggingface.co/docs/hub/api and https://huggingface.co/spec.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote

from tests.standin.hub_json import info_json, refs_json, tree_json
from tests.standin.ranges import make_file_reply
from tests.standin.wire import BadRequestError, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standin.accesslog import Access
    from tests.standin.hub_state import HubState
    from tests.standin.spec import Commit, File, Repo

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
INVALID_TOKEN = "Invalid credentials in Authorization header"
DISABLED = "Access to this resource is disabled."
CURSOR_BYTES = 8


class Refused(Exception):  # noqa: N818  # it is an answer, not an error
    """The answer is an error; carries it."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        if code:
            headers["X_Error_Code"] = code
        body = json.dumps({"error": message})
        self.reply = Reply.text(
            status, body, X_Error_Message=message, Content_Type="application/json", **headers
        )


class Caller(NamedTuple):
    """Who asks: ``name`` is None without a token; ``trusted`` skips every check."""

    name: str | None
    trusted: bool = False

    def may_read(self, repo: Repo) -> bool:
        return self.trusted or self.name in repo.readers


class Asked(NamedTuple):
    """A request, its repo found and its caller known."""

    request: Request
    repo: Repo
    caller: Caller
    rest: list[str]


class HubApi:
    """Answers the requests to the Hub's origin."""

    def __init__(self, state: HubState) -> None:
        self._state = state
        self._verbs: dict[str, Callable[[Asked], Reply]] = {
            "revision": self._revision,
            "tree": self._tree,
            "refs": self._refs,
            "paths-info": self._paths_info,
            "xet-read-token": self._xet_token,
        }

    def handle(self, request: Request, entry: Access, *, trusted: bool = False) -> Reply:
        """Answer one request; an unknown route is 404 whatever its parameters are."""
        try:
            return self._route(request, entry, trusted)
        except Refused as refused:
            return refused.reply

    def _route(self, request: Request, entry: Access, trusted: bool) -> Reply:
        segments = request.segments
        if "" in segments or {".", ".."} & set(segments):
            raise Refused(404, "", "Not found")
        caller = Caller(None, trusted=True) if trusted else self._caller(request)
        if segments == ["api", "whoami-v2"]:
            return self._whoami(request, caller)
        if segments[:2] == ["api", "resolve-cache"] and segments[2:3]:
            return self._resolve_cache(request, caller, entry, segments[2:])
        if segments[0] == "api" and segments[1:] and segments[1] in TYPES:
            return self._api(request, caller, TYPES[segments[1]], segments[2:])
        if "resolve" in segments:
            return self._resolve(request, caller, entry, segments)
        raise Refused(404, "", f"Sorry, we can't find the page: {request.path}")

    # Who asks, and what they may see

    def _caller(self, request: Request) -> Caller:
        value = request.headers.get("authorization")
        if value is None:
            return Caller(None)
        scheme, _, token = value.partition(" ")
        name = self._state.spec.users.get(token)
        if scheme != "Bearer" or name is None:
            raise Refused(401, "", INVALID_TOKEN)
        return Caller(name)

    def _repo(self, caller: Caller, type_: str, parts: list[str]) -> Repo:
        repo = None
        if not any("/" in part for part in parts):
            repo = self._state.find_repo(f"{type_}:{'/'.join(parts)}")
        if repo is None or (repo.private and not caller.may_read(repo)):
            if caller.name is None:
                raise Refused(401, "RepoNotFound", "Invalid username or password.")
            raise Refused(404, "RepoNotFound", "Repository not found")
        if repo.disabled:
            raise Refused(403, "", DISABLED)
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = self._state.find_commit(repo, revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision!a}")
        return commit

    def _check_gate(self, repo: Repo, caller: Caller) -> None:
        if not repo.gated or caller.may_read(repo):
            return
        what = f"Access to {repo.type} {repo.id} is restricted"
        if caller.name is None:
            raise Refused(401, "GatedRepo", f"{what}. You must have access and be authenticated.")
        raise Refused(403, "GatedRepo", f"{what} and you are not in the authorized list.")

    # /api

    def _whoami(self, request: Request, caller: Caller) -> Reply:
        _check(request, ("GET",))
        if caller.name is None:
            raise Refused(401, "", "Invalid username or password.")
        access = {"displayName": "test", "role": "read"}
        auth = {"type": "access_token", "accessToken": access}
        names = {"id": caller.name, "name": caller.name, "fullname": caller.name}
        return json_reply({"type": "user", **names, "orgs": [], "auth": auth})

    def _api(self, request: Request, caller: Caller, type_: str, rest: list[str]) -> Reply:
        size = 1 if len(rest) == 1 or (len(rest) > 1 and rest[1] in self._verbs) else 2
        asked = Asked(request, self._repo(caller, type_, rest[:size]), caller, rest[size:])
        if not asked.rest:
            return self._info(asked, "main")
        verb = self._verbs.get(asked.rest[0])
        if verb is None:
            raise Refused(404, "", f"Sorry, we can't find the page: {request.path}")
        return verb(asked._replace(rest=asked.rest[1:]))

    def _revision(self, asked: Asked) -> Reply:
        _check_length(asked, 1, 1)
        return self._info(asked, asked.rest[0])

    def _info(self, asked: Asked, revision: str) -> Reply:
        params = _check(asked.request, ("GET", "HEAD"), "blobs", "securityStatus")
        commit = self._commit(asked.repo, revision)
        return json_reply(info_json(asked.repo, commit, blobs=_is_true(params.get("blobs"))))

    def _refs(self, asked: Asked) -> Reply:
        params = _check(asked.request, ("GET",), "include_prs")
        _check_length(asked, 0, 0)
        refs = self._state.refs(asked.repo)
        return json_reply(refs_json(refs, pulls=_is_true(params.get("include_prs"))))

    def _tree(self, asked: Asked) -> Reply:
        names = ("recursive", "expand", "cursor", "limit")
        params = _check(asked.request, ("GET",), *names)
        _check_length(asked, 1, None)
        commit = self._commit(asked.repo, asked.rest[0])
        expand = _is_true(params.get("expand"))
        entries = tree_json(
            commit,
            "/".join(asked.rest[1:]),
            recursive=_is_true(params.get("recursive")),
            expand=expand,
            redact=bool(asked.repo.gated) and not asked.caller.may_read(asked.repo),
        )
        if entries is None:
            raise entry_not_found(commit, "/".join(asked.rest[1:]))
        return self._page(asked.request, entries, 20 if expand else 1)

    def _page(self, request: Request, entries: list[dict[str, Any]], part: int) -> Reply:
        params = request.params
        most = max(1, self._state.spec.page_size // part)
        limit = params.pop("limit", str(most))
        if not limit.isdecimal() or int(limit) < 1:
            raise BadRequestError(f"want limit of at least 1, got {limit!r}")
        size = min(most, int(limit))
        start = _parse_cursor(params.pop("cursor", None))
        reply = json_reply(entries[start : start + size])
        if start + size < len(entries):
            params |= {"limit": str(size), "cursor": _make_cursor(start + size)}
            query = "&".join(f"{name}={quote(value)}" for name, value in params.items())
            url = f"{self._state.endpoint}{request.path}?{query}"
            reply.headers["Link"] = f'<{url}>; rel="next"'
        return reply

    def _paths_info(self, asked: Asked) -> Reply:
        _check(asked.request, ("POST",))
        _check_length(asked, 1, 1)
        commit = self._commit(asked.repo, asked.rest[0])
        paths, expand = _parse_paths(asked.request)
        everything = tree_json(commit, "", recursive=True, expand=expand, redact=False) or []
        return json_reply([entry for entry in everything if entry["path"] in paths])

    def _xet_token(self, asked: Asked) -> Reply:
        _check(asked.request, ("GET",))
        _check_length(asked, 1, 1)
        self._commit(asked.repo, asked.rest[0])
        self._check_gate(asked.repo, asked.caller)
        url = self._state.spec.xet_cas_url
        if url is None:
            raise Refused(404, "", "Xet is not enabled")
        until = int(time.time()) + 900
        token = f"xet_{secrets.token_hex(8)}"
        reply = json_reply({"casUrl": url, "accessToken": token, "exp": until})
        reply.headers |= {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token}
        reply.headers["X-Xet-Token-Expiration"] = str(until)
        return reply

    # Content

    def _resolve(
        self, request: Request, caller: Caller, entry: Access, segments: list[str]
    ) -> Reply:
        at = segments.index("resolve")
        typed = segments[0] in TYPES and at > 1
        type_ = TYPES[segments[0]] if typed else "model"
        if segments[0] == "models" or at - typed not in {1, 2} or len(segments) < at + 3:
            raise Refused(404, "", f"Sorry, we can't find the page: {request.path}")
        _check(request, ("GET", "HEAD"), "download")
        repo = self._repo(caller, type_, segments[typed:at])
        commit = self._commit(repo, segments[at + 1])
        file = self._file(repo, commit, caller, entry, segments[at + 2 :])
        return self._file_reply(request, repo, commit, file)

    def _file(
        self, repo: Repo, commit: Commit, caller: Caller, entry: Access, parts: list[str]
    ) -> File:
        if any("/" in part for part in parts):
            raise BadRequestError("want raw slashes between the directories of a path")
        path = "/".join(parts)
        entry.file = f"{repo.key}/{path}"
        self._check_gate(repo, caller)
        file = commit.by_path.get(path)
        if file is None:
            raise entry_not_found(commit, path)
        return file

    def _file_reply(self, request: Request, repo: Repo, commit: Commit, file: File) -> Reply:
        if file.is_lfs:
            return Reply(302, self._lfs_headers(repo, commit, file))
        if self._state.spec.resolve_cache:
            target = f"{repo.type}s/{repo.id}/{commit.sha}/{quote(file.path)}"
            headers = {**_git_headers(commit, file), "X-Linked-Size": str(file.size_bytes)}
            headers["Location"] = f"/api/resolve-cache/{target}"
            return Reply(307, headers)
        return make_file_reply(request, file.source, _git_headers(commit, file))

    def _resolve_cache(
        self, request: Request, caller: Caller, entry: Access, rest: list[str]
    ) -> Reply:
        _check(request, ("GET", "HEAD"), "download")
        type_ = TYPES.get(rest[0])
        # The commit is the only segment that can be a sha: ids are at most two words.
        at = next((at for at in (2, 3) if rest[at : at + 1] and len(rest[at]) == 40), 0)
        if type_ is None or not at or len(rest) < at + 2:
            raise Refused(404, "", f"Sorry, we can't find the page: {request.path}")
        repo = self._repo(caller, type_, rest[1:at])
        commit = self._commit(repo, rest[at])
        file = self._file(repo, commit, caller, entry, rest[at + 1 :])
        return make_file_reply(request, file.source, _git_headers(commit, file))

    def _lfs_headers(self, repo: Repo, commit: Commit, file: File) -> dict[str, str]:
        headers = {
            "Location": self._state.signed_url(repo, file),
            "X-Repo-Commit": commit.sha,
            "X-Linked-ETag": f'"{file.oid}"',
            "X-Linked-Size": str(file.size_bytes),
            "Accept-Ranges": "bytes",
        }
        if file.xet:
            route = f"/api/{repo.type}s/{repo.id}/xet-read-token/{commit.sha}"
            headers["X-Xet-Hash"] = file.xet_hash
            headers["Link"] = f'<{self._state.endpoint}{route}>; rel="xet-auth"'
        return headers


def _git_headers(commit: Commit, file: File) -> dict[str, str]:
    return {
        "ETag": f'"{file.git_oid}"',
        "X-Repo-Commit": commit.sha,
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(file.path.split('/')[-1])}",
    }


def entry_not_found(commit: Commit, path: str) -> Refused:
    """Make the answer for a path that the commit does not have."""
    return Refused(404, "EntryNotFound", f"{path!a} does not exist", X_Repo_Commit=commit.sha)


def json_reply(value: Any) -> Reply:
    """Make a 200 of JSON."""
    return Reply.text(200, json.dumps(value), Content_Type="application/json; charset=utf-8")


def _check(request: Request, methods: tuple[str, ...], *params: str) -> dict[str, str]:
    if request.method not in methods:
        raise Refused(404, "", f"Cannot {request.method} {request.path}")
    if unknown := set(request.params) - set(params):
        raise BadRequestError(f"want only the parameters {params}, got also {sorted(unknown)}")
    return request.params


def _check_length(asked: Asked, least: int, most: int | None) -> None:
    if len(asked.rest) < least or (most is not None and len(asked.rest) > most):
        raise Refused(404, "", f"Sorry, we can't find the page: {asked.request.path}")


def _is_true(value: str | None) -> bool:
    if value not in {None, "true", "True", "1", "false", "False", "0"}:
        raise BadRequestError(f"want true or false, got {value!r}")
    return value in {"true", "True", "1"}


def _make_cursor(start: int) -> str:
    return start.to_bytes(CURSOR_BYTES).hex()


def _parse_cursor(value: str | None) -> int:
    try:
        return int.from_bytes(bytes.fromhex(value or ""))
    except ValueError:
        raise BadRequestError(f"want a cursor of this server, got {value!r}") from None


def _parse_paths(request: Request) -> tuple[set[str], bool]:
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            raw = json.loads(request.body)
            return set(raw["paths"]), bool(raw.get("expand", False))
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequestError(f"want JSON with paths: {error!r}") from None
    form = parse_qs(request.body.decode(), keep_blank_values=True)
    return set(form.get("paths", [])), _is_true(form.get("expand", ["false"])[0])
