"""A small registry in memory that reads only, strict, with one hook for odd answers.

For what a real registry cannot be made to say. It is written from the distribution
specification: a range outside a blob is refused, and so is a credential that nobody asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Asked:
    """A request: names of headers in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """An answer; ``length`` is whether it tells its Content-Length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True


Hook = Callable[[Asked], Reply | None]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class OddRegistry:
    """The registry, for a with block.

    Args:
        hook: Asked before each answer; None for the registry's own.
    """

    def __init__(self, hook: Hook = lambda _: None) -> None:
        self.hook = hook
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # by tag and by digest
        self.seen: list[Asked] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                asked = Asked(self.command, parts.path, query, headers, body)
                registry.seen.append(asked)
                self._send(registry.hook(asked) or registry.answer(asked))

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.length:
                    self.send_header("Content-Length", str(len(reply.body)))
                else:
                    self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                if self.command == "HEAD":
                    return
                if reply.length:
                    self.wfile.write(reply.body)
                else:
                    self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(reply.body), reply.body))

            def __getattr__(self, name: str) -> object:
                if name.startswith("do_"):
                    return self._handle
                raise AttributeError(name)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_blob(self, data: bytes) -> dict[str, Any]:
        """Keep a blob and return its descriptor."""
        self.blobs[digest_of(data)] = data
        return {
            "digest": digest_of(data),
            "size": len(data),
            "mediaType": "application/octet-stream",
        }

    def add_manifest(self, tag: str, document: dict[str, Any], media_type: str) -> dict[str, Any]:
        """Keep a manifest under a tag and its digest, and return its descriptor."""
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
        self.manifests[tag] = self.manifests[digest_of(data)] = (media_type, data)
        return {"digest": digest_of(data), "size": len(data), "mediaType": media_type}

    def answer(self, asked: Asked) -> Reply:
        """Return what a registry that keeps to the specification answers."""
        if "authorization" in asked.headers:
            return Reply(400, b"nobody asked for a credential")
        match = re.fullmatch(r"/v2/.+/(blobs|manifests|tags)/([^/]+)", asked.path)
        if match is None or asked.method not in {"GET", "HEAD"}:
            return Reply(404)
        if match[1] == "tags":
            tags = sorted(tag for tag in self.manifests if ":" not in tag)
            return Reply(body=json.dumps({"name": "x", "tags": tags}).encode())
        if match[1] == "manifests":
            if match[2] not in self.manifests:
                return Reply(404)
            media_type, data = self.manifests[match[2]]
            return Reply(body=data, headers={"Content-Type": media_type})
        return self._blob(asked, match[2])

    def _blob(self, asked: Asked, digest: str) -> Reply:
        if digest not in self.blobs:
            return Reply(404)
        data = self.blobs[digest]
        if "range" not in asked.headers:
            return Reply(body=data)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers["range"])
        if match is None or not int(match[1]) <= int(match[2]) < len(data):
            return Reply(416, headers={"Content-Range": f"bytes */{len(data)}"})
        place = f"bytes {match[1]}-{match[2]}/{len(data)}"
        piece = data[int(match[1]) : int(match[2]) + 1]
        return Reply(206, piece, {"Content-Range": place})
