"""Where credentials come from: Docker's own configuration, the user, or nowhere."""

import base64
import binascii
import json
import re
import subprocess
from pathlib import Path
from typing import Protocol

from downloader.errors import InputError
from downloader.oci.auth import Credential

_DOCKER_HUB_KEY = "https://index.docker.io/v1/"  # since Docker 0.x, and written to this day
_CONFIG_LIMIT_BYTES = 4 * 1024 * 1024  # a few kB in practice
_HELPER = re.compile(r"[A-Za-z0-9._-]{1,64}")  # part of a program's name, never a path


class Credentials(Protocol):
    """Finds the credential for a registry."""

    def find(self, registry: str) -> Credential | None:
        """Return the credential for ``registry`` (as `Reference.registry`), None: anonymous."""


class Anonymous:
    """No credential for anybody."""

    def find(self, registry: str) -> Credential | None:
        """Return None."""
        del registry
        return None


class ExplicitCredentials:
    """What the user gave on the command line, for one registry; others are asked elsewhere.

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

    def find(self, registry: str) -> Credential | None:
        """Return the credential if ``registry`` is the one that it was given for."""
        return self._credential if registry == self._registry else self._others.find(registry)


class DockerCredentials:
    """The credentials that ``docker login`` stored: ``config.json`` and its helpers.

    Args:
        config_dir: Docker's configuration directory: ``$DOCKER_CONFIG`` or ``~/.docker``.
        helper_timeout_s: For one credential helper, which may ask a key ring.
    """

    def __init__(self, config_dir: Path, *, helper_timeout_s: float = 30.0) -> None:
        self._config_dir = config_dir
        self._helper_timeout_s = helper_timeout_s

    def find(self, registry: str) -> Credential | None:
        """Return the stored credential for ``registry``, None if there is none.

        Raises:
            InputError: The file is malformed, or a helper that it names fails.
        """
        path = self._config_dir / "config.json"
        config = _read_config(path)
        helpers = _section(config, "credHelpers", path)
        auths = _section(config, "auths", path)
        store = config.get("credsStore")
        for key in _keys_of(registry):
            if isinstance(helper := helpers.get(key), str):
                return self._ask_helper(helper, key)
        # The helper holds the secret, ``auths`` then lists an empty entry for each key.
        for key in _keys_of(registry) if isinstance(store, str) and store else ():
            if found := self._ask_helper(str(store), key):
                return found
        known = {_host_of(key): entry for key, entry in auths.items()}
        for key in _keys_of(registry):
            entry = auths.get(key) or known.get(_host_of(key))
            if found := _parse_entry(entry, key, path):
                return found
        return None

    def _ask_helper(self, helper: str, key: str) -> Credential | None:
        name = f"docker-credential-{helper}"
        if not _HELPER.fullmatch(helper):
            raise InputError(f"want a credential helper's name, got {helper[:100]!r}")
        try:
            done = subprocess.run(
                [name, "get"],
                input=key.encode(),
                capture_output=True,
                timeout=self._helper_timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(
                f"{name}: want an answer within {self._helper_timeout_s:g} s, got none",
                hint="unlock its key ring, or give --username and --password-stdin",
            ) from error
        except OSError as error:
            raise InputError(
                f"{name}: want a program to run, got {type(error).__name__}",
                hint=f"{self._config_dir / 'config.json'} names it: install it, or log in again",
            ) from error
        if done.returncode != 0:
            # Only the reason is looked for: what a helper prints may be the secret itself.
            if b"credentials not found" in done.stdout + done.stderr:
                return None
            raise InputError(
                f"{name}: want the credential for {key}, got exit status {done.returncode}",
                hint=f"run `docker login {_host_of(key)}` again",
            )
        return _parse_helper_answer(done.stdout, name)


def _keys_of(registry: str) -> list[str]:
    """Return the names under which Docker may have stored a registry's credential."""
    if registry in {"docker.io", "index.docker.io", "registry-1.docker.io"}:
        return [_DOCKER_HUB_KEY, "index.docker.io", "docker.io", "registry-1.docker.io"]
    return [registry]


def _host_of(key: str) -> str:
    # Old versions wrote URLs: https://registry.example/v1/
    return re.sub(r"^https?://", "", key).partition("/")[0]


def _read_config(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > _CONFIG_LIMIT_BYTES:
            raise InputError(f"{path}: want at most {_CONFIG_LIMIT_BYTES} bytes, got more")
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError):
        document = None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__})") from error
    if not isinstance(document, dict):
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
        text = base64.b64decode(str(auth), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    username, colon, password = text.partition(":")
    if not colon:
        # The value is a secret, so neither it nor the decoder's error is shown or chained.
        raise InputError(f"{where}: want base64 of user:password, got something else")
    return username, password.rstrip("\0")


def _parse_helper_answer(output: bytes, name: str) -> Credential | None:
    try:
        document = json.loads(output)
    except (ValueError, RecursionError):
        document = None
    fields = document if isinstance(document, dict) else {}
    username, secret = fields.get("Username"), fields.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise InputError(f"{name}: want JSON with Username and Secret, got something else")
    if not secret:
        return None
    # Source: docker-credential-helpers, README, "Development": <token> marks identity tokens.
    if username == "<token>":
        return Credential(identity_token=secret)
    return Credential(username, secret)
