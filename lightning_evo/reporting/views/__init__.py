"""What is there to see in a run? Plain numbers for whoever draws them: the report page, pictures for papers, notebooks."""

from lightning_evo.reporting.views.curves import Curve, EarlyPrediction, curves, early_predictions, worth_showing
from lightning_evo.reporting.views.front import Front, front
from lightning_evo.reporting.views.genes import GeneColumn, gene_columns, label
from lightning_evo.reporting.views.importance import GeneImportance, Importance, importance
from lightning_evo.reporting.views.lineage import Edge, GeneChange, Lineage, ancestry, lineage
from lightning_evo.reporting.views.occupation import Occupation, Stay, Totals, occupation, saved, totals
from lightning_evo.reporting.views.predicted import Predicted, predicted
from lightning_evo.reporting.views.progress import Progress, progress, told_order
from lightning_evo.reporting.views.recorded import Recorded, RunStatus, record, run_status

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
    "Recorded",
    "RunStatus",
    "Stay",
    "Totals",
    "ancestry",
    "curves",
    "early_predictions",
    "front",
    "gene_columns",
    "importance",
    "label",
    "lineage",
    "occupation",
    "predicted",
    "progress",
    "record",
    "run_status",
    "saved",
    "told_order",
    "totals",
    "worth_showing",
]
