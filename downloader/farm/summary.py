"""Job summaries as Markdown: the plan, the bytes moved, the commands to use the image. Pure.

Source: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands,
"Adding a job summary": at most 1 MiB for a step.
"""

import re
from collections.abc import Sequence

from downloader.farm.catalog.commands import command_line
from downloader.farm.catalog.page import SOURCE_URL
from downloader.farm.jobs import Job, shards_matrix
from downloader.farm.models import Model
from downloader.farm.steps import PlannedJob
from downloader.plan import OWN_LAYER_TITLES, Plan, layer_title
from downloader.publish import Outcome, Shard
from downloader.text import markdown, markdown_code
from downloader.units import format_bytes, format_count

OIDC_ISSUER = "https://token.actions.githubusercontent.com"
# The predicate that GitHub's attestation actions write, as cosign names it.
PREDICATE_TYPE = "slsaprovenance1"
INSTALL_URL = f"{SOURCE_URL}/blob/main/docs/install.md"
PRIVATE_AT_FIRST = (
    "A new package on GHCR is private: make it public once, under *Package settings*, "
    "or log in where you pull."
)


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
    job: Job, planned: PlannedJob, reason: str, images: Sequence[str], notes: Sequence[str]
) -> str:
    """Return what is going to be published.

    Args:
        job: The requested job.
        planned: The result of the step `plan`.
        reason: The reason for this engine.
        images: The destinations, without tag.
        notes: The registries left out, with reasons.
    """
    plan, tag = planned.plan, job.model.tag
    snapshot = plan.snapshot
    size = format_bytes(sum(snapshot.blobs.values()))
    files, license_ = format_count(len(snapshot.files), "file"), snapshot.license or "unknown"
    shards = shards_matrix(plan, planned.shards)["include"]
    layers = [
        (number, f"{layer.size_bytes:,}", layer_title(layer, plan))
        for number, layer in enumerate(plan.layers, 1)
    ]
    layers += [
        (number, "", title) for number, title in enumerate(OWN_LAYER_TITLES, len(layers) + 1)
    ]
    parts = [
        f"### {markdown(snapshot.repo.id)} → {markdown(tag)}",
        f"Commit `{snapshot.commit}`, {files}, {size}, license {markdown(license_)}.",
        f"To {', '.join(markdown_code(f'{image}:{tag}') for image in images)}.",
        *(["\n".join(f"- {markdown(note)}" for note in notes)] if notes else []),
        f"Engine: {markdown(reason)}.",
        table(
            ["job", ">layers", ">bytes"],
            [(item["shard"], item["layers"], f"{item['size_bytes']:,}") for item in shards],
        ),
        folded(
            format_count(len(layers), "layer"),
            table(["#", ">bytes", "carries"], layers),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def shard_summary(shard: Shard, plan: Plan, outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return what one job moved.

    Args:
        shard: The share of the layers.
        plan: The plan of the layers.
        outcomes: The result of each destination.
        seconds: Duration.
    """
    parts = [f"### {markdown(plan.snapshot.repo.id)}, job {shard}, {seconds:.0f} s"]
    totals = []
    for outcome in outcomes:
        moved_bytes, reused_bytes = outcome.moved_bytes, outcome.reused_bytes
        rate = f"{moved_bytes / max(seconds, 0.001) / 1e6:.0f}"
        result = outcome.error.message if outcome.error else "done"
        totals.append((outcome.name, f"{moved_bytes:,}", f"{reused_bytes:,}", rate, result))
    parts.append(table(["to", ">bytes moved", ">reused", ">MB/s", "result"], totals))
    for outcome in outcomes[:1]:
        rows = [
            (f"{layer.wire_bytes:,}", status, layer_title(layer, plan))
            for status, layers in (("moved", outcome.moved), ("reused", outcome.reused))
            for layer in layers
        ]
        parts.append(
            folded(format_count(len(rows), "layer"), table([">bytes", "", "carries"], rows))
        )
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
        model: The published model.
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
        f"Into the cache of any machine that reaches the registry ([install]({INSTALL_URL})):",
        *(commands([command_line(way, first)]) for way in ways),
        "The image itself:",
        commands([command_line("pull", f"{image}:{model.tag}") for image in images]),
        *([PRIVATE_AT_FIRST] if any(name.startswith("ghcr.io/") for name in images) else []),
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
