"""A stick: written from two places, checked by sha256sum, restored by Python alone."""

import sys
from pathlib import Path

import pytest

from downloader.library.bundle import PROGRAM
from tests.support.command import call, hf_models, program
from tests.support.make_image import make_snapshot, put_ours
from tests.support.restore import FILES, layout
from tests.support.serve import resolve_path, serving

MORE = {**FILES, "README.md": b"# Another commit\n"}


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    put_ours(layout(tmp_path / "a"), FILES, "one")
    snapshot = make_snapshot(MORE, commit="d" * 40)  # another commit of the same repo
    put_ours(layout(tmp_path / "b"), MORE, "two", snapshot=snapshot)
    images = (tmp_path / "a", tmp_path / "b")
    code, said, _ = hf_models("bundle", *images, "--to", tmp_path / "stick")
    assert code == 0
    assert "one sha256:" in said
    assert "hf-models.pyz restores it" in said
    return tmp_path / "stick"


def alone(stick: Path, *arguments: str, code: int = 0) -> str:
    """Run the stick's own program, with the standard library and nothing else."""
    done = program(sys.executable, "-I", "-S", "hf-models.pyz", *arguments, code=code, cwd=stick)
    return done.out + done.err


def test_every_file_is_in_the_checksums(stick: Path) -> None:
    call("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=stick)
    listed = {line.split("  ")[1] for line in (stick / "SHA256SUMS").read_text().splitlines()}
    files = {path.relative_to(stick).as_posix() for path in stick.rglob("*") if path.is_file()}
    assert {name for name in files if not name.rpartition("/")[2].startswith(".")} == listed | {
        "SHA256SUMS"
    }


def test_images_share_the_layers_they_have_in_common(stick: Path, tmp_path: Path) -> None:
    blobs = {path.name for path in (stick / "blobs/sha256").iterdir()}
    one = {path.name for path in (tmp_path / "a/blobs/sha256").iterdir()}
    two = {path.name for path in (tmp_path / "b/blobs/sha256").iterdir()}
    assert blobs == one | two
    assert one & two, "no layer is in both"


@pytest.mark.parametrize(("tag", "files"), [("one", FILES), ("two", MORE)])
def test_python_alone_restores_one_of_several(
    stick: Path, tmp_path: Path, tag: str, files: dict[str, bytes]
) -> None:
    alone(stick, "restore", f".:{tag}", "--local-dir", str(tmp_path / tag))
    for path, data in files.items():
        assert (tmp_path / tag / path).read_bytes() == data


def test_the_program_of_a_stick_has_all_commands(stick: Path, tmp_path: Path) -> None:
    assert "kind     hf-models" in alone(stick, "inspect", ".:one")
    more = ("--cache-dir", tmp_path / "cache")
    with serving(stick, *more, program=(sys.executable, "-I", "-S", stick / PROGRAM)) as server:
        assert server.ask(resolve_path("config.json")).body == FILES["config.json"]


def test_the_program_of_a_stick_writes_another_stick(stick: Path, tmp_path: Path) -> None:
    alone(stick, "bundle", ".:one", "--to", str(tmp_path / "second"))
    assert (tmp_path / "second" / PROGRAM).read_bytes() == (stick / PROGRAM).read_bytes()


def test_second_bundle_adds_no_file(stick: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (stick / "blobs/sha256").iterdir()}
    assert hf_models("bundle", tmp_path / "a", "--to", stick, "--quiet").code == 0
    assert {path: path.read_bytes() for path in (stick / "blobs/sha256").iterdir()} == before


def test_readme_is_in_both_languages(stick: Path) -> None:
    text = (stick / "README.txt").read_text(encoding="utf-8")
    assert "python hf-models.pyz restore" in text
    assert "只需要 Python" in text


def test_two_images_of_one_tag_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    images = [f"127.0.0.1:9/a/{name}:x" for name in ("m", "n")]
    code, _, err = hf_models("bundle", *images, "--to", tmp_path / "stick")
    assert code == 2
    assert "two images have the tag x" in err
    assert not (tmp_path / "stick").exists()


def test_json_of_bundle(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "a"), {"config.json": b"{}"}, "one")
    document = hf_models("bundle", tmp_path / "a", "--to", tmp_path / "s", "--json", "-q").json
    assert [image["tag"] for image in document["images"]] == ["one"]
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert document["size_bytes"] == sum(
        path.stat().st_size for path in files if not path.name.startswith(".")
    )
