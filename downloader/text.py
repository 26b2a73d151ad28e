r"""Text from outside, fit for where it is shown: labels, names, tags, answers of servers.

A terminal obeys escape sequences, a CI log obeys workflow commands, Markdown makes links: what
an image or a server says of itself must do none of that.
"""

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

# Joiners are part of words and emoji; every other invisible character of these categories
# moves the cursor, reorders or hides text: controls, bidirectional marks, tags, separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}

# The runner trims a line before it looks for `::`, and finds `##[` anywhere in it.
# Source: actions/runner, src/Runner.Common/ActionCommand.cs; Azure Pipelines, `##vso[`.
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#(?:\[|vso\[))")

# Entities, for a backslash does nothing inside of HTML. A bare address or name becomes a link
# without any mark-up; an underscore inside of a word is one.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$&@]|:(?=//)|(?<=www)\.|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9])")


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the hint for a name that is not known: the one it is most like, if any is.

    >>> nearest("revison", ["repo", "revision"], "known: repo, revision")
    "did you mean 'revision'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def visible(text: str) -> str:
    r"""Return one line that a terminal and a CI log only show.

    Control, bidirectional and other invisible characters become escapes; a workflow command
    loses its first character to one.

    >>> visible("a\x1b[31mred\nb\u202etxt")
    'a\\x1b[31mred\\nb\\u202etxt'
    >>> visible(" ::error::x"), visible("a ##[group]b")
    (' \\x3a:error::x', 'a \\x23#[group]b')
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join(_escape(char) if _is_hidden(char) else char for char in text)
    return _COMMAND.sub(_disarm, text)


def markdown(text: str) -> str:
    """Return one line that Markdown and HTML show as it is: no link, image, markup or cell.

    >>> print(markdown("[a_b](http://x) <b> |"))
    &#91;a_b&#93;(http&#58;//x) &#60;b&#62; &#124;
    """
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", visible(text))


def markdown_code(text: str) -> str:
    r"""Return text as a code span that fits into a table's cell.

    >>> print(markdown_code("a|`b"))
    `a\|'b`
    """
    plain = visible(text).replace("`", "'").replace("|", r"\|")
    return f"`{plain}`"


def to_json(document: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    r"""Return indented JSON that a terminal and a CI log only show.

    >>> print(to_json({"a": "é\x9b\u202e##[x]"}))
    {
      "a": "é\u009b\u202e\u0023#[x]"
    }
    """
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if not text.isascii():
        text = "".join(
            json.dumps(char)[1:-1] if char != "\n" and _is_hidden(char) else char for char in text
        )
    return re.sub(r"#(?=#(?:\[|vso\[))", r"\\u0023", text.replace("\x7f", r"\u007f"))


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN and char not in _JOINERS


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _disarm(found: re.Match[str]) -> str:
    return r"\x23" if found[0] == "#" else f"{found[1]}\\x3a"
