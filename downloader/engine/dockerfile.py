"""The Dockerfile of a plan, and the build context around it."""

import re
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from downloader.engine.stage import METADATA_DIR, PROGRAMS_DIR, layer_dir
from downloader.errors import StorageError
from downloader.fs import storage_errors
from downloader.image import plan_json
from downloader.plan import Plan
from downloader.receiver import ENTRY as RECEIVER_ENTRY
from downloader.receiver import imported_files

DEFAULT_BASE = "busybox:stable-musl"
NO_BASE = "none"

# The two lines of docker/Dockerfile that a plan replaces; each is there exactly once.
_BASE_LINE = f"FROM {DEFAULT_BASE} AS base\n"
_FROM = re.compile(r"^FROM (\S+) AS", re.MULTILINE)
_COPY_LINE = "COPY --from=builder /layers/all/ /\n"

# What the builder stage starts: the command line's hidden command, and the script of its child.
# All that these import is copied, and no more: a change in it makes the engine download again.
_BUILDER_ENTRIES = ("__main__.py", "cli/stage.py", "hub/hf_transfer_child.py", RECEIVER_ENTRY)
_BUILDER_DATA = ("export.sh", "image-readme.txt")


def docker_dir() -> Path:
    """Return the directory of Dockerfile and requirements: in the wheel, else in the sources.

    Raises:
        StorageError: Neither is there.
    """
    package = Path(str(files("downloader")))
    for candidate in (package / "docker", package.parent / "docker"):
        if (candidate / "Dockerfile").is_file():
            return candidate
    raise StorageError(f"no docker/Dockerfile beside {package}", hint="install hf-models again")


def images_of(base: str = DEFAULT_BASE) -> list[str]:
    """Return the images that a build starts from: the builder's, and the base if there is one."""
    text = (docker_dir() / "Dockerfile").read_text(encoding="utf-8")
    found = [match[1] for match in _FROM.finditer(text) if ":" in match[1]]
    return list(dict.fromkeys([*(name for name in found if name != DEFAULT_BASE), *bases_of(base)]))


def bases_of(base: str) -> list[str]:
    """Return the base image, or nothing where there is none."""
    return [] if base == NO_BASE else [base]


def render(
    template: str, plan: Plan, base: str = DEFAULT_BASE, pins: Mapping[str, str] | None = None
) -> str:
    r"""Return the Dockerfile with one COPY line per layer of the plan, then programs and metadata.

    Args:
        template: The text of ``docker/Dockerfile``.
        plan: The plan to build.
        base: An image reference, or ``none``.
        pins: Replacements for names of images, so that one build sees one image:
            ``python:3.13-slim@sha256:...``.

    Raises:
        StorageError: The template lacks a line that is to be replaced.
    """
    names = [*(layer_dir(number) for number in range(len(plan.layers))), PROGRAMS_DIR, METADATA_DIR]
    copies = "".join(_COPY_LINE.replace("/all/", f"/{name}/") for name in names)
    image = "scratch" if base == NO_BASE else base
    text = _replace_once(template, _BASE_LINE, f"FROM {image} AS base\n")
    text = _FROM.sub(lambda line: f"FROM {(pins or {}).get(line[1], line[1])} AS", text)
    return _replace_once(text, _COPY_LINE, copies)


def _replace_once(text: str, line: str, by: str) -> str:
    if text.count(line) != 1:
        raise StorageError(f"docker/Dockerfile: want the line {line.strip()!r} once")
    return text.replace(line, by)


def write_context(
    directory: Path, plan: Plan, base: str = DEFAULT_BASE, pins: Mapping[str, str] | None = None
) -> Path:
    """Write all that the build needs into an empty directory, and return its Dockerfile.

    Args:
        directory: Becomes the build context.
        plan: The plan to build.
        base: An image reference, or ``none``.
        pins: As `render` takes them.

    Raises:
        StorageError: The disk said no.
    """
    source = docker_dir()
    with storage_errors(directory):
        _copy_package(directory / "downloader")
        (directory / "docker").mkdir()
        shutil.copyfile(source / "requirements.txt", directory / "docker/requirements.txt")
        (directory / "plan.json").write_bytes(plan_json(plan))
        dockerfile = directory / "docker/Dockerfile"
        text = (source / "Dockerfile").read_text(encoding="utf-8")
        dockerfile.write_text(render(text, plan, base, pins), encoding="utf-8")
    return dockerfile


def _copy_package(target: Path) -> None:
    package = Path(str(files("downloader")))
    for path in (
        *imported_files(package, _BUILDER_ENTRIES),
        *(package / name for name in _BUILDER_DATA),
    ):
        copy = target / path.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
