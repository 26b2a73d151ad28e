"""Imports point one way."""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.command import call

PACKAGE = Path(__file__).parent.parent / "downloader"

# Each layer may import itself and those before it; hub and oci stand side by side.
LAYERS = (
    {"errors", "progress", "text", "units"},
    {"document", "markup"},
    {"fs", "environment"},
    {"net"},
    {"transfer"},
    {"hub", "oci"},
    {"plan", "receiver", "sheet", "signing", "keyless"},
    {"image"},
    {"engine", "publish", "restore"},
    {"serve", "receive"},
    {"library", "__init__"},
    {"farm"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def subject_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    subject = subject_of(path)
    for name in imports_of(path):
        if not name.startswith("downloader."):
            continue
        other = name.split(".")[1]
        if other in {"__version__", subject}:
            continue
        assert other in RANK, f"{other} has no place in LAYERS"
        assert RANK[other] <= RANK[subject], f"{subject} imports {other}"
        assert {subject, other} != {"hub", "oci"}


def test_no_two_modules_import_each_other_even_for_types() -> None:
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in MODULES
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = {other for other in imports_of(path) if other in modules} - {name, "downloader"}
        # Of `from package import module` only the module counts.
        through = {other for other in found if any(item.startswith(f"{other}.") for item in found)}
        graph[name] = found - through
    del graph["downloader"]  # its names are imported where they are used
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_hub_api_alone_imports_huggingface_hub() -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if {name.split(".")[0] for name in imports_of(path)} & {"huggingface_hub", "httpx2"}
    }
    assert users == {"hub/api.py", "hub/snapshot.py"}


@pytest.mark.parametrize("name", ["print", "input", "breakpoint"])
def test_only_the_command_line_prints(name: str) -> None:
    for path in MODULES:
        if subject_of(path) in {"cli", "receive"}:
            continue
        calls = [
            node.func
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        ]
        assert not [f for f in calls if isinstance(f, ast.Name) and f.id == name], path


def test_only_one_module_reads_the_environment() -> None:
    for path in MODULES:
        if subject_of(path) != "environment":
            assert "os.environ" not in path.read_text().replace("``os.environ``", ""), path


def test_the_consumer_side_does_not_import_huggingface_hub() -> None:
    program = (
        "import sys, downloader.cli, downloader.restore, downloader.cli.restore, "
        "downloader.cli.inspect, downloader.cli.verify, downloader.cli.serve, "
        "downloader.cli.copy, downloader.cli.login, downloader.cli.push, downloader.cli.assemble\n"
        "assert not {'huggingface_hub', 'hf_transfer', 'httpx2'} & set(sys.modules)"
    )
    call(sys.executable, "-c", program)


TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_module_that_runs_openssl_says_so(path: Path) -> None:
    marker = 'mark.tools("openssl")'
    without_markers = path.read_text(encoding="utf-8").replace(marker, "")
    runs = "import make_certificate" in without_markers or 'call("openssl"' in without_markers
    assert not runs or marker in path.read_text(encoding="utf-8")


def test_no_test_module_takes_anything_from_another() -> None:
    for path in TESTS.rglob("*.py"):
        assert not re.search(
            r"^\s*(from|import) tests\S*\.test_", path.read_text(), re.MULTILINE
        ), path
