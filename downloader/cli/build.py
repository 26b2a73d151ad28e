"""``hf-models build``: plan on the host, then docker/Dockerfile in the engine."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from downloader.cli.bases import base_option
from downloader.cli.command import examples
from downloader.cli.console import (
    ConsoleProgress,
    describe_repo,
    print_json,
    print_result,
    say,
    teller,
)
from downloader.cli.options import (
    connection_of,
    connection_options,
    image_option,
    json_option,
    layer_options,
    quiet_option,
    repo_options,
    sign_options,
    signer_of,
    tag_option,
)
from downloader.cli.plan import describe_plan, print_plan, resolve_plan
from downloader.engine.docker import BuildRequest, Engine, ImageInfo, check_disk
from downloader.engine.dockerfile import (
    DEFAULT_BASE,
    NO_BASE,
    bases_of,
    check_base,
    images_of,
    write_context,
)
from downloader.environment import read_environment
from downloader.errors import EngineError, HfModelsError, InputError
from downloader.hub.snapshot import Hub
from downloader.image import labels, parse_labels
from downloader.library.connection import Connection
from downloader.library.layouts import DIST, LayoutRequest, build_layout
from downloader.library.publisher import BASE_VARIABLE, tag_of
from downloader.net.address import is_loopback
from downloader.net.retry import RetryPolicy
from downloader.net.trust import Trust
from downloader.oci.reference import parse_reference
from downloader.oci.registry import Registry
from downloader.plan import OWN_LAYERS, Plan, disk_needed_bytes
from downloader.units import format_bytes

# BuildKit's own names: it records none of their values, and they are in no cache key.
# Source: https://docs.docker.com/reference/dockerfile/#predefined-args
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY")
_PROXY_ARGS = (*_PROXIES, "NO_PROXY")


@click.command(
    epilog=examples(
        "build Qwen/Qwen2.5-0.5B", "build Qwen/Qwen2.5-0.5B --engine layout --archive qwen.tar"
    )
)
@repo_options
@layer_options
@tag_option
@image_option
@click.option(
    "--engine",
    "engine_name",
    type=click.Choice(["auto", "docker", "layout"]),
    default="auto",
    show_default=True,
    help="Docker, or an OCI layout dist/TAG; auto: Docker where it answers.",
)
@click.option(
    "--archive",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the layout as a tar that `docker load` takes, too.",
)
@base_option
@sign_options
@click.option("--force", is_flag=True, help="Overwrite an image of another repo.")
@click.option("--dry-run", is_flag=True, help="Resolve and plan only.")
@connection_options
@json_option
@quiet_option
def build(
    tag: str | None,
    image: str,
    engine_name: str,
    archive: Path | None,
    base: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Build an image that carries a repo, in the Docker engine or as an OCI layout.

    FILE names single files, or folders by a trailing slash.
    """
    environment = read_environment()
    base = base or environment.get(BASE_VARIABLE) or None
    check_base(base or DEFAULT_BASE)
    if archive and engine_name == "docker":
        raise InputError("want --archive with --engine layout, got docker", hint="docker save")
    if archive and not (archive.parent.is_dir() or archive.parent == DIST):
        raise InputError(
            f"want --archive in a directory that exists, got {archive.parent}",
            hint="check the path, or make the directory first",
        )
    hub, plan = resolve_plan(options, teller(quiet=quiet))
    name = image_name(image, tag_of(plan, tag))
    engine = Engine(dict(environment.variables))
    layout = archive is not None or engine_name == "layout"
    layout = layout or (engine_name == "auto" and not answers(engine))
    if dry_run:
        starts = find_pins(
            None if layout else engine,
            connection_of(options),
            base or DEFAULT_BASE,
            teller(quiet=quiet),
        )
        document = describe_plan(plan, tag_of(plan, tag), 1) | {"images": starts}
        print_plan(plan, document, as_json=as_json)
        return
    if layout:
        signer = signer_of(options)
        request = LayoutRequest(image, tag_of(plan, tag), base, archive, force=force, signer=signer)
        _build_layout(hub, plan, request, connection_of(options), as_json=as_json, quiet=quiet)
        return
    if plan.compress != "none":
        raise InputError(
            f"want --compress {plan.compress} with --engine layout, got docker",
            hint="Docker compresses by itself: docker buildx build --output compression=zstd",
        )
    if options["sign_key"] or options["sign_keyless"]:
        flag = "--sign-key" if options["sign_key"] else "--sign-keyless"
        raise InputError(f"want {flag} with --engine layout, got docker")
    base = base or DEFAULT_BASE
    engine.info()  # an engine that does not answer is named before anything is asked of it
    pins = find_pins(engine, connection_of(options), base, teller(quiet=quiet))
    found = build_with_docker(engine, hub, plan, name, base, pins, force=force, quiet=quiet)
    _print_built(found, plan, name, as_json)


def answers(engine: Engine) -> bool:
    """Whether there is a Docker engine, and it can build; says so if not."""
    try:
        engine.info()
    except EngineError as error:
        say(f"{error.message}; going on with an OCI layout")
        return False
    return True


def _build_layout(
    hub: Hub,
    plan: Plan,
    request: LayoutRequest,
    connection: Connection,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    environment = read_environment()
    credentials = connection.find_credentials(environment, [])
    with closing(connection.open_pool(environment)) as http:
        outcome = build_layout(
            hub,
            plan,
            request,
            http=http,
            credentials=credentials,
            environment=environment,
            open_progress=partial(ConsoleProgress, quiet=quiet),
        )
    if as_json:
        print_json(
            {
                **describe_repo(plan.snapshot),
                "layout": str(request.dist / request.tag),
                "tag": request.tag,
                "digest": outcome.digest,
                "archive": str(request.archive) if request.archive else None,
                "moved_bytes": sum(layer.wire_bytes for layer in outcome.moved),
                "reused_bytes": sum(layer.wire_bytes for layer in outcome.reused),
            }
        )
        return
    print_result(str(request.dist / request.tag))
    if request.archive:
        print_result(str(request.archive))


def image_name(image: str, tag: str) -> str:
    """Return ``NAME:TAG``.

    Raises:
        InputError: ``image`` is no image name, or has a tag or digest already.
    """
    reference = parse_reference(image)
    if reference.tag or reference.digest:
        raise InputError(f"want an image name without tag, got {image!r}", hint="use --tag")
    return f"{image}:{tag}"


def find_pins(
    engine: Engine | None, connection: Connection, base: str, note: Callable[[str], None]
) -> dict[str, str]:
    """Return ``name@digest`` for the images that the build starts from, asked once.

    What the engine has it would use anyway; of the others the registry says the digest. An
    image of neither is left to the engine, by its name.

    Args:
        engine: None for a layout, which starts from the base alone.
        connection: How registries are reached.
        base: Its name, or ``none``.
        note: Told which digest is not known.
    """
    environment = read_environment()
    pins: dict[str, str] = {}
    with closing(connection.open_pool(environment)) as http:
        credentials = connection.find_credentials(environment, [])
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


def build_with_docker(
    engine: Engine,
    hub: Hub,
    plan: Plan,
    name: str,
    base: str,
    pins: Mapping[str, str],
    *,
    force: bool,
    quiet: bool,
) -> ImageInfo | None:
    """Build a plan's image in the engine, under ``name``.

    Raises:
        InputError: There is an image of that name that carries another repo.
        EngineError: The engine is not there, or the build failed.
    """
    info = engine.info()
    existing = engine.inspect(name)
    if existing and not force:
        _check_same_repo(existing, plan, name)
    named = {"name": str(parse_reference(base))} if base != NO_BASE else {}
    named |= {"digest": _digest_of(pins[base])} if base in pins else {}
    builder = next(name for name in images_of(base) if name != base)
    wanted = labels(plan, named, pins.get(builder, builder))
    with ConsoleProgress("build", quiet=quiet) as progress:
        # An image that says all the same is the engine's cache, which needs no room.
        if not existing or dict(existing.labels) != wanted:
            _check_disk(engine, plan, base, progress)
        with tempfile.TemporaryDirectory(prefix="hf-models-") as directory:
            context = Path(directory)
            dockerfile = write_context(context, plan, base, pins)
            request = _request(context, dockerfile, name, wanted, hub, plan)
            engine.build(request, progress)
    built = engine.inspect(name)
    if not info.has_containerd_store and not quiet:
        seconds = push_seconds(plan.size_bytes)
        say(f"this engine has the classic image store: docker push will compress {seconds}")
    return built


def push_seconds(size_bytes: int) -> str:
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
        f"want to build {name} for {repo.type} {repo.id}, but that image holds {has}",
        hint="choose another --tag, or overwrite it with --force",
    )


def _check_disk(engine: Engine, plan: Plan, base: str, progress: ConsoleProgress) -> None:
    free = engine.free_bytes(DEFAULT_BASE if base == NO_BASE else base)
    if free is None:
        progress.note("could not ask the engine for its free disk; going on without")
    else:
        check_disk(disk_needed_bytes(plan), free)


def _request(
    context: Path,
    dockerfile: Path,
    name: str,
    image_labels: Mapping[str, str],
    hub: Hub,
    plan: Plan,
) -> BuildRequest:
    env = read_environment().variables
    token, trust = _find_token(hub, plan), hub.http.settings.trust
    values = {"hf_token": token, "pip_index_url": env.get("PIP_INDEX_URL")}
    return BuildRequest(
        context=context,
        dockerfile=dockerfile,
        image=name,
        build_args=_build_args(plan),
        # By name only: an address may hold a password, and arguments are visible to others.
        passed_args=[
            name
            for name in ("HF_ENDPOINT", *_PROXY_ARGS, *map(str.lower, _PROXY_ARGS))
            if env.get(name)
        ],
        labels=image_labels,
        secret_values={key: value for key, value in values.items() if value},
        secret_files=_write_bundle(trust, context / "ca.pem"),
        host_network=_needs_host_network(env),
    )


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


def _find_token(hub: Hub, plan: Plan) -> str | None:
    headers = hub.source_of(plan.snapshot, plan.snapshot.files[0]).headers
    lower = {key.lower(): value for key, value in headers.items()}
    return lower.get("authorization", "").removeprefix("Bearer ") or None


def _needs_host_network(env: Mapping[str, str]) -> bool:
    """Whether an address is this machine's loopback, which a builder's own would hide."""
    addresses = [env.get(name) for name in ("HF_ENDPOINT", "PIP_INDEX_URL")]
    addresses += [env.get(name) for item in _PROXIES for name in (item, item.lower())]
    hosts = [urlsplit(url if "://" in url else f"//{url}").hostname for url in addresses if url]
    return any(host and is_loopback(host) for host in hosts)


def _print_built(found: ImageInfo | None, plan: Plan, name: str, as_json: bool) -> None:
    if not as_json:
        print_result(name)
        return
    print_json(
        {
            **describe_repo(plan.snapshot),
            "image": name,
            "id": found.id if found else None,
            "layers": len(plan.layers) + OWN_LAYERS,
            "size_bytes": plan.snapshot.size_bytes,
        }
    )
