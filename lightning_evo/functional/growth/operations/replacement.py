"""Operations that replace a layer: a larger kernel, another activation, and two linear layers in place of one.

The last implements ``insert`` for linear layers, see :mod:`lightning_evo.functional.growth.operations.insertion`.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_evo._compat.torch import CONV_PADDING, FORWARD_HOOKS, ConvBase, parameters_dict, shallow_copy
from lightning_evo.functional.graph.operations import ACTIVATIONS, DROPS, NOTHING, POOLS, call_of, paddings
from lightning_evo.functional.growth.operations.widths import fresh_tensors
from lightning_evo.functional.growth.parts import Part, StructureChange, matched
from lightning_evo.functional.growth.steps import GrowthError, GrowthStep, Operation, StepRequest
from lightning_evo.functional.inheritance.placement import TensorMap
from lightning_evo.utils.compiled import plain_name

__all__ = [
    "EXCHANGEABLE",
    "activation_behind",
    "build",
    "build_intermediate",
    "plan",
    "plan_intermediate",
    "sites",
]

EXCHANGEABLE = ("ReLU", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "Hardswish")
"""Activations that can replace each other."""
LARGEST = 7
"""Side up to which a kernel grows without a requested size."""


def sites(part: Part) -> dict[str, dict[Operation, str]]:
    """Return which convolutions can get another kernel, and which activations can be exchanged."""
    found: dict[str, dict[Operation, str]] = {}
    for unit in part.units:
        if unit.kind in ("conv", "transposed"):
            reason = _stuck(part, unit.name)
            assert isinstance(unit.module, ConvBase)
            if not reason and min(unit.module.kernel_size) >= LARGEST:
                reason = (
                    f"its kernel is {_short(unit.module.kernel_size)} already; a larger one must be asked for by number"
                )
            found[unit.name] = {"kernel": reason}
    for name, module in part.named.items():
        if name and type(module) is getattr(nn, type(module).__name__, None) and type(module).__name__ in EXCHANGEABLE:
            found[name] = {"activation": _activation_stuck(part, name)}
    return found


def plan(
    part: Part,
    operation: Operation,
    layer: str,
    *,
    ratio: float = 1.5,
    max_added: int | None = None,
    settings: Mapping[str, Any],
    seed: int = 0,
) -> dict[str, Any]:
    """Return ``{"kernel": 5}``, or one number per axis; or ``{"activation": "GELU"}``."""
    StepRequest(f"{part.path(layer)}: {operation}", settings).only(operation)
    if operation == "activation":
        return _plan_activation(part, layer, settings, seed)
    module = part.named[layer]
    assert isinstance(module, ConvBase)
    kernel = _kernel(part, layer, settings.get("kernel", [size + 2 for size in module.kernel_size]))
    added = (math.prod(kernel) - math.prod(module.kernel_size)) * math.prod(module.weight.shape[:2])
    if max_added is not None and added > max_added:
        raise GrowthError(
            f"{part.path(layer)}: a kernel of {_short(kernel)} adds {added:,} parameters, and at most {max_added:,} are "
            "allowed"
        )
    return {"kernel": kernel[0] if len(set(kernel)) == 1 else list(kernel)}


def build(part: Part, step: GrowthStep, sample: Any = None) -> StructureChange:
    """Return a weight with another kernel, and the padding that keeps the size of maps; or another activation."""
    layer = part.local(step.layer)
    if step.operation == "activation":
        return _build_activation(part, layer, step.settings)
    module = part.named[layer]
    assert isinstance(module, ConvBase)
    kernel = _kernel(part, layer, step.settings.get("kernel"))
    padding = _padding(part, layer, module, kernel)
    attributes: dict[str, Any] = {"kernel_size": kernel, "padding": padding}
    if not isinstance(padding, str):
        attributes[CONV_PADDING] = [pad for pad in reversed(padding) for _ in range(2)]
    elif padding == "same":
        halves = [spread * (size - 1) for spread, size in zip(module.dilation, kernel, strict=True)]
        attributes[CONV_PADDING] = [pad for total in reversed(halves) for pad in (total // 2, total - total // 2)]
    shape = (*module.weight.shape[:2], *kernel)
    tensors: dict[str, Tensor] = {}
    if shape != tuple(module.weight.shape):
        fresh = fresh_tensors(module, {"weight": shape}, attributes)
        tensors = {f"{layer}.weight" if layer else "weight": fresh["weight"]}
    return StructureChange(tensors=tensors, attributes={layer: attributes})


def activation_behind(part: Part, layer: str) -> str:
    """Return the activation module behind a layer, or the layer itself if it is one.

    Raises:
        GrowthError: If there is none, or it isn't a module.
    """
    module = part.named.get(layer)
    if module is not None and type(module).__name__ in EXCHANGEABLE:
        return layer
    calls = part.calls(layer)
    node = calls[0] if len(calls) == 1 else None
    while node is not None and len(node.users) == 1:
        node = next(iter(node.users))
        call, found = call_of(node, part.modules), part.called(node)
        if call in ACTIVATIONS or call == "prelu":
            if found is None:
                raise GrowthError(
                    f"{part.path(layer)}: the activation behind it, {call}, is called as a function, which can't be "
                    "exchanged; one that is a module can"
                )
            return part.targets[id(found)]
        normalises = found is not None and type(found).__name__.rstrip("123d").endswith("Norm")
        if not (normalises or call in POOLS | DROPS | NOTHING):
            break
    raise GrowthError(f"{part.path(layer)}: no activation stands behind it")


def _stuck(part: Part, layer: str) -> str:
    if layer not in part.layout.layers:
        return part.why_not_traced(layer)
    unit = next(unit for unit in part.units if unit.name == layer)
    return part.why_not_resizable(unit)


def _kernel(part: Part, layer: str, asked: Any) -> tuple[int, ...]:
    """Check a kernel, and return its size along each axis."""
    module, path = part.named[layer], part.path(layer)
    assert isinstance(module, ConvBase)
    if reason := _stuck(part, layer):
        raise GrowthError(f"{path}: {reason}")
    now = module.kernel_size
    sizes = (asked,) * len(now) if isinstance(asked, int) else tuple(asked) if isinstance(asked, list | tuple) else ()
    if len(sizes) != len(now) or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise GrowthError(f"{path}: kernel: {asked!r} is not a size or {len(now)} of them")
    if any((size - was) % 2 for size, was in zip(sizes, now, strict=True)):
        raise GrowthError(f"{path}: a kernel of {_short(sizes)} has no common centre with the present {_short(now)}")
    if sizes == tuple(now):
        raise GrowthError(f"{path}: its kernel is {_short(now)} already")
    _padding(part, layer, module, sizes)
    return sizes


def _padding(part: Part, layer: str, module: ConvBase, kernel: tuple[int, ...]) -> Any:
    """Return the padding with which another kernel gives maps of the same size."""
    if module.padding == "same":
        return "same"
    now = paddings(module)
    padding = tuple(
        int(pad) + spread * (size - was) // 2
        for pad, spread, size, was in zip(now, module.dilation, kernel, module.kernel_size, strict=True)
    )
    if min(padding) < 0:
        raise GrowthError(
            f"{part.path(layer)}: with a kernel of {_short(kernel)} no padding keeps the size of its maps; "
            f"the present is {_short(module.kernel_size)} with a padding of {_short(now)}"
        )
    return padding


def _short(sizes: Any) -> str:
    return "x".join(str(int(size)) for size in sizes)


def _activation_stuck(part: Part, name: str) -> str:
    if not part.calls(name):
        return part.why_not_traced(name)
    readers = [plain_name(str(node.target)) for node in part.graph.nodes if node.op == "get_attr"]
    if any(reader.rpartition(".")[0] == name for reader in readers):
        return f"forward reads the tensors of {part.path(name)} itself"
    module = part.named[name]
    return next(
        (r for n, _ in module.named_parameters(recurse=False) if (r := part.why_not_replaceable(f"{name}.{n}"))), ""
    )


def _plan_activation(part: Part, layer: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Plan the requested activation, or one drawn from the others."""
    now = type(part.named[layer]).__name__
    requested = settings.get("activation")
    if requested is None:
        others = [name for name in EXCHANGEABLE if name != now]
        requested = others[int(torch.randint(len(others), (), generator=torch.Generator().manual_seed(seed)))]
    _check_activation(part, layer, requested)
    return {"activation": requested}


def _check_activation(part: Part, layer: str, requested: Any) -> None:
    if requested not in EXCHANGEABLE:
        raise GrowthError(f"{part.path(layer)}: activation: {requested!r} is not one of {', '.join(EXCHANGEABLE)}")
    if requested == type(part.named[layer]).__name__:
        raise GrowthError(f"{part.path(layer)}: it is {requested} already")


def _build_activation(part: Part, layer: str, settings: Mapping[str, Any]) -> StructureChange:
    old, requested = part.named[layer], settings.get("activation")
    _check_activation(part, layer, requested)
    kind = getattr(nn, str(requested))
    inplace = getattr(old, "inplace", False) and "inplace" in inspect.signature(kind).parameters
    new: nn.Module = kind(inplace=True) if inplace else kind()
    matched(new, next((m for m in _near(part, old) if next(m.parameters(), None) is not None), old))
    for hooks in FORWARD_HOOKS:
        new.__dict__[hooks] = old.__dict__[hooks]  # the same dictionaries, so that handles can still remove them
    new.training = old.training
    why = f"{part.path(layer)} computes {requested} in place of {type(old).__name__}"
    return StructureChange(modules={layer: new}, why_not=(why,))


def _near(part: Part, module: nn.Module) -> list[nn.Module]:
    """Return a module, then the layers of the part, those before it first."""
    line = list(part.named.values())
    at = next(i for i, each in enumerate(line) if each is module)
    layers = {id(unit.module) for unit in part.units}
    return [module, *(each for each in [*reversed(line[:at]), *line[at:]] if id(each) in layers)]


# Two linear layers in place of one

_SHARE = 0.75
"""Width of an intermediate layer, as a share of a layer's inputs and outputs together (NeuroExapt's value)."""
_PROJECTIONS = ("ReLU", "ReLU6", "Hardtanh")
"""Idempotent activations."""
_MIRRORED = ("ReLU", "LeakyReLU", "GELU", "SiLU", "Hardswish")
"""Activations f of which f(a) - f(-a) is a multiple of a."""


@dataclass(frozen=True)
class _Passage:
    """How the first of two linear layers' outputs pass the activation between them unchanged.

    Args:
        activation: The activation's class.
        arguments: Its arguments.
        copies: In how many units each old output is: 1, or 2 for itself and its negative.
    """

    activation: str
    arguments: tuple[float, ...] = ()
    copies: int = 1


_NARROW_PASSAGE = _Passage("PReLU", (1, 1.0))
"""A PReLU of slope 1 lets everything pass, and learns to bend."""


def plan_intermediate(part: Part, layer: str, module: nn.Linear, request: StepRequest) -> dict[str, Any]:
    """Return the settings of two layers in a linear layer's place: ``hidden`` units, ``activation``, ``copies``.

    A layer y = Wx + b becomes Linear(inputs, hidden) - activation - Linear(hidden, outputs), as in NeuroExapt, where
    hidden is 75 % of inputs and outputs together; here it computes the same at birth. The first holds W, so that moments
    stay, and fresh units that the second ignores at first. How W's outputs pass the activation:

    - if an idempotent activation such as ReLU follows the layer, it is used in between as well;
    - otherwise each output is there twice, as itself and its negative: relu(a) - relu(-a) = a, and likewise for LeakyReLU,
      GELU, SiLU and Hardswish;
    - if that needs more units than are allowed, the activation is a PReLU of slope 1.

    ``hidden`` is at least the number of outputs, or twice that; ``width: same`` is just the outputs (Net2Deeper).

    Raises:
        GrowthError: If the request can't be met.
    """
    if set(request.settings) == {"hidden", "activation", "arguments", "copies"}:
        return dict(request.settings)
    request.only("hidden", "width")
    if request.settings.get("width", "same") != "same":
        raise request.refuse(f"width: {request.settings['width']!r} is not 'same'; `hidden` takes a number")
    inputs, outputs, bias = module.in_features, module.out_features, module.bias is not None
    passage = _passage_through(part, layer)

    def added(hidden: int, passage: _Passage) -> int:
        both = hidden * (inputs + bias) + outputs * (hidden + bias) + (passage.activation == "PReLU")
        return both - outputs * (inputs + bias)

    asked = outputs if "width" in request.settings else max(passage.copies * outputs, int(_SHARE * (inputs + outputs)))
    hidden = request.number("hidden", asked, outputs)
    exact = bool(request.settings)
    if passage.copies * outputs > hidden or (
        not exact and not request.allows(added(passage.copies * outputs, passage))
    ):
        passage = _NARROW_PASSAGE
    request.check(added(hidden if exact else passage.copies * outputs, passage))
    while not request.allows(added(hidden, passage)):
        hidden -= 1
    if hidden > outputs and _tied(part, module):
        raise request.refuse("its weights are tied to another layer's; width: same would leave them alone")
    return {
        "hidden": hidden,
        "activation": passage.activation,
        "arguments": list(passage.arguments),
        "copies": passage.copies,
    }


@torch.no_grad()
def build_intermediate(layer: str, module: nn.Linear, settings: Mapping[str, Any]) -> StructureChange:
    """Return the change to ``Sequential(base, act, linear)``; base is the layer, or its copy with more outputs.

    Args:
        layer: The layer's name.
        module: The layer; it stays as it is.
        settings: As :func:`plan_intermediate` returns them.

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
    return StructureChange(modules={layer: line}, moved=moved)


def _widened(
    layer: str, module: nn.Linear, hidden: int, copies: int
) -> tuple[nn.Linear, dict[str, tuple[str, TensorMap]]]:
    """Return the layer with more outputs (its own, their negatives if needed, fresh ones), and the maps of its tensors."""
    outputs = module.out_features
    fresh = matched(nn.Linear(module.in_features, hidden, bias=module.bias is not None), module)
    base = shallow_copy(module)  # with its hooks and other attributes
    base.out_features = hidden
    rows = torch.cat([torch.arange(outputs), torch.full((hidden - outputs,), -1)])
    own = {name: tensor for name, tensor in parameters_dict(module).items() if tensor is not None}
    # An output that is 0 for every input would never learn, as ReLU has no gradient at 0. It becomes a - a instead.
    idle = torch.stack([tensor.reshape(outputs, -1).eq(0).all(1) for tensor in own.values()]).all(0) & (copies == 2)
    moved = {}
    for name, old in own.items():
        new = getattr(fresh, name)
        twin = idle.reshape(-1, *[1] * (old.ndim - 1))
        new[:outputs] = torch.where(twin, new[:outputs], old)
        if copies == 2:
            new[outputs : 2 * outputs] = torch.where(twin, new[:outputs], -old)
        parameters_dict(base)[name] = new.requires_grad_(old.requires_grad)
        columns = torch.arange(module.in_features)[None] if old.ndim > 1 else None
        moved[f"{layer}.base.{name}"] = (f"{layer}.{name}", TensorMap(rows, columns))
    return base, moved


def _tied(part: Part, module: nn.Linear) -> bool:
    own = {id(parameter) for parameter in module.parameters()}
    held = [value for _, value in part.module.named_parameters(remove_duplicate=False) if id(value) in own]
    return len(held) > len(own)


def _passage_through(part: Part, layer: str) -> _Passage:
    """Return the activation that follows the layer, if values can pass it unchanged; else the network's first such one."""
    node = part.calls(layer)[0]
    while len(node.users) == 1 and call_of(next(iter(node.users)), part.modules) in DROPS | NOTHING:
        node = next(iter(node.users))
    follows = [_made(user, part) for user in node.users]
    if len(follows) == 1 and follows[0] is not None and follows[0][0] in _PROJECTIONS:
        return _Passage(*follows[0])
    known = [made for made in [*follows, *(_made(each, part) for each in part.graph.nodes)] if made is not None]
    return next((_Passage(*made, copies=2) for made in known if made[0] in _MIRRORED), _Passage("ReLU", copies=2))


def _made(node: fx.Node, part: Part) -> tuple[str, tuple[float, ...]] | None:
    """Return an activation's class and its arguments; ``None`` for other steps."""
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
