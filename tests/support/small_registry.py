"""A small registry that reads only: an image of a layout directory, or what is put in memory.

Strict by the distribution specification and RFC 9110: a range outside the blob is refused,
every answer says which bytes it carries, and a credential that nobody asked for is refused.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, BinaryIO

from downloader.oci.digest import digest_of
from downloader.oci.manifest import INDEX
from tests.support.faults import PIECE_BYTES, Asked, Fault, FaultHandler, FaultServer, Reply

_TARGET = re.compile(r"/v2/.+/(blobs|manifests|tags)/([^/]+)")


class SmallRegistry(FaultServer):
    """The registry; a context manager.

    Args:
        layout: A layout directory, whose first image has every tag.
        faults: What goes wrong.
    """

    def __init__(self, layout: Path | None = None, *faults: Fault) -> None:
        super().__init__(_Handler, faults)
        self.layout = layout
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # by tag and by digest

    def add_blob(self, data: bytes) -> dict[str, Any]:
        """Keep a blob and return its descriptor."""
        digest, media_type = digest_of(data), "application/octet-stream"
        self.blobs[digest] = data
        return {"digest": digest, "size": len(data), "mediaType": media_type}

    def add_manifest(self, tag: str, document: dict[str, Any], media_type: str) -> dict[str, Any]:
        """Keep a manifest under a tag and its digest, and return its descriptor."""
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
        digest = digest_of(data)
        self.manifests[tag] = self.manifests[digest] = (media_type, data)
        return {"digest": digest, "size": len(data), "mediaType": media_type}

    def add_layout(self, directory: Path, tag: str) -> dict[str, Any]:
        """Keep the first image of a layout directory under a tag, and return its manifest."""
        for path in (directory / "blobs" / "sha256").iterdir():
            self.blobs[f"sha256:{path.name}"] = path.read_bytes()
        index = json.loads((directory / "index.json").read_text())
        digest = index["manifests"][0]["digest"]
        document: dict[str, Any] = json.loads(self.blobs[digest])
        self.manifests[tag] = self.manifests[digest] = document["mediaType"], self.blobs[digest]
        return document

    def manifest(self, reference: str) -> tuple[str, bytes] | None:
        """Return a manifest and its media type."""
        if reference in self.manifests or not self.layout:
            return self.manifests.get(reference)
        if ":" not in reference:
            index = json.loads((self.layout / "index.json").read_text())
            reference = index["manifests"][0]["digest"]
        file = self.open_blob(reference)
        if file is None:
            return None
        with file:
            data = file.read()
        return json.loads(data).get("mediaType", INDEX), data

    def open_blob(self, digest: str) -> BinaryIO | None:
        if digest in self.blobs or not self.layout:
            return io.BytesIO(self.blobs[digest]) if digest in self.blobs else None
        path = self.layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
        return path.open("rb") if path.exists() else None

    def blob_size(self, asked: Asked) -> int | None:
        match = _TARGET.fullmatch(asked.path)
        file = self.open_blob(match[2]) if match and match[1] == "blobs" else None
        if file is None:
            return None
        with file:
            return file.seek(0, io.SEEK_END)


def manifest_reply(media_type: str, data: bytes) -> Reply:
    headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}
    return Reply(body=data, headers=headers)


class _Handler(FaultHandler):
    server: SmallRegistry

    def forward(self, fault: Fault) -> None:
        registry, match = self.server, _TARGET.fullmatch(self.asked.path)
        has_challenged = any(asked.status == 401 for asked in registry.seen)
        if "Authorization" in self.headers and not has_challenged:
            self.answer(Reply(400, b"nobody asked for a credential"), fault)
        elif self.command not in {"GET", "HEAD"}:
            self.answer(Reply(404), fault)
        elif match is None:
            self.answer(Reply(200 if self.asked.path.rstrip("/") == "/v2" else 404), fault)
        elif match[1] == "tags":
            tags = sorted(tag for tag in registry.manifests if ":" not in tag)
            body = json.dumps({"name": "x", "tags": tags}).encode()
            self.answer(Reply(404) if registry.layout else Reply(body=body), fault)
        elif match[1] == "manifests":
            found = registry.manifest(match[2])
            self.answer(manifest_reply(*found) if found else Reply(404, b"{}"), fault)
        elif file := registry.open_blob(match[2]):
            with file:
                self.send_blob(file, fault)
        else:
            self.answer(Reply(404, b"{}"), fault)

    def send_blob(self, file: BinaryIO, fault: Fault) -> None:
        size_bytes, is_ranged = file.seek(0, io.SEEK_END), "Range" in self.headers
        is_ranged = is_ranged and "Range" not in fault.strip
        start, end = (self.asked.range or (0, 0)) if is_ranged else (0, size_bytes)
        if is_ranged and not start < end <= size_bytes:
            self.answer(Reply(416, headers={"Content-Range": f"bytes */{size_bytes}"}), fault)
            return
        headers = {"Content-Length": str(end - start)}
        if is_ranged:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
        file.seek(start)
        pieces = iter(lambda: file.read(min(PIECE_BYTES, end - file.tell())), b"")
        self.pass_answer(206 if is_ranged else 200, headers, pieces, fault)
