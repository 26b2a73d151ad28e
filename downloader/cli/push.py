"""``hf-models push``: an image of the engine to one or several registries."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import click

from downloader.cli.build import answers, image_name, push_seconds
from downloader.cli.command import examples
from downloader.cli.console import ConsoleProgress, say
from downloader.cli.options import http_pool, image_option, json_option, quiet_option
from downloader.cli.registries import (
    make_registries,
    registry_options,
)
from downloader.cli.targets import describe_results, report_results
from downloader.engine.docker import Engine, ImageInfo
from downloader.engine.push import push_image
from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.image import parse_labels
from downloader.library.layouts import has_layout, push_layout
from downloader.library.publisher import TargetResult, at_each
from downloader.oci.reference import check_tag, parse_reference


@click.command(
    epilog=examples(
        "push qwen2.5-0.5b --to ghcr.io/me/hf-models",
        "push qwen2.5-0.5b --engine layout --to quay.io/me/models --to docker.io/me/models",
    )
)
@click.argument("tag")
@image_option
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="NAME",
    help="Where to, like ghcr.io/me/models; repeatable.  [default: the image's own name]",
)
@click.option(
    "--engine",
    "engine_name",
    type=click.Choice(["auto", "docker", "layout"]),
    default="auto",
    show_default=True,
    help="Where the image is; auto: the one place of Docker and dist/TAG that has it.",
)
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
    **options: Any,
) -> int:
    """Push the image TAG from the Docker engine, or from the OCI layout dist/TAG."""
    source = image_name(image, check_tag(tag))
    engine = Engine(dict(read_environment().variables))
    names = list(dict.fromkeys(target_name(target, tag) for target in targets or (image,)))
    if _is_layout(engine_name, engine, source, tag):
        with closing(http_pool(options)) as http:
            references = [parse_reference(name) for name in names]
            with ConsoleProgress("push", quiet=quiet) as progress:
                registries = make_registries(options, http, references, progress)
                pushed = push_layout(
                    tag,
                    names,
                    registries,
                    allow_gated=allow_gated,
                    open_progress=partial(ConsoleProgress, quiet=quiet),
                )
        return _report(pushed, as_json=as_json)
    pushed = push_from_engine(engine, source, names, allow_gated=allow_gated, quiet=quiet)
    return _report(pushed, as_json=as_json)


def push_from_engine(
    engine: Engine, source: str, names: Sequence[str], *, allow_gated: bool, quiet: bool = False
) -> list[TargetResult]:
    """Push an image of the engine under every name; one that fails does not stop the others.

    Raises:
        InputError: There is no such image, or not everybody may have what it carries.
        EngineError: The engine is not there.
    """
    info = engine.info()
    found = engine.inspect(source)
    if found is None:
        raise InputError(f"want the image {source} in the engine, got none", hint="build it first")
    if not allow_gated:
        check_open(found, source)
    if not info.has_containerd_store and not quiet:
        say(f"the classic image store compresses on push: {push_seconds(found.size_bytes)}")
    with ConsoleProgress("push", quiet=quiet) as progress:
        return at_each(names, lambda name: _push_as(engine, source, name, progress))


def _is_layout(engine_name: str, engine: Engine, source: str, tag: str) -> bool:
    if engine_name != "auto":
        return engine_name == "layout"
    if not answers(engine):
        return True
    if not has_layout(tag):
        return False
    if engine.inspect(source) is not None:
        raise InputError(
            f"want one image {tag}, got {source} in the engine and a layout in dist/{tag}",
            hint="say which one: --engine docker or --engine layout",
        )
    return True


def _report(pushed: list[TargetResult], *, as_json: bool) -> int:
    return report_results(pushed, {"targets": describe_results(pushed)} if as_json else None)


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


def check_open(found: ImageInfo, name: str) -> None:
    """Raise if the image's own labels say that not everybody may have what it carries.

    Raises:
        InputError: It is gated or private.
    """
    known = parse_labels(found.labels)
    if known is None or not (known.gated or known.private):
        return
    why = "gated" if known.gated else "private"
    raise InputError(
        f"{name} carries {known.repo.id}, which is {why} on the Hub: "
        "everybody who can pull the image gets the files without asking its owner",
        hint="if its license and the registry's readers allow that, add --allow-gated",
    )


def _push_as(engine: Engine, source: str, name: str, progress: ConsoleProgress) -> str:
    had_name = engine.inspect(name) is not None
    engine.tag(source, name)
    try:
        return push_image(engine, name, progress)
    finally:
        if not had_name and parse_reference(source) != parse_reference(name):
            engine.untag(name)
