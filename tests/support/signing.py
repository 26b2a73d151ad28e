"""What the tests of signatures share: a repo, its signature, and the official verifier."""

import sys
from pathlib import Path

from tests.support.command import call
from tests.support.fake_hub import Generated, make_repo
from tests.support.publish import MIB

SIGNED = make_repo(
    "org/signed",
    {
        ".gitattributes": b"*.bin filter=lfs\n",
        "README.md": b"# A model\n",
        "config.json": b"{}",
        "sub/vocab.txt": b"words\n",
        "model.safetensors": Generated(2 * MIB, seed=6),
    },
)


def model_signing(*arguments: str | Path, code: int = 0) -> None:
    call(sys.executable, "-m", "model_signing", *arguments, code=code)


def signature_in(cache: Path) -> Path:
    [path] = cache.glob("models--org--signed/signatures/*.json")
    return path
