"""The entries of ``models.toml``, parsed once, strictly; errors name the line."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from downloader.errors import InputError
from downloader.farm.toml_table import TomlTable, parse_toml
from downloader.hub.repo import Repo, RepoType, Selection, parse_repo, parse_revision
from downloader.hub.selection import find_impossible
from downloader.oci.reference import check_tag, parse_reference
from downloader.plan import Compress, parse_compress, parse_layer_limit
from downloader.text import nearest

MODELS_FILE = "models.toml"

# auto: streams, unless the runner says otherwise; prefer-docker: builds where the disk allows.
Engine = Literal["auto", "publish", "docker", "prefer-docker"]
ENGINES: tuple[Engine, ...] = get_args(Engine)

DEFAULTS = {"type": "model", "revision": "main", "layer_size": "default", "engine": "auto"}
_DEFAULT_KEYS = ("owner", "registries", "layer_size", "compress", "engine")
_MODEL_KEYS = (
    "tag",
    "repo",
    "type",
    "revision",
    "include",
    "exclude",
    "layer_size",
    "compress",
    "registries",
    "engine",
    "allow_gated",
)
_OWNER = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


@dataclass(frozen=True)
class Model:
    """One image that is to be published.

    Args:
        tag: Of the image.
        repo: Type and id.
        revision: Branch, tag or commit.
        selection: The selected files; all by default.
        layer_size: A layer profile's name, or a size.
        compress: The layers that a streaming publish compresses.
        registries: Image names without tag, ``ghcr.io/me/hf-models``; at least one.
        engine: The engine that builds it.
        allow_gated: Whether a gated or private repo may be published.
        line: First line of its table in the file, from 1.
    """

    tag: str
    repo: Repo
    revision: str
    selection: Selection
    layer_size: str
    compress: Compress
    registries: tuple[str, ...]
    engine: Engine
    allow_gated: bool
    line: int

    def to_json(self) -> dict[str, Any]:
        """Return the entry for programs, with the defaults filled in."""
        return {
            "tag": self.tag,
            "repo": self.repo.id,
            "type": self.repo.type,
            "revision": self.revision,
            "include": list(self.selection.include),
            "exclude": list(self.selection.exclude),
            "layer_size": self.layer_size,
            "compress": self.compress,
            "registries": list(self.registries),
            "engine": self.engine,
            "allow_gated": self.allow_gated,
            "line": self.line,
        }


@dataclass(frozen=True)
class Models:
    """All entries of a file, in its order; their tags differ.

    Args:
        file: Its name, for messages.
        entries: One per image.
        registries: Of the defaults.
        is_inherited: Whether the file names another owner than who publishes, as in a fork.
    """

    file: str
    entries: tuple[Model, ...]
    registries: tuple[str, ...]
    is_inherited: bool = False

    def __iter__(self) -> Iterator[Model]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def tags(self) -> tuple[str, ...]:
        """Of all entries."""
        return tuple(model.tag for model in self.entries)

    def find(self, tag: str) -> Model:
        """Return the entry of a tag.

        Raises:
            InputError: There is none.
        """
        for model in self.entries:
            if model.tag == tag:
                return model
        hint = nearest(tag, self.tags, f"known: {', '.join(self.tags)}")
        raise InputError(f"{self.file} has no model with the tag {tag!r}", hint=hint)


def read_models(path: Path, owner: str | None = None) -> Models:
    """Read and check a models.toml.

    Args:
        path: The file.
        owner: Value for ``{owner}`` in registries; None for the file's own.

    Raises:
        InputError: It cannot be read, is no TOML, or an entry is wrong; the message begins
            with file and line.
    """
    return parse_models(read_text(path), str(path), owner)


def read_text(path: Path) -> str:
    """Return the text of a file that the user named."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"want a readable file, got {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"want {path} in UTF-8, got byte {error.start} that is not") from error


def parse_models(text: str, file: str = MODELS_FILE, owner: str | None = None) -> Models:
    r"""Parse the text of a models.toml.

    Raises:
        InputError: As `read_models`.

    >>> [model.tag for model in parse_models('''
    ... defaults.registries = ["ghcr.io/me/hf-models"]
    ... [[model]]
    ... tag = "codet5-small"
    ... repo = "Salesforce/codet5-small"
    ... ''')]
    ['codet5-small']
    >>> parse_models('[[model]]\ntag = "x"\nrepo = "a/b"\nincludes = ["*.json"]\n')
    Traceback (most recent call last):
        ...
    downloader.errors.InputError: models.toml:4: unknown key 'includes'
    """
    top = parse_toml(text, file)
    top.check_keys(("defaults", "model"))
    defaults = _parse_defaults(top.table("defaults"), owner)
    tables = top.tables("model")
    entries = [_parse_model(table, defaults) for table in tables]
    _check_tags(tables, entries)
    own = top.table("defaults").text("owner", "").lower()
    return Models(file, tuple(entries), defaults.registries, own not in {"", defaults.owner})


@dataclass(frozen=True)
class _Defaults:
    owner: str
    registries: tuple[str, ...]
    layer_size: str
    compress: Compress
    engine: Engine


def _parse_defaults(table: TomlTable, owner: str | None) -> _Defaults:
    table.check_keys(_DEFAULT_KEYS)
    # Image names are lower-case; account names need not be.
    name = (owner or table.text("owner", "")).lower()
    if name and not _OWNER.fullmatch(name):
        table.fail(f"owner: want a part of an image name, got {name!r}", "owner")
    return _Defaults(
        owner=name,
        registries=_parse_registries(table, name),
        layer_size=_parse_layer_size(table, DEFAULTS["layer_size"]),
        compress=_parse_compress(table, "none"),
        engine=_parse_engine(table, "auto"),
    )


def _parse_model(table: TomlTable, defaults: _Defaults) -> Model:
    table.check_keys(_MODEL_KEYS)
    registries = _parse_registries(table, defaults.owner) or defaults.registries
    if not registries:
        table.fail("no registry is given, here or under [defaults]")
    tag, revision = table.text("tag"), table.text("revision", DEFAULTS["revision"])
    return Model(
        tag=table.checked(lambda: check_tag(tag), "tag"),
        repo=_parse_repo(table),
        revision=table.checked(lambda: parse_revision(revision), "revision"),
        selection=_parse_selection(table),
        layer_size=_parse_layer_size(table, defaults.layer_size),
        compress=_parse_compress(table, defaults.compress),
        registries=registries,
        engine=_parse_engine(table, defaults.engine),
        allow_gated=table.flag("allow_gated"),
        line=table.line,
    )


def _check_tags(tables: Sequence[TomlTable], entries: Sequence[Model]) -> None:
    lines: dict[str, int] = {}
    for table, model in zip(tables, entries, strict=True):
        if model.tag in lines:
            first = lines[model.tag]
            table.fail(f"tag {model.tag!r} is taken by the model at line {first}", "tag")
        lines[model.tag] = model.line


def _parse_repo(table: TomlTable) -> Repo:
    repo_id, repo_type = table.text("repo"), table.text("type", DEFAULTS["type"])
    key = "repo" if repo_type in get_args(RepoType) else "type"
    return table.checked(lambda: parse_repo(repo_id, repo_type), key)


def _parse_selection(table: TomlTable) -> Selection:
    include, exclude = table.texts("include"), table.texts("exclude")
    problem = find_impossible(include, exclude)
    if problem:
        table.fail(problem.text, problem.key, problem.index)
    return Selection(include=include, exclude=exclude)


def _parse_registries(table: TomlTable, owner: str) -> tuple[str, ...]:
    names: list[str] = []
    for i, text in enumerate(table.texts("registries")):
        name = _parse_registry(table, i, text, owner)
        if name in names:
            table.fail(f"registry {name!r} is listed twice", "registries", i)
        names.append(name)
    return tuple(names)


def _parse_registry(table: TomlTable, index: int, text: str, owner: str) -> str:
    if "{owner}" in text and not owner:
        table.fail(f"{text!r} needs an owner under [defaults]", "registries", index)
    filled = text.replace("{owner}", owner)
    reference = table.checked(lambda: parse_reference(filled), "registries", index)
    if reference.tag or reference.digest:
        table.fail(f"want an image name without tag, got {text!r}", "registries", index)
    return reference.name


def _parse_layer_size(table: TomlTable, default: str) -> str:
    text = table.text("layer_size", default)
    table.checked(lambda: parse_layer_limit(text), "layer_size")
    return text


def _parse_compress(table: TomlTable, default: Compress) -> Compress:
    text = table.text("compress", default)
    return table.checked(lambda: parse_compress(text), "compress")


def _parse_engine(table: TomlTable, default: str) -> Engine:
    text = table.text("engine", default)
    found: Engine | None = next((engine for engine in ENGINES if engine == text), None)
    return found or table.fail(f"engine: want one of {', '.join(ENGINES)}, got {text!r}", "engine")
