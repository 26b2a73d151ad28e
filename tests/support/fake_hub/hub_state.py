"""The repos while the server runs: refs that move, who may read, addresses that are signed."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from tests.support.fake_hub.spec import Commit, File, HubSpec, Repo

SHA = re.compile(r"[0-9a-f]{40}")


class HubState:
    """What all origins of one stand-in share."""

    def __init__(self, spec: HubSpec) -> None:
        self.spec = spec
        self.endpoint = ""
        self.cdn_endpoint = ""
        self._key = secrets.token_bytes(32)
        self._repos = {repo.key: repo for repo in spec.repos}
        self._refs = {repo.key: _first_refs(repo) for repo in spec.repos}
        self._lock = threading.Lock()

    def find_repo(self, key: str) -> Repo | None:
        return self._repos.get(key)

    def refs(self, repo: Repo) -> dict[str, str]:
        """Give full ref names (``refs/heads/main``) to commits."""
        with self._lock:
            return dict(self._refs[repo.key])

    def find_commit(self, repo: Repo, revision: str) -> Commit | None:
        """Find a commit by sha, or by a branch, tag or ``refs/...`` name."""
        refs = self.refs(repo)
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        sha = next((refs[name] for name in names if name in refs), revision)
        return next((one for one in repo.commits if one.sha == sha), None)

    def move(self, key: str, branch: str, commit: int | str) -> str:
        """Point a branch at another commit of the repo, by index or sha; give its sha.

        Raises:
            KeyError: There is no such repo or commit.
        """
        commits = self._repos[key].commits
        shas = {one.sha: one.sha for one in commits}
        sha = shas[commit] if isinstance(commit, str) else commits[commit].sha
        with self._lock:
            self._refs[key][f"refs/heads/{branch}"] = sha
        return sha

    def find_content(self, key: str, oid: str, path: str) -> File | None:
        """Find the file of that path and oid in any commit: what the CDN keeps."""
        repo = self._repos.get(key)
        found = (commit.by_path.get(path) for commit in (repo.commits if repo else ()))
        return next((file for file in found if file and file.oid == oid), None)

    def signed_url(self, repo: Repo, file: File) -> str:
        """Make the address of an LFS file at the CDN; it is valid for ``url_ttl_s``."""
        path = f"/{repo.type}s/{repo.id}/{file.oid}/{quote(file.path)}"
        expires = int(time.time()) + self.spec.url_ttl_s
        return f"{self.cdn_endpoint}{path}?expires={expires}&sig={self.signature(path, expires)}"

    def signature(self, path: str, expires: int) -> str:
        return hmac.new(self._key, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def _first_refs(repo: Repo) -> dict[str, str]:
    branches = {"main": len(repo.commits) - 1, **repo.branches}
    named = {
        **{f"refs/heads/{name}": index for name, index in branches.items()},
        **{f"refs/tags/{name}": index for name, index in repo.tags.items()},
        **{f"refs/pr/{name}": index for name, index in repo.pulls.items()},
    }
    return {name: repo.commits[index].sha for name, index in named.items()}
