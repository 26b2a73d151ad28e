"""Uploads of one blob each, as each registry wants them."""

from typing import Literal

from downloader.errors import TransportError

UploadMode = Literal["auto", "chunked", "stream"]

# One chunk is what a writer keeps in memory to send again; four writers are 64 MiB.
CHUNK_BYTES = 16 * 1024 * 1024


class UploadLost(TransportError):  # noqa: N818 - an event that the caller answers, by name
    """An upload cannot go on, because bytes that the registry lacks are no longer in memory.

    The caller begins the blob again with `create_blob`, from its source.

    Attributes:
        offset: How many bytes of the blob had been written when it was lost.
    """

    def __init__(self, message: str, *, offset: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset
