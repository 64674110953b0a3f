"""Events as plain data: one JSON mapping per event, and the rows it writes.

An event has a ``sequence`` number and a ``kind``: ``ask`` (a candidate), ``result``, ``meta`` (values by key) or
``checkpoint`` (where a candidate's checkpoint lies now, ``null`` if deleted). The journal holds events as lines; the
same :func:`apply` writes them to the database when they happen and when they are replayed.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Delete, Table, select, update

from lightning_evo.archive import schema
from lightning_evo.genome import Candidate, Genome, Prediction, Result, Segment
from lightning_evo.utils.text import storable

__all__ = ["ColumnNames", "Event", "apply", "ask_event", "candidate_of", "known_columns", "result_of"]

Event = dict[str, Any]
ColumnNames = set[tuple[str, str]]
"""The columns a run has so far: (kind, name), the kind being gene, cost or metric."""

_BATCH = 5_000

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
