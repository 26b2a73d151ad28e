"""What zstd makes of the number formats of models: ``nox -s bench -- formats``.

Weights are drawn from a normal distribution, as those of trained layers nearly are, brought into
each format by a library that models are made with, and compressed frame by frame as `publish`
does, on one core.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from downloader.oci.compression import decompress_frame, frame_compressor
from downloader.oci.seekable import FRAME_BYTES
from downloader.units import MIB
from tests.bench.command import head_of

_ROW = 4096  # numbers: of one output of a layer
_GROUP = 128  # numbers that share a scale
_DEVIATION = 0.02  # of a trained layer's weights, about


def as_fp8(weights: "np.ndarray[Any, Any]") -> bytes:
    """Return one scale for all, and numbers up to 448: the largest of e4m3."""
    import ml_dtypes  # noqa: PLC0415 - only benches have it

    return bytes(
        (weights * (448 / np.abs(weights).max())).astype(ml_dtypes.float8_e4m3fn).tobytes()
    )


def as_int8(weights: "np.ndarray[Any, Any]") -> bytes:
    """Return one scale for all, and a byte for each number."""
    scale = np.abs(weights).max() / 127
    return bytes(np.round(weights / scale).astype(np.int8).tobytes())


def as_int4(weights: "np.ndarray[Any, Any]") -> bytes:
    """Return a fp16 scale for each group, then two numbers a byte, as GPTQ and AWQ store them."""
    groups = weights.reshape(-1, _GROUP)
    scales = np.abs(groups).max(axis=1, keepdims=True) / 7
    numbers = (np.round(groups / scales).astype(np.int8) + 8).astype(np.uint8).reshape(-1)
    packed = numbers[::2] | numbers[1::2] << 4
    return bytes(scales.astype(np.float16).tobytes() + packed.tobytes())


def as_type(kind: Any) -> "Callable[[np.ndarray[Any, Any]], bytes]":
    """Return what casts to a floating-point type."""
    return lambda weights: bytes(weights.astype(kind).tobytes())


def formats() -> "Mapping[str, Callable[[np.ndarray[Any, Any]], bytes]]":
    """Return what brings weights into each format."""
    import gguf  # noqa: PLC0415 - only benches have it
    import ml_dtypes  # noqa: PLC0415 - only benches have it

    kinds = gguf.GGMLQuantizationType
    return {
        "fp32": as_type(np.float32),
        "bf16": as_type(ml_dtypes.bfloat16),
        "fp16": as_type(np.float16),
        "fp8 e4m3, one scale": as_fp8,
        "int8, one scale": as_int8,
        "int4, groups of 128": as_int4,
        "GGUF Q8_0": lambda weights: bytes(gguf.quantize(weights, kinds.Q8_0).tobytes()),
        "GGUF Q4_0": lambda weights: bytes(gguf.quantize(weights, kinds.Q4_0).tobytes()),
    }


def measure(data: bytes, runs: int) -> dict[str, float]:
    """Return the share of the bytes that is left, and the medians of MB/s both ways."""
    compress = frame_compressor()
    pieces = [data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES)]
    frames: list[bytes] = []
    rates: dict[str, list[float]] = {"compress": [], "decompress": []}
    for _ in range(runs):
        begun_s = time.perf_counter()
        frames = [compress(piece) for piece in pieces]
        packed_s = time.perf_counter()
        plain = [
            decompress_frame(frame, len(piece), "frame")
            for frame, piece in zip(frames, pieces, strict=True)
        ]
        ended_s = time.perf_counter()
        if plain != pieces:
            raise RuntimeError("the frames hold other bytes")
        rates["compress"].append(len(data) / 1e6 / (packed_s - begun_s))
        rates["decompress"].append(len(data) / 1e6 / (ended_s - packed_s))
    left = sum(map(len, frames)) / len(data)
    return {"left": left, **{name: median(values) for name, values in rates.items()}}


def iter_rows(count: int, runs: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the row of each format, for so many numbers."""
    known = formats()
    weights = np.random.default_rng(1).normal(0, _DEVIATION, (count // _ROW, _ROW))
    for name in names:
        yield {"format": name, **measure(known[name](weights.astype(np.float32)), runs)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench, and print the table."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- formats", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each format; medians are shown")
    parser.add_argument("--numbers", type=int, default=32 * MIB, help="of each format")
    parser.add_argument("--only", action="append", choices=list(formats()), help="repeatable")
    parser.add_argument("--out", type=Path, default=Path("dist/bench"))
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    options.files, options.file_mib = 1, None
    rows = list(iter_rows(options.numbers, options.runs, options.only or list(formats())))
    options.out.mkdir(parents=True, exist_ok=True)
    document = {**head_of(options), "rows": rows}
    (options.out / "formats.json").write_text(json.dumps(document, indent=2) + "\n")
    print("| format | size after zstd | compress | decompress |\n|---|---|---|---|")
    for row in rows:
        rates = f"{row['compress']:.0f} | {row['decompress']:.0f}"
        print(f"| {row['format']} | {row['left']:.1%} | {rates} |")
