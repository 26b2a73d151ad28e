"""The tars of an image's layers out of its plan, written from docs/image-format.md alone."""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

BLOCK = 512
MIB = 1 << 20
MODES = {"0": "0000644", "1": "0000644", "2": "0000777", "5": "0000755", "K": "0", "L": "0"}

Member = tuple[str, str, str, bytes]  # path, type, target, content


def segments(path: str) -> list[str]:
    return path.split("/")


def oid_of(file: dict[str, Any]) -> str:
    return str(file.get("sha256") or file["blob_id"])


def members(plan: dict[str, Any], layer: dict[str, Any], of: Callable[[str], bytes]) -> Any:
    """Return the folder, the contents of the layer in order, and the two groups of members."""
    snapshot = plan["snapshot"]
    folder = f"{plan['cache_root']}/hub/{snapshot['repo_type']}s--"
    folder = folder.strip("/") + snapshot["repo_id"].replace("/", "--")
    models_dir = (plan["models_dir"] or "").strip("/")
    contents, shown, cached = [], [], []
    for item in layer["contents"]:
        oid = item["oid"]
        name, data, paths = f"blobs/{oid}", of(oid), []
        if "part" in item:
            name += f".part-{item['part']:05}-of-{item['parts']:05}"
            data = data[item["start"] : item["end"]]
        elif models_dir:
            names = [file["path"] for file in snapshot["files"] if oid == oid_of(file)]
            paths = sorted((f"{models_dir}/{path}" for path in names), key=segments)
        contents.append([name, len(data), *paths])
        if not paths:
            cached.append((f"{folder}/{name}", "0", "", data))
            continue
        first, *others = paths
        shown.append((first, "0", "", data))
        shown += [(other, "2", relative(first, other), b"") for other in others]
        cached.append((f"{folder}/{name}", "1", first, b""))
    return folder, contents, (shown, cached)


def relative(target: str, link: str) -> str:
    to, at = segments(target), segments(link)[:-1]
    while at and to[0] == at[0]:
        to, at = to[1:], at[1:]
    return "/".join([".."] * len(at) + to)


def key(folder: str, contents: list[Any]) -> str:
    return hashlib.sha256(json.dumps([folder, contents]).encode()).hexdigest()


def tar(groups: tuple[list[Member], list[Member]]) -> bytes:
    done: set[str] = set()
    out: list[bytes] = []
    for group in groups:
        todo = {member[0]: member for member in group}
        for path in list(todo):
            for end in (at for at, char in enumerate(path) if char == "/"):
                if path[:end] not in done:
                    todo[path[:end]] = (path[:end], "5", "", b"")
        for path in sorted(todo, key=segments):
            done.add(path)
            out += entry(*todo[path])
    return b"".join(out) + bytes(2 * BLOCK)


def entry(path: str, kind: str, target: str, data: bytes) -> Iterator[bytes]:
    name = (path + "/" * (kind == "5")).encode("utf-8", "surrogateescape")
    link = target.encode("utf-8", "surrogateescape")
    for letter, long in (("K", link), ("L", name)):
        if len(long) > 100:
            yield header(b"././@LongLink", letter, b"", len(long) + 1)
            yield padded(long + b"\0")
    yield header(name[:100], kind, link[:100], len(data))
    yield padded(data)


def header(name: bytes, kind: str, link: bytes, size: int) -> bytes:
    number = b"%011o\0" % size if size < 8 << 30 else b"\x80" + size.to_bytes(11, "big")
    fields = (name, MODES[kind].zfill(7).encode(), b"0000000", b"0000000", number, b"0" * 11)
    block = struct.pack("100s8s8s8s12s12s8sc100s8s247x", *fields, b" " * 8, kind.encode(), link,
                        b"ustar  ")  # fmt: skip
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def frames(size: int, large: list[tuple[int, int]]) -> list[int]:
    """Return the sizes of the frames' contents; ``large`` has the ranges that frames begin with."""
    cuts = [at for both in large for at in both] + [size]
    found, at = [], 0
    while at < size:
        end = min(at + MIB, *(cut for cut in cuts if cut > at))
        found.append(end - at)
        at = end
    return found
