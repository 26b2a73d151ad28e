"""Where the bytes of a file come from: memory, a file on disk, or a formula."""

from __future__ import annotations

import array
import functools
import hashlib
import random
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 1 << 20  # one sendmsg per block; large enough that Python's cost does not show
HEADER_BYTES = 32  # makes every block differ, so that a spliced offset cannot go unnoticed
PATTERN_BYTES = 8 << 20  # blocks are windows of it; more than the window of zstd at level 3


class Source(Hashable, Protocol):
    """The content of one file."""

    @property
    def size_bytes(self) -> int: ...

    def iter_pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of the half-open interval."""
        ...

    def identity(self) -> str:
        """Give what a commit's sha is made from: the same for the same bytes."""
        ...


@dataclass(frozen=True)
class Memory:
    """Bytes that are here already."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def iter_pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of the half-open interval, without a copy."""
        view = memoryview(self.data)[start:stop]
        for at in range(0, len(view), BLOCK_BYTES):
            yield view[at : at + BLOCK_BYTES]

    def identity(self) -> str:
        return hashlib.sha1(self.data).hexdigest()


@dataclass(frozen=True)
class Disk:
    """A file on disk; sent with sendfile, so its bytes never enter Python."""

    path: str
    sha256: str | None = None

    @property
    def size_bytes(self) -> int:
        return Path(self.path).stat().st_size

    def iter_pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of the half-open interval."""
        with Path(self.path).open("rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(BLOCK_BYTES, stop - start))):
                start += len(piece)
                yield memoryview(piece)

    def identity(self) -> str:
        return sha256_of(self)


@dataclass(frozen=True)
class Generated:
    """Pseudo-random bytes, the same for the same seed, at any offset, of any size.

    Args:
        size_bytes: The length of the file; a terabyte costs no disk and no memory.
        seed: Files of other seeds differ in every block.
        bf16: Weights instead of noise: normally distributed bfloat16, which gzip shrinks
            as it shrinks real models.
        sha256: Where it is known; otherwise it is computed when it is first asked for.
    """

    size_bytes: int
    seed: int = 0
    bf16: bool = False
    sha256: str | None = None

    def iter_pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of the half-open interval."""
        while start < stop:
            block, offset = divmod(start, BLOCK_BYTES)
            end = min(stop - block * BLOCK_BYTES, BLOCK_BYTES)
            yield from _iter_block(self.seed, block, self.bf16, offset, end)
            start = block * BLOCK_BYTES + end

    def identity(self) -> str:
        return f"generated:{self.seed}:{self.size_bytes}:{self.bf16}"


@dataclass(frozen=True)
class Flipped:
    """Another source with one bit flipped."""

    inner: Source
    at_byte: int

    @property
    def size_bytes(self) -> int:
        return self.inner.size_bytes

    def iter_pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of the half-open interval."""
        for piece in self.inner.iter_pieces(start, stop):
            at = self.at_byte - start
            start += len(piece)
            yield _flip(piece, at) if 0 <= at < len(piece) else piece

    def identity(self) -> str:
        return f"flipped:{self.at_byte}:{self.inner.identity()}"


@dataclass(frozen=True)
class Resized:
    """Another source, shortened, or lengthened by zeros."""

    inner: Source
    size_bytes: int

    def iter_pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of the half-open interval."""
        end = self.inner.size_bytes
        yield from self.inner.iter_pieces(start, min(stop, end))
        if stop > end:
            yield memoryview(bytes(stop - max(start, end)))

    def identity(self) -> str:
        return f"resized:{self.size_bytes}:{self.inner.identity()}"


def _flip(piece: memoryview, at: int) -> memoryview:
    spoiled = bytearray(piece)
    spoiled[at] ^= 1
    return memoryview(spoiled)


def _iter_block(seed: int, block: int, bf16: bool, start: int, stop: int) -> Iterator[memoryview]:
    header = hashlib.sha256(b"%d:%d" % (seed, block)).digest()
    if start < HEADER_BYTES:
        yield memoryview(header)[start : min(stop, HEADER_BYTES)]
    if stop > HEADER_BYTES:
        # An even shift keeps bfloat16 values whole.
        shift = int.from_bytes(header[:4]) % (PATTERN_BYTES - BLOCK_BYTES) & ~1
        yield _pattern(bf16)[shift + max(start, HEADER_BYTES) : shift + stop]


@functools.cache
def _pattern(bf16: bool) -> memoryview:
    rng = random.Random(20210917)
    if not bf16:
        return memoryview(rng.randbytes(PATTERN_BYTES))
    # A bfloat16 is the upper half of a float32: bytes 2 and 3, little-endian. 64 Ki
    # draws, then chosen at random: four million calls of gauss() would take seconds.
    floats = array.array("f", (rng.gauss(0, 0.02) for _ in range(1 << 16))).tobytes()
    draws = array.array("H", floats)[1::2]
    chosen = array.array("H", rng.randbytes(PATTERN_BYTES))
    return memoryview(array.array("H", map(draws.__getitem__, chosen)).tobytes())


def read_all(source: Source, start: int = 0, stop: int | None = None) -> bytes:
    """Read an interval into memory; for small files and for tests."""
    return b"".join(source.iter_pieces(start, source.size_bytes if stop is None else stop))


def sha256_of(source: Source) -> str:
    """Compute the sha256 once per content, or take the one that was given."""
    if isinstance(source, Disk) and source.sha256 is None:
        stat = Path(source.path).stat()
        return _hash_disk(source.path, stat.st_mtime_ns, stat.st_size)
    return getattr(source, "sha256", None) or _hash(source)


@functools.lru_cache(maxsize=4096)
def _hash_disk(path: str, _mtime_ns: int, _size_bytes: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=4096)
def _hash(source: Source) -> str:
    digest = hashlib.sha256()
    for piece in source.iter_pieces(0, source.size_bytes):
        digest.update(piece)
    return digest.hexdigest()


def git_sha1(data: bytes) -> str:
    """Compute the object id that git gives to a blob.

    Source: git-hash-object; "blob", the size in decimal, NUL, the bytes.

    >>> git_sha1(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
