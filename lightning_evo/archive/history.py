"""The events of a run, read back from the database in the order in which they were recorded."""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, and_, select

from lightning_evo.archive import schema
from lightning_evo.archive.errors import Damaged
from lightning_evo.archive.events import Event

__all__ = [
    "Read",
    "fetching",
    "parsed",
    "portions",
    "predictions",
    "recorded",
    "result_records",
    "results_query",
    "segments",
]

T = TypeVar("T")
Read = Callable[[Callable[[Connection], T]], T]
"""Runs a query in a read transaction of its own."""

_BATCH = 5_000
_PORTION = 500
_MAPPINGS = ("fitness", "metrics", "curve", "cost", "extra")


def recorded(
    read: Read, run: int, after: int, kinds: Sequence[str] = ("ask", "result", "meta", "checkpoint")
) -> Iterator[Event]:
    """The events of ``run`` in the database with a sequence number above ``after``, in their order.

    What a later event replaced (a meta value, the place of a checkpoint) is not there any more. Read in many short
    transactions, up to the last event there was when reading began.
    """
    runs = schema.runs
    last = read(lambda connection: connection.scalar(select(runs.c.last_sequence).where(runs.c.id == run))) or 0
    streams = {"ask": _asks, "result": _results, "meta": _metas, "checkpoint": _checkpoints}
    return heapq.merge(*(streams[kind](read, run, after, last) for kind in kinds), key=lambda event: event["sequence"])


def _batches(read: Read, statement: Select, sequence: Column, after: int, last: int) -> Iterator[Sequence[Row]]:
    while after < last:
        batch = statement.where(sequence > after, sequence <= last).order_by(sequence).limit(_BATCH)
        rows = read(fetching(batch))
        if rows:
            yield rows
        if len(rows) < _BATCH:
            return
        after = rows[-1].sequence


def _asks(read: Read, run: int, after: int, last: int) -> Iterator[Event]:
    table, kin = schema.candidates, schema.parents
    bred = (
        select(kin.c.candidate_id, kin.c.parent_id)
        .join(table, and_(table.c.run_id == kin.c.run_id, table.c.id == kin.c.candidate_id))
        .where(kin.c.run_id == run)
        .order_by(kin.c.candidate_id, kin.c.position)
    )
    for rows in _batches(read, select(table).where(table.c.run_id == run), table.c.sequence, after, last):
        span = bred.where(table.c.sequence >= rows[0].sequence, table.c.sequence <= rows[-1].sequence)
        parents: defaultdict[int, list[int]] = defaultdict(list)
        for child, parent in read(fetching(span)):
            parents[child].append(parent)
        ids = [row.id for row in rows]
        among = schema.predictions.c.candidate_id.between(min(ids), max(ids))
        predicted = read(_bound(predictions, run, among))
        parts = schema.segments.c.candidate_id.between(min(ids), max(ids))
        segmented = read(_bound(segments, run, parts))
        for row, genome in zip(rows, parsed([row.genome for row in rows]), strict=True):
            yield {
                "sequence": row.sequence,
                "kind": "ask",
                "candidate": {
                    "id": row.id,
                    "values": genome["values"],
                    "rates": genome["rates"],
                    "parents": parents.get(row.id, []),
                    "generation": row.generation,
                    "seed": row.seed,
                    "origin": row.origin,
                    "inherits": row.inherits,
                    "duplicate_of": row.duplicate_of,
                    **({"prediction": predicted[row.id]} if row.id in predicted else {}),
                    **({"segment": segmented[row.id]} if row.id in segmented else {}),
                },
                "queued": row.queued,
            }


def _bound(
    function: Callable[[Connection, int, ColumnElement[bool]], T], run: int, condition: ColumnElement[bool]
) -> Callable[[Connection], T]:
    return lambda connection: function(connection, run, condition)


def fetching(statement: Select) -> Callable[[Connection], Sequence[Row]]:
    """What gives a statement's rows, for :data:`Read`."""
    return lambda connection: connection.execute(statement).all()


def predictions(connection: Connection, run: int, *conditions: ColumnElement[bool]) -> dict[int, dict[str, Any]]:
    """What was predicted of candidates, by id, as ``Prediction.to_dict``; of those whose rows meet the conditions."""
    if not schema.holds(connection, schema.predictions):
        return {}
    table = schema.predictions
    query = select(table.c.candidate_id, table.c.prediction).where(table.c.run_id == run, *conditions)
    rows = connection.execute(query).all()
    return dict(zip((row.candidate_id for row in rows), parsed([row.prediction for row in rows]), strict=True))


def segments(connection: Connection, run: int, *conditions: ColumnElement[bool]) -> dict[int, dict[str, int]]:
    """Which epochs candidates train, by id, as ``Segment``'s arguments; of those whose rows meet the conditions."""
    if not schema.holds(connection, schema.segments):
        return {}
    table = schema.segments
    query = select(table.c.candidate_id, table.c.start_epoch, table.c.end_epoch)
    rows = connection.execute(query.where(table.c.run_id == run, *conditions)).all()
    return {row.candidate_id: {"start": row.start_epoch, "end": row.end_epoch} for row in rows}


def _results(read: Read, run: int, after: int, last: int) -> Iterator[Event]:
    statement = results_query(run)
    for rows in _batches(read, statement, schema.results.c.sequence, after, last):
        for row, record in zip(rows, result_records(rows), strict=True):
            yield {"sequence": row.sequence, "kind": "result", "id": row.candidate_id, "result": record}


def results_query(run: int) -> Select:
    """Selects whole results; the rows are for :func:`result_records`."""
    table, curve, weight = schema.results, schema.curves, schema.weights
    joined = table.outerjoin(
        curve, and_(curve.c.run_id == table.c.run_id, curve.c.candidate_id == table.c.candidate_id)
    ).outerjoin(
        weight,
        and_(
            weight.c.run_id == table.c.run_id,
            weight.c.candidate_id == table.c.candidate_id,
            weight.c.component == schema.WHOLE,
        ),
    )
    return select(table, curve.c.curve, weight.c.path, weight.c.bytes).select_from(joined).where(table.c.run_id == run)


def result_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of :func:`results_query` as ``Result.to_dict`` gives them."""
    mappings = zip(*(parsed([getattr(row, name) for row in rows]) for name in _MAPPINGS), strict=True)
    return [
        {
            "status": row.status,
            "fitness": fitness,
            "metrics": metrics,
            "curve": curve or [],
            "cost": cost,
            "checkpoint": row.path,
            "checkpoint_bytes": row.bytes,
            "error": row.error,
            "error_type": row.error_type,
            "fatal": row.fatal,
            "started": row.started,
            "ended": row.ended,
            "slot": row.slot,
            "attempts": row.attempts,
            "extra": extra,
        }
        for row, (fitness, metrics, curve, cost, extra) in zip(rows, mappings, strict=True)
    ]


def parsed(texts: Sequence[str | None]) -> list[Any]:
    """What each JSON text holds, ``None`` for none; in one go, as a call for each would take twice as long."""
    try:
        return json.loads(f"[{','.join('null' if text is None else text for text in texts)}]")
    except ValueError as error:
        raise Damaged(f"damaged (a row's content isn't JSON: {error})") from error


def _metas(read: Read, run: int, after: int, last: int) -> Iterator[Event]:
    table = schema.meta
    query = (
        select(table.c.sequence, table.c.key, table.c.value)
        .where(table.c.run_id == run, table.c.sequence > after, table.c.sequence <= last)
        .order_by(table.c.sequence, table.c.key)
    )
    rows = read(lambda connection: connection.execute(query).all())
    for sequence, group in groupby(rows, key=lambda row: row.sequence):
        yield {"sequence": sequence, "kind": "meta", "values": {row.key: json.loads(row.value) for row in group}}


def _checkpoints(read: Read, run: int, after: int, last: int) -> Iterator[Event]:
    table, results = schema.weights, schema.results
    moved = (
        select(table.c.sequence, table.c.candidate_id, table.c.path, table.c.bytes)
        .join(results, and_(results.c.run_id == table.c.run_id, results.c.candidate_id == table.c.candidate_id))
        .where(table.c.run_id == run, table.c.sequence != results.c.sequence)
    )
    for rows in _batches(read, moved, table.c.sequence, after, last):
        for row in rows:
            yield {
                "sequence": row.sequence,
                "kind": "checkpoint",
                "id": row.candidate_id,
                "checkpoint": row.path,
                "checkpoint_bytes": row.bytes,
            }


def portions(ids: Sequence[int] | None) -> Iterable[Sequence[int] | None]:
    """Ids in portions that fit into one query; ``None`` (all of them) as it is."""
    return [None] if ids is None else [ids[start : start + _PORTION] for start in range(0, len(ids), _PORTION)]
