"""Layers from the Hub to every store that lacks them, verified before anything names them.

A layer of whole files is verified before it is committed. The parts of one file lie in several
layers, which are sent in order by one thread: all but the last are *pending* until the last
one has shown that the file is what the Hub promised.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from downloader.errors import HfModelsError, IntegrityError, TransportError
from downloader.image import is_packed
from downloader.net.ranges import ByteRange
from downloader.oci.manifest import Descriptor
from downloader.oci.seekable import FrameReader, read_table
from downloader.oci.store import BlobReader
from downloader.oci.upload import UploadLost
from downloader.plan import Content, Layer, Plan
from downloader.progress import Progress
from downloader.publish.blobs import LOST_TRIES
from downloader.publish.checkpoint import Shard
from downloader.publish.destination import Target
from downloader.publish.layer_stream import HubContents
from downloader.publish.pieces import Verifier, iter_pieces
from downloader.publish.pump import Pump

_READ_BACK_BYTES = 1024 * 1024
# Wrong bytes may come from one bad cache of a CDN; twice, and it is the file.
_HUB_TRIES = 2


@dataclass(frozen=True)
class Work:
    """What the layers of one run have in common.

    Args:
        plan: Of the image.
        shard: Whose layers these are.
        contents: Where their bytes come from.
        targets: Where to.
        progress: Told of every byte, once, whatever the number of targets.
        cancelled: Set when nothing more should be begun.
    """

    plan: Plan
    shard: Shard
    contents: HubContents
    targets: Sequence[Target]
    progress: Progress
    cancelled: threading.Event

    def alive(self) -> list[Target]:
        """Return the targets that were not given up.

        Raises:
            HfModelsError: There are none: what the first one said.
            TransportError: The run was interrupted.
        """
        if self.cancelled.is_set():
            raise TransportError("interrupted")
        left = [target for target in self.targets if target.error is None]
        if not left:
            raise next(target.error for target in self.targets if target.error)
        return left


def transfer(unit: Sequence[Layer], work: Work) -> None:
    """Bring the layers that carry parts of the same files to every target that lacks them.

    Args:
        unit: In the order of the parts; most often a single layer.
        work: The run.

    Raises:
        IntegrityError: The Hub sent wrong bytes, twice.
        HubError, TransportError, ProtocolError: The Hub did not send them.
        HfModelsError: Every target said no; what the first one said.
    """
    for left in reversed(range(_HUB_TRIES)):
        try:
            _transfer_once(unit, work)
        except IntegrityError as error:
            for target in work.targets:
                if target.forget(unit) and target.error is None:
                    _record(target, work)
            if not left or work.cancelled.is_set():
                raise
            work.progress.note(f"{error.message}; once more from the Hub")
        else:
            return


def _transfer_once(unit: Sequence[Layer], work: Work) -> None:
    verifier = Verifier(work.contents.path_of)
    if all(target.is_done(layer) for target in work.alive() for layer in unit):
        return
    for layer in unit:
        lacking = [target for target in work.alive() if layer.name not in target.have]
        if lacking:
            verifier = _send_to_all(layer, lacking, verifier, work, is_last=layer is unit[-1])
        else:
            _read_back(layer, verifier, work)
    for target in work.alive():
        target.verified(unit)
        _record(target, work)


def _send_to_all(
    layer: Layer, lacking: Sequence[Target], verifier: Verifier, work: Work, *, is_last: bool
) -> Verifier:
    """Bring a layer to all; to one of a registry's repositories, where the others mount it."""
    first = [target for target in lacking if target.mounts_from not in work.alive()]
    seen = _send_until_kept(layer, first, verifier, work, is_last=is_last)
    rest = []
    for target in lacking:
        if target in first:
            continue
        if not target.mount(layer, is_pending=not is_last):
            rest.append(target)
        elif not is_last:
            _record(target, work)
    if bool(rest) == bool(first):  # each layer counts once, however it came
        work.progress.advance(-layer.size_bytes if rest else layer.size_bytes)
    if rest:
        seen = _send_until_kept(layer, rest, verifier, work, is_last=is_last)
    elif not first:  # mounted everywhere, so its parts of a file have not been hashed yet
        _read_back(layer, seen, work)
    work.progress.finish_file(_title(layer, work))
    return seen


def _send_until_kept(
    layer: Layer, targets: Sequence[Target], verifier: Verifier, work: Work, *, is_last: bool
) -> Verifier:
    """Send a layer, again and again to those that lose it; return what was hashed so far."""
    waiting, seen = list(targets), verifier
    if not waiting:
        return seen
    for left in reversed(range(LOST_TRIES)):
        trial, descriptor, failures = _send(layer, waiting, verifier, work)
        seen = trial or seen
        for target in waiting:
            if target not in failures:
                target.finished(layer, descriptor, is_pending=not is_last)
                if not is_last:  # else the unit is recorded, verified, in a moment
                    _record(target, work)
            elif not left or not isinstance(failures[target], UploadLost):
                target.give_up(failures[target], work.progress)
        waiting = [target for target in failures if target.error is None]
        work.alive()
        if not waiting:
            break
        names = ", ".join(target.name for target in waiting)
        work.progress.note(f"{names}: the upload was lost; the layer is sent again")
        work.progress.advance(-layer.size_bytes)
    return seen


def _send(
    layer: Layer, targets: Sequence[Target], verifier: Verifier, work: Work
) -> tuple[Verifier | None, Descriptor, dict[Target, HfModelsError]]:
    """Send a layer once to several targets.

    Returns:
        What was hashed, None unless the layer was read to its end; what the layer is; and
        who did not take it, and why.
    """
    trial = verifier.copy()
    with Pump(layer, targets, trial, work.progress) as pump:
        try:
            for piece in iter_pieces(layer, work.contents):
                work.alive()
                pump.put(piece)
                if pump.is_deserted():
                    break
        except IntegrityError:
            work.progress.advance(-pump.done_bytes)
            raise
        work.progress.advance(layer.size_bytes - pump.done_bytes)
        return (trial if pump.is_whole() else None), pump.finish(), pump.failures()


def _read_back(layer: Layer, verifier: Verifier, work: Work) -> None:
    """Hash the parts of files in a layer that every target has, from one of them."""
    store_of = work.alive()[0]
    descriptor = store_of.have[layer.name]
    for content, at in layer.placed:
        if content.parts:
            inside = ByteRange(at, at + content.size_bytes)
            _hash_range(store_of, descriptor, inside, content, verifier)


def _hash_range(
    target: Target, layer: Descriptor, byte_range: ByteRange, content: Content, verifier: Verifier
) -> None:
    buffer = memoryview(bytearray(_READ_BACK_BYTES))

    def open_range(wanted: ByteRange) -> BlobReader:
        return target.store.open_blob(layer.digest, wanted)

    table = read_table(open_range, layer.size_bytes, layer.digest) if is_packed(layer) else None
    opened = (
        FrameReader(open_range, table, byte_range, layer.digest)
        if table
        else open_range(byte_range)
    )
    with opened as reader:
        while count := reader.readinto(buffer):
            verifier.update(content, buffer[:count])


def _record(target: Target, work: Work) -> None:
    try:
        target.record(work.plan, work.shard, work.progress)
    except HfModelsError as error:
        target.give_up(error, work.progress)
        work.alive()


def _title(layer: Layer, work: Work) -> str:
    first = layer.contents[0]
    part = f" part {first.part} of {first.parts}" if first.parts else ""
    return work.contents.path_of(first) + part
