"""The head of a repo's README: its task, library, tags and license, as the Hub shows them. Pure.

YAML has a grammar of its own, and no parser of it is among the requirements. Here a line is read
where it is a key with text, or with a list of texts; whatever else YAML allows is left out.

Source: https://huggingface.co/docs/hub/model-cards and datasets-cards, "metadata".
"""

import re
from collections.abc import Mapping

Card = Mapping[str, "str | list[str]"]

_LINES = 1000  # of a head; some list every language
_LINE_CHARS = 1000
_KEYS = {
    *("license", "license_name", "license_link", "pipeline_tag", "library_name", "tags", "sdk"),
    *("language", "datasets", "base_model", "task_categories", "size_categories", "pretty_name"),
}
_QUOTED = re.compile(r"""(["'])(?P<text>[^"'\\]*)\1""")


def parse_card(data: bytes) -> Card:
    r"""Return the keys of a README's head that say what a repo is.

    >>> parse_card(b"---\nlicense: mit\ntags:\n- a\n- 'b c'\nx-y:\n- d\nlanguage: [en, fr]\n---")
    {'license': 'mit', 'tags': ['a', 'b c'], 'language': ['en', 'fr']}
    >>> parse_card(b"# Hi\nlicense: mit"), parse_card(b"---\ntags: {a: b}\nlicense: mit")
    ({}, {})
    """
    first, *lines = data.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()[
        :_LINES
    ] or [""]
    lines = [line[:_LINE_CHARS].rstrip() for line in lines]
    if first.rstrip() != "---" or "---" not in lines:
        return {}
    card: dict[str, str | list[str]] = {}
    key = ""
    for line in lines[: lines.index("---")]:
        item = line.lstrip()
        if item.startswith("- "):
            items, text = card.setdefault(key, []), _text(item[2:].strip())
            if isinstance(items, list) and text is not None:
                items.append(text)
        elif line == item and line:
            key, _, value = line.partition(":")
            card |= _value(key, value.strip())
    return {key: value for key, value in card.items() if value and key in _KEYS}


def _value(key: str, value: str) -> Card:
    if value.startswith("[") and value.endswith("]"):
        items = (_text(item.strip()) for item in value[1:-1].split(","))
        return {key: [item for item in items if item]}
    text = _text(value)
    return {key: text} if text is not None else {}


def _text(value: str) -> str | None:
    """Return a text of YAML; None where it is anything else.

    >>> _text("en"), _text('"no"'), _text("mit # free"), _text("{a: b}"), _text("a: b"), _text("|")
    ('en', 'no', 'mit', None, None, None)
    """
    if quoted := _QUOTED.fullmatch(value):
        return quoted["text"]
    plain = value.partition(" #")[0].rstrip()
    is_other = plain.startswith(tuple("{}[]&*!|>%@`\"'#")) or ": " in plain or plain.endswith(":")
    return None if is_other or plain in {"", "~", "null"} else plain
