"""The command line's SOURCE as a value: registry, directory or archive."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from downloader.errors import InputError
from downloader.fs import expand_home
from downloader.hub.verify import holds_cache
from downloader.oci.compression import HEAD_BYTES, detect_compression
from downloader.oci.image_archive import ROOT_NAMES, is_root_archive
from downloader.oci.reference import Reference, parse_reference
from downloader.restore.foreign.entries import place_of

ENGINE_PREFIX = "docker-daemon:"
_REGISTRY_PREFIXES = ("docker://", "oras://")
PATH_PREFIXES = ("./", "../", "/", "~")
_ARCHIVE_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2"),
    ".oci",
)
_DOCUMENTS = ("index.json", "manifest.json")
_PROBE_LIMIT = 1000  # directories that are looked into for a cache; a root file system has more


@dataclass(frozen=True)
class RegistrySource:
    """An image in a registry."""

    reference: Reference

    def __str__(self) -> str:
        return str(self.reference)


@dataclass(frozen=True)
class LayoutSource:
    """A directory; ``tag`` where it holds several images."""

    path: Path
    tag: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.tag}" if self.tag else str(self.path)


@dataclass(frozen=True)
class ArchiveSource:
    """A file; ``tag`` where it holds several images.

    Args:
        path: The file.
        compression: Of an image archive, which then is read once from its beginning; None for
            one that is not compressed, and for a root file system.
        tag: Chooses one of several images.
    """

    path: Path
    compression: str | None
    tag: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.tag}" if self.tag else str(self.path)


@dataclass(frozen=True)
class RootSource:
    """A directory that is the root file system of an image."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class EngineSource:
    """An image in the local Docker engine."""

    name: str

    def __str__(self) -> str:
        return f"{ENGINE_PREFIX}{self.name}"


Source = RegistrySource | LayoutSource | ArchiveSource | RootSource | EngineSource


def parse_source(text: str, engine_has: Callable[[str], bool]) -> Source:
    """Return what ``text`` names.

    In this order: a prefix decides; then what exists as a directory or file; then, for a name
    without a registry, what the local engine has; else an image in a registry.

    Args:
        text: As the user wrote it.
        engine_has: Whether the local engine has an image of that name.

    Raises:
        InputError: It names nothing that can be.
    """
    if text.startswith(ENGINE_PREFIX):
        return EngineSource(text.removeprefix(ENGINE_PREFIX))
    for prefix in _REGISTRY_PREFIXES:
        if text.startswith(prefix):
            return RegistrySource(parse_reference(text.removeprefix(prefix)))
    for prefix in ("oci-archive:", "docker-archive:", "oci:", "dir:"):
        if text.startswith(prefix) and is_local_image(text.removeprefix(prefix)):
            text = text.removeprefix(prefix)
    local = _local(text)
    if local is not None:
        return local
    if text.startswith(PATH_PREFIXES) or text.endswith(_ARCHIVE_SUFFIXES):
        raise _no_image(text)
    reference = parse_reference(text)
    if not text.startswith(reference.registry) and engine_has(text):
        return EngineSource(text)
    return RegistrySource(reference)


def _no_image(text: str) -> InputError:
    if not _is_directory(text):
        return InputError(f"{text}: want a directory or an archive, got nothing there")
    return InputError(
        f"{text}: want an image, got a directory with neither {' nor '.join(_DOCUMENTS)}",
        hint="a root file system is read as well: one with /usr, /models, or a cache in it",
    )


def is_layout(path: Path) -> bool:
    """Whether it is a directory with the documents of an image."""
    return path.is_dir() and any((path / name).exists() for name in _DOCUMENTS)


def _is_directory(text: str) -> bool:
    try:
        return expand_home(text).is_dir()
    except (OSError, ValueError):
        return False


def _local(text: str) -> Source | None:
    try:
        return _local_path(text)
    except (OSError, ValueError):  # no path at all: too long, or with a NUL in it
        return None


def _local_path(text: str) -> Source | None:
    # A tag may itself have colons: image.tar:localhost:5000/me/x:tag.
    ends = [len(text), *(at for at, character in enumerate(text) if character == ":" and at)]
    for end in sorted(ends, reverse=True):
        path, tag = expand_home(text[:end]), text[end + 1 :] or None
        if is_layout(path):
            return LayoutSource(path, tag)
        if end == len(text) and path.is_dir() and _is_root_directory(path):
            return RootSource(path)
        if path.is_file():
            compression = compression_of(path)
            if compression and is_root_archive(path):
                compression = None  # its only layer, which is read like any compressed layer
            return ArchiveSource(path, compression, tag)
    return None


def _is_root_directory(path: Path) -> bool:
    """Whether a directory looks like a root file system, or has a cache somewhere in it."""
    if not ROOT_NAMES.isdisjoint(entry.name for entry in path.iterdir()):
        return True
    for count, (parent, names, _) in enumerate(os.walk(path)):
        below = Path(parent).relative_to(path)
        names[:] = [name for name in names if name != ".locks"]  # beside a cache, named like it
        if any(place_of((below / name / "refs/x").as_posix()) for name in names):
            return True
        if count == _PROBE_LIMIT:
            break
    return False


def is_local_image(text: str) -> bool:
    """Whether ``text`` names an image that lies in this machine's files."""
    return _local(text) is not None


def is_image(text: str) -> bool:
    """Whether ``text`` names an image for a command that takes a cache as well.

    A directory with repo folders in it, or in its ``hub``, is a cache.
    """
    path = expand_home(text)
    return not _is_directory(text) or (not holds_cache(path) and is_local_image(text))


def compression_of(path: Path) -> str | None:
    """Return the compression of a file, by its first bytes.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return detect_compression(file.read(HEAD_BYTES))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def looks_like_source(text: str) -> bool:
    """Whether a further argument names an image, and not a file of the repo.

    An image has a tag or a digest, or a prefix, or lies here; names in repos have no colon.
    """
    if ":" in text or "@" in text:
        return True
    return is_local_image(text)
