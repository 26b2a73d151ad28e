"""``nox -s recordings``: the terminal pictures of README, each drawn from a real run.

Every command runs in a pseudo terminal of 80 columns, against the tests' Hub (which serves a
real model out of a PyPI package) and the registry at ``$HF_TEST_REGISTRY``. A terminal emulator
keeps the screen, rich writes it as SVG. The registry's address is shown as it is.
"""

import io
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.demo import REPO, TAG
from tests.support.fake_hub import HubProcess, minilm_repo

OUT = Path(__file__).parents[1] / "docs" / "images"
COLUMNS, ROWS = 80, 40
NAMED = {"brown": "yellow", "default": None}


class Terminal:
    """A screen that keeps what a program prints; one picture may be taken on the way."""

    def __init__(self) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.ByteStream(self.screen)

    def run(
        self, command: list[str], environment: dict[str, str], *, snap: Callable[[str], bool]
    ) -> Text | None:
        """Run a command to its end; return the first screen that ``snap`` wants, if any."""
        shown = shlex.join(command).replace(f"{sys.executable} -m downloader", "hf-models")
        self.stream.feed(f"\x1b[1m$ {shown}\x1b[0m\r\n".encode())
        main, child = pty.openpty()
        ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        kept: Text | None = None
        with subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env=environment, close_fds=True
        ) as process:
            os.close(child)
            while True:
                if select.select([main], [], [], 0.05)[0]:
                    try:
                        data = os.read(main, 65536)
                    except OSError:  # the child closed its end
                        break
                    if not data:
                        break
                    self.stream.feed(data)
                    if kept is None and snap("\n".join(self.screen.display)):
                        kept = self.text()
        os.close(main)
        if process.returncode:
            sys.exit(f"{shown}: exit code {process.returncode}\n" + "\n".join(self.screen.display))
        return kept

    def text(self) -> Text:
        """Return the screen with its colours, without the empty rows below."""
        lines = []
        for row in range(ROWS):
            line = Text()
            for column in range(COLUMNS):
                cell = self.screen.buffer[row][column]
                color = NAMED.get(cell.fg, cell.fg.replace("bright", "bright_"))
                if color and all(digit in "0123456789abcdef" for digit in color):
                    color = f"#{color}"
                line.append(cell.data, Style(color=color, bold=cell.bold))
            line.rstrip()
            lines.append(line)
        while lines and not lines[-1].plain:
            lines.pop()
        return Text("\n").join(lines)


def is_halfway(screen: str) -> bool:
    """Whether the bar of a running command shows a third or more of its bytes."""
    bar = re.search(r"([\d.]+)/([\d.]+) MB .*MB/s", screen)
    return bar is not None and float(bar[1]) >= float(bar[2]) / 3


def write_svg(name: str, text: Text) -> None:
    """Write one picture; its title is its name."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text, no_wrap=True, overflow="ignore")
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.svg"
    svg = console.export_svg(title="hf-models", unique_id=f"terminal-{name}")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts of another server
    path.write_text("".join(f"{line.rstrip()}\n" for line in svg.splitlines()), encoding="utf-8")
    print(f"{path.name}: {text.plain.count(chr(10)) + 1} rows")


def main() -> None:
    """Record publish, restore while it runs, restore at its end, and inspect."""
    host = os.environ.get("HF_TEST_REGISTRY") or sys.exit("HF_TEST_REGISTRY names no registry")
    name = f"{host}/hf-models"
    command = [sys.executable, "-m", "downloader"]
    home_of_all = tempfile.TemporaryDirectory(prefix="home-", dir="/tmp")
    with HubProcess([minilm_repo()]) as hub, home_of_all as home:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "TERM": "xterm-256color",
            "HF_ENDPOINT": hub.endpoint,
            "LANG": "C.UTF-8",
        }

        def never(_: str) -> bool:
            return False

        again = [*command, "publish", REPO, "--to", name, "--base", "none", "--force"]
        Terminal().run(again, environment, snap=never)
        publish = Terminal()  # the page shows the second run, which moves nothing
        publish.run(again, environment, snap=never)
        write_svg("publish", publish.text())
        restore = Terminal()
        halfway = restore.run([*command, "restore", f"{name}:{TAG}"], environment, snap=is_halfway)
        if halfway is not None:
            write_svg("restoring", halfway)
        write_svg("restore", restore.text())
        inspect = Terminal()
        inspect.run([*command, "inspect", f"{name}:{TAG}"], environment, snap=never)
        write_svg("inspect", inspect.text())


if __name__ == "__main__":
    main()
