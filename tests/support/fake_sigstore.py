"""A small private Sigstore on loopback: an OIDC issuer, Fulcio, a CT log and Rekor.

Strict, and written from the specifications: Fulcio checks the token's signature, audience and
times, and that the CSR proves its key; Rekor checks the envelope's signature before it logs it.

Source: Fulcio, docs/certificate-specification.md, docs/oid-info.md and fulcio.proto; RFC 6962
(SCT, Merkle tree); Rekor v1, openapi.yaml and types/dsse/v0.0.1; C2SP signed-note; sigstore
protobuf-specs, sigstore_trustroot.proto; GitHub, "OpenID Connect reference".
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUDIENCE = "sigstore"
REQUEST_TOKEN = "gha-" + secrets.token_hex(16)  # what a job may ask for its identity with
WORKFLOW = "me/models/.github/workflows/publish.yml@refs/heads/main"
CERTIFICATE_TIME = timedelta(minutes=10)
_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCT_LIST_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_CODE_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
_START = "2021-01-01T00:00:00Z"
_SHA256 = ec.ECDSA(hashes.SHA256())


@dataclass
class Habits:
    """What it does wrong.

    Args:
        log_is_late: How much later than the certificate the log says that it saw the entry.
        fulcio_status: Answer each request for a certificate with this.
        rekor_status: Answer each new entry with this.
        oidc_status: Answer each request for a token with this, and repeat what was asked with.
        silent: Answer no request whose path has this, until `Sigstore` is closed.
    """

    log_is_late: timedelta = timedelta(0)
    fulcio_status: int | None = None
    rekor_status: int | None = None
    oidc_status: int | None = None
    silent: str = ""


class _RefusedError(Exception):
    """A request that breaks the specification; the message goes to the client."""


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _un_b64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _canonical(document: object) -> bytes:
    """Return RFC 8785 JSON, of ASCII texts and whole numbers."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _der_text(tag: int, data: bytes) -> bytes:
    size = len(data)
    if size < 128:
        return bytes([tag, size]) + data
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(digits)]) + digits + data


@dataclass
class OidcIssuer:
    """Signs identity tokens (JWT, ES256) for a job of GitHub Actions or for a person."""

    url: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)

    def token(self, **changes: Any) -> str:
        """Return a token; claims may be changed."""
        now = int(datetime.now(UTC).timestamp())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "repo:me/models:ref:refs/heads/main",
            "job_workflow_ref": WORKFLOW,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
        } | changes
        head = _b64url(_canonical({"alg": "ES256", "typ": "JWT", "kid": "1"}))
        signed = f"{head}.{_b64url(_canonical(claims))}"
        r, s = decode_dss_signature(self.key.sign(signed.encode(), _SHA256))
        return f"{signed}.{_b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def check(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token that is right."""
        try:
            head, claims, signature = token.split(".")
            raw = _un_b64url(signature)
            if len(raw) != 64 or json.loads(_un_b64url(head))["alg"] != "ES256":
                raise _RefusedError("want ES256")
            der = encode_dss_signature(
                int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
            )
            self.key.public_key().verify(der, f"{head}.{claims}".encode(), _SHA256)
            found: Mapping[str, Any] = json.loads(_un_b64url(claims))
        except (ValueError, KeyError, InvalidSignature) as error:
            raise _RefusedError("no token of a trusted issuer") from error
        now = datetime.now(UTC).timestamp()
        if found["iss"] != self.url or found["aud"] != AUDIENCE:
            raise _RefusedError("another issuer or audience")
        if not found["nbf"] - 5 <= now < found["exp"]:
            raise _RefusedError("not within its time")
        return found


class Fulcio:
    """A root, an intermediate, and a CT log whose promise is in each certificate."""

    def __init__(self) -> None:
        self.ct_key = _new_key()
        root_key, self.key = _new_key(), _new_key()
        self.root = _authority("root", root_key, None, root_key)
        self.certificate = _authority("intermediate", self.key, self.root, root_key)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self.certificate, self.root

    def issue(
        self, key: ec.EllipticCurvePublicKey, claims: Mapping[str, Any], at: datetime
    ) -> x509.Certificate:
        """Return a certificate for a key that its owner has proven."""
        plain = self._builder(key, claims, at)
        entry = plain.sign(self.key, hashes.SHA256()).tbs_certificate_bytes
        promise = x509.UnrecognizedExtension(_SCT_LIST_OID, self._sct_list(entry, at))
        return plain.add_extension(promise, critical=False).sign(self.key, hashes.SHA256())

    def _builder(
        self, key: ec.EllipticCurvePublicKey, claims: Mapping[str, Any], at: datetime
    ) -> x509.CertificateBuilder:
        if "email" in claims:
            if claims.get("email_verified") is not True:
                raise _RefusedError("email: not verified")
            name: x509.GeneralName = x509.RFC822Name(claims["email"])
        else:
            workflow = f"https://github.com/{claims['job_workflow_ref']}"
            name = x509.UniformResourceIdentifier(workflow)
        issuer = claims["iss"].encode()
        parent = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(at)
            .not_valid_after(at + CERTIFICATE_TIME)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(_CODE_SIGNING, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(parent.value),
                critical=False,
            )
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, issuer), critical=False)
            .add_extension(
                x509.UnrecognizedExtension(_ISSUER_V2_OID, _der_text(0x0C, issuer)), critical=False
            )
        )

    def _sct_list(self, entry: bytes, at: datetime) -> bytes:
        """Return the extension's value: RFC 6962, sections 3.2 and 3.3."""
        milliseconds = int(at.timestamp() * 1000)
        issuer = hashlib.sha256(_spki(self.key.public_key())).digest()
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + issuer
        signed += len(entry).to_bytes(3, "big") + entry + struct.pack("!H", 0)
        signature = self.ct_key.sign(signed, _SHA256)
        log_id = hashlib.sha256(_spki(self.ct_key.public_key())).digest()
        sct = struct.pack("!B32sQHBBH", 0, log_id, milliseconds, 0, 4, 3, len(signature))
        sct += signature
        return _der_text(0x04, struct.pack("!HH", len(sct) + 2, len(sct)) + sct)


def _usage(*, digital_signature: bool = False, is_ca: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    parent: x509.Certificate | None,
    parent_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "stand-in"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now, public = datetime.now(UTC), key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.subject if parent else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(True, 0 if parent else 1), critical=True)
        .add_extension(_usage(is_ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if parent:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(parent_key.public_key())
        builder = builder.add_extension(_CODE_SIGNING, critical=False)
        builder = builder.add_extension(above, critical=False)
    return builder.sign(parent_key, hashes.SHA256())


class Rekor:
    """A log of version 1: a Merkle tree, signed checkpoints, and signed promises."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.key = _new_key()
        self.tree_id = 1193050959916656506
        self.leaves = [b"an entry of somebody else %d" % at for at in range(5)]
        self._lock = threading.Lock()

    @property
    def log_id(self) -> bytes:
        return hashlib.sha256(_spki(self.key.public_key())).digest()

    def add(self, proposed: Mapping[str, Any], at: datetime) -> dict[str, Any]:
        """Log a proposed entry of kind dsse 0.0.1, and return what the client is told."""
        body = _canonical(_dsse_entry(proposed))
        with self._lock:
            if body in self.leaves:
                raise _RefusedError("an equivalent entry is there")
            self.leaves.append(body)
            index, hashed = len(self.leaves) - 1, [_leaf(item) for item in self.leaves]
        root = _b64(_root(hashed))
        note = f"{self.host} - {self.tree_id}\n{len(hashed)}\n{root}\n"
        signature = _b64(self.log_id[:4] + self.key.sign(note.encode(), _SHA256))
        promised = {
            "body": _b64(body),
            "integratedTime": int(at.timestamp()),
            "logID": self.log_id.hex(),
            "logIndex": index,
        }
        proof = {
            "checkpoint": f"{note}\n\u2014 {self.host} {signature}\n",
            "hashes": [item.hex() for item in _path(index, hashed)],
            "logIndex": index,
            "rootHash": base64.b64decode(root).hex(),
            "treeSize": len(hashed),
        }
        entry = promised | {
            "verification": {
                "inclusionProof": proof,
                "signedEntryTimestamp": _b64(self.key.sign(_canonical(promised), _SHA256)),
            }
        }
        return {f"{self.tree_id:016x}{hashed[index].hex()}": entry}


def _dsse_entry(proposed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry that is logged; the envelope itself is not in it."""
    try:
        if (proposed["kind"], proposed["apiVersion"]) != ("dsse", "0.0.1"):
            raise _RefusedError("want dsse 0.0.1")
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        payload = base64.b64decode(envelope["payload"])
        kind = envelope["payloadType"].encode()
        (signature,), (verifier,) = envelope["signatures"], content["verifiers"]
        certificate = x509.load_pem_x509_certificate(base64.b64decode(verifier))
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        key.verify(base64.b64decode(signature["sig"]), signed, _SHA256)
    except (ValueError, KeyError, InvalidSignature) as error:
        raise _RefusedError(f"no dsse entry: {error!r}") from error

    def digest(data: bytes) -> dict[str, str]:
        return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}

    return {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": digest(content["envelope"].encode()),
            "payloadHash": digest(payload),
            "signatures": [{"signature": signature["sig"], "verifier": verifier}],
        },
    }


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def _split(count: int) -> int:
    """Return the largest power of two below a count: RFC 6962, section 2.1."""
    return 1 << (count - 1).bit_length() - 1


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    at = _split(len(leaves))
    return hashlib.sha256(b"\1" + _root(leaves[:at]) + _root(leaves[at:])).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    at = _split(len(leaves))
    if index < at:
        return [*_path(index, leaves[:at]), _root(leaves[at:])]
    return [*_path(index - at, leaves[at:]), _root(leaves[:at])]


class Sigstore:
    """All of it behind one port, for a with block.

    Args:
        habits: What it does wrong; may be changed at any time.
    """

    def __init__(self, habits: Habits | None = None) -> None:
        self.habits = habits or Habits()
        self.requests: list[str] = []
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.oidc, self.fulcio = OidcIssuer(self.url), Fulcio()
        self.rekor = Rekor(urlsplit(self.url).netloc)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def identity(self) -> str:
        """What certificates of the job's token name."""
        return f"https://github.com/{WORKFLOW}"

    @property
    def job_environment(self) -> dict[str, str]:
        """What GitHub gives to a job with `id-token: write`."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        }

    def signed_at(self, statement: bytes, at: datetime) -> bytes:
        """Return the bundle of somebody who signed a statement at another time."""
        key, kind = _new_key(), "application/vnd.in-toto+json"
        claims = self.oidc.check(self.oidc.token())
        leaf = self.fulcio.issue(key.public_key(), claims, at)
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(statement), statement)
        envelope = {
            "payload": _b64(statement),
            "payloadType": kind,
            "signatures": [{"sig": _b64(key.sign(signed, _SHA256))}],
        }
        content = {"envelope": json.dumps(envelope), "verifiers": [_b64(_pem(leaf))]}
        spec = {"proposedContent": content}
        proposed = {"kind": "dsse", "apiVersion": "0.0.1", "spec": spec}
        (entry,) = self.rekor.add(proposed, at).values()
        proof = entry["verification"]["inclusionProof"]
        logged = {
            "logIndex": str(entry["logIndex"]),
            "logId": {"keyId": _b64(self.rekor.log_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(entry["integratedTime"]),
            "inclusionPromise": {
                "signedEntryTimestamp": entry["verification"]["signedEntryTimestamp"]
            },
            "inclusionProof": {
                "logIndex": str(proof["logIndex"]),
                "rootHash": _b64(bytes.fromhex(proof["rootHash"])),
                "treeSize": str(proof["treeSize"]),
                "hashes": [_b64(bytes.fromhex(item)) for item in proof["hashes"]],
                "checkpoint": {"envelope": proof["checkpoint"]},
            },
            "canonicalizedBody": entry["body"],
        }
        certificate = {"rawBytes": _b64(leaf.public_bytes(serialization.Encoding.DER))}
        bundle = {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"certificate": certificate, "tlogEntries": [logged]},
            "dsseEnvelope": envelope,
        }
        return json.dumps(bundle).encode()

    def write_trust_config(self, path: Path) -> Path:
        """Write the ClientTrustConfig of this instance."""

        def service() -> list[dict[str, Any]]:
            valid = {"start": _START}
            return [
                {"url": self.url, "majorApiVersion": 1, "validFor": valid, "operator": "stand-in"}
            ]

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            der = _spki(key.public_key())
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": _b64(der),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": {"start": _START},
                },
                "logId": {"keyId": _b64(hashlib.sha256(der).digest())},
            }

        chain = [
            {"rawBytes": _b64(item.public_bytes(serialization.Encoding.DER))}
            for item in self.fulcio.chain
        ]
        authority = {
            "subject": {"organization": "stand-in", "commonName": "root"},
            "uri": self.url,
            "certChain": {"certificates": chain},
            "validFor": {"start": _START},
        }
        document = {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.rekor.key)],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self.fulcio.ct_key)],
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": service(),
                "oidcUrls": service(),
                "rekorTlogUrls": service(),
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaConfig": {"selector": "ANY"},
            },
        }
        path.write_text(json.dumps(document))
        return path

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Any:
        """Return status and document."""
        parts = urlsplit(target)
        self.requests.append(f"{method} {parts.path}")
        if self.habits.silent and self.habits.silent in parts.path:
            self._closed.wait()
        match method, parts.path:
            case "GET", "/token":
                return self._give_token(parse_qs(parts.query), headers.get("Authorization", ""))
            case "GET", "/.well-known/openid-configuration":
                return 200, {
                    "issuer": self.url,
                    "authorization_endpoint": f"{self.url}/auth",
                    "token_endpoint": f"{self.url}/oauth/token",
                }
            case "POST", "/api/v2/signingCert":
                return self._give_certificate(headers.get("Authorization", ""), json.loads(body))
            case "POST", "/api/v1/log/entries":
                if self.habits.rekor_status:
                    return self.habits.rekor_status, {"code": self.habits.rekor_status}
                at = datetime.now(UTC) + self.habits.log_is_late
                return 201, self.rekor.add(json.loads(body), at)
        return 404, {"code": 5, "message": "Not Found"}

    def _give_token(self, query: dict[str, list[str]], authorization: str) -> Any:
        if authorization != f"bearer {REQUEST_TOKEN}" or query.get("api-version") != ["2.0"]:
            return 401, {"message": "no job of ours"}
        if self.habits.oidc_status:
            return self.habits.oidc_status, {"message": f"sent with {authorization}"}
        if query.get("audience") != [AUDIENCE]:
            raise _RefusedError("want the audience sigstore")
        return 200, {"count": 1, "value": self.oidc.token()}

    def _give_certificate(self, authorization: str, request: Mapping[str, Any]) -> Any:
        if self.habits.fulcio_status:
            return self.habits.fulcio_status, {"message": f"sent with {authorization}"}
        kind, _, token = authorization.partition(" ")
        if kind != "Bearer":
            return 401, {"code": 16, "message": "want a bearer token"}
        claims = self.oidc.check(token)
        csr = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        key = csr.public_key()
        if not csr.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise _RefusedError("the CSR does not prove its key")
        leaf = self.fulcio.issue(key, claims, datetime.now(UTC).replace(microsecond=0))
        chain = [_pem(item).decode() for item in (leaf, *self.fulcio.chain)]
        return 200, {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}


def _handler_of(sigstore: Sigstore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, document = sigstore.answer(
                    self.command, self.path, dict(self.headers), body
                )
            except (_RefusedError, ValueError, KeyError) as error:
                status, document = 400, {"code": 3, "message": str(error)}
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    return Handler
