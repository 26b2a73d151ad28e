"""``models.toml``: what is published, as data."""

from downloader.models.edit import add_model
from downloader.models.models import (
    ENGINES,
    MODELS_FILE,
    Engine,
    Model,
    Models,
    parse_models,
    read_models,
)

__all__ = [
    "ENGINES",
    "MODELS_FILE",
    "Engine",
    "Model",
    "Models",
    "add_model",
    "parse_models",
    "read_models",
]
