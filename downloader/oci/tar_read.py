"""Reading untrusted tars: strict, bounded, and never by the word of a header.

The standard library's ``tarfile`` skips what it cannot read and trusts what it can; an image
is untrusted. What no layer needs is refused here, and the error says what and where.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar 1.35
manual, "Basic Tar Format" (long names, base-256 sizes); OCI image specification 1.1, layer.md.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from downloader.errors import ProtocolError

BLOCK_BYTES = 512
_ZERO_BLOCK = bytes(BLOCK_BYTES)

# Linux takes no longer path; a longer name is no name but an attack on memory.
PATH_LIMIT_BYTES = 4096
# Docker's records are some hundred bytes; extended attributes of a base image some thousand.
EXTENDED_LIMIT_BYTES = 1024 * 1024
# Large images have some hundred thousand files; their names have to fit into memory.
MEMBERS_LIMIT = 500_000
# Work of an extended header and of each record in it, in steps of half a microsecond.
EXTENDED_STEPS = 10
RECORD_STEPS = 2
SIZE_LIMIT_BYTES = 2**62  # adding an offset to it still is a file offset

Kind = Literal["file", "directory", "link", "hardlink", "device", "sparse"]

_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "device",
    b"S": "sparse",
}
_MORE_SPARSE = 482, 504  # where GNU's header, and each block of its list, say that one follows
_EXTENSIONS = b"LKxg"
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ")
_MAGICS = (b"ustar\x0000", b"ustar  \0", bytes(8))


class ByteSource(Protocol):
    """Bytes in order; skipped ones need never be fetched."""

    @property
    def offset(self) -> int:
        """Number of bytes read or skipped."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes at the end only, then 0."""

    def skip(self, size_bytes: int) -> None:
        """Go on so many bytes later.

        Raises:
            ProtocolError: There are fewer.
        """


def read_exactly(source: ByteSource, size_bytes: int, what: str) -> bytes:
    """Return the next bytes.

    Raises:
        ProtocolError: There are fewer.
    """
    data = bytearray(size_bytes)
    got = source.readinto(memoryview(data))
    if got != size_bytes:
        raise ProtocolError(f"{what}: want {size_bytes} bytes, got {got} bytes before the end")
    return bytes(data)


@dataclass(frozen=True)
class TarMember:
    """One member of a tar.

    Args:
        path: Relative, without leading ``./`` and trailing ``/``; empty for the root itself.
        kind: Its type; character and block devices and FIFOs are all ``device``; a ``sparse``
            file has other bytes in the tar than it has in the image.
        size_bytes: Of its content in the tar; 0 for all but files.
        target: Target of a link, as it stands in the tar.
        content_offset: Of its first content byte in the tar.
    """

    path: str
    kind: Kind
    size_bytes: int
    target: str
    content_offset: int


@dataclass(frozen=True)
class _Extended:
    """Fields of extension headers, for the member that follows them."""

    path: bytes | None = None
    target: bytes | None = None
    size_bytes: int | None = None
    is_sparse: bool = False


def _free(_: int) -> None:
    """Count no work."""


def iter_members(
    source: ByteSource,
    what: str,
    *,
    members_limit: int = MEMBERS_LIMIT,
    step: Callable[[int], None] = _free,
) -> Iterator[TarMember]:
    """Yield the members of a tar; the caller may read a file's content before the next one.

    Args:
        source: At the beginning of the tar.
        what: The tar, for messages.
        members_limit: More is an attack, not an image.
        step: Told of the work of extended headers, which can be out of proportion to the bytes
            of a compressed tar; raises where it is too much.

    Raises:
        ProtocolError: A header is malformed or lies about its size, a path is absolute or
            leaves the tar, or there are too many members.
    """
    extended = _Extended()
    count = 0
    while (block := _read_block(source, what)) is not None:
        count += 1
        if count > members_limit:
            raise ProtocolError(f"{what}: want at most {members_limit} tar members, got more")
        where = f"{what}: tar header at byte {source.offset - BLOCK_BYTES}"
        flag = block[156:157]
        if flag in _EXTENSIONS:
            extended = _read_extension(source, block, extended, where, step)
            continue
        if flag == b"S":
            _skip_sparse_list(source, block, where, step)
        member = _parse_member(block, extended, source.offset, where)
        extended = _Extended()
        end = member.content_offset + member.size_bytes + -member.size_bytes % BLOCK_BYTES
        yield member
        source.skip(end - source.offset)


def _skip_sparse_list(
    source: ByteSource, block: bytes, where: str, step: Callable[[int], None]
) -> None:
    """Skip the blocks of GNU's list of what a sparse file has, which follow its header."""
    more, at = block, _MORE_SPARSE[0]
    while more[at]:
        step(EXTENDED_STEPS)
        more, at = read_exactly(source, BLOCK_BYTES, where), _MORE_SPARSE[1]


def _read_block(source: ByteSource, what: str) -> bytes | None:
    block = bytearray(BLOCK_BYTES)
    got = source.readinto(memoryview(block))
    if got == 0 or block == _ZERO_BLOCK:
        return None  # some writers end without the zero blocks
    if got < BLOCK_BYTES:
        raise ProtocolError(f"{what}: want a tar block of 512 bytes, got {got} bytes")
    return bytes(block)


def _read_extension(
    source: ByteSource,
    block: bytes,
    extended: _Extended,
    where: str,
    step: Callable[[int], None],
) -> _Extended:
    step(EXTENDED_STEPS)
    check_header(block, where)
    size_bytes = parse_number(block[124:136], f"{where}: size")
    if size_bytes > EXTENDED_LIMIT_BYTES:
        raise ProtocolError(
            f"{where}: want an extended header of at most {EXTENDED_LIMIT_BYTES} bytes,"
            f" got {size_bytes} bytes"
        )
    data = read_exactly(source, size_bytes, where)
    source.skip(-size_bytes % BLOCK_BYTES)
    step(RECORD_STEPS * data.count(b"\n"))
    match block[156:157]:
        case b"L":
            return replace(extended, path=data.rstrip(b"\0"))
        case b"K":
            return replace(extended, target=data.rstrip(b"\0"))
        case b"x":
            return _apply_records(parse_records(data, where), extended, where)
    # A global header may say nothing about a single member; git writes its commit into it.
    if {b"path", b"linkpath", b"size"} & set(parse_records(data, where)):
        raise ProtocolError(f"{where}: want no path or size in a global header")
    return extended


def _apply_records(records: dict[bytes, bytes], extended: _Extended, where: str) -> _Extended:
    size = records.get(b"size")
    if size is not None and not (size.isdigit() and len(size) <= 19):
        raise ProtocolError(f"{where}: size record: want digits, got {size[:40]!r}")
    return _Extended(
        path=records.get(b"GNU.sparse.name", records.get(b"path", extended.path)),
        target=records.get(b"linkpath", extended.target),
        size_bytes=extended.size_bytes if size is None else int(size),
        is_sparse=extended.is_sparse or any(key.startswith(b"GNU.sparse.") for key in records),
    )


def parse_records(data: bytes, where: str = "pax header") -> dict[bytes, bytes]:
    r"""Parse the records of a PAX header.

    Raises:
        ProtocolError: A record's length is not its length, or it has no ``=``.

    >>> parse_records(b"12 path=a/b\n")
    {b'path': b'a/b'}
    >>> parse_records(b"99 path=a/b\n")
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: pax header: want a record of 99 bytes, got 12 bytes
    """
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        length = _RECORD.match(data, at)
        if length is None:
            raise ProtocolError(f"{where}: want a record's length, got {data[at : at + 20]!r}")
        record = data[at : at + int(length[1])]
        if len(record) < int(length[1]):
            raise ProtocolError(
                f"{where}: want a record of {int(length[1])} bytes, got {len(record)} bytes"
            )
        key, equals, value = record[len(length[0]) :].partition(b"=")
        if not key or not equals or not value.endswith(b"\n"):
            raise ProtocolError(f"{where}: want a record KEY=VALUE, got {record[:40]!r}")
        records[key] = value[:-1]
        at += len(record)
    return records


def check_header(block: bytes, where: str) -> None:
    """Raise unless a block is a header whose checksum is right.

    Some old writers summed signed characters, so either sum is right.
    """
    if block[257:265] not in _MAGICS:
        raise ProtocolError(f"{where}: want a tar header, got magic {block[257:265]!r}")
    want = parse_number(block[148:156], f"{where}: checksum")
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if want == unsigned:
        return
    signed = unsigned - 256 * sum(byte >= 0x80 for byte in block[:148] + block[156:])
    if want != signed:
        raise ProtocolError(f"{where}: want checksum {want}, got {unsigned}")


def parse_number(field: bytes, where: str = "number") -> int:
    r"""Parse a number of a header: octal, or base-256 where the first bit is set.

    Raises:
        ProtocolError: It is neither, negative, or beyond any file offset.

    >>> parse_number(b"00000000644\0"), parse_number(b"\x80" + bytes(7) + b"\0\2\0\0")
    (420, 131072)
    >>> parse_number(b"\xff" * 12)
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: number: want a size in bytes, got a negative number
    """
    if field[0] == 0xFF:
        raise ProtocolError(f"{where}: want a size in bytes, got a negative number")
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        octal = _OCTAL.fullmatch(field)
        if octal is None:
            raise ProtocolError(f"{where}: want an octal number, got {field!r}")
        value = int(octal[1] or b"0", 8)
    if value >= SIZE_LIMIT_BYTES:
        raise ProtocolError(f"{where}: want at most {SIZE_LIMIT_BYTES} bytes, got {value}")
    return value


def _parse_member(block: bytes, extended: _Extended, offset: int, where: str) -> TarMember:
    check_header(block, where)
    kind = _KINDS.get(block[156:157])
    if kind is None:
        raise ProtocolError(f"{where}: want a file or link, got type {block[156:157]!r}")
    size_bytes = extended.size_bytes
    if size_bytes is None:
        size_bytes = parse_number(block[124:136], f"{where}: size")
    if size_bytes >= SIZE_LIMIT_BYTES:
        raise ProtocolError(f"{where}: want a size in bytes, got {size_bytes}")
    path = _header_path(block) if extended.path is None else extended.path
    target = _text_until_nul(block[157:257]) if extended.target is None else extended.target
    if kind == "file" and extended.is_sparse:
        kind = "sparse"
    is_link = kind in {"link", "hardlink"}
    return TarMember(
        path=_clean_path(path, where),
        kind="directory" if kind == "file" and path.endswith(b"/") else kind,
        size_bytes=size_bytes if kind in {"file", "sparse"} else 0,
        target=_decode(target, f"{where}: link target") if is_link else "",
        content_offset=offset,
    )


def _header_path(block: bytes) -> bytes:
    name, prefix = _text_until_nul(block[:100]), b""
    if block[257:263] == b"ustar\0":  # GNU keeps times where POSIX keeps the prefix
        prefix = _text_until_nul(block[345:500])
    return prefix + b"/" + name if prefix else name


def _text_until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _clean_path(raw: bytes, where: str) -> str:
    path = _decode(raw, f"{where}: path")
    if path.startswith("/"):
        raise ProtocolError(f"{where}: want a relative path, got {path[:200]!r}")
    segments = [segment for segment in path.split("/") if segment not in {"", "."}]
    if ".." in segments:
        raise ProtocolError(f"{where}: want a path inside the tar, got {path[:200]!r}")
    return "/".join(segments)


def _decode(raw: bytes, where: str) -> str:
    if len(raw) > PATH_LIMIT_BYTES:
        raise ProtocolError(f"{where}: want at most {PATH_LIMIT_BYTES} bytes, got {len(raw)}")
    if b"\0" in raw:
        raise ProtocolError(f"{where}: want a name without NUL, got {raw[:200]!r}")
    return raw.decode("utf-8", "surrogateescape")
