"""Who asks, what they may see, and the error answers: the Hub's own codes.

Source: https://huggingface.co/docs/huggingface_hub/package_reference/utilities, errors.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from tests.support.fake_hub.http_message import BadRequestError, Reply, Request

if TYPE_CHECKING:
    from tests.support.fake_hub.hub_state import HubState
    from tests.support.fake_hub.spec import Commit, Repo

INVALID_TOKEN = "Invalid credentials in Authorization header"
DISABLED = "Access to this resource is disabled."


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


def find_caller(state: HubState, request: Request) -> Caller:
    """Know the caller by the token; one that is not known is refused everywhere."""
    value = request.headers.get("authorization")
    if value is None:
        return Caller(None)
    scheme, _, token = value.partition(" ")
    name = state.spec.users.get(token)
    if scheme != "Bearer" or name is None:
        raise Refused(401, "", INVALID_TOKEN)
    return Caller(name)


def find_repo(state: HubState, caller: Caller, type_: str, parts: list[str]) -> Repo:
    """Find a repo, or refuse: what is private looks as if it were not there."""
    repo = None
    if not any("/" in part for part in parts):
        repo = state.find_repo(f"{type_}:{'/'.join(parts)}")
    if repo is None or (repo.private and not caller.may_read(repo)):
        if caller.name is None:
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        raise Refused(404, "RepoNotFound", "Repository not found")
    if repo.disabled:
        raise Refused(403, "", DISABLED)
    return repo


def find_commit(state: HubState, repo: Repo, revision: str) -> Commit:
    """Find a commit by any name of it, or refuse."""
    commit = state.find_commit(repo, revision)
    if commit is None:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision!a}")
    return commit


def check_gate(repo: Repo, caller: Caller) -> None:
    """Refuse files of a gated repo to those who were not let in."""
    if not repo.gated or caller.may_read(repo):
        return
    what = f"Access to {repo.type} {repo.id} is restricted"
    if caller.name is None:
        raise Refused(401, "GatedRepo", f"{what}. You must have access and be authenticated.")
    raise Refused(403, "GatedRepo", f"{what} and you are not in the authorized list.")


def entry_not_found(commit: Commit, path: str) -> Refused:
    """Make the answer for a path that the commit does not have."""
    return Refused(404, "EntryNotFound", f"{path!a} does not exist", X_Repo_Commit=commit.sha)


def check_request(request: Request, methods: tuple[str, ...], *params: str) -> dict[str, str]:
    """Refuse other methods and other parameters; give the parameters."""
    if request.method not in methods:
        raise Refused(404, "", f"Cannot {request.method} {request.path}")
    if unknown := set(request.params) - set(params):
        raise BadRequestError(f"want only the parameters {params}, got also {sorted(unknown)}")
    return request.params
