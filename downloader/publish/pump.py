"""One layer to several stores at once: each byte read once, hashed twice.

::

    Hub ── piece ──┬── sha256 of the layer      (this thread)
                   ├── oid of the file          (this thread)
                   ├── upload to one store      (a lane; this thread if there is no other)
                   └── upload to another        (a lane)

All of them are done with a piece before the next one comes, so memory is that of the stream
that brings it, and a slow store slows the others down instead of filling memory. Layers go
side by side, so more threads for one of them would only wake each other up.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Self

from downloader.errors import HfModelsError
from downloader.image import packed_descriptor
from downloader.oci.digest import Digest
from downloader.oci.manifest import LAYER, Descriptor
from downloader.oci.seekable import Packer
from downloader.oci.store import BlobWriter
from downloader.plan import Content, Layer
from downloader.progress import Progress
from downloader.publish.destination import Target
from downloader.publish.lanes import Here, Lane
from downloader.publish.pieces import Piece, Verifier


class Pump:
    """Gives every piece of a layer to the hashes and to the uploads, and waits for all."""

    def __init__(
        self,
        layer: Layer,
        targets: Sequence[Target],
        verifier: Verifier,
        progress: Progress,
    ) -> None:
        self.done_bytes = 0
        self._layer = layer
        self._verifier = verifier
        self._progress = progress
        self._tar = hashlib.sha256()
        self._packer = Packer() if layer.is_packed else None
        self._digest = hashlib.sha256() if self._packer else self._tar
        self._content: Content | None = None
        self._sent_bytes = 0
        self._targets = targets
        self._lanes: Sequence[Here] = (
            [Lane(f"to {target.store.name}") for target in targets]
            if len(targets) > 1
            else [Here()]
        )
        self._writers: list[BlobWriter | None] = [None] * len(targets)

    def __enter__(self) -> Self:
        for at, lane in enumerate(self._lanes):
            lane.begin(partial(self._open, at))
        for lane in self._lanes:
            lane.wait()
        return self

    def __exit__(self, *_: object) -> None:
        # Abandoned uploads are cancelled beside each other, by requests of their own.
        for lane, writer in zip(self._lanes, self._writers, strict=True):
            lane.error = None
            lane.begin(partial(_close, writer))
        for lane in self._lanes:
            lane.wait()
            lane.close()

    def _open(self, at: int) -> None:
        size_bytes = None if self._packer else self._layer.size_bytes
        writer = self._targets[at].store.create_blob(size_bytes)
        self._writers[at] = writer.__enter__()

    def put(self, piece: Piece) -> None:
        """Give a piece to all, and return when all are done with it.

        Raises:
            IntegrityError: It was the last one of a file whose oid is another.
        """
        try:
            if self._packer is None:
                self._send(piece.data, piece)
                return
            self._hash(piece)
            if piece.content is not self._content:
                self._content = piece.content
                self._send(memoryview(self._packer.cut()))
            for frame in self._packer.feed(piece.data):
                self._send(memoryview(frame))
        finally:
            self.done_bytes += len(piece.data)
            self._progress.advance(len(piece.data))

    def _hash(self, piece: Piece) -> None:
        self._tar.update(piece.data)
        if piece.content is not None:
            self._verifier.update(piece.content, piece.data)

    def _send(self, data: memoryview, piece: Piece | None = None) -> None:
        """Write bytes of the blob to every target, and hash meanwhile: them, or their piece."""
        for lane, writer in zip(self._lanes, self._writers, strict=True):
            if writer is not None:
                lane.begin(partial(writer.write, data))
        try:
            if piece is None:
                self._digest.update(data)
            else:
                self._hash(piece)
        finally:
            for lane, writer in zip(self._lanes, self._writers, strict=True):
                if writer is not None:
                    lane.wait()
        self._sent_bytes += len(data)

    def is_deserted(self) -> bool:
        """Whether no target takes any more of this."""
        return all(lane.error is not None for lane in self._lanes)

    def is_whole(self) -> bool:
        """Whether every byte of the layer was read."""
        return self.done_bytes == self._layer.size_bytes

    def finish(self) -> Descriptor:
        """Commit the layer wherever it arrived whole, and return what it is."""
        if self.is_whole() and self._packer:
            self._send(memoryview(self._packer.finish()))
        digest = Digest(f"sha256:{self._digest.hexdigest()}")
        if self.is_whole():
            for lane, writer in zip(self._lanes, self._writers, strict=True):
                if writer is not None:
                    lane.begin(partial(writer.commit, digest))
            for lane, writer in zip(self._lanes, self._writers, strict=True):
                if writer is not None:
                    lane.wait()
        if self._packer:
            diff_id = Digest(f"sha256:{self._tar.hexdigest()}")
            return packed_descriptor(digest, self._sent_bytes, diff_id)
        return Descriptor(LAYER, digest, self._layer.size_bytes)

    def failures(self) -> dict[Target, HfModelsError]:
        """Return why, for every target that does not have the layer now."""
        found: dict[Target, HfModelsError] = {}
        for target, lane in zip(self._targets, self._lanes, strict=True):
            if isinstance(lane.error, HfModelsError):
                found[target] = lane.error
            elif lane.error is not None:
                raise lane.error
        return found


def _close(writer: BlobWriter | None) -> None:
    if writer is not None:
        writer.__exit__(None, None, None)
