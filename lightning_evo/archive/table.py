"""Candidates as flat rows: their columns, and the queries behind them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, select

from lightning_evo.archive import schema
from lightning_evo.archive.events import parsed, portions, predictions
from lightning_evo.archive.ranking import non_domination_ranks, sort_key
from lightning_evo.genome import COMPLETED, STOPPED, Objective

__all__ = ["AFTER_GENES", "AT_END", "BEFORE_FITNESS", "RunTable"]

PENDING = "pending"
"""The status of a candidate without a result: queued or running."""

BEFORE_FITNESS = ("id", "status")
AFTER_GENES = ("parents", "generation", "seed", "origin", "inherits", "duplicate_of")
AT_END = ("queued", "started", "ended", "slot", "attempts", "error_type", "checkpoint")

_candidates, _results, _weights = schema.candidates, schema.results, schema.weights

_SORTED_BY_DATABASE = {
    **{
        name: _candidates.c[name]
        for name in ("id", "generation", "seed", "origin", "inherits", "duplicate_of", "queued")
    },
    **{name: _results.c[name] for name in ("started", "ended", "slot", "attempts", "error_type")},
    "status": case((_results.c.status.is_(None), PENDING), else_=_results.c.status),
    "checkpoint": _weights.c.path,
}

_MANY = 5_000
"""Above so many ids it is quicker to read all rows than those asked for."""


@dataclass(frozen=True)
class RunTable:
    """The candidates of one run as a table, its queries run on the connection handed in.

    Args:
        run: The run's number in the database.
        objectives: The search's objectives, whose monitors name the fitness columns.
    """

    run: int
    objectives: Sequence[Objective]

    def columns(self, connection: Connection) -> list[str]:
        """Names of all columns that some row has, in the order of the table."""
        table = schema.columns
        query = select(table.c.kind, table.c.name).where(table.c.run_id == self.run).order_by(table.c.position)
        names: defaultdict[str, list[str]] = defaultdict(list)
        for kind, name in connection.execute(query):
            names[kind].append(name)
        # An objective may be a cost or a gene may have a metric's name: each name once, where it comes first.
        return list(
            dict.fromkeys(
                [
                    *BEFORE_FITNESS,
                    *(objective.monitor for objective in self.objectives),
                    *names["gene"],
                    *AFTER_GENES,
                    *(self._prediction_columns() if self._predicts(connection) else ()),
                    *(f"cost/{name}" for name in names["cost"]),
                    *(f"metrics/{name}" for name in names["metric"]),
                    *AT_END,
                ]
            )
        )

    def rows(
        self, connection: Connection, ids: Sequence[int] | None = None, status: str | None = None
    ) -> list[dict[str, Any]]:
        """One mapping per candidate, of column to value; in the order of ``ids``, else by id.

        A column that a candidate has no value for (an inactive gene, a cost not measured) is missing from its row.
        """
        query = self._joined(
            _candidates,
            _results.c.status,
            *(_results.c[name] for name in ("fitness", "metrics", "cost", "started", "ended", "slot", "attempts")),
            _results.c.error_type,
            _weights.c.path,
        )
        if status == PENDING:
            query = query.where(_results.c.status.is_(None))
        elif status is not None:
            query = query.where(_results.c.status == status)
        found: dict[int, dict[str, Any]] = {}
        few = ids is not None and len(ids) <= _MANY
        for part in portions(ids if few else None):
            chosen = query if part is None else query.where(_candidates.c.id.in_(part))
            parents = self._parents(connection, part)
            asked_for = [] if part is None else [schema.predictions.c.candidate_id.in_(part)]
            predicted = predictions(connection, self.run, *asked_for)
            rows = connection.execute(chosen.order_by(_candidates.c.id)).all()
            texts = (parsed([getattr(row, name) for row in rows]) for name in ("genome", "fitness", "cost", "metrics"))
            for row, *mappings in zip(rows, *texts, strict=True):
                found[row.id] = self._flat(row, parents.get(row.id, []), *mappings)
                if row.id in predicted:
                    found[row.id] |= self._predicted(predicted[row.id])
        return list(found.values()) if ids is None else [found[i] for i in ids if i in found]

    def ranked(self, connection: Connection, limit: int | None, sort: str | None) -> list[int]:
        """Ids in the order of a column; see ``Archive.ranked``.

        Raises:
            ValueError: If there is no such column.
        """
        if sort is None:
            return self._best_first(connection, limit)
        descending, name = sort.startswith("-"), sort.removeprefix("-")
        columns = self.columns(connection)
        if name not in columns:
            raise ValueError(f"sort: no column {name!r}; the columns are {', '.join(columns)}")
        monitors = [objective.monitor for objective in self.objectives]
        if name in monitors:
            # Best first, in the objective's own direction.
            descending ^= self.objectives[monitors.index(name)].mode == "max"
        if name in _SORTED_BY_DATABASE and name not in monitors:
            column = _SORTED_BY_DATABASE[name]
            query = self._joined(_candidates.c.id).order_by(
                column.is_(None), column.desc() if descending else column, _candidates.c.id
            )
            return list(connection.execute(query.limit(limit)).scalars())
        return self._ranked_by_value(connection, name, descending)[:limit]

    def front(self, connection: Connection) -> list[int]:
        """Ids of the completed candidates that none dominates, by id; answers to duplicates are left out."""
        if not self.objectives:
            return []
        query = self._joined(_candidates.c.id, _results.c.fitness).where(
            _results.c.status == COMPLETED, _results.c.fitness.is_not(None), _candidates.c.duplicate_of.is_(None)
        )
        found = connection.execute(query.order_by(_candidates.c.id)).all()
        ranks = non_domination_ranks(parsed([row.fitness for row in found]), self.objectives)
        return [row.id for row, rank in zip(found, ranks, strict=True) if rank == 0]

    def best(self, connection: Connection, count: int) -> list[int]:
        """Ids of the best completed candidates by the first objective; answers to duplicates are left out."""
        query = self._by_first_fitness().where(_results.c.status == COMPLETED, _candidates.c.duplicate_of.is_(None))
        return list(connection.execute(query.limit(count)).scalars())

    # -- orders --------------------------------------------------------------------------------------------------------

    def _joined(self, *selected: Any) -> Select:
        """A query over candidates with their results and whole checkpoints, where they have them."""
        return (
            select(*selected)
            .select_from(_candidates)
            .outerjoin(
                _results, and_(_results.c.run_id == _candidates.c.run_id, _results.c.candidate_id == _candidates.c.id)
            )
            .outerjoin(
                _weights,
                and_(
                    _weights.c.run_id == _candidates.c.run_id,
                    _weights.c.candidate_id == _candidates.c.id,
                    _weights.c.component == schema.WHOLE,
                ),
            )
            .where(_candidates.c.run_id == self.run)
        )

    def _by_first_fitness(self) -> Select:
        # From the results outwards, so that the index on them gives the order and LIMIT ends the walk.
        fitness = _results.c.first_fitness
        best_first = fitness if self.objectives and self.objectives[0].mode == "min" else fitness.desc()
        return (
            select(_results.c.candidate_id)
            .join(
                _candidates,
                and_(_candidates.c.run_id == _results.c.run_id, _candidates.c.id == _results.c.candidate_id),
            )
            .where(_results.c.run_id == self.run, fitness.is_not(None))
            .order_by(best_first, _results.c.candidate_id)
        )

    def _best_first(self, connection: Connection, limit: int | None) -> list[int]:
        """Ranked candidates, then failed ones, then pending ones."""
        if len(self.objectives) > 1:
            ids = self._by_front(connection)[:limit]
        else:
            query = self._by_first_fitness().where(_results.c.status.in_([COMPLETED, STOPPED]))
            ids = list(connection.execute(query.limit(limit)).scalars())
        if limit is None or len(ids) < limit:
            group = case((_results.c.status.is_(None), 2), (_results.c.status.in_([COMPLETED, STOPPED]), 0), else_=1)
            rest = connection.execute(self._joined(_candidates.c.id).order_by(group, _candidates.c.id)).scalars()
            ids = list(dict.fromkeys([*ids, *rest]))
        return ids[:limit]

    def _by_front(self, connection: Connection) -> list[int]:
        query = select(_results.c.candidate_id, _results.c.fitness).where(
            _results.c.run_id == self.run, _results.c.fitness.is_not(None), _results.c.status.in_([COMPLETED, STOPPED])
        )
        rows = connection.execute(query).all()
        found = list(zip((row.candidate_id for row in rows), parsed([row.fitness for row in rows]), strict=True))
        ranks = non_domination_ranks([fitness for _, fitness in found], self.objectives)
        weight = self.objectives[0].weight
        order = sorted(
            (rank, math.inf if math.isnan(fitness[0]) else -weight * fitness[0], candidate)
            for rank, (candidate, fitness) in zip(ranks, found, strict=True)
        )
        return [candidate for _, _, candidate in order]

    def _ranked_by_value(self, connection: Connection, name: str, descending: bool) -> list[int]:
        values, missing = [], []
        pairs = self._parent_lists(connection) if name == "parents" else self._values(connection, name)
        for candidate, value in pairs:
            if value is None or value != value:
                missing.append(candidate)
            else:
                values.append((sort_key(value), candidate))
        values.sort(key=lambda item: item[0], reverse=descending)  # stable: equal values stay in the order of ids
        return [candidate for _, candidate in values] + missing

    def _values(self, connection: Connection, name: str) -> Iterator[tuple[int, Any]]:
        """Id and value of one column that lies within JSON text, by id."""
        monitors = [objective.monitor for objective in self.objectives]
        kind, _, part = name.partition("/")
        if name in self._prediction_columns():
            predicted = predictions(connection, self.run)
            for candidate in connection.execute(self._joined(_candidates.c.id).order_by(_candidates.c.id)).scalars():
                yield candidate, self._predicted(predicted[candidate]).get(name) if candidate in predicted else None
            return
        take: Callable[[Any], Any]
        if name in monitors:
            text, take = _results.c.fitness, itemgetter(monitors.index(name))
        elif kind in ("cost", "metrics"):
            text, take = _results.c[kind], lambda stored: stored.get(part)
        else:
            text, take = _candidates.c.genome, lambda stored: stored["values"].get(name)
        rows = connection.execute(self._joined(_candidates.c.id, text).order_by(_candidates.c.id)).all()
        for (candidate, _), stored in zip(rows, parsed([row[1] for row in rows]), strict=True):
            yield candidate, None if stored is None else take(stored)

    def _parent_lists(self, connection: Connection) -> Iterator[tuple[int, list[int] | None]]:
        parents = self._parents(connection, None)
        for candidate in connection.execute(self._joined(_candidates.c.id).order_by(_candidates.c.id)).scalars():
            yield candidate, parents.get(candidate)

    # -- predictions -----------------------------------------------------------------------------------------------

    def _prediction_columns(self) -> list[str]:
        kinds = ("predicted", "predicted_std")
        return [f"{kind}/{objective.monitor}" for kind in kinds for objective in self.objectives] + ["prescreened"]

    def _predicts(self, connection: Connection) -> bool:
        """Whether anything was predicted in this run, without reading it."""
        table = schema.predictions
        query = select(table.c.candidate_id).where(table.c.run_id == self.run).limit(1)
        return schema.holds(connection, table) and connection.scalar(query) is not None

    def _predicted(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of what was predicted, the fitness only where a predictor had learned something by then."""
        if not prediction["mean"]:
            return {}
        numbers = [*prediction["mean"], *prediction["std"]]
        return dict(zip(self._prediction_columns(), [*numbers, prediction["used"]], strict=True))

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _parents(self, connection: Connection, ids: Sequence[int] | None) -> dict[int, list[int]]:
        table = schema.parents
        query = select(table.c.candidate_id, table.c.parent_id).where(table.c.run_id == self.run)
        if ids is not None:
            query = query.where(table.c.candidate_id.in_(ids))
        parents: defaultdict[int, list[int]] = defaultdict(list)
        for child, parent in connection.execute(query.order_by(table.c.candidate_id, table.c.position)):
            parents[child].append(parent)
        return parents

    def _flat(
        self,
        row: Row,
        parents: list[int],
        genome: Mapping[str, Any],
        fitness: Sequence[float] | None,
        cost: Mapping[str, float] | None,
        metrics: Mapping[str, float] | None,
    ) -> dict[str, Any]:
        flat: dict[str, Any] = {"id": row.id, "status": row.status or PENDING}
        flat.update(zip((objective.monitor for objective in self.objectives), fitness or (), strict=False))
        flat.update(genome["values"])
        flat["parents"] = parents
        for name in AFTER_GENES[1:]:
            flat[name] = getattr(row, name)
        for name, value in (cost or {}).items():
            flat.setdefault(f"cost/{name}", value)  # an objective's fitness stays
        for name, value in (metrics or {}).items():
            flat[f"metrics/{name}"] = value
        for name in AT_END[:-1]:
            flat[name] = getattr(row, name)
        flat["checkpoint"] = row.path
        return flat
