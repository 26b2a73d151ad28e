"""Where credentials come from: Docker's own configuration, the user, or nowhere."""

from pathlib import Path
from typing import Protocol

from downloader.oci.auth import Credential


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
        raise NotImplementedError
