"""Keyless signatures, by an identity that an OIDC issuer states. Sigstore does the cryptography.

A signature carries a certificate of some minutes, and the proof of a public log that it was made
within them. Signing asks the issuer, Fulcio and Rekor; checking makes no request.

Source: sigstore-python 4; Sigstore bundle 0.3; model-signing 1.1, ``sign sigstore``.
"""

import base64
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from downloader.errors import (
    HfModelsError,
    InputError,
    IntegrityError,
    ProtocolError,
    ServerError,
    StorageError,
    TransportError,
    install_hint,
)
from downloader.net.http import HttpSettings
from downloader.signing import PAYLOAD_TYPE, Statement, parse_bundle, parse_statement
from downloader.transfer.workers import WorkerGroup

# A token is some 2 kB, the public instance's trust configuration 20 kB.
_FILE_LIMIT_BYTES = 1024 * 1024
_PUBLIC_URL = "https://tuf-repo-cdn.sigstore.dev"  # by which sigstore names what it ships


@dataclass(frozen=True)
class Identity:
    """The identity that a signature must have.

    Args:
        identity: The subject of the certificate: a mail address, or the URI of a workflow.
        issuer: The URL of the OIDC issuer that vouched for it.
    """

    identity: str
    issuer: str


class KeylessSigner:
    """Signs statements as the identity of an OIDC token.

    Args:
        token_file: Holds the token; None for the one that the CI job offers, which is asked for
            anew for each signature, because it lives for some minutes only.
        trust_config: Of a private Sigstore; None for the public one.
        timeout_s: Longest silence of Fulcio and of Rekor.

    Raises:
        InputError: There is no token, a file cannot be used, or sigstore is not installed.
        TransportError: The public instance's keys could not be brought up to date.
    """

    def __init__(
        self,
        token_file: Path | None = None,
        trust_config: Path | None = None,
        timeout_s: float = HttpSettings.read_timeout_s,
    ) -> None:
        self._token_file = token_file
        self._timeout_s = timeout_s
        self._config = _trust(trust_config, offline=False)
        self._token()  # before anything is moved
        self._signed: dict[bytes, bytes] = {}

    def find(self, statement: bytes, earlier: bytes | None) -> bytes | None:
        """Return the bundle of this run, or an earlier one if the same identity made it."""
        if statement in self._signed or earlier is None:
            return self._signed.get(statement)
        try:
            payload, _ = parse_bundle(earlier)
            verify_keyless(earlier, _identities_of(self._token()), self._config)
        except (IntegrityError, ProtocolError):
            return None
        return earlier if payload == statement else None

    def sign(self, statement: bytes) -> bytes:
        """Return the bundle of a statement, which the log has an entry of now.

        Raises:
            ServerError: Fulcio or Rekor refused it.
            TransportError: One of them gave no usable answer.
        """
        if statement not in self._signed:
            token = self._token()
            with _signing_errors():
                self._signed[statement] = _bounded(
                    partial(self._ask, token, statement), 2 * self._timeout_s
                )
        return self._signed[statement]

    def _ask(self, token: Any, statement: bytes) -> bytes:  # noqa: ANN401 - an extra
        from sigstore.dsse import Statement as Signable  # noqa: PLC0415 - an extra
        from sigstore.sign import SigningContext  # noqa: PLC0415 - an extra

        context = SigningContext.from_trust_config(self._config)
        with context.signer(token) as signer:
            return signer.sign_dsse(Signable(statement)).to_json().encode()

    def _token(self) -> Any:  # noqa: ANN401 - an extra
        from sigstore.oidc import IdentityError, IdentityToken  # noqa: PLC0415 - an extra

        raw = _read_token(self._token_file) if self._token_file else _ambient_token()
        try:
            return IdentityToken(raw)
        except IdentityError as error:
            raise InputError(
                "identity token: want an OIDC token for the audience sigstore that has not expired",
                hint="get a new one; it lives for some minutes",
            ) from error


def _bounded(call: Callable[[], bytes], limit_s: float) -> bytes:
    """Return what a call returns; sigstore's clients of Fulcio and Rekor have no timeout.

    Raises:
        TransportError: It takes longer than ``limit_s``.
    """
    answer: Future[bytes] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised below
            answer.set_exception(error)

    WorkerGroup().start(work, name="sigstore")  # never joined: it may wait for a silent server
    if not wait([answer], limit_s).done:
        raise TransportError(f"Sigstore: no answer in {limit_s:g} s", hint="run it again later")
    return answer.result()


def load_trust(path: Path | None) -> Any:  # noqa: ANN401 - an extra
    """Return the trust that signatures are checked against; makes no request.

    Args:
        path: The trust configuration of a private Sigstore, ``ClientTrustConfig`` as JSON; None
            for the public one, as a signing run has updated it in sigstore's own directory; as
            it came with sigstore where that directory cannot be used.

    Raises:
        InputError: It is none, or sigstore is not installed.
    """
    return _trust(path, offline=True)


def verify_keyless(bundle: bytes, identities: Sequence[Identity], trust: Any) -> Statement:  # noqa: ANN401 - an extra
    """Return what a bundle states, if one of some identities signed it.

    Args:
        bundle: Untrusted.
        identities: One of them has to have signed.
        trust: As `load_trust` returns it.

    Raises:
        ProtocolError: It is malformed, or proves no entry in a log.
        IntegrityError: None of the identities signed it.
    """
    from sigstore.errors import VerificationError  # noqa: PLC0415 - an extra
    from sigstore.models import Bundle  # noqa: PLC0415 - an extra
    from sigstore.verify import Verifier  # noqa: PLC0415 - an extra
    from sigstore.verify import policy as policies  # noqa: PLC0415 - an extra

    parse_bundle(bundle)  # its limits
    try:
        parsed = Bundle.from_json(bundle)
    except Exception as error:
        raise ProtocolError(f"signature: no keyless Sigstore bundle: {_said(error)}") from error
    reason = "no identity is trusted"
    for item in identities:
        policy = policies.Identity(identity=item.identity, issuer=item.issuer)
        try:
            kind, payload = Verifier(trusted_root=trust.trusted_root).verify_dsse(parsed, policy)
        except VerificationError as error:
            reason = _said(error)
            continue
        except Exception as error:
            raise ProtocolError(f"signature: {_said(error)}") from error
        if kind != PAYLOAD_TYPE:
            raise ProtocolError(f"signature: want a payload of {PAYLOAD_TYPE}, got {kind[:80]!r}")
        return parse_statement(payload, identity=item.identity, issuer=item.issuer)
    raise IntegrityError(
        f"signature: made by none of the trusted identities: {reason}",
        hint="ask the publisher for identity and issuer",
    )


def _trust(path: Path | None, *, offline: bool) -> Any:  # noqa: ANN401 - an extra
    try:
        from sigstore.errors import Error  # noqa: PLC0415 - an extra
        from sigstore.models import ClientTrustConfig  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise InputError("keyless signatures need sigstore", hint=install_hint("sign")) from error
    # That nothing is brought up to date offline is meant so, and no warning.
    logging.getLogger("sigstore._internal.tuf").setLevel(logging.ERROR)
    try:
        if path is None:
            return _offline_trust() if offline else ClientTrustConfig.production()
        config = ClientTrustConfig.from_json(_read(path, str(path)))
        _ = config.trusted_root, config.signing_config  # parsed when they are asked for
    except (Error, ValueError) as error:
        if path is None:
            raise TransportError(f"Sigstore's public keys: {_said(error)}") from error
        raise InputError(f"{path}: want a Sigstore ClientTrustConfig as JSON") from error
    except OSError as error:
        raise StorageError(f"Sigstore's public keys: {error.strerror}") from error
    return config


def _offline_trust() -> Any:  # noqa: ANN401 - an extra
    from sigstore.errors import Error  # noqa: PLC0415 - an extra
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415 - an extra

    try:
        return ClientTrustConfig.production(offline=True)
    except (Error, ValueError, OSError):  # it writes to the home directory, and reads that
        folder = files("sigstore._store") / quote(_PUBLIC_URL, safe="")
        parts = {
            "trustedRoot": "trusted_root.json",
            "signingConfig": "signing_config.v0.2.json",
        }
        document = {key: json.loads((folder / name).read_bytes()) for key, name in parts.items()}
        kind = ClientTrustConfig.ClientTrustConfigType.CONFIG_0_1.value
        return ClientTrustConfig.from_json(json.dumps({"mediaType": kind} | document))


def _read_token(path: Path) -> str:
    # Not by its name: a token that is given in place of its file must not be in a log.
    return _read(path, "--identity-token").strip()


def _read(path: Path, shown: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_LIMIT_BYTES).decode()
    except OSError as error:
        raise InputError(f"{shown}: want a file, got {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{shown}: want a file of text") from error


def _ambient_token() -> str:
    from sigstore.oidc import IdentityError, detect_credential  # noqa: PLC0415 - an extra

    hint = "in GitHub Actions: permissions: id-token: write; elsewhere: --identity-token FILE"
    try:
        token = detect_credential()
    except IdentityError as error:  # the text in parentheses is the server's
        said = str(error).partition("(")[0].strip()
        raise InputError(f"no identity: {said}", hint=hint) from None
    if token is None:
        raise InputError("no identity: this is no CI job that offers one", hint=hint)
    return token


def _identities_of(token: Any) -> list[Identity]:  # noqa: ANN401 - an extra
    """Return what Fulcio may write into the certificate of a token: of GitHub's, the workflow.

    Source: Fulcio, docs/oidc.md.
    """
    data = str(token).split(".")[1]
    workflow = json.loads(base64.urlsafe_b64decode(data + "==")).get("job_workflow_ref")
    names = [token.identity, *([f"https://github.com/{workflow}"] if workflow else [])]
    return [Identity(name, token.issuer) for name in names]


@contextmanager
def _signing_errors() -> Iterator[None]:
    """Turn what sigstore raises into our errors; its clients' own have no common class."""
    from requests import HTTPError, RequestException  # noqa: PLC0415 - an extra

    try:
        yield
    except HfModelsError:
        raise
    except Exception as error:  # noqa: BLE001 - RekorClientError and its kin are private
        for cause in (error, error.__cause__, error.__context__):
            if isinstance(cause, HTTPError) and cause.response is not None:
                status = cause.response.status_code
                host = urlsplit(cause.response.url).netloc
                raise ServerError(f"Sigstore: {host} answered {status}", status=status) from None
            if isinstance(cause, RequestException):
                raise TransportError(f"Sigstore: no answer ({type(cause).__name__})") from None
        raise ProtocolError(f"Sigstore: {_said(error)}") from None


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
