"""This machine's disk: files that follow no link, atomic writes, locks, space, our errors.

Every file that the project writes into a directory of a user comes from here, because such
a directory may be shared. Two kinds of names need two kinds of opening:

- A *new file* (`NewFile`, `create_file`) has a random name and is created exclusively. It
  gets its final name by renaming, so no reader ever sees half of it. It is locked meanwhile,
  so that `remove_abandoned` knows those of processes that were killed.
- A *kept file* (`open_own_file`: partial files, journals) has the same name in every run, so
  another user can put something there first. A link, a device, another user's file or a file
  with a second name is removed and created anew.

`make_directory` follows no link below its root. Locks are the library's own lock files, so
that this project and a running huggingface_hub take turns; the ``filelock`` package would be
one more dependency on the consumer's side, and makes the same system calls.

Nothing here assumes POSIX: what Windows lacks is looked up by name.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from downloader.errors import InputError, StorageError, TransportError
from downloader.units import format_bytes

_POLL_S = 0.05  # filelock's own interval
# Another process replaces the file between two of our calls; none does so eight times.
_OPEN_TRIES = 8
_NAME_LIMIT_BYTES = 200  # of the 255 that file systems allow; the rest is for our suffix

_STALE_S = 3600.0  # a new link is there for milliseconds
_TEMPORARY = re.compile(r".+\.[0-9a-f]{16}\.incomplete")  # what `temporary_name` makes

# Windows lacks most of these, and needs O_BINARY.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a FIFO must not block
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_HINTS = {
    **dict.fromkeys(_NO_SPACE, "free some space, or name another directory, then run it again"),
    **dict.fromkeys(_DENIED, "name a directory that you may write to"),
    errno.EFBIG: "the file system has a limit on file size (FAT32: 4 GiB); name another disk",
    errno.ELOOP: "remove the link, if it is not yours",
}


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
    return StorageError(f"{path}: {reason}", hint=_HINTS.get(error.errno or 0))


# Names and directories


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced.

    Raises:
        InputError: There is no such user, or the path is empty: a variable that is not set
            must not name the working directory.
    """
    if not os.fspath(path):
        raise InputError("want a path, got an empty one")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"want a path, got {str(path)!r}: there is no such user") from error


def temporary_name(final: Path) -> Path:
    """Return a random name beside ``final`` that the library's own clean-up knows.

    Source: huggingface_hub 2.4, utils/_cache_manager.py: ``hf cache prune`` removes
    ``blobs/*.incomplete``.
    """
    short = len(os.fsencode(final.name)) <= _NAME_LIMIT_BYTES
    return final.with_name(f"{final.name if short else 'file'}.{secrets.token_hex(8)}.incomplete")


def make_directory(root: Path, relative: str = "") -> Path:
    """Create a directory and its parents; below ``root`` no link is followed.

    Args:
        root: Belongs to the user, who may have made it a link.
        relative: Segments below it, separated by ``/``.

    Returns:
        ``root / relative``.

    Raises:
        StorageError: A link or a file is in the way, or the disk said no.
    """
    with storage_errors(root):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise _not_a_directory(root) from None
    path = root
    for segment in filter(None, relative.split("/")):
        path /= segment
        with storage_errors(path):
            if not os.path.lexists(path):
                with suppress(FileExistsError):  # another process was faster
                    path.mkdir()
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise _not_a_directory(path)
    return path


def make_private_directory(path: Path) -> None:
    """Create a directory that only this user may enter, or take that of an earlier run.

    Raises:
        StorageError: Another user's directory has this name, or the disk said no.
    """
    with storage_errors(path):
        if os.path.lexists(path) and not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    has_modes = hasattr(os, "geteuid")  # Windows shows every directory as writable for all
    if not stat.S_ISDIR(status.st_mode) or (
        has_modes and (status.st_uid != os.geteuid() or status.st_mode & 0o022)
    ):
        raise StorageError(
            f"{path}: want a directory that only we may write to, got another one",
            hint="remove it, or name another directory",
        )


def ignores_case(directory: Path) -> bool:
    """Whether names that differ only in case are one name in a directory, there or not yet.

    Tries it with an empty directory: call it only where the answer matters.
    """
    there = next((path for path in (directory, *directory.parents) if path.is_dir()), None)
    try:
        with tempfile.TemporaryDirectory(prefix="HF-MODELS-", dir=there) as name:
            probe = Path(name)
            return probe.with_name(probe.name.replace("HF-MODELS-", "hf-models-")).exists()
    except OSError:
        return False  # nothing can be written there, which is said when it matters


def _not_a_directory(path: Path) -> StorageError:
    kind = "a link" if path.is_symlink() else "a file"
    return StorageError(
        f"{path}: want a directory, got {kind}", hint="remove it, or name another directory"
    )


# Files


def create_file(path: Path, mode: int = 0o666) -> int:
    """Create a file that is not there yet, and return its descriptor, open for writing.

    Args:
        path: Of the file.
        mode: Its permissions, less those of the umask.

    Raises:
        FileExistsError: Something has this name, be it a dangling link.
        OSError: The disk said no; for `storage_errors`.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _PLAIN, mode)


class NewFile:
    """A file under a random name, for a with block; `commit` gives it its final name.

    Where the block ends without `commit`, the file is removed.

    Args:
        final: The name to be; `commit` may choose another on the same file system.
        mode: Its permissions, less those of the umask.

    Attributes:
        path: The random name.
        file: Open for writing.

    Raises:
        StorageError: The file cannot be created.
    """

    def __init__(self, final: Path, mode: int = 0o666) -> None:
        self._final = final
        self._held = ExitStack()
        with storage_errors(final):
            self.path, descriptor = self._create(mode)
            self.file: BinaryIO = os.fdopen(descriptor, "wb")

    def _create(self, mode: int) -> tuple[Path, int]:
        for _ in range(_OPEN_TRIES):
            path = temporary_name(self._final)
            descriptor = create_file(path, mode)
            if _hold_alive(descriptor, self._held):
                return path, descriptor
            os.close(descriptor)
        raise OSError(errno.EBUSY, "another process removes it again and again", str(self._final))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of ``data``.

        Raises:
            StorageError: The disk said no.
        """
        with storage_errors(self._final):
            self.file.write(data)

    def commit(self, final: Path | None = None, *, durable: bool = False) -> None:
        """Close the file and give it its name, in place of what has the name now.

        Args:
            final: None for the name that was announced.
            durable: Whether the bytes reach the disk before the name does.

        Raises:
            StorageError: The disk said no.
        """
        final = final or self._final
        with storage_errors(final):
            self.file.flush()
            if durable:
                os.fsync(self.file.fileno())
            self.file.close()
            self.path.replace(final)
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._held.close()


def remove_abandoned(directory: Path, prefix: str = "") -> None:
    """Remove what `NewFile` left where a process was killed; a living one holds a lock on it.

    Args:
        directory: May be absent, or such that nothing can be removed from it.
        prefix: Start of the names: a final name, where not all files are ours.
    """
    with suppress(OSError):
        for path in directory.iterdir():
            if path.name.startswith(prefix) and _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    _remove_one(path)


def _remove_one(path: Path) -> None:
    if not path.is_symlink():
        _remove_unlocked(path)
    elif path.lstat().st_mtime < time.time() - _STALE_S:  # it has no lock
        path.unlink()


def write_atomically(path: Path, data: bytes, *, durable: bool = False, mode: int = 0o666) -> None:
    """Write a small file so that readers see all of it or nothing.

    Args:
        path: Of the file; its directory is made.
        data: All of it.
        durable: As `NewFile.commit` takes it.
        mode: As `NewFile` takes it.

    Raises:
        StorageError: The disk is full, or the directory may not be written to.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with NewFile(path, mode) as file:
        file.write(data)
        file.commit(durable=durable)


def open_own_file(path: Path, *, append: bool = False) -> int:
    """Open a file for reading and writing whose name is the same in every run; may be empty.

    What another user could have planted is removed and created anew: a link, anything but a
    regular file, a file of another user, a file with a second name.

    Args:
        path: Created if absent; its directory is there.
        append: Whether every write goes to the end.

    Returns:
        The descriptor.

    Raises:
        OSError: The disk said no; for `storage_errors`.
    """
    flags = os.O_RDWR | (os.O_APPEND if append else 0)
    return _open_checked(path, flags, _is_own)


def read_small_file(path: Path, limit_bytes: int, *, own: bool = False) -> bytes | None:
    """Return a small file's bytes; None unless it is a regular file of at most the limit.

    Args:
        path: Not followed where it is a link; it cannot block where it is a FIFO.
        limit_bytes: Of the file.
        own: Whether only this user and root may be able to write it.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # for systems without O_NOFOLLOW
            return None
        descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _PLAIN)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or (own and not _is_private(status)):
                return None
            data = file.read(limit_bytes + 1)
    except OSError:
        return None
    return data if len(data) <= limit_bytes else None


def open_same_file(path: Path, device: int, inode: int) -> int:
    """Open a file of a directory that others may write to for reading; follows no link.

    Args:
        path: Of the file.
        device: Its ``st_dev`` when it was found to be a regular file.
        inode: Its ``st_ino`` then.

    Returns:
        The descriptor.

    Raises:
        OSError: It cannot be opened, or another file has its name by now; for `storage_errors`.
    """
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _PLAIN)
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != (device, inode):
        os.close(descriptor)
        raise OSError(errno.ESTALE, "another file took its place", str(path))
    return descriptor


def _open_checked(path: Path, flags: int, accept: Callable[[os.stat_result], bool]) -> int:
    flags |= _NO_FOLLOW | _PLAIN
    for _ in range(_OPEN_TRIES):
        with suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(FileNotFoundError):  # removed meanwhile
            if accept(path.lstat()):  # no link, for systems without O_NOFOLLOW
                descriptor = os.open(path, flags)
                if accept(os.fstat(descriptor)):
                    return descriptor
                os.close(descriptor)
            path.unlink()
    raise OSError(errno.EBUSY, "another process replaces it again and again", str(path))


def _is_own(status: os.stat_result) -> bool:
    own = getattr(os, "geteuid", lambda: status.st_uid)()
    return stat.S_ISREG(status.st_mode) and status.st_uid == own and status.st_nlink == 1


def _is_private(status: os.stat_result) -> bool:
    has_modes = hasattr(os, "geteuid")  # Windows shows every file as writable for all
    is_writable = has_modes and status.st_mode & 0o022
    return not is_writable and (status.st_uid == 0 or _is_own(status))


_SEEKING = threading.Lock()


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write bytes at an offset in bytes; return how many, like ``os.pwrite``."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _SEEKING:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def read_at(descriptor: int, size_bytes: int, offset: int) -> bytes:
    """Return bytes from an offset, fewer at the end of the file, and none behind it."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size_bytes, offset)
    with _SEEKING:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size_bytes)


# Locks

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _hold_alive(descriptor: int, held: ExitStack) -> bool:
        del descriptor, held
        return True

    def _remove_unlocked(path: Path) -> None:
        path.unlink()  # refused where a process has it open
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
            # two builds of one layout at once on such a file system have to be repeated.
            return True
        # A file that was removed while we waited is a lock that guards no name.
        return os.fstat(descriptor).st_nlink > 0

    def _hold_alive(descriptor: int, held: ExitStack) -> bool:
        """Lock a new file until ``held`` ends; return False where another process removes it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks here: no process removes the file either
            return True
        if os.fstat(descriptor).st_nlink == 0:
            return False
        held.callback(os.close, os.dup(descriptor))  # the renaming comes after `file.close`
        return True

    def _remove_unlocked(path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | _NO_FOLLOW | _PLAIN)
        try:
            if _is_own(os.fstat(descriptor)):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        finally:
            os.close(descriptor)


@contextmanager
def hold_lock(
    path: Path,
    cancelled: threading.Event | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock file ``path`` for the block, waiting while another process has it.

    The file stays afterwards: removing it would split the waiting processes across two inodes.

    Args:
        path: Of the lock, like `downloader.hub.cache.lock_path`; its directory is made.
            A directory is locked itself, which leaves no file in it.
        cancelled: Set by another thread to give up waiting.
        on_wait: Called once, where another process has it.

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


@contextmanager
def hold_own_lock(path: Path, cancelled: threading.Event | None = None) -> Iterator[None]:
    """Hold a lock file that no other process waits for under its name: it is gone afterwards.

    Args:
        path: Of the lock.
        cancelled: As for `hold_lock`.

    Raises:
        StorageError, TransportError: As `hold_lock`.
    """
    is_removed = False
    try:
        with hold_lock(path, cancelled):
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()
                    is_removed = True
    finally:
        # Windows removes no open file. There, one that another process holds stays, too.
        if not is_removed and sys.platform == "win32":
            with suppress(OSError):
                path.unlink()


def _open_locked(path: Path) -> int | None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open_lock(path)
        try:
            locked = _try_lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    if not locked:
        os.close(descriptor)
        return None
    return descriptor


def _open_lock(path: Path) -> int:
    if path.is_dir():
        with suppress(PermissionError):
            return os.open(path, os.O_RDONLY)
        path /= ".lock"  # Windows opens no directory
    # In a shared cache the file may belong to another user, who allows reading only.
    with suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode) and not os.access(path, os.W_OK):
            return os.open(path, os.O_RDONLY | _NO_FOLLOW | _PLAIN)
    return _open_checked(path, os.O_RDWR, lambda status: stat.S_ISREG(status.st_mode))


# Space


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
            f"{path}: want {format_bytes(need_bytes)} free, got {format_bytes(free)}",
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
