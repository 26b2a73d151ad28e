"""HTML that escapes every text that is not markup already."""

import base64
import hashlib
import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

from downloader.text import visible

LANGUAGE = "en"  # of a page as it is sent; its script changes it


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | bool | None) -> Markup:
    """Return an element; an underscore in an attribute's name is a dash, at its end nothing.

    Args:
        name: Of the tag.
        children: Text, which is escaped, or `Markup`, which is not; None for nothing.
        attributes: None and False leave one out, True writes its name alone.

    >>> element("a", "1 < 2", href="/?a&b", class_="x", hidden=True)
    '<a href="/?a&amp;b" class="x" hidden>1 &lt; 2</a>'
    """
    inner = "".join(escape(child) for child in children if child is not None)
    return Markup(f"<{name}{_attributes(attributes)}>{inner}</{name}>")


def json_script(document: Any) -> Markup:  # noqa: ANN401 - whatever JSON can hold
    r"""Return a data block; nothing in it can end the script element or begin a comment.

    Source: HTML Living Standard, "Restrictions for contents of script elements".

    >>> json_script({"a": "</script><!--"})
    '{"a":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def join(parts: list[Markup]) -> Markup:
    """Return the parts one after the other."""
    return Markup("".join(parts))


def escape(text: str) -> Markup:
    """Return text as HTML, fit for an attribute as well; markup as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(visible(text)))


@cache
def read_asset(package: str, name: str) -> str:
    """Return the text of a file that lies in a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def look() -> str:
    """Return the style sheet that every page begins with: colors, type, tables."""
    return read_asset("downloader", "look.css")


def language_script() -> str:
    """Return the script that every page in several languages begins with."""
    return read_asset("downloader", "language.js")


@cache
def read_words(package: str) -> dict[str, dict[str, str]]:
    """Return every text of a package's page, by language and key."""
    parsed: dict[str, dict[str, str]] = json.loads(read_asset(package, "words.json"))
    return parsed


def word(words: dict[str, dict[str, str]], key: str) -> Markup:
    """Return a text of a page, in `LANGUAGE` until the script puts another one there."""
    return element("span", words[LANGUAGE][key], data_w=key)


def content_security_policy(style: str, script: str | None = None) -> str:
    """Return a policy that allows exactly these two texts and the inline icon."""
    allowed = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": "'none'" if script is None else _hash(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{key} {value}" for key, value in allowed.items())


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _attributes(attributes: dict[str, str | bool | None]) -> str:
    written = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {name}")
        elif value not in {None, False}:
            written.append(f' {name}="{html.escape(visible(str(value)))}"')
    return "".join(written)
