"""Stopping policies: whether a candidate's training ends now, by its curve, those of others and the fitness to beat.

:class:`StoppingPolicy` is the contract, :class:`CurveContext` what a policy decides by, and :class:`Verdict` its answer.
:func:`probability_not_dominated` tells whether a candidate may still join a Pareto front.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
from numpy.typing import NDArray

from lightning_evo.genome import derive_seed
from lightning_evo.predictors.curves.bayes import BayesianCurve
from lightning_evo.predictors.curves.learning_curve import (
    CurvePredictor,
    FinalFitness,
    Floats,
    KnownCurve,
    Mode,
    Target,
    check_mode,
)

__all__ = [
    "CurveContext",
    "Hyperband",
    "MedianRule",
    "Patience",
    "ProbabilityOfImprovement",
    "StoppingPolicy",
    "SuccessiveHalvingRule",
    "Verdict",
    "probability_not_dominated",
]

Booleans = NDArray[numpy.bool_]


@dataclass(frozen=True)
class Verdict:
    """A policy's decision and the grounds for it.

    Args:
        stop: Whether the candidate should stop now.
        probability: P(its final fitness beats the bar), where the policy has one.
        prediction: The distribution of its final fitness, where the policy made one.
        reason: The reason as text, for the record.
    """

    stop: bool
    probability: float | None = None
    prediction: FinalFitness | None = None
    reason: str = ""


@dataclass(frozen=True)
class CurveContext:
    """Everything that a policy decides by.

    Args:
        curve: The metric so far, one value per epoch from the first; NaN and infinities count as missing.
        horizon: How many epochs the training would have altogether.
        known: Curves of other candidates, finished or stopped.
        bar: The fitness to beat; ``None`` while there is none.
        mode: Whether the metric is maximized or minimized.
        target: Whether the fitness is the ``last`` or the ``best`` value.
        features: The candidate's genome as numbers.
        candidate: The candidate's id.
        seed: The search's seed, which decides random choices together with the candidate's id.
    """

    curve: Sequence[float]
    horizon: int
    known: Sequence[KnownCurve] = ()
    bar: float | None = None
    mode: Mode = "max"
    target: Target = "last"
    features: Sequence[float] = ()
    candidate: int = 0
    seed: int = 0


class StoppingPolicy(ABC):
    """Decides after each epoch whether a candidate goes on; a policy of your own implements :meth:`decide`.

    The context alone must determine the decision. Keep constructor arguments under their own names: two searches are
    compared by them.
    """

    @abstractmethod
    def decide(self, context: CurveContext) -> Verdict:
        """Decide after the last epoch of the candidate's curve."""


class ProbabilityOfImprovement(StoppingPolicy):
    """Stop when P(final fitness beats the bar) ≤ δ.

    It never stops a candidate while there is no bar, while the curve has fewer finite values than the predictor or
    ``minimum_epochs`` requires, or where the predictor can't explain the curve (``explained`` of
    :class:`~lightning_evo.predictors.FinalFitness`).

    Args:
        predictor: Predicts the final fitness (default :class:`~lightning_evo.predictors.BayesianCurve`).
        delta: δ, in (0, 1) (default 0.05).
        minimum_epochs: No candidate stops before so many epochs (default 3).

    Raises:
        ValueError: If ``delta`` or ``minimum_epochs`` is out of range.

    Source:
        Domhan, Springenberg & Hutter 2015, Speeding up automatic hyperparameter optimization of deep neural networks by
        extrapolation of learning curves, section 3.3.

    Example:
        >>> policy = ProbabilityOfImprovement()
        >>> curve = [0.30, 0.40, 0.45, 0.47, 0.485, 0.49, 0.495, 0.497, 0.499, 0.4995]
        >>> [policy.decide(CurveContext(curve, horizon=20, bar=bar)).stop for bar in (0.9, 0.45)]
        [True, False]
    """

    def __init__(self, predictor: CurvePredictor | None = None, delta: float = 0.05, minimum_epochs: int = 3) -> None:
        if not 0 < delta < 1:
            raise ValueError(f"delta: {delta!r} is not between 0 and 1 (both excluded)")
        _check_epochs("minimum_epochs", minimum_epochs)
        self.predictor = BayesianCurve() if predictor is None else predictor
        self.delta, self.minimum_epochs = delta, minimum_epochs

    def decide(self, context: CurveContext) -> Verdict:
        check_mode(context.mode)
        finite = int(numpy.isfinite(numpy.asarray(context.curve, dtype=numpy.float64)).sum())
        needed = max(self.minimum_epochs, self.predictor.minimum_epochs)
        if finite < needed:
            return Verdict(False, reason=f"{finite} of the {needed} epochs that a prediction needs")
        prediction = self.predictor.fit(context.known).predict(
            context.curve, context.horizon, context.target, context.mode, context.features
        )
        if context.bar is None:
            return Verdict(False, None, prediction, "there is no bar yet")
        probability = prediction.probability_better(context.bar, context.mode)
        if not prediction.explained:
            return Verdict(False, probability, prediction, "the curve is not explained")
        stop = probability <= self.delta
        compared = "at most" if stop else "above"
        reason = f"P(beats {context.bar:.6g}) = {probability:.3g} is {compared} {self.delta:g}"
        return Verdict(stop, probability, prediction, reason)


class MedianRule(StoppingPolicy):
    """Stop when the best value so far is worse than the median of the others' running averages at the same epoch.

    Args:
        minimum_epochs: No candidate stops before so many epochs (default 5).
        minimum_curves: How many others must have reached the epoch (default 5).

    Raises:
        ValueError: If a number is below 1.

    Source:
        Golovin et al. 2017, Google Vizier, section 3.2.2.

    Example:
        >>> others = [KnownCurve(i, (0.5 + 0.1 * i,) * 3, 0.5 + 0.1 * i) for i in range(3)]
        >>> rule = MedianRule(minimum_epochs=1, minimum_curves=3)
        >>> [rule.decide(CurveContext([0.4, value], horizon=3, known=others)).stop for value in (0.59, 0.61)]
        [True, False]
    """

    def __init__(self, minimum_epochs: int = 5, minimum_curves: int = 5) -> None:
        _check_epochs("minimum_epochs", minimum_epochs)
        _check_epochs("minimum_curves", minimum_curves)
        self.minimum_epochs, self.minimum_curves = minimum_epochs, minimum_curves

    def decide(self, context: CurveContext) -> Verdict:
        values = _larger_is_better(context.curve, context.mode)
        epoch = len(values)
        if epoch < self.minimum_epochs or not numpy.isfinite(values).any():
            return Verdict(False, reason=f"epoch {epoch} of the {self.minimum_epochs} that every candidate trains")
        reached = [each.curve[:epoch] for each in context.known if len(each.curve) >= epoch]
        others = [_larger_is_better(curve, context.mode) for curve in reached]
        averages = [float(other[numpy.isfinite(other)].mean()) for other in others if numpy.isfinite(other).any()]
        if len(averages) < self.minimum_curves:
            return Verdict(
                False, reason=f"{len(averages)} of {self.minimum_curves} other candidates reached epoch {epoch}"
            )
        best, median = float(values[numpy.isfinite(values)].max()), float(numpy.median(averages))
        stop = best < median
        sign = _sign(context.mode)
        reason = (
            f"best so far {sign * best:.6g} {'is worse than' if stop else 'reaches'} the median {sign * median:.6g}"
        )
        return Verdict(stop, reason=reason)


class SuccessiveHalvingRule(StoppingPolicy):
    """Asynchronous successive halving in its stopping form: at each rung, only the best 1/η of those that reached it go on.

    Rungs are at ``grace_period`` · η^k epochs. A candidate's value at a rung is its best so far; it goes on if it is
    among the best 1/η of all that reached the rung, itself included (all go on where fewer than η reached it).

    Args:
        reduction_factor: η, at least 2 (default 3).
        grace_period: The first rung, in epochs (default 1).

    Raises:
        ValueError: If a number is out of range.

    Source:
        Li et al. 2020, A system for massively parallel hyperparameter tuning (ASHA), arXiv:1810.05934; the stopping form
        is that of its appendix A.1 and of Ray Tune's ``AsyncHyperBandScheduler``.

    Example:
        >>> others = [KnownCurve(i, (0.1 * i,), 0.1 * i, complete=False) for i in range(5)]
        >>> rule = SuccessiveHalvingRule(reduction_factor=3)
        >>> [rule.decide(CurveContext([value], horizon=9, known=others)).stop for value in (0.25, 0.35)]
        [True, False]
    """

    def __init__(self, reduction_factor: int = 3, grace_period: int = 1) -> None:
        if reduction_factor < 2:
            raise ValueError(f"reduction_factor: {reduction_factor!r} is not at least 2")
        _check_epochs("grace_period", grace_period)
        self.reduction_factor, self.grace_period = reduction_factor, grace_period

    def decide(self, context: CurveContext) -> Verdict:
        return _halve(context, self.reduction_factor, self.grace_period)


class Hyperband(StoppingPolicy):
    """Successive halving with several grace periods, as the best one isn't known: each bracket has its own.

    Bracket s of 0..``brackets``−1 has its first rung at ``grace_period`` · η^s epochs. A candidate is in bracket s with a
    probability proportional to the number of candidates that Hyperband starts there, decided by its id and the search's
    seed, and is compared with candidates of the same bracket alone.

    Args:
        reduction_factor: η, at least 2 (default 3).
        grace_period: The first rung of bracket 0, in epochs (default 1).
        brackets: Number of brackets (default: as many as have a rung before the last epoch).

    Raises:
        ValueError: If a number is out of range.

    Source:
        Li et al. 2018, Hyperband, arXiv:1603.06560, algorithm 1; asynchronous as in Li et al. 2020, arXiv:1810.05934.

    Example:
        >>> [Hyperband().bracket(candidate, horizon=27, seed=0) for candidate in range(12)]
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    """

    def __init__(self, reduction_factor: int = 3, grace_period: int = 1, brackets: int | None = None) -> None:
        if reduction_factor < 2:
            raise ValueError(f"reduction_factor: {reduction_factor!r} is not at least 2")
        _check_epochs("grace_period", grace_period)
        if brackets is not None:
            _check_epochs("brackets", brackets)
        self.reduction_factor, self.grace_period, self.brackets = reduction_factor, grace_period, brackets

    def bracket(self, candidate: int, horizon: int, seed: int = 0) -> int:
        """The bracket of a candidate; bracket 0 stops candidates earliest."""
        eta, count = self.reduction_factor, self.brackets
        if count is None:
            count = max(1, math.ceil(math.log(max(horizon / self.grace_period, 1.0), eta) - 1e-9))
        # Algorithm 1: n = (s_max + 1)/(s + 1) · η^s candidates start with s halvings ahead of them.
        halvings = numpy.arange(count, 0, -1)
        shares = numpy.cumsum(float(eta) ** halvings / (halvings + 1))
        draw = derive_seed(seed, "hyperband", candidate) / 2**32
        return int(numpy.searchsorted(shares / shares[-1], draw, side="right"))

    def decide(self, context: CurveContext) -> Verdict:
        own = self.bracket(context.candidate, context.horizon, context.seed)
        peers = [each for each in context.known if self.bracket(each.id, context.horizon, context.seed) == own]
        grace = self.grace_period * self.reduction_factor**own
        return _halve(replace(context, known=peers), self.reduction_factor, grace, f"bracket {own}, ")


class Patience(StoppingPolicy):
    """Stop when the best value is ``patience`` epochs old: ordinary early stopping, regardless of bar and other candidates.

    Args:
        patience: Epochs without a better value (default 10).
        min_delta: The smallest improvement that counts, in the metric's units (default 0).

    Raises:
        ValueError: If ``patience`` is below 1 or ``min_delta`` below 0.

    Example:
        >>> Patience(2).decide(CurveContext([0.5, 0.6, 0.55, 0.58], horizon=9)).stop
        True
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        _check_epochs("patience", patience)
        if not min_delta >= 0:
            raise ValueError(f"min_delta: {min_delta!r} is not at least 0")
        self.patience, self.min_delta = patience, min_delta

    def decide(self, context: CurveContext) -> Verdict:
        best, since = -math.inf, 0
        for value in _larger_is_better(context.curve, context.mode):
            if value > best + self.min_delta or (math.isinf(best) and math.isfinite(value)):
                best, since = value, 0
            else:
                since += 1
        return Verdict(since >= self.patience, reason=f"{since} epochs without a better value")


def probability_not_dominated(
    predictions: Sequence[FinalFitness | float],
    front: Sequence[tuple[float, ...]],
    weights: Sequence[float],
    seed: int = 0,
    samples: int = 4096,
) -> float:
    """P(no point of ``front`` dominates the candidate), objectives taken as independent.

    A point dominates if it is at least as good in every objective and better in one. One uncertain objective beside
    known ones is computed in closed form; several by Monte Carlo.

    Args:
        predictions: Per objective, the final fitness's distribution, or a number where it is known (a cost).
        front: Points reached so far, one value per objective each; dominated points may be among them.
        weights: Per objective, positive to maximize and negative to minimize.
        seed: Decides the samples; the same seed gives the same probability.
        samples: Number of samples where several objectives are uncertain (default 4096: a standard error of at most 0.008,
            and of 0.0034 at a probability of 0.05).

    Raises:
        ValueError: If the lengths differ, there is no objective, a known number is NaN, a weight is 0, or ``samples`` < 1.

    Example:
        >>> accuracy = FinalFitness.normal(0.9, 0.01)
        >>> front = [(0.9, 1000.0), (0.95, 5000.0)]
        >>> round(probability_not_dominated([accuracy, 2000.0], front, weights=(1, -1)), 3)  # must beat 0.9
        0.5
        >>> probability_not_dominated([accuracy, 500.0], front, weights=(1, -1))  # smaller than all
        1.0
    """
    count = len(weights)
    if not count or len(predictions) != count or any(len(point) != count for point in front):
        raise ValueError(
            f"{len(predictions)} predictions, {count} weights and points of {sorted({len(point) for point in front})} "
            "values don't fit together: all need one per objective"
        )
    if any(not weight for weight in weights):
        raise ValueError(f"weights {tuple(weights)!r} contain a 0: positive maximises, negative minimises")
    if samples < 1:
        raise ValueError(f"samples: {samples!r} is not at least 1")
    if any(not isinstance(each, FinalFitness) and math.isnan(each) for each in predictions):
        raise ValueError(f"predictions {tuple(predictions)!r} contain NaN")
    if not front:
        return 1.0
    signs = numpy.sign(numpy.asarray(weights, dtype=numpy.float64))
    points = numpy.asarray(front, dtype=numpy.float64) * signs
    uncertain = {i: each for i, each in enumerate(predictions) if isinstance(each, FinalFitness)}
    certain = {i: float(each) for i, each in enumerate(predictions) if not isinstance(each, FinalFitness)}
    fixed, values = list(certain), numpy.array([signs[i] * value for i, value in certain.items()])
    # Only points at least as good in all that is known can dominate; where one is better there, a tie elsewhere will do.
    rivals = points[(points[:, fixed] >= values).all(axis=1)]
    if not len(rivals):
        return 1.0
    stricter: Booleans = numpy.asarray((rivals[:, fixed] > values).any(axis=1))
    if not uncertain:
        return float(not stricter.any())
    if len(uncertain) == 1:
        ((i, prediction),) = uncertain.items()
        return _closed(prediction, signs[i], rivals[:, i], stricter)
    rng = numpy.random.default_rng(seed)
    drawn = numpy.stack([signs[i] * each.sample(samples, rng) for i, each in uncertain.items()], axis=1)
    theirs = rivals[:, list(uncertain)]
    dominated = numpy.zeros(samples, dtype=bool)
    for point, already in zip(theirs, stricter, strict=True):
        dominated |= (point >= drawn).all(axis=1) & (already | (point > drawn).any(axis=1))
    return float(1.0 - dominated.mean())


def _closed(prediction: FinalFitness, sign: float, theirs: Floats, stricter: Booleans) -> float:
    """P(better than every rival): above the best of them, or level with it if no rival there is better elsewhere."""
    best = float(theirs.max())
    better: Mode = "max" if sign > 0 else "min"
    worse: Mode = "min" if sign > 0 else "max"
    if stricter[theirs == best].any():
        return prediction.probability_better(sign * best, better)
    return 1.0 - prediction.probability_better(sign * best, worse)


def _halve(context: CurveContext, eta: int, grace: int, where: str = "") -> Verdict:
    """Successive halving's decision at a rung; between rungs no candidate stops."""
    values = _larger_is_better(context.curve, context.mode)
    epoch, rung = len(values), grace
    while rung < epoch:
        rung *= eta
    if rung != epoch or epoch >= context.horizon:
        return Verdict(False, reason=f"{where}no rung at epoch {epoch}")
    own = _best(values)
    reached = [each.curve[:epoch] for each in context.known if len(each.curve) >= epoch]
    others = [_best(_larger_is_better(curve, context.mode)) for curve in reached]
    better = sum(other > own for other in others)
    places = max(1, (len(others) + 1) // eta)
    if len(others) + 1 < eta:
        return Verdict(False, reason=f"{where}{len(others)} others at epoch {epoch}, too few to halve")
    stop = better >= places
    return Verdict(stop, reason=f"{where}place {better + 1} of {len(others) + 1} at epoch {epoch}, {places} go on")


def _best(values: Floats) -> float:
    """The largest finite value, −∞ without one."""
    finite = values[numpy.isfinite(values)]
    return float(finite.max()) if len(finite) else -math.inf


def _larger_is_better(curve: Sequence[float], mode: Mode) -> Floats:
    return _sign(mode) * numpy.asarray(curve, dtype=numpy.float64)


def _sign(mode: Mode) -> float:
    return 1.0 if check_mode(mode) == "max" else -1.0


def _check_epochs(name: str, value: int) -> None:
    if not value >= 1:
        raise ValueError(f"{name}: {value!r} is not at least 1")
