"""Which particles does this process hold? Their tensors, stacked along a first axis, whatever holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_evo.swarms.errors import SwarmError

__all__ = ["OneParticle", "Particles", "moment_name"]


class Particles(Protocol):
    """The particles of one process. All tensors have the particles along their first axis."""

    @property
    def count(self) -> int:
        """How many."""

    @property
    def modules(self) -> Sequence[LightningModule]:
        """Each particle as an ordinary module over the same memory: what is written to it changes the particle."""

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers, by their name in a particle's state dict, (count, ...): the memory itself, detached."""

    def moments(self) -> dict[str, Tensor]:
        """What optimizers keep of each parameter, by :func:`moment_name`, (count, ...): the memory itself.

        Numbers only (step counts included, as (count,) or (count, 1, ...)); empty before the first step.
        """

    def reset_moments(self, rows: Sequence[int]) -> None:
        """Have the optimizers of these particles (by their place here) begin afresh; settings and schedules stay."""

    def losses(self, outputs: Any) -> Tensor:
        """The training losses of the step whose ``outputs`` a callback's ``on_train_batch_end`` got, (count,), detached."""


def moment_name(state: str, parameter: str) -> str:
    """What :meth:`Particles.moments` calls an optimizer's ``state`` (``exp_avg``) of a parameter.

    >>> moment_name("exp_avg", "fc.weight")
    'exp_avg:fc.weight'
    """
    return f"{state}:{parameter}"


class OneParticle:
    """The module that an ordinary Trainer trains, as a process's only particle.

    Args:
        trainer: Its Trainer.
        module: The module.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.trainer, self.module = trainer, module

    @property
    def count(self) -> int:
        """One."""
        return 1

    @property
    def modules(self) -> Sequence[LightningModule]:
        """The module itself."""
        return [self.module]

    def weights(self) -> dict[str, Tensor]:
        """Its state dict, each tensor with a first axis of 1."""
        return {name: tensor.detach().unsqueeze(0) for name, tensor in self.module.state_dict().items()}

    def moments(self) -> dict[str, Tensor]:
        """Its optimizers' state."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.module.named_parameters()}
        return {
            moment_name(state, names[parameter]): value.unsqueeze(0)
            for optimizer in self._optimizers
            for parameter, states in optimizer.state.items()
            for state, value in states.items()
            if isinstance(value, Tensor) and parameter in names
        }

    def reset_moments(self, rows: Sequence[int]) -> None:
        """Empty its optimizers' state, where ``rows`` names it."""
        if 0 in rows:
            for optimizer in self._optimizers:
                optimizer.state.clear()

    def losses(self, outputs: Any) -> Tensor:
        """The loss that ``training_step`` returned."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            raise SwarmError(f"training_step of {type(self.module).__name__} returned no loss to compare particles by")
        return loss.detach().reshape(1)

    @property
    def _optimizers(self) -> list[Optimizer]:
        return self.trainer.optimizers
