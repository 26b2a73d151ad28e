"""Signers of the files of an image or of a cache. Offline."""

import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from downloader.errors import HfModelsError, IntegrityError
from downloader.hub.repo import SHA256, RepoFile, Selection, is_commit
from downloader.image import signature_path
from downloader.progress import NoProgress, Note, Progress
from downloader.restore.foreign.extract import ContentSkipper
from downloader.restore.job import RestoreOptions, restore
from downloader.restore.opening import Network
from downloader.restore.policy import Gate, Policy, Rule, Signed, check_file, check_names
from downloader.restore.reader import read_source
from downloader.restore.source import Source
from downloader.restore.target import LocalTarget
from downloader.signing import BUNDLE_LIMIT_BYTES, is_signed


def check_image(
    source: Source, policy: Policy, network: Network, progress: Progress
) -> list[Signed]:
    """Check the signatures of an image, whose blobs are checked already.

    Files outside LFS, a few megabytes, are read for it; the others are named by their sha256.

    Raises:
        IntegrityError: A signature that is wanted is missing or wrong.
    """
    gate = Gate(policy, progress.warn)
    for item in read_source(source, network, ContentSkipper(), NoProgress()):
        gate.check_names(item)
        names = [file.path for file in item.snapshot.files if file.sha256 is None]
        with tempfile.TemporaryDirectory(prefix="hf-models-") as directory:
            if names:
                options = RestoreOptions(Selection(names=tuple(names)))
                restore([source], LocalTarget(Path(directory)), options, network)
            gate.check_contents(item, partial(_path_in, Path(directory)))
    return gate.signed


def _path_in(directory: Path, file: RepoFile) -> Path:
    return directory / file.path


def check_cache(folders: Iterable[Path], policy: Policy, warn: Note) -> list[Signed]:
    """Check the signatures in repo folders of a cache, whose blobs are checked already.

    Raises:
        IntegrityError: A signature that is wanted is missing or wrong.
    """
    found: list[Signed] = []
    for folder in folders:
        kind, _, name = folder.name.partition("--")
        repo_id = name.replace("--", "/", 1)
        rule = policy.rule_of(repo_id)
        if not kind or rule.mode == "off":
            continue
        for snapshot in sorted((folder / "snapshots").iterdir()):
            if not is_commit(snapshot.name):
                continue
            try:
                found.append(_check_directory(folder, snapshot, repo_id, rule))
            except HfModelsError as error:
                if rule.mode == "enforce":
                    raise
                warn(f"{folder.name}: {error.message} (the policy only warns)")
    return found


def _check_directory(folder: Path, snapshot: Path, repo_id: str, rule: Rule) -> Signed:
    path = folder / signature_path(snapshot.name)
    if not path.is_file():
        raise IntegrityError(f"{repo_id}@{snapshot.name} is not signed")
    if path.stat().st_size > BUNDLE_LIMIT_BYTES:
        raise IntegrityError(f"{path}: want at most {BUNDLE_LIMIT_BYTES} bytes")
    statement = rule.verify(path.read_bytes(), repo_id)
    paths = {
        str(at.relative_to(snapshot)): at for at in sorted(snapshot.rglob("*")) if at.is_file()
    }
    blobs = {name: path.resolve().name for name, path in paths.items()}
    # The hash of a blob that is named by its sha256 was checked before.
    sha256s = {name: blob if SHA256.fullmatch(blob) else None for name, blob in blobs.items()}
    check_names(sha256s, statement)
    for name, sha256 in sha256s.items():
        if sha256 is None and is_signed(name):
            check_file(name, paths[name], statement)
    return Signed.of(repo_id, snapshot.name, statement)
