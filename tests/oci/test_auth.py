"""Authentication: the parser, the flow, and a strict token server before a real registry."""

from __future__ import annotations

import base64
import json
import os
import stat
import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloader.errors import InputError, ProtocolError, RegistryError
from downloader.net.address import parse_address
from downloader.net.http import HttpPool
from downloader.net.retry import RetryPolicy
from downloader.oci.auth import Auth, Challenge, Credential, parse_challenges, scopes_of
from downloader.oci.credentials import (
    Anonymous,
    Credentials,
    ExplicitCredentials,
    StoredCredentials,
    remove_login,
    store_login,
)
from downloader.oci.reference import Reference
from downloader.oci.registry_write import WritableRegistry
from tests.support.blobs import CHUNK_BYTES, DATA, DIGEST, push, read
from tests.support.faults import Fault
from tests.support.faulty_proxy import Door, FaultyProxy

if TYPE_CHECKING:
    from pathlib import Path

    from downloader.oci.upload import UploadMode

ME = Credential("me", "s3cret-Password")
ADDRESS = parse_address("https://r.example/")
SCOPES = scopes_of("a/b", "pull", "push")


def registry_at(
    proxy: FaultyProxy,
    pool: HttpPool,
    credential: Credential | None = ME,
    upload: UploadMode = "auto",
) -> WritableRegistry:
    found: Credentials = Anonymous()
    if credential:
        found = ExplicitCredentials(proxy.host, credential)
    return WritableRegistry(
        Reference(proxy.host, f"tests/{uuid.uuid4().hex}"),
        pool,
        found,
        upload=upload,
        chunk_bytes=CHUNK_BYTES,
        retry=RetryPolicy(tries=3),
        sleep=lambda _: None,
    )


# Against a strict door


@pytest.mark.docker
@pytest.mark.parametrize("scheme", ["basic", "bearer"])
@pytest.mark.parametrize("upload", ["chunked", "stream"])
def test_pushes_and_pulls(
    proxy: FaultyProxy, pool: HttpPool, scheme: str, upload: UploadMode
) -> None:
    proxy.door = Door(scheme)
    registry = registry_at(proxy, pool, upload=upload)
    push(registry)
    assert read(registry) == DATA
    assert registry.list_tags() == []
    assert len(proxy.door.token_requests) == (1 if scheme == "bearer" else 0)


@pytest.mark.docker
def test_identity_token(proxy: FaultyProxy, pool: HttpPool) -> None:
    proxy.door = Door("bearer")
    registry = registry_at(proxy, pool, Credential(identity_token="s3cret-Refresh"))
    push(registry)
    assert [seen.method for seen in proxy.door.token_requests] == ["POST"]
    assert "s3cret" not in proxy.door.token_requests[0].target


@pytest.mark.docker
@pytest.mark.parametrize("scheme", ["basic", "bearer"])
@pytest.mark.parametrize("credential", [None, Credential("me", "s3cret-wrong")])
def test_refused(
    proxy: FaultyProxy, pool: HttpPool, scheme: str, credential: Credential | None
) -> None:
    proxy.door = Door(scheme)
    with pytest.raises(RegistryError) as caught:
        push(registry_at(proxy, pool, credential))
    assert caught.value.status == 401
    assert f"docker login {proxy.host}" in (caught.value.hint or "")
    assert "s3cret" not in str(caught.value)


@pytest.mark.docker
def test_token_that_grants_too_little(proxy: FaultyProxy, pool: HttpPool) -> None:
    proxy.door = Door("bearer", allowed=("pull",))
    registry = registry_at(proxy, pool)
    assert registry.blob_size(DIGEST) is None
    with pytest.raises(RegistryError, match="authentication required") as caught:
        push(registry)
    assert caught.value.status == 401
    assert registry.delete_manifest("t") is False


@pytest.mark.docker
@pytest.mark.parametrize("uses", [2, 3])
def test_token_that_ends_in_the_middle_of_a_blob(
    proxy: FaultyProxy, pool: HttpPool, uses: int
) -> None:
    proxy.door = Door("bearer", uses=uses)
    registry = registry_at(proxy, pool, upload="chunked")
    push(registry)
    assert read(registry) == DATA
    assert len(proxy.of("POST", "/blobs/uploads/")) == 2  # the first one got the challenge
    assert len(proxy.door.token_requests) >= 3


@pytest.mark.docker
@pytest.mark.parametrize("upload", ["chunked", "stream"])
def test_401_in_the_middle(proxy: FaultyProxy, pool: HttpPool, upload: UploadMode) -> None:
    proxy.door = Door("bearer")
    registry = registry_at(proxy, pool, upload=upload)
    challenge = f'Bearer realm="{proxy.url}/token",service="tests"'
    proxy.faults = [
        Fault(
            "ended",
            "PATCH",
            skip=2 if upload == "chunked" else 0,
            status=401,
            headers={"WWW-Authenticate": challenge},
        )
    ]
    assert push(registry) <= (6 if upload == "chunked" else 2)
    assert read(registry) == DATA


@pytest.mark.docker
def test_short_tokens_are_renewed_before_they_end(proxy: FaultyProxy, pool: HttpPool) -> None:
    proxy.door = Door("bearer", expires_in=1)
    registry = registry_at(proxy, pool)
    assert registry.blob_size(DIGEST) is None
    auth = registry._client._auth
    assert auth is not None
    (token,) = auth._tokens.values()
    assert auth.header(scopes_of(registry.reference.repository, "pull"), token.renew_at_s) is None


@pytest.mark.docker
def test_token_server_that_is_busy(proxy: FaultyProxy, pool: HttpPool) -> None:
    proxy.door = Door("bearer", busy=2)
    registry = registry_at(proxy, pool)
    push(registry)
    assert read(registry) == DATA
    assert [seen.status for seen in proxy.door.token_requests] == [503, 503, 200]


@pytest.mark.docker
def test_mount_asks_for_both_repositories(proxy: FaultyProxy, pool: HttpPool) -> None:
    proxy.door = Door("bearer")
    source, target = registry_at(proxy, pool), registry_at(proxy, pool)
    push(source)
    assert target.mount_blob(DIGEST, source)
    path = proxy.door.token_requests[-1].target
    assert path.count("scope=") == 2
    assert source.reference.repository in path.replace("%2F", "/")


@pytest.mark.docker
def test_cdn_sees_no_token(proxy: FaultyProxy, pool: HttpPool) -> None:
    proxy.door = Door("bearer")
    registry = registry_at(proxy, pool)
    push(registry)
    with FaultyProxy(os.environ["HF_TEST_REGISTRY"], is_cdn=True) as cdn:
        proxy.cdn = cdn.url
        assert read(registry) == DATA
        assert [seen.status for seen in cdn.of("GET")] == [200]


@pytest.mark.docker
def test_realm_in_clear_is_refused(proxy: FaultyProxy, pool: HttpPool) -> None:
    proxy.door = Door("bearer", realm="http://tokens.example/token")
    with pytest.raises(ProtocolError, match="want a token server on https") as caught:
        push(registry_at(proxy, pool))
    assert "s3cret" not in str(caught.value)


# The flow


def bearer(realm: str) -> str:
    return f'Bearer realm="{realm}",service="s"'


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "http://t.example/",
        "https:///x",
        "ftp://t.example/",
        "https://me:pw@t.example/",
        "https://t.example:99999/",
        "//t.example/",
        "http://127.0.0.1.t.example/",
        "https://t.example\\\\@r.example/",
    ],
)
def test_realms_that_get_no_credential(realm: str) -> None:
    with pytest.raises(ProtocolError):
        Auth("r.example", ME, ADDRESS).challenged(bearer(realm), SCOPES, None)


@pytest.mark.parametrize("realm", ["https://t.example/", "http://[::1]:5/t", "http://localhost/t"])
def test_realms_that_get_one(realm: str) -> None:
    request = Auth("r.example", ME, ADDRESS).challenged(bearer(realm), SCOPES, None)
    assert request is not None
    assert request.url.startswith(realm)
    assert request.headers == {"Authorization": ME.basic}


def test_bearer_is_preferred_to_basic_in_any_order() -> None:
    header = 'Basic realm="x", ' + bearer("https://t.example/")
    assert Auth("r.example", ME, ADDRESS).challenged(header, SCOPES, None) is not None


def test_tokens_are_kept_by_scope_until_they_end() -> None:
    auth = Auth("r.example", ME, ADDRESS)
    request = auth.challenged(bearer("https://t.example/"), SCOPES, None)
    assert request is not None
    auth.accept(request, 200, b'{"access_token":"x","expires_in":300}', 1000.0)
    assert auth.header(SCOPES, 1269.0) == "Bearer x"
    assert auth.header(scopes_of("a/b", "pull"), 1269.0) == "Bearer x"
    assert auth.header(scopes_of("a/c", "pull"), 1269.0) is None
    assert auth.header(SCOPES, 1270.0) is None
    assert auth.renewal(SCOPES, 1269.0) is None
    assert auth.renewal(SCOPES, 1270.0) == request


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token":7}', b'{"token":"a\\nb"}', b"[" * 9000, b"\xff"]
)
def test_answers_that_are_no_token(body: bytes) -> None:
    auth = Auth("r.example", None, ADDRESS)
    request = auth.challenged(bearer("https://t.example/"), SCOPES, None)
    assert request is not None
    with pytest.raises(ProtocolError, match="want JSON with a token"):
        auth.accept(request, 200, body, 0.0)


def test_secrets_are_not_shown() -> None:
    credential = Credential("me", "s3cret", "s3cret")
    request = Auth("r.example", credential, ADDRESS).challenged(bearer("https://t/"), SCOPES, None)
    assert "s3cret" not in f"{credential!r} {credential} {request!r}"
    assert base64.b64encode(b"me:s3cret").decode() not in repr(request)


# The parser


def test_challenges() -> None:
    header = r'Negotiate, Basic realm="a \"b\", c" , NTLM abc==,, Bearer Realm=x,scope="a:b,c"'
    assert parse_challenges(header) == [
        Challenge("negotiate", {}),
        Challenge("basic", {"realm": 'a "b", c'}),
        Challenge("ntlm", {}),
        Challenge("bearer", {"realm": "x", "scope": "a:b,c"}),
    ]


@pytest.mark.parametrize(
    "header",
    [
        'Bearer realm="',
        'Bearer a="1",a="2"',
        "Bearer realm=a b",
        '"x"',
        "Bearer =1",
        "B\0",
        "x" * 9000,
    ],
)
def test_malformed_challenges(header: str) -> None:
    with pytest.raises(ProtocolError, match="WWW-Authenticate"):
        parse_challenges(header)


@given(st.text(max_size=100) | st.text(alphabet='Bearc =",\\\t', max_size=60))
def test_challenges_never_crash(header: str) -> None:
    try:
        challenges = parse_challenges(header)
    except ProtocolError:
        return
    assert all(challenge.scheme == challenge.scheme.lower() for challenge in challenges)


TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.dictionaries(st.sampled_from(["realm", "service", "scope", "x"]), TEXTS, min_size=1))
def test_challenges_come_back(params: dict[str, str]) -> None:
    quoted = {k: v.replace("\\", "\\\\").replace('"', '\\"') for k, v in params.items()}
    header = "Bearer " + ", ".join(f'{k}="{v}"' for k, v in quoted.items())
    assert parse_challenges(header) == [Challenge("bearer", params)]


# Where credentials come from


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(tmp_path: Path, document: object) -> StoredCredentials:
    (tmp_path / "config.json").write_text(json.dumps(document))
    return StoredCredentials([tmp_path / "config.json"], helper_timeout_s=20)


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper of its own name, which knows one registry and logs its arguments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "docker-credential-tests"
    script.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/arguments
case $1 in store) cat > {tmp_path}/stored; exit ;; erase) exit ;; esac
read -r key
case $key in
known.example) echo '{{"ServerURL":"x","Username":"me","Secret":"s3cret"}}' ;;
token.example) echo '{{"Username":"<token>","Secret":"s3cret"}}' ;;
broken.example) echo 's3cret'; exit 3 ;;
garbage.example) echo 's3cret' ;;
silent.example) ;;
slow.example) read -r never < {tmp_path}/fifo ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def test_no_config_is_anonymous(tmp_path: Path) -> None:
    assert StoredCredentials([tmp_path / "absent.json"]).find("r.example") is None


@pytest.mark.parametrize("key", ["r.example:5000", "https://r.example:5000/v1/"])
def test_auths(tmp_path: Path, key: str) -> None:
    found = config(tmp_path, {"auths": {key: {"auth": b64("me:a:b")}}})
    assert found.find("r.example:5000") == Credential("me", "a:b")
    assert found.find("r.example") is None
    assert found.find("example:5000") is None


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_docker_hub(tmp_path: Path, key: str) -> None:
    found = config(tmp_path, {"auths": {key: {"auth": b64("me:pw")}}})
    assert found.find("docker.io") == Credential("me", "pw")


def test_identity_token_of_auths(tmp_path: Path) -> None:
    entry = {"auth": b64("00000000-0000-0000-0000-000000000000:"), "identitytoken": "s3cret"}
    found = config(tmp_path, {"auths": {"r.azurecr.io": entry}}).find("r.azurecr.io")
    assert found is not None
    assert found.identity_token == "s3cret"


@pytest.mark.parametrize(
    "how", [{"credsStore": "tests"}, {"credHelpers": {"known.example": "tests"}}]
)
def test_helpers(helper: Path, how: dict[str, object]) -> None:
    found = config(helper, {"auths": {"known.example": {}}, **how})
    assert found.find("known.example") == Credential("me", "s3cret")
    assert found.find("other.example") is None
    assert set((helper / "arguments").read_text().split()) == {"get"}


def test_helper_for_one_registry_goes_before_the_store(helper: Path) -> None:
    document = {"credsStore": "absent", "credHelpers": {"token.example": "tests"}}
    assert config(helper, document).find("token.example") == Credential(identity_token="s3cret")


@pytest.mark.parametrize("registry", ["broken.example", "garbage.example"])
def test_helper_that_fails(helper: Path, registry: str) -> None:
    with pytest.raises(InputError, match="docker-credential-tests") as caught:
        config(helper, {"credsStore": "tests"}).find(registry)
    assert "s3cret" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_helper_that_hangs(helper: Path) -> None:
    config(helper, {"credsStore": "tests"})
    with pytest.raises(InputError, match=r"within 0\.2 s"):
        StoredCredentials([helper / "config.json"], helper_timeout_s=0.2).find("slow.example")


@pytest.mark.parametrize("name", ["absent-one", "../x", "a b", "a/b"])
def test_malformed_helper_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        config(tmp_path, {"credsStore": name}).find("r.example")


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"auths": [1]},
        {"credHelpers": 7},
        {"auths": {"r.example": {"auth": "s3cret"}}},
        {"auths": {"r.example": {"auth": b64("s3cret")}}},
        {"auths": {"r.example": {"identitytoken": 7}}},
    ],
)
def test_malformed_config(tmp_path: Path, document: object) -> None:
    with pytest.raises(InputError, match=r"config\.json") as caught:
        config(tmp_path, document).find("r.example")
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


def test_explicit_credentials_are_for_one_registry(tmp_path: Path) -> None:
    others = config(tmp_path, {"auths": {"b.example": {"auth": b64("b:pw")}}})
    found = ExplicitCredentials("a.example", ME, others)
    assert (found.find("a.example"), found.find("b.example")) == (ME, Credential("b", "pw"))


def test_longest_key_that_the_repository_begins_with_counts(tmp_path: Path) -> None:
    auths = {
        "r.example": {"auth": b64("host:pw")},
        "r.example/me": {"auth": b64("me:pw")},
        "r.example/me/hf": {"auth": b64("hf:pw")},
        "r.example/other": {"auth": b64("other:pw")},
    }
    found = config(tmp_path, {"auths": auths})
    users = ("me/hf/x", "me/hf", "me/hfx", "meal", "")
    named = [found.find("r.example", name) for name in users]
    assert [item.username for item in named if item] == ["hf", "hf", "me", "host", "host"]
    only = config(tmp_path, {"auths": {"r.example/me": {"auth": b64("me:pw")}}})
    assert only.find("r.example", "other/x") is None


def test_key_with_a_path_of_docker_hub(tmp_path: Path) -> None:
    auths = {"docker.io/me": {"auth": b64("me:pw")}, "https://index.docker.io/v1/": {}}
    found = config(tmp_path, {"auths": auths}).find("docker.io", "me/x")
    assert found == Credential("me", "pw")


@pytest.mark.parametrize(
    "text",
    [
        *(b64("me:pw") + "\n", b64("me:pw\n"), b64("me:pw\0")),
        b64("me:pw")[:4] + "\r\n" + b64("me:pw")[4:],  # as `base64` wraps a long one
    ],
)
def test_credential_with_a_line_break_in_it(tmp_path: Path, text: str) -> None:
    found = config(tmp_path, {"auths": {"r.example": {"auth": text}}})
    assert found.find("r.example") == Credential("me", "pw")


def test_empty_config_is_anonymous(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(" \n")
    assert StoredCredentials([tmp_path / "config.json"]).find("r.example") is None


def test_files_are_asked_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("absent.json", "auth.json", "config.json")]
    for path, user in zip(paths[1:], ("podman", "docker"), strict=True):
        path.write_text(json.dumps({"auths": {"r.example": {"auth": b64(f"{user}:pw")}}}))
    assert StoredCredentials(paths).find("r.example") == Credential("podman", "pw")
    paths[1].write_text(json.dumps({"auths": {}}))
    assert StoredCredentials(paths).find("r.example") == Credential("docker", "pw")


def test_missing_helper_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^docker-credential-absent: not found$") as caught:
        config(tmp_path, {"credsStore": "absent"}).find("r.example")
    assert "config.json names it" in (caught.value.hint or "")


def test_helper_that_prints_nothing_is_named(helper: Path) -> None:
    with pytest.raises(InputError, match=r"^docker-credential-tests: printed nothing$"):
        config(helper, {"credsStore": "tests"}).find("silent.example")


@pytest.mark.parametrize("name", ["config.json", "auth.json"])
def test_login_is_found_again_and_removed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    for registry in ("r.example:5000", "docker.io"):
        assert store_login(path, registry, ME) == str(path)
        assert StoredCredentials([path]).find(registry) == ME
    assert path.stat().st_mode & 0o777 == 0o600
    hub = "docker.io" if name == "auth.json" else "https://index.docker.io/v1/"
    assert set(json.loads(path.read_text())["auths"]) == {"r.example:5000", hub}
    assert remove_login(path, "docker.io")
    assert not remove_login(path, "docker.io")
    assert StoredCredentials([path]).find("docker.io") is None
    assert StoredCredentials([path]).find("r.example:5000") == ME


def test_login_keeps_other_entries_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"proxies": {"default": {}}, "auths": {"a": {"auth": "x"}}}))
    store_login(path, "r.example", ME)
    document = json.loads(path.read_text())
    assert document["proxies"] == {"default": {}}
    assert document["auths"]["a"] == {"auth": "x"}


def test_login_goes_to_the_helper_that_the_file_names(helper: Path) -> None:
    path = helper / "config.json"
    path.write_text(json.dumps({"credsStore": "tests"}))
    assert store_login(path, "known.example", ME) == "docker-credential-tests"
    assert json.loads((helper / "stored").read_text()) == {
        "ServerURL": "known.example",
        "Username": ME.username,
        "Secret": ME.password,
    }
    assert "auths" not in json.loads(path.read_text())
    assert remove_login(path, "known.example")
