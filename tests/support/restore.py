"""What the tests of restoring share: the command, and what a cache must look like after it."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import time
import uuid
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from downloader.net.http import HttpPool
from downloader.oci.layout import Layout
from downloader.oci.reference import parse_reference
from downloader.oci.registry_write import WritableRegistry
from tests.support.apart import start_apart
from tests.support.command import Ran, hf_models
from tests.support.faults import of_blobs
from tests.support.make_image import COMMIT, MIB, git_oid, lfs_oid, random_bytes
from tests.support.small_registry import SmallRegistry

FILES: Mapping[str, bytes] = {
    "config.json": b'{"model_type": "test"}',
    "a.safetensors": random_bytes(9 * MIB + 17, seed=1),
    "sub folder/b.bin": random_bytes(5 * MIB + 3, seed=2),
    "empty.txt": b"",
    "vocab.txt": b"hello\n",
    "copy of vocab.txt": b"hello\n",
    "ünïcode/#%?.txt": b"name\n",
}
FOLDER = "models--org--model"


def restore(source: str | Path, cache: Path, *more: str | Path, code: int | None = None) -> Ran:
    return hf_models("restore", source, "--cache-dir", cache, *more, code=code)


def restored(source: str | Path, cache: Path, *more: str | Path) -> Any:
    """Restore, which must work, and return its report."""
    ran = restore(source, cache, "--json", *more, code=0)
    return ran.json


def start(source: str, cache: Path, *more: str) -> BaseProcess:
    """Start a restore in a process of its own; what it says goes to `said_by`."""
    return start_apart("restore", source, "--cache-dir", cache, *more, said=said_by(cache))


def said_by(cache: Path) -> Path:
    """Return where the last restore that was started for ``cache`` says something."""
    return cache.with_name(f"{cache.name}.said")


def kill_after(
    mirror: SmallRegistry,
    process: BaseProcess,
    size_bytes: int,
    *,
    and_when: Callable[[], bool] = lambda: True,
) -> None:
    """Kill -9 as soon as so many bytes of blobs were sent; more than that are not sent."""
    silent = of_blobs("silent", silent_after=size_bytes)
    mirror.faults.append(silent)
    while process.is_alive() and not (silent.is_waiting.is_set() and and_when()):
        time.sleep(0.01)
    assert process.is_alive(), "it ended before it could be killed"
    process.kill()
    process.join()
    mirror.faults.remove(silent)


def check_cache(
    cache: Path,
    files: Mapping[str, bytes] = FILES,
    *,
    folder: str = FOLDER,
    commit: str = COMMIT,
    ref: str | None = "main",
    has_tree: bool = True,
) -> None:
    """Fail unless the cache holds exactly these files, as the library would have left them."""
    root = cache / folder
    snapshot = root / "snapshots" / commit
    found = {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if not p.is_dir()}
    assert found == set(files)
    for path, data in files.items():
        assert (snapshot / path).is_symlink()
        target = (snapshot / path).readlink().as_posix()
        assert re.fullmatch(r"(\.\./){2,}blobs/[0-9a-f]{40,64}", target), target
        assert (snapshot / path).read_bytes() == data
    check_blobs(root / "blobs")
    assert len(list((root / "blobs").iterdir())) == len(set(files.values()))
    if ref:
        assert (root / "refs" / ref).read_bytes() == commit.encode()
    assert (root / "trees" / f"{commit}.json").exists() == has_tree
    assert not list(cache.rglob("*.incomplete"))
    assert not list((cache / ".locks").glob(".hf-models/*"))


def check_blobs(blobs: Path) -> None:
    """Fail unless every blob hashes to its name."""
    for blob in blobs.iterdir():
        if blob.name.endswith(".incomplete"):
            continue
        data = blob.read_bytes()
        assert blob.name in {git_oid(data), lfs_oid(data)}, blob


def layout(root: Path) -> Layout:
    return Layout(root)


def registry(repository: str = "") -> tuple[str, WritableRegistry]:
    """A fresh repository of the real registry, and its name."""
    name = f"{os.environ['HF_TEST_REGISTRY']}/{repository or f'tests/restore/{uuid.uuid4().hex}'}"
    return name, WritableRegistry(parse_reference(name), HttpPool())


def pack(directory: Path, archive: Path, mode: str = "w") -> Path:
    """Put a directory into a tar."""
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(directory.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(directory)), recursive=False)
    return archive


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
