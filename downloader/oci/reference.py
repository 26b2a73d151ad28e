"""Image references: ``docker.io/me/hf-models:codet5-small@sha256:...`` and their parts."""

import re
from dataclasses import dataclass, replace

from downloader.errors import InputError, ProtocolError
from downloader.oci.digest import Digest, parse_digest

DEFAULT_REGISTRY = "docker.io"
# Docker Hub's API host differs from the name that everybody writes.
_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_OFFICIAL = "library"  # docker.io/busybox is docker.io/library/busybox

# Source: OCI distribution specification 1.1, "Pulling manifests", <name> and <reference>.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
TAG_LIMIT = 128  # characters
_TAG = re.compile(rf"[a-zA-Z0-9_][a-zA-Z0-9._-]{{0,{TAG_LIMIT - 1}}}")
_HOST = re.compile(
    r"(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?)(?::[0-9]{1,5})?"
)
_DIGEST_LIKE = re.compile(r"[a-z0-9]+:[0-9a-zA-Z]*\Z")
_NAME_LIMIT = 255  # characters of host and repository together, as the specification advises


@dataclass(frozen=True)
class Reference:
    """An image's name: registry, repository, and a tag or a digest or both or neither."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def api_host(self) -> str:
        """The host (and port) that answers the distribution API."""
        return _API_HOSTS.get(self.registry, self.registry)

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """The end of a manifest URL: the digest, else the tag, else ``latest``."""
        return self.digest or self.tag or "latest"

    def with_tag(self, tag: str) -> "Reference":
        """Return the same repository at another tag, without a digest."""
        return replace(self, tag=check_tag(tag), digest=None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def check_tag(tag: str) -> str:
    """Return ``tag`` if it can be an image tag.

    Raises:
        InputError: It cannot.
    """
    if not _TAG.fullmatch(tag):
        raise InputError(
            f"want an image tag of 1 to 128 letters, digits, '_', '.' or '-', got {tag!r}"
        )
    return tag


def tag_from_name(name: str) -> str:
    """Return ``name`` as a valid, lower-case tag.

    >>> tag_from_name("CodeT5 small+")
    'codet5-small'
    """
    tag = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip(".-")[:TAG_LIMIT]
    return check_tag(tag or "_")


def parse_reference(text: str) -> Reference:
    """Parse an image reference the way Docker does.

    The first segment is a registry if it has a dot or a colon or is ``localhost``;
    otherwise the image is on Docker Hub, and one without an organisation in ``library/``.

    Raises:
        InputError: It breaks the grammar; the message says which part.

    >>> parse_reference("me/hf-models:codet5-small")
    Reference(registry='docker.io', repository='me/hf-models', tag='codet5-small', digest=None)
    >>> str(parse_reference("localhost:5000/a/b"))
    'localhost:5000/a/b'
    """
    _check_is_no_url(text)
    rest, at, digest_text = text.partition("@")
    name, tag = _split_tag(rest)
    registry, repository = _split_registry(name)
    if not _HOST.fullmatch(registry):
        raise InputError(f"want a registry host in {text!r}, got {registry!r}")
    if not _REPOSITORY.fullmatch(repository) or len(registry + repository) > _NAME_LIMIT:
        raise InputError(
            f"{text!r} is no image name",
            hint="an image name is lower-case: letters, digits, '.', '_', '-' and '/'",
        )
    return Reference(
        registry=registry,
        repository=repository,
        tag=check_tag(tag) if tag is not None else None,
        digest=_parse_digest(digest_text) if at else None,
    )


def _check_is_no_url(text: str) -> None:
    # Not repeated: it may hold a password.
    _, at, digest = text.partition("@")
    if "://" in text or "?" in text or (at and not _DIGEST_LIKE.match(digest)):
        raise InputError(
            "want NAME[:TAG][@DIGEST], got a scheme, a user, a password or a query with it",
            hint="write it like ghcr.io/me/models, and log in with `docker login`",
        )


def _split_tag(text: str) -> tuple[str, str | None]:
    head, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    return head + slash + name, (tag if colon else None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (set(first) & set(".:[") or first == "localhost"):
        registry, repository = first, rest
    else:
        registry, repository = DEFAULT_REGISTRY, name
    if registry in _API_HOSTS and "/" not in repository:
        repository = f"{_OFFICIAL}/{repository}"
    return registry, repository


def _parse_digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except ProtocolError as error:
        raise InputError(error.message) from error
