"""Images that Docker made: the original project's recipe, docker push, docker save, the engine."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import call, hf_models
from tests.support.docker import docker, load_offline
from tests.support.fake_hub import HubServer, make_repo
from tests.support.faulty_proxy import Door, FaultyProxy
from tests.support.make_image import put_ours
from tests.support.restore import FILES, check_cache, registry, restore, restored

pytestmark = pytest.mark.docker

# The recipe of the original project: a python base, one stage, one RUN that downloads.
RECIPE = """
FROM python:3.13-slim
RUN --mount=type=secret,id=ca \\
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \\
    pip install --quiet --root-user-action=ignore 'huggingface_hub>=2.4,<3'
WORKDIR /usr/src/app
COPY download.py TOKEN_FILE* ./
ARG HF_ENDPOINT
RUN HF_HUB_DISABLE_XET=1 python download.py && rm -f TOKEN_FILE
CMD ["tail", "-f", "/dev/null"]
"""
DOWNLOAD = "from huggingface_hub import snapshot_download\nsnapshot_download('org/model')\n"
CA_NAMES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@pytest.fixture
def image() -> Iterator[str]:
    """A name in the registry and in the engine, where it is removed in the end."""
    name = f"{os.environ['HF_TEST_REGISTRY']}/tests/restore/{uuid.uuid4().hex}"
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, timeout=60)


def push_built(context: Path, image: str, *arguments: str, compression: str) -> None:
    """Build and push as the classic image store does (gzip), or as a newer one may."""
    output = f"type=image,name={image},push=true,compression={compression},force-compression=true"
    docker("buildx", "build", "--quiet", f"--output={output}", *arguments, str(context))


def ca_secret() -> list[str]:
    bundle = next((os.environ[name] for name in CA_NAMES if os.environ.get(name)), None)
    return [f"--secret=id=ca,src={bundle}"] if bundle else []


def test_an_image_of_the_original_recipe(tmp_path: Path, image: str) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(RECIPE)
    (context / "download.py").write_text(DOWNLOAD)
    (context / "TOKEN_FILE").write_text("hf_not_a_secret")
    repo = make_repo("org/model", dict(FILES))
    with HubServer([repo]) as hub:
        push_built(
            context,
            image,
            *ca_secret(),
            "--network=host",
            f"--build-arg=HF_ENDPOINT={hub.endpoint}",
            compression="gzip",
        )
    report = restored(image, tmp_path / "home" / "hub")
    (snapshot,) = report["snapshots"]
    check_cache(tmp_path / "home" / "hub", commit=snapshot["commit"])
    rows = load_offline(tmp_path / "home", "org/model", "main", snapshot["commit"])
    assert {path: size for _, path, size in rows} == {p: len(d) for p, d in FILES.items()}
    layers = hf_models("inspect", image, "--json").json["layers"]
    assert all("gzip" in layer["media_type"] for layer in layers)


def copied_cache(tmp_path: Path) -> Path:
    """A build context with a finished cache, as the image of `hf-models build` carries it."""
    name, store = registry()
    put_ours(store, FILES)
    restored(name, tmp_path / "context" / "hub")
    shutil.rmtree(tmp_path / "context" / "hub" / ".locks")
    dockerfile = "FROM busybox:stable-musl\nCOPY hub /root/.cache/huggingface/hub\n"
    (tmp_path / "context" / "Dockerfile").write_text(dockerfile)
    return tmp_path / "context"


@pytest.mark.parametrize("compression", ["uncompressed", "gzip", "zstd"])
def test_image_pushed_by_docker(tmp_path: Path, image: str, compression: str) -> None:
    push_built(copied_cache(tmp_path), image, compression=compression)
    restored(image, tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_whiteouts_as_docker_writes_them(tmp_path: Path, image: str) -> None:
    context = copied_cache(tmp_path)
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN cd /root/.cache/huggingface/hub/models--org--model/snapshots/*; ")
        file.write("rm vocab.txt; rm -r 'sub folder'; mkdir 'sub folder'; rm -r ../../trees\n")
    push_built(context, image, compression="uncompressed")
    restored(image, tmp_path / "cache")
    left = {p: data for p, data in FILES.items() if p not in {"vocab.txt", "sub folder/b.bin"}}
    check_cache(tmp_path / "cache", left, has_tree=False)


def test_the_local_engine(tmp_path: Path, image: str) -> None:
    name, store = registry(image.partition("/")[2])
    put_ours(store, FILES)
    docker("pull", "--quiet", name)
    bare = f"hf-test-{uuid.uuid4().hex[:12]}"
    docker("tag", name, f"{bare}:tag")
    try:
        restored(f"docker-daemon:{name}", tmp_path / "one")
        restored(f"{bare}:tag", tmp_path / "two")
        found = hf_models("inspect", f"{bare}:tag", "--json").json
        assert found["repo_id"] == "org/model"
    finally:
        docker("image", "rm", f"{bare}:tag")
    check_cache(tmp_path / "one")
    check_cache(tmp_path / "two")


@pytest.mark.parametrize("compress", [False, True])
def test_archive_of_docker_save(tmp_path: Path, image: str, compress: bool) -> None:
    name, store = registry(image.partition("/")[2])
    put_ours(store, FILES)
    docker("pull", "--quiet", name)
    archive = tmp_path / "saved.tar"
    docker("image", "save", "--output", str(archive), name)
    if compress:
        archive.write_bytes(gzip.compress(archive.read_bytes(), 1))
    restored(archive, tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_an_engine_that_goes_on_after_an_archive_that_is_none_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\ncase $2 in inspect) echo '[{}]';; save) yes;; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    hf_models("restore", "docker-daemon:some/image", "--cache-dir", tmp_path / "c", code=5)


def test_an_image_that_the_engine_lacks(tmp_path: Path) -> None:
    ran = hf_models("restore", "docker-daemon:no/such:image", "--cache-dir", tmp_path / "c", code=8)
    assert "no/such:image" in ran.err


SKOPEO = ("skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false")


@pytest.mark.tools("skopeo", "crane")
@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive", "crane"])
def test_copies_made_by_other_programs(tmp_path: Path, image: str, transport: str) -> None:
    name, store = registry(image.partition("/")[2])
    put_ours(store, FILES)
    target = tmp_path / "copy"
    command = [*SKOPEO, f"docker://{name}", f"{transport}:{target}"]
    if transport == "crane":
        command = ["crane", "pull", "--insecure", "--format=oci", name, str(target)]
    call(*command)
    restored(target, tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_an_index_of_two_platforms(tmp_path: Path) -> None:
    name, store = registry()
    digest = put_ours(store, FILES)
    raw = store.get_manifest(digest)
    assert raw is not None
    entry = {"mediaType": raw.media_type, "digest": digest, "size": len(raw.data)}
    platforms = [("unknown", "unknown"), ("linux", "s390x"), ("linux", "amd64"), ("linux", "arm64")]
    manifests = [{**entry, "platform": {"os": o, "architecture": a}} for o, a in platforms]
    kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
    store.put_manifest("multi", json.dumps(index).encode(), kind)
    restored(f"{name}:multi", tmp_path / "cache")
    check_cache(tmp_path / "cache")


# Private registries


@pytest.fixture
def private() -> Iterator[tuple[FaultyProxy, str]]:
    """A registry behind a login, and the name of an image there."""
    name, store = registry()
    put_ours(store, FILES)
    upstream, _, repository = name.partition("/")
    with FaultyProxy(upstream, door=Door("bearer")) as proxy:
        yield proxy, f"{proxy.host}/{repository}"


def test_a_private_image_with_the_login_of_docker(
    tmp_path: Path, private: tuple[FaultyProxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, name = private
    login = base64.b64encode(f"{proxy.door.username}:{proxy.door.password}".encode()).decode()
    config = {"auths": {proxy.host: {"auth": login}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    restored(name, tmp_path / "cache")
    check_cache(tmp_path / "cache")


def test_a_private_image_with_a_password_on_standard_input(
    tmp_path: Path, private: tuple[FaultyProxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, name = private
    flags = ["--username", proxy.door.username, "--password-stdin"]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{proxy.door.password}\n"))
    restored(name, tmp_path / "cache", *flags)
    check_cache(tmp_path / "cache")


def test_a_private_image_without_a_login(tmp_path: Path, private: tuple[FaultyProxy, str]) -> None:
    proxy, name = private
    ran = restore(name, tmp_path / "cache", code=3)
    assert f"docker login {proxy.host}" in ran.err
    assert not (tmp_path / "cache").exists()
