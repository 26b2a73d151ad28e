"""How quick publishing is, against the floor and against the field: ``nox -s bench``.

One run compares, on this machine, every way from the Hub to a registry over the same files of
pseudo-random bf16 weights; ratios travel, seconds do not. A second part shows that cost grows
straight with the model and memory does not grow at all.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from downloader.hub.repo import RepoFile, Snapshot, parse_repo
from downloader.plan import make_plan
from downloader.units import MIB
from tests.bench import report
from tests.bench.command import head_of, new_parser
from tests.bench.ways import WAYS, Stage, build_layout, install_modelcar
from tests.bench.world import (
    GIB,
    REPO_ID,
    Cost,
    fresh_registry,
    hole,
    measure,
    serving,
    write_sparse,
    write_weights,
)

PLAN_FILES = 10_000


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__, WAYS, "three times the files' size")
    parser.add_argument("--growth-gib", type=float, nargs="*", default=[1.0, 4.0, 16.0])
    parser.add_argument("--tebibyte", action="store_true", help="a model of 200 files and 1 TiB")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench, and print the tables."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="hf-bench-", dir=options.work) as name:
        directory = Path(name)
        ways = compare(options, directory)
        # Many files one after the other: what one of them leaves behind would add up.
        growth = [
            grow(gib, max(4, round(4 * gib)), directory, name="sparse")
            for gib in options.growth_gib
        ]
        if options.tebibyte:
            # Two files in most layers: no image has two hundred.
            flags = ("--layer-size", "20GB")
            growth.append(grow(1024.0, 200, directory, name="tebibyte", flags=flags))
    document = {
        **head_of(options),
        "ways": ways,
        "growth": growth,
        "plan_10000_files_seconds": plan_seconds(),
    }
    report.write(document, options.out, "publish", "Hub to registry")
    print(report.table(ways), report.growth_table(growth), sep="\n\n")
    print(f"\na plan of {PLAN_FILES} files: {document['plan_10000_files_seconds']:.2f} s")


def compare(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """Run every way, in turns, so that a slow minute of the machine meets all of them."""
    names = options.only or list(WAYS)
    weights = write_weights(directory / "weights", options.files, options.file_mib * MIB)
    needs_peer = any("modelcar" in name for name in names)
    peer = install_modelcar(directory / "peer") if needs_peer else ""
    runs: dict[str, list[Cost]] = {name: [] for name in names}
    with serving(weights) as hub:
        needs_layout = any("skopeo" in name for name in names)
        layout = build_layout(hub, directory) if needs_layout else directory
        stage = Stage(weights, hub, directory, peer, layout)
        for at in range(options.runs):
            for name in names:
                with fresh_registry(directory / "registry") as host:
                    os.sync()  # what one way left to write must not slow the next one down
                    cost = WAYS[name](stage, host)
                runs[name].append(cost)
                print(f"{name}, run {at + 1}: {cost.seconds:.1f} s", file=sys.stderr, flush=True)
    shutil.rmtree(directory / "weights")
    return report.summarize(runs)


def grow(
    gib: float, files: int, directory: Path, *, name: str, flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Publish a model that takes no disk into a registry that keeps nothing, but hashes."""
    weights = write_sparse(directory / name, files, int(gib * GIB / files))
    command = [sys.executable, "-m", "downloader", "publish", REPO_ID, "--base", "none", "-q"]
    command += flags
    with serving(weights) as hub, hole(is_hashing=True) as host:
        cost = measure([*command, "--to", f"{host}/bench/x"], env={"HF_ENDPOINT": hub.endpoint})
    shutil.rmtree(directory / name)
    print(f"{gib:g} GiB: {cost.seconds:.1f} s", file=sys.stderr, flush=True)
    return {
        "gib": gib,
        "files": files,
        "seconds": cost.seconds,
        "peak_mib": cost.peak_bytes / MIB,
        "cpu_seconds": cost.cpu_seconds,
    }


def plan_seconds() -> float:
    """Return what a plan of ten thousand files takes."""
    files = tuple(
        RepoFile(f"d/{at:05}.bin", (at % 97 + 1) * MIB, f"{at:040x}", f"{at:064x}")
        for at in range(PLAN_FILES)
    )
    snapshot = Snapshot(parse_repo(REPO_ID), "main", "0" * 40, files)
    begun_s = time.perf_counter()
    plan = make_plan(snapshot)
    assert sum(layer.size_bytes for layer in plan.layers) > plan.snapshot.size_bytes
    return time.perf_counter() - begun_s


if __name__ == "__main__":
    main()
