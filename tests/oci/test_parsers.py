"""What strangers send: parsed, or refused with an error of this project, whatever it is.

By seeds (kept from what was found), by their mutations, by documents of the right shape, and by
bytes. ``tests.fuzz`` searches the same targets by coverage.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from downloader.errors import ProtocolError
from downloader.net.ranges import ByteRange
from downloader.oci.compression import PlainStream
from downloader.oci.tar_read import iter_members, read_exactly
from downloader.transfer.rangeset import RangeSet
from tests.fuzz import targets
from tests.support.make_image import Member, tar_of

pytestmark = pytest.mark.portable

SEEDS = Path(__file__).parents[1] / "fuzz" / "seeds"
quick = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def seeds_of(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_seed(name: str) -> None:
    assert seeds_of(name)
    for data in seeds_of(name):
        targets.run(name, data)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_bytes(name: str) -> None:
    @quick
    @given(st.binary(max_size=2000))
    def check(data: bytes) -> None:
        targets.run(name, data)

    check()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_with_a_few_bytes_changed(name: str) -> None:
    @quick
    @given(
        st.sampled_from(seeds_of(name)),
        st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=12)), max_size=4),
    )
    def check(data: bytes, changes: list[tuple[int, bytes]]) -> None:
        for at, new in changes:
            place = at % (len(data) + 1)
            data = data[:place] + new + data[place + len(new) * (at % 2) :]
        targets.run(name, data)

    check()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def replaced(document: Any, path: list[int], value: Any) -> Any:
    """Return ``document`` with one value, chosen by ``path``, replaced."""
    if not path or not isinstance(document, dict | list) or not document:
        return value
    at = path[0] % len(document)
    if isinstance(document, list):
        return [*document[:at], replaced(document[at], path[1:], value), *document[at + 1 :]]
    key = list(document)[at]
    return {**document, key: replaced(document[key], path[1:], value)}


@pytest.mark.parametrize("name", ["manifest", "members", "labels", "plan", "listing", "saved"])
def test_documents_with_one_value_changed(name: str) -> None:
    documents = []
    for data in seeds_of(name):
        try:
            documents.append(json.loads(data))
        except ValueError:
            continue

    @settings(quick, max_examples=150)
    @given(st.sampled_from(documents), st.lists(st.integers(0, 50), max_size=7), json_values)
    def check(document: Any, path: list[int], value: Any) -> None:
        targets.run(name, json.dumps(replaced(document, path, value)).encode())

    check()


paths = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"),
    min_size=1,
    max_size=300,
)


@quick
@given(
    st.lists(st.tuples(paths, st.binary(max_size=1500)), max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
@example([("a" * 100, b""), ("b" * 101, b"x"), ("c" * 600, b"y" * 512)], tarfile.GNU_FORMAT)
def test_a_tar_reads_as_it_was_written(files: list[tuple[str, bytes]], tar_format: int) -> None:
    data = tar_of([Member(path, content) for path, content in files], tar_format)
    stream = PlainStream(targets.reader_of(data), "tar")
    names = [path for path, _ in files]
    if any(path.startswith("/") or ".." in path.split("/") for path in names):
        with pytest.raises(ProtocolError):
            list(iter_members(stream, "tar"))
        return
    found = [
        (member.path, read_exactly(stream, member.size_bytes, "x"))
        for member in iter_members(stream, "tar")
        if member.kind == "file"
    ]
    wanted = [(clean(path), content) for path, content in files if not path.endswith("/")]
    assert found == wanted


def clean(path: str) -> str:
    return "/".join(segment for segment in path.split("/") if segment not in {"", "."})


ranges = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda x: ByteRange(*sorted(x)))


@quick
@given(st.lists(st.tuples(st.booleans(), ranges), max_size=12), ranges)
def test_a_set_of_ranges_is_a_set_of_offsets(
    steps: list[tuple[bool, ByteRange]], within: ByteRange
) -> None:
    there, want = RangeSet(), set[int]()
    for adds, item in steps:
        offsets = set(range(item.start, item.end))
        if adds:
            there.add(item)
            want |= offsets
        else:
            there.remove(item)
            want -= offsets
    got = {at for item in there for at in range(item.start, item.end)}
    assert got == want
    assert there.size_bytes == len(want)
    gaps = {at for item in there.gaps(within) for at in range(item.start, item.end)}
    assert gaps == set(range(within.start, within.end)) - want
    assert there.prefix_end == next(at for at in range(51) if at not in want)
