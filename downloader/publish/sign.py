"""Signing a published image: no large file is read again, for its oid is its sha256."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from downloader.errors import HfModelsError
from downloader.image import is_signature_layer, signature_tar
from downloader.net.ranges import ByteRange
from downloader.oci.digest import Digest, digest_of, hex_of
from downloader.oci.manifest import (
    INDEX,
    LAYER,
    MANIFEST,
    Descriptor,
    Index,
    Manifest,
    describe,
    parse_manifest,
)
from downloader.oci.store import BlobReader
from downloader.plan import Content, Layer, Plan
from downloader.publish.copy import open_tar, put_blob, read_member
from downloader.publish.destination import EMPTY_JSON, Destination
from downloader.publish.layer_cache import TaggedImage
from downloader.signing import BUNDLE_LIMIT_BYTES, BUNDLE_TYPE, Signer, make_statement

_BUFFER_BYTES = 1024 * 1024
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def sign_plan(
    signer: Signer,
    plan: Plan,
    destination: Destination,
    sha256s: Mapping[str, str],
    tagged: TaggedImage | None,
) -> bytes:
    """Return the bundle over the files of a plan: the one that the tag's image has, if it will do.

    Args:
        signer: Of the publisher.
        plan: The published plan.
        destination: As for `find_signature`.
        sha256s: As for `find_signature`.
        tagged: As for `find_signature`.

    Raises:
        HfModelsError: The store did not send them, or they were not signed.
    """
    statement = _statement(plan, destination, sha256s)
    return signer.find(statement, _read_bundle(destination, tagged)) or signer.sign(statement)


def find_signature(
    signer: Signer,
    plan: Plan,
    destination: Destination,
    sha256s: Mapping[str, str],
    tagged: TaggedImage | None,
) -> bytes | None:
    """Return the bundle over the files of a plan, if it is known without signing.

    Args:
        signer: Of the publisher.
        plan: The published plan.
        destination: Has every layer; the files that are in git alone are read from there, unless
            this run has hashed them on their way.
        sha256s: Of the contents that this run has hashed, by oid.
        tagged: The present image of the tag, whose signature may be kept.

    Raises:
        HfModelsError: The store did not send them.
    """
    statement = _statement(plan, destination, sha256s)
    return signer.find(statement, _read_bundle(destination, tagged))


def is_signed_as(bundle: bytes, destination: Destination, tagged: TaggedImage | None) -> bool:
    """Return whether what the tag names carries this very bundle."""
    return _read_bundle(destination, tagged) == bundle


def _read_bundle(destination: Destination, tagged: TaggedImage | None) -> bytes | None:
    """Return the bundle of an image that is there; None where it has none that can be read."""
    layers = tagged.manifest.layers if tagged and tagged.manifest else ()
    for layer in filter(is_signature_layer, layers):
        try:
            return read_member(destination.store, layer, BUNDLE_LIMIT_BYTES, ".json")
        except HfModelsError:
            return None  # then it is signed again
    return None


def _statement(plan: Plan, destination: Destination, sha256s: Mapping[str, str]) -> bytes:
    lacking = []
    for layer in plan.layers:
        wanted = [
            (content, offset)
            for content, offset in layer.placed
            if len(content.oid) != 64 and content.oid not in sha256s
        ]
        if wanted:
            lacking.append((layer, wanted))
    # A part has a layer of its own; those of a file are hashed one after the other.
    lacking.sort(key=lambda item: item[1][0][0].part)
    digests: dict[str, hashlib._Hash] = {}
    for layer, wanted in lacking:
        _hash(layer, wanted, destination, digests)
    found = {oid: digest.hexdigest() for oid, digest in digests.items()}
    return make_statement(plan.snapshot, {**sha256s, **found})


def _hash(
    layer: Layer,
    wanted: list[tuple[Content, int]],
    destination: Destination,
    digests: "dict[str, hashlib._Hash]",
) -> None:
    last, end = wanted[-1]
    span = ByteRange(wanted[0][1], end + last.size_bytes)
    at = span.start
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with open_tar(destination.store, destination.have[layer.name], span) as reader:
        for content, offset in wanted:
            _read(reader, offset - at, buffer, None)
            _read(
                reader,
                content.size_bytes,
                buffer,
                digests.setdefault(content.oid, hashlib.sha256()),
            )
            at = offset + content.size_bytes


def _read(
    reader: BlobReader, size_bytes: int, buffer: memoryview, digest: "hashlib._Hash | None"
) -> None:
    while size_bytes > 0:
        count = reader.readinto(buffer[:size_bytes])
        if not count:
            return  # the digest will be wrong, and verification says so
        if digest is not None:
            digest.update(buffer[:count])
        size_bytes -= count


def signature_layer(plan: Plan, bundle: bytes) -> tuple[Descriptor, bytes]:
    """Return the layer that carries a bundle, and its bytes."""
    data, notes = signature_tar(plan, bundle)
    return replace(describe(data, LAYER), annotations=notes), data


def referrers_tag(image: Digest) -> str:
    """Return the fallback tag of an image, which lists its referrers."""
    return f"sha256-{hex_of(image)}"


def attach_signature(destination: Destination, image: Digest, bundle: bytes) -> None:
    """Make a bundle a referrer of an image, found by the fallback tag where the API is missing.

    Source: OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".
    """
    store = destination.store
    raw = store.get_manifest(image)
    assert raw is not None  # noqa: S101 - it was put a moment ago
    put_blob(store, EMPTY_JSON, digest_of(EMPTY_JSON))
    put_blob(store, bundle, digest_of(bundle))
    data = Manifest(
        describe(EMPTY_JSON, _EMPTY_TYPE),
        (describe(bundle, BUNDLE_TYPE),),
        artifact_type=BUNDLE_TYPE,
        subject=Descriptor(raw.media_type, image, len(raw.data)),
    ).to_bytes()
    entry = replace(describe(data, MANIFEST), artifact_type=BUNDLE_TYPE)
    store.put_manifest(entry.digest, data, MANIFEST)
    tag = referrers_tag(image)
    listed = store.get_manifest(tag)
    known = parse_manifest(listed.data) if listed else None
    others = known.manifests if isinstance(known, Index) else ()
    if entry not in others:
        store.put_manifest(tag, Index((*others, entry)).to_bytes(), INDEX)
