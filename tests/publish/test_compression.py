"""``--compress``: layers of zstd frames, read by range by us and as ordinary layers by others."""

import itertools
import json
import re
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from downloader.image import layer_key
from downloader.oci.seekable import FRAME_BYTES, read_table
from tests.support.command import call, hf_models
from tests.support.docker import docker, pushed_again
from tests.support.fake_hub import HubSpec, faults, make_repo, read_all
from tests.support.faults import ALL, Fault, of_blobs
from tests.support.publish import (
    MIB,
    MODEL,
    PACKS,
    SHRINKING_BYTES,
    Side,
    check_directory,
    manifest_of,
    shrinking,
)
from tests.support.restore import kill_after, restore, restored, start
from tests.support.serve import resolve_path, serving
from tests.support.small_registry import SmallRegistry

pytestmark = pytest.mark.docker

PREFIX = "io.github.alphahinex.hf-models"


LARGE = make_repo("org/large", {"model.safetensors": shrinking(40 * MIB + 11, 4), "a.txt": b"a"})
SPLIT = make_repo("org/split", {"big.safetensors": shrinking(7 * MIB + 5, 3), "a.txt": b"a"})
HUB = HubSpec((MODEL, PACKS, LARGE, SPLIT))


def published(side: Side, *more: str, repo: str = "org/packs") -> Any:
    ran = side.publish(repo, "--json", *more, code=0)
    return ran.json["targets"][0]


def types_of(side: Side, tag: str = "packs") -> dict[str, str]:
    """Return the compression of the layer of each large file."""
    files = filter(layer_key, manifest_of(side.store(), tag).layers)
    layers = [layer for layer in files if layer.size_bytes > MIB // 2]
    return {str(layer.digest): layer.media_type.rpartition(".")[2] for layer in layers}


def asked_bytes(side: Side) -> int:
    """Return how many bytes of blobs were asked for by range."""
    total = 0
    with side.proxy.lock:
        for seen in side.proxy.seen:
            if found := re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("Range", "")):
                total += int(found[2]) + 1 - int(found[1])
    return total


def check_restored(image: str, cache: Path, *more: str) -> Any:
    report = restored(image, cache, *more)
    check_directory(Path(report["snapshots"][0]["path"]), PACKS)
    return report


def test_auto_compresses_layers_that_shrink(side: Side, tmp_path: Path) -> None:
    target = published(side, "--compress", "auto")
    assert sorted(types_of(side).values()) == ["tar", "tar+zstd"]
    assert target["moved_bytes"] < 0.85 * SHRINKING_BYTES + 5.1 * MIB
    assert side.sent_bytes() < 0.85 * SHRINKING_BYTES + 5.9 * MIB
    report = check_restored(f"{side.name}:packs", tmp_path)
    assert report["fetched_bytes"] > 0
    assert asked_bytes(side) < 0.85 * SHRINKING_BYTES + 5.3 * MIB  # no frame twice


def test_a_plan_states_the_compression_of_layers_and_its_reason(side: Side) -> None:
    ran = side.run("plan", "org/packs", "--compress", "auto", "--layer-size", "6MiB", code=0)
    assert "zstd: 7" in ran.out  # 75 to 79 %
    assert "plain: 9" in ran.out
    assert "on the wire:      about" in ran.out
    document = side.run(
        "plan", "org/packs", "--compress", "auto", "--layer-size", "6MiB", "--json"
    ).json
    assert document["wire_bytes"] < document["layer_bytes"]


def test_a_second_run_and_another_machine_move_nothing(side: Side) -> None:
    published(side, "--compress", "auto")
    side.forget()
    target = published(side, "--compress", "auto", "--tag", "packs2")
    assert target["moved_bytes"] == 0
    assert side.sent_bytes() < 1_000_000  # configs, links and manifests


def test_auto_takes_a_plain_layer_that_is_there_and_zstd_does_not(side: Side) -> None:
    published(side)
    assert published(side, "--compress", "auto")["moved_bytes"] == 0
    assert set(types_of(side).values()) == {"tar"}
    assert published(side, "--compress", "zstd")["moved_bytes"] > 0
    assert set(types_of(side).values()) == {"tar+zstd"}
    assert published(side, "--compress", "none", "--tag", "packs2")["moved_bytes"] > 10 * MIB


def test_a_split_file_is_joined_from_compressed_parts(side: Side, tmp_path: Path) -> None:
    target = published(side, "--compress", "auto", "--layer-size", "2MiB", repo="org/split")
    assert len(types_of(side, "split")) == 4
    assert target["moved_bytes"] < 0.85 * 7 * MIB
    report = restored(f"{side.name}:split", tmp_path)
    check_directory(Path(report["snapshots"][0]["path"]), SPLIT)


def test_finished_parts_are_read_back_from_their_frames(side: Side, tmp_path: Path) -> None:
    """After a run that ended between two parts, the next one hashes those from their layers."""
    arguments = ("--compress", "zstd", "--layer-size", "2MiB", "--jobs", "1")
    side.hub.add_fault(
        faults.ServerError(path="*big.safetensors", origin="cdn", status=403, from_byte=5 * MIB)
    )
    assert side.publish("org/split", *arguments).code == 3
    side.hub.clear_faults()
    side.forget()
    target = published(side, *arguments, repo="org/split")
    assert target["reused_bytes"] > 0
    assert asked_bytes(side) > MIB  # the part that was there
    report = restored(f"{side.name}:split", tmp_path)
    check_directory(Path(report["snapshots"][0]["path"]), SPLIT)


def built(side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> Path:
    """Return a layout directory of LARGE whose layers are compressed."""
    monkeypatch.chdir(tmp_path)
    flags = ["--engine=layout", "--base=none", "--compress=zstd", f"--layer-size={size}"]
    side.run("build", "org/large", *flags, code=0)
    return tmp_path / "dist" / "large"


@pytest.mark.parametrize("size", ["64MiB", "16MiB"], ids=["whole", "split"])
def test_a_restore_of_compressed_layers_is_killed_and_continued(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    image, cache = built(side, tmp_path, monkeypatch, size), tmp_path / "cache"
    packed_bytes = sum(path.stat().st_size for path in (image / "blobs" / "sha256").iterdir())

    def is_noted() -> bool:
        journals = cache.glob("*/blobs/*.journal.incomplete")
        return any(len(journal.read_text().splitlines()) > 1 for journal in journals)

    with SmallRegistry(image) as own:
        process = start(f"{own.host}/org/large", cache)
        kill_after(own, process, packed_bytes // 2, and_when=is_noted)
        sent_bytes = own.blob_bytes
        flags = ("--connections", "1")  # others would break its answers off
        report = restored(f"{own.host}/org/large", cache, *flags)
        assert own.blob_bytes - sent_bytes < packed_bytes
    assert report["resumed_bytes"] > 0
    assert report["resumed_bytes"] + report["fetched_bytes"] + report["kept_bytes"] >= 40 * MIB
    check_directory(Path(report["snapshots"][0]["path"]), LARGE)


@pytest.mark.parametrize("size", ["64MiB", "16MiB"], ids=["whole", "split"])
@pytest.mark.parametrize(
    "fault",
    [
        of_blobs("lies", lies=ALL),
        of_blobs("404", status=404),
        of_blobs("cut", cut_answer_at=300_000),
        of_blobs("stall", stall_answer_at=300_000),
    ],
    ids=lambda fault: fault.name,
)
def test_a_mirror_with_wrong_bytes_of_the_largest_compressed_layers(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, size: str
) -> None:
    image = built(side, tmp_path, monkeypatch, size)
    largest = max(path.stat().st_size for path in (image / "blobs" / "sha256").iterdir())
    wrong = replace(fault, from_bytes=largest)
    with SmallRegistry(image) as own, SmallRegistry(image, wrong) as mirror:
        flags = ("--mirror", mirror.host, "--stall-timeout", "1", "--json")
        ran = restore(f"{own.host}/org/large", tmp_path / "cache", *flags, code=0)
        assert "trying the next place" in ran.err
        assert own.blob_bytes > 0
    check_directory(Path(ran.json["snapshots"][0]["path"]), LARGE)


def test_a_damaged_compressed_layer_everywhere_is_found(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = built(side, tmp_path, monkeypatch, "64MiB")
    lies = of_blobs("lies", lies=ALL, from_bytes=MIB)
    with SmallRegistry(image, lies) as own, SmallRegistry(image, lies) as mirror:
        flags = ("--mirror", mirror.host)
        ran = restore(f"{own.host}/org/large", tmp_path / "cache", *flags)
    assert ran.code in {5, 6}, ran.err
    assert not list((tmp_path / "cache").glob("*/snapshots"))


@pytest.mark.parametrize("engine", ["layout", "archive"])
def test_layouts_and_archives_are_read_by_range(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["build", "org/packs", "--engine=layout", "--base=none", "--layer-size=6MiB"]
    arguments += ["--compress=auto", *(["--archive=image.tar"] if engine == "archive" else [])]
    side.run(*arguments, code=0)
    source = "image.tar" if engine == "archive" else "dist/packs"
    check_restored(str(tmp_path / source), tmp_path / "cache")


def test_one_file_of_a_compressed_layer_costs_its_frames(side: Side, tmp_path: Path) -> None:
    published(side, "--compress", "zstd", "--layer-size", "64MiB")  # all files in one layer
    side.forget()
    restored(f"{side.name}:packs", tmp_path, "--include", "config.json")
    assert asked_bytes(side) < 2 * FRAME_BYTES


def test_seek_tables_are_read_beside_each_other(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(side, "--compress", "zstd")
    begun, is_second = itertools.count(1), threading.Event()

    def read(*arguments: Any) -> Any:
        if next(begun) == 2:
            is_second.set()
        assert is_second.wait(60)
        return read_table(*arguments)

    monkeypatch.setattr("downloader.restore.image_blobs.read_table", read)
    check_restored(f"{side.direct_name}:packs", tmp_path)


@pytest.mark.parametrize("cache", ["--no-cache", "--cache-dir=served"])
@pytest.mark.parametrize("size", ["64MiB", "16MiB"], ids=["whole", "split"])
def test_serve_reads_ranges_of_compressed_layers(
    side: Side, tmp_path: Path, cache: str, size: str
) -> None:
    published(side, "--compress", "zstd", "--layer-size", size, repo="org/large")
    wanted = read_all(LARGE.files()["model.safetensors"].source)
    path = resolve_path("model.safetensors", "org/large")
    cache = cache.replace("served", str(tmp_path / "served"))
    with serving(side.direct_name, cache) as server:
        part = server.ask(path, Range="bytes=20000000-20000099")
        assert (part.status, part.body) == (206, wanted[20_000_000:20_000_100])
        assert server.metric("fetched_bytes_total") == 100
        assert server.ask(path).body == wanted


def test_an_image_pushed_again_by_docker_is_read_by_its_seek_table(
    side: Side, tmp_path: Path
) -> None:
    """`docker push` sends the compressed blobs as they are, and drops the annotations."""
    published(side, "--compress", "zstd")
    image = f"{side.direct_name}:packs"
    check_restored(pushed_again(image), tmp_path)


def test_other_tools_read_compressed_layers_as_ordinary_ones(side: Side, tmp_path: Path) -> None:
    published(side, "--compress", "zstd")
    image = f"{side.direct_name}:packs"
    layout = f"{tmp_path}/layout:model"
    call("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}", f"oci:{layout}")
    call("crane", "pull", "--insecure", "--platform=linux/amd64", image, f"{tmp_path}/image.tar")
    container = docker("create", "--pull=always", "-q", image, "none").strip()
    try:
        docker("cp", f"{container}:/models", str(tmp_path / "models"))
    finally:
        docker("rm", container)
        docker("rmi", image)
    check_directory(tmp_path / "models", PACKS)
    diff_ids = manifest_of(side.store(), "packs").layers[0].annotations[f"{PREFIX}.layer.diff-id"]
    config = json.loads(call("crane", "config", "--insecure", "--platform=linux/amd64", image))
    assert config["rootfs"]["diff_ids"][0] == diff_ids


def test_verify_counts_the_bytes_that_compressed_layers_hold(side: Side) -> None:
    published(side, "--compress", "zstd")
    ran = hf_models("verify", f"{side.direct_name}:packs", code=0)
    assert re.search(r"verify: (.+) of \1, (\d+)/\2 layers, ", ran.err.splitlines()[-1]), ran.err


def test_both_forms_in_one_index(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No other image in the engine has these layers: see the test below.
    published(side, "--compress", "both", "--cache-root", "/opt/both")
    image = f"{side.direct_name}:packs"
    index = json.loads(
        call("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{image}")
    )
    key = "io.github.containers.compression.zstd"
    marks = [
        (entry["platform"]["architecture"], entry.get("annotations", {}).get(key))
        for entry in index["manifests"]
        if entry["platform"]["os"] == "linux"
    ]
    assert marks == [("amd64", None), ("arm64", None), ("amd64", "true"), ("arm64", "true")]
    check_restored(image, tmp_path / "cache")

    # docker and crane take the plain manifest; skopeo 1.9 does, too, and newer ones the other.
    call("crane", "pull", "--insecure", "--platform=linux/amd64", image, f"{tmp_path}/crane.tar")
    call(*("skopeo", "copy", "-q", "--src-tls-verify=false"), f"docker://{image}",
         f"oci-archive:{tmp_path}/skopeo.tar:x")  # fmt: skip
    docker("pull", "-q", image)
    try:
        for name in ("crane.tar", "skopeo.tar"):
            check_restored(f"{tmp_path}/{name}", tmp_path / f"from-{name}")
        check_restored(f"docker-daemon:{image}", tmp_path / "from-docker")
    finally:
        docker("rmi", image)

    from kserve_storage import Storage  # noqa: PLC0415 - not in every environment

    monkeypatch.setenv("KSERVE_OCI_INSECURE_REGISTRY", "true")  # it reads no zstd
    Storage.download(f"oci://{image}", str(tmp_path / "out"))
    check_directory(tmp_path / "out", PACKS)


def test_an_engine_that_has_the_files_uncompressed_already(side: Side, tmp_path: Path) -> None:
    """Its containerd store fetches no blob of layers that it has unpacked, and saves none."""
    images = [f"{side.direct_name}:{tag}" for tag in ("none", "zstd")]
    try:
        for image in images:
            form = image.rpartition(":")[2]
            published(side, "--cache-root", "/opt/forms", "--compress", form, "--tag", form)
            docker("pull", "-q", image)
        ran = restore(f"docker-daemon:{images[1]}", tmp_path)
        assert ran.code == 0 or "docker rmi this image" in ran.err, ran.err
    finally:
        docker("rmi", *images)


def test_compress_with_engine_docker_is_refused(side: Side) -> None:
    ran = side.run("build", "org/packs", "--engine=docker", "--compress=auto", code=2)
    assert "--engine layout" in ran.err


def test_zstd_itself_reads_a_layer(side: Side, tmp_path: Path) -> None:
    published(side, "--compress", "zstd")
    layer = manifest_of(side.store(), "packs").layers[0]
    blob = subprocess.run(
        ["crane", "blob", "--insecure", f"{side.direct_name}@{layer.digest}"],
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "layer.tar.zst").write_bytes(blob)
    call("zstd", "-q", "-d", str(tmp_path / "layer.tar.zst"))
    said = call("sha256sum", str(tmp_path / "layer.tar"))
    assert said.startswith(layer.annotations[f"{PREFIX}.layer.diff-id"].removeprefix("sha256:"))
