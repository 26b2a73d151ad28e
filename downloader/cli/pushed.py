"""What became of each target of a push: one that fails does not stop the others."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from downloader.cli.console import print_json, print_result, say_error
from downloader.errors import HfModelsError


@dataclass(frozen=True)
class Pushed:
    """One target.

    Args:
        image: ``REGISTRY/NAME:TAG``.
        digest: Of the image that is there now; None where it failed.
        error: Why it failed; None where it did not.
    """

    image: str
    digest: str | None = None
    error: HfModelsError | None = None


def push_each(images: Iterable[str], push: Callable[[str], str]) -> list[Pushed]:
    """Push to one target after the other; ``push`` returns the digest."""
    results = []
    for image in images:
        try:
            results.append(Pushed(image, push(image)))
        except HfModelsError as error:
            results.append(Pushed(image, error=error))
    return results


def report_pushed(results: Sequence[Pushed], *, as_json: bool) -> int:
    """Print what became of each target; return the exit code of the first that failed."""
    if as_json:
        print_json(
            [
                {
                    "image": result.image,
                    "digest": result.digest,
                    "error": result.error.message if result.error else None,
                }
                for result in results
            ]
        )
    for result in results:
        if result.error:
            say_error(result.error.message, result.error.hint)
        elif not as_json:
            print_result(f"{result.image}@{result.digest}")
    return next((result.error.exit_code for result in results if result.error), 0)
