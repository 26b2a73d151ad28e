"""Layers from the Hub to every store that lacks them, each byte read and hashed once.

::

    Hub ── block ──┬── sha256 of the layer       (this thread)
                   ├── oid of the file           (this thread)
                   ├── upload to one store       (a worker; this thread if there is no other)
                   └── upload to another         (a worker)

All are done with a block before the next one comes, so memory is that of the stream that
brings it, and a slow store slows the others down instead of filling memory. No block is kept:
an upload that is interrupted falls out of the pass and gets one of its own, in which what its
registry has not kept is read from the Hub again, by range.

A layer of whole files is verified before it is committed. The parts of one file lie in several
layers, which are sent in order by one thread: all but the last are *pending* until the last
one has shown that the file is what the Hub promised.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from downloader.errors import HfModelsError, IntegrityError, TransportError
from downloader.image import packed_descriptor
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest
from downloader.oci.manifest import LAYER, Descriptor
from downloader.oci.seekable import Packer
from downloader.oci.upload import UploadInterrupted
from downloader.plan import Content, Layer, Plan
from downloader.progress import Meter, Progress
from downloader.publish.checkpoint import Shard
from downloader.publish.copy import open_tar
from downloader.publish.destination import Destination
from downloader.publish.layer_stream import Block, HubContents, Verifier, iter_blocks
from downloader.publish.ramp import Line
from downloader.publish.sha256 import Sha256
from downloader.publish.upload_journal import (
    POINT_BYTES,
    HashPoint,
    UploadJournal,
    UploadJournals,
)
from downloader.transfer.workers import WorkerGroup
from downloader.units import MIB

if TYPE_CHECKING:
    from downloader.oci.store import BlobWriter

# Layers that another machine need not send again if this one dies. A record costs a request,
# and a run that is over sooner has no use for one.
RECORD_EVERY_S = 15.0
_READ_BACK_BYTES = 1 * MIB
# Wrong bytes may come from one bad cache of a CDN; twice, and it is the file.
_HUB_TRIES = 2


@dataclass(frozen=True)
class Work:
    """Settings and state that the layers of one run share.

    Args:
        plan: Of the image.
        shard: The shard of these layers.
        contents: The source of their bytes.
        destinations: The destinations of the layers.
        journals: The upload journals of this and of killed runs.
        progress: Told of every byte, once, whatever the number of destinations.
        group: Of the run.
        line: Told of every byte that was sent, and of every interruption.
    """

    plan: Plan
    shard: Shard
    contents: HubContents
    destinations: Sequence[Destination]
    journals: UploadJournals
    progress: Progress
    group: WorkerGroup
    line: Line

    def alive(self) -> list[Destination]:
        """Return the destinations that were not given up.

        Raises:
            HfModelsError: There are none: what the first one said.
            TransportError: The run was interrupted.
        """
        if self.group.cancelled.is_set():
            raise TransportError("interrupted")
        left = [destination for destination in self.destinations if destination.error is None]
        if not left:
            raise next(item.error for item in self.destinations if item.error)
        return left

    def record_now_and_then(self) -> None:
        """Write down in every store what is finished there, until the group ends."""
        while not self.group.cancelled.wait(RECORD_EVERY_S):
            for destination in self.alive():
                try:
                    destination.record(self.plan, self.shard, self.progress)
                except HfModelsError as error:
                    destination.give_up(error, self.progress)


def upload_layers(unit: Sequence[Layer], work: Work) -> None:
    """Bring the layers that carry parts of the same files to every destination that lacks them.

    Args:
        unit: In the order of the parts; most often a single layer.
        work: The run.

    Raises:
        IntegrityError: The Hub sent wrong bytes, twice.
        HubError, TransportError, ProtocolError: The Hub did not send them.
        HfModelsError: Every destination said no; what the first one said.
    """
    for left in reversed(range(_HUB_TRIES)):
        try:
            _upload_once(unit, work)
        except IntegrityError as error:
            for destination in work.destinations:
                destination.forget(unit)
                work.journals.forget(destination.store, unit)
            if not left or work.group.cancelled.is_set():
                raise
            work.progress.note(f"{error.message}; once more from the Hub")
        else:
            return


def _upload_once(unit: Sequence[Layer], work: Work) -> None:
    verifier = Verifier(work.contents.path_of)
    if all(item.is_done(layer) for item in work.alive() for layer in unit):
        return
    for layer in unit:
        lacking = [item for item in work.alive() if layer.name not in item.have]
        if lacking:
            _bring_to_all(layer, lacking, verifier, work, is_last=layer is unit[-1])
        else:
            _read_back(layer, verifier, work)
    for destination in work.alive():
        destination.verified(unit)


def _bring_to_all(
    layer: Layer,
    lacking: Sequence[Destination],
    verifier: Verifier,
    work: Work,
    *,
    is_last: bool,
) -> None:
    """Upload a layer to every destination; a registry gets it once, its repositories mount it."""
    first = [item for item in lacking if item.mounts_from not in work.alive()]
    blob = (PackedBlob if layer.is_packed else PlainBlob)(layer, verifier)
    if first:
        _send(layer, first, blob, work, is_last=is_last)
    rest = []
    for destination in lacking:
        if destination in first:
            continue
        if not destination.mount(layer, is_pending=not is_last):
            rest.append(destination)
    if bool(rest) == bool(first):  # each layer counts once, however it came
        work.progress.advance(-layer.size_bytes if rest else layer.size_bytes)
    if rest:
        _send(layer, rest, blob, work, is_last=is_last)
    elif not first:  # mounted everywhere, so its parts of a file have not been hashed yet
        _read_back(layer, verifier, work)
    work.progress.finish_file(_title(layer, work))


class PlainBlob:
    """A layer's tar as the registry blob, hashed as far as it was read.

    Args:
        layer: The layer.
        verifier: Of the files, some of which may have begun in layers before.
    """

    def __init__(self, layer: Layer, verifier: Verifier) -> None:
        self.end = 0  # of the blob's bytes that were hashed
        self._layer = layer
        self._verifier = verifier
        self._sha256 = Sha256()
        self._content: Content | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every byte was hashed."""
        return self.end == self._layer.size_bytes

    def start(self, offset: int) -> int:
        """Return where to read the tar, to have the blob from ``offset`` on."""
        return min(offset, self.end)

    def encode(self, block: Block) -> Iterator[tuple[int, memoryview]]:
        """Yield offset and bytes of what a block of the tar becomes; `hash` follows each."""
        self._content = block.content
        yield block.start, block.data

    def finish(self) -> Iterator[tuple[int, memoryview]]:
        """Yield what follows the tar."""
        return iter(())

    def hash(self, start: int, data: memoryview) -> None:
        """Hash what of some bytes is new.

        Raises:
            IntegrityError: It was the last one of a file whose oid is another.
        """
        new = data[max(0, self.end - start) :]
        self._sha256.update(new)
        if self._content is not None and new:
            self._verifier.update(self._content, new)
        self.end = max(self.end, start + len(data))

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of the layer; needs all of its bytes."""
        digest = Digest(f"sha256:{self._sha256.hexdigest()}")
        return Descriptor(LAYER, digest, self._layer.size_bytes)

    def point(self) -> HashPoint | None:
        """Return where the hashes are, to go on from in another process; None if they cannot."""
        state, files = self._sha256.state(), self._verifier.states()
        return None if state is None or files is None else HashPoint(self.end, state, files)

    def go_to(self, points: Sequence[HashPoint], most: int) -> None:
        """Go on from the last of ``points`` that is not after the offset ``most``."""
        found = [point for point in points if self.end < point.offset <= most]
        if found:
            point = max(found, key=lambda item: item.offset)
            self._sha256 = Sha256.resumed(point.layer)
            self._verifier.restore(point.files, self._layer)
            self.end = point.offset


class PackedBlob(PlainBlob):
    """A layer's tar in frames of zstd as the registry blob; no other process goes on with it.

    After an interruption the frames from the one on that the store lacks are made again: the
    same bytes, because a frame depends on nothing but its content.
    """

    def __init__(self, layer: Layer, verifier: Verifier) -> None:
        super().__init__(layer, verifier)
        self._tar = PlainBlob(layer, verifier)
        self._packer = Packer()
        self._at = 0  # in the blob, of the frame that comes next
        self._size_bytes: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every byte was hashed."""
        return self.end == self._size_bytes

    def start(self, offset: int) -> int:
        """Return where to read the tar, to have the blob from ``offset`` on."""
        frames = [(0, 0), *self._packer.frames()]
        count = bisect_right(frames, min(offset, self.end), key=lambda frame: frame[0]) - 1
        self._packer.go_back(count)
        self._at, tar_offset = frames[count]
        return tar_offset

    def encode(self, block: Block) -> Iterator[tuple[int, memoryview]]:
        """Yield offset and bytes of the frames that a block of the tar completes."""
        for start, data in self._tar.encode(block):
            self._tar.hash(start, data)
        if block.content is not self._content:
            self._content = block.content
            yield from self._placed(self._packer.cut())
        for frame in self._packer.feed(block.data):
            yield from self._placed(frame)

    def finish(self) -> Iterator[tuple[int, memoryview]]:
        """Yield the last frame and the table of all."""
        last = self._packer.finish()
        self._size_bytes = self._at + len(last)
        yield from self._placed(last)

    def _placed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        if data:
            self._at += len(data)
            yield self._at - len(data), memoryview(data)

    def hash(self, start: int, data: memoryview) -> None:
        """Hash what of some bytes is new."""
        self._sha256.update(data[max(0, self.end - start) :])
        self.end = max(self.end, start + len(data))

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of the layer; needs all of its bytes."""
        digest = Digest(f"sha256:{self._sha256.hexdigest()}")
        return packed_descriptor(digest, self.end, self._tar.descriptor.digest)

    def point(self) -> HashPoint | None:
        """Return None: the table of the frames so far is not written down."""
        return None


class _Upload:
    """A layer on its way to one destination."""

    def __init__(
        self, destination: Destination, journal: UploadJournal, worker: "SerialWorker"
    ) -> None:
        self.destination = destination
        self.journal = journal
        self.worker = worker
        self.writer: BlobWriter | None = None
        self.offset = 0  # of the byte that the store wants next
        self.error: Exception | None = None
        self.is_committed = False

    def open(self, layer: Layer) -> None:
        """Begin, or go on where the journal says that an earlier process was."""
        saved = self.journal.saved
        size_bytes = None if layer.is_packed else layer.size_bytes
        writer = self.destination.store.create_blob(size_bytes, saved)
        self.writer = writer.__enter__()
        if saved:
            self.offset = self.writer.resume()

    def go_on(self) -> None:
        """After an interruption, ask where to go on."""
        if self.writer is not None:
            self.offset = self.writer.resume()

    def take(self, start: int, data: memoryview) -> None:
        """Send what of some bytes the store does not have."""
        end = start + len(data)
        if self.writer is not None and end > self.offset:
            self.writer.write(data[max(0, self.offset - start) :])
            self.offset = end

    def commit(self, descriptor: Descriptor) -> None:
        """Finish the blob."""
        if self.writer is not None:
            self.writer.commit(descriptor.digest)
            self.is_committed = True
            self.journal.finish(descriptor)

    def leave(self, *, keeps_session: bool) -> None:
        """End, with or without a commit."""
        if self.writer is not None:
            self.writer.keeps_session = keeps_session and self.journal.saved is not None
            if not (self.writer.keeps_session or self.is_committed):
                self.journal.remove()
            self.writer.__exit__(None, None, None)

    def do(self, call: Callable[[], None]) -> None:
        """Begin a call in the worker; what it raises is kept, and later calls are skipped."""

        def guarded() -> None:
            if self.error is None:
                try:
                    call()
                except Exception as error:  # noqa: BLE001  # looked at after `wait`
                    self.error = error

        self.worker.begin(guarded)


def _send(
    layer: Layer,
    destinations: Sequence[Destination],
    blob: PlainBlob,
    work: Work,
    *,
    is_last: bool,
) -> None:
    """Send a layer to several destinations, in as many passes over the Hub's bytes as it takes."""
    with ExitStack() as held:
        uploads = []
        for destination in destinations:
            journal = held.enter_context(work.journals.opened(destination.store, layer))
            worker = SerialWorker(work.group if len(destinations) > 1 else None)
            held.callback(worker.close)
            uploads.append(_Upload(destination, journal, worker))
        keeps_session = True
        try:
            _run_passes(layer, uploads, blob, work, is_last=is_last)
        except IntegrityError:
            keeps_session = False
            raise
        finally:
            # Abandoned uploads are cancelled side by side, by requests of their own.
            for upload in uploads:
                upload.error = None
                upload.do(partial(upload.leave, keeps_session=keeps_session))
            for upload in uploads:
                upload.worker.wait()


def _run_passes(
    layer: Layer,
    uploads: Sequence[_Upload],
    blob: PlainBlob,
    work: Work,
    *,
    is_last: bool,
) -> None:
    _side_by_side(uploads, lambda upload: upload.open(layer))
    if all(upload.offset for upload in uploads):
        most = min(upload.offset for upload in uploads)
        blob.go_to(uploads[0].journal.points, most)
    work.progress.start_file(_title(layer, work), layer.size_bytes)
    meter = Meter(work.progress, layer.size_bytes, _title(layer, work))
    waiting = list(uploads)
    while True:
        waiting = [upload for upload in waiting if not _is_over(upload, work)]
        interrupted = [upload for upload in waiting if upload.error is not None]
        for upload in interrupted:
            upload.error = None
        _side_by_side(interrupted, lambda upload: upload.go_on())
        waiting = [upload for upload in waiting if not _is_over(upload, work)]
        if not waiting:
            break
        try:
            _run_pass(layer, waiting, blob, work, meter)
        except IntegrityError:
            meter.set(0)
            raise
        if blob.is_whole:
            ready = [item for item in waiting if item.offset == blob.end]
            _commit(ready, layer, blob.descriptor, is_last=is_last)
    meter.set(layer.size_bytes)


def _run_pass(
    layer: Layer, uploads: Sequence[_Upload], blob: PlainBlob, work: Work, meter: Meter
) -> None:
    """Give every block that is wanted to the hashes and the uploads."""
    wanted = min(upload.offset for upload in uploads)
    if blob.is_whole and wanted == blob.end:
        return  # only the commit was interrupted
    start = blob.start(wanted)
    meter.set(start)
    noted = blob.end
    if start < layer.size_bytes:
        for block in iter_blocks(layer, work.contents, start):
            work.alive()
            for at, data in blob.encode(block):
                _give(uploads, blob, at, data)
            meter.set(block.end)
            work.line.sent(len(block.data))
            if blob.end - noted >= POINT_BYTES and (point := blob.point()):
                noted = blob.end
                for upload in uploads:
                    if upload.writer is not None and upload.error is None:
                        upload.journal.add(upload.writer.session_url, point)
            if all(upload.error is not None for upload in uploads):
                return
    for at, data in blob.finish():
        _give(uploads, blob, at, data)


def _give(uploads: Sequence[_Upload], blob: PlainBlob, start: int, data: memoryview) -> None:
    """Write bytes of the blob to every upload, and hash them meanwhile."""
    for upload in uploads:
        upload.do(partial(upload.take, start, data))
    try:
        blob.hash(start, data)
    finally:
        for upload in uploads:
            upload.worker.wait()


def _commit(
    uploads: Sequence[_Upload], layer: Layer, descriptor: Descriptor, *, is_last: bool
) -> None:
    _side_by_side(uploads, lambda upload: upload.commit(descriptor))
    for upload in uploads:
        if upload.is_committed:
            upload.destination.add(layer, descriptor, is_pending=not is_last, moved=True)


def _is_over(upload: _Upload, work: Work) -> bool:
    """Return whether an upload is done or given up; note one that is interrupted."""
    if upload.is_committed:
        return True
    if upload.error is None or isinstance(upload.error, UploadInterrupted):
        if upload.error is not None:
            work.line.interrupted()
        work.alive()
        return upload.destination.error is not None
    if not isinstance(upload.error, HfModelsError):
        raise upload.error
    upload.destination.give_up(upload.error, work.progress)
    work.alive()
    return True


def _side_by_side(uploads: Sequence[_Upload], call: Callable[[_Upload], None]) -> None:
    for upload in uploads:
        upload.do(partial(call, upload))
    for upload in uploads:
        upload.worker.wait()


class SerialWorker:
    """Calls in order on one thread of a group; without a group, in the caller's own.

    The caller waits for a call before it begins the next one, so that the memory that the
    call looks at may change in between.
    """

    def __init__(self, group: WorkerGroup | None) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        self._has_thread = (
            group is not None
            and not group.cancelled.is_set()
            and group.try_start(self._work, name="upload")
        )

    def begin(self, call: Callable[[], None]) -> None:
        """Begin a call, which raises nothing."""
        if self._has_thread:
            self._calls.put(call)
        else:
            call()

    def wait(self) -> None:
        """Wait until the call that was begun is over."""
        if self._has_thread:
            self._done.get()

    def close(self) -> None:
        """End the thread, once it has nothing to do."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            self._done.put(None)


def _read_back(layer: Layer, verifier: Verifier, work: Work) -> None:
    """Hash the parts of files in a layer that every destination has, from one of them."""
    first = work.alive()[0]
    buffer = memoryview(bytearray(_READ_BACK_BYTES))
    for content, offset in layer.placed:
        if content.parts:
            inside = ByteRange(offset, offset + content.size_bytes)
            with open_tar(first.store, first.have[layer.name], inside) as reader:
                while count := reader.readinto(buffer):
                    verifier.update(content, buffer[:count])


def _title(layer: Layer, work: Work) -> str:
    first = layer.contents[0]
    part = f" part {first.part} of {first.parts}" if first.parts else ""
    return work.contents.path_of(first) + part
