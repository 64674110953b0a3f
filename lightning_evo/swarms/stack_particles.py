"""Which particles does a stack hold? All of them, their tensors stacked already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_evo.swarms.optimizer import StackedOptimizer
from lightning_evo.swarms.stack import ParticleStack

__all__ = ["StackParticles"]


class StackParticles:
    """The particles of a :class:`~lightning_evo.swarms.stack.ParticleStack`, as averaging sees them.

    Args:
        stack: The stack.
        trainer: The Trainer that trains it, whose optimizers are the particles'.

    >>> from lightning.pytorch.demos.boring_classes import BoringModel
    >>> particles = StackParticles(ParticleStack(BoringModel, size=3), Trainer(logger=False, barebones=True))
    >>> particles.count, particles.weights()["layer.bias"].shape
    (3, torch.Size([3, 2]))
    """

    def __init__(self, stack: ParticleStack, trainer: Trainer) -> None:
        self.stack, self.trainer = stack, trainer

    @property
    def count(self) -> int:
        """How many."""
        return len(self.stack)

    @property
    def modules(self) -> Sequence[LightningModule]:
        """The tied modules."""
        return self.stack.particles

    def weights(self) -> dict[str, Tensor]:
        """The stacked parameters and the buffers that are saved, detached; writing to them changes the particles."""
        return {name: tensor.detach() for name, tensor in self.stack.stacked.state_dict(keep_vars=True).items()}

    def moments(self) -> dict[str, Tensor]:
        """What the optimizers keep, stacked."""
        return {name: tensor for optimizer in self._optimizers for name, tensor in optimizer.moments().items()}

    def reset_moments(self, rows: Sequence[int]) -> None:
        """Have these particles' optimizers begin afresh."""
        for optimizer in self._optimizers:
            optimizer.reset(rows)

    def losses(self, outputs: Any) -> Tensor:
        """The losses of the stack's last training step."""
        return self.stack.losses

    @property
    def _optimizers(self) -> list[StackedOptimizer]:
        return [optimizer for optimizer in self.trainer.optimizers if isinstance(optimizer, StackedOptimizer)]
