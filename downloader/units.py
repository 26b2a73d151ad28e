"""Quantities for people: sizes as they are typed, bytes and counts as they are shown."""

from downloader.errors import InputError

MIB = 1024**2
GIB = 1024**3

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"KI": 1024, "MI": MIB, "GI": GIB, "TI": 1024**4}


def parse_size(text: str, want: str = "a size like 256MiB") -> int:
    """Return bytes for a number with an optional unit, decimal (MB) or binary (MiB).

    Args:
        text: As a user typed it.
        want: The expected quantity, for messages.

    Raises:
        InputError: It is no size.

    >>> parse_size("2GB"), parse_size("512MiB"), parse_size("1.5 k")
    (2000000000, 536870912, 1500)
    """
    upper = text.strip().upper().removesuffix("B")
    digits = upper.rstrip("KMGTI")
    try:
        size_bytes = int(float(digits) * _UNITS[upper[len(digits) :].strip()])
    except (ValueError, KeyError, OverflowError):
        size_bytes = -1
    if size_bytes < 0:
        raise InputError(f"want {want}, got {text!r}")
    return size_bytes


def format_bytes(size_bytes: float) -> str:
    """Return bytes for people, decimal as registries and disks count.

    >>> format_bytes(999), format_bytes(242_000_000), format_bytes(9_500_000_000)
    ('999 B', '242 MB', '9.5 GB')
    """
    size, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if size >= 99.5 or units[0] == "B" else f"{size:.1f} {units[0]}"


def format_seconds(seconds: float) -> str:
    """Return seconds for people; a short wait is no "0 s".

    >>> format_seconds(0.5), format_seconds(1.75), format_seconds(90.2)
    ('0.5 s', '1.8 s', '90 s')
    """
    return f"{seconds:.2g} s" if seconds < 2 else f"{seconds:.0f} s"


def format_count(count: int, noun: str) -> str:
    """Return a number and its noun.

    >>> format_count(1, "repo"), format_count(2, "repo")
    ('1 repo', '2 repos')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
