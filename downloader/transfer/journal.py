r"""The journal of a partial file: the ranges that are there, appended to a file beside it.

::

    hf-models 1 <size> <boot>      the file's size in bytes, and this start of the machine
    r <start> <end>                these bytes were written
    d <start> <end>                and these are on the disk itself

A process that is killed leaves what it wrote in the page cache, so within one start of the
machine every line counts. After another start only the durable ones do. Nothing here has to
be believed in the end: the whole file is hashed before it gets its name.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from downloader.fs import open_own_file, storage_errors
from downloader.net.ranges import ByteRange
from downloader.transfer.rangeset import RangeSet

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_HEAD = re.compile(r"hf-models 1 ([0-9]{1,19}) (\S+)")
_RANGE = re.compile(r"([rd]) ([0-9]{1,19}) ([0-9]{1,19})")
_LIMIT_BYTES = 16 * 1024 * 1024  # 300,000 lines: a file of 1 TB


def boot_id() -> str:
    """Return what names this start of the machine; ``unknown`` where nothing does."""
    try:
        return _BOOT_ID.read_text().strip() or "unknown"
    except OSError:
        return "unknown"


class Journal:
    """The journal of one unfinished file; used under the lock of its cache blob.

    Args:
        path: Of the journal.
        size_bytes: Of the finished file.
        boot: This start of the machine.
    """

    def __init__(self, path: Path, size_bytes: int, boot: str) -> None:
        self.path = path
        self._size_bytes = size_bytes
        self._boot = boot
        self._descriptor = -1

    def read(self) -> RangeSet:
        """Return what an earlier run left; nothing where that cannot be known."""
        with (
            storage_errors(self.path),
            os.fdopen(open_own_file(self.path), encoding="ascii", errors="replace") as file,
        ):
            lines = file.read(_LIMIT_BYTES).split("\n")[:-1]  # the last may be cut
        head = _HEAD.fullmatch(lines[0]) if lines else None
        if head is None or int(head[1]) != self._size_bytes:
            return RangeSet()
        is_same_boot = head[2] == self._boot and self._boot != "unknown"
        return self._parse(lines[1:], trust_all=is_same_boot)

    def _parse(self, lines: list[str], *, trust_all: bool) -> RangeSet:
        there = RangeSet()
        for line in lines:
            found = _RANGE.fullmatch(line)
            if not (found and int(found[2]) < int(found[3]) <= self._size_bytes):
                break
            if trust_all or found[1] == "d":
                there.add(ByteRange(int(found[2]), int(found[3])))
        return there

    def begin(self, there: RangeSet) -> None:
        """Start the journal anew, with what is there already, wherever it came from.

        Raises:
            StorageError: It cannot be written.
        """
        lines = [f"hf-models 1 {self._size_bytes} {self._boot}"]
        lines += [f"r {item.start} {item.end}" for item in there]
        self.close()
        with storage_errors(self.path):
            self._descriptor = open_own_file(self.path, append=True)
            os.ftruncate(self._descriptor, 0)
        self._append("".join(f"{line}\n" for line in lines))

    def add(self, written: ByteRange) -> None:
        """Note that these bytes were written."""
        self._append(f"r {written.start} {written.end}\n")

    def add_durable(self, ranges: Iterable[ByteRange]) -> None:
        """Note that these bytes are on the disk itself."""
        self._append("".join(f"d {item.start} {item.end}\n" for item in ranges))

    def _append(self, text: str) -> None:
        with storage_errors(self.path):
            os.write(self._descriptor, text.encode())

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
