"""Hosts whose name leads to one address for the one who judges, and to another afterwards."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from downloader.environment import Setting
from downloader.errors import HfModelsError, ProtocolError
from downloader.net.address import parse_address
from downloader.net.http import HttpPool, HttpSettings
from downloader.net.request import Exchange
from downloader.net.resolve import look_up
from downloader.net.retry import RetryPolicy
from downloader.net.trust import Trust
from downloader.oci.reference import Reference
from downloader.oci.registry_write import WritableRegistry
from tests.support.faults import Asked, Reply, always
from tests.support.small_registry import SmallRegistry
from tests.support.tls import make_certificate

NAME = "tokens.example"
Names = Callable[[str, list[list[str]]], list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A server of names: each question gets the next answer; returns the questions."""
    real = socket.getaddrinfo

    def serve(name: str, answers: list[list[str]]) -> list[str]:
        asked: list[str] = []
        left = iter(answers)

        def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            if host != name:
                return real(host, port, *rest, **more)
            asked.append(host)
            found = next(left, None)
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return serve


class TokenServer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_named = (self.headers["Host"] or "").startswith(f"{NAME}:")
        body = json.dumps({"token": "good.token" if is_named else "other"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for the name alone: ``cert.pem`` and ``key.pem``."""
    path = tmp_path_factory.mktemp("tls")
    make_certificate(path, NAME, f"DNS:{NAME}")
    return path


@pytest.fixture
def token_port(keys: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), TokenServer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def pool(keys: Path) -> Iterator[HttpPool]:
    trust = Trust(files=(Setting("--ca-file", str(keys / "cert.pem")),))
    made = HttpPool(HttpSettings(trust, connect_timeout_s=2, read_timeout_s=2))
    yield made
    made.close()


def with_realm(realm: str) -> SmallRegistry:
    def reply(asked: Asked) -> Reply | None:
        if asked.headers.get("Authorization") == "Bearer good.token":
            return None
        return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

    return SmallRegistry(None, always("realm", reply=reply))


def open_at(registry: SmallRegistry, pool: HttpPool) -> WritableRegistry:
    reference = Reference(registry.host, "me/x")
    return WritableRegistry(reference, pool, retry=RetryPolicy(tries=1))


@pytest.mark.tools("openssl")
def test_token_server_is_looked_up_once_and_known_by_its_name(
    names: Names, token_port: int, pool: HttpPool
) -> None:
    asked = names(NAME, [["127.0.0.2", "127.0.0.1"]])  # nobody listens at the first
    with with_realm(f"https://{NAME}:{token_port}/token") as registry:
        registry.manifests["t"] = ("application/vnd.oci.image.index.v1+json", b"{}")
        assert open_at(registry, pool).get_manifest("t") is not None
    assert asked == [NAME]


@pytest.mark.tools("openssl")
@pytest.mark.parametrize("first", [["127.0.0.2"], []], ids=["another address", "none at first"])
def test_name_that_leads_elsewhere_after_it_was_judged_is_not_followed(
    names: Names, pool: HttpPool, first: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as victim:
        names(NAME, [first, ["127.0.0.1"], ["127.0.0.1"]])
        realm = f"https://{NAME}:{victim.getsockname()[1]}/token"
        with with_realm(realm) as registry, pytest.raises(HfModelsError, match="no answer"):
            open_at(registry, pool).get_manifest("t")
        victim.setblocking(False)
        with pytest.raises(BlockingIOError):
            victim.accept()


@pytest.mark.tools("openssl")
def test_realm_whose_name_leads_into_a_network_that_the_registry_is_not_in(
    names: Names, pool: HttpPool
) -> None:
    names(NAME, [["127.0.0.1", "169.254.169.254"]])
    refused = pytest.raises(ProtocolError, match="on a link-local address")
    with with_realm(f"https://{NAME}/token") as registry, refused:
        open_at(registry, pool).get_manifest("t")


@pytest.mark.tools("openssl")
def test_connection_that_was_kept_from_another_address_is_not_used(
    names: Names, token_port: int, pool: HttpPool
) -> None:
    names(NAME, [["127.0.0.1"]])
    url = f"https://{NAME}:{token_port}/"
    with Exchange(pool, "GET", url, {}) as exchange:
        exchange.read(100)
    with Exchange(pool, "GET", url, {}, addresses=["127.0.0.1"]) as kept:
        assert kept.peer == "127.0.0.1"
        kept.read(100)
    with pytest.raises(HfModelsError, match="no answer"):
        Exchange(pool, "GET", url, {}, addresses=["127.0.0.2"])


@pytest.mark.parametrize("answer", [[], ["198.51.100.7"]], ids=["no answer", "another machine"])
def test_localhost_and_names_below_it_are_this_machine(names: Names, answer: list[str]) -> None:
    name = "k3d-reg.localhost"
    names(name, [answer] * 3)
    assert set(look_up(parse_address(f"http://{name}/"))) == {"127.0.0.1", "::1"}
    with SmallRegistry() as registry:
        pool = HttpPool()
        url = f"http://{name}:{registry.host.rpartition(':')[2]}/v2/"
        with Exchange(pool, "GET", url, {}) as exchange:
            assert exchange.status in {200, 404}
        pool.close()
