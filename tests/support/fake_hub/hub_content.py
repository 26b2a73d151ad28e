"""The Hub's ``/resolve``: git files themselves, LFS files by a redirect to the CDN."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.support.fake_hub.http_message import BadRequestError, Reply, Request
from tests.support.fake_hub.hub_access import (
    Caller,
    Refused,
    check_gate,
    check_request,
    entry_not_found,
    find_commit,
    find_repo,
)
from tests.support.fake_hub.ranges import make_file_reply

if TYPE_CHECKING:
    from tests.support.fake_hub.accesslog import Access
    from tests.support.fake_hub.hub_state import HubState
    from tests.support.fake_hub.spec import Commit, File, Repo

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


class HubContent:
    """Answers the requests for the content of files."""

    def __init__(self, state: HubState) -> None:
        self._state = state

    def resolve(
        self, request: Request, caller: Caller, entry: Access, segments: list[str]
    ) -> Reply:
        """Answer ``/{id}/resolve/{revision}/{path}``."""
        at = segments.index("resolve")
        typed = segments[0] in TYPES and at > 1
        type_ = TYPES[segments[0]] if typed else "model"
        if segments[0] == "models" or at - typed not in {1, 2} or len(segments) < at + 3:
            raise Refused(404, "", f"Sorry, we can't find the page: {request.path}")
        check_request(request, ("GET", "HEAD"), "download")
        repo = find_repo(self._state, caller, type_, segments[typed:at])
        commit = find_commit(self._state, repo, segments[at + 1])
        file = self._file(repo, commit, caller, entry, segments[at + 2 :])
        return self._file_reply(request, repo, commit, file)

    def _file(
        self, repo: Repo, commit: Commit, caller: Caller, entry: Access, parts: list[str]
    ) -> File:
        if any("/" in part for part in parts):
            raise BadRequestError("want raw slashes between the directories of a path")
        path = "/".join(parts)
        entry.file = f"{repo.key}/{path}"
        check_gate(repo, caller)
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

    def resolve_cache(
        self, request: Request, caller: Caller, entry: Access, rest: list[str]
    ) -> Reply:
        """Answer ``/api/resolve-cache/{type}s/{id}/{sha}/{path}``."""
        check_request(request, ("GET", "HEAD"), "download")
        type_ = TYPES.get(rest[0])
        # The commit is the only segment that can be a sha: ids are at most two words.
        at = next((at for at in (2, 3) if rest[at : at + 1] and len(rest[at]) == 40), 0)
        if type_ is None or not at or len(rest) < at + 2:
            raise Refused(404, "", f"Sorry, we can't find the page: {request.path}")
        repo = find_repo(self._state, caller, type_, rest[1:at])
        commit = find_commit(self._state, repo, rest[at])
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
