"""Any Hugging Face repo as a container image, and back into the Hugging Face cache.

::

    from downloader import restore

    path = restore("ghcr.io/me/hf-models:qwen2.5-0.5b")  # the snapshot, in the user's cache

Every function takes an `Environment` in place of the process's own variables, and a `Progress`
to tell how far it is; every error is an `HfModelsError` whose facts are attributes.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from downloader.environment import Environment as Environment
    from downloader.environment import read_environment as read_environment
    from downloader.errors import HfModelsError as HfModelsError
    from downloader.library.bundle import bundle as bundle
    from downloader.library.connection import Connection as Connection
    from downloader.library.consumer import inspect as inspect
    from downloader.library.consumer import restore as restore
    from downloader.library.consumer import restore_images as restore_images
    from downloader.library.consumer import verify as verify
    from downloader.library.copying import copy as copy
    from downloader.library.layouts import build as build
    from downloader.library.layouts import push as push
    from downloader.library.publisher import PlanOptions as PlanOptions
    from downloader.library.publisher import assemble as assemble
    from downloader.library.publisher import login as login
    from downloader.library.publisher import logout as logout
    from downloader.library.publisher import plan as plan
    from downloader.library.publisher import publish as publish
    from downloader.library.publisher import remove as remove
    from downloader.library.serving import serve as serve
    from downloader.progress import Progress as Progress
    from downloader.serve import ServeOptions as ServeOptions

__version__ = "0.1.0"

# name -> module; loaded on first use, so that the consumer's side stays small
_HOME = {
    "Connection": "downloader.library.connection",
    "Environment": "downloader.environment",
    "HfModelsError": "downloader.errors",
    "PlanOptions": "downloader.library.publisher",
    "Progress": "downloader.progress",
    "ServeOptions": "downloader.serve",
    "assemble": "downloader.library.publisher",
    "build": "downloader.library.layouts",
    "bundle": "downloader.library.bundle",
    "copy": "downloader.library.copying",
    "inspect": "downloader.library.consumer",
    "login": "downloader.library.publisher",
    "logout": "downloader.library.publisher",
    "plan": "downloader.library.publisher",
    "publish": "downloader.library.publisher",
    "push": "downloader.library.layouts",
    "read_environment": "downloader.environment",
    "remove": "downloader.library.publisher",
    "restore": "downloader.library.consumer",
    "restore_images": "downloader.library.consumer",
    "serve": "downloader.library.serving",
    "verify": "downloader.library.consumer",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - names of a table


class _CallableModule(ModuleType):
    """A module that is called by the name that it shares with a function of the library."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        """Call the function."""
        return _function(self.__name__.rpartition(".")[2])(*arguments, **named)


class _Library(ModuleType):
    """The package: a subpackage named like a function is that function as well."""

    def __setattr__(self, name: str, value: object) -> None:
        """Bind a name; the import system does so for every module below."""
        if isinstance(value, ModuleType) and name in _HOME:
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Library


def _function(name: str) -> Any:  # noqa: ANN401
    return getattr(importlib.import_module(_HOME[name]), name)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _function(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
