"""The registries that a job publishes to, and their credentials. Pure.

GitHub's own registry needs nothing but the job's token. Every other registry takes part when
its secrets exist, and is left out, with a note, when they do not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from downloader.oci.reference import parse_reference

IMAGE = "hf-models"


@dataclass(frozen=True)
class Login:
    """A credential for one registry; its password is never shown."""

    registry: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Known:
    """A registry that a repository's secrets and variables can describe.

    Args:
        registry: Its host, or the variable that names it, as ``$NAME``.
        username: The variable with the user.
        password: The secret.
        images: Parts of the image name, as hosts above; empty names none.
    """

    registry: str
    username: str
    password: str
    images: tuple[str, ...] = ()


# The names are those that people have already: docker/login-action's documentation, and
# tech-shrimp/docker_image_pusher for Aliyun.
KNOWN: tuple[Known, ...] = (
    Known("ghcr.io", "GITHUB_ACTOR", "GITHUB_TOKEN"),
    Known("docker.io", "DOCKERHUB_USERNAME", "DOCKERHUB_TOKEN", ("$DOCKERHUB_USERNAME", IMAGE)),
    Known(
        "$ALIYUN_REGISTRY",
        "ALIYUN_REGISTRY_USER",
        "ALIYUN_REGISTRY_PASSWORD",
        ("$ALIYUN_NAME_SPACE", IMAGE),
    ),
    Known(
        "$OTHER_REGISTRY", "OTHER_REGISTRY_USER", "OTHER_REGISTRY_PASSWORD", ("$OTHER_IMAGE_NAME",)
    ),
)


@dataclass(frozen=True)
class Destinations:
    """The destinations of a job.

    Args:
        images: Image names without tag.
        notes: The registries left out, with reasons.
    """

    images: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def hosts(self) -> frozenset[str]:
        """The registries of the images."""
        return frozenset(parse_reference(image).registry for image in self.images)


def read_logins(environment: Mapping[str, str]) -> list[Login]:
    """Return every credential that the secrets hold.

    Args:
        environment: Secrets and variables, by name; empty ones are missing ones.
    """
    found = (_login(known, environment) for known in KNOWN)
    return [login for login in found if login]


def named_images(environment: Mapping[str, str]) -> list[str]:
    """Return the image names that secrets and variables tell, of registries with credentials."""
    known = [known for known in KNOWN if _login(known, environment)]
    return [name for item in known if (name := _image(item, environment))]


def choose_destinations(
    registries: Sequence[str],
    hosts: Collection[str],
    named: Sequence[str] = (),
    *,
    is_exact: bool = False,
) -> Destinations:
    """Return those of ``registries`` with credentials, and what else the secrets name.

    Args:
        registries: Image names without tag, of a model's entry.
        hosts: Registries with credentials.
        named: Image names of `named_images`; each takes part where ``registries`` name none
            at its host.
        is_exact: Whether ``registries`` are all that was asked for.

    >>> choose_destinations(["ghcr.io/me/hf-models", "docker.io/me/hf-models"], ["ghcr.io"])
    ... # doctest: +NORMALIZE_WHITESPACE
    Destinations(images=('ghcr.io/me/hf-models',),
        notes=('docker.io/me/hf-models: left out, docker.io has no secrets',))
    """
    images = [parse_reference(name) for name in dict.fromkeys(registries)]
    if not is_exact:
        taken = {image.registry for image in images}
        extra = [parse_reference(name) for name in named]
        images += [image for image in extra if image.registry not in taken]
    lost = [image for image in images if image.registry not in hosts]
    return Destinations(
        images=tuple(image.name for image in images if image not in lost),
        notes=tuple(f"{i.name}: left out, {i.registry} has no secrets" for i in lost),
    )


def subject_name(image: str) -> str:
    """Return an image's name as the action that attests wants it.

    Source: https://github.com/actions/attest, "Container Image": Docker Hub by the host of its
    API, other registries by their own.

    >>> subject_name("docker.io/me/hf-models"), subject_name("ghcr.io/me/hf-models")
    ('index.docker.io/me/hf-models', 'ghcr.io/me/hf-models')
    """
    return f"index.{image}" if image.startswith("docker.io/") else image


def _login(known: Known, environment: Mapping[str, str]) -> Login | None:
    host = _value(known.registry, environment)
    username, password = environment.get(known.username), environment.get(known.password)
    return Login(host, username, password) if host and username and password else None


def _image(known: Known, environment: Mapping[str, str]) -> str | None:
    parts = [_value(part, environment) for part in (known.registry, *known.images)]
    # Image names are lower-case; account names need not be.
    return "/".join(part.lower() for part in parts) if known.images and all(parts) else None


def _value(text: str, environment: Mapping[str, str]) -> str:
    return environment.get(text[1:], "") if text.startswith("$") else text
