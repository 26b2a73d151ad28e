"""The table of lines as a picture: a row for each line, a mark for each way, times the floor.

The picture brings its own background and follows the reader's light or dark scheme. It is narrow,
so that its letters are still readable at the width of a phone.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

WIDTH = 480
FONT = 15
_LEFT, _RIGHT = 160, 78  # of the axis: names of lines, and our seconds
_ROW = 25
_MOST = 32.0  # times the floor; what is more stands at the edge
_TICKS = (1, 2, 4, 8, 16, 32)
_TITLES = {
    "publish": "Hub to a far registry",
    "restore": "Far registry to files",
    "fetch": "Far Hub to files",
    "serve": "Far registry, through serve, to files",
}
# Of each way: shape, and the class that gives its colour. Ours are filled.
_MARKS = {
    "publish": ("circle", "ours"),
    "restore": ("circle", "ours"),
    "fetch": ("circle", "ours"),
    "serve": ("circle", "ours"),
    "publish, zstd": ("ring", "ours"),
    "restore, zstd": ("ring", "ours"),
    "publish again": ("triangle", "ours"),
    "curl, tee, openssl, curl": ("plus", "floor"),
    "curl, openssl": ("plus", "floor"),
    "oras cp": ("square", "a"),
    "skopeo copy": ("diamond", "b"),
    "crane export": ("cross", "c"),
    "docker pull": ("bar", "d"),
    "hf download": ("square", "e"),
}
_STYLE = """
.bg{fill:#ffffff}text{fill:#1f2328}.dim{fill:#59636e}.grid{stroke:#d1d9e0}.floor{stroke:#59636e}
.ours{fill:#d9480f;stroke:#d9480f}.a{fill:#0969da;stroke:#0969da}.b{fill:#1a7f37;stroke:#1a7f37}
.c{fill:#8250df;stroke:#8250df}.d{fill:#0a7ea4;stroke:#0a7ea4}.e{fill:#9a6700;stroke:#9a6700}
@media (prefers-color-scheme:dark){
.bg{fill:#0d1117}text{fill:#f0f6fc}.dim{fill:#9198a1}.grid{stroke:#3d444d}.floor{stroke:#9198a1}
.ours{fill:#ff9d00;stroke:#ff9d00}.a{fill:#4493f8;stroke:#4493f8}.b{fill:#3fb950;stroke:#3fb950}
.c{fill:#ab7df8;stroke:#ab7df8}.d{fill:#39c5cf;stroke:#39c5cf}.e{fill:#d29922;stroke:#d29922}}
"""


def draw(document: Mapping[str, Any]) -> str:
    """Return the picture of what ``bench line`` wrote.

    Args:
        document: Its JSON: `rows` with line, group, way, seconds and ratio.
    """
    body: list[str] = []
    y = 30
    body.append(_text(12, y, "Times the floor, over each line", "bold"))
    y += 20
    body.append(_text(12, y, "floor: as many curl as help, nothing checked", dim=True))
    for group, title in _TITLES.items():
        rows = [row for row in document["rows"] if row["group"] == group and row["ratio"]]
        if rows:
            y = _panel(body, y + 34, title, rows)
    y += 26
    body.append(_text(12, y, f"measured {document['measured_at'][:10]}", dim=True))
    body.append(_text(12, y + 20, document["machine"], dim=True))
    height = y + 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' font-family="system-ui, sans-serif" font-size="{FONT}">'
        "<title>Seconds over each line as times the floor: hf-models and other tools</title>"
        f'<style>{_STYLE}</style><rect class="bg" width="{WIDTH}" height="{height}" rx="8"/>'
        f"{''.join(body)}</svg>\n"
    )


def _panel(body: list[str], y: int, title: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Draw one group from ``y`` on; return where it ends."""
    body.append(_text(12, y, title, "bold"))
    ways = [way for way in _MARKS if any(row["way"] == way for row in rows)]
    x, y = 12, y + 22
    for way in ways:
        taken = 34 + len(way) * 8
        if x + taken > WIDTH - 12:
            x, y = 12, y + 22
        body += [_mark(way, x + 8, y - 5), _text(x + 20, y, way)]
        x += taken
    lines = list(dict.fromkeys(row["line"] for row in rows))
    top, y = y + 12, y + 14
    bottom = y + len(lines) * _ROW
    for tick in _TICKS:
        at, kind = _x(tick), "floor" if tick == 1 else "grid"
        body.append(f'<path class="{kind}" d="M{at:.1f} {top}V{bottom}"/>')
        body.append(_text(at, bottom + 17, f"{tick}\u00d7", anchor="middle", dim=True))
    for at, line in enumerate(lines):
        middle = y + at * _ROW + 12
        body.append(_text(12, middle + 5, short_name(line)))
        found = {row["way"]: row for row in rows if row["line"] == line}
        for way in reversed(ways):  # ours lie over the others
            if way in found:
                body.append(_mark(way, _x(found[way]["ratio"]), middle, found[way]))
        ours = next((found[way] for way in ways if way in found and _MARKS[way][1] == "ours"), None)
        if ours:
            seconds = f"{ours['seconds']:.1f} s"
            body.append(_text(WIDTH - 12, middle + 5, seconds, anchor="end"))
    return bottom + 17


def short_name(line: str) -> str:
    """Return the name of a line as it fits beside its row.

    >>> short_name("200 ms, 20 MB/s, 80 MB/s in all")
    '200 ms, 20/80 MB/s'
    """
    return re.sub(r" MB/s, (\d+) MB/s in all", r"/\1 MB/s", line)


def _x(ratio: float) -> float:
    """Return where a ratio stands: logarithmic, from half the floor to `_MOST`."""
    share = math.log2(min(max(ratio, 0.5), _MOST) / 0.5) / math.log2(_MOST / 0.5)
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _mark(way: str, x: float, y: float, row: Mapping[str, Any] | None = None) -> str:
    shape, kind = _MARKS[way]
    stroke = ' fill="none" stroke-width="2.5"'
    drawn = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"/>',
        "ring": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" style="fill:none" stroke-width="2.5"/>',
        "triangle": f'<path d="M{x:.1f} {y - 6:.1f}l6 11h-12z"/>',
        "square": f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>',
        "diamond": f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>',
        "cross": f'<path{stroke} d="M{x - 4.5:.1f} {y - 4.5:.1f}l9 9m0 -9l-9 9"/>',
        "plus": f'<path{stroke} d="M{x - 5:.1f} {y:.1f}h10m-5 -5v10"/>',
        "bar": f'<path{stroke} d="M{x:.1f} {y - 6:.1f}v12"/>',
    }[shape]
    if row is None:
        return f'<g class="{kind}">{drawn}</g>'
    more = "more than " if row.get("is_over") else ""
    said = f"{row['line']}, {way}: {more}{row['seconds']:.1f} s, {more}{row['ratio']:.1f} times"
    return f'<g class="{kind}"><title>{escape(said)}</title>{drawn}</g>'


def _text(
    x: float, y: float, text: str, weight: str = "", *, anchor: str = "", dim: bool = False
) -> str:
    flags = f' font-weight="{weight}"' if weight else ""
    flags += f' text-anchor="{anchor}"' if anchor else ""
    flags += ' class="dim"' if dim else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{flags}>{escape(text)}</text>'
