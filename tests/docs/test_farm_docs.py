"""docs/farm.md and its manifest: what they name exists, and what can run here was run."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from downloader.cli.assemble import assemble
from downloader.cli.plan import plan
from downloader.cli.publish import publish
from downloader.farm.destinations import KNOWN
from tests.support.command import ROOT, call, program
from tests.support.fake_hub import HubServer, make_repo
from tests.support.schemas import ID, NAME, QUANTITY, TEXT, TRUE, closed, listed

FARM = (ROOT / "docs/farm.md").read_text()
MANIFEST = ROOT / "docs/kubernetes/indexed-job.yaml"
# Source: Kubernetes 1.33 API reference, batch/v1 Job and core/v1 PodSpec; only the fields that
# are used, so that a misspelt or misplaced one is an error, as with the API server's
# `--validate=strict`.
ENV = {
    "oneOf": [
        closed({"name": TEXT, "value": TEXT}),
        closed(
            {
                "name": TEXT,
                "valueFrom": closed(
                    {"secretKeyRef": closed({"name": NAME, "key": TEXT}, optional=TRUE)}
                ),
            }
        ),
    ]
}
RESOURCES = closed(
    {
        "requests": closed({"cpu": QUANTITY, "memory": QUANTITY, "ephemeral-storage": QUANTITY}),
        "limits": closed({"memory": QUANTITY, "ephemeral-storage": QUANTITY}),
    }
)
CONTAINER = closed(
    {
        "name": NAME,
        "image": TEXT,
        "command": listed(TEXT),
        "args": listed(TEXT),
        "env": listed(ENV),
        "resources": RESOURCES,
        "securityContext": closed(
            {
                "allowPrivilegeEscalation": {"const": False},
                "readOnlyRootFilesystem": TRUE,
                "capabilities": closed({"drop": {"const": ["ALL"]}}),
            }
        ),
        "volumeMounts": listed(
            closed({"name": NAME, "mountPath": {"type": "string", "pattern": "^/"}}, readOnly=TRUE)
        ),
    }
)
VOLUME = {
    "oneOf": [
        closed({"name": NAME, "emptyDir": closed({})}),
        closed({"name": NAME, "configMap": closed({"name": NAME})}),
        closed(
            {
                "name": NAME,
                "secret": closed(
                    {"secretName": NAME, "items": listed(closed({"key": TEXT, "path": TEXT}))}
                ),
            }
        ),
    ]
}
POD = closed(
    {
        "restartPolicy": {"const": "Never"},
        "automountServiceAccountToken": {"const": False},
        "securityContext": closed(
            {
                "runAsNonRoot": TRUE,
                "runAsUser": ID,
                "runAsGroup": ID,
                "fsGroup": ID,
                "seccompProfile": closed({"type": {"const": "RuntimeDefault"}}),
            }
        ),
        "containers": listed(CONTAINER),
        "volumes": listed(VOLUME),
    }
)
JOB = closed(
    {
        "apiVersion": {"const": "batch/v1"},
        "kind": {"const": "Job"},
        "metadata": closed({"name": NAME}),
        "spec": closed(
            {
                "completionMode": {"const": "Indexed"},
                "completions": ID,
                "parallelism": ID,
                "backoffLimitPerIndex": ID,
                "maxFailedIndexes": {"type": "integer", "minimum": 0},
                "activeDeadlineSeconds": ID,
                "ttlSecondsAfterFinished": ID,
                "template": closed({"spec": POD}),
            }
        ),
    }
)


@pytest.fixture
def manifest() -> dict[str, Any]:
    return dict(yaml.safe_load(MANIFEST.read_text()))


def test_the_manifest_follows_the_schema_of_the_api(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, JOB)


@pytest.mark.parametrize(
    "path",
    ["spec.completionMod", "spec.template.spec.volume", "spec.template.spec.containers.0.envs"],
)
def test_the_schema_sees_a_misspelt_field(manifest: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    at: Any = manifest
    for key in parents:
        at = at[int(key) if key.isdigit() else key]
    at[last] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, JOB)


def environment(manifest: dict[str, Any]) -> dict[str, str]:
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    return {item["name"]: item.get("value", "") for item in container["env"]}


def test_the_manifest_has_one_pod_for_each_shard(manifest: dict[str, Any]) -> None:
    spec, shards = manifest["spec"], environment(manifest)["SHARDS"]
    assert str(spec["completions"]) == str(spec["parallelism"]) == shards
    assert f"--shards {shards} " in block("kubernetes")


def test_every_mount_of_the_manifest_has_its_volume(manifest: dict[str, Any]) -> None:
    pod = manifest["spec"]["template"]["spec"]
    mounted = [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]
    assert sorted(mounted) == sorted(volume["name"] for volume in pod["volumes"])


def test_the_commands_before_create_the_objects_that_the_manifest_mounts(
    manifest: dict[str, Any],
) -> None:
    volumes = {v["name"]: v for v in manifest["spec"]["template"]["spec"]["volumes"]}
    text = block("kubernetes")
    assert f"configmap {volumes['plan']['configMap']['name']} --from-file=plan.json" in text
    assert f"secret generic {volumes['docker']['secret']['secretName']} " in text
    assert f"job/{manifest['metadata']['name']}" in text


def block(name: str) -> str:
    """The commands below a marker of docs/farm.md."""
    match = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", FARM, re.DOTALL)
    assert match, name
    return match[1]


def test_every_flag_that_the_page_and_the_manifest_use_exists(manifest: dict[str, Any]) -> None:
    script = manifest["spec"]["template"]["spec"]["containers"][0]["args"][0]
    known = {"plan": plan, "publish": publish, "assemble": assemble}
    text = "\n".join([block("ssh"), block("kubernetes"), script]).replace("\\\n", " ")
    used = re.findall(r"hf-models (plan|publish|assemble)\b(.*)", text)
    assert len(used) == 6
    for command, rest in used:
        options = {name for parameter in known[command].params for name in parameter.opts}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= options


@pytest.mark.parametrize("name", ["farm.md", "farm.zh-CN.md"])
def test_the_page_names_every_secret_and_variable_of_the_workflows(name: str) -> None:
    workflows = [ROOT / ".github/workflows" / file for file in ("model.yml", "pages.yml")]
    text = "".join(path.read_text() for path in workflows)
    used = set(re.findall(r"(?:vars|secrets)\.([A-Z_]+)", text))
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", (ROOT / "docs" / name).read_text()))
    assert used <= named
    for known in KNOWN[1:]:  # GHCR has the job's own token
        assert {known.username, known.password} <= used


def put_program(directory: Path, name: str, text: str) -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


@pytest.mark.tools("crane")
@pytest.mark.docker
def test_the_commands_over_ssh_publish_a_model(tmp_path: Path) -> None:
    """The page's own lines; only `ssh` is ours: a host is a home directory of its own."""
    registry = os.environ.get("HF_TEST_REGISTRY")
    assert registry, "HF_TEST_REGISTRY names no registry"
    image = f"{registry}/ssh-{uuid.uuid4().hex[:12]}/hf-models"
    programs = tmp_path / "bin"
    programs.mkdir()
    base = 'case "$1" in assemble) set -- "$@" --base none;; esac'
    python = shlex.quote(sys.executable)
    put_program(programs, "hf-models", f'{base}\nexec {python} -m downloader "$@"')
    enter = 'mkdir -p "$HOSTS/$1" && export HOME="$HOSTS/$1" && cd "$HOME" && shift\n'
    put_program(programs, "ssh", f'{enter}echo "$*" > command && exec sh -c "$*"')
    (tmp_path / "hosts").write_text("alpha\nbeta\ngamma\n")
    repo = make_repo("org/spread", {f"{i}.bin": bytes([i]) * 2_000_000 for i in range(6)})
    with HubServer([repo]) as hub:
        env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        env |= {"REPO": repo.id, "TAG": "spread", "IMAGE": image, "HOSTS": str(tmp_path / "on")}
        env |= {"HF_ENDPOINT": hub.endpoint, "PYTHONPATH": str(ROOT)}
        program("sh", "-euc", block("ssh"), cwd=tmp_path, env=env)
    shares = {host: (tmp_path / "on" / host / "command").read_text() for host in ("alpha", "gamma")}
    assert "--shard 1/3" in shares["alpha"]
    assert "--shard 3/3" in shares["gamma"]
    index = json.loads(call("crane", "manifest", f"{image}:spread"))
    assert index["annotations"]["org.opencontainers.image.revision"] == repo.sha
