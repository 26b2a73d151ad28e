"""Shards and units: what has to stay together, and in which order."""

import json
import re
from typing import Any

import pytest

from downloader.errors import InputError, ProtocolError
from downloader.hub.repo import RepoFile, Snapshot, parse_repo
from downloader.net.ranges import ByteRange
from downloader.plan import Content, Layer, Plan, group_by_file, make_plan, split_shards

GB = 10**9


def plan_of(*sizes_bytes: int) -> Plan:
    files = tuple(
        RepoFile(f"{at}.safetensors", size, f"{at:040x}", f"{at:064x}")
        for at, size in enumerate(sizes_bytes)
    )
    return make_plan(Snapshot(parse_repo("org/name"), "main", "0" * 40, files))


def parts_of(layer: Layer) -> list[tuple[str, int]]:
    return [(content.oid, content.part) for content in layer.contents]


def test_a_file_of_30_gb_is_four_layers_in_one_unit() -> None:
    [unit] = group_by_file(plan_of(30 * GB).layers)
    assert [layer.contents[0].part for layer in unit] == [1, 2, 3, 4]


def test_whole_files_are_units_of_their_own() -> None:
    plan = plan_of(5 * GB, 6 * GB, 7 * GB)
    assert group_by_file(plan.layers) == [(layer,) for layer in plan.layers]


def test_the_parts_of_a_file_stay_in_one_shard() -> None:
    plan = plan_of(30 * GB, 25 * GB, *[9 * GB] * 10)
    shards = split_shards(plan.layers, 4)
    for oid in plan.parts:
        assert sum(any(oid == name for name, _ in parts_of(x)) for x in plan.layers) > 1
        assert sum(any(oid in dict(parts_of(layer)) for layer in shard) for shard in shards) == 1


def test_every_layer_is_in_one_shard() -> None:
    plan = plan_of(30 * GB, *[3 * GB] * 7)
    shards = split_shards(plan.layers, 3)
    shared = [layer.key for shard in shards for layer in shard]
    assert sorted(shared) == sorted(layer.key for layer in plan.layers)


def test_shards_are_balanced_by_bytes() -> None:
    plan = plan_of(*[at * GB for at in range(1, 9)])
    loads = [sum(layer.size_bytes for layer in shard) for shard in split_shards(plan.layers, 4)]
    assert max(loads) < 1.34 * sum(loads) / 4


def part(oid: str, number: int) -> Content:
    return Content(oid * 64, 20, ByteRange(10 * number - 10, 10 * number), number, 2)


def test_files_that_share_a_layer_share_a_unit() -> None:
    first, second = Layer("f", (part("a", 1),)), Layer("f", (part("b", 1),))
    both = Layer("f", (part("a", 2), part("b", 2)))
    assert group_by_file([both, second, first]) == [(second, first, both)]


def test_parts_that_wait_for_each_other_are_refused() -> None:
    crossed = [Layer("f", (part("a", 1), part("b", 2))), Layer("f", (part("a", 2), part("b", 1)))]
    with pytest.raises(InputError, match="no order of the parts of files fits"):
        group_by_file(crossed)


def change(document: Any, place: str, value: object) -> None:
    """Set a value by its place: ``snapshot.files[0].size``; None takes the key away."""
    *parents, last = re.findall(r"\w+", place)
    for key in parents:
        document = document[int(key) if key.isdigit() else key]
    last = int(last) if last.isdigit() else last
    if value is None:
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("snapshot", None, "plan.snapshot: want an object, got nothing"),
        ("snapshot.commit", "main", "plan.snapshot.commit: want 40 hex digits, got 'main'"),
        ("snapshot.files", {}, "plan.snapshot.files: want a list, got an object"),
        ("snapshot.files[0].size", "7", "plan.snapshot.files[0].size: want a number"),
        ("snapshot.files[0].size", -1, "plan.snapshot.files[0].size: want a number"),
        ("snapshot.files[0].size", 2**70, "plan.snapshot.files[0].size: want a number"),
        ("snapshot.files[0].sha256", "x", "plan.snapshot.files[0].sha256: want 64 hex digits"),
        ("snapshot.license", ["mit"], "plan.snapshot.license: want a text, got a list"),
        ("snapshot.partial", "no", "plan.snapshot.partial: want true or false, got 'no'"),
        ("snapshot.committed_at", "now", "plan.snapshot.committed_at: want an ISO 8601 date"),
        ("snapshot.names", [1], "plan.snapshot.names: want a list of texts"),
        ("cache_root", 7, "plan.cache_root: want a text, got 7"),
        ("layer_limit", True, "plan.layer_limit: want a number of at least 1, got True"),
        ("format_version", 99, "plan.format_version: want 1 to"),
        ("layers", "x", "plan.layers: want a list, got 'x'"),
        ("layers[0]", "x", "plan.layers[0]: want an object, got 'x'"),
        ("layers[0].contents[0].oid", "f" * 64, "want the oid of a file of the snapshot"),
        ("layers[0].contents[0].end", 10**15, "plan.layers[0].contents[0]: want a part inside"),
        ("layers[0].contents[0].part", 2, "want each byte of the content"),
        ("layers[0].contents[0].start", 1, "want each byte of the content"),
        ("layers[1]", None, "want each byte of the content"),
        ("layers[0].contents", [], "want each byte of the content"),
    ],
)
def test_malformed_plan_is_refused_by_its_place(place: str, value: object, said: str) -> None:
    document = json.loads(json.dumps(plan_of(30 * GB, 1 * GB).to_json()))
    assert Plan.from_json(document) == plan_of(30 * GB, 1 * GB)
    change(document, place, value)
    with pytest.raises(ProtocolError) as caught:
        Plan.from_json(document)
    assert said in caught.value.message
