"""A stick: images, the program that restores them, and how to use it, in one directory."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from downloader.environment import Environment
from downloader.errors import InputError
from downloader.fs import expand_home, storage_errors, write_atomically
from downloader.library.connection import Connection
from downloader.library.consumer import Image
from downloader.library.copying import copy
from downloader.library.program import program
from downloader.progress import Progress
from downloader.publish import Copied

PROGRAM = "hf-models.pyz"
SUMS = "SHA256SUMS"
README = "README.txt"


@dataclass(frozen=True)
class Bundle:
    """The contents of a bundle.

    Args:
        directory: The stick.
        images: The result of each image.
        size_bytes: Of all files.
    """

    directory: Path
    images: tuple[Copied, ...]
    size_bytes: int


def bundle(
    images: Sequence[Image],
    directory: str | os.PathLike[str],
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    connection: Connection | None = None,
) -> Bundle:
    """Write images into one OCI layout, where they share layers, with this program beside it.

    Args:
        images: Of registries, layout directories or archives; what the directory has already stays.
        directory: Made where it is missing.
        environment: None for the process's own.
        progress: Told of every blob that is written.
        connection: Settings for registries.

    Raises:
        InputError: Two images have one tag: the directory's index has each tag once.
        HfModelsError: An image is not there, or the disk said no.
    """
    root = expand_home(directory)
    tags = [str(image).rpartition("/")[2].rpartition(":")[2] for image in images]
    doubled = sorted({tag for tag in tags if tags.count(tag) > 1})
    if doubled:
        raise InputError(
            f"two images have the tag {doubled[0]}",
            hint="bundle them into two directories, or copy one under another tag first",
        )
    copied = copy(images, [f"{root}/"], environment, progress, connection=connection)
    for item in copied:
        if item.error:
            raise item.error
    with storage_errors(root):
        write_atomically(root / PROGRAM, program())
        readme = files("downloader").joinpath("bundle-readme.txt").read_bytes()
        write_atomically(root / README, readme)
        sums, size_bytes = _sums_of(root)
        write_atomically(root / SUMS, sums)
    return Bundle(root, tuple(copied), size_bytes + len(sums))


def _sums_of(root: Path) -> tuple[bytes, int]:
    """Return the lines for ``sha256sum --check``; a blob's name is its sum."""
    lines, size_bytes = [], 0
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if name == SUMS or path.name.startswith("."):
            continue
        is_blob = name.startswith("blobs/sha256/")
        lines.append(f"{path.name if is_blob else _sha256(path)}  {name}\n")
        size_bytes += path.stat().st_size
    return "".join(lines).encode(), size_bytes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
