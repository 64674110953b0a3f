"""Prescreening: of many children, train the most promising by a predictor that has proved itself."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy
from deap import tools

from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.individual import Fitness
from lightning_evo.algorithms.predictor import Predictor
from lightning_evo.algorithms.quality import Quality, cross_validate, measure_quality
from lightning_evo.algorithms.search_setup import SearchSetup
from lightning_evo.genome import Genome, Prediction, Result, derive_seed

__all__ = ["Prescreen", "Screen"]

REFIT = 1.1
"""A predictor is fitted again when results have grown by this factor: 70 fits from 10 results to 10,000."""

REVALIDATE = 1.25
"""Its quality is measured again when results have grown by this factor."""

FOLDS = 5
"""Parts of the cross-validation."""


@dataclass(frozen=True)
class Prescreen:
    """Breed many children, and train the one with the best predicted fitness.

    A predictor is fitted as soon as there are enough results, and again whenever their number has grown by a tenth. It
    is used only while its cross-validated Kendall τ is above that of parameters and FLOPs alone, which is measured
    again whenever the number of results has grown by a quarter. Otherwise, children are trained unfiltered.

    Args:
        predictor: Predictor of fitness. With several objectives, each has its own copy.
        pool: Number of children bred for each one trained (default 10).
        explore: Fraction of candidates trained unfiltered, so that the predictor also learns about candidates it would
            reject (default 0.2).
        confidence: Standard deviations added to the predicted mean, for an upper confidence bound when children are
            compared (default 0.5; 0: the mean alone).
        rounds: Rounds of further mutation of the best of the pool before one is chosen: local search over the predictor
            (default 0).
        archives: Directories, archive files or database URLs of earlier searches over the same space to learn from as
            well, so that the predictor is ready from the first candidate on.

    Raises:
        ValueError: For a value out of range.
    """

    predictor: Predictor
    pool: int = 10
    explore: float = 0.2
    confidence: float = 0.5
    rounds: int = 0
    archives: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.pool < 2:
            raise ValueError(f"pool: {self.pool!r} is not at least 2; there would be nothing to choose from")
        check_at_least("pool", self.pool, 2)
        check_at_least("rounds", self.rounds, 0)
        if not 0 <= self.explore < 1:
            raise ValueError(f"explore: {self.explore!r} is not a fraction of at least 0 and below 1")
        if not (self.confidence >= 0 and math.isfinite(self.confidence)):
            raise ValueError(f"confidence: {self.confidence!r} is not a finite number of at least 0")


@dataclass(frozen=True)
class _Row:
    """A result as predictors learn from it: fitness to be maximized, ``None`` where it failed."""

    genome: Genome
    phenotype: str
    fitness: tuple[float, ...] | None
    cost: Mapping[str, float]


class Screen:
    """A prescreen in a running search: collects results, refits the predictors, and chooses children.

    Its choices depend only on the seed and the previous results, in their order, so it can be rebuilt from them at any
    time. For this reason it is fitted lazily, when a child is to be chosen.

    Args:
        settings: The prescreen's settings.
        setup: The search.

    Raises:
        ValueError: If the predictor can't handle the space.
    """

    needs: int
    """Number of results it needs, so that each training part of the cross-validation is large enough for the predictor."""
    quality: list[Quality]
    """The result of every validation, for each objective in turn."""

    def __init__(
        self,
        settings: Prescreen,
        setup: SearchSetup,
    ) -> None:
        self.settings, self.space, self.objectives, self.seed = settings, setup.space, setup.objectives, setup.seed
        self._measure = setup.measure
        self._proxies: dict[str, Mapping[str, float]] = {}
        measure = None if setup.measure is None else self._measured
        try:
            self.predictors = [
                copy.deepcopy(settings.predictor).bind(self.space, derive_seed(self.seed, "predictor", i), measure)
                for i in range(len(self.objectives))
            ]
        except ValueError as error:
            raise ValueError(f"prescreen.predictor: {error}") from None
        self.needs = needed(max(predictor.min_results for predictor in self.predictors))
        self.quality = []
        self._rows: list[_Row] = []
        self._prior = [
            _Row(genome, self.space.phenotype(genome), self._to_maximise(fitness), {})
            for genome, fitness in setup.prior
        ]
        self._fitted: int | None = None  # after how many results; None: never
        self._validated: int | None = None
        self._learned = 0  # how many results the predictors know

    # -- learning ------------------------------------------------------------------------------------------------------

    def told(self, genome: Genome, phenotype: str, fitness: tuple[float, ...] | None, result: Result) -> None:
        """Record a candidate's result (``fitness`` is ``None`` if it failed)."""
        maximised = None if fitness is None else self._to_maximise(fitness)
        self._rows.append(_Row(genome, phenotype, maximised, result.cost))

    def ready(self) -> bool:
        """Bring the predictors up to date with the results told, and return whether to use them.

        Validation comes first and leaves predictors fitted to a part, so whatever was validated is fitted again.
        """
        count = len(self._rows)
        if self._prior or count >= self.needs:
            validate, fit = (milestone(count, self.needs, growth) for growth in (REVALIDATE, REFIT))
            if validate != self._validated:
                self._validate(validate)
                self._validated, self._fitted = validate, None
            if fit != self._fitted and self.earned is not None:
                self._fit(fit)
                self._fitted = fit
        return bool(self.earned) and self._fitted is not None

    @property
    def earned(self) -> bool | None:
        """Whether the predictors passed the last validation; ``None`` before the first."""
        last = self.quality[-len(self.objectives) :]
        return all(quality.earned for quality in last) if last else None

    def _validate(self, count: int) -> None:
        """Validate on the search's own results as soon as there are enough, until then on those of earlier searches."""
        own, prior = distinct(self._rows[:count]), distinct(self._prior)
        validated, learned_from = (own, prior) if len(own) >= self.needs else (prior, [])
        if len(validated) < self.needs:
            return
        rows = [row for row, _ in validated]
        for i, (objective, predictor) in enumerate(zip(self.objectives, self.predictors, strict=True)):
            started = time.perf_counter()
            fitness = [values[i] for _, values in validated]
            seed = derive_seed(self.seed, "validate", count, i)
            earlier = ([row.genome for row, _ in learned_from], [values[i] for _, values in learned_from])
            predicted = cross_validate(predictor, [row.genome for row in rows], fitness, FOLDS, seed, earlier)
            costs = [row.cost for row in rows]
            self.quality.append(measure_quality(objective.monitor, count, predicted, fitness, costs, started))

    def _fit(self, count: int) -> None:
        known = distinct([*self._prior, *self._rows[:count]])
        genomes = [row.genome for row, _ in known]
        for i, predictor in enumerate(self.predictors):
            predictor.fit(genomes, [values[i] for _, values in known])
        self._learned = len(known)

    # -- predicting ----------------------------------------------------------------------------------------------------

    def explores(self, id: int) -> bool:
        """Whether candidate ``id`` is left unfiltered."""
        return random.Random(derive_seed(self.seed, "explore", id)).random() < self.settings.explore

    def predict(self, genomes: Sequence[Genome]) -> list[Prediction]:
        """Predict each genome; predictions are empty, but for proxies, before the first fit."""
        wanted = self.predictors[0].proxies
        proxies = self._measured(genomes) if wanted and self._measure is not None else [{}] * len(genomes)
        if self._fitted is None:
            return [Prediction(proxies=_finite(measured)) for measured in proxies]
        weights = numpy.array([objective.weight for objective in self.objectives])
        columns = [predictor.predict(genomes) for predictor in self.predictors]
        means = numpy.stack([mean for mean, _ in columns], axis=1) * weights
        stds = numpy.stack([std for _, std in columns], axis=1)
        return [
            Prediction(tuple(map(float, mean)), tuple(map(float, std)), False, self._learned, _finite(measured))
            for mean, std, measured in zip(means, stds, proxies, strict=True)
        ]

    def order(
        self, predictions: Sequence[Prediction], alive: Sequence[tuple[float, ...]], rng: random.Random
    ) -> list[int]:
        """Positions of the predictions, the most promising first.

        By the upper confidence bound; with several objectives by the front they would be in together with the
        population, at random within a front.

        Args:
            predictions: Of the children.
            alive: Fitness of the population.
            rng: Breaks ties.
        """
        weights = [objective.weight for objective in self.objectives]
        hoped = [
            tuple(
                mean + weight * self.settings.confidence * std
                for mean, std, weight in zip(prediction.mean, prediction.std, weights, strict=True)
            )
            for prediction in predictions
        ]
        if len(weights) == 1:
            return sorted(range(len(hoped)), key=lambda i: -weights[0] * hoped[i][0])
        stand_ins = [_StandIn(i, Fitness(weights, values)) for i, values in enumerate([*hoped, *alive])]
        fronts = tools.sortNondominated(stand_ins, len(stand_ins))
        ranked: list[int] = []
        for front in fronts:
            children = [stand_in.index for stand_in in front if stand_in.index < len(hoped)]
            rng.shuffle(children)
            ranked += children
        return ranked

    def remember(self, phenotype: str, prediction: Prediction | None) -> None:
        """Reuse the proxies recorded with a candidate, so that a resumed search needn't measure them again."""
        if prediction is not None and prediction.proxies:
            unknown = dict.fromkeys(self.predictors[0].proxies, math.nan)
            self._proxies[phenotype] = {**unknown, **prediction.proxies}

    def _measured(self, genomes: Sequence[Genome]) -> list[Mapping[str, float]]:
        """Proxies of each genome, measured once per phenotype."""
        assert self._measure is not None
        phenotypes = [self.space.phenotype(genome) for genome in genomes]
        new = {p: genome for p, genome in zip(phenotypes, genomes, strict=True) if p not in self._proxies}
        if new:
            self._proxies.update(zip(new, self._measure(list(new.values())), strict=True))
        return [self._proxies[phenotype] for phenotype in phenotypes]

    def _to_maximise(self, fitness: Sequence[float]) -> tuple[float, ...]:
        return tuple(value * o.weight for value, o in zip(fitness, self.objectives, strict=True))


def _finite(measured: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in measured.items() if math.isfinite(value)}


@dataclass
class _StandIn:
    """Stands for a child in a sort by domination."""

    index: int
    fitness: Fitness


def distinct(rows: Sequence[_Row]) -> list[tuple[_Row, tuple[float, ...]]]:
    """Each phenotype once, with its fitness: the mean of its results, or the worst of all if it only failed.

    So predictors learn to avoid what fails, from a finite number. Empty if everything failed.
    """
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.phenotype, []).append(row)
    finite = [row.fitness for row in rows if row.fitness is not None]
    if not finite:
        return []
    worst = tuple(numpy.min(finite, axis=0).tolist())
    known = []
    for group in groups.values():
        values = [row.fitness for row in group if row.fitness is not None]
        known.append((group[0], tuple(numpy.mean(values, axis=0).tolist()) if values else worst))
    return known


def needed(results: int) -> int:
    """The smallest count of which all folds but one hold ``results``.

    >>> needed(10)
    13
    """
    count = results + 1
    while count - math.ceil(count / FOLDS) < results:
        count += 1
    return count


def milestone(count: int, first: int, growth: float) -> int:
    """The last of the counts ``first``, ``first * growth``, ... (each at least one more) that is at most ``count``.

    0 where ``count`` is below ``first``.

    >>> [milestone(count, 10, 1.5) for count in (9, 10, 14, 15, 100)]
    [0, 10, 10, 15, 80]
    """
    if count < first:
        return 0
    at = first
    while (following := max(at + 1, math.ceil(at * growth))) <= count:
        at = following
    return at
