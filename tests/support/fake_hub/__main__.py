"""``python -m tests.support.fake_hub --repo model:org/name=DIR``: serve directories as a Hub.

The first line of standard output is JSON with the addresses; with ``--spec -`` the spec is
the first line of standard input, and the end of standard input is the end of the server.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import get_args

from tests.support.fake_hub.hub_repos import minilm_repo
from tests.support.fake_hub.server import HubServer
from tests.support.fake_hub.spec import HubSpec, Repo, RepoType, make_repo, parse_spec


def parse_repo(text: str) -> Repo:
    """Parse ``TYPE:ID=DIR``.

    >>> parse_repo("org/name=DIR")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: want TYPE:ID=DIR, TYPE of model, dataset, space, got org/name=DIR
    """
    name, _, directory = text.partition("=")
    type_, _, id_ = name.partition(":")
    for known in get_args(RepoType):
        if type_ == known and id_ and directory:
            return make_repo(id_, Path(directory).resolve(), known)
    types = ", ".join(get_args(RepoType))
    raise argparse.ArgumentTypeError(f"want TYPE:ID=DIR, TYPE of {types}, got {text}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fake_hub", description=__doc__)
    parser.add_argument("--repo", type=parse_repo, action="append", default=[])
    parser.add_argument("--minilm", action="store_true", help="all-MiniLM-L6-v2 from PyPI")
    parser.add_argument("--spec", help="a file with a spec as JSON, or - for standard input")
    parser.add_argument("--port", type=int, default=0, help="of the Hub; 0 picks a free one")
    return parser.parse_args()


def read_spec(arguments: argparse.Namespace) -> HubSpec:
    """Make the spec that the arguments describe."""
    if arguments.spec == "-":
        return parse_spec(sys.stdin.readline())
    if arguments.spec:
        return parse_spec(Path(arguments.spec).read_text())
    repos = (*arguments.repo, *([minilm_repo()] if arguments.minilm else []))
    return HubSpec(repos, port=arguments.port)


def main() -> None:
    """Serve until standard input ends (``--spec -``) or a signal comes."""
    arguments = parse_arguments()
    # Blocked before there are threads, or one of them would die of the signal. A child
    # (--spec -) ends with its parent's pipe, also when Ctrl-C reaches both.
    blocked = {signal.SIGINT} if arguments.spec == "-" else {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    with HubServer(read_spec(arguments)) as hub:
        names = ("endpoint", "cdn_endpoint", "elsewhere_endpoint", "control_endpoint")
        print(json.dumps({name: getattr(hub, name) for name in names}), flush=True)
        if arguments.spec == "-":
            sys.stdin.read()
        else:
            signal.sigwait(blocked)


if __name__ == "__main__":
    main()
