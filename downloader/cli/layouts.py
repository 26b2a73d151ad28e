"""The way without an engine: an image as an OCI layout under ``dist/``, and its push."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from downloader.cli.console import ConsoleProgress, teller
from downloader.cli.targets import TargetResult, at_each
from downloader.environment import read_environment
from downloader.errors import InputError, StorageError
from downloader.fs import hold_lock
from downloader.hub.snapshot import Hub
from downloader.library.connection import Registries
from downloader.library.publisher import find_base
from downloader.net.http import HttpPool
from downloader.net.retry import RetryPolicy
from downloader.oci.credentials import Credentials
from downloader.oci.digest import Digest, hex_of, parse_digest
from downloader.oci.layout import Layout
from downloader.oci.reference import parse_reference
from downloader.plan import Plan
from downloader.progress import Progress
from downloader.publish import Base, Outcome, PublishOptions, publish, read_labels
from downloader.publish.archive import write_archive
from downloader.publish.copy import copy_image, reachable
from downloader.signing import Signer

DIST = Path("dist")
_JOBS = 2


@dataclass(frozen=True)
class LayoutRequest:
    """What to build.

    Args:
        image: The name that the image gets in an engine, without tag.
        tag: Its tag, and its directory under ``dist/``.
        base: Base image, or ``none``.
        archive: Where to write a tar for ``docker load``; None for no tar.
        dist: The directory of all layouts.
        force: Whether a layout of another repo is overwritten.
        signer: Signs the files; None for no signature.
    """

    image: str
    tag: str
    base: str | None
    archive: Path | None = None
    dist: Path = DIST
    force: bool = False
    signer: Signer | None = None


def build_layout(
    hub: Hub,
    plan: Plan,
    request: LayoutRequest,
    *,
    http: HttpPool,
    credentials: Credentials,
    quiet: bool,
) -> Outcome:
    """Build the image of a plan as an OCI layout, and an archive of it where that is wanted.

    Args:
        hub: Where the files come from.
        plan: What to build.
        request: Where to, and how.
        http: Connections.
        credentials: For the base image's registry.
        quiet: Whether to show nothing.

    Raises:
        HfModelsError: Hub, base image, or disk said no.
    """
    layout = Layout(request.dist / request.tag)
    lock = _lock_of(request.dist, request.tag)
    with ExitStack() as held:
        with ConsoleProgress("build", "layer", quiet=quiet) as progress:
            waiting = f"waiting for another build or push of {layout.name} to end"
            held.enter_context(hold_lock(lock, on_wait=partial(progress.note, waiting)))
            registries = Registries(http, credentials, "auto", RetryPolicy(), progress=progress)
            base = find_base(request.base, registries, read_environment(), asks=True)
            outcome = _fill(layout, hub, plan, request, base, http, progress)
            prune(layout, request.tag)
        if request.archive:
            name = parse_reference(request.image).with_tag(request.tag)
            with ConsoleProgress(f"write {request.archive}", "blob", quiet=quiet) as progress:
                write_archive(layout, name, request.archive, progress)
    return outcome


def _lock_of(dist: Path, tag: str) -> Path:
    # Beside the layout, which holds nothing but what its specification names.
    return dist / ".locks" / f"{tag}.lock"


def _fill(
    layout: Layout,
    hub: Hub,
    plan: Plan,
    request: LayoutRequest,
    base: Base,
    http: HttpPool,
    progress: Progress,
) -> Outcome:
    # A directory of one's own is no publication: gated repos may lie in it.
    options = PublishOptions(
        base=base, allow_gated=True, force=request.force, signer=request.signer
    )
    [outcome] = publish(
        plan,
        request.tag,
        [layout],
        source_of=lambda file: hub.source_of(plan.snapshot, file),
        http=http,
        options=options,
        progress=progress,
    )
    if outcome.error:
        raise outcome.error
    return outcome


def prune(layout: Layout, tag: str) -> None:
    """Remove every blob that the only tag of a layout does not name: those of earlier builds.

    Requires the lock: blobs of a concurrent build are not referenced yet.
    """
    if layout.list_tags() != [tag]:
        return
    kept = {hex_of(digest) for digest in reachable(layout, tag)}
    for path in (layout.root / "blobs" / "sha256").iterdir():
        if path.name not in kept:
            layout.delete_manifest(parse_digest(f"sha256:{path.name}"))
    for path in layout.root.glob("*.incomplete"):
        path.unlink(missing_ok=True)


def has_layout(tag: str, dist: Path = DIST) -> bool:
    """Whether `build_layout` has made an image of this tag."""
    return Layout(dist / tag).get_manifest(tag) is not None


def push_layout(
    tag: str,
    targets: Sequence[str],
    registries: Registries,
    *,
    allow_gated: bool,
    dist: Path = DIST,
    quiet: bool = False,
) -> list[TargetResult]:
    """Push ``dist/TAG`` to one or several registries.

    Args:
        tag: Of the layout.
        targets: Like ``ghcr.io/me/models:TAG``, with the tag that the image gets there.
        registries: How to reach them.
        allow_gated: Whether a gated or private repo may be pushed.
        dist: The directory of all layouts.
        quiet: Whether to show nothing.

    Raises:
        InputError: There is no such layout, or its repo is gated or private.
    """
    layout = Layout(dist / tag)
    if not has_layout(tag, dist):
        raise InputError(f"want an image in {layout.name}, got none", hint="build it first")
    _check_open(layout, tag, allow=allow_gated)
    note = teller(quiet=quiet)

    def push(image: str) -> Digest:
        reference = parse_reference(image)
        with ConsoleProgress(f"push {reference.name}", "blob", quiet=quiet) as progress:
            store = replace(registries, progress=progress).open(reference, for_writing=True)
            return copy_image(
                layout, tag, store, reference.tag or tag, jobs=_JOBS, progress=progress
            )

    with ExitStack() as held:
        # A build that ends meanwhile would remove what is being sent. Where no lock can be
        # written nobody builds either.
        with suppress(StorageError):
            waiting = f"waiting for a build of {layout.name} to end"
            held.enter_context(hold_lock(_lock_of(dist, tag), on_wait=partial(note, waiting)))
        return at_each(targets, push)


def _check_open(layout: Layout, tag: str, *, allow: bool) -> None:
    labels = read_labels(layout, tag)
    if labels and (labels.gated or labels.private) and not allow:
        why = "private" if labels.private else "gated"
        raise InputError(
            f"want a public repo, got {labels.repo.id}, which is {why}",
            hint="push it only where its license allows: --allow-gated",
        )


def report_layout(outcome: Outcome, request: LayoutRequest) -> dict[str, Any]:
    """Return what was built, for programs."""
    return {
        "layout": str(request.dist / request.tag),
        "tag": request.tag,
        "digest": outcome.digest,
        "archive": str(request.archive) if request.archive else None,
        "moved_bytes": sum(layer.wire_bytes for layer in outcome.moved),
        "reused_bytes": sum(layer.wire_bytes for layer in outcome.reused),
    }
