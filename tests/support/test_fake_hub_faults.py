"""Every named fault, seen by a client of few words."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import urllib3

from tests.support.fake_hub import (
    Fault,
    HubServer,
    faults,
    read_all,
    tiny_repo,
)
from tests.support.fake_hub.raw import get, weights_url

if TYPE_CHECKING:
    from collections.abc import Iterator

TINY = tiny_repo()
WEIGHTS = TINY.files()["model.safetensors"]


@pytest.fixture
def local() -> Iterator[HubServer]:
    """In this process: for raw clients, and for faults."""
    with HubServer([TINY]) as server:
        yield server


class Weights:
    """The signed address of the weights, with a fault set on them."""

    def __init__(self, hub: HubServer, fault: Fault) -> None:
        self.url = weights_url(hub)
        hub.clear_log()
        hub.add_fault(fault)

    def get(self, **headers: str) -> urllib3.BaseHTTPResponse:
        return get(self.url, **headers)

    def read_until_closed(self) -> tuple[bytes, bool]:
        """Read the body until the end; the second says whether it was a reset."""
        address = urlsplit(self.url)
        assert address.port
        data = bytearray()
        with socket.create_connection(("127.0.0.1", address.port), timeout=20) as sock:
            sock.sendall(f"GET {address.path}?{address.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            was_reset = True
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(65536):
                    data += piece
                was_reset = False
        return bytes(data.partition(b"\r\n\r\n")[2]), was_reset


def test_fault_no_ranges(local: HubServer) -> None:
    answer = Weights(local, faults.NoRanges()).get(Range="bytes=0-0")
    assert (answer.status, len(answer.data)) == (200, WEIGHTS.size_bytes)
    assert "Content-Range" not in answer.headers
    assert "Accept-Ranges" not in answer.headers


def test_fault_ranges_ignored_after_the_probe(local: HubServer) -> None:
    weights = Weights(local, faults.RangesIgnoredAfterProbe())
    assert weights.get(Range="bytes=0-0").status == 206
    answer = weights.get(Range="bytes=10-19")
    assert (answer.status, len(answer.data)) == (200, WEIGHTS.size_bytes)


def test_fault_other_range(local: HubServer) -> None:
    answer = Weights(local, faults.OtherRange(shift=10)).get(Range="bytes=100-109")
    assert answer.headers["Content-Range"] == f"bytes 90-99/{WEIGHTS.size_bytes}"
    assert answer.data == read_all(WEIGHTS.source, 90, 100)


def test_fault_429_in_seconds_twice(local: HubServer) -> None:
    local.add_fault(faults.TooManyRequests(path="/api/*", retry_after_s=7, times=2))
    answers = [get(f"{local.endpoint}/api/models/org/tiny") for _ in range(3)]
    assert [answer.status for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert [entry.faults for entry in local.log()] == [("TooManyRequests",)] * 2 + [()]


def test_fault_429_as_a_date(local: HubServer) -> None:
    answer = Weights(local, faults.TooManyRequests(retry_after_s=60, as_date=True)).get()
    after = parsedate_to_datetime(answer.headers["Retry-After"])
    assert 58 <= (after - parsedate_to_datetime(answer.headers["Date"])).total_seconds() <= 62


def test_fault_429_with_ratelimit(local: HubServer) -> None:
    answer = Weights(local, faults.TooManyRequests(retry_after_s=55, ratelimit=True)).get()
    assert (answer.status, answer.headers["ratelimit"]) == (429, '"api";r=0;t=55')
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("status", [500, 502, 503])
def test_fault_server_error_after_the_first(local: HubServer, status: int) -> None:
    weights = Weights(local, faults.ServerError(status=status, skip=1, times=2))
    statuses = [weights.get(Range="bytes=0-0").status for _ in range(4)]
    assert statuses == [206, status, status, 206]


def test_fault_401_in_the_middle(local: HubServer) -> None:
    weights = Weights(local, faults.Unauthorized(from_byte=1000))
    assert weights.get(Range="bytes=0-9").status == 206
    assert weights.get(Range="bytes=1000-1009").status == 401


def test_fault_signed_url_expired(local: HubServer) -> None:
    weights = Weights(local, faults.SignedUrlExpired(times=1))
    assert [weights.get().status for _ in range(2)] == [403, 200]


def test_fault_hands_out_expired_urls(local: HubServer) -> None:
    local.add_fault(faults.HandsOutExpiredUrls(times=1))
    answers = [get(weights_url(local)) for _ in range(2)]
    assert [answer.status for answer in answers] == [403, 200]
    assert b"expired" in answers[0].data


def test_fault_redirect_elsewhere(local: HubServer) -> None:
    answer = Weights(local, faults.RedirectElsewhere(origin="cdn")).get()
    assert answer.status == 302
    url = answer.headers["Location"]
    assert url.startswith(local.elsewhere_endpoint)
    assert urlsplit(url).hostname != urlsplit(local.endpoint).hostname
    assert get(url).data == read_all(WEIGHTS.source)
    assert get(url, Authorization="Bearer hf_canary").status == 400


def test_fault_redirect_elsewhere_from_the_hub(local: HubServer) -> None:
    local.add_fault(faults.RedirectElsewhere(path="*config.json"))
    url = get(f"{local.endpoint}/org/tiny/resolve/main/config.json").headers["Location"]
    assert get(url).data == read_all(TINY.files()["config.json"].source)


def test_fault_reset(local: HubServer) -> None:
    data, was_reset = Weights(local, faults.ResetAfter(after_bytes=1000)).read_until_closed()
    assert was_reset
    assert len(data) <= 1000
    assert local.log().of(origin="cdn").bytes_sent == 1000


def test_fault_cut(local: HubServer) -> None:
    data, was_reset = Weights(local, faults.CutAfter(after_bytes=2_000_000)).read_until_closed()
    assert not was_reset
    assert data == read_all(WEIGHTS.source, 0, 2_000_000)


def test_fault_stall_until_released(local: HubServer) -> None:
    weights = Weights(local, faults.StallAfter(after_bytes=1000))
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(weights.get)
        while local.log(settle_s=0.02).of(origin="cdn").bytes_sent < 1000:
            assert not pending.done()
        assert not pending.done()
        assert local.log(settle_s=0.1).of(origin="cdn").bytes_sent == 1000
        local.release()
        assert pending.result(20).data == read_all(WEIGHTS.source)


def test_fault_stall_for_a_time(local: HubServer) -> None:
    answer = Weights(local, faults.StallAfter(after_bytes=1000, stall_s=0.05)).get()
    assert answer.data == read_all(WEIGHTS.source)


def test_fault_wrong_bytes(local: HubServer) -> None:
    weights = Weights(local, faults.WrongBytes(at_byte=2_000_000))
    want = read_all(WEIGHTS.source)
    got = weights.get().data
    assert len(got) == len(want)
    wrong = [at for at in range(1_999_990, 2_000_010) if got[at] != want[at]]
    assert wrong == [2_000_000]
    assert got[:2_000_000] + want[2_000_000:2_000_001] + got[2_000_001:] == want
    assert weights.get(Range="bytes=2000000-2000000").data != want[2_000_000:2_000_001]
    assert weights.get(Range="bytes=0-999").data == want[:1000]


def test_fault_fewer_bytes(local: HubServer) -> None:
    weights = Weights(local, faults.FewerBytes(missing_bytes=10))
    assert weights.get().data == read_all(WEIGHTS.source)[:-10]
    ranged = weights.get(Range="bytes=-5").headers["Content-Range"]
    assert ranged.endswith(f"/{WEIGHTS.size_bytes - 10}")


def test_fault_more_bytes(local: HubServer) -> None:
    answer = Weights(local, faults.MoreBytes(extra_bytes=10)).get()
    assert answer.data == read_all(WEIGHTS.source) + bytes(10)
    assert answer.headers["Content-Length"] == str(WEIGHTS.size_bytes + 10)


def test_fault_bandwidth_cap(local: HubServer) -> None:
    weights = Weights(local, faults.BandwidthCap(bytes_per_s=1))
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(weights.get)
        while not (seen := local.log(settle_s=0.02).of(origin="cdn").bytes_sent):
            assert not pending.done()
        assert seen < 1000  # a second each; without the cap it is a block at once
        local.stop()
        assert isinstance(pending.exception(20), urllib3.exceptions.ProtocolError)


def test_fault_slow_first_byte(local: HubServer) -> None:
    weights = Weights(local, faults.SlowFirstByte())
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(weights.get, Range="bytes=0-9")
        while not local.log(settle_s=0.02).of(origin="cdn"):
            assert not pending.done()
        assert not local.log(settle_s=0.1).of(origin="cdn")[0].done
        local.release()
        assert pending.result(20).data == read_all(WEIGHTS.source, 0, 10)


def test_quota_is_counted_down_in_headers_and_then_refuses(local: HubServer) -> None:
    weights = Weights(local, faults.Quota(requests=2))
    answers = [weights.get() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer.headers["RateLimit"][:15] for answer in answers] == [
        '"resolvers";r=1',
        '"resolvers";r=0',
        '"resolvers";r=0',
    ]


def test_every_fault_travels_as_json() -> None:
    for kind in faults.KINDS.values():
        fault = kind(path="*.bin", times=2, skip=1)
        assert faults.parse_fault(faults.dump_fault(fault)) == fault


INFO = "/api/models/org/tiny/revision/main"


def test_fault_other_answer(local: HubServer) -> None:
    local.add_fault(faults.OtherAnswer(path=INFO, status=307, headers={"Location": "/x"}))
    answer = get(local.endpoint + INFO)
    assert (answer.status, answer.headers["Location"]) == (307, "/x")
    assert answer.data.startswith(b"<html>")


def test_fault_changed_json(local: HubServer) -> None:
    local.add_fault(faults.ChangedJson(path=INFO, values={"sha": "x", "gated": None}))
    document = get(local.endpoint + INFO).json()
    assert (document["sha"], document["id"]) == ("x", "org/tiny")
    assert "gated" not in document


def test_fault_compressed(local: HubServer) -> None:
    local.add_fault(faults.Compressed(path=INFO))
    answer = get(local.endpoint + INFO)  # urllib3 unpacks it
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.json()["id"] == "org/tiny"


def test_fault_link_not_rewritten(local: HubServer) -> None:
    local.add_fault(faults.LinkNotRewritten(path="*/tree/*"))
    answer = get(f"{local.endpoint}/api/models/org/tiny/tree/main?limit=1")
    assert answer.headers["Link"].startswith("<https://huggingface.co/api/models/org/tiny/tree/")


def test_every_fault_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in faults.KINDS if f"faults.{name}(" not in text] == []
