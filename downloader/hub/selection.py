"""Which files of a repo the user asked for; the same rules for Hub, image and cache.

Source: huggingface_hub 2.4, ``filter_repo_objects`` and ``hf download``: ``fnmatchcase``, a
pattern that ends in ``/`` means the folder, ``*`` crosses ``/``. Unlike there, a pattern that
matches nothing is an error: a misspelt pattern would publish a wrong image.
"""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from downloader.errors import InputError
from downloader.hub.repo import RepoFile, Selection


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
            "want at least one file, got a repo without any",
            hint="check --revision: another one may have files",
        )
    kept = set(by_path)
    if selection.names or selection.include:
        named = {path for name in selection.names for path in _named(name, by_path)}
        kept = named | _matching("--include", selection.include, by_path)
    kept -= _matching("--exclude", selection.exclude, by_path)
    if not kept:
        raise InputError(f"want at least one file, got none of {len(by_path)} after --exclude")
    return tuple(by_path[path] for path in sorted(kept))


def _named(name: str, paths: Iterable[str]) -> list[str]:
    found = [path for path in paths if path == name or (name[-1:] == "/" and path.startswith(name))]
    if not found:
        close = difflib.get_close_matches(name, list(paths), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "names are paths inside the repo"
        raise InputError(f"want file {name!r}, the repo has none of that name", hint=hint)
    return found


def _matching(flag: str, patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    every: set[str] = set()
    all_paths = list(paths)
    for pattern in patterns:
        glob = (f"{pattern}*" if pattern.endswith("/") else pattern).replace("\\", "/")
        # The library reads a backslash as a slash, in pattern and path.
        found = {path for path in all_paths if fnmatchcase(path.replace("\\", "/"), glob)}
        if not found:
            raise InputError(f"{flag} {pattern!r} matches none of the {len(all_paths)} files")
        every |= found
    return every
