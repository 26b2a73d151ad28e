"""Which proxy an address goes through, as docker and crane read the variables."""

import pytest

from downloader.environment import read_environment
from downloader.errors import InputError
from downloader.net.address import parse_address
from downloader.net.http import HttpPool, HttpSettings
from downloader.net.proxies import HostList, Proxies

pytestmark = pytest.mark.portable

PROXY = "http://proxy.example:3128"


def proxies_of(**variables: str) -> Proxies:
    return Proxies(read_environment(variables).proxies)


@pytest.mark.parametrize(
    ("url", "bypass", "is_direct"),
    [
        ("http://10.1.2.3/", "10.0.0.0/8", True),
        ("http://11.1.2.3/", "10.0.0.0/8", False),
        ("http://[fd00::1]/", "fd00::/8", True),
        ("http://[fd00::1]:5000/", "[fd00::1]:5000", True),
        ("http://[fd00::1]/", "[fd00::1]", True),
        ("http://[fd00::1]/", "fd00::1", True),
        ("http://reg.lan:5000/", "reg.lan:5000", True),
        ("http://reg.lan/", "reg.lan:5000", False),
        ("http://reg.lan/", "reg.lan:80", True),
        ("http://REG.lan./", "reg.LAN", True),
        ("http://a.corp.example/", "corp.example", True),
        ("http://a.corp.example/", ".corp.example", True),
        ("http://corp.example/", ".corp.example", False),
        ("http://a.corp.example/", "*.corp.example", True),
        ("http://notcorp.example/", "corp.example", False),
        ("http://reg.lan/", "x, reg.lan", True),
        ("http://reg.lan/", "x reg.lan", True),
        ("http://reg.lan/", "*", True),
        ("http://10.1.2.3/", "10.0.0.0/99", False),
        ("http://127.0.0.1:5000/", "", True),  # this machine is always reached directly
        ("http://k3d-reg.localhost:5000/", "", False),
        ("http://[::1]/", "", True),
    ],
)
def test_no_proxy(url: str, bypass: str, is_direct: bool) -> None:
    proxies = proxies_of(http_proxy=PROXY, no_proxy=bypass)
    assert (proxies.find(parse_address(url)) is None) is is_direct


def test_all_proxy_is_for_schemes_without_their_own() -> None:
    proxies = proxies_of(
        ALL_PROXY="socks5h://all.example", https_proxy="https://u:p%40ss@tls.example"
    )
    plain, tls = proxies.find(parse_address("http://a/")), proxies.find(parse_address("https://a/"))
    assert plain is not None
    assert (plain.url, plain.setting, plain.is_socks) == (
        "socks5h://all.example:1080",
        "ALL_PROXY",
        True,
    )
    assert tls is not None
    assert (tls.url, tls.username, tls.password) == ("https://tls.example:443", "u", "p@ss")
    assert tls.secret_url == "https://u:p%40ss@tls.example:443"
    assert "p@ss" not in repr(tls) + str(tls)


def test_proxy_without_a_scheme_speaks_http() -> None:
    found = proxies_of(http_proxy="proxy.example:3128").find(parse_address("http://a/"))
    assert found is not None
    assert found.url == PROXY


@pytest.mark.parametrize(
    "value",
    [
        "http://u:secret@proxy:abc",
        "ftp://secret",
        "http://",
        "a b secret",
    ],
)
def test_malformed_proxy_names_its_variable_and_no_secret(value: str) -> None:
    with pytest.raises(InputError, match="HTTPS_PROXY: want a proxy like") as caught:
        proxies_of(HTTPS_PROXY=value)
    assert "secret" not in str(caught.value)


def test_socks_proxy_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "urllib3.contrib.socks", None)
    pool = HttpPool(HttpSettings(proxies=proxies_of(all_proxy="socks5h://proxy.example")))
    with pytest.raises(InputError, match="all_proxy: a SOCKS proxy needs") as caught:
        pool.connections_to(parse_address("http://registry.example/"))
    assert caught.value.hint is not None
    assert "hf-models[socks]" in caught.value.hint


def test_variables_for_another_program_take_the_same_way() -> None:
    proxies = proxies_of(https_proxy=PROXY, no_proxy="10.0.0.0/8")
    through = proxies.variables_for(parse_address("https://cdn.example/"))
    assert through["HTTPS_PROXY"] == through["https_proxy"] == PROXY
    assert proxies.variables_for(parse_address("https://10.0.0.1/"))["NO_PROXY"] == "*"


def test_host_list_ignores_malformed_entries() -> None:
    hosts = HostList(["", "10.0.0.0/x", ":", "[::1"])
    assert ("10.0.0.1", 80) not in hosts
