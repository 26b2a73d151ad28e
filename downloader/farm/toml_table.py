"""A TOML file that is read strictly: every complaint names the file and the line."""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from downloader.errors import HfModelsError, InputError
from downloader.farm.toml_lines import Path, find_lines, find_repeated
from downloader.text import nearest

T = TypeVar("T")


@dataclass(frozen=True)
class TomlTable:
    """A table of a file, and where it stands.

    Every method that reads a key raises `InputError` where the value is of another kind.

    Args:
        values: Of this table.
        where: The table's place in the file.
        file: The file's name, for messages.
        lines: Of every place in the file.
    """

    values: Mapping[str, Any]
    where: Path
    file: str
    lines: Mapping[Path, int]

    def __contains__(self, key: str) -> bool:
        return key in self.values

    @property
    def line(self) -> int:
        """The line of the table's header, from 1."""
        return self.line_of()

    def check_keys(self, known: Sequence[str]) -> None:
        """Raise at the first key that is not known, with the nearest one as a hint."""
        for key in self.values:
            if key not in known:
                hint = nearest(key, known, f"known: {', '.join(known)}")
                self.fail(f"unknown key {key!r}", key, hint=hint)

    def table(self, key: str) -> "TomlTable":
        """Return the table of a key; an empty one where there is none."""
        value = self.values.get(key, {})
        if not isinstance(value, Mapping):
            self.fail(f"want [{key}], a table, got {_kind(value)}", key)
        return TomlTable(value, (*self.where, key), self.file, self.lines)

    def tables(self, key: str) -> list["TomlTable"]:
        """Return the tables of a key that is written with two brackets."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            self.fail(f"want [[{key}]], a table with two brackets, got {_kind(value)}", key)
        places = ((*self.where, key, i) for i in range(len(value)))
        return [
            TomlTable(item, where, self.file, self.lines)
            for item, where in zip(value, places, strict=True)
        ]

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string; without a default the key has to be there."""
        if default is None and key not in self.values:
            self.fail(f"the key {key!r} is missing")
        value = self.values.get(key, default)
        if not isinstance(value, str):
            self.fail(f"{key}: want a string, got {_kind(value)}", key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings; an empty one where the key is not there."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            self.fail(f"{key}: want a list of strings, got {_kind(value)}", key)
        for i, item in enumerate(value):
            if not isinstance(item, str):
                self.fail(f"{key}: want strings only, got {_kind(item)}", key, i)
        return tuple(value)

    def flag(self, key: str) -> bool:
        """Return true or false; false where the key is not there."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.fail(f"{key}: want true or false, got {_kind(value)}", key)
        return value

    def checked(self, parse: Callable[[], T], *inside: str | int) -> T:
        """Return what ``parse`` returns; its complaint gets file and line."""
        try:
            return parse()
        except HfModelsError as error:
            self.fail(error.message, *inside, hint=error.hint)

    def line_of(self, *inside: str | int) -> int:
        """Return the line of the innermost part of a place that stands in the file."""
        place = (*self.where, *inside)
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def fail(self, text: str, *inside: str | int, hint: str | None = None) -> NoReturn:
        """Raise with file and line before ``text``."""
        raise InputError(f"{self.file}:{self.line_of(*inside)}: {text}", hint=hint)


def parse_toml(text: str, file: str) -> TomlTable:
    """Return a file's top table.

    Raises:
        InputError: It is no TOML, or names something twice.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(text, file, error) from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
        raise InputError(f"{file}: no valid TOML: {type(error).__name__}") from error
    return TomlTable(values, (), file, find_lines(text))


def _syntax_error(text: str, file: str, error: tomllib.TOMLDecodeError) -> InputError:
    repeated = find_repeated(text)
    names = [part for part in repeated[0] if isinstance(part, str)] if repeated else []
    if repeated and names:
        _, first, line = repeated
        name = names[-1]
        return InputError(f"{file}:{line}: {name!r} is there already, at line {first}")
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error))
    if not found:  # "(at end of document)"
        return InputError(f"{file}:{len(text.splitlines())}: no valid TOML: {error}")
    what, line_text, column = found.groups()
    return InputError(f"{file}:{line_text}: no valid TOML: {what}, at column {column}")


_KINDS = {bool: "true or false", str: "a string", dict: "a table", list: "a list"}


def _kind(value: object) -> str:
    if type(value) in {bool, int, float}:
        return str(value).lower()
    return _KINDS.get(type(value), type(value).__name__)
