"""Contents of a stream that passes once: kept as they come by, hashed on the way.

A compressed layer cannot be read from the middle, and ``docker save`` cannot be asked again.
So what looks like a cache blob is written while it passes, and gets its name as soon as its
hash is right; what else might be needed waits in a scratch directory.
"""

import os
import secrets
import shutil
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol, Self

from downloader.errors import IntegrityError, ProtocolError, StorageError, TransportError
from downloader.fs import check_space, hold_lock, storage_errors, temporary_name
from downloader.hub.cache import BlobHasher
from downloader.hub.repo import Repo
from downloader.oci.tar_read import ByteSource, TarMember
from downloader.progress import Progress
from downloader.restore.foreign.entries import Captured, Content, Place, parse_folder
from downloader.restore.target import Target

_BUFFER_BYTES = 1024**2


class Reader(Protocol):
    """Bytes in order."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; 0 at the end."""


class Capture:
    """The taker of everything that passes once; a context manager that tidies up.

    Args:
        target: Where cache blobs go; None to look only.
        progress: Told of every byte.
        verify_existing: Whether to hash what the target has already.
    """

    def __init__(
        self, target: Target | None, progress: Progress, *, verify_existing: bool = False
    ) -> None:
        self._target = target
        self._progress = progress
        self._verify_existing = verify_existing
        self._scratch: Path | None = None
        self._exit = ExitStack()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.new_blobs: set[Path] = set()
        self.kept_bytes = 0
        self.fetched_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.with_suffix(".lock").unlink(missing_ok=True)
        self._exit.close()

    def take(self, member: TarMember, place: Place | None, source: ByteSource) -> Content:
        """Keep a content, or see that it is there already.

        Raises:
            StorageError: The disk said no.
            ProtocolError: The stream ends too early.
        """
        oid = place.oid if place is not None else None
        if place is None or oid is None:
            return self.take_reader(source, member.size_bytes)
        return self._take_blob(member, parse_folder(place.folder), oid, source)

    def _take_blob(self, member: TarMember, repo: Repo, oid: str, source: ByteSource) -> Content:
        hasher = BlobHasher(oid, member.size_bytes)
        if self._target is None:
            return Captured(None, (oid,))  # looked at only: its name is taken at its word
        final = self._target.blob(repo, oid)
        existing = self._target.existing(repo, oid)
        if existing is not None and self._target.is_right(
            repo, oid, member.size_bytes, always=self._verify_existing
        ):
            self.kept_bytes += member.size_bytes
            return Captured(existing, (oid,), is_new=False)
        with self._target.lock(repo, oid, threading.Event()):
            temporary = temporary_name(final)
            try:
                self._write(temporary, source, member.size_bytes, [hasher])
                hasher.check(oid)
            except IntegrityError:
                temporary.unlink()
                # An upper layer may hold the right one; who needs this one, hears of it.
                return Captured(None, (hasher.hexdigest(),))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            with storage_errors(final):
                temporary.replace(final)
        self.new_blobs.add(final)
        return Captured(final, (oid,))

    def take_reader(self, source: Reader, size_bytes: int) -> Captured:
        """Keep a content that nothing names.

        Args:
            source: At its first byte.
            size_bytes: Of all of it.

        Raises:
            StorageError: The disk said no.
            ProtocolError: The stream ends too early.
        """
        # Only the list of the repo knows which of the two names the library uses.
        hashers = [BlobHasher("0" * length, size_bytes) for length in (64, 40)]
        path = self._scratch_file() if self._target is not None else None
        self._write(path, source, size_bytes, hashers)
        return Captured(path, tuple(hasher.hexdigest() for hasher in hashers))

    def _scratch_file(self) -> Path:
        assert self._target is not None  # noqa: S101 - for the type checker
        if self._scratch is None:
            _remove_stale(self._target.scratch)
            self._scratch = self._target.scratch / secrets.token_hex(8)
            self._exit.enter_context(hold_lock(self._scratch.with_suffix(".lock")))
        return self._scratch / secrets.token_hex(8)

    def _write(
        self, path: Path | None, source: Reader, size_bytes: int, hashers: list[BlobHasher]
    ) -> None:
        if path is None:
            self._copy(None, source, size_bytes, hashers)
            return
        check_space(path, size_bytes)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb", buffering=0) as file:
                self._copy(file.fileno(), source, size_bytes, hashers)

    def _copy(
        self,
        descriptor: int | None,
        source: Reader,
        size_bytes: int,
        hashers: list[BlobHasher],
    ) -> None:
        left = size_bytes
        while left:
            count = source.readinto(self._buffer[:left])
            if not count:
                raise ProtocolError(f"want {left} bytes more of a file, got the end of its layer")
            data = self._buffer[:count]
            if descriptor is not None:
                _write_all(descriptor, data)
            for hasher in hashers:
                hasher.update(data)
            self._progress.advance(count)
            self.fetched_bytes += count
            left -= count

    def settle(self, repo: Repo, oid: str, parts: list[Captured]) -> None:
        """Give a content that was captured its name.

        Raises:
            IntegrityError: It does not hash to it.
        """
        if self._target is None:
            return
        final = self._target.blob(repo, oid)
        if len(parts) == 1 and parts[0].path is not None and oid in parts[0].oids:
            self._name(parts[0].path, final)
        elif len(parts) > 1 and all(part.path is not None for part in parts):
            self._join(oid, [part.path for part in parts if part.path is not None], final)
        else:
            got = parts[0].oids[0] if parts else "nothing"
            raise IntegrityError(f"want oid {oid}, got {got}")

    def _name(self, path: Path, final: Path) -> None:
        if path == final or not self._is_scratch(path):
            return
        with storage_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():  # another snapshot of the same image may have named it
                path.replace(final)
                self.new_blobs.add(final)

    def _is_scratch(self, path: Path) -> bool:
        return self._scratch is not None and self._scratch in path.parents

    def _join(self, oid: str, parts: list[Path], final: Path) -> None:
        if final.exists():
            return
        size_bytes = sum(part.stat().st_size for part in parts)
        hasher = BlobHasher(oid, size_bytes)
        temporary = temporary_name(final)
        try:
            with storage_errors(final):
                temporary.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("xb", buffering=0) as file:
                    for part in parts:
                        self._append(part, file.fileno(), hasher)
                        part.unlink()  # the disk holds the file once, and one part of it
                hasher.check(oid)
                temporary.replace(final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.new_blobs.add(final)

    def _append(self, part: Path, descriptor: int, hasher: BlobHasher) -> None:
        with part.open("rb", buffering=0) as file:
            while count := file.readinto(self._buffer):
                hasher.update(self._buffer[:count])
                _write_all(descriptor, self._buffer[:count])


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _remove_stale(scratch: Path) -> None:
    """Remove what killed runs left; a run that is alive holds the lock of its directory."""
    stopped = threading.Event()
    stopped.set()  # take a lock that is free, wait for none
    for lock in scratch.glob("*.lock"):
        with suppress(TransportError, StorageError), hold_lock(lock, stopped):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
