"""The contracts of predictors of learning curves and of stopping policies; a new one is one row in ``curves_examples``."""

from __future__ import annotations

import copy
import inspect
import json
import math
import pickle
import random

import numpy as np
import pytest
from curves_examples import HORIZON, POLICIES, PREDICTORS, finished, power_law
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_evo import predictors
from lightning_evo.evolution.description import describe
from lightning_evo.predictors import CurveContext, CurvePredictor, FinalFitness, KnownCurve, StoppingPolicy, Verdict

every_predictor = pytest.mark.parametrize("make", PREDICTORS.values(), ids=list(PREDICTORS))
every_policy = pytest.mark.parametrize("make", POLICIES.values(), ids=list(POLICIES))
few = settings(max_examples=15, deadline=None)

CURVE = power_law(0.8, 0.5, 0.7, 0.01, 3, n=8)


@pytest.mark.parametrize(("table", "base"), [(PREDICTORS, CurvePredictor), (POLICIES, StoppingPolicy)])
def test_the_table_has_every_public_class(table, base):
    public = [getattr(predictors, name) for name in predictors.__all__]
    expected = {kind for kind in public if inspect.isclass(kind) and issubclass(kind, base)} - {base}
    assert {type(make()) for make in table.values()} == expected


def numbers(final: FinalFitness) -> list[float]:
    return [final.mean, final.std, *final.interval(), final.low, final.high, float(final.explained)]


def random_states() -> tuple:
    return random.getstate(), pickle.dumps(np.random.get_state())


# -- predictors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["last", "best"])
@every_predictor
def test_a_prediction_is_decided_by_its_arguments_and_not_by_what_came_before(make, target):
    known = finished()
    first = make().fit(known).predict(CURVE, HORIZON, target)
    used = make().fit(known[:6])
    used.predict(CURVE[:5], HORIZON, target)
    np.random.seed(5), random.seed(5)
    assert numbers(used.fit(known).predict(CURVE, HORIZON, target)) == numbers(first)


@every_predictor
def test_global_random_states_are_left_as_they_were(make):
    before = random_states()
    make().fit(finished()).predict(CURVE, HORIZON, "best")
    assert random_states() == before


@pytest.mark.parametrize("known", [[], finished()], ids=["alone", "with others"])
@pytest.mark.parametrize("target", ["last", "best"])
@every_predictor
def test_to_minimise_a_metric_is_to_maximise_its_negative(make, target, known):
    flipped = [KnownCurve(each.id, tuple(-v for v in each.curve), -each.final) for each in known]
    up = make().fit(known).predict(CURVE, HORIZON, target)
    down = make().fit(flipped).predict([-v for v in CURVE], HORIZON, target, "min")
    assert down.mean == pytest.approx(-up.mean, abs=0.02)
    assert down.std == pytest.approx(up.std, rel=0.2, abs=1e-6)
    assert down.explained == up.explained
    assert (-down.high, -down.low) == (up.low, up.high)


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=12), st.sampled_from(["last", "best"]), st.booleans())
@example(curve=[0.0, 0.0, 1.9468453873299156e-84], target="last", known=False)
@example(curve=[0.0, 1e-59, 3e-59], target="best", known=False)
@example(curve=[0.0, 0.0, 0.0], target="best", known=False)
@few
@every_predictor
def test_any_curve_has_a_finite_prediction(make, curve, target, known):
    final = make().fit(finished(5) if known else []).predict(curve, 15, target, "min")
    low, high = final.interval()
    assert math.isfinite(final.mean)
    assert low <= final.median <= high
    if target == "best":
        assert high <= min(curve)


@every_predictor
def test_it_is_pickled_and_copied_with_what_it_learned(make):
    predictor = make().fit(finished())
    expected = numbers(predictor.predict(CURVE, HORIZON))
    for again in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        assert numbers(again.predict(CURVE, HORIZON)) == expected


@pytest.mark.parametrize("make", [*PREDICTORS.values(), *POLICIES.values()], ids=[*PREDICTORS, *POLICIES])
def test_it_is_described_by_its_arguments_as_json_and_before_and_after_its_use_alike(make):
    made = make()
    description = describe(made)
    assert json.loads(json.dumps(description)) == description == describe(copy.deepcopy(make()))
    if isinstance(made, CurvePredictor):
        made.fit(finished()).predict(CURVE, HORIZON)
    assert set(description["init_args"]) == set(inspect.signature(type(made)).parameters)
    assert describe(made) == description


@every_predictor
def test_what_it_cannot_use_is_refused(make):
    predictor = make()
    with pytest.raises(ValueError, match="finite values"):
        predictor.predict([0.5, math.nan, math.inf], 10)
    with pytest.raises(ValueError, match="horizon: 2"):
        predictor.predict([0.1, 0.2, 0.3], 2)
    with pytest.raises(ValueError, match="mode: 'up'"):
        predictor.predict([0.1, 0.2, 0.3], 10, mode="up")
    with pytest.raises(ValueError, match="target: 'first'"):
        predictor.predict([0.1, 0.2, 0.3], 10, target="first")


# -- policies ----------------------------------------------------------------------------------------------------------

CONTEXTS = [
    CurveContext(CURVE[:epochs], 8, finished()[:others], bar, candidate=candidate, seed=seed)
    for epochs in (1, 2, 4, 8)
    for others in (0, 9)
    for bar in (None, 0.1, 5.0)
    for candidate, seed in ((0, 0), (7, 3))
]


@every_policy
def test_a_decision_is_made_by_the_context_alone(make):
    first = [make().decide(context) for context in CONTEXTS]
    used = make()
    random.seed(5), np.random.seed(5)
    before = random_states()
    for context, expected in reversed(list(zip(CONTEXTS, first, strict=True))):
        verdict = used.decide(context)
        assert isinstance(verdict, Verdict)
        assert (verdict.stop, verdict.probability, verdict.reason) == (
            expected.stop,
            expected.probability,
            expected.reason,
        )
    assert random_states() == before


@every_policy
def test_every_decision_has_a_reason_and_a_policy_stops_some_candidates_but_not_all(make):
    hopeless = [CurveContext([0.05 - 0.01 * epoch for epoch in range(n)], 27, finished(), 5.0) for n in (1, 2, 3, 4, 8)]
    verdicts = [make().decide(context) for context in [*CONTEXTS, *hopeless]]
    assert all(verdict.reason for verdict in verdicts)
    assert {verdict.stop for verdict in verdicts} == {True, False}
    assert all(0 <= verdict.probability <= 1 for verdict in verdicts if verdict.probability is not None)


@every_policy
def test_a_policy_crosses_process_borders(make):
    policy = pickle.loads(pickle.dumps(make()))
    assert [policy.decide(context).reason for context in CONTEXTS] == [make().decide(c).reason for c in CONTEXTS]


@every_policy
def test_a_curve_without_a_finite_value_and_others_with_missing_epochs_are_no_error(make):
    known = [KnownCurve(i, (math.nan, 0.5, math.nan), 0.5, complete=False) for i in range(6)]
    for epochs in (1, 2, 3):
        verdict = make().decide(CurveContext([math.nan] * epochs, 8, known, 0.5))
        assert isinstance(verdict.stop, bool)


@every_policy
@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=8), min_size=1, max_size=6), st.floats(-10, 10))
@settings(max_examples=25, deadline=None)
def test_to_stop_a_metric_to_minimise_is_to_stop_the_negative_to_maximise(make, curves, bar):
    policy = make()
    curve, *others = curves
    known = [KnownCurve(i, tuple(each), each[-1], complete=len(each) == 8) for i, each in enumerate(others)]
    flipped = [KnownCurve(k.id, tuple(-v for v in k.curve), -k.final, complete=k.complete) for k in known]
    up = policy.decide(CurveContext(curve, 8, known, bar))
    down = policy.decide(CurveContext([-v for v in curve], 8, flipped, -bar, mode="min"))
    assert up.stop == down.stop
    assert up.probability == (None if down.probability is None else pytest.approx(down.probability, abs=1e-9))
