"""The upload journal on this machine: finished layers, and the offsets of unfinished ones.

One small file for each layer on its way to a store, in a directory of the user's own. The next
process asks the registry how much of the upload it has kept, goes on hashing from the last
point before that, and reads and sends only what comes after. A layer that is done leaves its
descriptor until the image names it. Without the file, or where the registry has forgotten the
upload, the layer begins again.
"""

import hashlib
import json
import os
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from downloader.errors import ProtocolError, StorageError, TransportError
from downloader.fs import hold_lock, open_own_file, storage_errors, write_at
from downloader.oci.manifest import Descriptor, parse_descriptor
from downloader.oci.store import SavedUpload, Store
from downloader.oci.upload import LONGEST_CHUNK_BYTES
from downloader.plan import Layer
from downloader.publish.sha256 import LIBRARY
from downloader.units import MIB

# Between two points: what is read and hashed again at most, besides what was on its way.
POINT_BYTES = 8 * MIB
# A registry may have kept a chunk less than was hashed, and what sockets hold.
_POINTS = 2 * LONGEST_CHUNK_BYTES // POINT_BYTES
_FILE_LIMIT_BYTES = 256 * 1024
_FORGOTTEN_AFTER_S = 7 * 86400  # registries purge uploads after a week at the latest
_FORMAT = 1


@dataclass(frozen=True)
class HashPoint:
    """The hashes after the first bytes of a layer.

    Args:
        offset: Number of hashed bytes.
        layer: State of the layer's sha256.
        files: Of every file that is not over: bytes seen, and state of its sha256.
    """

    offset: int
    layer: bytes
    files: Mapping[str, tuple[int, bytes]]


class UploadJournal:
    """The journal of one layer on its way to one store.

    Args:
        path: Of the file; None where nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor = -1
        self._session_url: str | None = None
        self.points: list[HashPoint] = []
        self.finished: Descriptor | None = None
        if path is not None:
            self._read(path)

    @property
    def saved(self) -> SavedUpload | None:
        """The upload to go on with."""
        if self._session_url is None or not self.points:
            return None
        return SavedUpload(self._session_url, self.points[-1].offset)

    def add(self, session_url: str | None, point: HashPoint) -> None:
        """Write a point down; a disk that refuses costs only the next run's time."""
        if self._path is None or session_url is None:
            return
        self._session_url = session_url
        before = [item for item in self.points if item.offset < point.offset]
        self.points = [*before[-_POINTS + 1 :], point]
        self._write({"session": session_url, "points": [_to_json(item) for item in self.points]})

    def finish(self, descriptor: Descriptor) -> None:
        """Write down that the layer is done."""
        self._session_url, self.points, self.finished = None, [], descriptor
        self._write({"finished": descriptor.to_json()})

    def _write(self, facts: dict[str, object]) -> None:
        if self._path is None:
            return
        document = {"format_version": _FORMAT, "library": LIBRARY, **facts}
        data = json.dumps(document).encode() + b"\n"
        try:
            with storage_errors(self._path):
                if self._descriptor < 0:
                    self._descriptor = open_own_file(self._path)
                # In place, one small write: a kill leaves the old line or the new one, and half
                # of one is no JSON.
                write_at(self._descriptor, memoryview(data), 0)
        except StorageError:
            self._path = None

    def close(self) -> None:
        """Close the file, which stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Forget the upload."""
        self._session_url, self.points, self.finished = None, [], None
        self.close()  # Windows removes no open file
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        try:
            document = json.loads(path.read_bytes()[:_FILE_LIMIT_BYTES].partition(b"\n")[0])
            if (document["format_version"], document["library"]) == (_FORMAT, LIBRARY):
                self.points = [_from_json(item) for item in document.get("points", ())]
                self._session_url = document.get("session")
            if "finished" in document:
                self.finished = parse_descriptor(document["finished"], str(path))
        except (OSError, ValueError, LookupError, TypeError, ProtocolError):
            self.points = []  # absent, or of no use


class UploadJournals:
    """The journals of a run.

    Args:
        directory: Their directory; None to keep none.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._finished: set[Path] = set()
        if directory is not None:
            with suppress(OSError):  # then no journal can be written, and none is
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(directory)

    @contextmanager
    def opened(self, store: Store, layer: Layer) -> Iterator[UploadJournal]:
        """Yield a layer's journal; an empty one that keeps nothing where another process has it."""
        with ExitStack() as held:
            path = self._path_of(store, layer)
            if path is not None:
                at_once = threading.Event()
                at_once.set()  # two processes must not write into one session
                try:
                    held.enter_context(hold_lock(path.with_suffix(".lock"), at_once))
                except (StorageError, TransportError):
                    path = None
            journal = UploadJournal(path)
            held.callback(journal.close)
            yield journal
            if path is not None and journal.finished:
                self._finished.add(path)
            if path is not None and not path.exists():
                path.with_suffix(".lock").unlink(missing_ok=True)  # while it is held

    def find_finished(self, store: Store, layer: Layer) -> Descriptor | None:
        """Return a layer that an earlier run has brought to a store, None if it is not known."""
        path = self._path_of(store, layer)
        if path is None or not path.exists():
            return None
        with self.opened(store, layer) as journal:
            return journal.finished

    def forget(self, store: Store, layers: Iterable[Layer]) -> None:
        """Remove what says that layers are done: they carry wrong bytes."""
        for layer in layers:
            with self.opened(store, layer) as journal:
                journal.remove()

    def _path_of(self, store: Store, layer: Layer) -> Path | None:
        name = hashlib.sha256(f"{store.name}\n{layer.name}".encode()).hexdigest()
        return self._directory / f"{name}.json" if self._directory else None

    def forget_finished(self) -> None:
        """Remove what says that layers are done: the image names them now."""
        for path in self._finished:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)


def _sweep(directory: Path) -> None:
    """Remove the files of uploads that no registry has any more."""
    with suppress(OSError):
        for path in [*directory.glob("*.json"), *directory.glob("*.lock")]:
            if time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S:
                path.unlink(missing_ok=True)


def _to_json(point: HashPoint) -> list[object]:
    files = {oid: [seen, b64encode(state).decode()] for oid, (seen, state) in point.files.items()}
    return [point.offset, b64encode(point.layer).decode(), files]


def _from_json(item: list[object]) -> HashPoint:
    offset, layer, files = item
    if not isinstance(offset, int) or not isinstance(files, dict):
        raise TypeError
    states = {oid: (int(seen), b64decode(state)) for oid, (seen, state) in files.items()}
    return HashPoint(offset, b64decode(str(layer)), states)
