"""Images between registries, directories and archives, logins, and tags that go away."""

import io
import json
import re
from pathlib import Path

import pytest

from downloader import copy
from downloader.oci.manifest import INDEX, Index, describe
from downloader.progress import NoProgress
from tests.support import make_archive
from tests.support.catalog_images import make_image_plan, put_image
from tests.support.command import hf_models
from tests.support.faults import ALL, of_blobs
from tests.support.make_archive import LAYERS, entry_of, packed, write_archive
from tests.support.make_image import Member, put_ours, tar_of
from tests.support.restore import FILES, check_cache, layout, registry, restored
from tests.support.small_registry import SmallRegistry

MIB = 1024**2


@pytest.fixture
def image(tmp_path: Path) -> Path:
    put_ours(layout(tmp_path / "image"), FILES, "t", layer_limit_bytes=4 * MIB)
    return tmp_path / "image"


def test_an_archive_is_a_destination_and_a_source(image: Path, tmp_path: Path) -> None:
    archive, back = tmp_path / "image.tar", tmp_path / "back"
    ran = hf_models("copy", image, "--to", archive, code=0)
    raw = layout(image).get_manifest("t")
    assert raw is not None
    assert ran.out == f"{archive}@{raw.digest}\n"
    restored(archive, tmp_path / "cache")
    check_cache(tmp_path / "cache")
    assert hf_models("copy", archive, "--to", f"{back}/").code == 0
    assert layout(back).get_manifest("t") == raw


class Names(NoProgress):
    """Keeps the names of what moves."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def start_file(self, path: str, size_bytes: int) -> None:
        del size_bytes
        self.seen.add(path)


def test_copy_prints_the_names_of_files(image: Path, tmp_path: Path) -> None:
    for to in (tmp_path / "x.tar", f"{tmp_path}/images/"):
        names = Names()
        copy([image], [to], progress=names)
        assert {"a.safetensors part 1 of 3", "sub folder/b.bin part 2 of 2"} <= names.seen
        assert not any("sha256" in name for name in names.seen)


def test_copy_counts_over_all_destinations(image: Path, tmp_path: Path) -> None:
    ran = hf_models("copy", image, "--to", f"{tmp_path}/one/", "--to", tmp_path / "two.tar", code=0)
    last = ran.err.splitlines()[-1]
    counted = re.search(r"(\d+)/(\d+) blobs", last)
    assert counted, last
    assert counted[1] == counted[2]


def test_copy_of_an_archive_of_docker_save(tmp_path: Path) -> None:
    hf_models("copy", _docker_archive(tmp_path), "--to", f"{tmp_path}/images/", code=0)
    restored(tmp_path / "images", tmp_path / "cache")
    check_cache(tmp_path / "cache", make_archive.FILES, has_tree=False)


def _docker_archive(directory: Path) -> Path:
    """What docker save writes for its classic store, with layers that are compressed."""
    saved = entry_of(LAYERS, [packed(layer) for layer in LAYERS], "me/x:t")
    return write_archive(directory / "saved.tar", saved)


@pytest.mark.parametrize(
    ("images", "to", "said"),
    [
        (("image", "image"), "x.tar", "want one image for an archive, got 2"),
        (("packed.tar",), "images/", "hint: decompress it first: gzip -d"),
        (("untagged.tar",), "images/", "needs a tag"),
        (("docker-daemon:x",), "images/", "hint: save it first: docker save"),
        (("root",), "images/", "hint: put it into a tar first: tar -C"),
    ],
)
def test_unsupported_copies_are_refused_with_a_hint(
    image: Path, tmp_path: Path, images: tuple[str, ...], to: str, said: str
) -> None:
    layers = [tar_of([Member("etc/hostname", b"x\n")])]
    entry, members = entry_of(layers, layers, "none")
    archive = write_archive(tmp_path / "tagged.tar", entry_of(layers, layers, "me/x:t"))
    (tmp_path / "packed.tar").write_bytes(packed(archive.read_bytes()))
    (tmp_path / "root" / "usr").mkdir(parents=True)
    write_archive(tmp_path / "untagged.tar", ({**entry, "RepoTags": None}, members))
    sources = [name if ":" in name else str(tmp_path / name) for name in images]
    ran = hf_models("copy", *sources, "--to", f"{tmp_path}/{to}", code=2)
    assert said in ran.err
    assert not (tmp_path / "x.tar").exists()


def test_archive_of_a_source_with_wrong_bytes_is_not_kept(image: Path, tmp_path: Path) -> None:
    blob = max((image / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    hf_models("copy", image, "--to", tmp_path / "image.tar", code=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image"]


def test_copy_reads_a_mirror_and_skips_one_with_wrong_bytes(image: Path, tmp_path: Path) -> None:
    with SmallRegistry(image) as own, SmallRegistry(image) as mirror:
        name, to = f"{own.host}/me/x:t", tmp_path / "one"
        hf_models("copy", name, "--mirror", mirror.host, "--to", f"{to}/", code=0)
        assert layout(to).get_manifest("t") == layout(image).get_manifest("t")
        assert mirror.blob_bytes > sum(map(len, set(FILES.values())))
    with SmallRegistry(image) as own, SmallRegistry(image, of_blobs("lies", lies=ALL)) as liar:
        name, to = f"{own.host}/me/x:t", tmp_path / "two"
        ran = hf_models("copy", name, "--mirror", liar.host, "--to", f"{to}/", code=0)
        assert layout(to).get_manifest("t") == layout(image).get_manifest("t")
        assert f"{liar.host}/me/x: sent wrong bytes; trying the next place" in ran.err


@pytest.mark.docker
def test_copy_brings_an_image_from_registry_to_registry_and_directory(tmp_path: Path) -> None:
    name, store = registry()
    digest = put_image(store, "t", make_image_plan())
    other, target = registry()
    ran = hf_models(
        "copy", f"{name}:t", "--to", other, "--to", f"{tmp_path}/images", "--json", code=0
    )
    assert [item["digest"] for item in ran.json["targets"]] == [digest, digest]
    for copied in (target, layout(tmp_path / "images")):
        raw = copied.get_manifest("t")
        assert raw is not None
        assert raw.digest == digest
    again = hf_models("copy", f"{tmp_path}/images", "--to", f"{other}:second")
    assert again.out == f"{other}:second@{digest}\n"


@pytest.mark.docker
def test_copy_reports_each_destination_that_fails() -> None:
    name, store = registry()
    put_image(store, "t", make_image_plan())
    other, _ = registry()
    ran = hf_models(
        *("copy", f"{name}:t", "--to", "127.0.0.1:1/a/b", "--to", other, "--tries", "1", "--json"),
        code=4,
    )
    bad, good = ran.json["targets"]
    assert bad["error"]["exit_code"] == 4
    assert good["digest"]


@pytest.mark.docker
def test_copy_of_an_image_that_is_not_there_fails() -> None:
    name, _ = registry()
    assert hf_models("copy", f"{name}:none", "--to", f"{name}:other").code == 2


@pytest.mark.docker
def test_remove_deletes_a_tag_only_with_yes() -> None:
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


@pytest.mark.docker
def test_remove_deletes_tags_that_belong_to_the_image_and_keeps_others() -> None:
    name, store = registry()
    digest = put_image(store, "t", make_image_plan())
    for tag in ("t.modelpack", digest.replace(":", "-"), "other"):
        put_image(store, tag, make_image_plan(description=tag))
    ran = hf_models("remove", f"{name}:t", "--yes")
    if ran.code:
        assert "does not remove images" in ran.err
    else:
        assert store.list_tags() == ["other"]


@pytest.mark.docker
def test_remove_keeps_a_manifest_of_another_image() -> None:
    name, store = registry()
    inner = put_image(store, "gone.modelpack", make_image_plan())
    raw = store.get_manifest(inner)
    assert raw is not None
    for tag in ("gone", "stays"):
        index = Index((describe(raw.data, raw.media_type),), {"tag": tag})
        store.put_manifest(tag, index.to_bytes(), INDEX)
    ran = hf_models("remove", f"{name}:gone", "--yes")
    if ran.code:
        assert "does not remove images" in ran.err
    else:
        stays = f"{name}:gone.modelpack stays: "  # where the registry removes no tag alone
        assert (stays in ran.err) == ("gone.modelpack" in store.list_tags()), ran.err
    assert store.get_manifest("stays") is not None
    assert store.get_manifest(inner) is not None


@pytest.mark.docker
def test_login_is_stored_where_docker_and_podman_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = registry()
    host = name.partition("/")[0]
    file = tmp_path / "auth.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
    monkeypatch.setattr("sys.stdin", io.StringIO("s3cret\n"))
    ran = hf_models("login", host, "--username", "me", "--password-stdin", code=0)
    assert "s3cret" not in ran.out + ran.err
    assert host in json.loads(file.read_text())["auths"]
    assert hf_models("logout", host, "--json").json["removed"] is True
    assert not json.loads(file.read_text())["auths"]
