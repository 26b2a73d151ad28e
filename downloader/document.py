"""Strict values out of JSON and TOML that others wrote: checked once, with their place in errors.

One reader for the Hub's answers, plans and models.toml. Plans are read on the consumer's side,
whose one-file program is pure Python, so msgspec and pydantic, which are compiled, are out.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from downloader.errors import HfModelsError, ProtocolError
from downloader.units import format_bytes

LARGEST_INTEGER = 2**63 - 1  # of a file's size, wherever one is kept
_SHOWN_CHARACTERS = 80
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half of a surrogate pair, or of a whole one


def load_json(data: bytes | str) -> Any:  # noqa: ANN401 - whatever JSON can hold
    r"""Return what JSON says, like ``json.loads``, in texts that every page and file can hold.

    Half of a surrogate pair, which UTF-8 has not, becomes a question mark; Go's readers of
    images replace it as well. Source: RFC 8259, section 8.2.

    Raises:
        ValueError: It is no JSON in UTF-8.
        RecursionError: It is nested too deeply.

    >>> load_json(r'["\ud83d\ude00", "a\ud83d"]') == ["\U0001f600", "a?"]
    True
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    document = json.loads(text)
    if _HALF.search(text):
        document = json.loads(json.dumps(document, ensure_ascii=False).encode(errors="replace"))
    return document


def load_object(data: bytes | str) -> dict[str, Any] | None:
    """Return the object that a text in JSON is; None where it is no JSON, or anything else."""
    try:
        document = load_json(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


class Document:
    """An object whose values are taken by key and type.

    Args:
        value: Of the parser.
        where: Its place, for messages: ``plan.snapshot``, or an address; may be empty.
        error: Class to raise: ``InputError`` for the user's own text.

    Raises (from every method, too):
        HfModelsError: ``error``: the value is missing or has another type.

    >>> Document({"files": [{"size": "big"}]}, "plan").objects("files")[0].integer("size")
    Traceback (most recent call last):
        ...
    downloader.errors.ProtocolError: plan.files[0].size: want a number of at least 0, got 'big'
    """

    def __init__(
        self, value: object, where: str = "", error: type[HfModelsError] = ProtocolError
    ) -> None:
        self.where = where
        self._error = error
        if not isinstance(value, Mapping):
            raise error(f"{where}: want an object, got {describe(value)}".removeprefix(": "))
        self._values: Mapping[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str) -> Any:  # noqa: ANN401 - of the parser
        """Return a value of any type, None where it is missing."""
        return self._values.get(key)

    def text(self, key: str, pattern: re.Pattern[str] | None = None, want: str = "a text") -> str:
        """Return a text.

        Args:
            key: Of the value.
            pattern: That all of it matches.
            want: The expected form, for messages: ``40 hex digits``.
        """
        value = self._values.get(key)
        if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
            raise self.failure(key, want)
        return value

    def integer(self, key: str, least: int = 0) -> int:
        """Return a whole number, which fits in 64 bits."""
        value = self._values.get(key)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not (is_whole and least <= (number := int(value or 0)) <= LARGEST_INTEGER):
            raise self.failure(key, f"a number of at least {least}")
        return number

    def flag(self, key: str) -> bool:
        """Return a truth value, False where it is missing."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.failure(key, "true or false")
        return bool(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, an empty one where it is missing."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.failure(key, "a list of texts")
        return tuple(value)

    def object(self, key: str) -> "Document":
        """Return an object."""
        return Document(self._values.get(key), self._place(key), self._error)

    def objects(self, key: str) -> list["Document"]:
        """Return a list of objects."""
        value = self._values.get(key)
        if not isinstance(value, list):
            raise self.failure(key, "a list")
        return objects_of(value, self._place(key), self._error)

    def failure(self, key: str, want: str) -> HfModelsError:
        """Return the error to raise where a value is not what is wanted."""
        return self._error(f"{self._place(key)}: want {want}, got {describe(self.get(key))}")

    def _place(self, key: str) -> str:
        joint = "" if not self.where else ": " if "://" in self.where.split(": ")[-1] else "."
        return f"{self.where}{joint}{key}"


def objects_of(
    value: object, where: str, error: type[HfModelsError] = ProtocolError
) -> list[Document]:
    """Return the objects of a list."""
    if not isinstance(value, list):
        raise error(f"{where}: want a list, got {describe(value)}")
    return [Document(item, f"{where}[{i}]", error) for i, item in enumerate(value)]


def check_parsed_size(data: bytes, what: str, limit_bytes: int) -> int:
    """Return how much memory a JSON text takes at most when it is parsed.

    Raises:
        ProtocolError: That is more than ``limit_bytes``.

    >>> check_parsed_size(b'{"a": []}', "plan", 1000)
    386
    """
    # Of CPython's objects: dict 184 to 232, list 56, str 49 and its characters, pointers 8.
    parsed_bytes = (
        2 * len(data)
        + 256 * data.count(b"{")
        + 64 * data.count(b"[")
        + 24 * data.count(b'"')
        + 16 * data.count(b",")
    )
    if parsed_bytes > limit_bytes:
        raise ProtocolError(
            f"{what}: would take {format_bytes(parsed_bytes)} of memory"
            f" (limit {format_bytes(limit_bytes)})"
        )
    return parsed_bytes


def describe(value: object) -> str:
    """Return a value for messages, on one line and not too long.

    >>> describe(None), describe({"a": 1}), describe("x" * 200)[-8:]
    ('nothing', 'an object', "xxxx...'")
    """
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        value = f"{value[:_SHOWN_CHARACTERS]}..."
    return repr(value)[: 4 * _SHOWN_CHARACTERS]
