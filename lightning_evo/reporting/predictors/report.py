"""How well do predictors learn from searches? Trained on more and more of their results, and judged on the others."""

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
"""From how many results predictors learn, as far as there are so many."""

LEAST_HELD_OUT = 10
"""From fewer results a predictor can't be judged."""

SIZE = "size"
"""The name of the yardstick: a forest that sees the logarithms of parameters and FLOPs alone."""

SHORT_NAMES = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix("Predictor")).lower(): name
    for name in shipped.__all__
    if name.endswith("Predictor") and name != "CurvePredictor"  # which learns of curves, not of genomes
}
"""Short names of the predictors that ship: ``forest``, ``lstm``, ..."""


@dataclass(frozen=True)
class Evaluation:
    """What one predictor was worth.

    Args:
        name: As it was asked for.
        points: One for each number of results and repeat.
        models: Number of results learned from for :attr:`scatter`.
        scatter: True fitness, predicted mean and standard deviation of results it had not seen, after the largest sample
            of the first repeat; in the objective's own units.
    """

    name: str
    points: list[LearningPoint]
    models: int
    scatter: list[tuple[float, float, float]]

    def at(self, models: int, figure: str) -> tuple[float, float]:
        """Mean and standard deviation over the repeats of ``r2``, ``tau``, ``spearman``, ...; NaN where there is none."""
        values = [getattr(point, figure) for point in self.points if point.size == models]
        values = [value for value in values if math.isfinite(value)]
        if not values:
            return math.nan, math.nan
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class PredictorReport:
    """What predictors are worth on the results of some searches.

    Args:
        results: The results.
        models: From how many of them predictors learned.
        held_out: On how many others they were judged.
        repeats: How often, each time with others held out.
        sizes: Kendall's τ of parameters and of FLOPs with the fitness, without any learning, as far as they are known.
        evaluations: One for each predictor.
        prescreens: What the searches' own prescreens were worth, where they had one.
    """

    results: Results
    models: Sequence[int]
    held_out: int
    repeats: int
    sizes: Mapping[str, float]
    evaluations: Sequence[Evaluation]
    prescreens: Sequence[PrescreenRecord]

    def to_dict(self) -> dict[str, Any]:
        """As a mapping that JSON can hold; ``None`` where a number is not finite."""
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
) -> PredictorReport:
    """Train and judge predictors on the results of one or several searches, running ones included.

    Args:
        locations: Directories, archive files or database URLs of searches over the same space for the same objectives.
        predictors: :data:`SHORT_NAMES`, import paths of classes that take no arguments, or ``size``. Default: ``size``
            where costs are known, ``forest``, and where the space has layers ``lstm`` and ``ensemble``.
        at: From how many results they learn. Default: those of :data:`MODELS` that leave a fifth of the results, and
            no fewer than ten, to be judged on; where there are none, all but those.
        monitor: Which objective; default: the first.
        repeats: How often, each time with other results held out (default 5).
        seed: Decides what is held out, and the predictors' seeds.
        notify: Called with a line of progress.

    Raises:
        ArchiveError: If an archive can't be read, or its space can't be built anew.
        ValueError: If the searches don't fit together, there are too few results, or there is no such predictor.
    """
    results = load_results(locations, monitor)
    names = list(dict.fromkeys(predictors or _usual(results)))
    makers = {name: _maker(name, results) for name in names}
    models, held_out = _split(len(results.genomes), at, {name: make(0).min_results for name, make in makers.items()})
    if repeats < 1:
        raise ValueError(f"repeats {repeats} is not at least 1")
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
    """Judge one predictor; numbers of models below what it needs are left out.

    Args:
        name: What it is called.
        make: Seed -> a fresh predictor, bound to the space.
        results: All results.
        models: From how many to learn.
        held_out: On how many others to judge.
        repeats: How often, each time with others held out.
        seed: Decides what is held out; the same for every predictor.
        notify: Called with a line of progress.
    """
    made: list[_Remembering] = []

    def remembered(own_seed: int) -> _Remembering:
        made.append(_Remembering(make(own_seed)))
        return made[-1]

    enough = [number for number in models if number >= make(0).min_results]
    notify(f"{name}: learning from {', '.join(map(str, enough)) or 'nothing'} of {len(results.genomes)} results")
    if not enough:
        return Evaluation(name, [], 0, [])
    points = sample_efficiency(
        remembered, results.genomes, results.higher_is_better, enough, repeats, seed, test_size=held_out
    )
    largest = next(i for i, point in enumerate(points) if point.size == max(enough))
    truth = dict(zip(results.genomes, results.fitness, strict=True))
    weight = results.objective.weight
    scatter = [
        (truth[genome], weight * float(mean), float(std)) for genome, mean, std in zip(*made[largest].last, strict=True)
    ]
    return Evaluation(name, points, max(enough), scatter)


# -- which predictors, and how many results ----------------------------------------------------------------------------


def _usual(results: Results) -> list[str]:
    layers = any(isinstance(gene, SequenceGene) for gene in results.space.values())
    known = bool(results.costs) and all(name in cost for cost in results.costs for name in SIZES)
    return [*([SIZE] if known else []), "forest", *(["lstm", "ensemble"] if layers else [])]


def _maker(name: str, results: Results) -> Callable[[int], Predictor]:
    """Seed -> a predictor bound to the space.

    Raises:
        ValueError: If there is none of this name, or it can do nothing with this space.
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
    """Answers with the zero-cost proxies that a search measured for its own predictor, if any did."""
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
        raise ValueError(f"predictor {path!r} is none of {names}, nor the import path of a Predictor")
    return found


def _split(count: int, at: Sequence[int] | None, needs: Mapping[str, int]) -> tuple[list[int], int]:
    """From how many results to learn, and how many to hold out."""
    least = min(needs.values())
    if at is None:
        left = count - max(LEAST_HELD_OUT, count // 5)
        models = [number for number in MODELS if least <= number <= left] or [max(left, least)]
    else:
        if min(at, default=0) < 1:
            raise ValueError(f"at: {list(at)} is not a list of numbers of results to learn from, each at least 1")
        models = sorted(set(at))
        if models[-1] < least:
            modest = min(needs, key=needs.__getitem__)
            raise ValueError(f"at: {list(at)} are fewer results than the {least} that {modest} needs")
    if models[-1] + LEAST_HELD_OUT > count:
        raise ValueError(
            f"there are {count} finished results and {models[-1] + LEAST_HELD_OUT} are needed: {models[-1]} to learn from "
            f"and {LEAST_HELD_OUT} to be judged by"
        )
    return models, count - models[-1]


class _SizePredictor(Predictor):
    """The yardstick: what parameters and FLOPs alone say, to a forest.

    Args:
        results: Whose costs it looks up.
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


class _Remembering(Predictor):
    """A predictor whose last answer can be looked at.

    Args:
        inner: The predictor; bound already.
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
