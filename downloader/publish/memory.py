"""How the memory of a run is shared out."""

from dataclasses import dataclass

from downloader.errors import InputError
from downloader.oci.uploads import CHUNK_BYTES
from downloader.publish.contents import AHEAD_BYTES
from downloader.units import MIB

DEFAULT_MEMORY_BYTES = 256 * MIB
# Python, the libraries and their tables of a large repo, before the first buffer.
PROCESS_BYTES = 88 * MIB
# Small files read ahead, headers and padding on their way, stacks of threads.
_JOB_BYTES = AHEAD_BYTES // 2
_SMALLEST_CHUNK_BYTES = 5 * MIB  # what Amazon's registry takes at least
_SMALLEST_RING_BYTES = 8 * MIB


@dataclass(frozen=True)
class Memory:
    """The shares.

    Args:
        pool_bytes: Of all streams from the Hub together.
        ring_bytes: Of one of them.
        chunk_bytes: That an upload keeps to send again.
    """

    pool_bytes: int
    ring_bytes: int
    chunk_bytes: int


def share_memory(total_bytes: int, jobs: int, targets: int) -> Memory:
    """Share ``total_bytes`` of the whole process among jobs and uploads.

    Args:
        total_bytes: The bound that the user sets.
        jobs: Layers at once.
        targets: Uploads of each.

    Raises:
        InputError: Too little for so much at once.

    >>> share_memory(256 * MIB, jobs=2, targets=1).chunk_bytes == 16 * MIB
    True
    >>> share_memory(100 * MIB, jobs=4, targets=3)
    Traceback (most recent call last):
        ...
    downloader.errors.InputError: want at least 205520896 bytes of memory for 4 jobs and 3 \
targets, got 104857600
    """
    smallest = jobs * (targets * _SMALLEST_CHUNK_BYTES + _SMALLEST_RING_BYTES + _JOB_BYTES)
    left = total_bytes - PROCESS_BYTES - jobs * _JOB_BYTES
    if total_bytes < PROCESS_BYTES + smallest:
        raise InputError(
            f"want at least {PROCESS_BYTES + smallest} bytes of memory for {jobs} jobs and "
            f"{targets} targets, got {total_bytes}",
            hint="raise --memory, or lower --jobs",
        )
    chunk = min(CHUNK_BYTES, max(_SMALLEST_CHUNK_BYTES, left // 2 // (jobs * targets)))
    chunk = min(chunk, (left - jobs * _SMALLEST_RING_BYTES) // (jobs * targets))
    pool = left - chunk * jobs * targets
    return Memory(pool, pool // jobs, chunk)
