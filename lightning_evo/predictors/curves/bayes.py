"""Bayesian extrapolation of learning curves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy
from scipy.special import ndtr, ndtri

from lightning_evo.predictors.curves.learning_curve import (
    CurvePredictor,
    FinalFitness,
    Floats,
    Integers,
    KnownCurve,
    Mode,
    Target,
    bounded,
    fingerprint,
    oriented,
)
from lightning_evo.predictors.curves.posterior import RATIOS, WIDTHS, Cells, Drift, Hypotheses, drifts, posterior
from lightning_evo.predictors.curves.prior import NOISE_SPREAD, EmpiricalPrior, bank, estimate_prior, small

__all__ = ["BayesianCurve"]

_NOISE = (-4.5, 1.0)
"""The noise's logarithm while nothing is known, relative to how far the curve has moved: mean, standard deviation."""
_SCALES = (1.0, 4.0, 16.0)
"""Gains still to come, relative to how far the curve has moved: log b is about uniform."""
_CHANGE = 0.15
"""Standard error of a predicted change, relative to it, as no basis is the truth."""
_TILTS, _TILT_SPREAD = numpy.linspace(-2.0, 5.0, 15), 2.0
"""Log odds that may be added to the finished curves, as bases, against the bank; and their prior's standard deviation."""
_DOUBT, _WORST = 8.0, 3.0
"""How many standard normal errors calibration starts from, and where an error is clipped."""
_COMPONENTS, _NEGLIGIBLE, _PATHS = 400, 1e-4, 512
_STILL = 1e-60
"""A curve that has moved by no more counts as constant: the fourth power of its range must not vanish."""


class BayesianCurve(CurvePredictor):
    """Bayesian extrapolation by a bank of basis curves; the default.

    The bank holds power laws, inverse logarithms, exponential saturations, slow starts (sigmoids) and their mixtures, on
    top of which some climb as a learning rate is annealed and some decline in the end. Final level and gain are
    integrated in closed form for every basis, noise and drift (:mod:`~lightning_evo.predictors.curves.posterior`); the
    prediction is the mixture of all, weighted by prior times marginal likelihood. Nothing depends on the metric's unit or
    origin, and to minimize is to maximize the negative.

    From the finished curves of the search (at least ``least_known``) it learns how noise changes over the epochs, how
    strong it and the drift are, at which levels candidates end, and further bases: those curves themselves, denoised. It
    then predicts them at the same epoch, each without itself, and scales its spread by how far off it was.

    A curve is not explained (:attr:`FinalFitness.explained`), and no policy stops it, while it has not begun to climb
    (in the first fifth of the epochs, or the first half if no other curves are known), and while its climb speeds up,
    as a sigmoid's does before its inflection: how far it will go can't be known then.

    Args:
        bases: Size of the bank (default 1000).
        minimum_epochs: How many finite values it needs (default 3).
        least_known: How many finished curves it takes to learn from them (default 4).
        seed: Decides the bank (default 0).

    Raises:
        ValueError: If a number is too small.

    Source:
        The prior of Adriaensen et al. 2023, Efficient Bayesian learning curve extrapolation using prior-data fitted
        networks, arXiv:2310.20447, and the idea of Domhan et al. 2015; other candidates' curves as bases as in
        Chandrashekaran & Lane 2017, Speeding up hyper-parameter optimization by extrapolation of learning curves using
        previous builds.

    Example:
        >>> curve = [0.9 - 0.6 / epoch for epoch in range(1, 21)]
        >>> final = BayesianCurve().predict(curve, horizon=50)
        >>> abs(final.median - (0.9 - 0.6 / 50)) < 0.01, final.explained
        (True, True)
    """

    def __init__(self, bases: int = 1000, minimum_epochs: int = 3, least_known: int = 4, seed: int = 0) -> None:
        for name, value, least in (
            ("bases", bases, 10),
            ("minimum_epochs", minimum_epochs, 2),
            ("least_known", least_known, 2),
        ):
            if value < least:
                raise ValueError(f"{name}: {value!r} is not at least {least}")
        self.bases, self.minimum_epochs, self.least_known, self.seed = bases, minimum_epochs, least_known, seed
        self._known: tuple[KnownCurve, ...] = ()
        self._fitted: Hashable = ()
        self._priors: dict[Hashable, EmpiricalPrior | None] = {}
        self._calibrations: dict[Hashable, tuple[float, float]] = {}

    def fit(self, known: Sequence[KnownCurve]) -> Self:
        # Comparing is cheap; the prior is estimated when it is first needed.
        now = fingerprint(known)
        if now != self._fitted:
            self._fitted, self._known, self._priors, self._calibrations = now, tuple(known), {}, {}
        return self

    def predict(
        self,
        curve: Sequence[float],
        horizon: int,
        target: Target = "last",
        mode: Mode = "max",
        features: Sequence[float] = (),
    ) -> FinalFitness:
        epochs, values = oriented(self, curve, horizon, target, mode)
        index = epochs - 1
        sign = 1.0 if mode == "max" else -1.0
        low, high = bounded(float(sign * values.max()) if target == "best" else None, mode)
        if index[-1] == horizon - 1:
            end = float(sign * (values.max() if target == "best" else values[-1]))
            return FinalFitness([1.0], [end], [0.0], low=low, high=high)
        empirical = self._prior(horizon, sign)
        moved = float(numpy.ptp(values))
        if empirical is None and moved <= max(1e-12 * float(numpy.abs(values).max()), _STILL):
            # There is no scale by which it could move.
            last = float(sign * values[-1])
            explained = not _still_flat(values, index, horizon, empirical)
            return FinalFitness([1.0], [last], [abs(last) or 1.0], explained, low, high)
        mixture = _Mixture.of(values[None], index, horizon, empirical, *self._bank(horizon), reach=moved)
        tilt, factor = (0.0, 1.0) if empirical is None else self._calibration(index, horizon, sign, empirical)
        mixture = mixture.tilted(tilt)
        explained = not (_still_flat(values, index, horizon, empirical) or _accelerating(values))
        if target == "best":
            paths = mixture.best(values, index, horizon, numpy.random.default_rng(self.seed))
            centre = float(paths.mean())
            paths = numpy.maximum(centre + factor * (paths - centre), values.max())
            width = 0.9 * float(paths.std()) * len(paths) ** -0.2  # Silverman's rule
            return FinalFitness(
                numpy.ones(len(paths)), sign * paths, numpy.full(len(paths), width), explained, low, high
            )
        weights, means, stds = mixture.compact()
        centre = float(weights @ means)
        return FinalFitness(weights, sign * (centre + factor * (means - centre)), factor * stds, explained=explained)

    def _bank(self, horizon: int) -> tuple[Floats, Floats]:
        drawn = bank(horizon, self.bases, self.seed)
        return drawn.shapes - drawn.shapes[:, -1:], drawn.log_prior

    def _prior(self, horizon: int, sign: float) -> EmpiricalPrior | None:
        key = (horizon, sign)
        if key not in self._priors:
            self._priors[key] = estimate_prior(self._known, horizon, sign, self.least_known, self.bases, self.seed)
        return self._priors[key]

    def _calibration(
        self, index: Integers, horizon: int, sign: float, empirical: EmpiricalPrior
    ) -> tuple[float, float]:
        """The calibration that would have predicted the finished curves best, had they been as long as this one.

        Returns:
            The log odds to add to the finished curves as bases, and the ratio of actual to predicted errors.
        """
        key = (horizon, sign, index.tobytes())
        if key not in self._calibrations:
            shapes, log_prior = small(horizon, self.bases, self.seed)
            mixture = _Mixture.of(empirical.curves[:, index], index, horizon, empirical, shapes, log_prior, apart=True)
            truths = empirical.curves[:, -1]
            tilt = mixture.best_tilt(truths)
            errors = numpy.clip(mixture.tilted(tilt).normal_scores(truths), -_WORST, _WORST)
            self._calibrations[key] = tilt, math.sqrt((_DOUBT + float(errors @ errors)) / (_DOUBT + len(errors)))
        return self._calibrations[key]


@dataclass(frozen=True)
class _Mixture:
    """The predictions of all hypotheses for some curves at once.

    Args:
        parts: Drift, hypotheses and their posterior, for each pair of drift and hypotheses.
        widths: (w,) σ.
        last: (curves,) the last observed values.
        tilt: Log odds added to the finished curves as bases.
    """

    parts: list[tuple[Drift, Hypotheses, Cells]]
    widths: Floats
    last: Floats
    tilt: float = 0.0

    def tilted(self, tilt: float) -> _Mixture:
        """The same mixture with another ``tilt``."""
        return replace(self, tilt=tilt)

    @classmethod
    def of(
        cls,
        curves: Floats,
        index: Integers,
        horizon: int,
        empirical: EmpiricalPrior | None,
        shapes: Floats,
        log_prior: Floats,
        reach: float = 0.0,
        apart: bool = False,
    ) -> _Mixture:
        base = -0.5 * WIDTHS**2
        if empirical is None:
            noise, count = numpy.ones(horizon), len(shapes)
            widths = reach * numpy.exp(_NOISE[0] + _NOISE[1] * WIDTHS)
            log_widths = numpy.tile(base, (len(RATIOS), 1))
            level, zeros = float(curves[0, -1]), numpy.zeros(count)
            sets = [
                Hypotheses(shapes, log_prior, (level, 3 * scale * reach), (zeros, numpy.full(count, scale * reach)))
                for scale in _SCALES
            ]
        else:
            noise, log_widths, widths = empirical.noise, empirical.log_widths, numpy.exp(NOISE_SPREAD * WIDTHS)
            sets = empirical.hypotheses(shapes, log_prior, reach, apart)
        parts = [
            (drift, each, posterior(curves, index, drift, each, widths, log_widths[row]))
            for row, drift in enumerate(drifts(index, noise))
            for each in sets
        ]
        return cls(parts, widths, curves[:, -1])

    def _flat(self) -> tuple[Floats, Floats, Floats]:
        """(curves, cells): normalized weights, means and standard deviations."""
        count = len(self.last)
        log_weights, means, variances = (
            numpy.concatenate([getattr(cells, name).reshape(count, -1) for _, _, cells in self.parts], axis=1)
            for name in ("log_weight", "mean", "variance")
        )
        log_weights = log_weights + self.tilt * self._empirical()
        weights = numpy.exp(log_weights - log_weights.max(axis=1, keepdims=True))
        change = _CHANGE * (means - self.last[:, None])
        return weights / weights.sum(axis=1, keepdims=True), means, numpy.sqrt(numpy.maximum(variances, 0) + change**2)

    def _empirical(self) -> Floats:
        """(cells,): 1 where the basis is a finished curve, 0 where it is the bank's."""
        return numpy.concatenate(
            [numpy.full(cells.mean[0].size, each.empirical, float) for _, each, cells in self.parts]
        )

    def best_tilt(self, truths: Floats) -> float:
        """The log odds that make the truths most likely, shrunk toward none (stacking, by its posterior's mode)."""
        weights, means, stds = self._flat()
        density = weights * numpy.exp(-0.5 * ((truths[:, None] - means) / stds) ** 2) / stds
        from_curves = self._empirical()
        of_curves, of_bank = density @ from_curves, density @ (1 - from_curves)
        share = weights @ from_curves
        odds = numpy.exp(_TILTS)[:, None]
        likely = numpy.maximum((of_bank + odds * of_curves) / (1 - share + odds * share), 1e-300)
        score = numpy.log(likely).sum(axis=1) - 0.5 * (_TILTS / _TILT_SPREAD) ** 2
        return float(_TILTS[score.argmax()])

    def compact(self) -> tuple[Floats, Floats, Floats]:
        """Weights, means and standard deviations of the first curve's likely cells."""
        weights, means, stds = (each[0] for each in self._flat())
        kept = numpy.flatnonzero(weights > _NEGLIGIBLE * weights.max())
        if len(kept) > _COMPONENTS:
            kept = kept[numpy.argpartition(weights[kept], -_COMPONENTS)[-_COMPONENTS:]]
        return weights[kept] / weights[kept].sum(), means[kept], stds[kept]

    def normal_scores(self, truths: Floats) -> Floats:
        """(curves,): where each truth lies in its prediction, as a standard normal deviate."""
        weights, means, stds = self._flat()
        below = (weights * ndtr((truths[:, None] - means) / stds)).sum(axis=1)
        return ndtri(numpy.clip(below, 1e-12, 1 - 1e-12))

    def best(self, values: Floats, index: Integers, horizon: int, rng: numpy.random.Generator) -> Floats:
        """(paths,): the best value of ways in which the first curve may go on, the past included."""
        weights = self._flat()[0][0]
        drawn: Integers = rng.choice(len(weights), size=_PATHS, p=weights).astype(numpy.int64)
        ahead = numpy.arange(int(index[-1]) + 1, horizon)
        paths, start = [], 0
        for drift, hypotheses, cells in self.parts:
            size = cells.mean[0].size
            own = drawn[(drawn >= start) & (drawn < start + size)] - start
            start += size
            if len(own):
                paths.append(self._paths(own, values, index, ahead, drift, hypotheses, cells, rng))
        return numpy.maximum(numpy.concatenate(paths), values.max())

    def _paths(
        self,
        chosen: Integers,
        values: Floats,
        index: Integers,
        ahead: Integers,
        drift: Drift,
        hypotheses: Hypotheses,
        cells: Cells,
        rng: numpy.random.Generator,
    ) -> Floats:
        """The best value ahead of paths from the given cells of one part."""
        base, width = numpy.unravel_index(chosen, cells.mean[0].shape)
        normal = rng.standard_normal
        gain_mean = cells.gain_mean[0, base, width]
        gain = numpy.maximum(gain_mean + numpy.sqrt(cells.gain_variance[0, base, width]) * normal(len(chosen)), 0.0)
        slope = cells.level_slope[base, width]
        level = cells.level_mean[0, base, width] + slope * (gain - gain_mean)
        level = level + numpy.sqrt(numpy.maximum(cells.level_variance[base, width], 0.0)) * normal(len(chosen))
        fitted = level[:, None] + gain[:, None] * hypotheses.shapes[base]
        # The Brownian motion ahead, given the residuals so far.
        between = drift.covariance[numpy.ix_(ahead, index)] @ drift.whiten.T @ drift.whiten
        spread = drift.covariance[numpy.ix_(ahead, ahead)] - between @ drift.covariance[numpy.ix_(index, ahead)]
        spread[numpy.diag_indices(len(ahead))] += drift.noise[ahead]
        sigma = self.widths[width][:, None] * math.sqrt(hypotheses.noise_factor)
        wander = normal((len(chosen), len(ahead))) @ numpy.linalg.cholesky(spread).T
        future = fitted[:, ahead] + (values - fitted[:, index]) @ between.T
        error = 1 + _CHANGE * normal((len(chosen), 1))
        future = values[-1] + error * (future - values[-1]) + sigma * wander
        return future.max(axis=1)


def _still_flat(values: Floats, index: Integers, horizon: int, empirical: EmpiricalPrior | None) -> bool:
    """Whether the curve may not have begun to climb."""
    share = 0.5 if empirical is None else 0.2
    if index[-1] + 1 > share * horizon:
        return False
    noise = _local_noise(values)
    climbed = float(values[-2:].mean() - values[0])
    return climbed <= max(3 * noise, 0.0 if empirical is None else 0.05 * empirical.gain)


def _accelerating(values: Floats) -> bool:
    """Whether the curve gained more lately than before, by more than its noise explains."""
    width = max(2, len(values) // 6)
    if len(values) < 3 * width:
        return False
    first, second, third = values[-3 * width :].reshape(3, width).mean(axis=1)
    bend = (third - second) - (second - first)
    doubt = _local_noise(values[-3 * width :]) * math.sqrt(6.0 / width)
    moved = float(numpy.ptp(values))
    return bool(bend > 3 * doubt and bend > 0.1 * moved)


def _local_noise(values: Floats) -> float:
    """The noise's standard deviation, from second differences; 0 of fewer than three values."""
    if len(values) < 3:
        return 0.0
    return float(numpy.median(numpy.abs(numpy.diff(values, 2)))) / (0.6745 * math.sqrt(6.0))
