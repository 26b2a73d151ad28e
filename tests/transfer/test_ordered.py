"""One file as an ordered stream: over real sockets, with every named fault."""

import hashlib
import threading
from collections.abc import Iterator

import pytest

from downloader.errors import HubError, IntegrityError, ProtocolError, TransportError
from downloader.net.ranges import ByteRange
from downloader.transfer.ordered import BufferPool, StreamSettings
from downloader.units import MIB
from tests.support.fake_hub import Generated, HubServer, HubSpec, faults, make_repo, read_all
from tests.support.fake_hub.fault import Fault
from tests.support.hub import STREAM, Side, file_of, fresh

SIZE = 11 * MIB + 12_345
BIG = Generated(SIZE, seed=3)
FILE = "*big.bin"
REPO = make_repo("org/big", {"big.bin": BIG, "small.txt": b"hello"})
GATED = REPO.but(id="org/gated", gated="manual", readers=("alice",))
HUB = HubSpec((REPO, GATED), users={"hf_alice": "alice", "hf_bob": "bob"})


@pytest.fixture
def side(hub: HubServer) -> Iterator[Side]:
    with fresh(hub) as one:
        yield one


@pytest.fixture(scope="module")
def digest() -> str:
    return hashlib.sha256(read_all(BIG)).hexdigest()


def test_whole_file_costs_each_byte_once(side: Side, digest: str) -> None:
    assert side.read("org/big", "big.bin") == digest
    assert side.log().of(origin="cdn").bytes_sent == SIZE


def test_one_connection_is_one_request(side: Side, digest: str) -> None:
    settings = StreamSettings(connections=1)
    assert side.read("org/big", "big.bin", settings=settings) == digest
    assert len(side.log().of(origin="cdn")) == 1


def test_slow_connection_gets_others_beside_it(side: Side, digest: str) -> None:
    side.hub.add_fault(faults.BandwidthCap(path=FILE, bytes_per_s=4 * MIB))
    settings = StreamSettings(connections=3, range_bytes=MIB, ring_bytes=8 * MIB)
    seen: set[str] = set()
    got = hashlib.sha256()
    with side.open("org/big", "big.bin", settings=settings) as stream:
        for view in stream:
            got.update(view)
            seen |= {thread.name for thread in threading.enumerate()}
    assert got.hexdigest() == digest
    assert {"stream-1", "stream-2", "stream-3"} <= seen
    assert "stream-4" not in seen


@pytest.mark.parametrize(
    "wanted",
    [
        ByteRange(0, 1),
        ByteRange(SIZE - 1, SIZE),
        ByteRange(MIB - 1, MIB + 1),
        ByteRange(12_345, 9 * MIB + 7),
        ByteRange(5, 5),
    ],
    ids=str,
)
def test_range(side: Side, wanted: ByteRange) -> None:
    with side.open("org/big", "big.bin", wanted=wanted) as stream:
        got = b"".join(bytes(view) for view in stream)
    assert got == read_all(BIG, wanted.start, wanted.end)


def test_range_without_ranges_at_the_server(side: Side) -> None:
    side.hub.add_fault(faults.NoRanges())
    wanted = ByteRange(3 * MIB + 1, 5 * MIB + 2)
    with side.open("org/big", "big.bin", wanted=wanted) as stream:
        got = b"".join(bytes(view) for view in stream)
    assert got == read_all(BIG, wanted.start, wanted.end)


def test_memory_of_two_buffers_is_enough(side: Side, digest: str) -> None:
    pool = BufferPool(2 * 64 * 1024, buffer_bytes=64 * 1024)
    assert side.read("org/big", "big.bin", pool=pool) == digest


def test_streams_share_a_pool_smaller_than_their_rings(side: Side, digest: str) -> None:
    pool = BufferPool(10 * 256 * 1024, buffer_bytes=256 * 1024)
    got: list[str] = []

    def read() -> None:
        got.append(side.read("org/big", "big.bin", pool=pool))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [digest] * 4


def test_views_stay_valid_until_the_next(side: Side) -> None:
    with side.open("org/big", "big.bin") as stream:
        at = 0
        for view in stream:
            first = bytes(view)
            side.hub.release()
            assert bytes(view) == first == read_all(BIG, at, at + len(view))
            at += len(view)
    assert at == SIZE


PASSING = [
    faults.ResetAfter(path=FILE, after_bytes=300_000, times=5),
    faults.ResetAfter(path=FILE, after_bytes=0, times=2),
    faults.CutAfter(path=FILE, after_bytes=1_500_000, times=3),
    faults.StallAfter(path=FILE, after_bytes=700_000, times=1),
    faults.TooManyRequests(path=FILE, origin="cdn", times=2),
    faults.TooManyRequests(path=FILE, origin="hub", times=1),
    faults.TooManyRequests(path=FILE, origin="cdn", times=1, as_date=True),
    faults.TooManyRequests(path=FILE, origin="cdn", times=1, ratelimit=True),
    faults.ServerError(path=FILE, origin="hub", times=2),
    faults.ServerError(path=FILE, origin="cdn", times=3, status=502),
    faults.SignedUrlExpired(path=FILE, times=3),
    faults.SignedUrlExpired(path=FILE, times=3, skip=4),
    faults.HandsOutExpiredUrls(path=FILE, times=1),
    faults.OtherRange(path=FILE, times=2),
    faults.MoreBytes(path=FILE, times=1),
    faults.FewerBytes(path=FILE, times=1),
    faults.RedirectElsewhere(path=FILE, origin="hub"),
    faults.NoRanges(path=FILE),
    faults.Compressed(path=FILE),
    faults.NoRanges(path=FILE, from_byte=5 * MIB),
    faults.NoRanges(path=FILE, skip=3),
    faults.SlowFirstByte(path=FILE, delay_s=1.3, times=2),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: str(fault)[:60])
def test_fault_that_passes(side: Side, digest: str, fault: Fault) -> None:
    side.hub.add_fault(fault)
    assert side.read("org/big", "big.bin") == digest
    assert any(entry.faults for entry in side.log())


def test_cut_costs_only_bytes_in_flight(side: Side, digest: str) -> None:
    side.hub.add_fault(faults.CutAfter(path=FILE, after_bytes=MIB, times=3))
    assert side.read("org/big", "big.bin") == digest
    assert side.log().of(origin="cdn").bytes_sent <= SIZE + 3 * 256 * 1024


FATAL = [
    (faults.ResetAfter(path=FILE, after_bytes=0), TransportError),
    (faults.ServerError(path=FILE, origin="cdn"), HubError),
    (faults.ServerError(path=FILE, origin="hub"), HubError),
    (faults.Unauthorized(path=FILE, origin="hub"), HubError),
    (faults.SignedUrlExpired(path=FILE), HubError),
    (faults.OtherRange(path=FILE, skip=1), ProtocolError),
    (faults.MoreBytes(path=FILE), IntegrityError),
    (faults.FewerBytes(path=FILE), IntegrityError),
    (faults.TooManyRequests(path=FILE, retry_after_s=3600), HubError),
]


@pytest.mark.parametrize(("fault", "kind"), FATAL, ids=lambda item: str(item)[:50])
def test_fault_that_stays(side: Side, fault: Fault, kind: type[Exception]) -> None:
    side.hub.add_fault(fault)
    pool = BufferPool(8 * MIB)
    with pytest.raises(kind) as caught:
        side.read("org/big", "big.bin", pool=pool)
    assert "Signature" not in str(caught.value)
    assert "expires=" not in str(caught.value)
    # The memory is back: another stream of the whole pool opens at once.
    assert len(pool.reserve(8, 8)) == 8


def test_first_bytes_arrive_before_a_later_failure(side: Side) -> None:
    side.hub.add_fault(faults.ServerError(path=FILE, origin="cdn", skip=1))
    with side.open("org/big", "big.bin") as stream:
        views = iter(stream)
        got = sum(len(next(views)) for _ in range(STREAM.range_bytes // MIB))
        with pytest.raises(HubError, match="503"):
            next(views)
    assert got == STREAM.range_bytes


def test_token_goes_to_the_hub_only(hub: HubServer, digest: str) -> None:
    with fresh(hub, "hf_alice") as side:
        assert side.read("org/gated", "big.bin") == digest
        seen = side.log()
    asked = seen.of(origin="hub", path="/org/gated/")
    assert asked
    assert all(entry.has_auth for entry in asked)
    assert not any(entry.has_auth for entry in seen.of(origin="cdn"))


def test_token_does_not_follow_a_redirect_elsewhere(hub: HubServer, digest: str) -> None:
    with fresh(hub, "hf_alice") as side:
        hub.add_fault(faults.RedirectElsewhere(path=FILE, origin="cdn"))
        assert side.read("org/gated", "big.bin") == digest
        seen = side.log().of(origin="elsewhere")
    assert seen
    assert not any(entry.has_auth for entry in seen)


def test_gated_file_is_an_error_with_a_hint(hub: HubServer) -> None:
    with fresh(hub, "hf_bob") as side, pytest.raises(HubError) as caught:
        side.read("org/gated", "big.bin")
    assert caught.value.status == 403
    assert "conditions" in (caught.value.hint or "")
    assert "hf_bob" not in str(caught.value)


def test_closing_early_stops_the_transfer(side: Side) -> None:
    side.hub.add_fault(faults.BandwidthCap(path=FILE, bytes_per_s=4 * MIB))
    pool = BufferPool(4 * MIB)
    with side.open("org/big", "big.bin", pool=pool) as stream:
        next(iter(stream))
    assert len(pool.reserve(4, 4)) == 4
    assert side.log().bytes_sent < SIZE


def test_closing_during_a_stall_does_not_wait_for_it(side: Side) -> None:
    side.hub.add_fault(faults.StallAfter(path=FILE, after_bytes=MIB + 5))
    pool = BufferPool(4 * MIB)
    with side.open("org/big", "big.bin", pool=pool) as stream:
        next(iter(stream))
    assert len(pool.reserve(4, 4)) == 4


def test_another_thread_may_close_it(side: Side) -> None:
    side.hub.add_fault(faults.StallAfter(path=FILE, after_bytes=MIB + 5))
    pool = BufferPool(4 * MIB)
    with side.open("org/big", "big.bin", pool=pool) as stream:
        views = iter(stream)
        next(views)
        thread = threading.Thread(target=stream.close)
        thread.start()
        with pytest.raises(TransportError, match="interrupted"):
            list(views)
        thread.join()
    assert len(pool.reserve(4, 4)) == 4  # waits for a writer that has a buffer


def test_empty_range_makes_no_request(side: Side) -> None:
    with side.open("org/big", "big.bin", wanted=ByteRange(0, 0)) as stream:
        assert list(stream) == []
    assert not side.log().of(origin="cdn")


def test_small_file_of_the_hub_itself(side: Side) -> None:
    with side.open("org/big", "small.txt") as stream:
        assert b"".join(bytes(view) for view in stream) == b"hello"
    assert file_of(side.snapshot("org/big"), "small.txt").size_bytes == 5
