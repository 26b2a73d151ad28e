"""What the tests of `serve` share: the server as a process, plain requests, images to serve."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.command import ROOT

ANSWER_TIMEOUT_S = 60.0
_ANNOUNCED = r'export HF_ENDPOINT=([^\s"]+)'


@dataclass
class Answer:
    """A whole answer; its body may have been broken off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.headers.get("x-error-code")


@dataclass
class Server:
    """A running `hf-models serve`."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answer:
        """Send one request; underscores of header names stand for dashes."""
        connection = http.client.HTTPConnection(self.host, timeout=ANSWER_TIMEOUT_S)
        try:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.getheaders()}
            try:
                return Answer(answer.status, found, answer.read())
            except http.client.IncompleteRead as error:
                return Answer(answer.status, found, error.partial, is_whole=False)
        finally:
            connection.close()

    def metric(self, name: str) -> int:
        """Return a number of ``/metrics``."""
        text = self.ask("/metrics").body.decode()
        [line] = [x for x in text.splitlines() if x.startswith(f"hf_models_serve_{name} ")]
        return int(line.rpartition(" ")[2])

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self.process.wait(ANSWER_TIMEOUT_S)

    def wait_until_ready(self) -> None:
        """Wait until every source was looked at once."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while self.process.poll() is None and self.ask("/healthz").status != 200:
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.02)

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@contextmanager
def serving(
    *arguments: str | Path,
    is_ready: bool = True,
    program: Sequence[str | Path] = (sys.executable, "-m", "downloader"),
    **environment: str,
) -> Iterator[Server]:
    """Run ``hf-models serve`` on a free port of loopback, unless told otherwise.

    Args:
        arguments: Sources and options.
        is_ready: Wait until every source was looked at, not only until the server listens.
        program: Which one is run.
        environment: Variables beside this process's.
    """
    listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    command = [*map(str, program), "serve", *map(str, arguments), *listen]
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    lines: list[str] = []
    urls: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if announced := re.search(_ANNOUNCED, line):
                urls.put(announced[1])
        urls.put("")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        url = urls.get(timeout=ANSWER_TIMEOUT_S)
        assert url, "\n".join(lines)
        server = Server(process, url, lines)
        if is_ready:
            server.wait_until_ready()
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        if process.stderr is not None:
            process.stderr.close()


def with_constants(*assignments: str) -> list[str]:
    """Return the program with other constants in modules of serve: no test waits for minutes."""
    lines = ["from downloader.serve import app, contents, server", *assignments]
    return [
        sys.executable,
        "-c",
        "\n".join([*lines, "from downloader.cli import main", "main()"]),
    ]


def resolve_path(path: str, repo: str = "org/model", revision: str = "main") -> str:
    return f"/{repo}/resolve/{revision}/{path}"
