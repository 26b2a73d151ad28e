"""Selection of a repo's files by name and pattern; the same rules for Hub, image and cache.

Source: huggingface_hub 2.4, ``filter_repo_objects`` and ``hf download``: ``fnmatchcase``, a
pattern that ends in ``/`` means the folder, ``*`` crosses ``/``. Unlike there, a pattern that
matches nothing is an error: a misspelt pattern would publish a wrong image.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from downloader.errors import InputError
from downloader.hub.repo import RepoFile, Selection
from downloader.text import nearest

_Key = Literal["include", "exclude"]


def select(files: Iterable[RepoFile], selection: Selection) -> tuple[RepoFile, ...]:
    """Return the selected files, sorted by path.

    Raises:
        InputError: A name or pattern matches nothing, or nothing is left.

    >>> files = [RepoFile("a/x.bin", 1, "0" * 40), RepoFile("b.txt", 1, "1" * 40)]
    >>> [file.path for file in select(files, Selection(names=("a/",)))]
    ['a/x.bin']
    >>> select(files, Selection(include=("*.safetensor",)))
    Traceback (most recent call last):
        ...
    downloader.errors.InputError: --include '*.safetensor' matches none of the 2 files
    """
    by_path = {file.path: file for file in files}
    if not by_path:
        raise InputError(
            "the repo has no files",
            hint="check --revision: another one may have files",
        )
    kept = set(by_path)
    if selection.names or selection.include:
        named = {path for name in selection.names for path in _named(name, by_path)}
        kept = named | _matching("--include", selection.include, by_path)
    kept -= _matching("--exclude", selection.exclude, by_path)
    if not kept:
        raise InputError(f"--exclude leaves none of the {len(by_path)} files")
    return tuple(by_path[path] for path in sorted(kept))


def _named(name: str, paths: Iterable[str]) -> list[str]:
    found = [path for path in paths if path == name or (name[-1:] == "/" and path.startswith(name))]
    if not found:
        hint = nearest(name, paths, "names are paths inside the repo")
        raise InputError(f"the repo has no file {name!r}", hint=hint)
    return found


def _matching(flag: str, patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    every: set[str] = set()
    all_paths = list(paths)
    for pattern in patterns:
        glob = _as_glob(pattern)
        # The library reads a backslash as a slash, in pattern and path.
        found = {path for path in all_paths if fnmatchcase(path.replace("\\", "/"), glob)}
        if not found:
            raise InputError(f"{flag} {pattern!r} matches none of the {len(all_paths)} files")
        every |= found
    return every


# Patterns that no list of files can satisfy, found before any Hub is asked


@dataclass(frozen=True)
class ImpossiblePattern:
    """A pattern that cannot do what it was written for.

    Args:
        key: Its list: include or exclude.
        index: Its place there.
        text: The mistake, for messages.
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
