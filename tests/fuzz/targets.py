"""One function per parser of foreign input: bytes in, nothing out, or an `AssertionError`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from downloader.errors import HfModelsError
from downloader.hub.repo import check_repo_path
from downloader.image import PREFIX, parse_labels, parse_members
from downloader.net.ranges import ByteRange, check_content_range
from downloader.oci.auth import parse_challenges
from downloader.oci.compression import PlainStream
from downloader.oci.digest import digest_of
from downloader.oci.image_archive import parse_saved
from downloader.oci.manifest import LAYER, Index, Manifest, describe, parse_manifest
from downloader.oci.reference import parse_reference
from downloader.oci.responses import next_url, parse_errors, parse_next_link
from downloader.oci.seekable import parse_table, table_bytes
from downloader.oci.tar_read import iter_members, parse_records
from downloader.plan import Plan
from downloader.restore.foreign.budget import Budget
from downloader.restore.foreign.cache_scan import find_snapshots, parse_listing
from downloader.restore.foreign.overlay import Tree
from downloader.restore.foreign.scan import Locator, scan_layer
from downloader.restore.source import parse_source
from downloader.signing import verify_bundle
from downloader.transfer.journal import Journal

Target = Callable[[bytes], None]
_READ_LIMIT_BYTES = 64 * 1024 * 1024


def reader_of(data: bytes) -> Callable[[memoryview], int]:
    at = 0

    def read_into(buffer: memoryview) -> int:
        nonlocal at
        count = min(len(buffer), len(data) - at)
        buffer[:count] = data[at : at + count]
        at += count
        return count

    return read_into


def manifest(data: bytes) -> None:
    found = parse_manifest(data)
    again = parse_manifest(found.to_bytes())
    assert isinstance(again, Manifest | Index)
    assert again.to_bytes() == found.to_bytes()


def reference(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    found = parse_reference(text)
    assert parse_reference(str(found)) == found
    assert ".." not in found.repository.split("/")


def source(data: bytes) -> None:
    text = data.decode("utf-8", "replace").replace("\0", "")
    parse_source(text, lambda _: False)


def tar(data: bytes) -> None:
    stream = PlainStream(reader_of(data), "fuzz")
    end = 0
    for member in iter_members(stream, "fuzz", members_limit=1000):
        assert member.content_offset >= end
        assert member.size_bytes >= 0
        assert not member.path.startswith("/")
        assert ".." not in member.path.split("/")
        assert "\0" not in member.path
        end = member.content_offset


def layer(data: bytes) -> None:
    tree = Tree()
    stream = PlainStream(reader_of(data), "fuzz")
    tree.apply(scan_layer(stream, "fuzz", Locator(digest_of(b"")), Budget("fuzz")))
    for snapshot in find_snapshots(tree):
        for path in snapshot.files:
            check_repo_path(path)


def compressed(data: bytes) -> None:
    stream = PlainStream(reader_of(data), "fuzz")
    buffer = memoryview(bytearray(1024 * 1024))
    while stream.offset < _READ_LIMIT_BYTES and stream.readinto(buffer):
        pass


def seek_table(data: bytes) -> None:
    need = table_bytes(data, len(data) + 1000, "fuzz")
    if need is not None and need <= len(data):
        table = parse_table(data[-need:], len(data) + 1000, "fuzz")
        assert table.packed[-1] + need == len(data) + 1000
        assert list(table.plain) == sorted(set(table.plain))
        frames = table.frames_of(ByteRange(0, table.size_bytes), "fuzz")
        assert len(frames) == len(table.plain) - 1


def bundle(data: bytes) -> None:
    verify_bundle(data, {})


def records(data: bytes) -> None:
    parse_records(data)


def challenge(data: bytes) -> None:
    for found in parse_challenges(data.decode("latin-1")):
        assert found.scheme == found.scheme.lower()


def content_range(data: bytes) -> None:
    want = ByteRange(5, 10)
    with suppress(HfModelsError):
        check_content_range(data.decode("latin-1"), want)
        assert data.startswith(b"bytes 5-9/")


def link(data: bytes) -> None:
    parse_next_link(data.decode("latin-1"))


def location(data: bytes) -> None:
    url = next_url("https://registry.example/v2/a/", data.decode("latin-1"))
    assert url.startswith("https://")


def errors(data: bytes) -> None:
    for code, message in parse_errors(data):
        assert (code + message).isprintable() or not (code + message)


def members(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    descriptor = replace(
        describe(b"x" * 1000, LAYER), annotations={f"{PREFIX}.layer.members": text}
    )
    for member in parse_members(descriptor) or ():
        assert 0 <= member.content.start <= member.content.end <= 1000
        assert member.start + member.content.size_bytes <= member.blob_bytes


def labels(data: bytes) -> None:
    document = json.loads(data)
    if isinstance(document, dict):
        parse_labels({f"{PREFIX}.{key}": str(value) for key, value in document.items()})


def plan(data: bytes) -> None:
    document = json.loads(data)
    if isinstance(document, dict):
        for file in Plan.from_json(document).snapshot.files:
            check_repo_path(file.path)


def listing(data: bytes) -> None:
    for path in parse_listing(data, "fuzz"):
        check_repo_path(path)


def saved(data: bytes) -> None:
    for entry in parse_saved(data):
        for path in (entry.config, *entry.layers):
            assert not path.startswith("/")
            assert ".." not in path.split("/")


def journal(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        there = Journal(Path(file.name), 1000, "boot").read()
    assert there.size_bytes <= 1000
    assert all(0 <= item.start < item.end <= 1000 for item in there)


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        manifest, reference, source, tar, layer, compressed, records, challenge, content_range,
        seek_table, bundle, link, location, errors, members, labels, plan, listing, saved, journal,
    )
}  # fmt: skip

# The parsers of JSON documents are asked with JSON; what is none, they never see.
_NO_JSON = {"labels", "plan"}


def run(name: str, data: bytes) -> None:
    """Run one target; only what it may not do comes out as an error."""
    expected: tuple[type[Exception], ...] = (HfModelsError,)
    if name in _NO_JSON:
        expected += (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
    with suppress(*expected):
        TARGETS[name](data)
