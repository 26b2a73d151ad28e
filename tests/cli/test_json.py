"""Every document of --json against its schema in the package."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.catalog_images import make_image_plan, put_image
from tests.support.make_image import put_ours
from tests.support.restore import FILES, hf_models, layout, registry

pytestmark = pytest.mark.docker

SCHEMA: dict[str, Any] = json.loads(
    files("downloader.cli").joinpath("schemas/json.schema.json").read_text(encoding="utf-8")
)


def check(command: str, document: Any) -> None:
    """Fail unless the document is what the schema says of its command."""
    jsonschema.validate(document, {**SCHEMA, "$ref": f"#/$defs/{command}"})


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


def test_documents_about_registries_follow_their_schemas() -> None:
    name, store = registry()
    put_image(store, "t", make_image_plan())
    check("list", hf_models("list", name, "--json").json)
    check("list", hf_models("list", name.partition("/")[0], "--json").json)
    check("copy", hf_models("copy", f"{name}:t", "--to", f"{name}:u", "--json").json)
    check("models", hf_models("models", "list", "--json").json)


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "127.0.0.1:1/a/b:c", "--tries", "1", "--json"),
        ("models", "show", "none", "--json"),
        ("restore", "Org/Repo", "--json"),
        ("plan", "--json"),
    ],
)
def test_an_error_is_a_document_too(command: tuple[str, ...]) -> None:
    ran = hf_models(*command)
    check("failure", ran.json)
    assert ran.json["error"]["exit_code"] == ran.code
