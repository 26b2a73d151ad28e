"""Writing to this machine's disk: atomically, within the space there is, with our errors."""

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from downloader.errors import StorageError

# EDQUOT is missing on Windows.
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a `StorageError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the error to raise where the operating system refused ``path``."""
    reason = error.strerror or type(error).__name__
    hint = None
    if error.errno in _NO_SPACE:
        hint = "free some space, or name another directory, then run it again"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        hint = "name a directory that you may write to"
    return StorageError(f"{path}: {reason}", hint=hint)


def temporary_name(final: Path) -> Path:
    """Return a fresh name beside ``final``, of the form that the library's own clean-up knows.

    Source: huggingface_hub 2.4 file_download.py, ``<etag>.<8 hex>.incomplete``.
    """
    return final.with_name(f"{final.name}.{secrets.token_hex(4)}.incomplete")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that readers see all of it or nothing.

    Raises:
        StorageError: The disk is full, or the directory may not be written to.
    """
    temporary = temporary_name(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def free_bytes(path: Path) -> int:
    """Return the bytes that an ordinary user may still write where ``path`` will be."""
    existing = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    with storage_errors(existing):
        return shutil.disk_usage(existing).free


def check_space(path: Path, need_bytes: int) -> None:
    """Raise unless ``need_bytes`` more fit on the file system of ``path``.

    Raises:
        StorageError: Too little is free; the message names both figures.
    """
    free = free_bytes(path)
    if need_bytes > free:
        raise StorageError(
            f"{path}: want {need_bytes} bytes free, got {free} bytes",
            hint="free some space, or name a larger disk",
        )


def allocated_bytes(path: Path) -> int:
    """Return the bytes that a growing file occupies, 0 while it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return 0
    # st_blocks counts units of 512 bytes everywhere that has it (POSIX leaves it open).
    return int(getattr(status, "st_blocks", 0)) * 512 or status.st_size
