"""Images of plain files: modelcars, ModelPack, Docker Model Runner, KitOps, OCI artifacts.

Made by the programs that write them where PyPI has these, else from their specifications.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from oci_modelcar.layer import build_layer_tar_bytes
from oci_modelcar.manifest import BlobDescriptor, build_config_bytes, build_manifest_bytes

from downloader.oci.digest import digest_of
from downloader.oci.manifest import MANIFEST, Manifest, describe, to_json_bytes
from tests.support.command import call, hf_models
from tests.support.make_image import (
    COMMIT,
    HUB,
    MIB,
    Member,
    RawLayer,
    cache_members,
    hard_link,
    layer_of,
    lfs_oid,
    link,
    put,
    put_image,
    random_bytes,
    tar_of,
)
from tests.support.restore import check_cache, layout, registry, restore

pytestmark = pytest.mark.portable

FILES: Mapping[str, bytes] = {
    "config.json": b'{"model_type": "test"}',
    "model.safetensors": random_bytes(5 * MIB + 3, seed=3),
    "onnx/model.onnx": random_bytes(70_000, seed=4),
}
HUB_SOURCE = {
    "org.opencontainers.image.source": "https://huggingface.co/org/model",
    "org.opencontainers.image.revision": COMMIT,
}


def check_files(directory: Path, files: Mapping[str, bytes] = FILES) -> None:
    found = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*") if p.is_file()}
    assert found.keys() == files.keys()
    for path, data in files.items():
        assert found[path].read_bytes() == data, path
    assert not [p for p in directory.rglob("*") if p.name.startswith(".hf-models")]


def restored_files(image: Path | str, directory: Path, *more: str) -> Any:
    ran = hf_models("restore", image, "--local-dir", directory, "--json", *more, code=0)
    return ran.json


def kind(image: Path | str) -> Any:
    ran = hf_models("inspect", image, "--json", code=0)
    return ran.json["kind"]


def put_artifact(
    root: Path,
    layers: Sequence[RawLayer],
    *,
    config: Mapping[str, Any],
    config_type: str,
    artifact_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Path:
    store, document = layout(root), to_json_bytes(dict(config))
    for layer in layers:
        put(store, layer.data)
    put(store, document)
    manifest = Manifest(
        describe(document, config_type),
        tuple(layer.descriptor for layer in layers),
        annotations or {},
        artifact_type=artifact_type,
    )
    store.put_manifest("latest", manifest.to_bytes(), MANIFEST)
    return root


# Modelcars


def models_layer(files: Mapping[str, bytes] = FILES) -> RawLayer:
    return layer_of(*(Member(f"models/{path}", data) for path, data in files.items()))


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd"])
def test_modelcar_of_a_dockerfile(tmp_path: Path, form: str) -> None:
    layer = models_layer()
    forms = {"plain": layer, "gzip": layer.gzipped(), "zstd": layer.zstandard()}
    base = layer_of(Member("etc/hostname", b"x"), link("lib", "usr/lib"))
    put_image(layout(tmp_path / "image"), [base, forms[form]])
    restored_files(tmp_path / "image", tmp_path / "files")
    check_files(tmp_path / "files")
    assert hf_models("verify", tmp_path / "image").code == 0


def test_modelcar_whose_upper_layer_replaces_and_removes_files(tmp_path: Path) -> None:
    upper = layer_of(
        Member("models/config.json", b"{}"),
        Member("models/onnx/.wh.model.onnx"),
        link("models/weights.safetensors", "model.safetensors"),
    )
    put_image(layout(tmp_path / "image"), [models_layer(), upper])
    restored_files(tmp_path / "image", tmp_path / "files")
    weights = FILES["model.safetensors"]
    want = {"config.json": b"{}", "model.safetensors": weights, "weights.safetensors": weights}
    check_files(tmp_path / "files", want)


def test_modelcar_in_a_compressed_archive(tmp_path: Path) -> None:
    put_image(layout(tmp_path / "image"), [models_layer().gzipped()])
    with tarfile.open(tmp_path / "image.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "image", ".")
    restored_files(tmp_path / "image.tar.gz", tmp_path / "files")
    check_files(tmp_path / "files")


def test_some_files_of_a_modelcar_leave_the_others_unwritten(tmp_path: Path) -> None:
    put_image(layout(tmp_path / "image"), [models_layer().gzipped()])
    report = restored_files(tmp_path / "image", tmp_path / "files", "--include", "*.json")
    check_files(tmp_path / "files", {"config.json": FILES["config.json"]})
    assert report["fetched_bytes"] == len(FILES["config.json"])


def test_wrong_byte_in_a_plain_modelcar_layer_is_found_by_the_layers_digest(
    tmp_path: Path,
) -> None:
    layer = models_layer()
    put_image(layout(tmp_path / "image"), [layer])
    path = layout(tmp_path / "image").path_of(digest_of(layer.data))
    data = bytearray(layer.data)
    data[2 * MIB] ^= 1
    path.write_bytes(data)
    ran = hf_models("restore", tmp_path / "image", "--local-dir", tmp_path / "files", code=6)
    assert "want layer sha256:" in ran.err
    assert not (tmp_path / "files/model.safetensors").exists()


def put_oci_modelcar(root: Path, sha256: Mapping[str, str]) -> None:
    store, blobs, diff_ids = layout(root), [], []
    for path, data in sorted(FILES.items()):
        layer = build_layer_tar_bytes("models/", path, data)
        digest = put(store, layer)
        diff_ids.append(str(digest))
        media_type = "application/vnd.oci.image.layer.v1.tar"
        blobs.append(BlobDescriptor(media_type, digest, len(layer), path, sha256.get(path)))
    config = build_config_bytes(diff_ids)
    manifest = build_manifest_bytes(put(store, config), len(config), blobs)
    store.put_manifest("latest", manifest, MANIFEST)


def test_image_made_by_oci_modelcar(tmp_path: Path) -> None:
    put_oci_modelcar(tmp_path / "image", {path: lfs_oid(FILES[path]) for path in FILES})
    assert kind(tmp_path / "image") == "modelcar"
    restored_files(tmp_path / "image", tmp_path / "files")
    check_files(tmp_path / "files")


def test_hubs_sha256_in_annotations_is_compared_with_the_bytes(tmp_path: Path) -> None:
    put_oci_modelcar(tmp_path / "image", {"model.safetensors": "1" * 64})
    ran = hf_models("restore", tmp_path / "image", "--local-dir", tmp_path / "files", code=6)
    assert "1" * 64 in ran.err
    assert not (tmp_path / "files/model.safetensors").exists()


def test_image_made_by_olot(tmp_path: Path) -> None:
    base = layer_of(Member("etc/hostname", b"x"))
    history = {"history": [{"created_by": "base"}]}
    put_image(layout(tmp_path / "image"), [base], config=history)
    source = tmp_path / "source"
    for path, data in FILES.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    card = tmp_path / "README.md"
    card.write_bytes(b"# card\n")
    olot = Path(sys.executable).with_name("olot")
    paths = [source / path for path in FILES]
    image = tmp_path / "image"
    call(olot, "--root-dir", source, "--modelcard", card, image, *paths)
    assert kind(tmp_path / "image") == "modelcar"
    restored_files(tmp_path / "image", tmp_path / "files")
    check_files(tmp_path / "files", {**FILES, "README.md": b"# card\n"})


def test_cache_with_hard_links_under_models_is_restored_as_a_cache(tmp_path: Path) -> None:
    files = {path: data for path, data in FILES.items() if "/" not in path}
    members = []
    for member in cache_members(files):
        names = [path for path, data in files.items() if member.data == data]
        if names and "/blobs/" in member.path:
            members += [Member(f"models/{names[0]}", member.data)]
            members += [hard_link(member.path, f"models/{names[0]}")]
        else:
            members.append(member)
    for form in ("plain", "gzip"):
        layer = layer_of(*members)
        put_image(layout(tmp_path / form), [layer.gzipped() if form == "gzip" else layer])
        assert restore(tmp_path / form, tmp_path / f"cache-{form}").code == 0
        check_cache(tmp_path / f"cache-{form}", files, has_tree=False)


def test_modelcar_that_names_its_repo_and_commit_is_restored_into_the_cache(
    tmp_path: Path,
) -> None:
    put_image(
        layout(tmp_path / "image"), [models_layer()], config={"config": {"Labels": HUB_SOURCE}}
    )
    assert restore(tmp_path / "image", tmp_path / "cache").code == 0
    # Which small file was in LFS is not said, so git's names are taken.
    check_cache(tmp_path / "cache", FILES, has_tree=False)


def test_modelcar_without_a_repo_goes_only_into_a_local_directory(tmp_path: Path) -> None:
    put_image(layout(tmp_path / "image"), [models_layer()])
    ran = restore(tmp_path / "image", tmp_path / "cache", code=2)
    assert "--local-dir" in ran.err
    assert not list((tmp_path / "cache").glob("models--*"))


@pytest.mark.parametrize("path", ["models/../x", "models/a\\..\\b", "models/.git/config"])
def test_modelcar_with_a_path_that_leaves_the_directory_is_refused(
    tmp_path: Path, path: str
) -> None:
    put_image(layout(tmp_path / "image"), [layer_of(Member(path, b"x"))])
    hf_models("restore", tmp_path / "image", "--local-dir", tmp_path / "files", code=5)
    assert not list(tmp_path.glob("files/*"))


# Artifacts

_CNCF = "application/vnd.cncf.model"


def raw(path: str, media_type: str, key: str = "org.cncf.model.filepath") -> RawLayer:
    return RawLayer(FILES[path], media_type, {key: path})


@pytest.mark.parametrize("described", [False, True], ids=["anonymous", "from-the-hub"])
def test_modelpack_of_raw_and_tar_layers(tmp_path: Path, described: bool) -> None:
    onnx = tar_of([Member("onnx/model.onnx", FILES["onnx/model.onnx"])])
    source = {"sourceURL": "https://huggingface.co/org/model", "revision": COMMIT}
    image = put_artifact(
        tmp_path / "image",
        [
            raw("model.safetensors", f"{_CNCF}.weight.v1.raw"),
            raw("config.json", f"{_CNCF}.weight.config.v1.raw"),
            RawLayer(onnx, f"{_CNCF}.weight.v1.tar", {"org.cncf.model.filepath": "onnx"}),
        ],
        config={"descriptor": source if described else {}, "config": {}, "modelfs": {}},
        config_type=f"{_CNCF}.config.v1+json",
        artifact_type=f"{_CNCF}.manifest.v1+json",
    )
    assert kind(image) == "modelpack"
    restored_files(image, tmp_path / "files")
    check_files(tmp_path / "files")
    assert hf_models("verify", image).code == 0
    ran = restore(image, tmp_path / "cache")
    assert ran.code == (0 if described else 2)
    if described:
        check_cache(tmp_path / "cache", FILES, has_tree=False)


@pytest.mark.docker
def test_artifact_pushed_by_modelpack_client(tmp_path: Path) -> None:
    name, _ = registry()
    config = tmp_path / "modelpack.json"
    config.write_text(json.dumps({"descriptor": {}, "config": {}}))
    layers = []
    for path, data in FILES.items():
        file = tmp_path / Path(path).name
        file.write_bytes(data)
        layers += ["--layer", str(file)]
    command = (sys.executable, "-m", "modelpack_client", "--insecure", "push")
    call(*command, "--config", config, *layers, f"{name}:v1", cwd=tmp_path)
    assert kind(f"{name}:v1") == "modelpack"
    restored_files(f"{name}:v1", tmp_path / "files")
    found = {path.name: path.read_bytes() for path in (tmp_path / "files").rglob("*.*")}
    assert found == {Path(path).name: data for path, data in FILES.items()}


def test_docker_model_runner_artifact_without_paths(tmp_path: Path) -> None:
    docker = "application/vnd.docker.ai"
    image = put_artifact(
        tmp_path / "image",
        [
            RawLayer(b"GGUF one", f"{docker}.gguf.v3"),
            RawLayer(b"GGUF two", f"{docker}.gguf.v3"),
            RawLayer(b"MIT", f"{docker}.license"),
            RawLayer(tar_of([Member("config.json", b"{}")]), f"{docker}.vllm.config.tar"),
        ],
        config={"config": {"format": "gguf"}, "files": []},
        config_type=f"{docker}.model.config.v0.1+json",
    )
    assert kind(image) == "docker-model"
    restored_files(image, tmp_path / "files")
    want = {"model.gguf": b"GGUF one", "model-2.gguf": b"GGUF two", "LICENSE": b"MIT"}
    check_files(tmp_path / "files", {**want, "config.json": b"{}"})


def test_docker_model_runner_artifact_of_a_file_for_each_layer(tmp_path: Path) -> None:
    docker = "application/vnd.docker.ai"
    image = put_artifact(
        tmp_path / "image",
        [
            raw("model.safetensors", f"{docker}.safetensors"),
            raw("config.json", f"{docker}.model.file"),
            raw("onnx/model.onnx", f"{docker}.model.file"),
        ],
        config={"config": {"format": "safetensors"}},
        config_type=f"{docker}.model.config.v0.2+json",
    )
    restored_files(image, tmp_path / "files")
    check_files(tmp_path / "files")


@pytest.mark.parametrize("compress", [False, True], ids=["tar", "tar-gzip"])
def test_kitops_modelkit(tmp_path: Path, compress: bool) -> None:
    kit = "application/vnd.kitops.modelkit"
    layers = []
    for path, base in zip(FILES, ("code", "model", "modelpart"), strict=True):
        layer = layer_of(Member(path, FILES[path]))
        data = layer.gzipped().data if compress else layer.data
        layers.append(RawLayer(data, f"{kit}.{base}.v1.tar{'+gzip' if compress else ''}"))
    image = put_artifact(
        tmp_path / "image",
        layers,
        config={"manifestVersion": "1.0.0", "model": {"path": "model.safetensors"}},
        config_type=f"{kit}.config.v1+json",
    )
    assert kind(image) == "modelkit"
    restored_files(image, tmp_path / "files")
    check_files(tmp_path / "files")


def test_files_pushed_by_oras(tmp_path: Path) -> None:
    title = "org.opencontainers.image.title"
    image = put_artifact(
        tmp_path / "image",
        [raw(path, "application/vnd.oci.image.layer.v1.tar", title) for path in FILES],
        config={},
        config_type="application/vnd.oci.empty.v1+json",
        artifact_type="application/vnd.unknown.artifact.v1",
    )
    assert kind(image) == "artifact"
    restored_files(image, tmp_path / "files")
    check_files(tmp_path / "files")


def test_artifact_file_with_other_bytes_than_its_digest(tmp_path: Path) -> None:
    image = put_artifact(
        tmp_path / "image",
        [raw("model.safetensors", f"{_CNCF}.weight.v1.raw")],
        config={},
        config_type=f"{_CNCF}.config.v1+json",
    )
    path = layout(image).path_of(digest_of(FILES["model.safetensors"]))
    path.write_bytes(b"\0" + FILES["model.safetensors"][1:])
    hf_models("restore", image, "--local-dir", tmp_path / "files", code=6)
    assert not (tmp_path / "files/model.safetensors").exists()
    assert hf_models("verify", image).code == 6


@pytest.mark.parametrize("path", ["../x", "a/../../x", "a\x1bb", ".git/hooks/x"])
def test_artifact_with_a_path_that_leaves_the_directory_is_refused(
    tmp_path: Path, path: str
) -> None:
    layer = RawLayer(b"x", f"{_CNCF}.weight.v1.raw", {"org.cncf.model.filepath": path})
    image = put_artifact(
        tmp_path / "image", [layer], config={}, config_type=f"{_CNCF}.config.v1+json"
    )
    hf_models("restore", image, "--local-dir", tmp_path / "files", code=5)
    assert [p.name for p in tmp_path.iterdir() if p.name != "image"] in ([], ["files"])


def test_kinds_of_images(tmp_path: Path) -> None:
    put_image(layout(tmp_path / "image"), [layer_of(Member(f"{HUB}/x", b""))])
    assert kind(tmp_path / "image") == "image"
