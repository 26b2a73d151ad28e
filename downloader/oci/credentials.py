"""Credentials of registries: from the files of docker and podman, or from the user."""

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from downloader.document import load_object
from downloader.errors import InputError
from downloader.fs import storage_errors, write_atomically
from downloader.oci.auth import Credential

DOCKER_HUB = "docker.io"
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"  # since Docker 0.x, and written to this day
_CONFIG_LIMIT_BYTES = 4 * 1024 * 1024  # a few kB in practice
_HELPER = re.compile(r"[A-Za-z0-9._-]{1,64}")  # part of a program's name, never a path


class Credentials(Protocol):
    """Finds the credential for a registry."""

    def find(self, registry: str, repository: str = "") -> Credential | None:
        """Return the credential for a repository of ``registry``, None for anonymous.

        Args:
            registry: As `Reference.registry`.
            repository: As `Reference.repository`.
        """


class Anonymous:
    """No credential for any registry."""

    def find(self, registry: str, repository: str = "") -> Credential | None:
        """Return None."""
        del registry, repository
        return None


class ExplicitCredentials:
    """The credential of the command line, for one registry; others are asked elsewhere.

    Args:
        registry: As `Reference.registry`.
        credential: For that registry only.
        others: For every other registry.
    """

    def __init__(
        self, registry: str, credential: Credential, others: Credentials | None = None
    ) -> None:
        self._registry = registry
        self._credential = credential
        self._others = others or Anonymous()

    def find(self, registry: str, repository: str = "") -> Credential | None:
        """Return the credential if ``registry`` is the one that it was given for."""
        is_its = registry == self._registry
        return self._credential if is_its else self._others.find(registry, repository)


class StoredCredentials:
    """The credentials that ``docker login``, ``podman login`` and their kin stored.

    Files are asked in order. In each, the longest key that the repository begins with counts
    first (``ghcr.io/org/name``, ``ghcr.io/org``, ``ghcr.io``); for one key a helper of its
    own comes before the store for all, and that before the file itself.

    Args:
        files: ``auth.json`` and ``config.json`` files; missing ones are passed over.
        helper_timeout_s: For one credential helper, which may ask a key ring.

    Source: containers-auth.json(5); docker CLI 28, cli/config/configfile.
    """

    def __init__(self, files: Sequence[Path], *, helper_timeout_s: float = 30.0) -> None:
        self._files = files
        self._helper_timeout_s = helper_timeout_s

    def find(self, registry: str, repository: str = "") -> Credential | None:
        """Return the stored credential for a repository, None if there is none.

        Raises:
            InputError: A file is malformed, or a helper that it names fails.
        """
        for path in self._files:
            if found := self._find_in(path, registry, repository):
                return found
        return None

    def _find_in(self, path: Path, registry: str, repository: str) -> Credential | None:
        config = _read_config(path)
        helpers, auths = _section(config, "credHelpers", path), _section(config, "auths", path)
        store = config.get("credsStore")
        known = {_key_of(key): entry for key, entry in auths.items()}
        names = _names_of(registry)
        for name in names:
            parts = repository.split("/") if repository else []
            for count in range(len(parts), 0, -1):
                key = "/".join([name, *parts[:count]])
                if isinstance(helper := helpers.get(key), str):
                    return _Helper(helper, path, self._helper_timeout_s).get(key)
                if found := _parse_entry(known.get(key), key, path):
                    return found
        keys = [_DOCKER_HUB_KEY, *names] if DOCKER_HUB in names else names
        for key in keys:
            if isinstance(helper := helpers.get(key), str):
                return _Helper(helper, path, self._helper_timeout_s).get(key)
        if isinstance(store, str) and store:
            helper = _Helper(store, path, self._helper_timeout_s)
            if found := next(filter(None, map(helper.get, keys)), None):
                return found
        return next(
            filter(None, (_parse_entry(known.get(name), name, path) for name in names)), None
        )


def store_login(path: Path, registry: str, credential: Credential) -> str:
    """Store a credential where Docker, podman and their kin look for it.

    Args:
        path: The file, of `downloader.environment.Environment.login_file`; what else is in it
            stays.
        registry: As `Reference.registry`.
        credential: Of the user.

    Returns:
        Where it is now, for people: the file, or the helper that the file names.

    Raises:
        InputError: The file is malformed, or the helper that it names fails.
        StorageError: It cannot be written.
    """
    config = _read_config(path)
    key = _login_key(registry, path)
    if helper := _helper_of(config, key, path):
        helper.store(key, credential)
        return helper.name
    pair = f"{credential.username}:{credential.password}".encode()
    entry = {"auth": base64.b64encode(pair).decode()}
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    auths = {**_section(config, "auths", path), key: entry}
    _write_config(path, {**config, "auths": auths})
    return str(path)


def remove_login(path: Path, registry: str) -> bool:
    """Remove a registry's credential; False if there was none.

    Raises:
        InputError, StorageError: As `store_login`.
    """
    config = _read_config(path)
    key = _login_key(registry, path)
    helper = _helper_of(config, key, path)
    had_secret = helper is not None and helper.get(key) is not None
    if helper is not None and had_secret:
        helper.erase(key)
    auths = _section(config, "auths", path)
    kept = {
        name: entry for name, entry in auths.items() if _key_of(name) not in _names_of(registry)
    }
    if kept != auths:
        _write_config(path, {**config, "auths": kept})
    return had_secret or kept != auths


def _helper_of(config: dict[str, object], key: str, path: Path) -> "_Helper | None":
    name = _section(config, "credHelpers", path).get(key) or config.get("credsStore")
    return _Helper(str(name), path) if name else None


def _login_key(registry: str, path: Path) -> str:
    if registry in _names_of(DOCKER_HUB):
        return DOCKER_HUB if path.name == "auth.json" else _DOCKER_HUB_KEY
    return registry


class _Helper:
    """A program that keeps credentials for others: ``docker-credential-NAME``.

    Source: docker-credential-helpers, README, "Development".
    """

    def __init__(self, helper: str, config: Path, timeout_s: float = 30.0) -> None:
        if not _HELPER.fullmatch(helper):
            raise InputError(f"{config}: want a credential helper's name, got {helper[:100]!r}")
        self.name = f"docker-credential-{helper}"
        self._config = config
        self._timeout_s = timeout_s

    def get(self, key: str) -> Credential | None:
        done = self._run("get", key.encode())
        if done.returncode != 0:
            # Only the reason is looked for: what a helper prints may be the secret itself.
            if b"credentials not found" in done.stdout + done.stderr:
                return None
            raise self._failed(key, done.returncode)
        return _parse_helper_answer(done.stdout, self.name)

    def store(self, key: str, credential: Credential) -> None:
        username = "<token>" if credential.identity_token else credential.username
        secret = credential.identity_token or credential.password
        document = {"ServerURL": key, "Username": username, "Secret": secret}
        done = self._run("store", json.dumps(document).encode())
        if done.returncode != 0:
            raise self._failed(key, done.returncode)

    def erase(self, key: str) -> None:
        done = self._run("erase", key.encode())
        if done.returncode != 0:
            raise self._failed(key, done.returncode)

    def _run(self, action: str, text: bytes) -> "subprocess.CompletedProcess[bytes]":
        try:
            return subprocess.run(
                [self.name, action],
                input=text,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(
                f"{self.name}: no answer within {self._timeout_s:g} s",
                hint="unlock its key ring, or give --username and --password-stdin",
            ) from error
        except OSError as error:
            said = "not found" if isinstance(error, FileNotFoundError) else error.strerror
            raise InputError(
                f"{self.name}: {said}",
                hint=f"{self._config} names it: install it, or log in again",
            ) from error

    def _failed(self, key: str, status: int) -> InputError:
        return InputError(
            f"{self.name}: exit status {status} for {key}", hint=f"log in to {key} again"
        )


def _names_of(registry: str) -> list[str]:
    """Return the names under which a registry's credential may be stored."""
    hub = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"]
    return hub if registry in hub else [registry]


def _key_of(text: str) -> str:
    """Return a key of ``auths`` as host and path; old versions wrote https://HOST/v1/."""
    if text.startswith(("http://", "https://")) or text.rstrip("/").endswith(("/v1", "/v2")):
        return re.sub(r"^https?://", "", text).partition("/")[0]
    return text.rstrip("/")


def _write_config(path: Path, config: dict[str, object]) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = path.resolve()  # people link it to where their dotfiles are
    data = json.dumps(config, indent="\t", ensure_ascii=False) + "\n"
    write_atomically(target, data.encode(), mode=0o600)


def _read_config(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > _CONFIG_LIMIT_BYTES:
            raise InputError(f"{path}: want at most {_CONFIG_LIMIT_BYTES} bytes, got more")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__})") from error
    document = load_object(data) if data.strip() else {}  # as Docker and podman take it
    if document is None:
        raise InputError(f"{path}: want a JSON object, got something else")
    return document


def _section(config: dict[str, object], key: str, path: Path) -> dict[str, object]:
    section = config.get(key) or {}
    if not isinstance(section, dict):
        raise InputError(f"{path}: {key}: want an object, got {type(section).__name__}")
    return section


def _parse_entry(entry: object, key: str, path: Path) -> Credential | None:
    if not isinstance(entry, dict):
        return None
    token = entry.get("identitytoken") or ""
    auth = entry.get("auth") or ""
    username, password = entry.get("username") or "", entry.get("password") or ""
    if auth:
        username, password = _decode_auth(auth, f"{path}: auths[{key!r}].auth")
    fields = (username, password, token)
    if not all(isinstance(text, str) for text in fields):
        raise InputError(f"{path}: auths[{key!r}]: want strings, got something else")
    return Credential(username, password, token) if password or token else None


def _decode_auth(auth: object, where: str) -> tuple[str, str]:
    try:
        # Docker's decoder skips line breaks, which `base64` puts into a long value.
        text = base64.b64decode("".join(str(auth).split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    username, colon, password = text.partition(":")
    if not colon:
        # The value is a secret, so neither it nor the decoder's error is shown or chained.
        raise InputError(f"{where}: want base64 of user:password, got something else")
    return username, password.rstrip("\0\r\n")  # of `echo me:pw | base64`


def _parse_helper_answer(output: bytes, name: str) -> Credential | None:
    if not output.strip():
        raise InputError(f"{name}: printed nothing", hint="log in again, or remove its entry")
    fields = load_object(output) or {}
    username, secret = fields.get("Username"), fields.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise InputError(f"{name}: want JSON with Username and Secret, got something else")
    if not secret:
        return None
    # Source: docker-credential-helpers, README, "Development": <token> marks identity tokens.
    if username == "<token>":
        return Credential(identity_token=secret)
    return Credential(username, secret)
