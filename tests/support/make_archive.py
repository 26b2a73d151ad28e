"""Archives of images as other programs write them."""

import gzip
import json
from pathlib import Path
from typing import Any

from tests.support import restore
from tests.support.make_image import MIB, Member, cache_members, lfs_oid, tar_of

Saved = tuple[dict[str, Any], list[Member]]


def entry_of(layers: list[bytes], stored: list[bytes], tag: str) -> Saved:
    """One image of a docker archive as crane, jib and kaniko write it, and its files."""
    diff_ids = [f"sha256:{lfs_oid(layer)}" for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = json.dumps({"os": "linux", "rootfs": rootfs}).encode()
    paths = [f"{lfs_oid(data)}.tar.gz" for data in stored]
    name = f"sha256:{lfs_oid(config)}"
    members = [Member(path, data) for path, data in zip(paths, stored, strict=True)]
    entry = {"Config": name, "RepoTags": [tag], "Layers": paths}
    return entry, [Member(name, config), *members]


def write_archive(path: Path, *images: Saved) -> Path:
    members = {member.path: member for _, found in images for member in found}
    manifest = json.dumps([entry for entry, _ in images]).encode()
    path.write_bytes(tar_of([*members.values(), Member("manifest.json", manifest)]))
    return path


def packed(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


# Compressors are slow, and the same from some hundred kilobytes on.
FILES = {path: data[: MIB + 17] for path, data in restore.FILES.items()}
CACHE = cache_members(FILES)
LAYERS = [tar_of([Member("etc/hostname", b"x\n")]), tar_of(CACHE)]
