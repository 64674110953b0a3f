"""Sample efficiency of predictors: their quality on held-out results by the number of results learned from."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.predictor import Predictor
from lightning_evo.algorithms.quality import SIZES
from lightning_evo.genome import Genome, derive_seed

__all__ = ["LearningPoint", "log_sizes", "sample_efficiency", "size_forest"]


@dataclass(frozen=True)
class LearningPoint:
    """The quality of a predictor fitted to one sample of results.

    Args:
        size: How many results it learned from.
        repeat: Which sample, from 0.
        r2: Coefficient of determination on held-out results; 0 is that of their mean, below 0 is worse.
        tau: Kendall's τ-b with the truth on held-out results; NaN where all predictions are equal.
        spearman: Spearman's rank correlation likewise.
        calibration: Share of the true values within two standard deviations of the mean.
        baseline_r2: ``r2`` of a forest that only sees the sizes (logarithms of parameters and FLOPs); NaN without sizes.
        baseline_tau: Kendall's τ-b of that forest.
        size_tau: The larger |τ| of any one size with the truth, without any learning.
        fit_seconds: Wall-clock time of the fit.
        predict_seconds: Wall-clock time of predicting the held-out results.
    """

    size: int
    repeat: int
    r2: float
    tau: float
    spearman: float
    calibration: float
    baseline_r2: float
    baseline_tau: float
    size_tau: float
    fit_seconds: float
    predict_seconds: float


def sample_efficiency(
    predictor_factory: Callable[[int], Predictor],
    genomes: Sequence[Genome],
    fitness: Sequence[float],
    sizes: Sequence[int],
    repeats: int = 5,
    seed: int = 0,
    baseline: Sequence[Mapping[str, float]] | None = None,
    test_size: int | None = None,
) -> list[LearningPoint]:
    """Fit a predictor to more and more of some results, and score it on the rest.

    Every repeat shuffles the results once and holds out the same part for all sizes; larger samples contain the smaller
    ones.

    Args:
        predictor_factory: Seed -> a fresh predictor, bound to the space.
        genomes: What was trained.
        fitness: Finite numbers, higher is better.
        sizes: Numbers of results to learn from.
        repeats: Samples per size (default 5).
        seed: Decides samples and the predictors' seeds.
        baseline: Of each genome, ``params`` and ``flops``; without it the baselines are NaN.
        test_size: How many results are held out. Default: all that the largest sample leaves.

    Returns:
        A point for each size and repeat, by repeat, then size.

    Raises:
        ValueError: If the held-out part would have fewer than two results, or the lengths differ.
    """
    count = len(genomes)
    held_out = count - max(sizes) if test_size is None else test_size
    if len(fitness) != count or (baseline is not None and len(baseline) != count):
        raise ValueError(f"{count} genomes have {len(fitness)} fitness values and {len(baseline or ())} baseline rows")
    if held_out < 2 or max(sizes) + held_out > count:
        raise ValueError(f"sizes up to {max(sizes)} and {held_out} held-out results don't fit in {count} results")
    truth = numpy.asarray(fitness, dtype=numpy.float64)
    logs = None if baseline is None else log_sizes(baseline)
    points = []
    for repeat in range(repeats):
        order = list(range(count))
        random.Random(derive_seed(seed, "learning curve", repeat)).shuffle(order)
        test = order[count - held_out :]
        for size in sizes:
            predictor = predictor_factory(derive_seed(seed, "learning curve", repeat, size))
            points.append(_point(predictor, genomes, truth, order[:size], test, logs, repeat))
    return points


def _point(
    predictor: Predictor,
    genomes: Sequence[Genome],
    truth: NDArray[numpy.float64],
    train: list[int],
    test: list[int],
    logs: NDArray[numpy.float64] | None,
    repeat: int,
) -> LearningPoint:
    started = time.perf_counter()
    predictor.fit([genomes[i] for i in train], truth[train].tolist())
    fitted = time.perf_counter()
    mean, std = predictor.predict([genomes[i] for i in test])
    predicted = time.perf_counter()
    baseline_r2 = baseline_tau = size_tau = numpy.nan
    if logs is not None:
        by_size = size_forest(0).fit(logs[train], truth[train]).predict(logs[test])
        baseline_r2, baseline_tau, _ = _agreement(by_size, truth[test])
        size_tau = max(abs(_agreement(column, truth[test])[1]) for column in logs[test].T)
    r2, tau, spearman = _agreement(mean, truth[test])
    return LearningPoint(
        size=len(train),
        repeat=repeat,
        r2=r2,
        tau=tau,
        spearman=spearman,
        calibration=float((numpy.abs(truth[test] - mean) <= 2 * std).mean()),
        baseline_r2=float(baseline_r2),
        baseline_tau=float(baseline_tau),
        size_tau=float(size_tau),
        fit_seconds=fitted - started,
        predict_seconds=predicted - fitted,
    )


def _agreement(predicted: NDArray[numpy.float64], truth: NDArray[numpy.float64]) -> tuple[float, float, float]:
    """R², Kendall's τ-b and Spearman's correlation."""
    from scipy.stats import kendalltau, spearmanr
    from sklearn.metrics import r2_score

    if numpy.ptp(predicted) == 0:
        return float(r2_score(truth, predicted)), numpy.nan, numpy.nan
    return (
        float(r2_score(truth, predicted)),
        float(kendalltau(predicted, truth).statistic),
        float(spearmanr(predicted, truth).statistic),
    )


def log_sizes(costs: Sequence[Mapping[str, float]]) -> NDArray[numpy.float64]:
    """(n, 2): the logarithms of parameters and FLOPs."""
    return numpy.log1p([[float(cost[name]) for name in SIZES] for cost in costs])


def size_forest(seed: int) -> Any:
    """scikit-learn's forest for :func:`log_sizes`: the baseline that a predictor has to beat."""
    from sklearn.ensemble import RandomForestRegressor

    # Leaves of five: two features leave a forest with whole trees little but noise to learn.
    return RandomForestRegressor(100, min_samples_leaf=5, random_state=seed)
