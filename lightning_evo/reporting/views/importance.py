"""Which genes matter? How much worse a forest predicts the fitness once a gene's values are shuffled."""

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
from lightning_evo.reporting.views.recorded import Recorded

__all__ = ["LEAST", "GeneImportance", "Importance", "importance"]

LEAST = 20
"""Of fewer candidates with a fitness nothing can be said."""

MOST = 2_000
"""Of more a random part is taken, which keeps it to some seconds."""

HELD_OUT = 0.25
TREES = 100
SHUFFLES = 5


@dataclass(frozen=True)
class GeneImportance:
    """How much one gene matters.

    Args:
        path: Its config path.
        name: Its short name.
        mean: By how much R² falls on held-out candidates when the gene's values are shuffled among them; around 0 or
            below where it doesn't matter.
        std: Its standard deviation over the shuffles.
    """

    path: str
    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class Importance:
    """Which genes matter for one objective.

    Args:
        monitor: The objective.
        genes: The most important first; empty where nothing can be said.
        trained_on: How many candidates the forest has learned from.
        r2: How well it predicts the held-out ones: near 0 or below, the importances mean nothing. ``None`` without any.
        why_not: Why nothing can be said; ``None`` where something can.
    """

    monitor: str
    genes: tuple[GeneImportance, ...]
    trained_on: int
    r2: float | None
    why_not: str | None


def importance(recorded: Recorded, monitor: str | None = None, seed: int = 0) -> Importance:
    """Which genes matter for one objective, by permutation importance of a random forest.

    The forest (scikit-learn's) learns from three quarters of the candidates with a fitness, those stopped early (their
    fitness is predicted) included, and is judged on the rest. Of more than 2,000 candidates a random part is taken.
    Architectures count by what is in them: bits, kinds of layers, steps of growth. A fitness beyond Tukey's
    fences (1.5 interquartile ranges outside the quartiles) counts as on the fence, as one exploded loss would be all that
    the forest sees.

    Args:
        recorded: The run.
        monitor: Which objective; default: the first.
        seed: Decides the parts, the forest and the shuffles.

    Raises:
        ValueError: If there is no such objective.
    """
    objective = recorded.objective(monitor)

    def nothing(why: str) -> Importance:
        return Importance(objective.monitor, (), 0, None, why)

    used = [
        at
        for at, row in enumerate(recorded.rows)
        if row["status"] in (COMPLETED, STOPPED)
        and row["duplicate_of"] is None
        and numpy.isfinite(row.get(objective.monitor, numpy.nan))
    ]
    if len(used) < LEAST:
        return nothing(f"{len(used)} candidates have a fitness; it takes {LEAST}")
    rng = numpy.random.default_rng(seed)
    rows = rng.permutation(used)[:MOST]
    fitness = _brought_in(numpy.array([recorded.rows[at][objective.monitor] for at in rows], dtype=float))
    if numpy.ptp(fitness) == 0:
        return nothing("all candidates have the same fitness")
    columns = gene_columns(recorded)
    coded = [_coded(column, rows) for column in columns]
    varied = [at for at, one in enumerate(coded) if one.varies]
    if not varied:
        return nothing("no gene differs between the candidates")
    held_out = max(LEAST // 4, round(len(rows) * HELD_OUT))
    found = _permuted([coded[at] for at in varied], fitness, held_out, seed)
    if found is None:
        return nothing("the held-out candidates all have the same fitness")
    means, stds, r2 = found
    genes = [
        GeneImportance(columns[at].path, columns[at].name, float(mean), float(std))
        for at, mean, std in zip(varied, means, stds, strict=True)
    ]
    genes += [GeneImportance(c.path, c.name, 0.0, 0.0) for at, c in enumerate(columns) if at not in varied]
    ordered = tuple(sorted(genes, key=lambda gene: (-gene.mean, gene.path)))
    return Importance(objective.monitor, ordered, len(rows) - held_out, r2, None)


@dataclass(frozen=True, eq=False)
class _Coded:
    """A gene for the forest: one number per candidate that can be shuffled, and the features it stands for.

    Args:
        places: Row of ``features`` for each candidate, shape (candidates,).
        features: Shape (different values, features).
    """

    places: NDArray[numpy.int64]
    features: NDArray[numpy.float64]

    @property
    def varies(self) -> bool:
        return self.features.shape[1] > 0 and len(numpy.unique(self.places)) > 1


def _permuted(
    coded: Sequence[_Coded], fitness: NDArray[numpy.float64], held_out: int, seed: int
) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64], float] | None:
    """Mean and standard deviation of each gene's importance, and R²; ``None`` where R² is undefined."""
    from sklearn.ensemble import RandomForestRegressor  # a second to import
    from sklearn.inspection import permutation_importance
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    places = numpy.column_stack([one.places for one in coded])

    def features(chosen: NDArray[numpy.int64]) -> NDArray[numpy.float64]:
        return numpy.column_stack([one.features[chosen[:, at]] for at, one in enumerate(coded)])

    forest = RandomForestRegressor(TREES, min_samples_leaf=2, max_features=0.5, random_state=seed)
    model = make_pipeline(FunctionTransformer(features), forest)
    model.fit(places[held_out:], fitness[held_out:])
    if numpy.ptp(fitness[:held_out]) == 0:
        return None
    shuffled: Any = permutation_importance(
        model, places[:held_out], fitness[:held_out], n_repeats=SHUFFLES, random_state=seed
    )
    r2 = float(model.score(places[:held_out], fitness[:held_out]))
    return shuffled.importances_mean, shuffled.importances_std, r2


def _coded(column: GeneColumn, rows: NDArray[numpy.int64]) -> _Coded:
    values = column.values[rows]
    different, places = numpy.unique(values, return_inverse=True)  # NaN, if any, is the last
    if column.kind in ("number", "ordered"):
        return _Coded(places, different[:, None])
    assert column.texts is not None
    if column.kind == "category":
        return _Coded(places, (different[:, None] == different[None, :]).astype(float))
    return _Coded(places, _contents([None if numpy.isnan(at) else column.texts[int(at)] for at in different]))


def _contents(values: Sequence[Any]) -> NDArray[numpy.float64]:
    """What is in texts and lists, as numbers; of an inactive gene NaN. Shape (values, features)."""
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
    """The kinds of parts that a value has, each as often as it has it; ``parts`` counts them all."""
    if is_growth_steps(value):
        kinds = [str(step["operation"]) for step in value]
    elif isinstance(value, list):
        kinds = [str(element).partition(" ")[0] for element in value]
    else:
        kinds = str(value).split()
    return [*kinds, *("parts" for _ in kinds)]


def _brought_in(fitness: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    low, high = numpy.percentile(fitness, (25, 75))
    reach = 1.5 * (high - low)
    return numpy.clip(fitness, low - reach, high + reach) if reach > 0 else fitness
