"""When policies stop a candidate, and when a candidate may still join the front."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from lightning_evo.evolution.description import describe
from lightning_evo.predictors import (
    CurveContext,
    CurvePredictor,
    FinalFitness,
    Hyperband,
    KnownCurve,
    LastValue,
    MedianRule,
    Patience,
    ProbabilityOfImprovement,
    SuccessiveHalvingRule,
    probability_not_dominated,
)


class Fixed(CurvePredictor):
    """Always predicts the same."""

    minimum_epochs = 2

    def __init__(self, final: FinalFitness) -> None:
        self.final = final

    def predict(self, curve, horizon, target="last", mode="max", features=()):
        return self.final


def reached(*values: float, complete: bool = False) -> list[KnownCurve]:
    """Candidates of one epoch."""
    return [KnownCurve(i, (value,), value, complete=complete) for i, value in enumerate(values)]


# -- probability of improvement ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "bar"), [("max", 0.9 + 0.1 * norm.isf(0.05)), ("min", 0.9 - 0.1 * norm.isf(0.05))])
def test_a_candidate_stops_exactly_when_its_probability_to_beat_the_bar_is_at_most_delta(mode, bar):
    policy = ProbabilityOfImprovement(Fixed(FinalFitness.normal(0.9, 0.1)), delta=0.05)
    away = 1e-3 if mode == "max" else -1e-3
    stopped = policy.decide(CurveContext([0.1, 0.2, 0.3], 10, [], bar + away, mode=mode))
    kept = policy.decide(CurveContext([0.1, 0.2, 0.3], 10, [], bar - away, mode=mode))
    assert stopped.stop
    assert not kept.stop
    assert stopped.probability < 0.05 < kept.probability
    assert stopped.prediction.mean == pytest.approx(0.9)


def test_nobody_stops_without_a_bar_before_enough_epochs_or_unexplained():
    hopeless, doubtful = (Fixed(FinalFitness.normal(0.1, 0.01, explained)) for explained in (True, False))
    curve = [0.1, 0.1, 0.1]
    assert ProbabilityOfImprovement(hopeless).decide(CurveContext(curve, 10, [], 0.9)).stop
    assert not ProbabilityOfImprovement(hopeless).decide(CurveContext(curve, 10)).stop
    assert not ProbabilityOfImprovement(hopeless).decide(CurveContext([0.1, math.nan, 0.1], 10, [], 0.9)).stop
    assert not ProbabilityOfImprovement(hopeless, minimum_epochs=4).decide(CurveContext(curve, 10, [], 0.9)).stop
    verdict = ProbabilityOfImprovement(doubtful).decide(CurveContext(curve, 10, [], 0.9))
    assert not verdict.stop
    assert verdict.probability < 0.05
    assert "not explained" in verdict.reason


def test_the_default_stops_the_hopeless_and_keeps_the_promising():
    epochs = np.arange(1, 9)
    slow, good = (0.5 - 0.3 / epochs).tolist(), (0.95 - 0.5 / epochs).tolist()
    policy = ProbabilityOfImprovement()
    assert policy.decide(CurveContext(slow, 20, [], 0.9)).stop
    assert not policy.decide(CurveContext(good, 20, [], 0.9)).stop
    assert policy.decide(CurveContext([-v for v in slow], 20, [], -0.9, mode="min")).stop


# -- median rule -------------------------------------------------------------------------------------------------------


def test_the_median_rule_compares_the_best_so_far_with_running_averages():
    # At epoch 2 the running averages are 0.3, 0.5 and 0.8: the median is 0.5.
    others = [KnownCurve(0, (0.2, 0.4), 0.4), KnownCurve(1, (0.3, 0.7, 0.9), 0.9), KnownCurve(2, (0.8, 0.8), 0.8)]
    rule = MedianRule(minimum_epochs=2, minimum_curves=3)
    assert rule.decide(CurveContext([0.49, 0.1], 5, others)).stop
    assert not rule.decide(CurveContext([0.51, 0.1], 5, others)).stop
    assert not rule.decide(CurveContext([0.49], 5, others)).stop, "before minimum_epochs"
    assert not rule.decide(CurveContext([0.1, 0.1, 0.1], 5, others)).stop, "one alone got to epoch 3"
    flipped = [KnownCurve(k.id, tuple(-v for v in k.curve), -k.final) for k in others]
    assert rule.decide(CurveContext([-0.49, -0.1], 5, flipped, None, mode="min")).stop


def test_the_median_rule_leaves_missing_epochs_out():
    others = [KnownCurve(i, (math.nan, 0.5), 0.5) for i in range(3)]
    rule = MedianRule(minimum_epochs=2, minimum_curves=3)
    assert rule.decide(CurveContext([math.nan, 0.4], 5, others)).stop
    assert not rule.decide(CurveContext([math.nan, math.nan], 5, others)).stop


# -- successive halving ------------------------------------------------------------------------------------------------


def test_successive_halving_lets_the_best_third_go_on():
    # Six values with one's own: two go on.
    rule = SuccessiveHalvingRule(reduction_factor=3)
    others = reached(0.1, 0.2, 0.3, 0.4, 0.5)
    assert not rule.decide(CurveContext([0.45], 9, others)).stop
    assert rule.decide(CurveContext([0.35], 9, others)).stop
    assert not rule.decide(CurveContext([0.15], 9, others, None, mode="min")).stop
    assert rule.decide(CurveContext([0.25], 9, others, None, mode="min")).stop


def test_successive_halving_asks_at_its_rungs_alone_and_not_at_the_end():
    rule = SuccessiveHalvingRule(reduction_factor=2, grace_period=3)
    others = [KnownCurve(i, (0.9,) * 12, 0.9) for i in range(4)]
    stops = [epoch for epoch in range(1, 13) if rule.decide(CurveContext([0.1] * epoch, 12, others)).stop]
    assert stops == [3, 6]


def test_successive_halving_with_too_few_to_halve_lets_everyone_go_on():
    rule = SuccessiveHalvingRule(reduction_factor=3)
    assert not rule.decide(CurveContext([0.1], 9, reached(0.9))).stop
    assert rule.decide(CurveContext([0.1], 9, reached(0.9, 0.8))).stop


def test_a_candidate_without_a_value_at_a_rung_is_the_worst():
    rule = SuccessiveHalvingRule(reduction_factor=3)
    assert rule.decide(CurveContext([math.nan], 9, reached(0.1, 0.2))).stop
    assert not rule.decide(CurveContext([0.1], 9, reached(math.nan, math.nan))).stop


def test_hyperband_gives_brackets_the_shares_of_its_algorithm():
    policy = Hyperband(reduction_factor=3)
    found = np.bincount([policy.bracket(candidate, 27, seed=1) for candidate in range(6000)])
    # n = 27, 12 (4/3·9), 6 (4/2·3) and, at a bracket of full trainings only, 4 candidates; the last is left out here.
    expected = np.array([27 / 4, 9 / 3, 3 / 2])
    assert found / found.sum() == pytest.approx(expected / expected.sum(), abs=0.02)
    assert [policy.bracket(c, 27, 5) for c in range(50)] == [policy.bracket(c, 27, 5) for c in range(50)]


def test_hyperband_compares_within_a_bracket_at_its_own_rungs():
    policy = Hyperband(reduction_factor=3)
    brackets = {s: [c for c in range(2000) if policy.bracket(c, 27) == s] for s in range(3)}
    for own, members in brackets.items():
        first = 3**own
        peers = [KnownCurve(c, (0.9,) * first, 0.9, complete=False) for c in members[1:4]]
        strangers = [KnownCurve(c, (0.9,) * first, 0.9, complete=False) for c in brackets[(own + 1) % 3][:4]]
        me = {"candidate": members[0]}
        assert policy.decide(CurveContext([0.1] * first, 27, peers, None, **me)).stop
        assert not policy.decide(CurveContext([0.1] * first, 27, strangers, None, **me)).stop
        assert not policy.decide(CurveContext([0.1] * (first + 1), 27, peers, None, **me)).stop


# -- patience ----------------------------------------------------------------------------------------------------------


def test_patience_counts_epochs_since_the_best():
    assert not Patience(3).decide(CurveContext([0.5, 0.6, 0.59, 0.58], 9)).stop
    assert Patience(3).decide(CurveContext([0.5, 0.6, 0.59, 0.58, 0.6], 9)).stop
    assert Patience(2).decide(CurveContext([0.5, 0.4, 0.41, 0.42], 9, [], None, mode="min")).stop
    assert Patience(2, min_delta=0.1).decide(CurveContext([0.5, 0.55, 0.59], 9)).stop
    assert Patience(2).decide(CurveContext([0.5, math.nan, math.nan], 9)).stop


# -- every policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ProbabilityOfImprovement(delta=0.0), r"delta: 0\.0 is not between 0 and 1"),
        (lambda: ProbabilityOfImprovement(delta=1), "delta: 1 is not between 0 and 1"),
        (lambda: ProbabilityOfImprovement(minimum_epochs=0), "minimum_epochs: 0"),
        (lambda: MedianRule(minimum_curves=0), "minimum_curves: 0"),
        (lambda: SuccessiveHalvingRule(reduction_factor=1), "reduction_factor: 1"),
        (lambda: SuccessiveHalvingRule(grace_period=0), "grace_period: 0"),
        (lambda: Hyperband(brackets=0), "brackets: 0"),
        (lambda: Patience(0), "patience: 0"),
        (lambda: Patience(min_delta=-1.0), r"min_delta: -1\.0"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_policies_are_described_by_their_arguments():
    described = describe(ProbabilityOfImprovement(LastValue(4), delta=0.1))
    assert described["init_args"]["delta"] == 0.1
    assert described["init_args"]["predictor"]["init_args"] == {"minimum_epochs": 4}
    assert describe(Hyperband(4, 2, 3))["init_args"] == {"reduction_factor": 4, "grace_period": 2, "brackets": 3}


# -- several objectives ------------------------------------------------------------------------------------------------


def test_one_uncertain_objective_must_beat_the_best_that_costs_no_more():
    accuracy, front = FinalFitness.normal(0.9, 0.02), [(0.85, 10.0), (0.92, 20.0), (0.95, 50.0)]
    for cost, bar in ((30.0, 0.92), (15.0, 0.85), (50.0, 0.95)):
        found = probability_not_dominated([accuracy, cost], front, (1, -1))
        assert found == pytest.approx(norm.sf(bar, 0.9, 0.02))
    assert probability_not_dominated([accuracy, 5.0], front, (1, -1)) == 1.0


def test_known_objectives_alone_are_dominated_or_not():
    front = [(0.9, 10.0)]
    assert probability_not_dominated([0.8, 20.0], front, (1, -1)) == 0.0
    assert probability_not_dominated([0.9, 10.0], front, (1, -1)) == 1.0, "an equal point dominates nobody"
    assert probability_not_dominated([0.9, 11.0], front, (1, -1)) == 0.0
    assert probability_not_dominated([0.8, 20.0], [], (1, -1)) == 1.0


def test_two_independent_objectives_are_dominated_by_one_point_with_the_product_of_probabilities():
    first, second = FinalFitness.normal(0.0, 1.0), FinalFitness.normal(2.0, 3.0)
    found = probability_not_dominated([first, second], [(0.5, 1.0)], (1, -1), samples=40_000)
    dominated = norm.cdf(0.5) * norm.sf(1.0, 2.0, 3.0)
    assert found == pytest.approx(1 - dominated, abs=0.01)


def test_several_points_are_counted_once_by_inclusion_and_exclusion():
    first, second = FinalFitness.normal(0.0, 1.0), FinalFitness.normal(0.0, 1.0)
    found = probability_not_dominated([first, second], [(1.0, -0.5), (-0.5, 1.0)], (1, 1), samples=40_000)
    below = norm.cdf
    dominated = 2 * below(1.0) * below(-0.5) - below(-0.5) ** 2
    assert found == pytest.approx(1 - dominated, abs=0.01)


def test_the_seed_decides_the_samples_and_nothing_global_is_touched():
    predictions = [FinalFitness.normal(0.0, 1.0), FinalFitness.normal(0.0, 1.0)]
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    found = [probability_not_dominated(predictions, [(0.5, 0.5)], (1, 1), seed=seed, samples=300) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([0.5], [(0.5, 1.0)], (1, -1)), "don't fit together"),
        (([0.5, 1.0], [(0.5,)], (1, -1)), "don't fit together"),
        (([], [], ()), "don't fit together"),
        (([0.5, 1.0], [], (1, 0)), "contain a 0"),
        (([math.nan, 1.0], [], (1, -1)), "NaN"),
    ],
)
def test_objectives_that_do_not_fit_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        probability_not_dominated(*arguments)


def test_a_number_of_samples_below_one_is_refused():
    with pytest.raises(ValueError, match="samples: 0"):
        probability_not_dominated([0.5], [(0.4,)], (1,), samples=0)
