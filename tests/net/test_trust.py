"""Certificates: what the variables name is added to the system's, and a wrong one is named."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from downloader.environment import read_environment
from downloader.errors import InputError, TransportError
from downloader.net.http import HttpPool, http_settings_of
from downloader.net.request import Exchange
from downloader.net.trust import Trust, trust_of
from tests.support.tls import make_certificate


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for loopback that signs itself: ``cert.pem`` and ``key.pem``."""
    path = tmp_path_factory.mktemp("tls")
    make_certificate(path, "localhost", "IP:127.0.0.1")
    return path


def serve(context: ssl.SSLContext) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def server_context(keys: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
    return context


@pytest.fixture
def host(keys: Path) -> Iterator[str]:
    yield from serve(server_context(keys))


@pytest.fixture
def host_with_client_certificates(keys: Path) -> Iterator[str]:
    context = server_context(keys)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=keys / "cert.pem")
    yield from serve(context)


def ask(host: str, variables: dict[str, str], ca_file: str | None = None) -> int:
    pool = HttpPool(http_settings_of(read_environment(variables), ca_file))
    try:
        with Exchange(pool, "GET", f"https://{host}/", {}) as exchange:
            return exchange.status
    finally:
        pool.close()


@pytest.mark.tools("openssl")
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_each_variable_adds_its_certificates(name: str, host: str, keys: Path) -> None:
    assert ask(host, {name: str(keys / "cert.pem")}) == 204


@pytest.mark.tools("openssl")
def test_variables_add_up(host: str, keys: Path, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path, "other", "DNS:other")
    mine = str(keys / "cert.pem")
    assert ask(host, {"SSL_CERT_FILE": str(other), "REQUESTS_CA_BUNDLE": mine}) == 204
    assert ask(host, {"SSL_CERT_FILE": mine, "REQUESTS_CA_BUNDLE": str(other)}) == 204
    assert ask(host, {"SSL_CERT_FILE": str(other)}, ca_file=mine) == 204


@pytest.mark.tools("openssl")
def test_directory_of_certificates_without_hashed_names(host: str, keys: Path) -> None:
    assert ask(host, {"SSL_CERT_DIR": str(keys)}) == 204


@pytest.mark.tools("openssl")
def test_without_the_certificate_it_is_not_trusted(host: str) -> None:
    with pytest.raises(TransportError, match="certificate not trusted"):
        ask(host, {})


@pytest.mark.tools("openssl")
def test_system_certificates_stay_trusted(keys: Path) -> None:
    alone = trust_of(read_environment({})).context()
    added = trust_of(read_environment({"SSL_CERT_FILE": str(keys / "cert.pem")})).context()
    count = len(alone.get_ca_certs())
    assert len(added.get_ca_certs()) == count + 1
    assert b"BEGIN CERTIFICATE" in trust_of(read_environment({})).bundle() or count == 0


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_missing_file_is_reported_under_its_variable(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name}: .*gone.pem: no such file") as caught:
        ask("127.0.0.1:1", {name: str(tmp_path / "gone.pem")})
    assert name in (caught.value.hint or "")


def test_file_without_certificates_is_reported_under_its_variable(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(InputError, match=r"SSL_CERT_FILE: .*no PEM certificates"):
        ask("127.0.0.1:1", {"SSL_CERT_FILE": str(tmp_path / "x.pem")})


@pytest.mark.tools("openssl")
def test_certificates_of_one_registry_are_read_for_it_alone(
    host: str, keys: Path, tmp_path: Path
) -> None:
    own = tmp_path / "certs.d" / host
    own.mkdir(parents=True)
    (own / "ca.crt").write_bytes((keys / "cert.pem").read_bytes())
    assert ask(host, {"DOCKER_CONFIG": str(tmp_path)}) == 204
    own.rename(own.with_name("other.example:5000"))
    with pytest.raises(TransportError, match="certificate not trusted"):
        ask(host, {"DOCKER_CONFIG": str(tmp_path)})


@pytest.mark.tools("openssl")
def test_client_certificate_of_a_registry_is_shown(
    host_with_client_certificates: str, keys: Path, tmp_path: Path
) -> None:
    host = host_with_client_certificates
    own = tmp_path / "certs.d" / host
    own.mkdir(parents=True)
    for name, source in (("ca.crt", "cert.pem"), ("client.cert", "cert.pem")):
        (own / name).write_bytes((keys / source).read_bytes())
    with pytest.raises(InputError, match=r"client\.cert: want a client certificate with its key"):
        ask(host, {"DOCKER_CONFIG": str(tmp_path)})
    (own / "client.key").write_bytes((keys / "key.pem").read_bytes())
    assert ask(host, {"DOCKER_CONFIG": str(tmp_path)}) == 204


def test_trust_without_anything_has_no_own_certificates() -> None:
    assert not Trust().has_own("registry.example:443")
