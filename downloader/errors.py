"""The errors of this project, and the exit code that each one gives.

::

    HfModelsError
    ├── InputError        2  a flag, reference or file that the user gave
    ├── ServerError       3  the server answered, and the answer was no
    │   ├── HubError
    │   └── RegistryError
    ├── TransportError    4  no usable answer: DNS, TLS, timeout, reset, after the retries
    ├── ProtocolError     5  the answer breaks its specification
    ├── IntegrityError    6  the bytes are not the bytes that were promised
    ├── StorageError      7  this machine: disk full, permission, a malformed cache
    ├── EngineError       8  Docker is missing, or said no
    └── UnexpectedError  70  a fault of this program, which no other class foresees

A message is one line, what was wanted before what was got, with units. ``hint`` says what
to do about it; the command line prints it on a second line. No message holds a secret: URLs
pass through `without_secrets` before they get into one.
"""

import re
from typing import ClassVar

# Signed CDN URLs carry their signature in the query; user:password@ is a credential as well.
_URL_SECRETS = re.compile(r"(?P<scheme>https?://)(?:[^/?#\s]*@)?(?P<rest>[^\s?#]*)(?:\?[^\s]*)?")

_OTHER_BYTES_HINT = (
    "run it again; if they stay wrong, they are so where they come from, or in a proxy before it"
)


class HfModelsError(Exception):
    """Any failure that this project foresees; carries its exit code and an optional hint."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(HfModelsError):
    """A flag, reference or file that the user gave cannot be used."""

    exit_code = 2


class ServerError(HfModelsError):
    """A server answered, and the answer was no; ``status`` is its HTTP status."""

    exit_code = 3

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class HubError(ServerError):
    """The Hugging Face Hub said no: not found, gated, unauthorized, rate limited."""


class RegistryError(ServerError):
    """A registry said no: not found, denied, unauthorized, rate limited.

    Attributes:
        codes: The specification's words for it, ``MANIFEST_BLOB_UNKNOWN``; empty for none.
    """

    codes: frozenset[str] = frozenset()


class TransportError(HfModelsError):
    """No usable answer arrived.

    Attributes:
        timed_out: Whether time was spent waiting for the server.
        unreachable: Whether there was not even a connection: DNS, refused, no route.
    """

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        timed_out: bool = False,
        unreachable: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.timed_out = timed_out
        self.unreachable = unreachable


class ProtocolError(HfModelsError):
    """An answer or a document breaks its specification."""

    exit_code = 5


class IntegrityError(HfModelsError):
    """The bytes are not the bytes that were promised."""

    exit_code = 6

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or _OTHER_BYTES_HINT)


class StorageError(HfModelsError):
    """This machine: disk full, permission denied, or a malformed cache."""

    exit_code = 7


class EngineError(HfModelsError):
    """The Docker engine is missing, or said no."""

    exit_code = 8


class UnexpectedError(HfModelsError):
    """A fault of this program: an exception that no other class foresees."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h


# The name on PyPI is not ours before the first release: docs/releasing.md.
INSTALL_FROM = "git+https://github.com/AlphaHinex/hf-models"


def install_hint(extra: str) -> str:
    """Return the command that installs an extra of this package.

    >>> install_hint("hub")
    "pip install 'hf-models[hub] @ git+https://github.com/AlphaHinex/hf-models'"
    """
    return f"pip install 'hf-models[{extra}] @ {INSTALL_FROM}'"


def without_secrets(url: str) -> str:
    """Return ``url`` without user, password and query, fit for a message.

    >>> without_secrets("https://me:pw@cdn.example/blob?X-Amz-Signature=abc")
    'https://cdn.example/blob'
    >>> without_secrets("http://me:p@ss@hub.example/org/x")
    'http://hub.example/org/x'
    """
    return _URL_SECRETS.sub(r"\g<scheme>\g<rest>", url)
