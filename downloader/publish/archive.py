"""An image as one tar that ``docker load`` takes, whichever image store the engine has.

The containerd store reads ``index.json``; the classic one reads ``manifest.json``, as
``docker save`` writes it. Both name the same blobs.

Source: OCI image specification 1.1, image-layout.md; Docker image specification 1.2,
"Combined Image JSON + Filesystem Changeset Format".
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from downloader.fs import NewFile
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest, hex_of
from downloader.oci.image import host_architecture
from downloader.oci.image_archive import IMAGE_NAME, REF_NAME
from downloader.oci.layout import MARKER
from downloader.oci.manifest import Descriptor, Index, Manifest, parse_manifest, to_json_bytes
from downloader.oci.reference import Reference
from downloader.oci.store import RawManifest
from downloader.oci.tar_write import END_OF_ARCHIVE, TarEntry, lay_out
from downloader.progress import Progress
from downloader.publish.copy import (
    COPY_BUFFER_BYTES,
    SourceImage,
    blobs_of,
    check_bytes,
    name_blobs,
)


def write_archive(
    source: SourceImage,
    image: Reference,
    path: Path,
    progress: Progress,
    known: Mapping[Digest, str] | None = None,
) -> Digest:
    """Write an image as a tar, and return its digest.

    Args:
        source: The image.
        image: The name, with its tag, that the image gets in an engine.
        path: The tar; it appears under its name when it is complete.
        progress: Told what is written.
        known: The files that layers carry, where that is known.

    Raises:
        InputError: There is no such image.
        IntegrityError: The source has other bytes than its manifests say.
        HfModelsError: The source, or the disk, said no.
    """
    manifests = source.find_manifests()
    blobs, names = blobs_of(manifests), name_blobs(manifests, known or {})
    small = {"oci-layout": MARKER, "index.json": _index_json(manifests[-1], image)}
    if runnable := _for_this_machine(manifests):
        small["manifest.json"] = to_json_bytes([_manifest_json(runnable, image)])
    small |= {_blob_name(raw.digest): raw.data for raw in manifests}
    large = {_blob_name(blob.digest): blob for blob in blobs.values()}
    tar = lay_out(
        [TarEntry(name, size_bytes=len(data)) for name, data in small.items()],
        [TarEntry(name, size_bytes=blob.size_bytes) for name, blob in large.items()],
    )
    progress.start(sum(blob.size_bytes for blob in large.values()), len(large))
    with NewFile(path) as new:
        for placed in tar.entries:
            new.write(placed.header)
            if placed.entry.path in small:
                new.write(small[placed.entry.path])
            elif placed.entry.path in large:
                blob = large[placed.entry.path]
                _write_blob(new, source, blob, names[blob.digest], progress)
            new.write(bytes(placed.padding_bytes))
        new.write(END_OF_ARCHIVE)
        new.commit()
    return manifests[-1].digest


def _index_json(raw: RawManifest, image: Reference) -> bytes:
    names = {IMAGE_NAME: str(image), REF_NAME: image.tag or ""}
    return Index((Descriptor(raw.media_type, raw.digest, len(raw.data), names),)).to_bytes()


def _manifest_json(manifest: Manifest, image: Reference) -> dict[str, Any]:
    return {
        "Config": _blob_name(manifest.config.digest),
        "RepoTags": [_familiar(image)],
        "Layers": [_blob_name(layer.digest) for layer in manifest.layers],
    }


def _for_this_machine(manifests: Sequence[RawManifest]) -> Manifest | None:
    """Return the manifest that this machine would run; None where there is none to run."""
    parsed = {raw.digest: parse_manifest(raw.data) for raw in manifests}
    image = parsed[manifests[-1].digest]
    if isinstance(image, Index):
        runnable = _runnable(image)
        wanted = host_architecture()
        chosen = [i for i in runnable if i.platform and i.platform.architecture == wanted]
        found = next((parsed[item.digest] for item in (*chosen, *runnable)), None)
        return found if isinstance(found, Manifest) else None
    return image


def _runnable(index: Index) -> Sequence[Descriptor]:
    return [item for item in index.manifests if item.platform and item.platform.os != "unknown"]


def _familiar(image: Reference) -> str:
    """Return the name as people write it, which is how the classic store lists it."""
    return str(image).removeprefix("docker.io/").removeprefix("library/")


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _write_blob(
    new: NewFile, source: SourceImage, blob: Descriptor, name: str, progress: Progress
) -> None:
    progress.start_file(name, blob.size_bytes)
    hashed, at = hashlib.sha256(), 0
    buffer = memoryview(bytearray(COPY_BUFFER_BYTES))
    with source.source(blob).open(ByteRange(0, blob.size_bytes)) as reader:
        while at <= blob.size_bytes and (count := reader.readinto(buffer)):
            hashed.update(buffer[:count])
            new.write(buffer[:count])
            at += count
            progress.advance(count, name)
    check_bytes(blob, at, hashed.hexdigest())
    progress.finish_file(name)
