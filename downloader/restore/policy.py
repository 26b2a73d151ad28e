"""The signature policy of a site: signers per repo, and the gate that restores have to pass."""

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from downloader.document import Document
from downloader.errors import HfModelsError, InputError, IntegrityError
from downloader.hub.repo import RepoFile, Snapshot
from downloader.keyless import Identity, load_trust, verify_keyless
from downloader.progress import Note
from downloader.restore.reader import Found
from downloader.signing import Statement, is_keyless, is_signed, load_keys, verify_bundle

Mode = Literal["off", "warn", "enforce"]
MODES: tuple[Mode, ...] = get_args(Mode)
_SHOWN_ID = 16


@dataclass(frozen=True)
class Rule:
    """The signatures that a site requires of some repos.

    Args:
        repo: A pattern of repo ids: ``org/*``; ``*`` for all.
        mode: ``off`` looks at no signature, ``warn`` says what is wrong, ``enforce`` refuses.
        keys: Public keys by their id; one of them or of the identities has to have signed.
        identities: Identities that may sign without a key.
        trust: The Sigstore that vouches for the identities, as `load_trust` returns it.
    """

    repo: str
    mode: Mode
    keys: Mapping[str, Any]
    identities: tuple[Identity, ...] = ()
    trust: Any = None

    def verify(self, bundle: bytes, repo_id: str) -> Statement:
        """Return what a bundle states of a repo.

        Raises:
            IntegrityError: No signer that the rule trusts made it, or it is about another repo.
            ProtocolError: It is malformed.
        """
        if self.identities and (is_keyless(bundle) or not self.keys):
            statement = verify_keyless(bundle, self.identities, self.trust)
        else:
            statement = verify_bundle(bundle, self.keys)
        # `model_signing` itself writes the name of a directory, which says nothing.
        if "/" in statement.name and statement.name != repo_id:
            raise IntegrityError(f"signature: made for {statement.name}, got it with {repo_id}")
        return statement


@dataclass(frozen=True)
class Signed:
    """A signature that is right: whose key or identity, over which files."""

    repo_id: str
    commit: str
    key_id: str | None
    identity: str | None
    issuer: str | None
    files: int

    @classmethod
    def of(cls, repo_id: str, commit: str, statement: Statement) -> "Signed":
        """Return who stated what of a commit."""
        by = statement.key_id, statement.identity, statement.issuer
        return cls(repo_id, commit, *by, len(statement.files))

    def __str__(self) -> str:
        by = f"{self.identity} ({self.issuer})" if self.identity else f"key {self.key_id}"
        return f"{self.repo_id}@{self.commit}: {self.files} files, signed by {by}"


@dataclass(frozen=True)
class Policy:
    """The rules of a site; the first one that fits a repo holds."""

    rules: tuple[Rule, ...]

    def rule_of(self, repo_id: str) -> Rule:
        """Return what is wanted of a repo: nothing, where no rule fits."""
        fitting = (rule for rule in self.rules if fnmatchcase(repo_id, rule.repo))
        return next(fitting, Rule("*", "off", {}))


def policy_of_signers(
    keys: Iterable[Path], identities: Iterable[Identity] = (), trust_config: Path | None = None
) -> Policy:
    """Return the policy that one of some keys or identities must have signed everything.

    Args:
        keys: Files of public keys.
        identities: Identities that may sign without a key.
        trust_config: Of a private Sigstore; None for the public one.

    Raises:
        InputError: A file is no public key, or no trust configuration.
    """
    return Policy((_rule_of("*", "enforce", tuple(keys), tuple(identities), trust_config),))


def _rule_of(
    repo: str,
    mode: Mode,
    keys: tuple[Path, ...],
    identities: tuple[Identity, ...],
    trust_config: Path | None,
) -> Rule:
    loaded = load_keys(list(keys)) if keys else {}
    return Rule(repo, mode, loaded, identities, load_trust(trust_config) if identities else None)


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    ::

        [[rules]]
        repo = "meta-llama/*"
        mode = "enforce"
        keys = ["publisher.pub"]        # beside the file
        trust-config = "sigstore.json"  # of a private Sigstore; beside the file

        [[rules.identities]]
        identity = "https://github.com/me/models/.github/workflows/publish.yml@refs/heads/main"
        issuer = "https://token.actions.githubusercontent.com"

    Raises:
        InputError: It is no policy.
    """
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    rules = Document(parsed, str(path), InputError).objects("rules")
    return Policy(tuple(_rule(rule, path.parent) for rule in rules))


def _rule(document: Document, directory: Path) -> Rule:
    mode = next((mode for mode in MODES if mode == document.text("mode")), None)
    if mode is None:
        raise document.failure("mode", "off, warn or enforce")
    names = document.get("keys") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise document.failure("keys", "a list of files")
    repo = document.text("repo")
    if mode == "off":
        return Rule(repo, mode, {})
    items = document.objects("identities") if "identities" in document else []
    identities = tuple(Identity(item.text("identity"), item.text("issuer")) for item in items)
    if not names and not identities:
        raise document.failure("keys", "at least one public key, or identities")
    config = document.text("trust-config") if "trust-config" in document else None
    keys = tuple(directory / name for name in names)
    return _rule_of(repo, mode, keys, identities, directory / config if config else None)


class Gate:
    """Checks signatures while a restore runs: names first, contents outside LFS at the end.

    Args:
        policy: The required signers of each repo.
        warn: Told of a signature that is missing or wrong where the policy only warns.
    """

    def __init__(self, policy: Policy, warn: Note) -> None:
        self.signed: list[Signed] = []
        self._policy = policy
        self._warn = warn
        self._warned: set[tuple[str, Snapshot]] = set()

    def check_names(self, item: Found) -> None:
        """Raise before the first byte if the names are not what was signed.

        Raises:
            IntegrityError: The rule enforces a signature, and none is right.
            ProtocolError: The signature is malformed.
        """
        self._guarded(item, lambda statement: check_snapshot(item.snapshot, statement))

    def check_contents(self, item: Found, path_of: Callable[[RepoFile], Path | None]) -> None:
        """Raise if a file outside LFS, whose oid is no sha256, is not what was signed.

        Args:
            item: The image whose files are there now.
            path_of: Returns the path of a file.
        """

        def check(statement: Statement) -> None:
            for file in item.snapshot.files:
                path = path_of(file)
                if file.sha256 is None and is_signed(file.path) and path is not None:
                    check_file(file.path, path, statement)
            snapshot = item.snapshot
            self.signed.append(Signed.of(snapshot.repo.id, snapshot.commit, statement))

        self._guarded(item, check)

    def _guarded(self, item: Found, check: Callable[[Statement], None]) -> None:
        rule = self._policy.rule_of(item.snapshot.repo.id)
        if rule.mode == "off" or (item.source, item.snapshot) in self._warned:
            return
        try:
            if item.signature is None:
                raise IntegrityError(
                    f"{item.source}: {item.snapshot.repo.id} is not signed",
                    hint="publish it with --sign-key or --sign-keyless, or ask for no signature",
                )
            check(rule.verify(item.signature, item.snapshot.repo.id))
        except HfModelsError as error:
            if rule.mode == "enforce":
                raise
            self._warned.add((item.source, item.snapshot))
            self._warn(f"{item.source}: {error.message} (the policy only warns)")


def check_snapshot(snapshot: Snapshot, statement: Statement) -> None:
    """Raise unless a statement names exactly the files of a snapshot, and their sha256s.

    Raises:
        IntegrityError: It names others.
    """
    check_names({file.path: file.sha256 for file in snapshot.files}, statement)


def check_names(files: Mapping[str, str | None], statement: Statement) -> None:
    """Raise unless a statement names exactly some files, and the sha256s that are known of them.

    Args:
        files: The sha256 of each by path; None where it is not known.
        statement: What was signed.

    Raises:
        IntegrityError: It names others.
    """
    shown = {path: sha256 for path, sha256 in files.items() if is_signed(path)}
    if odd := sorted(shown.keys() ^ statement.files.keys()):
        what = "not signed" if odd[0] in shown else "signed, and missing"
        raise IntegrityError(f"signature: {odd[0]!r} is {what}; {len(odd)} such files")
    for path, sha256 in shown.items():
        if sha256 is not None and sha256 != statement.files[path]:
            raise IntegrityError(f"{path}: signed as {statement.files[path]}, got {sha256}")


def check_file(name: str, path: Path, statement: Statement) -> None:
    """Raise unless a statement names a file and the hash of what lies at ``path``.

    Raises:
        IntegrityError: It names another.
    """
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != statement.files.get(name):
        raise IntegrityError(f"{name}: signed as {statement.files.get(name)}, got {got}")
