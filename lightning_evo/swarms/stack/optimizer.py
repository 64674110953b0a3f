"""Optimizers and schedulers of N particles as one: each keeps its own settings, and where possible they step as one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_evo._compat.lightning import parse_optimizers
from lightning_evo._compat.torch import AMP_SCALING, foreach_mul_, has_step_hooks, mark_stepped
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

__all__ = ["StackedOptimizer", "StackedScheduler", "configured", "configured_alike"]


class StackedOptimizer(Optimizer):
    """N ordinary optimizers, one to a particle, as the one optimizer of their stack.

    The ordinary optimizers stay authoritative: learning rates and other hyperparameters are read from their
    ``param_groups`` (where schedulers change them), and their states are saved. SGD, Adam and AdamW step as one computation
    over the stacked parameters; others step one by one, and :attr:`reason` explains why.

    Args:
        optimizers: One per particle, over its own parameters.
        modules: The particles.
        memory: The stacked tensors by name.

    Raises:
        SwarmError: An optimizer has to compute losses itself, or has parameters that aren't the particle's.
    """

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
                        "that isn't a parameter of the particle; register it in the module"
                    )
        groups = [{"params": _parameters(optimizer)} for optimizer in self.optimizers]
        super().__init__(groups, dict(self.optimizers[0].defaults))
        # GradScaler leaves it to this optimizer to unscale gradients and skip steps, for each particle separately.
        setattr(self, AMP_SCALING, True)
        self._take: Tensor | None = None
        self._begin()

    def _begin(self) -> None:
        # Schedules and monitors of learning rates see and change the settings of the ordinary optimizers.
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.reason = self._why_not()
        """The reason why the particles' optimizers step one by one; ``None`` if they step as one."""
        self._sizes = self._sizes_of_groups()
        self._states: dict[str, dict[str, Tensor]] = {}
        self._bound: dict[str, set[str]] = {}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
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
        """Undo the loss scale of mixed precision, and determine which particles can take the next step.

        A particle whose gradients overflowed doesn't take it, and the scale decreases. One whose loss itself isn't finite
        doesn't either, but has no influence on the scale, which would otherwise decrease forever.

        Args:
            scaler: The Trainer's gradient scaler.
            broken: Which particles' losses aren't finite, (N,) bool.
        """
        gradients = self.gradients()
        foreach_mul_(gradients, 1.0 / scaler.get_scale())
        broken = broken.to(gradients[0].device)
        self._take = finite_gradients(gradients) & ~broken
        if broken.any():
            for gradient in gradients:
                gradient[broken] = 0.0
        bind_gradients(self._memory, self._modules)  # where the scaler looks for what isn't finite

    def gradients(self) -> list[Tensor]:
        """The stacked gradients of the optimized parameters."""
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
        """Clear the stacked gradients."""
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

    def state_dict(self) -> dict[str, Any]:
        """Every particle's ordinary state dict, under ``particles``."""
        return {"particles": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        Raises:
            SwarmError: It has another number of particles, or isn't that of a stack.
        """
        states = state_dict.get("particles")
        if states is None or len(states) != len(self.optimizers):
            given = "of no stack" if states is None else f"of {len(states)} particles"
            raise SwarmError(f"the optimizer state is {given}; this stack has {len(self.optimizers)} particles")
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self._begin()

    def moments(self) -> dict[str, Tensor]:
        """The optimizers' state of each parameter, by :func:`~lightning_evo.swarms.swarm.moment_name`, stacked.

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
        """Clear the optimizers' state of these particles."""
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
            mark_stepped(optimizer)

    def _stack_states(self, name: str) -> None:
        """Stack a parameter's states, and make those of the ordinary optimizers views of them."""
        known = self._states.setdefault(name, {})
        if self.reason is None and known:
            return  # steps change them in place
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
        """Whether only the stacked computation has this state: SGD itself doesn't count steps."""
        return state == "step" and self.reason is None and isinstance(self.optimizers[0], SGD)

    def _group_names(self, index: int) -> list[list[str]]:
        names = self._names[index]
        return [[names[parameter] for parameter in group["params"]] for group in self.optimizers[index].param_groups]

    def _sizes_of_groups(self) -> list[int]:
        return [len(group["params"]) for optimizer in self.optimizers for group in optimizer.param_groups]

    def _why_not(self) -> str | None:
        for index, optimizer in enumerate(self.optimizers):
            if has_step_hooks(optimizer):
                return f"the optimizer of particle {index} has step hooks"
            if self._group_names(index) != self._group_names(0):
                return f"the parameter groups of particle {index} aren't those of particle 0"
        return can_stack(self.optimizers)


class StackedScheduler:
    """One scheduler of each particle's optimizer, as the one scheduler that Lightning steps.

    Args:
        schedulers: One per particle.
        optimizer: The stack's optimizer.
        monitor: The metric for schedulers that wait for a plateau; each uses that of its own particle.
    """

    def __init__(self, schedulers: Sequence[Any], optimizer: StackedOptimizer, monitor: str | None = None) -> None:
        self.schedulers, self.optimizer, self.monitor = list(schedulers), optimizer, monitor

    def state_dict(self) -> dict[str, Any]:
        """Every particle's scheduler's state dict, under ``particles``."""
        return {"particles": [scheduler.state_dict() for scheduler in self.schedulers]}

    def monitored(self, rows: Sequence[Mapping[str, float]]) -> list[float]:
        """The monitored metric of each particle.

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


def configured(particles: Sequence[LightningModule], memory: Mapping[str, Tensor]) -> Any:
    """The optimizers and schedulers of all particles, in the form of one module's ``configure_optimizers``.

    Raises:
        SwarmError: A particle has no or several optimizers, or schedulers that step at other times than those of others.
    """
    optimizers, schedulers = [], []
    for index, particle in enumerate(particles):
        optimizer, configs = _of_one(particle, index)
        optimizers.append(optimizer)
        schedulers.append(configs)
    stacked = StackedOptimizer(optimizers, particles, memory)
    numbers = {len(configs) for configs in schedulers}
    if len(numbers) > 1:
        raise SwarmError(f"particles have different numbers of schedulers ({sorted(numbers)}); give all the same")
    return [stacked], [_together(configs, stacked) for configs in zip(*schedulers, strict=True)]


def configured_alike(given: Any, particles: Sequence[LightningModule], memory: Mapping[str, Tensor]) -> Any:
    """Like :func:`configured`, from one configuration of the stacked parameters that applies to all particles.

    LightningCLI makes one: it builds the optimizer of its ``optimizer:`` section over the parameters of the model.

    Args:
        given: The result of ``configure_optimizers`` for the stack.
        particles: The particles.
        memory: The stacked tensors by name.

    Raises:
        SwarmError: It has several optimizers.
    """
    optimizers, configs = parse_optimizers(given)
    if len(optimizers) != 1:
        raise SwarmError(f"configure_optimizers of the stack returned {len(optimizers)} optimizers; one is needed")
    twins = [_twin(optimizers[0], particle, memory, bool(configs)) for particle in particles]
    stacked = StackedOptimizer(twins, particles, memory)
    copied = [
        [replace(config, scheduler=copy.deepcopy(config.scheduler, {id(optimizers[0]): twin})) for config in configs]
        for twin in twins
    ]
    return [stacked], [_together(of_one_place, stacked) for of_one_place in zip(*copied, strict=True)]


def _twin(optimizer: Optimizer, particle: LightningModule, memory: Mapping[str, Tensor], scheduled: bool) -> Optimizer:
    """The same optimizer, over the parameters of one particle."""
    names = {id(tensor): name for name, tensor in memory.items()}
    groups = [
        {**group, "params": [particle.get_parameter(names[id(tensor)]) for tensor in group["params"]]}
        for group in optimizer.param_groups
    ]
    accepted = inspect.signature(type(optimizer)).parameters
    settings = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    twin: Optimizer = type(optimizer)(groups, **settings)
    if scheduled:
        LambdaLR(twin, lambda _: 1.0)  # the first scheduler of an optimizer begins to count its steps
        for mine, group in zip(twin.param_groups, groups, strict=True):
            mine.update(group)
    return twin


def _of_one(particle: LightningModule, index: int) -> tuple[Optimizer, list[LRSchedulerConfig]]:
    conf = particle.configure_optimizers()
    name = f"configure_optimizers of particle {index} ({type(particle).__name__})"
    if conf is None:
        raise SwarmError(f"{name} returned None; a stack trains by the particles' optimizers")
    optimizers, configs = parse_optimizers(conf)
    if len(optimizers) != 1:
        raise SwarmError(f"{name} returned {len(optimizers)} optimizers; a stack trains each particle with one")
    return optimizers[0], configs


def _together(configs: Sequence[LRSchedulerConfig], optimizer: StackedOptimizer) -> dict[str, Any]:
    first = configs[0]
    for setting in ("interval", "frequency", "reduce_on_plateau", "monitor", "strict"):
        values = {getattr(config, setting) for config in configs}
        if len(values) > 1:
            shown = ", ".join(sorted(str(value) for value in values))
            raise SwarmError(f"particles' schedulers differ in {setting} ({shown}); a stack steps them together")
    scheduler = StackedScheduler([config.scheduler for config in configs], optimizer, first.monitor)
    return {
        "scheduler": scheduler,
        "name": first.name,
        "interval": first.interval,
        "frequency": first.frequency,
        "reduce_on_plateau": first.reduce_on_plateau,
        "monitor": first.monitor,
        "strict": first.strict,
    }


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_row(value: Tensor, stack: Tensor, index: int) -> bool:
    return value.data_ptr() == stack[index].data_ptr() and value.shape == stack.shape[1:]
