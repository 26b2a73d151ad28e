"""The sheet of an image for the approval desk: its files, its origin, commands to check it."""

from collections.abc import Sequence

from downloader.hub.repo import Snapshot
from downloader.text import visible
from downloader.units import format_bytes, format_count


def sheet(snapshot: Snapshot, more: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return the sheet of a snapshot: text of facts, then one line a file.

    A line of a file is its oid, two spaces and its path, as ``sha256sum --check`` reads it where
    the oid has 64 digits. Text from outside is shown with its control characters escaped.

    Args:
        snapshot: The snapshot of the image.
        more: Facts that only an image that was built has, by name: digest, signatures.
    """
    repo = snapshot.repo
    asked = snapshot.selection
    facts = [
        ("repo", f"{repo.type} {repo.id}"),
        ("origin", f"{repo.url}/tree/{snapshot.commit}"),
        ("commit", snapshot.commit),
        ("revision", snapshot.revision),
        ("committed", snapshot.committed_at.isoformat() if snapshot.committed_at else "unknown"),
        ("license", snapshot.license or "not stated"),
        ("gated", str(snapshot.gated).lower()),
        ("private", str(snapshot.private).lower()),
        ("partial", " ".join((*asked.names, *asked.include, *asked.exclude)) or "yes")
        if snapshot.is_partial
        else ("partial", "no"),
        ("files", f"{format_count(len(snapshot.files), 'file')}"),
        ("bytes", f"{snapshot.size_bytes} ({format_bytes(snapshot.size_bytes)})"),
        *more,
    ]
    lines = [f"{name + ':':12}{visible(value)}" for name, value in facts]
    lines += ["", "bytes  path", ""]
    lines += [f"{file.size_bytes:>15}  {visible(file.path)}" for file in snapshot.files]
    lines += ["", *_HOW, ""]
    lines += [f"{file.oid}  {visible(file.path)}" for file in snapshot.files]
    return "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")


_HOW = (
    "Check by hand, in the directory of the files: the snapshot after a restore, or /models of the",
    "image, which lacks files that are split:",
    "64 digits are the sha256 of a file:",
    "    grep -E '^[0-9a-f]{64}  ' SHEET | sha256sum --check",
    "40 digits are what git calls a file's content:",
    "    git hash-object --no-filters FILE",
    "or  (printf 'blob %d\\0' $(stat -c %s FILE); cat FILE) | sha1sum",
)
