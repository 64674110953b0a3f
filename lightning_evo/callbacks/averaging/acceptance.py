"""Acceptance of averages by validation, and soups: what scores worse is undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_evo._compat.lightning import dump_checkpoint
from lightning_evo.callbacks.averaging.calibration import validation_batches
from lightning_evo.callbacks.averaging.settings import Mode
from lightning_evo.callbacks.search import SearchContext, StackedModule
from lightning_evo.functional.mixing import ranked, soup
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.swarm import Particles, Swarm
from lightning_evo.swarms.validation import validate
from lightning_evo.utils.files import atomic_path
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["Soup", "ValidationScorer", "apply_averages", "make_soup", "save_weights"]


class ValidationScorer:
    """Scores modules by a validation metric; lower scores are better.

    Args:
        monitor: The metric's name. Default: a search's first objective that is a metric, otherwise ``val_loss``.
        mode: Whether ``monitor`` is minimized or maximized.
    """

    def __init__(self, monitor: str | None, mode: Mode) -> None:
        self.monitor, self.mode, self._given = monitor or "val_loss", mode, monitor is not None
        self._checked = False

    def join_search(self, context: SearchContext) -> None:
        """Use the search's objective, unless a metric was given."""
        measured = [one for one in context.objectives if not one.monitor.startswith("cost/")]
        if measured and not self._given:
            self.monitor, self.mode = measured[0].monitor, measured[0].mode

    @property
    def sign(self) -> float:
        """Score = sign times metric."""
        return -1.0 if self.mode == "max" else 1.0

    def score(self, trainer: Trainer, module: LightningModule) -> float:
        """The score of a module on the validation data; no random state changes.

        Raises:
            SwarmError: If the metric isn't logged, or there is no validation.
        """
        with isolated_random_state():
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
                f"monitor: {self.monitor!r} is not among what {type(module).__name__} logs in validation: {logged}"
            )


def apply_averages(
    particles: Particles,
    new: Mapping[str, Tensor],
    changed: Sequence[int],
    refresh: Callable[[LightningModule], None],
    score: Callable[[LightningModule], float] | None,
) -> list[int]:
    """Give particles new weights, and restore the old ones of those that score worse with them.

    Args:
        particles: The particles of this process.
        new: Name -> (count, ...); other tensors don't change.
        changed: Indices in this process of the particles that get them.
        refresh: Is called with a module that has new weights, for example to estimate its batch statistics.
        score: The score of a module, lower is better; ``None``: keep all.

    Returns:
        Indices of the particles that kept their new weights.
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
        if reference != reference or score(modules[place]) <= reference:  # any score is better than NaN
            kept.append(place)
        else:
            for name, tensor in weights.items():
                tensor[place] = old[name][at]
    return kept


@dataclass(frozen=True)
class Soup:
    """The result of a soup.

    Args:
        kind: ``uniform`` or ``greedy``.
        ingredients: The particles that are averaged; only the best one if no mean was as good.
        into: The best particle: the soup replaces its weights if kept.
        best: The best particle's own score.
        value: The score of the ingredients' mean.
        kept: Whether it replaced the best particle's weights.
    """

    kind: str
    ingredients: tuple[int, ...]
    into: int
    best: float
    value: float
    kept: bool

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return {**asdict(self), "ingredients": list(self.ingredients)}


def make_soup(
    kind: Literal["uniform", "greedy"],
    swarm: Swarm,
    score: Callable[[LightningModule], float],
    refresh: Callable[[LightningModule], None],
    always: bool = False,
) -> Soup:
    """Make a model soup (Wortsman et al. 2022) of a swarm, which replaces its best particle if it isn't worse.

    ``uniform``: the mean of all particles with a finite score. ``greedy``: particles are added from the best to the worst,
    each kept if the mean with it scores no worse than without. All processes of a swarm call it.

    Args:
        kind: The kind of soup.
        swarm: The swarm.
        score: The score of a module; lower is better.
        refresh: Is called with a module that holds a mean, before it is scored.
        always: Keep the uniform soup even if it is worse.

    Returns:
        The result; equal in all processes.
    """
    modules, local, weights = swarm.particles.modules, swarm.local, swarm.particles.weights()
    scores = swarm.gather(torch.tensor([score(module) for module in modules], dtype=torch.float64)).cpu()
    order = [one for one in ranked(scores) if bool(torch.isfinite(scores[one]))]
    if not order:
        return Soup(kind, (), 0, float("nan"), float("nan"), False)
    best, reached = order[0], float(scores[order[0]])
    place = best - local.start if best in local else None  # of the best one among this process's
    own = {} if place is None else {name: tensor[place].clone() for name, tensor in weights.items()}

    def put(row: Mapping[str, Tensor]) -> None:
        for name, tensor in row.items():
            weights[name][place].copy_(tensor)

    def mean_of(ingredients: Sequence[int]) -> float:
        """The score of the ingredients' mean, in all processes; the best particle holds the mean afterwards."""
        put(own)  # means are always those of the original particles
        mixed = swarm.combine(weights, soup(swarm.size, ingredients, best))
        here = torch.full((len(modules),), float("nan"), dtype=torch.float64)
        if place is not None:
            put({name: tensor[place] for name, tensor in mixed.items()})
            refresh(modules[place])
            here[place] = score(modules[place])
        return float(swarm.gather(here)[best])

    ingredients, value, standing = [best], reached, [best]
    # A uniform soup is one attempt with all particles, a greedy one an attempt with each.
    for added in [order[1:]] if kind == "uniform" else [[one] for one in order[1:]]:
        standing = [*ingredients, *added]
        scored = mean_of(standing)
        if scored <= value or (always and kind == "uniform"):
            ingredients, value = standing, scored
    kept = len(ingredients) > 1
    if kept and standing != ingredients:
        mean_of(ingredients)
    elif not kept:
        put(own)
    return Soup(kind, tuple(ingredients), best, reached, value, kept)


def save_weights(trainer: Trainer, pl_module: LightningModule, place: int, path: Path) -> None:
    """Write the weights of one of this process's particles as a checkpoint that stock Lightning opens, atomically."""
    if isinstance(pl_module, StackedModule):
        checkpoint = pl_module.particle_checkpoint(place, weights_only=True)
    else:
        checkpoint = dump_checkpoint(trainer, weights_only=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        torch.save(checkpoint, part)
