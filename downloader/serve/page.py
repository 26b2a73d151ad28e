"""The page at ``/``: the repos that are served, and the line that points each tool here."""

from collections.abc import Iterable
from string import Template

from downloader.markup import (
    LANGUAGE,
    Markup,
    content_security_policy,
    element,
    join,
    json_script,
    language_script,
    look,
    read_asset,
    read_words,
    word,
)
from downloader.serve.catalogue import Entry
from downloader.units import format_bytes

_DOWNLOAD = "Download"  # the only one of them that has a word in each language
_TOOLS = (
    (
        "Python: transformers, datasets, diffusers, vLLM, sentence-transformers, hf",
        "export HF_ENDPOINT=$url",
    ),
    (_DOWNLOAD, "HF_ENDPOINT=$url hf download $repo"),
    ("vLLM", "HF_ENDPOINT=$url vllm serve $repo"),
    ("llama.cpp", "MODEL_ENDPOINT=$url/ llama-cli -hf $repo"),
    ("Ollama", "ollama pull --insecure $host/$repo"),
    (
        "transformers.js",
        "import { env } from '@huggingface/transformers'; env.remoteHost = '$url/';",
    ),
    ("curl", "curl -L -C - -O $url/$repo/resolve/main/config.json"),
)


def render_page(entries: Iterable[Entry], revisions: dict[str, list[str]], url: str) -> str:
    """Return the page.

    Args:
        entries: The entry of ``main`` of each repo.
        revisions: The names of each repo's revisions, by its URL path.
        url: Of this server, as the client has reached it.
    """
    listed = list(entries)
    repo = next((entry.repo.id for entry in listed if entry.repo.type == "model"), "org/name")
    host = url.partition("://")[2]
    lines = [
        (name, Template(line).substitute(url=url, host=host, repo=repo)) for name, line in _TOOLS
    ]
    script, words = language_script() + read_asset(__package__, "page.js"), read_words(__package__)
    return Template(read_asset(__package__, "page.html")).substitute(
        {f"w_{key}": _word(key) for key in words[LANGUAGE]},
        csp=content_security_policy(look(), script),
        title=element("title", words[LANGUAGE]["title"]),
        style=look(),
        script=script,
        words=json_script(words),
        count=str(len(listed)),
        tools=join([_tool(name, line) for name, line in lines]),
        rows=join([_row(entry, revisions.get(entry.repo.url_path, [])) for entry in listed]),
    )


def _word(key: str) -> Markup:
    return word(read_words(__package__), key)


def _tool(name: str, line: str) -> Markup:
    code = element("pre", element("code", line), tabindex="0")
    label = _word("download") if name == _DOWNLOAD else name
    return join([element("dt", label), element("dd", code)])


def _row(entry: Entry, revisions: list[str]) -> Markup:
    size = format_bytes(entry.size_bytes) if entry.size_bytes is not None else ""
    return element(
        "tr",
        element("td", element("code", entry.repo.id)),
        element("td", _word(entry.repo.type)),
        element("td", ", ".join(revisions)),
        element("td", element("code", entry.commit[:12])),
        element("td", entry.license),
        element("td", size, class_="number"),
    )
