"""Conversion of docstrings to Markdown: references become links; doctests, tables and literal blocks become code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Class, Extension, Object

_REFERENCE = re.compile(r":(class|func|meth|attr|data|mod|exc):`(~?)(?:([^`<]+?) <([^`>]+)>|([^`]+))`")
_DOCTEST = re.compile(r"^( *)>>> .*\n?(?:^ *\S.*\n?)*", re.MULTILINE)
_TABLE = re.compile(r"^( *)=+ +=+[ =]*\n(?:.*\n)*\1=+ +=+[ =]*$", re.MULTILINE)


class DocstringMarkdown(Extension):
    """Rewrites every docstring as it is collected."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is None:
            return
        obj.docstring.value = markdown(obj.docstring.value)
        if isinstance(obj, Class) and "NamedTuple" in map(str, obj.bases):
            # It has no signature that griffe could find its arguments in; its fields are its attributes.
            obj.docstring.value = obj.docstring.value.replace("\nArgs:\n", "\nAttributes:\n")


def markdown(text: str) -> str:
    """A docstring of this project (Google style, Sphinx references) as mkdocstrings expects it.

    References lead to the page where their target is described, and are plain code where none describes it.

    >>> markdown("See :class:`~lightning_evo.genome.Gene` and :attr:`cost`.")
    'See <autoref identifier="lightning_evo.genome.Gene" optional><code>Gene</code></autoref> and `cost`.'
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
    if not target.startswith("lightning_evo.") or role == "data":
        return f"`{text}`"
    return f'<autoref identifier="{target}" optional><code>{text}</code></autoref>'


def _fenced(block: str, indent: str, language: str) -> str:
    return f"{indent}```{language}\n{block.rstrip()}\n{indent}```\n"
