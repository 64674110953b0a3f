"""Hopeless trainings end early with a predicted fitness; others, and controls, go on; what was decided is kept."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightning_evo import Budget, Evolution, Workers
from lightning_evo.archive.shared_results import SharedResult, SharedResultsReader, SharedResultsWriter
from lightning_evo.callbacks import CostMeter, EarlyFitnessPrediction
from lightning_evo.callbacks.fitness import MetricNotLogged
from lightning_evo.callbacks.search import SearchContext
from lightning_evo.genome import LogUniform, Objective
from lightning_evo.predictors.curves.learning_curve import FinalFitness, LastValue
from lightning_evo.predictors.curves.policies import (
    Hyperband,
    MedianRule,
    ProbabilityOfImprovement,
    StoppingPolicy,
    SuccessiveHalvingRule,
    Verdict,
)
from toys import ToyData, ToyNet

NAN = math.nan
SCORE = (Objective("score"),)
FLAT = [0.3, 0.4, 0.45, 0.47, 0.485, 0.49, 0.495, 0.497, 0.499, 0.4995] + [0.5] * 10
RISING = [0.1, 0.3, 0.45, 0.56, 0.65, 0.72, 0.77, 0.81, 0.84, 0.86, 0.88, 0.9, 0.91, 0.92, 0.93, 0.935, 0.94, 0.945]


class Scripted(ToyNet):
    """Logs the values it is given, one an epoch, and where asked a second metric."""

    def __init__(self, script, second=None):
        super().__init__()
        self.script, self.second = script, second

    def validation_step(self, batch, batch_idx):
        if self.trainer.sanity_checking:
            return
        self.log("score", torch.tensor(self.script[self.current_epoch]))
        if self.second:
            self.log("other", torch.tensor(self.second[self.current_epoch]))


def fit(callback, tmp_path, script=FLAT, second=None, others=(), **arguments):
    """Train on a scripted curve; returns how many epochs that took."""
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[*others, callback],
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": len(script)} | arguments,
    )
    trainer.fit(Scripted(script, second), ToyData())
    return trainer.current_epoch


def context(seed=0, objectives=SCORE, known=None):
    return SearchContext(candidate=7, seed=seed, objectives=tuple(objectives), shared_results=known)


def known(id, fitness, curve=(), complete=True):
    return SharedResult(id, "completed" if complete else "stopped", fitness, {"score": tuple(curve)})


def seed_of(callback, control):
    """A seed with which a candidate is a control, or none."""
    for seed in range(1000):
        callback.join_search(context(seed=seed))
        if callback.control is control:
            return seed
    raise AssertionError("no such seed")


# -- without a search --------------------------------------------------------------------------------------------------


def test_a_training_that_cannot_reach_the_bar_ends_early_and_its_fitness_is_predicted(tmp_path):
    callback = EarlyFitnessPrediction(monitor="score", bar=0.9)
    epochs = fit(callback, tmp_path)
    assert epochs < len(FLAT) / 2
    assert callback.predicted_fitness == pytest.approx((0.5,), abs=0.2)
    record = callback.extra["early_fitness"]
    assert record["stopped_at"] == epochs - 1
    assert record["probability"] <= 0.05
    assert record["bar"] == 0.9
    assert record["predicted"]["score"]["low"] < 0.5 < record["predicted"]["score"]["high"]
    assert [row[0] for row in record["decisions"]] == list(range(epochs))


@pytest.mark.parametrize(("script", "bar"), [(RISING, 0.93), (FLAT, 0.45), (FLAT, None)])
def test_a_training_that_may_beat_the_bar_goes_on_to_its_end(script, bar, tmp_path):
    callback = EarlyFitnessPrediction(monitor="score", bar=bar)
    assert fit(callback, tmp_path, script) == len(script)
    assert callback.predicted_fitness is None
    assert callback.extra["early_fitness"]["stopped_at"] is None


def test_metrics_are_minimised_where_asked(tmp_path):
    losses = [1 - value for value in FLAT]
    assert fit(EarlyFitnessPrediction(monitor="score", mode="min", bar=0.1), tmp_path, losses) < len(losses)
    assert fit(EarlyFitnessPrediction(monitor="score", mode="min", bar=0.6), tmp_path, losses) == len(losses)


def test_nothing_is_decided_before_min_epochs(tmp_path):
    callback = EarlyFitnessPrediction(monitor="score", bar=0.9)
    assert fit(callback, tmp_path, min_epochs=12) == 12
    assert callback.extra["early_fitness"]["decisions"][0][0] == 11


def test_epochs_without_a_number_are_missing_points_of_the_curve(tmp_path):
    holes = [NAN if at in (1, 3) else value for at, value in enumerate(FLAT)]
    callback = EarlyFitnessPrediction(monitor="score", bar=0.9)
    assert fit(callback, tmp_path, holes) < len(FLAT)
    assert callback.predicted_fitness == pytest.approx((0.5,), abs=0.2)


def test_an_epoch_without_validation_adds_no_point_twice(tmp_path):
    seen = []

    class Watches(EarlyFitnessPrediction):
        def should_stop(self, curves, horizon, known):
            seen.append(list(curves["score"]))
            return Verdict(False)

    fit(Watches(monitor="score", bar=0.9), tmp_path, FLAT[:7], check_val_every_n_epoch=2, num_sanity_val_steps=0)
    assert seen == [pytest.approx([FLAT[1]]), pytest.approx([FLAT[1], FLAT[3]])]


def test_a_metric_that_is_never_logged_is_named_with_those_that_are(tmp_path):
    with pytest.raises(MetricNotLogged, match=r"accuracy: never logged; the module logs score, train_loss"):
        fit(EarlyFitnessPrediction(monitor="accuracy", bar=0.9), tmp_path)


def test_a_training_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_epochs -1 and max_steps -1 leave no end to predict"):
        fit(EarlyFitnessPrediction(monitor="score", bar=0.9), tmp_path, max_epochs=-1)


def test_without_a_monitor_or_a_search_there_is_nothing_to_predict(tmp_path):
    with pytest.raises(ValueError, match="monitor is not given"):
        fit(EarlyFitnessPrediction(), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"delta": 0}, "delta: 0 is not between 0 and 1"),
        ({"delta": 1.0}, "delta: 1.0 is not between 0 and 1"),
        ({"rank": 0}, "rank: 0 is not at least 1"),
        ({"controls": 1}, "controls: 1 is not in"),
        ({"minimum_epochs": 0}, "minimum_epochs: 0 is not at least 1"),
        ({"mode": "up"}, "mode: 'up' is not"),
        ({"target": "first"}, "target: 'first' is not"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        EarlyFitnessPrediction(**arguments)


def test_a_subclass_decides_otherwise(tmp_path):
    class Patient(EarlyFitnessPrediction):
        def should_stop(self, curves, horizon, known):
            verdict = super().should_stop(curves, horizon, known)
            return verdict if len(curves["score"]) >= 10 else Verdict(False)

    assert fit(Patient(monitor="score", bar=0.9), tmp_path) == 10


# -- in a search -------------------------------------------------------------------------------------------------------


def test_the_bar_follows_those_that_end_while_this_one_trains(tmp_path):
    writer = SharedResultsWriter(tmp_path / "known.jsonl")

    class OthersEnd(EarlyFitnessPrediction):
        def should_stop(self, curves, horizon, known):
            if len(curves["score"]) == 12:
                writer.add([globals()["known"](1, (0.9,))])
            return super().should_stop(curves, horizon, known)

    callback = OthersEnd(controls=0)
    callback.join_search(context(known=str(tmp_path / "known.jsonl")))
    assert fit(callback, tmp_path) == 13
    assert callback.extra["early_fitness"]["bar"] == 0.9


def test_only_fitness_that_was_reached_makes_the_bar(tmp_path):
    SharedResultsWriter(tmp_path / "known.jsonl").add([known(1, (0.9,), complete=False), known(2, (0.4,))])
    callback = EarlyFitnessPrediction(controls=0)
    callback.join_search(context(known=str(tmp_path / "known.jsonl")))
    assert fit(callback, tmp_path) == len(FLAT)
    assert callback.extra["early_fitness"]["bar"] == 0.4


def test_the_bar_can_be_the_kth_best(tmp_path):
    SharedResultsWriter(tmp_path / "known.jsonl").add([known(1, (0.95,)), known(2, (0.3,)), known(3, (0.9,))])
    bars = {}
    for rank in (1, 2, 3, 4):
        callback = EarlyFitnessPrediction(controls=0, rank=rank)
        callback.join_search(context(known=str(tmp_path / "known.jsonl")))
        fit(callback, tmp_path, FLAT[:5])
        bars[rank] = callback.extra["early_fitness"]["bar"]
    assert bars == {1: 0.95, 2: 0.9, 3: 0.3, 4: None}


def test_a_control_goes_on_and_remembers_when_it_would_have_ended(tmp_path):
    callback = EarlyFitnessPrediction(controls=0.5, bar=0.9)
    callback.join_search(context(seed=seed_of(callback, control=True)))
    assert fit(callback, tmp_path) == len(FLAT)
    assert callback.predicted_fitness is None
    record = callback.extra["early_fitness"]
    assert record["control"]
    assert record["stopped_at"] is None
    assert 0 < record["would_stop_at"] < len(FLAT) / 2
    assert record["predicted"]["score"]["median"] == pytest.approx(0.5, abs=0.2)


def test_so_many_candidates_are_controls_as_asked():
    callback = EarlyFitnessPrediction(controls=0.2)
    marks = []
    for seed in range(2000):
        callback.join_search(context(seed=seed * 7919))
        marks.append(callback.control)
    assert 0.16 < sum(marks) / len(marks) < 0.24


def test_with_several_objectives_a_candidate_ends_that_something_will_dominate(tmp_path):
    objectives = [Objective("score"), Objective("cost/params", "min")]
    params = sum(parameter.numel() for parameter in Scripted(FLAT).parameters())

    def epochs(front):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        SharedResultsWriter(path).add([known(at, point) for at, point in enumerate(front)])
        callback = EarlyFitnessPrediction(controls=0)
        callback.join_search(context(objectives=objectives, known=str(path)))
        return fit(callback, tmp_path, others=[CostMeter()]), callback

    ended, callback = epochs([(0.9, params - 1)])
    assert ended < len(FLAT)
    assert callback.predicted_fitness == (pytest.approx(0.5, abs=0.2), params)
    # Nothing that good is as small, so it belongs to the front however it ends.
    assert epochs([(0.9, params + 1)])[0] == len(FLAT)
    assert epochs([])[0] == len(FLAT)


class Meter(Callback):
    """Measures a cost of its own."""

    measures_cost = True
    cost = {"params": 7.0}  # noqa: RUF012


def test_costs_are_those_of_whatever_callback_declares_to_measure_them(tmp_path):
    SharedResultsWriter(tmp_path / "known.jsonl").add([known(0, (0.9, 6))])
    callback = EarlyFitnessPrediction(controls=0)
    objectives = [Objective("score"), Objective("cost/params", "min")]
    callback.join_search(context(objectives=objectives, known=str(tmp_path / "known.jsonl")))
    assert fit(callback, tmp_path, others=[Meter()]) < len(FLAT)
    assert callback.predicted_fitness == (pytest.approx(0.5, abs=0.2), 7)


def test_every_logged_objective_is_predicted(tmp_path):
    objectives = [Objective("score"), Objective("other", "min")]
    SharedResultsWriter(tmp_path / "known.jsonl").add([known(0, (0.9, 0.1))])
    callback = EarlyFitnessPrediction(controls=0)
    callback.join_search(context(objectives=objectives, known=str(tmp_path / "known.jsonl")))
    assert fit(callback, tmp_path, second=[1 - value for value in FLAT]) < len(FLAT)
    assert callback.predicted_fitness == pytest.approx((0.5, 0.5), abs=0.2)
    assert set(callback.extra["early_fitness"]["predicted"]) == {"score", "other"}


@pytest.mark.parametrize("policy", [SuccessiveHalvingRule(grace_period=4), MedianRule(minimum_epochs=4)])
def test_policies_that_compare_curves_can_decide(policy, tmp_path):
    SharedResultsWriter(tmp_path / "known.jsonl").add([known(at, (0.9,), RISING) for at in range(8)])
    callback = EarlyFitnessPrediction(controls=0, policy=policy)
    callback.join_search(context(known=str(tmp_path / "known.jsonl")))
    slow = [value / 10 for value in FLAT]
    assert fit(callback, tmp_path, slow) == 4
    assert callback.predicted_fitness == pytest.approx((0.05,), abs=0.02)
    assert callback.extra["early_fitness"]["policy"] == type(policy).__name__


def test_a_policy_that_stops_at_once_leaves_the_value_so_far_as_the_fitness(tmp_path):
    class Impatient(StoppingPolicy):
        def decide(self, context):
            return Verdict(True, reason="at once")

    callback = EarlyFitnessPrediction(controls=0, policy=Impatient())
    callback.join_search(context())
    assert fit(callback, tmp_path) == 1
    assert callback.predicted_fitness == pytest.approx((FLAT[0],))


def test_every_candidate_sees_the_others_in_the_brackets_they_are_in(tmp_path):
    seen = []

    class Watches(Hyperband):
        def bracket(self, candidate, horizon, seed=0):
            seen.append((candidate, super().bracket(candidate, horizon, seed)))
            return seen[-1][1]

    SharedResultsWriter(tmp_path / "known.jsonl").add([known(at, (0.9,), RISING) for at in range(20)])
    for seed in (1, 2, 3):
        callback = EarlyFitnessPrediction(controls=0, policy=Watches())
        callback.join_search(context(seed=seed, known=str(tmp_path / "known.jsonl")))
        callback.should_stop({"score": FLAT[:3]}, 81, SharedResultsReader(tmp_path / "known.jsonl").read())
    assert len(seen) > 20
    assert len(set(seen)) == len({candidate for candidate, _ in seen})


def test_the_seed_of_the_search_decides_the_brackets(tmp_path):
    def bracket(seed, search_seed):
        callback = EarlyFitnessPrediction(policy=Hyperband())
        callback.join_search(SearchContext(candidate=7, seed=seed, objectives=SCORE, search_seed=search_seed))
        return callback.should_stop({"score": FLAT[:3]}, 81, []).reason.partition(",")[0]

    for search_seed in range(20):
        expected = f"bracket {Hyperband().bracket(7, 81, search_seed)}"
        assert {bracket(seed, search_seed) for seed in range(3)} == {expected}
    assert len({bracket(0, search_seed) for search_seed in range(20)}) > 1


def test_with_several_objectives_the_policys_own_predictor_predicts():
    class Certain(LastValue):
        def predict(self, curve, horizon, target="last", mode="max", features=()):
            return FinalFitness.normal(0.25, 0.0)

    objectives = [Objective("score"), Objective("other", "min")]
    callback = EarlyFitnessPrediction(policy=ProbabilityOfImprovement(Certain()))
    callback.join_search(context(objectives=objectives))
    verdict = callback.should_stop({"score": FLAT[:5], "other": FLAT[:5]}, 20, [known(0, (0.3, 0.2))])
    assert verdict.stop
    assert verdict.prediction.median == 0.25


def test_nothing_is_predicted_of_a_metric_that_was_never_a_number(tmp_path):
    class Impatient(StoppingPolicy):
        def decide(self, context):
            return Verdict(True)

    callback = EarlyFitnessPrediction(controls=0, policy=Impatient())
    callback.join_search(context())
    assert fit(callback, tmp_path, [NAN] * 4) == 4
    assert callback.predicted_fitness is None


def test_a_search_it_cannot_take_part_in_is_refused():
    with pytest.raises(ValueError, match="monitor: every objective is a cost"):
        EarlyFitnessPrediction().check_search([Objective("cost/params", "min")], 10)
    with pytest.raises(ValueError, match=r"minimum_epochs: a prediction needs 5 epochs, and candidates train 5"):
        EarlyFitnessPrediction(minimum_epochs=5).check_search([Objective("score")], 5)
    EarlyFitnessPrediction(minimum_epochs=5).check_search([Objective("score")], None)


class NamesTheSeed(StoppingPolicy):
    """Gives the seed it sees as its reason."""

    def decide(self, context):
        return Verdict(False, reason=f"seed {context.seed}")


def test_a_policy_decides_by_the_seed_of_the_search_and_not_of_the_candidate(tmp_path, config):
    with ThreadPoolExecutor(1) as executor:
        archive = Evolution(
            space={"model.init_args.lr": LogUniform(1e-3, 1.0)},
            objectives=[Objective("val_loss", "min")],
            budget=Budget(candidates=2),
            callbacks=[EarlyFitnessPrediction(policy=NamesTheSeed())],
            config=config,
            directory=tmp_path,
            workers=Workers(slots=1),
            seed=17,
            final=None,
            executor=executor,
            progress=False,
        ).run()
    with archive:
        assert [record["reason"] for record in archive.extras("early_fitness").values()] == ["seed 17"] * 2
