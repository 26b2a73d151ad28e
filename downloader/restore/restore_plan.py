"""A snapshot that was found in a source: which of its contents come from where."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from downloader.errors import InputError, IntegrityError
from downloader.hub.repo import Selection, Snapshot
from downloader.net.ranges import ByteRange
from downloader.restore.bounds import Counts
from downloader.restore.contents import Extent, FoundSnapshot
from downloader.restore.foreign.entries import Captured, InLayer
from downloader.restore.foreign.extract import Capture
from downloader.restore.places import Places
from downloader.restore.target import Target
from downloader.restore.values import BlobPlan, Piece, plan_blob

# The Hub takes no file above 10 MB into git itself.
_GIT_LIMIT_BYTES = 10 * 1024**2


@dataclass
class Found:
    """A snapshot of one of the sources, and how its contents get into the target."""

    source: str
    digest: str
    snapshot: Snapshot
    pieces: Mapping[str, list[Piece]]
    places: Places | None
    captured: Mapping[str, list[Captured]] = field(default_factory=dict)
    revisions: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Where a snapshot was found: the image's name and digest, and its places if it has any."""

    name: str
    digest: str
    places: Places | None = None


def find_contents(origin: Origin, found: FoundSnapshot, capture: Capture) -> Found:
    """Return a snapshot with the names of all of its contents, and where each lies.

    Args:
        origin: The image.
        found: What its layers show.
        capture: Reads a content that nothing names, to know its name.

    Raises:
        InputError: All of its contents were removed in upper layers.
        IntegrityError: A list in the image names other contents.
    """
    pieces: dict[str, list[Piece]] = {}
    captured: dict[str, list[Captured]] = {}
    oids: dict[str, str] = {}
    for path, seen in found.files.items():
        extent = _captured(seen, origin.places, capture)
        oid = oids[path] = extent.oid or _choose_oid(extent)
        _place(extent, pieces.setdefault(oid, []), captured.setdefault(oid, []))
    if not oids:
        raise InputError(
            f"{origin.name}: want files, got a snapshot whose contents were all removed"
        )
    return Found(
        origin.name,
        origin.digest,
        found.to_snapshot(oids),
        pieces,
        origin.places,
        captured,
        found.revisions,
        found.missing,
    )


def _captured(extent: Extent, places: Places | None, capture: Capture) -> Extent:
    """Return an extent whose oid can be known: one that no link names is read now."""
    if extent.oid is not None or places is None or len(extent.parts) != 1:
        return extent
    content, size_bytes = extent.parts[0]
    if not isinstance(content, InLayer):
        return extent
    wanted = ByteRange(content.offset, content.offset + size_bytes)
    with places.open_blob(content.layer, wanted) as reader:
        return Extent(None, ((capture.take_reader(reader, size_bytes), size_bytes),))


def _choose_oid(extent: Extent) -> str:
    """Return a name for a content that nothing names: the one that the Hub would use."""
    content, size_bytes = extent.parts[0]
    if not isinstance(content, Captured):
        raise IntegrityError("want a content that was read, got one that was not")
    sha256, *sha1 = content.oids
    # The Hub takes no file above 10 MB into git itself.
    return sha256 if size_bytes > _GIT_LIMIT_BYTES or not sha1 else sha1[0]


def _place(extent: Extent, pieces: list[Piece], captured: list[Captured]) -> None:
    if pieces or captured:
        return  # another path of the same content was here before
    start = 0
    for content, size_bytes in extent.parts:
        if isinstance(content, InLayer):
            place = ByteRange(content.offset, content.offset + size_bytes)
            pieces.append(Piece(content.layer, place, start))
        elif isinstance(content, Captured):
            captured.append(content)
        start += size_bytes


def narrowed(item: Found, names: set[str], selection: Selection) -> Found | None:
    """Return a snapshot with only the files of these paths; None if it has none of them."""
    files = tuple(file for file in item.snapshot.files if file.path in names)
    if not files:
        return None
    is_partial = item.snapshot.is_partial or len(files) < len(item.snapshot.files)
    snapshot = replace(item.snapshot, files=files, is_partial=is_partial, selection=selection)
    return replace(item, snapshot=snapshot)


def plans_of(wanted: Iterable[Found]) -> list[tuple[BlobPlan, Places]]:
    """Return a plan for every cache blob that can be asked for, each once."""
    plans: dict[tuple[str, str], tuple[BlobPlan, Places]] = {}
    for item in wanted:
        repo = item.snapshot.repo
        for oid, size_bytes in item.snapshot.blobs.items():
            if item.places is None or item.captured.get(oid):
                continue
            plan = plan_blob(repo, oid, size_bytes, item.pieces.get(oid, []))
            plans.setdefault((repo.folder_name, oid), (plan, item.places))
    return list(plans.values())


def missing_bytes(plans: list[tuple[BlobPlan, Places]], target: Target) -> int:
    """Return how many bytes the target lacks."""
    return sum(plan.size_bytes for plan, _ in plans if target.existing(plan.repo, plan.oid) is None)


def count_needed(plans: list[tuple[BlobPlan, Places]], target: Target, counts: Counts) -> None:
    """Count what a restore would do."""
    for plan, _ in plans:
        if target.existing(plan.repo, plan.oid) is None:
            counts.fetched_bytes += plan.size_bytes
            counts.blobs += 1
        else:
            counts.kept_bytes += plan.size_bytes
            counts.kept_blobs += 1
