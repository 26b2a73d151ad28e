"""What the benches have in common: their flags, and the head of what they write."""

import argparse
import os
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from downloader.units import MIB


def new_parser(description: str | None, ways: Iterable[str], room: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every bench.

    Args:
        description: Of the bench.
        ways: What it compares.
        room: How much it needs to write, for people.
    """
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=description)
    parser.add_argument("--runs", type=int, default=3, help="of each way; medians are shown")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--file-mib", type=int, default=1024, help="size of each file")
    parser.add_argument("--only", action="append", choices=list(ways), help="repeatable")
    parser.add_argument("--out", type=Path, default=Path("dist/bench"))
    parser.add_argument("--work", type=Path, help=f"where to write: {room}")
    return parser


def head_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return when, where and with what was measured."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}",
        "files": options.files,
        **({"file_bytes": options.file_mib * MIB} if options.file_mib else {}),
    }
