"""The steps of the publishing workflow: calls of the library, and the same as command lines."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from downloader.environment import Environment
from downloader.errors import InputError
from downloader.farm.check import Checked, check_image
from downloader.farm.destinations import Login
from downloader.farm.jobs import EngineChoice, Job, choose_engine, shard_count
from downloader.keyless import KeylessSigner
from downloader.library.connection import Session
from downloader.library.publisher import PlanOptions, open_hub, plan_of, publish_plan
from downloader.oci.auth import Credential
from downloader.oci.credentials import ExplicitCredentials
from downloader.oci.digest import Digest
from downloader.oci.reference import parse_reference
from downloader.plan import Plan, disk_needed_bytes
from downloader.publish import Outcome, PublishOptions, Shard, check_gated
from downloader.signing import Signer

PLAN_FILE = Path("dist/plan.json")


@dataclass(frozen=True)
class PlannedJob:
    """Values that the step `plan` hands to the jobs that follow.

    Args:
        plan: One for all of them: a branch that moves meanwhile does not part them.
        shards: Number of jobs that share its layers.
    """

    plan: Plan
    shards: int

    def write(self) -> None:
        """Write it where the next job looks; `hf-models publish --plan` reads it as well."""
        document = {"shards": self.shards, "plan": self.plan.to_json()}
        PLAN_FILE.parent.mkdir(parents=True, exist_ok=True)
        PLAN_FILE.write_text(json.dumps(document), encoding="utf-8")


def read_planned_job() -> PlannedJob:
    """Read what the step `plan` wrote, in the job before.

    Raises:
        InputError: It is not there, or damaged.
    """
    try:
        document = json.loads(PLAN_FILE.read_text(encoding="utf-8"))
        return PlannedJob(Plan.from_json(document["plan"]), int(document["shards"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"want the plan of the first job in {PLAN_FILE}, got {error!r}") from error


def with_logins(session: Session, logins: Iterable[Login]) -> Session:
    """Return a session with credentials over the stored ones; they are stored nowhere."""
    credentials = session.credentials
    for item in logins:
        credential = Credential(item.username, item.password)
        credentials = ExplicitCredentials(item.registry, credential, credentials)
    return replace(session, credentials=credentials)


def plan_job(job: Job, session: Session) -> Plan:
    """Resolve a job's repo at a commit, and plan it.

    Raises:
        InputError: It is gated or private, and the switch or the token is missing.
        HfModelsError: As `downloader.plan`.
    """
    model = job.model
    options = PlanOptions(
        model.repo.type,
        model.revision,
        include=model.selection.include,
        exclude=model.selection.exclude,
        layer_size=model.layer_size,
        compress=model.compress,
    )
    plan = plan_of(open_hub(session), model.repo.id, options, session.environment)
    check_gated(plan, allow=model.allow_gated)
    snapshot = plan.snapshot
    if (snapshot.gated or snapshot.private) and not session.environment.get("HF_TOKEN"):
        raise InputError(
            f"{snapshot.repo.id} is not public, and the secret HF_TOKEN is not set",
            hint="make a read token on the Hub and save it as the repository's secret HF_TOKEN",
        )
    return plan


def choose_shards(
    job: Job, plan: Plan, free_bytes: int, shard_bytes: int
) -> tuple[EngineChoice, PlannedJob]:
    """Return the engine, and how many jobs share the layers."""
    choice = choose_engine(disk_needed_bytes(plan), free_bytes, job.model.engine)
    count = shard_count(plan, shard_bytes) if choice.engine == "publish" else 1
    return choice, PlannedJob(plan, count)


def signer_of_job(environment: Environment) -> Signer | None:
    """Return what signs as the workflow; None where `SIGN_FILES` is not ``true``.

    Args:
        environment: Of the job; `TRUST_CONFIG` is a file, of a private Sigstore.

    Raises:
        InputError: The job may not ask for its identity.
    """
    if environment.get("SIGN_FILES") != "true":
        return None
    config = environment.get("TRUST_CONFIG")
    return KeylessSigner(trust_config=Path(config) if config else None)


def publish_shard(
    job: Job,
    plan: Plan,
    shard: Shard,
    images: Sequence[str],
    *,
    base: str | None,
    session: Session,
    signer: Signer | None = None,
) -> list[Outcome]:
    """Publish a share of a plan's layers; of a single share the image, too.

    Args:
        job: The job of the plan.
        plan: Of the step `plan`.
        shard: The share of the layers.
        images: The destinations, without tag.
        base: The base image; None for the default one.
        session: Connections and credentials.
        signer: Signs the files of the image.

    Raises:
        HfModelsError: As `downloader.publish`.
    """
    options = PublishOptions(
        shard=shard,
        allow_gated=job.model.allow_gated,
        journal_dir=session.environment.uploads_dir,
        signer=signer,
    )
    to = [parse_reference(name) for name in images]
    return publish_plan(
        plan, session, open_hub(session), to, job.model.tag, base=base, options=options
    )


def check_images(
    job: Job, expected: dict[str, Digest | None], session: Session
) -> Iterator[tuple[str, Checked]]:
    """Ask every registry for every part of a job's image.

    Args:
        job: The job of the image.
        expected: By image name without tag, the digest that it has to have; None for any.
        session: Connections and credentials.

    Raises:
        IntegrityError: Something is missing, or another thing than promised.
    """
    for name, digest in expected.items():
        yield name, check_image(session.open(parse_reference(name)), job.model.tag, digest)


def plan_command(job: Job) -> list[str]:
    """Return the command line of `plan_job`."""
    flags = [*_repo_flags(job), f"--compress={job.model.compress}"]
    return ["plan", *flags, "--json", "--", job.model.repo.id]


def publish_command(
    job: Job, shard: Shard, images: Sequence[str], base: str | None, *, sign: bool
) -> list[str]:
    """Return the command line of `publish_shard`."""
    flags = [f"--plan={PLAN_FILE}", f"--shard={shard}", f"--tag={job.model.tag}"]
    flags += _sign_flags(sign)
    flags += [*_base_flags(base), *_to_flags(images), *_gated_flags(job)]
    return ["publish", *flags, "--", job.model.repo.id]


def assemble_command(
    job: Job, shards: int, images: Sequence[str], base: str | None, *, sign: bool
) -> list[str]:
    """Return the command line that makes the image of a job's shards."""
    flags = [f"--plan={PLAN_FILE}", f"--shards={shards}", *_base_flags(base), *_to_flags(images)]
    flags += _sign_flags(sign)
    return ["assemble", *flags, "--", job.model.tag]


def build_command(job: Job, base: str | None) -> list[str]:
    """Return the command line that builds a job's image with Docker."""
    flags = ["--engine=docker", *_repo_flags(job), *_base_flags(base)]
    return ["build", *flags, "--", job.model.repo.id]


def push_command(job: Job, images: Sequence[str]) -> list[str]:
    """Return the command line that pushes what was built."""
    flags = ["--engine=docker", *_to_flags(images), *_gated_flags(job)]
    return ["push", *flags, "--", job.model.tag]


def _repo_flags(job: Job) -> list[str]:
    model = job.model
    return [
        f"--repo-type={model.repo.type}",
        f"--revision={model.revision}",
        *(f"--include={glob}" for glob in model.selection.include),
        *(f"--exclude={glob}" for glob in model.selection.exclude),
        f"--layer-size={model.layer_size}",
        f"--tag={model.tag}",
    ]


def _to_flags(images: Sequence[str]) -> list[str]:
    return [f"--to={name}" for name in images]


def _base_flags(base: str | None) -> list[str]:
    return [f"--base={base}"] if base else []


def _sign_flags(sign: bool) -> list[str]:
    return ["--sign-keyless"] if sign else []


def _gated_flags(job: Job) -> list[str]:
    return ["--allow-gated"] if job.model.allow_gated else []


def digest_outputs(done: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the outputs that name one image by its digest.

    GHCR's where there is one: a value that holds a secret, and another registry's user name
    may be one, does not pass from job to job.

    Args:
        done: Image with tag, and its digest.

    >>> digest_outputs([("quay.io/me/x:a", "sha256:1"), ("ghcr.io/me/x:a", "sha256:2")])
    {'image': 'ghcr.io/me/x', 'digest': 'sha256:2'}
    """
    ordered = sorted(done, key=lambda pair: not pair[0].startswith("ghcr.io/"))
    image, digest = ordered[0] if ordered else ("", "")
    return {"image": image.rpartition(":")[0], "digest": digest}
