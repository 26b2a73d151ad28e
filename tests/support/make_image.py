"""Images for the tests of restoring: of this project, of others, and hostile ones.

Made from the values of the format, not by publishing, so that reading is tested against what
the format says; layers can be spelt out member by member, as an attacker would.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import zstandard

from downloader.hub.repo import Repo, RepoFile, Snapshot
from downloader.image import (
    METADATA_ANNOTATIONS,
    PROGRAMS_ANNOTATIONS,
    config_json,
    labels,
    layer_annotations,
    metadata_tar,
    programs_tar,
)
from downloader.oci.digest import Digest, digest_of
from downloader.oci.manifest import (
    CONFIG,
    LAYER,
    MANIFEST,
    Descriptor,
    Manifest,
    Platform,
    describe,
    to_json_bytes,
)
from downloader.oci.store import Store
from downloader.oci.tar_write import iter_tar
from downloader.plan import Plan, make_plan

if TYPE_CHECKING:
    from downloader.plan import Layer

MIB = 1 << 20
COMMIT = "c0ffee" + "0" * 34
AMD64 = Platform("linux", "amd64")
HUB = "root/.cache/huggingface/hub"


def random_bytes(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same each time, quickly."""
    block = hashlib.shake_256(f"{seed}".encode()).digest(min(size_bytes, MIB))
    copies = -(-size_bytes // max(1, len(block)))
    marks = (block[:-8] + at.to_bytes(8, "big") for at in range(copies))
    return b"".join(marks)[:size_bytes] if size_bytes > 8 else block


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_oid(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_snapshot(
    files: Mapping[str, bytes],
    repo: str = "org/model",
    revision: str = "main",
    commit: str = COMMIT,
    *,
    is_partial: bool = False,
) -> Snapshot:
    """A snapshot; what ends in .safetensors or .bin is in LFS."""
    listed = [
        RepoFile(
            path,
            len(data),
            git_oid(data),
            lfs_oid(data) if path.endswith((".safetensors", ".bin")) else None,
        )
        for path, data in sorted(files.items())
    ]
    return Snapshot(Repo("model", repo), revision, commit, tuple(listed), is_partial=is_partial)


@dataclass
class RawLayer:
    """A layer by its bytes.

    Args:
        data: As the registry holds them.
        media_type: What the manifest says of them.
        annotations: Of its descriptor.
        diff_id: Of the uncompressed tar, where that is another.
    """

    data: bytes
    media_type: str = LAYER
    annotations: Mapping[str, str] = field(default_factory=dict)
    diff_id: Digest | None = None

    @property
    def descriptor(self) -> Descriptor:
        return replace(describe(self.data, self.media_type), annotations=dict(self.annotations))

    def gzipped(self) -> RawLayer:
        data = gzip.compress(self.data, 1, mtime=0)
        return RawLayer(data, f"{LAYER}+gzip", self.annotations, digest_of(self.data))

    def zstandard(self) -> RawLayer:
        data = zstandard.compress(self.data, 1)
        return RawLayer(data, f"{LAYER}+zstd", self.annotations, digest_of(self.data))


def put(store: Store, data: bytes) -> Digest:
    digest = digest_of(data)
    with store.create_blob(len(data)) as writer:
        writer.write(memoryview(data))
        writer.commit(digest)
    return digest


def put_image(
    store: Store,
    layers: Sequence[RawLayer],
    tag: str = "latest",
    config: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Digest:
    """Put an image into a store; its manifest says exactly what the layers say."""
    plain = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [x.diff_id or digest_of(x.data) for x in layers]},
    }
    document = to_json_bytes({**plain, **(config or {})})
    for layer in layers:
        put(store, layer.data)
    put(store, document)
    manifest = Manifest(
        describe(document, CONFIG), tuple(x.descriptor for x in layers), annotations or {}
    )
    return store.put_manifest(tag, manifest.to_bytes(), MANIFEST)


def blobs_of(files: Mapping[str, bytes], snapshot: Snapshot) -> dict[str, bytes]:
    return {file.oid: files[file.path] for file in snapshot.files}


def layer_bytes(layer: Layer, blobs: Mapping[str, bytes]) -> bytes:
    contents = [
        blobs[content.oid][content.byte_range.start : content.byte_range.end]
        for content in layer.contents
    ]
    return b"".join(iter_tar(layer.tar, contents))


def our_layers(plan: Plan, files: Mapping[str, bytes], *, annotated: bool = True) -> list[RawLayer]:
    """The layers of an image of this project; without annotations as `docker push` leaves it."""
    blobs = blobs_of(files, plan.snapshot)
    layers = [
        RawLayer(layer_bytes(layer, blobs), annotations=layer_annotations(layer))
        for layer in plan.layers
    ]
    layers.append(RawLayer(programs_tar(plan), annotations=PROGRAMS_ANNOTATIONS))
    layers.append(RawLayer(metadata_tar(plan), annotations=METADATA_ANNOTATIONS))
    return layers if annotated else [replace(layer, annotations={}) for layer in layers]


def put_ours(
    store: Store,
    files: Mapping[str, bytes],
    tag: str = "latest",
    *,
    snapshot: Snapshot | None = None,
    annotated: bool = True,
    layer_limit_bytes: int = 9_500_000_000,
) -> Digest:
    """Put an image of this project into a store."""
    found = snapshot or make_snapshot(files)
    plan = make_plan(found, layer_limit_bytes=layer_limit_bytes)
    layers = our_layers(plan, files, annotated=annotated)
    config = json.loads(config_json(plan, AMD64, [digest_of(x.data) for x in layers], {}))
    return put_image(store, layers, tag, config, labels(plan) if annotated else None)


# Layers member by member


@dataclass
class Member:
    """A tar member as an attacker may write it; ``tarfile`` writes the header."""

    path: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    target: str = ""


def link(path: str, target: str) -> Member:
    return Member(path, type=tarfile.SYMTYPE, target=target)


def hard_link(path: str, target: str) -> Member:
    return Member(path, type=tarfile.LNKTYPE, target=target)


def tar_of(members: Sequence[Member], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar, in PAX format as docker writes it unless said otherwise."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for member in members:
            info = tarfile.TarInfo(member.path)
            info.type, info.linkname, info.size = member.type, member.target, len(member.data)
            tar.addfile(info, io.BytesIO(member.data))
    return buffer.getvalue()


def layer_of(*members: Member) -> RawLayer:
    return RawLayer(tar_of(members))


def cache_members(
    files: Mapping[str, bytes], repo: str = "org/model", hub: str = HUB, commit: str = COMMIT
) -> list[Member]:
    """The members of a cache as `docker build` finds it after a download, blobs first."""
    snapshot = make_snapshot(files, repo, commit=commit)
    root = f"{hub}/{snapshot.repo.folder_name}"
    blobs = [Member(f"{root}/blobs/{oid}", data) for oid, data in blobs_of(files, snapshot).items()]
    links = [
        link(
            f"{root}/snapshots/{commit}/{file.path}",
            "../" * (2 + file.path.count("/")) + f"blobs/{file.oid}",
        )
        for file in snapshot.files
    ]
    return [
        *sorted(blobs, key=lambda x: x.path),
        Member(f"{root}/refs/main", commit.encode()),
        *links,
    ]
