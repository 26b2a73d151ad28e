"""Where the bytes of one file come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FileSource:
    """The Hub's own address of a file at a commit, and the headers for that host only.

    The Hub redirects large files to a CDN with a signed URL that expires, so ``url`` is
    resolved again whenever a signed one is refused; ``headers`` (the token) stay with the Hub.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
