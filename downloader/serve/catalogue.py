"""The served repos: commits, revisions, and the place of each file's bytes.

An `Index` is immutable; a refresh builds the next one and puts it in the place of the last,
so that a request sees one state from its beginning to its end.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from downloader.hub.repo import DEFAULT_REVISION, Repo, RepoFile, Snapshot
from downloader.restore.image_blobs import ImageBlobs
from downloader.restore.values import BlobPlan
from downloader.serve.neighbours import SMALL_BYTES, Neighbours, find_neighbours
from downloader.serve.routes import entry_not_found, repo_not_found, revision_not_found


@dataclass(frozen=True)
class Remote:
    """A cache blob that lies in an image: its ranges, and the blobs of that image."""

    plan: BlobPlan
    image_blobs: ImageBlobs


Location = Remote | Path


@dataclass(eq=False)
class Lookup:
    """Looks through an image once, to find where its contents lie.

    Args:
        look: Reads the image, so it blocks for long, and raises its errors.
        found: Results returned already.
    """

    look: Callable[[], "Loaded"] = field(repr=False)
    found: "Loaded | None" = None

    @property
    def is_over(self) -> bool:
        """Whether `locate` knows the answer."""
        return self.found is not None

    def run(self) -> None:
        """Look through the image."""
        self.found = self.look()

    def forget(self) -> None:
        """Look again the next time."""
        self.found = None

    def locate(self, oid: str) -> Location:
        """Return where a content lies, once `run` has found it."""
        assert self.found is not None  # noqa: S101 - the caller has asked `is_over`
        return self.found.locate(oid)


@dataclass(frozen=True)
class Loaded:
    """The files of a snapshot, and where each content lies.

    Args:
        snapshot: With the files that the source has.
        locate: Returns where the content of an oid lies.
        lookup: Returns what must be run before `locate` can answer for an oid; None for nothing.
    """

    snapshot: Snapshot
    locate: Callable[[str], Location]
    lookup: Callable[[str], Lookup | None] = lambda _oid: None

    @cached_property
    def files(self) -> Mapping[str, RepoFile]:
        """The files by path, sorted."""
        return {file.path: file for file in self.snapshot.files}

    @cached_property
    def folders(self) -> Mapping[str, str]:
        """The oid of each folder by path.

        Not that of git's tree, whose modes no source knows; but one that changes with the content.
        """
        found: dict[str, hashlib._Hash] = {}
        for file in self.snapshot.files:
            line, folder = f"{file.path}\0{file.oid}\n".encode(), file.path
            while folder := folder.rpartition("/")[0]:
                if folder not in found:
                    found[folder] = hashlib.sha1(usedforsecurity=False)
                found[folder].update(line)
        return {path: names.hexdigest() for path, names in found.items()}

    @cached_property
    def neighbours(self) -> Mapping[str, Neighbours]:
        """The small contents by oid that lie near others, as far as is known where they lie."""
        return find_neighbours(self._iter_small())

    def _iter_small(self) -> Iterator[tuple[RepoFile, BlobPlan, ImageBlobs]]:
        for file in self.snapshot.files:
            lookup = self.lookup(file.oid)
            if file.size_bytes > SMALL_BYTES or not (lookup is None or lookup.is_over):
                continue
            location = self.locate(file.oid)
            if isinstance(location, Remote) and len(location.plan.ranges) == 1:
                yield file, location.plan, location.image_blobs


@dataclass(frozen=True)
class Entry:
    """A snapshot in a source.

    Args:
        repo: Of which repo.
        commit: 40 hex digits.
        revisions: The branches and tags that name it; empty where newer ones took them.
        created: The commit's date, RFC 3339; empty where the source does not say.
        origin: The image or directory, for messages.
        load: Returns its files; reads the source, so it blocks, and raises its errors.
        license: An SPDX identifier, empty where the source does not say.
        gated: Whether the Hub asks for terms to be accepted.
        private: Whether the Hub shows it to its owners only.
        size_bytes: Of all files, where the source says so without reading on.
    """

    repo: Repo
    commit: str
    revisions: tuple[str, ...]
    created: str
    origin: str
    load: Callable[[], Loaded] = field(repr=False, compare=False)
    license: str = ""
    gated: bool = False
    private: bool = False
    size_bytes: int | None = None


@dataclass(frozen=True)
class Version:
    """A repo at a commit: everything that the sources have of it.

    Args:
        entries: Of one commit, the best first; several where images carry parts of a repo.
    """

    entries: tuple[Entry, ...]

    @property
    def entry(self) -> Entry:
        """The entry that speaks for all of them."""
        return self.entries[0]

    @property
    def repo(self) -> Repo:
        """The repo."""
        return self.entry.repo

    @property
    def commit(self) -> str:
        """The commit."""
        return self.entry.commit

    def load(self) -> Loaded:
        """Return the files of all entries together; blocks.

        Raises:
            HfModelsError: No source could be read.
        """
        if len(self.entries) == 1:
            return self.entry.load()
        loaded = [entry.load() for entry in self.entries]
        files: dict[str, tuple[RepoFile, Loaded]] = {}
        for item in loaded:
            for path, file in item.files.items():
                files.setdefault(path, (file, item))
        owners = {file.oid: item for file, item in files.values()}
        snapshot = replace(
            loaded[0].snapshot, files=tuple(file for _, (file, _) in sorted(files.items()))
        )
        return Loaded(
            snapshot, lambda oid: owners[oid].locate(oid), lambda oid: owners[oid].lookup(oid)
        )


class Index:
    """Every version by repo and commit, and the revisions of every repo.

    Args:
        entries: Of all sources, in the order in which they were named.
        retired: Versions whose tags are gone; they stay reachable by commit, because a client
            may be in the middle of their files.
    """

    def __init__(self, entries: Iterable[Entry] = (), retired: Iterable[Entry] = ()) -> None:
        commits: dict[Repo, dict[str, list[Entry]]] = {}
        self._revisions: dict[Repo, dict[str, str]] = {}
        current = list(entries)
        # The newest commit has the name; of equals, the source that was named first.
        for entry in sorted(current, key=lambda entry: entry.created, reverse=True):
            commits.setdefault(entry.repo, {}).setdefault(entry.commit, []).append(entry)
            named = self._revisions.setdefault(entry.repo, {})
            for revision in entry.revisions:
                named.setdefault(revision, entry.commit)
        for repo, found in commits.items():
            self._revisions[repo].setdefault(DEFAULT_REVISION, next(iter(found)))
        for entry in retired:
            commits.setdefault(entry.repo, {}).setdefault(entry.commit, []).append(entry)
        self._versions = {
            repo: {commit: Version(tuple(items)) for commit, items in found.items()}
            for repo, found in commits.items()
        }

    @property
    def repos(self) -> list[Repo]:
        """Every repo that has a revision, sorted."""
        return sorted(self._revisions)

    @property
    def entries(self) -> list[Entry]:
        """Every entry, retired ones too."""
        return [
            entry
            for found in self._versions.values()
            for version in found.values()
            for entry in version.entries
        ]

    def has(self, repo: Repo) -> bool:
        """Whether a source has the repo."""
        return repo in self._versions

    def revisions(self, repo: Repo) -> dict[str, str]:
        """Return the commit of each branch and tag.

        Raises:
            Refusal: No source has the repo.
        """
        if repo not in self._versions:
            raise repo_not_found()
        return dict(sorted(self._revisions.get(repo, {}).items()))

    def find(self, repo: Repo, revision: str) -> Version:
        """Return what a branch, tag or commit names.

        Raises:
            Refusal: No source has the repo, or nothing of it has this name.
        """
        named = self.revisions(repo)
        version = self._versions[repo].get(named.get(revision, revision))
        if version is None:
            raise revision_not_found(revision)
        return version


def find_file(loaded: Loaded, path: str) -> RepoFile:
    """Return a file of a version.

    Raises:
        Refusal: There is none.
    """
    file = loaded.files.get(path)
    if file is None:
        raise entry_not_found(path)
    return file
