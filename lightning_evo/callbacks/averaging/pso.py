"""State of particle swarm optimization: each particle's velocity and best position so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_evo.functional.mixing import pso
from lightning_evo.swarms.swarm import Swarm

__all__ = ["PSO"]


class PSO:
    """Velocities and personal bests of the particles of one process, name -> (count, ...).

    Args:
        inertia: The share of a velocity that is kept.
        cognitive: Pull toward a particle's own best position.
        social: Pull toward the swarm's best position.
    """

    def __init__(self, inertia: float, cognitive: float, social: float) -> None:
        self.inertia, self.cognitive, self.social = inertia, cognitive, social
        self.clear()

    def clear(self) -> None:
        """Reset: no velocity, no best position."""
        self.velocity: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.best_losses: Tensor | None = None

    def step(
        self,
        swarm: Swarm,
        positions: Mapping[str, Tensor],
        losses: Tensor,
        places: Sequence[int],
        follow: Callable[[Tensor], Tensor],
        generator_of: Callable[[int, torch.device], torch.Generator],
    ) -> dict[str, Tensor]:
        """One step of the whole swarm; all its processes call it.

        Args:
            swarm: The swarm.
            positions: Weights of this process's particles, name -> (count, ...).
            losses: Their losses there, (count,).
            places: Indices in this process of the particles that move.
            follow: Returns the coefficients (size, size) of the best positions that each particle follows, from the losses
                at the best positions of all, (size,).
            generator_of: Returns a particle's source of randomness, from its index and a device.

        Returns:
            The new positions, name -> (count, ...), new tensors.
        """
        self.remember(positions, losses)
        assert self.best_losses is not None
        following = follow(swarm.gather(self.best_losses).cpu())
        return self.move(positions, swarm.combine(self.best, following), places, generator_of)

    def remember(self, weights: Mapping[str, Tensor], losses: Tensor) -> None:
        """Update the best positions of particles that never had a loss as low.

        Args:
            weights: Their positions, name -> (count, ...).
            losses: Their losses there, (count,); one that isn't finite is never the best.
        """
        losses = losses.double().cpu()
        losses = torch.where(torch.isfinite(losses), losses, torch.inf)
        if self.best_losses is None:
            self.velocity = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
            self.best = {name: tensor.clone() for name, tensor in weights.items()}
            self.best_losses = losses
            return
        better = (losses < self.best_losses).nonzero().flatten().tolist()
        self._to(weights)
        for name, tensor in weights.items():
            self.best[name][better] = tensor[better]
        self.best_losses[better] = losses[better]

    def move(
        self,
        weights: Mapping[str, Tensor],
        swarm_best: Mapping[str, Tensor],
        places: Sequence[int],
        generator_of: Callable[[int, torch.device], torch.Generator],
    ) -> dict[str, Tensor]:
        """The positions of the particles after one step; their velocities change.

        Args:
            weights: Their positions, name -> (count, ...).
            swarm_best: The best position of the particle that each follows, name -> (count, ...).
            places: Indices in this process of the particles that move.
            generator_of: Returns a particle's source of randomness, from its index and a device.

        Returns:
            The new positions, name -> (count, ...), new tensors.
        """
        self._to(weights)
        moved = {name: tensor.clone() for name, tensor in weights.items()}
        for place in places:
            generators: dict[torch.device, torch.Generator] = {}
            for name, tensor in weights.items():
                if tensor.device not in generators:
                    generators[tensor.device] = generator_of(place, tensor.device)
                moved[name][place], self.velocity[name][place] = pso(
                    tensor[place],
                    self.velocity[name][place],
                    self.best[name][place],
                    swarm_best[name][place],
                    self.inertia,
                    self.cognitive,
                    self.social,
                    generators[tensor.device],
                )
        return moved

    def state_dict(self) -> dict[str, Any]:
        """The state, as tensors."""
        return {"velocity": self.velocity, "best": self.best, "best_losses": self.best_losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self.velocity, self.best = dict(state["velocity"]), dict(state["best"])
        self.best_losses = state["best_losses"]

    def _to(self, weights: Mapping[str, Tensor]) -> None:
        # A checkpoint may have been loaded to another device.
        for memory in (self.velocity, self.best):
            for name, tensor in weights.items():
                memory[name] = memory[name].to(tensor.device)
