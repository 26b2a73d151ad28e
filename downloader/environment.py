"""The machine's settings: environment variables and the paths of configuration files.

`read_environment` is the only place that reads ``os.environ``. It parses nothing that a
command may not need: a malformed proxy is reported where a connection is opened, under the
name of its variable.
"""

import os
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from downloader.errors import InputError, without_secrets
from downloader.fs import expand_home

_TRUE = {"1", "ON", "YES", "TRUE"}  # huggingface_hub 2.4, constants.py, ENV_VARS_TRUE_VALUES
_CA_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # OpenSSL, requests, curl
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HUB_NUMBERS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
_TOKEN_FILE_LIMIT_BYTES = 64 * 1024  # a token has 40 characters


@dataclass(frozen=True)
class Setting:
    """A value, and the variable or flag that it came from, for messages.

    Args:
        name: ``HTTPS_PROXY``, ``--ca-file``.
        value: As it was written, without white space around it.
    """

    name: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class ProxySettings:
    """The proxy variables, unparsed; lower-case names take precedence, as in curl.

    Args:
        http: For ``http`` addresses.
        https: For ``https`` addresses.
        all: For addresses whose scheme has no proxy of its own.
        bypass: Comma-separated hosts to reach directly.
    """

    http: Setting | None = None
    https: Setting | None = None
    all: Setting | None = None
    bypass: Setting | None = None


@dataclass(frozen=True)
class Environment:
    """Everything that is read from outside the command line.

    Args:
        home: The user's home directory.
        proxies: Proxy variables.
        ca_files: PEM files to trust beside the system's certificates.
        ca_dirs: Directories of such files.
        certificate_dirs: Directories like ``/etc/docker/certs.d``, with one directory a registry.
        auth_files: Files with registry credentials, in the order of their precedence.
        login_file: The file for logins, as ``docker login`` or ``podman login``
            writes on this machine.
        plain_http: Registries that are reached without TLS: hosts, ``HOST:PORT`` or networks.
        mirrors: Registries that are asked before an image's own.
        hub_endpoint: The Hub's address; None for huggingface_hub's own.
        hub_cache_dir: The cache directory of huggingface_hub.
        hub_tokens: The Hub's token in variables.
        hub_token_file: The file that ``hf auth login`` writes.
        hub_offline: The variable that forbids to ask the Hub.
        uploads_dir: The directory of upload journals.
        debug: Whether an unexpected exception shows its traceback.
        variables: The variables themselves, for child processes and workflow steps.
    """

    home: Path
    proxies: ProxySettings
    ca_files: tuple[Setting, ...]
    ca_dirs: tuple[Setting, ...]
    certificate_dirs: tuple[Path, ...]
    auth_files: tuple[Path, ...]
    login_file: Path
    plain_http: tuple[str, ...]
    mirrors: tuple[str, ...]
    hub_endpoint: Setting | None
    hub_cache_dir: Path
    hub_tokens: tuple[Setting, ...]
    hub_token_file: Path
    hub_offline: Setting | None
    uploads_dir: Path
    debug: bool
    variables: Mapping[str, str] = field(repr=False)

    def cache_dir(self, named: str | os.PathLike[str] | None) -> Path:
        """Return the cache directory: the one that is named, else where huggingface_hub looks."""
        return self.hub_cache_dir if named is None else expand_home(named)

    def get(self, name: str, default: str = "") -> str:
        """Return a variable without white space around it, ``default`` where it is unset."""
        return self.variables.get(name, "").strip() or default


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Return what the variables say; ``variables`` replaces the process's own.

    Source: huggingface_hub 2.4, constants.py; docker CLI 28, config.json; containers-auth.json(5);
    containers-certs.d(5).
    """
    env = dict(os.environ if variables is None else variables)
    home = Path(env.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 - no error without home

    def path(text: str) -> Path:
        return _expanded(text, env, home)

    config_home = path(env.get("XDG_CONFIG_HOME") or "~/.config")
    docker_dir = path(env.get("DOCKER_CONFIG") or "~/.docker")
    hf_home = path(env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface")
    hub_cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or f"{hf_home}/hub"
    auth_files = [path(env["REGISTRY_AUTH_FILE"])] if env.get("REGISTRY_AUTH_FILE") else []
    if env.get("XDG_RUNTIME_DIR"):
        auth_files.append(path(env["XDG_RUNTIME_DIR"]) / "containers/auth.json")
    auth_files += [config_home / "containers/auth.json", docker_dir / "config.json"]
    offline = _settings(env, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return Environment(
        home=home,
        proxies=ProxySettings(
            _either(env, "http_proxy"),
            _either(env, "https_proxy"),
            _either(env, "all_proxy"),
            _either(env, "no_proxy"),
        ),
        ca_files=_settings(env, *_CA_FILES),
        ca_dirs=_settings(env, "SSL_CERT_DIR"),
        certificate_dirs=(
            Path("/etc/docker/certs.d"),
            Path("/etc/containers/certs.d"),
            config_home / "containers/certs.d",
            docker_dir / "certs.d",
        ),
        auth_files=tuple(auth_files),
        login_file=_login_file(env, auth_files, docker_dir),
        plain_http=_items(env.get("HF_MODELS_PLAIN_HTTP", "")),
        mirrors=_items(env.get("HF_MODELS_MIRRORS", "")),
        hub_endpoint=next(iter(_settings(env, "HF_ENDPOINT")), None),
        hub_cache_dir=path(hub_cache),
        hub_tokens=_settings(env, *_HUB_TOKENS),
        hub_token_file=path(env.get("HF_TOKEN_PATH") or f"{hf_home}/token"),
        hub_offline=next((item for item in offline if item.value.upper() in _TRUE), None),
        uploads_dir=path(env.get("XDG_CACHE_HOME") or "~/.cache") / "hf-models/uploads",
        debug=env.get("HF_MODELS_DEBUG", "").upper() in _TRUE,
        variables=env,
    )


def read_hub_token(environment: Environment, given: Setting | None = None) -> Setting | None:
    """Return the Hub's token, None where there is none.

    In huggingface_hub's order: what is given, the variables, the file of ``hf auth login``;
    only what is given where ``HF_HUB_DISABLE_IMPLICIT_TOKEN`` is set.

    Args:
        environment: The variables and files to read.
        given: Of the flag ``--token``; an empty one asks without a token.

    Raises:
        InputError: A token that no header can carry, or a file that cannot be read.
    """
    found = given
    if found is None and environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN").upper() not in _TRUE:
        found = next(iter(environment.hub_tokens), None) or _token_of_file(environment)
    if found is None or not found.value:
        return None
    if not (found.value.isascii() and found.value.isprintable() and " " not in found.value):
        raise InputError(
            f"{found.name}: want a token of ASCII letters, digits and '_',"
            " got other characters in it",
            hint="paste it again, without quotes, blanks or line breaks",
        )
    return found


def _token_of_file(environment: Environment) -> Setting | None:
    path = environment.hub_token_file
    try:
        with path.open("rb") as file:
            data = file.read(_TOKEN_FILE_LIMIT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return Setting(str(path), data.decode("utf-8-sig", "replace").strip())


def check_hub_variables(environment: Environment) -> None:
    """Raise for variables on which ``import huggingface_hub`` itself would fail.

    Raises:
        InputError: One of them is no number, or the Hub's address has white space around it.
    """
    endpoint = environment.variables.get("HF_ENDPOINT", "")
    if endpoint != endpoint.strip():
        raise InputError(
            f"HF_ENDPOINT: want an address without white space, got {without_secrets(endpoint)!r}"
        )
    for setting in _settings(environment.variables, *_HUB_NUMBERS):
        if not (setting.value.isascii() and setting.value.isdigit()):
            raise InputError(f"{setting.name}: want whole seconds, got {setting.value[:100]!r}")


def _settings(env: Mapping[str, str], *names: str) -> tuple[Setting, ...]:
    return tuple(Setting(name, env[name].strip()) for name in names if env.get(name, "").strip())


def _either(env: Mapping[str, str], name: str) -> Setting | None:
    # A server of CGI scripts puts the header "Proxy" of its client into HTTP_PROXY.
    names = [name] if name == "http_proxy" and "REQUEST_METHOD" in env else [name, name.upper()]
    known = next((item for item in names if item in env), None)  # an empty one switches off
    return next(iter(_settings(env, known)), None) if known else None


def _items(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _expanded(text: str, env: Mapping[str, str], home: Path) -> Path:
    """Return a path with its variables and ``~`` replaced, as huggingface_hub does."""
    replaced = string.Template(text.strip()).safe_substitute(env)
    if replaced == "~" or replaced.startswith("~/"):
        return home / replaced[2:]
    return Path(os.path.expanduser(replaced))  # noqa: PTH111 - leaves an unknown ~user as it is


def _login_file(env: Mapping[str, str], auth_files: Iterable[Path], docker_dir: Path) -> Path:
    if env.get("REGISTRY_AUTH_FILE"):
        return next(iter(auth_files))
    docker = docker_dir / "config.json"
    if _exists(docker) or env.get("DOCKER_CONFIG"):
        return docker
    return next((path for path in auth_files if _exists(path)), docker)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a directory of another user, as after `su` without `-`
        return False
