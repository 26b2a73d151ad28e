"""Free a hosted runner's disk: the software of `freeable`, measured before and after.

Nothing here fails a job: what is absent, in use or not ours to delete is said, and left.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from downloader.farm.freeable import ITEMS, Item

State = Literal["removed", "would remove", "absent", "kept", "failed"]
COMMAND_TIMEOUT_S = 600  # pruning images of several GB on a slow disk
BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own (POSIX, sys/stat.h)
_BINARIES = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")


@dataclass(frozen=True)
class Cleaned:
    """The result of one item.

    Args:
        name: Of the item.
        state: The result.
        before_bytes: Its size on the disk before.
        after_bytes: Its size on the disk after.
        free_before_bytes: Free on the whole disk.
        free_after_bytes: The same, afterwards.
        note: The reason why it was kept or failed.
    """

    name: str
    state: State
    before_bytes: int
    after_bytes: int
    free_before_bytes: int
    free_after_bytes: int
    note: str = ""

    @property
    def freed_bytes(self) -> int:
        """Bytes of the item that are gone; for a command, what the disk gained."""
        if self.before_bytes:
            return self.before_bytes - self.after_bytes
        return max(0, self.free_after_bytes - self.free_before_bytes)


@dataclass(frozen=True)
class Cleaner:
    """Removes items below a root directory.

    Args:
        root: ``/``, or a directory that stands for it; commands are looked up below it too.
        dry_run: Measure, remove nothing.
        is_root: Whether this process may delete what belongs to root.
        protected: Never removed, nor any directory around them.
    """

    root: Path = Path("/")
    dry_run: bool = False
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    protected: tuple[Path, ...] = ()

    def clean(self, item: Item) -> Cleaned:
        """Remove one item and say what that gave."""
        paths = sorted(path for pattern in item.paths for path in self._glob(pattern))
        kept = [path for path in paths if self._is_protected(path)]
        wanted = [path for path in paths if path not in kept]
        before, free = _total_bytes(wanted), self._free_bytes()
        state, note = self._act(item, wanted, kept)
        left = before if self.dry_run else _total_bytes(wanted)
        return Cleaned(item.name, state, before, left, free, self._free_bytes(), note)

    def _act(self, item: Item, wanted: Sequence[Path], kept: Sequence[Path]) -> tuple[State, str]:
        program = self._which(item.command[0]) if item.command else None
        if item.paths and not wanted:
            return ("kept", _kept_note(kept)) if kept else ("absent", "")
        if item.command and not program:
            return "absent", f"no {item.command[0]}"
        if self.dry_run:
            return "would remove", _kept_note(kept)
        problem = self._run([program, *item.command[1:]]) if program else None
        problem = problem or self._remove(wanted)
        return ("failed", problem) if problem else ("removed", _kept_note(kept))

    def _glob(self, pattern: str) -> Iterable[Path]:
        return self.root.glob(pattern.lstrip("/"))

    def _is_protected(self, path: Path) -> bool:
        real = path.resolve()
        return any(real == kept or real in kept.parents for kept in self.protected)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def _which(self, program: str) -> str | None:
        return shutil.which(program, path=os.pathsep.join(str(self.root / d) for d in _BINARIES))

    def _run(self, command: Sequence[str]) -> str | None:
        """Run a command; return why it failed, None if it did not."""
        prefix = [] if self.is_root else self._sudo()
        try:
            done = subprocess.run(
                [*prefix, *command],
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{command[0]}: {type(error).__name__}"
        return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else None

    def _sudo(self) -> list[str]:
        program = self._which("sudo")
        return [program, "-n"] if program else []  # -n: fail rather than ask for a password

    def _remove(self, paths: Sequence[Path]) -> str | None:
        # --one-file-system: a mount there is not the runner image's.
        command = ["rm", "-rf", "--one-file-system", "--", *map(str, paths)]
        return self._run(command) if paths else None


def clean_runner(cleaner: Cleaner, report: Callable[[Cleaned], None]) -> list[Cleaned]:
    """Remove every item and tell of each as soon as it is done."""
    done = []
    for item in ITEMS:
        cleaned = cleaner.clean(item)
        report(cleaned)
        done.append(cleaned)
    return done


def reclaimable_bytes(root: Path = Path("/"), items: Sequence[Item] = ITEMS) -> int:
    """Return what cleaning would give, from the list's figures and what is there.

    Reads no tree, so it answers at once; items without a published figure count nothing, nor
    does what lies on another disk, as the swap file does on some runners.
    """
    disk = root.stat().st_dev
    return sum(
        item.size_bytes
        for item in items
        if any(
            path.lstat().st_dev == disk
            for pattern in item.paths
            for path in root.glob(pattern.lstrip("/"))
        )
    )


def protected_paths() -> tuple[Path, ...]:
    """Return what must survive: this Python, its environment, Docker, and where we are."""
    docker = shutil.which("docker")
    found = [sys.executable, sys.prefix, sys.base_prefix, docker, Path.cwd(), Path.home()]
    return tuple(Path(path).resolve() for path in found if path)


def _kept_note(kept: Sequence[Path]) -> str:
    return f"kept {', '.join(str(path) for path in kept)}: in use" if kept else ""


def _total_bytes(paths: Iterable[Path]) -> int:
    """Return what these trees take on the disk; hard links count once, links are not followed."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for path in paths:
        for found in _iter_stats(path):
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * BLOCK_BYTES
    return total


def _iter_stats(path: Path) -> Iterator[os.stat_result]:
    try:
        found = path.lstat()
    except OSError:
        return
    yield found
    if not stat.S_ISDIR(found.st_mode):
        return
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        yield from _iter_stats(Path(entry.path))
