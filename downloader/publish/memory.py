"""The memory of a run, shared out to its layers and buffers."""

from dataclasses import dataclass

from downloader.errors import InputError
from downloader.oci.upload import SMALL_BLOB_BYTES
from downloader.publish.layer_stream import PREFETCH_BYTES
from downloader.publish.ramp import MOST_JOBS
from downloader.units import MIB, format_bytes, format_count

DEFAULT_MEMORY_BYTES = 256 * MIB
# Python, the libraries and their tables of a large repo, before the first buffer.
PROCESS_BYTES = 88 * MIB
# Small files fetched ahead, headers and padding on their way, stacks of threads.
_JOB_BYTES = PREFETCH_BYTES // 2
_SMALLEST_RING_BYTES = 8 * MIB
# Enough for four connections with a range each; what a kill finds in it is read again.
_LARGEST_RING_BYTES = 32 * MIB
_UPLOAD_BYTES = SMALL_BLOB_BYTES // 4  # a thread, and a blob that is small enough for one request


@dataclass(frozen=True)
class Memory:
    """The shares.

    Args:
        pool_bytes: Of all streams from the Hub together.
        ring_bytes: Of one of them.
    """

    pool_bytes: int
    ring_bytes: int


def share_memory(total_bytes: int, jobs: int, destinations: int) -> Memory:
    """Share ``total_bytes`` of the whole process among jobs and uploads.

    Args:
        total_bytes: The bound that the user sets.
        jobs: Layers at once.
        destinations: Uploads of each.

    Raises:
        InputError: Too little for so much at once.

    >>> share_memory(256 * MIB, jobs=8, destinations=1).ring_bytes == 16 * MIB
    True
    >>> share_memory(100 * MIB, jobs=4, destinations=3)
    Traceback (most recent call last):
        ...
    downloader.errors.InputError: want at least 155 MB of memory for 4 jobs and 3 targets, \
got 105 MB
    """
    least = _least_bytes(jobs, destinations)
    if total_bytes < least:
        of_what = f"{format_count(jobs, 'job')} and {format_count(destinations, 'target')}"
        fewer = ", or lower --jobs" if jobs > 1 else ""
        raise InputError(
            f"want at least {format_bytes(least)} of memory for {of_what}, "
            f"got {format_bytes(total_bytes)}",
            hint=f"raise --memory to {-(-least // MIB)}MiB{fewer}",
        )
    pool_bytes = total_bytes - least + jobs * _SMALLEST_RING_BYTES
    return Memory(pool_bytes, min(pool_bytes // jobs, _LARGEST_RING_BYTES))


def fitting_jobs(total_bytes: int, destinations: int) -> int:
    """Return how many layers at once fit into ``total_bytes``, at most `MOST_JOBS`.

    >>> fitting_jobs(256 * MIB, destinations=1), fitting_jobs(256 * MIB, destinations=12)
    (12, 7)
    """
    jobs = MOST_JOBS
    while jobs > 1 and total_bytes < _least_bytes(jobs, destinations):
        jobs -= 1
    return jobs


def _least_bytes(jobs: int, destinations: int) -> int:
    job_bytes = destinations * _UPLOAD_BYTES + _SMALLEST_RING_BYTES + _JOB_BYTES
    return PROCESS_BYTES + jobs * job_bytes
