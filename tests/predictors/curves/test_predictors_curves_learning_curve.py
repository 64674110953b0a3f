"""What predictors of learning curves, and the distributions they give, do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from curves_examples import HORIZON, finished, power_law
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from lightning_evo.evolution.description import describe
from lightning_evo.predictors import (
    BayesianCurve,
    FinalFitness,
    KnownCurve,
    LastValue,
    RegressionCurve,
)
from lightning_evo.predictors.curves.prior import bank

QUICK = BayesianCurve(bases=300)
few = settings(max_examples=15, deadline=None)


# -- distributions -----------------------------------------------------------------------------------------------------


def test_a_single_gaussian_is_that_of_scipy():
    final, reference = FinalFitness.normal(3.0, 0.5), norm(3.0, 0.5)
    assert (final.mean, final.std) == pytest.approx((3.0, 0.5))
    assert final.median == pytest.approx(3.0)
    assert final.interval(0.8) == pytest.approx(reference.interval(0.8))
    assert final.probability_above(3.4) == pytest.approx(reference.sf(3.4))


@given(
    st.lists(st.tuples(st.floats(0.1, 1), st.floats(-3, 3), st.floats(0.01, 2)), min_size=1, max_size=4),
    st.floats(-2, 0),
    st.floats(0.1, 2),
)
@few
def test_moments_probabilities_and_quantiles_of_a_censored_mixture_are_those_of_its_samples(parts, low, high):
    final = FinalFitness(*(list(column) for column in zip(*parts, strict=True)), low=low, high=high)
    drawn = final.sample(40_000, np.random.default_rng(0))
    assert drawn.min() >= low
    assert drawn.max() <= high
    assert final.mean == pytest.approx(drawn.mean(), abs=0.06)
    assert final.std == pytest.approx(drawn.std(), abs=0.06)
    for value in (low, 0.05, high):
        assert final.probability_above(value) == pytest.approx((drawn > value).mean(), abs=0.02)
        assert final.probability_below(value) == pytest.approx((drawn < value).mean(), abs=0.02)
    inside = final.interval(0.9)
    assert ((drawn >= inside[0]) & (drawn <= inside[1])).mean() >= 0.88


def test_a_point_mass_neither_beats_itself_nor_is_beaten():
    final = FinalFitness.normal(0.5, 0.0)
    assert final.probability_above(0.5) == final.probability_below(0.5) == 0.0
    assert final.probability_above(0.4) == final.probability_below(0.6) == 1.0
    assert final.interval() == (0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([1.0], [0.0], [-1.0]), "not negative"),
        (([0.0], [0.0], [1.0]), "a weight above 0"),
        (([1.0], [math.nan], [1.0]), "finite"),
        (([1.0, 1.0], [0.0], [1.0]), "2, 1 and 1"),
    ],
)
def test_an_impossible_mixture_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        FinalFitness(*arguments)


def test_an_impossible_level_or_quantile_is_refused():
    for ask in (lambda f: f.interval(1.0), lambda f: f.quantile(0.0)):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            ask(FinalFitness.normal(0, 1))


# -- Bayesian extrapolation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["last", "best"])
@pytest.mark.parametrize("known", [[], finished()], ids=["alone", "with others"])
def test_the_metric_may_have_any_scale_and_origin_and_be_minimised(target, known):
    curve = power_law(0.8, 0.5, 0.7, 0.01, 5, n=8)
    plain = QUICK.fit(known).predict(curve, HORIZON, target)
    for scale, shift in ((100.0, 0.0), (1e-4, 7e-4), (-3.0, 12.0)):
        others = [KnownCurve(k.id, tuple(scale * v + shift for v in k.curve), scale * k.final + shift) for k in known]
        mode = "max" if scale > 0 else "min"
        moved = QUICK.fit(others).predict([scale * v + shift for v in curve], HORIZON, target, mode)
        assert moved.mean == pytest.approx(scale * plain.mean + shift, rel=1e-4)
        assert moved.std == pytest.approx(abs(scale) * plain.std, rel=1e-3)
        assert sorted(moved.interval()) == pytest.approx(sorted(scale * v + shift for v in plain.interval()), rel=1e-3)
        assert moved.explained == plain.explained


def test_the_interval_holds_nine_in_ten_of_the_curves_drawn_from_the_prior():
    rng = np.random.default_rng(0)
    shapes = bank(HORIZON, 300, QUICK.seed).shapes
    inside = []
    for _ in range(120):
        curve = rng.normal() + rng.lognormal(0, 1) * shapes[rng.integers(300)]
        curve = curve + rng.standard_normal(HORIZON) * np.ptp(curve[:10]) * math.exp(rng.normal(-4.5, 1))
        low, high = QUICK.fit([]).predict(curve[:10], HORIZON).interval(0.9)
        inside.append(low <= curve[-1] <= high)
    assert 0.82 <= np.mean(inside) <= 0.99


def test_other_curves_make_a_prediction_sharper_and_no_less_true():
    known, curves = finished(20), [power_law(0.8 + 0.01 * i, 0.5, 0.7, 0.01, 100 + i) for i in range(8)]
    alone = [QUICK.fit([]).predict(curve[:10], HORIZON) for curve in curves]
    together = [QUICK.fit(known).predict(curve[:10], HORIZON) for curve in curves]
    assert np.mean([each.std for each in together]) < 0.5 * np.mean([each.std for each in alone])
    errors = [abs(each.median - curve[-1]) / each.std for each, curve in zip(together, curves, strict=True)]
    assert max(errors) < 3


def test_a_jump_that_all_others_made_is_expected():
    def stepped(final: float, seed: int) -> list[float]:
        return [v + (0.15 if epoch >= 20 else 0.0) for epoch, v in enumerate(power_law(final, 0.5, 0.7, 0.004, seed))]

    known = [KnownCurve(i, tuple(stepped(0.7 + 0.01 * i, i)), 0.85 + 0.01 * i) for i in range(12)]
    curve = stepped(0.75, 50)
    low, high = QUICK.fit(known).predict(curve[:15], HORIZON).interval()
    assert low < curve[-1] < high
    assert low > curve[14] + 0.05


def test_more_of_a_curve_leaves_less_doubt():
    curve = power_law(0.8, 0.5, 0.7, 0.005, 3)
    spreads = [QUICK.fit(finished()).predict(curve[:n], HORIZON).std for n in (4, 12, 28)]
    assert spreads[0] > spreads[1] > spreads[2]


def test_missing_epochs_are_left_out():
    curve = power_law(0.8, 0.5, 0.7, 0.005, 3, n=12)
    holed = [math.nan if i in (2, 5) else v for i, v in enumerate(curve)]
    whole, missing = (QUICK.fit(finished()).predict(each, HORIZON) for each in (curve, holed))
    assert missing.mean == pytest.approx(whole.mean, abs=2 * whole.std)
    infinite = [math.inf if math.isnan(v) else v for v in holed]
    assert QUICK.predict(infinite, HORIZON).mean == missing.mean


def test_known_curves_may_have_holes_and_other_lengths():
    holed = [KnownCurve(k.id, (*k.curve[:3], math.nan, *k.curve[4:]), k.final) for k in finished()]
    short = [KnownCurve(100 + k.id, k.curve[:5], k.final, complete=False) for k in finished(3)]
    empty = [KnownCurve(200, (), math.nan, complete=False), KnownCurve(201, (math.nan,) * HORIZON, math.nan)]
    final = QUICK.fit([*holed, *short, *empty]).predict(power_law(0.8, 0.5, 0.7, 0.005, 3, n=12), HORIZON)
    assert 0.6 < final.median < 1.0


@pytest.mark.parametrize("value", [0.0, 0.1, -5.0, 1e6])
@pytest.mark.parametrize("known", [[], finished()], ids=["alone", "with others"])
def test_a_constant_curve_is_not_explained(value, known):
    final = QUICK.fit(known).predict([value] * 4, HORIZON)
    assert not final.explained
    assert math.isfinite(final.mean)
    assert final.std > 0


def test_a_curve_constant_for_most_of_the_epochs_is_given_up_where_others_learn():
    final = QUICK.fit(finished()).predict([0.1 + 1e-4 * (i % 2) for i in range(20)], HORIZON)
    assert final.explained
    assert final.probability_above(0.8) < 0.05


@pytest.mark.parametrize("known", [[], finished()], ids=["alone", "with others"])
def test_a_climb_that_speeds_up_is_not_explained(known):
    inflected = [0.1 + 0.7 / (1 + math.exp((14 - epoch) / 2)) for epoch in range(1, 13)]
    assert not QUICK.fit(known).predict(inflected, HORIZON).explained
    slows_down = power_law(0.8, 0.5, 0.7, 0.002, 3, n=12)
    assert QUICK.fit(known).predict(slows_down, HORIZON).explained


def test_the_best_is_never_worse_than_what_was_reached_nor_than_the_last():
    curve = [0.2, 0.5, 0.7, 0.65, 0.66, 0.64]
    best, last = (QUICK.fit([]).predict(curve, HORIZON, target) for target in ("best", "last"))
    assert best.interval(0.99)[0] >= 0.7
    assert best.mean >= last.mean
    assert best.probability_above(0.69) == 1.0
    flipped = QUICK.predict([-v for v in curve], HORIZON, "best", "min")
    assert flipped.mean == pytest.approx(-best.mean, abs=0.02 * best.std)


def test_at_the_horizon_nothing_is_left_to_predict():
    curve = power_law(0.8, 0.5, 0.7, 0.01, 3)
    last, best = (QUICK.fit([]).predict(curve, HORIZON, target) for target in ("last", "best"))
    assert (last.mean, last.std) == (pytest.approx(curve[-1]), 0.0)
    assert (best.mean, best.std) == (pytest.approx(max(curve)), 0.0)


@pytest.mark.parametrize("target", ["last", "best"])
def test_the_order_of_other_curves_does_not_matter(target):
    curve, known = power_law(0.8, 0.5, 0.7, 0.01, 3, n=8), finished()
    first = BayesianCurve(300).fit(known).predict(curve, HORIZON, target)
    again = BayesianCurve(300).fit(known[::-1]).predict(curve, HORIZON, target)
    assert (again.mean, again.std) == (first.mean, first.std)


# -- the others --------------------------------------------------------------------------------------------------------


def test_the_last_value_is_spread_by_what_others_still_gained():
    known = [KnownCurve(i, (0.1, 0.2, 0.3 + gain), 0.3 + gain) for i, gain in enumerate((0.3, 0.4, 0.0))]
    final = LastValue().fit(known).predict([0.5, 0.6], 3)
    assert final.mean == pytest.approx(0.6)
    assert final.std == pytest.approx(math.sqrt((0.4**2 + 0.5**2 + 0.1**2) / 3))


def test_the_last_value_alone_wanders_by_its_own_steps():
    final = LastValue().predict([1.0, 1.3, math.nan, 1.3], 10, mode="min")
    assert final.mean == pytest.approx(1.3)
    assert final.std == pytest.approx(math.sqrt(0.3**2 / 2 * 6))


def test_the_best_value_so_far_bounds_the_last_value_predictor():
    final = LastValue().predict([0.5, 0.9, 0.8], 10, "best")
    assert final.low == 0.9
    assert LastValue().predict([0.5, 0.2, 0.8], 10, "best", "min").high == 0.2


def test_a_regression_learns_what_curve_and_features_tell():
    rng = np.random.default_rng(0)
    levels = rng.uniform(0.3, 0.9, 60)
    known = [
        KnownCurve(i, tuple(0.1 + 0.01 * rng.standard_normal(10)), level, features=(level, 1.0))
        for i, level in enumerate(levels)
    ]
    predictor = RegressionCurve().fit(known)
    final = predictor.predict(known[0].curve[:4], 10, features=(0.6, 1.0))
    assert final.median == pytest.approx(0.6, abs=0.08)
    assert final.std < 0.15


def test_a_regression_from_too_few_curves_is_left_to_its_fallback():
    curve = power_law(0.8, 0.5, 0.7, 0.01, 3, n=8)
    fallback = BayesianCurve(300)
    regression = RegressionCurve(fallback=fallback).fit(finished(12))
    assert regression.predict(curve, HORIZON).mean == BayesianCurve(300).fit(finished(12)).predict(curve, HORIZON).mean


def test_a_regression_reads_curves_with_missing_epochs():
    known = [KnownCurve(i, (0.1 * i, math.nan, 0.2 * i, 0.24 * i, 0.3 * i), 0.3 * i) for i in range(25)]
    final = RegressionCurve().fit(known).predict([1.0, math.nan, 2.0, 2.4], 5)
    assert math.isfinite(final.mean)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BayesianCurve(bases=1), "bases: 1"),
        (lambda: BayesianCurve(minimum_epochs=1), "minimum_epochs: 1"),
        (lambda: BayesianCurve(least_known=1), "least_known: 1"),
        (lambda: LastValue(minimum_epochs=1), "minimum_epochs: 1"),
        (lambda: RegressionCurve(least_known=5), "least_known: 5"),
        (lambda: RegressionCurve(nu=0.0), "nu: 0.0"),
        (lambda: RegressionCurve(regularization=0.0), "regularization: 0.0"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_predictors_are_described_by_their_arguments():
    described = describe(RegressionCurve(least_known=30, fallback=BayesianCurve(500)))
    assert described["init_args"]["least_known"] == 30
    assert described["init_args"]["fallback"]["init_args"] == {
        "bases": 500,
        "minimum_epochs": 3,
        "least_known": 4,
        "seed": 0,
    }
