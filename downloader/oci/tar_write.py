"""Writing layers: deterministic tar bytes, and where in them each file's content lies.

GNU format, because some scanners ignore the PAX ``size`` record that a file above 8 GiB
needs (Clair; see containers/olot). Owner 0, times 0, entries sorted, parents first: equal
entries give equal bytes on every machine.
"""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

BLOCK_BYTES = tarfile.BLOCKSIZE
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)

_TYPES = {
    "file": tarfile.REGTYPE,
    "hardlink": tarfile.LNKTYPE,
    "directory": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
}
_MODES = {"file": 0o644, "hardlink": 0o644, "directory": 0o755, "link": 0o777}


@dataclass(frozen=True)
class TarEntry:
    """One member of a layer.

    Args:
        path: Relative to the image's root, without leading or trailing slash.
        kind: File, directory, symbolic link (``link``), or one more name of a file that
            comes before it in the same tar (``hardlink``).
        size_bytes: Of a file's content; 0 for the others.
        target: Target of a link; of a hard link, the path of the file.
        executable: Whether a file may be run.
    """

    path: str
    kind: Literal["file", "hardlink", "directory", "link"] = "file"
    size_bytes: int = 0
    target: str = ""
    executable: bool = False


@dataclass(frozen=True)
class PlacedEntry:
    """An entry and its place in the tar.

    Args:
        entry: The member.
        content_offset: Of the first content byte in the tar.
    """

    entry: TarEntry
    content_offset: int

    @property
    def header(self) -> bytes:
        """Its header blocks, long-name blocks included."""
        return _header(self.entry)

    @property
    def padding_bytes(self) -> int:
        """Zero bytes that follow the content up to the next block."""
        return -self.entry.size_bytes % BLOCK_BYTES


@dataclass(frozen=True)
class TarLayout:
    """A whole tar, but for the contents: every header and offset, and the size in bytes."""

    entries: tuple[PlacedEntry, ...]
    size_bytes: int


def lay_out(*groups: Iterable[TarEntry]) -> TarLayout:
    """Place entries one after the other, with their parent directories before them.

    Args:
        groups: Each of files and links in any order; directories are added. Every entry of a
            group comes before the next group, so hard links can follow what they link to.

    >>> layout = lay_out([TarEntry("a/b", size_bytes=3)])
    >>> [placed.entry.path for placed in layout.entries], layout.size_bytes
    (['a', 'a/b'], 2560)
    """
    placed: list[PlacedEntry] = []
    offset = 0
    for entry in with_parents(*groups):
        offset += header_bytes(entry)
        placed.append(PlacedEntry(entry, offset))
        offset += entry.size_bytes + placed[-1].padding_bytes
    return TarLayout(tuple(placed), offset + len(END_OF_ARCHIVE))


def with_parents(*groups: Iterable[TarEntry]) -> list[TarEntry]:
    """Return the entries and all their parent directories, each once; each group by path."""
    placed: dict[str, TarEntry] = {}
    for entries in groups:
        by_path = {entry.path: entry for entry in entries}
        for path in list(by_path):
            for parent in _parents(path):
                if parent not in placed:
                    by_path.setdefault(parent, TarEntry(parent, "directory"))
        # By segments, so that a directory comes right before what lies in it.
        ordered = sorted(by_path.values(), key=lambda entry: entry.path.split("/"))
        placed |= {entry.path: entry for entry in ordered}
    return list(placed.values())


def iter_tar(layout: TarLayout, contents: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a small tar.

    Args:
        layout: From `lay_out`.
        contents: One item per file of the layout, in its order.
    """
    files = iter(contents)
    for placed in layout.entries:
        yield placed.header
        if placed.entry.kind == "file":
            yield next(files)
            yield bytes(placed.padding_bytes)
    yield END_OF_ARCHIVE


def _parents(path: str) -> Iterator[str]:
    slashes = [i for i, char in enumerate(path) if char == "/"]
    return (path[:slash] for slash in slashes)


def header_bytes(entry: TarEntry) -> int:
    """Return the length in bytes of an entry's header, which takes a hundred times as long to make.

    >>> entries = [TarEntry("a" * n, kind, target="t" * n) for n in (99, 100, 101, 600)
    ...     for kind in ("file", "hardlink", "directory", "link")]
    >>> all(header_bytes(entry) == len(_header(entry)) for entry in entries)
    True
    """
    name = entry.path.encode("utf-8", "surrogateescape")
    target = entry.target.encode("utf-8", "surrogateescape")
    lengths = len(name) + (entry.kind == "directory"), len(target)
    long = (length for length in lengths if length > tarfile.LENGTH_NAME)
    return BLOCK_BYTES + sum(
        BLOCK_BYTES + length + 1 + -(length + 1) % BLOCK_BYTES for length in long
    )


def _header(entry: TarEntry) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.type = _TYPES[entry.kind]
    info.mode = 0o755 if entry.executable else _MODES[entry.kind]
    info.size = entry.size_bytes
    info.linkname = entry.target
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
