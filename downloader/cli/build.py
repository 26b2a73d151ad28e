"""``hf-models build``: plan on the host, then docker/Dockerfile in the engine."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from downloader.cli.command import examples
from downloader.cli.console import (
    ConsoleProgress,
    describe_repo,
    print_answer,
    print_json,
    print_result,
    say,
    teller,
)
from downloader.cli.options import (
    F,
    connection_options,
    image_option,
    json_option,
    quiet_option,
    sign_options,
    tag_option,
)
from downloader.cli.plan import describe_plan, print_plan
from downloader.cli.repos import base_option, layer_options, repo_options
from downloader.engine.docker import Engine, ImageInfo
from downloader.engine.dockerfile import DEFAULT_BASE, bases_of
from downloader.environment import read_environment
from downloader.errors import EngineError, InputError
from downloader.library.connection import Connection, open_session
from downloader.library.docker import build_in_engine, find_pins, image_name
from downloader.library.layouts import DIST, LayoutRequest, build_layout
from downloader.library.publisher import BASE_VARIABLE, PlanOptions, open_hub, plan_of, tag_of
from downloader.oci.reference import parse_reference
from downloader.plan import OWN_LAYERS, Plan
from downloader.publish import Outcome
from downloader.signing import KeySigner, Signer


def engine_option(help_text: str) -> Callable[[F], F]:
    """Return the flag ``--engine``, as the argument ``engine_name``."""
    return click.option(
        "--engine",
        "engine_name",
        type=click.Choice(["auto", "docker", "layout"]),
        default="auto",
        show_default=True,
        help=help_text,
    )


@click.command(
    epilog=examples(
        "build Qwen/Qwen2.5-0.5B", "build Qwen/Qwen2.5-0.5B --engine layout --archive qwen.tar"
    )
)
@repo_options
@layer_options
@tag_option
@image_option
@engine_option("Docker, or an OCI layout dist/TAG; auto: Docker where it answers.")
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
    repo_id: str,
    wanted: PlanOptions,
    tag: str | None,
    image: str,
    engine_name: str,
    archive: Path | None,
    base: str | None,
    signer: Signer | None,
    force: bool,
    dry_run: bool,
    connection: Connection,
    as_json: bool,
    quiet: bool,
) -> None:
    """Build an image that carries a repo, in the Docker engine or as an OCI layout.

    FILE names single files, or folders by a trailing slash.
    """
    environment = read_environment()
    base = base or environment.get(BASE_VARIABLE) or None
    # Parsed here: a wrong one is named before anything is asked.
    bases = [parse_reference(name) for name in bases_of(base or DEFAULT_BASE)]
    if archive and engine_name == "docker":
        raise InputError("--archive needs --engine layout, not docker", hint="or run docker save")
    if archive and not (archive.parent.is_dir() or archive.parent == DIST):
        raise InputError(
            f"--archive: the directory {archive.parent} does not exist",
            hint="check the path, or make the directory first",
        )
    engine = Engine(dict(environment.variables))
    note = teller(quiet=quiet)
    with open_session(connection, environment, references=bases) as session:
        hub = open_hub(session, note)
        plan = plan_of(hub, repo_id, wanted, environment)
        name = image_name(image, tag_of(plan, tag))
        layout = archive is not None or engine_name == "layout"
        layout = layout or (engine_name == "auto" and not answers(engine))
        if dry_run:
            pins = find_pins(None if layout else engine, session, base or DEFAULT_BASE, note)
            document = describe_plan(plan, tag_of(plan, tag), 1) | {"images": pins}
            print_plan(plan, document, as_json=as_json)
            return
        if layout:
            request = LayoutRequest(
                image, tag_of(plan, tag), base, archive, force=force, signer=signer
            )
            open_progress = partial(ConsoleProgress, quiet=quiet)
            outcome = build_layout(hub, plan, request, session, open_progress)
            _print_layout(outcome, plan, request, as_json=as_json)
            return
        _check_for_docker(plan, signer)
        with ConsoleProgress("build", quiet=quiet) as progress:
            found = build_in_engine(
                engine,
                hub,
                plan,
                name,
                base=base or DEFAULT_BASE,
                session=session,
                progress=progress,
                force=force,
            )
    _print_built(found, plan, name, as_json)


def _check_for_docker(plan: Plan, signer: Signer | None) -> None:
    if plan.compress != "none":
        raise InputError(
            f"--compress {plan.compress} needs --engine layout, not docker",
            hint="Docker compresses by itself: docker buildx build --output compression=zstd",
        )
    if signer:
        flag = "--sign-key" if isinstance(signer, KeySigner) else "--sign-keyless"
        raise InputError(f"{flag} needs --engine layout, not docker")


def answers(engine: Engine) -> bool:
    """Return whether a Docker engine answers and can build; print the reason if not."""
    try:
        engine.check()
    except EngineError as error:
        say(f"{error.message}; going on with an OCI layout")
        return False
    return True


def _print_layout(outcome: Outcome, plan: Plan, request: LayoutRequest, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                **describe_repo(plan.snapshot),
                "layout": str(request.dist / request.tag),
                "tag": request.tag,
                "digest": outcome.digest,
                "archive": str(request.archive) if request.archive else None,
                "moved_bytes": outcome.moved_bytes,
                "reused_bytes": outcome.reused_bytes,
            }
        )
        return
    print_result(str(request.dist / request.tag))
    if request.archive:
        print_result(str(request.archive))


def _print_built(found: ImageInfo | None, plan: Plan, name: str, as_json: bool) -> None:
    document = {
        **describe_repo(plan.snapshot),
        "image": name,
        "id": found.id if found else None,
        "layers": len(plan.layers) + OWN_LAYERS,
        "size_bytes": plan.snapshot.size_bytes,
    }
    print_answer(document, name, as_json=as_json)
