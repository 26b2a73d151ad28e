"""The consumer's commands on a system without POSIX calls, and without symbolic links."""

import sys
from pathlib import Path

import pytest

from tests.support.command import program
from tests.support.fake_hub import HubProcess, tiny_repo
from tests.support.make_image import put_ours
from tests.support.restore import FILES, FOLDER, layout


def run(*arguments: str | Path, **environment: str) -> str:
    command = (sys.executable, "-m", "tests.support.without_posix", *arguments)
    return program(*command, env=environment or None).out


def test_every_module_is_imported() -> None:
    run("imports")


def test_the_tests_for_windows_and_macos_need_nothing_of_posix() -> None:
    """What ci.yml runs there, here: that job is no guess."""
    said = run("pytest", "-q", "-p", "no:cacheprovider", "-m", "portable and not docker")
    assert " passed" in said


@pytest.mark.parametrize("options", [(), ("--no-links",)], ids=["links", "no-links"])
def test_restore_and_verify_twice(options: tuple[str, ...], tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    cache = tmp_path / "cache"
    for _ in range(2):
        run(*options, "restore", tmp_path / "image", "--cache-dir", cache)
        assert '"findings": []' in run(*options, "verify", cache, "--json")
    assert not list(cache.rglob("*.incomplete"))
    (snapshot,) = (cache / FOLDER / "snapshots").iterdir()
    assert {path: (snapshot / path).read_bytes() for path in FILES} == FILES
    assert (snapshot / "vocab.txt").is_symlink() == (not options)


def test_restore_to_plain_files_and_inspect(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    out = tmp_path / "out"
    run("restore", tmp_path / "image", "--local-dir", out)
    found = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    assert {path: file.read_bytes() for path, file in found.items()} == FILES
    assert "org/model" in run("inspect", tmp_path / "image")


def test_fetch(tmp_path: Path) -> None:
    with HubProcess([tiny_repo()]) as hub:
        run("fetch", "org/tiny", "--cache-dir", tmp_path, HF_ENDPOINT=hub.endpoint)
    assert (tmp_path / "models--org--tiny" / "refs" / "main").is_file()
