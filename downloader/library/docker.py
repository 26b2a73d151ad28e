"""From the Hub to an image in the Docker engine, and from there to registries."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from downloader.engine.docker import BuildRequest, Engine, ImageInfo
from downloader.engine.dockerfile import DEFAULT_BASE, NO_BASE, bases_of, images_of, write_context
from downloader.engine.log import PRUNE_HINT
from downloader.engine.push import push_image
from downloader.errors import HfModelsError, InputError, StorageError
from downloader.hub.snapshot import Hub
from downloader.image import labels, parse_labels
from downloader.library.connection import Session
from downloader.library.publisher import TargetResult, at_each, check_open
from downloader.net.address import is_loopback
from downloader.net.retry import RetryPolicy
from downloader.net.trust import Trust
from downloader.oci.reference import parse_reference
from downloader.oci.registry import Registry
from downloader.plan import Plan, disk_needed_bytes
from downloader.progress import Note, Progress
from downloader.units import format_bytes

# BuildKit's own names: it records none of their values, and they are in no cache key.
# Source: https://docs.docker.com/reference/dockerfile/#predefined-args
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY")
_PROXY_ARGS = (*_PROXIES, "NO_PROXY")


def image_name(image: str, tag: str) -> str:
    """Return ``NAME:TAG``.

    Raises:
        InputError: ``image`` is no image name, or has a tag or digest already.
    """
    reference = parse_reference(image)
    if reference.tag or reference.digest:
        raise InputError(f"want an image name without tag, got {image!r}", hint="use --tag")
    return f"{image}:{tag}"


def find_pins(engine: Engine | None, session: Session, base: str, note: Note) -> dict[str, str]:
    """Return ``name@digest`` for the images that the build starts from, asked once.

    What the engine has it would use anyway; of the others the registry says the digest. An
    image of neither is left to the engine, by its name.

    Args:
        engine: None for a layout, which starts from the base alone.
        session: How registries are reached.
        base: Its name, or ``none``.
        note: Told which digest is not known.
    """
    pins: dict[str, str] = {}
    http, credentials = session.http, session.credentials
    for name in images_of(base) if engine else bases_of(base):
        reference = parse_reference(name)
        local = engine.inspect(name) if engine else None
        found = [
            digest
            for known in (local.repo_digests if local else ())
            if parse_reference(known).name == reference.name and (digest := _digest_of(known))
        ]
        if reference.digest or (local and not found):
            continue
        if not found:
            try:
                store = Registry(reference, http, credentials, retry=RetryPolicy(tries=2))
                raw = store.get_manifest(reference.target)
                found = [raw.digest] if raw else []
            except HfModelsError as error:
                note(f"{name}: digest not known here: {error.message}")
        if found:
            pins[name] = f"{name}@{found[0]}"
    return pins


def _digest_of(name: str) -> str:
    return name.partition("@")[2]


def build_in_engine(
    engine: Engine,
    hub: Hub,
    plan: Plan,
    name: str,
    *,
    base: str,
    session: Session,
    progress: Progress,
    force: bool = False,
) -> ImageInfo | None:
    """Build a plan's image in the engine, under ``name``, and return what the engine has then.

    Args:
        engine: The engine.
        hub: The Hub that the builder stage downloads from.
        plan: The plan to build.
        name: ``NAME:TAG``.
        base: The base image, or ``none``.
        session: How registries are reached; the build is given proxies, and the addresses of the
            Hub and of PyPI.
        progress: Told of the build.
        force: Whether an image of another repo is overwritten.

    Raises:
        InputError: There is an image of that name that carries another repo.
        EngineError: The engine is not there, or the build failed.
        StorageError: The engine's disk has no room for it.
    """
    keeps_layers = engine.check()
    existing = engine.inspect(name)
    if existing and not force:
        _check_same_repo(existing, plan, name)
    pins = find_pins(engine, session, base, progress.note)
    variables = session.environment.variables
    named = {"name": str(parse_reference(base))} if base != NO_BASE else {}
    named |= {"digest": _digest_of(pins[base])} if base in pins else {}
    builder = next(name for name in images_of(base) if name != base)
    wanted = labels(plan, named, pins.get(builder, builder))
    # An image that says all the same is the engine's cache, which needs no room.
    if not existing or dict(existing.labels) != wanted:
        _check_disk(engine, plan, base, progress)
    with tempfile.TemporaryDirectory(prefix="hf-models-") as directory:
        context = Path(directory)
        request = BuildRequest(
            context=context,
            dockerfile=write_context(context, plan, base, pins),
            image=name,
            build_args=_build_args(plan),
            passed_args=_passed_args(variables),
            labels=wanted,
            secret_values=_secrets(hub, plan, variables),
            secret_files=_write_bundle(hub.http.settings.trust, context / "ca.pem"),
            host_network=_needs_host_network(variables),
        )
        engine.build(request, progress)
    if not keeps_layers:
        progress.note(
            "this engine has the classic image store: docker push will compress "
            + _compression_cost(plan.size_bytes)
        )
    return engine.inspect(name)


def _compression_cost(size_bytes: int) -> str:
    """Return what compressing on push costs, for people.

    The classic store keeps no registry blobs, so every push compresses on one core: 32 s
    per GB of weights as measured, for 8 to 20 % of the size.
    """
    cost_s = 32 * size_bytes / 1e9
    return f"{format_bytes(size_bytes)}, about {cost_s:.0f} s of one core each time"


def _check_same_repo(existing: ImageInfo, plan: Plan, name: str) -> None:
    known = parse_labels(existing.labels)
    if known is not None and known.repo == plan.snapshot.repo:
        return
    has = f"{known.repo.type} {known.repo.id}" if known else "something else"
    repo = plan.snapshot.repo
    raise InputError(
        f"{name} exists and holds {has}, not {repo.type} {repo.id}",
        hint="choose another --tag, or overwrite it with --force",
    )


def _check_disk(engine: Engine, plan: Plan, base: str, progress: Progress) -> None:
    free = engine.free_bytes(DEFAULT_BASE if base == NO_BASE else base)
    if free is None:
        progress.note("could not ask the engine for its free disk; going on without")
    elif free < (need_bytes := disk_needed_bytes(plan)):
        raise StorageError(
            f"the engine's disk: want {format_bytes(need_bytes)} free to build,"
            f" got {format_bytes(free)}",
            hint=PRUNE_HINT,
        )


def _passed_args(env: Mapping[str, str]) -> list[str]:
    # By name only: an address may hold a password, and arguments are visible to others.
    names = ("HF_ENDPOINT", *_PROXY_ARGS, *map(str.lower, _PROXY_ARGS))
    return [name for name in names if env.get(name)]


def _secrets(hub: Hub, plan: Plan, env: Mapping[str, str]) -> dict[str, str]:
    headers = hub.source_of(plan.snapshot, plan.snapshot.files[0]).headers
    lower = {key.lower(): value for key, value in headers.items()}
    token = lower.get("authorization", "").removeprefix("Bearer ")
    values = {"hf_token": token, "pip_index_url": env.get("PIP_INDEX_URL")}
    return {key: value for key, value in values.items() if value}


def _write_bundle(trust: Trust, path: Path) -> dict[str, Path]:
    """Write the certificates for the builder stage, where the system's alone would not do."""
    if not trust.files and not trust.dirs:
        return {}
    path.write_bytes(trust.bundle())
    return {"ca": path}


def _build_args(plan: Plan) -> dict[str, str]:
    snapshot = plan.snapshot
    date = snapshot.committed_at
    return {
        "REPO_ID": snapshot.repo.id,
        "REPO_TYPE": snapshot.repo.type,
        "COMMIT": snapshot.commit,
        "CACHE_ROOT": plan.cache_root.rstrip("/"),
        # BuildKit writes it as the time of image and history instead of now.
        "SOURCE_DATE_EPOCH": str(int(date.timestamp()) if date else 0),
    }


def _needs_host_network(env: Mapping[str, str]) -> bool:
    """Whether an address is this machine's loopback, which a builder's own would hide."""
    addresses = [env.get(name) for name in ("HF_ENDPOINT", "PIP_INDEX_URL")]
    addresses += [env.get(name) for item in _PROXIES for name in (item, item.lower())]
    hosts = [urlsplit(url if "://" in url else f"//{url}").hostname for url in addresses if url]
    return any(host and is_loopback(host) for host in hosts)


def push_from_engine(
    engine: Engine,
    source: str,
    targets: Sequence[str],
    *,
    progress: Progress,
    allow_gated: bool = False,
) -> list[TargetResult]:
    """Push an image of the engine to every target; one that fails does not stop the others.

    Args:
        engine: The engine.
        source: Its image, ``NAME:TAG``.
        targets: ``REGISTRY/NAME:TAG``.
        progress: Told of the push.
        allow_gated: Whether a gated or private repo may be pushed.

    Raises:
        InputError: There is no such image, or not everybody may have what it carries.
        EngineError: The engine is not there.
    """
    keeps_layers = engine.check()
    found = engine.inspect(source)
    if found is None:
        raise InputError(f"the engine has no image {source}", hint="build it first")
    if not allow_gated:
        check_open(parse_labels(found.labels), source)
    if not keeps_layers:
        cost = _compression_cost(found.size_bytes)
        progress.note(f"the classic image store compresses on push: {cost}")
    return at_each(targets, lambda name: _push_as(engine, source, name, progress))


def _push_as(engine: Engine, source: str, name: str, progress: Progress) -> str:
    had_name = engine.inspect(name) is not None
    engine.tag(source, name)
    try:
        return push_image(engine, name, progress)
    finally:
        if not had_name and parse_reference(source) != parse_reference(name):
            engine.untag(name)
