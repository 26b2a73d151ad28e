"""The manifests for clusters: by a closed schema, and by what their containers do, under Docker."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.docker import docker, load_offline
from tests.support.make_image import COMMIT, put_ours
from tests.support.restore import FILES, FOLDER, registry, restored
from tests.support.schemas import ID, NAME, QUANTITY, TEXT, TRUE, closed, listed

DIRECTORY = Path(__file__).parents[2] / "docs" / "kubernetes"
PATH = {"type": "string", "pattern": "^/"}
FALSE = {"const": False}

# Source: Kubernetes 1.33 API reference, core/v1 PodSpec, Volume (ImageVolumeSource) and
# VolumeMount; only the fields that are used, so that a misspelt or misplaced one is an error.
VOLUME = {
    "oneOf": [
        closed(
            {
                "name": NAME,
                "image": closed(
                    {"reference": TEXT, "pullPolicy": {"enum": ["Always", "Never", "IfNotPresent"]}}
                ),
            }
        ),
        closed({"name": NAME, "emptyDir": closed({"sizeLimit": QUANTITY})}),
    ]
}
MOUNT = closed(
    {"name": NAME, "mountPath": PATH},
    subPath={"type": "string", "pattern": "^[^/]"},
    readOnly={"type": "boolean"},
)
CONTAINER = closed(
    {
        "name": NAME,
        "image": TEXT,
        "command": listed(TEXT),
        "volumeMounts": listed(MOUNT),
        "resources": closed(
            {"requests": closed({"cpu": {"pattern": r"^\d+m?$"}, "memory": QUANTITY})}
        ),
        "securityContext": closed(
            {
                "allowPrivilegeEscalation": FALSE,
                "readOnlyRootFilesystem": TRUE,
                "capabilities": closed({"drop": {"const": ["ALL"]}}),
            }
        ),
    },
    args=listed(TEXT),
    env=listed(closed({"name": TEXT, "value": TEXT})),
)
POD = closed(
    {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "Pod"},
        "metadata": closed({"name": NAME}),
        "spec": closed(
            {
                "automountServiceAccountToken": FALSE,
                "securityContext": closed(
                    {
                        "runAsNonRoot": TRUE,
                        "runAsUser": ID,
                        "runAsGroup": ID,
                        "seccompProfile": closed({"type": {"const": "RuntimeDefault"}}),
                    },
                    fsGroup=ID,
                ),
                "volumes": listed(VOLUME),
                "containers": listed(CONTAINER),
            },
            initContainers=listed(CONTAINER),
        ),
    }
)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DIRECTORY / name).read_text())
    return found


@pytest.mark.parametrize("name", ["image-volume.yaml", "init-container.yaml"])
def test_the_manifest_fits_the_api(name: str) -> None:
    pod = read(name)
    jsonschema.validate(pod, POD)
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def user_of(pod: dict[str, Any]) -> str:
    context = pod["spec"]["securityContext"]
    return f"--user={context['runAsUser']}:{context['runAsGroup']}"


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """An image with a base and `export`, as `build` makes them, in the registry and the engine."""
    name, store = registry()
    put_ours(store, FILES)
    context = tmp_path / "context"
    restored(name, context / "hub")
    shutil.rmtree(context / "hub" / ".locks")
    shutil.copy(Path(__file__).parents[2] / "downloader" / "export.sh", context / "export")
    dockerfile = "FROM busybox:stable-musl\nCOPY hub /root/.cache/huggingface/hub\n"
    dockerfile += "COPY --chmod=755 export /usr/local/bin/export\n"
    dockerfile += "ENV HF_HUB_CACHE=/root/.cache/huggingface/hub\n"
    (context / "Dockerfile").write_text(dockerfile + "RUN chmod 755 /root\n")
    docker("build", "--quiet", "--tag", f"{name}:built", str(context))
    yield f"{name}:built"
    for tag in (f"{name}:built", name):
        subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, timeout=60)


@pytest.mark.docker
def test_a_reader_that_is_not_root_reads_the_image_volume(image: str) -> None:
    pod = read("image-volume.yaml")
    (container,) = pod["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    volume = f"type=image,source={image},target={mount['mountPath']}"
    snapshot = f"{mount['mountPath']}/{FOLDER}/snapshots/{COMMIT}"
    said = docker(
        *("run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", user_of(pod)),
        f"--mount={volume},image-subpath={mount['subPath']}",
        *("busybox:stable-musl", "sh", "-ec"),
        f"cd {snapshot}; cat vocab.txt config.json; wc -c < a.safetensors;"
        f" cat ../../refs/main ../../trees/*.json > /dev/null; ! touch x 2> /dev/null",
    )
    assert said == f"hello\n{FILES['config.json'].decode()}{len(FILES['a.safetensors'])}\n"


@pytest.mark.docker
def test_the_init_container_fills_a_volume_without_root(image: str, tmp_path: Path) -> None:
    pod = read("init-container.yaml")
    (container,) = pod["spec"]["initContainers"]
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)  # what fsGroup does for the pod's user
    (mount,) = container["volumeMounts"]
    docker(
        *("run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", user_of(pod)),
        f"-v={volume}:{mount['mountPath']}",
        *(image, *container["command"]),
    )
    rows = load_offline(volume, "org/model", "main")
    assert {path: size for _, path, size in rows} == {p: len(d) for p, d in FILES.items()}
