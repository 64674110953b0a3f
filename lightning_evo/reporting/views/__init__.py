"""The numbers behind every plot of a run, for the report page, figures for papers, and notebooks.

:func:`read_snapshot` reads a run once; the other functions compute one view of it each.
"""

from lightning_evo.reporting.views.curves import (
    Curve,
    EarlyPrediction,
    curves,
    early_predictions,
    length,
    sample_candidates,
)
from lightning_evo.reporting.views.front import Front, front
from lightning_evo.reporting.views.genes import GeneColumn, gene_columns, label
from lightning_evo.reporting.views.importance import GeneImportance, Importance, importance
from lightning_evo.reporting.views.lineage import Edge, GeneChange, Lineage, ancestry, lineage
from lightning_evo.reporting.views.occupation import Occupation, SlotSpan, Totals, occupation, run_savings, totals
from lightning_evo.reporting.views.predicted import Predicted, predicted
from lightning_evo.reporting.views.progress import Progress, completion_order, progress
from lightning_evo.reporting.views.snapshot import RunSnapshot, RunStatus, read_snapshot, run_status

__all__ = [
    "Curve",
    "EarlyPrediction",
    "Edge",
    "Front",
    "GeneChange",
    "GeneColumn",
    "GeneImportance",
    "Importance",
    "Lineage",
    "Occupation",
    "Predicted",
    "Progress",
    "RunSnapshot",
    "RunStatus",
    "SlotSpan",
    "Totals",
    "ancestry",
    "completion_order",
    "curves",
    "early_predictions",
    "front",
    "gene_columns",
    "importance",
    "label",
    "length",
    "lineage",
    "occupation",
    "predicted",
    "progress",
    "read_snapshot",
    "run_savings",
    "run_status",
    "sample_candidates",
    "totals",
]
