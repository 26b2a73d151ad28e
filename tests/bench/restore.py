"""From a registry to files: ``restore`` against every other way, and the floor.

Two lines: loopback, and one that gives each connection 50 MB/s (nginx before the registry).
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from downloader.units import MIB
from tests.bench import report
from tests.bench.command import head_of, new_parser
from tests.bench.pulls import CAPPED, WAYS, Shop, capped, publish, push_original
from tests.bench.world import Cost, fresh_registry, serving, write_weights

CONNECTION_BYTES_PER_S = 50_000_000


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__, WAYS, "five times the files' size")
    parser.add_argument("--capped-mib", type=int, default=4096, help="the file of the capped line")
    parser.add_argument("--capped-runs", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench, and print the tables."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="hf-bench-", dir=options.work) as name:
        directory = Path(name)
        ways = compare(options, directory)
        is_capped = options.capped_mib and options.capped_runs
        slow = compare_capped(options, directory) if is_capped else []
    document = {
        **head_of(options),
        "ways": ways,
        "capped_file_bytes": options.capped_mib * MIB,
        "capped_bytes_per_s": CONNECTION_BYTES_PER_S,
        "capped": slow,
    }
    report.write(document, options.out, "restore", "Registry to files")
    print(report.table(ways), report.table(slow), sep="\n\n")


def compare(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """Run every way, in turns, so that a slow minute of the machine meets all of them."""
    names = options.only or list(WAYS)
    weights = write_weights(directory / "weights", options.files, options.file_mib * MIB)
    with fresh_registry(directory / "registry") as host:
        with serving(weights) as hub:
            ours = publish(hub, host)
        original = push_original(weights, host) if "original's way" in names else ""
        shutil.rmtree(directory / "weights")
        shop = Shop(ours, original, directory, options.files)
        return report.summarize(_run(names, shop, options.runs))


def compare_capped(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """Run the ways that verify over a line where each connection has a limit."""
    names = [name for name in CAPPED if name in (options.only or WAYS)]
    weights = write_weights(directory / "weights", 1, options.capped_mib * MIB)
    with fresh_registry(directory / "registry") as host:
        with serving(weights) as hub:
            name = publish(hub, host).partition("/")[2]
        shutil.rmtree(directory / "weights")
        with capped(host, directory / "nginx", CONNECTION_BYTES_PER_S) as slow_host:
            shop = Shop(f"{slow_host}/{name}", "", directory, 1)
            return report.summarize(_run(names, shop, options.capped_runs))


def _run(names: Sequence[str], shop: Shop, runs: int) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {name: [] for name in names}
    for at in range(runs):
        for name in names:
            os.sync()  # what one way left to write must not slow the next one down
            found[name].append(WAYS[name](shop))
            shutil.rmtree(shop.directory / "out", ignore_errors=True)
            seconds = found[name][-1].seconds
            print(f"{name}, run {at + 1}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
