"""Operations that widen and prune layers, together with all layers that share the channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_evo._compat.torch import ConvBase, NormBase, buffers_dict, parameters_dict, set_tensors
from lightning_evo.functional.graph.channels import Dimension, Flow
from lightning_evo.functional.growth.parts import Part, StructureChange, formatted
from lightning_evo.functional.growth.steps import GrowthError, GrowthStep, Operation, StepRequest, number
from lightning_evo.functional.inheritance.layout import TracedLayer
from lightning_evo.utils.compiled import plain_name

__all__ = [
    "WIDENED",
    "build",
    "fresh_tensors",
    "importance",
    "plan",
    "shares",
    "sites",
    "width_of",
]


WIDENED = ("linear", "conv", "transposed", "embedding")


def sites(part: Part) -> dict[str, dict[Operation, str]]:
    """Return, for each layer, why it can't get more or fewer channels; empty if it can."""
    found: dict[str, dict[Operation, str]] = {}
    for unit in part.units:
        if unit.kind in WIDENED:
            group = find_channel_group(part, unit.name)
            if isinstance(group, str):
                found[unit.name] = {"widen": group, "prune": group}
            else:
                least = (
                    f"it can't have fewer than {group.pruned_blocks} channels"
                    if group.width <= group.pruned_blocks
                    else ""
                )
                found[unit.name] = {"widen": group.why_not_widened, "prune": group.why_not_pruned or least}
    return found


def width_of(part: Part, layer: str) -> int:
    """Return a layer's number of output channels."""
    unit = next(unit for unit in part.units if unit.name == layer)
    module = unit.module
    return int(
        next(
            getattr(module, name) for name in ("out_channels", "out_features", "embedding_dim") if hasattr(module, name)
        )
    )


def shares(part: Part, layer: str) -> tuple[str, ...]:
    """Return the other layers whose tensors change with a layer's width."""
    group = find_channel_group(part, layer)
    return () if isinstance(group, str) else tuple(name for name in group.names if name != layer)


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
    """Return ``{"width": 48}`` or ``{"kept": [0, 2, 5]}``."""
    group, request = channel_group(part, layer), StepRequest(f"{part.path(layer)}: {operation}", settings)
    request.only(*(("kept", "width") if operation == "prune" else ("width",)))
    if operation == "prune":
        return {"kept": _kept(part, layer, group, ratio, settings)}
    width = settings.get("width")
    if width is None:
        if ratio <= 1:
            raise GrowthError(f"{layer}: widen by a ratio of {ratio}, which is not above 1")
        width = _affordable(part, layer, group, math.ceil(ratio * group.width), max_added)
    _check_width(layer, group, width)
    if max_added is not None and (more := group.added(width)) > max_added:
        raise GrowthError(
            f"{layer}: {width} channels would add {more:,} parameters, and at most {max_added:,} are allowed"
        )
    return {"width": width}


def build(part: Part, step: GrowthStep, sample: Any = None) -> StructureChange:
    """Return freshly initialized tensors of the new shapes, for all layers that share the channels."""
    layer = part.local(step.layer)
    group = channel_group(part, layer)
    if step.operation == "prune":
        kept = _checked_kept(layer, group, step.settings.get("kept"))
        width, index = len(kept), {layer: torch.tensor(kept)}
    else:
        width, index = _check_width(layer, group, step.settings.get("width")), {}
    shapes, attributes = group.sizes(width, step.operation)
    tensors: dict[str, Tensor] = {}
    for name, local_shapes in shapes.items():
        module = part.named[name]
        fresh = fresh_tensors(module, local_shapes, attributes.get(name, {}))
        tensors |= {f"{name}.{local}" if name else local: tensor for local, tensor in fresh.items()}
    return StructureChange(tensors=tensors, attributes=attributes, index=index)


def importance(part: Part, layer: str) -> Tensor:
    """Return the importance of each channel of a layer: the L1 norm of its filter, times the scale of batch normalization.

    It is summed over all layers with the same output channels, such as those along a residual path. Shape (channels,).

    Source:
        Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710; Liu et al. 2017, Learning Efficient
        Convolutional Networks through Network Slimming, arXiv:1708.06519 (the scales).
    """
    group = channel_group(part, layer)
    total = torch.zeros(group.width, dtype=torch.float64)
    for found in part.layout.layers.values():
        unit, module = found.unit, found.unit.module
        own = [piece.root for piece in found.gives.parts or ()] == [group.dimension]
        if unit.kind not in WIDENED or not own or found.gives.flat:
            continue
        weight = unit.tensors["weight"].detach().abs().double()
        if unit.kind in ("transposed", "embedding"):
            weight = weight.transpose(0, 1)
        norms = weight.flatten(1).sum(1)
        if unit.kind == "transposed":
            norms = norms.repeat(cast(ConvBase, module).groups)
        total += (norms * _scales(part, unit.name, group.width)).cpu()
    return total


# Layers whose tensors change together


@dataclass
class ChannelGroup:
    """The output channels of a layer, and all layers and tensors that change with their number.

    Args:
        part: The part that contains the layers.
        dimension: The channels.
        layers: The layers that have them as input or output, or normalize them.
        loose: Tensors of the user's own that scale them, by name, with flow and axis.
        stateless: Normalizations without tensors, with their inputs.
        step: The number can be increased by multiples of this.
        grows_groups: Whether group normalizations get more groups, rather than larger ones.
        pruned_blocks: When the channels are pruned, equally many of each of so many blocks are kept.
        why_not_widened: Why their number can't be increased, although the layers could be resized.
        why_not_pruned: The same for pruning.
        names: Names of the layers and loose tensors.
    """

    part: Part
    dimension: Dimension
    layers: list[TracedLayer]
    loose: dict[str, tuple[Flow, int]]
    stateless: dict[str, Flow]
    step: int = 1
    grows_groups: bool = False
    pruned_blocks: int = 1
    why_not_widened: str = ""
    why_not_pruned: str = ""
    names: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """The present number of channels."""
        return self.dimension.width

    def block_size(self) -> int:
        """Return the number of channels in each block."""
        return self.width // self.pruned_blocks

    def scaled(self, flow: Flow, features: int, width: int) -> int:
        """Return a layer's number of features once the group has another width."""
        if not flow.parts:
            return features
        return features // flow.width * sum(_width(piece.root, self.dimension, width) for piece in flow.parts)

    def sizes(
        self, width: int, operation: str
    ) -> tuple[dict[str, dict[str, tuple[int, ...]]], dict[str, dict[str, Any]]]:
        """Return the new shapes of tensors and the new values of attributes, by layer."""
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
        given, taken = (
            (module.out_channels, module.in_channels)
            if isinstance(module, ConvBase)
            else (cast(nn.Linear, module).out_features, cast(nn.Linear, module).in_features)
        )
        outputs, inputs = self.scaled(layer.gives, given, width), self.scaled(layer.takes, taken, width)
        bias = {"bias": (outputs,)} if "bias" in layer.unit.tensors else {}
        if kind == "linear":
            return {"weight": (outputs, inputs), **bias}, {"out_features": outputs, "in_features": inputs}
        groups = cast(ConvBase, module).groups if not _depthwise(layer) else inputs
        first, second = (inputs, outputs // groups) if kind == "transposed" else (outputs, inputs // groups)
        values = {"out_channels": outputs, "in_channels": inputs, "groups": groups}
        return {"weight": (first, second, *weight.shape[2:]), **bias}, values

    def added(self, width: int, operation: str = "widen") -> int:
        """Return how many parameters another width adds."""
        shapes, _ = self.sizes(width, operation)
        total = 0
        for name, sized in shapes.items():
            own = {n: tensor.numel() for n, tensor in self.part.named[name].named_parameters(recurse=False)}
            total += sum(math.prod(shape) - own[n] for n, shape in sized.items() if n in own)
        return total


def _width(dimension: Dimension, changed: Dimension, width: int) -> int:
    """Return a dimension's width once another one has changed."""
    if dimension is changed:
        return width
    if dimension.made_of:
        return sum(_width(piece.root, changed, width) for piece in dimension.made_of)
    return dimension.width


def channel_group(part: Part, layer: str) -> ChannelGroup:
    """Return the group of a layer's output channels.

    Raises:
        GrowthError: If their number can't change.
    """
    group = find_channel_group(part, layer)
    if isinstance(group, str):
        raise GrowthError(f"{part.path(layer)}: {group}")
    return group


def find_channel_group(part: Part, layer: str) -> ChannelGroup | str:
    """Return the group of a layer's output channels, or why their number can't change."""
    found = part.layout.layers.get(layer)
    if found is None:
        return part.why_not_traced(layer)
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
        if reason := part.why_not_resizable(one.unit):
            return reason
    for path, (_, axis) in loose.items():
        if reason := _loose_stuck(part, path, axis):
            return reason
    group = ChannelGroup(part, dimension, layers, loose, stateless)
    group.names = [one.unit.name for one in layers] + list(loose)
    _set_steps(group, changed)
    return group


def _loose_stuck(part: Part, path: str, axis: int) -> str:
    readers = [node for node in part.graph.nodes if node.op == "get_attr" and plain_name(str(node.target)) == path]
    if axis > 1:
        return f"{path}, which scales its channels, holds them along axis {axis}"
    if sum(len(node.users) for node in readers) > 1:
        return f"{path}, which scales its channels, is used at several places"
    return part.why_not_replaceable(path)


def _set_steps(group: ChannelGroup, changed: set[Dimension]) -> None:
    """Set the steps by which a width can change so that grouped convolutions and normalizations compute the same."""
    grouped: list[int] = []
    sizes: list[int] = []
    number_of_groups: list[int] = []
    whole = False
    for layer in group.layers:
        module, name = layer.unit.module, layer.unit.name
        pieces = [len(flow.parts or ()) for flow in (layer.takes, layer.gives)]
        groups = cast(ConvBase, module).groups if layer.unit.kind in ("conv", "transposed") else 1
        if groups > 1 and not _depthwise(layer):
            grouped.append(groups)
            if max(pieces) > 1 or len(changed) > 1 or any(flow.flat for flow in (layer.takes, layer.gives)):
                group.why_not_widened = group.why_not_pruned = f"{name} is a grouped convolution of a concatenation"
            elif layer.unit.kind == "transposed":
                group.why_not_widened = group.why_not_pruned = f"{name} is a grouped transposed convolution"
        if layer.unit.kind != "statistic":
            continue
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else 1
        if pieces[0] > 1 or len(changed) > 1:
            size = layer.takes.width // groups
            widths = [piece.root.width for piece in layer.takes.parts or ()]
            if groups == 1 or any(width % size for width in widths) or len(changed) > 1:
                group.why_not_widened = f"{name} ({type(module).__name__}) normalises over a concatenation"
            if groups > 1:
                group.why_not_pruned = f"{name} ({type(module).__name__}) normalises over a concatenation"
            sizes.append(size)
        elif groups == 1:
            whole = True
        else:
            sizes.append(group.width // groups)
            number_of_groups.append(groups)
        if layer.takes.flat:
            group.why_not_widened = f"{name} ({type(module).__name__}) normalises over positions"
    group.pruned_blocks = math.lcm(*grouped, *number_of_groups)
    if whole or (sizes and grouped):
        group.step = group.width
    elif sizes:
        group.step, group.grows_groups = math.lcm(*sizes), True
    else:
        group.step = math.lcm(*grouped)


def _depthwise(layer: TracedLayer) -> bool:
    """Whether a convolution treats each channel by itself."""
    module = layer.unit.module
    pieces = [[piece.root for piece in flow.parts or ()] for flow in (layer.takes, layer.gives)]
    alike = getattr(module, "groups", 1) == getattr(module, "in_channels", 0) == getattr(module, "out_channels", 0)
    return alike and cast(ConvBase, module).groups > 1 and pieces[0] == pieces[1]


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


# Planning and building


def _affordable(part: Part, layer: str, group: ChannelGroup, requested: int, max_added: int | None) -> int:
    """Return the largest width up to the requested one that adds no more parameters than allowed."""
    steps = max(1, -(-(requested - group.width) // group.step))
    if max_added is None or group.added(group.width + steps * group.step) <= max_added:
        return group.width + steps * group.step
    low, high = 0, steps  # so many steps are affordable, so many are not
    while high - low > 1:
        middle = (low + high) // 2
        affordable = group.added(group.width + middle * group.step) <= max_added
        low, high = (middle, high) if affordable else (low, middle)
    if not low:
        least = group.added(group.width + group.step)
        raise GrowthError(
            f"{part.path(layer)}: widening it by {group.step}, the least possible, adds {least:,} parameters, and "
            f"at most {max_added:,} are allowed"
        )
    return group.width + low * group.step


def _check_width(layer: str, group: ChannelGroup, width: Any) -> int:
    """Return a width, once it is checked that the layer can be widened to it."""
    if group.why_not_widened:
        raise GrowthError(f"{layer}: {group.why_not_widened}")
    if not isinstance(width, int) or isinstance(width, bool) or width <= group.width:
        raise GrowthError(f"{layer}: width: {width!r} is not an integer above its present {group.width}")
    if (width - group.width) % group.step:
        raise GrowthError(f"{layer}: width: {width!r} is not {group.width} and a multiple of {group.step}")
    return width


def _kept(part: Part, layer: str, group: ChannelGroup, ratio: float, settings: Mapping[str, Any]) -> list[int]:
    """Return the most important channels, equally many from each block."""
    if "kept" in settings:
        return _checked_kept(layer, group, settings["kept"])
    if "width" in settings:
        ratio = number(f"{layer}: width", settings["width"]) / group.width
    if not 0 < ratio < 1:
        raise GrowthError(f"{layer}: prune to a share of {ratio}, which is not between 0 and 1")
    size = group.block_size()
    keep = min(max(1, round(ratio * size)), size - 1)
    if keep < 1:
        raise GrowthError(f"{layer}: it can't have fewer than {group.pruned_blocks} channels")
    scores = importance(part, layer).reshape(group.pruned_blocks, size)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :keep].sort(dim=1).values
    begins = torch.arange(group.pruned_blocks)[:, None] * size
    return _checked_kept(layer, group, (best + begins).flatten().tolist())


def _checked_kept(layer: str, group: ChannelGroup, kept: Any) -> list[int]:
    if group.why_not_pruned:
        raise GrowthError(f"{layer}: {group.why_not_pruned}")
    whole = isinstance(kept, list | tuple) and all(isinstance(k, int) and 0 <= k < group.width for k in kept)
    if not whole or list(kept) != sorted(set(kept)) or not 0 < len(kept) < group.width:
        raise GrowthError(
            f"{layer}: kept: {kept!r} are not some, and not all, of 0 to {group.width - 1} in ascending order"
        )
    size = group.block_size()
    counts = torch.bincount(torch.tensor(kept) // size, minlength=group.pruned_blocks)
    if len(counts.unique()) > 1:
        raise GrowthError(
            f"{layer}: of each of its {group.pruned_blocks} groups of {size} channels equally many must be kept"
        )
    return list(kept)


def _scales(part: Part, layer: str, width: int) -> Tensor | float:
    """Return the scales of a batch normalization right behind a layer."""
    calls = part.calls(layer)
    users = [user for node in calls for user in node.users]
    norm = part.called(users[0]) if len(users) == 1 else None
    weight = parameters_dict(norm).get("weight") if isinstance(norm, NormBase) else None
    return weight.detach().abs().double() if weight is not None and weight.numel() == width else 1.0


def fresh_tensors(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return a layer's tensors in new shapes, as its class initializes them; the user's own are filled with their mean."""
    own = {n: t for n, t in [*parameters_dict(module).items(), *buffers_dict(module).items()] if t is not None}
    reset: Callable[[], None] | None = None
    blank_module = type(module).__new__(type(module))
    if type(module).__module__.startswith("torch.nn") and hasattr(module, "reset_parameters"):
        blank = {n: torch.empty(shapes.get(n, tuple(t.shape)), dtype=_plain_dtype(t)) for n, t in own.items()}
        blank_module.__dict__.update(module.__dict__, **attributes)
        set_tensors(
            blank_module,
            {n: None if t is None else nn.Parameter(blank[n]) for n, t in parameters_dict(module).items()},
            {n: None if t is None else blank[n] for n, t in buffers_dict(module).items()},
        )
        reset = cast(Callable[[], None], blank_module.reset_parameters)
    if reset is not None:
        reset()
    fresh: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        old = own[name]
        if reset is None:
            new = torch.full(shape, float(old.detach().double().mean()))
        else:
            made = parameters_dict(blank_module).get(name)
            new = made.detach() if made is not None else blank_module.get_buffer(name)
        new = formatted(new.to(device=old.device, dtype=old.dtype), old.detach())
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
            new.__dict__.update(old.__dict__)  # attributes that users set on their parameters
        fresh[name] = new
    return fresh


def _plain_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype
