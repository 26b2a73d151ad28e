"""``hf-models push``: an image of the engine to one or several registries."""

from functools import partial

import click

from downloader.cli.build import answers, engine_option
from downloader.cli.command import examples
from downloader.cli.console import ConsoleProgress
from downloader.cli.options import image_option, json_option, quiet_option
from downloader.cli.targets import registry_options, report_results, to_option
from downloader.engine.docker import Engine
from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.library.connection import Connection, open_session
from downloader.library.docker import image_name, push_from_engine
from downloader.library.layouts import has_layout, push_layout
from downloader.oci.reference import check_tag, parse_reference


@click.command(
    epilog=examples(
        "push qwen2.5-0.5b --to ghcr.io/me/hf-models",
        "push qwen2.5-0.5b --engine layout --to quay.io/me/models --to docker.io/me/models",
    )
)
@click.argument("tag")
@image_option
@to_option(
    "Where to, like ghcr.io/me/models; repeatable.  [default: the image's own name]",
    required=False,
)
@engine_option("Where the image is; auto: the one place of Docker and dist/TAG that has it.")
@click.option("--allow-gated", is_flag=True, help="Push a gated or private repo as well.")
@registry_options
@json_option
@quiet_option
def push(
    tag: str,
    image: str,
    targets: tuple[str, ...],
    engine_name: str,
    allow_gated: bool,
    as_json: bool,
    quiet: bool,
    connection: Connection,
) -> int:
    """Push the image TAG from the Docker engine, or from the OCI layout dist/TAG."""
    source = image_name(image, check_tag(tag))
    environment = read_environment()
    engine = Engine(dict(environment.variables))
    names = list(dict.fromkeys(target_name(target, tag) for target in targets or (image,)))
    if _is_layout(engine_name, engine, source, tag):
        references = [parse_reference(name) for name in names]
        with (
            ConsoleProgress("push", quiet=quiet) as progress,
            open_session(connection, environment, progress, references) as session,
        ):
            pushed = push_layout(
                tag,
                names,
                session,
                allow_gated=allow_gated,
                open_progress=partial(ConsoleProgress, quiet=quiet),
            )
    else:
        with ConsoleProgress("push", quiet=quiet) as progress:
            pushed = push_from_engine(
                engine, source, names, progress=progress, allow_gated=allow_gated
            )
    return report_results(pushed, as_json=as_json)


def _is_layout(engine_name: str, engine: Engine, source: str, tag: str) -> bool:
    if engine_name != "auto":
        return engine_name == "layout"
    if not answers(engine):
        return True
    if not has_layout(tag):
        return False
    if engine.inspect(source) is not None:
        raise InputError(
            f"two images {tag}: {source} in the engine and a layout in dist/{tag}",
            hint="say which one: --engine docker or --engine layout",
        )
    return True


def target_name(target: str, tag: str) -> str:
    """Return ``REGISTRY/NAME:TAG`` for a target, with its own tag where it has one.

    Raises:
        InputError: It names no registry and no user, so it could be anybody's.
    """
    reference = parse_reference(target)
    if reference.digest or "/" not in target:
        raise InputError(
            f"want a name like ghcr.io/me/models to push to, got {target!r}",
            hint="name it with --to, or with --image",
        )
    return str(reference if reference.tag else reference.with_tag(tag))
