"""A CNCF ModelPack manifest over the same layers, for tools of that specification.

Source: https://github.com/modelpack/model-spec, docs/spec.md and docs/config.md.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from downloader.image import created, diff_id_of, is_packed
from downloader.oci.manifest import Descriptor, Manifest, Platform, describe, to_json_bytes
from downloader.plan import PACKED, Layer, Plan

MANIFEST_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_FILEPATH = "org.cncf.model.filepath"
# In an index, an entry that no engine may run says so, as attestations do; an engine that
# looks for its own platform never takes it.
NO_PLATFORM = Platform("unknown", "unknown")

_WEIGHTS = {".safetensors", ".bin", ".gguf", ".pt", ".pth", ".onnx", ".h5", ".msgpack", ".ckpt"}
_FORMATS = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    ".onnx": "onnx",
    ".bin": "pytorch",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".h5": "tensorflow",
}


def model_config(plan: Plan, layers: Sequence[Descriptor]) -> bytes:
    """Return the model's config.

    Args:
        plan: The plan of the image.
        layers: In the order of the manifest.
    """
    snapshot = plan.snapshot
    descriptor: dict[str, Any] = {
        "createdAt": created(plan),
        "name": snapshot.repo.name,
        "title": snapshot.repo.id,
        "sourceURL": snapshot.repo.url,
        "revision": snapshot.commit,
        "version": snapshot.revision,
    }
    if "/" in snapshot.repo.id:
        descriptor["vendor"] = snapshot.repo.id.partition("/")[0]
    if snapshot.license:
        descriptor["licenses"] = [snapshot.license]
    suffixes = [_suffix(file.path) for file in snapshot.files]
    formats = [_FORMATS[suffix] for suffix in suffixes if suffix in _FORMATS]
    document = {
        "descriptor": descriptor,
        "config": {"format": formats[0]} if formats else {},
        "modelfs": {"type": "layers", "diffIds": [diff_id_of(layer) for layer in layers]},
    }
    return to_json_bytes(document)


def model_manifest(plan: Plan, config: bytes, layers: Sequence[Descriptor]) -> bytes:
    """Return the manifest over ``layers``: those of the plan, then links and lists."""
    kinds = [_kind(plan, layer) for layer in plan.layers]
    kinds += ["weight.config"] * (len(layers) - len(kinds))
    names = [_name(plan, layer) for layer in plan.layers]
    names += [f"hf-models-{at}" for at in range(len(layers) - len(names))]
    described = tuple(
        Descriptor(
            f"application/vnd.cncf.model.{kind}.v1.tar{PACKED if is_packed(layer) else ''}",
            layer.digest,
            layer.size_bytes,
            {_FILEPATH: name},
        )
        for kind, name, layer in zip(kinds, names, layers, strict=True)
    )
    return Manifest(
        describe(config, CONFIG_TYPE), described, artifact_type=MANIFEST_TYPE
    ).to_bytes()


def _name(plan: Plan, layer: Layer) -> str:
    """Return the path of a layer's first file, by which readers tell layers apart."""
    first = layer.contents[0]
    path = next(file.path for file in plan.snapshot.files if file.oid == first.oid)
    return f"{path}.part-{first.part:05d}" if first.parts else path


def _kind(plan: Plan, layer: Layer) -> str:
    oids = {content.oid for content in layer.contents}
    suffixes = {_suffix(file.path) for file in plan.snapshot.files if file.oid in oids}
    if plan.snapshot.repo.type == "dataset":
        return "dataset"
    if suffixes & _WEIGHTS:
        return "weight"
    return "doc" if suffixes <= {".md", ".txt", ".pdf", ""} else "weight.config"


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
