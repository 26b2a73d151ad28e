"""The command line of the receiver, ``python hf-models.pyz restore image.tar``.

Standard library only; `downloader.cli` is the whole one. Same words, same exit codes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from downloader.environment import read_environment
from downloader.errors import HfModelsError, IntegrityError
from downloader.fs import expand_home
from downloader.hub.repo import Selection
from downloader.hub.verify import Report, verify_cache
from downloader.oci.compression import has_zstd
from downloader.progress import NoProgress
from downloader.restore.foreign.stream import engine_has
from downloader.restore.job import RestoreOptions, restore
from downloader.restore.source import is_image, parse_source
from downloader.restore.target import CacheTarget, LocalTarget, Target
from downloader.restore.verify import verify
from downloader.text import visible

INTERRUPTED = 130  # 128 + SIGINT, as every shell reports it
_TELL_STEPS = 20  # lines for a whole image


class _Lines(NoProgress):
    """Progress as a line now and then."""

    def __init__(self) -> None:
        self._total = self._done = self._told = 0

    def start(self, total_bytes: int, total_files: int) -> None:
        """Remember how much there is to do."""
        del total_files
        self._total += total_bytes

    def advance(self, size_bytes: int, path: str = "") -> None:
        """Tell it, one step of twenty at a time."""
        del path
        self._done += size_bytes
        step = self._done * _TELL_STEPS // max(1, self._total)
        if self._total and step > self._told:
            self._told = step
            self.note(f"{self._done // 10**6} of {self._total // 10**6} MB")

    def note(self, text: str) -> None:
        """Tell a line."""
        _say(text)


def main() -> None:
    """Run the command line and exit: 0, or the exit code of the error."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "restore":
            return _restore(given)
        return _verify(given)
    except HfModelsError as error:
        _say(f"error: {error.message}")
        if error.hint:
            _say(f"hint: {error.hint}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("error: interrupted; run the same command again to continue")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-models.pyz",
        description="Files out of an image that hf-models made: restored, or checked, offline.",
        epilog=f"zstd layers: {'readable' if has_zstd() else 'need Python 3.14 or zstandard'}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    restoring = commands.add_parser("restore", help="put the files into the Hugging Face cache")
    restoring.add_argument("source", help="archive (docker save, OCI), layout, docker-daemon:NAME")
    restoring.add_argument("files", nargs="*", help="only these files of the repo")
    restoring.add_argument("--cache-dir", type=Path, help="where to (default: HF_HUB_CACHE)")
    restoring.add_argument("--local-dir", type=Path, help="plain files there instead of a cache")
    verifying = commands.add_parser("verify", help="check an image or a cache against its hashes")
    verifying.add_argument("source", help="an image as above, or a cache directory")
    return parser


def _restore(given: argparse.Namespace) -> int:
    target: Target = CacheTarget(given.cache_dir or read_environment().hub_cache_dir)
    if given.local_dir:
        target = LocalTarget(given.local_dir)
    options = RestoreOptions(Selection(tuple(given.files)))
    report = restore([parse_source(given.source, engine_has)], target, options, None, _Lines())
    for path in dict.fromkeys(str(item.path) for item in report.restored):
        sys.stdout.write(f"{visible(path)}\n")
    return 0


def _verify(given: argparse.Namespace) -> int:
    if not is_image(given.source):
        return _report(verify_cache(expand_home(given.source), progress=_Lines()))
    return _report(verify(parse_source(given.source, engine_has), None, _Lines()))


def _report(report: Report) -> int:
    bad = [finding for finding in report.findings if finding.kind != "extra"]
    for finding in report.findings:
        text = f"{finding.kind:8}{finding.path}: want {finding.want}, got {finding.got}"
        sys.stdout.write(f"{visible(text)}\n")
    sys.stdout.write(f"{report.blobs} blobs, {report.files} files, {len(bad)} missing or wrong\n")
    return IntegrityError.exit_code if bad else 0


def _say(text: str) -> None:
    sys.stderr.write(f"{visible(text)}\n")
