"""Images made to do harm: each is refused, by its exit code, and nothing is left behind.

After every test: nothing was written outside the cache, no blob lies under a name that it
does not hash to, and no snapshot shows a file that came from the attack.
"""

from __future__ import annotations

import gzip
import json
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from downloader.image import (
    METADATA_ANNOTATIONS,
    PREFIX,
    labels,
    layer_annotations,
    packed_descriptor,
)
from downloader.oci.digest import digest_of
from downloader.oci.manifest import CONFIG, INDEX, LAYER, MANIFEST, Manifest, describe
from downloader.oci.seekable import FRAME_LIMIT_BYTES
from downloader.oci.tar_write import TarEntry, iter_tar, lay_out
from downloader.plan import make_plan
from tests.support.command import Ran
from tests.support.make_image import (
    COMMIT,
    HUB,
    MIB,
    Member,
    RawLayer,
    blobs_of,
    cache_members,
    git_oid,
    hard_link,
    layer_bytes,
    layer_of,
    lfs_oid,
    link,
    make_snapshot,
    our_layers,
    put,
    put_image,
    random_bytes,
    tar_of,
)
from tests.support.restore import FOLDER, check_blobs, layout, restore

ROOT = f"{HUB}/{FOLDER}"
SNAPSHOT = f"{ROOT}/snapshots/{COMMIT}"
GOOD = {"config.json": b"{}", "a.safetensors": random_bytes(300_000, seed=5)}
PLAN = make_plan(make_snapshot(GOOD))
PROTOCOL, INTEGRITY = 5, 6


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A cache in a directory that must not change around it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_bytes(b"canary")
    cache = outside / "cache"
    yield cache
    assert [path.name for path in outside.iterdir() if path != cache] == ["canary"]
    assert (outside / "canary").read_bytes() == b"canary"
    for blobs in cache.glob("*/blobs"):
        check_blobs(blobs)
    for path in cache.rglob("*"):
        assert cache.resolve() in path.resolve().parents, path


@pytest.fixture
def attack(tmp_path: Path, cache: Path) -> Callable[..., Ran]:
    """Restore an image of these layers; each attack is tried plain and compressed."""

    def run(*layers: RawLayer) -> Ran:
        image = tmp_path / "image"
        put_image(layout(image), layers)
        return restore(image, cache)

    return run


def refused(ran: Ran, code: int, text: str) -> None:
    assert ran.code == code, (ran.code, ran.err)
    assert "error: " in ran.err
    assert text in ran.err
    assert "Traceback" not in ran.err


def with_cache(*members: Member) -> RawLayer:
    return layer_of(*cache_members(GOOD), *members)


# Paths and links

MEMBERS: Mapping[str, tuple[Member, str]] = {
    "dot-dot": (Member(f"{SNAPSHOT}/../../../../../x", b"x"), "inside the tar"),
    "dot-dot-only": (Member("..", b"x"), "inside the tar"),
    "absolute": (Member(f"/{SNAPSHOT}/x", b"x"), "relative path"),
    "newline": (Member(f"{SNAPSHOT}/a\nb", b"x"), "unsafe file name"),
    "control-character": (Member(f"{SNAPSHOT}/a\x1bb", b"x"), "unsafe file name"),
    "control-character-of-8-bits": (Member(f"{SNAPSHOT}/a\x9bb", b"x"), "unsafe file name"),
    "invalid-utf-8": (Member(f"{SNAPSHOT}/a\udcff", b"x"), "unsafe file name"),
    "dot-dot-of-windows": (Member(f"{SNAPSHOT}/a\\..\\b", b"x"), "unsafe file name"),
    "link-to-etc": (link(f"{SNAPSHOT}/x", "/etc/passwd"), "blob of its repo"),
    "link-out": (link(f"{SNAPSHOT}/x", "../" * 20 + "etc/passwd"), "blob of its repo"),
    "link-to-another-repo": (
        link(f"{SNAPSHOT}/x", f"../../../models--a--b/blobs/{'0' * 40}"),
        "blob of its repo",
    ),
    "link-to-a-ref": (link(f"{SNAPSHOT}/x", "../../refs/main"), "blob of its repo"),
    "link-to-no-blob": (link(f"{SNAPSHOT}/x", "../../blobs/passwd"), "blob of its repo"),
    "link-in-a-circle": (link(f"{SNAPSHOT}/x", "x"), "too many levels of symbolic links"),
    "hard-link-out": (hard_link(f"{SNAPSHOT}/x", "etc/passwd"), "hard link"),
    "hard-link-up": (hard_link(f"{SNAPSHOT}/x", "../../etc/passwd"), "hard link"),
    "device": (Member(f"{SNAPSHOT}/x", type=tarfile.CHRTYPE), "device"),
    "block-device": (Member(f"{ROOT}/blobs/{'0' * 40}", type=tarfile.BLKTYPE), "device"),
    "fifo": (Member(f"{ROOT}/refs/x", type=tarfile.FIFOTYPE), "device"),
    "ref-that-is-no-commit": (Member(f"{ROOT}/refs/x", b"../../x"), "40 hex digits"),
    "ref-of-a-megabyte": (Member(f"{ROOT}/refs/x", b"0" * MIB), "at most 1024 bytes"),
    "ref-that-is-a-link": (link(f"{ROOT}/refs/x", "/etc/passwd"), "want a file"),
    "snapshot-of-no-commit": (Member(f"{ROOT}/snapshots/..x/y", b"x"), "named by a commit"),
    "folder-of-no-repo": (Member(f"{HUB}/models--a--b--c/refs/main", b"x"), "folder"),
    "folder-with-backslash": (Member(f"{HUB}/models--a\\b/refs/main", b"x"), "folder"),
    "listing-that-is-none": (Member(f"{ROOT}/trees/{COMMIT}.json", b"[1]"), "want an object"),
    "listing-that-nests": (Member(f"{ROOT}/trees/{COMMIT}.json", b"[" * 100_000), "want JSON"),
    "listing-with-dot-dot": (
        Member(
            f"{ROOT}/trees/{COMMIT}.json",
            b'{"files": {"../x": {"size": 1, "blob_id": "%s"}}}' % (b"0" * 40),
        ),
        "unsafe file name",
    ),
    "unknown-type": (Member(f"{SNAPSHOT}/x", b"x", type=b"M"), "type b'M'"),
    "sparse-file": (Member(f"{SNAPSHOT}/x", b"x", type=tarfile.GNUTYPE_SPARSE), "a sparse one"),
}


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_that_no_cache_has(attack: Callable[..., Ran], name: str, compress: bool) -> None:
    member, text = MEMBERS[name]
    layer = with_cache(member)
    refused(attack(layer.gzipped() if compress else layer), PROTOCOL, text)


def test_a_file_and_a_directory_of_one_name(attack: Callable[..., Ran], cache: Path) -> None:
    attack(with_cache(Member(f"{SNAPSHOT}/x", b"x"), Member(f"{SNAPSHOT}/x/y", b"y")))
    assert not (cache / FOLDER / "snapshots" / COMMIT / "x").is_file()


def test_devices_outside_a_cache_are_ignored(attack: Callable[..., Ran]) -> None:
    assert attack(with_cache(Member("dev/null", type=tarfile.CHRTYPE))).code == 0


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_files_outside_a_cache_are_ignored(attack: Callable[..., Ran], form: str) -> None:
    """As GNU tar writes /var/log/lastlog with ``-S``."""
    stored = padded(b"abc")
    if form == "gnu":
        sparse = raw_header(b"lastlog", octal(3), b"S", more=True) + bytes(512) + stored
    else:
        sparse = pax((b"GNU.sparse.major", b"1")) + raw_header(b"lastlog", octal(3)) + stored
    assert attack(RawLayer(sparse + tar_of(cache_members(GOOD)))).code == 0


def test_writing_through_a_linked_directory_stays_in_the_image(
    attack: Callable[..., Ran], cache: Path
) -> None:
    trap = layer_of(link(f"{HUB}/{FOLDER}", "/../../../../../outside"))
    attack(trap, layer_of(*cache_members(GOOD)))
    assert {path.name for path in cache.iterdir()} <= {FOLDER, ".locks"}


# Tar headers that lie


def raw_header(
    path: bytes, size: bytes, flag: bytes = b"0", *, checksum: bool = True, more: bool = False
) -> bytes:
    """A ustar header, field by field; ``more`` for a list of a sparse file that goes on."""
    block = bytearray(512)
    block[0 : len(path)] = path
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148] = size, b"00000000000\0"
    block[148:156], block[156:157], block[257:265] = b" " * 8, flag, b"ustar\x0000"
    block[482] = more
    total = sum(block) if checksum else 1
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


BLOB = f"{ROOT}/blobs/{git_oid(b'x')}".encode()[:100]


def octal(size_bytes: int) -> bytes:
    return b"%011o\0" % size_bytes


def record(key: bytes, value: bytes) -> bytes:
    text = b" " + key + b"=" + value + b"\n"
    length = len(text) + 1
    while len(b"%d" % length) + len(text) != length:
        length += 1
    return b"%d" % length + text


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    body = b"".join(record(key, value) for key, value in records)
    return raw_header(b"PaxHeader", octal(len(body)), b"x") + padded(body)


def after_the_cache(data: bytes) -> RawLayer:
    good = tar_of(cache_members(GOOD), tarfile.GNU_FORMAT).rstrip(b"\0")
    return RawLayer(padded(good) + data)


HEADERS: Mapping[str, tuple[bytes, str]] = {
    "larger-than-the-layer": (raw_header(b"a", octal(10**9)), "bytes more"),
    "larger-by-base-256": (raw_header(b"a", b"\x80" + bytes(4) + b"\x7f" * 7), "bytes more"),
    "negative": (raw_header(b"a", b"\xff" * 12), "negative"),
    "beyond-any-offset": (raw_header(b"a", b"\x80" + b"\x7f" * 11), "at most"),
    "no-octal": (raw_header(b"a", b"99999999999\0"), "octal"),
    "checksum": (raw_header(b"a", octal(0), checksum=False), "checksum"),
    "magic": (raw_header(b"a", octal(0)).replace(b"ustar\0", b"vstar\0"), "magic"),
    "garbage": (b"\xa5" * 512, "magic"),
    "half-a-block": (b"\xa5" * 100, "512 bytes"),
    "long-name-of-a-gigabyte": (raw_header(b"x", octal(2**30), b"L"), "at most 1048576"),
    "long-name-with-nul": (
        raw_header(b"x", octal(3), b"L") + padded(b"a\0b") + raw_header(b"a", octal(0)),
        "NUL",
    ),
    "pax-name-with-nul": (pax((b"path", b"a\0b")) + raw_header(b"a", octal(0)), "NUL"),
    "pax-name-dot-dot": (pax((b"path", b"../../x")) + raw_header(b"a", octal(0)), "inside"),
    "pax-size-no-number": (pax((b"size", b"-1")) + raw_header(b"a", octal(0)), "digits"),
    "pax-size-too-large": (pax((b"size", b"9" * 19)) + raw_header(b"a", octal(0)), "size"),
    "pax-length-lies": (
        raw_header(b"x", octal(12), b"x") + padded(b"99 path=a/b\n"),
        "record of 99 bytes",
    ),
    "pax-without-length": (raw_header(b"x", octal(8), b"x") + padded(b"path=a/b"), "length"),
    "pax-sparse": (
        pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.name", f"{SNAPSHOT}/a".encode()))
        + raw_header(b"a", octal(0)),
        "sparse",
    ),
    "sparse-list-without-an-end": (
        raw_header(b"a", octal(0), b"S", more=True) + b"\xff" * 1024,
        "512 bytes",
    ),
    "pax-global-path": (
        raw_header(b"x", octal(12), b"g") + padded(record(b"path", b"abc")),
        "global",
    ),
    "path-of-10000-bytes": (
        pax((b"path", b"a/" * 5000)) + raw_header(b"a", octal(0)),
        "at most 4096",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_tar_header_with_false_values(attack: Callable[..., Ran], name: str) -> None:
    data, text = HEADERS[name]
    refused(attack(after_the_cache(data)), PROTOCOL, text)


def test_a_layer_that_is_no_tar(attack: Callable[..., Ran]) -> None:
    refused(attack(RawLayer(b"no tar at all" * 100)), PROTOCOL, "tar header")


def test_more_members_than_any_image_has(
    attack: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each layer alone is below the limit of the image.
    monkeypatch.setattr("downloader.restore.foreign.budget.STEPS_START", 20_000)
    data = raw_header(b"a", octal(0), b"5") * 800
    layer = RawLayer(gzip.compress(data, 1), f"{LAYER}+gzip", diff_id=digest_of(data))
    refused(attack(layer, layer), PROTOCOL, "too many tar members")


# Contents that are not what they are called


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("path", ["config.json", "a.safetensors"])
def test_blob_with_a_wrong_digest(attack: Callable[..., Ran], path: str, compress: bool) -> None:
    members = cache_members(GOOD)
    oid = git_oid(GOOD[path]) if path == "config.json" else lfs_oid(GOOD[path])
    lying = [replace(m, data=b"y" * len(m.data)) if m.path.endswith(oid) else m for m in members]
    layer = layer_of(*lying)
    refused(attack(layer.gzipped() if compress else layer), INTEGRITY, f"want oid {oid}")


def test_large_blob_with_a_wrong_digest(attack: Callable[..., Ran]) -> None:
    files = {"a.safetensors": random_bytes(9 * MIB)}
    members = cache_members(files)
    members[0] = replace(members[0], data=members[0].data[:-1] + b"y")
    refused(attack(layer_of(*members)), INTEGRITY, "want oid")


def test_a_listing_that_contradicts_the_files(attack: Callable[..., Ran]) -> None:
    entry = {"size": 2, "blob_id": "1" * 40}
    listing = json.dumps({"format_version": 1, "files": {"config.json": entry}}).encode()
    layer = with_cache(Member(f"{ROOT}/trees/{COMMIT}.json", listing))
    refused(attack(layer), INTEGRITY, "config.json")


def test_a_missing_part_of_a_split_file(attack: Callable[..., Ran]) -> None:
    oid = lfs_oid(b"ab")
    layer = layer_of(
        Member(f"{ROOT}/blobs/{oid}.part-00002-of-00002", b"b"),
        link(f"{SNAPSHOT}/x", f"../../blobs/{oid}"),
    )
    refused(attack(layer), PROTOCOL, "parts 1 to 2")


def test_swapped_parts_of_a_split_file(attack: Callable[..., Ran]) -> None:
    oid = lfs_oid(b"ab")
    parts = [
        Member(f"{ROOT}/blobs/{oid}.part-0000{at}-of-00002", data)
        for at, data in ((1, b"b"), (2, b"a"))
    ]
    layer = layer_of(*parts, link(f"{SNAPSHOT}/x", f"../../blobs/{oid}"))
    for form in (layer, layer.gzipped()):
        refused(attack(form), INTEGRITY, "want oid")


def test_a_layer_whose_digest_does_not_match(tmp_path: Path, cache: Path) -> None:
    layer = with_cache().gzipped()
    put_image(layout(tmp_path / "image"), [layer])
    blob = tmp_path / "image" / "blobs" / "sha256" / layer.descriptor.digest[7:]
    other = with_cache(Member("etc/x", b"x")).gzipped()
    blob.write_bytes(other.data[: len(layer.data)].ljust(len(layer.data), b"\0"))
    ran = restore(tmp_path / "image", cache)
    assert ran.code in {PROTOCOL, INTEGRITY}
    assert not list(cache.glob("*/snapshots"))


def test_a_layer_that_is_longer_than_promised(tmp_path: Path, cache: Path) -> None:
    layer = with_cache().gzipped()
    put_image(layout(tmp_path / "image"), [layer])
    blob = tmp_path / "image" / "blobs" / "sha256" / layer.descriptor.digest[7:]
    blob.write_bytes(layer.data + bytes(1000))
    refused(restore(tmp_path / "image", cache), INTEGRITY, "bytes")


# Bombs


def bomb(compress: Callable[[bytes], bytes]) -> bytes:
    """A file of 1.2 GB of zeros in a tar; each frame expands to 16 MiB, like the last one."""
    head = raw_header(b"zeros", octal(1200 * MIB))
    return compress(head) + compress(bytes(16 * MIB)) * 75


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_decompression_bomb(attack: Callable[..., Ran], kind: str) -> None:
    data = bomb(gzip.compress if kind == "gzip" else zstandard.compress)
    refused(attack(RawLayer(data, f"{LAYER}+{kind}")), PROTOCOL, "bomb")


def test_a_bomb_declared_as_a_blob_needs_free_disk_first(attack: Callable[..., Ran]) -> None:
    head = raw_header(BLOB, b"\x80" + struct.pack(">3xQ", 2**61))
    ran = attack(RawLayer(gzip.compress(head), f"{LAYER}+gzip"))
    refused(ran, 7, " TB free, got ")


ENTRY, HEADER, FOOTER = struct.Struct("<II"), struct.Struct("<II"), struct.Struct("<IBI")


def packed_image(image: Path, frames: list[bytes], entries: list[tuple[int, int]]) -> None:
    """Make an image of ours whose first layer is these frames, and a table that says so much."""
    body = b"".join(ENTRY.pack(*entry) for entry in entries)
    body += FOOTER.pack(len(entries), 0, 0x8F92EAB1)
    data = b"".join(frames) + HEADER.pack(0x184D2A5E, len(body)) + body
    first, *others = our_layers(PLAN, GOOD)
    notes = dict(first.annotations) | dict(
        packed_descriptor(digest_of(data), len(data), digest_of(first.data)).annotations
    )
    layers = [RawLayer(data, f"{LAYER}+zstd", notes, digest_of(first.data)), *others]
    put_image(layout(image), layers, annotations=labels(PLAN))


TAR = layer_bytes(PLAN.layers[0], blobs_of(GOOD, PLAN.snapshot))
HALVES = [zstandard.compress(TAR[:100_000], 1), zstandard.compress(TAR[100_000:], 1)]
SIZES = [(len(HALVES[0]), 100_000), (len(HALVES[1]), len(TAR) - 100_000)]
FAT = HALVES[1] + HEADER.pack(0x184D2A50, 3 * MIB) + bytes(3 * MIB)  # of little content
HUGE_CLAIM = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + b"\1\0\0"


def test_frames_that_are_right_are_restored(tmp_path: Path, cache: Path) -> None:
    packed_image(tmp_path / "image", HALVES, SIZES)
    assert restore(tmp_path / "image", cache).code == 0


@pytest.mark.parametrize(
    ("frames", "entries", "text"),
    [
        (HALVES, [SIZES[0], (SIZES[1][0], 2**31)], "frames of 1 to"),
        (HALVES, [SIZES[0], (SIZES[1][0], FRAME_LIMIT_BYTES + 1)], "frames of 1 to"),
        ([HALVES[0], FAT], [SIZES[0], (len(FAT), SIZES[1][1])], "frames of 1 to"),
        (HALVES, [SIZES[0], (SIZES[1][0] - 1, SIZES[1][1])], "seek table of"),
        (HALVES, [SIZES[0], (2**32 - 1, SIZES[1][1])], "frames of 1 to"),
        (HALVES, [(SIZES[0][0], 99_999), (SIZES[1][0], SIZES[1][1] + 1)], "zstd frame of 99999"),
        (HALVES, [(SIZES[0][0], 0), SIZES[1]], "frames of 1 to"),
        (HALVES, [(SIZES[0][0] - 1, 100_000), (SIZES[1][0] + 1, SIZES[1][1])], "zstd frame"),
        (HALVES, [SIZES[0], (SIZES[1][0], SIZES[1][1] - 4096)], "zstd frame of"),
        ([HUGE_CLAIM, HALVES[1]], [(len(HUGE_CLAIM), 100_000), SIZES[1]], "zstd frame of 100000"),
    ],
    ids=["huge", "large", "fat", "gap", "beyond", "shifted", "empty", "overlap", "short", "bomb"],
)
def test_a_seek_table_or_frame_with_false_sizes(
    tmp_path: Path,
    cache: Path,
    frames: list[bytes],
    entries: list[tuple[int, int]],
    text: str,
) -> None:
    packed_image(tmp_path / "image", frames, entries)
    refused(restore(tmp_path / "image", cache), PROTOCOL, text)


def test_a_frame_of_other_bytes_is_no_file(tmp_path: Path, cache: Path) -> None:
    wrong = zstandard.compress(bytes(100_000), 1)
    packed_image(tmp_path / "image", [wrong, HALVES[1]], [(len(wrong), 100_000), SIZES[1]])
    refused(restore(tmp_path / "image", cache), INTEGRITY, "want oid")


def test_zstd_with_a_window_of_two_gigabytes(attack: Callable[..., Ran]) -> None:
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    refused(attack(RawLayer(frame, f"{LAYER}+zstd")), PROTOCOL, "damage")


@pytest.mark.parametrize("keep", [10, 1000, -20])
def test_a_gzip_stream_that_ends_early(attack: Callable[..., Ran], keep: int) -> None:
    layer = with_cache().gzipped()
    layer.data = layer.data[:keep]
    ran = attack(layer)
    assert ran.code == PROTOCOL, ran.err


# Manifests and configs


def put_manifest(tmp_path: Path, data: bytes) -> Path:
    """A layout whose only manifest is ``data``, whatever that is."""
    root = tmp_path / "image"
    (root / "blobs" / "sha256").mkdir(parents=True)
    digest = digest_of(data)
    (root / "blobs" / "sha256" / digest[7:]).write_bytes(data)
    entry = {"mediaType": MANIFEST, "digest": digest, "size": len(data)}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    (root / "index.json").write_text(json.dumps(index))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


DESCRIPTOR = {"mediaType": LAYER, "digest": f"sha256:{'0' * 64}", "size": 1}
MANIFESTS: Mapping[str, tuple[bytes, str]] = {
    "no-json": (b"\x00\x01", "want JSON"),
    "nested": (b"[" * 200_000, "want JSON"),
    "a-list": (b"[]", "want an object"),
    "schema-1": (b'{"schemaVersion": 1}', "schemaVersion"),
    "a-million-layers": (
        b'{"schemaVersion": 2, "config": %s, "layers": [%s{}]}'
        % (json.dumps(DESCRIPTOR).encode(), b"{}," * 999_999),
        "of memory (limit ",
    ),
    "digest-with-path": (
        json.dumps(
            {
                "schemaVersion": 2,
                "config": {**DESCRIPTOR, "digest": "sha256:../../../etc/passwd"},
                "layers": [],
            }
        ).encode(),
        "sha256:<64 hex>",
    ),
    "negative-size": (
        json.dumps(
            {"schemaVersion": 2, "config": {**DESCRIPTOR, "size": -1}, "layers": []}
        ).encode(),
        "size in bytes",
    ),
    "config-of-a-gigabyte": (
        json.dumps(
            {"schemaVersion": 2, "config": {**DESCRIPTOR, "size": 2**30}, "layers": []}
        ).encode(),
        "config: want at most",
    ),
    "5-megabytes": (b'{"schemaVersion": 2, "x": "' + b"x" * 5 * MIB + b'"}', "at most 4194304"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_malformed_manifest(tmp_path: Path, cache: Path, name: str) -> None:
    data, text = MANIFESTS[name]
    refused(restore(put_manifest(tmp_path, data), cache), PROTOCOL, text)


def test_a_manifest_of_100_megabytes(tmp_path: Path, cache: Path) -> None:
    data = b'{"schemaVersion": 2, "x": "' + b"x" * 100 * MIB + b'"}'
    refused(restore(put_manifest(tmp_path, data), cache), PROTOCOL, "want at most")


def test_an_index_that_names_itself(tmp_path: Path, cache: Path) -> None:
    data = b""
    for _ in range(6):
        inner = {"mediaType": INDEX, "digest": digest_of(data), "size": len(data)}
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner] if data else []}
        root = put_manifest(tmp_path, data) if not (tmp_path / "image").exists() else None
        data = json.dumps(document).encode()
        (root or tmp_path / "image").joinpath("blobs", "sha256", digest_of(data)[7:]).write_bytes(
            data
        )
    entry = {"mediaType": INDEX, "digest": digest_of(data), "size": len(data)}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    (tmp_path / "image" / "index.json").write_text(json.dumps(index))
    refused(restore(tmp_path / "image", cache), PROTOCOL, "deep")


# Images that say they are ours


def ours(tmp_path: Path, change: Callable[[list[RawLayer], dict[str, str]], None]) -> Path:
    files = {**GOOD, "b.bin": random_bytes(5 * MIB, seed=3)}
    plan = make_plan(make_snapshot(files))
    layers, found = our_layers(plan, files), labels(plan)
    change(layers, found)
    put_image(layout(tmp_path / "image"), layers, annotations=found)
    return tmp_path / "image"


def set_members(text: str) -> Callable[[list[RawLayer], dict[str, str]], None]:
    def change(layers: list[RawLayer], _: dict[str, str]) -> None:
        layers[0].annotations = {**layers[0].annotations, f"{PREFIX}.layer.members": text}

    return change


OID = lfs_oid(GOOD["a.safetensors"])
MEMBER_LISTS = {
    "outside-the-layer": (f'[["{OID}",300000,999999999,300000]]', "inside the layer"),
    "outside-the-blob": (f'[["{OID}",300000,512,300000,1]]', "inside the layer and the blob"),
    "negative": (f'[["{OID}",300000,-1,300000]]', "sizes and offsets"),
    "no-oid": ('[["../../x",1,512,1]]', "want an oid"),
    "floats": (f'[["{OID}",1.5,512,1]]', "sizes and offsets"),
    "no-list": ("{}", "want a list"),
    "no-json": ("[", "want JSON"),
}


@pytest.mark.parametrize("name", MEMBER_LISTS)
def test_an_annotation_that_cannot_be(tmp_path: Path, cache: Path, name: str) -> None:
    text, said = MEMBER_LISTS[name]
    refused(restore(ours(tmp_path, set_members(text)), cache), PROTOCOL, said)


def test_an_annotation_that_points_at_other_bytes(tmp_path: Path, cache: Path) -> None:
    def shift(layers: list[RawLayer], _: dict[str, str]) -> None:
        key = f"{PREFIX}.layer.members"
        members = json.loads(layers[0].annotations[key])
        members[0][2] -= 512
        layers[0].annotations = {**layers[0].annotations, key: json.dumps(members)}

    refused(restore(ours(tmp_path, shift), cache), INTEGRITY, "want oid")


def test_annotations_that_leave_a_file_out(tmp_path: Path, cache: Path) -> None:
    refused(restore(ours(tmp_path, set_members("[]")), cache), PROTOCOL, "incomplete")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("commit", "../../x", "40 hex digits"),
        ("commit", "a" * 40, "plans/"),
        ("repo-id", "../../etc", "repo id"),
        ("repo-type", "kernel/..", "repo type"),
    ],
)
def test_a_label_with_a_false_value(
    tmp_path: Path, cache: Path, key: str, value: str, said: str
) -> None:
    image = ours(tmp_path, lambda _, found: found.update({f"{PREFIX}.{key}": value}))
    refused(restore(image, cache), PROTOCOL, said)


def metadata_with(plan: bytes) -> RawLayer:
    entry = TarEntry(f"{ROOT}/plans/{COMMIT}.json", size_bytes=len(plan))
    return RawLayer(b"".join(iter_tar(lay_out([entry]), [plan])), annotations=METADATA_ANNOTATIONS)


def test_a_plan_with_a_path_that_leaves_the_repo(tmp_path: Path, cache: Path) -> None:
    def change(layers: list[RawLayer], _: dict[str, str]) -> None:
        plan = make_plan(make_snapshot(GOOD)).to_json()
        plan["snapshot"]["files"][0]["path"] = "../../../../evil"
        layers[-1] = metadata_with(json.dumps(plan).encode())

    refused(restore(ours(tmp_path, change), cache), PROTOCOL, "unsafe file name")


def test_a_plan_of_another_repo(tmp_path: Path, cache: Path) -> None:
    def change(layers: list[RawLayer], _: dict[str, str]) -> None:
        plan = make_plan(make_snapshot(GOOD, "org/other")).to_json()
        layers[-1] = metadata_with(json.dumps(plan).encode())

    refused(restore(ours(tmp_path, change), cache), PROTOCOL, "want org/model")


def test_a_plan_whose_ref_leaves_the_cache(tmp_path: Path, cache: Path) -> None:
    def change(layers: list[RawLayer], _: dict[str, str]) -> None:
        plan = make_plan(make_snapshot(GOOD)).to_json()
        plan["snapshot"]["revision"] = "../../../../evil"
        layers[-1] = metadata_with(json.dumps(plan).encode())

    refused(restore(ours(tmp_path, change), cache), PROTOCOL, "unsafe file name")


def test_a_metadata_layer_that_is_not_the_promised_one(tmp_path: Path, cache: Path) -> None:
    image = ours(tmp_path, lambda *_: None)
    for blob in (image / "blobs" / "sha256").iterdir():
        data = blob.read_bytes()
        if b"plans/" in data[:20_000] and b"refs/main" in data:
            blob.write_bytes(data.replace(b"config.json", b"config.jsoN"))
    refused(restore(image, cache), INTEGRITY, "want layer sha256:")


def test_a_metadata_layer_of_a_gigabyte(tmp_path: Path, cache: Path) -> None:
    plan = make_plan(make_snapshot(GOOD))
    layer = replace(describe(b"x", LAYER), size_bytes=2**30, annotations=METADATA_ANNOTATIONS)
    store = layout(tmp_path / "image")
    put(store, b"{}")
    put(store, b"x")
    manifest = Manifest(describe(b"{}", CONFIG), (layer,), labels(plan))
    store.put_manifest("latest", manifest.to_bytes(), MANIFEST)
    refused(restore(tmp_path / "image", cache), PROTOCOL, "metadata layer: want at most")


# Archives


def archive_of(tmp_path: Path, *members: Member, compress: bool) -> Path:
    data = tar_of(members)
    path = tmp_path / "image.tar"
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


SAVED = {
    "config-outside": '[{"Config": "../../etc/passwd", "Layers": []}]',
    "layer-outside": '[{"Config": "c.json", "Layers": ["/etc/passwd"]}]',
    "no-layers": '[{"Config": "c.json"}]',
    "layer-missing": '[{"Config": "c.json", "Layers": ["gone/layer.tar"]}]',
    "no-list": '{"Config": 1}',
    "name-that-no-disk-takes": f'[{{"Config": "{"c" * 5000}", "Layers": []}}]',
}


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", SAVED)
def test_a_docker_archive_with_false_entries(
    tmp_path: Path, cache: Path, name: str, compress: bool
) -> None:
    members = [Member("c.json", b"{}"), Member("manifest.json", SAVED[name].encode())]
    archive = archive_of(tmp_path, *members, compress=compress)
    assert restore(archive, cache).code == PROTOCOL


@pytest.mark.parametrize("name", SAVED)
def test_unpacked_docker_archive_with_wrong_bytes(tmp_path: Path, cache: Path, name: str) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "c.json").write_text("{}")
    (tmp_path / "image" / "manifest.json").write_text(SAVED[name])
    refused(restore(tmp_path / "image", cache), PROTOCOL, "")


def test_an_archive_whose_layer_is_another(tmp_path: Path, cache: Path) -> None:
    layer = tar_of(cache_members(GOOD))
    config = json.dumps({"rootfs": {"diff_ids": [f"sha256:{'0' * 64}"]}}).encode()
    manifest = b'[{"Config": "c.json", "Layers": ["l/layer.tar"]}]'
    members = [Member("l/layer.tar", layer), Member("c.json", config)]
    archive = archive_of(tmp_path, *members, Member("manifest.json", manifest), compress=True)
    refused(restore(archive, cache), PROTOCOL, "want layer")


def test_an_archive_that_is_cut(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(tar_of([Member("blob", random_bytes(100_000))])[:50_000])
    refused(restore(archive, cache), PROTOCOL, "bytes")


def test_annotation_that_the_attacks_change_is_written() -> None:
    layer = make_plan(make_snapshot(GOOD)).layers[0]
    assert f"{PREFIX}.layer.members" in layer_annotations(layer)
