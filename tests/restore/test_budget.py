"""What an image may cost: memory and CPU of the whole process, in proportion to its bytes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from downloader.image import labels, packed_descriptor
from downloader.oci.digest import digest_of
from downloader.oci.manifest import INDEX, LAYER, MANIFEST_LIMIT_BYTES
from downloader.plan import make_plan
from downloader.restore.foreign.budget import DOCUMENT_LIMIT_BYTES
from tests.support.faults import always
from tests.support.make_image import (
    COMMIT,
    HUB,
    MIB,
    Member,
    RawLayer,
    cache_members,
    layer_of,
    link,
    make_snapshot,
    our_layers,
    put_image,
    random_bytes,
    tar_of,
)
from tests.support.restore import FOLDER, check_cache, layout, restored
from tests.support.small_registry import SmallRegistry

ROOT = f"{HUB}/{FOLDER}"
MEMORY_LIMIT_BYTES = 256 * MIB
CPU_START_S = 8.0  # Python itself, and the first allowance; four times what a quiet machine needs
CPU_PER_MIB_S = 4.0

# A program that runs one command, and says what it took.
# (`ru_maxrss` would be that of the process that it was forked from.)
_MEASURE = """
import re, sys, time
from downloader.cli import run
code = run(sys.argv[1:])
peak_kib = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(code, peak_kib, time.process_time(), file=open({path!r}, "w"))
"""


def measure(tmp_path: Path, *arguments: str | Path) -> tuple[int, int, float]:
    """Run a command by itself; return its exit code, peak memory in bytes, and CPU seconds."""
    path = tmp_path / "measured"
    program = _MEASURE.format(path=str(path))
    command = [sys.executable, "-c", program, *map(str, arguments)]
    subprocess.run(command, capture_output=True, timeout=200, env={**os.environ, "NO_COLOR": "1"})
    code, peak_kib, cpu_s = path.read_text().split()
    return int(code), int(peak_kib) * 1024, float(cpu_s)


def headers(members: Iterator[Member]) -> bytes:
    return tar_of(list(members), tarfile.GNU_FORMAT)


def deep_links() -> bytes:
    """Links below thousands of directories, each with a path of its own."""
    return headers(link(f"{i}/{'a/' * 1900}l", "x") for i in range(2000))


def link_chains() -> bytes:
    """Members whose path leads through 38 links, each of them through a long path."""
    deep = "d/" * 900
    chain = [link(f"k{i}", f"{deep}../" * 2 + "../" * 1798 + f"k{i + 1}") for i in range(38)]
    inside = (link(f"k0/e{i}", "x") for i in range(10_000))
    return headers(iter([link("k38", "d"), Member(f"{deep}z", b""), *chain, *inside]))


def many_members() -> bytes:
    header = headers(iter([Member("x")]))[:512]
    return header * 150_000 + bytes(1024)


def long_whiteouts() -> bytes:
    return headers(Member(f"w{i}/{'a' * 200}/{'b' * 200}/.wh.x") for i in range(20_000))


def many_documents() -> bytes:
    blanks = b" " * (DOCUMENT_LIMIT_BYTES // 2)
    names = (f"{ROOT}/trees/{i:040x}.json" for i in range(6))
    return headers(Member(name, blanks) for name in names)


def nested_document() -> bytes:
    """A list of files that takes thirty times its size when it is parsed."""
    data = b'{"files": {"a": [' + b'{"":0},' * (DOCUMENT_LIMIT_BYTES // 8) + b"0]}}"
    snapshot = Member(f"{ROOT}/snapshots/{COMMIT}/a", b"x")
    return headers(iter([snapshot, Member(f"{ROOT}/trees/{COMMIT}.json", data)]))


def extended(records: bytes) -> bytes:
    """Return a PAX header, which says something about a member that follows."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def many_records() -> bytes:
    return extended(b"5 a=\n" * (MIB // 5)) * 60 + headers(iter([Member("x")]))


def empty_extensions() -> bytes:
    return extended(b"") * 400_000 + headers(iter([Member("x")]))


BOMBS = {
    "deep-links": deep_links,
    "link-chains": link_chains,
    "many-members": many_members,
    "long-whiteouts": long_whiteouts,
    "many-documents": many_documents,
    "nested-document": nested_document,
    "many-records": many_records,
    "empty-extensions": empty_extensions,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_stays_within_memory_and_cpu(tmp_path: Path, name: str) -> None:
    data = BOMBS[name]()
    for kind, packed, command in (
        ("gzip", gzip.compress(data, 6), ("restore", "--cache-dir", tmp_path / "cache")),
        ("zstd", zstandard.compress(data, 3), ("verify",)),
    ):
        layer = RawLayer(packed, f"{LAYER}+{kind}", diff_id=digest_of(data))
        put_image(layout(tmp_path / kind), [layer])
        code, peak_bytes, cpu_s = measure(tmp_path, *command, tmp_path / kind)
        assert code in {2, 5}, command
        assert peak_bytes < MEMORY_LIMIT_BYTES, command
        assert cpu_s < CPU_START_S + CPU_PER_MIB_S * len(packed) / MIB, command
        assert not list(tmp_path.glob("cache/models--*"))


EMPTY_MEMBERS: dict[str, tuple[Callable[[bytes], bytes], bytes]] = {
    "gzip": (gzip.compress, b""),
    "gzip-of-a-byte": (gzip.compress, b"x"),
    "xz": (lzma.compress, b""),
    "bzip2": (bz2.compress, b""),
    "zstd": (zstandard.compress, b""),
}


@pytest.mark.parametrize("kind", [*EMPTY_MEMBERS, "zstd-skippable"])
def test_compressed_members_without_content_are_refused_after_a_number(
    tmp_path: Path, kind: str
) -> None:
    compress, content = EMPTY_MEMBERS.get(kind, EMPTY_MEMBERS["zstd"])
    empty = b"\x50\x2a\x4d\x18" + bytes(4) if kind == "zstd-skippable" else compress(content)
    end = bytes(1024)
    path = tmp_path / "root.tar"
    with path.open("wb") as file:
        file.write(compress(headers(iter([Member("bin/sh", b"#!")])).rstrip(b"\0") + end))
        block = empty * (MIB // len(empty))
        for _ in range(66):  # of two gigabytes, or as many as one likes
            file.write(block)
    code, peak_bytes, cpu_s = measure(tmp_path, "verify", path)
    assert code == 5
    assert peak_bytes < MEMORY_LIMIT_BYTES
    assert cpu_s < CPU_START_S + CPU_PER_MIB_S * 20  # what the first of them cost


def test_seek_tables_of_all_layers_together_stay_within_memory(tmp_path: Path) -> None:
    files = {f"{at}.bin": random_bytes(MIB, seed=at) for at in range(6)}
    plan = make_plan(make_snapshot(files), layer_limit_bytes=2 * MIB)
    layers, said, count = our_layers(plan, files), labels(plan), 900_000
    body = struct.pack("<II", 10, 1) * count + struct.pack("<IBI", count, 0, 0x8F92EAB1)
    for at, layer in enumerate(layers[: len(plan.layers)]):
        frames = bytes([at]) * 10 * count
        data = frames + struct.pack("<II", 0x184D2A5E, len(body)) + body
        described = packed_descriptor(digest_of(data), len(data), digest_of(layer.data))
        notes = {**layer.annotations, **described.annotations}
        layers[at] = RawLayer(data, described.media_type, notes, digest_of(layer.data))
    put_image(layout(tmp_path / "image"), layers, annotations=said)
    target = ["--cache-dir", str(tmp_path / "cache")]
    code, peak_bytes, _ = measure(tmp_path, "restore", tmp_path / "image", *target)
    assert code == 5
    assert peak_bytes < MEMORY_LIMIT_BYTES


def test_a_file_of_an_ordinary_number_of_members_is_read(tmp_path: Path) -> None:
    """As eStargz: each piece of the tar a member of its own."""
    data = tar_of(cache_members({f"{i}.json": b"{}" for i in range(500)}))
    pieces = [gzip.compress(data[at : at + 512], 1) for at in range(0, len(data), 512)]
    packed = b"".join(pieces) + gzip.compress(b"")
    layer = RawLayer(packed, f"{LAYER}+gzip", diff_id=digest_of(data))
    put_image(layout(tmp_path / "image"), [layer])
    restored(tmp_path / "image", tmp_path / "cache")


def test_many_layers_share_one_budget(tmp_path: Path) -> None:
    """Each layer alone is allowed; together they are not."""
    layers = []
    for number in range(20):
        data = headers(link(f"{number}/{i}/{'a/' * 400}l", "x") for i in range(90))
        packed = gzip.compress(data, 6)
        layers.append(RawLayer(packed, f"{LAYER}+gzip", diff_id=digest_of(data)))
    put_image(layout(tmp_path / "one"), layers[:1])
    put_image(layout(tmp_path / "all"), layers)
    assert measure(tmp_path, "verify", tmp_path / "one")[0] == 5  # no cache in it
    code, peak_bytes, _ = measure(tmp_path, "verify", tmp_path / "all")
    assert code == 5
    assert peak_bytes < MEMORY_LIMIT_BYTES


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_archive_of_many_long_names_stays_within_memory(tmp_path: Path, command: str) -> None:
    path = tmp_path / "image.tar"
    data = headers(Member("blobs/" + f"{'n' * 90}/" * 40 + "x") for i in range(1))
    header, end = data[:-1024].rstrip(b"\0"), bytes(1024)
    header += bytes(-len(header) % 512)
    with path.open("wb") as file:
        for _ in range(40):
            file.write(header * 500)
        file.write(end)
    code, peak_bytes, cpu_s = measure(tmp_path, command, path)
    assert code == 5
    assert peak_bytes < MEMORY_LIMIT_BYTES
    assert cpu_s < CPU_START_S + CPU_PER_MIB_S * path.stat().st_size / MIB


def test_inspect_of_a_bomb_reads_no_layer(tmp_path: Path) -> None:
    data = many_members()
    layer = RawLayer(gzip.compress(data, 1), f"{LAYER}+gzip", diff_id=digest_of(data))
    put_image(layout(tmp_path / "image"), [layer])
    code, peak_bytes, cpu_s = measure(tmp_path, "inspect", tmp_path / "image")
    assert (code, peak_bytes < MEMORY_LIMIT_BYTES, cpu_s < CPU_START_S) == (0, True, True)


def test_ordinary_image_of_many_files_is_within_the_first_allowance(tmp_path: Path) -> None:
    files = {f"data/{i % 50}/{i}.json": json.dumps({"n": i}).encode() for i in range(3000)}
    data = tar_of(cache_members(files))
    layer = RawLayer(gzip.compress(data, 6), f"{LAYER}+gzip", diff_id=digest_of(data))
    put_image(layout(tmp_path / "image"), [layer])
    restored(tmp_path / "image", tmp_path / "cache")
    check_cache(tmp_path / "cache", files, has_tree=False)


# Documents of a registry


def lists_as_json(size_bytes: int) -> bytes:
    """Return JSON that takes thirty times its size when it is parsed."""
    return b"[" + b"[]," * (size_bytes // 3) + b"0]"


def bomb_manifest(number: int) -> bytes:
    head = b'{"schemaVersion":2,"x":%d,"manifests":[],"y":' % number
    return head + lists_as_json(MANIFEST_LIMIT_BYTES - 200) + b"}"


@pytest.fixture
def odd() -> Iterator[SmallRegistry]:
    with SmallRegistry() as registry:
        yield registry


def test_list_of_manifests_that_grow_when_parsed_stays_within_memory(
    tmp_path: Path, odd: SmallRegistry
) -> None:
    for number in range(16):
        odd.manifests[f"t{number}"] = (INDEX, bomb_manifest(number))
    code, peak_bytes, cpu_s = measure(tmp_path, "list", f"{odd.host}/a/b")
    assert code == 5
    assert peak_bytes < MEMORY_LIMIT_BYTES
    assert cpu_s < CPU_START_S + CPU_PER_MIB_S * 16 * 4


def test_catalog_of_manifests_that_grow_when_parsed_stays_within_memory(
    tmp_path: Path, odd: SmallRegistry
) -> None:
    models = f'[defaults]\nregistries = ["{odd.host}/a/b"]\n'
    for number in range(16):
        odd.manifests[f"t{number}"] = (INDEX, bomb_manifest(number))
        models += f'[[model]]\nrepo = "org/m{number}"\ntag = "t{number}"\n'
    (tmp_path / "models.toml").write_text(models)
    flags = ("--file", str(tmp_path / "models.toml"), "--output", str(tmp_path / "site"))
    _, peak_bytes, _ = measure(tmp_path, "catalog", *flags)
    assert len([asked for asked in odd.seen if "/manifests/" in asked.path]) >= 16
    assert peak_bytes < MEMORY_LIMIT_BYTES


@pytest.mark.parametrize("command", ["list", "inspect"])
@pytest.mark.parametrize("kind", ["lists", "tags"])
def test_listing_that_grows_when_parsed_stays_within_memory(
    tmp_path: Path, odd: SmallRegistry, command: str, kind: str
) -> None:
    size_bytes = 15 * MIB  # as text it is allowed
    tags = b"[" + b'"a",' * (size_bytes // 4) + b'"b"]'
    large = lists_as_json(size_bytes) if kind == "lists" else tags
    body = b'{"name":"x","tags":' + large + b"}"
    odd.faults = [always("grows", "/tags/list", status=200, body=body)]
    code, peak_bytes, _ = measure(tmp_path, command, f"{odd.host}/a/b")
    assert code == (5 if command == "list" else 3)  # inspect asks for a tag that is not there
    assert peak_bytes < MEMORY_LIMIT_BYTES


@pytest.mark.parametrize("command", ["restore", "inspect"])
def test_nested_indexes_share_one_sum_of_documents(
    tmp_path: Path, odd: SmallRegistry, command: str
) -> None:
    """Each index is small enough, and leads through hundreds of others to no image."""
    items = [odd.add_manifest(f"n{i}", {"manifests": [], "n": i}, INDEX) for i in range(900)]
    odd.add_manifest("t", {"manifests": items}, INDEX)
    more = ("--cache-dir", str(tmp_path / "cache")) if command == "restore" else ()
    code, peak_bytes, _ = measure(tmp_path, command, f"{odd.host}/a/b:t", *more)
    assert code == 5
    assert peak_bytes < MEMORY_LIMIT_BYTES
    assert len([asked for asked in odd.seen if "/manifests/" in asked.path]) < 150


def test_layout_whose_index_names_large_manifests_stays_within_memory(tmp_path: Path) -> None:
    root = tmp_path / "image"
    put_image(layout(root), [layer_of(Member("bin/sh", b"x"))])
    index = json.loads((root / "index.json").read_text())
    blobs = root / "blobs" / "sha256"
    for number in range(40):
        data = b'{"schemaVersion":2,"n":%d,"x":"%s"}' % (number, b"x" * 3_900_000)
        (blobs / digest_of(data)[7:]).write_bytes(data)
        item = {"mediaType": INDEX, "digest": digest_of(data), "size": len(data)}
        index["manifests"] += [item] * 20
    (root / "index.json").write_text(json.dumps(index))
    code, peak_bytes, _ = measure(tmp_path, "inspect", root)
    assert code == 5
    assert peak_bytes < MEMORY_LIMIT_BYTES
