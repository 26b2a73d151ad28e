"""The whole command line as one file, ``hf-models.pyz``: this package, and what it needs.

`.github/release.py` makes it of pinned packages; `program` of those that run here.
"""

import zipfile
from collections.abc import Mapping
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import downloader
from downloader import receiver

# What pyproject.toml names, but for zstandard, which is compiled: Python 3.14 has zstd, an older
# one uses what is installed beside the file.
_PACKAGES = ("click", "h11", "rich", "urllib3", "uvicorn")
# rich needs them for source code and Markdown only, which no command shows; half the file's size.
_UNUSED = ("pygments", "markdown_it", "markdown_it_py", "mdurl")


def program() -> bytes:
    """Return the program that runs here as one file; where it is one already, that file."""
    zipped = getattr(downloader.__spec__.loader, "archive", None)  # of a zipimporter
    if zipped:
        return Path(zipped).read_bytes()
    package = Path(str(files("downloader")))
    entries = {
        path.relative_to(package.parent).as_posix(): path
        for path in package.rglob("*")
        if path.is_file()
    }
    for name in _PACKAGES:
        for path in distribution(name).files or ():
            entries[path.as_posix()] = Path(str(path.locate()))
    return pack({name: path.read_bytes() for name, path in entries.items() if is_wanted(name)})


def is_wanted(name: str) -> bool:
    """Whether a file of an installed package is needed to run it.

    >>> [is_wanted(name) for name in ("click/core.py", "bin/uvicorn", "click/py.pyi", "six.py")]
    [True, False, False, False]
    """
    top, _, rest = name.partition("/")
    if top in {"bin", ".."} or top.startswith("__") or not rest or "__pycache__" in name:
        return False
    if any(top == unused or top.startswith(f"{unused}-") for unused in _UNUSED):
        return False
    if top.endswith(".dist-info"):
        return rest == "METADATA" or rest.startswith("licenses/")
    return not name.endswith((".pyi", ".so", ".pyd"))


def pack(entries: Mapping[str, bytes]) -> bytes:
    """Return the files as one that runs the command line."""
    return receiver.pack(entries, "downloader.cli", zipfile.ZIP_DEFLATED)
