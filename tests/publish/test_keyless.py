"""Keyless signatures: made as a CI job's identity, checked offline, by us and by the others."""

import base64
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Ran, call, hf_models
from tests.support.docker import placed
from tests.support.fake_hub import HubSpec
from tests.support.fake_sigstore import REQUEST_TOKEN, Habits, Sigstore
from tests.support.publish import MODEL, Side
from tests.support.restore import restore, restored
from tests.support.signing import SIGNED, model_signing, signature_in

pytestmark = pytest.mark.docker

FLAG = "--sign-keyless"
OTHER_ISSUER = "https://token.actions.githubusercontent.com"
HUB = HubSpec((MODEL, SIGNED))


@pytest.fixture
def sigstore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sigstore]:
    """Give a private Sigstore, and be a job that may sign there."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))  # of sigstore's own files
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Sigstore() as made:
        for name, value in made.job_environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def config(sigstore: Sigstore, tmp_path: Path) -> Path:
    return sigstore.write_trust_config(tmp_path / "sigstore.json")


def publish(side: Side, config: Path, *more: str | Path, code: int | None = None) -> Ran:
    flags = (FLAG, "--trust-config", str(config), *map(str, more))
    return side.publish("org/signed", *flags, code=code)


def published(side: Side, config: Path, *more: str) -> Any:
    ran = publish(side, config, "--json", *more, code=0)
    return ran.json["targets"][0]


def by(sigstore: Sigstore, config: Path) -> tuple[str | Path, ...]:
    flags = ("--identity", sigstore.identity, "--issuer", sigstore.url)
    return (*flags, "--trust-config", config)


def test_official_tool_accepts_restored_files(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path
) -> None:
    published(side, config)
    flags = by(sigstore, config)
    [snapshot] = restored(f"{side.name}:signed", tmp_path / "c", *flags)["snapshots"]

    def verify(identity: str, code: int) -> None:
        model_signing(
            *("verify", "sigstore", snapshot["path"], "--allow_symlinks"),
            *("--signature", signature_in(tmp_path / "c"), "--trust_config", config),
            *("--identity", identity, "--identity_provider", sigstore.url),
            code=code,
        )

    verify(sigstore.identity, 0)
    verify("https://github.com/else/x/.github/workflows/y.yml@refs/heads/main", 1)
    (Path(snapshot["path"]) / "config.json").resolve().write_bytes(b"[]")
    verify(sigstore.identity, 1)


def test_signature_of_the_official_tool_is_accepted(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path
) -> None:
    published(side, config)
    [snapshot] = restored(f"{side.name}:signed", tmp_path / "c")["snapshots"]
    signature = signature_in(tmp_path / "c")
    signature.unlink()
    model_signing(
        *("sign", "sigstore", snapshot["path"], "--allow_symlinks", "--use_ambient_credentials"),
        *("--signature", signature, "--trust_config", config),
    )
    ran = hf_models("verify", tmp_path / "c", *by(sigstore, config), code=0)
    assert f"4 files, signed by {sigstore.identity} ({sigstore.url})" in ran.out


@pytest.mark.parametrize("kind", ["registry", "layout", "archive", "engine", "cache"])
def test_an_identity_is_checked_offline_wherever_the_image_is(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path, kind: str
) -> None:
    published(side, config)
    with placed(f"{side.direct_name}:signed", kind, tmp_path / "image") as name:
        sigstore.requests.clear()
        ran = hf_models("verify", name, *by(sigstore, config), "--json")
    assert ran.code == 0, ran.err
    [item] = ran.json["signed"]
    assert (item["identity"], item["issuer"]) == (sigstore.identity, sigstore.url)
    assert (item["key_id"], item["files"]) == (None, 4)
    assert sigstore.requests == []


def tamper(bundle: dict[str, Any]) -> None:
    statement = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    digest = json.loads(statement)["predicate"]["resources"][0]["digest"]
    other = statement.replace(digest.encode(), digest[::-1].encode())
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(other).decode()


def leave_out_entry(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = []


def leave_out_promise(bundle: dict[str, Any]) -> None:
    del bundle["verificationMaterial"]["tlogEntries"][0]["inclusionPromise"]


def move_integrated_time(bundle: dict[str, Any]) -> None:
    [entry] = bundle["verificationMaterial"]["tlogEntries"]
    entry["integratedTime"] = str(int(entry["integratedTime"]) + 1)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (tamper, 6, "invalid signature"),
        (leave_out_entry, 5, "log entry"),
        (leave_out_promise, 5, "inclusion promise"),
        (move_integrated_time, 6, "inclusion promise"),
    ],
)
def test_a_changed_bundle_is_refused(
    *,
    side: Side,
    sigstore: Sigstore,
    config: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    code: int,
    said: str,
) -> None:
    published(side, config)
    restored(f"{side.name}:signed", tmp_path / "c")
    signature = signature_in(tmp_path / "c")
    bundle = json.loads(signature.read_bytes())
    change(bundle)
    signature.write_text(json.dumps(bundle))
    ran = hf_models("verify", tmp_path / "c", *by(sigstore, config))
    assert (ran.code, said in ran.err) == (code, True), ran.err


@pytest.mark.parametrize("wrong", ["identity", "issuer", "sigstore"])
def test_restore_refuses_another_signer_before_the_first_byte(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path, wrong: str
) -> None:
    published(side, config)
    identity = "me@example.com" if wrong == "identity" else sigstore.identity
    issuer = OTHER_ISSUER if wrong == "issuer" else sigstore.url
    flags = ["--identity", identity, "--issuer", issuer]
    # Without a configuration the public instance is meant; its keys are in the package.
    flags += [] if wrong == "sigstore" else ["--trust-config", str(config)]
    ran = restore(f"{side.name}:signed", tmp_path / "c", *flags)
    assert (ran.code, "none of the trusted identities" in ran.err) == (6, True), ran.err
    assert not list((tmp_path / "c").glob("*/blobs/*"))


def test_a_log_that_saw_it_after_the_certificate_had_expired(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path
) -> None:
    sigstore.habits = Habits(log_is_late=timedelta(hours=1))
    published(side, config)
    restore(f"{side.name}:signed", tmp_path / "c", *by(sigstore, config), code=6)
    assert not list((tmp_path / "c").glob("*/blobs/*"))


def test_a_certificate_that_has_expired_since_is_right(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path
) -> None:
    published(side, config)
    restored(f"{side.name}:signed", tmp_path / "c")
    signature = signature_in(tmp_path / "c")
    payload = base64.b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"])
    yesterday = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    signature.write_bytes(sigstore.signed_at(payload, yesterday))
    hf_models("verify", tmp_path / "c", *by(sigstore, config), code=0)


def test_the_bundle_of_another_model_is_refused(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path
) -> None:
    published(side, config)
    side.publish("org/model", FLAG, "--trust-config", str(config), code=0)
    for tag in ("signed", "model"):
        restored(f"{side.name}:{tag}", tmp_path / "c")
    [of_model] = (tmp_path / "c").glob("models--org--model/signatures/*.json")
    signature_in(tmp_path / "c").write_bytes(of_model.read_bytes())
    ran = hf_models("verify", tmp_path / "c", *by(sigstore, config))
    assert (ran.code, "made for org/model, got it with org/signed" in ran.err) == (6, True), ran.err


@pytest.mark.tools("openssl")
def test_a_policy_names_keys_and_identities(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path
) -> None:
    published(side, config)
    key, public = tmp_path / "our.key", tmp_path / "our.pub"
    call("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
    call("openssl", "ec", "-in", str(key), "-pubout", "-out", str(public))
    assert side.publish("org/model", "--sign-key", str(key)).code == 0
    policy = tmp_path / "policy.toml"
    rule = """[[rules]]
repo = "org/*"
mode = "{}"
keys = ["our.pub"]
trust-config = "sigstore.json"

[[rules.identities]]
identity = "{}"
issuer = "{}"
"""
    policy.write_text(rule.format("enforce", sigstore.identity, sigstore.url))
    for tag in ("signed", "model"):  # either will do
        restore(f"{side.name}:{tag}", tmp_path / "c", "--policy", policy, code=0)
    policy.write_text(rule.format("enforce", "me@example.com", sigstore.url))
    image = f"{side.name}:signed"
    assert restore(image, tmp_path / "d", "--policy", policy).code == 6
    policy.write_text(rule.format("warn", "me@example.com", sigstore.url))
    ran = restore(image, tmp_path / "d", "--policy", policy)
    assert (ran.code, "the policy only warns" in ran.err) == (0, True)
    assert hf_models("verify", image, "--key", public).code == 6  # no key has signed
    ran = hf_models("verify", f"{side.name}:model", *by(sigstore, config))
    assert ran.code in {5, 6}, ran.err  # signed, by a key
    policy.write_text(rule.format("enforce", "x", "y").replace('issuer = "y"', ""))
    ran = restore(image, tmp_path / "d", "--policy", policy)
    assert (ran.code, "issuer" in ran.err) == (2, True), ran.err


def test_publishing_again_keeps_the_signature_and_logs_nothing(
    side: Side, sigstore: Sigstore, config: Path
) -> None:
    publish(side, config, "--dry-run", code=0)
    first = published(side, config)
    count = len(sigstore.rekor.leaves)
    again = published(side, config)
    assert (again["digest"], again["moved_bytes"]) == (first["digest"], 0)
    assert len(sigstore.rekor.leaves) == count == 6  # five were there before
    other = sigstore.oidc.token(job_workflow_ref="me/models/.github/workflows/x.yml@refs/heads/b")
    token = config.with_name("token")
    token.write_text(other)
    assert published(side, config, "--identity-token", str(token))["digest"] != first["digest"]


def test_shards_are_signed_when_they_are_assembled(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path
) -> None:
    for index in (1, 2):
        assert side.publish("org/signed", "--shard", f"{index}/2").code == 0
    side.assemble("signed", FLAG, "--trust-config", str(config), code=0)
    restored(f"{side.name}:signed", tmp_path / "c", *by(sigstore, config))


def test_a_person_signs_with_a_token_in_a_file(
    side: Side, sigstore: Sigstore, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS")
    token = tmp_path / "token"
    token.write_text(sigstore.oidc.token(email="me@example.com", email_verified=True) + "\n")
    published(side, config, "--identity-token", str(token))
    flags = ("--identity", "me@example.com", "--issuer", sigstore.url, "--trust-config", config)
    restored(f"{side.name}:signed", tmp_path / "c", *flags)
    sheet = hf_models("inspect", f"{side.name}:signed", "--report").out
    assert f"signed:     yes, by me@example.com ({sigstore.url})" in sheet
    assert "verify IMAGE --identity NAME --issuer URL" in sheet


@pytest.mark.parametrize(
    ("habits", "code", "said"),
    [
        (Habits(fulcio_status=403), 3, "answered 403"),
        (Habits(rekor_status=500), 3, "answered 500"),
        (Habits(oidc_status=500), 2, "id-token: write"),
    ],
)
def test_a_service_that_says_no_fails_without_a_token_in_any_line(
    *, side: Side, sigstore: Sigstore, config: Path, habits: Habits, code: int, said: str
) -> None:
    sigstore.habits = habits
    ran = publish(side, config, "--verbose")
    assert (ran.code, said in ran.err) == (code, True), ran.err
    assert REQUEST_TOKEN not in ran.out + ran.err
    assert "eyJ" not in ran.err  # how a JWT begins


def test_no_line_of_a_run_has_a_token(side: Side, config: Path) -> None:
    ran = publish(side, config, "--verbose", code=0)
    assert REQUEST_TOKEN not in ran.out + ran.err
    assert "eyJ" not in ran.out + ran.err


def test_no_service_is_a_transport_error(side: Side, sigstore: Sigstore, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(sigstore.oidc.token())
    with Sigstore() as gone:
        config = gone.write_trust_config(tmp_path / "gone.json")
    ran = publish(side, config, "--identity-token", token)
    assert (ran.code, "no answer" in ran.err) == (4, True), ran.err


@pytest.mark.parametrize("silent", ["/signingCert", "/log/entries"])
def test_a_service_that_is_silent_is_a_transport_error(
    side: Side, sigstore: Sigstore, config: Path, silent: str
) -> None:
    sigstore.habits = Habits(silent=silent)
    began = time.monotonic()
    ran = publish(side, config, "--timeout", "2")
    assert (ran.code, "no answer in 4 s" in ran.err) == (4, True), ran.err
    assert time.monotonic() - began < 60
    assert sum(silent in request for request in sigstore.requests) == 1


@pytest.mark.parametrize("home", ["cannot be written", "is damaged"])
def test_the_keys_that_came_with_sigstore_need_no_home(
    *,
    side: Side,
    sigstore: Sigstore,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    home: str,
) -> None:
    published(side, config)
    flags = ["--identity", sigstore.identity, "--issuer", sigstore.url]
    usual = hf_models("verify", f"{side.name}:signed", *flags)
    assert (usual.code, "none of the trusted identities" in usual.err) == (6, True), usual.err
    if home == "is damaged":
        kept = list((tmp_path / "data").rglob("*.json")) + list(
            (tmp_path / "cache").rglob("*.json")
        )
        assert len(kept) == 2
        for path in kept:
            path.write_bytes(path.read_bytes()[:1000])
    else:
        (tmp_path / "file").write_bytes(b"")
        for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
            monkeypatch.setenv(name, str(tmp_path / "file" / "home"))
    ran = hf_models("verify", f"{side.name}:signed", *flags)
    assert (ran.code, ran.err) == (6, usual.err)


def test_unusable_signing_key_is_refused_before_any_request(
    side: Side,
    sigstore: Sigstore,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = tmp_path / "token"
    token.write_text(sigstore.oidc.token(iat=1, nbf=1, exp=2))
    ran = publish(side, config, "--identity-token", token)
    assert (ran.code, "not expired" in ran.err) == (2, True), ran.err
    secret = sigstore.oidc.token()  # itself, not a file
    ran = publish(side, config, "--identity-token", secret)
    assert (ran.code, secret[-20:] in ran.err) == (2, False), ran.err
    assert publish(side, token).code == 2  # no trust configuration
    for flags in (("--identity-token", str(token)), ("--trust-config", str(config))):
        assert side.publish("org/signed", *flags).code == 2
    assert publish(side, config, "--sign-key", token).code == 2
    for flags in (("--identity", "x"), ("--issuer", "x"), ("--trust-config", str(config))):
        assert restore(f"{side.name}:signed", tmp_path / "c", *flags).code == 2
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    ran = publish(side, config)
    assert (ran.code, "id-token: write" in ran.err) == (2, True), ran.err
    monkeypatch.delenv("GITHUB_ACTIONS")
    ran = publish(side, config)
    assert (ran.code, "--identity-token FILE" in ran.err) == (2, True), ran.err
    assert len(sigstore.rekor.leaves) == 5


def test_without_the_extra_a_line_names_it(
    side: Side, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sigstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sigstore", None)
    ran = publish(side, config)
    assert (ran.code, "hf-models[sign]" in ran.err) == (2, True), ran.err
    wants = restore(f"{side.name}:signed", tmp_path, "--identity", "x", "--issuer", "y")
    assert (wants.code, "hf-models[sign]" in wants.err) == (2, True), wants.err
