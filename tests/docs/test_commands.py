"""What the documents tell a reader to type exists: commands, flags, targets, sessions, files."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from downloader.cli import COMMANDS, cli
from tests.support.command import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")],
    key=lambda path: path.relative_to(ROOT).parts,
)
PROGRAM = re.compile(r"(?<!-t )(?:^|(?<=[\s$(`|;&]))(hf-models(?:\.pyz)?|make|nox)(?=\s)")
# Words behind which a command ends; a `#` begins the reader's explanation.
ENDS = {"|", ";", "&&", "||", ">", "<", "&", "#", "2>"}
# Not of this project, or not to be typed: a name that the reader puts in the place of another.
PLACEHOLDERS = {"COMMAND", "NAME", "…", "..."}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(text: str) -> Iterator[str]:
    """The lines of shell blocks, and the code within sentences."""
    blocks = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
    for block in blocks.finditer(text):
        if block[1] in {"sh", "powershell", ""}:
            yield from block[2].replace("\\\n", " ").splitlines()
    for inline in re.finditer(r"`([^`\n]+)`", blocks.sub("", text)):
        yield inline[1]


def words_of(rest: str) -> list[str]:
    """The words of a command line up to where it ends, without quotes."""
    lexer = shlex.shlex(rest.replace("'", '"') if rest.count("'") % 2 else rest, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        for word in lexer:
            if word in ENDS or word.startswith("#"):
                break
            words.append(word.rstrip(";)") if word != ")" else word)
    except ValueError:  # a quote of a line around it
        words = re.split(r"\s+", rest)
    return words


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    return [
        (match[1].removesuffix(".pyz"), words_of(line[match.end() :]))
        for line in code_of(page.read_text(encoding="utf-8"))
        for match in PROGRAM.finditer(line)
    ]


def check_hf_models(words: list[str]) -> str | None:
    """What is wrong with the words behind `hf-models`, if anything is."""
    command: click.Command = cli
    flags = flags_of(command)
    position = 0
    while isinstance(command, click.Group) and position < len(words):
        name = words[position]
        if name.startswith("-"):
            break
        if name in PLACEHOLDERS:
            return None
        known = command.get_command(click.Context(command), name)
        if known is None:
            return f"no command {name!r}"
        command, position = known, position + 1
        flags |= flags_of(command)
    used = {word.partition("=")[0] for word in words[position:] if word.startswith("--")}
    unknown = used - flags - {"--help", "--"}
    return f"{command.name} has no {', '.join(sorted(unknown))}" if unknown else None


def flags_of(command: click.Command) -> set[str]:
    options = (item for item in command.params if isinstance(item, click.Option))
    return {name for item in options for name in (*item.opts, *item.secondary_opts)}


@pytest.fixture(scope="module")
def sessions() -> set[str]:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    decorated = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    calls = [node.value for node in tree.body if isinstance(node, ast.Expr)]
    registered = {
        str(ast.literal_eval(call.args[0]))
        for call in calls
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "command"
    }
    return decorated | registered


@pytest.fixture(scope="module")
def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z]+):", text, re.MULTILINE))


def check(program: str, words: list[str], sessions: set[str], targets: set[str]) -> str | None:
    if program == "make":
        names = [word for word in words if "=" not in word and not word.startswith("-")]
        unknown = [word for word in names if word not in targets]
        variables = {word.partition("=")[0] for word in words if "=" in word}
        makefile = (ROOT / "Makefile").read_text()
        unknown += [word for word in variables if f"$({word})" not in makefile]
        return f"no target or variable {', '.join(unknown)}" if unknown else None
    if program == "nox":
        if words[:1] != ["-s"]:
            return None
        name, rest = words[1], words[2:]
        if name in PLACEHOLDERS:
            return None
        if name not in sessions:
            return f"no session {name!r}"
        if rest[:1] == ["--"] and name in COMMANDS:
            return check_hf_models([name, *rest[1:]])
        return None
    return check_hf_models(words)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_command_of_a_page_exists(page: Path, sessions: set[str], targets: set[str]) -> None:
    wrong = [
        f"{program} {' '.join(words)}: {reason}"
        for program, words in commands_of(page)
        if (reason := check(program, words, sessions, targets))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hf-models resotre IMAGE", "no command 'resotre'"),
        ("hf-models restore IMAGE --local-folder x", "restore has no --local-folder"),
        ("X=$(hf-models models ad org/name)", "no command 'ad'"),
        ("make publsh REPO=x", "no target or variable publsh"),
        ("make publish REPOSITORY=x", "no target or variable REPOSITORY"),
        ("nox -s biuld -- org/name", "no session 'biuld'"),
        ("nox -s build -- org/name --no-such-flag", "build has no --no-such-flag"),
    ],
)
def test_a_mistake_in_a_page_is_seen(
    tmp_path: Path, line: str, reason: str, sessions: set[str], targets: set[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```sh\n{line}\n```\n")
    [(program, words)] = commands_of(page)
    assert check(program, words, sessions, targets) == reason


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), link
        if anchor and there.suffix == ".md":
            assert anchor in anchors_of(there), link


def test_the_list_of_documents_has_every_page() -> None:
    text = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / name).resolve() for name in re.findall(r"\]\(([^)#]+)\)", text)}
    pages = {path.resolve() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - linked == {(ROOT / "docs/README.md").resolve()}


def test_both_languages_of_a_page_have_the_same_commands() -> None:
    for chinese in [page for page in PAGES if page.name.endswith(".zh-CN.md")]:
        english = chinese.with_name(chinese.name.replace(".zh-CN", ""))
        known = [words for program, words in commands_of(english) if program == "hf-models"]
        for program, words in commands_of(chinese):
            assert program != "hf-models" or words in known, (ids(chinese), words)


CONSUMERS_PAGES = (
    *("README", "docs/install", "docs/restore", "docs/serve", "docs/kubernetes/README"),
    *("docs/datasets", "docs/security", "docs/troubleshooting"),
)
CHINESE = [page for page in PAGES if page.name.endswith(".zh-CN.md")]


def shape_of(page: Path) -> dict[str, object]:
    """What two languages of a page share: levels of headings, rows, items, and code."""
    text = page.read_text(encoding="utf-8")
    blocks = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    code = [re.sub(r"\s*#.*", "", block[1]) for block in blocks.finditer(text)]
    prose = blocks.sub("", text)
    return {
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)],
        "rows": len(re.findall(r"^\|", prose, re.MULTILINE)),
        "items": len(re.findall(r"^(?:-|\d+\.) ", prose, re.MULTILINE)),
        "code": [block for block in code if not block.startswith("flowchart")],
    }


def test_the_consumers_pages_are_there_in_both_languages() -> None:
    there = {str(page.relative_to(ROOT)).removesuffix(".zh-CN.md") for page in CHINESE}
    assert set(CONSUMERS_PAGES) <= there


@pytest.mark.parametrize("chinese", CHINESE, ids=ids)
def test_both_languages_of_a_page_have_one_shape(chinese: Path) -> None:
    english = chinese.with_name(chinese.name.replace(".zh-CN", ""))
    assert shape_of(chinese) == shape_of(english)
    for one, other in ((english, chinese), (chinese, english)):
        assert f"]({other.name})" in one.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", CHINESE, ids=ids)
def test_a_chinese_page_leads_to_chinese_pages(page: Path) -> None:
    english = page.name.replace(".zh-CN", "")
    for link in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", page.read_text(encoding="utf-8")):
        chinese = page.parent / link.replace(".md", ".zh-CN.md")
        assert link == english or not chinese.exists(), link


def test_the_tree_of_the_architecture_has_every_module() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    tree = text.split("\n## The tree\n")[1].split("\n## ")[0]
    listed: set[str] = set()
    for section in tree.split("\n### ")[1:]:
        found = re.match(r"`(downloader/[a-z/]*)`", section)
        assert found, section[:60]
        listed |= {
            found[1] + name for name in re.findall(r"^\| `(\w+\.py)`", section, re.MULTILINE)
        }
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "downloader").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert listed == there


def test_names_in_the_architecture_page_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:\w+/)+\w+\.py)`", text)) - {"cli/NAME.py"}:
        assert (ROOT / "downloader" / name).exists() or (ROOT / name).exists(), name
    code = "\n".join(path.read_text() for path in (ROOT / "downloader").rglob("*.py"))
    code += "Makefile"
    for name in re.findall(r"`((?:\w+\.)?_?[A-Z]\w*[a-z]\w*|_?[A-Z_]{5,}|\w+\._\w+)`", text):
        assert all(re.search(rf"\b{word}\b", code) for word in name.split(".")), name


def test_the_architecture_names_every_lock_and_every_thread_outside_a_worker_group() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.split("\n## Threads and locks\n")[1].split("\n## ")[0]
    for path in sorted((ROOT / "downloader").rglob("*.py")):
        code = path.read_text()
        if "threading.Thread(" in code:
            assert f"`{path.relative_to(ROOT / 'downloader')}`" in section, path
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ClassDef) and re.search(
                r"threading\.(?:R?Lock|Condition)\(", ast.unparse(node)
            ):
                assert f"`{node.name}" in section, f"{path}: {node.name}"


def test_readme_names_every_exit_code() -> None:
    from downloader import errors  # noqa: PLC0415 - the tree is walked, not used

    def below(kind: type[errors.HfModelsError]) -> Iterator[type[errors.HfModelsError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    kinds = [kind for kind in below(errors.HfModelsError) if kind.__module__ == errors.__name__]
    codes = {kind.exit_code for kind in kinds} | {130}
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        [line] = re.findall(r"^(?:Exit codes: |退出码：)(.*)$", text, re.MULTILINE)
        assert {int(code) for code in re.findall(r"\b(\d+)\b", line)} == codes


@pytest.mark.parametrize("name", ["troubleshooting.md", "troubleshooting.zh-CN.md"])
def test_the_messages_of_troubleshooting_are_those_of_the_code(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    code = "\n".join(path.read_text() for path in (ROOT / "downloader").rglob("*.py"))
    code = re.sub(r"\"\s*f?\"", "", code)  # texts of several lines
    rows = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 40
    commands = {"verify", "docker-credential-desktop"}
    assert [message for message in quoted if message not in code and message not in commands] == []


@pytest.mark.parametrize("name", ["command-line.md", "command-line.zh-CN.md"])
def test_every_variable_that_is_read_is_documented(name: str) -> None:
    code = (ROOT / "downloader/environment.py").read_text()
    read = set(re.findall(r"[\"']([A-Z]+(?:_[A-Z]+)+)[\"']", code))
    assert "HF_TOKEN" in read
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert read - set(re.findall(r"`([A-Z_]+)`", text)) == set()


def test_pages_install_no_package_that_is_not_on_pypi() -> None:
    """Until the first release, whoever takes the name there owns who follows such a line."""
    told = re.compile(r"(?:pip|pipx|uv tool) install (?:--\S+ )*['\"]?hf-models(?!\[[^]]*\] @ )")
    pages = {path for path in PAGES if not path.name.startswith("install.")}
    sources = [
        path
        for path in (ROOT / "downloader").rglob("*")
        if path.suffix in {".py", ".sh", ".txt", ".js", ".json"}
    ]
    for path in sorted({*pages, *sources}):
        assert told.search(path.read_text(encoding="utf-8")) is None, path
