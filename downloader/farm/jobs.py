"""The jobs of a workflow run, and the engine of each. Pure.

The run's inputs, a git tag, or a change of models.toml name them.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from downloader.errors import InputError
from downloader.farm.models import ENGINES, Engine, Model, Models
from downloader.hub.repo import Repo, Selection, parse_repo, parse_repo_name, parse_revision
from downloader.oci.reference import check_tag, parse_reference, tag_from_name
from downloader.plan import Plan, group_by_file, parse_compress, parse_layer_limit, split_shards
from downloader.units import format_bytes

# A job of this size takes some minutes at the 100 MB/s that hosted runners reach, and every
# job costs half a minute before its first byte.
SHARD_BYTES = 10 * 10**9
# GitHub's free plan runs 20 jobs at once; the others are left to other workflows.
MAX_SHARDS = 16
# A matrix of 257 jobs fails the run (docs.github.com, "Actions limits").
MAX_IMAGES = 256


@dataclass(frozen=True)
class Job:
    """One image to publish, as it travels from job to job.

    Args:
        model: The model to publish.
        is_exact: Whether to publish to the model's registries only, and not also to those
            that the repository's secrets name.
    """

    model: Model
    is_exact: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the job as `parse_job` reads it."""
        document = self.model.to_json()
        document.pop("line")  # of a file that the next job may not have
        return document | {"exact": self.is_exact}


def parse_job(text: str) -> Job:
    """Parse a job that another job of the workflow wrote.

    Raises:
        InputError: It is none.
    """
    try:
        document = json.loads(text)
        model = Model(
            tag=check_tag(document["tag"]),
            repo=parse_repo(document["repo"], document["type"]),
            revision=parse_revision(document["revision"]),
            selection=Selection((), tuple(document["include"]), tuple(document["exclude"])),
            layer_size=_layer_size(document["layer_size"]),
            compress=parse_compress(document["compress"]),
            registries=tuple(_registry(name) for name in document["registries"]),
            engine=_engine(document["engine"]),
            allow_gated=document["allow_gated"] is True,
            line=0,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"want a job as JSON, got {text[:80]!r}") from error
    return Job(model, document.get("exact") is True)


def jobs_of_inputs(inputs: Mapping[str, Any], models: Models) -> list[Job]:
    """Return the one job that the form of a manual run describes.

    Args:
        inputs: The fields, by name; an empty one was left as it is. Without ``repo_id``,
            ``tag`` names an entry of models.toml, and the other fields change it.
        models: The entries of models.toml.

    Raises:
        InputError: Neither repo nor tag is given, or a field cannot be used.
    """
    given = {key: value for key, value in inputs.items() if value not in {"", None}}
    given.pop("before", None)  # for `jobs_of_change`
    unknown = sorted(given.keys() - _FIELDS)
    if unknown:
        raise InputError(f"want only the fields {', '.join(sorted(_FIELDS))}, got {unknown[0]!r}")
    if "repo_id" not in given and "tag" not in given:
        raise InputError(
            "neither a repo id nor the tag of a model in models.toml is given",
            hint="fill in the field repo_id, e.g. Salesforce/codet5-small",
        )
    base = _new_model(given, models) if "repo_id" in given else models.find(given["tag"])
    registries = tuple(_registry(name) for name in _words(given, "registries"))
    model = replace(
        base,
        revision=parse_revision(given.get("revision", base.revision)),
        selection=_selection(given, base.selection),
        registries=registries or base.registries,
        engine=_chosen_engine(given, base.engine),
        allow_gated=given.get("allow_gated") is True or base.allow_gated,
    )
    return [Job(model, is_exact=bool(registries))]


_FIELDS = frozenset(
    ("repo_id", "repo_type", "revision", "include", "exclude", "tag", "engine", "registries")
) | {"allow_gated"}


def jobs_of_tag(tag: str, models: Models) -> list[Job]:
    """Return the job of a pushed git tag, which names an entry.

    Raises:
        InputError: No entry has that tag.
    """
    return [Job(models.find(tag))]


def jobs_of_change(models: Models, before: Models | None) -> list[Job]:
    """Return the jobs of the entries that are new or differ from the file before.

    Args:
        models: The file as it is.
        before: As it was; None where that is unknown, which means all of them: what the
            registry has already is not sent again.
    """
    known = {_content(model) for model in before} if before else set()
    return [Job(model) for model in models if _content(model) not in known]


def models_matrix(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return a job matrix with one job for each image."""
    return {
        "include": [
            {"tag": job.model.tag, "job": json.dumps(job.to_json(), ensure_ascii=False)}
            for job in jobs
        ]
    }


def shards_matrix(plan: Plan, count: int) -> dict[str, Any]:
    """Return a job matrix with one job for each shard, and what it carries.

    Args:
        plan: The plan whose layers are shared out.
        count: The most shards that there are to be; none of them is without a layer.
    """
    count = max(1, min(count, len(group_by_file(plan.layers))))
    shards = enumerate(split_shards(plan.layers, count), 1)
    return {
        "include": [
            {
                "shard": f"{index}/{count}",
                "layers": len(layers),
                "size_bytes": sum(layer.size_bytes for layer in layers),
            }
            for index, layers in shards
        ]
    }


def shard_count(plan: Plan, shard_bytes: int = SHARD_BYTES) -> int:
    """Return how many jobs share the layers of a plan, about ``shard_bytes`` each."""
    wanted = -(-plan.size_bytes // max(1, shard_bytes))
    return max(1, min(wanted, MAX_SHARDS, len(plan.layers)))


def _content(model: Model) -> str:
    return json.dumps(Job(model).to_json(), sort_keys=True)


def _new_model(given: Mapping[str, Any], models: Models) -> Model:
    repo: Repo = parse_repo_name(given["repo_id"], given.get("repo_type", "model")).repo
    tag = given.get("tag")
    return Model(
        tag=check_tag(tag) if tag else tag_from_name(repo.name),
        repo=repo,
        revision="main",
        selection=Selection(),
        layer_size="default",
        compress="none",
        registries=models.registries,
        engine="auto",
        allow_gated=False,
        line=0,
    )


def _selection(given: Mapping[str, Any], base: Selection) -> Selection:
    include, exclude = _words(given, "include"), _words(given, "exclude")
    return Selection((), include or base.include, exclude or base.exclude)


def _chosen_engine(given: Mapping[str, Any], base: Engine) -> Engine:
    engine = _engine(given.get("engine", "auto"))
    return base if engine == "auto" else engine


def _words(given: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Split a field as a shell does, so that a pattern with a space can be quoted."""
    try:
        return tuple(shlex.split(given.get(field, "")))
    except ValueError as error:
        raise InputError(f"{field}: want words, quoted as in a shell, got {error}") from error


def _layer_size(text: str) -> str:
    parse_layer_limit(text)
    return text


def _registry(text: str) -> str:
    reference = parse_reference(text)
    if reference.tag or reference.digest:
        raise InputError(f"want an image name without tag, got {text!r}")
    return reference.name


def _engine(text: object) -> Engine:
    if text not in ENGINES:
        raise InputError(f"want an engine of {', '.join(ENGINES)}, got {text!r}")
    return text


@dataclass(frozen=True)
class EngineChoice:
    """The engine, and the reason as a sentence for people."""

    engine: Literal["publish", "docker"]
    reason: str


def choose_engine(need_bytes: int, free_bytes: int, wish: Engine) -> EngineChoice:
    """Choose between streaming and the Docker path.

    Args:
        need_bytes: Disk that building the image takes.
        free_bytes: Disk that this runner has, or will have once it is cleaned.
        wish: What the model's entry says.

    >>> choose_engine(10, 5, "prefer-docker")
    EngineChoice(engine='publish', reason='prefer-docker, but building needs 10 B and 5 B are free')
    """
    disk = f"building needs {format_bytes(need_bytes)} and {format_bytes(free_bytes)} are free"
    if wish == "docker":
        return EngineChoice("docker", f"docker was asked for; {disk}")
    if wish == "prefer-docker" and need_bytes <= free_bytes:
        return EngineChoice("docker", f"docker is preferred and fits; {disk}")
    if wish == "prefer-docker":
        return EngineChoice("publish", f"prefer-docker, but {disk}")
    if wish == "publish":
        return EngineChoice("publish", "publish was asked for")
    return EngineChoice("publish", "streaming is the default: it needs no disk and no engine")
