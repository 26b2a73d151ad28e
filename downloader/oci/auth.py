"""Challenges, credentials and tokens of the distribution specification. No I/O.

`downloader.oci.client` makes the requests that this module decides on.

Source: distribution, docs/content/spec/auth/{token,oauth,scope}.md; RFC 9110, section 11.
"""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from downloader.document import load_object
from downloader.errors import ProtocolError, RegistryError, without_secrets
from downloader.net.address import Address, is_loopback, parse_address

_CHALLENGE_LIMIT = 8192  # characters; no server's header line is longer
_TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME = re.compile(rf"({_TCHAR})(?:[ \t]+|(?=,)|$)")
_PARAM = re.compile(
    # A value without quotes may be a URL, which RFC 9110 does not allow and some write.
    rf'({_TCHAR})[ \t]*=[ \t]*(?:([^\s",=][^\s",]*)|"((?:[^"\\]|\\[\t -~])*)")[ \t]*(?=,|$)'
)
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)")
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{1,16384}=*")  # b64token of RFC 6750, section 2.1
_GAP = re.compile(r"[ \t,]*")

_LIFETIME_S = 60.0  # where the token server names none; token.md, "expires_in"
_LIFETIME_LIMIT_S = 86400.0  # a day; a token that is said to be good for ever is not believed
_RENEW_BEFORE_S = 30.0  # a chunk that starts now must not arrive with a token that is over


@dataclass(frozen=True)
class Credential:
    """A user's secret for one registry; never shown by repr.

    Args:
        username: May be empty where there is only an identity token.
        password: Or an access token, as registries take it.
        identity_token: An OAuth2 refresh token (``docker login`` at Azure and others).
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header of the basic scheme."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True)
class Challenge:
    """One challenge of a ``WWW-Authenticate`` header; scheme and names in lower case."""

    scheme: str
    params: dict[str, str]


@dataclass(frozen=True)
class Scope:
    """Actions on one repository; ``str`` of it is what token servers read.

    Args:
        repository: Its name; ``catalog`` for the list of all.
        actions: ``pull``, ``push``, ``delete``, or ``*``.
        kind: ``registry`` for the list of all repositories.
    """

    repository: str
    actions: frozenset[str]
    kind: str = "repository"

    def __str__(self) -> str:
        # pull before push, as every client writes it
        return f"{self.kind}:{self.repository}:{','.join(sorted(self.actions))}"

    def covers(self, other: "Scope") -> bool:
        """Whether a token for this is good for ``other``."""
        same = (self.kind, self.repository) == (other.kind, other.repository)
        return same and self.actions >= other.actions


Scopes = frozenset[Scope]


def scopes_of(repository: str, *actions: str, mount_from: str | None = None) -> Scopes:
    """Return the scopes for ``actions`` on a repository, and to read ``mount_from``."""
    wanted = {Scope(repository, frozenset(actions))}
    if mount_from is not None:
        wanted.add(Scope(mount_from, frozenset({"pull"})))
    return frozenset(wanted)


@dataclass(frozen=True)
class TokenRequest:
    """The request to a token server; an answer of 200 goes to `Auth.accept`."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    scopes: Scopes


@dataclass(frozen=True)
class _Token:
    value: str = field(repr=False)
    renew_at_s: float


def parse_challenges(header: str) -> list[Challenge]:
    """Parse the value of ``WWW-Authenticate``, several headers joined by a comma.

    Raises:
        ProtocolError: It breaks the grammar, names a parameter twice, or is too long.

    Source: RFC 9110, sections 11.6.1 and 11.2.

    >>> parse_challenges('Basic realm="a, b", Bearer realm="https://t/",service="s"')[1].params
    {'realm': 'https://t/', 'service': 's'}
    >>> parse_challenges('Bearer realm="https://t/')
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: WWW-Authenticate: want a challenge at character 7
    """
    if len(header) > _CHALLENGE_LIMIT:
        raise ProtocolError(
            f"WWW-Authenticate: want at most {_CHALLENGE_LIMIT} characters, got {len(header)}"
        )
    found: list[Challenge] = []
    at = _skip(_GAP, header, 0)
    while at < len(header):
        scheme = _SCHEME.match(header, at)
        if scheme is None:
            raise _malformed(at)
        params, at = _parse_params(header, scheme.end())
        found.append(Challenge(scheme[1].lower(), params))
    return found


def _parse_params(header: str, at: int) -> tuple[dict[str, str], int]:
    params: dict[str, str] = {}
    start = at
    while at < len(header) and (param := _PARAM.match(header, at)):
        name = param[1].lower()
        value = param[2] if param[2] is not None else re.sub(r"\\(.)", r"\1", param[3] or "")
        if name == "scope" and name in params:  # one for each repository, as some write it
            value = f"{params[name]} {value}"
        elif params.get(name, value) != value:
            raise ProtocolError(f"WWW-Authenticate: {name} appears twice")
        params[name] = value
        at = _skip(_GAP, header, param.end())
    if not params:
        at = _skip(_TOKEN68, header, start)
        if at == start and at < len(header) and header[at] != ",":
            raise _malformed(at)
        at = _skip(_GAP, header, at)
    return params, at


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _malformed(at: int) -> ProtocolError:
    return ProtocolError(f"WWW-Authenticate: want a challenge at character {at}")


class Auth:
    """The challenges of one registry, and the tokens that answer them. Not thread-safe.

    Args:
        registry: For messages.
        credential: Of the user for this registry, None for anonymous.
        address: Of the registry.
    """

    def __init__(self, registry: str, credential: Credential | None, address: Address) -> None:
        self._registry = registry
        self._address = address
        self._credential = credential
        self._basic = False
        self._bearer: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}

    def header(self, scopes: Scopes, now_s: float) -> str | None:
        """Return the ``Authorization`` to send, None while there is none that is good."""
        if self._basic and self._credential:
            return self._credential.basic
        for granted, token in self._tokens.items():
            if token.renew_at_s > now_s and covers(granted, scopes):
                return f"Bearer {token.value}"
        return None

    def renewal(self, scopes: Scopes, now_s: float) -> TokenRequest | None:
        """Return what to ask the token server before the registry, None if nothing."""
        if self._bearer is None or self.header(scopes, now_s):
            return None
        return self._token_request(self._bearer, scopes)

    def challenged(self, header: str, scopes: Scopes, sent: str | None) -> TokenRequest | None:
        """Take a 401 answer; return what to ask the token server, None to try again now.

        Args:
            header: ``WWW-Authenticate``.
            scopes: Scopes that the refused request needs.
            sent: The ``Authorization`` that was refused, and will not be sent again.

        Raises:
            RegistryError: There is no credential, or it was refused.
            ProtocolError: The header is malformed, or asks for what cannot be given.
        """
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(header)}
        if bearer := challenges.get("bearer"):
            self._forget(sent)
            self._bearer = bearer
            return self._token_request(bearer, scopes)
        if "basic" not in challenges:
            raise ProtocolError(
                f"{self._registry}: want a basic or bearer challenge,"
                f" got {sorted(challenges) or 'none'}"
            )
        if self._credential is None or not self._credential.password or sent:
            raise self._unauthorized("the credential is refused" if sent else "login required")
        self._basic = True
        return None

    def accept(self, request: TokenRequest, status: int, body: bytes, now_s: float) -> None:
        """Take the token server's answer.

        Raises:
            RegistryError: It refuses the credential.
            ProtocolError: It is no token.
        """
        realm = without_secrets(request.url)
        if status in {400, 401, 403}:
            raise self._unauthorized(f"{realm} gives no token ({status})", status)
        if status != 200:
            raise RegistryError(f"{realm}: want a token, got status {status}", status=status)
        self._tokens[request.scopes] = _parse_token(body, realm, now_s)

    def _forget(self, sent: str | None) -> None:
        self._tokens = {
            scopes: token
            for scopes, token in self._tokens.items()
            if f"Bearer {token.value}" != sent
        }

    def _token_request(self, bearer: Challenge, scopes: Scopes) -> TokenRequest:
        realm = self._check_realm(bearer.params.get("realm", ""))
        service = bearer.params.get("service")
        fields = [("service", service)] if service is not None else []
        texts = sorted(str(scope) for scope in scopes)
        credential = self._credential
        if credential and credential.identity_token:
            body = urlencode(
                [
                    ("grant_type", "refresh_token"),
                    ("refresh_token", credential.identity_token),
                    ("client_id", "hf-models"),
                    ("scope", " ".join(texts)),
                    *fields,
                ]
            ).encode()
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            return TokenRequest("POST", realm.url, form, body, scopes)
        query = urlencode([*fields, *(("scope", text) for text in texts)])
        headers = {"Authorization": credential.basic} if credential else {}
        return TokenRequest("GET", realm.with_query(query).url, headers, b"", scopes)

    def _check_realm(self, realm: str) -> Address:
        """Parse a realm: on https, or as plain as the registry on its host, or on loopback."""
        try:
            address = parse_address(realm, "token server")
        except ProtocolError as error:
            raise ProtocolError(f"{self._registry}: {error.message}") from error
        is_plain_too = self._address.scheme == "http" and address.host == self._address.host
        if address.scheme != "https" and not is_plain_too and not is_loopback(address.host):
            raise ProtocolError(
                f"{self._registry}: want a token server on https, got {address}",
                hint="a credential is never sent in clear to another machine",
            )
        return address

    def _unauthorized(self, reason: str, status: int = 401) -> RegistryError:
        return RegistryError(
            f"{self._registry}: {reason}", status=status, hint=login_hint(self._registry)
        )


def login_hint(registry: str) -> str:
    """Say how to log in to ``registry``."""
    return f"log in with `docker login {registry}`, or give --username and --password-stdin"


def covers(granted: Iterable[Scope], wanted: Scopes) -> bool:
    """Whether a token for ``granted`` is good for ``wanted``."""
    held = list(granted)
    return all(any(scope.covers(want) for scope in held) for want in wanted)


def _parse_token(body: bytes, realm: str, now_s: float) -> _Token:
    fields = load_object(body) or {}
    value = fields.get("token") or fields.get("access_token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ProtocolError(f"{realm}: want JSON with a token, got {len(body)} bytes without one")
    lifetime = fields.get("expires_in")
    known = isinstance(lifetime, int | float) and 0 < lifetime <= _LIFETIME_LIMIT_S
    lifetime_s = float(lifetime) if known else _LIFETIME_S  # type: ignore[arg-type]
    return _Token(value, now_s + lifetime_s - min(_RENEW_BEFORE_S, lifetime_s / 4))
