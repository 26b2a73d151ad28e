"""The choice of the engine that publishes a model on this runner, with its reason. Pure."""

from dataclasses import dataclass
from typing import Literal

from downloader.farm.models import Engine
from downloader.units import format_bytes

Chosen = Literal["publish", "docker"]


@dataclass(frozen=True)
class EngineChoice:
    """The engine, and the reason as a sentence for people."""

    engine: Chosen
    reason: str


def choose_engine(need_bytes: int, free_bytes: int, wish: Engine) -> EngineChoice:
    """Choose between streaming and the Docker path.

    Args:
        need_bytes: Disk that building the image takes.
        free_bytes: Disk that this runner has, or will have once it is cleaned.
        wish: What the model's entry says.

    >>> choose_engine(10, 5, "prefer-docker")
    EngineChoice(engine='publish', reason='prefer-docker, but building needs 10 B and 5 B are free')
    """
    disk = f"building needs {format_bytes(need_bytes)} and {format_bytes(free_bytes)} are free"
    if wish == "docker":
        return EngineChoice("docker", f"docker was asked for; {disk}")
    if wish == "prefer-docker" and need_bytes <= free_bytes:
        return EngineChoice("docker", f"docker is preferred and fits; {disk}")
    if wish == "prefer-docker":
        return EngineChoice("publish", f"prefer-docker, but {disk}")
    if wish == "publish":
        return EngineChoice("publish", "publish was asked for")
    return EngineChoice("publish", "streaming is the default: it needs no disk and no engine")
