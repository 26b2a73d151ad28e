"""A partial file that is read while it is filled."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from downloader.net.ranges import ByteRange
from downloader.transfer.partial_file import PartialFile
from downloader.units import MIB

pytestmark = pytest.mark.portable

SIZE = 20 * MIB + 5
DATA = hashlib.sha256(b"seed").digest() * (SIZE // 32 + 1)


class _Hasher:
    """Takes any content."""

    def __init__(self) -> None:
        self.seen_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        self.seen_bytes += len(data)

    def check(self, name: str) -> None:
        assert self.seen_bytes == SIZE, name


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PartialFile]:
    one = PartialFile(tmp_path / "blob", SIZE, _Hasher)
    one.open()
    yield one
    one.close()


def put(file: PartialFile, written: ByteRange) -> None:
    """Write bytes of the content, and say that they are there."""
    file.write(memoryview(DATA)[written.start : written.end], written.start)
    file.note(written)


def test_the_end_of_a_claim_is_taken_over_and_both_halves_are_fetched(file: PartialFile) -> None:
    first = file.claim(connections=1)
    assert first is not None
    while other := file.claim(connections=1):
        put(file, ByteRange(other.start, other.end))
        file.release(other, other.end)
    assert file.take(first, first.start, MIB) == MIB
    put(file, ByteRange(first.start, first.at))
    second = file.split(each_bytes_per_s=MIB)
    assert second is not None
    assert first.at < first.end == second.start
    assert file.split(each_bytes_per_s=1000 * MIB) is None  # both end too soon
    for one in (first, second):
        put(file, ByteRange(one.start, one.end))
        file.release(one, one.end)
    assert file.is_whole()


def test_rest_of_a_released_claim_is_claimed_again_without_the_split_half(
    file: PartialFile,
) -> None:
    first = file.claim(connections=1)
    assert first is not None
    second = file.split(each_bytes_per_s=MIB)
    assert second is not None
    file.release(first, first.start)
    again = file.claim(connections=1)
    assert again is not None
    assert (again.start, again.end) == (first.start, second.start)
    for one in (again, second):
        file.release(one, one.start)
