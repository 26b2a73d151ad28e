"""Opening an image: registries and their mirrors, directories, archives."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from downloader.errors import INSTALL_FROM, InputError
from downloader.net.retry import RetryPolicy
from downloader.oci.credentials import Anonymous, Credentials
from downloader.oci.image_archive import open_files
from downloader.oci.reference import Reference, parse_reference
from downloader.progress import Note, Progress
from downloader.restore.image import (
    Image,
    open_local_image,
    open_registry_image,
    open_root_directory,
)
from downloader.restore.source import ArchiveSource, LayoutSource, RegistrySource, RootSource

if TYPE_CHECKING:
    from downloader.net.http import HttpPool
    from downloader.oci.registry import Registry

# A mirror has the next place behind it, so a failed request is not tried again.
_MIRROR_RETRY = RetryPolicy(tries=1)


@dataclass(frozen=True)
class Network:
    """Settings and connections for registries.

    Args:
        pool: Connections; its read timeout is how long a stalled one is waited for. None for
            those of the library's own settings.
        credentials: For every registry and mirror.
        mirrors: Hosts, with a path before the repository if need be; in order.
        retry: Of the image's own registry.
    """

    pool: "HttpPool | None" = None
    credentials: Credentials = field(default_factory=Anonymous)
    mirrors: tuple[str, ...] = ()
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def open_image(
    source: RegistrySource | LayoutSource | ArchiveSource | RootSource,
    network: Network,
    progress: Progress,
) -> Image:
    """Return the image of a source whose blobs can be asked for.

    Raises:
        RegistryError, TransportError, ProtocolError, IntegrityError, InputError, StorageError.
    """
    match source:
        case RegistrySource(reference=reference):
            registries = open_registries(reference, network, progress.note)
            return open_registry_image(str(source), reference.target, registries, progress)
        case RootSource(path=path):
            return open_root_directory(path, progress.note)
    return open_local_image(str(source.path), open_files(source.path), source.tag)


def open_registries(reference: Reference, network: Network, note: Note) -> "list[Registry]":
    """Return the same repository at each mirror, in order, and its own at last.

    Raises:
        InputError: A mirror is none, or urllib3 is not installed here.
    """
    mirrored = [_mirrored(reference, mirror) for mirror in network.mirrors]
    return [
        *(_registry(item, network, _MIRROR_RETRY, note) for item in mirrored),
        _registry(reference, network, network.retry, note),
    ]


def _mirrored(reference: Reference, mirror: str) -> Reference:
    host = mirror.removeprefix("https://").removeprefix("http://").strip("/")
    if not host:
        raise InputError(f"want a mirror's host, got {mirror!r}")
    # The dot or colon that makes a first segment a host is missing where it is only a name.
    is_host = any(mark in host.partition("/")[0] for mark in ".:") or host == "localhost"
    if not is_host:
        raise InputError(f"want a mirror's host like mirror.example.com, got {mirror!r}")
    return parse_reference(f"{host}/{reference.repository}")


def _registry(reference: Reference, network: Network, retry: RetryPolicy, note: Note) -> "Registry":
    try:  # the receiver inside an image has no urllib3
        from downloader.net.http import HttpPool  # noqa: PLC0415
        from downloader.oci.registry import Registry  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InputError(
            f"{reference}: reading a registry needs {error.name}, which is not installed here",
            hint=f"save the image to a file (docker save -o FILE), or pip install {INSTALL_FROM}",
        ) from error
    return Registry(
        reference,
        network.pool or HttpPool(),
        network.credentials,
        retry=retry,
        note=note,
    )
