"""models.toml: through the command line, from files; every mistake names its line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloader.errors import InputError
from downloader.farm.models import parse_models, read_models
from downloader.farm.toml_lines import find_lines
from downloader.hub.repo import Selection
from downloader.hub.selection import find_impossible
from tests.support.command import ROOT, hf_models

ORIGINAL = {
    "codet5-small": "Salesforce/codet5-small",
    "starcoderbase-1b": "bigcode/starcoderbase-1b",
    "starcoderbase-3b": "bigcode/starcoderbase-3b",
    "starcoderbase-7b": "bigcode/starcoderbase-7b",
    "starcoder": "bigcode/starcoder",
    "codegen25-7b-mono": "Salesforce/codegen25-7b-mono",
    "sqlcoder": "defog/sqlcoder",
    "sqlcoder2": "defog/sqlcoder2",
    "chatglm3-6b-32k": "THUDM/chatglm3-6b-32k",
}
HEAD = """\
[defaults]
owner = "me"
registries = ["ghcr.io/{owner}/hf-models"]

[[model]]  # line 5
tag = "first"
repo = "org/first"
"""
AFTER = HEAD.count("\n") + 1


def complaint(text: str) -> str:
    with pytest.raises(InputError) as raised:
        parse_models(text)
    return raised.value.message


def test_the_projects_own_file_names_the_original_models() -> None:
    models = read_models(ROOT / "models.toml")
    found = {model.tag: model.repo.id for model in models}
    assert ORIGINAL.items() <= found.items()
    assert not [model.tag for model in models if model.allow_gated]


def test_an_entry_gets_the_defaults() -> None:
    (model,) = parse_models(HEAD)
    assert (model.tag, model.registries) == ("first", ("ghcr.io/me/hf-models",))
    assert (model.revision, model.engine, model.layer_size) == ("main", "auto", "default")
    assert model.selection.is_everything
    assert model.line == 5


def test_an_entry_overrides_every_default() -> None:
    text = HEAD.replace('"org/first"', '"org/first"\nregistries = ["localhost:5000/x", "me/y"]')
    text += """\
type = "dataset"
revision = "refs/pr/1"
include = ["*.json", "data/"]
exclude = ["data/test/*"]
layer_size = "mirror"
compress = "zstd"
engine = "prefer-docker"
allow_gated = true
"""
    (model,) = parse_models(text)
    assert model.repo.url_path == "datasets/org/first"
    assert model.registries == ("localhost:5000/x", "docker.io/me/y")
    assert model.selection == Selection(include=("*.json", "data/"), exclude=("data/test/*",))
    assert (model.layer_size, model.engine) == ("mirror", "prefer-docker")
    assert model.compress == "zstd"
    assert model.allow_gated


def test_a_fork_publishes_to_its_own_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(HEAD)
    assert read_models(path, "SomeBody").entries[0].registries == ("ghcr.io/somebody/hf-models",)


WRONG = {
    "unknown key": ('includes = ["*"]', "unknown key 'includes'"),
    "type": ('type = "modle"', "want repo type model, dataset or space, got 'modle'"),
    "revision": ('revision = "../main"', "unsafe file name in repo: '../main'"),
    "include text": ('include = "*.json"', "include: want a list of strings, got a string"),
    "include item": ("include = [1]", "include: want strings only, got 1"),
    "empty pattern": ('exclude = [""]', "exclude '' is empty"),
    "twice": ('exclude = ["a", "a"]', "exclude 'a' is listed twice"),
    "absolute": (
        'include = ["/a"]',
        "include '/a' matches nothing: names are relative to the repo",
    ),
    "outside": ('include = ["../a"]', "matches nothing: names are relative to the repo"),
    "excludes all": ('exclude = ["*"]', "exclude '*' leaves no file"),
    "cancels": (
        'include = ["a.bin"]\nexclude = ["*.bin"]',
        "include 'a.bin' selects nothing: exclude '*.bin' takes all of it away",
    ),
    "layer_size": ('layer_size = "huge"', "want a size like 2GB or one of default, mirror"),
    "layer_size small": ('layer_size = "5kB"', "want a layer size of at least 1MiB"),
    "compress": ('compress = "gzip"', "compress: want one of none, auto, zstd, both, got 'gzip'"),
    "registry tag": ('registries = ["ghcr.io/me/x:1"]', "want an image name without tag"),
    "registry twice": ('registries = ["me/x", "docker.io/me/x"]', "is listed twice"),
    "registry name": ('registries = ["ghcr.io/Me/x"]', "is no image name"),
    "engine": ('engine = "podman"', "engine: want one of auto, publish, docker, prefer-docker"),
    "allow_gated": ('allow_gated = "yes"', "allow_gated: want true or false, got a string"),
    "syntax": ("include = [", "no valid TOML"),
    "key twice": ('tag = "first"', "'tag' is there already, at line 6"),
}


@pytest.mark.parametrize(("added", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_names_its_line(added: str, said: str) -> None:
    message = complaint(HEAD + added + "\n")
    assert message.startswith(f"models.toml:{AFTER}: ")
    assert said in message


def test_a_mistake_in_a_list_names_the_line_of_the_item() -> None:
    text = HEAD + 'include = [\n  "*.json",  # "a", [ and ]\n\n  "/x",\n]\n'
    assert complaint(text).startswith(f"models.toml:{AFTER + 3}: ")


def test_two_models_with_one_tag() -> None:
    text = HEAD + '[[model]]\nrepo = "org/other"\ntag = "first"\n'
    assert (
        complaint(text) == f"models.toml:{AFTER + 2}: tag 'first' is taken by the model at line 5"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\n", "1: want [[model]], a table with two brackets"),
        ('[[model]]\ntag = "x"\n', "1: no registry is given, here or under [defaults]"),
        (
            '[defaults]\nregistries = ["a/b"]\n[[model]]\ntag = "x"\n',
            "3: the key 'repo' is missing",
        ),
        ('[defaults]\nregistries = ["{owner}/b"]\n', "2: '{owner}/b' needs an owner"),
        ('[defaults]\nowner = "a b"\n', "2: owner: want a part of an image name, got 'a b'"),
        ('[default]\nowner = "a"\n', "1: unknown key 'default'"),
        ("[defaults]\n[defaults]\n", "2: 'defaults' is there already, at line 1"),
        ('[[model]]\ntag = "a b"\nrepo = "x/y"\nregistries = ["a/b"]\n', "2: want an image tag"),
        ('[[model]]\ntag = "a"\nrepo = "x/y/z"\nregistries = ["a/b"]\n', "3: want a repo id"),
        ('x = """\n', "1: no valid TOML"),
    ],
)
def test_a_mistake_outside_of_one_entry(text: str, said: str) -> None:
    assert complaint(text).startswith(f"models.toml:{said}")


def test_the_nearest_key_is_the_hint() -> None:
    with pytest.raises(InputError) as raised:
        parse_models(HEAD + 'revison = "main"\n')
    assert raised.value.hint == "did you mean 'revision'?"


@pytest.mark.parametrize(
    ("include", "exclude"),
    [
        (["*.safetensors"], ["model-00001-*"]),
        (["[xy]"], ["*x*"]),
        (["a*.bin"], ["a?.bin"]),
        (["onnx/"], ["onnx/*.bin"]),
        ([], ["*.*"]),
    ],
)
def test_patterns_that_may_select_something_pass(include: list[str], exclude: list[str]) -> None:
    assert find_impossible(include, exclude) is None


def test_line_numbers_are_right_with_all_toml_syntax() -> None:
    text = '''\
# [[model]]
"quoted.key" = 1
a.b = """
[not.a.table]
c = 1
"""
[t] # comment
x = { y = [1, 2] }
s = 'it''s'
[[m]]
[[m]]
[m.sub]
k = [ [1], [2,
 3] ]
'''.replace("'it''s'", "'#'")
    lines = find_lines(text)
    assert lines[("quoted.key",)] == 2
    assert lines[("a", "b")] == 3
    assert lines[("t",)] == 7
    assert lines[("t", "s")] == 9
    assert lines[("m", 1, "sub", "k")] == 13
    assert ("c",) not in lines
    assert ("not", "a", "table") not in lines


# What makes a TOML file, so that random texts come near to one.
PIECES = [
    "[",
    "]",
    "[[model]]",
    "\n",
    "=",
    '"',
    "'",
    '"""',
    "#",
    ",",
    "{",
    "}",
    "tag",
    "repo",
    "a.b",
]
PIECES += ["\\", " ", "1", "true", "[defaults]", "include", "é", '"x/y"', "\r\n", "\x00"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_text_is_models_or_a_mistake(text: str) -> None:
    try:
        parse_models(text)
    except InputError as error:
        said = error.message
    else:
        return
    assert said.startswith("models.toml:")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_a_value_beyond_all_bounds(value: str) -> None:
    assert complaint(f"x = {value}").startswith("models.toml:")


# --- the command --------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text("# kept\n\n" + HEAD + "# at the end\n")
    return path


def test_add_appends_and_keeps_everything(file: Path) -> None:
    before = file.read_text()
    code, out, _ = hf_models(
        "models", "add", "Qwen/Qwen2.5-7B", "--include", 'a"b\\c é.json', "--file", str(file)
    )
    assert code == 0
    assert out == f"{file}:12: added 'qwen2.5-7b', model Qwen/Qwen2.5-7B\n"
    after = file.read_text()
    assert after.startswith(before)
    added = read_models(file).find("qwen2.5-7b")
    assert added.selection.include == ('a"b\\c é.json',)
    assert after[len(before) :].count("\n") == 5  # a blank line, the header, three keys


def test_add_takes_every_key(file: Path) -> None:
    code, _, err = hf_models(
        "models",
        *("add", "org/second", "--tag", "s", "--type", "dataset", "--revision", "v1"),
        *("--exclude", "*.bin", "--layer-size", "2GB", "--to", "quay.io/a/b"),
        *("--compress", "auto"),
        *("--engine", "docker", "--allow-gated", "--file", str(file)),
    )
    assert (code, "commit" in err) == (0, True)
    code, out, _ = hf_models("models", "show", "s", "--json", "--file", str(file))
    document: dict[str, Any] = json.loads(out)
    assert document == {
        "format_version": 1,
        "tag": "s",
        "repo": "org/second",
        "type": "dataset",
        "revision": "v1",
        "include": [],
        "exclude": ["*.bin"],
        "layer_size": "2GB",
        "compress": "auto",
        "registries": ["quay.io/a/b"],
        "engine": "docker",
        "allow_gated": True,
        "line": 12,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["other/first"], "tag 'first' is taken by the model at line 7"),
        (["org/first", "--tag", "again"], "publishes org/first as 'first'"),
        (["org/x", "--exclude", "*"], "exclude '*' leaves no file"),
        (["https://github.com/org/x"], "want a repo id like org/name"),
        (["org/x", "--to", "ghcr.io/a/b:tag"], "want an image name without tag"),
    ],
)
def test_add_refuses_and_leaves_the_file(file: Path, arguments: list[str], said: str) -> None:
    before = file.read_text()
    code, out, err = hf_models("models", "add", *arguments, "--file", str(file))
    assert (code, out) == (2, "")
    assert said in err
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == ["models.toml"]


def test_one_repo_may_have_two_images(file: Path) -> None:
    arguments = ("add", "org/first", "--tag", "first-json", "--include", "*.json")
    assert hf_models("models", *arguments, "--file", str(file))[0] == 0


def test_check_prints_the_number_of_entries(file: Path) -> None:
    assert hf_models("models", "check", "--file", str(file)) == (
        0,
        f"{file}: 1 model, no mistake\n",
        "",
    )


def test_check_names_file_and_line(file: Path) -> None:
    file.write_text(HEAD + "engine = 3\n")
    code, _, err = hf_models("models", "check", "--file", str(file))
    assert (code, err) == (2, f"error: {file}:{AFTER}: engine: want a string, got 3\n")


def test_list_as_json(file: Path) -> None:
    _, out, _ = hf_models("models", "list", "--json", "--file", str(file))
    assert [entry["tag"] for entry in json.loads(out)["models"]] == ["first"]


def test_list_as_table(file: Path) -> None:
    _, out, _ = hf_models("models", "list", "--file", str(file))
    assert out.splitlines()[2].split() == ["first", "model", "org/first", "all"]


def test_show_suggests_the_nearest_tag(file: Path) -> None:
    code, _, err = hf_models("models", "show", "frist", "--file", str(file))
    assert code == 2
    assert "hint: did you mean 'first'?" in err


def test_a_github_job_publishes_to_its_owner(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY_OWNER", "Fork-Er")
    _, out, _ = hf_models("models", "list", "--json", "--file", str(file))
    assert json.loads(out)["models"][0]["registries"] == ["ghcr.io/fork-er/hf-models"]


@pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "not UTF-8"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "models.toml"
    if content is not None:
        path.write_bytes(content)
    code, _, err = hf_models("models", "check", "--file", str(path))
    assert code == 2
    assert str(path) in err


def test_remove_takes_one_entry_and_leaves_the_comments_of_the_others(file: Path) -> None:
    before = file.read_text()
    hf_models("models", "add", "org/second", "--file", str(file))
    with file.open("a") as more:
        more.write('\n# about the third\n[[model]]\ntag = "third"\nrepo = "org/third"\n')
    code, out, _ = hf_models("models", "remove", "second", "--file", str(file))
    assert code == 0
    assert "removed 'second', model org/second" in out
    rest = '\n\n# about the third\n[[model]]\ntag = "third"\nrepo = "org/third"\n'
    assert file.read_text() == before.rstrip("\n") + "\n" + rest
    assert hf_models("models", "remove", "second", "--file", str(file))[0] == 2
