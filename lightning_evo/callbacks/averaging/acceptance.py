"""Is an average any good? Validation decides, and what it rejects is taken back."""

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

__all__ = ["Judge", "Soup", "make_soup", "put", "save_plain"]


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


# -- Which networks make a soup, and is it any better than the best of them? Decided by validation. --


@dataclass(frozen=True)
class Soup:
    """What came of a soup.

    Args:
        kind: ``uniform`` or ``greedy``.
        ingredients: The particles whose mean it is; the best one alone where no mean was as good.
        into: The best particle, whose weights it replaces if kept.
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
        """It, as plain data."""
        return {**asdict(self), "ingredients": list(self.ingredients)}


def make_soup(
    kind: Literal["uniform", "greedy"],
    swarm: Swarm,
    score: Callable[[LightningModule], float],
    refresh: Callable[[LightningModule], None],
    always: bool = False,
) -> Soup:
    """Make a model soup (Wortsman et al. 2022) of a swarm in the place of its best particle, if it isn't worse.

    ``uniform``: the mean of all particles whose score is a number. ``greedy``: particles are added from the best to the
    worst, each kept if the mean with it scores no worse than without. All processes of a swarm call it alike.

    Args:
        kind: Which soup.
        swarm: Whose particles.
        score: How good a module is; lower is better.
        refresh: What is done to a module that holds a mean, before it is scored.
        always: Keep the uniform soup even if it is worse.

    Returns:
        What came of it; equal in all processes.
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
        """The score of the ingredients' mean, which then stands in the best one's place, in all processes."""
        put(own)  # a mean is always taken of the particles themselves
        mixed = swarm.combine(weights, soup(swarm.size, ingredients, best))
        here = torch.full((len(modules),), float("nan"), dtype=torch.float64)
        if place is not None:
            put({name: tensor[place] for name, tensor in mixed.items()})
            refresh(modules[place])
            here[place] = score(modules[place])
        return float(swarm.gather(here)[best])

    ingredients, value, standing = [best], reached, [best]
    # A uniform soup is one attempt with all; a greedy one is an attempt with each.
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


def save_plain(trainer: Trainer, pl_module: LightningModule, place: int, path: Path) -> None:
    """Write one of this process's particles as a checkpoint of weights that stock Lightning opens, atomically."""
    if isinstance(pl_module, StackedModule):
        checkpoint = pl_module.particle_checkpoint(place, weights_only=True)
    else:
        checkpoint = dump_checkpoint(trainer, weights_only=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        torch.save(checkpoint, part)
