"""``python -m tests.fuzz TARGET [libFuzzer flags]``: search by coverage, until something breaks."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["downloader"]):
    from tests.fuzz import targets

name = sys.argv.pop(1)
seeds = Path(__file__).parent / "seeds" / name
with tempfile.TemporaryDirectory() as corpus:
    # What it learns goes into the first directory; the seeds are only read.
    atheris.Setup([*sys.argv, corpus, str(seeds)], lambda data: targets.run(name, data))
    atheris.Fuzz()
