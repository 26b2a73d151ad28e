"""What a newcomer types first, and types wrong."""

import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from downloader.cli import cli
from downloader.engine.heartbeat import heartbeat
from downloader.oci.digest import digest_of
from downloader.progress import NoProgress
from tests.support.command import ROOT, Ran, call, hf_models, hf_models_apart, program
from tests.support.fake_hub import HubServer, HubSpec, make_repo, tiny_repo
from tests.support.small_registry import SmallRegistry

CANARY = "hf_canary4711"
FILES = {"config.json": b"{}", "merges.txt": b"a b", "pytorch_model.bin": b"weights"}
REPOS = (
    tiny_repo(),
    make_repo("Salesforce/codet5-small", FILES),
    make_repo("bigcode/starcoder", FILES),
)
HUB = HubSpec(REPOS, users={"hf_known": "known"})


def test_a_dry_run_of_build_prints_the_plan(hub: HubServer) -> None:
    for more in ([], ["--json"]):
        planned = hf_models_apart("plan", "org/tiny", *more, HF_ENDPOINT=hub.endpoint).out
        built = hf_models_apart(
            *("build", "org/tiny", "--dry-run", "--engine", "layout", "--base", "none"),
            *more,
            HF_ENDPOINT=hub.endpoint,
        )
        assert built.out.replace(',\n  "images": {}', "") == planned


def test_a_dry_run_of_build_prints_the_digest_of_the_base_image(hub: HubServer) -> None:
    with SmallRegistry() as registry:
        data = b'{"schemaVersion": 2, "manifests": []}'
        registry.manifests["1"] = ("application/vnd.oci.image.index.v1+json", data)
        base = f"{registry.host}/base:1"
        command = ("build", "org/tiny", "--dry-run", "--engine", "layout", "--base", base)
        pinned = f"{base}@{digest_of(data)}"
        built = hf_models_apart(*command, "--json", HF_ENDPOINT=hub.endpoint)
        assert built.json["images"] == {base: pinned}
        assert pinned in hf_models_apart(*command, HF_ENDPOINT=hub.endpoint).out
        planned = hf_models_apart("plan", "org/tiny", "--json", HF_ENDPOINT=hub.endpoint)
        assert "images" not in planned.json  # it asks no registry


def examples(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^nox -s (build -- [^#\n]+)", text, re.MULTILINE)


def test_examples_are_the_same_in_both_languages() -> None:
    assert examples("publish.md") == examples("publish.zh-CN.md")


@pytest.mark.parametrize(
    ("number", "files"),
    [
        (0, {"config.json"}),
        (1, set(FILES)),
        (2, {"config.json", "merges.txt"}),
        (3, {"config.json", "merges.txt"}),
    ],
)
def test_an_example_of_the_publish_page(hub: HubServer, number: int, files: set[str]) -> None:
    command, _, *arguments = shlex.split(examples("publish.md")[number])
    said = hf_models_apart("fetch", *arguments, "--dry-run", HF_ENDPOINT=hub.endpoint).out
    assert {line.split()[-1] for line in said.splitlines()} == files
    hf_models_apart(command, *arguments, "--dry-run", HF_ENDPOINT=hub.endpoint)


def own_path() -> str:
    """Return PATH with this interpreter's own directory first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_nox_passes_the_exit_code_on_and_keeps_the_token(hub: HubServer) -> None:
    said = call(
        *(sys.executable, "-m", "nox", "--no-venv", "--no-install", "-s", "plan", "--"),
        *("org/none", "--token", CANARY),
        code=3,
        cwd=ROOT,
        env={"HF_ENDPOINT": hub.endpoint, "PATH": own_path()},
    )
    assert "error: model org/none" in said
    assert CANARY not in said


def make(*arguments: str) -> Ran:
    """Run make with this interpreter's nox and packages."""
    nox = f"NOX={sys.executable} -m nox --no-venv --no-install"
    # The tests themselves may run under make, which tells its children so.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ("make", "--assume-old=.venv/bin/nox", nox, *arguments)
    return program(*command, cwd=ROOT, env=own | {"PATH": own_path()})


def test_make_prints_the_result_alone() -> None:
    done = make("models", "ARGS=show codet5-small")
    assert done.err == ""
    assert done.out == hf_models("models", "show", "codet5-small").out


@pytest.mark.parametrize("page", ["install.md", "command-line.md", "command-line.zh-CN.md"])
def test_bash_completes_after_the_line_of_the_documents(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    [line] = re.findall(r"^eval .*bash_source.*$", text, re.MULTILINE)
    script = f"""{line}
        COMP_WORDS=(hf-models restore --loc) COMP_CWORD=2
        _hf_models_completion hf-models
        echo "${{COMPREPLY[@]}}"
    """
    assert call("bash", "-c", script, env={"PATH": own_path()}) == "--local-dir\n"


def test_make_clean_keeps_built_images_unless_asked() -> None:
    assert "dist" not in make("clean", "--dry-run").out.split()
    assert "dist" in make("clean", "--dry-run", "DIST=1").out.split()


def test_a_token_that_the_hub_does_not_know(hub: HubServer) -> None:
    done = hf_models_apart("plan", "org/tiny", code=3, HF_ENDPOINT=hub.endpoint, HF_TOKEN=CANARY)
    assert "hint: check HF_TOKEN" in done.err
    assert CANARY not in done.err


def test_an_endpoint_that_is_no_address() -> None:
    done = hf_models_apart("plan", "org/tiny", code=2, HF_ENDPOINT="hub.example")
    assert done.err.startswith("error: want HF_ENDPOINT like https://huggingface.co, got")


class Heard(NoProgress):
    """Waits for a note."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.was_noted = threading.Event()

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.was_noted.set()


def test_silent_program_is_reported_as_running() -> None:
    heard, lines = Heard(), list[str]()
    with heartbeat(lines.append, lambda: "exporting layers", heard, beat_s=0.01) as feed:
        feed("a line")
        assert heard.was_noted.wait(30)
    assert lines == ["a line"]
    assert heard.notes[0] == "exporting layers: 0 s"


def commands() -> Iterator[tuple[str, ...]]:
    yield ()
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if isinstance(command, click.Group) and name != "farm":  # the steps of a workflow
            yield from ((name, inner) for inner in command.list_commands(context))
        if command is not None and not command.hidden:
            yield (name,)


@pytest.mark.parametrize("name", list(commands()), ids=" ".join)
def test_every_help_has_examples_that_its_command_understands(name: tuple[str, ...]) -> None:
    context = click.Context(cli)
    command: click.Command | None = cli
    for inner in name:
        assert isinstance(command, click.Group)
        command = command.get_command(context, inner)
    assert command is not None
    _, _, shown = command.get_help(click.Context(command)).partition("Examples:\n")
    lines = [shlex.split(line)[1:] for line in shown.splitlines()]
    assert len(lines) >= 2
    for line in lines:
        assert tuple(line[: len(name)]) == name
        command.make_context("hf-models", line[len(name) :], resilient_parsing=False)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(("restor",), "restore"), (("pubish",), "publish"), (("models", "lst"), "list")],
)
def test_a_mistyped_command_is_answered_with_the_one_that_is_meant(
    typed: tuple[str, ...], meant: str
) -> None:
    ran = hf_models(*typed, code=2)
    assert f"no such command '{typed[-1]}'; did you mean {meant}" in ran.err


def test_a_wrong_repo_type_is_answered_with_the_right_one() -> None:
    repo = make_repo("org/rows", FILES, type="dataset")
    with HubServer(HubSpec((repo,))) as server:
        done = hf_models_apart("plan", "org/rows", code=3, HF_ENDPOINT=server.endpoint)
    assert done.err.splitlines()[-1] == "hint: org/rows is a dataset: add --repo-type dataset"


WITHOUT_HUB = """
import sys
sys.modules["huggingface_hub"] = None  # as where the extra is not installed
from downloader.cli import run
"""


def without_hub(*arguments: str, code: int = 0, what: str = "sys.exit(run(sys.argv[1:]))") -> Ran:
    return program(sys.executable, "-c", WITHOUT_HUB + what, *arguments, code=code)


def test_help_of_every_command_without_the_extra_hub() -> None:
    names = sorted(cli.list_commands(click.Context(cli)))
    each = "for name in sys.argv[1:]: assert run([name, '--help']) == 0, name"
    assert without_hub(*names, what=each).out.count("Usage: hf-models ") == len(names)


def test_only_commands_that_ask_the_hub_need_the_extra_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build = ("build", "org/tiny", "--engine", "layout", "--base", "none")
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        assert hf_models(*build).code == 0
    closed = ("--tries", "1", "--plain-http", "127.0.0.1:1")
    for command, code in (
        (("copy", "dist/tiny", "--to", "./copied"), 0),
        (("logout", "127.0.0.1:1"), 0),
        (("push", "tiny", "--engine", "layout", "--to", "127.0.0.1:1/models", *closed), 4),
        (("assemble", "tiny", "--base", "none", "--to", "127.0.0.1:1/models", *closed), 4),
        (("remove", "127.0.0.1:1/models:tiny", "--yes", *closed), 4),
    ):
        assert "huggingface_hub" not in without_hub(*command, code=code).err
    missing = without_hub("plan", "org/tiny", code=2)
    assert missing.err.startswith("error: this command needs huggingface_hub\nhint: pip install")
