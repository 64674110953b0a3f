"""A run's whole archive as files for other programs: CSV tables, JSON, and a journal that Optuna's tools open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_evo.reporting.exports.csv_tables import as_csv, export_csv
from lightning_evo.reporting.exports.json_file import ExportedRun, export_json, read_json

if TYPE_CHECKING:
    from lightning_evo.reporting.exports.optuna_journal import export_optuna

__all__ = ["ExportedRun", "as_csv", "export_csv", "export_json", "export_optuna", "read_json"]


def __getattr__(name: str) -> Any:
    if name == "export_optuna":  # needs Optuna, an optional dependency
        from lightning_evo.reporting.exports.optuna_journal import export_optuna

        return export_optuna
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
