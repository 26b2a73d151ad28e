"""In the builder stage: a fetched cache to one directory per layer, which COPY lines take.

Owner 0, times 0, modes 0644 and 0755, so that the layers that the engine makes of the
directories do not depend on when and where they were made.
"""

import os
from collections.abc import Callable
from pathlib import Path

from downloader.errors import IntegrityError
from downloader.fs import storage_errors
from downloader.hub.cache import BlobHasher, blob_path
from downloader.image import Members, metadata_entries, program_entries
from downloader.oci.tar_write import TarEntry, lay_out
from downloader.plan import Plan
from downloader.progress import NoProgress, Progress

PROGRAMS_DIR = "programs"
METADATA_DIR = "metadata"
ALL_DIR = "all"  # every layer in one directory: what the Dockerfile copies on its own
_PIECE_BYTES = 1 << 20


def layer_dir(number: int) -> str:
    """Return the name of the directory of the layer ``number``, from 0."""
    return f"{number:03d}"


def stage_layers(
    plan: Plan,
    cache_dir: Path,
    out_dir: Path,
    *,
    one_layer: bool = False,
    progress: Progress | None = None,
) -> None:
    """Copy the cache blobs of a plan into the directories of its layers, verified on the way.

    Args:
        plan: Assigns files to layers.
        cache_dir: Holds the repo folder, with every blob.
        out_dir: Gets one directory per layer, and one for programs and metadata each.
        one_layer: Put all layers into one directory.
        progress: Told about bytes.

    Raises:
        IntegrityError: A cache blob has other bytes than its name says; it is removed.
        StorageError: A cache blob is missing, or the disk is full.
    """

    def directory(name: str) -> Path:
        return out_dir / (ALL_DIR if one_layer else name)

    targets = _targets(plan, directory)
    links = _links(plan, directory)
    told = progress or NoProgress()
    told.start(sum(plan.snapshot.blobs.values()), len(targets))
    folder = cache_dir / plan.snapshot.repo.folder_name
    for oid, size_bytes in plan.snapshot.blobs.items():
        _copy_blob(folder / blob_path(oid), BlobHasher(oid, size_bytes), targets[oid], told)
        for root, entry in links.get(oid, ()):
            path = root / entry.path
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if entry.kind == "hardlink":
                    path.hardlink_to(root / entry.target)
                else:
                    path.symlink_to(entry.target)
        told.finish_file(oid)
    _write_members(program_entries(plan), directory(PROGRAMS_DIR))
    _write_members(metadata_entries(plan), directory(METADATA_DIR))
    _normalise(out_dir)


def _targets(plan: Plan, directory: Callable[[str], Path]) -> dict[str, list[tuple[int, Path]]]:
    """Return where each blob's bytes go, by oid: end offset and file, in order."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for number, layer in enumerate(plan.layers):
        for content in layer.contents:
            path = directory(layer_dir(number)) / layer.entries(content)[0].path
            found.setdefault(content.oid, []).append((content.byte_range.end, path))
    return {oid: sorted(items) for oid, items in found.items()}


def _links(plan: Plan, directory: Callable[[str], Path]) -> dict[str, list[tuple[Path, TarEntry]]]:
    """Return the links to each blob's file, by oid: the directory of the layer, and the link."""
    found: dict[str, list[tuple[Path, TarEntry]]] = {}
    for number, layer in enumerate(plan.layers):
        root = directory(layer_dir(number))
        for content in layer.contents:
            links = [(root, entry) for entry in layer.entries(content)[1:]]
            found.setdefault(content.oid, []).extend(links)
    return found


def _copy_blob(
    source: Path, hasher: BlobHasher, targets: list[tuple[int, Path]], progress: Progress
) -> None:
    with storage_errors(source), source.open("rb") as reader:
        for end, target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            with storage_errors(target), target.open("xb") as writer:
                while piece := reader.read(min(_PIECE_BYTES, end - hasher.seen_bytes)):
                    hasher.update(piece)
                    writer.write(piece)
                    progress.advance(len(piece))
    try:
        hasher.check(f"downloaded {source.name}")
    except IntegrityError:
        # A name that lies would be trusted by the next build.
        source.unlink()
        raise


def _write_members(members: Members, out_dir: Path) -> None:
    entries, contents = members
    data = iter(contents)
    with storage_errors(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    for placed in lay_out(entries).entries:
        path = out_dir / placed.entry.path
        with storage_errors(path):
            _write_entry(path, placed.entry, next(data) if placed.entry.kind == "file" else b"")


def _write_entry(path: Path, entry: TarEntry, data: bytes) -> None:
    if entry.kind == "directory":
        path.mkdir(parents=True, exist_ok=True)
    elif entry.kind == "link":
        path.symlink_to(entry.target)
    else:
        path.write_bytes(data)
        path.chmod(0o755 if entry.executable else 0o644)


def _normalise(out_dir: Path) -> None:
    with storage_errors(out_dir):
        for parent, directories, names in os.walk(out_dir, topdown=False):
            for name in [*directories, *names]:
                _normalise_one(Path(parent, name))


def _normalise_one(path: Path) -> None:
    if not path.is_symlink():
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
    if os.geteuid() == 0:
        os.chown(path, 0, 0, follow_symlinks=False)
    os.utime(path, (0, 0), follow_symlinks=False)
