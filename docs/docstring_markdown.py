"""How do docstrings become Markdown? References become links; doctests, tables and literal blocks become code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_REFERENCE = re.compile(r":(class|func|meth|attr|data|mod|exc):`(~?)(?:([^`<]+?) <([^`>]+)>|([^`]+))`")
_DOCTEST = re.compile(r"^( *)>>> .*\n?(?:^ *\S.*\n?)*", re.MULTILINE)
_TABLE = re.compile(r"^( *)=+ +=+[ =]*\n(?:.*\n)*\1=+ +=+[ =]*$", re.MULTILINE)


class DocstringMarkdown(Extension):
    """Rewrites every docstring as it is collected."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """A docstring of this project (Google style, Sphinx references) as mkdocstrings expects it.

    >>> markdown("See :class:`~lightning_evo.genome.Gene` and :attr:`cost`.")
    'See [`Gene`][lightning_evo.genome.Gene] and `cost`.'
    """
    text = _REFERENCE.sub(_linked, text).replace("``", "`")
    text = _TABLE.sub(lambda table: _fenced(table[0], table[1], "text"), text)
    text = _DOCTEST.sub(lambda test: _fenced(test[0], test[1], "pycon"), text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


def _linked(reference: re.Match[str]) -> str:
    role, short, text, target, plain = reference.groups()
    target = target or plain
    text = text or (target.rpartition(".")[2] if short else target)
    # A name within the same class or module has no address of its own here; nor have most constants.
    return f"[`{text}`][{target}]" if target.startswith("lightning_evo.") and role != "data" else f"`{text}`"


def _fenced(block: str, indent: str, language: str) -> str:
    return f"{indent}```{language}\n{block.rstrip()}\n{indent}```\n"
