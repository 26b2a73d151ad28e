"""An upload session: the requests of the specification around the bytes themselves."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from downloader.errors import HfModelsError, ProtocolError
from downloader.oci.auth import Scopes
from downloader.oci.client import Client, Request
from downloader.oci.digest import Digest
from downloader.oci.responses import Answer, next_url

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_MIN_LENGTH = re.compile(r"\d{1,12}")
# Some registries copy and hash a blob of 10 GB again before they answer.
COMMIT_TIMEOUT_S = 300.0
_CANCEL_TIMEOUT_S = 5.0  # a courtesy, on the way out


@dataclass(frozen=True)
class Target:
    """Where blobs go: one repository of one registry.

    Args:
        client: Of the registry.
        url: ``https://ghcr.io/v2/me/hf-models``.
        name: For messages.
        scopes: That writing needs.
    """

    client: Client
    url: str
    name: str
    scopes: Scopes


def parse_offset(value: str | None) -> int | None:
    """Return how many bytes a ``Range`` header of an upload says are there, None without it.

    ``0-0`` is what registries answer for none; that it might be one byte is ignored.

    Source: OCI distribution specification 1.1, "Pushing a blob in chunks".

    >>> parse_offset("0-1023"), parse_offset("0-0"), parse_offset(None)
    (1024, 0, None)
    """
    if value is None:
        return None
    match = _RANGE.fullmatch(value.strip())
    if match is None:
        raise ProtocolError(f"want Range 0-<last byte>, got {value[:100]!r}")
    return int(match[1]) + 1 if int(match[1]) else 0


class UploadSession:
    """One session: begun, asked, closed or cancelled.

    Args:
        target: Where the blob goes.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.url: str | None = None
        self.min_chunk_bytes = 0

    def start(self) -> str:
        """Begin the session, if there is none, and return its URL."""
        if self.url is None:
            url = f"{self._target.url}/blobs/uploads/"
            answer = self._target.client.call(self._request("POST", url, {202}))
            self.url = next_url(answer.url, answer.headers.get("Location"))
            length = answer.headers.get("OCI-Chunk-Min-Length", "")
            self.min_chunk_bytes = int(length) if _MIN_LENGTH.fullmatch(length) else 0
        return self.url

    def moved(self, url: str, headers: Mapping[str, str]) -> None:
        """Go on where the last answer says: every one may name another ``Location``."""
        location = headers.get("Location")
        if location is not None:
            self.url = next_url(url, location)

    def offset(self) -> int | None:
        """Ask how many bytes the registry has; None where the session is gone or not told."""
        if self.url is None:
            return None
        answer = self._target.client.call(
            self._request("GET", self.url, {200, 202, 204, 400, 404, 405, 416})
        )
        if answer.status >= 400:
            return None
        self.moved(self.url, answer.headers)
        return parse_offset(answer.headers.get("Range"))

    def put(self, digest: Digest, body: memoryview) -> Answer:
        """Close the session under ``digest``, ``body`` being its last bytes; tried once."""
        url = self.start()
        request = Request(
            "PUT",
            f"{url}{'&' if '?' in url else '?'}digest={digest.replace(':', '%3A')}",
            f"upload to {self._target.name}",
            self._target.scopes,
            headers={"Content-Type": "application/octet-stream"},
            body=body,
            read_timeout_s=COMMIT_TIMEOUT_S,
        )
        return self._target.client.once(request)

    def has(self, digest: Digest, size_bytes: int) -> bool:
        """Whether the repository has the blob: an answer that was lost may have been a yes."""
        url = f"{self._target.url}/blobs/{digest}"
        answer = self._target.client.call(self._request("HEAD", url, {200, 404}, redirect=True))
        return answer.status == 200 and answer.headers.get("Content-Length") == str(size_bytes)

    def cancel(self) -> None:
        """Tell the registry that nothing more comes; it does not matter if it hears."""
        if self.url is not None:
            with contextlib.suppress(HfModelsError):
                request = self._request("DELETE", self.url, {204}, timeout_s=_CANCEL_TIMEOUT_S)
                self._target.client.once(request)
        self.url = None

    def _request(
        self,
        method: str,
        url: str,
        expect: set[int],
        *,
        redirect: bool = False,
        timeout_s: float | None = None,
    ) -> Request:
        return Request(
            method,
            url,
            f"upload to {self._target.name}",
            self._target.scopes,
            expect=expect,
            redirect=redirect,
            read_timeout_s=timeout_s,
        )
