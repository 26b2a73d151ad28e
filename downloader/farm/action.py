"""The inputs of action.yml as a job: one model, no models.toml. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from downloader.errors import InputError
from downloader.farm.destinations import IMAGE, Login
from downloader.farm.jobs import Job, jobs_of_inputs
from downloader.farm.models import Models
from downloader.oci.reference import parse_reference
from downloader.plan import parse_compress

# Inputs that `jobs_of_inputs` knows, under the names of its fields.
_FIELDS = ("repo-id", "repo-type", "revision", "include", "exclude", "tag")
_SIGNING = ("sign", "trust-config")
_SECRETS = ("hf-token", "username", "password")
INPUTS = (*_FIELDS, "to", "allow-gated", "compress", *_SIGNING, *_SECRETS)
GHCR = "ghcr.io"


@dataclass(frozen=True)
class ActionInputs:
    """The inputs of a workflow of any repository.

    Args:
        job: The model and its registries.
        logins: Credentials for its registries; those of the others are what the job stored.
        sign: Whether the files are signed as the workflow.
        trust_config: Of a private Sigstore; empty for the public one.
        hub_token: Of the Hub; empty for none.
    """

    job: Job
    logins: tuple[Login, ...]
    sign: bool
    trust_config: str
    hub_token: str = field(repr=False)


def parse_action_inputs(
    inputs: Mapping[str, object], environment: Mapping[str, str]
) -> ActionInputs:
    """Parse the inputs of action.yml.

    Args:
        inputs: By name; an empty one was left out.
        environment: The variables of the job: GHCR takes its own token.

    Raises:
        InputError: One is missing, unknown, or cannot be used.
    """
    unknown = sorted(inputs.keys() - set(INPUTS))
    if unknown:
        raise InputError(f"want only the inputs {', '.join(INPUTS)}, got {unknown[0]!r}")
    given = {name: str(value).strip() for name, value in inputs.items()}
    if not given.get("repo-id"):
        raise InputError("repo-id is missing: a repo like Salesforce/codet5-small")
    own = f"{GHCR}/{environment.get('GITHUB_REPOSITORY_OWNER', '').lower()}/{IMAGE}"
    fields: dict[str, object] = {name.replace("-", "_"): given.get(name, "") for name in _FIELDS}
    fields["registries"] = given.get("to") or own
    fields["allow_gated"] = _is_true(given, "allow-gated")
    (job,) = jobs_of_inputs(fields, Models("action.yml", (), ()))
    compress = parse_compress(given.get("compress") or "none")
    job = replace(job, model=replace(job.model, compress=compress))
    return ActionInputs(
        job,
        _logins(job, given, environment),
        _is_true(given, "sign"),
        given.get("trust-config", ""),
        given.get("hf-token", ""),
    )


def _is_true(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "").lower()
    if value not in {"", "true", "false"}:
        raise InputError(f"{name}: want true or false, got {value!r}")
    return value == "true"


def _logins(
    job: Job, given: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[Login, ...]:
    """Return the job's own login for GHCR, and the user that is given for the other registry.

    Raises:
        InputError: A user without a password, or for several registries.
    """
    hosts = dict.fromkeys(parse_reference(name).registry for name in job.model.registries)
    username, password = given.get("username", ""), given.get("password", "")
    logins = []
    if bool(username) != bool(password):
        raise InputError("username and password need each other")
    if username:
        others = [host for host in hosts if host != GHCR] or list(hosts)
        if len(others) != 1:
            raise InputError(
                f"username: want one registry besides {GHCR} in `to`, got {', '.join(others)}",
                hint="log in to the others in a step before, with docker/login-action",
            )
        logins.append(Login(others[0], username, password))
    actor, token = environment.get("GITHUB_ACTOR", ""), environment.get("GITHUB_TOKEN", "")
    if GHCR in hosts and actor and token and GHCR not in {item.registry for item in logins}:
        logins.append(Login(GHCR, actor, token))
    return tuple(logins)
