"""A reader of the format in thirty lines, written from docs/image-format.md alone."""

import hashlib
import io
import json
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import zstandard

KEY = "io.github.alphahinex.hf-models.layer."


def read(layout: Path, out: Path) -> None:
    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    index = json.loads((layout / "index.json").read_bytes())
    while "manifests" in index:  # the layout's, then the image's: the first is plain
        index = json.loads(blob(index["manifests"][0]["digest"]).read_bytes())
    *layers, metadata = index["layers"]
    with tarfile.open(blob(metadata["digest"])) as tar:
        [name] = [name for name in tar.getnames() if "/plans/" in name and name.endswith(".json")]
        plan = json.load(tar.extractfile(name) or io.BytesIO())
    contents: dict[str, bytearray] = {}
    for layer in layers:
        members = json.loads(layer["annotations"].get(KEY + "members", "[]"))
        for oid, size, offset, count, *start in members:
            data = contents.setdefault(oid, bytearray(size))
            at = start[0] if start else 0
            data[at : at + count] = tar_range(blob(layer["digest"]), layer, offset, count)
    for file in plan["snapshot"]["files"]:
        oid = file.get("sha256") or file["blob_id"]
        data = contents[oid]
        git = b"blob %d\0" % len(data)
        found = hashlib.sha256(data) if len(oid) == 64 else hashlib.sha1(git + data)
        assert found.hexdigest() == oid, file["path"]
        (out / file["path"]).parent.mkdir(parents=True, exist_ok=True)
        (out / file["path"]).write_bytes(data)


def tar_range(path: Path, layer: dict[str, Any], offset: int, count: int) -> bytes:
    data, end, plain, first, frames = path.read_bytes(), 0, 0, offset, b""
    if layer["annotations"].get(KEY + "seekable") != layer["digest"]:
        return data[offset : offset + count]
    number, _, magic = struct.unpack("<IBI", data[-9:])
    assert magic == 0x8F92EAB1
    for packed, size in struct.iter_unpack("<II", data[-9 - 8 * number : -9]):
        if plain < offset + count and offset < plain + size:
            first = min(first, plain)
            frames += zstandard.decompress(data[end : end + packed])
        end, plain = end + packed, plain + size
    return frames[offset - first : offset - first + count]


if __name__ == "__main__":
    read(Path(sys.argv[1]), Path(sys.argv[2]))
