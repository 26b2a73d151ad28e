"""Digests: the names of registry blobs."""

import hashlib
import re
from typing import NewType

from downloader.errors import ProtocolError

# A string that `parse_digest` or `digest_of` has made; nothing else may become a path or a URL.
Digest = NewType("Digest", str)

# sha512 is registered as well, but no registry in the field's table accepts it.
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: object, where: str = "digest") -> Digest:
    """Check a digest that came from outside.

    Args:
        text: Should be ``sha256:`` and 64 lower-case hex digits.
        where: The place in its document, for the message: ``layers[2].digest``.

    Raises:
        ProtocolError: It is anything else.

    Source: OCI image specification 1.1, descriptor.md, "Digests".

    >>> parse_digest("sha256:../passwd", "config.digest")
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: config.digest: want sha256:<64 hex>, got 'sha256:../passwd'
    """
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ProtocolError(f"{where}: want sha256:<64 hex>, got {str(text)[:200]!r}")
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    """Return the digest of ``data``.

    >>> digest_of(b"")
    'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    """
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    """Return the 64 hex digits of a digest."""
    return digest.removeprefix("sha256:")
