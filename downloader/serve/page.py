"""The page at ``/``: what is served, and the line that points each tool here."""

from collections.abc import Iterable
from html import escape
from string import Template

from downloader.serve.catalogue import Entry
from downloader.units import format_bytes, format_count

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hf-models: $count</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
pre { padding: .6rem .8rem; border: 1px solid var(--line); border-radius: .4rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line) }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
code { overflow-wrap: anywhere } dt { margin-top: 1rem }
</style></head><body>
<h1>hf-models</h1>
<p>A Hugging Face endpoint with $count. Set one variable, keep the ids.</p>
<h2>Use it</h2>
<dl>$tools</dl>
<h2>Repos</h2>
<table><thead><tr><th>Repo</th><th>Type</th><th>Revisions</th><th>Commit</th><th>License</th>
<th class="number">Size</th></tr></thead><tbody>
$rows
</tbody></table>
</body></html>
""")

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
    tools = "".join(
        f"<dt>{escape(name)}</dt><dd><pre><code>"
        + escape(Template(line).substitute(url=url, host=url.partition("://")[2], repo=repo))
        + "</code></pre></dd>"
        for name, line in _TOOLS
    )
    rows = "\n".join(_row(entry, revisions.get(entry.repo.url_path, [])) for entry in listed)
    return _PAGE.substitute(count=escape(format_count(len(listed), "repo")), tools=tools, rows=rows)


def _row(entry: Entry, revisions: list[str]) -> str:
    size = format_bytes(entry.size_bytes) if entry.size_bytes is not None else ""
    cells = [
        f"<code>{escape(entry.repo.id)}</code>",
        escape(entry.repo.type),
        escape(", ".join(revisions)),
        f"<code>{escape(entry.commit[:12])}</code>",
        escape(entry.license),
    ]
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr>{row}<td class="number">{escape(size)}</td></tr>'
