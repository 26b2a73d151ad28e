"""The registry client against a real registry, behind a proxy that breaks things by name."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloader.environment import ProxySettings, Setting
from downloader.errors import (
    InputError,
    IntegrityError,
    ProtocolError,
    RegistryError,
    TransportError,
)
from downloader.net.http import HttpPool, HttpSettings
from downloader.net.proxies import HostList, Proxies
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy
from downloader.net.trust import Trust
from downloader.oci.digest import digest_of
from downloader.oci.reference import Reference, parse_reference
from downloader.oci.registry_write import WritableRegistry
from downloader.oci.responses import next_url, parse_errors, parse_next_link
from downloader.oci.upload import UploadMode, parse_offset, takes_chunks
from downloader.units import MIB
from tests.support.blobs import CHUNK_BYTES, DATA, DIGEST, SIZE_BYTES, push, read
from tests.support.faults import Fault
from tests.support.faulty_proxy import FaultyProxy
from tests.support.tls import make_certificate

PATCH: dict[str, Any] = {"method": "PATCH"}
COMMIT: dict[str, Any] = {"method": "PUT", "path": r"digest="}
BLOB: dict[str, Any] = {"method": "GET", "path": r"/blobs/sha256"}
MODES: tuple[UploadMode, ...] = ("chunked", "stream")

pytestmark = pytest.mark.docker


@pytest.fixture
def waits() -> list[float]:
    return []


Opener = Callable[..., WritableRegistry]


@pytest.fixture
def open_registry(proxy: FaultyProxy, pool: HttpPool, waits: list[float]) -> Opener:
    def open_it(upload: UploadMode = "auto", host: str = "", **options: object) -> WritableRegistry:
        reference = Reference(host or proxy.host, f"tests/{uuid.uuid4().hex}")
        settings: dict[str, object] = {
            "chunk_bytes": CHUNK_BYTES,
            "retry": RetryPolicy(tries=4),
            "sleep": waits.append,
            **options,
        }
        return WritableRegistry(reference, pool, upload=upload, **settings)  # type: ignore[arg-type]

    return open_it


def offsets(proxy: FaultyProxy) -> list[str | None]:
    return [seen.headers.get("Content-Range") for seen in proxy.of("PATCH")]


# Uploads that go well


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, SIZE_BYTES])
def test_pushes_and_reads_back(open_registry: Opener, mode: UploadMode, size: int) -> None:
    registry = open_registry(mode)
    push(registry, DATA[:size])
    assert registry.blob_size(digest_of(DATA[:size])) == size
    assert read(registry, data=DATA[:size]) == DATA[:size]


def test_small_blob_costs_one_post_and_one_put(open_registry: Opener, proxy: FaultyProxy) -> None:
    push(open_registry(), DATA[:100])
    assert [seen.method for seen in proxy.seen] == ["POST", "PUT"]


def test_chunks_follow_each_other(open_registry: Opener, proxy: FaultyProxy) -> None:
    push(open_registry("chunked"))
    starts = range(0, SIZE_BYTES, CHUNK_BYTES)
    assert offsets(proxy) == [f"{s}-{min(s + CHUNK_BYTES, SIZE_BYTES) - 1}" for s in starts]


def test_stream_is_one_request_without_range(open_registry: Opener, proxy: FaultyProxy) -> None:
    push(open_registry("stream"))
    assert offsets(proxy) == [None]


def test_minimum_chunk_length_is_honoured(open_registry: Opener, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("min", "POST", answer_headers={"OCI-Chunk-Min-Length": "200000"})]
    push(open_registry("chunked"))
    assert offsets(proxy) == ["0-199999", f"200000-{SIZE_BYTES - 1}"]


def test_abandoned_upload_is_cancelled(open_registry: Opener, proxy: FaultyProxy) -> None:
    registry = open_registry("chunked")
    with registry.create_blob(SIZE_BYTES) as writer:
        writer.write(memoryview(DATA)[:100_000])
    assert len(proxy.of("DELETE", "/blobs/uploads/")) == 1
    assert registry.blob_size(DIGEST) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [100, SIZE_BYTES])
def test_wrong_digest_stores_nothing(open_registry: Opener, mode: UploadMode, size: int) -> None:
    registry = open_registry(mode)
    with registry.create_blob(size) as writer:
        writer.write(memoryview(DATA)[:size])
        with pytest.raises(IntegrityError, match="want sha256:"):
            writer.commit(digest_of(b"another"))
    assert registry.blob_size(digest_of(DATA[:size])) is None


@pytest.mark.parametrize("size", [SIZE_BYTES - 1, SIZE_BYTES + 1])
def test_other_size_than_promised(open_registry: Opener, size: int) -> None:
    with pytest.raises(IntegrityError, match=f"want {size} bytes, got {SIZE_BYTES}"):
        push(open_registry(), promised=size)


# Uploads that break


@pytest.mark.parametrize("at", [0, 1, CHUNK_BYTES // 2, CHUNK_BYTES])
@pytest.mark.parametrize("skip", [0, 2])
def test_cut_in_a_chunk(open_registry: Opener, proxy: FaultyProxy, at: int, skip: int) -> None:
    """Distribution 2.8 gives up an upload that was cut in the middle of a request."""
    proxy.faults = [Fault("cut", **PATCH, skip=skip, cut_request_at=at)]
    registry = open_registry("chunked")
    assert push(registry) <= 1
    assert read(registry) == DATA


@pytest.mark.parametrize("kept", [1000, CHUNK_BYTES // 2, None])
@pytest.mark.parametrize("skip", [0, 2])
def test_cut_in_a_chunk_continues_where_the_registry_kept_its_bytes(
    open_registry: Opener, proxy: FaultyProxy, kept: int | None, skip: int
) -> None:
    proxy.faults = [Fault("cut", **PATCH, skip=skip, keep_bytes=kept, lose_answer=True)]
    registry = open_registry("chunked")
    push(registry)
    assert len(proxy.of("POST")) == 1
    start = skip * CHUNK_BYTES + (CHUNK_BYTES if kept is None else kept)
    assert f"{start}-{start + CHUNK_BYTES - 1}" in offsets(proxy)
    assert read(registry) == DATA


def test_cut_stream_begins_again_where_the_registry_gives_it_up(
    open_registry: Opener, proxy: FaultyProxy
) -> None:
    proxy.faults = [Fault("cut", **PATCH, cut_request_at=3 * CHUNK_BYTES)]
    registry = open_registry("stream")
    assert push(registry) == 1
    assert len(proxy.of("POST")) == 2
    assert read(registry) == DATA


def test_cut_stream_goes_on_where_the_registry_kept_its_bytes(
    open_registry: Opener, proxy: FaultyProxy
) -> None:
    proxy.faults = [Fault("cut", **PATCH, keep_bytes=3 * CHUNK_BYTES, lose_answer=True)]
    registry = open_registry("stream")
    assert push(registry) == 1
    assert len(proxy.of("POST")) == 1
    assert offsets(proxy) == [None, f"{3 * CHUNK_BYTES}-{SIZE_BYTES - 1}"]
    assert read(registry) == DATA


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "HEAD"])
@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_errors_for_a_while(
    open_registry: Opener, proxy: FaultyProxy, mode: UploadMode, method: str, status: int
) -> None:
    proxy.faults = [Fault("busy", method, times=2, status=status)]
    registry = open_registry(mode)
    push(registry)
    assert registry.blob_size(DIGEST) == SIZE_BYTES
    assert read(registry) == DATA


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_retry_after_is_waited_for(
    open_registry: Opener, proxy: FaultyProxy, waits: list[float], form: str, method: str
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=42), usegmt=True)
    asked = {"Retry-After": "42" if form == "seconds" else date}
    proxy.faults = [Fault("busy", method, status=429, headers=asked)]
    push(open_registry("chunked"))
    assert len(waits) == 1
    assert 30 < waits[0] <= 42


def test_retry_after_an_hour_fails_at_once(
    open_registry: Opener, proxy: FaultyProxy, waits: list[float]
) -> None:
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}'
    asked = {"Retry-After": "3600"}
    proxy.faults = [Fault("busy", "POST", times=9, status=429, headers=asked, body=body)]
    with pytest.raises(RegistryError, match="TOOMANYREQUESTS: slow down") as caught:
        push(open_registry())
    assert (caught.value.status, waits) == (429, [])
    assert "limit" in (caught.value.hint or "")


@pytest.mark.parametrize("mode", MODES)
def test_session_gone_in_the_middle_is_lost(
    open_registry: Opener, proxy: FaultyProxy, mode: UploadMode
) -> None:
    proxy.faults = [
        Fault("gone", **PATCH, skip=2 if mode == "chunked" else 0, status=404),
        Fault("gone", "GET", "/uploads/", status=404),
    ]
    registry = open_registry(mode)
    assert push(registry) == 1
    assert read(registry) == DATA


@pytest.mark.parametrize("mode", MODES)
def test_session_gone_at_the_commit(
    open_registry: Opener, proxy: FaultyProxy, mode: UploadMode
) -> None:
    proxy.faults = [
        Fault("gone", **COMMIT, status=404),
        Fault("gone", "GET", "/uploads/", status=404),
    ]
    registry = open_registry(mode)
    assert push(registry) == 1
    assert read(registry) == DATA


@pytest.mark.parametrize("size", [100, SIZE_BYTES])
def test_lost_answer_to_the_commit_is_looked_up(
    open_registry: Opener, proxy: FaultyProxy, size: int
) -> None:
    proxy.faults = [Fault("lost", **COMMIT, lose_answer=True)]
    registry = open_registry("chunked")
    push(registry, DATA[:size])
    assert len(proxy.of("PUT")) == 1
    assert len(proxy.of("HEAD")) == 1


@pytest.mark.parametrize("kept", [0, 1000, CHUNK_BYTES - 1])
def test_smaller_offset_is_continued_from(
    open_registry: Opener, proxy: FaultyProxy, kept: int
) -> None:
    proxy.faults = [Fault("short", **PATCH, skip=1, keep_bytes=kept)]
    if kept == 0:  # the real one refuses an empty range, so say it in its place
        proxy.faults = [
            Fault("short", **PATCH, skip=1, status=202, headers={"Range": f"0-{CHUNK_BYTES - 1}"})
        ]
    registry = open_registry("chunked")
    push(registry)
    assert read(registry) == DATA
    assert f"{CHUNK_BYTES + kept}-{2 * CHUNK_BYTES + kept - 1}" in offsets(proxy)


def test_smaller_offset_of_a_stream_is_sent_again(
    open_registry: Opener, proxy: FaultyProxy
) -> None:
    proxy.faults = [Fault("short", **PATCH, keep_bytes=CHUNK_BYTES)]
    registry = open_registry("stream")
    assert push(registry) == 1
    assert read(registry) == DATA


ODD_RANGES = {
    "of this chunk": f"0-{CHUNK_BYTES - 1}",
    "echoed": f"{CHUNK_BYTES}-{2 * CHUNK_BYTES - 1}",
    "absent": "",
    "off by one": f"0-{2 * CHUNK_BYTES}",
    "of nothing": "0--1",
    "beyond the blob": f"0-{SIZE_BYTES}",
}


@pytest.mark.parametrize("value", ODD_RANGES.values(), ids=list(ODD_RANGES))
def test_odd_range_of_a_chunk_is_checked_by_the_upload_s_status(
    open_registry: Opener, proxy: FaultyProxy, value: str
) -> None:
    proxy.faults = [Fault("odd", **PATCH, skip=1, answer_headers={"Range": value})]
    registry = open_registry("chunked")
    assert push(registry) == 0
    assert len(proxy.of("GET", "/uploads/")) == 1
    assert read(registry) == DATA


def odd_everywhere(value: str) -> list[Fault]:
    return [
        Fault("odd", **PATCH, times=99, only_with="Content-Range", answer_headers={"Range": value}),
        Fault("odd", "GET", "/uploads/", times=99, answer_headers={"Range": value}),
    ]


@pytest.mark.parametrize("value", ODD_RANGES.values(), ids=list(ODD_RANGES))
def test_odd_range_and_odd_status_become_one_streamed_request(
    open_registry: Opener, proxy: FaultyProxy, value: str
) -> None:
    proxy.faults = odd_everywhere(value)
    registry = open_registry("auto")
    registry._method.prefer_chunks()
    assert push(registry) >= 1
    assert offsets(proxy)[-1] is None
    assert read(registry) == DATA


@pytest.mark.parametrize("value", ODD_RANGES.values(), ids=list(ODD_RANGES))
def test_odd_range_and_status_where_chunks_are_wanted_are_left_to_the_digest(
    open_registry: Opener, proxy: FaultyProxy, value: str
) -> None:
    proxy.faults = odd_everywhere(value)
    registry = open_registry("chunked")
    push(registry)
    assert read(registry) == DATA


@pytest.mark.parametrize("mode", MODES)
def test_silence_ends_with_the_timeout(proxy: FaultyProxy, mode: UploadMode) -> None:
    proxy.faults = [Fault("silent", **PATCH, silent=True)]
    pool = HttpPool(HttpSettings(read_timeout_s=0.2))
    reference = Reference(proxy.host, f"tests/{uuid.uuid4().hex}")
    registry = WritableRegistry(
        reference, pool, upload=mode, chunk_bytes=CHUNK_BYTES, sleep=lambda _: None
    )
    push(registry)
    assert read(registry) == DATA
    pool.close()


@pytest.mark.parametrize("status", [400, 405, 411, 413, 416, 501])
def test_refused_stream_becomes_chunks(
    open_registry: Opener, proxy: FaultyProxy, status: int
) -> None:
    proxy.faults = [
        Fault("refuse", **PATCH, times=99, status=status, only_with="Transfer-Encoding")
    ]
    registry = open_registry("auto")
    push(registry)
    push(registry, DATA[:-1])
    starts = [
        f"{s}-{min(s + CHUNK_BYTES, SIZE_BYTES) - 1}" for s in range(0, SIZE_BYTES, CHUNK_BYTES)
    ]
    assert offsets(proxy)[: len(starts) + 1] == [None, *starts]
    assert offsets(proxy).count(None) == 1
    assert read(registry) == DATA


def test_too_long_chunks_become_shorter(open_registry: Opener, proxy: FaultyProxy) -> None:
    data = bytes(9 * MIB)
    proxy.faults = [Fault("long", **PATCH, times=3, status=413)]
    registry = open_registry("auto", chunk_bytes=None)
    push(registry, data)
    assert f"0-{MIB - 1}" in offsets(proxy)
    assert read(registry, data=data) == data


def test_refused_ways_are_an_error_that_names_the_flag(
    open_registry: Opener, proxy: FaultyProxy
) -> None:
    proxy.faults = [Fault("refuse", **PATCH, times=99, status=405)]
    for mode in ("chunked", "auto"):
        with pytest.raises(RegistryError) as caught:
            push(open_registry(mode))
        assert caught.value.status == 405
        assert "--upload" in (caught.value.hint or "")


@pytest.mark.parametrize("status", [200, 201, 204])
@pytest.mark.parametrize("mode", MODES)
def test_other_success_of_a_patch(
    open_registry: Opener, proxy: FaultyProxy, mode: UploadMode, status: int
) -> None:
    proxy.faults = [Fault("other", **PATCH, times=99, status_after=status)]
    registry = open_registry(mode)
    push(registry)
    assert read(registry) == DATA


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", [500, 507])
def test_disk_full_of_the_registry(
    open_registry: Opener, proxy: FaultyProxy, mode: UploadMode, status: int
) -> None:
    body = b'{"errors":[{"code":"UNKNOWN","message":"no space left on device"}]}'
    proxy.faults = [Fault("full", **PATCH, times=99, status=status, body=body)]
    with pytest.raises(RegistryError, match="no space left on device"):
        push(open_registry(mode))


@pytest.mark.parametrize("mode", MODES)
def test_request_too_large(open_registry: Opener, proxy: FaultyProxy, mode: UploadMode) -> None:
    proxy.faults = [Fault("large", **PATCH, times=99, status=413)]
    with pytest.raises(RegistryError) as caught:
        push(open_registry(mode))
    assert "a proxy before the registry limits one request" in (caught.value.hint or "")


def test_upload_that_moves_to_http_from_https() -> None:
    with pytest.raises(ProtocolError, match="want a Location on https"):
        next_url("https://r.example/v2/", "http://r.example/v2/a/blobs/uploads/1")


# Reading


@pytest.mark.parametrize("at", [0, 1, SIZE_BYTES - 1])
@pytest.mark.parametrize("want", [None, ByteRange(1000, SIZE_BYTES - 10)])
def test_cut_download_is_continued(
    open_registry: Opener, proxy: FaultyProxy, at: int, want: ByteRange | None
) -> None:
    registry = open_registry()
    push(registry)
    at = min(at, want.size_bytes - 1 if want else at)
    proxy.faults = [Fault("cut", **BLOB, cut_answer_at=at)]
    assert read(registry, want) == (DATA[want.start : want.end] if want else DATA)
    first = want.start if want else 0
    again = proxy.of("GET", "/blobs/sha256")[-1].headers.get("Range")
    end = want.end if want else SIZE_BYTES
    assert again == (f"bytes={first + at}-{end - 1}" if first + at else None)


def test_download_cut_repeatedly_continues_while_bytes_arrive(
    open_registry: Opener, proxy: FaultyProxy
) -> None:
    registry = open_registry()
    push(registry)
    proxy.faults = [Fault("cut", **BLOB, times=20, cut_answer_at=5000)]
    assert read(registry) == DATA


def test_download_cut_every_time_fails(open_registry: Opener, proxy: FaultyProxy) -> None:
    registry = open_registry()
    push(registry)
    proxy.faults = [Fault("cut", **BLOB, times=99, cut_answer_at=0)]
    with pytest.raises(TransportError):
        read(registry)


def test_other_range_than_asked_for(open_registry: Opener, proxy: FaultyProxy) -> None:
    registry = open_registry()
    push(registry)
    proxy.faults = [Fault("other", **BLOB, answer_headers={"Content-Range": "bytes 7-16/99"})]
    with pytest.raises(ProtocolError, match="want Content-Range bytes 10-19"):
        read(registry, ByteRange(10, 20))


def test_range_ignored_from_the_start_is_tolerated(
    open_registry: Opener, proxy: FaultyProxy
) -> None:
    registry = open_registry()
    push(registry)
    proxy.faults = [Fault("ignored", **BLOB, times=9, strip=("Range",))]
    assert read(registry, ByteRange(0, 20)) == DATA[:20]
    with pytest.raises(ProtocolError, match="status 206"):
        read(registry, ByteRange(1, 20))


def test_redirect_shows_no_credential(open_registry: Opener, proxy: FaultyProxy) -> None:
    registry = open_registry()
    push(registry)
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"], is_cdn=True) as cdn:
        proxy.cdn = cdn.url
        assert read(registry, ByteRange(3, 300)) == DATA[3:300]
        assert [seen.status for seen in cdn.of("GET")] == [206]


def test_absent_blob(open_registry: Opener) -> None:
    registry = open_registry()
    assert registry.blob_size(DIGEST) is None
    with pytest.raises(RegistryError) as caught:
        registry.open_blob(DIGEST)
    assert caught.value.status == 404


# Manifests, tags, mounts


def manifest_of(registry: WritableRegistry, config: bytes = b"{}") -> bytes:
    push(registry, config)
    digest = digest_of(config)
    return (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":'
        b'{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%b","size":%d},'
        b'"layers":[]}' % (digest.encode(), len(config))
    )


MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def test_tags_over_pages(open_registry: Opener, proxy: FaultyProxy) -> None:
    registry = open_registry()
    manifest = manifest_of(registry)
    for tag in ("b", "a", "c"):
        registry.put_manifest(tag, manifest, MANIFEST_TYPE)
    path = f"/v2/{registry.reference.repository}/tags/list"
    page = {"Link": f'<{path}?n=2&last=b>; rel="next"'}
    body = b'{"name":"x","tags":["a","b"]}'
    proxy.faults = [Fault("page", "GET", "tags/list", status=200, headers=page, body=body)]
    assert registry.list_tags() == ["a", "b", "c"]
    assert len(proxy.of("GET", "tags/list")) == 2


def test_manifest_of_another_digest(open_registry: Opener, proxy: FaultyProxy) -> None:
    registry = open_registry()
    registry.put_manifest("t", manifest_of(registry), MANIFEST_TYPE)
    proxy.faults = [Fault("lie", "GET", "manifests", status=200, body=b"{}")]
    with pytest.raises(IntegrityError):
        registry.get_manifest(digest_of(b"[]"))


def test_manifest_of_a_hundred_megabytes(open_registry: Opener, proxy: FaultyProxy) -> None:
    body = b" " * (4 * 1024 * 1024 + 1)
    proxy.faults = [Fault("huge", "GET", "manifests", status=200, body=body)]
    with pytest.raises(ProtocolError, match="at most 4194304 bytes"):
        open_registry().get_manifest("t")


def test_manifest_without_its_blobs(open_registry: Opener, waits: list[float]) -> None:
    data = manifest_of(open_registry())
    with pytest.raises(RegistryError, match="MANIFEST_BLOB_UNKNOWN"):
        open_registry().put_manifest("t", data, MANIFEST_TYPE)
    assert len(waits) == 3


def test_manifest_whose_blobs_the_registry_does_not_see_yet(
    open_registry: Opener, proxy: FaultyProxy, waits: list[float]
) -> None:
    # As distribution says it while another publisher writes the link of the same blob.
    errors = [
        {"code": code, "message": "m"} for code in ("DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN")
    ]
    body = json.dumps({"errors": errors}).encode()
    proxy.faults = [Fault("not yet", "PUT", "/manifests/", times=2, status=400, body=body)]
    registry = open_registry()
    data = manifest_of(registry)
    assert registry.put_manifest("t", data, MANIFEST_TYPE) == digest_of(data)
    assert len(waits) == 2


@pytest.mark.parametrize("status", [401, 403, 405])
def test_delete_that_is_not_allowed(open_registry: Opener, proxy: FaultyProxy, status: int) -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    proxy.faults = [Fault("no", "DELETE", times=9, status=status, headers=challenge)]
    assert open_registry().delete_manifest("t") is False


def test_mount_between_repositories(open_registry: Opener, proxy: FaultyProxy) -> None:
    source, target = open_registry(), open_registry()
    push(source)
    assert target.mount_blob(DIGEST, source)
    assert read(target) == DATA
    assert not target.mount_blob(digest_of(b"never pushed"), source)
    assert len(proxy.of("DELETE", "/blobs/uploads/")) == 1


# Transport


def test_connection_refused(pool: HttpPool, waits: list[float]) -> None:
    with FaultyProxy("127.0.0.1:9") as gone:
        host = gone.host
    registry = WritableRegistry(Reference(host, "a"), pool, sleep=waits.append)
    with pytest.raises(TransportError, match=r"no answer from 127\.0\.0\.1"):
        registry.blob_size(DIGEST)
    assert len(waits) == 5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A certificate for loopback that nobody has signed, with its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(directory, "localhost", "IP:127.0.0.1")
    both = directory / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return str(both)


@pytest.mark.tools("openssl")
@pytest.mark.parametrize("mode", MODES)
def test_tls_on_loopback(certificate: str, mode: UploadMode) -> None:
    pool = HttpPool(
        HttpSettings(
            trust=Trust(files=(Setting("--ca-file", str(Path(certificate).with_name("cert.pem"))),))
        )
    )
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"], certificate=certificate) as server:
        reference = Reference(server.host, f"tests/{uuid.uuid4().hex}")
        registry = WritableRegistry(reference, pool, upload=mode, chunk_bytes=CHUNK_BYTES)
        assert registry.blob_size(DIGEST) is None
        with pytest.raises(ProtocolError, match="want a Location on https") as caught:
            push(registry)
        assert "X-Forwarded-Proto" in (caught.value.hint or "")
        server.add_headers = {"X-Forwarded-Proto": "https"}
        push(registry)
        assert read(registry) == DATA
    pool.close()


@pytest.mark.tools("openssl")
def test_untrusted_certificate(certificate: str, pool: HttpPool) -> None:
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"], certificate=certificate) as server:
        registry = WritableRegistry(Reference(server.host, "a"), pool, sleep=lambda _: None)
        with pytest.raises(TransportError, match="certificate not trusted"):
            registry.blob_size(DIGEST)


def test_host_name_that_does_not_resolve(pool: HttpPool, waits: list[float]) -> None:
    reference = Reference("registry.invalid", "a")
    registry = WritableRegistry(reference, pool, retry=RetryPolicy(tries=2), sleep=waits.append)
    with pytest.raises(TransportError, match=r"no answer from registry\.invalid"):
        registry.blob_size(DIGEST)
    assert len(waits) == 1


def test_through_a_proxy(proxy: FaultyProxy) -> None:
    """A forward proxy gets the whole URL as its target."""
    proxies = Proxies(ProxySettings(http=Setting("http_proxy", proxy.url)))
    pool = HttpPool(HttpSettings(proxies=proxies, plain_http=HostList(["registry.invalid"])))
    reference = Reference("registry.invalid", "a")
    registry = WritableRegistry(reference, pool, sleep=lambda _: None)
    proxy.faults = [Fault("any", "HEAD", status=200, body=b"12345")]
    assert registry.blob_size(DIGEST) == 5
    assert proxy.seen[0].target == f"http://registry.invalid/v2/a/blobs/{DIGEST}"
    pool.close()


def test_https_is_the_default_elsewhere(proxy: FaultyProxy) -> None:
    registry = WritableRegistry(parse_reference("ghcr.io/me/x"), HttpPool())
    assert registry._client.base_url == "https://ghcr.io"


# Parsers


@given(st.text(max_size=200))
def test_link_header_never_crashes(text: str) -> None:
    try:
        link = parse_next_link(text)
    except ProtocolError:
        return
    assert link is None or f"<{link}>" in text


@given(st.text(alphabet="abc/?=&%", min_size=1), st.sampled_from(["next", "prev next", "NEXT"]))
def test_link_header_is_found(target: str, rel: str) -> None:
    assert parse_next_link(f'<x>; rel="prev", <{target}>; rel="{rel}"') == target


@given(st.binary(max_size=200))
def test_error_documents_never_crash(body: bytes) -> None:
    assert isinstance(parse_errors(body), list)


@given(st.text(max_size=30))
def test_offsets_never_crash(text: str) -> None:
    offset = parse_offset(text)
    assert offset is None or offset >= 0


@given(st.text(max_size=60))
def test_references_never_crash(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InputError:
        return
    assert parse_reference(str(reference)) == reference


def test_hosts_that_take_no_chunks() -> None:
    hosts = ["ghcr.io", "eu.gcr.io", "x-docker.pkg.dev", "1.dkr.ecr.eu-west-1.amazonaws.com"]
    assert not any(map(takes_chunks, hosts))
    assert all(map(takes_chunks, ["registry-1.docker.io", "quay.io", "127.0.0.1:5000"]))
