"""Events as plain data: one JSON mapping per event, the rows it writes, and those rows read back as events.

An event has a ``sequence`` number and a ``kind``: ``ask`` (a candidate), ``result``, ``meta`` (values by key) or
``checkpoint`` (where a candidate's checkpoint lies now, ``null`` if deleted). The journal holds events as lines; the
same :func:`apply` writes them to the database when they happen and when they are replayed, and :func:`recorded` reads
them from it in the order in which they were recorded. A ``result`` with ``again`` takes the place of the one that a
candidate had.
"""

from __future__ import annotations

import heapq
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Delete, Row, Select, Table, and_, select, update

from lightning_evo.archive import schema
from lightning_evo.archive.errors import Damaged
from lightning_evo.archive.meta import RetriedRecord
from lightning_evo.genome import Candidate, Genome, Prediction, Result, Segment
from lightning_evo.utils.text import storable

__all__ = [
    "ColumnNames",
    "Event",
    "Read",
    "apply",
    "ask_event",
    "candidate_of",
    "fetching",
    "known_columns",
    "parsed",
    "portions",
    "predictions",
    "recorded",
    "result_of",
    "result_records",
    "results_query",
    "retried",
    "segments",
]

Event = dict[str, Any]
ColumnNames = set[tuple[str, str]]
"""The columns a run has so far: (kind, name), the kind being gene, cost or metric."""

T = TypeVar("T")
Read = Callable[[Callable[[Connection], T]], T]
"""Runs a query in a read transaction of its own."""

_BATCH = 5_000
_PORTION = 500
_MAPPINGS = ("fitness", "metrics", "curve", "cost", "extra")

_INSERTS = {table.name: table.insert() for table in schema.CONTENT}


# -- records <-> events ------------------------------------------------------------------------------------------------


def ask_event(candidate: Candidate, queued: float) -> Event:
    """The event of a candidate asked at ``queued`` (seconds since the epoch)."""
    return {
        "kind": "ask",
        "candidate": {
            "id": candidate.id,
            "values": dict(candidate.genome),
            "rates": dict(candidate.genome.rates),
            "parents": list(candidate.parents),
            "generation": candidate.generation,
            "seed": candidate.seed,
            "origin": candidate.origin,
            "inherits": candidate.inherits,
            "duplicate_of": candidate.duplicate_of,
            **({} if candidate.prediction is None else {"prediction": candidate.prediction.to_dict()}),
            **({} if candidate.segment is None else {"segment": asdict(candidate.segment)}),
        },
        "queued": queued,
    }


def candidate_of(event: Event) -> Candidate:
    """The candidate of an ``ask`` event."""
    record = dict(event["candidate"])
    genome = Genome(record.pop("values"), record.pop("rates"))
    if (prediction := record.pop("prediction", None)) is not None:
        record["prediction"] = Prediction.from_dict(prediction)
    if (segment := record.pop("segment", None)) is not None:
        record["segment"] = Segment(**segment)
    return Candidate(**{**record, "genome": genome, "parents": tuple(record["parents"])})


def result_of(event: Event) -> Result:
    """The result of a ``result`` event."""
    return Result.from_dict(event["result"])


# -- events -> rows ----------------------------------------------------------------------------------------------------


def known_columns(connection: Connection, run: int) -> ColumnNames:
    """The columns that ``run`` has in the database."""
    table = schema.columns
    return {(row.kind, row.name) for row in connection.execute(select(table).where(table.c.run_id == run))}


def apply(connection: Connection, run: int, events: Iterable[Event], known: ColumnNames) -> int | None:
    """Write events to the database, in their order and in one transaction of the caller's.

    Args:
        connection: In a transaction.
        run: The run's number in this database.
        events: With ascending sequence numbers.
        known: The columns the run has; new ones are added.

    Returns:
        The last sequence number, ``None`` if there was no event.
    """
    waiting: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def write() -> None:
        for name, rows in waiting.items():
            connection.execute(_INSERTS[name], rows)
        waiting.clear()

    last = None
    for count, event in enumerate(events, start=1):
        replaced = list(_replaced(run, event))
        if replaced or count % _BATCH == 0:
            write()
        for deletion in replaced:
            connection.execute(deletion)
        for table, row in _rows(run, event, known):
            waiting[table.name].append(row)
        last = event["sequence"]
    write()
    if last is not None:
        connection.execute(update(schema.runs).where(schema.runs.c.id == run).values(last_sequence=last))
    return last


def _replaced(run: int, event: Event) -> Iterator[Delete]:
    """What an event takes the place of."""
    if event["kind"] == "meta":
        table = schema.meta
        yield table.delete().where(table.c.run_id == run, table.c.key.in_([storable(key) for key in event["values"]]))
    elif event["kind"] == "result" and event.get("again"):
        for table in (schema.results, schema.curves, schema.weights):
            yield table.delete().where(table.c.run_id == run, table.c.candidate_id == event["id"])
    elif event["kind"] == "checkpoint":
        table = schema.weights
        yield table.delete().where(
            table.c.run_id == run, table.c.candidate_id == event["id"], table.c.component == schema.WHOLE
        )


def _rows(run: int, event: Event, known: ColumnNames) -> Iterator[tuple[Table, dict[str, Any]]]:
    sequence = event["sequence"]
    if event["kind"] == "ask":
        yield from _candidate_rows(run, sequence, event["candidate"], event["queued"], known)
    elif event["kind"] == "result":
        yield from _result_rows(run, sequence, event["id"], event["result"], known)
    elif event["kind"] == "meta":
        for key, value in event["values"].items():
            yield schema.meta, {"run_id": run, "key": storable(key), "sequence": sequence, "value": json.dumps(value)}
    else:
        yield _weights_row(run, sequence, event["id"], event["checkpoint"], event["checkpoint_bytes"])


def _candidate_rows(
    run: int, sequence: int, record: Mapping[str, Any], queued: float, known: ColumnNames
) -> Iterator[tuple[Table, dict[str, Any]]]:
    yield (
        schema.candidates,
        {
            "run_id": run,
            "id": record["id"],
            "sequence": sequence,
            "genome": json.dumps({"values": record["values"], "rates": record["rates"]}),
            "generation": record["generation"],
            "seed": record["seed"],
            "origin": storable(record["origin"]),
            "inherits_run_id": None,
            "inherits": record["inherits"],
            "duplicate_of": record["duplicate_of"],
            "queued": queued,
        },
    )
    for position, parent in enumerate(record["parents"]):
        yield (
            schema.parents,
            {
                "run_id": run,
                "candidate_id": record["id"],
                "position": position,
                "parent_run_id": run,
                "parent_id": parent,
            },
        )
    if "prediction" in record:
        row = {"run_id": run, "candidate_id": record["id"], "prediction": json.dumps(record["prediction"])}
        yield schema.predictions, row
    if (segment := record.get("segment")) is not None:
        epochs = {"start_epoch": segment["start"], "end_epoch": segment["end"]}
        yield schema.segments, {"run_id": run, "candidate_id": record["id"], **epochs}
    yield from _column_rows(run, "gene", record["values"], known)


def _result_rows(
    run: int, sequence: int, candidate: int, record: Mapping[str, Any], known: ColumnNames
) -> Iterator[tuple[Table, dict[str, Any]]]:
    fitness = record["fitness"]
    yield (
        schema.results,
        {
            "run_id": run,
            "candidate_id": candidate,
            "sequence": sequence,
            "status": record["status"],
            "fitness": None if fitness is None else json.dumps(fitness),
            "first_fitness": _sortable(fitness[0]) if fitness else None,
            "metrics": json.dumps(record["metrics"]),
            "cost": json.dumps(record["cost"]),
            "error": _text(record["error"]),
            "error_type": _text(record["error_type"]),
            "fatal": record["fatal"],
            "started": record["started"],
            "ended": record["ended"],
            "slot": record["slot"],
            "attempts": record["attempts"],
            "extra": json.dumps(record["extra"]),
        },
    )
    if record["curve"]:
        yield schema.curves, {"run_id": run, "candidate_id": candidate, "curve": json.dumps(record["curve"])}
    if record["checkpoint"] is not None:
        yield _weights_row(run, sequence, candidate, record["checkpoint"], record["checkpoint_bytes"])
    yield from _column_rows(run, "cost", record["cost"], known)
    yield from _column_rows(run, "metric", record["metrics"], known)


def _weights_row(
    run: int, sequence: int, candidate: int, path: str | None, size: int | None
) -> tuple[Table, dict[str, Any]]:
    return schema.weights, {
        "run_id": run,
        "candidate_id": candidate,
        "component": schema.WHOLE,
        "sequence": sequence,
        "path": _text(path),
        "bytes": size,
    }


def _column_rows(
    run: int, kind: str, names: Iterable[str], known: ColumnNames
) -> Iterator[tuple[Table, dict[str, Any]]]:
    for name in map(storable, names):
        if (kind, name) not in known:
            known.add((kind, name))
            yield schema.columns, {"run_id": run, "kind": kind, "name": name, "position": len(known)}


def _text(text: str | None) -> str | None:
    """A text that is a column of its own: databases refuse what isn't Unicode, unlike the JSON in other columns."""
    return None if text is None else storable(text)


def _sortable(value: float) -> float | None:
    """``value`` as every database can order it: without NaN, and infinities as the largest numbers."""
    return None if math.isnan(value) else min(sys.float_info.max, max(-sys.float_info.max, value))


# -- rows -> events ------------------------------------------------------------------------------------------------------


def recorded(
    read: Read, run: int, after: int, kinds: Sequence[str] = ("ask", "result", "meta", "checkpoint")
) -> Iterator[Event]:
    """The events of ``run`` in the database with a sequence number above ``after``, in their order.

    What a later event replaced (a meta value, the place of a checkpoint, a result) is not there any more. Read in many short
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
    statement, places = results_query(run), retried(read, run).places
    for rows in _batches(read, statement, schema.results.c.sequence, after, last):
        for row, record in zip(rows, result_records(rows), strict=True):
            again = {"again": True} if places.get(row.candidate_id, row.sequence) != row.sequence else {}
            yield {"sequence": row.sequence, "kind": "result", "id": row.candidate_id, "result": record, **again}


def retried(read: Read, run: int) -> RetriedRecord:
    """Which candidates were, or are to be, trained again in place of a failure."""
    table = schema.meta
    query = select(table.c.value).where(table.c.run_id == run, table.c.key == RetriedRecord.key)
    value = read(lambda connection: connection.scalar(query))
    return RetriedRecord() if value is None else RetriedRecord.from_dict(json.loads(value))


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
