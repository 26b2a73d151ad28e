"""Patterns that no list of files can satisfy, found before any Hub is asked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

_Key = Literal["include", "exclude"]


@dataclass(frozen=True)
class ImpossiblePattern:
    """A pattern that cannot do what it was written for.

    Args:
        key: Which list it is in.
        index: Its place there.
        text: What is wrong with it.
    """

    key: _Key
    index: int
    text: str


def find_impossible(include: Sequence[str], exclude: Sequence[str]) -> ImpossiblePattern | None:
    """Return the first pattern that can never select, or never leave anything to select.

    What it finds is certain, whatever files there are; it does not find everything.

    >>> find_impossible(["onnx/"], ["*.bin", "onnx/*"]).text
    "include 'onnx/' selects nothing: exclude 'onnx/*' takes all of it away"
    >>> find_impossible(["*.safetensors"], ["model-00001-*"]) is None
    True
    """
    return next(_iter_impossible(include, exclude), None)


def _iter_impossible(include: Sequence[str], exclude: Sequence[str]) -> Iterator[ImpossiblePattern]:
    yield from _iter_malformed("include", include)
    yield from _iter_malformed("exclude", exclude)
    for i, pattern in enumerate(exclude):
        if _covers(pattern, "*"):
            yield ImpossiblePattern("exclude", i, f"exclude {pattern!r} leaves no file")
    for i, pattern in enumerate(include):
        for other in exclude:
            if _covers(other, pattern):
                text = f"{pattern!r} selects nothing: exclude {other!r} takes all of it away"
                yield ImpossiblePattern("include", i, f"include {text}")


def _iter_malformed(key: _Key, patterns: Sequence[str]) -> Iterator[ImpossiblePattern]:
    for i, pattern in enumerate(patterns):
        problem = _problem(pattern, patterns[:i])
        if problem:
            yield ImpossiblePattern(key, i, f"{key} {problem}")


def _problem(pattern: str, before: Sequence[str]) -> str | None:
    if not pattern.strip():
        return f"{pattern!r} is empty"
    if pattern in before:
        return f"{pattern!r} is listed twice"
    if any(ord(char) < 0x20 for char in pattern):
        return f"{pattern!r} matches nothing: no file name has a control character"
    segments = pattern.rstrip("/").replace("\\", "/").split("/")
    if pattern.startswith("/") or {"", ".", ".."} & set(segments):
        return f"{pattern!r} matches nothing: names are relative to the repo"
    return None


def _covers(outer: str, inner: str) -> bool:
    """Whether every name that matches ``inner`` is certain to match ``outer``."""
    wide, narrow = _as_glob(outer), _as_glob(inner)
    if wide == narrow:
        return True
    # Only `*` stands for the characters of another pattern as well as for those of a name: `?`
    # would take the `*` of the other for one character, and `x` match inside its `[xy]`.
    has_only_stars = "[" not in narrow and not set(wide) & set("?[")
    is_plain = not set(narrow) & set("*?[")
    return (is_plain or has_only_stars) and fnmatchcase(narrow, wide)


def _as_glob(pattern: str) -> str:
    return (f"{pattern}*" if pattern.endswith("/") else pattern).replace("\\", "/")
