"""Images between registries, OCI layout directories and archives."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from downloader.environment import Environment
from downloader.errors import HfModelsError, InputError
from downloader.fs import expand_home
from downloader.library.connection import (
    Connection,
    Session,
    open_session,
    references_of,
)
from downloader.library.consumer import Image, find_source
from downloader.oci.digest import Digest
from downloader.oci.image_archive import LocalBlobs, open_files
from downloader.oci.layout import Layout
from downloader.oci.reference import Reference, parse_reference
from downloader.oci.registry import Registry
from downloader.oci.store import RawManifest, Store
from downloader.progress import Progress
from downloader.publish import Copied, SourceImage, StoredImage
from downloader.publish import copy as copy_image
from downloader.publish.archive import write_archive
from downloader.restore.image import Image as OpenedImage
from downloader.restore.image import first_manifest, open_local_image, open_registry_image
from downloader.restore.image_blobs import ImageBlobs
from downloader.restore.inspect import inspect_image
from downloader.restore.opening import open_registries
from downloader.restore.source import (
    PATH_PREFIXES,
    ArchiveSource,
    LayoutSource,
    RegistrySource,
    RootSource,
    Source,
)
from downloader.transfer.source import RangeSource

ARCHIVE_SUFFIX = ".tar"
_NAME = "hf-models"  # of an image in an archive that says no other


def copy(
    images: Sequence[Image],
    to: Sequence[Image],
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    connection: Connection | None = None,
) -> list[Copied]:
    """Copy images between registries, OCI layout directories and archives, whole.

    Args:
        images: Like ``ghcr.io/me/models:tag``, a layout directory, or an archive; ``:tag``
            behind a directory or archive that holds several images.
        to: Like ``quay.io/me/models`` (the tag stays) or with a tag; a directory; or a name that
            ends in ``.tar``, for an archive of one image, which ``docker load`` takes.
        environment: None for the process's own.
        progress: Told of every blob that is sent.
        connection: Settings for registries, over those of the environment.

    Returns:
        What became of each image at each destination; one that fails does not stop the others.

    Raises:
        InputError: Several images for one archive, or a source that copying does not read.
        HfModelsError: A source is not there, or cannot be read.
    """
    sources = [find_source(image) for image in images]
    places = [_find_place(place) for place in to]
    archives = [place for place in places if _is_archive(place)]
    if archives and len(sources) > 1:
        raise InputError(
            f"{archives[0]}: want one image for an archive, got {len(sources)}",
            hint="a directory takes several: --to DIRECTORY/",
        )
    references = [item for item in places if isinstance(item, Reference)]
    done: list[Copied] = []
    with open_session(
        connection, environment, progress, references or references_of(sources)
    ) as session:
        for source in sources:
            opened = _open(source, session)
            stored = [_stored_at(p, opened, session) for p in places if p not in archives]
            names = opened.name_layers
            copied = iter(copy_image(opened.image, stored, session.progress, name_layers=names))
            for place in places:
                if isinstance(place, Path) and place in archives:
                    done.append(_write(opened, place, session.progress))
                else:
                    done.append(next(copied))
    return done


@dataclass(frozen=True)
class _Opened:
    """An image to copy.

    Args:
        image: For `downloader.publish.copy`.
        tag: That it gets elsewhere; None where it has none.
        open: Opens it for a look at the files in its layers.
        name: That it gets in an engine, without tag.
    """

    image: SourceImage
    tag: str | None
    open: Callable[[], OpenedImage]
    name: str = _NAME

    def name_layers(self) -> dict[Digest, str]:
        """Return the file that each layer carries, where the image says so."""
        try:
            layers = inspect_image(self.open()).layers
        except HfModelsError:
            return {}  # names are for people; the copy itself reports the error
        parts = Counter(path for layer in layers for path in layer.paths)
        seen: Counter[str] = Counter()
        names: dict[Digest, str] = {}
        for layer in layers:
            for path in layer.paths[:1]:
                seen[path] += 1
                part = f" part {seen[path]} of {parts[path]}" if parts[path] > 1 else ""
                more = f" and {len(layer.paths) - 1} more" if layer.paths[1:] else ""
                names[Digest(layer.digest)] = path + part + more
        return names


def _open(source: Source, session: Session) -> _Opened:
    """Return an image whose bytes can be asked for.

    Raises:
        InputError: It is none, or copying does not read it.
    """
    match source:
        case RegistrySource(reference=reference):
            progress = session.progress
            chain = open_registries(reference, session.network, progress.note)
            reader = _Mirrored(chain, str(reference), progress) if chain[1:] else None
            target = reference.target
            return _Opened(
                SourceImage(session.open(reference), target, reader),
                reference.tag or (None if reference.digest else target),
                partial(open_registry_image, str(source), target, chain, progress),
                reference.name,
            )
        case LayoutSource(path=path, tag=tag) if _is_in(Layout(path), tag):
            layout = Layout(path)
            tag = tag or _only_tag(layout)
            look = partial(open_local_image, str(path), open_files(path), tag)
            return _Opened(SourceImage(layout, tag), tag, look)
        case LayoutSource(path=path, tag=tag) | ArchiveSource(path=path, tag=tag, compression=None):
            blobs = open_files(path)
            look = partial(open_local_image, str(path), blobs, tag)
            return _Opened(SourceImage(blobs, tag or ""), _tag_in(blobs, tag), look)
        case ArchiveSource(path=path, compression=compression):
            raise InputError(
                f"{source}: copy reads archives that are not compressed, got {compression}",
                hint=f"decompress it first: {compression} -d {shlex.quote(str(path))}",
            )
        case RootSource(path=path):
            raise InputError(
                f"{source}: copy reads no root file system",
                hint=f"put it into a tar first: tar -C {shlex.quote(str(path))} -cf root.tar .",
            )
        case _:
            raise InputError(
                f"{source}: copy reads no image of the Docker engine",
                hint="save it first: docker save -o image.tar IMAGE, and copy image.tar",
            )


class _Mirrored:
    """An image of a registry, read where a mirror has it."""

    def __init__(self, registries: list[Registry], name: str, progress: Progress) -> None:
        self._registries = registries
        self._blobs = ImageBlobs(registries, progress.note)
        self._name = name
        self._progress = progress

    def get_manifest(self, reference: str) -> RawManifest | None:
        return first_manifest(self._registries, reference, self._name, self._progress)

    def source(self, digest: Digest, size_bytes: int) -> RangeSource:
        return self._blobs.source(digest, size_bytes)


def _find_place(place: Image) -> Reference | Path:
    text = os.fspath(place)
    is_path = text.startswith(PATH_PREFIXES) or text.endswith(("/", os.sep, ARCHIVE_SUFFIX))
    if is_path or not text or Path(text).is_dir():
        return expand_home(text)
    return parse_reference(text)


def _is_archive(place: Reference | Path) -> bool:
    return isinstance(place, Path) and place.suffix == ARCHIVE_SUFFIX and not place.is_dir()


def _stored_at(place: Reference | Path, opened: _Opened, session: Session) -> StoredImage[Store]:
    if isinstance(place, Path):
        return StoredImage(Layout(place), _tag_of(opened, place))
    tag = place.tag or opened.tag
    if tag is None and ":" in opened.image.reference:
        tag = opened.image.reference  # a registry keeps an image without a tag, too
    return StoredImage(session.open_for_writing(place), tag or _tag_of(opened, place))


def _tag_of(opened: _Opened, place: Reference | Path) -> str:
    if opened.tag is None:
        raise InputError(
            f"{opened.image.name}: the copy in {place} needs a tag",
            hint="name one: NAME:TAG@sha256:... where it comes from a registry, else --to NAME:TAG",
        )
    return opened.tag


def _write(opened: _Opened, path: Path, progress: Progress) -> Copied:
    tag = _tag_of(opened, path)
    image = parse_reference(opened.name).with_tag(tag)
    try:
        digest = write_archive(opened.image, image, path, progress, opened.name_layers())
    except HfModelsError as error:
        return Copied(str(path), tag, None, error)
    return Copied(str(path), tag, digest)


def _tag_in(blobs: LocalBlobs, tag: str | None) -> str | None:
    """Return the tag that an image has in an archive, without the name before it."""
    names = (tag, *blobs.choose(tag).names) if tag else blobs.choose(None).names
    tags = (name.rpartition("/")[2].rpartition(":")[2] for name in names)
    return next((found for found in tags if found), None)


def _is_in(layout: Layout, tag: str | None) -> bool:
    """Whether a directory is a layout with this tag, or with any."""
    tags = layout.list_tags()
    return tag in tags if tag else bool(tags)


def _only_tag(layout: Layout) -> str:
    tags = layout.list_tags()
    if len(tags) != 1:
        raise InputError(
            f"{layout.name}: want one image, got {len(tags)}",
            hint=f"name one of them: {layout.root}:{tags[0] if tags else 'TAG'}",
        )
    return tags[0]
