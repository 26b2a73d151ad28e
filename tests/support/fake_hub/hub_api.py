"""The Hub's origin: its routes, and its API of metadata.

Source: https://huggingface.co/docs/hub/api and https://huggingface.co/spec.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote

from tests.support.fake_hub.http_message import BadRequestError, Reply, Request
from tests.support.fake_hub.hub_access import (
    Caller,
    Refused,
    check_gate,
    check_request,
    entry_not_found,
    find_caller,
    find_commit,
    find_repo,
)
from tests.support.fake_hub.hub_content import TYPES, HubContent
from tests.support.fake_hub.hub_json import info_json, refs_json, tree_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fake_hub.accesslog import Access
    from tests.support.fake_hub.hub_state import HubState
    from tests.support.fake_hub.spec import Repo

CURSOR_BYTES = 8


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
        self._content = HubContent(state)
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
        if len(segments) > 4 and segments[-3] == "tree" and not segments[-1]:
            segments = segments[:-1]  # a mirror that asks for the folder ""
        if "" in segments or {".", ".."} & set(segments):
            raise Refused(404, "", "Not found")
        caller = Caller(None, trusted=True) if trusted else find_caller(self._state, request)
        if segments == ["api", "whoami-v2"]:
            return self._whoami(request, caller)
        if segments[:2] == ["api", "resolve-cache"] and segments[2:3]:
            return self._content.resolve_cache(request, caller, entry, segments[2:])
        if segments[0] == "api" and segments[1:] and segments[1] in TYPES:
            return self._api(request, caller, TYPES[segments[1]], segments[2:])
        if "resolve" in segments:
            return self._content.resolve(request, caller, entry, segments)
        raise Refused(404, "", f"Sorry, we can't find the page: {request.path}")

    # /api

    def _whoami(self, request: Request, caller: Caller) -> Reply:
        check_request(request, ("GET",))
        if caller.name is None:
            raise Refused(401, "", "Invalid username or password.")
        access = {"displayName": "test", "role": "read"}
        auth = {"type": "access_token", "accessToken": access}
        names = {"id": caller.name, "name": caller.name, "fullname": caller.name}
        return json_reply({"type": "user", **names, "orgs": [], "auth": auth})

    def _api(self, request: Request, caller: Caller, type_: str, rest: list[str]) -> Reply:
        size = 1 if len(rest) == 1 or (len(rest) > 1 and rest[1] in self._verbs) else 2
        asked = Asked(
            request, find_repo(self._state, caller, type_, rest[:size]), caller, rest[size:]
        )
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
        params = check_request(asked.request, ("GET", "HEAD"), "blobs", "securityStatus")
        commit = find_commit(self._state, asked.repo, revision)
        return json_reply(info_json(asked.repo, commit, blobs=_is_true(params.get("blobs"))))

    def _refs(self, asked: Asked) -> Reply:
        params = check_request(asked.request, ("GET",), "include_prs")
        _check_length(asked, 0, 0)
        refs = self._state.refs(asked.repo)
        return json_reply(refs_json(refs, pulls=_is_true(params.get("include_prs"))))

    def _tree(self, asked: Asked) -> Reply:
        names = ("recursive", "expand", "cursor", "limit")
        params = check_request(asked.request, ("GET",), *names)
        _check_length(asked, 1, None)
        commit = find_commit(self._state, asked.repo, asked.rest[0])
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
        check_request(asked.request, ("POST",))
        _check_length(asked, 1, 1)
        commit = find_commit(self._state, asked.repo, asked.rest[0])
        paths, expand = _parse_paths(asked.request)
        everything = tree_json(commit, "", recursive=True, expand=expand, redact=False) or []
        return json_reply([entry for entry in everything if entry["path"] in paths])

    def _xet_token(self, asked: Asked) -> Reply:
        check_request(asked.request, ("GET",))
        _check_length(asked, 1, 1)
        find_commit(self._state, asked.repo, asked.rest[0])
        check_gate(asked.repo, asked.caller)
        url = self._state.spec.xet_cas_url
        if url is None:
            raise Refused(404, "", "Xet is not enabled")
        until = int(time.time()) + 900
        token = f"xet_{secrets.token_hex(8)}"
        reply = json_reply({"casUrl": url, "accessToken": token, "exp": until})
        reply.headers |= {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token}
        reply.headers["X-Xet-Token-Expiration"] = str(until)
        return reply


def json_reply(value: Any) -> Reply:
    """Make a 200 of JSON."""
    return Reply.text(200, json.dumps(value), Content_Type="application/json; charset=utf-8")


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
