"""What three programs make of ``TAG.modelpack``, by the rules in their sources.

None of them can be installed here. Each rule below was read in the program's own code: modctl
``pkg/codec`` and ``pkg/archiver`` (August 2026), RamaLama ``transports/oci`` (August 2026), Docker
Model Runner ``pkg/distribution/internal/bundle/unpack.go`` (July 2026).
"""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from downloader.oci.manifest import Descriptor, Manifest, parse_manifest
from downloader.oci.store import Store
from tests.support.fake_hub import HubSpec, Repo, make_repo, read_all
from tests.support.publish import MODEL, Side, read_blob

pytestmark = pytest.mark.docker

CNCF = "application/vnd.cncf.model"
PLAIN = make_repo(
    "org/plain",
    {
        "README.md": b"# A model\n",
        "config.json": b"{}",
        "onnx/vocab.txt": b"the same words\n",
        "vocab.txt": b"the same words\n",
        "model.safetensors": b"\0\1" * 3_000_000,
    },
)
HUB = HubSpec((MODEL, PLAIN))


def modelpack_of(store: Store, tag: str) -> Manifest:
    """Return the manifest of the tag; an index would be an image without layers to all three."""
    raw = store.get_manifest(f"{tag}.modelpack")
    assert raw is not None
    manifest = parse_manifest(raw.data)
    assert isinstance(manifest, Manifest)
    return manifest


def unpack_as_modctl(layer: Descriptor, data: bytes, directory: Path) -> None:
    """Write the regular files of a layer; links are skipped.

    Raises:
        ValueError: A media type without codec, or a name that modctl takes for hostile.
    """
    if not layer.media_type.endswith(".tar"):
        raise ValueError(f"unsupported codec type for {layer.media_type}")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            name = os.path.normpath(member.name)
            if ".." in name or name.startswith("/"):
                raise ValueError(f"tar file contains invalid path: {name}")
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.isdir():
                path.mkdir(exist_ok=True)
                path.chmod(member.mode)
            elif member.type == tarfile.REGTYPE:
                file = tar.extractfile(member)
                assert file is not None
                path.write_bytes(file.read())
                path.chmod(member.mode)


def shown_files(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def files_of_repo(repo: Repo) -> dict[str, bytes]:
    return {path: read_all(file.source) for path, file in repo.files().items()}


def test_modctl_writes_the_models_directory_from_plain_layers(side: Side, tmp_path: Path) -> None:
    assert side.publish("org/plain").code == 0
    store = side.store()
    for layer in modelpack_of(store, "plain").layers:
        unpack_as_modctl(layer, read_blob(store, layer), tmp_path)
    wanted = files_of_repo(PLAIN)
    found = shown_files(tmp_path / "models")
    # Of files with the same content one is the regular file and the others are its links.
    assert set(wanted) - set(found) == {"vocab.txt"}
    assert found == {path: wanted[path] for path in found}


def test_modctl_has_no_codec_for_compressed_layers(side: Side, tmp_path: Path) -> None:
    assert side.publish("org/plain", "--compress", "zstd").code == 0
    store = side.store()
    [packed, *_] = modelpack_of(store, "plain").layers
    with pytest.raises(ValueError, match=r"weight\.v1\.tar\+zstd"):
        unpack_as_modctl(packed, read_blob(store, packed), tmp_path)


def check_as_ramalama(manifest: dict[str, Any]) -> None:
    """Fail where ``Manifest.from_dict`` of RamaLama does."""
    assert manifest["artifactType"] == f"{CNCF}.manifest.v1+json"
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == f"{CNCF}.config.v1+json"
    kinds = ("weight", "weight.config", "doc", "code", "dataset")
    allowed = {f"{CNCF}.{kind}.v1.tar{end}" for kind in kinds for end in ("", "+zstd")}
    assert manifest["layers"]
    for layer in manifest["layers"]:
        assert layer["mediaType"] in allowed
        path = layer["annotations"]["org.cncf.model.filepath"]
        assert not Path(path).is_absolute()
        assert not os.path.normpath(path).startswith("..")


def test_ramalama_and_docker_model_runner_take_the_manifest_and_a_tar_for_the_file(
    side: Side,
) -> None:
    assert side.publish("org/plain").code == 0
    store = side.store()
    manifest = modelpack_of(store, "plain")
    check_as_ramalama(json.loads(manifest.to_bytes()))
    config = json.loads(read_blob(store, manifest.config))
    assert config["modelfs"]  # by which Docker Model Runner knows a ModelPack config
    paths = [layer.annotations["org.cncf.model.filepath"] for layer in manifest.layers]
    assert len(paths) == len(set(paths))  # two layers of one path are an error to it
    # Both write the bytes of a layer under its path, whatever its media type.
    largest = max(manifest.layers, key=lambda layer: layer.size_bytes)
    path = largest.annotations["org.cncf.model.filepath"]
    data = read_blob(store, largest)
    assert data != files_of_repo(PLAIN)[path]
    assert tarfile.is_tarfile(io.BytesIO(data))
