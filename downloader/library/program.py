"""The whole command line as one file, ``hf-models.pyz``: this package, and what it needs.

`.github/release.py` makes it of pinned packages; `program` of those that run here.
"""

import io
import zipfile
from collections.abc import Mapping
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import downloader

# What pyproject.toml names, but for zstandard, which is compiled: Python 3.14 has zstd, an older
# one uses what is installed beside the file.
_PACKAGES = ("click", "h11", "rich", "urllib3", "uvicorn")
# rich needs them for source code and Markdown only, which no command shows; half the file's size.
_UNUSED = ("pygments", "markdown_it", "markdown_it_py", "mdurl")
_MAIN = b"""import sys

if sys.version_info < (3, 11):
    sys.exit("hf-models needs Python 3.11 or newer; this is " + sys.version.split()[0])
from downloader.cli import main

main()
"""


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
    """Return a zip that Python runs, which depends on nothing but paths and bytes."""
    buffer = io.BytesIO(b"#!/usr/bin/env python3\n")
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted({**entries, "__main__.py": _MAIN}.items()):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()
