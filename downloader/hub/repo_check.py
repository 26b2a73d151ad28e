"""One repo folder against its own names: everything of a verification but the hashing."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from downloader.errors import HfModelsError
from downloader.fs import storage_errors
from downloader.hub.cache import blob_path, parse_part, part_path, snapshot_path
from downloader.hub.repo import RepoFile, Snapshot, is_commit, is_oid

Kind = Literal["missing", "extra", "wrong"]


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is not as promised.

    Args:
        kind: ``missing``, ``extra`` or ``wrong``.
        path: Relative to the cache directory.
        want: What its name, a tree or a plan promises.
        got: What is there.
    """

    kind: Kind
    path: str
    want: str
    got: str


@dataclass(frozen=True)
class HashJob:
    """Bytes to hash, in order, and the oid that they should have."""

    name: str
    oid: str
    paths: tuple[Path, ...]
    size_bytes: int


@dataclass
class RepoCheck:
    """One repo folder: everything but the hashing."""

    cache_dir: Path
    folder: Path
    findings: list[Finding] = field(default_factory=list)
    snapshots: int = 0
    files: int = 0
    unchecked: int = 0
    linked: set[str] = field(default_factory=set)

    def plan(self) -> list[HashJob]:
        """Look at all names and links; return what has to be hashed."""
        jobs = {job.oid: job for job in [*self._iter_blobs(), *self._iter_parts()]}
        self._check_refs()
        copies = dict(self._iter_snapshot_files(jobs))
        self._check_orphans(jobs)
        checked = list(self._check_promises(list(self._iter_promises()), jobs, copies))
        self.unchecked = len(copies) - len({job.paths for job in checked})
        return [*jobs.values(), *checked]

    def _check_orphans(self, jobs: dict[str, HashJob]) -> None:
        for oid in jobs.keys() - self.linked:
            self._report("extra", self.folder / blob_path(oid), "a link from a snapshot", "none")

    def _report(self, kind: Kind, path: Path, want: str, got: str) -> None:
        self.findings.append(Finding(kind, self._name(path), want, got))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.cache_dir).as_posix()

    def _iter_blobs(self) -> Iterator[HashJob]:
        for path in _list(self.folder / "blobs"):
            if path.name.endswith(".incomplete"):
                self._report("extra", path, "no unfinished download", "a leftover")
            elif parse_part(path.name):
                continue
            elif not is_oid(path.name):
                self._report("extra", path, "a name of 40 or 64 hex digits", path.name)
            elif not path.exists():
                self._report("wrong", path, "a file", _describe(path))
            else:
                yield HashJob(self._name(path), path.name, (path,), path.stat().st_size)

    def _iter_parts(self) -> Iterator[HashJob]:
        found: dict[str, dict[int, Path]] = {}
        totals: dict[str, int] = {}
        for path in _list(self.folder / "blobs"):
            if name := parse_part(path.name):
                found.setdefault(name.oid, {})[name.part] = path
                totals[name.oid] = name.parts
        for oid, parts in found.items():
            whole = self.folder / blob_path(oid)
            missing = sorted(set(range(1, totals[oid] + 1)) - set(parts))
            for number in missing:
                path = self.folder / part_path(oid, number, totals[oid])
                self._report("missing", path, "a part of a blob", "nothing")
            if not missing:
                paths = tuple(path for _, path in sorted(parts.items()))
                size = sum(path.stat().st_size for path in paths)
                yield HashJob(self._name(whole), oid, paths, size)

    def _check_refs(self) -> None:
        for path in _walk(self.folder / "refs"):
            with storage_errors(path):
                data = path.read_bytes()
            if not is_commit(data.decode("ascii", "replace")):
                self._report("wrong", path, "40 hex digits, no newline", repr(data[:60])[1:])
            elif not (self.folder / "snapshots" / data.decode()).is_dir():
                self._report("missing", path, f"snapshots/{data.decode()}", "nothing")

    def _iter_snapshot_files(self, jobs: dict[str, HashJob]) -> Iterator[tuple[str, Path]]:
        """Check every link; yield the files that are no links, which have no name to check."""
        self.snapshots = len(_list(self.folder / "snapshots"))
        for path in _walk(self.folder / "snapshots"):
            self.files += 1
            if path.is_symlink():
                self._check_link(path, jobs)
            else:
                yield path.relative_to(self.folder).as_posix(), path

    def _check_link(self, path: Path, jobs: dict[str, HashJob]) -> None:
        target = path.readlink()
        lexical = Path(os.path.normpath(path.parent / target))
        if target.is_absolute() or lexical.parent != self.folder / "blobs":
            self._report("wrong", path, "a relative link into blobs/", str(target))
            return
        self.linked.add(lexical.name)
        if lexical.name not in jobs:
            self._report("missing", lexical, f"the content of {path.name}", _describe(lexical))

    def _iter_promises(self) -> Iterator[tuple[str, RepoFile, Path]]:
        for path in _list(self.folder / "trees"):
            for file in self._read(path, _parse_tree):
                yield path.stem, file, path
        for path in _list(self.folder / "plans"):
            for commit, file in self._read(path, _parse_plan):
                yield commit, file, path

    def _read(self, path: Path, parse: Callable[[Any], Iterable[Any]]) -> list[Any]:
        try:
            with storage_errors(path):
                document = json.loads(path.read_bytes())
            return list(parse(document))
        except (HfModelsError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._report("wrong", path, "a list of files", f"{type(error).__name__}: {error}")
            return []

    def _check_promises(
        self,
        promises: list[tuple[str, RepoFile, Path]],
        jobs: dict[str, HashJob],
        copies: dict[str, Path],
    ) -> Iterator[HashJob]:
        known: dict[str, set[str]] = {}
        for commit, file, _ in promises:
            relative = snapshot_path(commit, file.path)
            known.setdefault(commit, set()).add(relative)
            path = self.folder / relative
            if relative in copies:
                yield HashJob(self._name(path), file.oid, (path,), file.size_bytes)
            elif not path.is_symlink():
                self._report("missing", path, f"{file.size_bytes} bytes", _describe(path))
            else:
                self._check_promise(path, file, jobs)
        for commit, names in known.items():
            self._check_extra(commit, names)

    def _check_promise(self, path: Path, file: RepoFile, jobs: dict[str, HashJob]) -> None:
        oid = path.readlink().name
        if oid != file.oid:
            self._report("wrong", path, f"oid {file.oid}", f"oid {oid}")
        elif oid in jobs and jobs[oid].size_bytes != file.size_bytes:
            got = f"{jobs[oid].size_bytes} bytes"
            self._report("wrong", path, f"{file.size_bytes} bytes", got)

    def _check_extra(self, commit: str, names: set[str]) -> None:
        for path in _walk(self.folder / "snapshots" / commit):
            if path.relative_to(self.folder).as_posix() not in names:
                self._report("extra", path, "only promised files", "another file")


def _parse_tree(document: Any) -> Iterator[RepoFile]:  # noqa: ANN401  # JSON of anybody
    for path, entry in document["files"].items():
        fields = {"path": path, "size": entry["size"], "blob_id": entry["blob_id"]}
        fields["sha256"] = entry.get("lfs_sha256")
        yield RepoFile.from_json(fields, f"files[{path!r}]")


def _parse_plan(document: Any) -> Iterator[tuple[str, RepoFile]]:  # noqa: ANN401
    snapshot = Snapshot.from_json(document["snapshot"])
    for file in snapshot.files:
        yield snapshot.commit, file


def _list(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    with storage_errors(directory):
        return sorted(directory.iterdir())


def _walk(directory: Path) -> Iterator[Path]:
    """Yield every file and link below ``directory``; follows no link."""
    for path in _list(directory):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _describe(path: Path) -> str:
    if path.is_symlink():
        return f"a link to {path.readlink()}" + ("" if path.exists() else ", which is not there")
    if path.is_dir():
        return "a directory"
    return "a file" if path.exists() else "nothing"
