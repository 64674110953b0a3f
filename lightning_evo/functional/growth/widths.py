"""What changes with a layer's width? All that gives, takes, normalises or scales the same channels, and by which steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_evo._compat.torch import NormBase, buffers_dict, parameters_dict, set_tensors
from lightning_evo.functional.graph.channels import Dimension, Flow
from lightning_evo.functional.growth.frame import Part, StructureChange, formatted
from lightning_evo.functional.growth.steps import GrowthError, GrowthStep, Operation, Wishes, number
from lightning_evo.functional.inheritance.layout import TracedLayer
from lightning_evo.utils.compiled import plain_name

__all__ = [
    "Reach",
    "build",
    "fresh_tensors",
    "importance",
    "plan",
    "reach_of",
    "reached",
    "shares",
    "sites",
    "width_of",
]


@dataclass
class Reach:
    """What changes with a layer's width.

    Args:
        part: Where.
        dimension: The channels it gives.
        layers: The layers that give, take or normalise them.
        loose: Tensors of the user's own that scale them: name to flow and axis.
        stateless: Normalisations without tensors, with what they take.
        step: By how many channels it can be widened, or multiples of that.
        grows_groups: Whether group normalisations get more groups, rather than larger ones.
        narrower: Of how many channels a multiple stays when it is pruned.
        unwidened: Why it can't be widened, though its layers could be resized.
        unpruned: The same for pruning.
    """

    part: Part
    dimension: Dimension
    layers: list[TracedLayer]
    loose: dict[str, tuple[Flow, int]]
    stateless: dict[str, Flow]
    step: int = 1
    grows_groups: bool = False
    narrower: int = 1
    unwidened: str = ""
    unpruned: str = ""
    names: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """How many channels there are now."""
        return self.dimension.width

    def blocks(self) -> int:
        """How many channels are in each part of them that is pruned alike."""
        return self.width // self.narrower

    def scaled(self, flow: Flow, features: int, width: int) -> int:
        """How many features a layer takes or gives once the dimension has another width."""
        if not flow.parts:
            return features
        return features // flow.width * sum(_width(piece.root, self.dimension, width) for piece in flow.parts)

    def sizes(
        self, width: int, operation: str
    ) -> tuple[dict[str, dict[str, tuple[int, ...]]], dict[str, dict[str, Any]]]:
        """The new shapes of tensors and the new values of attributes, by layer."""
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        attributes: dict[str, dict[str, Any]] = {}
        sized: dict[str, tuple[int, ...]]
        for layer in self.layers:
            name, module = layer.unit.name, layer.unit.module
            assert module is not None
            if layer.unit.kind in ("channelwise", "statistic"):
                features = next(t.numel() for t in layer.unit.tensors.values() if t.ndim)
                new = self.scaled(layer.takes, features, width)
                sized = {local: (new,) for local, tensor in layer.unit.tensors.items() if tensor.ndim}
                values = _norm_attributes(module, features, new, self.grows_groups and operation == "widen")
            else:
                sized, values = self._weighted(layer, module, width)
            changed = {local: s for local, s in sized.items() if s != tuple(layer.unit.tensors[local].shape)}
            if changed:
                shapes[name] = changed
            attributes[name] = values
        for name, flow in self.stateless.items():
            attributes[name] = {"num_features": self.scaled(flow, flow.width, width)}
        for path, (flow, axis) in self.loose.items():
            name, _, local = path.rpartition(".")
            shape = list(_tensor(self.part, path).shape)
            shape[axis] = self.scaled(flow, shape[axis], width)
            shapes.setdefault(name, {})[local] = tuple(shape)
        return shapes, attributes

    def _weighted(
        self, layer: TracedLayer, module: nn.Module, width: int
    ) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
        kind, weight = layer.unit.kind, layer.unit.tensors["weight"]
        if kind == "embedding":
            wide = self.scaled(layer.gives, weight.shape[1], width)
            return {"weight": (weight.shape[0], wide)}, {"embedding_dim": wide}
        now = (
            (module.out_features, module.in_features) if kind == "linear" else (module.out_channels, module.in_channels)
        )
        outputs, inputs = self.scaled(layer.gives, now[0], width), self.scaled(layer.takes, now[1], width)  # type: ignore[arg-type]
        bias = {"bias": (outputs,)} if "bias" in layer.unit.tensors else {}
        if kind == "linear":
            return {"weight": (outputs, inputs), **bias}, {"out_features": outputs, "in_features": inputs}
        groups = int(module.groups) if not _depthwise(layer) else inputs  # type: ignore[arg-type]
        first, second = (inputs, outputs // groups) if kind == "transposed" else (outputs, inputs // groups)
        values = {"out_channels": outputs, "in_channels": inputs, "groups": groups}
        return {"weight": (first, second, *weight.shape[2:]), **bias}, values

    def added(self, width: int, operation: str = "widen") -> int:
        """How many parameters another width adds."""
        shapes, _ = self.sizes(width, operation)
        total = 0
        for name, sized in shapes.items():
            own = {n: tensor.numel() for n, tensor in self.part.named[name].named_parameters(recurse=False)}
            total += sum(math.prod(shape) - own[n] for n, shape in sized.items() if n in own)
        return total


def _width(dimension: Dimension, changed: Dimension, width: int) -> int:
    """A dimension's width once another one has changed."""
    if dimension is changed:
        return width
    if dimension.made_of:
        return sum(_width(piece.root, changed, width) for piece in dimension.made_of)
    return dimension.width


def reached(part: Part, layer: str) -> Reach:
    """What changes with a layer's width.

    Raises:
        GrowthError: If it can't change.
    """
    reach = reach_of(part, layer)
    if isinstance(reach, str):
        raise GrowthError(f"{part.path(layer)}: {reach}")
    return reach


def reach_of(part: Part, layer: str) -> Reach | str:
    """What changes with a layer's width; or why it can't change."""
    found = part.layout.layers.get(layer)
    if found is None:
        return part.unseen(layer)
    if found.gives.parts is None or len(found.gives.parts) != 1:
        return "it isn't known where its channels go" if found.gives.parts is None else "it gives a concatenation"
    dimension = found.gives.parts[0].root
    if dimension.made_of:
        return "its channels are added to a concatenation; a layer that gives a piece of that can change"
    changed = {d.root for d in part.layout.dimensions if _width(d.root, dimension, dimension.width + 1) != d.root.width}
    for root in changed | {dimension}:
        if root.final:
            return "its channels are outputs of the network" + (f" ({part.prefix})" if part.prefix else "")
        if root.fixed:
            return root.fixed

    def touched(flow: Flow) -> bool:
        return any(piece.root in changed for piece in flow.parts or ())

    layers = [one for one in part.layout.layers.values() if touched(one.takes) or touched(one.gives)]
    loose = {path: found for path, found in part.layout.loose.items() if touched(found[0])}
    stateless = {}
    for node, flow in part.layout.flows.items():
        module = part.called(node)
        if isinstance(module, NormBase) and touched(flow):
            name = part.targets[id(module)]
            if name not in part.layout.layers:
                stateless[name] = flow
    for one in layers:
        if reason := part.stuck(one.unit):
            return reason
    for path, (_, axis) in loose.items():
        if reason := _loose_stuck(part, path, axis):
            return reason
    reach = Reach(part, dimension, layers, loose, stateless)
    reach.names = [one.unit.name for one in layers] + list(loose)
    _set_steps(reach, changed)
    return reach


def _loose_stuck(part: Part, path: str, axis: int) -> str:
    readers = [node for node in part.graph.nodes if node.op == "get_attr" and plain_name(str(node.target)) == path]
    if axis > 1:
        return f"{path}, which scales its channels, holds them along axis {axis}"
    if sum(len(node.users) for node in readers) > 1:
        return f"{path}, which scales its channels, is used at several places"
    return part.tied(path)


def _set_steps(reach: Reach, changed: set[Dimension]) -> None:
    """By which steps a width can change, so that grouped convolutions and normalisations keep what they compute."""
    grouped: list[int] = []
    sizes: list[int] = []
    number_of_groups: list[int] = []
    whole = False
    for layer in reach.layers:
        module, name = layer.unit.module, layer.unit.name
        pieces = [len(flow.parts or ()) for flow in (layer.takes, layer.gives)]
        if layer.unit.kind in ("conv", "transposed") and module.groups > 1 and not _depthwise(layer):  # type: ignore[union-attr, operator]
            grouped.append(int(module.groups))  # type: ignore[union-attr, arg-type]
            if max(pieces) > 1 or len(changed) > 1 or any(flow.flat for flow in (layer.takes, layer.gives)):
                reach.unwidened = reach.unpruned = f"{name} is a grouped convolution of a concatenation"
            elif layer.unit.kind == "transposed":
                reach.unwidened = reach.unpruned = f"{name} is a grouped transposed convolution"
        if layer.unit.kind != "statistic":
            continue
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else 1
        if pieces[0] > 1 or len(changed) > 1:
            size = layer.takes.width // groups
            widths = [piece.root.width for piece in layer.takes.parts or ()]
            if groups == 1 or any(width % size for width in widths) or len(changed) > 1:
                reach.unwidened = f"{name} ({type(module).__name__}) normalises over a concatenation"
            if groups > 1:
                reach.unpruned = f"{name} ({type(module).__name__}) normalises over a concatenation"
            sizes.append(size)
        elif groups == 1:
            whole = True
        else:
            sizes.append(reach.width // groups)
            number_of_groups.append(groups)
        if layer.takes.flat:
            reach.unwidened = f"{name} ({type(module).__name__}) normalises over positions"
    reach.narrower = math.lcm(*grouped, *number_of_groups)
    if whole or (sizes and grouped):
        reach.step = reach.width
    elif sizes:
        reach.step, reach.grows_groups = math.lcm(*sizes), True
    else:
        reach.step = math.lcm(*grouped)


def _depthwise(layer: TracedLayer) -> bool:
    """Whether a convolution treats each channel by itself."""
    module = layer.unit.module
    pieces = [[piece.root for piece in flow.parts or ()] for flow in (layer.takes, layer.gives)]
    alike = getattr(module, "groups", 1) == getattr(module, "in_channels", 0) == getattr(module, "out_channels", 0)
    return alike and int(module.groups) > 1 and pieces[0] == pieces[1]  # type: ignore[union-attr, arg-type]


def _norm_attributes(module: nn.Module, before: int, now: int, grows_groups: bool) -> dict[str, Any]:
    if isinstance(module, nn.GroupNorm):
        groups = now // (before // module.num_groups) if grows_groups else module.num_groups
        return {"num_channels": now, "num_groups": groups}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": (now,)}
    return {"num_parameters" if isinstance(module, nn.PReLU) else "num_features": now}


def _tensor(part: Part, path: str) -> Tensor:
    name, _, local = path.rpartition(".")
    module = part.named[name]
    found = parameters_dict(module).get(local)
    return found if found is not None else module.get_buffer(local)


# -- How does a layer get more channels, or fewer? Together with all that share them: that take, normalis --

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


def build(part: Part, step: GrowthStep, sample: Any = None) -> StructureChange:
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
    return StructureChange(tensors=tensors, attributes=attributes, index=index)


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
    weight = parameters_dict(norm).get("weight") if isinstance(norm, NormBase) else None
    return weight.detach().abs().double() if weight is not None and weight.numel() == width else 1.0


def fresh_tensors(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, Any]
) -> dict[str, Tensor]:
    """A layer's tensors in new shapes, as its class initialises them; a user's own hold the mean of what they held."""
    own: dict[str, Tensor] = {
        n: t for n, t in [*parameters_dict(module).items(), *buffers_dict(module).items()] if t is not None
    }
    reset: Callable[[], None] | None = None
    twin = type(module).__new__(type(module))
    if type(module).__module__.startswith("torch.nn") and hasattr(module, "reset_parameters"):
        blank = {n: torch.empty(shapes.get(n, tuple(t.shape)), dtype=_plain_dtype(t)) for n, t in own.items()}
        twin.__dict__.update(module.__dict__, **attributes)
        set_tensors(
            twin,
            {n: None if t is None else nn.Parameter(blank[n]) for n, t in parameters_dict(module).items()},
            {n: None if t is None else blank[n] for n, t in buffers_dict(module).items()},
        )
        reset = twin.reset_parameters  # type: ignore[assignment]
    if reset is not None:
        reset()
    fresh: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        old = own[name]
        if reset is None:
            new = torch.full(shape, float(old.detach().double().mean()))
        else:
            made = parameters_dict(twin).get(name)
            new = made.detach() if made is not None else buffers_dict(twin)[name]  # type: ignore[assignment]
        new = formatted(new.to(device=old.device, dtype=old.dtype), old.detach())
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
            new.__dict__.update(old.__dict__)  # marks that users put on their parameters
        fresh[name] = new
    return fresh


def _plain_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype
