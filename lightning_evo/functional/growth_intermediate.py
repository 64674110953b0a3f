"""What is a layer between two others that changes nothing? Two linear layers in place of one, and an activation."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from lightning_evo.functional.growth_frame import Change, Part, matched
from lightning_evo.functional.growth_steps import GrowthError
from lightning_evo.functional.growth_wishes import Wishes
from lightning_evo.functional.operations import DROPS, NOTHING, call_of
from lightning_evo.functional.tensors import TensorMap

__all__ = ["build_intermediate", "plan_intermediate"]

_SHARE = 0.75
"""Width of an intermediate layer, as a share of a layer's inputs and outputs together (reference 004)."""
_PROJECTIONS = ("ReLU", "ReLU6", "Hardtanh")
"""Activations that change nothing when applied twice."""
_MIRRORED = ("ReLU", "LeakyReLU", "GELU", "SiLU", "Hardswish")
"""Activations f of which f(a) - f(-a) is a multiple of a."""


@dataclass(frozen=True)
class _Way:
    """How an activation between two linear layers lets the first one's old outputs pass.

    Args:
        activation: Its class.
        arguments: How it is made.
        copies: In how many units each old output is: 1, or 2: itself and its negative.
    """

    activation: str
    arguments: tuple[float, ...] = ()
    copies: int = 1


_NARROW = _Way("PReLU", (1, 1.0))
"""A PReLU of slope 1 lets everything pass, and learns to bend."""


def plan_intermediate(part: Part, layer: str, module: nn.Linear, wishes: Wishes) -> dict[str, Any]:
    """The settings of an intermediate layer in a linear layer's place: ``hidden`` units, ``activation``, ``copies``.

    A layer y = Wx + b becomes Linear(inputs, hidden) - activation - Linear(hidden, outputs), as in reference 004, where
    hidden is 75 % of inputs and outputs together; here it computes the same at birth. The first holds W, so that moments
    stay, and fresh units that the second ignores at first. How W's outputs pass the activation:

    - if a projection such as ReLU follows the layer, it is used in between as well: applied twice it does what it did;
    - else each is there twice, as itself and its negative: relu(a) - relu(-a) = a, and so with LeakyReLU, GELU, SiLU,
      Hardswish;
    - where that takes more units than there may be, the activation is a PReLU of slope 1.

    The least hidden is the number of outputs, or twice that; ``width: same`` gives just the outputs (Net2Deeper).

    Raises:
        GrowthError: If the wishes can't be fulfilled.
    """
    if set(wishes.settings) == {"hidden", "activation", "arguments", "copies"}:
        return dict(wishes.settings)
    wishes.only("hidden", "width")
    if wishes.settings.get("width", "same") != "same":
        raise wishes.refuse(f"width: {wishes.settings['width']!r} is not 'same'; `hidden` takes a number")
    inputs, outputs, bias = module.in_features, module.out_features, module.bias is not None
    way = _way_through(part, layer)

    def added(hidden: int, way: _Way) -> int:
        both = hidden * (inputs + bias) + outputs * (hidden + bias) + (way.activation == "PReLU")
        return both - outputs * (inputs + bias)

    asked = outputs if "width" in wishes.settings else max(way.copies * outputs, int(_SHARE * (inputs + outputs)))
    hidden = wishes.number("hidden", asked, outputs)
    exact = bool(wishes.settings)
    if way.copies * outputs > hidden or (not exact and not wishes.allows(added(way.copies * outputs, way))):
        way = _NARROW
    wishes.check(added(hidden if exact else way.copies * outputs, way))
    while not wishes.allows(added(hidden, way)):
        hidden -= 1
    if hidden > outputs and _tied(part, module):
        raise wishes.refuse("its weights are tied to another layer's; width: same would leave them alone")
    return {"hidden": hidden, "activation": way.activation, "arguments": list(way.arguments), "copies": way.copies}


@torch.no_grad()
def build_intermediate(layer: str, module: nn.Linear, settings: Mapping[str, Any]) -> Change:
    """``Sequential(base, act, linear)`` in the layer's place; base is the layer, or its copy with more outputs.

    Args:
        layer: Its name.
        module: Itself; stays as it is.
        settings: As :func:`plan_intermediate` gives them.

    Raises:
        GrowthError: If the settings don't fit the layer.
    """
    hidden, copies, outputs = settings["hidden"], settings["copies"], module.out_features
    if hidden < copies * outputs:
        raise GrowthError(f"{layer}: insert: hidden: {hidden} is below {copies * outputs}")
    act = getattr(nn, settings["activation"])(*settings["arguments"])
    last = nn.Linear(hidden, outputs, bias=module.bias is not None)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    one = torch.ones(1, dtype=torch.float64)
    passes = (act(one) - act(-one)).item() if copies == 2 else 1.0
    for copied in range(copies):
        begin = copied * outputs
        last.weight[:, begin : begin + outputs] = torch.eye(outputs) * (-1 if copied else 1) / passes
    base, moved = (module, {}) if hidden == outputs else _widened(layer, module, hidden, copies)
    line = nn.Sequential(OrderedDict(base=base, act=matched(act, module), linear=matched(last, module)))
    line.training = module.training
    return Change(modules={layer: line}, moved=moved)


def _widened(
    layer: str, module: nn.Linear, hidden: int, copies: int
) -> tuple[nn.Linear, dict[str, tuple[str, TensorMap]]]:
    """The layer with more outputs: its own, their negatives if need be, fresh ones; and where its numbers went."""
    outputs = module.out_features
    fresh = matched(nn.Linear(module.in_features, hidden, bias=module.bias is not None), module)
    base = copy.copy(module)  # with its hooks, and whatever it has come to hold besides
    base._parameters, base._compiled_call_impl, base.out_features = dict(module._parameters), None, hidden
    rows = torch.cat([torch.arange(outputs), torch.full((hidden - outputs,), -1)])
    own = {name: tensor for name, tensor in module._parameters.items() if tensor is not None}
    # An output that is 0 for every input would never learn: ReLU hands on no gradient at 0. It becomes a - a instead.
    idle = torch.stack([tensor.reshape(outputs, -1).eq(0).all(1) for tensor in own.values()]).all(0) & (copies == 2)
    moved = {}
    for name, old in own.items():
        new = getattr(fresh, name)
        twin = idle.reshape(-1, *[1] * (old.ndim - 1))
        new[:outputs] = torch.where(twin, new[:outputs], old)
        if copies == 2:
            new[outputs : 2 * outputs] = torch.where(twin, new[:outputs], -old)
        base._parameters[name] = new.requires_grad_(old.requires_grad)
        columns = torch.arange(module.in_features)[None] if old.ndim > 1 else None
        moved[f"{layer}.base.{name}"] = (f"{layer}.{name}", TensorMap(rows, columns))
    return base, moved


def _tied(part: Part, module: nn.Linear) -> bool:
    own = {id(parameter) for parameter in module.parameters()}
    held = [value for _, value in part.module.named_parameters(remove_duplicate=False) if id(value) in own]
    return len(held) > len(own)


def _way_through(part: Part, layer: str) -> _Way:
    """The activation that follows the layer, if values can pass it unchanged; else the network's first that lets them."""
    node = part.calls(layer)[0]
    while len(node.users) == 1 and call_of(next(iter(node.users)), part.modules) in DROPS | NOTHING:
        node = next(iter(node.users))
    follows = [_made(user, part) for user in node.users]
    if len(follows) == 1 and follows[0] is not None and follows[0][0] in _PROJECTIONS:
        return _Way(*follows[0])
    known = [made for made in [*follows, *(_made(each, part) for each in part.graph.nodes)] if made is not None]
    return next((_Way(*made, copies=2) for made in known if made[0] in _MIRRORED), _Way("ReLU", copies=2))


def _made(node: fx.Node, part: Part) -> tuple[str, tuple[float, ...]] | None:
    """An activation's class, and the arguments that make it; ``None`` for other steps."""
    module = part.called(node)
    if module is not None:
        name = type(module).__name__
        if type(module) is not getattr(nn, name, None) or getattr(module, "approximate", "none") != "none":
            return None
        arguments = {"LeakyReLU": ("negative_slope",), "Hardtanh": ("min_val", "max_val")}.get(name, ())
        return name, tuple(getattr(module, argument) for argument in arguments)
    if node.op not in ("call_function", "call_method") or node.args[1:] or set(node.kwargs) - {"inplace"}:
        return None
    functions = {"relu": "ReLU", "relu6": "ReLU6", "gelu": "GELU", "silu": "SiLU", "hardswish": "Hardswish"}
    found = functions.get(call_of(node, part.modules))
    return None if found is None else (found, ())
