"""The receiver, the README and the sheet that every image carries, used without the package."""

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from downloader.image import is_programs_layer
from downloader.receiver import receiver
from tests.support.command import Ran, call, program
from tests.support.docker import exported_by_crane
from tests.support.fake_hub import HubSpec
from tests.support.publish import (
    MODEL,
    PACKS,
    Side,
    check_directory,
    files_of,
    manifest_of,
    read_blob,
)

pytestmark = pytest.mark.docker

PYZ = "usr/local/bin/hf-models.pyz"
HUB = HubSpec((MODEL, PACKS))


def pulled(side: Side, directory: Path, *more: str) -> Path:
    """Publish, pull into a tar as onto a stick, and take the receiver out of the image."""
    side.publish("org/packs", *more, code=0)
    image = f"{side.direct_name}:packs"
    call("crane", "pull", "--insecure", "--platform=linux/amd64", image, f"{directory}/image.tar")
    [programs] = filter(is_programs_layer, manifest_of(side.store(), "packs").layers)
    with tarfile.open(fileobj=io.BytesIO(read_blob(side.store(), programs))) as tar:
        file = tar.extractfile(PYZ)
        assert file is not None
        (directory / "hf-models.pyz").write_bytes(file.read())
    return directory


def receive(directory: Path, *arguments: str, code: int = 0) -> Ran:
    """Run the receiver with nothing but the standard library."""
    command = (sys.executable, "-I", "-S", "hf-models.pyz", *arguments)
    env = {"HOME": str(directory), "PATH": os.environ["PATH"]}
    return program(*command, code=code, cwd=directory, env=env)


def test_python_alone_restores_and_verifies_with_the_receiver_of_the_image(
    side: Side, tmp_path: Path
) -> None:
    pulled(side, tmp_path)
    done = receive(tmp_path, "restore", "image.tar", "--cache-dir", "cache")
    check_directory(tmp_path / done.out.strip(), PACKS)
    for source in ("image.tar", "cache"):
        assert receive(tmp_path, "verify", source).out.endswith(" 0 missing or wrong\n")
    wrong = next((tmp_path / "cache").glob("*/blobs/*"))
    wrong.write_bytes(b"x" * wrong.stat().st_size)
    receive(tmp_path, "verify", "cache", code=6)


def test_a_registry_needs_more_than_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "hf-models.pyz").write_bytes(receiver())
    command = ("restore", "ghcr.io/me/models:tag", "--cache-dir", "cache")
    assert "docker save" in receive(tmp_path, *command, code=2).err


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python reads zstd by itself")
def test_zstd_layers_without_zstd_are_named_before_the_first_byte(
    side: Side, tmp_path: Path
) -> None:
    pulled(side, tmp_path, "--compress", "zstd")
    done = receive(tmp_path, "restore", "image.tar", "--cache-dir", "cache", code=2)
    assert "pip install zstandard" in done.err
    assert not list(tmp_path.glob("cache/**/blobs/*"))


def test_every_image_of_a_version_brings_the_same_receiver(side: Side) -> None:
    side.publish("org/packs")
    side.publish("org/model")
    found = [files_of(side.store(), tag)[PYZ] for tag in ("packs", "model")]
    assert found[0] == found[1] == receiver()
    assert len(receiver()) < 700_000
    script = "import sys; from downloader.receiver import receiver; import hashlib; "
    script += "print(hashlib.sha256(receiver()).hexdigest())"
    again = call(sys.executable, "-c", script)
    assert again.strip() == hashlib.sha256(receiver()).hexdigest()


def test_another_revision_brings_no_programs_again(side: Side) -> None:
    assert side.publish("org/model", "--revision", MODEL.commits[0].sha).code == 0
    old = manifest_of(side.store(), "model").layers
    before = side.sent_bytes()
    assert side.publish("org/model").code == 0
    new = manifest_of(side.store(), "model").layers
    assert [*filter(is_programs_layer, old)] == [*filter(is_programs_layer, new)]
    assert old[-1] != new[-1]
    [programs] = filter(is_programs_layer, new)
    assert side.sent_bytes() - before < programs.size_bytes


def test_no_receiver_flag_leaves_the_receiver_out(side: Side) -> None:
    assert side.publish("org/packs", "--no-receiver").code == 0
    files = files_of(side.store(), "packs")
    assert PYZ not in files
    assert "README" in files


def test_readme_and_sheet_are_enough_to_check_by_hand(side: Side, tmp_path: Path) -> None:
    assert side.publish("org/packs").code == 0
    with exported_by_crane(f"{side.direct_name}:packs") as tar:
        tar.extractall(tmp_path, filter="tar")
    readme = (tmp_path / "README").read_text(encoding="utf-8")
    assert "python hf-models.pyz restore image.tar" in readme
    assert "还原" in readme
    said = call("sh", "-c", f"cd {tmp_path}/models && grep -E '^[0-9a-f]{{64}}  ' ../SHEET"
                " | sha256sum --check")  # fmt: skip
    assert said.splitlines() == ["half.safetensors: OK", "quantised.gguf: OK"]
    oid = call("git", "hash-object", "--no-filters", f"{tmp_path}/models/config.json").strip()
    assert f"{oid}  config.json" in (tmp_path / "SHEET").read_text()
