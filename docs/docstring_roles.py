"""How do docstrings' cross references become links of this documentation? ``:class:`~a.b.C``` becomes ``[`C`][a.b.C]``."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:class|func|meth|attr|data|mod|exc):`(~?)(?:([^`<]+?) <([^`>]+)>|([^`]+))`")


class DocstringRoles(Extension):
    """Rewrites the roles in every docstring as it is collected."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_linked, obj.docstring.value).replace("``", "`")


def _linked(role: re.Match[str]) -> str:
    short, text, target, plain = role.groups()
    target = target or plain
    text = text or (target.rpartition(".")[2] if short else target)
    # A name within the same class or module has no address of its own here.
    return f"[`{text}`][{target}]" if target.startswith("lightning_evo.") else f"`{text}`"
