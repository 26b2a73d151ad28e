"""Flags that several commands share, and what they and the environment mean.

Names follow ``hf download``, so that nobody has to learn them.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.hub.repo import HUB_HOSTS, RepoName, Selection, parse_repo_name
from downloader.keyless import Identity, KeylessSigner
from downloader.library.connection import Connection
from downloader.net.http import HttpPool, HttpSettings
from downloader.net.retry import RetryPolicy
from downloader.plan import COMPRESS, DEFAULT_CACHE_ROOT, parse_layer_limit
from downloader.restore.trust import Policy, policy_of_signers, read_policy
from downloader.signing import KeySigner, Signer

F = TypeVar("F", bound=Callable[..., Any])


def compose(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that applies all of them, the first one outermost."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


selection_options = compose(
    click.option(
        "--include", multiple=True, metavar="GLOB", help="Only files that match; repeatable."
    ),
    click.option(
        "--exclude", multiple=True, metavar="GLOB", help="Not files that match; repeatable."
    ),
)

repo_options = compose(
    click.argument("repo_id", metavar="REPO_ID"),
    click.argument("filenames", nargs=-1, metavar="[FILE]..."),
    click.option("--revision", metavar="REV", help="Branch, tag or commit.  [default: main]"),
    selection_options,
    click.option(
        "--repo-type",
        "--type",
        type=click.Choice(["model", "dataset", "space"]),
        default="model",
        show_default=True,
    ),
    click.option(
        "--token",
        metavar="TOKEN",
        help="Hub token; prefer HF_TOKEN or `hf auth login`: arguments are visible to others.",
    ),
)

layer_options = compose(
    click.option(
        "--layer-size",
        default="default",
        show_default=True,
        metavar="SIZE",
        help="Largest layer: default (9.5 GB), mirror (1 GB), or a size like 2GB.",
    ),
    click.option(
        "--cache-root",
        default=DEFAULT_CACHE_ROOT,
        show_default=True,
        metavar="DIR",
        help="HF_HOME inside the image.",
    ),
    click.option(
        "--models-dir",
        metavar="DIR",
        help="Where the image shows the files under their names, or none."
        "  [default: /models, /datasets or /spaces]",
    ),
    click.option(
        "--receiver/--no-receiver",
        default=True,
        help="Carry hf-models.pyz, which restores the image with Python alone.  [default: yes]",
    ),
    click.option(
        "--compress",
        type=click.Choice(COMPRESS),
        default="none",
        show_default=True,
        help="zstd layers: all of them, those that shrink by a tenth, or these in both forms.",
    ),
)

# How any server is reached; of every command that speaks to one.
http_options = compose(
    click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False),
        metavar="PEM",
        help="Certificates to trust beside the system's.",
    ),
    click.option(
        "--tries",
        type=click.IntRange(1, 100),
        default=RetryPolicy.tries,
        show_default=True,
        help="How often one request is tried before it counts as failed.",
    ),
    click.option(
        "--retry-delay",
        type=click.FloatRange(0, 60),
        default=RetryPolicy.first_delay_s,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait before the second try; doubles from there.",
    ),
    click.option(
        "--timeout",
        "--stall-timeout",
        type=click.FloatRange(0.1, 3600),
        default=HttpSettings.read_timeout_s,
        show_default=True,
        metavar="SECONDS",
        help="How long a connection may be silent.",
    ),
)

plain_http_option = click.option(
    "--plain-http",
    multiple=True,
    metavar="HOST",
    help="A registry without TLS: HOST, HOST:PORT or a network; repeatable."
    "  [env: HF_MODELS_PLAIN_HTTP]",
)

# How a registry is reached.
connection_options = compose(
    http_options,
    plain_http_option,
    click.option("--username", metavar="USER", help="Instead of the stored credentials."),
    click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
)

mirror_option = click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="HOST",
    help="Ask this host first, for manifests too; repeatable.  [env: HF_MODELS_MIRRORS]",
)

# How images are read.
network_options = compose(connection_options, mirror_option)

trust_config_option = click.option(
    "--trust-config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Of a private Sigstore (ClientTrustConfig).  [default: the public one]",
)

trust_options = compose(
    click.option(
        "--key",
        "keys",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Insist on a signature by this public key; repeatable.",
    ),
    click.option(
        "--identity",
        metavar="NAME",
        help="Insist on a keyless signature by this mail address or workflow.",
    ),
    click.option(
        "--issuer",
        metavar="URL",
        help="The OIDC issuer that vouches for --identity.",
    ),
    trust_config_option,
    click.option(
        "--policy",
        "policy_file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Whose signatures are wanted of which repos.",
    ),
)


def policy_of(options: Mapping[str, Any]) -> Policy | None:
    """Return what ``--key``, ``--identity`` or ``--policy`` wants; None for nothing.

    Raises:
        InputError: They do not go together, or a file is neither a key nor a policy.
    """
    keys, policy_file = options["keys"], options["policy_file"]
    identity, issuer, trust_config = (
        options[name] for name in ("identity", "issuer", "trust_config")
    )
    if bool(identity) != bool(issuer):
        raise InputError("want --identity and --issuer together, got one of them")
    if trust_config and not identity:
        raise InputError(
            "want --trust-config with --identity, got it alone",
            hint="a policy file names its own",
        )
    if (keys or identity) and policy_file:
        raise InputError(f"want {'--key' if keys else '--identity'} or --policy, got both")
    if policy_file:
        return read_policy(policy_file)
    identities = [Identity(identity, issuer)] if identity else []
    return policy_of_signers(keys, identities, trust_config) if keys or identities else None


sign_options = compose(
    click.option(
        "--sign-key",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Sign the files with this private key (PEM); needs hf-models[sign].",
    ),
    click.option(
        "--sign-keyless",
        is_flag=True,
        help="Sign the files as the identity of this CI job, with Sigstore; into a public log.",
    ),
    click.option(
        "--identity-token",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Holds the OIDC token for --sign-keyless.  [default: the CI job's own]",
    ),
    trust_config_option,
)


def signer_of(options: Mapping[str, Any]) -> Signer | None:
    """Return what ``--sign-key`` or ``--sign-keyless`` signs with; None for no signature.

    Raises:
        InputError: They do not go together, or there is neither key nor identity.
    """
    key, token, config = (options[n] for n in ("sign_key", "identity_token", "trust_config"))
    if options["sign_keyless"]:
        if key:
            raise InputError("want --sign-key or --sign-keyless, got both")
        timeout_s = options.get("timeout", HttpSettings.read_timeout_s)
        return KeylessSigner(token, config, timeout_s)
    if token or config:
        name = "--identity-token" if token else "--trust-config"
        raise InputError(f"want {name} with --sign-keyless, got it alone")
    return KeySigner(key) if key else None


quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, only the result.")
json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON.")

DEFAULT_IMAGE = "hf-models"
tag_option = click.option("--tag", metavar="TAG", help="Image tag.  [default: the repo's name]")
image_option = click.option(
    "--image",
    default=DEFAULT_IMAGE,
    show_default=True,
    envvar="HF_MODELS_IMAGE",
    show_envvar=True,
    metavar="NAME",
    help="Image name, without tag.",
)


def parse_size_option(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    """Return bytes for a size flag (a click callback)."""
    return None if value is None else parse_layer_limit(value)


def selected(repo_id: str, repo_type: str) -> RepoName:
    """Return the repo that the arguments name, with revision and path where they were pasted."""
    endpoint = read_environment().hub_endpoint
    own = re.match(r"https?://([^/@]+)", endpoint.value.lower()) if endpoint else None
    return parse_repo_name(repo_id, repo_type, HUB_HOSTS | ({own[1]} if own else set()))


def selection(
    filenames: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...]
) -> Selection:
    """Return the selection that the arguments name.

    Raises:
        InputError: File names together with patterns, which ``hf download`` ignores.
    """
    if filenames and (include or exclude):
        raise InputError("want file names or --include/--exclude, got both")
    return Selection(filenames, include, exclude)


def connection_of(options: Mapping[str, Any]) -> Connection:
    """Return what the flags of a command say of how servers are reached, as far as it has them.

    Raises:
        InputError: A user without a password, or a password without a user.
    """
    username, reads_password = options.get("username"), options.get("password_stdin", False)
    if (username is not None) != reads_password:
        raise InputError("want --username and --password-stdin together, got one of them")
    return Connection(
        mirrors=tuple(options.get("mirrors", ())),
        username=username,
        password=_read_password() if reads_password else None,
        hub_token=options.get("token"),
        ca_file=options.get("ca_file"),
        plain_http=tuple(options.get("plain_http", ())),
        timeout_s=options.get("timeout", HttpSettings.read_timeout_s),
        retry=retry_policy(options) or RetryPolicy(),
        upload=options.get("upload", "auto"),
    )


def _read_password() -> str:
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise InputError("want a password on standard input, got none")
    return password


def retry_policy(options: Mapping[str, Any]) -> RetryPolicy | None:
    """Return what ``--tries`` and ``--retry-delay`` say; None for a command without them."""
    if "tries" not in options:
        return None
    return RetryPolicy(options["tries"], options["retry_delay"])


def http_pool(options: Mapping[str, Any] | None = None) -> HttpPool:
    """Return connections as the environment and the flags want them."""
    return Connection(
        ca_file=(options or {}).get("ca_file"),
        plain_http=tuple((options or {}).get("plain_http", ())),
        timeout_s=(options or {}).get("timeout", HttpSettings.read_timeout_s),
    ).open_pool(read_environment())


def find_cache_dir(value: str | None) -> Path:
    """Return the cache directory: the flag, else where huggingface_hub itself looks."""
    return Path(value).expanduser() if value else read_environment().hub_cache_dir
