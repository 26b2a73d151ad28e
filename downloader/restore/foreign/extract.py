"""Contents of streams: written into private files as they pass, named when they are wanted.

A compressed layer cannot be read from the middle, so what is wanted of it is written while it
passes, under names that only this run uses. Each content is hashed on the way; it gets its
place in the cache (or directory) at the end, under the lock of that place.
"""

import secrets
import shutil
import threading
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from downloader.errors import IntegrityError, ProtocolError, StorageError, TransportError
from downloader.fs import NewFile, check_space, hold_own_lock, make_directory, storage_errors
from downloader.hub.cache import BlobHasher, parse_part
from downloader.hub.repo import Repo, is_oid
from downloader.oci.tar_read import ByteSource, TarMember
from downloader.progress import Progress
from downloader.restore.foreign.entries import Content, InStream, Place, parse_folder
from downloader.restore.target import Target, is_right

_BUFFER_BYTES = 1024**2

Key = tuple[str, int]  # a content in a stream: its layer, and its offset there


class Reader(Protocol):
    """Bytes in order."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; 0 at the end."""


class ContentSkipper:
    """The taker that reads no content: it only notes where each one lies."""

    def take(
        self, layer: str, member: TarMember, place: Place | None, source: ByteSource
    ) -> Content:
        """Return where the content lies."""
        del source
        return InStream(layer, member.content_offset, _named(place))


def _named(place: Place | None) -> tuple[str, ...]:
    return (place.oid,) if place is not None and place.oid else ()


@dataclass
class _File:
    """A content that was written, or is in the target already.

    Args:
        path: Its path; None where its bytes were wrong and are gone.
        oids: Hashes of its bytes: sha256, git sha1, or both.
        is_private: Whether this run wrote it, and nobody else uses it.
    """

    path: Path | None
    oids: tuple[str, ...]
    is_private: bool = True


class ContentExtractor:
    """The taker that writes contents as they pass; a context manager that tidies up.

    Args:
        target: Gives finished contents their names.
        progress: Told of every byte.
        verify_existing: Whether to hash what the target has already.
    """

    def __init__(
        self, target: Target, progress: Progress, *, verify_existing: bool = False
    ) -> None:
        self.wanted: Collection[Key] | None = None  # None for everything
        self.kept_bytes = 0
        self.kept_blobs = 0
        self.fetched_bytes = 0
        self._target = target
        self._progress = progress
        self._verify_existing = verify_existing
        self._scratch: Path | None = None
        self._files: dict[Key, _File] = {}
        self._by_path: dict[Path, _File] = {}
        self._exit = ExitStack()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._exit.close()

    def has(self, key: Key) -> bool:
        """Whether a content has passed and was written, or is in the target."""
        return key in self._files

    def oids(self, key: Key) -> tuple[str, ...]:
        """Return what a content that has passed hashes to."""
        return self._files[key].oids

    def take(
        self, layer: str, member: TarMember, place: Place | None, source: ByteSource
    ) -> Content:
        """Write a content, if it is wanted and the target lacks it.

        Raises:
            StorageError: The disk said no.
            ProtocolError: The stream ends too early.
        """
        key = (layer, member.content_offset)
        if self.wanted is not None and key not in self.wanted:
            return InStream(*key, _named(place))
        if key not in self._files:
            found = self._existing(member, place) or self._written(member, place)
            self._files[key] = found or self._write(member, _named(place), source)
        return InStream(*key, self._files[key].oids)

    def _existing(self, member: TarMember, place: Place | None) -> _File | None:
        """Return the file of the target that has this content; a part counts if all is there."""
        if place is None or place.area != "blobs":
            return None
        part = parse_part(place.rest)
        oid = part.oid if part is not None else place.oid
        if oid is None:
            return None
        repo = parse_folder(place.folder)
        path = self._target.existing(repo, oid)
        if path is None:
            return None
        size_bytes = path.stat().st_size if part is not None else member.size_bytes
        if not self._target.is_right(repo, oid, size_bytes, always=self._verify_existing):
            return None
        if part is None or part.part == 1:
            self.kept_bytes += size_bytes
            self.kept_blobs += 1
        return _File(path, (oid,), is_private=False)

    def _written(self, member: TarMember, place: Place | None) -> _File | None:
        """Return the file of this content that this run has written, or one that was killed."""
        oid = place.oid if place is not None else None
        if oid is None:
            return None
        path = self._directory() / oid
        if path in self._by_path:
            return self._by_path[path]
        if not path.exists() or not is_right(path, oid, member.size_bytes):
            return None
        self._progress.advance(member.size_bytes)
        self._by_path[path] = _File(path, (oid,))
        return self._by_path[path]

    def _directory(self) -> Path:
        if self._scratch is None:
            root = make_directory(self._target.root, self._target.scratch)
            scratch = root / secrets.token_hex(8)
            self._exit.enter_context(hold_own_lock(scratch.with_suffix(".lock")))
            self._scratch = make_directory(scratch)
            _take_over(root, self._scratch)
        return self._scratch

    def _write(self, member: TarMember, named: tuple[str, ...], source: Reader) -> _File:
        # Only the list of the repo knows which of the two names the library uses.
        names = named or ("0" * 64, "0" * 40)
        hashers = [BlobHasher(name, member.size_bytes) for name in names]
        final = self._directory() / secrets.token_hex(8)
        check_space(final, member.size_bytes)
        with NewFile(final) as file:
            left = member.size_bytes
            while left:
                count = source.readinto(self._buffer[:left])
                if not count:
                    raise ProtocolError(f"layer ends {left} bytes before the end of a file in it")
                data = self._buffer[:count]
                file.write(data)
                for hasher in hashers:
                    hasher.update(data)
                self._progress.advance(count)
                self.fetched_bytes += count
                left -= count
            oids = tuple(hasher.hexdigest() for hasher in hashers)
            if named and oids != named:
                # An upper layer may hold the right one; `settle` says so if this one is needed.
                return _File(None, oids)
            final = final.with_name(oids[0])  # a later run finds it, if this one is killed
            if final not in self._by_path:
                file.commit(final)
                self._by_path[final] = _File(final, oids)
        return self._by_path[final]

    def settle(self, repo: Repo, oid: str, keys: Sequence[Key]) -> None:
        """Give a content its name in the target.

        Args:
            repo: The repo.
            oid: The name.
            keys: The parts of the content, in order.

        Raises:
            IntegrityError: The bytes do not hash to the name.
            StorageError: The disk said no.
        """
        files = [self._files[key] for key in keys]
        first = files[0]
        if len(files) == 1 and (first.path is None or oid not in first.oids):
            raise IntegrityError(f"want oid {oid}, got {first.oids[0]}")
        final = self._target.blob(repo, oid)
        with self._target.lock(repo, oid, threading.Event()):
            existing = self._target.existing(repo, oid)
            if existing is not None and all(file.path == existing for file in files):
                return  # it was here, or another name of it was settled before
            make_directory(
                self._target.root, final.parent.relative_to(self._target.root).as_posix()
            )
            if len(files) == 1 and first.is_private and first.path is not None:
                with storage_errors(final):
                    first.path.replace(final)
                first.path, first.is_private = final, False
            else:
                self._join(oid, [file.path for file in files if file.path is not None], final)

    def _join(self, oid: str, parts: list[Path], final: Path) -> None:
        hasher = BlobHasher(oid, sum(part.stat().st_size for part in parts))
        with NewFile(final) as file:
            for part in parts:
                with storage_errors(part), part.open("rb", buffering=0) as reader:
                    while count := reader.readinto(self._buffer):
                        hasher.update(self._buffer[:count])
                        file.write(self._buffer[:count])
                if len(parts) > 1 and self._scratch in part.parents:
                    part.unlink()  # the disk holds the file once, and one part of it
            hasher.check(oid)
            file.commit()


def _take_over(scratch: Path, own: Path) -> None:
    """Take what killed runs have written and hashed; a run that is alive holds its lock."""
    stopped = threading.Event()
    stopped.set()  # take a lock that is free, wait for none
    for lock in scratch.glob("*.lock"):
        left = lock.with_suffix("")
        if left == own or left.is_symlink():
            continue
        with suppress(TransportError, StorageError, OSError), hold_own_lock(lock, stopped):
            for path in left.glob("*"):
                if is_oid(path.name) and path.is_file() and not path.is_symlink():
                    path.replace(own / path.name)
            shutil.rmtree(left, ignore_errors=True)
