"""The documents that the Hub's API answers with; pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tests.support.fake_hub.content import read_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.fake_hub.spec import Commit, File, Repo

CARD_LIMIT_BYTES = 64 * 1024  # front matter is at the top


def info_json(repo: Repo, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    """Make the answer of ``/api/{type}s/{id}`` and of its ``/revision/{rev}``."""
    info: dict[str, Any] = {
        "_id": hashlib.sha1(repo.key.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repo.commits[0].date,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": repo.disabled,
        "downloads": 0,
        "likes": 0,
        "tags": _tags(repo, commit),
        "cardData": _card(repo, commit),
        "siblings": [_sibling(file, blobs=blobs) for file in commit.by_path.values()],
        "usedStorage": sum(file.size_bytes for file in commit.files),
    }
    if repo.type == "model":
        info["modelId"] = repo.id
    if repo.type == "space":
        info["sdk"] = "static"
    return info


def _sibling(file: File, *, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": file.path}
    if blobs:
        sibling |= {"blobId": file.git_oid, "size": file.size_bytes}
        if file.is_lfs:
            sibling["lfs"] = {
                "sha256": file.oid,
                "size": file.size_bytes,
                "pointerSize": len(file.pointer),
            }
    return sibling


def _tags(repo: Repo, commit: Commit) -> list[str]:
    license_ = _card(repo, commit).get("license")
    return [f"license:{license_}", "region:us"] if license_ else ["region:us"]


def _card(repo: Repo, commit: Commit) -> dict[str, Any]:
    readme = commit.by_path.get("README.md")
    if repo.card or readme is None:
        return dict(repo.card)
    text = read_all(readme.source, 0, min(readme.size_bytes, CARD_LIMIT_BYTES)).decode(
        errors="replace"
    )
    # Of the YAML only scalars: license, name, link. That is what anybody here reads.
    head = text.split("\n---", 1)[0].splitlines() if text.startswith("---\n") else []
    pairs = (line.split(": ", 1) for line in head if ": " in line and not line.startswith(" "))
    return {name: value.strip() for name, value in pairs}


def refs_json(refs: dict[str, str], *, pulls: bool) -> dict[str, Any]:
    """Make the answer of ``/refs``; pull requests only when they are asked for."""
    answer: dict[str, Any] = {
        "branches": _refs_under("refs/heads/", refs),
        "converts": _refs_under("refs/convert/", refs),
        "tags": _refs_under("refs/tags/", refs),
    }
    if pulls:
        answer["pullRequests"] = [
            {**ref, "name": ref["ref"]} for ref in _refs_under("refs/pr/", refs)
        ]
    return answer


def _refs_under(prefix: str, refs: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
        for ref, sha in refs.items()
        if ref.startswith(prefix)
    ]


def tree_json(
    commit: Commit, under: str, *, recursive: bool, expand: bool, redact: bool
) -> list[dict[str, Any]] | None:
    """Make the whole list of ``/tree``; None where the commit has no such directory.

    Args:
        commit: The commit.
        under: A directory, or empty for the root.
        recursive: All levels, not only one.
        expand: With the last commit of every entry.
        redact: Stars for Xet hashes: the caller may not read a gated repo.
    """
    prefix = f"{under}/" if under else ""
    paths = [path for path in commit.by_path if path.startswith(prefix)]
    if under and not paths:
        return None
    directories = sorted({one for path in paths for one in _parents(path) if one != under})
    names = [name for name in directories if name.startswith(prefix)] + paths
    if not recursive:
        names = [name for name in names if "/" not in name[len(prefix) :]]
    entries = [_entry(commit, name, redact) for name in names]
    if expand:
        last = {"id": commit.sha, "title": commit.title, "date": commit.date}
        entries = [{**entry, "lastCommit": last} for entry in entries]
    return entries


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _entry(commit: Commit, path: str, redact: bool) -> dict[str, Any]:
    file = commit.by_path.get(path)
    if file is None:
        oid = hashlib.sha1(f"{commit.sha}/{path}".encode()).hexdigest()
        return {"type": "directory", "path": path, "size": 0, "oid": oid}
    return tree_entry(file, redact=redact)


def tree_entry(file: File, *, redact: bool) -> dict[str, Any]:
    """Make the entry of one file."""
    entry: dict[str, Any] = {
        "type": "file",
        "oid": file.git_oid,
        "size": file.size_bytes,
        "path": file.path,
    }
    if file.is_lfs:
        entry["lfs"] = {
            "oid": file.oid,
            "size": file.size_bytes,
            "pointerSize": len(file.pointer),
        }
    if file.xet:
        entry["xetHash"] = "*" * 64 if redact else file.xet_hash
    return entry
