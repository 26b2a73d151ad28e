"""From the Hub to images, into registries."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from downloader.engine.dockerfile import DEFAULT_BASE, NO_BASE
from downloader.environment import (
    Environment,
    Setting,
    check_hub_variables,
    read_environment,
    read_hub_token,
)
from downloader.errors import HfModelsError, InputError, RegistryError, TransportError
from downloader.hub.repo import HUB_HOSTS, HUB_URL, RepoName, Snapshot, parse_repo_name
from downloader.hub.snapshot import Hub
from downloader.image import ImageLabels
from downloader.library.connection import Connection, Session, open_session
from downloader.library.consumer import select
from downloader.oci.auth import Credential
from downloader.oci.credentials import ExplicitCredentials, remove_login, store_login
from downloader.oci.digest import Digest
from downloader.oci.manifest import Index, parse_manifest
from downloader.oci.reference import Reference, check_tag, parse_reference, tag_from_name
from downloader.oci.registry import Registry
from downloader.oci.registry_write import WritableRegistry
from downloader.plan import DEFAULT_CACHE_ROOT, Compress, Plan, make_plan, parse_layer_limit
from downloader.progress import Note, Progress, ignore
from downloader.publish import AssembleOptions, Base, Outcome, PublishOptions
from downloader.publish import assemble as assemble_in_store
from downloader.publish import publish as publish_to_stores
from downloader.publish.checkpoint import MODELPACK_TAG
from downloader.publish.samples import choose_compression
from downloader.publish.sign import referrers_tag

BASE_VARIABLE = "HF_MODELS_BASE"


@dataclass(frozen=True)
class PlanOptions:
    """The files of a repo, and their arrangement in layers.

    Args:
        repo_type: ``model``, ``dataset`` or ``space``.
        revision: Branch, tag or commit; None for ``main``.
        files: Only these files, or folders by a trailing slash; empty for all.
        include: Only files that match one of these patterns.
        exclude: Not files that match one of these patterns.
        layer_size: The largest layer: ``default``, ``mirror``, or like ``2GB``.
        cache_root: ``HF_HOME`` inside the image.
        models_dir: Directory in the image with the files under their names; None for the default.
        has_receiver: Whether the image carries the program that restores it.
        compress: Whether layers are compressed.
    """

    repo_type: str = "model"
    revision: str | None = None
    files: Sequence[str] = ()
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    layer_size: str = "default"
    cache_root: str = DEFAULT_CACHE_ROOT
    models_dir: str | None = None
    has_receiver: bool = True
    compress: Compress = "none"


@dataclass(frozen=True)
class TargetResult:
    """One target.

    Args:
        image: ``REGISTRY/NAME:TAG``.
        digest: Of the image that is there now; None where it failed.
        error: The reason of the failure; None after success.
    """

    image: str
    digest: str | None = None
    error: HfModelsError | None = None


def plan(
    repo_id: str,
    options: PlanOptions | None = None,
    environment: Environment | None = None,
    *,
    connection: Connection | None = None,
    note: Note = ignore,
) -> Plan:
    """Resolve a repo at its commit, and return which files go into which layers.

    Args:
        repo_id: ``org/name``, or a form that people paste: ``hf://...``, the address of a page.
        options: The files and their layers.
        environment: None for the process's own.
        connection: Settings for the Hub, over those of the environment.
        note: Told before each new try.

    Raises:
        InputError: A name or a pattern that names nothing.
        HubError: The Hub said no; its ``status`` is the HTTP status.
        TransportError: The Hub gave no usable answer, after the retries.
    """
    with open_session(connection, environment) as session:
        hub = open_hub(session, note)
        return plan_of(hub, repo_id, options or PlanOptions(), session.environment)


def publish(
    repo: str | Plan,
    to: Sequence[str],
    tag: str | None = None,
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    plan_options: PlanOptions | None = None,
    base: str | None = None,
    options: PublishOptions | None = None,
    connection: Connection | None = None,
) -> list[Outcome]:
    """Publish a repo to registries, streaming, and return what became of each.

    Args:
        repo: Its id, or a plan that was made before.
        to: Repositories of registries, like ``ghcr.io/me/models``.
        tag: The image's; None for the repo's name.
        environment: None for the process's own.
        progress: Told of every byte.
        plan_options: The files and their layers, where ``repo`` is an id.
        base: The base image, or ``none``; None for the default one (see `find_base`).
        options: Settings; its base is taken from ``base``.
        connection: Settings for the Hub and registries, over those of the environment.

    Raises:
        HfModelsError: The Hub failed, or what was asked for is wrong. A registry that failed
            has its error in its outcome.
    """
    options = options or PublishOptions()
    references = [parse_reference(name) for name in to]
    with open_session(connection, environment, progress, references) as session:
        hub = open_hub(session)
        if not isinstance(repo, Plan):
            repo = plan_of(hub, repo, plan_options or PlanOptions(), session.environment)
        return publish_plan(repo, session, hub, references, tag, base=base, options=options)


def publish_plan(
    plan: Plan,
    session: Session,
    hub: Hub,
    to: Sequence[Reference],
    tag: str | None,
    *,
    base: str | None,
    options: PublishOptions,
) -> list[Outcome]:
    """Publish a plan over connections that are open.

    Raises:
        HfModelsError: As `publish`.
    """
    is_image = options.shard.count == 1 and not options.dry_run
    return publish_to_stores(
        plan,
        tag_of(plan, tag),
        [session.open_for_writing(reference) for reference in to],
        source_of=partial(hub.source_of, plan.snapshot),
        http=session.http,
        options=replace(
            options,
            base=find_base(base, session, asks=is_image),
            retry=session.connection.retry,
        ),
        progress=session.progress,
    )


def assemble(
    tag: str,
    to: Sequence[str],
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    base: str | None = None,
    options: AssembleOptions | None = None,
    connection: Connection | None = None,
) -> list[TargetResult]:
    """Make one image of the shards that other machines published; moves no model bytes.

    Args:
        tag: Of the image.
        to: Repositories of registries, like ``ghcr.io/me/models``, each with all shards.
        environment: None for the process's own.
        progress: Told of everything.
        base: As for `publish`.
        options: Settings; its base is taken from ``base``.
        connection: Settings for registries, over those of the environment.

    Returns:
        What became of each repository; one that fails does not stop the others.

    Raises:
        InputError: The tag or the name of a repository is none.

    >>> assemble("a tag", ["ghcr.io/me/models"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    downloader.errors.InputError: want an image tag of 1 to 128 letters, ..., got 'a tag'
    """
    references = [parse_reference(name) for name in to]
    check_tag(tag)
    with open_session(connection, environment, progress, references) as session:
        found = find_base(base, session, asks=True)
        how = replace(options or AssembleOptions(), base=found)

        def join(image: str) -> str:
            store = session.open_for_writing(parse_reference(image))
            return assemble_in_store(store, tag, how, session.progress)

        return at_each([str(reference.with_tag(tag)) for reference in references], join)


def check_open(known: ImageLabels | None, name: str) -> None:
    """Raise if the image's own labels say that not everybody may have what it carries.

    Raises:
        InputError: It is gated or private.
    """
    if known is None or not (known.gated or known.private):
        return
    why = "gated" if known.gated else "private"
    raise InputError(
        f"{name} carries {known.repo.id}, which is {why} on the Hub: "
        "everybody who can pull the image gets the files without asking its owner",
        hint="if its license and the registry's readers allow that, add --allow-gated",
    )


def at_each(images: Iterable[str], act: Callable[[str], str]) -> list[TargetResult]:
    """Act on one target after the other; ``act`` returns the digest of the image there."""
    results = []
    for image in images:
        try:
            results.append(TargetResult(image, act(image)))
        except HfModelsError as error:
            results.append(TargetResult(image, error=error))
    return results


def remove(
    image: str,
    environment: Environment | None = None,
    *,
    connection: Connection | None = None,
    note: Note = ignore,
) -> None:
    """Remove a tag from a registry; its layers go when the registry cleans up.

    The ModelPack tag and the signatures that go with the image are removed, too, but for a
    manifest that another image names in a registry that removes no tags.

    Args:
        image: With a tag or digest.
        environment: None for the process's own.
        connection: Settings for registries, over those of the environment.
        note: Told which tag of those that go with the image stays, and why.

    Raises:
        InputError: ``image`` has no tag and no digest, or there is no such image.
        RegistryError: The registry does not remove images.
    """
    reference = parse_reference(image)
    if not (reference.tag or reference.digest):
        raise InputError(f"want an image with its tag, got {image!r}")
    with open_session(connection, environment, references=[reference]) as session:
        registry = session.open_for_writing(reference)
        found = registry.get_manifest(reference.target)
        if found is None:
            raise InputError(f"{reference}: not found", hint=f"hf-models list {reference.name}")
        # Some registries remove a tag, others only a manifest and with it every tag of it.
        names = reference.target, found.digest
        if not any(_removes(registry, name, reference.target) for name in names):
            raise RegistryError(
                f"{reference}: the registry does not remove images",
                hint="remove it on the registry's own page",
            )
        others = [f"{reference.tag}{MODELPACK_TAG}"] if reference.tag else []
        if registry.get_manifest(found.digest) is None:  # else another tag still names the image
            others.append(referrers_tag(found.digest))
        for tag in others:
            other = registry.get_manifest(tag)
            if other is None or _removes(registry, tag, tag):
                continue
            # By its digest, unless another image would lose the manifest with it.
            rest = [name for name in registry.list_tags() if name != tag]
            owner = next((name for name in rest if _is_named(registry, name, other.digest)), None)
            if owner:
                note(
                    f"{reference.name}:{tag} stays: the registry removes it only together with"
                    f" its manifest, which {owner} needs"
                )
            elif not _removes(registry, other.digest, tag):
                note(f"{reference.name}:{tag} stays: the registry does not remove it")


def _is_named(registry: Registry, tag: str, digest: Digest) -> bool:
    raw = registry.get_manifest(tag)
    parsed = parse_manifest(raw.data) if raw else None
    inner = parsed.manifests if isinstance(parsed, Index) else ()
    return raw is not None and digest in {raw.digest, *(item.digest for item in inner)}


def _removes(registry: WritableRegistry, name: str, target: str) -> bool:
    """Remove ``name``, a tag or digest; return whether ``target`` leads to nothing now."""
    return registry.delete_manifest(name) and registry.get_manifest(target) is None


def login(
    registry: str,
    username: str,
    password: str,
    environment: Environment | None = None,
    *,
    connection: Connection | None = None,
) -> str:
    """Check a registry's credential, and store it where docker, podman and their kin look.

    Args:
        registry: Like ``ghcr.io``, or ``docker.io`` for Docker Hub.
        username: Of the user.
        password: Or a token.
        environment: None for the process's own.
        connection: Settings for the registry, over those of the environment.

    Returns:
        Where it is stored: the file, or the name of the helper that the file names.

    Raises:
        RegistryError: The registry refuses it.
        StorageError: It cannot be written.
    """
    reference = _parse_registry(registry)
    credential = Credential(username, password)
    with open_session(connection, environment) as session:
        given = ExplicitCredentials(reference.registry, credential, session.credentials)
        replace(session, credentials=given).open(reference).check_login()
        return store_login(session.environment.login_file, reference.registry, credential)


def logout(registry: str, environment: Environment | None = None) -> bool:
    """Remove the stored credential of a registry; False where there was none.

    Raises:
        StorageError: The file cannot be written.
    """
    environment = environment or read_environment()
    return remove_login(environment.login_file, _parse_registry(registry).registry)


def _parse_registry(text: str) -> Reference:
    """Return a repository of the registry that ``text`` names, which need not be there."""
    reference = parse_reference(f"{text}/login/check") if text else None
    if reference is None or not text.startswith(reference.registry):
        raise InputError(f"want a registry's host like ghcr.io, got {text!r}")
    return reference


def open_hub(session: Session, note: Note | None = None) -> Hub:
    """Return the Hub that the environment names.

    Args:
        session: How it is reached.
        note: Told of waits; None for the progress of the session.

    Raises:
        InputError: A token that no header can carry, or a setting that names nothing.
    """
    environment, token = session.environment, session.connection.hub_token
    check_hub_variables(environment)
    given = None if token is None else Setting("--token", token.strip())
    found = read_hub_token(environment, given)
    return Hub(
        environment.hub_endpoint.value if environment.hub_endpoint else HUB_URL,
        found.value if found else None,
        session.http,
        retry=session.connection.retry,
        note=note or session.progress.note,
        offline=environment.hub_offline.name if environment.hub_offline else None,
    )


def resolve(hub: Hub, repo_id: str, options: PlanOptions, environment: Environment) -> Snapshot:
    """Return the snapshot that an id and the options name.

    Raises:
        HubError: There is none; the hint says where the id is that of another type.
    """
    name = name_of(repo_id, options.repo_type, environment)
    files = (*options.files, *([name.path] if name.path else []))
    wanted = select(files, options.include, options.exclude)
    revision = options.revision or name.revision
    if name.revision not in {None, revision}:
        raise InputError(
            f"two revisions: {name.revision} in {repo_id!r}, and --revision {revision}"
        )
    return hub.resolve(name.repo, revision, wanted)


def name_of(repo_id: str, repo_type: str, environment: Environment) -> RepoName:
    """Return the repo that an id names, with revision and path where its address was pasted.

    Raises:
        InputError: As `parse_repo_name`.
    """
    endpoint = environment.hub_endpoint
    own = re.match(r"https?://([^/@]+)", endpoint.value.lower()) if endpoint else None
    return parse_repo_name(repo_id, repo_type, HUB_HOSTS | ({own[1]} if own else set()))


def plan_of(hub: Hub, repo_id: str, options: PlanOptions, environment: Environment) -> Plan:
    """Resolve a repo and plan it, over connections that are open.

    Raises:
        HfModelsError: As `plan`.
    """
    limit_bytes = parse_layer_limit(options.layer_size)
    snapshot = resolve(hub, repo_id, options, environment)
    made = make_plan(
        snapshot,
        layer_limit_bytes=limit_bytes,
        cache_root=options.cache_root,
        models_dir=options.models_dir,
        has_receiver=options.has_receiver,
    )
    return choose_compression(made, options.compress, partial(hub.source_of, snapshot), hub.http)


def tag_of(plan: Plan, tag: str | None) -> str:
    """Return the tag that was given, else the repo's name as a tag."""
    return check_tag(tag) if tag else tag_from_name(plan.snapshot.repo.name)


def find_base(name: str | None, session: Session, *, asks: bool) -> Base:
    """Return the base image; none, with a note, where the default one cannot be reached.

    Docker Hub is no requirement: an image of files only restores as any other, and what it
    lacks is `docker run IMAGE export`. A base that was named is not left out.

    Args:
        name: As the user named it, ``none`` for none; None for that of ``HF_MODELS_BASE``, else
            the default one.
        session: How it is reached, and where the variable is.
        asks: Whether to find out now if the default one can be reached.
    """
    name = name or session.environment.get(BASE_VARIABLE) or None
    if name == NO_BASE:
        return Base()
    reference = parse_reference(name or DEFAULT_BASE)
    base = Base(session.open(reference), reference.target, str(reference))
    if name is None and asks:
        try:
            base.resolve()
        except (TransportError, RegistryError) as error:
            session.progress.note(
                f"{error.message}; going on without a base image: restore works, and `docker run"
                f" IMAGE export` does not (name another base with --base or {BASE_VARIABLE})"
            )
            return Base()
    return base
