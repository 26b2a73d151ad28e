"""The library: what a program does with `from downloader import ...`."""

from pathlib import Path

import pytest

import downloader
from downloader.net.retry import RetryPolicy
from downloader.publish import PublishOptions, Shard
from tests.support.publish import Side

pytestmark = pytest.mark.docker

SMALL = downloader.PlanOptions(layer_size="2MiB")


def test_a_layout_is_built_pushed_bundled_and_restored(side: Side, tmp_path: Path) -> None:
    built = downloader.build(
        "org/model", tmp_path / "dist", "t", base="none", archive=tmp_path / "t.tar"
    )
    assert built == tmp_path / "dist" / "t"
    other = f"{side.name}:other"
    pushed = downloader.push(built, [side.name, other])
    assert [item.error for item in pushed] == [None, None]
    assert [item.image for item in pushed] == [f"{side.name}:t", other]
    stick = downloader.bundle([other], tmp_path / "stick")
    for source in (f"{side.name}:t", stick.directory, tmp_path / "t.tar"):
        cache = tmp_path / "caches" / Path(source).name
        assert (downloader.restore(source, cache) / "config.json").is_file()
        assert downloader.verify(cache).is_good


def test_a_push_that_fails_is_in_its_result(side: Side, tmp_path: Path) -> None:
    built = downloader.build("org/model", tmp_path, base="none")
    impatient = downloader.Connection(retry=RetryPolicy(tries=1))
    bad, good = downloader.push(built, ["127.0.0.1:1/a/b", side.name], connection=impatient)
    assert isinstance(bad.error, downloader.HfModelsError)
    assert bad.digest is None
    assert good.digest


def test_shards_are_assembled(side: Side) -> None:
    planned = downloader.plan("org/model", SMALL)
    for index in (1, 2):
        options = PublishOptions(shard=Shard(index, 2))
        downloader.publish(planned, [side.name], "t", options=options, base="none")
    [done] = downloader.assemble("t", [side.name], base="none")
    assert done.error is None
    assert done.digest == downloader.inspect(f"{side.name}:t").digest


def test_every_name_of_the_library_is_there() -> None:
    for name in downloader.__all__:
        assert callable(getattr(downloader, name)) or name == "__version__"
