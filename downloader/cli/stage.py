"""``hf-models stage``: the work of docker/Dockerfile's builder stage; hidden from the help."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Self

import click

from downloader.cli.console import ConsoleProgress, say
from downloader.cli.repos import read_plan
from downloader.engine.log import PROGRESS_MARK
from downloader.engine.stage import stage_layers
from downloader.errors import InputError
from downloader.fs import storage_errors
from downloader.hub.fetch import FetchSettings, fetch_snapshot
from downloader.hub.repo import is_commit, parse_repo
from downloader.hub.snapshot import Hub
from downloader.library.connection import open_session
from downloader.library.publisher import open_hub
from downloader.plan import DEFAULT_CACHE_ROOT, Plan, make_plan
from downloader.progress import NoProgress

_TELL_EVERY_S = 0.5


@click.command(hidden=True)
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), required=True)
@click.option("--repo-id", default="")
@click.option("--repo-type", default="model")
@click.option("--commit", default="")
@click.option("--cache-root", default=DEFAULT_CACHE_ROOT)
@click.option("--downloads", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def stage(
    plan_file: Path,
    repo_id: str,
    repo_type: str,
    commit: str,
    cache_root: str,
    downloads: Path,
    out: Path,
) -> None:
    """Fetch and lay out the layers of a plan, or of a repo as one layer where there is none."""
    with open_session() as session:
        hub = open_hub(session, say)
        if plan_file.exists():
            _stage(hub, read_plan(str(plan_file)), downloads, out, one_layer=False)
        else:
            plan = _plan_alone(hub, repo_id, repo_type, commit, cache_root)
            _stage(hub, plan, downloads, out, one_layer=True)


def _plan_alone(hub: Hub, repo_id: str, repo_type: str, commit: str, cache_root: str) -> Plan:
    if not is_commit(commit):
        raise InputError(
            f"want --build-arg COMMIT= with 40 hex digits, got {commit!r}",
            hint="a branch may move, and the engine's cache would not notice",
        )
    snapshot = hub.resolve(parse_repo(repo_id, repo_type), commit)
    # One layer has no limit to keep: whole files.
    limit_bytes = max(2 * snapshot.size_bytes, 1 << 40)
    return make_plan(snapshot, layer_limit_bytes=limit_bytes, cache_root=cache_root)


def _stage(hub: Hub, plan: Plan, downloads: Path, out: Path, *, one_layer: bool) -> None:
    snapshot = plan.snapshot
    with ConsoleProgress("download") if one_layer else MachineProgress("download") as progress:
        fetch_snapshot(
            snapshot,
            lambda file: hub.source_of(snapshot, file),
            downloads,
            http=hub.http,
            # The accelerator that the project was given; what it cannot do comes without it.
            settings=FetchSettings(use_transfer=True, policy=hub.retry),
            progress=progress,
        )
    with ConsoleProgress("layers") as progress:
        stage_layers(plan, downloads, out, one_layer=one_layer, progress=progress)
    # The layers hold everything now; a cache mount would keep a second copy for weeks.
    for path in (downloads / snapshot.repo.folder_name, downloads / ".locks"):
        with storage_errors(path):
            shutil.rmtree(path, ignore_errors=not path.exists())


class MachineProgress(NoProgress):
    """Progress as marked JSON lines, few of them, which `downloader.engine.log` reads on the host.

    BuildKit cuts the log of a step off when it grows too fast; so no file's name is told.
    """

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._lock = threading.Lock()
        self._told_at = time.monotonic()
        self._bytes = self._files = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def start(self, total_bytes: int, total_files: int) -> None:
        """Tell how much there is to do."""
        self._tell({"verb": self._verb, "total_bytes": total_bytes, "total_files": total_files})

    def advance(self, size_bytes: int, path: str = "") -> None:  # noqa: ARG002
        """Tell it together with what else comes soon."""
        self._add(size_bytes, 0)

    def skip(self, size_bytes: int, path: str = "") -> None:  # noqa: ARG002
        """Count it as `advance` does."""
        self._add(size_bytes, 0)

    def finish_file(self, path: str) -> None:  # noqa: ARG002 - counted, not named
        """Count it."""
        self._add(0, 1)

    def note(self, text: str) -> None:
        """Tell at once."""
        self._tell({"note": text})

    def flush(self) -> None:
        """Tell what was not told yet."""
        with self._lock:
            self._tell({"bytes": self._bytes, "files": self._files})
            self._bytes = self._files = 0
            self._told_at = time.monotonic()

    def _add(self, size_bytes: int, files: int) -> None:
        with self._lock:
            self._bytes += size_bytes
            self._files += files
            is_due = time.monotonic() - self._told_at >= _TELL_EVERY_S
        if is_due:
            self.flush()

    def _tell(self, event: dict[str, object]) -> None:
        click.echo(PROGRESS_MARK + json.dumps(event))
