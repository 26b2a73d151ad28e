"""What became of each target of a command: one that fails does not stop the others."""

from collections.abc import Iterable, Sequence
from typing import Any

from downloader.cli.console import describe_error, print_json, print_result, say_error
from downloader.errors import HfModelsError
from downloader.library.publisher import TargetResult


def describe_results(results: Sequence[TargetResult]) -> list[dict[str, Any]]:
    """Return what became of each target, for programs."""
    return [
        {
            "image": result.image,
            "digest": result.digest,
            "error": describe_error(result.error) if result.error else None,
        }
        for result in results
    ]


def report_results(results: Sequence[TargetResult], document: Any = None) -> int:
    """Print what became of each target; return the exit code of the first that failed.

    Args:
        results: Of the targets.
        document: For programs, in place of the images; None for people.
    """
    if document is not None:
        print_json(document)
    for result in results:
        if result.error:
            say_error(result.error.message, result.error.hint)
        elif document is None:
            print_result(f"{result.image}@{result.digest}")
    return exit_code_of(result.error for result in results)


def exit_code_of(errors: Iterable[HfModelsError | None]) -> int:
    """Return the exit code of the first target that failed, 0 if none did."""
    return next((error.exit_code for error in errors if error), 0)
