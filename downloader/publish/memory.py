"""How the memory of a run is shared out."""

from dataclasses import dataclass

from downloader.errors import InputError
from downloader.oci.upload import CHUNK_BYTES
from downloader.publish.layer_stream import AHEAD_BYTES
from downloader.units import MIB, format_bytes, format_count

DEFAULT_MEMORY_BYTES = 256 * MIB
# Enough that a registry's disk and both processors of a small runner always have work.
DEFAULT_JOBS = 4
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

    >>> share_memory(256 * MIB, jobs=2, targets=1).chunk_bytes == 32 * MIB
    True
    >>> share_memory(100 * MIB, jobs=4, targets=3)
    Traceback (most recent call last):
        ...
    downloader.errors.InputError: want at least 206 MB of memory for 4 jobs and 3 targets, \
got 105 MB
    """
    left = total_bytes - PROCESS_BYTES - jobs * _JOB_BYTES
    least = _least_bytes(jobs, targets)
    if total_bytes < least:
        of_what = f"{format_count(jobs, 'job')} and {format_count(targets, 'target')}"
        fewer = ", or lower --jobs" if jobs > 1 else ""
        raise InputError(
            f"want at least {format_bytes(least)} of memory for {of_what}, "
            f"got {format_bytes(total_bytes)}",
            hint=f"raise --memory to {-(-least // MIB)}MiB{fewer}",
        )
    chunk = min(CHUNK_BYTES, max(_SMALLEST_CHUNK_BYTES, left // 2 // (jobs * targets)))
    chunk = min(chunk, (left - jobs * _SMALLEST_RING_BYTES) // (jobs * targets))
    pool = left - chunk * jobs * targets
    return Memory(pool, pool // jobs, chunk)


def fitting_jobs(total_bytes: int, targets: int) -> int:
    """Return how many layers at once fit into ``total_bytes``, at most `DEFAULT_JOBS`.

    >>> fitting_jobs(256 * MIB, targets=1), fitting_jobs(256 * MIB, targets=12)
    (4, 2)
    """
    jobs = DEFAULT_JOBS
    while jobs > 1 and total_bytes < _least_bytes(jobs, targets):
        jobs -= 1
    return jobs


def _least_bytes(jobs: int, targets: int) -> int:
    job_bytes = targets * _SMALLEST_CHUNK_BYTES + _SMALLEST_RING_BYTES + _JOB_BYTES
    return PROCESS_BYTES + jobs * job_bytes
