"""Inheritance of an optimizer's state: the parent's moments where the weights are the parent's, zero elsewhere."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_evo._compat.torch import remove_step_hooks
from lightning_evo.functional.inheritance.alignment import plain_names
from lightning_evo.functional.inheritance.inheritance import Inheritance
from lightning_evo.utils.compiled import plain_name

__all__ = ["inherit_optimizer"]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@torch.no_grad()
def inherit_optimizer(
    optimizer: Optimizer,
    child: nn.Module,
    inheritance: Inheritance,
    optimizer_state: Mapping[str, Any],
    parent: Mapping[str, Tensor],
) -> tuple[str, ...]:
    """Give a child's optimizer its parent's state (moments, number of steps), in place.

    A tensor that was copied keeps its moments. In one that was sliced the old slices keep theirs; those of new slices and
    copies of units are zero, with the parent's count of steps. New and fresh tensors have no state yet. Settings (learning
    rate, momentum, weight decay) stay the child's own.

    An optimizer's state dict numbers its parameters. They are identified by the names it holds (``param_names``), else
    by their order: that of the parent's state dict, or that of the child's optimizer. Every moment's shape must agree.

    Args:
        optimizer: The child's optimizer, which has taken no step yet.
        child: The module whose parameters it optimizes.
        inheritance: The result of :func:`inherit` for the two.
        optimizer_state: ``state_dict()`` of the parent's optimizer.
        parent: ``state_dict()`` of the parent.

    Returns:
        The names of the child's parameters that inherited a state.

    Raises:
        ValueError: If the parent's optimizer kept a different state from the one the child's needs, or its parameters can't
            be identified. The child's optimizer is then unchanged.

    >>> from lightning_evo.functional import inherit
    >>> parent, child = nn.Linear(2, 3), nn.Linear(2, 3)
    >>> first, second = (torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (parent, child))
    >>> parent(torch.ones(1, 2)).sum().backward()
    >>> first.step()
    >>> inherit_optimizer(second, child, inherit(child, parent), first.state_dict(), parent.state_dict())
    ('weight', 'bias')
    >>> second.state[child.bias]["momentum_buffer"]
    tensor([1., 1., 1.])
    """
    tensors = plain_names(parent)
    names = {id(p): plain_name(name).removeprefix("module.") for name, p in child.named_parameters()}
    groups = [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]
    numbers = _numbers(optimizer_state, tensors, groups, inheritance)
    states = {number: state for number, state in optimizer_state["state"].items() if state}
    parameters = [p for group in optimizer.param_groups for p in group["params"] if id(p) in names]
    needed = _needed(optimizer)
    held = {key for state in states.values() for key, value in state.items() if value is not None}
    if states and not needed <= held:
        raise ValueError(
            f"{type(optimizer).__name__} keeps {', '.join(sorted(needed))}; the parent's optimizer kept"
            f" {', '.join(sorted(held)) or 'nothing'}"
        )
    inherited = []
    for parameter in parameters:
        name = names[id(parameter)]
        state = states.get(numbers.get(inheritance.parents.get(name, ""), -1))
        if state is None or name not in inheritance.maps or not needed:
            continue
        plan, shape = inheritance.maps[name], tensors[inheritance.parents[name]].shape
        # State of another shape is a count of steps, or doesn't belong to single weights.
        optimizer.state[parameter] = {
            key: plan.moments(value, torch.empty_like(parameter, dtype=value.dtype))
            if isinstance(value, Tensor) and value.shape == shape and key != "step"
            else copy.deepcopy(value)
            for key, value in state.items()
            if key in needed
        }
        inherited.append(name)
    return tuple(inherited)


def _numbers(
    optimizer_state: Mapping[str, Any],
    parent: Mapping[str, Tensor],
    groups: Sequence[Sequence[str]],
    inheritance: Inheritance,
) -> dict[str, int]:
    """Return the number by which the parent's optimizer knows each of the parent's parameters."""
    theirs = optimizer_state["param_groups"]
    numbers = [number for group in theirs for number in group["params"]]
    for order in _orders(theirs, parent, groups, inheritance):
        if len(order) != len(numbers):
            continue
        found = dict(zip(order, numbers, strict=True))
        if all(_agree(parent.get(name), optimizer_state["state"].get(number)) for name, number in found.items()):
            return found
    raise ValueError(
        f"the {len(numbers)} parameters of the parent's optimizer can't be identified among its {len(parent)} tensors"
    )


def _orders(
    theirs: Sequence[Mapping[str, Any]],
    parent: Mapping[str, Tensor],
    groups: Sequence[Sequence[str]],
    inheritance: Inheritance,
) -> Iterator[list[str]]:
    """Orders in which the parent's optimizer may hold the parent's parameters, the most certain first."""
    if all("param_names" in group for group in theirs):
        yield list(plain_names({name: torch.empty(0) for group in theirs for name in group["param_names"]}))
    as_child = [[inheritance.parents[name] for name in group if name in inheritance.parents] for group in groups]
    if [len(group) for group in as_child] == [len(group["params"]) for group in theirs]:
        yield [name for group in as_child for name in group]
    if len(theirs) == 1:
        yield [name for name, tensor in parent.items() if name.rpartition(".")[2] not in _BUFFERS]


def _agree(tensor: Tensor | None, state: Mapping[str, Any] | None) -> bool:
    """Whether a parameter's state can be that of a tensor: state with its number of dimensions has its shape."""
    if tensor is None:
        return False
    held = [value for value in (state or {}).values() if isinstance(value, Tensor) and value.ndim > 0]
    return all(value.shape == tensor.shape for value in held if value.ndim == tensor.ndim or value.numel() > 1)


def _needed(optimizer: Optimizer) -> set[str]:
    """Find out what an optimizer keeps for each parameter, by a step with another one.

    Raises:
        ValueError: If it doesn't step without a closure.
    """
    like = optimizer.param_groups[0]["params"][0]
    parameter = nn.Parameter(torch.zeros(2, 2, dtype=like.dtype, device=like.device))
    parameter.grad = torch.zeros_like(parameter)
    other = copy.copy(optimizer)
    other.state = defaultdict(dict)
    other.param_groups = [{**optimizer.param_groups[0], "params": [parameter]}]
    remove_step_hooks(other)
    try:
        type(other).step(other)  # the class's: schedulers put another into the instance
    except TypeError as error:
        raise ValueError(f"{type(optimizer).__name__}: its state cannot be inherited") from error
    return {key for key, value in other.state[parameter].items() if value is not None}
