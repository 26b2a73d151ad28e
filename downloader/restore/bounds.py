"""How much a download may use at once, and what it has done."""

import threading
from dataclasses import dataclass, field

from downloader.restore.spans import SPAN_BYTES
from downloader.units import MIB

FIRST_CONNECTIONS = 4  # more are opened where one of them is slow
# So much may be written and not yet noted, over all connections: what a kill costs at most.
UNNOTED_BYTES = 8 * MIB
# What is read is hashed and written while it is still in the processor's cache. Not a power of
# two: for large writes at even offsets ext4 (Linux 6.18) takes larger pieces of memory, and up
# to five times the time to get them.
BUFFER_LIMIT_BYTES = 508 * 1024


@dataclass(frozen=True)
class DownloadSettings:
    """Bounds.

    Args:
        connections: At most at once, over all files.
        jobs: Large files at once.
        memory_bytes: For the buffers of all threads together.
        verify_existing: Whether to hash what the cache has already.
    """

    connections: int = 8
    jobs: int = 4
    memory_bytes: int = 64 * MIB
    verify_existing: bool = False

    @property
    def buffer_bytes(self) -> int:
        """Of one thread."""
        share = self.memory_bytes // (self.connections + self.jobs)
        return max(64 * 1024, min(BUFFER_LIMIT_BYTES, share))

    @property
    def note_bytes(self) -> int:
        """How much one connection writes before it notes it."""
        return max(self.buffer_bytes, min(4 * MIB, UNNOTED_BYTES // self.connections))

    @property
    def small_bytes(self) -> int:
        """Up to here a file is fetched together with its neighbours, in memory."""
        return max(64 * 1024, min(SPAN_BYTES, self.memory_bytes // (2 * self.connections)))


@dataclass
class Counts:
    """What a download did, in bytes and cache blobs."""

    fetched_bytes: int = 0
    resumed_bytes: int = 0
    kept_bytes: int = 0
    kept_blobs: int = 0
    blobs: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
