"""The page at ``/``: what is served, and the line that points each tool here."""

from collections.abc import Iterable
from importlib.resources import files
from string import Template

from downloader.markup import (
    Markup,
    content_security_policy,
    element,
    escape,
    join,
    look,
)
from downloader.serve.catalogue import Entry
from downloader.units import format_bytes, format_count

_TOOLS = (
    (
        "Python: transformers, datasets, diffusers, vLLM, sentence-transformers, hf",
        "export HF_ENDPOINT=$url",
    ),
    ("Download", "HF_ENDPOINT=$url hf download $repo"),
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
        entries: What ``main`` of each repo is.
        revisions: The names of each repo's revisions, by its URL path.
        url: Of this server, as the client has reached it.
    """
    listed = list(entries)
    repo = next((entry.repo.id for entry in listed if entry.repo.type == "model"), "org/name")
    host = url.partition("://")[2]
    lines = [
        (name, Template(line).substitute(url=url, host=host, repo=repo)) for name, line in _TOOLS
    ]
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        csp=content_security_policy(look()),
        style=look(),
        count=escape(format_count(len(listed), "repo")),
        tools=join([_tool(name, line) for name, line in lines]),
        rows=join([_row(entry, revisions.get(entry.repo.url_path, [])) for entry in listed]),
    )


def _tool(name: str, line: str) -> Markup:
    code = element("pre", element("code", line), tabindex="0")
    return join([element("dt", name), element("dd", code)])


def _row(entry: Entry, revisions: list[str]) -> Markup:
    size = format_bytes(entry.size_bytes) if entry.size_bytes is not None else ""
    return element(
        "tr",
        element("td", element("code", entry.repo.id)),
        element("td", entry.repo.type),
        element("td", ", ".join(revisions)),
        element("td", element("code", entry.commit[:12])),
        element("td", entry.license),
        element("td", size, class_="number"),
    )
