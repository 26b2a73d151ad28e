"""What the stand-in serves, as data: it travels to another process as JSON."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.support.fake_hub.content import (
    Disk,
    Generated,
    Memory,
    Source,
    git_sha1,
    read_all,
    sha256_of,
)

RepoType = Literal["model", "dataset", "space"]
LFS_FROM_BYTES = 1 << 20  # what is smaller is stored in git, unless .gitattributes says so
# From the .gitattributes that the Hub writes into every new repo.
LFS_SUFFIXES = [
    ".safetensors",
    ".bin",
    ".onnx",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
    ".gguf",
    ".parquet",
    ".zip",
    ".gz",
    ".model",
    ".npz",
]


@dataclass(frozen=True)
class File:
    """One path of a commit.

    Args:
        path: Relative, with ``/``; any character but NUL.
        source: Its bytes.
        lfs: Whether it is in LFS; by default the Hub's own rule: by suffix, or by size.
        xet: Whether the Hub tells a Xet hash for it.
    """

    path: str
    source: Source
    lfs: bool | None = None
    xet: bool = False

    @property
    def size_bytes(self) -> int:
        return self.source.size_bytes

    @property
    def is_lfs(self) -> bool:
        if self.lfs is not None:
            return self.lfs
        return self.path.endswith(tuple(LFS_SUFFIXES)) or self.size_bytes >= LFS_FROM_BYTES

    @functools.cached_property
    def pointer(self) -> bytes:
        """The text that git keeps in place of an LFS file (git-lfs specification, v1)."""
        return (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{sha256_of(self.source)}\nsize {self.size_bytes}\n"
        ).encode()

    @functools.cached_property
    def git_oid(self) -> str:
        return git_sha1(self.pointer if self.is_lfs else read_all(self.source))

    @property
    def oid(self) -> str:
        """The name of the blob in a cache: sha256 for LFS, the git object id for the rest."""
        return sha256_of(self.source) if self.is_lfs else self.git_oid

    @property
    def xet_hash(self) -> str:
        return hashlib.sha256(b"xet" + sha256_of(self.source).encode()).hexdigest()


@dataclass(frozen=True)
class Commit:
    """One state of a repo; ``sha`` follows from the content unless it is given."""

    files: tuple[File, ...]
    title: str = "Upload files"
    date: str = "2024-05-06T07:08:09.000Z"
    given_sha: str | None = None

    @functools.cached_property
    def sha(self) -> str:
        if self.given_sha:
            return self.given_sha
        parts = [self.title, self.date]
        parts += [f"{file.path}\0{file.source.identity()}" for file in self.files]
        return hashlib.sha1("\n".join(parts).encode()).hexdigest()

    @functools.cached_property
    def by_path(self) -> Mapping[str, File]:
        return {file.path: file for file in sorted(self.files, key=lambda file: file.path)}


@dataclass(frozen=True)
class Repo:
    """A repo of the Hub.

    Args:
        type: ``model``, ``dataset`` or ``space``.
        id: ``org/name``, or a legacy ``name``.
        commits: Oldest first; ``main`` is the last one unless ``branches`` says other.
        branches: Name to an index into ``commits``.
        tags: The same, for tags.
        pulls: The same, for ``refs/pr/N``; the key is ``N``.
        private: Not visible without a token of ``readers``.
        gated: Visible for all, files only for ``readers``.
        disabled: Taken down by the Hub.
        readers: Users (names of ``HubSpec.users``) with access.
        card: Model card data, the front matter of README.md; read from there if it is empty.
    """

    type: RepoType
    id: str
    commits: tuple[Commit, ...]
    branches: Mapping[str, int] = field(default_factory=dict)
    tags: Mapping[str, int] = field(default_factory=dict)
    pulls: Mapping[str, int] = field(default_factory=dict)
    private: bool = False
    gated: Literal[False, "auto", "manual"] = False
    disabled: bool = False
    readers: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name in the access log and in faults: ``model:org/name``."""
        return f"{self.type}:{self.id}"

    @property
    def sha(self) -> str:
        """The commit of ``main`` when the server starts."""
        return self.commits[self.branches.get("main", -1)].sha

    def files(self) -> Mapping[str, File]:
        """Give the files of ``main`` by path."""
        return self.commits[self.branches.get("main", -1)].by_path

    def but(self, **changes: Any) -> Repo:
        """Give the same repo with other fields: ``tiny_repo().but(private=True)``."""
        return replace(self, **changes)


@dataclass(frozen=True)
class HubSpec:
    """A whole Hub.

    Args:
        repos: What it holds.
        users: Token to user name. A token that is not here is invalid: 401 everywhere.
        page_size: Entries of a page of ``/tree``; a twentieth of it with ``expand``.
        url_ttl_s: How long a signed CDN address is valid.
        resolve_cache: Answer ``/resolve`` of git files with a 307, as huggingface.co does.
        cdn_host: How the CDN is named in redirects: another host than the Hub's.
        xet_cas_url: Where ``xet-read-token`` sends clients; without it the route is 404.
        bandwidth_bytes_s: A cap for every connection to the CDN.
        port: Port of the Hub; 0 picks a free one.
    """

    repos: tuple[Repo, ...]
    users: Mapping[str, str] = field(default_factory=dict)
    page_size: int = 1000
    url_ttl_s: int = 3600
    resolve_cache: bool = False
    cdn_host: str = "localhost"
    xet_cas_url: str | None = None
    bandwidth_bytes_s: int | None = None
    port: int = 0


def make_files(source: Mapping[str, bytes | Source] | Path | str) -> tuple[File, ...]:
    """Make files from a mapping of paths, or from a directory (links are followed).

    Args:
        source: Path to bytes or to a source; or a directory, of which ``.git`` and
            ``.cache`` are left out.
    """
    if isinstance(source, Mapping):
        return tuple(
            File(path, Memory(data) if isinstance(data, bytes) else data)
            for path, data in source.items()
        )
    root = Path(source)
    if not root.is_dir():
        raise NotADirectoryError(f"want a directory with the files of a repo, got {root}")
    found = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    kept = [path for path in found if path.parts[0] not in {".git", ".cache"}]
    return tuple(File(path.as_posix(), Disk(str(root / path))) for path in kept)


def make_repo(
    id: str,  # noqa: A002  # the Hub's word
    source: Mapping[str, bytes | Source] | Path | str,
    type: RepoType = "model",  # noqa: A002
    **fields: Any,
) -> Repo:
    """Make a repo of one commit; ``fields`` are those of :class:`Repo`."""
    return Repo(type=type, id=id, commits=(Commit(make_files(source)),), **fields)


def dump_spec(spec: HubSpec) -> str:
    """Write a spec as JSON of one line."""
    return json.dumps(asdict(spec), default=lambda data: base64.b64encode(data).decode())


def parse_spec(text: str) -> HubSpec:
    """Read what :func:`dump_spec` wrote."""
    raw = json.loads(text)
    repos = tuple(_parse_repo(repo) for repo in raw.pop("repos"))
    return HubSpec(repos=repos, **raw)


def _parse_repo(raw: dict[str, Any]) -> Repo:
    commits = tuple(_parse_commit(commit) for commit in raw.pop("commits"))
    return Repo(commits=commits, readers=tuple(raw.pop("readers")), **raw)


def _parse_commit(raw: dict[str, Any]) -> Commit:
    files = tuple(
        File(source=_parse_source(file.pop("source")), **file) for file in raw.pop("files")
    )
    return Commit(files=files, **raw)


def _parse_source(raw: dict[str, Any]) -> Source:
    if "data" in raw:
        return Memory(base64.b64decode(raw["data"]))
    return Disk(**raw) if "path" in raw else Generated(**raw)
