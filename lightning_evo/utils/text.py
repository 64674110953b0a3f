"""Text from outside (errors, names, file names): made storable, kept within bounds, and safe to show on a terminal."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "bounded",
    "first_line_of",
    "message_of",
    "printable",
    "printable_lines",
    "storable",
    "storable_data",
    "traceback_of",
]

_NOTE = 64
"""Characters that the note about what was left out takes at most."""

# Control characters (C0, DEL, C1), marks and overrides of the writing direction, line and paragraph separators, lone
# surrogates, and the two characters that XML excludes besides. Tab and line feed are looked at separately.
_UNSAFE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff"
)
_UNSAFE_IN_LINES = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINE = re.compile(f"[{_UNSAFE}\n\t]")


def storable(text: str) -> str:
    r"""Return text that every file, database and service takes: valid Unicode without NUL.

    What isn't becomes a readable escape, such as the bytes of a file name that isn't UTF-8, which Python reads as lone
    surrogates.

    >>> storable("caf\udce9.png"), storable("a\0b"), storable("café 🙂")
    ('caf\\udce9.png', 'a\\x00b', 'café 🙂')
    """
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\0", "\\x00") if "\0" in text else text


def storable_data(data: Any) -> Any:
    r"""Return plain data (mappings, sequences, texts, numbers) whose every text is :func:`storable`, keys included.

    >>> storable_data({"caf\udce9": [1.5, "\0"]})
    {'caf\\udce9': [1.5, '\\x00']}
    """
    if isinstance(data, str):
        return storable(data)
    if isinstance(data, Mapping):
        return {storable(key) if isinstance(key, str) else key: storable_data(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [storable_data(value) for value in data]
    return data


def bounded(text: str, longest: int) -> str:
    """Return text of at most ``longest`` characters: the head and the tail of what is longer, and how much lies between.

    Args:
        text: The text.
        longest: At least 100 characters.

    >>> bounded("x" * 1000, 100)
    'xxxxxxxxxxxxxxxxxx … [964 characters left out] … xxxxxxxxxxxxxxxxxx'
    """
    if len(text) <= longest:
        return text
    kept = (longest - _NOTE) // 2
    around = "\n" if "\n" in text else " "
    return f"{text[:kept]}{around}… [{len(text) - 2 * kept:,} characters left out] …{around}{text[-kept:]}"


def printable(text: str) -> str:
    r"""Return text as one line that a terminal only shows: nothing moves the cursor, colors, reorders or sets the clipboard.

    Control characters, line ends included, become visible escapes.

    >>> printable("a\x1b]52;c;aGk=\x07b\nc")
    'a\\x1b]52;c;aGk=\\x07b\\nc'
    """
    return text if text.isprintable() else _UNSAFE_IN_LINE.sub(_escape, text)


def printable_lines(text: str) -> str:
    r"""Return what :func:`printable` does, but with line ends and tabs as they are.

    >>> printable_lines("a\n\tb\x9b31m")
    'a\n\tb\\x9b31m'
    """
    return text if text.isprintable() else _UNSAFE_IN_LINES.sub(_escape, text)


def message_of(error: BaseException) -> str:
    """Return the message of an exception, also where its class's ``__str__`` raises."""
    return _text_or(lambda: str(error), "(its message can't be shown: __str__ raises)")


def first_line_of(error: BaseException) -> str:
    """Return the class and the first line of the message of any exception.

    >>> first_line_of(ValueError("too small\\nor too large")), first_line_of(KeyError())
    ('ValueError: too small', 'KeyError')
    """
    name = _text_or(lambda: type(error).__name__, "an exception without a name")
    first = next((line for line in message_of(error).splitlines() if line.strip()), "")
    return f"{name}: {first}" if first else name


def traceback_of(error: BaseException) -> str:
    """Return the traceback of any exception; no reference to it, nor to anything its frames hold, is kept."""
    return _text_or(lambda: "".join(traceback.format_exception(error)), f"{first_line_of(error)}\n")


def _text_or(text: Callable[[], str], otherwise: str) -> str:
    """Return an object's text, or ``otherwise`` if making it raises anything."""
    try:
        return str(text())
    except BaseException:  # also SystemExit, as the traceback module has it
        return otherwise


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
