"""Small contents that lie near each other in a layer: one request brings all of them in.

A client asks for each file of a repo by itself. Were each a request to the registry, a repo of
2,000 small files would cost 2,000 round trips; but they lie side by side in one layer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from downloader.fs import write_atomically
from downloader.hub.repo import RepoFile
from downloader.restore.download import Span, iter_spans
from downloader.restore.image_blobs import ImageBlobs
from downloader.restore.values import BlobPlan
from downloader.serve.cache import Cache
from downloader.units import MIB

# A larger file is worth a request of its own, and is not brought in before anybody asks for it.
SMALL_BYTES = 256 * 1024
_SPAN_BYTES = 2 * MIB  # what a client waits for at most that wants one small file


@dataclass(eq=False)
class Neighbours:
    """Small contents that one request brings.

    Args:
        span: Their bytes in the layer.
        files: By oid; a content may have several paths.
        is_refused: Whether they could not be brought in together; each is tried by itself then.
    """

    span: Span
    files: Mapping[str, Sequence[RepoFile]]
    is_refused: bool = False

    def store(
        self,
        cache: Cache,
        commit: str,
        found: Sequence[tuple[BlobPlan, memoryview]],
        is_busy: Callable[[str], bool],
    ) -> bool:
        """Write contents into the cache; return whether there was room.

        Args:
            cache: The cache to write to.
            commit: The commit of the files.
            found: As `Span.fetch` returns it.
            is_busy: Whether a blob is being read just now.

        Raises:
            StorageError: The disk said no.
        """
        missing = [
            (plan, data)
            for plan, data in found
            if cache.existing(plan.repo, plan.oid, plan.size_bytes) is None
        ]
        if not cache.make_room(sum(plan.size_bytes for plan, _ in missing), is_busy):
            return False
        for plan, data in missing:
            write_atomically(cache.target.blob(plan.repo, plan.oid), bytes(data))
            for file in self.files[plan.oid]:
                cache.keep(plan.repo, commit, file)
        return True


def find_neighbours(
    small: Iterable[tuple[RepoFile, BlobPlan, ImageBlobs]],
) -> dict[str, Neighbours]:
    """Return by oid what lies near to others; what lies alone is left out.

    Args:
        small: Files whose content is one range, with where it lies.
    """
    files: dict[str, list[RepoFile]] = {}
    plans: dict[str, tuple[BlobPlan, ImageBlobs]] = {}
    for file, plan, image_blobs in small:
        files.setdefault(file.oid, []).append(file)
        plans[file.oid] = plan, image_blobs
    found: dict[str, Neighbours] = {}
    for span in iter_spans(plans.values(), _SPAN_BYTES):
        if len(span.plans) > 1:
            neighbours = Neighbours(span, {plan.oid: files[plan.oid] for plan in span.plans})
            found.update(dict.fromkeys(neighbours.files, neighbours))
    return found
