"""The catalogue as one static page: no network, no framework, readable without JavaScript."""

import base64
import hashlib
import json
from datetime import datetime
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from downloader.farm.catalog.markup import Markup, element, escape, join, json_script
from downloader.units import format_bytes

# What a row offers, by the word that names it; the page fills in the image.
COMMANDS = {
    "restore": "hf-models restore {image}",
    "export": "docker run --rm -v ~/.cache/huggingface:/export {image} export",
    "pull": "docker pull {image}",
}
SOURCE_URL = "https://github.com/AlphaHinex/hf-models"
LANGUAGE = "en"  # of the page as it is served; the script changes it
_SORTABLE = ("model", "license", "size", "files", "layers", "version", "status")
_NUMBERS = {"size", "files", "layers"}
_COLUMNS = len(_SORTABLE)


@cache
def words() -> dict[str, dict[str, str]]:
    """Return every text of the page, by language and key."""
    parsed: dict[str, dict[str, str]] = json.loads(_asset("words.json"))
    return parsed


def render_page(document: dict[str, Any], source_url: str = SOURCE_URL) -> str:
    """Return the page.

    Args:
        document: The catalogue as ``catalog.schema.json`` specifies it.
        source_url: Where the project that publishes these images is.
    """
    style, script = _asset("page.css"), _asset("page.js")
    text = words()[LANGUAGE]
    models = document["models"]
    values = {
        "csp": _content_security_policy(style, script),
        "title": element("title", text["title"]),
        "description": escape(text["description"]),
        "style": style,
        "script": script,
        "data": json_script({"catalog": document, "words": words(), "commands": COMMANDS}),
        "source": escape(source_url),
        "summary": _summary(models),
        "choices": _choices(),
        "registries": join(
            [element("option", name, value=name) for name in document["registries"]]
        ),
        "head": join([_header(key) for key in _SORTABLE]),
        "rows": join([_row(model) for model in models]),
        "count": str(len(models)),
        "generated": element(
            "time", _day(document["generated_at"]), datetime=document["generated_at"]
        ),
    } | {f"w_{key}": element("span", value, data_w=key) for key, value in text.items()}
    values |= {f"t_{key}": escape(value) for key, value in text.items()}
    return Template(_asset("page.html")).substitute(values)


def render_feed(document: dict[str, Any], source_url: str = SOURCE_URL) -> str:
    """Return the published models as an Atom feed, the newest commit first.

    A new digest is a new entry, so a reader sees a model again once its tag has moved.

    Args:
        document: The catalogue as ``catalog.schema.json`` specifies it.
        source_url: Where the project that publishes these images is.

    Source: RFC 4287.
    """
    models = [model for model in document["models"] if model["digest"] and model["committed_at"]]
    models.sort(key=lambda model: datetime.fromisoformat(model["committed_at"]), reverse=True)
    updated = models[0]["committed_at"] if models else document["generated_at"]
    head = [
        element("title", words()[LANGUAGE]["title"]),
        element("id", source_url),
        element("updated", updated),
        element("author", element("name", "hf-models")),
        element("link", href=source_url),
    ]
    feed = element("feed", *head, *map(_feed_entry, models), xmlns="http://www.w3.org/2005/Atom")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{feed}\n'


def _feed_entry(model: dict[str, Any]) -> Markup:
    image = f"{model['registries'][0]}:{model['tag']}"
    text = [model["description"], COMMANDS["restore"].format(image=image), model["digest"]]
    return element(
        "entry",
        element("title", f"{model['tag']}: {model['repo_id']}"),
        element("id", f"urn:{model['digest']}:{model['tag']}"),
        element("updated", model["committed_at"]),
        element("link", href=f"{model['repo_url']}/tree/{model['commit']}"),
        element("summary", " · ".join(filter(None, text))),
    )


def _content_security_policy(style: str, script: str) -> str:
    # The hashes allow exactly these two texts; nothing may be fetched but the inline icon.
    allowed = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{key} {value}" for key, value in allowed.items())


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _summary(models: list[dict[str, Any]]) -> Markup:
    published = [model for model in models if model["published"]]
    total = sum(model["size_bytes"] or 0 for model in published)
    facts = [(str(len(models)), "models_word"), (str(len(published)), "published")]
    facts += [(format_bytes(total), "in_all")] if total else []
    return join([element("li", element("b", number), " ", _word(key)) for number, key in facts])


def _choices() -> Markup:
    return join(
        [
            element(
                "label",
                Markup(f'<input type="radio" name="command" value="{key}"{" checked" * (not i)}>'),
                element("span", words()[LANGUAGE][key]),
            )
            for i, key in enumerate(COMMANDS)
        ]
    )


def _header(key: str) -> Markup:
    arrow = element("span", class_="arrow", aria_hidden="true")
    button = element("button", _word(key), arrow, type="button", data_sort=key, disabled=True)
    kind = "number" if key in _NUMBERS else None
    return element("th", button, role="columnheader", scope="col", class_=kind)


def _row(model: dict[str, Any]) -> Markup:
    facts = element("tr", *_cells(model), role="row", class_="facts")
    second = element("tr", _command_cell(model), role="row", class_="command")
    kind = None if model["published"] else "missing-row"
    return element("tbody", facts, second, role="rowgroup", class_=kind, id=f"m-{model['tag']}")


def _cells(model: dict[str, Any]) -> list[Markup]:
    size = model["size_bytes"]
    return [
        _cell("model", element("span", model["tag"], class_="tag"), *_about(model), header=True),
        _cell("license", _license(model["license"])),
        _cell("size", "–" if size is None else format_bytes(size)),
        _cell("files", _count(model["files"])),
        _cell("layers", _count(model["layers"])),
        _cell("version", *_version(model)),
        _cell("status", _status(model), *_badges(model)),
    ]


def _cell(key: str, *children: str, header: bool = False) -> Markup:
    kind = f"c-{key} number" if key in _NUMBERS else f"c-{key}"
    if header:
        return element("th", *children, role="rowheader", scope="row", class_=kind)
    name = element("span", words()[LANGUAGE][key], data_w=key, class_="label", aria_hidden="true")
    return element("td", name, element("span", *children, class_="value"), role="cell", class_=kind)


def _about(model: dict[str, Any]) -> list[Markup]:
    task, number, text = model["task"], model["parameters"], model["description"]
    about = [element("span", task, class_="badge task")] if task else []
    if number is not None:
        about += [element("span", _parameters(number), " ", _word("parameters"), class_="badge")]
    lines = [_repo(model)]
    lines += [element("span", text, class_="description")] if text else []
    return lines + ([element("span", *about, class_="about")] if about else [])


def _parameters(number: int) -> str:
    """Return a number of parameters as model names have it.

    >>> _parameters(1_543_714_304), _parameters(22_713_216), _parameters(999)
    ('1.5B', '23M', '999')
    """
    if number >= 10**9:
        return f"{number / 10**9:.{0 if number >= 10**10 else 1}f}B"
    return f"{number / 10**6:.0f}M" if number >= 10**6 else str(number)


def _repo(model: dict[str, Any]) -> Markup:
    return element("a", model["repo_id"], href=model["repo_url"], class_="repo", rel="noreferrer")


def _license(spdx: str | None) -> str:
    # SPDX wants the prefix before a license that it does not list; a person does not.
    plain = (spdx or "–").replace("LicenseRef-", "")
    return plain if plain == spdx else element("span", plain, title=spdx)


def _version(model: dict[str, Any]) -> list[Markup]:
    commit, date = model["commit"], model["committed_at"]
    if commit is None:
        return [Markup("–")]
    link = f"{model['repo_url']}/tree/{commit}"
    short = element("a", commit[:7], href=link, title=commit, class_="commit", rel="noreferrer")
    return [short, *([element("time", _day(date), datetime=date)] if date else [])]


def _status(model: dict[str, Any]) -> Markup:
    behind = {True: "behind", False: "current", None: "unknown"}[model["behind"]]
    key = behind if model["published"] else "missing"
    return element("span", _word(key), class_=f"status {key}")


def _badges(model: dict[str, Any]) -> list[Markup]:
    keys = [key for key in ("gated", "partial", "private") if model[key]]
    keys += [model["repo_type"]] if model["repo_type"] != "model" else []
    return [element("span", _word(key), class_=f"badge {key}") for key in keys]


def _command_cell(model: dict[str, Any]) -> Markup:
    if not model["published"]:
        return element("td", role="cell", colspan=str(_COLUMNS))
    image = f"{model['registries'][0]}:{model['tag']}"
    code = element("code", COMMANDS["restore"].format(image=image), tabindex="0")
    copy = element("button", _word("copy"), type="button", class_="copy", hidden=True)
    line = element("div", code, copy, class_="line")
    # What a Dockerfile or a cluster names for it to stay these bytes.
    pinned = f"{model['registries'][0]}@{model['digest']}"
    digest = element("samp", pinned, translate="no") if model["digest"] else None
    pin = element("p", _word("digest"), " ", digest, class_="pin") if digest else None
    return element(
        "td",
        line,
        pin,
        element("p", class_="elsewhere", hidden=True),
        role="cell",
        colspan=str(_COLUMNS),
    )


def _word(key: str) -> Markup:
    return element("span", words()[LANGUAGE][key], data_w=key)


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}".replace(",", "\u202f")


def _day(moment: str) -> str:
    return moment[:10]
