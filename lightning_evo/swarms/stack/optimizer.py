"""How do N particles' optimizers step together? Each stays what it is; where they can, they compute as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer

from lightning_evo.functional.stacking.optimizers import (
    can_stack,
    clip_gradient_norms,
    clip_gradient_values,
    finite_gradients,
    stacked_step,
)
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.stack.parameter_views import bind_gradients
from lightning_evo.swarms.swarm import moment_name

__all__ = ["StackedOptimizer", "StackedScheduler"]


class StackedOptimizer(Optimizer):
    """N ordinary optimizers, one to a particle, as the one optimizer of their stack.

    The ordinary optimizers remain the truth: learning rates and other hyperparameters are read from their
    ``param_groups`` (where schedulers change them), their states are what is saved. SGD, Adam and AdamW step as one
    computation over the stacked parameters; any other optimizer steps for itself, :attr:`reason` says why.

    Args:
        optimizers: One to a particle, over its own (tied) parameters.
        modules: The particles.
        memory: The stacked tensors by name.

    Raises:
        SwarmError: An optimizer needs to compute losses itself, or has parameters that aren't the particle's.
    """

    # Under a GradScaler: this optimizer unscales, and skips steps, of each particle for itself.
    _step_supports_amp_scaling = True

    def __init__(
        self, optimizers: Sequence[Optimizer], modules: Sequence[nn.Module], memory: Mapping[str, Tensor]
    ) -> None:
        self.optimizers, self._modules, self._memory = list(optimizers), list(modules), memory
        self._names: list[dict[Tensor, str]] = [
            {parameter: name for name, parameter in module.named_parameters()} for module in modules
        ]
        for index, optimizer in enumerate(self.optimizers):
            if isinstance(optimizer, LBFGS):
                raise SwarmError(
                    "LBFGS computes losses itself, which a stack can't do per particle; use another optimizer"
                )
            for parameter in _parameters(optimizer):
                if parameter not in self._names[index]:
                    raise SwarmError(
                        f"{type(optimizer).__name__} of particle {index} has a tensor of shape {tuple(parameter.shape)} "
                        "that is no parameter of the particle; register it in the module"
                    )
        groups = [{"params": _parameters(optimizer)} for optimizer in self.optimizers]
        super().__init__(groups, dict(self.optimizers[0].defaults))
        self._take: Tensor | None = None
        self._begin()

    def _begin(self) -> None:
        # Others (schedules, monitors of learning rates) shall see, and change, what the ordinary optimizers have.
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.reason = self._why_not()
        """Why the particles' optimizers step one by one; ``None`` if they step as one."""
        self._sizes = self._sizes_of_groups()
        self._states: dict[str, dict[str, Tensor]] = {}
        self._bound: dict[str, set[str]] = {}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step every particle's optimizer.

        Args:
            closure: Computes the losses and the stacked gradients.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        take, self._take = self._take, None
        if self._sizes != self._sizes_of_groups():
            self._begin()  # a parameter group was added
        if self.reason is None:
            self._step_as_one(take)
        else:
            bind_gradients(self._memory, self._modules)
            for index, optimizer in enumerate(self.optimizers):
                if take is None or take[index]:
                    optimizer.step()
        return loss

    def unscale(self, scaler: torch.amp.GradScaler, broken: Tensor) -> None:
        """Undo the loss scale of mixed precision, and see which particles can take the coming step.

        A particle whose gradients overflowed doesn't, and the scale falls. One whose loss itself isn't finite doesn't
        either, but has no say in the scale, which would otherwise fall for ever.

        Args:
            scaler: The Trainer's.
            broken: Which particles' losses aren't finite, (N,) bool.
        """
        gradients = self.gradients()
        torch._foreach_mul_(gradients, 1.0 / scaler.get_scale())
        broken = broken.to(gradients[0].device)
        self._take = finite_gradients(gradients) & ~broken
        if broken.any():
            for gradient in gradients:
                gradient[broken] = 0.0
        bind_gradients(self._memory, self._modules)  # where the scaler looks for what isn't finite

    def gradients(self) -> list[Tensor]:
        """The stacked gradients of what is optimized."""
        tensors = [self._memory[name] for group in self._group_names(0) for name in group]
        return [tensor.grad for tensor in tensors if tensor.grad is not None]

    def clip(self, value: float | None, algorithm: str | None = None) -> None:
        """Clip each particle's gradients by themselves, as Lightning does: by ``norm`` (the default) or by ``value``."""
        gradients = self.gradients()
        if not value or not gradients:
            return
        if algorithm == "value":
            clip_gradient_values(gradients, value)
        else:
            clip_gradient_norms(gradients, value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the stacked gradients."""
        for tensor in self._memory.values():
            if tensor.grad is not None:
                if set_to_none:
                    tensor.grad = None
                else:
                    tensor.grad.zero_()
        if set_to_none and any(parameter.grad is not None for parameter in self._names[0]):
            for names in self._names:
                for parameter in names:
                    parameter.grad = None

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """Every particle's ordinary state dict, under ``particles``."""
        return {"particles": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Take over what :meth:`state_dict` gave.

        Raises:
            SwarmError: It is of another number of particles, or not of a stack.
        """
        states = state_dict.get("particles")
        if states is None or len(states) != len(self.optimizers):
            given = "of no stack" if states is None else f"of {len(states)} particles"
            raise SwarmError(f"the optimizer state is {given}; this stack has {len(self.optimizers)} particles")
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self._begin()

    def moments(self) -> dict[str, Tensor]:
        """What the optimizers keep of each parameter, by :func:`~lightning_evo.swarms.swarm.moment_name`, stacked.

        The memory itself, (N, ...); empty before the first step. States that aren't tensors are left out.
        """
        names = [name for group in self._group_names(0) for name in group]
        for name in names:
            self._stack_states(name)
        return {
            moment_name(state, name): tensor
            for name in names
            for state, tensor in self._states[name].items()
            if not self._is_inner(state)
        }

    def reset(self, rows: Sequence[int]) -> None:
        """Have the optimizers of these particles begin afresh."""
        if self.reason is not None:
            for row in rows:
                self.optimizers[row].state.clear()
            return
        for states in self._states.values():
            for tensor in states.values():
                tensor[list(rows)] = 0

    def _step_as_one(self, take: Tensor | None) -> None:
        groups = self._group_names(0)
        for group in groups:
            for name in group:
                self._stack_states(name)
        parameters = [[self._memory[name] for name in group] for group in groups]
        states = [[self._states[name] for name in group] for group in groups]
        stacked_step(self.optimizers, parameters, states, take=take)
        for group in groups:
            for name in group:
                self._bind_states(name)
        for optimizer in self.optimizers:
            optimizer._opt_called = True  # type: ignore[attr-defined] # schedulers want to come after a step

    def _stack_states(self, name: str) -> None:
        """Have a parameter's states stacked, and the ordinary optimizers' views of them."""
        known = self._states.setdefault(name, {})
        if self.reason is None and known:
            return  # the step itself keeps them in place
        holders = self._holders(name)
        for state in {
            state: None for holder in holders for state, value in holder.items() if isinstance(value, Tensor)
        }:
            held = [holder.get(state) for holder in holders]
            stack = known.get(state)
            if stack is not None and all(
                value is not None and _is_row(value, stack, i) for i, value in enumerate(held)
            ):
                continue
            template = next(value for value in held if value is not None)
            values = [torch.zeros_like(template) if value is None else value for value in held]
            known[state] = torch.stack([value.cpu() if state == "step" else value for value in values])
            if self._is_inner("step"):
                known["step"] = torch.tensor([float(value is not None) for value in held])
        self._bind_states(name)

    def _bind_states(self, name: str) -> None:
        states, bound = self._states[name], self._bound.setdefault(name, set())
        if bound == states.keys() and self.reason is None:
            return
        for index, holder in enumerate(self._holders(name)):
            for state, stack in states.items():
                if not self._is_inner(state):
                    holder[state] = stack[index]
        bound.update(states)

    def _holders(self, name: str) -> list[dict[str, Any]]:
        return [
            optimizer.state[module.get_parameter(name)]
            for optimizer, module in zip(self.optimizers, self._modules, strict=True)
        ]

    def _is_inner(self, state: str) -> bool:
        """Whether a state is only of the stacked computation: SGD itself counts no steps."""
        return state == "step" and self.reason is None and isinstance(self.optimizers[0], SGD)

    def _group_names(self, index: int) -> list[list[str]]:
        names = self._names[index]
        return [[names[parameter] for parameter in group["params"]] for group in self.optimizers[index].param_groups]

    def _sizes_of_groups(self) -> list[int]:
        return [len(group["params"]) for optimizer in self.optimizers for group in optimizer.param_groups]

    def _why_not(self) -> str | None:
        for index, optimizer in enumerate(self.optimizers):
            if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
                return f"the optimizer of particle {index} has step hooks"
            if self._group_names(index) != self._group_names(0):
                return f"the parameter groups of particle {index} aren't those of particle 0"
        return can_stack(self.optimizers)


class StackedScheduler:
    """One scheduler of each particle's optimizer, as the one scheduler that Lightning steps.

    Args:
        schedulers: One to a particle.
        optimizer: The stack's.
        monitor: Which metric schedulers that wait for a plateau look at, each at its own particle's.
    """

    def __init__(self, schedulers: Sequence[Any], optimizer: StackedOptimizer, monitor: str | None = None) -> None:
        self.schedulers, self.optimizer, self.monitor = list(schedulers), optimizer, monitor

    def state_dict(self) -> dict[str, Any]:
        """Every particle's scheduler's state dict, under ``particles``."""
        return {"particles": [scheduler.state_dict() for scheduler in self.schedulers]}

    def monitored(self, rows: Sequence[Mapping[str, float]]) -> list[float]:
        """What each scheduler that waits for a plateau looks at, in its own particle's metrics.

        Raises:
            SwarmError: A particle didn't log it.
        """
        for index, row in enumerate(rows):
            if self.monitor not in row:
                raise SwarmError(f"the scheduler monitors {self.monitor}, which particle {index} didn't log")
        return [row[self.monitor] for row in rows if self.monitor is not None]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for scheduler, state in zip(self.schedulers, state_dict["particles"], strict=True):
            scheduler.load_state_dict(state)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_row(value: Tensor, stack: Tensor, index: int) -> bool:
    return value.data_ptr() == stack[index].data_ptr() and value.shape == stack.shape[1:]
