"""An OCI layout as one tar that ``docker load`` takes, whichever image store the engine has.

The containerd store reads ``index.json``; the classic one reads ``manifest.json``, as
``docker save`` writes it. Both name the same blobs.

Source: OCI image specification 1.1, image-layout.md; Docker image specification 1.2,
"Combined Image JSON + Filesystem Changeset Format".
"""

import io
import platform as host
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from downloader.errors import InputError
from downloader.fs import NewFile, storage_errors
from downloader.oci.digest import Digest, hex_of
from downloader.oci.layout import REF_NAME, Layout
from downloader.oci.manifest import Descriptor, Index, Manifest, parse_manifest, to_json_bytes
from downloader.oci.reference import Reference
from downloader.oci.store import RawManifest
from downloader.progress import Progress
from downloader.publish.copy import reachable

_CONTAINERD_NAME = "io.containerd.image.name"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def write_archive(layout: Layout, image: Reference, path: Path, progress: Progress) -> None:
    """Write the image of a layout as a tar.

    Args:
        layout: With ``image.tag`` in it.
        image: The name that the image gets in an engine.
        path: The tar; it appears under its name when it is complete.
        progress: Told what is written.

    Raises:
        InputError: The layout has no such tag.
        StorageError: The disk said no.
    """
    raw = layout.get_manifest(image.tag or "")
    if raw is None or image.tag is None:
        raise InputError(f"want the tag {image.tag} in {layout.name}, got none")
    blobs = sorted(reachable(layout, image.tag))
    documents = {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": _index_json(raw, image),
        "manifest.json": [_manifest_json(layout, raw, image)],
    }
    with storage_errors(path), NewFile(path) as new:
        with tarfile.open(fileobj=new.file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name, document in documents.items():
                _add(archive, name, _to_bytes(document))
            _add_blobs(archive, layout, blobs, progress)
        new.commit()


def _to_bytes(document: Any) -> bytes:  # noqa: ANN401 - JSON
    if isinstance(document, list):
        return b"[" + b",".join(to_json_bytes(item) for item in document) + b"]"
    return to_json_bytes(document)


def _index_json(raw: RawManifest, image: Reference) -> dict[str, Any]:
    names = {_CONTAINERD_NAME: str(image), REF_NAME: image.tag or ""}
    descriptor = Descriptor(raw.media_type, raw.digest, len(raw.data), names)
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor.to_json()],
    }


def _manifest_json(layout: Layout, raw: RawManifest, image: Reference) -> dict[str, Any]:
    manifest = _for_this_machine(layout, raw)
    return {
        "Config": _blob_name(manifest.config.digest),
        "RepoTags": [_familiar(image)],
        "Layers": [_blob_name(layer.digest) for layer in manifest.layers],
    }


def _for_this_machine(layout: Layout, raw: RawManifest) -> Manifest:
    parsed = parse_manifest(raw.data)
    if isinstance(parsed, Manifest):
        return parsed
    runnable = _runnable(parsed)
    wanted = _ARCHITECTURES.get(host.machine(), "amd64")
    chosen = [item for item in runnable if item.platform and item.platform.architecture == wanted]
    inner = layout.get_manifest((chosen or runnable)[0].digest)
    found = parse_manifest(inner.data) if inner else None
    if not isinstance(found, Manifest):
        raise InputError(f"want a manifest of {wanted} in {layout.name}, got none")
    return found


def _runnable(index: Index) -> Sequence[Descriptor]:
    return [item for item in index.manifests if item.platform and item.platform.os != "unknown"]


def _familiar(image: Reference) -> str:
    """Return the name as people write it, which is how the classic store lists it."""
    return str(image).removeprefix("docker.io/").removeprefix("library/")


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_member(name, len(data)), io.BytesIO(data))


def _add_blobs(
    archive: tarfile.TarFile, layout: Layout, blobs: Sequence[Digest], progress: Progress
) -> None:
    sizes = {digest: layout.path_of(digest).stat().st_size for digest in blobs}
    progress.start(sum(sizes.values()), len(sizes))
    for digest, size_bytes in sizes.items():
        name = _blob_name(digest)
        with layout.path_of(digest).open("rb") as file:
            archive.addfile(_member(name, size_bytes), _Watched(file, progress))
        progress.finish_file(name)


class _Watched(io.RawIOBase):
    """A file that tells what is read from it."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._progress.advance(len(data))
        return data


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o644
    return member
