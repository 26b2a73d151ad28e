"""The command line in a forked process; imports nothing that a fork would have to wait for."""

import os
import sys

from downloader.cli import run


def run_quietly(arguments: list[str], environment: dict[str, str]) -> None:
    """Run one command and end the process with its exit code."""
    os.environ.clear()
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    sys.exit(run(arguments))
