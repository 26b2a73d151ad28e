"""What became of each target of a command: one that fails does not stop the others."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from downloader.cli.console import describe_error, print_json, print_result, say_error
from downloader.errors import HfModelsError


@dataclass(frozen=True)
class TargetResult:
    """One target.

    Args:
        image: ``REGISTRY/NAME:TAG``.
        digest: Of the image that is there now; None where it failed.
        error: Why it failed; None where it did not.
    """

    image: str
    digest: str | None = None
    error: HfModelsError | None = None


def at_each(images: Iterable[str], act: Callable[[str], str]) -> list[TargetResult]:
    """Act on one target after the other; ``act`` returns the digest of the image there."""
    results = []
    for image in images:
        try:
            results.append(TargetResult(image, act(image)))
        except HfModelsError as error:
            results.append(TargetResult(image, error=error))
    return results


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
