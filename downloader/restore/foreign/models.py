"""Images of plain files: modelcars, and artifacts of ModelPack, Docker Model Runner and KitOps.

A modelcar is an ordinary image whose files lie under ``/models``. An artifact has no image
config; its layers are files, or tars of files.

Source: KServe 0.21, "Modelcars"; olot 1.2.1 constants.py and oci-modelcar 1.3 manifest.py for
their annotations; modelpack/model-spec docs/spec.md and docs/config.md; docker/model-runner
pkg/distribution/types; kitops-ml/kitops pkg/lib/constants/mediatype; ORAS 1.2 for titles.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from downloader.errors import HfModelsError, ProtocolError
from downloader.hub.repo import NO_OID, Repo, check_repo_path, is_commit, is_oid, parse_repo
from downloader.image import REPO_ID_LABEL
from downloader.oci.digest import hex_of
from downloader.oci.manifest import IMAGE_CONFIGS, Descriptor, Manifest
from downloader.restore.foreign.cache_scan import Extent, FoundSnapshot
from downloader.restore.foreign.entries import MODELS_DIRS, UNNAMED, InLayer, InStream, Node
from downloader.restore.foreign.overlay import Tree, iter_leaves

# Of an image, as `inspect` says it; "image" is any other, which may hold a Hugging Face cache.
Kind = Literal[
    "hf-models",
    "modelcar",
    "modelpack",
    "docker-model",
    "modelkit",
    "artifact",
    "image",
]

_FAMILIES: Mapping[str, Kind] = {
    "application/vnd.cncf.model.": "modelpack",
    "application/vnd.cnai.model.": "modelpack",  # before its specification's 0.0.3
    "application/vnd.docker.ai.": "docker-model",
    "application/vnd.kitops.modelkit.": "modelkit",
    "application/vnd.jozu.model.": "modelkit",
}
_TAR = re.compile(r"[./+]tar\b")
_TITLE = "org.opencontainers.image.title"
_PATHS = ("org.cncf.model.filepath", "org.cnai.model.filepath", _TITLE)
_UNPACK = "io.deis.oras.content.unpack"  # of a title that stands for a directory
# What Docker Model Runner calls a layer without a path; its annotations are recent.
_DOCKER_NAMES = {
    "gguf": "model.gguf",
    "safetensors": "model.safetensors",
    "mmproj": "model.mmproj",
    "dduf": "model.dduf",
    "license": "LICENSE",
    "chat.template": "template.jinja",
}
# Annotations of a modelcar's layer: the sha256 of its one file. oci-modelcar has it from the
# Hub, olot from the file.
_SHA256 = ("io.github.codanael.modelcar.hf-sha256", "olot.layer.content.digest")
_MODELCAR = (*_SHA256, "io.github.codanael.modelcar.hf-path", "io.opendatahub.modelcar.layer.type")
_HUB_URL = re.compile(
    r"https?://(?:huggingface\.co|hf\.co|hf-mirror\.com)/"
    r"(?:(?P<type>dataset|space)s/)?(?P<id>[^/?#]+/[^/?#]+)(?:/(?:tree|resolve)/[^?#]*)?/?"
)


def kind_of(manifest: Manifest, labels: Mapping[str, str]) -> Kind:
    """Return what kind of image a manifest describes; its layers are not asked.

    Args:
        manifest: Of the image.
        labels: Of its config, and its annotations.
    """
    types = [manifest.artifact_type or "", manifest.config.media_type]
    for family, kind in _FAMILIES.items():
        if any(media_type.startswith(family) for media_type in types):
            return kind
    if manifest.config.media_type not in IMAGE_CONFIGS:
        return "artifact"
    if REPO_ID_LABEL in labels:
        return "hf-models"
    annotated = any(key in layer.annotations for layer in manifest.layers for key in _MODELCAR)
    return "modelcar" if annotated else "image"


def is_artifact(manifest: Manifest) -> bool:
    """Whether the layers are an artifact's, and not those of a container's file system."""
    is_image = manifest.config.media_type in IMAGE_CONFIGS
    return not is_image or kind_of(manifest, {}) in _FAMILIES.values()


def is_file(layer: Descriptor, kind: Kind) -> bool:
    """Whether a layer of an artifact is one file, and not a tar of files."""
    if kind == "artifact" and _TITLE in layer.annotations:
        return layer.annotations.get(_UNPACK) != "true"
    return not _TAR.search(layer.media_type)


def iter_files(manifest: Manifest, kind: Kind) -> Iterator[tuple[str, Extent]]:
    """Yield the path and content of each layer of an artifact that is one file.

    Raises:
        ProtocolError: A path would leave the directory, or two layers have one path.
    """
    seen: set[str] = set()
    for layer in manifest.layers:
        if not is_file(layer, kind):
            continue
        path = _path_of(layer, seen)
        check_repo_path(path)
        if path in seen:
            raise ProtocolError(f"two layers of the artifact are the file {path!r}")
        seen.add(path)
        content = InLayer(layer.digest, 0)
        yield path, Extent(hex_of(layer.digest), ((content, layer.size_bytes),))


def _path_of(layer: Descriptor, taken: set[str]) -> str:
    for key in _PATHS:
        if key in layer.annotations:
            return layer.annotations[key].removeprefix("./").lstrip("/")
    known = (name for mark, name in _DOCKER_NAMES.items() if mark in layer.media_type)
    name = PurePosixPath(next(known, f"{hex_of(layer.digest)[:12]}.bin"))
    path, count = str(name), 1
    while path in taken:
        count += 1
        path = f"{name.stem}-{count}{name.suffix}"
    return path


def layer_oid(layer: Descriptor) -> str | None:
    """Return the sha256 that a modelcar's layer says its one file has."""
    texts = (layer.annotations.get(key, "").removeprefix("sha256:") for key in _SHA256)
    return next((text for text in texts if len(text) == 64 and is_oid(text)), None)


def find_models(
    tree: Tree,
    manifest: Manifest,
    labels: Mapping[str, str],
    config: Mapping[str, Any],
) -> FoundSnapshot | None:
    """Return the plain files of an image; None if it has none.

    Args:
        tree: The files that its layers show.
        manifest: Of the image.
        labels: Of its config, and its annotations.
        config: Of the image or artifact.

    Raises:
        ProtocolError: A path is one that no repo has.
    """
    files: dict[str, Extent] = {}
    missing: list[str] = []
    kind = kind_of(manifest, labels)
    artifact = is_artifact(manifest)
    if artifact:
        files.update(iter_files(manifest, kind))
    oids = {str(layer.digest): layer_oid(layer) for layer in manifest.layers}
    for root in [""] if artifact else MODELS_DIRS:
        for path, node in iter_leaves(tree.directory(root)):
            check_repo_path(path)
            found = tree.resolve(f"{root}/{path}")[1] if node.kind == "link" else node
            content = found.content if isinstance(found, Node) else None
            if isinstance(content, InLayer | InStream) and isinstance(found, Node):
                extent = Extent(oids.get(content.layer), ((content, found.size_bytes),))
                files.setdefault(path, extent)
            else:
                missing.append(path)
        if files:
            break
    if not files:
        return None
    repo, commit = _said_repo(labels, config)
    return FoundSnapshot(repo, commit, (), files, missing=tuple(missing))


def _said_repo(labels: Mapping[str, str], config: Mapping[str, Any]) -> tuple[Repo, str]:
    """Return the repo and commit that an image says its files are from."""
    descriptor = config.get("descriptor")
    described = descriptor if isinstance(descriptor, Mapping) else {}
    url = labels.get("org.opencontainers.image.source") or str(described.get("sourceURL", ""))
    commit = labels.get("org.opencontainers.image.revision") or str(described.get("revision", ""))
    found = _HUB_URL.fullmatch(url)
    if found is None or not is_commit(commit):
        return UNNAMED, NO_OID
    try:
        return parse_repo(found["id"], found["type"] or "model"), commit
    except HfModelsError:
        return UNNAMED, NO_OID
