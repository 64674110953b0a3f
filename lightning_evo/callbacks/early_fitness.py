"""Early stopping by the predicted final fitness."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from lightning_evo._compat.lightning import callbacks_of
from lightning_evo.archive.ranking import non_domination_ranks
from lightning_evo.archive.shared_results import SharedResult, SharedResultsReader
from lightning_evo.callbacks.evaluations import EvaluationReader, MetricNotLogged, Reading, expected_evaluations
from lightning_evo.callbacks.records import EarlyFitnessRecord, FitnessInterval
from lightning_evo.callbacks.search import SearchCallback, SearchContext
from lightning_evo.genome import Objective, derive_seed
from lightning_evo.predictors.curves.bayes import BayesianCurve
from lightning_evo.predictors.curves.learning_curve import CurvePredictor, FinalFitness, KnownCurve, Target
from lightning_evo.predictors.curves.policies import (
    CurveContext,
    ProbabilityOfImprovement,
    StoppingPolicy,
    Verdict,
    probability_not_dominated,
)

__all__ = ["EarlyFitnessPrediction"]

LEVEL = 0.9
"""Probability of the intervals that are recorded."""


class EarlyFitnessPrediction(SearchCallback, EarlyStopping):
    """Stop a training whose final fitness will hardly beat the bar, and predict that fitness.

    After each evaluation (a moment at which every logged objective was logged: usually the end of an epoch, see
    :class:`~lightning_evo.callbacks.FitnessRecorder`) the curve so far gives a distribution of the final fitness. In a
    search the bar is the best fitness
    (or the ``rank``-th best) of the candidates trained to their end so far, and follows them while this one trains; with
    several objectives a candidate stops when it is unlikely to be dominated by none of them. Its result then has the
    status ``stopped``, and the predicted fitness (medians). In a Trainer without a search, ``monitor`` and ``bar`` say
    what to beat; without a bar nothing is stopped.

    A fraction of the candidates are ``controls``: they train to their end all the same, and show how often stopping would
    have been wrong. What was decided, and by what, is in :attr:`extra`.

    Override :meth:`should_stop` to decide otherwise. Under DDP rank 0 decides for all.

    Args:
        delta: δ: stop when P(final fitness beats the bar) ≤ δ, in (0, 1) (default 0.05).
        predictor: What predicts (default :class:`~lightning_evo.predictors.BayesianCurve`).
        minimum_epochs: No candidate stops before so many evaluations (default 3).
        rank: The bar is the fitness of the ``rank``-th best (default 1, the best): what a search needs of its survivors.
            With several objectives the front is the bar, whatever the rank.
        controls: The fraction of candidates, in [0, 1), that are never stopped (default 0.05).
        policy: Decides instead of ``delta`` and ``minimum_epochs``, by the curve of the first logged objective:
            :class:`~lightning_evo.predictors.SuccessiveHalvingRule`, ``Hyperband``, ``MedianRule``,
            ``Patience`` or your own. ``predictor`` then only predicts the fitness of what it stops.
        monitor: The metric, outside of a search.
        mode: ``max`` or ``min``, outside of a search.
        target: The fitness is the ``best`` value of all evaluations (default) or the ``last``, outside of a search.
        bar: The fitness to beat, outside of a search.

    Raises:
        ValueError: If a number is out of range. During ``fit``: if neither ``max_epochs`` nor ``max_steps`` is set, as
            there is then no end to predict.
        MetricNotLogged: When training has ended, if the monitored metric was never there.

    Source:
        Domhan, Springenberg & Hutter 2015; Adriaensen et al. 2023 (LC-PFN, arXiv:2310.20447) for the prior over curves.

    Example:
        >>> callback = EarlyFitnessPrediction(monitor="val_acc", bar=0.99)
        >>> curve = [0.30, 0.40, 0.45, 0.47, 0.485, 0.49, 0.495, 0.497, 0.499, 0.4995]
        >>> callback.should_stop({"val_acc": curve}, horizon=20, known=[]).stop
        True
    """

    needs_shared_results = True
    ends_trainings = True

    def __init__(
        self,
        delta: float = 0.05,
        predictor: CurvePredictor | None = None,
        minimum_epochs: int = 3,
        rank: int = 1,
        controls: float = 0.05,
        policy: StoppingPolicy | None = None,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        target: Literal["best", "last"] = "best",
        bar: float | None = None,
    ) -> None:
        # Lightning reads a metric that the module logs at the epoch's very end only for its EarlyStopping and Checkpoint;
        # EarlyStopping's own way of deciding is not used.
        if rank < 1:
            raise ValueError(f"rank: {rank!r} is not at least 1")
        if not 0 <= controls < 1:
            raise ValueError(f"controls: {controls!r} is not in [0, 1)")
        if target not in ("best", "last"):
            raise ValueError(f"target: {target!r} is not 'best' or 'last'")
        Objective(monitor or "any", mode)  # raises where the mode is neither max nor min
        self.predictor = predictor
        self.policy = policy
        self.delta, self.minimum_epochs = delta, minimum_epochs
        self._policy = policy or ProbabilityOfImprovement(predictor, delta, minimum_epochs)
        own = self._policy.predictor if isinstance(self._policy, ProbabilityOfImprovement) else predictor
        self._predictor = own or BayesianCurve()
        self.rank, self.controls = rank, controls
        self.monitor = monitor  # type: ignore[assignment] # EarlyStopping's own is never None
        self.mode, self.bar = mode, bar
        self.target: Target = target
        self._objectives: tuple[Objective, ...] = () if monitor is None else (Objective(monitor, mode),)
        self._predictors: dict[str, CurvePredictor] = {}
        self._context: SearchContext | None = None
        self._known: SharedResultsReader | None = None
        self._costs: Mapping[str, float] = {}
        self._reader = EvaluationReader()
        self._now: dict[str, float] = {}  # what was logged for the present weights
        self._counted = False  # whether that is an evaluation
        self._logged: dict[str, None] = {}
        self._curves: dict[str, list[float]] = {}
        self._progress: list[float | None] = []
        self._record: EarlyFitnessRecord | None = None
        self._fitness: tuple[float, ...] | None = None

    # -- the search ----------------------------------------------------------------------------------------------------

    def check_search(self, objectives: Sequence[Objective], epochs: int | None) -> None:
        if not any(objective.logged for objective in objectives):
            raise ValueError("monitor: every objective is a cost; there is no curve to predict")
        needed = max(self.minimum_epochs, self._predictor.minimum_epochs) if self.policy is None else 1
        if epochs is not None and epochs <= needed:
            raise ValueError(
                f"minimum_epochs: a prediction needs {needed} epochs, and candidates train {epochs} (trainer.max_epochs): "
                f"give them more, or leave this callback out"
            )

    def join_search(self, context: SearchContext) -> None:
        self._context = context
        self._objectives = context.objectives
        self.target = context.fitness_epoch
        self._known = None if context.shared_results is None else SharedResultsReader(context.shared_results)

    @property
    def control(self) -> bool:
        """Whether this candidate trains to its end whatever is predicted, to check the predictions."""
        if self._context is None:
            return False
        return derive_seed(self._context.seed, "control") < self.controls * 2**32

    @property
    def extra(self) -> Mapping[str, Any]:
        return {} if self._record is None else {self._record.key: self._record.to_dict()}

    @property
    def predicted_fitness(self) -> tuple[float, ...] | None:
        return self._fitness

    # -- the decision --------------------------------------------------------------------------------------------------

    def should_stop(
        self, curves: Mapping[str, Sequence[float]], horizon: int, known: Sequence[SharedResult]
    ) -> Verdict:
        """Decide after an evaluation.

        Args:
            curves: The curve so far of every objective that is logged, one value per evaluation.
            horizon: How many evaluations the training would have altogether.
            known: Results of other candidates, as far as they may be known.

        Returns:
            Whether to stop, P(the final fitness beats the bar) where there is a bar, and the prediction of the first
            objective that is logged.
        """
        first = next(objective for objective in self._objectives if objective.logged)
        if len(self._objectives) > 1 and isinstance(self._policy, ProbabilityOfImprovement):
            return self._against_front(self._policy, curves, horizon, known)
        context = self._context
        verdict = self._policy.decide(
            CurveContext(
                curves[first.monitor],
                horizon,
                self._curves_of(first, known),
                self._bar(first, known),
                mode=first.mode,
                target=self.target,
                features=() if context is None else context.features,
                candidate=0 if context is None else context.candidate,
                # Not the candidate's own: all candidates must agree on which of them is in which bracket.
                seed=0 if context is None else context.search_seed,
            )
        )
        if verdict.stop and not any(map(math.isfinite, curves[first.monitor])):
            return Verdict(False, reason="no value so far is a number")
        if verdict.stop and verdict.prediction is None:
            # Policies that only compare leave the fitness of what they stop to the predictor.
            prediction = self._predict(first, curves[first.monitor], horizon, known)
            verdict = Verdict(True, verdict.probability, prediction, verdict.reason)
        return verdict

    def _against_front(
        self,
        policy: ProbabilityOfImprovement,
        curves: Mapping[str, Sequence[float]],
        horizon: int,
        known: Sequence[SharedResult],
    ) -> Verdict:
        """Stop when P(no point of the front dominates the candidate) ≤ δ."""
        finals: list[FinalFitness | float] = []
        for objective in self._objectives:
            if not objective.logged:
                finals.append(self._cost(objective, len(next(iter(curves.values()))), horizon))
                continue
            curve = curves[objective.monitor]
            needed = max(policy.minimum_epochs, policy.predictor.minimum_epochs)
            if sum(map(math.isfinite, curve)) < needed:
                return Verdict(
                    False, reason=f"{objective.monitor} has fewer than the {needed} evaluations a prediction needs"
                )
            finals.append(self._predict(objective, curve, horizon, known))
        predictions = [final for final in finals if isinstance(final, FinalFitness)]
        front = [result.fitness for result in known if result.complete]
        if not front or not all(isinstance(final, FinalFitness) or math.isfinite(final) for final in finals):
            return Verdict(False, None, predictions[0], "there is no front yet")
        weights = [objective.weight for objective in self._objectives]
        seed = 0 if self._context is None else self._context.seed
        probability = probability_not_dominated(finals, front, weights, seed)
        if not all(prediction.explained for prediction in predictions):
            return Verdict(False, probability, predictions[0], "a curve is not explained")
        reason = f"P(not dominated) = {probability:.3g}"
        return Verdict(probability <= policy.delta, probability, predictions[0], reason)

    def _predict(
        self, objective: Objective, curve: Sequence[float], horizon: int, known: Sequence[SharedResult]
    ) -> FinalFitness:
        # One predictor per metric: each may keep what it learned from that metric's curves.
        predictor = self._predictors.setdefault(objective.monitor, copy.deepcopy(self._predictor))
        features = () if self._context is None else self._context.features
        if sum(map(math.isfinite, curve)) < predictor.minimum_epochs:
            # A policy may stop what is too young for the predictor: its best value so far is all there is.
            best = (max if objective.mode == "max" else min)(filter(math.isfinite, curve))
            return FinalFitness.normal(best, 0.0, explained=False)
        fitted = predictor.fit(self._curves_of(objective, known))
        return fitted.predict(curve, horizon, self.target, objective.mode, features)

    def _bar(self, objective: Objective, known: Sequence[SharedResult]) -> float | None:
        """The fitness to beat: the one given, or that of the ``rank``-th best candidate that was trained to its end."""
        at = self._objectives.index(objective)
        reached = sorted((r.fitness[at] for r in known if r.complete), reverse=objective.mode == "max")
        return reached[self.rank - 1] if len(reached) >= self.rank else self.bar

    def _front(self, known: Sequence[SharedResult]) -> list[list[float]]:
        """The fitness of those trained to their end that none of these dominates."""
        reached = [result.fitness for result in known if result.complete]
        ranks = non_domination_ranks(reached, self._objectives)
        return [list(fitness) for fitness, rank in zip(reached, ranks, strict=True) if rank == 0]

    def _curves_of(self, objective: Objective, known: Sequence[SharedResult]) -> list[KnownCurve]:
        at = self._objectives.index(objective)
        return [
            KnownCurve(r.id, r.curves[objective.monitor], r.fitness[at], r.features, r.cost, r.complete)
            for r in known
            if objective.monitor in r.curves
        ]

    def _cost(self, objective: Objective, count: int, horizon: int) -> float:
        """A cost at the end of training; costs that grow with training are extrapolated; NaN if it isn't measured."""
        name = objective.monitor.removeprefix("cost/")
        cost = float(self._costs.get(name, math.nan))
        return cost * horizon / count if name in ("seconds", "epochs", "training_flops") else cost

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        return type(self).__qualname__  # not by the monitor, which a search may set

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not self._objectives:
            raise ValueError("EarlyFitnessPrediction: monitor is not given, and there is no search to give objectives")
        if (trainer.max_epochs is None or trainer.max_epochs < 1) and trainer.max_steps < 1:
            raise ValueError(
                f"EarlyFitnessPrediction: max_epochs {trainer.max_epochs} and max_steps {trainer.max_steps} leave no end to "
                "predict; set one of them"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reader.begin(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reading = self._reader.after_validation(trainer, trainer.callback_metrics)
        if reading is not None:
            self._take_in(trainer, reading, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reading = self._reader.after_epoch(trainer, trainer.callback_metrics)
        self._take_in(trainer, reading, trainer.current_epoch + 1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self._context is not None:  # in a search the FitnessRecorder says more
            return
        missing = [name for name in self._monitors if name not in trainer.callback_metrics]
        if missing and not self._progress:
            logged = ", ".join(sorted(self._logged)) or "nothing"
            raise MetricNotLogged(f"{', '.join(missing)}: never logged; the module logs {logged}")

    @property
    def _monitors(self) -> list[str]:
        return [objective.monitor for objective in self._objectives if objective.logged]

    def _take_in(self, trainer: Trainer, reading: Reading, epochs: int) -> None:
        """Take in what was logged, and decide if that makes an evaluation; so many epochs are finished."""
        self._logged.update(dict.fromkeys(reading.metrics))
        if not reading.completes:
            self._now, self._counted = {}, False
        self._now.update(reading.metrics)
        if self._counted or not all(name in self._now for name in self._monitors):
            return
        self._counted = True
        self._progress.append(reading.progress)
        for name in self._monitors:
            self._curves.setdefault(name, []).append(self._now[name])
        meters: list[Any] = [each for each in callbacks_of(trainer) if getattr(each, "measures_cost", False)]
        self._costs = {name: value for meter in meters for name, value in meter.cost.items()}
        self._decide(trainer, reading, epochs)

    def _decide(self, trainer: Trainer, reading: Reading, epochs: int) -> None:
        evaluations, horizon = len(self._progress), expected_evaluations(self._progress)
        stop = False
        # Lightning goes on until min_epochs and min_steps whatever is decided, so nothing is decided before.
        may_end = epochs >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
        if trainer.is_global_zero and may_end and horizon is not None and evaluations < horizon and not self._decided:
            known = [] if self._known is None else self._known.read()
            verdict = self.should_stop(self._curves, horizon, known)
            stop = self._note(verdict, reading, evaluations, horizon, known)
        stop = trainer.strategy.broadcast(stop)
        trainer.should_stop = trainer.should_stop or stop

    @property
    def _decided(self) -> bool:
        would_stop = self._record is not None and self._record.would_stop_at is not None
        return would_stop or self._fitness is not None

    def _note(
        self, verdict: Verdict, reading: Reading, count: int, horizon: int, known: Sequence[SharedResult]
    ) -> bool:
        """Record a verdict; returns whether the training ends here."""
        first = next(objective for objective in self._objectives if objective.logged)
        decision = [count - 1, verdict.probability]
        if verdict.prediction is not None:
            decision += [verdict.prediction.median, *verdict.prediction.interval(LEVEL)]
        earlier = () if self._record is None else self._record.decisions
        self._record = EarlyFitnessRecord(
            horizon=horizon,
            control=self.control,
            bar=self._bar(first, known) if len(self._objectives) == 1 else None,
            front=self._front(known) if len(self._objectives) > 1 and verdict.stop else None,
            policy=type(self._policy).__name__,
            delta=self.delta if self.policy is None else None,
            probability=verdict.probability,
            decisions=[*earlier, [_short(number) for number in decision]],
            reason=verdict.reason,
            share=reading.progress,
            epochs=reading.epochs,
        )
        if not verdict.stop:
            return False
        finals = [self._final(objective, count, horizon, known, verdict) for objective in self._objectives]
        named = zip(self._objectives, finals, strict=True)
        self._record = replace(
            self._record,
            predicted={o.monitor: _interval(f) for o, f in named if isinstance(f, FinalFitness)},
            would_stop_at=count - 1 if self.control else None,
            stopped_at=None if self.control else count - 1,
        )
        if not self.control:
            self._fitness = tuple(final.median if isinstance(final, FinalFitness) else final for final in finals)
        return not self.control

    def _final(
        self, objective: Objective, count: int, horizon: int, known: Sequence[SharedResult], verdict: Verdict
    ) -> FinalFitness | float:
        if not objective.logged:
            return self._cost(objective, count, horizon)
        if len(self._objectives) == 1 and verdict.prediction is not None:
            return verdict.prediction
        return self._predict(objective, self._curves[objective.monitor], horizon, known)

    def state_dict(self) -> dict[str, Any]:
        fitness = None if self._fitness is None else list(self._fitness)
        return {
            "curves": {name: list(curve) for name, curve in self._curves.items()},
            "record": {} if self._record is None else self._record.to_dict(),
            "fitness": fitness,
            "progress": list(self._progress),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._curves = {name: list(curve) for name, curve in state_dict["curves"].items()}
        record = state_dict["record"]
        self._record = EarlyFitnessRecord.from_dict(record) if record else None
        self._fitness = None if state_dict["fitness"] is None else tuple(state_dict["fitness"])
        # Earlier versions didn't write down how far the training was: what follows tells.
        known = max((len(curve) for curve in self._curves.values()), default=0)
        self._progress = list(state_dict.get("progress", [None] * known))


def _short(number: float | None) -> float | None:
    """Six digits: the record has a row for every evaluation."""
    return None if number is None else float(f"{number:.6g}")


def _interval(final: FinalFitness) -> FitnessInterval:
    low, high = final.interval(LEVEL)
    return FitnessInterval(final.mean, final.std, final.median, low, high)
