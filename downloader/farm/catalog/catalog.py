"""The catalogue: models.toml joined with the published images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from downloader import __version__
from downloader.document import Document
from downloader.errors import (
    HfModelsError,
    HubError,
    IntegrityError,
    ProtocolError,
    RegistryError,
    TransportError,
)
from downloader.farm.catalog.published import DATE, WANT_DATE, Published, read_published
from downloader.farm.models import Model, Models
from downloader.hub.repo import Repo
from downloader.oci.store import ListableStore
from downloader.progress import Note
from downloader.transfer.workers import map_all

FORMAT_VERSION = 1
# Each answer is a manifest of some kB: the wait is what costs.
REQUESTS_AT_ONCE = 8
# A registry that does not know a repository answers an anonymous reader so, GHCR and
# Docker Hub among them: it will not say whether there is something to hide.
_NOT_THERE = {401, 403, 404}


@dataclass(frozen=True)
class Entry:
    """One model, and what the registries have of it.

    Args:
        model: The entry of models.toml.
        published: The published image, of the first registry that has one; None without one.
        registries: Those that have it, in the order of the model's own list.
        is_behind: Whether the Hub's commit is another; None where it was not asked or is unknown.
    """

    model: Model
    published: Published | None = None
    registries: tuple[str, ...] = ()
    is_behind: bool | None = None


@dataclass(frozen=True)
class Catalog:
    """Every model of a models.toml, in its order.

    Args:
        entries: One per model.
        registries: Every registry that a model names, in the order of their first mention.
        generated_at: Time of reading: RFC 3339, in UTC.
    """

    entries: tuple[Entry, ...]
    registries: tuple[str, ...]
    generated_at: str

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``catalog.schema.json`` specifies."""
        return {
            "format_version": FORMAT_VERSION,
            "generator": f"hf-models {__version__}",
            "generated_at": self.generated_at,
            "registries": list(self.registries),
            "models": [_entry_json(entry) for entry in self.entries],
        }


def read_catalog(
    models: Models, stores: Mapping[str, ListableStore], generated_at: str, note: Note
) -> Catalog:
    """Ask every registry of every model for its manifest.

    Args:
        models: The entries of models.toml.
        stores: By the registry's name as the models have it; others are not asked.
        generated_at: Time of reading, RFC 3339.
        note: Receives one line for each registry that cannot answer.

    Raises:
        RegistryError: No registry of a model would say whether it has it.
        TransportError: No registry of a model gave any answer. A page that says that the
            model is not published would be worse than none.
    """
    answers = map_all(lambda model: _ask_all(model, stores), models, REQUESTS_AT_ONCE)
    failures = [failure for answer in answers for failure in answer.failures]
    for text in dict.fromkeys(error.message for error in failures):
        note(text)
    for answer in answers:
        if answer.failures and not answer.is_known:
            raise answer.failures[0]
    registries = dict.fromkeys(name for model in models for name in model.registries)
    entries = tuple(answer.entry for answer in answers)
    return Catalog(entries, tuple(registries), generated_at)


def check_hub(catalog: Catalog, commit_of: Callable[[Repo, str], str], note: Note) -> Catalog:
    """Return the catalogue with what the Hub's present commits say of it.

    Args:
        catalog: Of `read_catalog`.
        commit_of: Resolves a repo's revision to the Hub's commit.
        note: Receives one line for each repo whose commit stays unknown.
    """

    def check(entry: Entry) -> Entry:
        if entry.published is None or entry.published.labels is None:
            return entry
        try:
            commit = commit_of(entry.model.repo, entry.model.revision)
        except (HubError, TransportError, ProtocolError) as error:
            note(error.message)
            return entry
        return replace(entry, is_behind=commit != entry.published.labels.commit)

    return replace(catalog, entries=tuple(map_all(check, catalog.entries, REQUESTS_AT_ONCE)))


@dataclass(frozen=True)
class _Answer:
    entry: Entry
    failures: Sequence[HfModelsError]
    is_known: bool  # whether any registry said yes or no


def _ask_all(model: Model, stores: Mapping[str, ListableStore]) -> _Answer:
    found: dict[str, Published] = {}
    failures: list[HfModelsError] = []
    is_known = False
    for name in model.registries:
        if name not in stores:
            continue
        try:
            published = _ask(model, stores[name])
        except (RegistryError, TransportError, ProtocolError, IntegrityError) as error:
            failures.append(error)
            is_known |= _is_no(error)
        else:
            is_known = True
            if published:
                found[name] = published
    return _Answer(Entry(model, next(iter(found.values()), None), tuple(found)), failures, is_known)


def _ask(model: Model, store: ListableStore) -> Published | None:
    published = read_published(store, model.tag)
    if published and published.labels and published.labels.repo != model.repo:
        other = published.labels.repo
        raise ProtocolError(
            f"{store.name}:{model.tag}: want {model.repo.type} {model.repo.id},"
            f" got an image of {other.type} {other.id}"
        )
    return published


def _is_no(error: HfModelsError) -> bool:
    if isinstance(error, RegistryError):
        return error.status in _NOT_THERE
    return isinstance(
        error, (ProtocolError, IntegrityError)
    )  # there is something, but not this image


def _entry_json(entry: Entry) -> dict[str, Any]:
    model, published = entry.model, entry.published
    labels = published.labels if published else None
    return {
        "tag": model.tag,
        "repo_id": model.repo.id,
        "repo_type": model.repo.type,
        "repo_url": model.repo.url,
        "revision": model.revision,
        "published": published is not None,
        "registries": list(entry.registries),
        "digest": published.digest if published else None,
        "commit": labels.commit if labels else None,
        "committed_at": published.committed_at if published else None,
        "behind": entry.is_behind,
        "license": published.license if published else None,
        "files": published.files if published else None,
        "size_bytes": published.size_bytes if published else None,
        "layers": published.layers if published else None,
        "layer_bytes": published.layer_bytes if published else None,
        "partial": labels.is_partial if labels else not model.selection.is_everything,
        "gated": labels.gated if labels else None,
        "private": labels.private if labels else None,
        "description": published.description if published else None,
        "task": published.task if published else None,
        "parameters": published.parameters if published else None,
        "library": published.library if published else None,
        "has_base": published.has_base if published else None,
        "published_at": None,
    }


def date_published(document: dict[str, Any], previous: Document) -> dict[str, Any]:
    """Return the catalogue with the dates on which its digests were first seen.

    No registry says when it got a manifest, and an image, the same wherever it is made, cannot.
    So the catalogue before says it: what it did not have was published since.

    Args:
        document: Of `Catalog.to_json`.
        previous: The last such document.

    Raises:
        ProtocolError: It is none.
    """
    if previous.get("format_version") != FORMAT_VERSION:
        raise previous.failure("format_version", str(FORMAT_VERSION))
    known = {
        (item.text("tag"), item.get("digest")): item.text("published_at", DATE, WANT_DATE)
        if item.get("published_at")
        else None
        for item in previous.objects("models")
    }

    def date(model: dict[str, Any]) -> str | None:
        here = (model["tag"], model["digest"])
        return known.get(here, document["generated_at"]) if model["published"] else None

    models = [model | {"published_at": date(model)} for model in document["models"]]
    return document | {"models": models}
