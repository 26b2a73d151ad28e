"""An image against its own names, without restoring it: every byte is read, none is kept.

A layer passes from its first byte to its last and is checked against its digest; each cache
blob in it is hashed against its name. Parts of a split file are hashed one after the other;
where they come in another order, the image is read again for the next one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from downloader.errors import ProtocolError
from downloader.hub.cache import BlobHasher, PartName, blob_path, parse_part, snapshot_path
from downloader.hub.repo import RepoFile
from downloader.hub.verify import Finding, Report
from downloader.image import is_packed, parse_members
from downloader.oci.compression import PlainStream
from downloader.oci.digest import Digest
from downloader.oci.manifest import Descriptor
from downloader.oci.tar_read import ByteSource, TarMember
from downloader.progress import NoProgress, Progress
from downloader.restore.foreign.cache_scan import Extent, FoundSnapshot
from downloader.restore.foreign.entries import Content, InLayer, InStream, Place
from downloader.restore.foreign.layers import look_through, read_layer, tar_layers
from downloader.restore.foreign.stream import (
    Passed,
    ReadInto,
    look_at_stream,
    open_compressed,
    open_saved,
)
from downloader.restore.opening import Network, open_image
from downloader.restore.reader import find_contents
from downloader.restore.source import ArchiveSource, EngineSource, Source

_BUFFER_BYTES = 1024**2
_GIT_OID_LENGTH = 40

Pass = Callable[["Hashing"], list[FoundSnapshot]]


def verify(
    source: Source, network: Network | None = None, progress: Progress | None = None
) -> Report:
    """Compare what an image holds with what its names, lists and plan promise.

    Args:
        source: A registry, a directory, an archive, or the local engine.
        network: Settings and connections for registries.
        progress: Told of every byte.

    Raises:
        ProtocolError: The image is malformed, or holds no Hugging Face cache.
        IntegrityError: A layer is not the one that the manifest names.
        RegistryError, TransportError, EngineError, StorageError: It cannot be read.
    """
    hashing = Hashing(progress or NoProgress())
    look = _passes(source, network or Network(), hashing.progress)
    found = look(hashing)
    while hashing.wants_another_pass():
        found = look(hashing)
    if not found:
        raise ProtocolError(f"{source}: no Hugging Face cache in it")
    return _report(found, hashing)


def _passes(source: Source, network: Network, progress: Progress) -> Pass:
    match source:
        case EngineSource(name=name):
            return _stream_pass(lambda: open_saved(name), name, None)
        case ArchiveSource(compression=str()):
            path = source.path
            return _stream_pass(lambda: open_compressed(path), str(source), source.tag)
    image = open_image(source, network, progress)
    total = sum(map(_plain_bytes, image.manifest.layers))
    unread = [str(layer.digest) for layer in image.manifest.layers]
    progress.start(total, len(unread))

    def look(hashing: "Hashing") -> list[FoundSnapshot]:
        tree = look_through(image, hashing, whole=True)
        for layer in image.manifest.layers:
            if layer not in tar_layers(image):
                read_layer(image, layer, tree.budget, hashing.take_layer)
        progress.skip(max(0, total - hashing.hashed_bytes))  # what is around the contents
        while unread:  # a further pass reads them once more
            progress.finish_file(unread.pop())
        return find_contents(Passed(image.digest, image.manifest, image.config, tree))

    return look


def _plain_bytes(layer: Descriptor) -> int:
    """Return about how many bytes there are to hash, without a look at a seek table."""
    if not is_packed(layer):
        return layer.size_bytes
    return sum(member.content.size_bytes for member in parse_members(layer) or ())


def _stream_pass(
    reopen: Callable[[], AbstractContextManager[ReadInto]], name: str, tag: str | None
) -> Pass:
    def look(hashing: "Hashing") -> list[FoundSnapshot]:
        with reopen() as read_into:
            return find_contents(look_at_stream(read_into, name, tag, hashing))

    return look


@dataclass
class _Chain:
    """The parts of one cache blob, hashed in their order over as many passes as it takes."""

    name: PartName
    sizes: dict[int, int] = field(default_factory=dict)
    hasher: BlobHasher | None = None
    done: int = 0

    def begin(self) -> BlobHasher | None:
        """Return the hasher; git hashes the size first, so all parts must be known."""
        if self.hasher is None:
            is_known = len(self.sizes) == self.name.parts
            if is_known or len(self.name.oid) != _GIT_OID_LENGTH:
                self.hasher = BlobHasher(self.name.oid, sum(self.sizes.values()))
        return self.hasher

    @property
    def wants_another_pass(self) -> bool:
        return self.done < self.name.parts and self.done + 1 in self.sizes


class Hashing:
    """The taker that hashes all that belongs to a cache, and keeps nothing.

    Args:
        progress: Told of every byte.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.blobs: dict[tuple[str, str], str] = {}
        self.hashed_bytes = 0
        self._chains: dict[tuple[str, str], _Chain] = {}
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def take(
        self, layer: str, member: TarMember, place: Place | None, source: ByteSource
    ) -> Content:
        """Hash a content.

        Raises:
            ProtocolError: The layer ends too early.
        """
        part = parse_part(place.rest) if place is not None and place.area == "blobs" else None
        if place is not None and part is not None:
            return self._take_part(layer, member, place, part, source)
        oid = place.oid if place is not None else None
        # What has no name may be listed under either of the two.
        names = [oid] if oid else ["0" * 64, "0" * 40]
        hashers = [BlobHasher(name, member.size_bytes) for name in names]
        self._read(source, member.size_bytes, hashers)
        oids = tuple(hasher.hexdigest() for hasher in hashers)
        if place is not None and oid:
            self.blobs[place.folder, oid] = oids[0]
        return InStream(layer, member.content_offset, oids)

    def take_layer(self, stream: PlainStream) -> None:
        """Count a layer of an artifact that is one file; `read_layer` compares its digest."""
        while count := stream.readinto(self._buffer):
            self.hashed_bytes += count
            self.progress.advance(count)

    def wants_another_pass(self) -> bool:
        """Whether the stream had parts out of order."""
        return any(chain.wants_another_pass for chain in self._chains.values())

    def joined(self, folder: str, oid: str) -> str:
        """Return what the parts of a cache blob hash to, one after the other."""
        chain = self._chains.get((folder, oid))
        if chain is None or chain.hasher is None or chain.done < chain.name.parts:
            return "nothing"
        return chain.hasher.hexdigest()

    def _take_part(
        self, layer: str, member: TarMember, place: Place, part: PartName, source: ByteSource
    ) -> Content:
        chain = self._chains.setdefault((place.folder, part.oid), _Chain(part))
        chain.sizes[part.part] = member.size_bytes
        if part.part == chain.done + 1 and (hasher := chain.begin()):
            self._read(source, member.size_bytes, [hasher])
            chain.done += 1
        return InStream(layer, member.content_offset, (part.oid,))

    def _read(self, source: ByteSource, size_bytes: int, hashers: Iterable[BlobHasher]) -> None:
        left = size_bytes
        while left:
            count = source.readinto(self._buffer[:left])
            if not count:
                raise ProtocolError(f"want {left} bytes more of a file, got the end of its layer")
            for hasher in hashers:
                hasher.update(self._buffer[:count])
            left -= count
            self.hashed_bytes += count
            self.progress.advance(count)


def _report(found: list[FoundSnapshot], hashing: Hashing) -> Report:
    findings: set[Finding] = set()
    for snapshot in found:
        findings.update(_check_contents(snapshot, hashing))
        findings.update(_check_promises(snapshot, snapshot.listing))
        findings.update(_check_promises(snapshot, snapshot.promised))
    findings.update(_check_orphans(found, hashing))
    extents = [extent for snapshot in found for extent in snapshot.files.values()]
    return Report(
        findings=tuple(sorted(findings)),
        repos=len({snapshot.repo for snapshot in found}),
        snapshots=len(found),
        files=len(extents),
        blobs=len({extent.oid for extent in extents if extent.oid}),
        size_bytes=hashing.hashed_bytes,
        unchecked_files=sum(extent.oid is None for extent in extents),
    )


def _check_contents(snapshot: FoundSnapshot, hashing: Hashing) -> Iterator[Finding]:
    folder = snapshot.repo.folder_name
    for extent in snapshot.files.values():
        oid = extent.oid
        if oid is None:
            continue
        got = _hashed(extent, folder, oid, hashing)
        if got != oid:
            yield Finding("wrong", f"{folder}/{blob_path(oid)}", f"oid {oid}", f"oid {got}")
    for path in snapshot.missing:
        yield _missing(snapshot, path, "a content")


def _hashed(extent: Extent, folder: str, oid: str, hashing: Hashing) -> str:
    content = extent.parts[0][0]
    if content == InLayer(Digest(f"sha256:{oid}"), 0):
        return oid  # an artifact's layer that is one file
    if len(extent.parts) > 1 or not isinstance(content, InStream):
        return hashing.joined(folder, oid)
    if oid not in content.oids:
        return content.oids[0]
    is_part = (folder, oid) not in hashing.blobs and len(content.oids) == 1
    return hashing.joined(folder, oid) if is_part else oid


def _check_promises(snapshot: FoundSnapshot, promised: Mapping[str, RepoFile]) -> Iterator[Finding]:
    if not promised:
        return
    name = f"{snapshot.repo.folder_name}/{snapshot_path(snapshot.commit, '')}"
    for path, file in promised.items():
        extent = snapshot.files.get(path)
        if extent is None:
            if path not in snapshot.missing:
                yield _missing(snapshot, path, f"{file.size_bytes} bytes")
        elif extent.oid != file.oid:
            yield Finding("wrong", name + path, f"oid {file.oid}", f"oid {extent.oid}")
        elif extent.size_bytes != file.size_bytes:
            want, got = f"{file.size_bytes} bytes", f"{extent.size_bytes} bytes"
            yield Finding("wrong", name + path, want, got)
    for path in snapshot.files.keys() - promised.keys():
        yield Finding("extra", name + path, "only promised files", "another file")


def _missing(snapshot: FoundSnapshot, path: str, want: str) -> Finding:
    name = f"{snapshot.repo.folder_name}/{snapshot_path(snapshot.commit, path)}"
    return Finding("missing", name, want, "nothing")


def _check_orphans(found: list[FoundSnapshot], hashing: Hashing) -> Iterator[Finding]:
    used = {
        (snapshot.repo.folder_name, extent.oid)
        for snapshot in found
        for extent in snapshot.files.values()
    }
    for folder, oid in hashing.blobs.keys() - used:
        yield Finding("extra", f"{folder}/{blob_path(oid)}", "a link from a snapshot", "none")
