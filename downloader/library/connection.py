"""Settings of connections to registries: the caller's, over those of the environment."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from downloader.environment import Environment, read_environment
from downloader.errors import InputError
from downloader.net.http import HttpPool, HttpSettings, http_settings_of
from downloader.net.retry import RetryPolicy
from downloader.oci.auth import Credential
from downloader.oci.credentials import Credentials, ExplicitCredentials, StoredCredentials
from downloader.oci.reference import Reference
from downloader.oci.registry import Registry
from downloader.oci.registry_write import WritableRegistry
from downloader.oci.upload import UploadMode
from downloader.progress import NoProgress, Progress
from downloader.restore import Network
from downloader.restore.source import RegistrySource, Source


@dataclass(frozen=True)
class Connection:
    """Settings for the Hub and registries, over those of the environment.

    Args:
        mirrors: Registries that are asked before an image's own; empty for the environment's.
        username: For the one registry that is named; the others use the stored credentials.
        password: Of that user.
        hub_token: None for the environment's; "" to ask the Hub without one.
        ca_file: A PEM file to trust beside the system's certificates.
        plain_http: Registries without TLS: hosts, ``HOST:PORT`` or networks.
        timeout_s: Longest silence of a connection.
        retry: Of one request.
        upload: The way to send large blobs; ``auto`` knows some registries and learns from answers.

    >>> Connection(username="me", password="secret")  # doctest: +ELLIPSIS
    Connection(mirrors=(), username='me', hub_token=None, ...)
    """

    mirrors: tuple[str, ...] = ()
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    hub_token: str | None = None
    ca_file: str | None = None
    plain_http: tuple[str, ...] = ()
    timeout_s: float = HttpSettings.read_timeout_s
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    upload: UploadMode = "auto"

    def open_pool(self, environment: Environment) -> HttpPool:
        """Return connections.

        Raises:
            InputError: A proxy variable is malformed.
        """
        settings = http_settings_of(environment, self.ca_file, self.plain_http)
        return HttpPool(replace(settings, read_timeout_s=self.timeout_s))

    def find_credentials(
        self, environment: Environment, references: Iterable[Reference]
    ) -> Credentials:
        """Return the stored credentials, and over them the user that is named.

        Args:
            environment: Names the files of credentials.
            references: Images whose registry gets the user's credential.

        Raises:
            InputError: A user without a password, or one for several registries.
        """
        stored = StoredCredentials(environment.auth_files)
        if self.username is None and self.password is None:
            return stored
        if not self.username or not self.password:
            raise InputError("a user name and a password need each other")
        registries = sorted({reference.registry for reference in references})
        if len(registries) != 1:
            raise InputError(
                f"want one registry for a user name, got {', '.join(registries) or 'none'}",
                hint="log in to the others with `hf-models login`",
            )
        return ExplicitCredentials(registries[0], Credential(self.username, self.password), stored)


@dataclass(frozen=True)
class Session:
    """A connection that is open: what one run reaches the Hub and registries with.

    Args:
        connection: What the caller says.
        environment: What the environment says.
        http: Connections.
        credentials: For every registry and mirror.
        progress: Told of waits that a person would notice.
    """

    connection: Connection
    environment: Environment
    http: HttpPool
    credentials: Credentials
    progress: Progress

    @property
    def network(self) -> Network:
        """How images are read: from mirrors, too."""
        mirrors = self.connection.mirrors or self.environment.mirrors
        return Network(self.http, self.credentials, mirrors, retry=self.connection.retry)

    def open(self, reference: Reference) -> Registry:
        """Return the repository that ``reference`` names, to read it."""
        return Registry(
            reference,
            self.http,
            self.credentials,
            retry=self.connection.retry,
            note=self.progress.note,
        )

    def open_for_writing(self, reference: Reference) -> WritableRegistry:
        """Return the repository that ``reference`` names, as a place for images."""
        return WritableRegistry(
            reference,
            self.http,
            self.credentials,
            upload=self.connection.upload,
            retry=self.connection.retry,
            note=self.progress.note,
        )


@contextmanager
def open_session(
    connection: Connection | None = None,
    environment: Environment | None = None,
    progress: Progress | None = None,
    references: Iterable[Reference] = (),
) -> Iterator[Session]:
    """Give an open connection, and close it.

    Args:
        connection: How servers are reached, beside what the environment says.
        environment: None for the process's own.
        progress: Told of waits that a person would notice.
        references: What the user that is named is for.

    Raises:
        InputError: As `Connection.open_pool` and `Connection.find_credentials`.
    """
    connection, environment = connection or Connection(), environment or read_environment()
    with closing(connection.open_pool(environment)) as http:
        credentials = connection.find_credentials(environment, references)
        yield Session(connection, environment, http, credentials, progress or NoProgress())


def references_of(sources: Iterable[Source]) -> list[Reference]:
    """Return the images of registries among ``sources``."""
    return [item.reference for item in sources if isinstance(item, RegistrySource)]
