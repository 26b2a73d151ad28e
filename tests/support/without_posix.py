"""Run a command as on a system without POSIX calls: a rough stand-in for Windows.

``python -m tests.support.without_posix [--no-links] COMMAND...`` takes away what CPython
lacks on Windows before the package is imported; ``imports`` imports every module of it;
``pytest`` runs tests.

Source: the availability notes of the Python 3.13 documentation of os, signal and fcntl.
"""

import importlib
import os
import pkgutil
import shutil
import signal
import ssl
import sys
import sysconfig
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

# Libraries choose by what they find when they are imported; they have their own tests.
import httpx2  # noqa: F401
import huggingface_hub.hf_api  # noqa: F401
import rich.console  # noqa: F401
import urllib3  # noqa: F401
import uvicorn.server  # noqa: F401

_MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
_CALLS = set(
    """
    pread preadv pwrite pwritev sendfile posix_fadvise posix_fallocate fdatasync
    geteuid getuid getgid chown lchown fchown fchmod fork killpg setsid getpgid uname
    """.split()  # noqa: SIM905
)
_FLAGS = {"O_CLOEXEC", "O_DIRECTORY", "O_DSYNC", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC"}
_SIGNALS = {"SIGALRM", "SIGCHLD", "SIGHUP", "SIGUSR1", "pthread_sigmask"}


def take_posix_away() -> None:
    """Remove calls, flags, modules and signals from this process."""
    locks = types.ModuleType("msvcrt")
    locks.LK_NBLCK = 2  # type: ignore[attr-defined]
    locks.locking = lambda *_: None  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = locks
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, _CALLS | _FLAGS), (signal, _SIGNALS)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    os.O_BINARY = 0  # type: ignore[attr-defined]
    really_open = os.open

    def open_(path: Any, *args: Any, **options: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *args, **options)

    really_unlink = os.unlink

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        """Remove no file that this process has open."""
        if str(Path(path).absolute()) in _open_files():
            raise PermissionError(13, "The process cannot access the file", str(path))
        really_unlink(path, dir_fd=dir_fd)

    os.open = open_
    os.unlink = os.remove = unlink
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    if hasattr(shutil, "_rmtree_impl"):  # Python 3.13 and later choose when they are imported
        shutil._rmtree_impl = shutil._rmtree_unsafe  # type: ignore[attr-defined]
    ssl.enum_certificates = lambda _: []  # type: ignore[attr-defined]
    sys.platform = "win32"


def _open_files() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one of the listing is closed
            found.add(str(descriptor.readlink()))
    return found


def take_links_away() -> None:
    """Refuse symbolic links, as Windows does to users without the privilege."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(22, "A required privilege is not held by the client")

    os.symlink = refuse


def import_all() -> None:
    """Import every module of the package."""
    package = importlib.import_module("downloader")
    for module in pkgutil.walk_packages(package.__path__, "downloader."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


class WithoutPosix:
    """A plugin of pytest that takes POSIX away once pytest itself has begun."""

    def pytest_sessionstart(self) -> None:
        """Take it away before any test is imported."""
        take_posix_away()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "pytest":
        quiet = "-Wignore::pytest.PytestAssertRewriteWarning"  # of what is imported above
        sysconfig.get_config_vars()  # found by the name of the platform
        pytest = importlib.import_module("pytest")
        importlib.import_module("hypothesis")  # as those above
        sys.exit(
            pytest.main(
                [quiet, "-otimeout_method=thread", *arguments[1:]], plugins=[WithoutPosix()]
            )
        )
    take_posix_away()
    if arguments[0] == "--no-links":
        take_links_away()
        arguments = arguments[1:]
    if arguments == ["imports"]:
        import_all()
    else:
        from downloader.cli import run

        sys.exit(run(arguments))
