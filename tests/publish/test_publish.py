"""Publishing through the command line: a stand-in of the Hub, a real registry."""

import json
import re
from pathlib import Path

import pytest

from downloader.oci.digest import digest_of
from downloader.oci.manifest import CONFIG, MANIFEST, Index, Manifest, describe, parse_manifest
from downloader.publish.copy import put_blob
from downloader.receiver import receiver
from tests.support.fake_hub import HubServer, faults
from tests.support.faults import Fault
from tests.support.faulty_proxy import FaultyProxy
from tests.support.publish import (
    CARD,
    FILE_BYTES,
    MANY,
    MIB,
    MODEL,
    OTHER,
    SPLIT,
    SPLIT_BYTES,
    WEIGHTS,
    Side,
    check_image,
    files_of,
    manifest_of,
    read_blob,
)

pytestmark = pytest.mark.docker


def test_every_file_arrives_bit_by_bit(side: Side) -> None:
    ran = side.publish(code=0)
    assert ran.out.splitlines()[-1].startswith(f"{side.name}:model@sha256:")
    check_image(side.store(), "model", MODEL)
    assert side.read_bytes() == 3 * FILE_BYTES


def test_an_unchanged_repo_moves_nothing(side: Side) -> None:
    first = side.publish("org/model", "--json").json
    side.forget()
    second = side.publish("org/model", "--json").json
    assert second["targets"][0]["digest"] == first["targets"][0]["digest"]
    assert second["targets"][0]["moved_bytes"] == 0
    assert second["targets"][0]["reused_bytes"] > 3 * FILE_BYTES
    assert side.hub.log().of(path="/resolve/") == []
    assert side.sent_bytes() == 0


def test_no_request_for_blobs_of_the_current_tag(side: Side) -> None:
    side.publish()
    side.forget()
    side.publish()
    assert side.proxy.of("HEAD") == []


def test_force_asks_for_every_blob_and_sends_the_lost_ones(side: Side) -> None:
    side.publish()
    [lost, *_] = manifest_of(side.store(), "model").layers
    path = f"/{side.repository}/blobs/{lost.digest}$"
    side.proxy.faults.append(Fault("lost", "HEAD", path, status=404))
    side.forget()
    ran = side.publish("org/model", "--force", "--json", code=0)
    assert ran.json["targets"][0]["moved_bytes"] == lost.size_bytes


def test_a_new_readme_moves_the_readme_and_the_last_layer(side: Side, hub: HubServer) -> None:
    hub.move(MODEL.key, "main", 0)
    side.publish()
    before = manifest_of(side.store(), "model").layers
    hub.move(MODEL.key, "main", 1)
    side.forget()
    assert side.publish("org/model").code == 0
    after = manifest_of(side.store(), "model").layers
    assert side.read_bytes() == 0
    assert side.sent_bytes() < 64 * 1024
    assert [old == new for old, new in zip(before, after, strict=True)].count(False) == 2
    check_image(side.store(), "model", MODEL)


def test_another_tag_gives_its_layers(side: Side, hub: HubServer) -> None:
    hub.move(MODEL.key, "main", 0)
    side.publish("org/model", "--tag", "v1")
    side.publish("org/other")
    hub.move(MODEL.key, "main", 1)
    side.forget()
    ran = side.publish("org/model", "--tag", "v2", "--json")
    assert ran.json["targets"][0]["moved_bytes"] < len(CARD) + 10_000
    assert side.read_bytes() == 0
    check_image(side.store(), "v2", MODEL)


def test_a_named_image_gives_its_layers(side: Side) -> None:
    side.publish()
    side.forget()
    assert "missing 15.8 MB" in side.publish("org/model", "--tag", "again", "--dry-run").err
    ran = side.publish("org/model", "--tag", "again", "--reuse", f"{side.name}:model", "--json")
    assert ran.json["targets"][0]["moved_bytes"] == 0
    assert side.read_bytes() == 0
    check_image(side.store(), "again", MODEL)


def test_another_repository_of_the_registry_gives_its_layers_by_mount(side: Side) -> None:
    side.publish()
    side.forget()
    other = f"{side.name}-copy"
    ran = side.publish("org/model", "--reuse", f"{side.name}:model", "--json", to=(other,))
    assert ran.json["targets"][0]["moved_bytes"] == 0
    assert side.read_bytes() == 0
    assert side.sent_bytes() < 64 * 1024 + len(receiver())  # each repository gets the programs
    check_image(side.store(f"{side.repository}-copy"), "model", MODEL)


def test_a_mount_that_is_refused_becomes_an_upload(side: Side) -> None:
    side.publish()
    side.proxy.faults.append(Fault("no mounts", "POST", "mount=", times=99, status=405))
    other = f"{side.name}-copy"
    side.publish("org/model", "--reuse", f"{side.name}:model", to=(other,), code=0)
    check_image(side.store(f"{side.repository}-copy"), "model", MODEL)


def test_a_file_larger_than_a_layer_is_split_and_whole_again(side: Side) -> None:
    ran = side.publish("org/split", "--layer-size", "4MiB", code=0)
    assert "big.bin part 4 of 4" in ran.out
    assert side.read_bytes() == SPLIT_BYTES
    check_image(side.store(), "split", SPLIT)
    largest = max(layer.size_bytes for layer in manifest_of(side.store(), "split").layers)
    assert largest <= 4 * MIB


def test_parts_that_were_finished_are_read_back_and_not_sent_again(side: Side) -> None:
    half = 7 * MIB
    side.hub.add_fault(
        faults.ServerError(path="*big.bin", origin="cdn", status=403, from_byte=half)
    )
    side.publish("org/split", "--layer-size", "4MiB", "--jobs", "1", code=3)
    side.hub.clear_faults()
    side.forget()
    second = side.publish("org/split", "--layer-size", "4MiB", "--json", code=0)
    assert second.json["targets"][0]["reused_bytes"] >= 2 * 3 * MIB
    assert side.read_bytes() < SPLIT_BYTES - 6 * MIB
    check_image(side.store(), "split", SPLIT)


def test_many_small_files_share_a_layer(side: Side) -> None:
    assert side.publish("org/many").code == 0
    check_image(side.store(), "many", MANY)


def test_two_targets_cost_one_read_of_the_hub(side: Side) -> None:
    other = f"{side.name}-two"
    ran = side.publish("org/model", "--json", to=(side.name, other), code=0)
    assert side.read_bytes() == 3 * FILE_BYTES
    digests = {target["digest"] for target in ran.json["targets"]}
    assert len(digests) == 1
    check_image(side.store(f"{side.repository}-two"), "model", MODEL)


def test_a_target_that_fails_does_not_stop_the_other(side: Side) -> None:
    with FaultyProxy(side.proxy.upstream) as broken:
        broken.faults.append(Fault("denied", "POST", times=999, status=403))
        ran = side.publish(
            "org/model", "--json", to=(f"{broken.host}/{side.repository}", side.name)
        )
    assert ran.code == 3
    bad, good = ran.json["targets"]
    assert bad["error"]
    assert bad["digest"] is None
    assert good["digest"]
    check_image(side.store(), "model", MODEL)


def test_a_target_that_is_down_does_not_stop_the_other(side: Side) -> None:
    ran = side.publish("org/model", "--json", to=("127.0.0.1:1/me/models", side.name), code=4)
    bad, good = ran.json["targets"]
    assert "no answer from 127.0.0.1" in bad["error"]["message"]
    assert good["digest"]
    check_image(side.store(), "model", MODEL)


def test_a_silent_target_is_waited_for_once(side: Side) -> None:
    with FaultyProxy(side.proxy.upstream) as silent:
        silent.faults.append(Fault("silent", times=999, silent=True))
        name = f"{silent.host}/{side.repository}"
        ran = side.publish("org/other", "--timeout", "1", to=(side.name, name))
        assert len(silent.seen) == 3  # --tries
    assert ran.code == 4
    assert "not used" not in ran.err
    check_image(side.store(), "other", OTHER)


def test_a_target_whose_tag_is_taken_does_not_stop_the_other(side: Side) -> None:
    taken = f"{side.name}-taken"
    side.publish("org/other", "--tag", "shared", to=(taken,))
    ran = side.publish("org/model", "--tag", "shared", "--json", to=(taken, side.name), code=2)
    bad, good = ran.json["targets"]
    assert "carries model org/other" in bad["error"]["message"]
    assert good["digest"]
    check_image(side.store(), "shared", MODEL)


def test_the_only_target_that_fails_is_in_the_document(side: Side) -> None:
    ran = side.publish("org/model", "--json", to=("127.0.0.1:1/me/models",), code=4)
    [bad] = ran.json["targets"]
    assert bad["image"] == "127.0.0.1:1/me/models:model"
    assert bad["error"]["message"] in ran.err
    assert ran.err.count(f"error: {bad['error']['message']}") == 1
    told = side.publish("org/model", to=("127.0.0.1:1/me/models",))
    assert "missing" not in told.out + told.err


def test_a_target_named_twice_is_published_once(side: Side) -> None:
    ran = side.publish("org/other", "--json", to=(side.name, side.name), code=0)
    assert len(ran.json["targets"]) == 1


@pytest.mark.parametrize("flag", ["--to", "--base", "--reuse"])
@pytest.mark.parametrize(
    "name",
    [
        "https://user:sekret@{host}/a",
        "user:sekret@{host}/a",
        "User:sekret@{host}",
        "user:pa/sekret@{host}",
        "user:sek$ret@{host}",
        "{host}/a?password=sekret",
    ],
)
def test_a_password_in_a_name_is_not_repeated(side: Side, flag: str, name: str) -> None:
    ran = side.publish("org/other", flag, name.format(host=side.proxy.host), code=2)
    assert not re.search(r"sek\$?ret", ran.out + ran.err)
    assert "docker login" in ran.err


def test_a_part_that_replaces_the_whole_file_is_noted(side: Side) -> None:
    side.publish("org/model")
    ran = side.publish("org/model", "--include", "*.json", code=0)
    assert f"{side.name}:model: carries the whole repo; a part takes its place" in ran.err
    assert "carries the whole" not in side.publish("org/model", "--include", "*.json").err


def test_an_unreachable_image_to_reuse_does_not_fail_the_publish(side: Side) -> None:
    ran = side.publish("org/model", "--reuse", "127.0.0.1:1/me/models:x", code=0)
    assert "127.0.0.1:1/me/models:x: not used" in ran.err


def test_a_target_that_lacks_layers_gets_only_those(side: Side) -> None:
    side.publish()
    side.forget()
    with FaultyProxy(side.proxy.upstream) as second:
        name = f"{second.host}/{side.repository}-late"
        ran = side.publish("org/model", "--json", to=(side.name, name), code=0)
    old, new = ran.json["targets"]
    assert old["moved_bytes"] == 0
    assert new["moved_bytes"] > 3 * FILE_BYTES
    assert side.sent_bytes() == 0


def test_a_target_mounts_what_another_of_its_registry_has(side: Side) -> None:
    side.publish()
    side.forget()
    late = f"{side.name}-late"
    ran = side.publish("org/model", "--json", to=(late, side.name), code=0)
    assert [target["moved_bytes"] for target in ran.json["targets"]] == [0, 0]
    assert side.read_bytes() == 0
    assert side.sent_bytes() < 64 * 1024 + len(receiver())  # each repository gets the programs
    check_image(side.store(f"{side.repository}-late"), "model", MODEL)


def test_two_fresh_targets_of_one_registry_take_each_byte_once(side: Side) -> None:
    twin = f"{side.name}-twin"
    ran = side.publish("org/model", "--json", to=(side.name, twin), code=0)
    moved = [target["moved_bytes"] for target in ran.json["targets"]]
    assert moved[0] > 3 * FILE_BYTES
    assert moved[1] == 0
    assert side.read_bytes() == 3 * FILE_BYTES
    ours_bytes = 64 * 1024 + len(receiver())  # each repository gets the programs
    assert side.sent_bytes() < 3 * FILE_BYTES + 2 * ours_bytes
    check_image(side.store(), "model", MODEL)
    check_image(side.store(f"{side.repository}-twin"), "model", MODEL)


def test_two_fresh_targets_of_a_registry_that_mounts_nothing(side: Side) -> None:
    side.proxy.faults.append(Fault("no mounts", "POST", "mount=", times=99, status=405))
    twin = f"{side.name}-twin"
    side.publish("org/split", "--layer-size", "4MiB", to=(side.name, twin), code=0)
    assert side.read_bytes() == SPLIT_BYTES  # from the Hub once, whatever the registry lacks
    check_image(side.store(f"{side.repository}-twin"), "split", SPLIT)


def test_a_mount_that_is_refused_later_on_becomes_an_upload(side: Side) -> None:
    refused = Fault("no more mounts", "POST", "mount=", times=1, status=405, skip=1)
    side.proxy.faults.append(refused)
    twin = f"{side.name}-twin"
    ran = side.publish("org/model", "--json", to=(side.name, twin), code=0)
    assert 0 < ran.json["targets"][1]["moved_bytes"] < 2 * FILE_BYTES
    check_image(side.store(f"{side.repository}-twin"), "model", MODEL)


def test_parts_are_mounted_too(side: Side) -> None:
    twin = f"{side.name}-twin"
    ran = side.publish("org/split", "--layer-size", "4MiB", "--json", to=(side.name, twin), code=0)
    assert ran.json["targets"][1]["moved_bytes"] == 0
    check_image(side.store(f"{side.repository}-twin"), "split", SPLIT)


def test_a_part_that_is_mounted_late_is_still_verified(side: Side) -> None:
    side.publish("org/split", "--layer-size", "4MiB")
    layers = manifest_of(side.store(), "split").layers
    part = max(layers, key=lambda layer: layer.size_bytes).digest.partition(":")[2]
    side.forget()
    mounted = f"mount=sha256%3A{part}"
    side.proxy.faults.append(Fault("not yet", "POST", mounted, times=1, status=405))
    late = f"{side.name}-late"
    ran = side.publish("org/split", "--layer-size", "4MiB", "--json", to=(side.name, late), code=0)
    assert [target["moved_bytes"] for target in ran.json["targets"]] == [0, 0]
    assert side.read_bytes() == 0
    assert side.proxy.of("GET", f"/blobs/sha256:{part}")  # hashed with the file's other parts
    check_image(side.store(f"{side.repository}-late"), "split", SPLIT)


def test_shards_become_one_image_without_a_model_byte(side: Side) -> None:
    for shard in ("1/3", "2/3", "3/3"):
        side.publish("org/model", "--shard", shard, code=0)
    assert side.read_bytes() == 3 * FILE_BYTES
    assert "model" not in side.store().list_tags()
    side.forget()
    ran = side.assemble("model", code=0)
    assert ran.out.startswith(f"{side.name}:model@sha256:")
    assert side.read_bytes() == 0
    assert side.sent_bytes() < 64 * 1024 + len(receiver())  # shards carry no programs
    check_image(side.store(), "model", MODEL)


def test_a_shard_prints_its_result_and_the_next_command(side: Side) -> None:
    ran = side.publish("org/model", "--shard", "2/3")
    assert ran.out.splitlines()[-1] == f"{side.name}:model.shard-2-of-3"
    assert f"once all 3 are there: hf-models assemble model --to {side.name}" in ran.err
    assert "model.shard-2-of-3" in side.store().list_tags()


def test_shards_give_the_same_image_as_one_run(side: Side) -> None:
    side.publish("org/model", "--shard", "1/2")
    side.publish("org/model", "--shard", "2/2")
    side.assemble("model")
    raw = side.store().get_manifest("model")
    whole = side.publish("org/model", "--json", to=(f"{side.name}-whole",)).json
    assert raw is not None
    assert raw.digest == whole["targets"][0]["digest"]


def test_a_missing_shard_is_named(side: Side) -> None:
    side.publish("org/model", "--shard", "1/3")
    side.publish("org/model", "--shard", "3/3")
    ran = side.assemble("model", code=2)
    assert "shards missing: 2/3" in ran.err
    assert "--shard 2/3" in ran.err
    assert "model" not in side.store().list_tags()


def test_assembling_again_finds_the_image(side: Side, tmp_path: Path) -> None:
    side.publish("org/other", "--shard", "1/2")
    side.publish("org/other", "--shard", "2/2")
    first = side.assemble("other", "--json").json
    again = side.assemble("other", "--revision", OTHER.sha, "--json", code=0)
    assert again.json["targets"] == first["targets"]
    plan = tmp_path / "plan.json"
    plan.write_text(side.run("plan", "org/other", "--json").out)
    planned = side.assemble("other", "--plan", str(plan), "--json")
    assert planned.json["targets"] == first["targets"]
    both = side.assemble("other", "--plan", str(plan), "--revision", OTHER.sha, code=2)
    assert "--plan and --revision exclude each other" in both.err
    unsure = side.assemble("other", code=2)
    assert f"the tag carries commit {OTHER.sha}" in unsure.err


def test_another_plan_of_the_same_commit_is_another_image(side: Side, tmp_path: Path) -> None:
    side.publish("org/model")
    plan = tmp_path / "plan.json"
    part = ("--include", "a.safetensors", "--layer-size", "6MiB")
    plan.write_text(side.run("plan", "org/model", *part, "--json").out)
    ran = side.assemble("model", "--plan", str(plan), code=0)
    assert "assembled already" not in ran.err
    assert WEIGHTS[1] not in "".join(files_of(side.store(), "model"))
    assert "assembled already" in side.assemble("model", "--plan", str(plan)).err


def test_assemble_reports_the_result_of_every_target(side: Side) -> None:
    side.publish("org/other", "--shard", "1/2")
    side.publish("org/other", "--shard", "2/2")
    down = "127.0.0.1:1/me/models"
    ran = side.assemble("other", "--to", down, "--tries", "1", "--json", code=4)
    good, bad = ran.json["targets"]
    assert good["digest"]
    assert good["error"] is None
    assert (bad["image"], bad["digest"]) == (f"{down}:other", None)
    assert "no answer from 127.0.0.1" in bad["error"]["message"]


def test_a_long_wait_is_reported(side: Side) -> None:
    busy = Fault("busy", "POST", status=429, headers={"Retry-After": "2"})
    side.proxy.faults.append(busy)
    ran = side.publish("org/other", code=0)
    [line] = [line for line in ran.err.splitlines() if "again in" in line]
    assert side.name in line
    assert line.endswith(": HTTP 429; again in 2 s")


@pytest.mark.parametrize("text", ["no JSON", "3", "{}", '{"plan": 3}'])
def test_a_file_that_is_no_plan_is_named(side: Side, tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    ran = side.publish("org/model", "--plan", str(path), code=2)
    assert f"{path} is no plan" in ran.err


def test_assemble_without_shards_is_an_error(side: Side) -> None:
    ran = side.assemble("model", code=2)
    assert "model: no shards" in ran.err


def test_assemble_with_the_number_of_shards_lists_no_tags(side: Side) -> None:
    side.publish("org/model", "--shard", "1/2")
    side.publish("org/model", "--shard", "2/2")
    side.proxy.faults.append(Fault("no listing", "GET", "/tags/list", times=99, status=403))
    side.assemble("model", "--shards", "2", code=0)
    check_image(side.store(), "model", MODEL)


@pytest.mark.parametrize("status", [200, 401, 403, 404, 405])
def test_assemble_asks_for_shards_by_name_where_tags_are_not_listed(
    side: Side, status: int
) -> None:
    side.publish("org/model", "--shard", "1/3")
    side.publish("org/model", "--shard", "2/3")
    refused = Fault("refused", "GET", "/tags/list", times=99, status=status, body=b"<html>")
    side.proxy.faults.append(refused)
    missing = side.assemble("model", code=2)
    assert "shards missing: 3/3" in missing.err
    side.publish("org/model", "--shard", "3/3")
    side.assemble("model", code=0)
    check_image(side.store(), "model", MODEL)


def test_assemble_without_listing_and_shards_names_the_flag(side: Side) -> None:
    side.proxy.faults.append(Fault("refused", "GET", "/tags/list", times=99, status=403))
    ran = side.assemble("model")
    assert ran.code != 0
    assert "--shards N" in ran.err


def test_shards_of_two_commits_need_a_revision(side: Side, hub: HubServer) -> None:
    side.publish("org/model", "--shard", "1/2")
    hub.move(MODEL.key, "main", 0)
    side.publish("org/model", "--shard", "2/2")
    ran = side.assemble("model", code=2)
    assert "--revision COMMIT" in ran.err
    hub.move(MODEL.key, "main", 1)
    side.publish("org/model", "--shard", "2/2")
    assert side.assemble("model", "--revision", MODEL.sha).code == 0
    check_image(side.store(), "model", MODEL)


def test_after_assembly_no_tag_names_a_shard(side: Side) -> None:
    side.publish("org/model", "--shard", "1/1")
    store = side.store()
    assert "model.modelpack" in store.list_tags()
    for tag in set(store.list_tags()) - {"model.modelpack"}:
        # The registry may not let anybody delete; then the tag names the finished image.
        raw, image = store.get_manifest(tag), store.get_manifest("model")
        assert raw is not None
        assert image is not None
        assert raw.digest == image.digest


def test_publish_follows_the_plan_of_a_file(side: Side, hub: HubServer, tmp_path: Path) -> None:
    planned = side.run("plan", "org/model", "--layer-size", "6MiB", "--json")
    path = tmp_path / "plan.json"
    path.write_text(planned.out)
    hub.move(MODEL.key, "main", 0)
    assert side.publish("org/model", "--plan", str(path)).code == 0
    check_image(side.store(), "model", MODEL)
    for wrong, said in {
        ("org/other",): "is a plan of model org/model, not of model org/other",
        ("org/model", "--repo-type", "dataset"): "org/model, not of dataset org/model",
        ("org/model", "--revision", "main"): "--plan and --revision exclude each other",
        ("org/model", "config.json"): "--plan and FILE exclude each other",
        ("org/model", "--layer-size", "2MiB"): "--plan and --layer-size exclude each other",
    }.items():
        ran = side.publish(*wrong, "--plan", str(path), code=2)
        assert said in ran.err


def test_a_gated_repo_is_refused_before_the_first_byte(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    ran = side.publish("org/gated", code=2)
    assert "--allow-gated" in ran.err
    assert side.proxy.of("POST") == []
    assert side.hub.log().of(path="/resolve/") == []
    assert side.publish("org/gated", "--allow-gated").code == 0


def test_a_tag_of_another_repo_is_not_overwritten(side: Side) -> None:
    side.publish("org/other", "--tag", "shared")
    before = side.store().get_manifest("shared")
    ran = side.publish("org/model", "--tag", "shared", code=2)
    assert "carries model org/other" in ran.err
    assert side.store().get_manifest("shared") == before
    assert side.publish("org/model", "--tag", "shared", "--force").code == 0
    check_image(side.store(), "shared", MODEL)


def test_force_overwrites_an_unreadable_tag(side: Side) -> None:
    store = side.store()
    config = b'{"config": {}}'
    put_blob(store, config, digest_of(config))
    foreign = Manifest(describe(config, CONFIG), ())
    store.put_manifest("other", foreign.to_bytes(), MANIFEST)
    unreadable = Fault("denied", "GET", f"/blobs/{digest_of(config)}", times=99, status=403)
    side.proxy.faults.append(unreadable)
    assert side.publish("org/other").code == 3
    assert side.publish("org/other", "--force").code == 0
    check_image(store, "other", OTHER)


def test_a_dry_run_moves_nothing_and_prints_the_plan(side: Side) -> None:
    ran = side.publish("org/model", "--dry-run", "--json", code=0)
    assert ran.json["targets"][0]["missing_bytes"] > 3 * FILE_BYTES
    assert "missing 15.8 MB" in side.publish("org/model", "--dry-run").err
    assert f"{side.name}:model\n" not in side.publish("org/model", "--dry-run").out
    assert side.proxy.of("POST") == []
    assert side.store().list_tags() == []


def test_both_platforms_share_every_model_layer(side: Side) -> None:
    side.publish()
    store = side.store()
    amd64, arm64 = (manifest_of(store, "model", name) for name in ("amd64", "arm64"))
    assert amd64.layers == arm64.layers
    for manifest, name in ((amd64, "amd64"), (arm64, "arm64")):
        config = json.loads(read_blob(store, manifest.config))
        assert (config["os"], config["architecture"]) == ("linux", name)
        assert config["rootfs"]["diff_ids"] == [layer.digest for layer in manifest.layers]


def test_the_index_carries_a_modelpack_manifest_over_the_same_blobs(side: Side) -> None:
    side.publish()
    store = side.store()
    image, model = manifest_of(store, "model"), manifest_of(store, "model", "unknown")
    assert model.artifact_type == "application/vnd.cncf.model.manifest.v1+json"
    assert [layer.digest for layer in model.layers] == [layer.digest for layer in image.layers]
    config = json.loads(read_blob(store, model.config))
    assert config["modelfs"]["diffIds"] == [layer.digest for layer in model.layers]
    assert config["descriptor"]["revision"] == MODEL.sha


def test_no_modelpack_leaves_two_platforms(side: Side) -> None:
    side.publish("org/model", "--no-modelpack")
    raw = side.store().get_manifest("model")
    assert raw is not None
    index = parse_manifest(raw.data)
    assert isinstance(index, Index)
    assert [str(item.platform) for item in index.manifests] == ["linux/amd64", "linux/arm64"]


def test_labels_are_annotations_of_the_index(side: Side) -> None:
    side.publish()
    raw = side.store().get_manifest("model")
    assert raw is not None
    notes = parse_manifest(raw.data).annotations
    assert notes["org.opencontainers.image.revision"] == MODEL.sha
    assert notes["org.opencontainers.image.licenses"] == "MIT"


def test_no_secret_is_in_the_image_or_the_output(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    ran = side.publish("org/gated", "--allow-gated")
    store = side.store()
    texts = [ran.out, ran.err, *(str(content) for content in files_of(store, "gated").values())]
    manifest = manifest_of(store, "gated")
    texts += [str(manifest), read_blob(store, manifest.config).decode()]
    assert not any("hf_alice" in text for text in texts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "4/3"), "want a shard like 3/8"),
        (("--memory", "64MiB"), "raise --memory"),
        (("--memory", "lots"), "want a size like 256MiB"),
        (("--layer-size", "5kB"), "want a layer size of at least 1MiB, got '5kB'"),
        (("--username", "me"), "--username and --password-stdin need each other"),
        (("--tag", "x" * 125), "want a tag of at most 115 characters, got one of 125"),
        (("--revision", "main", "--plan", "/dev/null"), "/dev/null is no plan in JSON"),
        (("--base", "127.0.0.1:1/none:x", "--tries", "1"), "no answer from 127.0.0.1"),
    ],
)
def test_a_wrong_flag_is_named_before_anything_moves(
    side: Side, arguments: tuple[str, ...], said: str
) -> None:
    ran = side.publish("org/model", *arguments)
    assert ran.code in {2, 4}
    assert said in ran.err
    assert side.proxy.of("POST") == []


def test_an_artifact_is_no_base(side: Side) -> None:
    side.publish("org/model", "--shard", "1/2")
    ran = side.publish("org/model", "--base", f"{side.name}:model.shard-1-of-2", code=2)
    assert "want an image, got an artifact" in ran.err


def test_a_base_for_one_platform_makes_an_image_for_one(side: Side) -> None:
    side.publish("org/other")
    raw = side.store().get_manifest("other")
    assert raw is not None
    base = parse_manifest(raw.data)
    assert isinstance(base, Index)
    arm64 = f"{side.name}@{base.manifests[1].digest}"
    ran = side.publish("org/other", "--base", arm64, "--tag", "arm64", "--no-modelpack", code=0)
    assert f"base image {arm64} has no linux/amd64" in ran.err
    made = side.store().get_manifest("arm64")
    assert made is not None
    index = parse_manifest(made.data)
    assert isinstance(index, Index)
    assert [str(item.platform) for item in index.manifests] == ["linux/arm64"]


def test_a_base_is_copied_and_its_config_kept(side: Side) -> None:
    side.publish("org/other")
    side.publish("org/model", "--base", f"{side.name}:other", "--tag", "based", code=0)
    manifest = manifest_of(side.store(), "based")
    base = manifest_of(side.store(), "other")
    assert manifest.layers[: len(base.layers)] == tuple(
        type(layer)(layer.media_type, layer.digest, layer.size_bytes) for layer in base.layers
    )
    notes = manifest.annotations
    assert notes["org.opencontainers.image.base.name"] == f"{side.name}:other"
    assert CARD in files_of(side.store(), "based").values()
