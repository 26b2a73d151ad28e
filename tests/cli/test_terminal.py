"""Texts from outside, and a terminal, pipe or disk that fails: what the command line prints."""

import json
import re
import sys
import threading
import unicodedata
from pathlib import Path

import pytest

from downloader.errors import InputError
from tests.support.catalog_images import make_image_plan, put_image
from tests.support.command import ROOT, Ran, hf_models, program, without_overriding_modes
from tests.support.make_image import put_ours
from tests.support.restore import FILES, layout, registry

pytestmark = pytest.mark.docker

ESCAPES = "\x1b]0;title\x07\x1b[31mred\x9b31m"
EVIL = {
    "escapes": ESCAPES,
    "bidi": "a\u202etxt\u2066",
    "commands": "x\n::error::a\n##[group]b\r::add-mask::c",
    "markup": "\\[/x] [link=http://evil]mit[/]",
    "tags": "mit\U000e0041\u2028b",
}


def check_plain(text: str) -> None:
    """Fail where a terminal or a CI log would do anything but show the text."""
    for line in text.split("\n"):
        assert not {unicodedata.category(char) for char in line} & {"Cc", "Cf", "Zl"}, repr(line)
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL.keys())
def test_control_characters_of_labels_are_escaped(evil: str) -> None:
    name, store = registry()
    put_image(store, "t", make_image_plan(), changed={"licenses": evil})
    for command in ["inspect", f"{name}:t"], ["list", name]:
        ran = hf_models(*command, code=0)
        check_plain(ran.out + ran.err)
        answer = hf_models(*command, "--json")
        check_plain(answer.out)
        found = answer.json["images"][0] if command[0] == "list" else answer.json
        assert found["license"] == evil


@pytest.mark.parametrize("key", ["commit", "created", "repo-id", "bytes"])
def test_list_shows_the_other_images_where_one_is_malformed(key: str) -> None:
    name, store = registry()
    put_image(store, "good", make_image_plan())
    put_image(store, "odd", make_image_plan(), changed={key: ESCAPES})
    ran = hf_models("list", name, code=0)
    assert "good" in ran.out
    assert "odd: left out: " in ran.err
    check_plain(ran.out + ran.err)


def test_list_fails_where_no_image_can_be_read() -> None:
    name, store = registry()
    put_image(store, "odd", make_image_plan(), changed={"commit": ESCAPES})
    assert hf_models("list", name).code == 5


def run_in_shell(script: str, *, code: int) -> Ran:
    """Run a shell script whose $HF is the command line."""
    script = f'HF="{sys.executable} -m downloader"\n{script}'
    done = program("sh", "-c", script, code=code, cwd=ROOT)
    assert "Traceback" not in done.err
    assert "Exception ignored" not in done.err
    return done


@pytest.mark.parametrize("command", ["models list", "models list --json", "--help"])
def test_a_full_disk_below_standard_output_is_an_error(command: str) -> None:
    done = run_in_shell(f"$HF {command} > /dev/full", code=7)
    assert done.err.startswith("error: ")
    assert "No space left on device" in done.err


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_a_lost_standard_error_does_not_stop_the_work(closed: str) -> None:
    assert "codet5-small" in run_in_shell(f"$HF models list {closed}", code=0).out
    run_in_shell(f"$HF models show none {closed}", code=2)


def test_no_standard_stream_at_all_is_no_error() -> None:
    run_in_shell("$HF models list <&- >&- 2>&-", code=0)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("remove 127.0.0.1:1/a/b:c", "without a terminal, removing"),
        ("login 127.0.0.1:1 --username me --password-stdin", "no password on standard input"),
    ],
)
def test_a_closed_standard_input_is_an_empty_one(command: str, said: str) -> None:
    assert said in run_in_shell(f"$HF {command} <&-", code=2).err


@pytest.mark.parametrize("flag", ["--timeout", "--retry-delay"])
def test_seconds_that_are_no_number_are_refused(flag: str) -> None:
    done = run_in_shell(f"$HF inspect 127.0.0.1:1/a/b:c {flag} nan", code=2)
    assert "'nan' is not a valid number of seconds" in done.err


@pytest.mark.parametrize(
    ("path", "said"),
    [("~nobody-here/x", "there is no such user"), ("", "want a path, got an empty one")],
)
@pytest.mark.parametrize(
    "command",
    [
        "verify",
        "restore",
        "restore 127.0.0.1:1/a/b:c --cache-dir",
        "restore 127.0.0.1:1/a/b:c --local-dir",
        "copy 127.0.0.1:1/a/b:c --to",
        "serve",
    ],
)
def test_an_empty_or_unknown_path(command: str, path: str, said: str) -> None:
    assert said in run_in_shell(f"$HF {command} '{path}'", code=2).err


@pytest.mark.parametrize("command", ["restore --cache-dir", "copy --to", "serve"])
def test_a_directory_that_the_user_may_not_enter(command: str, tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    (tmp_path / "shut").mkdir(mode=0)
    name, *flags = command.split()
    image = [tmp_path / "image"] if flags else []
    code, said = without_overriding_modes(name, *image, *flags, tmp_path / "shut/x.tar")
    assert code == 7
    assert re.search(r"^error: .*/shut/.*: Permission denied$", said, re.MULTILINE)


@pytest.mark.parametrize("command", ["verify .", "restore $IN/image --local-dir ."])
def test_a_working_directory_that_is_gone(command: str, tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    (tmp_path / "gone").mkdir()
    script = f"IN={tmp_path}; export PYTHONPATH=$PWD; cd $IN/gone; rmdir $IN/gone; $HF {command}"
    assert "error: the working directory is gone" in run_in_shell(script, code=7).err


def test_outputs_of_a_job_that_cannot_be_written(tmp_path: Path) -> None:
    script = f"GITHUB_OUTPUT={tmp_path} $HF plan org/x --github-output"
    assert run_in_shell(script, code=7).err == f"error: {tmp_path}: Is a directory\n"


def test_a_port_of_more_digits_than_a_number_may_have() -> None:
    done = run_in_shell(f"$HF serve . --listen 127.0.0.1:{'9' * 5000}", code=2)
    assert "--listen: want HOST:PORT like" in done.err


@pytest.mark.parametrize("command", ["login '' --username me --password-stdin", "logout me"])
def test_a_login_names_a_registry(command: str) -> None:
    done = run_in_shell(f"echo secret | $HF {command}", code=2)
    assert "want a registry's host like ghcr.io, got " in done.err


@pytest.mark.parametrize(
    ("command", "flag"),
    [("login a.io", "--username"), ("login a.io --username me", "--password-stdin")],
)
def test_a_login_without_terminal_names_the_missing_flag(command: str, flag: str) -> None:
    done = run_in_shell(f"$HF {command} < /dev/null", code=2)
    assert f"nobody is there to answer: {flag} is needed" in done.err


@pytest.mark.parametrize(
    "command",
    [
        "login a.io --password-stdin --username",
        "inspect a.io/b --password-stdin --username",
        "models add org/x --include",
        "plan org/x --exclude",
    ],
)
def test_an_argument_that_is_not_utf8(command: str) -> None:
    script = f"echo secret | $HF {command} \"$(printf 'x\\377')\""
    assert "is no text in UTF-8" in run_in_shell(script, code=2).err


def test_a_password_that_is_not_utf8() -> None:
    script = "printf 'x\\377' | $HF login a.io --username me --password-stdin"
    assert "want a password in UTF-8" in run_in_shell(script, code=2).err


def test_verify_of_a_name_that_is_too_long_for_a_path() -> None:
    assert "is no image name" in run_in_shell(f"$HF verify {'a' * 300}", code=2).err


@pytest.mark.parametrize("command", ["--help", "models list"])
def test_a_reader_that_leaves_at_once_is_no_error(command: str) -> None:
    done = run_in_shell(f"( $HF {command}; echo $? >&2 ) | true", code=0)
    assert done.err == "0\n"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with a fault that nobody foresaw."""

    def fail(*_: object, **__: object) -> None:
        message = "https://me:secret@host/x?sig=secret"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("downloader.cli.models.read_models_file", fail)


def test_an_unforeseen_exception_is_two_lines_and_code_70(broken: None) -> None:
    ran = hf_models("models", "list", code=70)
    error, hint = ran.err.splitlines()
    assert error == "error: unexpected ZeroDivisionError: https://host/x"
    assert hint.startswith("hint: ")
    assert "HF_MODELS_DEBUG=1" in hint


def test_debug_shows_the_traceback_without_secrets(
    broken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODELS_DEBUG", "1")
    ran = hf_models("models", "list")
    assert "Traceback" in ran.err
    assert "secret" not in ran.err


def test_with_json_an_error_is_json_too() -> None:
    ran = hf_models("models", "show", "none", "--json")
    assert ran.code == InputError.exit_code
    error = json.loads(ran.out)["error"]
    assert (error["kind"], error["exit_code"]) == ("InputError", 2)
    assert f"error: {error['message']}" in ran.err


def test_a_system_without_threads_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    name, store = registry()
    put_image(store, "t", make_image_plan())

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran = hf_models("list", name, code=7)
    assert ran.err.splitlines()[0] == "error: this system starts no more threads"


@pytest.mark.parametrize("how", [("-v",), ("--verbose",), ()])
def test_verbose_shows_requests_and_answers_without_secrets(
    how: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, store = registry()
    put_image(store, "t", make_image_plan())
    if not how:
        monkeypatch.setenv("HF_MODELS_DEBUG", "1")
    ran = hf_models("inspect", f"{name}:t", *how, code=0)
    repository = name.partition("/")[2]
    assert f"/v2/{repository}/manifests/t: 200, " in ran.err
    assert "authorization" not in ran.err.lower()
    monkeypatch.delenv("HF_MODELS_DEBUG", raising=False)
    assert "debug: " not in hf_models("inspect", f"{name}:t").err


def test_verbose_shows_the_number_of_connections(tmp_path: Path) -> None:
    put_ours(layout(tmp_path / "image"), FILES)
    ran = hf_models("restore", tmp_path / "image", "--cache-dir", tmp_path / "cache", "-v", code=0)
    assert re.search(r"^debug: connections: \d+ at first; limit \d+$", ran.err, re.MULTILINE)


def test_a_tag_that_is_not_there_is_answered_with_those_that_are() -> None:
    name, store = registry()
    for tag in ("codet5-small", "codet5-base", "starcoder"):
        put_image(store, tag, make_image_plan())
    ran = hf_models("restore", f"{name}:codet5-smal", code=3)
    assert ran.err.splitlines()[-1] == "hint: tags there: codet5-small, codet5-base, starcoder"


def test_the_name_of_a_repo_is_answered_with_the_image_to_try() -> None:
    ran = hf_models("restore", "Salesforce/CodeT5-small", code=2)
    assert ran.err.splitlines()[-1].endswith("like ghcr.io/OWNER/hf-models:codet5-small")


def test_list_of_a_registry_names_its_repositories() -> None:
    name, store = registry()
    put_image(store, "t", make_image_plan())
    host = name.partition("/")[0]
    assert name in hf_models("list", host).out.splitlines()
    assert name in hf_models("list", host, "--json").json["repositories"]
