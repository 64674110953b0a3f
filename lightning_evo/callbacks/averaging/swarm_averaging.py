"""Averaging of the weights of a swarm's particles while they train, and a soup at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_evo.callbacks.averaging.acceptance import ValidationScorer, apply_averages, make_soup, save_weights
from lightning_evo.callbacks.averaging.calibration import BatchStatistics, prepare_validation, statistics_of
from lightning_evo.callbacks.averaging.pso import PSO
from lightning_evo.callbacks.averaging.settings import (
    METHODS,
    BatchNorm,
    Keep,
    Method,
    Mode,
    OptimizerState,
    SoupKind,
    check_choices,
    check_method,
    check_numbers,
    check_weights_suffice,
)
from lightning_evo.callbacks.records import AveragingRecord
from lightning_evo.callbacks.search import SearchCallback, SearchContext
from lightning_evo.functional import mixing
from lightning_evo.genome import derive_seed
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.exchange import ExchangeSwarm
from lightning_evo.swarms.finding import find_swarm
from lightning_evo.swarms.stack.optimizer import StackedOptimizer
from lightning_evo.swarms.swarm import Swarm

__all__ = ["LearningRateRatios", "SwarmAveraging"]


class SwarmAveraging(SearchCallback):
    """Average the weights of a swarm's particles while each trains by gradient descent; optionally make a final model soup.

    The particles are those of a :class:`~lightning_evo.ParticleStack`, of the ranks of ``strategy: swarm``, or the
    candidates of a search that train at the same time; all have one architecture. Methods:

    - ``apso`` (Nytorch): a random subset of the swarm moves by ``alpha`` toward its best, by current training loss.
    - ``pso``: particles have a velocity and move between their own best position and the swarm's (Shi and Eberhart
      1998).
    - ``papa`` (arXiv 2304.03094): all are pulled by ``alpha`` toward their mean; the pull decays with the learning
      rate: it is ``alpha`` times the particle's current learning rate relative to the base (or peak) of its schedule.
    - ``papa_all``, ``papa_pairs`` (PAPA-all, PAPA-2): all are replaced by the mean of all, or of random pairs, at long
      intervals.

    A particle whose loss isn't finite is excluded from means and is never the best. Random draws depend only on
    ``seed`` and the number of steps: they are the same in all ranks and after a resume, and no global random state
    changes.

    Batch statistics: ``averaged`` like weights; ``reestimated``, after averaging, by
    :func:`torch.optim.swa_utils.update_bn` on some training batches (the module is called with a batch's first element);
    or each particle's ``own``. Defaults: ``averaged`` for small, frequent pulls (``apso``, ``papa``), ``reestimated`` for
    ``papa_all``, ``papa_pairs`` and soups, for which averaged statistics would be wrong, ``own`` for ``pso``.

    The soup is made after the last training batch, before the last validation if that is known in advance
    (``max_epochs``, ``max_steps``), otherwise when training ends; if kept, it replaces the best particle's weights, and
    is written as the plain Lightning checkpoint ``soup.ckpt`` in the Trainer's root directory.

    Not supported: strategies that train one model in several processes (DDP, FSDP, DeepSpeed). Candidates in a search
    exchange only weights: no ``pso``, soup, common start, or averaged optimizer state. For the moving average of a
    single model, use Lightning's :class:`~lightning.pytorch.callbacks.WeightAveraging`.

    Args:
        method: Averaging method; ``None``: only make a soup.
        subset: Number of particles per averaging, drawn at random; at least 2; default: all.
        alpha: How far particles move, above 0 and below 1. Default: 0.5 (``apso``), 0.01 (``papa``); others have none.
        every_n_steps: Interval in optimizer steps. Default: 16 (``apso``, ``pso``), 10 (``papa``).
        every_n_epochs: Interval in epochs; averaging comes before validation. Default: 5 (``papa_all``,
            ``papa_pairs``).
        soup: Make a ``uniform`` or ``greedy`` soup (Wortsman et al. 2022) at the end.
        keep: ``always``, or ``if_not_worse`` by validation, which is then run for each particle before and after each
            averaging. Default: ``always`` for averages, ``if_not_worse`` for soups.
        optimizer_state: Optimizer moments of averaged particles: their ``own``, none (``reset``), or ``averaged`` (not
            for ``pso``).
        batchnorm: Handling of batch statistics: ``averaged``, ``reestimated`` or ``own``.
        batchnorm_batches: Number of training batches for estimating batch statistics.
        inertia: ``pso``: share of the velocity that is kept.
        cognitive: ``pso``: pull toward a particle's own best position.
        social: ``pso``: pull toward the swarm's best position.
        common_start: Start all particles from the first one's weights.
        monitor: Validation metric for soups and ``keep``. Default: the search's first objective, otherwise
            ``val_loss``.
        mode: Whether ``monitor`` is minimized (``min``) or maximized (``max``).
        seed: Seed of the random draws.

    Raises:
        ValueError: For settings that are out of range or incompatible; as :class:`~lightning_evo.swarms.SwarmError` at
            the start of ``fit`` for a swarm of one particle or fewer than ``subset``, or an unsupported setup.

    Example:
        >>> averaging = SwarmAveraging("apso", subset=6, alpha=0.5, every_n_steps=16)
        >>> averaging.should_average(step=15), averaging.should_average(step=16)
        (False, True)
        >>> SwarmAveraging("papa", alpha=1.0)
        Traceback (most recent call last):
        ValueError: alpha: 1.0 is not above 0 and below 1
    """

    averages_weights = True
    works_in_stacks = True
    fixed_structure = "it averages networks of one architecture"

    def __init__(
        self,
        method: Method | None = "apso",
        subset: int | None = None,
        alpha: float | None = None,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        soup: SoupKind | None = None,
        keep: Keep | None = None,
        optimizer_state: OptimizerState = "own",
        batchnorm: BatchNorm | None = None,
        batchnorm_batches: int = 16,
        inertia: float = 0.5,
        cognitive: float = 0.5,
        social: float = 0.5,
        common_start: bool = False,
        monitor: str | None = None,
        mode: Mode = "min",
        seed: int = 0,
    ) -> None:
        check_choices(
            method=method, soup=soup, keep=keep, optimizer_state=optimizer_state, batchnorm=batchnorm, mode=mode
        )
        numbers = {"alpha": alpha, "subset": subset, "every_n_steps": every_n_steps, "every_n_epochs": every_n_epochs}
        check_numbers(**numbers, batchnorm_batches=batchnorm_batches)
        check_numbers(inertia=inertia, cognitive=cognitive, social=social)
        check_method(method, soup, optimizer_state, numbers)
        self.method, self.subset, self.soup, self.keep = method, subset, soup, keep
        self.alpha, self.every_n_steps, self.every_n_epochs = alpha, every_n_steps, every_n_epochs
        if method is not None:
            defaults = METHODS[method]
            self.alpha = alpha or defaults.alpha
            if not (every_n_steps or every_n_epochs):
                self.every_n_steps, self.every_n_epochs = defaults.every_n_steps, defaults.every_n_epochs
        self.optimizer_state, self.common_start = optimizer_state, common_start
        self.batchnorm, self.batchnorm_batches = batchnorm, batchnorm_batches
        self.monitor, self.mode, self.seed = monitor, mode, seed
        self.averagings = 0
        """The number of averagings in this training."""
        self.rejected = 0
        """The number of averages of this process's particles that were rejected because validation was worse."""
        self.souped: dict[str, Any] = {}
        """The result of the soup, see :class:`~lightning_evo.callbacks.averaging.acceptance.Soup`."""
        self._scorer = ValidationScorer(monitor, mode)
        self._statistics = BatchStatistics(batchnorm, batchnorm_batches, seed)
        self._pso = PSO(inertia, cognitive, social) if method == "pso" else None
        self._rates = LearningRateRatios()
        self._context: SearchContext | None = None
        self._swarm: Swarm | None = None
        self._seen, self._soup_step, self._last_alpha, self._size, self._salt = 0, -1, 0.0, 0, -1

    # Decisions.

    def should_average(self, step: int | None = None, epoch: int | None = None) -> bool:
        """Whether to average now; override it for another schedule, the same in every process.

        Args:
            step: Optimizer steps taken, if called after a step.
            epoch: Epochs trained, if called after an epoch's last batch.
        """
        if step is not None and self.every_n_steps:
            return step % self.every_n_steps == 0
        if epoch is not None and self.every_n_epochs:
            return epoch % self.every_n_epochs == 0
        return False

    def choose_members(self, losses: Tensor, generator: torch.Generator) -> Sequence[int]:
        """The particles that take part in an averaging; override it for another choice, the same in every process.

        Args:
            losses: Current training losses of all particles, (size,); NaN where one isn't known.
            generator: The source of randomness.
        """
        size = len(losses)
        drawn = range(size) if self.subset is None else mixing.draw_subset(size, min(self.subset, size), generator)
        if self.method in ("apso", "pso"):
            return list(drawn)
        return [one for one in drawn if bool(torch.isfinite(losses[one]))]

    def blend(self, losses: Tensor, members: Sequence[int], alphas: Tensor, generator: torch.Generator) -> Tensor:
        """The coefficients of an averaging; override it for another rule, the same in every process.

        Args:
            losses: Current training losses of all particles, (size,); for ``pso``, the losses at their best positions.
            members: The particles that take part.
            alphas: How far each particle moves, (size,).
            generator: The source of randomness.

        Returns:
            Coefficients (size, size), see :mod:`lightning_evo.functional.mixing`; for ``pso``, those of the best positions
            that each particle follows.
        """
        if not members:
            return torch.eye(len(losses), dtype=torch.float64)
        if self.method == "apso":
            return mixing.apso(losses, members, float(alphas[0]))
        if self.method == "papa":
            return mixing.papa(len(losses), members, alphas)
        if self.method == "papa_all":
            return mixing.papa_all(len(losses), members)
        if self.method == "papa_pairs":
            return mixing.papa_pairs(len(losses), members, generator)
        matrix = torch.zeros(len(losses), len(losses), dtype=torch.float64)
        matrix[:, mixing.ranked(losses, members)[0]] = 1
        return matrix

    # In a search.

    def check_stack(self, size: int) -> None:
        if self.subset is not None and self.subset > size:
            raise ValueError(f"subset: {self.subset} is more than the {size} particles there are at most")

    def join_search(self, context: SearchContext) -> None:
        self._context = context
        self._scorer.join_search(context)

    @property
    def extra(self) -> Mapping[str, Any]:
        """What was averaged: ``{"averaging": {...}}``."""
        record = AveragingRecord(self.method, self._size, self.averagings, self.rejected, self.souped or None)
        return {record.key: record.to_dict()}

    # Hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        # Begin a new training, unless its state is loaded after this.
        self.averagings = self.rejected = 0
        self.souped, self._soup_step, self._rates = {}, -1, LearningRateRatios()
        if self._pso is not None:
            self._pso.clear()
        self._swarm = swarm = find_swarm(trainer, pl_module, self._context)
        # Candidates that exchange weights draw independently of each other; the processes of one training must draw alike.
        self._salt = self._context.candidate if self._context and isinstance(swarm, ExchangeSwarm) else -1
        if not swarm.combines_all_tensors:
            check_weights_suffice(self.method, self.soup, self.optimizer_state, self.common_start)
        elif self.subset is not None and self.subset > swarm.size:
            raise SwarmError(f"subset: {self.subset} is larger than the swarm, which has {swarm.size} particles")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        swarm = self._current_swarm()
        self._seen, self._size = trainer.global_step, swarm.size
        averages = [self.method] * (self.method is not None) + [None] * (self.soup is not None)
        self._statistics.prepare(trainer, swarm.particles.modules[0], averages)
        if self._validates:
            prepare_validation(trainer)  # raises now, not after a long training
        if self.common_start and trainer.global_step == 0:
            first = torch.zeros(swarm.size, swarm.size, dtype=torch.float64)
            first[:, 0] = 1
            weights = swarm.particles.weights()
            for name, tensor in swarm.combine(weights, first).items():
                weights[name].copy_(tensor)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        stepped, self._seen = step != self._seen, step
        if self.method is not None and (
            (stepped and self.should_average(step=step))
            or (trainer.is_last_batch and self.should_average(epoch=trainer.current_epoch + 1))
        ):
            self._average(trainer, outputs)
        if self.soup is not None and _ends_here(trainer):
            self._make_soup(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validates:
            self._scorer.check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.method is not None:  # once per epoch: a call takes 0.7 ms
            pl_module.log("swarm_averagings", float(self.averagings))
            if self.alpha is not None:
                pl_module.log("swarm_alpha", self._last_alpha)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.soup is not None and self._soup_step != trainer.global_step:
            self._make_soup(trainer, pl_module)
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        return {
            "averagings": self.averagings,
            "rejected": self.rejected,
            "alpha": self._last_alpha,
            "soup": dict(self.souped),
            "soup_step": self._soup_step,
            "rates": self._rates.state_dict(),
            "pso": self._pso.state_dict() if self._pso is not None else {},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.averagings, self.rejected = state_dict["averagings"], state_dict["rejected"]
        self._last_alpha = state_dict["alpha"]
        self.souped, self._soup_step = dict(state_dict["soup"]), state_dict["soup_step"]
        self._rates.load_state_dict(state_dict["rates"])
        pso = state_dict.get("pso", state_dict.get("flight"))  # the earlier name
        if self._pso is not None and pso:
            self._pso.load_state_dict(pso)

    # Averaging.

    def _average(self, trainer: Trainer, outputs: Any) -> None:
        swarm, step = self._current_swarm(), trainer.global_step
        particles = swarm.particles
        here = particles.losses(outputs)
        losses = swarm.synchronize(here)
        self._size = swarm.size
        if swarm.size < 2:
            return  # no other candidate is training at this time
        generator = self._generator("members", step)
        members = self.choose_members(losses, generator)
        alphas = self._alphas(trainer, swarm)
        averaged = {name: tensor for name, tensor in particles.weights().items() if name not in self._left_out(swarm)}
        if self._pso is not None:
            coefficients = None
            changed = [place for place, one in enumerate(swarm.local) if one in members]
            new = self._pso.step(
                swarm,
                averaged,
                here,
                changed,
                lambda bests: self.blend(bests, members, alphas, generator),
                lambda index, device: self._generator("flight", step, swarm.local[index], device=device),
            )
        else:
            coefficients = self.blend(losses, members, alphas, generator)
            changed = [place for place, one in enumerate(swarm.local) if _moves(coefficients, one)]
            new = swarm.combine(averaged, coefficients)
        moments: dict[str, Tensor] = {}
        mixed: dict[str, Tensor] = {}
        if self.optimizer_state == "averaged" and coefficients is not None:
            moments = particles.moments()
            mixed = swarm.combine(moments, coefficients)  # before validation, for which ranks take different times
        if self.keep == "if_not_worse":
            prepare_validation(trainer)
        kept = apply_averages(
            particles,
            new,
            changed,
            lambda module: self._statistics.refresh(trainer, module, self.method),
            (lambda module: self._scorer.score(trainer, module)) if self.keep == "if_not_worse" else None,
        )
        if self.optimizer_state == "reset":
            particles.reset_moments(kept)
        for name, tensor in mixed.items():
            moments[name][kept] = tensor[kept]
        self.averagings += 1
        self.rejected += len(changed) - len(kept)
        self._last_alpha = float(alphas[list(swarm.local)].mean())

    def _alphas(self, trainer: Trainer, swarm: Swarm) -> Tensor:
        """How far each particle of the swarm moves, (size,)."""
        if self.alpha is None:
            return torch.ones(swarm.size, dtype=torch.float64)
        if self.method != "papa":
            return torch.full((swarm.size,), self.alpha, dtype=torch.float64)
        here = (self.alpha * self._rates.ratios(trainer, swarm.particles.count)).clamp(max=1.0)
        return swarm.gather(here).double().cpu() if swarm.combines_all_tensors else here.expand(swarm.size)

    # The soup.

    def _make_soup(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.soup is not None
        swarm = self._current_swarm()
        self._soup_step = trainer.global_step
        prepare_validation(trainer)
        made = make_soup(
            self.soup,
            swarm,
            lambda module: self._scorer.score(trainer, module),
            lambda module: self._statistics.refresh(trainer, module, None),
            always=self.keep == "always",
        )
        sign = self._scorer.sign
        self.souped = {**made.to_json(), "best": sign * made.best, "value": sign * made.value}
        if made.kept and made.into in swarm.local:
            path = Path(trainer.default_root_dir) / "soup.ckpt"
            save_weights(trainer, pl_module, made.into - swarm.local.start, path)

    # Internals.

    @property
    def _validates(self) -> bool:
        return self.soup is not None or self.keep == "if_not_worse"

    def _current_swarm(self) -> Swarm:
        assert self._swarm is not None, "setup has not been called"
        return self._swarm

    def _leave(self) -> None:
        if isinstance(self._swarm, ExchangeSwarm):
            self._swarm.close()
        self._swarm = None

    def _generator(self, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
        return torch.Generator(device).manual_seed(derive_seed(self.seed, "averaging", self._salt, *purpose))

    def _left_out(self, swarm: Swarm) -> set[str]:
        """Tensors that averaging doesn't change: batch statistics, if they are each particle's own, and PSO's buffers."""
        module = swarm.particles.modules[0]
        left_out = statistics_of(module) if self._statistics.rule(self.method) == "own" else set()
        if self._pso is not None:
            left_out |= {name for name, _ in module.named_buffers()}
        return left_out


class LearningRateRatios:
    """The learning rate of each particle relative to its base.

    The base is the schedule's ``max_lr`` (:class:`~torch.optim.lr_scheduler.OneCycleLR`), otherwise ``initial_lr``, which
    every scheduler of torch records; without a scheduler it is the largest rate so far.
    """

    def __init__(self) -> None:
        self._largest: list[float] = []

    def ratios(self, trainer: Trainer, count: int) -> Tensor:
        """The ratios of this process's particles, (count,), double precision."""
        groups = [optimizer.param_groups[0] for optimizer in _optimizers(trainer, count)]
        rates = [float(group["lr"]) for group in groups]
        if len(self._largest) != count:
            self._largest = [0.0] * count
        self._largest = [max(pair) for pair in zip(self._largest, rates, strict=True)]
        bases = [
            float(group.get("max_lr", group.get("initial_lr", largest)))
            for group, largest in zip(groups, self._largest, strict=True)
        ]
        return torch.tensor(
            [rate / base if base > 0 else 1.0 for rate, base in zip(rates, bases, strict=True)], dtype=torch.float64
        )

    def state_dict(self) -> dict[str, Any]:
        """The largest rates so far."""
        return {"largest": list(self._largest)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self._largest = list(state["largest"])


def _optimizers(trainer: Trainer, count: int) -> list[Optimizer]:
    """Each particle's (first) optimizer."""
    first = trainer.optimizers[0]
    return first.optimizers if isinstance(first, StackedOptimizer) else [first] * count


def _ends_here(trainer: Trainer) -> bool:
    """Whether the batch that just ended is known to be the last of the training."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    epochs = trainer.max_epochs
    return trainer.is_last_batch and epochs is not None and epochs != -1 and trainer.current_epoch + 1 >= epochs


def _moves(coefficients: Tensor, one: int) -> bool:
    row = coefficients[one].tolist()
    return any(value != (1.0 if at == one else 0.0) for at, value in enumerate(row))
