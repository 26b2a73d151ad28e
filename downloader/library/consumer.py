"""From images to files: functions that need neither the Hub nor an extra."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from downloader.environment import Environment, read_environment
from downloader.errors import HfModelsError, InputError, RegistryError
from downloader.fs import expand_home
from downloader.hub.repo import Selection
from downloader.hub.verify import Report as VerifyReport
from downloader.hub.verify import find_folders, verify_cache
from downloader.library.connection import Connection, open_session, references_of
from downloader.oci.reference import tag_from_name
from downloader.progress import NoProgress, Progress, ignore
from downloader.restore import (
    CacheTarget,
    DownloadSettings,
    Inspection,
    LocalTarget,
    Network,
    Report,
    RestoreOptions,
    Target,
    parse_source,
)
from downloader.restore import inspect as inspect_source
from downloader.restore import restore as restore_sources
from downloader.restore import verify as verify_source
from downloader.restore.foreign.extract import ContentSkipper
from downloader.restore.foreign.stream import engine_has
from downloader.restore.opening import open_registries
from downloader.restore.policy import Gate, Policy, Signed
from downloader.restore.reader import read_source
from downloader.restore.source import RegistrySource, Source
from downloader.restore.source import is_image as names_image
from downloader.restore.trust import check_cache, check_image
from downloader.sheet import sheet
from downloader.signing import claimed_signer, is_keyless

Image = str | os.PathLike[str]

TAGS_SHOWN = 10  # in a hint
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/(?P<name>[\w.-]+)")


def restore(
    image: Image,
    cache_dir: Image | None = None,
    files: Sequence[str] = (),
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    local_dir: Image | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    connection: Connection | None = None,
    download: DownloadSettings | None = None,
) -> Path:
    """Put the files of an image back into the Hugging Face cache, verified; return the snapshot.

    Args:
        image: In a registry, an OCI layout directory, an archive, or ``docker-daemon:NAME``.
        cache_dir: The target; None for the environment's ``HF_HUB_CACHE``.
        files: Only these files of the repo, or folders by a trailing slash; empty for all.
        environment: None for the process's own.
        progress: Told of every byte.
        local_dir: Plain files there, in place of a cache.
        include: Only files that match one of these patterns.
        exclude: Not files that match one of these patterns.
        connection: Settings for registries, over those of the environment.
        download: Limits of connections and memory.

    Raises:
        InputError: A name or a pattern that names nothing.
        RegistryError: A registry said no; its ``status`` is the HTTP status.
        TransportError: A registry gave no usable answer, after the retries.
        ProtocolError: The image is malformed, or hostile.
        IntegrityError: Bytes are not the ones that were promised.
        StorageError: The disk is full, or may not be written to.

    >>> restore("Qwen/Qwen2.5-0.5B")
    Traceback (most recent call last):
    downloader.errors.InputError: 'Qwen/Qwen2.5-0.5B' is no image name
    """
    report = restore_images(
        [image],
        cache_dir,
        files,
        environment,
        progress,
        local_dir=local_dir,
        include=include,
        exclude=exclude,
        connection=connection,
        download=download,
    )
    return report.restored[-1].path


def restore_images(
    images: Sequence[Image],
    cache_dir: Image | None = None,
    files: Sequence[str] = (),
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    local_dir: Image | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    connection: Connection | None = None,
    download: DownloadSettings | None = None,
    policy: Policy | None = None,
    dry_run: bool = False,
) -> Report:
    """Restore several images in one go, and return what was done, byte by byte.

    Args:
        images: As for `restore`.
        cache_dir: As for `restore`.
        files: As for `restore`.
        environment: As for `restore`.
        progress: As for `restore`.
        local_dir: As for `restore`.
        include: As for `restore`.
        exclude: As for `restore`.
        connection: As for `restore`.
        download: As for `restore`.
        policy: The required signers; None to check no signature.
        dry_run: Only say what would be done.

    Raises:
        HfModelsError: As `restore`.
    """
    environment = environment or read_environment()
    gate = Gate(policy, (progress or NoProgress()).warn) if policy else None
    options = RestoreOptions(
        select(files, include, exclude), download or DownloadSettings(), dry_run, gate
    )
    target = find_target(environment, cache_dir, local_dir)
    with _opened(images, connection, environment) as (sources, network):
        report = restore_sources(sources, target, options, network, progress)
    for signed in gate.signed if gate else ():
        (progress or NoProgress()).note(str(signed))
    return report


def inspect(
    image: Image,
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    with_files: bool = False,
    connection: Connection | None = None,
) -> Inspection:
    """Return what an image says of itself; reads none of the large layers.

    Args:
        image: As for `restore`.
        environment: None for the process's own.
        progress: Told of the bytes of a compressed archive, which is read to its end.
        with_files: Whether to list the files as well.
        connection: Settings for registries, over those of the environment.

    Raises:
        HfModelsError: As `restore`.
    """
    with _opened([image], connection, environment) as ([source], network):
        return inspect_source(source, network, progress, with_files=with_files)


def make_sheet(
    image: Image,
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    connection: Connection | None = None,
) -> str:
    """Return the sheet of an image for the approval desk: its files, and how to check them.

    Args:
        image: As for `restore`.
        environment: None for the process's own.
        progress: Told of the bytes of a compressed archive, which is read to its end.
        connection: Settings for registries, over those of the environment.

    Raises:
        HfModelsError: As `restore`.
    """
    progress = progress or NoProgress()
    with _opened([image], connection, environment) as ([source], network):
        said = inspect_source(source, network, progress)
        sheets = []
        for item in read_source(source, network, ContentSkipper(), progress):
            more = [("image", f"{item.source}@{item.digest}"), ("kind", said.kind)]
            if said.tool_version:
                more.append(("built by", f"hf-models {said.tool_version}"))
            more.append(("signed", _how_signed(item.signature)))
            sheets.append(sheet(item.snapshot, more).decode("utf-8", "replace"))
    return "\n".join(sheets)


def _how_signed(signature: bytes | None) -> str:
    if signature is None:
        return "no"
    flags = "--identity NAME --issuer URL" if is_keyless(signature) else "--key FILE"
    by = claimed_signer(signature) or "somebody unnamed"
    return f"yes, by {by}, as it says itself; to check: hf-models verify IMAGE {flags}"


def verify(
    target: Image | None = None,
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    threads: int = 2,
    connection: Connection | None = None,
) -> VerifyReport:
    """Hash every cache blob, and return what is missing, wrong, or there without a reason.

    Asks no Hub: the name of a cache blob is its hash.

    Args:
        target: A cache directory, ``HF_HOME``, the folder of one repo, or an image as for
            `restore`; None for the environment's cache.
        environment: None for the process's own.
        progress: Told of every byte.
        threads: Files hashed at once.
        connection: Settings for registries, over those of the environment.

    Raises:
        InputError: There is no such cache.
        HfModelsError: As `restore`.
    """
    environment = environment or read_environment()
    if target is None or not is_image(target):
        path = environment.cache_dir(target)
        return verify_cache(path, threads=threads, progress=progress or NoProgress())
    with _opened([target], connection, environment) as ([source], network):
        return verify_source(source, network, progress)


def verify_signatures(
    target: Image | None,
    policy: Policy,
    environment: Environment | None = None,
    progress: Progress | None = None,
    *,
    connection: Connection | None = None,
) -> list[Signed]:
    """Check who signed the files of a target that `verify` found good, and return it.

    Args:
        target: As for `verify`.
        policy: The required signers.
        environment: None for the process's own.
        progress: Told what is wrong where the policy only warns.
        connection: Settings for registries, over those of the environment.

    Raises:
        IntegrityError: A signature that the policy enforces is missing or wrong.
        HfModelsError: As `restore`.
    """
    environment, progress = environment or read_environment(), progress or NoProgress()
    if target is None or not is_image(target):
        folders = find_folders(environment.cache_dir(target))
        return check_cache(folders, policy, progress.warn)
    with _opened([target], connection, environment) as ([source], network):
        return check_image(source, policy, network, progress)


def is_image(target: Image) -> bool:
    """Whether `verify` takes ``target`` for an image, not for a cache."""
    return names_image(os.fspath(target))


def select(files: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> Selection:
    """Return a selection of a repo's files.

    Raises:
        InputError: File names together with patterns, which ``hf download`` ignores.
    """
    if files and (include or exclude):
        raise InputError("file names cannot be combined with --include or --exclude")
    return Selection(tuple(files), tuple(include), tuple(exclude))


def find_target(
    environment: Environment, cache_dir: Image | None, local_dir: Image | None
) -> Target:
    """Return where files go.

    Raises:
        InputError: Two places are named.
    """
    if local_dir is not None and cache_dir is not None:
        raise InputError("--cache-dir and --local-dir exclude each other")
    if local_dir is not None:
        return LocalTarget(expand_home(local_dir))
    return CacheTarget(environment.cache_dir(cache_dir))


@contextmanager
def _opened(
    images: Sequence[Image], connection: Connection | None, environment: Environment | None
) -> Iterator[tuple[list[Source], Network]]:
    """Yield what ``images`` name, and how it is reached; explain a name that leads nowhere."""
    sources = [find_source(image) for image in images]
    with open_session(connection, environment, references=references_of(sources)) as session:
        try:
            yield sources, session.network
        except RegistryError as error:
            # Docker Hub answers 401 for a repository that does not exist.
            if error.status in {401, 403, 404}:
                named = dict(zip(map(str, sources), images, strict=True))
                missing = next((key for key in named if key in error.message), None)
                if missing is not None:
                    hint = _image_of_repo(os.fspath(named[missing]))
                    source = next(item for item in sources if str(item) == missing)
                    error.hint = hint or _what_there_is(source, session.network) or error.hint
            raise


def find_source(image: Image) -> Source:
    """Return what ``image`` names.

    Raises:
        InputError: Nothing that can be; the hint says which image to try for a repo's name.
    """
    text = os.fspath(image)
    try:
        return parse_source(text, engine_has)
    except InputError as error:
        raise InputError(error.message, hint=_image_of_repo(text) or error.hint) from error


def _image_of_repo(text: str) -> str | None:
    found = _REPO_ID.fullmatch(text)
    if not found:
        return None
    image = f"ghcr.io/OWNER/hf-models:{tag_from_name(found['name'])}"
    return f"{text} is the name of a repo; name the image that carries it, like {image}"


def _what_there_is(source: Source | None, network: Network) -> str | None:
    """Return a hint about a tag or repository that does not exist."""
    if not isinstance(source, RegistrySource):
        return None
    reference = source.reference
    registry = open_registries(reference, network, ignore)[-1]
    from downloader.publish.checkpoint import is_image_tag  # noqa: PLC0415 - only here

    tags: list[str] = []
    with suppress(HfModelsError):
        tags = [tag for tag in registry.list_tags() if is_image_tag(tag)]
    if not tags:
        return None
    near = difflib.get_close_matches(reference.tag or "", tags, TAGS_SHOWN, cutoff=0)
    more = f", and {len(tags) - len(near)} more" if len(tags) > len(near) else ""
    return f"tags there: {', '.join(near)}{more}"
