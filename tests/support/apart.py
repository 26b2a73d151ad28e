"""A command in a process of its own that starts at once, to be killed.

It is forked from a process that has imported everything: twenty starts of Python take a minute.
"""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from downloader.cli import run


def start_apart(
    *arguments: str | Path, said: Path = Path(os.devnull), **environment: str
) -> BaseProcess:
    """Start one command; what it says goes to a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["downloader.cli.publish", "downloader.cli.restore", __name__])
    everything = {**os.environ, **environment}
    process = context.Process(target=_run, args=([*map(str, arguments)], said, everything))
    process.start()
    return process


def _run(arguments: list[str], said: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    sys.exit(run(arguments))
