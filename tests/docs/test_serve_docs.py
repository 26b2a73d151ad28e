"""The documents of `serve`: its flags exist, and its manifest names what it should."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from downloader.cli.serve import serve
from tests.support.command import ROOT

DOCS = ROOT / "docs"
FLAGS = {flag for option in serve.params for flag in option.opts}
OTHERS = {"--include", "--exclude", "--insecure", "--target"}  # of other commands


@pytest.mark.parametrize("name", ["serve.md", "serve.zh-CN.md", "kubernetes/serve.yaml"])
def test_every_flag_that_is_named_exists(name: str) -> None:
    text = (DOCS / name).read_text()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named - OTHERS <= FLAGS


def test_manifest_fits_together() -> None:
    found: dict[str, dict[str, Any]] = {
        document["kind"]: document
        for document in yaml.safe_load_all((DOCS / "kubernetes/serve.yaml").read_text())
    }
    assert set(found) == {"Deployment", "Service", "NetworkPolicy"}
    template = found["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    (container,) = template["spec"]["containers"]
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--listen=0.0.0.0:{ports['http']}" in container["args"]
    parsed = serve.make_context("serve", container["args"][1:])
    assert parsed.params["public"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
