"""Representations of genomes and results: short texts, and HTML in which a user's text is never markup."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from lightning_evo.genome.names import short_names
from lightning_evo.utils.signatures import constructor_parameters
from lightning_evo.utils.text import printable

__all__ = ["Html", "constructed", "html_table", "listed", "shown"]

_LONGEST = 60


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def shown(value: Any, longest: int = _LONGEST) -> str:
    """A value in one short line: numbers with four digits, lists and mappings as JSON, what is too long cut.

    Control characters become visible escapes.

    >>> shown(0.000123456), shown(["Conv2d", "ReLU"]), shown(None), shown("x" * 100, longest=5)
    ('0.0001235', '["Conv2d", "ReLU"]', '', 'xxxx…')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, (Mapping, list, tuple)):
        text = json.dumps(value, default=str)
    else:
        text = str(value)
    text = text[: 10 * longest]
    text = printable(" ".join(text.split()))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def listed(values: Mapping[str, Any], longest: int = _LONGEST) -> str:
    """Values under the short names of their config paths.

    >>> listed({"model.init_args.lr": 0.01, "model.init_args.net.init_args.width": 32})
    '{lr: 0.01, width: 32}'
    """
    names = short_names(list(values))
    return "{" + ", ".join(f"{names[path]}: {shown(value, longest)}" for path, value in values.items()) + "}"


def constructed(thing: Any, also: Mapping[str, Any] | None = None, longest: int = 200) -> list[str]:
    """The constructor arguments that an object keeps under their names, where they are not the defaults, as Python.

    Args:
        thing: The object; an argument may also be kept behind an underscore.
        also: Arguments that it keeps elsewhere.
        longest: Characters of an argument; a longer one is cut.

    >>> from lightning_evo.genome import Integer
    >>> constructed(Integer(1, 9, step=2, when={"x": [True]}))
    ['1', '9', 'step=2', "when={'x': [True]}"]
    """
    kept = {**(also or {}), **vars(thing)}
    parts = []
    for name, parameter in constructor_parameters(type(thing)).items():
        where = next((place for place in (name, f"_{name}") if place in kept), None)
        if where is None:
            continue
        value, default = kept[where], parameter.default
        if default is None and value in ([], {}, ()):
            continue  # nothing was given
        text = repr(value)
        text = text if len(text) <= longest else f"{text[: longest - 1]}…"
        if default is parameter.empty:
            parts.append(text)
        elif text != repr(default):
            parts.append(f"{name}={text}")
    return parts


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Html:
    """A table for a notebook; every text is escaped.

    Args:
        columns: The heading of each column; none for a table without headings.
        rows: The cells of each row, as :func:`shown` shows them; those of :class:`Html` as they are.
        title: What stands above it.

    >>> html_table(["<b>"], [[0.5], ["<script>"]])
    '<table><thead><tr><th>&lt;b&gt;</th></tr></thead><tbody><tr><td>0.5</td></tr><tr><td>&lt;script&gt;</td></tr></tbody></table>'
    """
    caption = f"<p><b>{escape(title)}</b></p>" if title else ""
    heading = "".join(f"<th>{_cell(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head = f"<thead><tr>{heading}</tr></thead>" if columns else ""
    return Html(f"{caption}<table>{head}<tbody>{body}</tbody></table>")


def _cell(value: Any) -> str:
    return value if isinstance(value, Html) else escape(shown(value))
