"""The farm on this machine: the workflow's own steps, each job a process with its own disk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from downloader.farm.jobs import Job
from downloader.farm.models import parse_models
from downloader.farm.summary import PREDICATE_TYPE, verify_commands
from downloader.net.http import HttpPool, HttpSettings
from downloader.oci.reference import parse_reference
from downloader.oci.registry_write import WritableRegistry
from downloader.plan import Plan, split_shards
from downloader.publish.checkpoint import Record, Shard, read_record
from tests.support.command import ROOT, Ran, call, hf_models, program
from tests.support.fake_hub import (
    Commit,
    File,
    Generated,
    HubProcess,
    HubSpec,
    Memory,
    Repo,
    faults,
    sha256_of,
    tiny_repo,
)
from tests.support.fake_sigstore import REQUEST_TOKEN, Sigstore
from tests.support.runner_job import JobRun

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

MIB = 1 << 20
FILES = 24
FILE_BYTES = 13 * MIB  # five of them are more than RECORD_BYTES: a kill leaves a record
JOBS = 4
DISK_BYTES = 2 * MIB  # of each job: less than one file of the model
DEADLINE_S = 120
TAG = "farmed"
# Its own mount namespace: what a job mounts, nobody else sees, and it ends with the job.
ON_OWN_DISK = """
mount -t tmpfs -o size=$DISK_BYTES tmpfs "$HOME" && cd "$HOME" && mkdir dist tmp &&
cp "$PLAN" dist/plan.json && exec "$PYTHON" -m downloader farm shard
"""


def weights(number: int, seed: int = 0) -> File:
    return File(f"model-{number:05d}.safetensors", Generated(FILE_BYTES, seed=seed + number))


def model() -> Repo:
    """Two commits; the second changes one of the large files."""
    small = (
        File("README.md", Memory(b"# A model\n")),
        File("config.json", Memory(b'{"model_type": "bert"}')),
    )
    first = Commit((*small, *(weights(number) for number in range(FILES))))
    changed = Commit((*small, weights(0, seed=1000), *(weights(n) for n in range(1, FILES))))
    return Repo("model", "org/farmed", (first, changed), branches={"main": 0})


MODEL = model()


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    closed = tiny_repo("org/closed", gated="auto", readers=("alice",))
    with HubProcess(HubSpec((MODEL, tiny_repo("org/tiny"), closed))) as server:
        yield server


@pytest.fixture
def image() -> str:
    """A repository of the test registry that nobody else uses."""
    registry = os.environ.get("HF_TEST_REGISTRY")
    assert registry, "HF_TEST_REGISTRY names no registry"
    return f"{registry}/farm-{uuid.uuid4().hex[:12]}/hf-models"


@dataclass
class Farm:
    """A run of the workflow: the jobs before and after the shards, and the shards' machines."""

    job: JobRun
    capsys: pytest.CaptureFixture[str]
    machines: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.job.directory

    @property
    def outputs(self) -> dict[str, str]:
        return self.job.outputs

    def run(self, step: str, **more: str) -> str:
        """Run a step that has to succeed; give what it said."""
        code = self.job.run(step, **more)
        said = "".join(self.capsys.readouterr())
        assert code == 0, said
        return said

    def refresh(self) -> list[dict[str, Any]]:
        """Run the step of refresh.yml; give what it printed as JSON."""
        code = self.job.call("refresh", "--json", "--github-output")
        said = self.capsys.readouterr()
        assert code == 0, said.err
        return list(json.loads(said.out)["models"])

    def start(self, name: str, shard: Shard) -> subprocess.Popen[str]:
        """Start a shard on a machine of its own: its home, its disk, its processes."""
        home = self.directory / name
        home.mkdir()
        own = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "HF_HOME": str(home / "hf")}
        own |= {"PLAN": str(self.directory / "dist/plan.json"), "SHARD": str(shard)}
        own |= {"GITHUB_STEP_SUMMARY": f"{home}.md", "DISK_BYTES": str(DISK_BYTES)}
        own |= {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        kept = {key: os.environ[key] for key in ("PATH", "DOCKER_HOST") if key in os.environ}
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n", "--preserve-env"]
        process = subprocess.Popen(
            [*as_root, "unshare", "--mount", "sh", "-c", ON_OWN_DISK],
            env=kept | self.job.env | self.job.read("GITHUB_ENV") | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.machines.append(process)
        return process

    def moved_bytes(self, name: str) -> int:
        """The bytes that a machine's own page says it moved."""
        return moved_bytes((self.directory / f"{name}.md").read_text())

    @property
    def shards(self) -> list[dict[str, Any]]:
        return list(json.loads(self.outputs["matrix"])["include"])


def finish(name: str, process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, f"{name}: {said}"


def job_json(image: str, **changes: Any) -> str:
    text = f'[[model]]\ntag = "{TAG}"\nrepo = "org/farmed"\nregistries = ["{image}"]\n'
    document = Job(parse_models(text).find(TAG)).to_json()
    return json.dumps(document | {"layer_size": "15MB"} | changes)


def docker_config(directory: Path) -> Path:
    """Make a Docker configuration of our own, with the plugins (buildx) of this machine's."""
    made = directory / "docker"
    made.mkdir()
    plugins = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "cli-plugins"
    if plugins.is_dir():
        (made / "cli-plugins").symlink_to(plugins)
    return made


@pytest.fixture
def farm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hub: HubProcess,
    image: str,
) -> Iterator[Farm]:
    hub.clear_faults()
    hub.move(MODEL, "main", 0)
    registry, _, name = image.partition("/")
    env = {
        "HF_ENDPOINT": hub.endpoint,
        "DOCKER_CONFIG": str(docker_config(tmp_path)),
        "BASE_IMAGE": "none",
        "SHARD_SIZE": str(FILES * FILE_BYTES // JOBS + MIB),
        "OTHER_REGISTRY": registry,
        "OTHER_REGISTRY_USER": "me",
        "OTHER_REGISTRY_PASSWORD": "canary-password",
        "OTHER_IMAGE_NAME": name,
        "GITHUB_REPOSITORY": "me/hf-models",
        "JOB": job_json(image),
    }
    made = Farm(JobRun(tmp_path, monkeypatch, env), capsys)
    yield made
    for process in made.machines:
        if process.returncode is None:
            kill(process)


def store_of(image: str) -> WritableRegistry:
    return WritableRegistry(parse_reference(image), HttpPool(HttpSettings()))


def wait_for_layers(image: str, shard: Shard, count: int) -> Record:
    """Wait until a shard's record in the registry names so many layers of large files."""
    store, end = store_of(image), time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        record = read_record(store, TAG, shard)
        sizes = [layer.size_bytes for layer in record.layers.values()] if record else []
        if record and sum(size > MIB for size in sizes) >= count:
            return record
        time.sleep(0.05)
    raise AssertionError(f"shard {shard} did not get to {count} layers")


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a job as a runner that vanishes does: all of it, without a word."""
    if os.geteuid() == 0:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        subprocess.run(["sudo", "-n", "kill", "-9", f"-{process.pid}"], check=True)
    process.communicate(timeout=DEADLINE_S)


def paths_of(plan: dict[str, Any], shard: Shard) -> list[str]:
    """The files that a shard carries, from the plan alone, as any machine could tell."""
    planned = Plan.from_json(plan)
    paths = {file.oid: file.path for file in planned.snapshot.files}
    layers = split_shards(planned.layers, shard.count)[shard.index - 1]
    return [paths[content.oid] for layer in layers for content in layer.contents]


def moved_bytes(summary: str) -> int:
    named = re.compile(rf":{TAG}(\.shard-\d+-of-\d+)? \|")
    row = next(line for line in summary.splitlines() if named.search(line))
    return int(row.split("|")[2].replace(",", ""))


@pytest.mark.mount
def test_assemble_after_two_shards_were_killed(
    farm: Farm, hub: HubProcess, image: str, tmp_path: Path
) -> None:
    farm.run("login")
    farm.run("plan")
    sizes = [shard["size_bytes"] for shard in farm.shards]
    assert len(sizes) == JOBS
    assert max(sizes) <= 1.1 * sum(sizes) / JOBS
    assert min(sizes) >= 0.9 * sum(sizes) / JOBS

    document = json.loads((tmp_path / "dist/plan.json").read_text())
    shards = [Shard(index, JOBS) for index in range(1, JOBS + 1)]
    victims, others = shards[1::2], shards[::2]
    for victim in victims:
        stalled = next(p for p in paths_of(document["plan"], victim) if p.startswith("model"))
        hub.add_fault(faults.StallAfter(path=f"*/{stalled}", origin="cdn", after_bytes=1000))
    running = {shard: farm.start(f"machine-{shard.index}", shard) for shard in shards}
    for victim in victims:
        wait_for_layers(image, victim, FILES // JOBS - 1)
        kill(running[victim])
    for shard in others:
        finish(f"machine-{shard.index}", running[shard])
        assert farm.moved_bytes(f"machine-{shard.index}") == sizes[shard.index - 1]
    hub.clear_faults()
    again = {victim: farm.start(f"again-{victim.index}", victim) for victim in victims}
    for victim, process in again.items():
        finish(f"again-{victim.index}", process)
        # What was finished before the kill is not sent again; small files may share a layer.
        assert farm.moved_bytes(f"again-{victim.index}") < FILE_BYTES + MIB

    farm.run("assemble")
    digest = farm.outputs["digest"]
    assert farm.outputs["image"] == image
    assert digest in farm.run("check", ENGINE="publish", DIGEST=digest, IMAGE=image)
    assert f"docker pull {image}:{TAG}" in farm.job.summary
    assert verify_commands(f"{image}@{digest}", "me/hf-models")[0] in farm.job.summary
    check_restored(farm, image, 0)
    farm.run("logout")
    check_no_secret(tmp_path)


def check_restored(farm: Farm, image: str, commit: int) -> None:
    """Restore the tag, without a Hub, and compare every file with the Hub's own."""
    cache = farm.directory / "cache"
    nowhere = "http://127.0.0.1:9"  # the discard port: nobody listens
    flags = [f"{image}:{TAG}", "--cache-dir", str(cache), "--quiet"]
    assert farm.job.call("restore", *flags, HF_ENDPOINT=nowhere) == 0
    wanted = MODEL.commits[commit]
    snapshot = cache / "models--org--farmed/snapshots" / wanted.sha
    found = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()}
    assert found == set(wanted.by_path)
    for path, file in wanted.by_path.items():
        digest = hashlib.sha256((snapshot / path).read_bytes()).hexdigest()
        assert digest == sha256_of(file.source), path


def check_no_secret(directory: Path) -> None:
    """The password is in nothing that a run shows, or keeps once it has logged out."""
    secrets = (b"canary-password", base64.b64encode(b"me:canary-password"))
    for path in directory.rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in secrets), path


def test_a_moved_branch_is_behind_and_costs_the_changed_layers_only(
    farm: Farm, hub: HubProcess, image: str, tmp_path: Path
) -> None:
    farm.job.env["SHARD_SIZE"] = "1TB"  # one job
    publish_all(farm)
    entry = f'[[model]]\ntag = "{TAG}"\nrepo = "org/farmed"\nregistries = ["{image}"]\n'
    (tmp_path / "models.toml").write_text(entry)
    assert [item["state"] for item in farm.refresh()] == ["current"]
    assert farm.outputs["count"] == "0"

    hub.move(MODEL, "main", 1)
    (found,) = farm.refresh()
    assert found["state"] == "behind"
    assert found["commit"] == MODEL.commits[1].sha
    assert found["published"] == {image: MODEL.commits[0].sha}
    (due,) = json.loads(farm.outputs["matrix"])["include"]
    farm.job.env["JOB"] = json.dumps(json.loads(due["job"]) | {"layer_size": "15MB"})
    (tmp_path / "GITHUB_STEP_SUMMARY").unlink()
    farm.run("plan")
    farm.run("shard", SHARD="1/1")
    _, page = farm.job.summary.split(", job 1/1,")
    assert FILE_BYTES <= moved_bytes(page) < FILE_BYTES + MIB
    farm.run("assemble")
    assert [item["state"] for item in farm.refresh()] == ["current"]
    check_restored(farm, image, 1)


@pytest.mark.parametrize(("repo", "jobs"), [("org/tiny", 1), ("org/farmed", JOBS)])
def test_the_workflow_signs_the_files_as_itself(
    farm: Farm, image: str, tmp_path: Path, repo: str, jobs: int
) -> None:
    farm.job.env["JOB"] = job_json(image, repo=repo)
    with Sigstore() as sigstore:
        config = sigstore.write_trust_config(tmp_path / "sigstore.json")
        farm.job.env |= sigstore.job_environment | {
            "SIGN_FILES": "true",
            "TRUST_CONFIG": str(config),
        }
        farm.run("login")
        farm.run("plan")
        for index in range(1, jobs + 1):
            farm.run("shard", SHARD=f"{index}/{jobs}")
        farm.run("assemble")
        check_signed(sigstore, image, config)


def test_the_action_signs_the_files_as_the_workflow_that_uses_it(
    farm: Farm, image: str, tmp_path: Path
) -> None:
    with Sigstore() as sigstore:
        config = sigstore.write_trust_config(tmp_path / "sigstore.json")
        farm.job.env |= sigstore.job_environment
        signing = {"sign": "true", "trust_config": str(config)}
        done = use_action(farm, tmp_path, repo_id="org/tiny", to=image, tag=TAG, **signing)
        assert done.code == 0, done.err
        assert REQUEST_TOKEN not in done.out + done.err
        check_signed(sigstore, image, config)


def check_signed(sigstore: Sigstore, image: str, config: Path) -> None:
    who = ("--identity", sigstore.identity, "--issuer", sigstore.url)
    ran = hf_models("verify", f"{image}:{TAG}", *who, "--trust-config", config, code=0)
    assert f"signed by {sigstore.identity}" in ran.out


def publish_all(farm: Farm) -> None:
    """Publish the job's model with one shard."""
    for step in ("login", "plan", "shard", "assemble"):
        farm.run(step, SHARD="1/1")


def publish_tiny(farm: Farm, image: str) -> None:
    farm.job.env["JOB"] = job_json(image, repo="org/tiny")
    publish_all(farm)


def test_refresh_tells_missing_gone_and_gated_apart(farm: Farm, image: str, tmp_path: Path) -> None:
    farm.run("login")
    entries = {"new": "org/tiny", "deleted": "org/none", "closed": "org/closed"}
    entries["elsewhere"] = "org/tiny"
    lines = [f'[[model]]\ntag = "{tag}"\nrepo = "{repo}"\n' for tag, repo in entries.items()]
    text = f'defaults.registries = ["{image}"]\n' + "".join(lines)
    # The last one names a registry where nobody logged in; the secrets name another.
    text += 'registries = ["ghcr.io/me/hf-models"]\n'
    (tmp_path / "models.toml").write_text(text)
    found = {item["tag"]: item for item in farm.refresh()}
    assert found["new"]["state"] == "missing"
    assert found["deleted"]["state"] == "gone"
    assert found["closed"]["state"] == "gated"  # the entry does not allow to publish it
    assert found["elsewhere"]["published"] == {image: None}
    due = json.loads(farm.outputs["matrix"])["include"]
    assert [item["tag"] for item in due] == ["new", "elsewhere"]


def test_refresh_in_a_fork_reads_the_forks_own_registry(
    farm: Farm, image: str, tmp_path: Path
) -> None:
    publish_tiny(farm, image)
    entries = {TAG: "org/farmed", "inherited": "org/tiny"}  # TAG has another commit: behind
    lines = [f'[[model]]\ntag = "{tag}"\nrepo = "{repo}"\n' for tag, repo in entries.items()]
    for owner, tags in (("upstream", [TAG]), ("me", list(entries))):
        defaults = f'[defaults]\nowner = "{owner}"\nregistries = ["{image}"]\n'
        (tmp_path / "models.toml").write_text(defaults + "".join(lines))
        farm.job.env["GITHUB_REPOSITORY_OWNER"] = "Me"
        states = {item["tag"]: item["state"] for item in farm.refresh()}
        assert states == {TAG: "behind", "inherited": "missing"}
        due = json.loads(farm.outputs["matrix"])["include"]
        assert [item["tag"] for item in due] == tags


def test_refresh_that_can_look_nowhere_is_an_error(farm: Farm, tmp_path: Path) -> None:
    entry = '[[model]]\ntag = "a"\nrepo = "org/tiny"\nregistries = ["ghcr.io/me/x"]\n'
    (tmp_path / "models.toml").write_text(entry)
    assert farm.job.call("refresh", "--github-output") == 4
    assert "no registry to look in" in farm.capsys.readouterr().err
    assert farm.outputs["count"] == "0"


@pytest.mark.tools("crane")
def test_check_finds_an_image_that_lacks_a_blob(farm: Farm, image: str) -> None:
    publish_tiny(farm, image)
    manifest = json.loads(run_tool("crane", "manifest", f"{image}:{TAG}", "--platform=linux/amd64"))
    registry, _, repository = image.partition("/")
    blob = f"http://{registry}/v2/{repository}/blobs/{manifest['layers'][0]['digest']}"
    with urllib.request.urlopen(urllib.request.Request(blob, method="DELETE")) as answer:
        assert answer.status == 202
    with pytest.raises(AssertionError, match="publish it again"):
        farm.run("check", ENGINE="publish", DIGEST=farm.outputs["digest"], IMAGE=image)


def test_check_finds_a_tag_that_names_another_image(farm: Farm, image: str) -> None:
    publish_tiny(farm, image)
    with pytest.raises(AssertionError, match=f"want sha256:{'0' * 64}, got sha256:"):
        farm.run("check", ENGINE="publish", DIGEST=f"sha256:{'0' * 64}", IMAGE=image)


ACTION = yaml.safe_load((ROOT / "action.yml").read_text())


def use_action(farm: Farm, directory: Path, **inputs: str) -> Ran:
    """Run the steps of action.yml, as in a workflow of another repository."""
    checkout, workspace = directory / "action", directory / "workspace"
    for made in (checkout, workspace):
        made.mkdir(exist_ok=True)
    for name in ("Makefile", "noxfile.py", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    given = {name: field.get("default", "") for name, field in ACTION["inputs"].items()}
    given |= {name.replace("_", "-"): value for name, value in inputs.items()}
    (step,) = [step for step in ACTION["runs"]["steps"] if "run" in step]
    assert step["env"]["INPUTS"] == "${{ toJSON(inputs) }}"
    own = {"INPUTS": json.dumps(given), "GITHUB_ACTION_PATH": str(checkout)}
    own |= {"GITHUB_ACTIONS": "true", "PYTHONPATH": str(ROOT), "HOME": str(workspace)}
    own |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    own |= {"GITHUB_OUTPUT": str(directory / "GITHUB_OUTPUT")}
    own |= {"GITHUB_STEP_SUMMARY": str(directory / "GITHUB_STEP_SUMMARY")}
    kept = {name: farm.job.env[name] for name in ("HF_ENDPOINT", "DOCKER_CONFIG", "BASE_IMAGE")}
    kept |= {name: value for name, value in farm.job.env.items() if name.startswith("ACTIONS_")}
    # The environment that this test runs in has what a session would install.
    nox = f'NOX="{sys.executable} -m nox --no-venv --no-install"'
    script = f"{step['run']} --assume-old=.venv/bin/nox {nox}"
    return program(step["shell"], "-c", script, code=None, cwd=workspace, env=kept | own)


def test_the_action_publishes_and_keeps_no_password(farm: Farm, image: str, tmp_path: Path) -> None:
    user = {"username": "me", "password": "canary-password"}
    done = use_action(farm, tmp_path, repo_id="org/tiny", to=image, tag=TAG, **user)
    said = done.out + done.err
    assert done.code == 0, said
    assert "hf-models publish --plan=dist/plan.json" in said
    assert farm.outputs["image"] == image
    found = store_of(image).get_manifest(TAG)
    assert found is not None
    assert farm.outputs["digest"] == found.digest
    assert "### org/tiny, job 1/1" in farm.job.summary
    assert "canary-password" not in said
    check_no_secret(tmp_path)


def test_the_action_that_fails_says_why(farm: Farm, image: str, tmp_path: Path) -> None:
    done = use_action(farm, tmp_path, repo_id="org/closed", to=image)
    assert done.code != 0
    (mark,) = [line for line in done.err.splitlines() if line.startswith("::")]
    assert re.match("::error title=hf-models::.*org/closed", mark)
    assert "**error** " in farm.job.summary


def run_tool(*command: str, cwd: Path = ROOT) -> str:
    return call(*command, cwd=cwd, env={"COSIGN_PASSWORD": ""})


@pytest.mark.tools("crane", "cosign")
def test_a_signature_and_an_attestation_of_the_pushed_digest_verify(
    farm: Farm, image: str, tmp_path: Path
) -> None:
    """What the workflow does with GitHub's identity, with a key pair on this machine."""
    publish_tiny(farm, image)
    subject = f"{image}@{farm.outputs['digest']}"
    local = ["--allow-insecure-registry", "--key"]
    run_tool("cosign", "generate-key-pair", cwd=tmp_path)
    key, public = str(tmp_path / "cosign.key"), str(tmp_path / "cosign.pub")
    unlogged = ["--tlog-upload=false", "--use-signing-config=false", "--yes"]
    run_tool("cosign", "sign", *unlogged, *local, key, subject)
    predicate = tmp_path / "predicate.json"
    predicate.write_text('{"buildDefinition": {}, "runDetails": {}}')
    about = ["--type", PREDICATE_TYPE, "--predicate", str(predicate)]
    run_tool("cosign", "attest", *unlogged, *about, *local, key, subject)

    offline = ["--insecure-ignore-tlog", *local, public]
    run_tool("cosign", "verify", *offline, subject)
    # The very command of the summary, with a key instead of GitHub's identity.
    words = shlex.split(verify_commands(subject, "me/hf-models")[0])
    at = words.index("--certificate-oidc-issuer")
    said = run_tool(*words[:at], *offline, words[-1])
    payload = json.loads(base64.b64decode(json.loads(said.splitlines()[0])["payload"]))
    assert payload["predicateType"] == "https://slsa.dev/provenance/v1"
    assert payload["subject"][0]["digest"]["sha256"] == farm.outputs["digest"][len("sha256:") :]

    unsigned = f"{image}-unsigned:{TAG}"
    run_tool("crane", "mutate", f"{image}:{TAG}", "--label=a=b", "--tag", unsigned)
    with pytest.raises(AssertionError, match="cosign"):
        run_tool("cosign", "verify", *offline, unsigned)


def test_the_docker_path_builds_pushes_and_checks(farm: Farm, image: str) -> None:
    local = f"farm-{uuid.uuid4().hex[:12]}"
    farm.job.env |= {"BASE_IMAGE": "", "HF_MODELS_IMAGE": local}
    farm.job.env["JOB"] = job_json(image, repo="org/tiny", engine="docker")
    farm.run("login")
    farm.run("plan")
    assert farm.outputs["engine"] == "docker"
    try:
        farm.run("build")
        farm.run("push")
    finally:
        run_tool("docker", "rmi", "--force", f"{local}:{TAG}")
    assert farm.outputs["image"] == image
    said = farm.run("check", ENGINE="docker", DIGEST=farm.outputs["digest"], IMAGE=image)
    assert farm.outputs["digest"] in said


def test_a_build_that_does_not_fit_this_runner_streams_instead(
    farm: Farm, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner that plans has room, the one that builds has not: they are not alike."""
    farm.job.env["JOB"] = job_json(image, repo="org/tiny", engine="prefer-docker")
    farm.run("login")
    farm.run("plan")
    assert farm.outputs["engine"] == "docker"
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    said = farm.run("build")
    assert "1.0 kB are free" in said
    assert farm.outputs["engine"] == "publish"
    assert farm.outputs["image"] == image
    farm.run("check", ENGINE="publish", DIGEST=farm.outputs["digest"], IMAGE=image)
