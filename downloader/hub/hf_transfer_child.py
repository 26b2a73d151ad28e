"""The child process that runs hf_transfer: reads one job from standard input, says how it went.

A script, not a module of the package: it imports the standard library and hf_transfer alone,
so that it starts in a few hundredths of a second.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def _die_with_parent(parent_pid: int) -> None:
    """A parent that was killed cannot kill us, and hf_transfer holds the GIL: ask the kernel."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(1)


def _main() -> None:
    job: dict[str, Any] = json.load(sys.stdin)
    _die_with_parent(job["parent_pid"])
    for name, value in job["environment"].items():
        os.putenv(name, value)  # hf_transfer is no Python: it reads the process's own
    try:
        import hf_transfer  # noqa: PLC0415

        hf_transfer.download(**job["call"])
    except Exception as error:  # noqa: BLE001  # it raises nothing more precise
        json.dump({"error": str(error)}, sys.stdout)
    else:
        json.dump({"error": None}, sys.stdout)


if __name__ == "__main__":
    _main()
