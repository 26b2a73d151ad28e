"""The table of available models in a README, between two markers."""

from collections.abc import Mapping
from dataclasses import dataclass

from downloader.errors import InputError
from downloader.farm.catalog.page import words
from downloader.farm.models import Model, Models
from downloader.oci.manifest import parse_json_object
from downloader.text import markdown, markdown_code
from downloader.units import format_bytes

BEGIN, END = "<!-- models:begin -->", "<!-- models:end -->"
CATALOG_LIMIT_BYTES = 64 * 1024 * 1024  # some kB a model


@dataclass(frozen=True)
class Facts:
    """Facts of a catalog.json about a tag; None for those it lacks."""

    license: str | None
    size_bytes: int | None


def parse_facts(data: bytes) -> dict[str, Facts]:
    """Return the facts of a catalog.json, by tag.

    Raises:
        ProtocolError: It is no JSON object.
        InputError: It is no catalogue of a known format.
    """
    document = parse_json_object(data, "catalog.json", CATALOG_LIMIT_BYTES)
    models = document.get("models")
    if document.get("format_version") != 1 or not isinstance(models, list):
        raise InputError(
            f"want a catalog.json of format_version 1, got {document.get('format_version')!r}"
        )
    return {
        str(model.get("tag")): Facts(_text(model.get("license")), _size(model.get("size_bytes")))
        for model in models
        if isinstance(model, Mapping)
    }


def render_table(models: Models, language: str, facts: Mapping[str, Facts] | None = None) -> str:
    """Return the table as Markdown.

    Args:
        models: One row each, in the order of the file.
        language: ``en`` or ``zh``.
        facts: By tag; None leaves out the columns of license and size.
    """
    text = words()[language]
    columns = ["tag", "model"] + (["license", "size"] if facts is not None else [])
    head = [text[key] for key in columns]
    lines = [head, ["---", "---", "---", "---:"][: len(columns)]]
    lines += [_row(model, text, facts) for model in models]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replace_table(text: str, table: str, name: str) -> str:
    r"""Return a document with another table between the markers.

    Raises:
        InputError: A marker is missing, is there twice, or they are in the wrong order.

    >>> replace_table(f"a\n{BEGIN}\nold\n{END}\nb\n", "new", "README.md") == (
    ...     f"a\n{BEGIN}\n\nnew\n\n{END}\nb\n")
    True
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"want {BEGIN} and then {END} in {name}, each on a line and only once")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def language_of(name: str) -> str:
    """Return the language of a README by its name.

    >>> language_of("README.md"), language_of("README.zh-CN.md")
    ('en', 'zh')
    """
    return "zh" if ".zh" in name.lower() else "en"


def _row(model: Model, text: Mapping[str, str], facts: Mapping[str, Facts] | None) -> list[str]:
    repo = f"[{markdown(model.repo.id)}]({model.repo.url})"
    kind = [text[model.repo.type]] if model.repo.type != "model" else []
    partial = [] if model.selection.is_everything else [_selection(model)]
    notes = f" ({', '.join(kind + partial)})" if kind or partial else ""
    cells = [f"`{model.tag}`", repo + notes]
    if facts is None:
        return cells
    fact = facts.get(model.tag, Facts(None, None))
    size = "" if fact.size_bytes is None else format_bytes(fact.size_bytes)
    return [*cells, markdown(fact.license or ""), size]


def _selection(model: Model) -> str:
    globs = [f"+{glob}" for glob in model.selection.include]
    globs += [f"-{glob}" for glob in model.selection.exclude]
    return " ".join(markdown_code(glob) for glob in globs)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _size(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
