"""A read-only view of one run, at any time, also while it is being written."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Row, func, select

from lightning_evo.archive import schema
from lightning_evo.archive.database import ArchiveLocation, reading, translated
from lightning_evo.archive.errors import ArchiveError, Damaged, Unreadable
from lightning_evo.archive.events import (
    candidate_of,
    fetching,
    parsed,
    portions,
    predictions,
    recorded,
    result_of,
    result_records,
    results_query,
    retried,
    segments,
)
from lightning_evo.archive.integrity import Diagnosis
from lightning_evo.archive.journal import Journal
from lightning_evo.archive.recovery import from_journal
from lightning_evo.archive.table import PENDING, RunTable
from lightning_evo.genome import COMPLETED, FAILED, STOPPED, Candidate, Genome, Objective, Prediction, Result, Segment
from lightning_evo.genome.names import short_names
from lightning_evo.genome.records import ExtraEntry
from lightning_evo.genome.representation import html_table

__all__ = ["Archive"]

T = TypeVar("T")
E = TypeVar("E", bound=ExtraEntry)

_log = logging.getLogger(__name__)

_ROWS_SHOWN = 10
"""Rows of the table in a notebook."""


class Archive:
    """One run, read-only: what was asked, how it ended, and what is known about the run.

    Each method reads in transactions of its own, so it sees what was recorded when it was called, and never keeps the
    search waiting. Where a run's database is damaged, what the journal holds is read instead.

    Args:
        location: A run's directory, an archive file or a database URL.
        run: Which run, where the database holds several.

    Attributes:
        run: The run's name.
        directory: The run's directory, which checkpoints' paths are relative to.
        recovered: Why the journal is read instead of the database; ``None`` where it isn't.

    Raises:
        ArchiveError: If there is no archive there, it can't be read, a later version wrote it, or ``run`` is needed.
    """

    def __init__(self, location: str | Path, run: str | None = None) -> None:
        self._open(location, run, check=True)

    @classmethod
    def _of_writer(cls, location: str | Path, run: str) -> Self:
        """An archive whose writer, in this process, has just checked it or written it."""
        archive = cls.__new__(cls)
        archive._open(location, run, check=False)
        return archive

    def _open(self, location: str | Path, run: str | None, check: bool) -> None:
        self._location = ArchiveLocation.of(location)
        self.recovered: str | None = None
        journal = Journal(self._location.journal) if self._location.journal else None
        self._journal = journal if journal and journal.path.exists() else None
        if self._location.file is not None and not self._location.file.exists() and self._journal is None:
            raise ArchiveError(f"{location}: no archive here; give the directory of a run, its archive file or a URL")
        self._engine = reading(self._location)
        if check and self._location.file is not None:
            self._check()
        try:
            self._run_id, self.run, directory = self._read(lambda connection: self._choose(connection, run))
        except BaseException:
            self._engine.dispose()
            raise
        self.directory = (
            self._location.file.parent if self._location.file and self._location.journal else Path(directory)
        )

    def __repr__(self) -> str:
        """The run, how many candidates there are and the best, as far as it can be read; never raises."""
        return f"Archive({str(self.directory)!r}, run={self.run!r}) <{self._summary()}>"

    def _repr_html_(self) -> str:
        try:
            rows = self.ranked(_ROWS_SHOWN)
            monitors = [objective.monitor for objective in self.objectives]
            columns = self.columns()
        except ArchiveError:  # the line above says why
            return html_table([], [], repr(self))
        genes = [name for name in columns[: columns.index("parents")] if name not in ("id", "status", *monitors)]
        names = short_names(genes, taken=["id", "status", *monitors, "parents", "generation"])
        chosen = {name: names.get(name, name) for name in ("id", "status", *monitors, *genes, "parents", "generation")}
        table = html_table(list(chosen.values()), [[row.get(name) for name in chosen] for row in rows], repr(self))
        return str(table)

    def _summary(self) -> str:
        try:
            counts = ", ".join(f"{count} {status}" for status, count in self.counts().items() if count)
            objectives, best = self.objectives, self.best(1)
        except ArchiveError as error:
            return f"cannot be read: {error}"
        modes = ", ".join(f"{objective.monitor} ({objective.mode})" for objective in objectives)
        values = [f"{each.monitor} {best[0][each.monitor]:.4g}" for each in objectives if best]
        found = f"; best by {objectives[0].monitor}: candidate {best[0]['id']}, {', '.join(values)}" if values else ""
        return f"{modes or 'no objectives'}; {counts or 'no candidates yet'}{found}"

    # -- the run -------------------------------------------------------------------------------------------------------

    @property
    def meta(self) -> dict[str, Any]:
        """What is known about the run, by key, read anew each time."""
        table = schema.meta
        query = select(table.c.key, table.c.value).where(table.c.run_id == self._run_id).order_by(table.c.key)
        return {key: json.loads(value) for key, value in self._read(lambda c: c.execute(query).all())}

    @property
    def objectives(self) -> list[Objective]:
        """What the search optimizes, from the meta value ``objectives`` (``[{monitor, mode}, ...]``); none where unset."""
        return [Objective(**objective) for objective in self.meta.get("objectives", [])]

    def counts(self) -> dict[str, int]:
        """How many candidates are ``pending``, ``completed``, ``stopped`` and ``failed``."""
        candidates, results = schema.candidates, schema.results

        def query(connection: Connection) -> dict[str, int]:
            ended = select(results.c.status, func.count().label("number")).where(results.c.run_id == self._run_id)
            all_asked = select(func.count()).where(candidates.c.run_id == self._run_id)
            by_status = {row.status: row.number for row in connection.execute(ended.group_by(results.c.status))}
            pending = connection.execute(all_asked).scalar_one() - sum(by_status.values())
            return {PENDING: pending, COMPLETED: 0, STOPPED: 0, FAILED: 0} | by_status

        return self._read(query)

    # -- candidates ----------------------------------------------------------------------------------------------------

    def columns(self) -> list[str]:
        """Names of all columns that some row of :meth:`candidates` has."""
        return self._read(self._table.columns)

    def candidates(self, ids: Sequence[int] | None = None, status: str | None = None) -> list[dict[str, Any]]:
        """One flat row per candidate, for ``pandas.DataFrame(archive.candidates())``.

        Columns: ``id``, ``status`` (``pending``, ``completed``, ``stopped``, ``failed``); each objective's fitness
        under its monitor; each active gene under its config path; ``parents`` (ids), ``generation``, ``seed``,
        ``origin``, ``inherits``, ``duplicate_of``; where something was predicted before training ``predicted/...`` and
        ``predicted_std/...`` for each objective, and ``prescreened`` (chosen by it or not); ``cost/...``;
        ``metrics/...``; ``queued``, ``started``, ``ended`` (seconds since the epoch), ``slot``, ``attempts``,
        ``error_type``, ``checkpoint``. An inactive gene or a cost that was not measured is missing from its row.

        Args:
            ids: Only these, in this order; unknown ones are left out. Default: all, by id.
            status: Only those with this status.
        """
        return self._read(lambda connection: self._table.rows(connection, ids, status))

    def candidate(self, id: int) -> Candidate:
        """The candidate as it was asked.

        Raises:
            ArchiveError: If there is none with this id.
        """
        candidates, kin = schema.candidates, schema.parents

        def query(connection: Connection) -> Candidate:
            row = connection.execute(
                select(candidates).where(candidates.c.run_id == self._run_id, candidates.c.id == id)
            ).first()
            if row is None:
                last = connection.scalar(select(func.max(candidates.c.id)).where(candidates.c.run_id == self._run_id))
                have = "it has none yet" if last is None else f"it has 0 to {last}"
                raise ArchiveError(f"{self._location}: no candidate {id}; {have}")
            parents = connection.execute(
                select(kin.c.parent_id)
                .where(kin.c.run_id == self._run_id, kin.c.candidate_id == id)
                .order_by(kin.c.position)
            ).scalars()
            predicted = predictions(connection, self._run_id, schema.predictions.c.candidate_id == id).get(id)
            segment = segments(connection, self._run_id, schema.segments.c.candidate_id == id).get(id)
            return Candidate(
                id=row.id,
                genome=Genome.from_json(row.genome),
                parents=tuple(parents),
                generation=row.generation,
                seed=row.seed,
                origin=row.origin,
                inherits=row.inherits,
                duplicate_of=row.duplicate_of,
                prediction=None if predicted is None else Prediction.from_dict(predicted),
                segment=None if segment is None else Segment(**segment),
            )

        return self._read(query)

    def result(self, id: int) -> Result | None:
        """How a candidate ended, its curve included; ``None`` where it is pending (or unknown)."""
        query = results_query(self._run_id).where(schema.results.c.candidate_id == id)
        row = self._read(lambda connection: connection.execute(query).first())
        return None if row is None else Result.from_dict(result_records([row])[0])

    def curves(self, ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """One row per candidate and epoch: ``id``, ``epoch`` and every metric logged by its end; by id and epoch."""
        table = schema.curves
        query = select(table.c.candidate_id, table.c.curve).where(table.c.run_id == self._run_id)
        query = query.order_by(table.c.candidate_id)
        rows: list[Row] = []
        for part in portions(None if ids is None else sorted(set(ids))):
            chosen = query if part is None else query.where(table.c.candidate_id.in_(part))
            rows += self._read(fetching(chosen))
        curves = parsed([row.curve for row in rows])
        return [{"id": row.candidate_id, **point} for row, curve in zip(rows, curves, strict=True) for point in curve]

    def extras(self, name: str) -> dict[int, Any]:
        """What callbacks wanted remembered under ``name`` (``Result.extra``), by candidate id, of those that have it."""
        table = schema.results
        query = select(table.c.candidate_id, table.c.extra).where(
            table.c.run_id == self._run_id, table.c.extra.contains(json.dumps(name), autoescape=True)
        )
        rows = self._read(lambda connection: connection.execute(query.order_by(table.c.candidate_id)).all())
        extras = parsed([row.extra for row in rows])
        return {row.candidate_id: extra[name] for row, extra in zip(rows, extras, strict=True) if name in extra}

    def entries(self, kind: type[E]) -> dict[int, E]:
        """The same of one of this package's callbacks, read: :meth:`extras` of ``kind``'s key.

        Args:
            kind: A dataclass for what a key of ``Result.extra`` holds, such as those of ``lightning_evo.callbacks.records``.
        """
        return {id: kind.from_dict(record) for id, record in self.extras(kind.key).items()}

    def events(self) -> Iterator[tuple[Candidate, Result | None]]:
        """Every ask (candidate, ``None``) and every tell (candidate, result), in the order of their recording.

        The result of a candidate that was trained again, as it had failed, is told where its failure was recorded.
        """
        asked: dict[int, Candidate] = {}
        places = retried(self._read, self._run_id).places
        moved = deque(sorted(places, key=places.__getitem__))

        def told(before: float) -> Iterator[tuple[Candidate, Result]]:
            while moved and places[moved[0]] < before:
                id = moved.popleft()
                if (result := self.result(id)) is not None:
                    yield asked[id], result

        for event in recorded(self._read, self._run_id, 0, ("ask", "result")):
            yield from told(event["sequence"])
            if event["kind"] == "ask":
                candidate = candidate_of(event)
                asked[candidate.id] = candidate
                yield candidate, None
            elif event["id"] not in places:
                yield asked[event["id"]], result_of(event)
        yield from told(math.inf)

    def waiting(self) -> list[int]:
        """Ids of the candidates that are to be trained again in place of a failure, and haven't been yet; ascending."""
        replaced = retried(self._read, self._run_id).replaced
        table = schema.results
        query = select(table.c.candidate_id, table.c.sequence).where(table.c.run_id == self._run_id)
        found: list[int] = []
        for part in portions(sorted(replaced)):
            rows = self._read(fetching(query.where(table.c.candidate_id.in_(part or []))))
            found += [row.candidate_id for row in rows if replaced[row.candidate_id] == row.sequence]
        return sorted(found)

    def finished(self) -> Iterator[tuple[Candidate, Result]]:
        """The candidates that were trained to their end and have a fitness, with their results, in the order of these.

        Those that were stopped early (their fitness is predicted) and those answered by another one's result are left out.
        """
        for candidate, result in self.events():
            if result is None or candidate.duplicate_of is not None:
                continue
            if result.status == COMPLETED and result.fitness is not None:
                yield candidate, result

    # -- orders --------------------------------------------------------------------------------------------------------

    def ranked(self, limit: int | None = None, sort: str | None = None) -> list[dict[str, Any]]:
        """The rows of :meth:`candidates`, ordered.

        Args:
            limit: How many; default all.
            sort: A column of :meth:`columns`: an objective's best first, others ascending; ``-`` before it reverses;
                missing values last. Default: best fitness first (several objectives: by non-domination rank, then by
                the first), then failed ones, then pending ones.

        Raises:
            ValueError: If there is no such column; the message names those there are.
        """

        def query(connection: Connection) -> list[dict[str, Any]]:
            return self._table.rows(connection, self._table.ranked(connection, limit, sort))

        return self._read(query)

    def best(self, count: int = 1) -> list[dict[str, Any]]:
        """Rows of the best completed candidates by the first objective, best first.

        Candidates that were stopped early (their fitness is predicted) and duplicates (they have no weights of their
        own) are left out.
        """

        def query(connection: Connection) -> list[dict[str, Any]]:
            return self._table.rows(connection, self._table.best(connection, count))

        return self._read(query)

    def pareto(self) -> list[int]:
        """Ids of the completed candidates that no other dominates, by id; duplicates left out as in :meth:`best`."""
        return self._read(self._table.front)

    # -- reading -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the database; the next call opens it again."""
        self._engine.dispose()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _table(self) -> RunTable:
        return RunTable(self._run_id, self.objectives)

    def _choose(self, connection: Connection, name: str | None) -> tuple[int, str, str]:
        schema.check_version(connection, str(self._location))
        table = schema.runs
        rows = connection.execute(select(table).order_by(table.c.id)).all()
        names = ", ".join(row.name for row in rows) or "none"
        chosen = [row for row in rows if name in (None, row.name)]
        if not chosen:
            raise ArchiveError(f"{self._location}: no run {name or ''}; it contains {names}")
        if len(chosen) > 1:
            raise ArchiveError(f"{self._location}: contains several runs; specify one of them: {names}")
        return chosen[0].id, chosen[0].name, chosen[0].directory

    def _check(self) -> None:
        """Turn to the journal where the database isn't as it was written or lacks events.

        Raises:
            ArchiveError: If the journal can't be used either.
        """
        found = Diagnosis(self._location, self._journal)
        if (fault := found.complaint) is not None:
            if found.journal_fault is not None:
                raise found.refuse()
            self._use_journal(fault)

    def _read(self, query: Callable[[Connection], T]) -> T:
        """Run ``query`` in a transaction; where the database turns out to be damaged, on what the journal holds."""
        try:
            with translated(self._location), self._engine.begin() as connection, _content(self._location):
                return query(connection)
        except (Damaged, Unreadable) as damage:
            if self._journal is None or self.recovered:
                raise ArchiveError(f"{damage}; there is no journal to read instead, so put back a copy") from damage
            self._use_journal(str(damage).removeprefix(f"{self._location}: "))
        with self._engine.begin() as connection:
            return query(connection)

    def _use_journal(self, fault: str) -> None:
        assert self._journal is not None
        try:
            engine = from_journal(self._journal)
        except Damaged as damage:
            raise ArchiveError(
                f"{self._location}: {fault}, and the journal cannot be read either: {damage}. Put back a copy of "
                "one of them"
            ) from damage
        self._engine.dispose()
        self._engine = engine
        self.recovered = (
            f"{self._location}: {fault}; reading the journal instead. "
            "Running `lightning-evo fit` again, or `lightning-evo check --repair`, rebuilds the archive"
        )
        _log.warning(self.recovered)


@contextmanager
def _content(location: ArchiveLocation) -> Iterator[None]:
    """Raises what rows that nobody wrote lead to as :class:`Damaged`: SQLite finds their bytes in order."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise Damaged(f"{location}: damaged (a row can't be read: {error!r})") from error
