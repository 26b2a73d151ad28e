"""Adding to ``models.toml`` and removing from it: every comment and line of the rest stays."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from downloader.errors import InputError
from downloader.farm.models import Model, parse_models, read_text
from downloader.fs import NewFile, storage_errors

Value = str | bool | Sequence[str]


def add_model(path: Path, values: Mapping[str, Value]) -> Model:
    """Append a ``[[model]]`` and return it as the file now says it.

    Args:
        path: A models.toml.
        values: By key; empty ones and the defaults are left out.

    Raises:
        InputError: The file was wrong before, the tag or repo is there already, or the new
            entry would be wrong; the file is then as it was.
        StorageError: It cannot be written.
    """
    text = read_text(path)
    parse_models(text, str(path))
    added = append_model(text, values)
    try:
        models = parse_models(added, str(path))
    except InputError as error:
        raise InputError(f"not added: {error.message}", hint=error.hint) from error
    model = models.entries[-1]
    _check_new(model, models.entries[:-1], path)
    _replace(path, added)
    return model


def remove_model(path: Path, tag: str) -> Model:
    """Remove the entry of a tag, and return it as it was.

    Raises:
        InputError: The file is wrong, or has no such tag.
        StorageError: It cannot be written.
    """
    text = read_text(path)
    models = parse_models(text, str(path))
    model = models.find(tag)
    others = [other for other in models.entries if other is not model]
    lines = text.splitlines(keepends=True)
    end = min((o.line - 1 for o in others if o.line > model.line), default=len(lines))
    while end < len(lines) and lines[end - 1].lstrip()[:1] in {"", "#"}:
        end -= 1  # blank lines and comments before the next entry are the next one's
    left = "".join([*lines[: model.line - 1], *lines[end:]])
    kept = [other.to_json() | {"line": 0} for other in parse_models(left, str(path)).entries]
    if kept != [other.to_json() | {"line": 0} for other in others]:
        raise InputError(f"{path}:{model.line}: not removed: other entries would change with it")
    _replace(path, left)
    return model


def append_model(text: str, values: Mapping[str, Value]) -> str:
    r"""Return the text of a models.toml with one more table.

    >>> append_model('# mine\n', {"tag": "x", "repo": "a/b", "include": ["*.json"]})
    '# mine\n\n[[model]]\ntag = "x"\nrepo = "a/b"\ninclude = ["*.json"]\n'
    """
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value]
    before = text.rstrip("\n")
    return "\n".join([*([before, ""] if before else []), "[[model]]", *lines, ""])


def _check_new(model: Model, others: Sequence[Model], path: Path) -> None:
    for other in others:
        same = (other.repo, other.revision, other.selection)
        if same == (model.repo, model.revision, model.selection):
            raise InputError(
                f"not added: {path}:{other.line} publishes {model.repo.id} as {other.tag!r}",
                hint="another revision, --include or --exclude makes another image",
            )


def _toml(value: Value) -> str:
    # JSON strings are TOML strings, but for DEL, which TOML wants escaped (TOML 1.0.0, "String").
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _replace(path: Path, text: str) -> None:
    target = path.resolve()  # a link stays a link
    with NewFile(target) as file:
        file.write(text.encode())
        with storage_errors(target):
            file.path.chmod(target.stat().st_mode)
        file.commit()
