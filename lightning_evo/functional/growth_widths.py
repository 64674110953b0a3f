"""How does a layer get more channels, or fewer? Together with all that share them: that take, normalise or join them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_evo.functional.growth_frame import Change, Part, formatted
from lightning_evo.functional.growth_reach import Reach, reach_of, reached
from lightning_evo.functional.growth_steps import GrowthError, GrowthStep, Operation
from lightning_evo.functional.growth_wishes import Wishes, number

__all__ = ["build", "fresh_tensors", "importance", "plan", "shares", "sites", "width_of"]

WIDENED = ("linear", "conv", "transposed", "embedding")


def sites(part: Part) -> dict[str, dict[Operation, str]]:
    """Which layers can get more or fewer channels, and for the others why not."""
    found: dict[str, dict[Operation, str]] = {}
    for unit in part.units:
        if unit.kind in WIDENED:
            reach = reach_of(part, unit.name)
            if isinstance(reach, str):
                found[unit.name] = {"widen": reach, "prune": reach}
            else:
                least = f"it can't have fewer than {reach.narrower} channels" if reach.width <= reach.narrower else ""
                found[unit.name] = {"widen": reach.unwidened, "prune": reach.unpruned or least}
    return found


def width_of(part: Part, layer: str) -> int:
    """How many channels a layer gives."""
    unit = next(unit for unit in part.units if unit.name == layer)
    module = unit.module
    return int(
        next(
            getattr(module, name) for name in ("out_channels", "out_features", "embedding_dim") if hasattr(module, name)
        )
    )


def shares(part: Part, layer: str) -> tuple[str, ...]:
    """The other layers whose tensors change with a layer's width."""
    reach = reach_of(part, layer)
    return () if isinstance(reach, str) else tuple(name for name in reach.names if name != layer)


def plan(
    part: Part,
    operation: Operation,
    layer: str,
    *,
    ratio: float,
    max_added: int | None,
    settings: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """``{"width": 48}`` or ``{"kept": [0, 2, 5]}``."""
    reach, wishes = reached(part, layer), Wishes(f"{part.path(layer)}: {operation}", settings)
    wishes.only(*(("kept", "width") if operation == "prune" else ("width",)))
    if operation == "prune":
        return {"kept": _kept(part, layer, reach, ratio, settings)}
    width = settings.get("width")
    if width is None:
        if ratio <= 1:
            raise GrowthError(f"{layer}: widen by a ratio of {ratio}, which is not above 1")
        width = _affordable(part, layer, reach, math.ceil(ratio * reach.width), max_added)
    _check_width(layer, reach, width)
    if max_added is not None and (more := reach.added(width)) > max_added:
        raise GrowthError(f"{layer}: {width} channels would add {more:,} parameters, and {max_added:,} may be added")
    return {"width": width}


def build(part: Part, step: GrowthStep, sample: Any = None) -> Change:
    """Tensors of the new shapes, freshly initialised, for all layers that share the channels."""
    layer = part.local(step.layer)
    reach = reached(part, layer)
    if step.operation == "prune":
        kept = _checked_kept(layer, reach, step.settings.get("kept"))
        width, index = len(kept), {layer: torch.tensor(kept)}
    else:
        width, index = _check_width(layer, reach, step.settings.get("width")), {}
    shapes, attributes = reach.sizes(width, step.operation)
    tensors: dict[str, Tensor] = {}
    for name, local_shapes in shapes.items():
        module = part.named[name]
        fresh = fresh_tensors(module, local_shapes, attributes.get(name, {}))
        tensors |= {f"{name}.{local}" if name else local: tensor for local, tensor in fresh.items()}
    return Change(tensors=tensors, attributes=attributes, index=index)


def importance(part: Part, layer: str) -> Tensor:
    """How much each channel of a layer counts: its filter's L1 norm, times what batch normalisation scales it by.

    Summed over all layers that give the same channels, as those along a residual path. Shape (channels,).

    Source:
        Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710; Liu et al. 2017, Learning Efficient
        Convolutional Networks through Network Slimming, arXiv:1708.06519 (the scales).
    """
    reach = reached(part, layer)
    total = torch.zeros(reach.width, dtype=torch.float64)
    for found in part.layout.layers.values():
        unit, module = found.unit, found.unit.module
        own = [piece.root for piece in found.gives.parts or ()] == [reach.dimension]
        if unit.kind not in WIDENED or not own or found.gives.flat:
            continue
        weight = unit.tensors["weight"].detach().abs().double()
        if unit.kind in ("transposed", "embedding"):
            weight = weight.transpose(0, 1)
        norms = weight.flatten(1).sum(1)
        if unit.kind == "transposed":
            norms = norms.repeat(int(module.groups))  # type: ignore[union-attr, arg-type]
        total += (norms * _scales(part, unit.name, reach.width)).cpu()
    return total


def _affordable(part: Part, layer: str, reach: Reach, wish: int, max_added: int | None) -> int:
    """The width next to the wished one that adds no more than may be added."""
    steps = max(1, -(-(wish - reach.width) // reach.step))
    if max_added is None or reach.added(reach.width + steps * reach.step) <= max_added:
        return reach.width + steps * reach.step
    low, high = 0, steps  # so many steps are affordable, so many are not
    while high - low > 1:
        middle = (low + high) // 2
        affordable = reach.added(reach.width + middle * reach.step) <= max_added
        low, high = (middle, high) if affordable else (low, middle)
    if not low:
        least = reach.added(reach.width + reach.step)
        raise GrowthError(
            f"{part.path(layer)}: widening it by {reach.step}, the least possible, adds {least:,} parameters, and "
            f"{max_added:,} may be added"
        )
    return reach.width + low * reach.step


def _check_width(layer: str, reach: Reach, width: Any) -> int:
    """A width, if the layer can be widened to it."""
    if reach.unwidened:
        raise GrowthError(f"{layer}: {reach.unwidened}")
    if not isinstance(width, int) or isinstance(width, bool) or width <= reach.width:
        raise GrowthError(f"{layer}: width {width!r} is not an integer above its present {reach.width}")
    if (width - reach.width) % reach.step:
        raise GrowthError(f"{layer}: width {width} is not {reach.width} and a multiple of {reach.step}")
    return width


def _kept(part: Part, layer: str, reach: Reach, ratio: float, settings: Mapping[str, Any]) -> list[int]:
    """The most important channels, as many from each block that is treated apart."""
    if "kept" in settings:
        return _checked_kept(layer, reach, settings["kept"])
    if "width" in settings:
        ratio = number(f"{layer}: width", settings["width"]) / reach.width
    if not 0 < ratio < 1:
        raise GrowthError(f"{layer}: prune to a share of {ratio}, which is not between 0 and 1")
    size = reach.blocks()
    keep = min(max(1, round(ratio * size)), size - 1)
    if keep < 1:
        raise GrowthError(f"{layer}: it can't have fewer than {reach.narrower} channels")
    scores = importance(part, layer).reshape(reach.narrower, size)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :keep].sort(dim=1).values
    begins = torch.arange(reach.narrower)[:, None] * size
    return _checked_kept(layer, reach, (best + begins).flatten().tolist())


def _checked_kept(layer: str, reach: Reach, kept: Any) -> list[int]:
    if reach.unpruned:
        raise GrowthError(f"{layer}: {reach.unpruned}")
    whole = isinstance(kept, list | tuple) and all(isinstance(k, int) and 0 <= k < reach.width for k in kept)
    if not whole or list(kept) != sorted(set(kept)) or not 0 < len(kept) < reach.width:
        raise GrowthError(
            f"{layer}: kept {kept!r} are not some, and not all, of 0 to {reach.width - 1} in ascending order"
        )
    size = reach.blocks()
    counts = torch.bincount(torch.tensor(kept) // size, minlength=reach.narrower)
    if len(counts.unique()) > 1:
        raise GrowthError(
            f"{layer}: of each of its {reach.narrower} groups of {size} channels equally many must be kept"
        )
    return list(kept)


def _scales(part: Part, layer: str, width: int) -> Tensor | float:
    """What batch normalisation right behind a layer multiplies its channels by."""
    calls = part.calls(layer)
    users = [user for node in calls for user in node.users]
    norm = part.called(users[0]) if len(users) == 1 else None
    weight = norm._parameters.get("weight") if isinstance(norm, _NormBase) else None
    return weight.detach().abs().double() if weight is not None and weight.numel() == width else 1.0


def fresh_tensors(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, Any]
) -> dict[str, Tensor]:
    """A layer's tensors in new shapes, as its class initialises them; a user's own hold the mean of what they held."""
    own: dict[str, Tensor] = {n: t for n, t in [*module._parameters.items(), *module._buffers.items()] if t is not None}
    reset: Callable[[], None] | None = None
    twin = type(module).__new__(type(module))
    if type(module).__module__.startswith("torch.nn") and hasattr(module, "reset_parameters"):
        blank = {n: torch.empty(shapes.get(n, tuple(t.shape)), dtype=_plain_dtype(t)) for n, t in own.items()}
        twin.__dict__.update(module.__dict__, **attributes)
        twin.__dict__["_parameters"] = {
            n: None if t is None else nn.Parameter(blank[n]) for n, t in module._parameters.items()
        }
        twin.__dict__["_buffers"] = {n: None if t is None else blank[n] for n, t in module._buffers.items()}
        reset = twin.reset_parameters  # type: ignore[assignment]
    if reset is not None:
        reset()
    fresh: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        old = own[name]
        if reset is None:
            new = torch.full(shape, float(old.detach().double().mean()))
        else:
            made = twin._parameters.get(name)
            new = made.detach() if made is not None else twin._buffers[name]  # type: ignore[assignment]
        new = formatted(new.to(device=old.device, dtype=old.dtype), old.detach())
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
            new.__dict__.update(old.__dict__)  # marks that users put on their parameters
        fresh[name] = new
    return fresh


def _plain_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype
