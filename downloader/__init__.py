"""Any Hugging Face repo as a container image, and back into the Hugging Face cache."""

__version__ = "0.1.0"
