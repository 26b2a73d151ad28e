"""Whole blobs between memory and stores, and from store to store: verified both ways."""

import hashlib
from collections.abc import Callable
from functools import partial

from downloader.errors import IntegrityError, ProtocolError
from downloader.oci.digest import Digest
from downloader.oci.manifest import Descriptor
from downloader.oci.store import Store
from downloader.oci.upload import UploadLost
from downloader.progress import Meter, NoProgress, Progress

# An upload that cannot be continued begins again; a line that breaks every time is no line.
LOST_TRIES = 5

_COPY_BUFFER_BYTES = 1024 * 1024


def read_blob(store: Store, descriptor: Descriptor, limit_bytes: int) -> bytes:
    """Return a small blob.

    Raises:
        ProtocolError: It is larger than anything of its kind.
        IntegrityError: It is not what the descriptor says.
    """
    if descriptor.size_bytes > limit_bytes:
        raise ProtocolError(
            f"{descriptor.digest}: want at most {limit_bytes} bytes, got {descriptor.size_bytes}"
        )
    data = bytearray(descriptor.size_bytes + 1)  # one more, to see that nothing follows
    filled = 0
    with store.open_blob(descriptor.digest) as reader:
        while filled < len(data) and (count := reader.readinto(memoryview(data)[filled:])):
            filled += count
    _check(descriptor, filled, hashlib.sha256(memoryview(data)[:filled]).hexdigest())
    return bytes(data[:filled])


def put_blob(store: Store, data: bytes, digest: Digest) -> None:
    """Put a small blob where it is not yet."""
    if store.blob_size(digest) != len(data):
        _send_until_kept(partial(_send, store, data, digest))


def copy_blob(
    source: Store, target: Store, descriptor: Descriptor, progress: Progress | None = None
) -> None:
    """Copy a blob that the target lacks; mount it where that is possible.

    Args:
        source: Where it is.
        target: Where to.
        descriptor: Which one.
        progress: Told of its bytes, sent or mounted.

    Raises:
        IntegrityError: The source has other bytes under this digest.
    """
    meter = Meter(progress or NoProgress(), descriptor.size_bytes)
    if not target.mount_blob(descriptor.digest, source):
        _send_until_kept(partial(_send_copy, source, target, descriptor, meter))
    meter.set(descriptor.size_bytes)


def lacks(target: Store, blob: Descriptor) -> bool:
    """Whether a blob has to be copied."""
    return target.blob_size(blob.digest) != blob.size_bytes


def _send_until_kept(send: Callable[[], None]) -> None:
    for left in reversed(range(LOST_TRIES)):
        try:
            return send()
        except UploadLost:
            if not left:
                raise
    return None


def _send(store: Store, data: bytes, digest: Digest) -> None:
    with store.create_blob(len(data)) as writer:
        writer.write(memoryview(data))
        writer.commit(digest)


def _send_copy(source: Store, target: Store, descriptor: Descriptor, meter: Meter) -> None:
    digest, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_COPY_BUFFER_BYTES))
    with (
        source.open_blob(descriptor.digest) as reader,
        target.create_blob(descriptor.size_bytes) as writer,
    ):
        while (count := reader.readinto(buffer)) and done <= descriptor.size_bytes:
            digest.update(buffer[:count])
            writer.write(buffer[:count])
            done += count
            meter.set(done)
        _check(descriptor, done, digest.hexdigest())
        writer.commit(descriptor.digest)


def _check(descriptor: Descriptor, size_bytes: int, sha256: str) -> None:
    if size_bytes != descriptor.size_bytes:
        raise IntegrityError(
            f"{descriptor.digest}: want {descriptor.size_bytes} bytes, got {size_bytes}"
        )
    if descriptor.digest != f"sha256:{sha256}":
        raise IntegrityError(f"want {descriptor.digest}, got sha256:{sha256}")
