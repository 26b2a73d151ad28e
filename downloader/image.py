"""The image of a plan: names, labels, annotations, config, programs and metadata layer. Pure.

Both ways to build (Docker and streaming) take these from here, so that one image is like
the other. ``docs/image-format.md`` specifies the format.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from downloader import __version__
from downloader.errors import InputError, ProtocolError
from downloader.hub.cache import iter_metadata_entries
from downloader.hub.repo import Repo, is_commit, is_oid, parse_repo
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest, parse_digest
from downloader.oci.manifest import LAYER, Descriptor, Platform, to_json_bytes
from downloader.oci.tar_write import TarEntry, iter_tar, lay_out
from downloader.plan import FORMAT_VERSION, PACKED, PROGRAMS_DIR, Layer, Plan
from downloader.receiver import receiver
from downloader.sheet import sheet

PREFIX = "io.github.alphahinex.hf-models"
REPO_ID_LABEL = f"{PREFIX}.repo-id"
PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))

EXPORT_PATH = f"{PROGRAMS_DIR.strip('/')}/export"
RECEIVER_PATH = f"{PROGRAMS_DIR.strip('/')}/hf-models.pyz"
README_PATH = "README"
SHEET_PATH = "SHEET"
# Without a command, or with --help, it says what the image is; other commands it runs.
ENTRYPOINT = [f"/{EXPORT_PATH}", "--image"]


# A member list of this size is worth carrying in the manifest (limit: 4 MiB in all);
# a longer one is read from the tar headers.
MEMBERS_LIMIT_BYTES = 512 * 1024
EPOCH = "1970-01-01T00:00:00Z"


def plan_path(commit: str) -> str:
    """Return where the plan lies in the repo folder, as trees/<commit>.json does."""
    return f"plans/{commit}.json"


def plan_json(plan: Plan) -> bytes:
    """Return the plan as it lies in the image."""
    return to_json_bytes(plan.to_json())


def labels(plan: Plan, base: Mapping[str, str] | None = None, builder: str = "") -> dict[str, str]:
    """Return the labels of the image, which are also the annotations of its manifest.

    Args:
        plan: The plan of the image.
        base: ``name`` and ``digest`` of the base image, where there is one.
        builder: The image of the stage that downloaded the files, by digest; empty for none.

    Source: OCI image specification 1.1, annotations.md, "Pre-Defined Annotation Keys".
    """
    snapshot = plan.snapshot
    standard = {
        "title": snapshot.repo.id,
        "description": f"{snapshot.repo.type} {snapshot.repo.id} as a Hugging Face cache",
        "source": snapshot.repo.url,
        "url": f"{snapshot.repo.url}/tree/{snapshot.commit}",
        "revision": snapshot.commit,
        "version": snapshot.revision,
        "created": created(plan),
        "licenses": snapshot.license or "",
        **{f"base.{key}": value for key, value in (base or {}).items()},
    }
    ours = {
        "repo-id": snapshot.repo.id,
        "repo-type": snapshot.repo.type,
        "commit": snapshot.commit,
        "revision": snapshot.revision,
        "files": str(len(snapshot.files)),
        "bytes": str(snapshot.size_bytes),
        "partial": _flag(snapshot.is_partial),
        "gated": str(snapshot.gated).lower(),
        "private": _flag(snapshot.private),
        "format": str(FORMAT_VERSION),
        "cache-root": plan.cache_root,
        "models-dir": plan.models_dir or "",
        "names": _list(snapshot.selection.names),
        "include": _list(snapshot.selection.include),
        "exclude": _list(snapshot.selection.exclude),
        "tool-version": __version__,
        "builder": builder,
        "description": snapshot.description or "",
        "task": snapshot.task or "",
        "parameters": "" if snapshot.parameters is None else str(snapshot.parameters),
        "library": snapshot.library or "",
    }
    named = {f"org.opencontainers.image.{key}": value for key, value in standard.items()}
    named |= {f"{PREFIX}.{key}": value for key, value in ours.items()}
    return {key: value for key, value in sorted(named.items()) if value}


def created(plan: Plan) -> str:
    """Return the commit's date as RFC 3339: the same on every machine and at any time."""
    date = plan.snapshot.committed_at
    return date.strftime("%Y-%m-%dT%H:%M:%SZ") if date else EPOCH


def environment(plan: Plan) -> list[str]:
    """Return the image's variables: offline, or loading waits minutes for a Hub it cannot reach."""
    return [f"HF_HUB_CACHE={plan.cache_root.rstrip('/')}/hub", "HF_HUB_OFFLINE=1"]


@cache
def readme() -> bytes:
    """Return what a person reads first, in both languages: the same in every image."""
    return files("downloader").joinpath("image-readme.txt").read_bytes()


@cache
def export_script() -> bytes:
    """Return the shell script ``export``, which copies the cache out of a running image."""
    return files("downloader").joinpath("export.sh").read_bytes()


Members = tuple[list[TarEntry], list[bytes]]


def program_entries(plan: Plan) -> Members:
    """Return the members of the programs layer, and the contents of its files in tar order.

    The export script, the receiver, and what a person reads first: in every image of one
    version the same layer, so that no registry and no machine takes it twice.
    """
    data = {EXPORT_PATH: export_script()}
    if plan.has_receiver:
        data[RECEIVER_PATH] = receiver()
    entries = [TarEntry(path, size_bytes=len(data[path]), executable=True) for path in data]
    data[README_PATH] = readme()
    entries.append(TarEntry(README_PATH, size_bytes=len(data[README_PATH])))
    return _members(entries, data)


def metadata_entries(plan: Plan) -> Members:
    """Return the members of the metadata layer, and the contents of its files in tar order.

    Refs, snapshot links, trees, the plan itself, the sheet, and in the models directory a note
    on the files that are not there because they are split.
    """
    extra = {plan_path(plan.snapshot.commit): plan_json(plan)}
    facts = [("built by", f"hf-models {__version__}")]
    data = {SHEET_PATH: sheet(plan.snapshot, facts)}
    if plan.models_dir and plan.parts:
        data[_note_path(plan, plan.models_dir)] = _split_note(plan, plan.models_dir)
    entries = [TarEntry(path, size_bytes=len(text)) for path, text in data.items()]
    for entry in iter_metadata_entries(plan.snapshot, extra):
        path = f"{plan.folder}/{entry.path}"
        entries.append(TarEntry(path, entry.kind, len(entry.data), entry.target))
        data[path] = entry.data
    return _members(entries, data)


def _members(entries: list[TarEntry], data: Mapping[str, bytes]) -> Members:
    ordered = [placed.entry for placed in lay_out(entries).entries]
    return entries, [data[entry.path] for entry in ordered if entry.kind == "file"]


def _note_path(plan: Plan, models_dir: str) -> str:
    taken = {file.path.partition("/")[0] for file in plan.snapshot.files}
    name = "SPLIT-FILES.txt"
    while name in taken:
        name = f"_{name}"
    return f"{models_dir.strip('/')}/{name}"


def _split_note(plan: Plan, models_dir: str) -> bytes:
    split = plan.parts
    names = sorted(file.path for file in plan.snapshot.files if file.oid in split)
    lines = [
        f"These files are not in {models_dir}, because each is larger than a layer of this image",
        f"may be. Their parts are in /{plan.folder}/blobs.",
        "",
        *(f"  {name}" for name in names),
        "",
        "Whole and verified files: hf-models restore IMAGE",
        "or                        docker run --rm -v DIR:/export IMAGE export",
        "",
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def programs_tar(plan: Plan) -> bytes:
    """Return the bytes of the programs layer: less than a megabyte."""
    return _tar(program_entries(plan))


def metadata_tar(plan: Plan) -> bytes:
    """Return the bytes of the metadata layer: a megabyte for some thousand files."""
    return _tar(metadata_entries(plan))


def _tar(members: Members) -> bytes:
    entries, contents = members
    return b"".join(iter_tar(lay_out(entries), contents))


@dataclass(frozen=True)
class Member:
    """A cache blob, or a part of one, inside a layer's uncompressed tar.

    Args:
        oid: The cache blob.
        blob_bytes: The size of the whole cache blob.
        content: The place of its bytes in the tar.
        start: The offset in the cache blob of the first of them.
    """

    oid: str
    blob_bytes: int
    content: ByteRange
    start: int = 0


def layer_annotations(layer: Layer) -> dict[str, str]:
    """Return what a layer's descriptor says of it: its key, and what lies where in it."""
    members = [
        [content.oid, content.blob_bytes, offset, content.size_bytes]
        + ([content.byte_range.start] if content.parts else [])
        for content, offset in layer.placed
    ]
    text = json.dumps(members, separators=(",", ":"))
    keyed = {f"{PREFIX}.layer.key": layer.key}
    if len(text) <= MEMBERS_LIMIT_BYTES:
        keyed[f"{PREFIX}.layer.members"] = text
    return keyed


METADATA_ANNOTATIONS: Mapping[str, str] = {f"{PREFIX}.layer.metadata": "true"}
PROGRAMS_ANNOTATIONS: Mapping[str, str] = {f"{PREFIX}.layer.programs": "true"}


def layer_key(descriptor: Descriptor) -> str | None:
    """Return the key of the layer that a descriptor names, None where it has none."""
    return descriptor.annotations.get(f"{PREFIX}.layer.key")


def layer_name(descriptor: Descriptor) -> str | None:
    """Return `Layer.name` of the layer that a descriptor names, None where it has no key."""
    key = layer_key(descriptor)
    return f"{key}{PACKED}" if key and is_packed(descriptor) else key


def packed_descriptor(digest: Digest, size_bytes: int, diff_id: Digest) -> Descriptor:
    """Return the descriptor of a compressed layer of ours.

    Args:
        digest: Of the registry blob.
        size_bytes: Of the registry blob.
        diff_id: The digest of the tar.
    """
    notes = {f"{PREFIX}.layer.seekable": str(digest), f"{PREFIX}.layer.diff-id": str(diff_id)}
    return Descriptor(f"{LAYER}{PACKED}", digest, size_bytes, notes)


def is_packed(descriptor: Descriptor) -> bool:
    """Whether a layer is one of our compressed ones, with a seek table at its end.

    A program that compresses an image again may keep the annotations; the digest shows that the
    layer is another one.
    """
    is_own = descriptor.annotations.get(f"{PREFIX}.layer.seekable") == descriptor.digest
    return is_own and descriptor.media_type == f"{LAYER}{PACKED}"


def diff_id_of(descriptor: Descriptor) -> Digest:
    """Return the digest of a layer's tar.

    Raises:
        ProtocolError: A compressed layer does not say it.
    """
    if not is_packed(descriptor):
        return descriptor.digest
    return parse_digest(descriptor.annotations.get(f"{PREFIX}.layer.diff-id"), "layer.diff-id")


def stored_layer(descriptor: Descriptor) -> Descriptor:
    """Return a layer's descriptor with what is true of the blob, and nothing of the image."""
    if is_packed(descriptor):
        return packed_descriptor(descriptor.digest, descriptor.size_bytes, diff_id_of(descriptor))
    return Descriptor(LAYER, descriptor.digest, descriptor.size_bytes)


def signature_path(commit: str) -> str:
    """Return where the signed statement over a commit's files lies in the repo folder."""
    return f"signatures/{commit}.json"


def signature_tar(plan: Plan, bundle: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the layer that carries a signed statement, and the annotations of its descriptor."""
    path = f"{plan.folder}/{signature_path(plan.snapshot.commit)}"
    layout = lay_out([TarEntry(path, size_bytes=len(bundle))])
    return b"".join(iter_tar(layout, [bundle])), {f"{PREFIX}.layer.signature": "true"}


def is_signature_layer(descriptor: Descriptor) -> bool:
    """Whether a descriptor says that it is the layer of the signed statement."""
    return f"{PREFIX}.layer.signature" in descriptor.annotations


def is_metadata_layer(descriptor: Descriptor) -> bool:
    """Whether a descriptor says that it is the metadata layer."""
    return f"{PREFIX}.layer.metadata" in descriptor.annotations


def is_programs_layer(descriptor: Descriptor) -> bool:
    """Whether a descriptor says that it is the layer of the programs."""
    return f"{PREFIX}.layer.programs" in descriptor.annotations


def parse_members(descriptor: Descriptor) -> tuple[Member, ...] | None:
    """Return what a descriptor says lies in its layer; None where it says nothing.

    Raises:
        ProtocolError: It says what cannot be: no oid, or bytes outside the layer.
    """
    text = descriptor.annotations.get(f"{PREFIX}.layer.members")
    if text is None:
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{descriptor.digest}: members annotation: want JSON") from error
    if not isinstance(items, list):
        raise ProtocolError(f"{descriptor.digest}: members annotation: want a list")
    return tuple(_parse_member(item, descriptor, i) for i, item in enumerate(items))


def _parse_member(item: object, layer: Descriptor, index: int) -> Member:
    where = f"{layer.digest}: members[{index}]"
    if not isinstance(item, list) or len(item) not in {4, 5}:
        raise ProtocolError(f"{where}: want oid, blob size, offset, size and start")
    oid, *numbers = item
    if not isinstance(oid, str) or not is_oid(oid):
        raise ProtocolError(f"{where}: want an oid, got {str(oid)[:80]!r}")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ProtocolError(f"{where}: want sizes and offsets in bytes, got {numbers!r}")
    blob_bytes, offset, size_bytes, start = [*numbers, 0][:4]
    # Of a compressed layer, its own table says how long the tar is.
    tar_bytes = offset + size_bytes if is_packed(layer) else layer.size_bytes
    if offset + size_bytes > tar_bytes or start + size_bytes > blob_bytes:
        raise ProtocolError(f"{where}: want bytes inside the layer and the blob, got {numbers!r}")
    return Member(oid, blob_bytes, ByteRange(offset, offset + size_bytes), start)


def config_json(
    plan: Plan,
    platform: Platform,
    diff_ids: Sequence[Digest],
    base_config: Mapping[str, Any],
    base: Mapping[str, str] | None = None,
) -> bytes:
    """Return the image config: the base's, with our layers, labels and variables on top.

    Args:
        plan: The plan of the image.
        platform: The platform of the image.
        diff_ids: Of our layers, the metadata layer last.
        base_config: The base image's config; empty for none.
        base: ``name`` and ``digest`` of the base image, where there is one.

    Source: OCI image specification 1.1, config.md.
    """
    inner = dict(_base_object(base_config, "config"))
    rootfs = _base_object(base_config, "rootfs")
    base_labels = _base_object(inner, "Labels")
    names = {line.partition("=")[0] for line in environment(plan)}
    lines = [str(line) for line in _base_list(inner, "Env")]
    kept = [line for line in lines if line.partition("=")[0] not in names]
    inner["Env"] = (kept or [_DEFAULT_PATH]) + environment(plan)
    inner["Labels"] = dict(base_labels) | labels(plan, base)
    inner["Entrypoint"] = ENTRYPOINT
    inner.pop("Cmd", None)  # of the base; it would be the arguments of our entry point
    document: dict[str, Any] = {
        "created": created(plan),
        **platform.to_json(),
        "config": inner,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*_base_list(rootfs, "diff_ids"), *diff_ids],
        },
        "history": [*_base_list(base_config, "history"), *_history(plan, len(diff_ids))],
    }
    return to_json_bytes(document)


def _base_object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object of the base image's config; null is as good as missing."""
    value = document.get(key)
    if not isinstance(value, Mapping | None):
        raise ProtocolError(f"base image config: {key}: want an object, got {value!r:.80}")
    return value or {}


def _base_list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list | None):
        raise ProtocolError(f"base image config: {key}: want a list, got {value!r:.80}")
    return value or []


# Docker's own default where a config names none.
_DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _history(plan: Plan, count: int) -> list[dict[str, str]]:
    snapshot = plan.snapshot
    text = f"hf-models {snapshot.repo.url_path}@{snapshot.commit}"
    return [{"created": created(plan), "created_by": text} for _ in range(count)]


@dataclass(frozen=True)
class ImageLabels:
    """The labels of an image, parsed; None for those that are missing."""

    repo: Repo
    commit: str
    revision: str
    is_partial: bool
    gated: bool
    private: bool


def parse_labels(found: Mapping[str, str]) -> ImageLabels | None:
    """Parse the labels of an image, or the annotations of a manifest.

    Raises:
        ProtocolError: They are ours, and say what cannot be.
    """
    repo_id = found.get(REPO_ID_LABEL)
    if repo_id is None:
        return None
    ours = {key: found.get(f"{PREFIX}.{key}", "") for key in _PARSED}
    if not is_commit(ours["commit"]):
        raise ProtocolError(f"label commit: want 40 hex digits, got {ours['commit']!r}")
    try:
        repo = parse_repo(repo_id, ours["repo-type"] or "model")
    except InputError as error:
        raise ProtocolError(f"label repo-id: {error.message}") from error
    return ImageLabels(
        repo=repo,
        commit=ours["commit"],
        revision=ours["revision"],
        is_partial=ours["partial"] == "true",
        gated=ours["gated"] not in {"", "false"},
        private=ours["private"] == "true",
    )


def parse_count(found: Mapping[str, str], key: str) -> int | None:
    """Return a number of the labels of an image; None where they say none."""
    text = found.get(f"{PREFIX}.{key}", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


_PARSED = ("repo-type", "commit", "revision", "partial", "gated", "private")


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _list(items: Sequence[str]) -> str:
    return json.dumps(list(items), ensure_ascii=False) if items else ""
