"""The choice of the layers that are worth compressing, from samples of their files.

Formats differ: bf16 weights lose a fifth, quantised ones nothing. A sample says which it is,
and so how many bytes will go over the wire, before any layer is sent.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from downloader.hub.resolver import HubFile
from downloader.net.http import HttpPool
from downloader.net.ranges import ByteRange
from downloader.oci.compression import frame_compressor
from downloader.oci.seekable import FRAME_BYTES
from downloader.plan import Compress, Content, Layer, Plan, Sample
from downloader.publish.layer_stream import SourceOf
from downloader.transfer.source import read_all, retry_without_ranges
from downloader.transfer.workers import run_all

_SAMPLES = 2  # of one frame each: a file holds one kind of numbers, but for its header
_QUESTIONS = 8  # at once


def choose_compression(plan: Plan, compress: Compress, source_of: SourceOf, http: HttpPool) -> Plan:
    """Return a plan whose layers say whether they are compressed.

    Args:
        plan: As `downloader.plan.make_plan` made it.
        compress: ``none``; ``zstd`` for every layer; ``auto`` or ``both`` for those of which a
            sample of the largest file loses enough.
        source_of: Returns the source of a file's bytes.
        http: Connections to the Hub.

    Raises:
        HubError, TransportError, ProtocolError: The Hub did not send a sample.
    """
    if compress == "none":
        return replace(plan, compress=compress)
    if compress == "zstd":
        layers = [replace(layer, is_packed=True) for layer in plan.layers]
        return replace(plan, compress=compress, layers=tuple(layers))
    samples: dict[Layer, Sample] = {}
    files = {file.oid: file for file in plan.snapshot.files}

    def take(layer: Layer) -> None:
        content = max(layer.contents, key=lambda content: content.size_bytes)
        source = HubFile(http, source_of(files[content.oid]), content.blob_bytes)
        compressor = frame_compressor()
        plain_bytes = packed_bytes = 0
        for byte_range in _ranges(content):
            data = retry_without_ranges(partial(_read, source, byte_range))
            plain_bytes += len(data)
            packed_bytes += len(compressor(data))
        samples[layer] = Sample(plain_bytes, packed_bytes)

    wanted = [layer for layer in plan.layers if any(item.size_bytes for item in layer.contents)]
    run_all([(_QUESTIONS, [partial(take, layer) for layer in wanted])])
    return replace(
        plan, compress=compress, layers=tuple(_chosen(layer, samples) for layer in plan.layers)
    )


def _read(source: HubFile, byte_range: ByteRange) -> bytes:
    with source.open(byte_range) as reader:
        return read_all(reader, byte_range.size_bytes, source.name)


def _ranges(content: Content) -> Iterator[ByteRange]:
    """Yield ranges of the file, spread over what the layer has of it."""
    step = content.size_bytes // (_SAMPLES + 1)
    if step < FRAME_BYTES:
        end = content.byte_range.start + min(content.size_bytes, _SAMPLES * FRAME_BYTES)
        yield ByteRange(content.byte_range.start, end)
        return
    for at in range(1, _SAMPLES + 1):
        start = content.byte_range.start + at * step
        yield ByteRange(start, start + FRAME_BYTES)


def _chosen(layer: Layer, samples: dict[Layer, Sample]) -> Layer:
    sample = samples.get(layer)
    return replace(layer, sample=sample, is_packed=sample is not None and sample.is_worth_it)
