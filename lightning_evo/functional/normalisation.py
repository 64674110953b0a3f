"""With which statistics does a new batch normalisation hand on what it gets? With those that its input is likely to have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_evo.functional.operations import ACTIVATIONS, DROPS, NOTHING, POOLS, call_of

__all__ = ["expected", "make_identities"]

_POINTS = 512


@torch.no_grad()
def make_identities(graph: fx.Graph, root: nn.Module, new: set[str]) -> None:
    """Make new batch normalisations the identity in eval mode, and nearly so in train mode.

    With mean μ and variance v, scale sqrt(v + ε) and shift μ, normalising gives back its input, whatever μ and v. In
    train mode it does as far as a batch has that mean and variance. They are taken from the batch normalisation before:
    what it gives has its shift as mean and its scale as deviation, and is about normal; activations between the two
    are applied to that distribution. Without one before: 0 and 1.

    Args:
        graph: Of the network, whose weights are set already.
        root: The network.
        new: Names of the layers that are identities.
    """
    modules = dict(root.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        path = str(node.target).replace("_orig_mod.", "")
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if path in new and isinstance(module, _BatchNorm) and module.affine and module.running_var is not None:
            mean, variance = expected(node, modules, new, module)
            assert module.running_mean is not None
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)
            module.weight.copy_((variance + module.eps).sqrt())
            module.bias.copy_(mean)


def expected(node: fx.Node, modules: dict[str, nn.Module], new: set[str], module: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The mean and variance that each channel of a node's input is likely to have.

    Args:
        node: In a network's graph.
        modules: The network's, by name.
        new: Names of layers that are identities.
        module: A batch normalisation over as many channels.
    """
    steps: list[Callable[[Tensor], Tensor]] = []
    at = node
    plain = torch.zeros(module.num_features), torch.ones(module.num_features)
    while len(at.all_input_nodes) == 1:
        at = at.all_input_nodes[0]
        path = str(at.target).replace("_orig_mod.", "")
        layer = modules.get(str(at.target)) if at.op == "call_module" else None
        if isinstance(layer, _BatchNorm):
            if not layer.affine or layer.num_features != module.num_features:
                return plain
            grid = torch.special.ndtri((torch.arange(_POINTS, dtype=torch.float64) + 0.5) / _POINTS)
            values = (layer.bias + layer.weight.abs() * grid[:, None].to(layer.weight)).float()
            for step in reversed(steps):
                values = step(values)
            return values.mean(0), values.var(0, correction=0)
        call = call_of(at, modules)
        if call in ACTIVATIONS:
            steps.append(_applied(at, layer))
        elif not (call in NOTHING | DROPS | POOLS or path in new):
            return plain
    return plain


def _applied(node: fx.Node, layer: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """An activation as a function of a tensor."""
    if layer is not None:
        return layer
    more, named = node.args[1:], {k: v for k, v in node.kwargs.items() if k != "inplace"}
    if isinstance(node.target, str):
        name = node.target
        return lambda values: getattr(values.clone(), name)(*more, **named)
    function = node.target
    assert callable(function)
    return lambda values: function(values, *more, **named)
