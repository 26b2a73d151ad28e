"""Sources of repos: repositories of a registry, layouts, archives, a Hugging Face cache.

A source is looked at again and again; each look reads what has changed since the last one.
An image of this project is opened by its manifest and config alone, and its list of files is
read when a client asks for the repo. Any other image is looked through at once, because
nothing else says what it holds; what is compressed goes into the cache on the way.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from downloader.errors import (
    HfModelsError,
    InputError,
    IntegrityError,
    ProtocolError,
    RegistryError,
    StorageError,
)
from downloader.fs import expand_home, read_small_file, storage_errors
from downloader.hub.cache import BlobHasher, tree_path
from downloader.hub.repo import (
    GIT_LIMIT_BYTES,
    REF_LIMIT_BYTES,
    Repo,
    RepoFile,
    Snapshot,
    check_repo_path,
    is_commit,
    is_oid,
)
from downloader.hub.verify import hash_files
from downloader.image import parse_count
from downloader.oci.digest import Digest
from downloader.oci.image_archive import open_files
from downloader.oci.reference import Reference
from downloader.oci.registry import Registry
from downloader.progress import Progress
from downloader.publish.checkpoint import is_image_tag
from downloader.restore.foreign.cache_scan import parse_listing
from downloader.restore.foreign.entries import parse_folder
from downloader.restore.foreign.extract import ContentExtractor, ContentSkipper
from downloader.restore.foreign.scan import Taker
from downloader.restore.image import Image, open_local_image, open_registry_image
from downloader.restore.opening import Network, open_registries
from downloader.restore.reader import Found, read_image, read_listed, read_plan, read_source
from downloader.restore.restore_plan import keys_to_read, plan_work, read_streams
from downloader.restore.source import (
    ArchiveSource,
    LayoutSource,
    RegistrySource,
    compression_of,
    is_layout,
    parse_source,
)
from downloader.serve.cache import Cache
from downloader.serve.catalogue import Entry, Loaded, Location, Lookup, Remote
from downloader.transfer.workers import run_all

T = TypeVar("T")
Snapped = tuple[Found, Loaded]

_REQUESTS_AT_ONCE = 8  # manifests of one repository, side by side
_UNPACKED = 2  # times the size of a compressed image: weights have less, text more
_CACHE_FOLDERS = ("models--", "datasets--", "spaces--")
_CREATED = "org.opencontainers.image.created"
_LICENSES = "org.opencontainers.image.licenses"


class Source(Protocol):
    """Something that holds repos."""

    @property
    def name(self) -> str:
        """As the user named it, for messages."""

    def look(self) -> list[Entry]:
        """Return what it holds now.

        Raises:
            HfModelsError: It cannot be read now.
        """


@dataclass(frozen=True)
class Reading:
    """Settings for reading images.

    Args:
        network: Settings and connections for registries.
        cache: For images that pass once; None without one.
        progress: Told of images that are left out, and why.
    """

    network: Network
    cache: Cache | None
    progress: Progress


def open_sources(text: str, reading: Reading) -> Source:
    """Return the source that an argument names; reads nothing yet.

    Raises:
        InputError: It names nothing that can be.
    """
    path = expand_home(text)
    if path.is_dir():
        cache = next((p for p in (path, path / "hub") if _holds_cache(p)), None)
        if cache is not None:
            return CacheSource(cache)
        if not is_layout(path):
            return DirectorySource(path, reading)
    found = parse_source(text, lambda _name: False)
    match found:
        case RegistrySource(reference=reference):
            return RepositorySource(reference, reading)
        case LayoutSource() | ArchiveSource():
            return LocalSource(found, reading)
    raise InputError(
        f"want a repository, an image, a directory or an archive, got {text!r}",
        hint="save an engine's image first: docker save -o image.tar NAME",
    )


def _holds_cache(path: Path) -> bool:
    """Whether a directory is a cache; one that is empty yet is known by its name."""
    if not path.is_dir() or is_layout(path):
        return False
    return path.name == "hub" or any(p.name.startswith(_CACHE_FOLDERS) for p in path.iterdir())


class RepositorySource:
    """The images of a repository of a registry: all tags, or the one that is named."""

    def __init__(self, reference: Reference, reading: Reading) -> None:
        self.name = str(reference)
        self._reference = reference
        self._reading = reading
        self._registries = open_registries(reference, reading.network, reading.progress.note)
        self._known: dict[Digest, list[Entry]] = {}

    def look(self) -> list[Entry]:
        """Ask for the digest of each tag, and read the images that are new."""
        tags = self._tags()
        looked: dict[str, tuple[Digest | None, list[Entry]]] = {}

        def look_at(tag: str) -> None:
            looked[tag] = self._look_at(tag)

        run_all([(_REQUESTS_AT_ONCE, [partial(look_at, tag) for tag in tags])])
        found = [looked[tag] for tag in tags]
        self._known = {digest: entries for digest, entries in found if digest is not None}
        if not self._known and (self._reference.tag or self._reference.digest):
            raise RegistryError(
                f"{self.name}: not found", status=404, hint="check the name and the tag"
            )
        unique = dict.fromkeys(entry for _, entries in found for entry in entries)
        return list(unique)

    def _tags(self) -> list[str]:
        if self._reference.tag or self._reference.digest:
            return [self._reference.target]
        tags = self._first(lambda registry: registry.list_tags() or None) or []
        return [tag for tag in tags if is_image_tag(tag)]

    def _look_at(self, tag: str) -> tuple[Digest | None, list[Entry]]:
        digest = self._first(lambda registry: registry.manifest_digest(tag))
        if digest is None:
            return None, []
        if digest in self._known:
            return digest, self._known[digest]
        try:
            return digest, self._read(tag, digest)
        except (IntegrityError, RegistryError) as error:
            is_damaged = isinstance(error, IntegrityError) or error.status == 404
            if not is_damaged or self._reference.tag or self._reference.digest:
                raise
            self._reading.progress.note(f"{self._reference.name}:{tag}: left out: {error.message}")
            return None, []  # the next look reads it again

    def _read(self, tag: str, digest: Digest) -> list[Entry]:
        name = f"{self._reference.name}:{tag}"
        try:
            # By digest: the tag may move between the two requests.
            image = open_registry_image(name, digest, self._registries, self._reading.progress)
            return list(entries_of(image, self._reading))
        except (ProtocolError, InputError) as error:  # an artifact, or an image without a cache
            self._reading.progress.note(f"{name}: left out: {error.message}")
            return []

    def _first(self, ask: Callable[[Registry], T | None]) -> T | None:
        for registry in self._registries[:-1]:
            try:
                if (answer := ask(registry)) is not None:
                    return answer
            except HfModelsError as error:
                self._reading.progress.note(f"{registry.name}: {error.message}; trying the next")
        return ask(self._registries[-1])


class LocalSource:
    """The images of a layout directory or an archive."""

    def __init__(self, source: LayoutSource | ArchiveSource, reading: Reading) -> None:
        self.name = str(source)
        self._source = source
        self._reading = reading
        self._stamp: tuple[int, int] | None = None
        self._entries: list[Entry] = []

    def look(self) -> list[Entry]:
        """Read the images again if their index has changed."""
        stamp = self._read_stamp()
        if stamp != self._stamp:
            entries = list(dict.fromkeys(self._read()))
            if self._source.tag and not entries:
                raise InputError(f"{self.name}: not found", hint="check the tag")
            self._entries, self._stamp = entries, stamp
        return self._entries

    def _read_stamp(self) -> tuple[int, int]:
        path = self._source.path
        files = [path / "index.json", path / "manifest.json"] if path.is_dir() else [path]
        try:
            status = next(file for file in files if file.exists()).stat()
        except (OSError, StopIteration) as error:
            raise InputError(f"{path} holds no image") from error
        return status.st_mtime_ns, status.st_size

    def _read(self) -> Iterator[Entry]:
        source = self._source
        if isinstance(source, ArchiveSource) and source.compression:
            yield from self._pass_through(source)
            return
        blobs = open_files(source.path)
        manifests = {item.data: item for item in blobs.manifests()}
        for item in manifests.values():
            tag = source.tag or (item.names[0] if item.names else None)
            name = f"{source.path}:{tag}" if tag else str(source.path)
            if source.tag and not any(n == tag or n.endswith(f":{tag}") for n in item.names):
                continue
            try:
                image = open_local_image(name, blobs, tag if len(manifests) > 1 else None)
                yield from entries_of(image, self._reading)
            except (ProtocolError, InputError) as error:
                self._reading.progress.note(f"{name}: left out: {error.message}")

    def _pass_through(self, source: ArchiveSource) -> Iterator[Entry]:
        name, progress = str(source), self._reading.progress
        progress.note(f"{name}: is compressed; reading it into the cache")
        _check_cache(name, self._reading)
        look = partial(
            _load_found,
            lambda taker: read_source(source, self._reading.network, taker, progress),
            self._reading,
            _UNPACKED * self._read_stamp()[1],
        )
        yield from [_found_entry(found, loaded, look) for found, loaded in look()]


class DirectorySource:
    """A directory of layouts and archives, like ``dist/``."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.name = str(path)
        self._path = path
        self._reading = reading
        self._sources: dict[Path, LocalSource] = {}

    def look(self) -> list[Entry]:
        """Look at every layout and archive that is there now."""
        entries: list[Entry] = []
        with storage_errors(self._path):
            paths = sorted(self._path.iterdir())
        for path in paths:
            try:
                with storage_errors(path):
                    source = self._sources.get(path) or self._open(path)
                if source is None:
                    continue
                self._sources[path] = source
                entries += source.look()
            except HfModelsError as error:  # being written, or removed meanwhile
                self._reading.progress.note(f"{path}: left out: {error.message}")
        return entries

    def _open(self, path: Path) -> LocalSource | None:
        if is_layout(path):
            return LocalSource(LayoutSource(path), self._reading)
        if path.is_file() and path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci")):
            return LocalSource(ArchiveSource(path, compression_of(path)), self._reading)
        return None


# Images


def entries_of(image: Image, reading: Reading) -> Iterator[Entry]:
    """Yield the snapshots of an image; one of this project is not read on before it is asked for.

    Raises:
        ProtocolError: The image is malformed.
        InputError: It has to be looked through, and there is no cache for it.
    """
    ours = image.ours
    if ours is None:
        look = partial(_look_into, image, reading)
        yield from [_found_entry(found, loaded, look) for found, loaded in look()]
        return
    labels = image.labels
    yield Entry(
        ours.repo,
        ours.commit,
        () if is_commit(ours.revision) else (ours.revision,),
        labels.get(_CREATED, "")[:40],
        image.name,
        lambda: _load(image, reading),
        license=labels.get(_LICENSES, "")[:100],
        gated=ours.gated,
        private=ours.private,
        size_bytes=parse_count(labels, "bytes"),
    )


def _load(image: Image, reading: Reading) -> Loaded:
    """Return the files of an image whose labels name a snapshot."""
    planned = read_plan(image)
    if planned is not None:
        return _loaded(planned, None)
    listed = read_listed(image)
    if listed is None:
        return _look_for_ours(image, reading)
    # The files are known, where their bytes lie is not: looked for when a client asks for them.
    lookup = Lookup(lambda: _look_for_ours(image, reading))
    return Loaded(listed, lookup.locate, lambda _oid: lookup)


def _look_for_ours(image: Image, reading: Reading) -> Loaded:
    """Look through an image for the snapshot that its labels name."""
    ours = image.ours
    assert ours is not None  # noqa: S101 - the caller's images have labels
    return _look_for(partial(_look_into, image, reading), ours.repo, ours.commit, image.name)


def _look_for(look: Callable[[], list[Snapped]], repo: Repo, commit: str, name: str) -> Loaded:
    for found, loaded in look():
        if (found.snapshot.repo, found.snapshot.commit) == (repo, commit):
            return loaded
    raise ProtocolError(f"{name}: lacks the snapshot of {repo.id} at {commit}")


def _look_into(image: Image, reading: Reading) -> list[Snapped]:
    reading.progress.note(f"{image.name}: does not say what lies where; looking through it")
    layers = image.manifest.layers
    packed = [layer for layer in layers if layer.media_type.endswith(("gzip", "zstd"))]
    packed_bytes = sum(layer.size_bytes for layer in packed)
    size_bytes = (parse_count(image.labels, "bytes") or _UNPACKED * packed_bytes) if packed else 0
    return _load_found(
        lambda taker: read_image(image, taker, reading.progress), reading, size_bytes
    )


def _load_found(
    read: Callable[[Taker], list[Found]], reading: Reading, size_bytes: int
) -> list[Snapped]:
    """Return the snapshots of an image; contents of streams go into the cache on the way.

    Args:
        read: Reads the image.
        reading: Settings for reading images.
        size_bytes: Of the contents of its streams, about: room is made for them.
    """
    cache = reading.cache
    if cache is None:
        found = read(ContentSkipper())
        for item in found:
            if keys_to_read(item):
                _check_cache(item.source, reading)
        return [(item, _loaded(item, None)) for item in found]
    if size_bytes:
        cache.make_room(size_bytes, lambda _: False)
    with ContentExtractor(cache.target, reading.progress) as extractor:
        named = [read_streams(item, extractor) for item in read(extractor)]
        snapped = [(item, _loaded(item, extractor, cache)) for item in named]
    brought = {oid for item in named for oid in item.snapshot.blobs}
    cache.make_room(0, brought.__contains__)
    return snapped


def _loaded(item: Found, extractor: ContentExtractor | None, cache: Cache | None = None) -> Loaded:
    if not item.has_repo:
        raise InputError(f"{item.source}: does not say which repo and commit its files are from")
    work = plan_work([item])
    locations: dict[str, Location] = {
        plan.oid: Remote(plan, image_blobs) for plan, image_blobs in work.ranges
    }
    for repo, oid, keys in work.streams:
        if extractor is not None and cache is not None:
            blob = locations[oid] = cache.target.blob(repo, oid)
            is_new = not blob.exists()  # else it may be the user's own
            extractor.settle(repo, oid, keys)
            if is_new:
                cache.mark(repo, oid)
    return Loaded(item.snapshot, locations.__getitem__)


def _check_cache(name: str, reading: Reading) -> None:
    if reading.cache is None:
        raise InputError(
            f"{name}: is compressed, so it can only be served from a cache",
            hint="leave out --no-cache, or publish the image without compression",
        )


def _found_entry(item: Found, loaded: Loaded, look: Callable[[], list[Snapped]]) -> Entry:
    """Return a snapshot that ``look`` has found; it looks again if its cache blobs were removed."""
    snapshot = item.snapshot
    again = partial(_look_for, look, snapshot.repo, snapshot.commit, item.source)
    lookup = Lookup(again, loaded)
    loaded = Loaded(snapshot, lookup.locate, lambda _oid: lookup)
    date = snapshot.committed_at
    return Entry(
        snapshot.repo,
        snapshot.commit,
        item.revisions,
        date.strftime("%Y-%m-%dT%H:%M:%SZ") if date else "",
        item.source,
        lambda: loaded,
        license=snapshot.license or "",
        size_bytes=snapshot.size_bytes,
    )


# A Hugging Face cache


class CacheSource:
    """The snapshots of a Hugging Face cache on this machine."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root

    def look(self) -> list[Entry]:
        """List the snapshots; their files are listed when they are asked for."""
        entries: list[Entry] = []
        with storage_errors(self._root):
            folders = sorted(self._root.iterdir())
        for folder in folders:
            if not folder.name.startswith(_CACHE_FOLDERS):
                continue
            try:
                repo = parse_folder(folder.name)
            except ProtocolError:
                continue  # the library would not look there either
            with suppress(OSError):  # removed meanwhile, another user's, or without snapshots
                entries += list(self._entries(folder, repo))
        return entries

    def _entries(self, folder: Path, repo: Repo) -> Iterator[Entry]:
        revisions: dict[str, list[str]] = {}
        for path in _iter_files(folder / "refs"):
            data = read_small_file(path, REF_LIMIT_BYTES)
            if data is not None:
                commit = data.decode(errors="replace").strip()
                name = path.relative_to(folder / "refs").as_posix()
                revisions.setdefault(commit, []).append(name)
        for directory in sorted((folder / "snapshots").iterdir()):
            if is_commit(directory.name) and directory.is_dir():
                yield Entry(
                    repo,
                    directory.name,
                    tuple(sorted(revisions.get(directory.name, []))),
                    _date(directory),
                    str(directory),
                    _SnapshotLoader(folder, repo, directory.name),
                )


def _date(directory: Path) -> str:
    """Return when a file last came or went; another date has the snapshot listed again."""
    parents = (Path(parent) for parent, _, _ in os.walk(directory))
    changed_at = max((p.stat().st_mtime for p in parents), default=directory.stat().st_mtime)
    return datetime.fromtimestamp(changed_at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _iter_files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        for name in names:
            yield Path(parent) / name


@dataclass(frozen=True)
class _SnapshotLoader:
    """Reads the files of a snapshot of a cache."""

    folder: Path
    repo: Repo
    commit: str

    def __call__(self) -> Loaded:
        root = self.folder / "snapshots" / self.commit
        listing = self._listing()
        paths: dict[str, Path] = {}
        files: list[RepoFile] = []
        for path in sorted(_iter_files(root)):
            name = path.relative_to(root).as_posix()
            file = self._file(path, name, listing.get(name))
            if file is not None:
                files.append(file)
                paths[file.oid] = path.resolve()
        snapshot = Snapshot(
            self.repo,
            self.commit,
            self.commit,
            tuple(files),
            is_partial=set(listing) != {f.path for f in files},
        )
        return Loaded(snapshot, paths.__getitem__)

    def _listing(self) -> dict[str, RepoFile]:
        path = self.folder / tree_path(self.commit)
        try:
            return parse_listing(path.read_bytes(), str(path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from error

    def _file(self, path: Path, name: str, listed: RepoFile | None) -> RepoFile | None:
        check_repo_path(name)
        try:
            if not path.is_file():  # a link to a blob that is not there, or a pipe
                return None
            size_bytes = path.stat().st_size  # of what a link leads to
            oid = path.readlink().name if path.is_symlink() else ""
        except OSError:
            return None  # it went meanwhile
        if listed is not None and listed.size_bytes == size_bytes:
            return listed
        if not is_oid(oid):
            oid = _hash(path, size_bytes)
        return RepoFile.of_oid(name, size_bytes, oid)


def _hash(path: Path, size_bytes: int) -> str:
    """Return the oid of a file that is no link: on Windows a cache holds copies."""
    hasher = BlobHasher("0" * (64 if size_bytes > GIT_LIMIT_BYTES else 40), size_bytes)
    hash_files([path], hasher)
    return hasher.hexdigest()
