"""A custom callback: stops a training only after several negative predictions in a row."""

from collections.abc import Mapping, Sequence

from lightning_evo.archive.shared_results import SharedResult
from lightning_evo.callbacks import EarlyFitnessPrediction
from lightning_evo.predictors.curves.policies import Verdict


class SurerPrediction(EarlyFitnessPrediction):
    """EarlyFitnessPrediction that isn't misled by a single unlucky epoch.

    It changes one decision and inherits everything else: the prediction, the controls, what the archive remembers.

    Args:
        in_a_row: So many epochs in a row must say that it isn't worth going on.
        settings: Those of EarlyFitnessPrediction.
    """

    def __init__(self, in_a_row: int = 2, **settings) -> None:
        super().__init__(**settings)
        if in_a_row < 1:
            raise ValueError(f"in_a_row: {in_a_row!r} is not at least 1")
        self.in_a_row = in_a_row

    def should_stop(
        self, curves: Mapping[str, Sequence[float]], horizon: int, known: Sequence[SharedResult]
    ) -> Verdict:
        """Stop only if the base class would stop now and would have stopped in each of the preceding epochs."""
        verdict = super().should_stop(curves, horizon, known)
        for missing in range(1, self.in_a_row):
            if not verdict.stop:
                break
            shorter = {name: curve[:-missing] for name, curve in curves.items()}
            if not super().should_stop(shorter, horizon, known).stop:
                return Verdict(False, verdict.probability, verdict.prediction, f"otherwise {missing} epoch(s) ago")
        return verdict
