"""What every store promises, asked of a layout directory and of a real registry; then layouts."""

from __future__ import annotations

import errno
import json
import os
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from downloader.errors import HfModelsError, IntegrityError, ProtocolError, StorageError
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy
from downloader.oci.digest import Digest, digest_of
from downloader.oci.layout import Layout
from downloader.oci.reference import Reference
from downloader.oci.registry_write import WritableRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from downloader.oci.store import Store

DATA = bytes(range(256)) * 1000
DIGEST = digest_of(DATA)
ABSENT = digest_of(b"absent")
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(params=["layout", pytest.param("registry", marks=pytest.mark.docker)])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """Two places of one kind, empty."""
    if request.param == "layout":
        yield Layout(tmp_path / "one"), Layout(tmp_path / "two")
        return
    pool, host = HttpPool(), os.environ["HF_TEST_REGISTRY"]
    names = [f"tests/{uuid.uuid4().hex}" for _ in range(2)]
    retry = RetryPolicy(tries=3, first_delay_s=0.01)
    one, two = (WritableRegistry(Reference(host, name), pool, retry=retry) for name in names)
    yield one, two
    pool.close()


@pytest.fixture
def store(stores: tuple[Store, Store]) -> Store:
    return stores[0]


def put(
    store: Store,
    data: bytes,
    *,
    size_bytes: int | None = None,
    digest: Digest | None = None,
) -> None:
    promised = len(data) if size_bytes is None else size_bytes
    with store.create_blob(promised) as writer:
        view = memoryview(data)
        for start in range(0, len(data), 70_000):
            writer.write(view[start : start + 70_000])
        writer.commit(digest or digest_of(data))


def get(store: Store, byte_range: ByteRange | None = None) -> bytes:
    with store.open_blob(DIGEST, byte_range) as reader:
        found = bytearray()
        buffer = memoryview(bytearray(99_991))
        while count := reader.readinto(buffer):
            found += buffer[:count]
        return bytes(found)


def manifest(config: bytes = b"{}", **extra: Any) -> bytes:
    kind = "application/vnd.oci.image.config.v1+json"
    described = {"mediaType": kind, "digest": digest_of(config), "size": len(config)}
    fields = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described, "layers": []}
    return json.dumps({**fields, **extra}).encode()


# What every store promises


def test_blob_comes_back(store: Store) -> None:
    assert store.blob_size(DIGEST) is None
    put(store, DATA)
    assert store.blob_size(DIGEST) == len(DATA)
    assert get(store) == DATA


@pytest.mark.parametrize("want", [(0, 1), (0, len(DATA)), (5, 5), (1000, 201_000)])
def test_range_comes_back(store: Store, want: tuple[int, int]) -> None:
    put(store, DATA)
    assert get(store, ByteRange(*want)) == DATA[slice(*want)]


def test_range_beyond_the_end(store: Store) -> None:
    put(store, DATA)
    with pytest.raises(HfModelsError):
        get(store, ByteRange(len(DATA) - 1, len(DATA) + 1))


def test_absent_blob_cannot_be_opened(store: Store) -> None:
    with pytest.raises(HfModelsError):
        store.open_blob(ABSENT)


def test_blob_put_twice(store: Store) -> None:
    put(store, DATA)
    put(store, DATA)
    assert get(store) == DATA


def test_wrong_digest_leaves_nothing(store: Store) -> None:
    with pytest.raises(IntegrityError):
        put(store, DATA, digest=ABSENT)
    assert (store.blob_size(ABSENT), store.blob_size(DIGEST)) == (None, None)


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_wrong_size_leaves_nothing(store: Store, size: int) -> None:
    with pytest.raises(IntegrityError):
        put(store, DATA, size_bytes=size)
    assert store.blob_size(DIGEST) is None


def test_abandoned_blob_leaves_nothing(store: Store) -> None:
    with store.create_blob(len(DATA)) as writer:
        writer.write(memoryview(DATA)[:1000])
    assert store.blob_size(DIGEST) is None


def test_manifest_by_tag_and_digest(store: Store) -> None:
    put(store, b"{}")
    data = manifest()
    assert store.get_manifest("t") is None
    digest = store.put_manifest("t", data, MANIFEST_TYPE)
    assert digest == digest_of(data)
    for reference in ("t", digest):
        found = store.get_manifest(reference)
        assert found is not None
        assert (found.data, found.media_type, found.digest) == (data, MANIFEST_TYPE, digest)
    assert store.get_manifest(ABSENT) is None


def test_tag_moves(store: Store) -> None:
    put(store, b"{}")
    store.put_manifest("t", manifest(), MANIFEST_TYPE)
    store.put_manifest("u", manifest(), MANIFEST_TYPE)
    moved = store.put_manifest("t", manifest(annotations={"a": "b"}), MANIFEST_TYPE)
    found = store.get_manifest("t")
    assert found is not None
    assert found.digest == moved
    assert store.list_tags() == ["t", "u"]


def test_index_of_manifests_put_by_digest(store: Store) -> None:
    put(store, b"{}")
    data = manifest()
    store.put_manifest(digest_of(data), data, MANIFEST_TYPE)
    assert store.list_tags() == []
    named = {"mediaType": MANIFEST_TYPE, "digest": digest_of(data), "size": len(data)}
    fields = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [named]}
    store.put_manifest("t", json.dumps(fields).encode(), INDEX_TYPE)
    found = store.get_manifest("t")
    assert found is not None
    assert found.media_type == INDEX_TYPE


def test_manifest_without_its_blobs_is_refused(store: Store) -> None:
    with pytest.raises(HfModelsError):
        store.put_manifest("t", manifest(b"never put"), MANIFEST_TYPE)
    assert store.list_tags() == []


def test_manifest_under_another_digest_is_refused(store: Store) -> None:
    put(store, b"{}")
    with pytest.raises(IntegrityError):
        store.put_manifest(ABSENT, manifest(), MANIFEST_TYPE)


def test_deleted_manifest_is_gone(store: Store) -> None:
    put(store, b"{}")
    digest = store.put_manifest("t", manifest(), MANIFEST_TYPE)
    assert store.delete_manifest(digest)
    assert store.get_manifest(digest) is None
    assert store.get_manifest("t") is None


def test_mounted_blob(stores: tuple[Store, Store]) -> None:
    one, two = stores
    put(one, DATA)
    assert two.mount_blob(DIGEST, one)
    assert get(two) == DATA
    assert not two.mount_blob(ABSENT, one)


def test_many_writers_at_once(store: Store) -> None:
    put(store, b"{}")
    failures: list[HfModelsError] = []

    def publish(name: str) -> None:
        try:
            put(store, name.encode() * 1000)
            store.put_manifest(name, manifest(annotations={"a": name}), MANIFEST_TYPE)
        except HfModelsError as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list_tags() == [f"t{n}" for n in range(8)]


# Layouts only


def test_layout_is_one_by_its_specification(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "x")
    put(layout, b"{}")
    data = manifest(artifactType="application/x")
    digest = layout.put_manifest("t", data, MANIFEST_TYPE)
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    described = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(data)}
    name = {"org.opencontainers.image.ref.name": "t"}
    assert json.loads((layout.root / "index.json").read_bytes())["manifests"] == [
        {**described, "artifactType": "application/x", "annotations": name}
    ]
    assert {path.name for path in layout.root.iterdir()} == {"oci-layout", "index.json", "blobs"}
    assert {path.stat().st_mode & 0o777 for path in layout.root.rglob("*") if path.is_file()} == {
        0o644
    }


def test_mount_is_a_link(tmp_path: Path) -> None:
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    put(one, DATA)
    assert two.mount_blob(DIGEST, one)
    assert one.path_of(DIGEST).samefile(two.path_of(DIGEST))


def test_other_entries_of_the_index_stay(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    put(layout, b"{}")
    foreign = {"mediaType": "application/x", "digest": ABSENT, "size": 1, "annotations": {"a": "b"}}
    index = {"schemaVersion": 2, "manifests": [foreign], "annotations": {"c": "d"}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    layout.put_manifest("t", manifest(), MANIFEST_TYPE)
    found = json.loads((tmp_path / "index.json").read_bytes())
    assert (found["manifests"][0], found["annotations"]) == (foreign, {"c": "d"})


def test_deleted_tag_leaves_the_manifest(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    put(layout, b"{}")
    digest = layout.put_manifest("t", manifest(), MANIFEST_TYPE)
    assert layout.delete_manifest("t")
    assert layout.list_tags() == []
    assert layout.get_manifest(digest) is not None


@pytest.mark.parametrize(
    "index",
    [
        "",
        "[]",
        '{"manifests":{}}',
        '{"manifests":[1]}',
        '{"manifests":[{"annotations":[]}]}',
        (
            '{"manifests":[{"digest":"sha256:../..","annotations":'
            '{"org.opencontainers.image.ref.name":"t"}}]}'
        ),
        "[" * 100_000,
    ],
)
def test_malformed_index(tmp_path: Path, index: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(ProtocolError):
        Layout(tmp_path).get_manifest("t")


def test_manifest_that_was_changed_on_disk(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    put(layout, b"{}")
    digest = layout.put_manifest("t", manifest(), MANIFEST_TYPE)
    layout.path_of(digest).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        layout.get_manifest("t")


def test_blob_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    put(layout, DATA)
    with layout.open_blob(DIGEST) as reader:
        os.truncate(layout.path_of(DIGEST), 100)
        with pytest.raises(IntegrityError, match="more bytes"):
            reader.readinto(memoryview(bytearray(len(DATA))))


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    layout = Layout(tmp_path / "x")
    assert layout.blob_size(DIGEST) is None
    with pytest.raises(StorageError, match="want a directory, got a file"):
        put(layout, DATA)


def test_full_disk(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with layout.create_blob(1 << 20) as writer:
        full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - the writer closes it
        writer._file.file.close()  # type: ignore[attr-defined]
        writer._file.file = full  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)) as caught:
            writer.write(memoryview(DATA))
    assert "free some space" in (caught.value.hint or "")
    assert not list(tmp_path.glob("*.incomplete"))
