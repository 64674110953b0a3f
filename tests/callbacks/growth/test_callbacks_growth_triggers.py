"""Triggers decide by what they are told alone: since the last growth, whatever is missing, and combined as logic says."""

from __future__ import annotations

import math
import random
import statistics

import numpy
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from lightning_evo.callbacks.growth.triggers import (
    AllOf,
    AnyOf,
    Decision,
    EntropySaturation,
    EntropyTrend,
    FixedInterval,
    Gap,
    GrowthState,
    GrowthTrigger,
    Not,
    Plateau,
    RandomTrigger,
)
from lightning_evo.predictors.curves.learning_curve import LastValue

NAN = math.nan


class Always(GrowthTrigger):
    """Answers what it is told to."""

    def __init__(self, grow: bool, **layers: float) -> None:
        self.grow, self.layers = grow, layers

    def decide(self, state):
        return Decision(self.grow, "yes" if self.grow else "no", self.layers)


def after(metric=(), entropies=None, grown=(), **others) -> GrowthState:
    """The state after as many epochs as are known."""
    epochs = max([len(metric), *(len(values) for values in (entropies or {}).values())], default=0)
    return GrowthState(epochs, metric=tuple(metric), entropies=entropies or {}, grown=tuple(grown), **others)


# -- entropy -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.one_of(st.floats(0, 1), st.just(NAN)), min_size=0, max_size=15),
    window=st.integers(2, 6),
    minimum=st.integers(2, 6),
    variance=st.floats(1e-4, 0.2),
    level=st.floats(0, 0.9),
)
def test_saturation_is_a_low_variance_and_a_high_mean_of_the_window(values, window, minimum, variance, level):
    minimum = min(minimum, window)
    last = [value for value in values if value == value][-window:]
    expected = len(last) >= minimum and statistics.pvariance(last) < variance and statistics.fmean(last) > level
    trigger = EntropySaturation(window, variance, level, minimum)
    decision = trigger.decide(after(entropies={"layer": tuple(values)}))
    assert decision.grow == expected
    assert decision.layers == ({"layer": statistics.fmean(last)} if expected else {})
    assert decision.why


def test_saturation_names_the_saturated_layers_and_no_others():
    entropies = {
        "flat": (0.8,) * 5,
        "low": (0.2,) * 5,
        "rising": (0.1, 0.3, 0.5, 0.7, 0.9),
        "young": (NAN,) * 4 + (0.9,),
    }
    decision = EntropySaturation(window=5, variance=0.01, level=0.5).decide(after(entropies=entropies))
    assert decision.layers == pytest.approx({"flat": 0.8})
    assert decision.grow


def test_windows_begin_at_the_last_growth():
    entropies = {"layer": (0.9,) * 6}
    trigger = EntropySaturation(minimum=3)
    assert trigger.decide(after(entropies=entropies, grown=(3,))).grow
    assert not trigger.decide(after(entropies=entropies, grown=(1, 4))).grow
    metric = (0.9,) * 6
    assert Plateau(minimum=3, predictor=LastValue()).decide(after(metric, grown=(3,))).grow
    assert not Plateau(minimum=3, predictor=LastValue()).decide(after(metric, grown=(4,))).grow
    rising = {"layer": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
    assert EntropyTrend(window=5).decide(after(metric, rising, grown=(1,))).grow
    assert not EntropyTrend(window=5).decide(after(metric, rising, grown=(2,))).grow


def test_a_trend_is_a_rising_entropy_with_a_flat_metric():
    flat, climbing = (0.8, 0.802, 0.799, 0.801, 0.8), (0.5, 0.6, 0.7, 0.75, 0.8)
    entropies = {"up": (0.5, 0.52, 0.55, 0.56, 0.58), "down": (0.58, 0.56, 0.55, 0.52, 0.5)}
    trigger = EntropyTrend()
    decision = trigger.decide(after(flat, entropies))
    assert decision.grow
    assert list(decision.layers) == ["up"]
    assert not trigger.decide(after(climbing, entropies)).grow
    assert not trigger.decide(after(flat, {"down": entropies["down"]})).grow
    assert not trigger.decide(after(flat[1:], {"up": entropies["up"][1:]})).grow


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=5, max_size=5), slope=st.floats(0, 0.2))
def test_the_trends_slope_is_numpys_least_squares(values, slope):
    expected = float(numpy.polyfit(range(5), values, 1)[0])
    if abs(expected - slope) > 1e-9:
        decision = EntropyTrend(slope=slope).decide(after((0.5,) * 5, {"layer": tuple(values)}))
        assert decision.grow == (expected > slope)


# -- metrics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "sign"), [("max", 1.0), ("min", -1.0)])
def test_a_plateau_is_a_curve_that_is_predicted_to_gain_little(mode, sign):
    curve = [0.9 - 0.6 / epoch for epoch in range(1, 41)]
    trigger = Plateau(epsilon=0.005, horizon=3)
    decisions = [
        trigger.decide(after([sign * value for value in curve[:epochs]], mode=mode)).grow for epochs in range(1, 41)
    ]
    gains = [curve[min(epochs + 2, 39)] - curve[epochs - 1] for epochs in range(1, 41)]
    first = decisions.index(True)
    assert 0.003 < gains[first] < 0.007
    assert all(decisions[first:])


def test_noise_around_a_level_is_a_plateau_and_a_climb_that_speeds_up_is_none():
    noise = random.Random(0)
    level = [0.9 + noise.gauss(0, 0.004) for _ in range(10)]
    assert Plateau().decide(after(level)).grow
    # Few epochs say nothing by default, as noise around a climb looks the same.
    assert Plateau(minimum=5).decide(after(level[:5])).grow
    assert not Plateau().decide(after(level[:7])).grow
    decision = Plateau(epsilon=10.0).decide(after([0.1, 0.1, 0.1, 0.101, 0.103, 0.11, 0.13, 0.2, 0.35]))
    assert not decision.grow
    assert "not explained" in decision.why


def test_a_plateau_asks_the_predictor_it_is_given():
    assert Plateau(minimum=3, predictor=LastValue(), epsilon=1e-9).decide(after((0.5, 0.6, 0.7))).grow
    assert not Plateau(minimum=3, epsilon=1e-9).decide(after((0.5, 0.6, 0.68, 0.75, 0.8))).grow


def test_a_gap_between_training_and_validation_forbids_growth():
    for mode, sign in (("max", 1.0), ("min", -1.0)):
        metric, train = (sign * 0.7, sign * 0.75, NAN), (sign * 0.72, sign * 0.85, sign * 0.9)
        assert not Gap(0.05).decide(after(metric, train_metric=train, mode=mode)).grow
        assert Gap(0.2).decide(after(metric, train_metric=train, mode=mode)).grow
    assert Gap(0).decide(after((0.8,), train_metric=(0.7,))).grow
    assert not Gap().decide(after((0.8,))).grow


# -- clocks ------------------------------------------------------------------------------------------------------------


def epochs_of_growth(trigger: GrowthTrigger, epochs: int, apart: int = 1, seed: int = 0) -> list[int]:
    grown: list[int] = []
    for epoch in range(1, epochs):
        if epoch - max(grown, default=-apart) >= apart:
            state = GrowthState(epoch, grown=tuple(grown), seed=seed)
            if trigger.decide(state).grow:
                grown.append(epoch)
    return grown


def test_a_fixed_interval_grows_every_so_many_epochs():
    assert epochs_of_growth(FixedInterval(4), 14) == [4, 8, 12]
    assert epochs_of_growth(FixedInterval(2), 11, apart=3) == [2, 5, 8]


def test_chance_depends_on_seed_and_epoch_alone_and_comes_as_often_as_it_should():
    drawn = epochs_of_growth(RandomTrigger(0.25), 4000)
    assert drawn == epochs_of_growth(RandomTrigger(0.25), 4000)
    assert drawn != epochs_of_growth(RandomTrigger(0.25), 4000, seed=1)
    assert 900 < len(drawn) < 1100
    assert epochs_of_growth(RandomTrigger(0.0), 100) == []
    assert len(epochs_of_growth(RandomTrigger(1.0), 100)) == 99


# -- combinations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_and_or_not_are_logic(first, second):
    one, other, state = Always(first), Always(second), GrowthState(1)
    assert (one & other).decide(state).grow == (first and second)
    assert (one | other).decide(state).grow == (first or second)
    assert (~one).decide(state).grow == (not first)
    assert (~(one & other) | one).decide(state).grow


def test_both_agree_on_layers_by_the_least_need_and_either_by_the_largest():
    one, other, silent = Always(True, a=0.9, b=0.5), Always(True, b=0.7, c=0.3), Always(True)
    state = GrowthState(1)
    assert (one & other & silent).decide(state).layers == {"b": 0.5}
    assert (one | other | silent).decide(state).layers == {"a": 0.9, "b": 0.7, "c": 0.3}
    assert (one | Always(False, a=1.0)).decide(state).layers == {"a": 0.9, "b": 0.5}
    decision = (one & Always(True, c=1.0)).decide(state)
    assert not decision.grow
    assert "no layer" in decision.why


def test_a_refusal_gives_the_reasons_of_those_that_refuse():
    decision = (FixedInterval(1) & EntropySaturation() & Plateau()).decide(GrowthState(1))
    assert "interval" not in decision.why
    assert "entropy" in decision.why
    assert "metric" in decision.why


def test_the_same_kind_is_taken_apart_and_needs_are_those_of_all():
    combined = EntropySaturation() & Plateau() & ~Gap()
    assert [type(each) for each in combined.triggers] == [EntropySaturation, Plateau, Not]
    assert (combined.needs_entropy, combined.needs_metric, combined.needs_train_metric) == (True, True, True)
    clock = FixedInterval() | RandomTrigger()
    assert (clock.needs_entropy, clock.needs_metric, clock.needs_train_metric) == (False, False, False)


@pytest.mark.parametrize("kind", [AllOf, AnyOf])
def test_a_combination_of_nothing_or_of_something_else_is_refused(kind):
    with pytest.raises(ValueError, match="needs at least one"):
        kind([])
    with pytest.raises(ValueError, match="3 is not a GrowthTrigger"):
        kind([FixedInterval(), 3])


# -- whatever is missing -----------------------------------------------------------------------------------------------

TRIGGERS = [
    EntropySaturation(),
    EntropyTrend(),
    Plateau(),
    Gap(),
    FixedInterval(),
    RandomTrigger(),
    EntropySaturation() & Plateau() & Gap(),
    EntropyTrend() | ~Plateau(),
]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_nothing_that_is_missing_or_infinite_stops_a_decision(trigger, mode):
    noise = random.Random(1)

    def curve(epochs: int) -> tuple[float, ...]:
        return tuple(noise.choice([NAN, math.inf, -math.inf, 0.0, 0.5, noise.random()]) for _ in range(epochs))

    assert not (trigger.decide(GrowthState(0)).layers)
    for epochs in range(1, 12):
        entropies = {"a": curve(epochs), "b": (NAN,) * epochs, "c": ()}
        state = GrowthState(
            epochs,
            metric=curve(epochs),
            mode=mode,
            train_metric=curve(epochs),
            entropies=entropies,
            grown=(epochs // 3,) if epochs > 5 else (),
        )
        decision = trigger.decide(state)
        assert decision.why
        assert decision == trigger.decide(state)
        assert all(0 <= need <= 1 for need in decision.layers.values())
        assert decision.grow or not decision.layers


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EntropySaturation(window=1), "window: 1 is not an integer of at least 2"),
        (lambda: EntropySaturation(window=3, minimum=4), "minimum: 4 is not at most window 3"),
        (lambda: EntropySaturation(variance=0), "variance: 0 is not a finite number above 0"),
        (lambda: EntropySaturation(level=1.0), r"level: 1.0 is not in \[0, 1\)"),
        (lambda: EntropyTrend(window=2), "window: 2"),
        (lambda: EntropyTrend(slope=-1), "slope: -1"),
        (lambda: EntropyTrend(flat=math.inf), "flat: inf"),
        (lambda: Plateau(epsilon=0.0), "epsilon: 0.0 is not a finite number above 0"),
        (lambda: Plateau(horizon=0), "horizon: 0"),
        (lambda: Plateau(minimum=0), "minimum: 0"),
        (lambda: Gap(-0.1), "limit: -0.1"),
        (lambda: FixedInterval(0), "epochs: 0"),
        (lambda: FixedInterval(2.5), "epochs: 2.5"),
        (lambda: RandomTrigger(1.5), r"probability: 1.5 is not in \[0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_triggers_are_configured_in_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--trigger", type=GrowthTrigger)
    path = "lightning_evo.callbacks.growth.triggers."
    config = {
        "class_path": f"{path}AllOf",
        "init_args": {
            "triggers": [
                {"class_path": f"{path}EntropySaturation", "init_args": {"level": 0.7}},
                {
                    "class_path": f"{path}Plateau",
                    "init_args": {
                        "predictor": {"class_path": "lightning_evo.predictors.LastValue"},
                    },
                },
                {"class_path": f"{path}Not", "init_args": {"trigger": {"class_path": f"{path}Gap"}}},
            ]
        },
    }
    parsed = parser.parse_string(yaml.safe_dump({"trigger": config}))
    trigger = parser.instantiate(parsed).trigger
    assert [type(each) for each in trigger.triggers] == [EntropySaturation, Plateau, Not]
    assert trigger.triggers[0].level == 0.7
    assert isinstance(trigger.triggers[1].predictor, LastValue)


def test_a_trigger_shows_its_arguments():
    assert repr(FixedInterval(3) & ~RandomTrigger(0.5)) == (
        "AllOf(triggers=[FixedInterval(epochs=3), Not(trigger=RandomTrigger(probability=0.5))])"
    )
