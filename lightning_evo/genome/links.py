"""Links: values of a config that follow another, as the input size of one part follows the width of another."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_evo.genome.genes import Gene
from lightning_evo.genome.space import SpaceError

__all__ = ["Link", "expanded", "followers", "origin", "paths_of", "read_links", "with_single_paths"]


@dataclass(frozen=True)
class Link:
    """The value at one config path is that at another.

    Args:
        source: The path that is followed.
        target: The path that follows.
        place: Where the link is written, for messages.
    """

    source: str
    target: str
    place: str

    def to_dict(self) -> dict[str, str]:
        """As it is written in a config."""
        return {"from": self.source, "to": self.target}


def with_single_paths(genes: Mapping[str, Gene]) -> tuple[dict[str, Gene], list[Link]]:
    """Genes whose keys may name several paths, each at its first path, and the links by which the others follow it.

    >>> from lightning_evo.genome import Boolean
    >>> genes, links = with_single_paths({"model.bias, data.bias": Boolean()})
    >>> genes, [link.to_dict() for link in links]
    ({'model.bias': Boolean()}, [{'from': 'model.bias', 'to': 'data.bias'}])
    """
    single: dict[str, Gene] = {}
    links: list[Link] = []
    names: dict[str, str] = {}
    for key, gene in genes.items():
        first, *others = paths_of(key)
        if first in single:
            raise SpaceError(f"{key}: there are two genes for {first}")
        single[first] = gene
        links += [Link(first, other, f"evolution.space.{key}") for other in others]
        names |= dict.fromkeys([key, *others], first)
    for path, gene in single.items():
        if any(condition in names and names[condition] != condition for condition in gene.when):
            single[path] = copy.copy(gene)
            single[path].when = {names.get(condition, condition): on for condition, on in gene.when.items()}
    return single, links


def paths_of(key: str) -> list[str]:
    """The config paths that a key names, separated by commas; the key itself where it isn't a list of paths."""
    paths = [path.strip() for path in key.split(",")] if isinstance(key, str) else [key]
    return paths if all(paths) else [key]


def read_links(
    written: Iterable[Mapping[str, Any]], genes: Iterable[str], also: Sequence[Link] = ()
) -> tuple[Link, ...]:
    """The links of a search, each after those that it depends on.

    Args:
        written: Mappings with ``from`` and ``to``; the latter may name several paths, separated by commas.
        genes: The paths of all genes.
        also: Links that are written otherwise.

    Raises:
        SpaceError: If one isn't a link, would overwrite a gene or another link's target, or if they form a cycle.
    """
    links = list(also)
    for i, given in enumerate(written):
        place = f"evolution.links[{i}]"
        known = isinstance(given, Mapping) and set(given) == {"from", "to"}
        if not known or not all(isinstance(path, str) and path.strip() for path in given.values()):
            shown = dict(given) if isinstance(given, Mapping) else given
            raise SpaceError(f"{place}: {shown!r} is not a link; give {{from: CONFIG_PATH, to: CONFIG_PATH}}")
        links += [Link(given["from"].strip(), target, place) for target in paths_of(given["to"])]
    for i, link in enumerate(links):
        for path in genes:
            if _contains(link.target, path):
                raise SpaceError(f"{link.place}: {link.target} can't follow {link.source}: it has a gene, {path}")
        for other in links[:i]:
            if _overlap(link.target, other.target):
                raise SpaceError(f"{link.place}: {link.target} follows {other.source} already ({other.place})")
    return tuple(_ordered(links))


def _ordered(links: Sequence[Link]) -> list[Link]:
    order: list[Link] = []
    waiting = list(links)
    while waiting:
        ready = [link for link in waiting if not any(_overlap(link.source, other.target) for other in waiting)]
        if not ready:
            circle = ", ".join(f"{link.target} follows {link.source}" for link in waiting)
            raise SpaceError(f"{waiting[0].place}: the links go in a circle: {circle}")
        order += ready
        waiting = [link for link in waiting if link not in ready]
    return order


def expanded(genome: Mapping[str, Any], links: Sequence[Link]) -> dict[str, Any]:
    """The values of a genome, and those of the paths that follow one of its genes."""
    values = dict(genome)
    for link in links:
        if link.source in values:
            values[link.target] = values[link.source]
    return values


def followers(path: str, links: Sequence[Link]) -> list[str]:
    """The paths whose values change with that at ``path``."""
    found: list[str] = []
    for link in links:
        if any(_overlap(link.source, changed) for changed in (path, *found)):
            found.append(link.target)
    return found


def origin(path: str, links: Sequence[Link]) -> str:
    """The path whose value that at ``path`` is in the end."""
    for link in reversed(links):
        if link.target == path:
            path = link.source
    return path


def _contains(path: str, other: str) -> bool:
    """Whether ``other`` is ``path`` or lies in it."""
    return other == path or other.startswith(f"{path}.")


def _overlap(one: str, other: str) -> bool:
    return _contains(one, other) or _contains(other, one)
