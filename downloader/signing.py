"""Signed content: an OpenSSF Model Signing statement over the files of a snapshot.

The statement names every file by its sha256, which for LFS files is the oid; the bundle is what
the project's own tool writes and reads, ``model_signing verify key``. Nothing here asks a
network: a key file is all that a closed site needs. `keyless.py` signs by identity instead.

Source: model-signing 1.1, docs and _signing/signing.py; in-toto attestation, Statement v1; DSSE
1.0, protocol.md; Sigstore bundle 0.3.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from downloader.errors import InputError, IntegrityError, ProtocolError, install_hint
from downloader.hub.repo import Snapshot

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
# What `model_signing` leaves out by itself: git's own settings, which no program loads.
UNSIGNED = (".git", ".gitattributes", ".github", ".gitignore")
# A hundred thousand files are 20 MB.
BUNDLE_LIMIT_BYTES = 64 * 1024 * 1024
_KEY_LIMIT_BYTES = 64 * 1024
_ISSUER_OID = "1.3.6.1.4.1.57264.1.8"


@dataclass(frozen=True)
class Statement:
    """The statement that was signed.

    Args:
        name: The repo's id in ours; in those of `model_signing` the name of a directory.
        files: The sha256 of each file, by path.
        key_id: The sha256 of the public key that the signature is right for; None if keyless.
        identity: The signer of a keyless signature; None for a key.
        issuer: The OIDC issuer that vouched for the identity; None for a key.
    """

    name: str
    files: Mapping[str, str]
    key_id: str | None = None
    identity: str | None = None
    issuer: str | None = None


class Signer(Protocol):
    """A signer of statements."""

    def find(self, statement: bytes, earlier: bytes | None) -> bytes | None:
        """Return the bundle of a statement if it is known without signing; asks no log.

        Args:
            statement: To be signed.
            earlier: The bundle that the image has now.
        """

    def sign(self, statement: bytes) -> bytes:
        """Return the bundle of a statement: for one signer and statement the same bytes."""


def is_signed(path: str) -> bool:
    """Whether a file of a repo is in its statement."""
    return path.partition("/")[0] not in UNSIGNED


def make_statement(snapshot: Snapshot, sha256s: Mapping[str, str]) -> bytes:
    """Return the statement over a snapshot, the same bytes for the same files.

    Args:
        snapshot: The snapshot of the files.
        sha256s: Of the files that are not in LFS, by oid.
    """
    resources, root = [], hashlib.sha256()
    for file in sorted(snapshot.files, key=lambda file: PurePosixPath(file.path).parts):
        if is_signed(file.path):
            digest = file.sha256 or sha256s[file.oid]
            root.update(bytes.fromhex(digest))
            resources.append({"name": file.path, "algorithm": "sha256", "digest": digest})
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": snapshot.repo.id, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": True,  # a snapshot in the cache is links
                "ignore_paths": list(UNSIGNED),
            },
            "resources": resources,
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class KeySigner:
    """Signs statements with a private key.

    Args:
        path: A PEM file with an unencrypted key on the curve P-256, P-384 or P-521.

    Raises:
        InputError: The file is no such key, or cryptography is not installed.
    """

    def __init__(self, path: Path) -> None:
        serialization, ec = _cryptography()
        try:
            key = serialization.load_pem_private_key(_read_key(path), None)
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: want a PEM private key without a password") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{path}: want an elliptic curve key, got another one")
        self._key = key

    def find(self, statement: bytes, earlier: bytes | None) -> bytes:  # noqa: ARG002 - not needed
        """Return the bundle of a statement."""
        return self.sign(statement)

    def sign(self, statement: bytes) -> bytes:
        """Return the bundle of a statement: the same bytes each time (RFC 6979)."""
        _, ec = _cryptography()
        algorithm = ec.ECDSA(_hash_of(self._key.curve.name), deterministic_signing=True)
        signature = self._key.sign(_envelope(statement), algorithm)
        document = {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": _key_id(self._key.public_key())},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": base64.b64encode(statement).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
        return json.dumps(document, separators=(",", ":")).encode()


def verify_bundle(bundle: bytes, keys: Mapping[str, Any]) -> Statement:
    """Return what a bundle states, if one of some keys signed it.

    Args:
        bundle: Untrusted.
        keys: As `load_keys` returns them.

    Raises:
        ProtocolError: It is malformed.
        IntegrityError: None of the keys signed it.
    """
    payload, signatures = parse_bundle(bundle)
    for key_id, key in keys.items():
        if any(_is_right(key, signature, payload) for signature in signatures):
            return parse_statement(payload, key_id=key_id)
    raise IntegrityError(
        "signature: made by none of the trusted keys", hint="ask the publisher for the public key"
    )


def load_keys(paths: list[Path]) -> dict[str, Any]:
    """Return public keys by their id.

    Raises:
        InputError: A file is no such key, or cryptography is not installed.
    """
    serialization, ec = _cryptography()
    keys = {}
    for path in paths:
        try:
            key = serialization.load_pem_public_key(_read_key(path))
        except ValueError as error:
            raise InputError(f"{path}: want a PEM public key") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InputError(f"{path}: want an elliptic curve key, got another one")
        _hash_of(key.curve.name)
        keys[_key_id(key)] = key
    return keys


def is_keyless(bundle: bytes) -> bool:
    """Whether a bundle claims an identity's certificate, not a key."""
    try:
        return "publicKey" not in json.loads(bundle)["verificationMaterial"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def claimed_signer(bundle: bytes) -> str | None:
    """Return whose signature a bundle claims to be, None where it does not say; unchecked.

    Source: Sigstore bundle 0.3; Fulcio, docs/oid-info.md, 1.3.6.1.4.1.57264.1.8.
    """
    try:
        material = json.loads(bundle)["verificationMaterial"]
        if "publicKey" in material:
            return f"key {material['publicKey']['hint']}"
        from cryptography import x509  # noqa: PLC0415 - an extra

        der = base64.b64decode(material["certificate"]["rawBytes"], validate=True)
        found = x509.load_der_x509_certificate(der).extensions
        [name] = found.get_extension_for_class(x509.SubjectAlternativeName).value
        issuer = found.get_extension_for_oid(x509.ObjectIdentifier(_ISSUER_OID)).value
        assert isinstance(issuer, x509.UnrecognizedExtension)  # noqa: S101 - for the type checker
        return f"{name.value} ({issuer.value[2:].decode()})"  # after the tag and length of DER
    except Exception:  # noqa: BLE001 - it is untrusted, and says nothing then
        return None


def parse_bundle(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the payload of a bundle, and its signatures; nothing of them is checked.

    Raises:
        ProtocolError: It is malformed.
    """
    if len(data) > BUNDLE_LIMIT_BYTES:
        raise ProtocolError(f"signature: want at most {BUNDLE_LIMIT_BYTES} bytes, got {len(data)}")
    try:
        envelope = json.loads(data)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(s["sig"], validate=True) for s in envelope["signatures"]]
        kind = envelope["payloadType"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError("signature: want a Sigstore bundle with a DSSE envelope") from error
    if kind != PAYLOAD_TYPE:
        raise ProtocolError(f"signature: want a payload of {PAYLOAD_TYPE}, got {str(kind)[:80]!r}")
    return payload, signatures


def parse_statement(
    payload: bytes,
    *,
    key_id: str | None = None,
    identity: str | None = None,
    issuer: str | None = None,
) -> Statement:
    """Return what a payload states, whose signature was checked.

    Raises:
        ProtocolError: It is no statement over the files of a model.
    """
    try:
        document = json.loads(payload)
        predicate, (subject,) = document["predicate"], document["subject"]
        wanted = (STATEMENT_TYPE, PREDICATE_TYPE, "files", "sha256")
        serialization = predicate["serialization"]
        found = (
            document["_type"],
            document["predicateType"],
            serialization["method"],
            serialization["hash_type"],
        )
        root, files = hashlib.sha256(), {}
        for resource in predicate["resources"]:
            digest = bytes.fromhex(resource["digest"])
            if resource["algorithm"] != "sha256" or len(digest) != 32:
                raise ProtocolError("signature: want the sha256 of each file, got another digest")
            root.update(digest)
            files[str(resource["name"])] = digest.hex()
        is_whole = root.hexdigest() == subject["digest"]["sha256"]
        name, count = str(subject["name"]), len(predicate["resources"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError("signature: want an in-toto statement of model_signing") from error
    if found != wanted:
        raise ProtocolError(f"signature: want {wanted}, got {found}")
    if not is_whole or len(files) != count:
        raise ProtocolError("signature: the statement contradicts itself")
    return Statement(name, files, key_id, identity, issuer)


def _envelope(payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _is_right(key: Any, signature: bytes, payload: bytes) -> bool:  # noqa: ANN401 - an extra
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

    _, ec = _cryptography()
    try:
        key.verify(signature, _envelope(payload), ec.ECDSA(_hash_of(key.curve.name)))
    except InvalidSignature:
        return False
    return True


def _hash_of(curve: str) -> Any:  # noqa: ANN401 - an extra
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - an extra

    known: dict[str, Any] = {
        "secp256r1": hashes.SHA256,
        "secp384r1": hashes.SHA384,
        "secp521r1": hashes.SHA512,
    }
    if curve not in known:
        raise InputError(f"want a key on P-256, P-384 or P-521, got {curve}")
    return known[curve]()


def _key_id(key: Any) -> str:  # noqa: ANN401 - an extra
    serialization, _ = _cryptography()
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_KEY_LIMIT_BYTES)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise InputError("signatures need cryptography", hint=install_hint("sign")) from error
    return serialization, ec
