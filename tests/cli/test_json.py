"""Every document of --json against its schema in the package."""

import io
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from downloader.cli import COMMANDS, HIDDEN, cli
from tests.support.catalog_images import make_image_plan, put_image
from tests.support.command import ROOT, hf_models
from tests.support.make_image import put_ours
from tests.support.publish import Side
from tests.support.restore import FILES, layout, registry

pytestmark = pytest.mark.docker

SCHEMA: dict[str, Any] = json.loads(
    files("downloader.cli").joinpath("schemas/json.schema.json").read_text(encoding="utf-8")
)
SHARED = {"entry", "error", "failure", "file", "target"}
MODELS = """[defaults]
registries = ["{name}"]

[[model]]
tag = "t"
repo = "org/model"
"""


def check(command: str, document: Any) -> None:
    """Fail unless the document is what the schema says of its command."""
    jsonschema.validate(document, {**SCHEMA, "$ref": f"#/$defs/{command}"})


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its name; ``models-show`` for a subcommand."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name}-")
        else:
            yield f"{prefix}{name}", command


def commands_with_json() -> set[str]:
    """Return the names of the commands that have the option."""
    assert isinstance(cli, click.Group)
    found = commands(cli)
    return {name for name, item in found if any("--json" in option.opts for option in item.params)}


def test_every_command_with_json_has_a_schema() -> None:
    assert set(SCHEMA["$defs"]) - SHARED == commands_with_json()


def test_a_command_without_json_is_named_with_its_reason() -> None:
    page = (ROOT / "docs/json.md").read_text(encoding="utf-8")
    [without] = re.findall(r"^Three commands have no `--json`, because (.*)$", page, re.MULTILINE)
    named = {name for name in COMMANDS if f"`{name}`" in without}
    assert isinstance(cli, click.Group)
    lacking = {name for name, _ in commands(cli)} - commands_with_json()
    assert {name.partition("-")[0] for name in lacking} - HIDDEN == named


def test_documents_of_the_consumer_follow_their_schemas(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    cache = tmp_path / "cache"
    check("inspect", hf_models("inspect", tmp_path / "image", "--files", "--json").json)
    for more in (("--dry-run",), ()):
        ran = hf_models("restore", tmp_path / "image", "--cache-dir", cache, "--json", *more)
        check("restore", ran.json)
    check("verify", hf_models("verify", cache, "--json").json)
    next(path for path in cache.rglob("*") if path.is_symlink()).resolve().unlink()
    ran = hf_models("verify", cache, "--json")
    check("verify", ran.json)
    assert ran.json["error"]["exit_code"] == ran.code == 6
    stick = tmp_path / "stick"
    check("bundle", hf_models("bundle", tmp_path / "image", "--to", stick, "--json").json)


def test_documents_about_registries_follow_their_schemas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, store = registry()
    host = name.partition("/")[0]
    put_image(store, "t", make_image_plan())
    check("list", hf_models("list", name, "--json").json)
    check("list", hf_models("list", host, "--json").json)
    check("copy", hf_models("copy", f"{name}:t", "--to", f"{name}:u", "--json").json)
    ran = hf_models("remove", f"{name}:t", "--yes", "--json")
    check("failure" if ran.code else "remove", ran.json)  # not every registry removes
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setattr("sys.stdin", io.StringIO("s3cret\n"))
    login = ("login", host, "--username", "me", "--password-stdin", "--json")
    check("login", hf_models(*login).json)
    check("logout", hf_models("logout", host, "--json").json)


def test_documents_of_the_publisher_follow_their_schemas(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check("plan", side.run("plan", "org/model", "--shards", "2", "--json").json)
    fetch = ("fetch", "org/model", "--cache-dir", str(tmp_path / "cache"), "--json", "--quiet")
    check("fetch", side.run(*fetch, "--dry-run").json)
    check("fetch", side.run(*fetch).json)
    build = ("build", "org/model", "--engine=layout", "--base=none", "--tag=t", "--json", "-q")
    for more in (("--dry-run",), ("--archive", "t.tar"), ()):
        check("build", side.run(*build, *more).json)
    push = ("push", "t", "--engine=layout", "--to", side.name, "--json", "--quiet")
    check("push", side.run(*push).json)
    unreachable = ("--to", "127.0.0.1:1/a/b", "--tries", "1")
    ran = side.run(*push, *unreachable)
    check("push", ran.json)
    assert [bool(target["error"]) for target in ran.json["targets"]] == [False, True]
    for number in ("1/2", "2/2"):
        check("publish", side.publish("org/model", "--tag=u", "--shard", number, "--json").json)
    check("assemble", side.assemble("u", "--json").json)


def test_documents_about_the_farm_follow_their_schemas(side: Side, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(MODELS.format(name=side.name))
    check("models-list", hf_models("models", "list", "--file", file, "--json").json)
    check("models-check", hf_models("models", "check", "--file", file, "--json").json)
    added = ("models", "add", "org/one-more", "--file", file, "--json")
    check("models-add", hf_models(*added).json)
    check("models-show", hf_models("models", "show", "t", "--file", file, "--json").json)
    check("refresh", hf_models("refresh", "--file", file, "--json").json)
    check("models-remove", hf_models("models", "remove", "t", "--file", file, "--json").json)
    check("cleanup", hf_models("cleanup", "--dry-run", "--root", tmp_path, "--json").json)


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "127.0.0.1:1/a/b:c", "--tries", "1", "--json"),
        ("models", "show", "none", "--json"),
        ("restore", "Org/Repo", "--json"),
        ("plan", "--json"),
        ("push", "none", "--engine=layout", "--to", "127.0.0.1:1/a/b", "--json"),
    ],
)
def test_an_error_is_a_document_too(command: tuple[str, ...]) -> None:
    ran = hf_models(*command)
    check("failure", ran.json)
    assert ran.json["error"]["exit_code"] == ran.code
