"""Limits of one image on this machine: memory and CPU, over all of its layers together.

An image of some kilobytes can name millions of paths, links that lead through each other, or
lists that grow tenfold when they are parsed. So every image gets a first allowance, which
ordinary images do not use up, and more in proportion to the bytes that were received for it.
"""

import sys
from typing import Any

from downloader.errors import ProtocolError
from downloader.oci.manifest import parse_json_object
from downloader.units import format_bytes

# The whole process stays under 256 MiB: some 50 MiB for Python and its modules, 64 MiB for the
# buffers of a transfer, the rest for what an image makes us keep.
KEPT_LIMIT_BYTES = 112 * 1024**2
KEPT_START_BYTES = 16 * 1024**2
# The header of a file that is named by its hash compresses to some 60 bytes and costs 600.
KEPT_PER_RECEIVED_BYTE = 32

# Steps of some 0.5 microseconds each: a second for nothing, half a second for each megabyte.
STEPS_START = 2_000_000
STEPS_PER_RECEIVED_BYTE = 1
STEPS_LIMIT = 100_000_000
MEMBER_STEPS = 20  # to parse one tar header, and look at its path

# Measured with Python 3.11 to 3.14: one entry of a directory, and a directory of one entry.
NODE_BYTES = 250
DIRECTORY_BYTES = 350
FILE_BYTES = 500  # of a parsed list: its path and hashes

# trees/ and plans/ of 100,000 files are 20 MB. Parsed, a document is several times as large;
# what each of its characters may become at most is in `check_parsed_size`.
DOCUMENT_LIMIT_BYTES = 32 * 1024**2
PARSED_LIMIT_BYTES = 144 * 1024**2


class Budget:
    """Counts what an image costs; every method raises where it is more than an image may cost.

    Attributes:
        received_bytes: Moved for the image so far, as they came over the line or from a file.
    """

    def __init__(self, what: str = "image") -> None:
        self.received_bytes = 0
        self._what = what
        self._kept_bytes = 0
        self._steps = 0

    def receive(self, size_bytes: int) -> None:
        """Count bytes that came; they allow for more of everything."""
        self.received_bytes += size_bytes

    def member(self) -> None:
        """Count a member of a tar."""
        self.step(MEMBER_STEPS)

    def step(self, count: int) -> None:
        """Count the work of following names and links.

        Raises:
            ProtocolError: It is out of proportion to the bytes received.
        """
        self._steps += count
        allowed = STEPS_START + STEPS_PER_RECEIVED_BYTE * self.received_bytes
        if self._steps > min(allowed, STEPS_LIMIT):
            raise ProtocolError(
                f"{self._what}: too many tar members, or links through links, for the"
                f" {format_bytes(self.received_bytes)} that were read of it"
            )

    def keep(self, size_bytes: int) -> None:
        """Count memory that is used until the image is restored.

        Raises:
            ProtocolError: It is out of proportion to the bytes received, or too much at all.
        """
        self._kept_bytes += size_bytes
        allowed = KEPT_START_BYTES + KEPT_PER_RECEIVED_BYTE * self.received_bytes
        if self._kept_bytes > min(allowed, KEPT_LIMIT_BYTES):
            raise ProtocolError(
                f"{self._what}: its names and lists take more than"
                f" {format_bytes(min(allowed, KEPT_LIMIT_BYTES))} of memory,"
                f" for {format_bytes(self.received_bytes)} that were read of it"
            )

    def text(self, text: str) -> str:
        """Count a string that is kept with the entry that it names, and return it."""
        self.keep(NODE_BYTES + sys.getsizeof(text))
        return text


def parse_document(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object that comes from anybody, within bounds for the memory it takes.

    Raises:
        ProtocolError: It is none, or its objects would take too much memory.

    >>> parse_document(b"[" + b"[]," * 4_000_000 + b"0]", "trees/x.json")
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: trees/x.json: would take 344 MB of memory (limit 151 MB)
    """
    return parse_json_object(data, what, DOCUMENT_LIMIT_BYTES, PARSED_LIMIT_BYTES)
