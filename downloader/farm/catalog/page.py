"""The catalogue as one static page: no network, no framework, readable without JavaScript."""

from datetime import datetime
from string import Template
from typing import Any

from downloader.farm.catalog.commands import COMMANDS, NAMES, command_line, commands_of
from downloader.markup import (
    LANGUAGE,
    Markup,
    content_security_policy,
    element,
    escape,
    join,
    json_script,
    language_script,
    look,
    read_asset,
    read_words,
    word,
)
from downloader.units import format_bytes

SOURCE_URL = "https://github.com/AlphaHinex/hf-models"
_SORTABLE = ("model", "parameters", "license", "size", "version", "published")
_NUMBERS = {"parameters", "size"}
_COLUMNS = len(_SORTABLE)
# The filters of sizes, as "from-to" in powers of ten of bytes and of parameters.
_SIZES = {"0-9": "< 1 GB", "9-10": "1 – 10 GB", "10-11": "10 – 100 GB", "11-": "> 100 GB"}
_PARAMETERS = {"0-9": "< 1B", "9-10": "1B – 10B", "10-11": "10B – 100B", "11-": "> 100B"}


def words() -> dict[str, dict[str, str]]:
    """Return every text of the page, by language and key."""
    return read_words(__package__)


def render_page(document: dict[str, Any], source_url: str = SOURCE_URL) -> str:
    """Return the page.

    Args:
        document: The catalogue as ``catalog.schema.json`` specifies it.
        source_url: Address of the project that publishes these images.
    """
    style = look() + read_asset(__package__, "page.css")
    script = language_script() + read_asset(__package__, "page.js")
    text = words()[LANGUAGE]
    models = document["models"]
    values = {
        "csp": content_security_policy(style, script),
        "title": element("title", text["title"]),
        "description": escape(text["description"]),
        "style": style,
        "script": script,
        "data": json_script(
            {
                "catalog": document,
                "words": words(),
                "commands": COMMANDS,
                "fitting": {model["tag"]: commands_of(model) for model in models},
            }
        ),
        "source": escape(source_url),
        "summary": _summary(models),
        "choices": _choices(),
        "filters": _filters(models),
        "nothing": _nothing(models),
        "registries": join(
            [element("option", name, value=name) for name in document["registries"]]
        ),
        "head": join([_header(key) for key in _SORTABLE]),
        "rows": _rows(models, source_url),
        "count": str(len(models)),
        "generated": element(
            "time", _day(document["generated_at"]), datetime=document["generated_at"]
        ),
    } | {f"w_{key}": _word(key) for key in text}
    values |= {f"t_{key}": escape(value) for key, value in text.items()}
    return Template(read_asset(__package__, "page.html")).substitute(values)


def render_feed(document: dict[str, Any], source_url: str = SOURCE_URL) -> str:
    """Return the published models as an Atom feed, the newest first.

    A new digest is a new entry, so a reader sees a model again once its tag has moved.

    Args:
        document: The catalogue as ``catalog.schema.json`` specifies it.
        source_url: Address of the project that publishes these images.

    Source: RFC 4287.
    """
    models = [model for model in document["models"] if model["digest"] and _date(model)]
    models.sort(key=lambda model: datetime.fromisoformat(str(_date(model))), reverse=True)
    updated = _date(models[0]) if models else document["generated_at"]
    head = [
        element("title", words()[LANGUAGE]["title"]),
        element("id", source_url),
        element("updated", updated),
        element("author", element("name", "hf-models")),
        element("link", href=source_url),
    ]
    feed = element("feed", *head, *map(_feed_entry, models), xmlns="http://www.w3.org/2005/Atom")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{feed}\n'


def _date(model: dict[str, Any]) -> str | None:
    """Return the date of publication, or, where that is not known, of the commit."""
    date: str | None = model["published_at"] or model["committed_at"]
    return date


def _feed_entry(model: dict[str, Any]) -> Markup:
    text = [model["description"], command_line("restore", _image(model)), model["digest"]]
    return element(
        "entry",
        element("title", f"{model['tag']}: {model['repo_id']}"),
        element("id", f"urn:{model['digest']}:{model['tag']}"),
        element("updated", _date(model)),
        element("link", href=f"{model['repo_url']}/tree/{model['commit']}"),
        element("summary", " · ".join(filter(None, text))),
    )


def _summary(models: list[dict[str, Any]]) -> Markup:
    published = [model for model in models if model["published"]]
    total = sum(model["size_bytes"] or 0 for model in published)
    facts = [(str(len(models)), "models_word"), (str(len(published)), "published_word")]
    facts += [(format_bytes(total), "in_all")] if total else []
    return join([element("li", element("b", number), " ", _word(key)) for number, key in facts])


def _choices() -> Markup:
    return join(
        [
            element(
                "label",
                Markup(f'<input type="radio" name="command" value="{key}"{" checked" * (not i)}>'),
                element("span", NAMES[key]),
            )
            for i, key in enumerate(COMMANDS)
        ]
    )


def _filters(models: list[dict[str, Any]]) -> Markup:
    return join(
        [
            _filter("task", {name: name for name in _found(models, "task")}),
            _filter("parameters", _PARAMETERS),
            _filter("license", {name: _plain(name) for name in _found(models, "license")}),
            _filter("size", _SIZES),
        ]
    )


def _found(models: list[dict[str, Any]], key: str) -> list[str]:
    return sorted({model[key] for model in models if model[key]}, key=str.casefold)


def _filter(key: str, choices: dict[str, str]) -> Markup:
    options = [element("option", text, value=value) for value, text in choices.items()]
    every = element("option", words()[LANGUAGE]["every"], value="", data_w="every")
    select = element("select", every, *options, id=f"filter-{key}", autocomplete="off")
    label = element("label", _word(key), for_=f"filter-{key}")
    return element("p", label, select, class_="field")


def _nothing(models: list[dict[str, Any]]) -> Markup:
    """Return what the page says where there is nothing to get; empty where there is."""
    if any(model["published"] for model in models):
        return Markup("")
    return element("p", _word("nothing_published" if models else "no_models"), class_="nothing")


def _header(key: str) -> Markup:
    arrow = element("span", class_="arrow", aria_hidden="true")
    button = element("button", _word(key), arrow, type="button", data_sort=key, disabled=True)
    kind = "number" if key in _NUMBERS else None
    return element("th", button, role="columnheader", scope="col", class_=kind)


def _rows(models: list[dict[str, Any]], source_url: str) -> Markup:
    largest = max((model["size_bytes"] or 0 for model in models), default=0)
    return join([_row(model, largest, source_url) for model in models])


def _row(model: dict[str, Any], largest: int, source_url: str) -> Markup:
    facts = element("tr", *_cells(model, largest), role="row", class_="facts")
    second = element("tr", _command_cell(model, source_url), role="row", class_="command")
    kind = None if model["published"] else "missing-row"
    return element("tbody", facts, second, role="rowgroup", class_=kind, id=f"m-{model['tag']}")


def _cells(model: dict[str, Any], largest: int) -> list[Markup]:
    size, number, date = model["size_bytes"], model["parameters"], model["published_at"]
    published = element("time", _day(date), datetime=date) if date else None
    return [
        _cell("model", element("span", model["tag"], class_="tag"), *_about(model), header=True),
        _cell("parameters", "–" if number is None else _parameters(number)),
        _cell("license", _license(model["license"])),
        _cell("size", *(["–"] if size is None else [format_bytes(size), _bar(size, largest)])),
        _cell("version", *_version(model)),
        _cell("published", _status(model), *_badges(model), published),
    ]


def _bar(size_bytes: int, largest: int) -> Markup:
    # An attribute of SVG: the page's policy forbids styles on elements.
    percent = max(2, round(100 * size_bytes / max(1, largest)))
    bar = element("rect", width=str(percent), height="4")
    kept = {"viewBox": "0 0 100 4", "preserveAspectRatio": "none"}
    return element("svg", bar, class_="bar", aria_hidden="true", **kept)


def _cell(key: str, *children: str | None, header: bool = False) -> Markup:
    kind = f"c-{key} number" if key in _NUMBERS else f"c-{key}"
    if header:
        return element("th", *children, role="rowheader", scope="row", class_=kind)
    name = element("span", words()[LANGUAGE][key], data_w=key, class_="label", aria_hidden="true")
    return element("td", name, element("span", *children, class_="value"), role="cell", class_=kind)


def _about(model: dict[str, Any]) -> list[Markup]:
    task, text = model["task"], model["description"]
    lines = [_repo(model)]
    lines += [element("span", task, class_="badge task")] if task else []
    lines += [element("span", text, class_="description")] if text else []
    return lines


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
    plain = _plain(spdx or "–")
    return plain if plain == spdx else element("span", plain, title=spdx)


def _plain(spdx: str) -> str:
    # SPDX wants the prefix before a license that it does not list; a person does not.
    return spdx.replace("LicenseRef-", "")


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


def _command_cell(model: dict[str, Any], source_url: str) -> Markup:
    if not model["published"]:
        return element("td", role="cell", colspan=str(_COLUMNS))
    code = element("code", command_line("restore", _image(model)), tabindex="0")
    copy = element("button", _word("copy"), type="button", class_="copy", hidden=True)
    # What a Dockerfile or a cluster names for it to stay these bytes.
    pinned = f"{model['registries'][0]}@{model['digest']}"
    details = element(
        "details",
        element("summary", _word("commands"), element("span", model["tag"], class_="unseen")),
        element("div", code, copy, class_="line"),
        element("p", class_="elsewhere", hidden=True),
        element("p", _word("digest"), " ", element("samp", pinned, translate="no"), class_="pin"),
        element("p", *_links(model, source_url), class_="links"),
        name="commands",
    )
    return element("td", details, role="cell", colspan=str(_COLUMNS))


def _image(model: dict[str, Any]) -> str:
    return f"{model['registries'][0]}:{model['tag']}"


def _links(model: dict[str, Any], source_url: str) -> list[Markup]:
    found = [element("span", _count(model[key]), " ", _word(key)) for key in ("files", "layers")]
    for name in model["registries"]:
        address = _registry_page(name, model["tag"])
        found += [element("a", name, href=address, rel="noreferrer")] if address else []
    if source_url.startswith("https://github.com/"):
        address = f"{source_url}/attestations"
        found.append(element("a", _word("attestations"), href=address, rel="noreferrer"))
    return found


def _registry_page(name: str, tag: str) -> str | None:
    """Return where people look at an image; None for a registry without such pages.

    >>> _registry_page("docker.io/me/hf-models", "tiny")
    'https://hub.docker.com/r/me/hf-models/tags?name=tiny'
    """
    host, _, path = name.partition("/")
    if host == "ghcr.io":  # leads to the package's page at GitHub
        return f"https://ghcr.io/{path}"
    if host == "docker.io":
        return f"https://hub.docker.com/r/{path}/tags?name={tag}"
    if host == "quay.io":
        return f"https://quay.io/repository/{path}?tab=tags&tag={tag}"
    return None


def _word(key: str) -> Markup:
    return word(words(), key)


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}".replace(",", "\u202f")


def _day(moment: str) -> str:
    return moment[:10]
