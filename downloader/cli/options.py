"""Flags that several commands share, and the library's own values that they become.

Names follow ``hf download``, whose users know them.
"""

import inspect
import math
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from downloader.errors import InputError
from downloader.keyless import Identity, KeylessSigner
from downloader.library.connection import Connection
from downloader.net.http import HttpSettings
from downloader.net.retry import RetryPolicy
from downloader.restore.policy import Policy, policy_of_signers, read_policy
from downloader.signing import KeySigner, Signer

if TYPE_CHECKING:  # the consumer's commands load nothing of it
    from downloader.oci.upload import UploadMode

F = TypeVar("F", bound=Callable[..., Any])


def compose(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that applies all of them, the first one outermost."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


class Seconds(click.FloatRange):
    """A number of seconds within limits; NaN, which no limit stops, is none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return it."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid number of seconds.", param, ctx)
        return number


class Text(click.types.StringParamType):
    """A text; an argument that is no UTF-8 can be a path, but no name that servers are told."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it."""
        text = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!r} is no text in UTF-8.", param, ctx)
        return text


def gathered(name: str, make: Callable[..., Any]) -> Callable[[F], F]:
    """Return a decorator that gives a command one value in place of several flags.

    Args:
        name: The command's parameter.
        make: Called with those of its own parameters that the command has as flags.
    """
    names = inspect.signature(make).parameters

    def apply(function: F) -> F:
        @wraps(function)
        def call(**values: Any) -> Any:
            own = {key: values.pop(key) for key in names if key in values}
            return function(**{name: make(**own)}, **values)

        return call  # type: ignore[return-value]

    return apply


repo_type_option = click.option(
    "--repo-type",
    "--type",
    type=click.Choice(["model", "dataset", "space"]),
    default="model",
    show_default=True,
)

selection_options = compose(
    click.option(
        "--include",
        type=Text(),
        multiple=True,
        metavar="GLOB",
        help="Only files that match; repeatable.",
    ),
    click.option(
        "--exclude",
        type=Text(),
        multiple=True,
        metavar="GLOB",
        help="Not files that match; repeatable.",
    ),
)


def connection_of(
    mirrors: tuple[str, ...] = (),
    username: str | None = None,
    password_stdin: bool = False,
    token: str | None = None,
    ca_file: str | None = None,
    plain_http: tuple[str, ...] = (),
    timeout: float = HttpSettings.read_timeout_s,
    tries: int = RetryPolicy.tries,
    retry_delay: float = RetryPolicy.first_delay_s,
    upload: "UploadMode" = "auto",
) -> Connection:
    """Return what the flags of a command say of how servers are reached.

    Raises:
        InputError: A user without a password, or a password without a user.
    """
    if (username is not None) != password_stdin:
        raise InputError("--username and --password-stdin need each other")
    return Connection(
        mirrors=mirrors,
        username=username,
        password=read_password() if password_stdin else None,
        hub_token=token,
        ca_file=ca_file,
        plain_http=plain_http,
        timeout_s=timeout,
        retry=RetryPolicy(tries, retry_delay),
        upload=upload,
    )


def read_password() -> str:
    """Return the first line of standard input.

    Raises:
        InputError: It is empty, or no UTF-8.
    """
    try:
        password = sys.stdin.readline().rstrip("\r\n")
        password.encode()
    except UnicodeError:  # which shows the password
        raise InputError("want a password in UTF-8 on standard input, got other bytes") from None
    if not password:
        raise InputError("no password on standard input")
    return password


# How any server is reached, of every command that speaks to one: the parameter ``connection``.
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
        type=Seconds(0, 60),
        default=RetryPolicy.first_delay_s,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait before the second try; doubles from there.",
    ),
    click.option(
        "--timeout",
        "--stall-timeout",
        type=Seconds(0.1, 3600),
        default=HttpSettings.read_timeout_s,
        show_default=True,
        metavar="SECONDS",
        help="How long a connection may be silent.",
    ),
    gathered("connection", connection_of),
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
    click.option(
        "--username", type=Text(), metavar="USER", help="Instead of the stored credentials."
    ),
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


def policy_of(
    keys: tuple[Path, ...],
    identity: str | None,
    issuer: str | None,
    trust_config: Path | None,
    policy_file: Path | None,
) -> Policy | None:
    """Return what ``--key``, ``--identity`` or ``--policy`` wants; None for nothing.

    Raises:
        InputError: They do not go together, or a file is neither a key nor a policy.
    """
    if bool(identity) != bool(issuer):
        raise InputError("--identity and --issuer need each other")
    if trust_config and not identity:
        raise InputError(
            "--trust-config needs --identity",
            hint="a policy file names its own",
        )
    if (keys or identity) and policy_file:
        raise InputError(f"{'--key' if keys else '--identity'} and --policy exclude each other")
    if policy_file:
        return read_policy(policy_file)
    identities = [Identity(identity, issuer)] if identity and issuer else []
    return policy_of_signers(keys, identities, trust_config) if keys or identities else None


# Whose signatures are wanted: the parameter ``policy``.
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
    gathered("policy", policy_of),
)


def signer_of(
    sign_key: Path | None,
    sign_keyless: bool,
    identity_token: Path | None,
    trust_config: Path | None,
) -> Signer | None:
    """Return what ``--sign-key`` or ``--sign-keyless`` signs with; None for no signature.

    Raises:
        InputError: They do not go together, or there is neither key nor identity.
    """
    if sign_keyless:
        if sign_key:
            raise InputError("--sign-key and --sign-keyless exclude each other")
        timeout_s = click.get_current_context().params.get("timeout", HttpSettings.read_timeout_s)
        return KeylessSigner(identity_token, trust_config, timeout_s)
    if identity_token or trust_config:
        name = "--identity-token" if identity_token else "--trust-config"
        raise InputError(f"{name} needs --sign-keyless")
    return KeySigner(sign_key) if sign_key else None


# Who signs: the parameter ``signer``.
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
    gathered("signer", signer_of),
)


memory_option = click.option(
    "--memory", default="64MiB", show_default=True, metavar="SIZE", help="For all buffers."
)
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
