"""The whole process stays in the memory that a flag sets, whatever the model's size."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.fake_hub import HubProcess, sharded_repo

GIB = 1 << 30
LIMIT_KIB = 256 * 1024

# Runs the command, then says what it took: `wait4` counts this one child and no other.
MEASURE = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(child.pid, 0)
child.returncode = os.waitstatus_to_exitcode(status)
print(child.returncode, usage.ru_maxrss, usage.ru_oublock)
"""


@pytest.fixture
def hole() -> Iterator[str]:
    """Give the address of a registry that keeps nothing, but hashes."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.sink_registry", "--hash"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def test_two_gigabytes_pass_through_the_default_memory_and_no_disk(hole: str) -> None:
    repo = sharded_repo(2 * GIB, shards=2)
    publish = ["-m", "downloader", "publish", "org/sharded", "--to", f"{hole}/x", "--base", "none"]
    with HubProcess([repo]) as hub:
        ran = subprocess.run(
            [sys.executable, "-c", MEASURE, sys.executable, *publish, "--upload", "chunked", "-q"],
            env={**os.environ, "HF_ENDPOINT": hub.endpoint},
            capture_output=True,
            text=True,
            timeout=200,
        )
    code, peak_kib, written_blocks = map(int, ran.stdout.splitlines()[-1].split())
    assert code == 0, ran.stderr
    assert peak_kib <= LIMIT_KIB
    assert written_blocks * 512 < 1 << 20  # what Python caches of its own code
