"""The tables of schema version 3.

Every table carries ``run_id``, so that several runs can live in one database. A candidate's parents and the weights it
starts from may belong to another run. Weights are kept per named component (``""``: the whole checkpoint), each row
naming a file that several candidates may share. Whole mappings are JSON text as Python's ``json`` writes it, because
SQL's own JSON types refuse NaN. Every event of a run has a sequence number (1, 2, ...), kept in the rows it wrote.

Version 2 added ``predictions``, version 3 ``segments``. An archive of an earlier version is read as it is, and gets the
tables it lacks when it is continued.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
)

from lightning_evo.archive.errors import ArchiveError
from lightning_evo.utils import __version__

__all__ = [
    "CONTENT",
    "SCHEMA_VERSION",
    "WHOLE",
    "candidates",
    "check_version",
    "columns",
    "create",
    "curves",
    "holds",
    "meta",
    "parents",
    "predictions",
    "results",
    "runs",
    "segments",
    "weights",
]

SCHEMA_VERSION = 3
"""Raised with every change of the tables; a database of a newer version is refused."""

WHOLE = ""
"""The component that stands for a candidate's whole checkpoint."""

# MySQL's plain TEXT ends at 64 KiB, which a long curve passes.
_Json = Text().with_variant(Text(2**32 - 1), "mysql", "mariadb")

_tables = MetaData()

schema = Table("archive_schema", _tables, Column("version", Integer, primary_key=True, autoincrement=False))

runs = Table(
    "runs",
    _tables,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("directory", Text, nullable=False),  # what checkpoints' paths are relative to
    Column("created", Double, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
)

meta = Table(
    "meta",
    _tables,
    Column("run_id", Integer, primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("value", _Json, nullable=False),
)

candidates = Table(
    "candidates",
    _tables,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("genome", _Json, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("origin", Text, nullable=False),
    Column("inherits_run_id", Integer),  # null: this run
    Column("inherits", Integer),
    Column("duplicate_of", Integer),
    Column("queued", Double, nullable=False),
    Index("candidates_by_sequence", "run_id", "sequence"),
)

parents = Table(
    "parents",
    _tables,
    Column("run_id", Integer, primary_key=True),
    Column("candidate_id", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("parent_run_id", Integer, nullable=False),
    Column("parent_id", Integer, nullable=False),
)

# Only of candidates of which something was predicted, before they were trained.
predictions = Table(
    "predictions",
    _tables,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("candidate_id", Integer, primary_key=True, autoincrement=False),
    Column("prediction", _Json, nullable=False),
)

# Only of candidates that train a part of a longer training.
segments = Table(
    "segments",
    _tables,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("candidate_id", Integer, primary_key=True, autoincrement=False),
    Column("start_epoch", Integer, nullable=False),
    Column("end_epoch", Integer, nullable=False),
)

results = Table(
    "results",
    _tables,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("candidate_id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("status", String(20), nullable=False),
    Column("fitness", _Json),
    Column("first_fitness", Double),  # the first objective, for the index; null where there is none or it is NaN
    Column("metrics", _Json, nullable=False),
    Column("cost", _Json, nullable=False),
    Column("error", _Json),
    Column("error_type", Text),
    Column("fatal", Boolean, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    Column("slot", Integer),
    Column("attempts", Integer, nullable=False),
    Column("extra", _Json, nullable=False),
    Index("results_by_sequence", "run_id", "sequence"),
    Index("results_by_fitness", "run_id", "first_fitness", "candidate_id"),
    Index("results_by_status", "run_id", "status"),
)

# Apart from the results, so that ranking a hundred thousand of them doesn't read past their curves.
curves = Table(
    "curves",
    _tables,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("candidate_id", Integer, primary_key=True, autoincrement=False),
    Column("curve", _Json, nullable=False),
)

weights = Table(
    "weights",
    _tables,
    Column("run_id", Integer, primary_key=True),
    Column("candidate_id", Integer, primary_key=True),
    Column("component", String(200), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("path", Text),  # null: deleted
    Column("bytes", BigInteger),
    Index("weights_by_sequence", "run_id", "sequence"),
)

columns = Table(
    "columns",
    _tables,
    Column("run_id", Integer, primary_key=True),
    Column("kind", String(20), primary_key=True),  # gene, cost, metric
    Column("name", String(500), primary_key=True),
    Column("position", Integer, nullable=False),
)

CONTENT = (candidates, parents, predictions, segments, results, curves, weights, meta, columns)
"""The tables that hold what a run's events say."""


def create(connection: Connection) -> None:
    """Make the tables where they don't exist, bring those of an earlier version up to date, and store the version."""
    if not inspect(connection).has_table(schema.name):
        _tables.create_all(connection)
        connection.execute(schema.insert(), {"version": SCHEMA_VERSION})
    elif (connection.scalar(select(schema.c.version)) or 0) < SCHEMA_VERSION:
        for table in (predictions, segments):
            table.create(connection, checkfirst=True)
        connection.execute(schema.update().values(version=SCHEMA_VERSION))


def holds(connection: Connection, table: Table) -> bool:
    """Whether the database is of a version that knows ``table``."""
    return inspect(connection).has_table(table.name)


def check_version(connection: Connection, name: str) -> None:
    """Raise :class:`ArchiveError` unless the database ``name`` holds an archive whose schema this version knows."""
    version = connection.scalar(select(schema.c.version)) if inspect(connection).has_table(schema.name) else None
    if version is None:
        raise ArchiveError(f"{name}: a database without a lightning-evo archive in it")
    if version > SCHEMA_VERSION:
        raise ArchiveError(
            f"{name}: has schema version {version}; lightning-evo {__version__} knows versions up to {SCHEMA_VERSION}. "
            "Upgrade it: pip install --upgrade lightning-evo"
        )
