"""Registries by name without TLS, and through a SOCKS proxy, from the command line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.catalog_images import make_image_plan
from tests.support.catalog_images import put_image as put_small_image
from tests.support.command import hf_models
from tests.support.make_image import put_ours
from tests.support.publish import MODEL, Side, check_image
from tests.support.restore import check_cache, registry
from tests.support.serve import serving
from tests.support.socks import SocksProxy

pytestmark = pytest.mark.docker

LAN = "registry.lan:5000"
FILES = {"config.json": b"{}", "model.safetensors": b"x" * 70_000}


@pytest.fixture
def socks(monkeypatch: pytest.MonkeyPatch) -> Iterator[SocksProxy]:
    """A proxy behind which every name is the registry of the tests, which has no TLS."""
    with SocksProxy(os.environ["HF_TEST_REGISTRY"], "p@ss") as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://me:p%40ss@{proxy.host}")
        yield proxy


def path_of(name: str) -> str:
    return name.partition("/")[2]


@pytest.mark.parametrize("host", [LAN, "10.1.2.3:5000"])
@pytest.mark.parametrize("how", ["flag", "network or name", "variable"])
def test_restore_from_a_registry_without_tls(
    socks: SocksProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, how: str
) -> None:
    name, store = registry()
    put_ours(store, FILES, "t")
    flag = ["--plain-http", host]
    if how == "network or name":
        flag = ["--plain-http", "10.0.0.0/8", "--plain-http", "registry.lan"]
    if how == "variable":
        flag = []
        monkeypatch.setenv("HF_MODELS_PLAIN_HTTP", f"other.lan,{host}")
    hf_models("restore", f"{host}/{path_of(name)}:t", "--cache-dir", tmp_path, *flag, code=0)
    check_cache(tmp_path, FILES)
    assert set(socks.asked) == {host}


def test_without_the_flag_the_error_names_it(socks: SocksProxy, tmp_path: Path) -> None:
    name, store = registry()
    put_ours(store, FILES, "t")
    source = f"{LAN}/{path_of(name)}:t"
    ran = hf_models("restore", source, "--cache-dir", tmp_path, "--tries", "1", code=4)
    assert "speaks no TLS" in ran.err
    assert f"--plain-http {LAN}" in ran.err


def test_publish_to_a_registry_without_tls(side: Side, socks: SocksProxy) -> None:
    target = f"{LAN}/{side.repository}"
    side.publish("org/model", "--plain-http", LAN, to=(target,), code=0)
    check_image(side.store(), "model", MODEL)
    assert set(socks.asked) == {LAN}


def test_copy_between_registries_without_tls(socks: SocksProxy) -> None:
    name, store = registry()
    digest = put_small_image(store, "t", make_image_plan())
    other, target = registry()
    source, copied = f"{LAN}/{path_of(name)}:t", f"other.lan/{path_of(other)}"
    flags = ("--plain-http", "registry.lan", "--plain-http", "other.lan")
    hf_models("copy", source, "--to", copied, *flags, code=0)
    raw = target.get_manifest("t")
    assert raw is not None
    assert raw.digest == digest
    assert set(socks.asked) == {LAN, "other.lan:80"}


def test_serve_of_a_registry_without_tls(socks: SocksProxy, tmp_path: Path) -> None:
    name, store = registry()
    put_ours(store, FILES, "t")
    flags = ("--plain-http", LAN, "--cache-dir", str(tmp_path))
    with serving(f"{LAN}/{path_of(name)}", *flags) as server:
        answer = server.ask("/org/model/resolve/main/config.json")
    assert (answer.status, answer.body) == (200, b"{}")
    assert set(socks.asked) == {LAN}


def test_socks_proxy_that_refuses_the_password_is_named(
    socks: SocksProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5h://me:wr0ng@{socks.host}")
    more = ("--cache-dir", tmp_path, "--plain-http", LAN, "--tries", "1")
    ran = hf_models("restore", f"{LAN}/a/b:t", *more, code=4)
    assert f"socks5h://{socks.host}" in ran.err
    assert "ALL_PROXY" in ran.err
    assert "wr0ng" not in ran.err
    assert "Traceback" not in ran.err
