"""An image that passes by once: ``docker save`` through a pipe, or a compressed archive.

Its manifest may come last and its layers in any order, so each member is looked at as what it
seems to be, a layer or a small document, and put together when all have passed.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from downloader.errors import EngineError, ProtocolError, StorageError
from downloader.net.ranges import ByteRange
from downloader.oci.compression import PlainStream
from downloader.oci.digest import Digest, digest_of
from downloader.oci.image import NamedManifest, choose_manifest, pick_named
from downloader.oci.image_archive import (
    FileRange,
    SavedImage,
    StoredLayer,
    link_path,
    names_of,
    pick_saved,
    saved_manifest,
)
from downloader.oci.manifest import (
    MANIFEST_LIMIT_BYTES,
    Index,
    Manifest,
    parse_json_object,
    parse_manifest,
)
from downloader.oci.tar_read import ByteSource, TarMember, iter_members, read_exactly
from downloader.restore.foreign.budget import Budget
from downloader.restore.foreign.overlay import Tree
from downloader.restore.foreign.scan import LayerScan, Taker, scan_layer

_DOCUMENT_LIMIT_BYTES = 4 * 1024**2  # of a config or manifest; the budget limits their sum
_USTAR = slice(257, 262)
# containerd fetches no blob of a layer that another image has brought in another form.
_INCOMPLETE = (
    "from an engine: docker rmi this image and the one with the same files in other layers"
    " (zstd, or plain), and pull it again"
)
_ERROR_LIMIT_BYTES = 4096  # of what docker says, for the message
_DRAIN_BYTES = 1024**2
_END_TIMEOUT_S = 1.0  # of docker that has closed its end of the pipe
_ANSWER_TIMEOUT_S = 20.0  # of an engine that only looks something up

ReadInto = Callable[[memoryview], int]


@dataclass
class _Members:
    """The part of a stream that was read so far.

    Args:
        documents: Small files by path.
        scans: The scans of the layers, by path.
        digests: Of the members as they were, by path.
        layers: The members that are layers, as they are stored, by path.
        links: Paths that stand for other paths.
    """

    documents: dict[str, bytes] = field(default_factory=dict)
    scans: dict[str, LayerScan] = field(default_factory=dict)
    digests: dict[str, Digest] = field(default_factory=dict)
    layers: dict[str, StoredLayer] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def path_of(self, path: str) -> str:
        return self.links.get(path, path)


@dataclass(frozen=True)
class Passed:
    """An image that was looked through: its manifest, its config, and what its layers show."""

    digest: str
    manifest: Manifest
    config: Mapping[str, Any]
    tree: Tree


def look_at_stream(read_into: ReadInto, name: str, tag: str | None, taker: Taker) -> Passed:
    """Return the image in an archive, and hand its contents to ``taker`` as they pass.

    Args:
        read_into: Fills a buffer with the next bytes of the archive, compressed or not.
        name: For messages.
        tag: Chooses one of several images.
        taker: Decides about contents.

    Raises:
        ProtocolError: The archive or a layer is malformed, or another than its manifest says.
        InputError: It holds several images, and ``tag`` names none of them.
    """
    passed, budget = _Members(), Budget(name)

    def counted(buffer: memoryview) -> int:
        got = read_into(buffer)
        budget.receive(got)
        return got

    stream = PlainStream(counted, name)
    for member in iter_members(stream, name, step=budget.step):
        budget.member()
        _look(member, stream, passed, taker, budget)
    _drain(counted)
    manifest, config, paths, digest = _find_image(passed, name, tag)
    tree = Tree(budget)
    for layer, path in zip(manifest.layers, paths, strict=True):
        scan = passed.scans.get(path)
        if scan is None or passed.digests.get(path) != layer.digest:
            got = passed.digests.get(path, "nothing")
            raise ProtocolError(f"{name}: want layer {layer.digest}, got {got}")
        tree.apply(scan)
    return Passed(digest, manifest, config, tree)


def _drain(read_into: ReadInto) -> None:
    # docker would die of a closed pipe, and call that an error.
    scratch = memoryview(bytearray(_DRAIN_BYTES))
    while read_into(scratch):
        pass


def _look(
    member: TarMember, stream: ByteSource, passed: _Members, taker: Taker, budget: Budget
) -> None:
    if member.kind in {"link", "hardlink"}:
        passed.links[budget.text(member.path)] = link_path(member.path, member.target, member.kind)
    if member.kind != "file":
        return
    budget.text(member.path)
    content = _Hashed(stream, member.size_bytes)
    inner = PlainStream(content.readinto, member.path)
    if inner.compression is not None or inner.head[_USTAR] == b"ustar":
        plain = _Plain(inner)
        passed.scans[member.path] = scan_layer(plain, member.path, taker, budget)
        _drain(plain.readinto)
        _drain(content.readinto)
        stored = (inner.compression, content.digest, plain.digest) if inner.compression else ()
        passed.layers[member.path] = StoredLayer(member.size_bytes, *stored)
    elif _is_empty_tar(inner.head):
        passed.scans[member.path] = LayerScan()
        _drain(content.readinto)
        passed.layers[member.path] = StoredLayer(member.size_bytes)
    elif member.size_bytes <= _DOCUMENT_LIMIT_BYTES:
        budget.keep(member.size_bytes)
        passed.documents[member.path] = read_exactly(inner, member.size_bytes, member.path)
    passed.digests[member.path] = content.digest


def _is_empty_tar(head: bytes) -> bool:
    return len(head) == 512 and not any(head)


class _Hashed:
    """One member of the archive, hashed as it is read."""

    def __init__(self, source: ByteSource, size_bytes: int) -> None:
        self._source = source
        self._left = size_bytes
        self._hash = hashlib.sha256()

    def readinto(self, buffer: memoryview) -> int:
        count = self._source.readinto(buffer[: self._left])
        self._hash.update(buffer[:count])
        self._left -= count
        return count

    @property
    def digest(self) -> Digest:
        return Digest(f"sha256:{self._hash.hexdigest()}")


class _Plain:
    """A layer without its compression, hashed as it is read where it has one."""

    def __init__(self, stream: PlainStream) -> None:
        self._stream = stream
        self._hash = hashlib.sha256() if stream.compression else None
        self._scratch = memoryview(bytearray(_DRAIN_BYTES)) if self._hash else None

    @property
    def offset(self) -> int:
        return self._stream.offset

    def readinto(self, buffer: memoryview) -> int:
        count = self._stream.readinto(buffer)
        if self._hash:
            self._hash.update(buffer[:count])
        return count

    def skip(self, size_bytes: int) -> None:
        if self._scratch is None:
            self._stream.skip(size_bytes)
            return
        while size_bytes:
            got = self.readinto(self._scratch[:size_bytes])
            if not got:
                raise ProtocolError(f"want {size_bytes} bytes more of a layer, got its end")
            size_bytes -= got

    @property
    def digest(self) -> Digest | None:
        return Digest(f"sha256:{self._hash.hexdigest()}") if self._hash else None


def _find_image(
    passed: _Members, name: str, tag: str | None
) -> tuple[Manifest, dict[str, Any], list[str], Digest]:
    by_digest = {passed.digests[path]: path for path in passed.digests}

    def get(digest: Digest) -> bytes | None:
        return passed.documents.get(by_digest.get(digest, ""))

    if "index.json" in passed.documents:
        named = pick_named(_indexed(passed.documents["index.json"], get), tag, name)
        manifest = choose_manifest(named.data, get)
        config = get(manifest.config.digest)
        paths = [by_digest.get(layer.digest, "") for layer in manifest.layers]
    elif "manifest.json" in passed.documents:
        entry = pick_saved(passed.documents["manifest.json"], tag, name)
        manifest, paths = _saved(entry, passed)
        config = passed.documents.get(passed.path_of(entry.config))
        named = NamedManifest(manifest.to_bytes())
    else:
        raise ProtocolError(
            f"{name}: want an image archive, got neither index.json nor manifest.json"
        )
    if config is None:
        raise ProtocolError(f"{name}: lacks config {manifest.config.digest}", hint=_INCOMPLETE)
    parsed = parse_json_object(config, "config", _DOCUMENT_LIMIT_BYTES)
    return manifest, parsed, paths, digest_of(named.data)


def _indexed(data: bytes, get: Callable[[Digest], bytes | None]) -> Iterator[NamedManifest]:
    index = parse_manifest(data)
    if not isinstance(index, Index):
        raise ProtocolError("index.json: want an index, got a manifest")
    for descriptor in index.manifests:
        found = get(descriptor.digest)
        if found is not None and len(found) <= MANIFEST_LIMIT_BYTES:
            yield NamedManifest(found, names_of(descriptor))


def _saved(entry: SavedImage, passed: _Members) -> tuple[Manifest, list[str]]:
    config = passed.documents.get(passed.path_of(entry.config))
    paths = [passed.path_of(path) for path in entry.layers]
    if config is None or not all(path in passed.scans for path in paths):
        raise ProtocolError("manifest.json: names a config or a layer that the archive lacks")
    return saved_manifest(entry, config, [passed.layers[path] for path in paths]), paths


@contextmanager
def open_compressed(path: Path) -> Iterator[ReadInto]:
    """Open an archive for reading from its beginning."""
    with FileRange(path, ByteRange(0, path.stat().st_size)) as reader:
        yield reader.readinto


@contextmanager
def open_saved(name: str) -> Iterator[ReadInto]:
    """Open what ``docker save`` writes about an image of the local engine.

    Raises:
        EngineError: There is no docker, or it said no.
    """
    with _open_temporary() as said:  # docker would stop at a full pipe
        try:
            process = subprocess.Popen(
                ["docker", "image", "save", name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        except OSError as error:
            raise EngineError(
                f"want to run docker, got {error.strerror}",
                hint="install Docker, or use a registry",
            ) from error
        assert process.stdout is not None  # noqa: S101 - for the type checker
        try:
            yield process.stdout.readinto  # type: ignore[attr-defined]  # a BufferedReader has it
        except ProtocolError as error:
            # docker that still writes waits for a reader: it did not say no.
            with suppress(subprocess.TimeoutExpired):
                if process.wait(_END_TIMEOUT_S):
                    said.seek(max(0, said.seek(0, os.SEEK_END) - _ERROR_LIMIT_BYTES))
                    raise _refused("save", name, said.read()) from error
            raise
        finally:
            process.stdout.close()
            if process.poll() is None:
                process.terminate()
            process.wait()


def _open_temporary() -> IO[bytes]:
    try:
        return TemporaryFile()
    except OSError as error:
        raise StorageError(f"want a temporary file, got {error.strerror}") from error


def _refused(verb: str, name: str, said: bytes) -> EngineError:
    text = " ".join(said.decode("utf-8", "replace").split())
    return EngineError(f"docker image {verb} {name}: {text or 'no reason given'}")


def inspect_in_engine(name: str) -> dict[str, Any]:
    """Return what the local engine says of an image.

    Raises:
        EngineError: There is no docker, or it said no.
        ProtocolError: It said what cannot be.
    """
    done = _run("inspect", name)
    if done is None or done.returncode:
        said = done.stderr if done else b"no docker command"
        raise _refused("inspect", name, said)
    try:
        documents = json.loads(done.stdout)
    except ValueError as error:
        raise ProtocolError(f"docker image inspect {name}: want JSON") from error
    if not isinstance(documents, list) or not documents or not isinstance(documents[0], dict):
        raise ProtocolError(f"docker image inspect {name}: want a list of objects")
    return documents[0]


def engine_has(name: str) -> bool:
    """Whether the local engine has an image of that name; no engine has none."""
    done = _run("inspect", "--format", "{{.Id}}", name)
    return done is not None and done.returncode == 0


def _run(*arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    try:
        return subprocess.run(
            ["docker", "image", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
