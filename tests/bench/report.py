"""The bench's numbers as a table, as JSON, and as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from downloader.units import MIB
from tests.bench.world import Cost

FLOORS = ("curl", "straight from the Hub")
OURS = {"publish", "restore", "serve, cold", "serve, warm"}  # the bars with a colour


def summarize(runs: Mapping[str, Sequence[Cost]]) -> list[dict[str, Any]]:
    """Return the medians of every way, the quickest first, with ratios to the floor."""
    medians = {
        name: {
            "seconds": median(cost.seconds for cost in costs),
            "cpu_seconds": median(cost.cpu_seconds for cost in costs),
            "peak_mib": max(cost.peak_bytes for cost in costs) / MIB,
            "written_mib": max(cost.written_bytes for cost in costs) / MIB,
            "runs": len(costs),
        }
        for name, costs in runs.items()
    }
    floor = next((medians[name]["seconds"] for name in FLOORS if name in medians), None)
    rows = [
        {"way": name, **values, "ratio": values["seconds"] / floor if floor else None}
        for name, values in medians.items()
    ]
    return sorted(rows, key=lambda row: row["seconds"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| way | seconds | × floor | peak memory | written to disk | CPU seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        lines.append(
            f"| {row['way']} | {row['seconds']:.1f} | {ratio} | {row['peak_mib']:.0f} MiB"
            f" | {row['written_mib']:.0f} MiB | {row['cpu_seconds']:.1f} |"
        )
    return "\n".join(lines)


def growth_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how time and memory grow with the model's size, in Markdown."""
    lines = [
        "| model | files | seconds | GiB/s | peak memory |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        rate = row["gib"] / row["seconds"]
        lines.append(
            f"| {row['gib']:g} GiB | {row['files']} | {row['seconds']:.1f} | {rate:.2f}"
            f" | {row['peak_mib']:.0f} MiB |"
        )
    return "\n".join(lines)


def write(document: Mapping[str, Any], directory: Path, name: str, title: str) -> None:
    """Write what was measured as ``NAME.json``, and the ways as a picture, ``NAME.svg``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (directory / f"{name}.svg").write_text(picture(document["ways"], title))


def picture(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return bars of seconds as SVG."""
    height, left, width = 34, 210, 430
    longest = max((row["seconds"] for row in rows), default=1.0)
    bars = []
    for at, row in enumerate(rows):
        y = 40 + at * height
        length = max(2.0, width * row["seconds"] / longest)
        color = "#ff9d00" if row["way"] in OURS else "#9aa4b2"
        ratio = f" ({row['ratio']:.1f}×)" if row["ratio"] else ""
        bars.append(
            f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">{escape(row["way"])}</text>'
            f'<rect x="{left}" y="{y}" width="{length:.0f}" height="22" rx="3" fill="{color}"/>'
            f'<text x="{left + length + 8:.0f}" y="{y + 16}">{row["seconds"]:.1f} s{ratio}</text>'
        )
    total = 50 + len(rows) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {total}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="14" fill="#57606a">'
        f"<title>{title}: seconds, and times the floor</title>"
        f'<text x="10" y="22" font-weight="bold">{title}, seconds (less is better)</text>'
        f"{''.join(bars)}</svg>\n"
    )
