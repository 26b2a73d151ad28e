"""Without an engine: an image as an OCI layout directory, an archive of it, and its push."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from downloader.engine.dockerfile import DEFAULT_BASE, bases_of
from downloader.environment import Environment
from downloader.errors import InputError, StorageError
from downloader.fs import hold_lock
from downloader.hub.snapshot import Hub
from downloader.library.connection import Connection, Session, open_session
from downloader.library.publisher import (
    PlanOptions,
    TargetResult,
    at_each,
    check_open,
    find_base,
    open_hub,
    plan_of,
    tag_of,
)
from downloader.oci.digest import Digest, hex_of, parse_digest
from downloader.oci.layout import Layout
from downloader.oci.reference import parse_reference
from downloader.plan import Plan
from downloader.progress import Progress
from downloader.publish import Base, Outcome, PublishOptions, SourceImage, publish, read_labels
from downloader.publish.archive import write_archive
from downloader.publish.copy import copy_image, reachable
from downloader.signing import Signer

DIST = Path("dist")
IMAGE = "hf-models"

# Given what is done, like ``build`` or ``push ghcr.io/me/models``, and what is counted.
OpenProgress = Callable[[str, str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class LayoutRequest:
    """Name, tag and options of the image of a layout.

    Args:
        image: The name that the image gets in an engine, without tag.
        tag: Its tag, and its directory under ``dist/``.
        base: Base image, or ``none``.
        archive: Path of a tar for ``docker load``; None for no tar.
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


def build(
    repo: str | Plan,
    directory: str | os.PathLike[str] = DIST,
    tag: str | None = None,
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    plan_options: PlanOptions | None = None,
    base: str | None = None,
    archive: str | os.PathLike[str] | None = None,
    image: str = IMAGE,
    force: bool = False,
    signer: Signer | None = None,
    connection: Connection | None = None,
) -> Path:
    """Build the image of a repo as an OCI layout, and return the layout's directory.

    Args:
        repo: Its id, or a plan that was made before.
        directory: Of all layouts; this one's is in it, by the tag.
        tag: The image's; None for the repo's name.
        environment: None for the process's own.
        progress: Told of every byte.
        plan_options: The files and their layers, where ``repo`` is an id.
        base: As for `publish`.
        archive: Path of a tar of the layout that ``docker load`` takes; None for no tar.
        image: The name, without tag, that the image has in the archive.
        force: Whether a layout that carries another repo is overwritten.
        signer: Signs the files; None for no signature.
        connection: Settings for the Hub and registries, over those of the environment.

    Raises:
        InputError: The layout carries another repo.
        HfModelsError: Hub, base image, or disk said no.
    """
    bases = [parse_reference(name) for name in bases_of(base or DEFAULT_BASE)]
    with open_session(connection, environment, progress, bases) as session:
        hub = open_hub(session)
        if not isinstance(repo, Plan):
            repo = plan_of(hub, repo, plan_options or PlanOptions(), session.environment)
        request = LayoutRequest(
            image,
            tag_of(repo, tag),
            base,
            Path(archive) if archive else None,
            Path(directory),
            force=force,
            signer=signer,
        )
        build_layout(hub, repo, request, session, lambda *_: nullcontext(session.progress))
    return request.dist / request.tag


def push(
    directory: str | os.PathLike[str],
    to: Sequence[str],
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    allow_gated: bool = False,
    connection: Connection | None = None,
) -> list[TargetResult]:
    """Push a layout that `build` has made to one or several registries.

    Args:
        directory: The result of `build`; its last part is the tag.
        to: Like ``ghcr.io/me/models``, or with another tag behind it.
        environment: None for the process's own.
        progress: Told of every blob that is sent.
        allow_gated: Whether a gated or private repo may be pushed.
        connection: Settings for registries, over those of the environment.

    Returns:
        What became of each target; one that fails does not stop the others.

    Raises:
        InputError: There is no such layout, or its repo is gated or private.

    >>> push("dist/none", ["ghcr.io/me/models"])
    Traceback (most recent call last):
    downloader.errors.InputError: dist/none holds no image
    """
    path = Path(directory)
    references = [parse_reference(name) for name in to]
    names = [str(item if item.tag else item.with_tag(path.name)) for item in references]
    with open_session(connection, environment, progress, references) as session:
        return push_layout(
            path.name,
            names,
            session,
            allow_gated=allow_gated,
            dist=path.parent,
            open_progress=lambda *_: nullcontext(session.progress),
        )


def build_layout(
    hub: Hub, plan: Plan, request: LayoutRequest, session: Session, open_progress: OpenProgress
) -> Outcome:
    """Build the image of a plan as an OCI layout, and an archive of it where that is wanted.

    Args:
        hub: Where the files come from.
        plan: What to build.
        request: Where to, and how.
        session: How the base image's registry is reached.
        open_progress: Called for the build and for the archive.

    Raises:
        HfModelsError: Hub, base image, or disk said no.
    """
    layout = Layout(request.dist / request.tag)
    lock = _lock_of(request.dist, request.tag)
    with ExitStack() as held:
        with open_progress("build", "layer") as progress:
            waiting = f"waiting for another build or push of {layout.name} to end"
            held.enter_context(hold_lock(lock, on_wait=partial(progress.note, waiting)))
            base = find_base(request.base, replace(session, progress=progress), asks=True)
            outcome = _fill(layout, hub, plan, request, base=base, progress=progress)
            prune(layout, request.tag)
        if request.archive:
            name = parse_reference(request.image).with_tag(request.tag)
            with open_progress(f"write {request.archive}", "blob") as progress:
                source = SourceImage(layout, request.tag)
                write_archive(source, name, request.archive, progress)
    return outcome


def _lock_of(dist: Path, tag: str) -> Path:
    # Beside the layout, which holds nothing but what its specification names.
    return dist / ".locks" / f"{tag}.lock"


def _fill(
    layout: Layout,
    hub: Hub,
    plan: Plan,
    request: LayoutRequest,
    *,
    base: Base,
    progress: Progress,
) -> Outcome:
    # A directory of one's own is no publication: gated repos may lie in it.
    options = PublishOptions(
        base=base, allow_gated=True, force=request.force, signer=request.signer, retry=hub.retry
    )
    [outcome] = publish(
        plan,
        request.tag,
        [layout],
        source_of=partial(hub.source_of, plan.snapshot),
        http=hub.http,
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
    session: Session,
    *,
    allow_gated: bool,
    open_progress: OpenProgress,
    dist: Path = DIST,
) -> list[TargetResult]:
    """Push ``dist/TAG`` to one or several registries.

    Args:
        tag: Of the layout.
        targets: Like ``ghcr.io/me/models:TAG``, with the tag that the image gets there.
        session: How to reach them.
        allow_gated: Whether a gated or private repo may be pushed.
        open_progress: Called for each target.
        dist: The directory of all layouts.

    Raises:
        InputError: There is no such layout, or its repo is gated or private.
    """
    layout = Layout(dist / tag)
    if not has_layout(tag, dist):
        raise InputError(f"{layout.name} holds no image", hint="build it first")
    if not allow_gated:
        check_open(read_labels(layout, tag), layout.name)

    def push(image: str) -> Digest:
        reference = parse_reference(image)
        with open_progress(f"push {reference.name}", "blob") as progress:
            store = replace(session, progress=progress).open_for_writing(reference)
            return copy_image(layout, tag, store, reference.tag or tag, progress)

    with ExitStack() as held:
        # A build that ends meanwhile would remove what is being sent. Where no lock can be
        # written no build runs either.
        with suppress(StorageError):
            waiting = f"waiting for a build of {layout.name} to end"
            held.enter_context(
                hold_lock(_lock_of(dist, tag), on_wait=partial(session.progress.note, waiting))
            )
        return at_each(targets, push)
