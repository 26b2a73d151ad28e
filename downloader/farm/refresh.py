"""The published tags that are behind the Hub."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from downloader.errors import HfModelsError, HubError, RegistryError
from downloader.farm.catalog.published import read_published
from downloader.farm.models import Model
from downloader.hub.repo import Snapshot
from downloader.oci.store import ListableStore
from downloader.transfer.workers import map_all

State = Literal["current", "behind", "missing", "gone", "gated", "unknown"]
# Each answer is some kB: the wait is what costs.
REQUESTS_AT_ONCE = 4
_DENIED = {401, 403}  # how registries answer for a repository that does not exist yet
_GONE = {401, 403, 404, 410}  # how the Hub answers for a repo that is gone, or private now


@dataclass(frozen=True)
class Freshness:
    """One entry of models.toml, compared with the Hub.

    Args:
        model: The entry.
        state: current: every registry has the Hub's commit; behind, missing: one has another,
            or none; gone: the Hub has no such repo or revision any more; gated: missing, and
            the entry does not allow to publish it; unknown: the Hub or a registry did not answer.
        commit: The Hub's; None where it is not known.
        published: Commit by image name; None for none.
        note: The error, for gone and unknown.
    """

    model: Model
    state: State
    commit: str | None
    published: Mapping[str, str | None]
    note: str = ""

    @property
    def is_due(self) -> bool:
        """Whether publishing it again would change something."""
        return self.state in {"behind", "missing"}

    @property
    def is_published(self) -> bool:
        """Whether any registry has it, at whatever commit."""
        return any(self.published.values())

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "tag": self.model.tag,
            "repo": self.model.repo.id,
            "type": self.model.repo.type,
            "revision": self.model.revision,
            "state": self.state,
            "commit": self.commit,
            "published": dict(self.published),
            "note": self.note,
        }


def check_freshness(
    models: Sequence[Model],
    stores_of: Callable[[Model], Mapping[str, ListableStore]],
    resolve: Callable[[Model], Snapshot],
) -> list[Freshness]:
    """Compare every entry with the Hub, several at once, in their order.

    Args:
        models: The entries.
        stores_of: By image name, the registries that are to have an entry.
        resolve: Asks the Hub for an entry's snapshot.
    """
    return map_all(lambda model: _check(model, stores_of(model), resolve), models, REQUESTS_AT_ONCE)


def _check(
    model: Model, stores: Mapping[str, ListableStore], resolve: Callable[[Model], Snapshot]
) -> Freshness:
    published: dict[str, str | None] = {}
    commit = None
    try:
        snapshot = resolve(model)
        commit = snapshot.commit
        for name, store in stores.items():
            published[name] = _published_commit(store, model.tag)
    except HfModelsError as error:
        is_gone = isinstance(error, HubError) and error.status in _GONE
        return Freshness(model, "gone" if is_gone else "unknown", commit, published, error.message)
    closed = bool(snapshot.gated or snapshot.private) and not model.allow_gated
    note = "" if published else "no registry to look in"
    return Freshness(model, _state(commit, published, is_closed=closed), commit, published, note)


def _state(commit: str, published: Mapping[str, str | None], *, is_closed: bool) -> State:
    if not published:
        return "unknown"
    if all(found == commit for found in published.values()):
        return "current"
    if is_closed:
        return "gated"
    return "missing" if None in published.values() else "behind"


def _published_commit(store: ListableStore, tag: str) -> str | None:
    try:
        found = read_published(store, tag)
    except RegistryError as error:
        if error.status in _DENIED:
            return None
        raise
    return found.labels.commit if found and found.labels else None
