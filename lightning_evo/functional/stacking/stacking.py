"""Many copies of one network computed as one, by ``torch.func.vmap`` with the layers rewritten that it lowers badly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from lightning_evo._compat.torch import tree_flatten, tree_unflatten
from lightning_evo.functional.stacking.optional import PARTS, Fusion
from lightning_evo.functional.stacking.rules import RULES
from lightning_evo.functional.stacking.tensors import NotCovered

__all__ = ["stacked_call"]


def stacked_call(
    template: nn.Module,
    function: Callable[..., Any],
    tensors: Mapping[str, Tensor],
    args: Sequence[Any] = (),
    in_dims: Sequence[int | None] | None = None,
    *,
    randomness: str = "different",
    rules: bool = True,
) -> Any:
    """Call ``function``, which uses ``template``, once for all N particles instead of once with the tensors of each.

    Ordinary autograd records the call: gradients with respect to ``tensors`` come from ``outputs.sum().backward()``.
    Buffers that the call changes, in place or by assignment, are changed in ``tensors``.

    Args:
        template: A module of the particles' architecture; its own tensors are neither read nor written.
        function: What to compute: the module itself or one of its bound methods (``template.training_step``).
        tensors: The particles' parameters and buffers by name, each ``(N, ...)``.
        args: The function's arguments.
        in_dims: For each argument the axis that counts the particles, or ``None`` where all particles get the same (the
            default for all).
        randomness: ``"different"`` dropout masks for each particle, or the ``"same"`` for all.
        rules: Whether convolutions, linear layers, batch normalization and pooling are rewritten to grouped and batched
            forms. Otherwise vmap's own rules compute everything; the result is the same up to rounding.

    Returns:
        What the function returns, each tensor with the particles along a new first axis; anything else unchanged.

    Raises:
        RuntimeError: vmap's own, if the function does something that can't be computed for all particles at once (control
            flow that depends on values, ``.item()``).

    >>> nets = [nn.Linear(3, 2) for _ in range(4)]
    >>> tensors = {name: torch.stack([net.state_dict()[name] for net in nets]) for name in ("weight", "bias")}
    >>> x = torch.ones(5, 3)
    >>> outputs = stacked_call(nets[0], nets[0], tensors, (x,))
    >>> outputs.shape
    torch.Size([4, 5, 2])
    >>> torch.allclose(outputs[1], nets[1](x))
    True
    """
    wrapper = _Call(template, function)
    names = list(tensors)
    particles = len(next(iter(tensors.values())))
    calls: Fusion = _Plain() if PARTS.fusion is None or not rules else PARTS.fusion(particles, _by_rule)
    form: list[Any] = []

    def particle(values: list[Tensor], *particle_args: Any) -> list[Tensor]:
        replaced = {f"template.{name}": value for name, value in zip(names, values, strict=True)}
        with _Rewriting(calls) if rules else nullcontext():
            outputs = functional_call(wrapper, replaced, particle_args)
        with torch.no_grad():
            for name, value in zip(names, values, strict=True):
                assigned = replaced[f"template.{name}"]
                if assigned is not value:
                    value.copy_(calls.settled(assigned))
        leaves, structure = tree_flatten(outputs)
        leaves = [calls.settled(leaf) for leaf in leaves]
        form[:] = [structure, [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    dims = tuple(in_dims) if in_dims is not None else (None,) * len(args)
    mapped = vmap(particle, in_dims=(0, *dims), randomness=randomness)
    stacked = iter(mapped([tensors[name] for name in names], *args))
    structure, constants = form
    return tree_unflatten([next(stacked) if leaf is None else leaf[0] for leaf in constants], structure)


class _Call(nn.Module):
    """Makes any function that uses ``template`` the forward of a module, for ``functional_call`` to swap tensors in."""

    def __init__(self, template: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.template = template
        self._function = (function,)  # a module given itself would be registered a second time

    def forward(self, *args: Any) -> Any:
        return self._function[0](*args)


class _Rewriting(TorchFunctionMode):
    """Replaces the calls that have a rule; whatever a rule doesn't cover stays as it was called."""

    def __init__(self, calls: Fusion) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.calls.call(func, args, kwargs or {})


class _Plain:
    """Calls one by one, without fusion."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _by_rule(func, args, kwargs)

    def settled(self, values: Any) -> Any:
        return values


def _by_rule(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    rule = RULES.get(func)
    if rule is not None:
        try:
            return rule(*args, **kwargs)
        except NotCovered:
            pass
    return func(*args, **kwargs)
