"""Signed content: written by publish, checked offline wherever the image goes, and by others."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from downloader import __version__
from downloader.image import labels, signature_tar
from downloader.plan import make_plan
from downloader.signing import load_keys, verify_bundle
from tests.support.command import call, hf_models
from tests.support.docker import placed
from tests.support.fake_hub import (
    Commit,
    File,
    Generated,
    HubSpec,
    Repo,
    read_all,
)
from tests.support.make_image import RawLayer, make_snapshot, our_layers, put_image
from tests.support.publish import MIB, MODEL, Side, manifest_of
from tests.support.restore import layout, restore, restored
from tests.support.signing import SIGNED, model_signing, signature_in

pytestmark = pytest.mark.docker

TOKENS = Repo(
    "model",
    "org/tokens",
    (Commit((File("tokenizer.json", Generated(3 * MIB + 5, seed=8), lfs=False),)),),
)
HUB = HubSpec((MODEL, SIGNED, TOKENS))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with two pairs of keys: ours and another's."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("our", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (directory / f"{name}.key").write_bytes(private)
        (directory / f"{name}.pub").write_bytes(public)
    return directory


def published(side: Side, keys: Path, *more: str) -> Any:
    ran = side.publish("org/signed", "--sign-key", str(keys / "our.key"), "--json", *more, code=0)
    return ran.json["targets"][0]


def test_official_tool_accepts_restored_files(side: Side, keys: Path, tmp_path: Path) -> None:
    published(side, keys)
    report = restored(f"{side.name}:signed", tmp_path, "--key", keys / "our.pub")
    snapshot, signature = report["snapshots"][0]["path"], signature_in(tmp_path)
    flags = ("--allow_symlinks", "--signature", signature)
    model_signing("verify", "key", snapshot, *flags, "--public_key", keys / "our.pub")
    model_signing("verify", "key", snapshot, *flags, "--public_key", keys / "other.pub", code=1)
    (Path(snapshot) / "config.json").resolve().write_bytes(b"[]")
    model_signing("verify", "key", snapshot, *flags, "--public_key", keys / "our.pub", code=1)


def test_signature_of_the_official_tool_is_accepted(side: Side, keys: Path, tmp_path: Path) -> None:
    published(side, keys)
    [snapshot] = restored(f"{side.name}:signed", tmp_path / "cache")["snapshots"]
    signature = signature_in(tmp_path / "cache")
    signature.unlink()
    flags = ("--allow_symlinks", "--signature", signature, "--private_key", keys / "other.key")
    model_signing("sign", "key", snapshot["path"], *flags)
    ran = hf_models("verify", tmp_path / "cache", "--key", keys / "other.pub", code=0)
    assert f"org/signed@{SIGNED.sha}: 4 files, signed by key" in ran.out
    assert hf_models("verify", tmp_path / "cache", "--key", keys / "our.pub").code == 6


@pytest.mark.parametrize("kind", ["registry", "layout", "archive", "gzip", "engine", "cache"])
def test_a_signature_is_checked_offline_wherever_the_image_is(
    side: Side, keys: Path, tmp_path: Path, kind: str
) -> None:
    published(side, keys)
    with placed(f"{side.direct_name}:signed", kind, tmp_path / "image") as name:
        ran = hf_models("verify", name, "--key", keys / "our.pub", "--json", code=0)
        assert [(item["repo_id"], item["files"]) for item in ran.json["signed"]] == [
            ("org/signed", 4)
        ]
        wrong = hf_models("verify", name, "--key", keys / "other.pub")
        assert (wrong.code, "none of the trusted keys" in wrong.err) == (6, True)


def test_a_signature_counts_for_its_repo_only(side: Side, keys: Path, tmp_path: Path) -> None:
    published(side, keys)
    restored(f"{side.name}:signed", tmp_path / "c")
    (tmp_path / "c/models--org--signed").rename(tmp_path / "c/models--org--other")
    ran = hf_models("verify", tmp_path / "c", "--key", keys / "our.pub")
    assert (ran.code, "made for org/signed, got it with org/other" in ran.err) == (6, True), ran.err
    same = {path: read_all(file.source) for path, file in SIGNED.files().items()}
    plan = make_plan(make_snapshot(same, "org/other"))
    bundle = next(tmp_path.glob("c/*/signatures/*.json")).read_bytes()
    data, notes = signature_tar(plan, bundle)
    layers, said = our_layers(plan, same), labels(plan)
    layers.insert(-1, RawLayer(data, annotations=notes))
    put_image(layout(tmp_path / "image"), layers, annotations=said)
    ran = restore(tmp_path / "image", tmp_path / "d", "--key", keys / "our.pub")
    assert (ran.code, "made for org/signed" in ran.err) == (6, True), ran.err
    assert not list((tmp_path / "d").glob("*/blobs/*"))
    assert restore(tmp_path / "image", tmp_path / "d").code == 0


def test_restore_refuses_before_the_first_byte(side: Side, keys: Path, tmp_path: Path) -> None:
    published(side, keys)
    restore(f"{side.name}:signed", tmp_path / "c", "--key", keys / "other.pub", code=6)
    side.publish("org/model")
    ran = restore(f"{side.name}:model", tmp_path / "c", "--key", keys / "our.pub")
    assert (ran.code, "is not signed" in ran.err) == (6, True)
    assert not list((tmp_path / "c").glob("*/blobs/*"))


def test_a_policy_insists_by_repo(side: Side, keys: Path, tmp_path: Path) -> None:
    published(side, keys)
    side.publish("org/model")
    policy = keys / "policy.toml"
    rule = '[[rules]]\nrepo = "{}"\nmode = "{}"\nkeys = ["our.pub"]\n'
    policy.write_text(rule.format("org/signed", "enforce") + rule.format("org/*", "warn"))
    cache = tmp_path / "c"
    assert restore(f"{side.name}:signed", cache, "--policy", policy).code == 0
    ran = restore(f"{side.name}:model", cache, "--policy", policy, "--quiet")
    assert (ran.code, ran.err.count("\n"), "the policy only warns" in ran.err) == (0, 1, True)
    policy.write_text(rule.format("org/*", "off"))
    assert restore(f"{side.name}:model", cache, "--policy", policy).code == 0
    policy.write_text(rule.format("org/*", "always"))
    ran = restore(f"{side.name}:model", cache, "--policy", policy)
    assert (ran.code, "off, warn or enforce" in ran.err) == (2, True)


def test_signing_again_changes_nothing_and_reads_no_large_file(side: Side, keys: Path) -> None:
    first = published(side, keys)
    side.hub.clear_log()
    again = published(side, keys)
    assert again["digest"] == first["digest"]
    assert again["moved_bytes"] == 0
    assert side.read_bytes() == 0
    assert side.publish("org/signed").code == 0  # without a key: the image has no signature
    layers = manifest_of(side.store(), "signed").layers
    assert not any("signature" in key for layer in layers for key in layer.annotations)


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_a_file_of_git_that_is_split_is_signed(
    side: Side, keys: Path, tmp_path: Path, compress: str
) -> None:
    flags = ["--layer-size", "1MiB", "--compress", compress, "--sign-key", str(keys / "our.key")]
    assert side.publish("org/tokens", *flags).code == 0
    restored(f"{side.name}:tokens", tmp_path / "c", "--key", keys / "our.pub")


def test_shards_are_signed_when_they_are_assembled(side: Side, keys: Path, tmp_path: Path) -> None:
    for index in (1, 2):
        assert side.publish("org/signed", "--shard", f"{index}/2").code == 0
    side.assemble("signed", "--sign-key", str(keys / "our.key"), code=0)
    restored(f"{side.name}:signed", tmp_path, "--key", keys / "our.pub")


def test_an_image_that_was_assembled_unsigned_is_signed(
    side: Side, keys: Path, tmp_path: Path
) -> None:
    for index in (1, 2):
        assert side.publish("org/signed", "--shard", f"{index}/2").code == 0
    assert side.assemble("signed").code == 0
    commit = ("--revision", SIGNED.sha)
    plain = manifest_of(side.store(), "signed").layers
    side.hub.clear_log()
    side.assemble("signed", *commit, "--sign-key", str(keys / "our.key"), code=0)
    restored(f"{side.name}:signed", tmp_path, "--key", keys / "our.pub")
    layers = manifest_of(side.store(), "signed").layers
    assert [*layers[:-2], layers[-1]] == list(plain)
    again = side.assemble("signed", *commit, "--sign-key", str(keys / "our.key"))
    assert (again.code, "signed already" in again.err) == (0, True), again.err
    plan = side.run("plan", "org/signed", "--json").json["plan"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    flags = ("--plan", str(tmp_path / "plan.json"), "--sign-key", str(keys / "other.key"))
    assert side.assemble("signed", *flags).code == 0
    restored(f"{side.name}:signed", tmp_path, "--key", keys / "other.pub")
    assert side.assemble("signed", *commit).out == side.assemble("signed", *commit).out
    assert side.read_bytes() == 0


def test_a_bundle_is_a_referrer_under_the_fallback_tag(side: Side, keys: Path) -> None:
    digest = published(side, keys)["digest"]
    tag = f"{side.direct_name}:sha256-{digest.removeprefix('sha256:')}"
    index = json.loads(call("oras", "manifest", "fetch", "--plain-http", tag))
    [entry] = index["manifests"]
    manifest = json.loads(
        call("oras", "manifest", "fetch", "--plain-http", f"{side.direct_name}@{entry['digest']}")
    )
    assert manifest["subject"]["digest"] == digest
    found = call("oras", "discover", "--plain-http", "--format=json", f"{side.direct_name}:signed")
    assert entry["digest"] in found
    blob = f"{side.direct_name}@{manifest['layers'][0]['digest']}"
    bundle = call("oras", "blob", "fetch", "--plain-http", "--output=-", blob).encode()
    assert len(verify_bundle(bundle, load_keys([keys / "our.pub"])).files) == 4


@pytest.mark.tools("cosign")
def test_cosign_signs_and_verifies_the_image_beside_the_statement(
    side: Side, keys: Path, tmp_path: Path
) -> None:
    image = f"{side.direct_name}@{published(side, keys)['digest']}"
    no_password = {"COSIGN_PASSWORD": ""}
    call("cosign", "generate-key-pair", cwd=tmp_path, env=no_password)
    local = ["--allow-insecure-registry", "--key"]
    unlogged = ["--tlog-upload=false", "--use-signing-config=false", "--yes"]
    key = f"{tmp_path}/cosign.key"
    call("cosign", "sign", *unlogged, *local, key, image, env=no_password)
    published(side, keys)  # keeps the referrers of others
    call("cosign", "verify", "--insecure-ignore-tlog", *local, f"{tmp_path}/cosign.pub", image)
    assert hf_models("verify", image, "--key", keys / "our.pub").code == 0


def test_inspect_prints_the_sheet(side: Side, keys: Path) -> None:
    published(side, keys)
    ran = hf_models("inspect", f"{side.name}:signed", "--report", code=0)
    lines = ran.out.splitlines()
    [key_id] = load_keys([keys / "our.pub"])
    assert f"commit:     {SIGNED.sha}" in lines
    assert f"built by:   hf-models {__version__}" in lines
    assert [line for line in lines if line.startswith(f"signed:     yes, by key {key_id}")]
    assert f"{SIGNED.files()['model.safetensors'].oid}  model.safetensors" in lines


def test_a_key_that_is_none_is_refused(side: Side, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "k").write_text("no key")
    assert side.publish("org/signed", "--sign-key", str(tmp_path / "k")).code == 2
    assert side.publish("org/signed", "--sign-key", str(keys / "our.pub")).code == 2
    assert restore(f"{side.name}:signed", tmp_path / "c", "--key", tmp_path / "k").code == 2
