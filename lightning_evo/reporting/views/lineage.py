"""Who descends from whom? Parents and children, what was inherited, and which genes changed on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_evo.genome.genes import identity
from lightning_evo.reporting.views.genes import GeneColumn, gene_columns
from lightning_evo.reporting.views.recorded import Recorded

__all__ = ["Edge", "GeneChange", "Lineage", "ancestry", "lineage"]


@dataclass(frozen=True)
class GeneChange:
    """A gene that differs between a parent and its child.

    Args:
        path: Its config path.
        name: Its short name.
        before: The parent's value; ``None`` where the gene isn't active in it.
        after: The child's; ``None`` where the gene isn't active in it.
    """

    path: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Edge:
    """From a parent, or whoever's weights were taken, to a child.

    Args:
        parent: Candidate id.
        child: Candidate id.
        bred: Whether the child's genome comes from this one (an older ancestor may give weights alone).
        inherits: Whether the child started from its weights.
        changed: The genes that differ.
    """

    parent: int
    child: int
    bred: bool
    inherits: bool
    changed: tuple[GeneChange, ...]


@dataclass(frozen=True)
class Lineage:
    """Some candidates and how they descend from each other.

    Args:
        ids: The candidates', ascending: a parent comes before its children.
        edges: Those between them, by child and parent.
    """

    ids: tuple[int, ...]
    edges: tuple[Edge, ...]


def lineage(recorded: Recorded, ids: Iterable[int] | None = None) -> Lineage:
    """How candidates descend from each other.

    Args:
        recorded: The run.
        ids: Which candidates; default: all. Edges to others are left out, as are parents of another run.
    """
    chosen = sorted(recorded.by_id if ids is None else set(ids) & set(recorded.by_id))
    among = set(chosen)
    columns = gene_columns(recorded)
    edges = []
    for child in chosen:
        parents = recorded.by_id[child]["parents"]
        source = recorded.source[child]
        givers = dict.fromkeys([*parents, *([] if source is None else [source])])
        for parent in sorted(set(givers) & among):
            changed = _changed(recorded.by_id[parent], recorded.by_id[child], columns)
            edges.append(Edge(parent, child, parent in parents, parent == source, changed))
    return Lineage(tuple(chosen), tuple(edges))


def ancestry(recorded: Recorded, candidate: int | None = None, generations: int | None = None) -> Lineage:
    """A candidate with all those it descends from.

    Args:
        recorded: The run.
        candidate: Its id; default: the best one.
        generations: At most so many steps back; default: to the beginning.

    Raises:
        ValueError: If there is no such candidate, or none has finished.
    """
    candidate = recorded.best if candidate is None else candidate
    if candidate is None:
        raise ValueError(f"{recorded.run}: no candidate has finished yet, so there is no best one")
    if candidate not in recorded.by_id:
        raise ValueError(f"{recorded.run}: there is no candidate {candidate}")
    found, last = {candidate}, {candidate}
    while last and (generations is None or generations > 0):
        generations = None if generations is None else generations - 1
        sources = {recorded.source[id] for id in last} - {None}
        before = {parent for id in last for parent in recorded.by_id[id]["parents"]} | sources
        last = {id for id in before if id in recorded.by_id} - found  # type: ignore[misc]
        found |= last
    return lineage(recorded, found)


def _changed(
    parent: Mapping[str, Any], child: Mapping[str, Any], columns: Iterable[GeneColumn]
) -> tuple[GeneChange, ...]:
    return tuple(
        GeneChange(column.path, column.name, parent.get(column.path), child.get(column.path))
        for column in columns
        if identity(parent.get(column.path)) != identity(child.get(column.path))
    )
