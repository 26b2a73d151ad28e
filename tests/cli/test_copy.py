"""Images between registries and directories, logins, and tags that go away."""

import io
import json
from pathlib import Path

import pytest

from tests.support.catalog_images import make_image_plan, put_image
from tests.support.restore import hf_models, layout, registry

pytestmark = pytest.mark.docker


def test_copy_brings_an_image_from_registry_to_registry_and_directory(tmp_path: Path) -> None:
    name, store = registry()
    digest = put_image(store, "t", make_image_plan())
    other, target = registry()
    ran = hf_models("copy", f"{name}:t", "--to", other, "--to", f"{tmp_path}/images", "--json")
    assert ran.code == 0, ran.err
    assert [item["digest"] for item in ran.json["targets"]] == [digest, digest]
    for copied in (target, layout(tmp_path / "images")):
        raw = copied.get_manifest("t")
        assert raw is not None
        assert raw.digest == digest
    again = hf_models("copy", f"{tmp_path}/images", "--to", f"{other}:second")
    assert again.out == f"{other}:second@{digest}\n"


def test_copy_reports_each_destination_that_fails() -> None:
    name, store = registry()
    put_image(store, "t", make_image_plan())
    other, _ = registry()
    ran = hf_models(
        "copy", f"{name}:t", "--to", "127.0.0.1:1/a/b", "--to", other, "--tries", "1", "--json"
    )
    assert ran.code == 4
    bad, good = ran.json["targets"]
    assert bad["error"]["exit_code"] == 4
    assert good["digest"]


def test_copy_of_an_image_that_is_not_there_fails() -> None:
    name, _ = registry()
    assert hf_models("copy", f"{name}:none", "--to", f"{name}:other").code == 2


def test_remove_takes_a_tag_away_and_only_with_yes() -> None:
    name, store = registry()
    put_image(store, "t", make_image_plan())
    assert "--yes" in hf_models("remove", f"{name}:t").err
    assert store.get_manifest("t") is not None
    ran = hf_models("remove", f"{name}:t", "--yes")
    if ran.code:  # a registry that is set up to remove nothing says so
        assert "does not remove images" in ran.err
    else:
        assert store.get_manifest("t") is None
    assert hf_models("remove", f"{name}:never", "--yes").code == 2


def test_login_is_stored_where_docker_and_podman_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = registry()
    host = name.partition("/")[0]
    file = tmp_path / "auth.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
    monkeypatch.setattr("sys.stdin", io.StringIO("s3cret\n"))
    ran = hf_models("login", host, "--username", "me", "--password-stdin")
    assert ran.code == 0, ran.err
    assert "s3cret" not in ran.out + ran.err
    assert host in json.loads(file.read_text())["auths"]
    assert hf_models("logout", host, "--json").json["removed"] is True
    assert not json.loads(file.read_text())["auths"]
