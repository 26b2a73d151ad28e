"""Command lines for the users of an image: restore it, serve it, load it. Pure."""

from typing import Any

from downloader.serve.server import DEFAULT_HOST, DEFAULT_PORT

_ENDPOINT = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
_PYTHON = "HF_HUB_OFFLINE=1 python -c '{}'"

# By the key of their name and help; {origin} is the image, {image} the same at a mirror where
# one is given, {mirror} the flag that names one.
COMMANDS = {
    "restore": "hf-models restore {origin}{mirror}",
    "export": "docker run --rm -v ~/.cache/huggingface:/export {image} export",
    "pull": "docker pull {image}",
    "serve": "hf-models serve {origin}{mirror}",
    "pipeline": _PYTHON.format(
        'from transformers import pipeline; pipeline("{task}", model="{repo}")'
    ),
    "transformers": _PYTHON.format(
        'from transformers import AutoModel; AutoModel.from_pretrained("{repo}")'
    ),
    "sentences": _PYTHON.format(
        'from sentence_transformers import SentenceTransformer; SentenceTransformer("{repo}")'
    ),
    "diffusers": _PYTHON.format(
        'from diffusers import DiffusionPipeline; DiffusionPipeline.from_pretrained("{repo}")'
    ),
    "datasets": _PYTHON.format('from datasets import load_dataset; load_dataset("{repo}")'),
    "vllm": "HF_HUB_OFFLINE=1 vllm serve {repo}",
    "llama": f"HF_ENDPOINT={_ENDPOINT} llama-cli -hf {{repo}}",
}
NAMES = {
    "restore": "hf-models restore",
    "export": "docker run … export",
    "pull": "docker pull",
    "serve": "hf-models serve",
    "pipeline": "transformers",
    "transformers": "transformers",
    "sentences": "sentence-transformers",
    "diffusers": "diffusers",
    "datasets": "datasets",
    "vllm": "vLLM",
    "llama": "llama.cpp",
}
_EVERY = ("restore", "export", "pull", "serve")
_LIBRARIES = {
    "gguf": "llama",
    "sentence-transformers": "sentences",
    "diffusers": "diffusers",
}
# Tasks of the Hub that are pipelines of transformers by the same name, in version 4 and 5.
_PIPELINES = {
    "automatic-speech-recognition",
    "feature-extraction",
    "fill-mask",
    "image-classification",
    "image-text-to-text",
    "text-classification",
    "text-generation",
    "token-classification",
}
_GENERATED = {"text-generation", "image-text-to-text"}  # what vLLM serves without more flags


def commands_of(model: dict[str, Any]) -> list[str]:
    """Return the keys of the commands that fit a model of the catalogue.

    An image of an earlier version says no library; its task may still name a pipeline.

    >>> commands_of({"repo_type": "model", "library": "gguf", "task": None, "has_base": True})
    ['restore', 'export', 'pull', 'serve', 'llama']
    >>> commands_of({"repo_type": "space", "library": None, "task": None, "has_base": False})
    ['restore', 'pull', 'serve']
    """
    library, task = model["library"], model["task"]
    loads: list[str] = []
    if model["repo_type"] == "dataset":
        loads = ["datasets"]
    elif library in _LIBRARIES:
        loads = [_LIBRARIES[library]]
    elif model["repo_type"] == "model" and task in _PIPELINES and library in {"transformers", None}:
        loads = ["pipeline", "vllm"] if task in _GENERATED else ["pipeline"]
    elif library == "transformers":
        loads = ["transformers"]
    every = [key for key in _EVERY if key != "export" or model["has_base"] is not False]
    return [*every, *loads]


def command_line(key: str, image: str) -> str:
    """Return one of the commands that get or serve an image.

    >>> command_line("restore", "ghcr.io/me/hf-models:tiny")
    'hf-models restore ghcr.io/me/hf-models:tiny'
    """
    return COMMANDS[key].format(origin=image, image=image, mirror="")
