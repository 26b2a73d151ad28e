"""What the bench of lines writes down, and the picture of it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.bench.line import GROUPS, Record, main, table_of
from tests.bench.plot import FONT, WIDTH, short_name

SVG = "{http://www.w3.org/2000/svg}"
LINES = ("0 ms, 5 MB/s", "200 ms, 20 MB/s", "200 ms, 20 MB/s, 80 MB/s in all")
HEAD = {"measured_at": "2026-11-25T20:00:00+00:00", "machine": "x86_64, 2 cores", "files": 8}


def base_of(line: str, group: str, way: str) -> dict[str, Any]:
    return {"line": line, "group": group, "way": way}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Return the JSON of a table of every way, each 1.5 times the one before it."""
    record = Record(tmp_path / "line.json", HEAD)
    for line in LINES:
        for group, ways in GROUPS.items():
            for at, way in enumerate(ways):
                record.add(base_of(line, group, way), 2.0 * 1.5**at, is_over=way == "crane export")
    return tmp_path


def picture_of(directory: Path) -> ET.Element:
    target = directory / "speed.svg"
    main(["--out", str(directory), "--plot", str(target)])
    return ET.fromstring(target.read_text())


def test_picture_names_every_line_and_way_and_stands_inside_its_frame(written: Path) -> None:
    root = picture_of(written)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert (width, float(root.attrib["font-size"])) == (WIDTH, FONT)
    texts = list(root.iter(f"{SVG}text"))
    said = [text.text or "" for text in texts]
    for group, ways in GROUPS.items():
        names = [way for way in ways if way != "curl"]
        assert all(name in said for name in names), group
    assert all(said.count(short_name(line)) == len(GROUPS) for line in LINES)
    for text in texts:
        x, y, letters = float(text.attrib["x"]), float(text.attrib["y"]), len(text.text or "")
        share = {"middle": 0.5, "end": 1.0}.get(text.attrib.get("text-anchor", ""), 0.0)
        left = x - share * letters * FONT * 0.6
        assert left >= 0, text.text
        assert left + letters * FONT * 0.6 <= width + FONT, text.text
        assert 0 < y < height


def test_picture_has_colours_for_light_and_dark(written: Path) -> None:
    picture_of(written)
    style = (written / "speed.svg").read_text()
    light, dark = style.split("prefers-color-scheme:dark")
    assert len(re.findall(r"\.bg\{fill:#ffffff\}", light)) == 1
    assert len(re.findall(r"\.bg\{fill:#0d1117\}", dark)) == 1
    kinds = set(re.findall(r'class="([a-z]+)"', dark))
    assert all(f".{kind}{{" in light and f".{kind}{{" in dark for kind in kinds)


def test_mark_of_a_slower_way_stands_further_right_and_says_its_seconds(written: Path) -> None:
    root = picture_of(written)
    titled = [
        (title.text or "", mark)
        for mark in root.iter(f"{SVG}g")
        if (title := mark.find(f"{SVG}title")) is not None
    ]
    rows = json.loads((written / "line.json").read_text())["rows"]
    assert len(titled) == sum(row["way"] != "curl" for row in rows)
    marks = dict(titled)
    quick = "0 ms, 5 MB/s, restore: 4.5 s, 2.2 times"
    slow = "0 ms, 5 MB/s, restore, zstd: 6.8 s, 3.4 times"
    stopped = next(text for text in marks if "crane export" in text)
    assert "more than" in stopped
    at = [float(mark[1].attrib["cx"]) for mark in (marks[quick], marks[slow])]
    assert at[0] < at[1]


def test_record_is_on_disk_after_each_run_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "line.json"
    record = Record(path, HEAD)
    record.add(base_of(LINES[0], "restore", "restore"), 3.0, is_over=False)
    assert json.loads(path.read_text())["rows"][0]["ratio"] is None
    resumed = Record(path, HEAD, is_resumed=True)
    assert resumed.has(LINES[0], "restore", "restore", 1)
    assert not resumed.has(LINES[0], "restore", "restore", 2)
    for seconds in (1.0, 2.0, 6.0):
        resumed.add(base_of(LINES[0], "restore", "curl"), seconds, is_over=False)
    resumed.add(base_of(LINES[0], "restore", "restore"), 5.0, is_over=False)
    row = json.loads(path.read_text())["rows"][0]
    assert (row["seconds"], row["runs"], row["ratio"]) == (4.0, [3.0, 5.0], 2.0)
    assert "| 0 ms, 5 MB/s | 2.0 | 4.0 (2.00) |" in table_of(resumed.rows)
    assert not Record(path, HEAD).has(LINES[0], "restore", "restore", 1)
