"""Answers that a client can live with, and those that it must not."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest

from downloader.environment import read_environment
from downloader.errors import HfModelsError, ProtocolError, RegistryError
from downloader.net.http import HttpPool, http_settings_of
from downloader.net.ranges import ByteRange
from downloader.net.retry import RetryPolicy
from downloader.oci.auth import Credential
from downloader.oci.credentials import ExplicitCredentials
from downloader.oci.digest import Digest
from downloader.oci.manifest import INDEX, Index, parse_manifest
from downloader.oci.reference import Reference
from downloader.oci.registry_write import WritableRegistry
from downloader.oci.store import BlobReader
from downloader.transfer.source import RangesIgnoredError
from tests.support.faults import Asked, Reply, always
from tests.support.small_registry import SmallRegistry

pytestmark = pytest.mark.portable

DATA = bytes(range(256)) * 40
SECRET = "s3cret-Password"


@pytest.fixture
def odd() -> Iterator[SmallRegistry]:
    with SmallRegistry() as registry:
        yield registry


def open_at(
    odd: SmallRegistry, pool: HttpPool, *, with_credential: bool = False
) -> WritableRegistry:
    reference = Reference(odd.host, "me/x")
    me = ExplicitCredentials(odd.host, Credential("me", SECRET)) if with_credential else None
    policy = RetryPolicy(tries=2, first_delay_s=0.01)
    return WritableRegistry(reference, pool, me, retry=policy)


def add(odd: SmallRegistry, data: bytes = DATA) -> Digest:
    return Digest(odd.add_blob(data)["digest"])


def answer_with(odd: SmallRegistry, reply: Callable[[Asked], Reply | None]) -> None:
    odd.faults = [always("odd", reply=reply)]


def read(reader: BlobReader) -> bytes:
    buffer = memoryview(bytearray(len(DATA) + 10))
    with reader:
        return bytes(buffer[: reader.readinto(buffer)])


# Sizes


@pytest.mark.parametrize("status", [400, 403, 405, 501])
def test_size_where_head_is_refused_and_get_works(
    odd: SmallRegistry, pool: HttpPool, status: int
) -> None:
    digest = add(odd)
    odd.faults = [always("refused", method="HEAD", status=status)]
    assert open_at(odd, pool).blob_size(digest) == len(DATA)
    assert open_at(odd, pool).blob_size(Digest(f"sha256:{'0' * 64}")) is None


def test_size_where_head_has_no_length(odd: SmallRegistry, pool: HttpPool) -> None:
    digest = add(odd)
    odd.faults = [always("no length", method="HEAD", reply=lambda _: Reply(length=False))]
    assert open_at(odd, pool).blob_size(digest) == len(DATA)


def test_size_where_no_answer_has_a_length(odd: SmallRegistry, pool: HttpPool) -> None:
    digest = add(odd)
    answer_with(odd, lambda _: Reply(body=DATA, length=False))
    assert open_at(odd, pool).blob_size(digest) == len(DATA)


def test_refused_head_and_get_is_an_error(odd: SmallRegistry, pool: HttpPool) -> None:
    odd.faults = [always("refused", status=403)]
    with pytest.raises(RegistryError, match="403"):
        open_at(odd, pool).blob_size(add(odd))


# Compressed against our wish


def gzipped(data: bytes, **headers: str) -> Reply:
    return Reply(body=gzip.compress(data), headers={"Content-Encoding": "gzip", **headers})


def test_gzip_of_a_proxy_is_undone(odd: SmallRegistry, pool: HttpPool) -> None:
    digest = add(odd)
    odd.add_manifest("t", {"manifests": []}, INDEX)
    media_type, manifest = odd.manifests["t"]

    odd.faults = [
        always("blob", "/blobs/", reply=lambda _: gzipped(DATA)),
        always("manifest", reply=lambda _: gzipped(manifest, **{"Content-Type": media_type})),
    ]
    registry = open_at(odd, pool)
    found = registry.get_manifest("t")
    assert found is not None
    assert found.data == manifest
    assert read(registry.open_blob(digest)) == DATA
    assert read(registry.open_blob(digest, ByteRange(0, len(DATA)))) == DATA
    with pytest.raises(RangesIgnoredError):
        registry.open_blob(digest, ByteRange(10, 20))


def test_gzip_layer_that_a_store_labels_as_encoded_stays_as_it_is(
    odd: SmallRegistry, pool: HttpPool
) -> None:
    layer = gzip.compress(DATA)
    digest = add(odd, layer)
    odd.faults = [always("label", status=200, body=layer, headers={"Content-Encoding": "gzip"})]
    assert read(open_at(odd, pool).open_blob(digest, ByteRange(0, len(layer)))) == layer


def test_range_of_a_gzip_layer_that_a_store_labels_as_encoded_is_that_range(
    odd: SmallRegistry, pool: HttpPool
) -> None:
    layer = gzip.compress(DATA)
    digest = add(odd, layer)
    headers = {"Content-Encoding": "gzip", "Content-Range": f"bytes 10-19/{len(layer)}"}
    odd.faults = [always("label", status=206, body=layer[10:20], headers=headers)]
    assert read(open_at(odd, pool).open_blob(digest, ByteRange(10, 20))) == layer[10:20]


def test_body_that_is_not_gzip_is_a_protocol_error(odd: SmallRegistry, pool: HttpPool) -> None:
    headers = {"Content-Encoding": "gzip"}
    odd.faults = [always("label", status=200, body=b"plain", headers=headers)]
    with pytest.raises(ProtocolError, match="Content-Encoding"):
        open_at(odd, pool).get_manifest("t")


def test_manifest_that_decompresses_without_end_is_cut(odd: SmallRegistry, pool: HttpPool) -> None:
    answer_with(odd, lambda _: gzipped(bytes(64 * 1024 * 1024)))
    with pytest.raises(ProtocolError, match="at most 4194304 bytes"):
        open_at(odd, pool).get_manifest("t")


# Ranges


@pytest.mark.parametrize("status", [400, 403, 416, 501])
def test_blob_from_its_start_where_ranges_are_refused(
    odd: SmallRegistry, pool: HttpPool, status: int
) -> None:
    digest = add(odd)
    odd.faults = [always("refused", only_with="Range", status=status)]
    registry = open_at(odd, pool)
    assert read(registry.open_blob(digest, ByteRange(0, 100))) == DATA[:100]
    with pytest.raises(RangesIgnoredError):
        registry.open_blob(digest, ByteRange(100, 200))


def test_blob_from_its_start_where_ranges_are_ignored(odd: SmallRegistry, pool: HttpPool) -> None:
    digest = add(odd)
    answer_with(odd, lambda asked: Reply(body=DATA, length="x" in asked.query))
    assert read(open_at(odd, pool).open_blob(digest, ByteRange(0, 100))) == DATA[:100]


# Lists of tags


def pages(link: Callable[[SmallRegistry, str], str], odd: SmallRegistry, most: int = 9999) -> None:
    tags = ["a", "b", "c"]

    def hook(asked: Asked) -> Reply:
        if int(asked.query.get("n", 0)) > most:
            return Reply(400, b'{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}')
        left = [tag for tag in tags if tag > asked.query.get("last", "")]
        headers = {}
        if len(left) > 1:
            following = f"{asked.path}?{urlencode({'last': left[0], 'n': 1})}"
            headers["Link"] = link(odd, following)
        return Reply(body=json.dumps({"tags": left[:1]}).encode(), headers=headers)

    odd.faults = [always("pages", "/tags/list", reply=hook)]


LINKS: dict[str, Callable[[SmallRegistry, str], str]] = {
    "relative": lambda _, url: f'<{url}>; rel="next"',
    "absolute": lambda odd, url: f'<{odd.url}{url}>; rel="next"',
    "unquoted": lambda _, url: f"<{url}>; rel=next",
    "without brackets": lambda _, url: f'{url}; rel="next"',
    "without slash": lambda _, url: f'<{url[1:]}>; rel="next"',
    "of another scheme": lambda odd, url: f'<https://{odd.host}{url}>; rel="next"',
    "of an internal host": lambda _, url: f'<http://registry.internal:5000{url}>; rel="next"',
    "of an internal path": lambda _, url: f'</internal{url}>; rel="next"',
}


@pytest.mark.parametrize("link", LINKS.values(), ids=list(LINKS))
def test_tags_over_pages_however_the_link_is_written(
    odd: SmallRegistry, pool: HttpPool, link: Callable[[SmallRegistry, str], str]
) -> None:
    pages(link, odd)
    assert open_at(odd, pool).list_tags() == ["a", "b", "c"]


def test_tags_where_large_pages_are_refused(odd: SmallRegistry, pool: HttpPool) -> None:
    pages(LINKS["relative"], odd, most=100)
    assert open_at(odd, pool).list_tags() == ["a", "b", "c"]


def test_pages_in_a_circle_end(odd: SmallRegistry, pool: HttpPool) -> None:
    headers = {"Link": "</x?n=2>; rel=next"}
    odd.faults = [always("circle", status=200, body=b'{"tags":["a"]}', headers=headers)]
    with pytest.raises(ProtocolError, match="got the same one again"):
        open_at(odd, pool).list_tags()


def test_pages_without_end_are_cut_by_their_sum(odd: SmallRegistry, pool: HttpPool) -> None:
    page = json.dumps({"tags": ["x" * 128] * 20_000}).encode()

    def hook(asked: Asked) -> Reply:
        following = int(asked.query.get("last", 0)) + 1
        return Reply(body=page, headers={"Link": f"</x?last={following}>; rel=next"})

    answer_with(odd, hook)
    with pytest.raises(ProtocolError, match=r"bytes, got more|of memory"):
        open_at(odd, pool).list_tags()
    assert len(odd.seen) < 10


def test_page_of_html_is_a_protocol_error(odd: SmallRegistry, pool: HttpPool) -> None:
    odd.faults = [always("page", status=200, body=b"<html>")]
    with pytest.raises(ProtocolError, match="want JSON with a list of tags"):
        open_at(odd, pool).list_tags()


# Redirects


def test_signed_url_on_the_own_host_gets_no_credential(odd: SmallRegistry, pool: HttpPool) -> None:
    digest = add(odd)

    def hook(asked: Asked) -> Reply | None:
        authorization = asked.headers.get("Authorization")
        if asked.path.startswith("/store/"):
            return Reply(400) if authorization else Reply(body=DATA)
        if not authorization:
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if "/blobs/" in asked.path:
            location = f"{odd.url}/store/x?X-Amz-Signature=1"
            return Reply(307, headers={"Location": location})
        return None

    answer_with(odd, hook)
    assert read(open_at(odd, pool, with_credential=True).open_blob(digest)) == DATA


def test_rewritten_path_on_the_own_host_gets_the_credential(
    odd: SmallRegistry, pool: HttpPool
) -> None:
    def hook(asked: Asked) -> Reply | None:
        if "Authorization" not in asked.headers:
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if "/me/x/" in asked.path:
            return Reply(302, headers={"Location": asked.path.replace("/me/x/", "/team/x/")})
        return None

    answer_with(odd, hook)
    assert read(open_at(odd, pool, with_credential=True).open_blob(add(odd))) == DATA


def test_redirect_that_two_parsers_read_differently_is_not_followed(
    odd: SmallRegistry, pool: HttpPool
) -> None:
    with SmallRegistry() as thief:

        def hook(asked: Asked) -> Reply | None:
            if "Authorization" not in asked.headers:
                return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            location = f"http://{thief.host}\\@{odd.host}/v2/stolen"
            return Reply(307, headers={"Location": location})

        answer_with(odd, hook)
        with pytest.raises(ProtocolError, match="want Location of http or https"):
            open_at(odd, pool, with_credential=True).open_blob(add(odd))
        assert thief.seen == []


def test_manifest_is_put_where_the_registry_redirects(odd: SmallRegistry, pool: HttpPool) -> None:
    def hook(asked: Asked) -> Reply | None:
        if asked.method == "PUT" and "again" not in asked.query:
            return Reply(307, headers={"Location": f"{asked.path}?again=1"})
        return Reply(201) if asked.method == "PUT" else None

    answer_with(odd, hook)
    open_at(odd, pool).put_manifest("t", b"{}", INDEX)
    assert [asked.body for asked in odd.seen] == [b"{}", b"{}"]


# Token servers


def token_hook(realm: str, answer: Callable[[Asked], Reply], **challenge: str) -> Any:
    def hook(asked: Asked) -> Reply | None:
        if asked.path.startswith("/token"):
            return answer(asked)
        if asked.headers.get("Authorization", "").removeprefix("Bearer ") == "good.token":
            return None
        params = {"realm": realm, "service": "s", **challenge}
        text = ",".join(f'{name}="{value}"' for name, value in params.items())
        return Reply(401, headers={"WWW-Authenticate": f"Bearer {text}"})

    return hook


def give_token(_: Asked) -> Reply:
    return Reply(body=b'{"token":"good.token"}')


def test_scope_that_is_named_twice(odd: SmallRegistry, pool: HttpPool) -> None:
    hook = token_hook(f"{odd.url}/token", give_token)

    def twice(asked: Asked) -> Reply | None:
        reply: Reply | None = hook(asked)
        if reply and reply.status == 401:
            reply.headers["WWW-Authenticate"] += ',scope="repository:a:pull",scope="b"'
        return reply

    answer_with(odd, twice)
    assert read(open_at(odd, pool).open_blob(add(odd))) == DATA


def test_realm_without_quotes(odd: SmallRegistry, pool: HttpPool) -> None:
    hook = token_hook(f"{odd.url}/token", give_token)

    def bare(asked: Asked) -> Reply | None:
        reply: Reply | None = hook(asked)
        if reply and reply.status == 401:
            reply.headers["WWW-Authenticate"] = f"Bearer realm={odd.url}/token,service=s"
        return reply

    answer_with(odd, bare)
    assert read(open_at(odd, pool).open_blob(add(odd))) == DATA


@pytest.mark.parametrize("body", [b"<html>Log in</html>", b"", b"[]"])
def test_page_instead_of_a_manifest_names_the_address_and_its_type(
    odd: SmallRegistry, pool: HttpPool, body: bytes
) -> None:
    headers = {"Content-Type": "text/html; charset=x"}
    odd.faults = [always("page", status=200, body=body, headers=headers)]
    with pytest.raises(ProtocolError, match=f"{odd.url}/v2/me/x/manifests/t: want a manifest") as e:
        open_at(odd, pool).get_manifest("t")
    assert f"got {len(body)} bytes of text/html" in e.value.message
    assert "login page" in (e.value.hint or "")


def test_token_that_does_not_come_stops_no_request_that_has_its_own(
    odd: SmallRegistry, pool: HttpPool
) -> None:
    asked_for_more, is_over = threading.Event(), threading.Event()

    def answer(asked: Asked) -> Reply | None:
        if "delete" not in asked.query["scope"]:
            return give_token(asked)
        asked_for_more.set()
        is_over.wait(10)
        return Reply(404)

    def hook(asked: Asked) -> Reply | None:
        challenge = f'Bearer realm="{odd.url}/token"'
        if asked.path == "/token":
            return answer(asked)
        is_refused = asked.method == "DELETE" or "Authorization" not in asked.headers
        return Reply(401, headers={"WWW-Authenticate": challenge}) if is_refused else None

    answer_with(odd, hook)
    digest = add(odd)
    odd.add_manifest("t", {"manifests": []}, INDEX)
    registry = open_at(odd, pool)
    assert read(registry.open_blob(digest)) == DATA
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(registry.delete_manifest, "t") for _ in range(3)]
        try:
            assert asked_for_more.wait(5)
            assert read(registry.open_blob(digest)) == DATA
            assert not any(one.done() for one in waiting)
        finally:
            is_over.set()
        refusals = [one.exception() for one in waiting]
    assert [type(error) for error in refusals] == [RegistryError] * 3


@pytest.mark.parametrize("status", [307, 308])
def test_token_server_that_moves_on_its_host_keeps_the_credential(
    odd: SmallRegistry, pool: HttpPool, status: int
) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path == "/token":
            return Reply(status, headers={"Location": "/token/new?service=s"})
        return give_token(asked) if "Authorization" in asked.headers else Reply(401)

    answer_with(odd, token_hook(f"{odd.url}/token", answer))
    assert read(open_at(odd, pool, with_credential=True).open_blob(add(odd))) == DATA


def test_token_server_that_moves_to_another_host_gives_no_credential_away(
    odd: SmallRegistry, pool: HttpPool
) -> None:
    with SmallRegistry(None, always("token", reply=give_token)) as other:
        moved = Reply(307, headers={"Location": f"{other.url}/token"})
        answer_with(odd, token_hook(f"{odd.url}/token", lambda _: moved))
        assert read(open_at(odd, pool, with_credential=True).open_blob(add(odd))) == DATA
        assert ["Authorization" in asked.headers for asked in other.seen] == [False]


@pytest.mark.parametrize("with_credential", [True, False])
@pytest.mark.parametrize(
    "realm",
    [
        "https://169.254.169.254/latest/token",
        "https://10.1.2.3/token",
        "https://[fd00::1]/token",
        "http://10.1.2.3/token",
        "http://tokens.example/token",
        "https://REGISTRY\\@tokens.example/token",
    ],
)
def test_realm_that_the_registry_may_not_name_is_never_asked(
    odd: SmallRegistry, pool: HttpPool, realm: str, with_credential: bool
) -> None:
    answer_with(odd, token_hook(realm.replace("\\", "\\\\"), give_token))
    with pytest.raises(ProtocolError, match="token server"):
        open_at(odd, pool, with_credential=with_credential).open_blob(add(odd))


def test_realm_on_loopback_of_a_registry_elsewhere_is_never_asked(pool: HttpPool) -> None:
    with SmallRegistry(None, always("token", reply=give_token)) as inside:
        registry = WritableRegistry(Reference("198.51.100.7", "me/x"), pool)
        challenge = {"WWW-Authenticate": f'Bearer realm="{inside.url}/token"'}
        with pytest.raises(HfModelsError, match="on a loopback address"):
            registry._client.challenged(challenge, registry._scopes("pull"), None)
        assert inside.seen == []


@pytest.mark.parametrize(
    "token", ["a b", "a\r\nX: y", "", 'a"', "a,b", "\u00e9", "x" * 20_000, "=", 7, None]
)
def test_token_that_has_not_the_form_of_one_is_never_sent(
    odd: SmallRegistry, pool: HttpPool, token: object
) -> None:
    body = json.dumps({"token": token}).encode()
    answer_with(odd, token_hook(f"{odd.url}/token", lambda _: Reply(body=body)))
    with pytest.raises(ProtocolError, match="want JSON with a token"):
        open_at(odd, pool).open_blob(add(odd))
    assert all("Authorization" not in asked.headers for asked in odd.seen)


# Documents


def test_index_entry_with_an_empty_platform_is_one_without() -> None:
    entry = {"mediaType": INDEX, "digest": f"sha256:{'0' * 64}", "size": 1, "platform": {}}
    index = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    assert isinstance(index, Index)
    assert index.manifests[0].platform is None


# Plain http


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("registry.lan:5000", "http"),
        ("registry.lan:5001", "https"),
        ("10.1.2.3", "http"),
        ("11.1.2.3", "https"),
        ("ghcr.io", "https"),
    ],
)
def test_registry_without_tls_is_named_by_host_port_or_network(host: str, scheme: str) -> None:
    variables = {"HF_MODELS_PLAIN_HTTP": "10.0.0.0/8"}
    settings = http_settings_of(read_environment(variables), plain_http=["registry.lan:5000"])
    registry = WritableRegistry(Reference(host, "me/x"), HttpPool(settings))
    base = registry._client.base_url
    assert base.startswith(f"{scheme}://")
