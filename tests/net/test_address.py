"""URLs: what is accepted has one reading, and what has two is refused."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import parse_url

from downloader.errors import HfModelsError, ProtocolError
from downloader.net.address import network_of, parse_address, resolve_address

pytestmark = pytest.mark.portable

BASE = parse_address("https://registry.example/v2/a/blobs/x?n=1")


@pytest.mark.parametrize(
    "text",
    [
        "http://cdn.example\\@registry.example/v2/",  # urlsplit: registry, urllib3: cdn
        "http://registry.example\\.cdn.example/",
        "http://user@registry.example/",
        "http://user:pw@registry.example/",
        "http://@registry.example/",
        "http://registry.example:80@cdn.example/",
        "http://registry.example\t.cdn.example/",  # urlsplit removes it
        "http://registry.example/\r\nHost: cdn.example",
        "http://registry.example\x00.cdn.example/",
        "http://registry.example#@cdn.example\\/",
        "http:///v2/",
        "http:registry.example/v2/",
        "http://127.1/",  # a resolver reads 127.0.0.1
        "http://2130706433/",
        "http://0x7f.0.0.1/",
        "http://127.0.0.01/",
        "http://[::1%25eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://registry%2eexample/",
        "http://regıstry.example/",
        "http://registry.example:99999/",
        "http://registry.example:0/",
        "http://registry.example:٣/",
        "ftp://registry.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        " http://registry.example/",
        "http://registry..example/",
        "http://" + "a" * 20_000,
        "",
    ],
)
def test_url_with_two_readings_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_address(text)
    if text:
        with pytest.raises(ProtocolError):
            resolve_address(BASE, text if "//" in text else f"javascript:{text}")


def test_message_shows_no_password_and_no_signature() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_address("https://me:secret@cdn.example/x?Signature=abc")
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/v2/b?last=%2f", "https://registry.example/v2/b?last=%2f"),
        ("../c", "https://registry.example/v2/a/c"),
        ("?n=2", "https://registry.example/v2/a/blobs/x?n=2"),
        ("//cdn.example/y", "https://cdn.example/y"),
        ("http://CDN.example:8080", "http://cdn.example:8080/"),
        ("https://cdn.example/ü x", "https://cdn.example/%C3%BC%20x"),
        ("https://cdn.example/ü".encode().decode("latin-1"), "https://cdn.example/%C3%BC"),
        ("https://cdn.example/50%", "https://cdn.example/50%25"),
        ("https://[2001:DB8:0::1]:443/x#part", "https://[2001:db8::1]/x"),
    ],
)
def test_location_is_resolved(location: str, url: str) -> None:
    assert resolve_address(BASE, location).url == url


def test_missing_location_is_refused() -> None:
    with pytest.raises(ProtocolError, match="want Location, got none"):
        resolve_address(BASE, None)


_HOSTS = ["a", "b.example", "127.0.0.1", "[::1]", "0x7f", "1", "xn--", "user", "ü", ".", "-"]
_MARKS = ["http", "https", ":", "/", "//", "\\", "@", "?", "#", ":80", "%40", "%5c", "\t", " ", "&"]
_PIECES = st.sampled_from([*_HOSTS, *_MARKS])


@given(st.lists(_PIECES, max_size=8).map("".join).map(lambda rest: f"http://{rest}"))
def test_every_parser_reads_an_accepted_url_alike(text: str) -> None:
    try:
        address = parse_address(text)
    except HfModelsError:
        return
    for url in (text, address.url):
        theirs, split = parse_url(url), urlsplit(url)
        assert (theirs.host or "").strip("[]").lower() == address.host
        assert split.hostname == address.host
        assert (theirs.port or 80) == (split.port or 80) == address.port
    assert address.url.isascii()
    assert parse_address(address.url) == address


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("ghcr.io", "public"),
        ("8.8.8.8", "public"),
        ("192.168.1.5", "private"),
        ("fd00::1", "private"),
        ("100.64.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("0.0.0.0", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::10.1.2.3", "private"),
        ("2002:7f00:1::", "loopback"),
        ("LOCALHOST.", "loopback"),
    ],
)
def test_network_of_a_host(host: str, network: str) -> None:
    assert network_of(host) == network
