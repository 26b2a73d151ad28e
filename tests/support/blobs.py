"""A blob of several chunks, pushed and read back as the package does it."""

import random

from downloader.net.ranges import ByteRange
from downloader.oci.digest import digest_of
from downloader.oci.registry_write import WritableRegistry
from downloader.oci.upload import UploadInterrupted

CHUNK_BYTES = 64 * 1024
SIZE_BYTES = 5 * CHUNK_BYTES + 1234  # several chunks, the last one odd
DATA = random.Random(5).randbytes(SIZE_BYTES)
DIGEST = digest_of(DATA)


def push(registry: WritableRegistry, data: bytes = DATA, *, promised: int | None = None) -> int:
    """Push as a publisher does; return how often it was interrupted."""
    view, interruptions, offset = memoryview(data), 0, 0
    with registry.create_blob(promised or len(data)) as writer:
        while True:
            try:
                for start in range(offset, len(data), 50_000):
                    writer.write(view[start : start + 50_000])
                writer.commit(digest_of(data))
            except UploadInterrupted:
                interruptions += 1
                offset = writer.resume()
                assert 0 <= offset <= len(data)
            else:
                return interruptions


def read(
    registry: WritableRegistry, byte_range: ByteRange | None = None, data: bytes = DATA
) -> bytes:
    with registry.open_blob(digest_of(data), byte_range) as reader:
        buffer = bytearray(len(data) + 1)
        size = 0
        while count := reader.readinto(memoryview(buffer)[size:]):
            size += count
        return bytes(buffer[:size])
