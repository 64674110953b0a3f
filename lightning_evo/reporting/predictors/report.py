"""Evaluation of predictors: trained on increasing numbers of a search's results, and tested on the others."""

from __future__ import annotations

import inspect
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy
from numpy.typing import NDArray

from lightning_evo import predictors as shipped
from lightning_evo.algorithms.predictor import Measure, Predictor
from lightning_evo.algorithms.quality import SIZES, kendall
from lightning_evo.genome import Genome, SearchSpace, SequenceGene
from lightning_evo.predictors.genomes.evaluation import LearningPoint, log_sizes, sample_efficiency, size_forest
from lightning_evo.reporting.predictors.prescreens import PrescreenRecord, read_prescreens
from lightning_evo.reporting.predictors.results import Results, load_results
from lightning_evo.utils.imports import import_by_name

__all__ = ["MODELS", "SHORT_NAMES", "Evaluation", "PredictorReport", "evaluate", "predictor_report"]

MODELS = (25, 50, 100, 200, 400)
"""Default numbers of training results, as far as available."""

MIN_HELD_OUT = 10
"""Minimum number of results for testing."""

SIZE = "size"
"""Name of the baseline: a forest that sees only the logarithms of parameters and FLOPs."""

SHORT_NAMES = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix("Predictor")).lower(): name
    for name in shipped.__all__
    if name.endswith("Predictor") and name != "CurvePredictor"  # predicts learning curves, not genomes
}
"""Short names of the included predictors: ``forest``, ``lstm``, ..."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one predictor.

    Args:
        name: Its name, as given by the user.
        points: One for each number of training results and repeat.
        models: Number of training results for :attr:`scatter`.
        scatter: True fitness, predicted mean and standard deviation of the held-out results, for the largest number of
            training results in the first repeat; in the objective's own units.
    """

    name: str
    points: list[LearningPoint]
    models: int
    scatter: list[tuple[float, float, float]]

    def at(self, models: int, figure: str) -> tuple[float, float]:
        """Mean and standard deviation over the repeats of ``r2``, ``tau``, ``spearman``, ...; NaN where undefined."""
        values = [getattr(point, figure) for point in self.points if point.size == models]
        values = [value for value in values if math.isfinite(value)]
        if not values:
            return math.nan, math.nan
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class PredictorReport:
    """The evaluation of predictors on the results of one or more searches.

    Args:
        results: The results.
        models: Numbers of training results.
        held_out: Number of held-out results.
        repeats: Number of random splits.
        sizes: Kendall's τ of parameters and of FLOPs with the fitness, without any training, where they are known.
        evaluations: One per predictor.
        prescreens: The quality of the searches' own prescreens.
    """

    results: Results
    models: Sequence[int]
    held_out: int
    repeats: int
    sizes: Mapping[str, float]
    evaluations: Sequence[Evaluation]
    prescreens: Sequence[PrescreenRecord]

    def to_dict(self) -> dict[str, Any]:
        """As a mapping that JSON can hold, with ``None`` for non-finite numbers."""
        return _jsonable(
            {
                "archives": dict(self.results.counts),
                "objective": asdict(self.results.objective),
                "results": len(self.results.genomes),
                "held_out": self.held_out,
                "repeats": self.repeats,
                "tau_of_sizes": dict(self.sizes),
                "predictors": {
                    evaluation.name: {
                        "points": [asdict(point) for point in evaluation.points],
                        "scatter": {
                            "models": evaluation.models,
                            "true_predicted_std": [list(row) for row in evaluation.scatter],
                        },
                    }
                    for evaluation in self.evaluations
                },
                "prescreens": [record.to_dict() for record in self.prescreens],
            }
        )


def predictor_report(
    locations: Sequence[str | Path],
    predictors: Sequence[str] | None = None,
    at: Sequence[int] | None = None,
    monitor: str | None = None,
    repeats: int = 5,
    seed: int = 0,
    notify: Callable[[str], None] = lambda text: None,
    trust: bool = False,
) -> PredictorReport:
    """Train and test predictors on the results of one or more searches, which may still be running.

    Args:
        locations: Directories, archive files or database URLs of searches over the same space for the same objectives.
        predictors: :data:`SHORT_NAMES`, import paths of classes that take no arguments, or ``size``. Default: ``size``
            if costs are known, ``forest``, and for spaces with layers ``lstm`` and ``ensemble``.
        at: Numbers of training results. Default: those of :data:`MODELS` that leave at least a fifth of the results, and
            at least ten, for testing; if there is none, all but these.
        monitor: The objective; default: the first.
        repeats: Number of random splits (default 5).
        seed: Seed of the splits and the predictors.
        notify: Receives a line of progress.
        trust: Whether to import whatever genes the archives name, though somebody else ran the searches.

    Raises:
        ArchiveError: If an archive can't be read, or its search space can't be restored.
        ValueError: If the searches don't match, there are too few results, or a predictor doesn't exist.
    """
    results = load_results(locations, monitor, trust)
    names = list(dict.fromkeys(predictors or _default_predictors(results)))
    makers = {name: _maker(name, results) for name in names}
    models, held_out = _split(len(results.genomes), at, {name: make(0).min_results for name, make in makers.items()})
    if repeats < 1:
        raise ValueError(f"repeats: {repeats!r} is not at least 1")
    return PredictorReport(
        results=results,
        models=models,
        held_out=held_out,
        repeats=repeats,
        sizes={
            name: kendall([cost[name] for cost in results.costs], results.higher_is_better)
            for name in SIZES
            if all(name in cost for cost in results.costs)
        },
        evaluations=[
            evaluate(name, make, results, models, held_out, repeats, seed, notify) for name, make in makers.items()
        ],
        prescreens=read_prescreens(locations, results.objective),
    )


def evaluate(
    name: str,
    make: Callable[[int], Predictor],
    results: Results,
    models: Sequence[int],
    held_out: int,
    repeats: int,
    seed: int = 0,
    notify: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Evaluate one predictor; numbers of training results below its minimum are left out.

    Args:
        name: Its name.
        make: Seed -> a new predictor, bound to the space.
        results: All results.
        models: Numbers of training results.
        held_out: Number of held-out results.
        repeats: Number of random splits.
        seed: Seed of the splits; the same for every predictor.
        notify: Receives a line of progress.
    """
    made: list[_Recording] = []

    def recording(own_seed: int) -> _Recording:
        made.append(_Recording(make(own_seed)))
        return made[-1]

    enough = [number for number in models if number >= make(0).min_results]
    sizes = ", ".join(map(str, enough)) or "too few"
    notify(f"{name}: training on {sizes} of {len(results.genomes)} results")
    if not enough:
        return Evaluation(name, [], 0, [])
    points = sample_efficiency(
        recording, results.genomes, results.higher_is_better, enough, repeats, seed, test_size=held_out
    )
    largest = next(i for i, point in enumerate(points) if point.size == max(enough))
    truth = dict(zip(results.genomes, results.fitness, strict=True))
    weight = results.objective.weight
    scatter = [
        (truth[genome], weight * float(mean), float(std)) for genome, mean, std in zip(*made[largest].last, strict=True)
    ]
    return Evaluation(name, points, max(enough), scatter)


def _default_predictors(results: Results) -> list[str]:
    layers = any(isinstance(gene, SequenceGene) for gene in results.space.values())
    known = bool(results.costs) and all(name in cost for cost in results.costs for name in SIZES)
    return [*([SIZE] if known else []), "forest", *(["lstm", "ensemble"] if layers else [])]


def _maker(name: str, results: Results) -> Callable[[int], Predictor]:
    """Return a function from a seed to a predictor bound to the space.

    Raises:
        ValueError: If there is no such predictor, or it doesn't support this space.
    """
    if name == SIZE:
        made: Callable[[], Predictor] = partial(_SizePredictor, results)
    elif name in SHORT_NAMES:
        made = getattr(shipped, SHORT_NAMES[name])
    else:
        made = _imported(name)

    def make(seed: int) -> Predictor:
        return made().bind(results.space, seed, _measure(results))

    try:
        make(0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"predictor {name}: {error}") from None
    return make


def _measure(results: Results) -> Measure | None:
    """Look up the zero-cost proxies that a search measured for its own predictor; ``None`` if there are none."""
    if not any(results.proxies):
        return None
    known = dict(zip(results.genomes, results.proxies, strict=True))
    return lambda genomes: [known[genome] for genome in genomes]


def _imported(path: str) -> type[Predictor]:
    try:
        found = import_by_name(path) if "." in path else None
    except ImportError as error:
        raise ValueError(f"predictor {path}: can't be imported ({error})") from None
    if not (inspect.isclass(found) and issubclass(found, Predictor)):
        names = ", ".join([SIZE, *sorted(SHORT_NAMES)])
        raise ValueError(f"predictor: {path!r} is not one of {names} or the import path of a Predictor")
    return found


def _split(count: int, at: Sequence[int] | None, needs: Mapping[str, int]) -> tuple[list[int], int]:
    """The numbers of training results, and the number of held-out results."""
    least = min(needs.values())
    if at is None:
        left = count - max(MIN_HELD_OUT, count // 5)
        models = [number for number in MODELS if least <= number <= left] or [max(left, least)]
    else:
        if min(at, default=0) < 1:
            raise ValueError(f"at: {list(at)} is not a list of numbers of training results, each at least 1")
        models = sorted(set(at))
        if models[-1] < least:
            name = min(needs, key=needs.__getitem__)
            raise ValueError(f"at: {list(at)} are too few training results; {name} needs at least {least}")
    if models[-1] + MIN_HELD_OUT > count:
        raise ValueError(
            f"there are only {count} of the required {models[-1] + MIN_HELD_OUT} finished results: {models[-1]} for "
            f"training and {MIN_HELD_OUT} for testing"
        )
    return models, count - models[-1]


class _SizePredictor(Predictor):
    """The baseline: a forest that sees only parameters and FLOPs.

    Args:
        results: The results whose costs it looks up.
    """

    def __init__(self, results: Results) -> None:
        missing = [name for name in SIZES if not all(name in cost for cost in results.costs)]
        if missing:
            raise ValueError(f"not every result has a measured cost/{missing[0]}")
        self._sizes = dict(zip(results.genomes, log_sizes(results.costs), strict=True))

    def fit(self, genomes: Sequence[Genome], fitness: Sequence[float]) -> Self:
        self._forest = size_forest(self.seed).fit(self._rows(genomes), fitness)
        return self

    def predict(self, genomes: Sequence[Genome]) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        rows = self._rows(genomes)
        trees = numpy.stack([tree.predict(rows) for tree in self._forest.estimators_])
        return trees.mean(axis=0), trees.std(axis=0)

    def _rows(self, genomes: Sequence[Genome]) -> NDArray[numpy.float64]:
        return numpy.array([self._sizes[genome] for genome in genomes])


class _Recording(Predictor):
    """A predictor that records its last predictions.

    Args:
        inner: The predictor, already bound.
    """

    last: tuple[Sequence[Genome], NDArray[numpy.float64], NDArray[numpy.float64]]

    def __init__(self, inner: Predictor) -> None:
        self._inner = inner
        self.min_results, self.proxies = inner.min_results, inner.proxies

    def bind(self, space: SearchSpace, seed: int = 0, measure: Measure | None = None) -> Self:
        self._inner.bind(space, seed, measure)
        return self

    def fit(self, genomes: Sequence[Genome], fitness: Sequence[float]) -> Self:
        self._inner.fit(genomes, fitness)
        return self

    def predict(self, genomes: Sequence[Genome]) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        mean, std = self._inner.predict(genomes)
        self.last = list(genomes), mean, std
        return mean, std


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(element) for key, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(element) for element in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
