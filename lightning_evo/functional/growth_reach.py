"""What changes with a layer's width? All that gives, takes, normalises or scales the same channels, and by which steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_evo.functional.channels import Dimension, Flow
from lightning_evo.functional.growth_frame import Part
from lightning_evo.functional.growth_steps import GrowthError
from lightning_evo.functional.layout import Layer

__all__ = ["Reach", "reach_of", "reached"]


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
    layers: list[Layer]
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
        self, layer: Layer, module: nn.Module, width: int
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
        if isinstance(module, _NormBase) and touched(flow):
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
    readers = [node for node in part.graph.nodes if node.op == "get_attr" and _plain(node.target) == path]
    if axis > 1:
        return f"{path}, which scales its channels, holds them along axis {axis}"
    if sum(len(node.users) for node in readers) > 1:
        return f"{path}, which scales its channels, is used at several places"
    return part.tied(path)


def _plain(target: Any) -> str:
    return str(target).replace("_orig_mod.", "")


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


def _depthwise(layer: Layer) -> bool:
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
    found = module._parameters.get(local)
    return found if found is not None else module.get_buffer(local)
