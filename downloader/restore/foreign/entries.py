"""Paths of an image that restoring reads: parts of Hugging Face caches, and whiteouts."""

import re
from dataclasses import dataclass
from typing import Literal

from downloader.errors import HfModelsError, ProtocolError
from downloader.hub.repo import Repo, is_oid, parse_repo
from downloader.oci.digest import Digest

# The first one in a path counts: a repo may hold a file models--a--b/blobs/x of its own.
_IN_REPO = re.compile(
    r"(?:^|/)((?P<type>model|dataset|space)s--(?P<id>[^/]+))/"
    r"(?P<area>blobs|refs|snapshots|trees|plans|signatures)/(?P<rest>.+)\Z",
    re.DOTALL,
)
# huggingface_hub 2 keeps what came through Xet once for all repos; repos link to it.
_SHARED = re.compile(r"(?:^|/)blobs/[0-9a-f]{2}/[0-9a-f]{64}\Z")

UNNAMED = Repo("model", "unnamed")  # of plain files of which an image says no repo

# Where modelcars, and images of format 2, show files under their own names.
MODELS_DIRS = ("models", "datasets", "spaces")

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

Area = Literal["blobs", "refs", "snapshots", "trees", "plans", "signatures"]


@dataclass(frozen=True)
class Place:
    """The place of a path in a cache.

    Args:
        root: The path up to and with the repo folder.
        folder: The repo folder's name.
        area: The part of the repo folder.
        rest: The path in that part.
    """

    root: str
    folder: str
    area: str
    rest: str

    @property
    def oid(self) -> str | None:
        """The cache blob that the path is, if it is one."""
        return self.rest if self.area == "blobs" and is_oid(self.rest) else None


def place_of(path: str) -> Place | None:
    """Return where in a cache ``path`` lies, None for what is in none.

    >>> place_of("root/hub/models--a--b/refs/main").rest
    'main'
    """
    found = _IN_REPO.search(path)
    if found is None:
        return None
    return Place(path[: found.end(1)], found[1], found["area"], found["rest"])


def is_shared_blob(path: str) -> bool:
    """Whether ``path`` can be in the library's shared store."""
    return _SHARED.search(path) is not None


def parse_folder(name: str) -> Repo:
    """Return the repo whose folder is called ``name``.

    Raises:
        ProtocolError: None is.

    >>> parse_folder("datasets--org--name")
    Repo(type='dataset', id='org/name')
    """
    kind, _, rest = name.partition("s--")
    try:
        repo = parse_repo(rest.replace("--", "/", 1), kind)
    except HfModelsError as error:
        raise ProtocolError(f"folder {name[:200]!r}: {error.message}") from error
    if repo.folder_name != name:
        raise ProtocolError(f"want the folder of a repo, got {name[:200]!r}")
    return repo


@dataclass(frozen=True, slots=True)
class InLayer:
    """Content that can be read by range from an uncompressed layer."""

    layer: Digest
    offset: int


@dataclass(frozen=True, slots=True)
class InStream:
    """Content of a layer that can only be read from its first byte to its last.

    Args:
        layer: The layer's digest, or its path in an archive that is a stream itself.
        offset: Of the first byte in the uncompressed tar.
        oids: Hashes of the bytes: the sha256, the git sha1, or both; a cache blob that was
            not read yet is believed to be what its name says.
    """

    layer: str
    offset: int
    oids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InMemory:
    """Content of a few bytes that was read on the way."""

    data: bytes


Content = InLayer | InStream | InMemory


@dataclass(frozen=True, slots=True)
class Node:
    """A file or a link of an image.

    Args:
        kind: ``file``, ``link`` or ``hardlink``.
        size_bytes: Of a file.
        target: Of a link, as it stands in the layer.
        content: Of a file in a cache or under ``/models``.
    """

    kind: Literal["file", "link", "hardlink"]
    size_bytes: int = 0
    target: str = ""
    content: Content | None = None
