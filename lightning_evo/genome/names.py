"""Short names of config paths: the shortest suffix that is unambiguous."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ends_with", "short_names", "squeezed"]


def short_names(paths: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """For each config path, the shortest of its ends that no other path and no name in ``taken`` has.

    ``init_args``, which is in nearly every path, is left out of the names.

    >>> short_names(["model.init_args.lr", "model.init_args.width", "data.init_args.width"], taken=["id"])
    {'model.init_args.lr': 'lr', 'model.init_args.width': 'model.width', 'data.init_args.width': 'data.width'}
    """
    names = {}
    for path in paths:
        others = [squeezed(other) for other in (*paths, *taken) if other != path]
        parts = squeezed(path).split(".")
        ends = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
        names[path] = next((end for end in ends if not any(ends_with(other, end) for other in others)), path)
    return names


def squeezed(path: str) -> str:
    """The path without ``init_args``."""
    return ".".join(part for part in path.split(".") if part != "init_args")


def ends_with(path: str, end: str) -> bool:
    """Whether ``path`` is ``end``, or ends in it at one of its parts."""
    return path == end or path.endswith((f".{end}", f"/{end}"))
