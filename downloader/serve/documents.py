"""The Hub's JSON documents, as clients parse them. Pure.

No document names Xet: a client that reads of it asks for a token that only the Hub can give.

Source: huggingface_hub 2.4, hf_api.py (``ModelInfo``, ``RepoFile``, ``RepoFolder``, ``GitRefs``);
llama.cpp, common/download.cpp, for ``ggufFile``; Ollama, server/images.go, for its manifest.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from downloader.hub.repo import NO_OID, RepoFile, RepoType, Snapshot, is_commit
from downloader.serve.card import Card
from downloader.serve.catalogue import Entry, Loaded, Version
from downloader.serve.routes import Refusal, entry_not_found

_EPOCH = "1970-01-01T00:00:00.000Z"
# By a file that only repos of this library have; the first that is there.
_LIBRARY_FILES = {
    "modules.json": "sentence-transformers",
    "model_index.json": "diffusers",
    "adapter_config.json": "peft",
    "config.json": "transformers",
}
_NOT_TAGS = {
    *("license_name", "license_link", "library_name", "pipeline_tag", "pretty_name", "sdk"),
}
_TAG_PREFIXES = {"datasets": "dataset"}
_TAG_QUERIES = {"filter", "tags", "library", "pipeline_tag"}
_LIBRARIES = {".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx"}

OLLAMA_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OLLAMA_CONFIG = "application/vnd.docker.container.image.v1+json"
OLLAMA_MODEL = "application/vnd.ollama.image.model"
OLLAMA_PROJECTOR = "application/vnd.ollama.image.projector"
# What hf.co itself takes where no quantization is named, best first.
_QUANTS = ("Q4_K_M", "Q4_0", "Q8_0")


def pointer(file: RepoFile) -> bytes:
    """Return the LFS pointer that git holds in the place of a large file.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\n"
    return f"{text}size {file.size_bytes}\n".encode()


def blob_id(file: RepoFile) -> str:
    """Return the git blob's sha1; for an LFS file, of its pointer."""
    if file.blob_id != NO_OID or file.sha256 is None:
        return file.blob_id
    data = pointer(file)
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def summary(entry: Entry) -> dict[str, Any]:
    """Return what lists say of a repo: everything that is known without its files."""
    date = entry.created.removesuffix("Z").partition(".")[0] + ".000Z" if entry.created else _EPOCH
    tags = [f"license:{entry.license.lower()}"] if entry.license else []
    document: dict[str, Any] = {
        "_id": hashlib.sha256(entry.repo.url_path.encode()).hexdigest()[:24],
        "id": entry.repo.id,
        "author": entry.repo.id.partition("/")[0] if "/" in entry.repo.id else None,
        "sha": entry.commit,
        "lastModified": date,
        "createdAt": date,
        # Every client that is answered has access: none must ask for a token.
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        "cardData": {"license": entry.license.lower()} if entry.license else {},
    }
    if entry.repo.type == "model":
        document["modelId"] = entry.repo.id
    return document


def info(
    entry: Entry, loaded: Loaded, card: Card | None = None, *, blobs: bool = False
) -> dict[str, Any]:
    """Return what ``/api/models/<id>`` answers.

    Args:
        entry: Of the commit.
        loaded: Its files.
        card: The head of its README.
        blobs: Whether sizes and hashes of the files are wanted.
    """
    document = summary(entry)
    files = loaded.snapshot.files
    card = dict(card or {})
    if entry.license:
        card.setdefault("license", entry.license.lower())
    document["cardData"] = card
    if entry.repo.type == "model":
        library = card.get("library_name") or _library_of(loaded)
        known = {"library_name": library, "pipeline_tag": card.get("pipeline_tag")}
        document |= {key: value for key, value in known.items() if value}
    suffixes = {f".{file.path.rpartition('.')[2]}" for file in files}
    names = {_LIBRARIES[suffix] for suffix in suffixes & set(_LIBRARIES)}
    tags = [*sorted(names), *_tags_of(card, entry.repo.type), *document["tags"]]
    tags += [document[key] for key in ("library_name", "pipeline_tag") if key in document]
    document["tags"] = list(dict.fromkeys(tags))
    document["usedStorage"] = sum(loaded.snapshot.blobs.values())
    document["siblings"] = [_sibling(file, blobs=blobs) for file in files]
    if entry.repo.type == "model":
        document["config"] = {}
    if entry.repo.type == "space":
        document["sdk"] = card.get("sdk", "static")
    return document


def _library_of(loaded: Loaded) -> str | None:
    found = (library for name, library in _LIBRARY_FILES.items() if name in loaded.files)
    return next(found, None)


def _tags_of(card: Card, kind: RepoType) -> list[str]:
    """Return the tags that the Hub makes of a card."""
    tags: list[str] = []
    for key, value in card.items():
        if key in _NOT_TAGS:
            continue
        prefix = "" if key == "tags" else f"{_TAG_PREFIXES.get(key, key)}:"
        if kind == "model" and key == "language":
            prefix = ""
        tags += [prefix + item for item in ([value] if isinstance(value, str) else value)]
    return tags


def expanded(document: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """Return the keys that ``expand`` names, and those that every answer has.

    What a repo lacks is left out, as on the Hub. So is a key that this server does not know, which
    the Hub refuses: its keys become more, and a client of next year is to load all the same.
    """
    keys = {"_id", "id", "modelId", *wanted} - {"xetEnabled"}
    return {key: document[key] for key in sorted(keys) if key in document}


def _sibling(file: RepoFile, *, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": file.path}
    if blobs:
        sibling |= {"blobId": blob_id(file), "size": file.size_bytes}
        sibling |= _lfs(file, "sha256")
    return sibling


def _lfs(file: RepoFile, oid_key: str) -> dict[str, Any]:
    """Return the entry of an LFS file under ``lfs``; of any other file nothing."""
    if not file.sha256:
        return {}
    pointer_size = len(pointer(file))
    return {"lfs": {oid_key: file.sha256, "size": file.size_bytes, "pointerSize": pointer_size}}


def tree(
    entry: Entry, loaded: Loaded, folder: str, *, recursive: bool, expand: bool
) -> list[dict[str, Any]]:
    """Return the files and folders below a folder, in the order of their paths.

    Raises:
        Refusal: There is no such folder.
    """
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    if folder and folder not in loaded.folders:
        raise entry_not_found(folder)
    below = [file for file in loaded.snapshot.files if file.path.startswith(prefix)]
    for file in below:
        inner = file.path[len(prefix) :].split("/")
        depth = len(inner) - 1 if recursive else min(1, len(inner) - 1)
        for count in range(1, depth + 1):
            path = prefix + "/".join(inner[:count])
            if path not in found:
                found[path] = _folder_entry(loaded, path)
        if recursive or len(inner) == 1:
            found[file.path] = file_entry(file)
    entries = [found[path] for path in sorted(found)]
    if expand:
        entries = [item | {"lastCommit": _commit_of(entry)} for item in entries]
    return entries


def file_entry(file: RepoFile) -> dict[str, Any]:
    """Return a file as a tree lists it."""
    return {
        "type": "file",
        "oid": blob_id(file),
        "size": file.size_bytes,
        "path": file.path,
        **_lfs(file, "oid"),
    }


def _folder_entry(loaded: Loaded, path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": loaded.folders[path], "size": 0, "path": path}


def paths_info(
    entry: Entry, loaded: Loaded, paths: Iterable[str], *, expand: bool
) -> list[dict[str, Any]]:
    """Return what is known of each path; those that do not exist are left out."""
    found = []
    for path in dict.fromkeys(item.strip("/") for item in paths):
        if path in loaded.files:
            found.append(file_entry(loaded.files[path]))
        elif path in loaded.folders:
            found.append(_folder_entry(loaded, path))
    return [item | {"lastCommit": _commit_of(entry)} for item in found] if expand else found


def refs(revisions: Mapping[str, str]) -> dict[str, Any]:
    """Return the branches of a repo; an image does not say which of its names is a tag."""
    branches, requests, converts = [], [], []
    for name, commit in revisions.items():
        ref = {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
        if name.startswith("refs/pr/"):
            requests.append(ref | {"ref": name, "name": name.removeprefix("refs/")})
        elif name.startswith("refs/convert/"):
            converts.append(ref | {"ref": name, "name": name.removeprefix("refs/convert/")})
        elif not is_commit(name):
            branches.append(ref)
    return {"tags": [], "branches": branches, "pullRequests": requests, "converts": converts}


def _commit_of(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.commit,
        "title": f"{entry.repo.id} at {entry.commit[:7]}",
        "date": summary(entry)["lastModified"],
    }


def commits(entry: Entry) -> list[dict[str, Any]]:
    """Return the history: an image knows one commit of it."""
    return [{**_commit_of(entry), "message": "", "authors": []}]


def discussions() -> dict[str, Any]:
    """Return no discussions."""
    return {"discussions": [], "count": 0, "start": 0, "numClosedDiscussions": 0}


def search(versions: Iterable[Version], query: Mapping[str, str]) -> list[Version]:
    """Return the repos that ``search`` and ``author`` ask for, in the order of ``sort``."""
    found = [version for version in versions if _matches(version.entry, query)]
    if query.get("sort") in {"createdAt", "lastModified"}:
        is_rising = query.get("direction") == "1"
        found.sort(key=lambda version: version.entry.created, reverse=not is_rising)
    return found


def _matches(entry: Entry, query: Mapping[str, str]) -> bool:
    owner, _, name = entry.repo.id.rpartition("/")
    return (
        all(word in entry.repo.id.lower() for word in query.get("search", "").lower().split())
        and query.get("author", owner) == owner
        and query.get("model_name", name) in entry.repo.id
        # To those who are answered nothing is gated.
        and query.get("gated", "false").lower() in {"false", "0"}
    )


def wanted_tags(pairs: Iterable[tuple[str, str]]) -> set[str]:
    """Return the tags that a query for a list asks for.

    >>> sorted(wanted_tags([("filter", "gguf"), ("filter", "en,mit"), ("search", "x")]))
    ['en', 'gguf', 'mit']
    """
    found = (value for name, value in pairs if name in _TAG_QUERIES)
    return {tag for value in found for tag in value.split(",") if tag}


def page_of(
    items: Sequence[Any], limit: str | None, cursor: str | None, most: int
) -> tuple[Sequence[Any], int | None]:
    """Return one page of a list, and the cursor of the next one, None at the end.

    Raises:
        Refusal: Limit or cursor is no number.

    >>> page_of("abcde", "2", "2", 100)
    ('cd', 4)
    """
    texts = [limit or str(most), cursor or "0"]
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
        raise Refusal(400, "limit and cursor must be numbers")
    count, start = min(max(1, int(texts[0])), most), int(texts[1])
    following = start + count
    return items[start:following], following if following < len(items) else None


# What llama.cpp and Ollama ask for as org/name:quant


def choose_gguf(snapshot: Snapshot, tag: str) -> RepoFile:
    """Return the GGUF file that a quantization names; of a split one its first part.

    Raises:
        Refusal: There is none.
    """
    models = [
        file
        for file in snapshot.files
        if file.path.lower().endswith(".gguf") and file.sha256 and not _is_projector(file)
    ]
    wanted = _QUANTS if tag.lower() in {"latest", "main"} else (tag,)
    for quant in wanted:
        # Model-Q4_K_M.gguf, model.q4_k_m.gguf, Q4_K_M/model-Q4_K_M-00001-of-00002.gguf
        named = re.compile(rf"(?:^|[-./]){re.escape(quant)}[-.]", re.IGNORECASE)
        for file in models:
            if file.path == quant or named.search(file.path):
                return file
    if wanted is _QUANTS and models:
        return models[0]
    raise entry_not_found(tag)


def _is_projector(file: RepoFile) -> bool:
    return "mmproj" in file.path.rpartition("/")[2].lower()


def ollama_config(file: RepoFile) -> bytes:
    """Return the config that Ollama keeps with a model."""
    document = {
        "model_format": "gguf",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{file.sha256}"]},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def digest_hex(data: bytes) -> str:
    """Return the sha256 of a small document."""
    return hashlib.sha256(data).hexdigest()


def gguf_manifest(snapshot: Snapshot, tag: str) -> dict[str, Any]:
    """Return the manifest of ``org/name:quant``: a registry's for Ollama, ``ggufFile`` for others.

    Raises:
        Refusal: The repo has no such GGUF file.
    """
    file = choose_gguf(snapshot, tag)
    config = ollama_config(file)
    digest = f"sha256:{digest_hex(config)}"
    layers = [_gguf_layer(file, OLLAMA_MODEL)]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OLLAMA_MANIFEST,
        "config": {"mediaType": OLLAMA_CONFIG, "digest": digest, "size": len(config)},
        "ggufFile": _sibling(file, blobs=True),
    }
    projector = next((f for f in snapshot.files if _is_projector(f) and f.sha256), None)
    if projector is not None:
        layers.append(_gguf_layer(projector, OLLAMA_PROJECTOR))
        document["mmprojFile"] = _sibling(projector, blobs=True)
    return document | {"layers": layers}


def _gguf_layer(file: RepoFile, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{file.sha256}", "size": file.size_bytes}
