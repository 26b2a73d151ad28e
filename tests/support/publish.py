"""What the tests of publishing share: a Hub stand-in, a counting proxy, one call per command."""

import hashlib
import io
import os
import random
import re
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from downloader.net.http import HttpPool
from downloader.oci.manifest import Descriptor, Index, Manifest, parse_manifest
from downloader.oci.reference import parse_reference
from downloader.oci.registry_write import WritableRegistry
from downloader.oci.store import Store
from tests.support.command import Ran, hf_models
from tests.support.fake_hub import (
    Commit,
    File,
    Generated,
    HubServer,
    HubSpec,
    Repo,
    make_files,
    make_repo,
    read_all,
)
from tests.support.faulty_proxy import FaultyProxy

MIB = 1 << 20
FILE_BYTES = 5 * MIB + 17  # more than what is read ahead whole, and no round number
LAYER_SIZE = "6MiB"  # so that each of these files has a layer of its own
WEIGHTS = ("a.safetensors", "b.safetensors", "c.safetensors")
CARD = b"---\nlicense: mit\n---\n# A model\n"
BUILD_LAYOUT = ("build", "org/model", "--engine=layout", "--base=none", "--layer-size", LAYER_SIZE)
IMPATIENT = ("--tries", "3", "--retry-delay", "0.05")
BLOB_PATH = r"/blobs/uploads/"


def three_files(card: bytes = CARD) -> tuple[File, ...]:
    weights = {name: Generated(FILE_BYTES, seed=at) for at, name in enumerate(WEIGHTS)}
    return make_files({"README.md": card, "config.json": b"{}", **weights})


def shrinking(size_bytes: int, seed: int) -> bytes:
    """Return bytes of six bits each: zstd takes a fifth away, as of bf16 weights."""
    table = bytes(value & 63 for value in range(256))
    return random.Random(seed).randbytes(size_bytes).translate(table)


MODEL = Repo("model", "org/model", (Commit(three_files(CARD + b"old\n")), Commit(three_files())))
SPLIT_BYTES = 13 * MIB + 5
SPLIT = make_repo("org/split", {"big.bin": Generated(SPLIT_BYTES, seed=9), "config.json": b"{}"})
OTHER = make_repo("org/other", {"config.json": b'{"other": 1}'})
EMPTY = make_repo("org/empty", {})
GATED = make_repo("org/gated", {"config.json": b"{}"}, gated="manual", readers=("alice",))
MANY = make_repo("org/many", {f"d/{at}.json": b'{"n": %d}' % at for at in range(400)})
ONE_BYTES = 6 * MIB - 100_001
ONE = make_repo("org/one", {"w.bin": Generated(ONE_BYTES, seed=11), "config.json": b"{}"})
SHRINKING_BYTES = 5 * MIB + 17
PACKS = make_repo(
    "org/packs",
    {
        "README.md": b"# A model\n" * 100,
        "config.json": b"{}",
        "half.safetensors": shrinking(SHRINKING_BYTES, 1),
        "quantised.gguf": Generated(5 * MIB, seed=2),
    },
)
SPEC = HubSpec((MODEL, SPLIT, OTHER, EMPTY, GATED, MANY, ONE), users={"hf_alice": "alice"})


@dataclass
class Side:
    """A publisher between a stand-in of the Hub and a real registry behind a proxy.

    Args:
        hub: The stand-in.
        proxy: Before the registry; counts what it is sent.
        repository: A fresh one.
    """

    hub: HubServer
    proxy: FaultyProxy
    repository: str = field(default_factory=lambda: f"tests/{uuid.uuid4().hex}")

    @property
    def name(self) -> str:
        """The repository as the proxy serves it."""
        return f"{self.proxy.host}/{self.repository}"

    @property
    def direct_name(self) -> str:
        """The same repository without the proxy."""
        return f"{os.environ['HF_TEST_REGISTRY']}/{self.repository}"

    def run(self, *arguments: str, code: int | None = None) -> Ran:
        return hf_models(*arguments, code=code)

    def publish(
        self,
        repo: str = "org/model",
        *more: str,
        to: tuple[str, ...] = (),
        code: int | None = None,
    ) -> Ran:
        targets = [flag for name in to or (self.name,) for flag in ("--to", name)]
        sizes = () if {"--layer-size", "--plan"} & set(more) else ("--layer-size", LAYER_SIZE)
        bases = () if "--base" in more else ("--base", "none")
        return self.run("publish", repo, *targets, *sizes, *bases, *IMPATIENT, *more, code=code)

    def assemble(self, tag: str, *more: str, code: int | None = None) -> Ran:
        own = ("--to", self.name, "--base", "none")
        return self.run("assemble", tag, *own, *IMPATIENT, *more, code=code)

    def store(self, repository: str = "") -> Store:
        name = f"{os.environ['HF_TEST_REGISTRY']}/{repository or self.repository}"
        return WritableRegistry(parse_reference(name), POOL)

    def sent_bytes(self) -> int:
        """How many bytes of blobs went to the registry."""
        with self.proxy.lock:
            return sum(s.body_bytes for s in self.proxy.seen if re.search(BLOB_PATH, s.target))

    def read_bytes(self) -> int:
        """How many bytes of large files came from the Hub."""
        return self.hub.log().of(origin="cdn").bytes_sent

    def forget(self) -> None:
        """Count from zero."""
        with self.proxy.lock:
            self.proxy.seen.clear()
        self.hub.clear_log()


POOL = HttpPool()


@contextmanager
def new_side(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    hub.clear_faults()
    hub.move(MODEL.key, "main", 1)
    hub.clear_log()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    with (
        tempfile.TemporaryDirectory() as cache,
        FaultyProxy(os.environ["HF_TEST_REGISTRY"]) as proxy,
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)  # where killed uploads leave their journals
        yield Side(hub, proxy)


def manifest_of(store: Store, tag: str, architecture: str = "amd64") -> Manifest:
    """Return the manifest of a tag for one platform."""
    raw = store.get_manifest(tag)
    assert raw is not None, f"no tag {tag}"
    parsed = parse_manifest(raw.data)
    if isinstance(parsed, Index):
        [chosen] = [
            item
            for item in parsed.manifests
            if item.platform and item.platform.architecture == architecture
        ]
        inner = store.get_manifest(chosen.digest)
        assert inner is not None
        parsed = parse_manifest(inner.data)
    assert isinstance(parsed, Manifest)
    return parsed


def read_blob(store: Store, blob: Descriptor) -> bytes:
    data = bytearray(blob.size_bytes)
    filled = 0
    with store.open_blob(blob.digest) as reader:
        while filled < len(data) and (count := reader.readinto(memoryview(data)[filled:])):
            filled += count
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == blob.digest
    return bytes(data)


def files_of(store: Store, tag: str) -> dict[str, bytes | str]:
    """Return what an image's layers hold: contents of files, targets of links, by path."""
    found: dict[str, bytes | str] = {}
    for layer in manifest_of(store, tag).layers:
        with tarfile.open(fileobj=io.BytesIO(read_blob(store, layer))) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() or member.islnk() else None
                if file:
                    found[member.name] = file.read()
                elif member.issym():
                    found[member.name] = member.linkname
    return found


def check_image(store: Store, tag: str, repo: Repo) -> None:
    """Check that an image carries every file of ``main`` bit by bit, joined from its parts."""
    files = files_of(store, tag)
    joined: dict[str, bytes] = {}
    for path in sorted(path for path in files if "/blobs/" in path):
        content = files[path]
        assert isinstance(content, bytes)
        oid = path.rpartition("/")[2].partition(".part-")[0]
        joined[oid] = joined.get(oid, b"") + content
    assert set(joined) == {file.oid for file in repo.files().values()}
    for path, file in repo.files().items():
        content = joined[file.oid]
        algorithm = hashlib.sha256(content) if len(file.oid) == 64 else _git(content)
        assert algorithm.hexdigest() == file.oid, path
        [link] = [name for name in files if name.endswith(f"/{repo.sha}/{path}")]
        assert str(files[link]).endswith(f"/blobs/{file.oid}")


def _git(content: bytes) -> Any:
    return hashlib.sha1(b"blob %d\0" % len(content) + content)


def check_directory(directory: Path, repo: Repo) -> None:
    """Fail unless a directory shows every file of a repo under its name, and nothing else."""
    found = {str(p.relative_to(directory)) for p in directory.rglob("*") if not p.is_dir()}
    assert found == set(repo.files())
    for path, file in repo.files().items():
        assert (directory / path).read_bytes() == read_all(file.source), path
