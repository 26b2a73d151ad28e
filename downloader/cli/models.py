"""``hf-models models``: the entries of ``models.toml``: list, check, show, add, remove."""

from pathlib import Path

import click

from downloader.cli.command import Group, examples
from downloader.cli.console import (
    print_answer,
    print_facts,
    print_json,
    print_result,
    print_table,
    say,
)
from downloader.cli.options import json_option, repo_type_option, selection_options
from downloader.environment import read_environment
from downloader.farm.models import ENGINES, MODELS_FILE, Model, Models, read_models
from downloader.farm.models_edit import add_model, remove_model
from downloader.library.publisher import name_of
from downloader.oci.reference import tag_from_name
from downloader.plan import COMPRESS
from downloader.units import format_count

models_file_option = click.option(
    "--file",
    "models_file",
    type=click.Path(path_type=Path),
    default=MODELS_FILE,
    show_default=True,
    metavar="FILE",
    help="The models.toml to read.",
)


def read_models_file(path: Path) -> Models:
    """Read a models.toml; ``{owner}`` is the owner of a GitHub job's repository."""
    return read_models(path, read_environment().get("GITHUB_REPOSITORY_OWNER") or None)


@click.group(cls=Group, epilog=examples("models list", "models add Qwen/Qwen2.5-0.5B"))
def models() -> None:
    """The models to publish: list, check, show, add or remove entries of models.toml."""


@models.command("list", epilog=examples("models list", "models list --json"))
@models_file_option
@json_option
def list_models(models_file: Path, as_json: bool) -> None:
    """Print every entry."""
    found = read_models_file(models_file)
    if as_json:
        print_json({"models": [model.to_json() for model in found]})
        return
    rows = [(model.tag, model.repo.type, model.repo.id, _contents(model)) for model in found]
    print_result(f"{models_file}: {format_count(len(found), 'model')}")
    print_table("", ("tag", "type", "repo", "files"), rows)


@models.command(epilog=examples("models check", "models check --file other.toml"))
@models_file_option
@json_option
def check(models_file: Path, as_json: bool) -> None:
    """Read the file as strictly as the build farm does; exit code 2 and the line of a mistake."""
    found = read_models_file(models_file)
    document = {"file": str(models_file), "count": len(found)}
    text = f"{models_file}: {format_count(len(found), 'model')}, no mistake"
    print_answer(document, text, as_json=as_json)


@models.command(epilog=examples("models show codet5-small", "models show codet5-small --json"))
@click.argument("tag")
@models_file_option
@json_option
def show(tag: str, models_file: Path, as_json: bool) -> None:
    """Print the entry of a tag, with the defaults filled in."""
    document = read_models_file(models_file).find(tag).to_json()
    if as_json:
        print_json(document)
        return
    print_facts({f"{key}:": _plain(value) for key, value in document.items()})


@models.command(
    epilog=examples(
        "models add Qwen/Qwen2.5-0.5B",
        'models add org/data --type dataset --include "*.parquet" --tag data',
    )
)
@click.argument("repo_id", metavar="REPO_ID")
@click.option("--tag", metavar="TAG", help="Image tag.  [default: the repo's name]")
@repo_type_option
@click.option("--revision", metavar="REV", help="Branch, tag or commit.  [default: main]")
@selection_options
@click.option("--layer-size", metavar="SIZE", help="Largest layer: default, mirror, or like 2GB.")
@click.option("--compress", type=click.Choice(COMPRESS), help="Which layers are compressed.")
@click.option("--to", multiple=True, metavar="NAME", help="Registry and image name; repeatable.")
@click.option("--engine", type=click.Choice(ENGINES), help="How to build it.")
@click.option("--allow-gated", is_flag=True, help="Publish it although it is gated or private.")
@models_file_option
@json_option
def add(
    repo_id: str,
    repo_type: str,
    tag: str | None,
    revision: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    layer_size: str | None,
    compress: str | None,
    to: tuple[str, ...],
    engine: str | None,
    allow_gated: bool,
    models_file: Path,
    as_json: bool,
) -> None:
    """Append an entry; comments and order of the file stay."""
    name = name_of(repo_id, repo_type, read_environment())
    repo = name.repo
    values: dict[str, str | bool | list[str]] = {
        "tag": tag or tag_from_name(repo.name),
        "repo": repo.id,
        "type": "" if repo.type == "model" else repo.type,
        "revision": revision or name.revision or "",
        "include": [*include, *([name.path] if name.path else [])],
        "exclude": list(exclude),
        "layer_size": layer_size or "",
        "compress": compress or "",
        "registries": list(to),
        "engine": engine or "",
        "allow_gated": allow_gated,
    }
    model = add_model(models_file, values)
    if as_json:
        print_json({"added": model.to_json()})
        return
    print_result(f"{models_file}:{model.line}: added {model.tag!r}, {model.repo.type} {repo.id}")
    say(f"commit {models_file} and push it: the build farm publishes what it names")


@models.command(
    epilog=examples("models remove codet5-small", "models remove data --file other.toml")
)
@click.argument("tag")
@models_file_option
@json_option
def remove(tag: str, models_file: Path, as_json: bool) -> None:
    """Remove an entry; what is published stays until `hf-models remove`."""
    model = remove_model(models_file, tag)
    if as_json:
        print_json({"removed": model.to_json()})
        return
    print_result(f"{models_file}: removed {tag!r}, {model.repo.type} {model.repo.id}")
    names = " ".join(f"{name}:{tag}" for name in model.registries)
    say(f"what is published stays; remove it with: hf-models remove {names}")


def _contents(model: Model) -> str:
    chosen = [f"only {glob}" for glob in model.selection.include]
    chosen += [f"without {glob}" for glob in model.selection.exclude]
    return ", ".join(chosen) or "all"


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
