"""Job summaries as Markdown: what was planned, what was moved, and how to get it. Pure.

Source: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands,
"Adding a job summary": at most 1 MiB for a step.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from downloader.farm.catalog.page import COMMANDS
from downloader.farm.models import Model
from downloader.text import markdown
from downloader.units import format_bytes

OIDC_ISSUER = "https://token.actions.githubusercontent.com"
# The predicate that GitHub's attestation actions write, as cosign names it.
PREDICATE_TYPE = "slsaprovenance1"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; columns whose name starts with ``>`` are set right.

    >>> print(table(["layer", ">bytes"], [["a|b", 3]]))
    | layer | bytes |
    | --- | ---: |
    | a&#124;b | 3 |
    """
    rules = ["---:" if name.startswith(">") else "---" for name in columns]
    lines = [[name.lstrip(">") for name in columns], rules, *rows]
    return "\n".join(f"| {' | '.join(markdown(str(cell)) for cell in line)} |" for line in lines)


def commands(lines: Sequence[str]) -> str:
    """Return lines as a block that can be copied."""
    return "\n".join(["```sh", *lines, "```"])


def folded(title: str, body: str) -> str:
    """Return a part that opens on a click."""
    return f"<details><summary>{markdown(title)}</summary>\n\n{body}\n\n</details>"


def plan_summary(
    document: Mapping[str, Any],
    layers: Sequence[Sequence[str]],
    reason: str,
    images: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Return what is going to be published.

    Args:
        document: What `hf-models plan --json` prints.
        layers: Number, bytes, form and contents of each.
        reason: Why this engine was chosen.
        images: Where to, without tag.
        notes: What was left out, and why.
    """
    plan, jobs = document["plan"], document["matrix"]["include"]
    snapshot = plan["snapshot"]
    license_ = snapshot["license"] or "unknown"
    where = ", ".join(f"`{image}:{document['tag']}`" for image in images)
    files = (
        f"{_counted(len(snapshot['files']), 'file')}, {format_bytes(document['download_bytes'])}"
    )
    parts = [
        f"### {markdown(snapshot['repo_id'])} → {markdown(document['tag'])}",
        f"Commit `{snapshot['commit']}`, {files}, license {markdown(license_)}.",
        f"To {where}.",
        *(["\n".join(f"- {markdown(note)}" for note in notes)] if notes else []),
        f"Engine: {markdown(reason)}.",
        table(
            ["job", ">layers", ">bytes"],
            [(job["shard"], job["layers"], f"{job['size_bytes']:,}") for job in jobs],
        ),
        folded(
            _counted(len(layers), "layer"),
            table(["#", ">bytes", "form", "carries"], [_layer_row(*layer) for layer in layers]),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def shard_summary(share: str, document: Mapping[str, Any]) -> str:
    """Return what one job moved.

    Args:
        share: Of the layers: ``3/8``.
        document: What `hf-models publish --json` prints.
    """
    parts = [f"### {markdown(document['repo_id'])}, job {share}, {document['seconds']:.0f} s"]
    totals = [
        (
            target["image"],
            f"{target['moved_bytes']:,}",
            f"{target['reused_bytes']:,}",
            _rate(target["moved_bytes"], document["seconds"]),
            target["error"]["message"] if target["error"] else "done",
        )
        for target in document["targets"]
    ]
    parts.append(table(["to", ">bytes moved", ">reused", ">MB/s", "result"], totals))
    for target in document["targets"][:1]:
        rows = [(f"{i['size_bytes']:,}", i["status"], i["carries"]) for i in target["layers"]]
        parts.append(folded(_counted(len(rows), "layer"), table([">bytes", "", "carries"], rows)))
    return "\n\n".join(parts) + "\n"


def image_summary(
    model: Model,
    images: Sequence[str],
    signed: str,
    repository: str,
    *,
    is_bare: bool = False,
) -> str:
    """Return how to get the image, and how to check where it comes from.

    Args:
        model: What is published.
        images: Image names without tag.
        signed: The image by its digest, as it is attested.
        repository: ``OWNER/NAME`` on GitHub, whose workflow signed it.
        is_bare: Whether it has no base image, and so nothing that `docker run` could run.
    """
    first = f"{images[0]}:{model.tag}"
    ways = ["restore"] if is_bare else ["restore", "export"]
    parts = [
        f"### {markdown(model.tag)} is published",
        f"{markdown(model.repo.id)}, `{signed.rpartition('@')[2]}`",
        "Into the Hugging Face cache of any machine that reaches the registry:",
        *(commands([COMMANDS[way].format(image=first)]) for way in ways),
        "The image itself:",
        commands([COMMANDS["pull"].format(image=f"{image}:{model.tag}") for image in images]),
        "Where it comes from:",
        *(commands([line]) for line in verify_commands(signed, repository)),
    ]
    return "\n\n".join(parts) + "\n"


def verify_commands(image: str, repository: str) -> list[str]:
    """Return the commands that check that a workflow of ``repository`` published ``image``.

    The first works for public repositories, whose attestations are in Sigstore's public log;
    the second for private ones as well.
    """
    identity = rf"^https://github\.com/{re.escape(repository)}/\.github/workflows/"
    signer = f"--certificate-oidc-issuer {OIDC_ISSUER} --certificate-identity-regexp '{identity}'"
    return [
        f"cosign verify-attestation --type {PREDICATE_TYPE} {signer} {image}",
        f"gh attestation verify oci://{image} --repo {repository}",
    ]


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _layer_row(number: str, size_bytes: str, form: str, carries: str) -> tuple[str, str, str, str]:
    return number, f"{int(size_bytes):,}" if size_bytes else "", form, carries


def _rate(size_bytes: int, seconds: float) -> str:
    return f"{size_bytes / max(seconds, 0.001) / 1e6:.0f}"
