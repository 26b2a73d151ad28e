"""Lock files: the cache's own, so that we and a running huggingface_hub take turns, and ours.

The library locks with the ``filelock`` package, which calls the same system functions on
the same files; importing it here would be one dependency more on the consumer's side.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from downloader.errors import TransportError
from downloader.fs import storage_errors

_POLL_S = 0.05  # filelock's own interval

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    _NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # some network file systems

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            # Unique temporary names keep the cache right, where the lock only saves bandwidth;
            # who builds one layout twice at once on such a file system has to build it again.
            return True
        # Whoever removed the file while we waited made it a lock that guards no name.
        return os.fstat(descriptor).st_nlink > 0


@contextmanager
def hold_lock(
    path: Path,
    cancelled: threading.Event | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock file ``path`` for the block, waiting for whoever has it.

    The file stays afterwards: removing it would split those who wait across two inodes.

    Args:
        path: Of the lock, like `downloader.hub.cache.lock_path`; directories are made.
        cancelled: Set by another thread to give up waiting.
        on_wait: Called once, where somebody else has it.

    Raises:
        StorageError: The file cannot be made.
        TransportError: ``cancelled`` was set while waiting.
    """
    cancelled = cancelled or threading.Event()
    descriptor = _open_locked(path)
    if descriptor is None:
        on_wait()
    while descriptor is None:
        if cancelled.wait(_POLL_S):
            raise TransportError(f"{path}: cancelled while another process held the lock")
        descriptor = _open_locked(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _open_locked(path: Path) -> int | None:
    with storage_errors(path):
        descriptor = _open(path)
        try:
            locked = _try_lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    if not locked:
        os.close(descriptor)
        return None
    return descriptor
