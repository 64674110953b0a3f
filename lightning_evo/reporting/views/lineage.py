"""Lineage: parents and children, inherited weights, and the genes that changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_evo.genome.genes import identity
from lightning_evo.reporting.views.genes import GeneColumn, gene_columns
from lightning_evo.reporting.views.snapshot import RunSnapshot

__all__ = ["Edge", "GeneChange", "Lineage", "ancestry", "lineage"]


@dataclass(frozen=True)
class GeneChange:
    """A gene that differs between a parent and its child.

    Args:
        path: Its config path.
        name: Its short name.
        before: The parent's value; ``None`` if the gene is inactive.
        after: The child's value; ``None`` if the gene is inactive.
    """

    path: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Edge:
    """A connection from a parent, or another candidate whose weights were inherited, to a child.

    Args:
        parent: Id of the parent.
        child: Id of the child.
        bred: Whether the child's genome comes from the parent (an older ancestor may provide only weights).
        inherits: Whether the child started from the parent's weights.
        changed: The genes that differ.
    """

    parent: int
    child: int
    bred: bool
    inherits: bool
    changed: tuple[GeneChange, ...]


@dataclass(frozen=True)
class Lineage:
    """Candidates and the connections between them.

    Args:
        ids: The candidates' ids, ascending: a parent comes before its children.
        edges: The connections, ordered by child and parent.
    """

    ids: tuple[int, ...]
    edges: tuple[Edge, ...]


def lineage(snapshot: RunSnapshot, ids: Iterable[int] | None = None) -> Lineage:
    """The lineage of candidates.

    Args:
        snapshot: The run.
        ids: The candidates; default: all. Connections to others, and to parents in another run, are left out.
    """
    chosen = sorted(snapshot.by_id if ids is None else set(ids) & set(snapshot.by_id))
    included = set(chosen)
    columns = gene_columns(snapshot)
    edges = []
    for child in chosen:
        parents = snapshot.by_id[child]["parents"]
        source = snapshot.weight_source[child]
        for parent in sorted({*parents, *([] if source is None else [source])} & included):
            changed = _changed(snapshot.by_id[parent], snapshot.by_id[child], columns)
            edges.append(Edge(parent, child, parent in parents, parent == source, changed))
    return Lineage(tuple(chosen), tuple(edges))


def ancestry(snapshot: RunSnapshot, candidate: int | None = None, generations: int | None = None) -> Lineage:
    """The lineage of a candidate and all its ancestors.

    Args:
        snapshot: The run.
        candidate: The candidate's id; default: the best one.
        generations: Maximum number of generations to go back; default: all.

    Raises:
        ValueError: If there is no such candidate, or none has finished.
    """
    candidate = snapshot.best if candidate is None else candidate
    if candidate is None:
        raise ValueError(f"{snapshot.run}: no candidate has finished yet, so there is no best one")
    if candidate not in snapshot.by_id:
        raise ValueError(f"{snapshot.run}: there is no candidate {candidate}")
    found: set[int] = {candidate}
    last: set[int] = {candidate}
    while last and (generations is None or generations > 0):
        generations = None if generations is None else generations - 1
        ancestors = {parent for id in last for parent in snapshot.by_id[id]["parents"]}
        ancestors |= {source for id in last if (source := snapshot.weight_source[id]) is not None}
        last = {id for id in ancestors if id in snapshot.by_id} - found
        found |= last
    return lineage(snapshot, found)


def _changed(
    parent: Mapping[str, Any], child: Mapping[str, Any], columns: Iterable[GeneColumn]
) -> tuple[GeneChange, ...]:
    return tuple(
        GeneChange(column.path, column.name, parent.get(column.path), child.get(column.path))
        for column in columns
        if identity(parent.get(column.path)) != identity(child.get(column.path))
    )
