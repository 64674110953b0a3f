"""Importance of genes: how much worse a random forest predicts the fitness once a gene's values are shuffled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from lightning_evo.genome import COMPLETED, STOPPED
from lightning_evo.reporting.summaries import is_growth_steps
from lightning_evo.reporting.views.genes import GeneColumn, gene_columns
from lightning_evo.reporting.views.snapshot import RunSnapshot

__all__ = ["MIN_CANDIDATES", "GeneImportance", "Importance", "importance"]

MIN_CANDIDATES = 20
"""Importances need at least this many candidates with a fitness."""

MAX_CANDIDATES = 2_000
"""Of more candidates a random sample is used, which limits the time to a few seconds."""

HELD_OUT = 0.25
TREES = 100
SHUFFLES = 5


@dataclass(frozen=True)
class GeneImportance:
    """How much one gene matters.

    Args:
        path: Its config path.
        name: Its short name.
        mean: Decrease of R² on held-out candidates when the gene's values are shuffled among them; about 0 or below for a
            gene that doesn't matter.
        std: Its standard deviation over the shuffles.
    """

    path: str
    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class Importance:
    """The importance of every gene for one objective.

    Args:
        monitor: The objective.
        genes: The most important first; empty where the importances are unknown.
        trained_on: Number of candidates the forest was trained on.
        r2: R² of the forest on held-out candidates: if it is near 0 or below, the importances mean nothing. ``None`` where
            they are unknown.
        why_not: Why the importances are unknown; ``None`` where they are known.
    """

    monitor: str
    genes: tuple[GeneImportance, ...]
    trained_on: int
    r2: float | None
    why_not: str | None


def importance(snapshot: RunSnapshot, monitor: str | None = None, seed: int = 0) -> Importance:
    """Permutation importance of every gene for one objective, by a random forest.

    The forest (scikit-learn) is trained on three quarters of the candidates with a fitness and evaluated on the rest;
    candidates stopped early are included with their predicted fitness. Of more than 2,000 candidates a random sample is
    used. Architectures are represented by their contents: bits, counts of layer types, counts of growth operations. The
    fitness is clipped to Tukey's fences (1.5 interquartile ranges outside the quartiles); otherwise a single diverged
    loss would dominate.

    Args:
        snapshot: The run.
        monitor: The objective; default: the first.
        seed: Seed of the split, the forest and the shuffles.

    Raises:
        ValueError: If there is no such objective.
    """
    objective = snapshot.objective(monitor)

    def unknown(why: str) -> Importance:
        return Importance(objective.monitor, (), 0, None, why)

    used = [
        at
        for at, row in enumerate(snapshot.rows)
        if row["status"] in (COMPLETED, STOPPED)
        and row["duplicate_of"] is None
        and numpy.isfinite(row.get(objective.monitor, numpy.nan))
    ]
    if len(used) < MIN_CANDIDATES:
        return unknown(f"only {len(used)} of the required {MIN_CANDIDATES} candidates have a fitness")
    rng = numpy.random.default_rng(seed)
    rows = rng.permutation(used)[:MAX_CANDIDATES]
    fitness = _clip_outliers(numpy.array([snapshot.rows[at][objective.monitor] for at in rows], dtype=float))
    if numpy.ptp(fitness) == 0:
        return unknown("all candidates have the same fitness")
    columns = gene_columns(snapshot)
    encoded = [_encode(column, rows) for column in columns]
    varying = [at for at, gene in enumerate(encoded) if gene.varies]
    if not varying:
        return unknown("all candidates have the same genes")
    held_out = max(MIN_CANDIDATES // 4, round(len(rows) * HELD_OUT))
    scores = _permutation_importance([encoded[at] for at in varying], fitness, held_out, seed)
    if scores is None:
        return unknown("the held-out candidates all have the same fitness")
    means, stds, r2 = scores
    genes = [
        GeneImportance(columns[at].path, columns[at].name, float(mean), float(std))
        for at, mean, std in zip(varying, means, stds, strict=True)
    ]
    genes += [GeneImportance(c.path, c.name, 0.0, 0.0) for at, c in enumerate(columns) if at not in varying]
    ordered = tuple(sorted(genes, key=lambda gene: (-gene.mean, gene.path)))
    return Importance(objective.monitor, ordered, len(rows) - held_out, r2, None)


@dataclass(frozen=True, eq=False)
class _EncodedGene:
    """A gene for the forest: one index per candidate, which can be shuffled, and the features of each distinct value.

    Args:
        indices: Row of ``features`` for each candidate, shape (candidates,).
        features: Shape (distinct values, features).
    """

    indices: NDArray[numpy.int64]
    features: NDArray[numpy.float64]

    @property
    def varies(self) -> bool:
        return self.features.shape[1] > 0 and len(numpy.unique(self.indices)) > 1


def _permutation_importance(
    genes: Sequence[_EncodedGene], fitness: NDArray[numpy.float64], held_out: int, seed: int
) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64], float] | None:
    """Mean and standard deviation of each gene's importance, and R²; ``None`` where R² is undefined."""
    from sklearn.ensemble import RandomForestRegressor  # takes a second to import
    from sklearn.inspection import permutation_importance
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    indices = numpy.column_stack([gene.indices for gene in genes])

    def features(chosen: NDArray[numpy.int64]) -> NDArray[numpy.float64]:
        return numpy.column_stack([gene.features[chosen[:, at]] for at, gene in enumerate(genes)])

    forest = RandomForestRegressor(TREES, min_samples_leaf=2, max_features=0.5, random_state=seed)
    model = make_pipeline(FunctionTransformer(features), forest)
    model.fit(indices[held_out:], fitness[held_out:])
    if numpy.ptp(fitness[:held_out]) == 0:
        return None
    shuffled: Any = permutation_importance(
        model, indices[:held_out], fitness[:held_out], n_repeats=SHUFFLES, random_state=seed
    )
    r2 = float(model.score(indices[:held_out], fitness[:held_out]))
    return shuffled.importances_mean, shuffled.importances_std, r2


def _encode(column: GeneColumn, rows: NDArray[numpy.int64]) -> _EncodedGene:
    values = column.values[rows]
    distinct, indices = numpy.unique(values, return_inverse=True)  # NaN, if any, comes last
    if column.kind in ("number", "ordered"):
        return _EncodedGene(indices, distinct[:, None])
    assert column.texts is not None
    if column.kind == "category":
        return _EncodedGene(indices, (distinct[:, None] == distinct[None, :]).astype(float))
    texts = [None if numpy.isnan(at) else column.texts[int(at)] for at in distinct]
    return _EncodedGene(indices, _content_features(texts))


def _content_features(values: Sequence[Any]) -> NDArray[numpy.float64]:
    """The contents of texts and lists as numbers; NaN for an inactive gene. Shape (values, features)."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, str) and re.fullmatch("[01]+", value) for value in present):
        bits = max(len(value) for value in present)
        rows = [[numpy.nan] * bits if v is None else [float(b) for b in v.ljust(bits, "0")] for v in values]
        return numpy.array(rows, dtype=float).reshape(len(values), bits)
    counts = [None if value is None else Counter(_words(value)) for value in values]
    words = sorted({word for count in counts if count is not None for word in count})
    rows = [[numpy.nan] * len(words) if c is None else [float(c[word]) for word in words] for c in counts]
    return numpy.array(rows, dtype=float).reshape(len(values), len(words))


def _words(value: Any) -> list[str]:
    """The type of each part of a value, and ``parts`` once for each, which counts them all."""
    if is_growth_steps(value):
        kinds = [str(step["operation"]) for step in value]
    elif isinstance(value, list):
        kinds = [str(element).partition(" ")[0] for element in value]
    else:
        kinds = str(value).split()
    return [*kinds, *("parts" for _ in kinds)]


def _clip_outliers(fitness: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """The fitness clipped to Tukey's fences."""
    low, high = numpy.percentile(fitness, (25, 75))
    reach = 1.5 * (high - low)
    return numpy.clip(fitness, low - reach, high + reach) if reach > 0 else fitness
