"""Is an average any good? Validation decides, and what it rejects is taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_evo.callbacks.averaging_data import validation_batches
from lightning_evo.callbacks.averaging_settings import Mode
from lightning_evo.callbacks.search import SearchContext
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.particles import Particles
from lightning_evo.swarms.validation import validate

__all__ = ["Judge", "put"]


class Judge:
    """Scores modules by a validation metric; lower scores are better.

    Args:
        monitor: The metric's name. Default: a search's first objective that is one, else ``val_loss``.
        mode: Whether ``monitor`` is to be small or large.
    """

    def __init__(self, monitor: str | None, mode: Mode) -> None:
        self.monitor, self.mode, self._given = monitor or "val_loss", mode, monitor is not None
        self._checked = False

    def join_search(self, context: SearchContext) -> None:
        """Go by the search's objective, unless told otherwise."""
        measured = [one for one in context.objectives if not one.monitor.startswith("cost/")]
        if measured and not self._given:
            self.monitor, self.mode = measured[0].monitor, measured[0].mode

    @property
    def sign(self) -> float:
        """Score = sign times metric."""
        return -1.0 if self.mode == "max" else 1.0

    def score(self, trainer: Trainer, module: LightningModule) -> float:
        """How good a module is on the validation data; no random state changes.

        Raises:
            SwarmError: If the metric isn't logged, or there is no validation.
        """
        with isolate_rng():
            metrics = validate(module, validation_batches(trainer))
        self._check(metrics, module)
        return self.sign * metrics[self.monitor]

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """After the Trainer's own validation: raise ``SwarmError`` if the metric isn't logged, before it is needed."""
        if not self._checked and len(trainer.num_val_batches) == 1:  # else its name has the loader's number
            self._check(trainer.callback_metrics, module)
        self._checked = True

    def _check(self, metrics: Mapping[str, object], module: LightningModule) -> None:
        if self.monitor not in metrics:
            logged = ", ".join(sorted(metrics)) or "nothing"
            raise SwarmError(
                f"monitor: {self.monitor} is not among what {type(module).__name__} logs in validation: {logged}"
            )


def put(
    particles: Particles,
    new: Mapping[str, Tensor],
    changed: Sequence[int],
    refresh: Callable[[LightningModule], None],
    score: Callable[[LightningModule], float] | None,
) -> list[int]:
    """Give particles new weights, and the old ones back to those that score worse with them.

    Args:
        particles: Those of this process.
        new: Name -> (count, ...); other tensors stay.
        changed: Who gets them, by their place here.
        refresh: What is done to a module with new weights, such as estimating its batch statistics.
        score: How good a module is, lower is better; ``None``: all are kept.

    Returns:
        Whose new weights were kept.
    """
    weights, modules, places = particles.weights(), particles.modules, list(changed)
    if not places:
        return []
    before = [score(modules[place]) for place in places] if score is not None else []
    old = {name: tensor[places].clone() for name, tensor in weights.items()} if score is not None else {}
    for name, tensor in new.items():
        weights[name][places] = tensor[places]
    for place in places:
        refresh(modules[place])
    if score is None:
        return places
    kept = []
    for at, (place, reference) in enumerate(zip(places, before, strict=True)):
        if reference != reference or score(modules[place]) <= reference:  # nothing is worse than NaN
            kept.append(place)
        else:
            for name, tensor in weights.items():
                tensor[place] = old[name][at]
    return kept
