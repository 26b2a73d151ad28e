"""The receiver: one file that restores and verifies an image, carried by the image itself.

Modules of this package and the standard library, nothing else: so the same version gives the
same bytes everywhere, and any Python from 3.11 on runs it.
"""

import ast
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

ENTRY = "receive.py"
_MAIN = """import sys

if sys.version_info < (3, 11):
    sys.exit("hf-models needs Python 3.11 or newer; this is " + sys.version.split()[0])
from {module} import main

main()
"""


def imported_files(package: Path, entries: Iterable[str]) -> set[Path]:
    """Return some modules of the package and every module of it that they import.

    Args:
        package: The package's directory.
        entries: Paths of modules in it.
    """
    found: set[Path] = set()
    todo = [package / name for name in entries]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        todo += [
            folder / "__init__.py" for folder in path.parents if folder.is_relative_to(package)
        ]
        for name in _imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            module = package.parent.joinpath(*name.split("."))
            todo += [module.with_suffix(".py"), module / "__init__.py"]
        todo = [path for path in todo if path.is_file()]
    return found


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports of the package, but for its type checker."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("downloader"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module or ""
        yield from _imported_names(node)


@cache
def receiver() -> bytes:
    """Return ``hf-models.pyz``: stored, because each zlib compresses to other bytes."""
    package = Path(str(files("downloader")))
    found = imported_files(package, [ENTRY])
    members = {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in found}
    return pack(members, "downloader.receive", zipfile.ZIP_STORED)


def pack(entries: Mapping[str, bytes], module: str, compression: int) -> bytes:
    """Return a zip that Python runs, which depends on nothing but paths, bytes and zlib.

    Args:
        entries: The files, by path.
        module: Whose ``main`` is run.
        compression: Of `zipfile`.
    """
    main = _MAIN.format(module=module).encode()
    buffer = io.BytesIO(b"#!/usr/bin/env python3\n")
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", compression, compresslevel=9) as archive:
        for name, data in sorted({**entries, "__main__.py": main}.items()):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data, compression, 9)
    return buffer.getvalue()
