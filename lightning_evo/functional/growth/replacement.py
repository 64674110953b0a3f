"""How does a layer look further, or bend otherwise? A larger kernel around the old one, another activation in its place."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_evo._compat.torch import CONV_PADDING, FORWARD_HOOKS, ConvBase
from lightning_evo.functional.graph.operations import ACTIVATIONS, DROPS, NOTHING, POOLS, call_of, paddings
from lightning_evo.functional.growth.frame import Part, StructureChange, matched
from lightning_evo.functional.growth.steps import GrowthError, GrowthStep, Operation, Wishes
from lightning_evo.functional.growth.widths import fresh_tensors
from lightning_evo.utils.compiled import plain_name

__all__ = ["EXCHANGEABLE", "activation_behind", "build", "plan", "sites"]

EXCHANGEABLE = ("ReLU", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "Hardswish")
"""Activations that can take each other's places."""
LARGEST = 7
"""Up to here a kernel grows by itself; larger ones must be asked for."""


def sites(part: Part) -> dict[str, dict[Operation, str]]:
    """Which convolutions can get another kernel, and which modules are activations that can be exchanged."""
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
    """``{"kernel": 5}``, or one number per axis; ``{"activation": "GELU"}``."""
    Wishes(f"{part.path(layer)}: {operation}", settings).only(operation)
    if operation == "activation":
        return _plan_activation(part, layer, settings, seed)
    module = part.named[layer]
    assert isinstance(module, ConvBase)
    kernel = _kernel(part, layer, settings.get("kernel", [size + 2 for size in module.kernel_size]))
    added = (math.prod(kernel) - math.prod(module.kernel_size)) * math.prod(module.weight.shape[:2])
    if max_added is not None and added > max_added:
        raise GrowthError(
            f"{part.path(layer)}: a kernel of {_short(kernel)} adds {added:,} parameters, and {max_added:,} may be added"
        )
    return {"kernel": kernel[0] if len(set(kernel)) == 1 else list(kernel)}


def build(part: Part, step: GrowthStep, sample: Any = None) -> StructureChange:
    """A weight of another kernel with the padding that keeps the size; or another activation."""
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
    """The activation module behind a layer, or the layer itself if it is one.

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
        return part.unseen(layer)
    unit = next(unit for unit in part.units if unit.name == layer)
    return part.stuck(unit)


def _kernel(part: Part, layer: str, asked: Any) -> tuple[int, ...]:
    """A kernel in full, checked."""
    module, path = part.named[layer], part.path(layer)
    assert isinstance(module, ConvBase)
    if reason := _stuck(part, layer):
        raise GrowthError(f"{path}: {reason}")
    now = module.kernel_size
    sizes = (asked,) * len(now) if isinstance(asked, int) else tuple(asked) if isinstance(asked, list | tuple) else ()
    if len(sizes) != len(now) or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise GrowthError(f"{path}: kernel {asked!r} is neither a size nor {len(now)} of them")
    if any((size - was) % 2 for size, was in zip(sizes, now, strict=True)):
        raise GrowthError(f"{path}: a kernel of {_short(sizes)} has no common centre with the present {_short(now)}")
    if sizes == tuple(now):
        raise GrowthError(f"{path}: its kernel is {_short(now)} already")
    _padding(part, layer, module, sizes)
    return sizes


def _padding(part: Part, layer: str, module: ConvBase, kernel: tuple[int, ...]) -> Any:
    """The padding with which another kernel gives maps of the same size."""
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
        return part.unseen(name)
    readers = [plain_name(str(node.target)) for node in part.graph.nodes if node.op == "get_attr"]
    if any(reader.rpartition(".")[0] == name for reader in readers):
        return f"forward reads the tensors of {part.path(name)} itself"
    module = part.named[name]
    return next((r for n, _ in module.named_parameters(recurse=False) if (r := part.tied(f"{name}.{n}"))), "")


def _plan_activation(part: Part, layer: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The wished one, or one that is drawn of the others."""
    now = type(part.named[layer]).__name__
    wish = settings.get("activation")
    if wish is None:
        others = [name for name in EXCHANGEABLE if name != now]
        wish = others[int(torch.randint(len(others), (), generator=torch.Generator().manual_seed(seed)))]
    _check_activation(part, layer, wish)
    return {"activation": wish}


def _check_activation(part: Part, layer: str, wish: Any) -> None:
    if wish not in EXCHANGEABLE:
        raise GrowthError(f"{part.path(layer)}: activation {wish!r} is none of {', '.join(EXCHANGEABLE)}")
    if wish == type(part.named[layer]).__name__:
        raise GrowthError(f"{part.path(layer)}: it is {wish} already")


def _build_activation(part: Part, layer: str, settings: Mapping[str, Any]) -> StructureChange:
    old, wish = part.named[layer], settings.get("activation")
    _check_activation(part, layer, wish)
    kind = getattr(nn, str(wish))
    inplace = getattr(old, "inplace", False) and "inplace" in inspect.signature(kind).parameters
    new: nn.Module = kind(inplace=True) if inplace else kind()
    matched(new, next((m for m in _near(part, old) if next(m.parameters(), None) is not None), old))
    for hooks in FORWARD_HOOKS:
        new.__dict__[hooks] = old.__dict__[hooks]  # the same dictionaries, so that handles can still remove them
    new.training = old.training
    why = f"{part.path(layer)} computes {wish} in place of {type(old).__name__}"
    return StructureChange(modules={layer: new}, why_not=(why,))


def _near(part: Part, module: nn.Module) -> list[nn.Module]:
    """A module, then the layers of the part, those before it first."""
    line = list(part.named.values())
    at = next(i for i, each in enumerate(line) if each is module)
    layers = {id(unit.module) for unit in part.units}
    return [module, *(each for each in [*reversed(line[:at]), *line[at:]] if id(each) in layers)]
