"""The line number of each value in a TOML file, for messages; `tomllib` forgets it.

Only positions come from here. Values, and whether the file is TOML at all, are tomllib's to say,
so a mistake in this file can make a message point to a wrong line, and nothing worse.
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

# A key path; a number is a place in an array: ("model", 2, "include", 0).
Path = tuple[str | int, ...]

# Source: TOML 1.0.0: strings, comments, and what structures a document.
_TOKEN = re.compile(
    r'(?P<string>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')'
    r"|(?P<comment>#[^\n]*)|(?P<newline>\n)|(?P<open>[\[{])|(?P<close>[\]}])"
    r"|(?P<comma>,)|(?P<space>[ \t\r]+)|(?P<word>[^\s\"'#\[\]{},]+|.)",
    re.DOTALL,
)


def find_lines(text: str) -> dict[Path, int]:
    r"""Return the line, from 1, of every table, key and array item.

    >>> find_lines('[a]\nb = 1\n[[m]]\n[[m]]\nc = [\n  "x",\n]\n')[("m", 1, "c", 0)]
    6
    """
    return dict(reversed(list(iter_lines(text))))


def find_repeated(text: str) -> tuple[Path, int, int] | None:
    """Return the first key or table that is written twice, and both lines."""
    seen: dict[Path, int] = {}
    for path, line in iter_lines(text):
        if path in seen:
            return path, seen[path], line
        seen[path] = line
    return None


def iter_lines(text: str) -> Iterator[tuple[Path, int]]:
    """Yield every table, key and array item with its line, in the order of the file."""
    table: Path = ()
    counts: dict[Path, int] = {}
    for line, statement in _iter_statements(text):
        head = "".join(token for _, token, _ in statement)
        if head.startswith("["):
            table = _table(head, counts)
            yield table, line
            continue
        path = table + _parse_key(f"{_key_of(statement)} = 0")
        if path != table:
            yield path, line
            yield from _iter_items(path, statement)


_Token = tuple[str, str, int]  # kind, text, line


def _iter_statements(text: str) -> Iterator[tuple[int, list[_Token]]]:
    line, depth = 1, 0
    tokens: list[_Token] = []
    for match in _TOKEN.finditer(text):
        kind, token = str(match.lastgroup), match.group()
        depth += {"open": 1, "close": -1}.get(kind, 0)
        if kind == "newline" and depth <= 0:
            depth = 0
            if tokens:
                yield tokens[0][2], tokens
            tokens = []
        elif kind not in {"newline", "comment", "space"}:
            tokens.append((kind, token, line))
        line += token.count("\n")
    if tokens:
        yield tokens[0][2], tokens


def _table(head: str, counts: dict[Path, int]) -> Path:
    path = _parse_key(head.removeprefix("[").removesuffix("]") if head[:2] == "[[" else head)
    if not head.startswith("[["):
        return _inside(path, counts)
    parent = _inside(path[:-1], counts) + path[-1:]
    counts[parent] = counts.get(parent, 0) + 1
    return (*parent, counts[parent] - 1)


def _inside(path: Path, counts: dict[Path, int]) -> Path:
    # [model.x] after [[model]] belongs to the last of them.
    found: Path = ()
    for key in path:
        found += (key,)
        if found in counts:
            found += (counts[found] - 1,)
    return found


def _parse_key(statement: str) -> Path:
    try:
        value: Any = tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(value, dict) and value:
        path.append(next(iter(value)))
        value = value[path[-1]]
    return tuple(path)


def _key_of(statement: list[_Token]) -> str:
    key = ""
    for kind, token, _ in statement:
        if kind == "word" and "=" in token:
            return key + token.partition("=")[0]
        key += token
    return key


def _iter_items(path: Path, statement: list[_Token]) -> Iterator[tuple[Path, int]]:
    depth, index = 0, 0
    for kind, _, line in statement:
        if depth == 1 and kind in {"string", "word"}:
            yield (*path, index), line
            index += 1
        depth += {"open": 1, "close": -1}.get(kind, 0)
