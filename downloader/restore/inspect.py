"""A description of an image, from its manifest and config alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from downloader.hub.repo import NO_OID, RepoFile
from downloader.image import (
    PREFIX,
    is_metadata_layer,
    is_programs_layer,
    is_signature_layer,
    parse_count,
    parse_labels,
    parse_members,
)
from downloader.oci.image import all_labels
from downloader.oci.manifest import Descriptor, Manifest
from downloader.plan import OWN_LAYER_TITLES
from downloader.progress import NoProgress, Progress
from downloader.restore.foreign.extract import ContentSkipper
from downloader.restore.foreign.models import is_artifact, iter_files, kind_of
from downloader.restore.foreign.stream import (
    Passed,
    inspect_in_engine,
    look_at_stream,
    open_compressed,
)
from downloader.restore.image import Image
from downloader.restore.opening import Network, open_image
from downloader.restore.reader import find_contents, read_plan
from downloader.restore.source import ArchiveSource, EngineSource, Source

_OCI = "org.opencontainers.image."


@dataclass(frozen=True)
class InspectedLayer:
    """A layer at a glance.

    Args:
        digest: Of the layer; of its content uncompressed, where the engine says no other.
        media_type: As the manifest has it; "" where the engine does not say.
        size_bytes: As it is stored.
        paths: The files that it carries, or parts of them; empty where the image does not say.
        title: Title of a layer without files, in an image of this project; "" for none.
    """

    digest: str
    media_type: str
    size_bytes: int | None
    paths: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Inspection:
    """An image at a glance; None or empty where it does not say.

    Args:
        source: As the user named it.
        digest: The digest that the name resolved to.
        kind: ``hf-models`` for an image of this project; ``modelcar``, ``modelpack``,
            ``docker-model``, ``modelkit``; any other ``image`` or ``artifact``.
        repo_type: ``model``, ``dataset`` or ``space``.
        repo_id: ``org/name``.
        commit: 40 hex digits.
        revision: The branch or tag that was built.
        license: An SPDX expression.
        is_partial: Whether files are left out.
        files: Number of files in the image.
        size_bytes: Of those files.
        layers: Bottom first.
        layer_bytes: Of all layers, as stored.
        listing: The files, if asked for.
        tool_version: Of hf-models.
    """

    source: str
    digest: str
    kind: str
    repo_type: str | None
    repo_id: str | None
    commit: str | None
    revision: str | None
    license: str | None
    is_partial: bool | None
    files: int | None
    size_bytes: int | None
    layers: tuple[InspectedLayer, ...]
    layer_bytes: int
    listing: tuple[RepoFile, ...] = ()
    tool_version: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it for programs; ``docs/json.md`` specifies it."""
        plain = {key: value for key, value in vars(self).items() if key != "is_partial"}
        return plain | {
            "partial": self.is_partial,
            "layers": [asdict(layer) for layer in self.layers],
            "listing": [
                {"path": file.path, "size_bytes": file.size_bytes, "oid": file.oid}
                for file in self.listing
            ],
        }


def inspect(
    source: Source,
    network: Network | None = None,
    progress: Progress | None = None,
    *,
    with_files: bool = False,
) -> Inspection:
    """Return what an image says of itself; reads no layer that can be left unread.

    Args:
        source: A registry, a directory, an archive, or the local engine.
        network: Settings and connections for registries.
        progress: Told of the bytes of a compressed archive, which is read to its end.
        with_files: Whether to list the files as well.

    Raises:
        ProtocolError: Its labels say what cannot be.
        HfModelsError: It cannot be read.
    """
    progress = progress or NoProgress()
    match source:
        case EngineSource(name=name):
            return inspect_engine_answer(name, inspect_in_engine(name))
        case ArchiveSource(compression=str()):
            with open_compressed(source.path) as read_into:
                passed = look_at_stream(read_into, str(source), source.tag, ContentSkipper())
            return inspect_passed(str(source), passed, with_files=with_files)
    return inspect_image(open_image(source, network or Network(), progress), with_files=with_files)


def inspect_image(image: Image, *, with_files: bool = False) -> Inspection:
    """Return what an image says of itself.

    Args:
        image: Opened; of its layers only the small one that lists the files is read.
        with_files: Whether to list the files as well.

    Raises:
        ProtocolError: Its labels say what cannot be.
    """
    planned = read_plan(image)
    found = _describe(image.name, image.digest, image.labels)
    paths: dict[str, list[str]] = {}
    listing = planned.snapshot.files if planned else ()
    for file in listing:
        ranges = planned.ranges[file.oid] if planned else ()
        for digest in dict.fromkeys(layer_range.layer for layer_range in ranges):
            paths.setdefault(digest, []).append(file.path)
    if planned is None and is_artifact(image.manifest):
        for path, extent in iter_files(image.manifest, kind_of(image.manifest, image.labels)):
            file = RepoFile(path, extent.size_bytes, NO_OID, sha256=extent.oid)
            paths[f"sha256:{file.oid}"] = [path]
            listing = (*listing, file)
    found = _with_layers(found, image.manifest, paths)
    return replace(found, listing=listing if with_files else ())


def inspect_passed(name: str, passed: Passed, *, with_files: bool = False) -> Inspection:
    """Return what an image says of itself that could only be read from end to end.

    Args:
        name: As the user named it.
        passed: The stream that was read.
        with_files: Whether to list the files as well.

    Raises:
        ProtocolError: Its labels say what cannot be.
    """
    labels = all_labels(passed.manifest, passed.config)
    files = {file.path: file for item in find_contents(passed) for file in item.to_snapshot().files}
    listing = tuple(files[path] for path in sorted(files))
    paths = {}
    for layer in passed.manifest.layers:
        oids = {member.oid for member in parse_members(layer) or ()}
        paths[str(layer.digest)] = [file.path for file in listing if file.oid in oids]
    found = _with_layers(_describe(name, passed.digest, labels), passed.manifest, paths)
    return replace(found, listing=listing if with_files else ())


def inspect_engine_answer(name: str, answer: Mapping[str, Any]) -> Inspection:
    """Return what the local engine says of an image.

    Args:
        name: Of the image.
        answer: One object of what ``docker image inspect`` prints.

    Raises:
        ProtocolError: Its labels say what cannot be.
    """
    inner, rootfs = answer.get("Config") or {}, answer.get("RootFS") or {}
    labels = {str(key): str(value) for key, value in (inner.get("Labels") or {}).items()}
    return replace(
        _describe(name, str(answer.get("Id")), labels),
        layers=tuple(
            InspectedLayer(str(diff_id), "", None) for diff_id in rootfs.get("Layers") or []
        ),
        layer_bytes=int(answer.get("Size") or 0),
    )


def _title(layer: Descriptor) -> str:
    if is_signature_layer(layer):
        return "signature"
    kinds = (is_programs_layer(layer), is_metadata_layer(layer))
    return next((text for text, fits in zip(OWN_LAYER_TITLES, kinds, strict=True) if fits), "")


def _with_layers(
    found: Inspection, manifest: Manifest, paths: Mapping[str, Sequence[str]] | None = None
) -> Inspection:
    layers = tuple(
        InspectedLayer(
            layer.digest,
            layer.media_type,
            layer.size_bytes,
            tuple((paths or {}).get(layer.digest, ())),
            _title(layer),
        )
        for layer in manifest.layers
    )
    layer_bytes = sum(layer.size_bytes for layer in manifest.layers)
    kind = kind_of(manifest, {})
    return replace(
        found,
        kind=found.kind if kind == "image" else kind,
        layers=layers,
        layer_bytes=layer_bytes,
    )


def _describe(source: str, digest: str, labels: Mapping[str, str]) -> Inspection:
    ours = parse_labels(labels)
    return Inspection(
        source=source,
        digest=digest,
        kind="hf-models" if ours else "image",
        repo_type=ours.repo.type if ours else None,
        repo_id=ours.repo.id if ours else None,
        commit=ours.commit if ours else None,
        revision=ours.revision if ours else None,
        license=labels.get(f"{_OCI}licenses"),
        is_partial=ours.is_partial if ours else None,
        files=parse_count(labels, "files"),
        size_bytes=parse_count(labels, "bytes"),
        layers=(),
        layer_bytes=0,
        tool_version=labels.get(f"{PREFIX}.tool-version"),
    )
