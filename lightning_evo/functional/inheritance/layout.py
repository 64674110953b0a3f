"""The input and output channels of each layer of a traced network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from lightning_evo._compat.torch import ConvBase
from lightning_evo.functional.graph.channels import Dimension, Flow, Kind, concatenated, reshaped, unify
from lightning_evo.functional.graph.operations import (
    ADDITIONS,
    POINTWISE,
    POOLS,
    PRODUCTS,
    SHAPES,
    SIZES,
    call_of,
)
from lightning_evo.functional.inheritance.alignment import Unit
from lightning_evo.functional.inheritance.roles import Role
from lightning_evo.utils.compiled import plain_name

__all__ = ["Layout", "TracedLayer", "lay_out"]


@dataclass
class TracedLayer:
    """A layer whose tensors' shapes follow from its input and output channels.

    Args:
        unit: The child's unit.
        source: The parent's tensors; those of an identity for a new layer.
        role: Its role in the child.
        takes: The channels of its input.
        gives: The channels of its output.
        groups: How many groups of channels it treats separately, in the child.
        parents_groups: The same in the parent.
        inputs: Number of input channels in the parent.
        outputs: Number of output channels in the parent.
    """

    unit: Unit
    source: Mapping[str, Tensor]
    role: Role
    takes: Flow
    gives: Flow
    groups: int = 1
    parents_groups: int = 1
    inputs: int = 0
    outputs: int = 0


@dataclass
class Layout:
    """The channels of a network, as far as they are known.

    Args:
        layers: Its layers.
        dimensions: The dimensions that they share.
        loose: The user's own tensors that scale channels, with the axis of the channels.
        flows: The channels of each node's value.
        why_not: Why the child may compute something other than its parent.
    """

    layers: dict[str, TracedLayer] = field(default_factory=dict)
    dimensions: list[Dimension] = field(default_factory=list)
    loose: dict[str, tuple[Flow, int]] = field(default_factory=dict)
    flows: dict[fx.Node, Flow] = field(default_factory=dict)
    why_not: list[str] = field(default_factory=list)


def lay_out(
    graph: fx.Graph,
    root: nn.Module,
    units: list[Unit],
    pairs: Mapping[str, Unit],
    roles: Mapping[str, Role],
    *,
    guessed: bool = False,
) -> Layout:
    """Go through a child's graph and find out which channels its layers share.

    Args:
        graph: The child's graph.
        root: The child.
        units: Its units.
        pairs: The parent's unit of each that has one.
        roles: The role of each unit.
        guessed: Whether the graph is only a chain of the layers, which doesn't show flattening.
    """
    builder = _LayoutBuilder(
        dict(root.named_modules(remove_duplicate=False)), {u.name: u for u in units}, pairs, roles, guessed
    )
    for node in graph.nodes:
        builder.visit(node)
    return builder.layout


class _LayoutBuilder:
    def __init__(
        self,
        modules: dict[str, nn.Module],
        units: dict[str, Unit],
        pairs: Mapping[str, Unit],
        roles: Mapping[str, Role],
        guessed: bool,
    ) -> None:
        self.modules, self.units, self.pairs, self.roles, self.guessed = modules, units, pairs, roles, guessed
        self.layout = Layout()
        self.flows = self.layout.flows

    def visit(self, node: fx.Node) -> None:
        given = [self.flows[n] for n in node.all_input_nodes if n in self.flows]
        path = plain_name(str(node.target))
        if node.op == "output":
            for flow in given:
                for part in flow.parts or ():
                    part.root.final = True
        elif node.op == "call_module" and path in self.units and len(given) == 1:
            self.flows[node] = self._layer(self.units[path], given[0])
        elif node.op == "call_module" and any(name.startswith(path + ".") or name == path for name in self.units):
            self.flows[node] = self._unknown(given, path)
        elif node.op in ("placeholder", "get_attr"):
            self.flows[node] = Flow()
        else:
            self.flows[node] = self._step(node, given)

    def new(self, width: int, parents: int | None, fixed: str = "") -> Dimension:
        dimension = Dimension(width, parents, fixed)
        self.layout.dimensions.append(dimension)
        return dimension

    def note_reason(self, reason: str) -> None:
        if reason and reason not in self.layout.why_not:
            self.layout.why_not.append(reason)

    def _unknown(self, given: list[Flow], name: str) -> Flow:
        """Fix the input channels of a step whose effect on them is unknown."""
        for flow in given:
            for part in flow.parts or ():
                part.root.fixed = part.root.fixed or f"{name} needs its channels as they were"
        return Flow()

    # -- layers --------------------------------------------------------------------------------------------------------

    def _layer(self, unit: Unit, given: Flow) -> Flow:
        role, module = self.roles[unit.name], self.modules_of(unit)
        if unit.kind in ("linear", "conv", "transposed"):
            flow = self._weighted(unit, module, role, given)
        elif unit.kind == "embedding":
            flow = self._embedding(unit, module, role)
        elif unit.kind in ("channelwise", "statistic"):
            return self._normalising(unit, module, role, given)
        else:
            return self._unknown([given], unit.name) if role == "inherits" else Flow(kind=given.kind)
        before = self.layout.layers.get(unit.name)
        return flow if before is None or before.gives.parts is None else before.gives.of_kind(flow.kind)

    def modules_of(self, unit: Unit) -> nn.Module:
        assert unit.module is not None
        return unit.module

    def _weighted(self, unit: Unit, module: nn.Module, role: Role, given: Flow) -> Flow:
        width, features = _sizes(unit, module)
        kind = given.kind if unit.kind == "linear" else "map"
        if unit.kind == "linear":
            if given.kind == "map":
                given = Flow(given.parts, "vector", True) if self.guessed else self._unknown([given], unit.name)
            kind = "vector" if given.kind == "vector" else "sequence"
        elif given.kind in ("vector", "sequence"):
            given = self._unknown([given], unit.name)
        if role in ("fresh", "zero"):
            gives = Flow((self.new(width, None),), kind, silent=role == "zero")
            self._note(TracedLayer(unit, {}, role, given, gives))
            return gives
        source = self.pairs[unit.name].tensors if role == "inherits" else {}
        groups = getattr(module, "groups", 1)
        if role == "identity":
            return self._identity(unit, module, given, width, features, kind)
        weight = source["weight"]
        parents_width, per_group = _parents_sizes(unit, weight)
        parents_groups = self._parents_groups(unit, module, given, per_group, features)
        parents = per_group * parents_groups if unit.kind != "transposed" else weight.shape[0]
        given = self._take(given, features, parents, unit.name)
        if groups == features == width and parents_groups == parents == parents_width:  # each channel by itself
            gives = given.of_kind("map")
        else:
            gives = Flow((self.new(width, parents_width),), kind)
        self._note(TracedLayer(unit, source, role, given, gives, groups, parents_groups, parents, parents_width))
        self._require_groups(given, gives, (parents_groups, groups))
        return gives

    def _identity(self, unit: Unit, module: nn.Module, given: Flow, width: int, features: int, kind: Kind) -> Flow:
        """A new layer that returns its input: as if the parent had one in which every channel is a group."""
        if given.parts is None or not given.fits(features):
            given = Flow((self.new(features, features, f"{unit.name} takes unknown channels"),), given.kind)
        parents = given.parents_width
        if parents is None or given.flat or width < parents:
            if parents is not None:
                self.note_reason(f"{unit.name} is new and too narrow for an identity")
            gives = Flow((self.new(width, None),), kind)
            self._note(TracedLayer(unit, {}, "fresh", given, gives))
            return gives
        kernel = (1,) * (unit.tensors["weight"].ndim - 2)
        source = {"weight": torch.ones(parents, 1, *kernel)}
        groups = getattr(module, "groups", 1)
        alike = width == features
        gives = given.of_kind(kind) if alike else Flow((self.new(width, parents),), kind)
        self._note(TracedLayer(unit, source, "identity", given, gives, groups, parents, parents, parents))
        if not alike:
            self._require_groups(given, gives, (groups, groups))
        return gives

    def _embedding(self, unit: Unit, module: nn.Module, role: Role) -> Flow:
        source = self.pairs[unit.name].tensors if role == "inherits" else {}
        parents = source["weight"].shape[1] if source else None
        gives = Flow((self.new(unit.tensors["weight"].shape[1], parents),), "sequence")
        self._note(TracedLayer(unit, source, role, Flow(), gives, outputs=parents or 0))
        return gives

    def _normalising(self, unit: Unit, module: nn.Module, role: Role, given: Flow) -> Flow:
        shared = isinstance(module, nn.PReLU) and unit.tensors["weight"].numel() == 1
        width = _channels(module, unit)
        source = self.pairs[unit.name].tensors if role == "inherits" else {}
        if shared:
            self._note(TracedLayer(unit, source, role, Flow(), Flow()))
            return given
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and given.kind == "map" and not self.guessed:
            given = self._unknown([given], unit.name)  # it normalizes over positions
        if role in ("fresh", "zero") or (role == "identity" and (given.parts is None or given.flat)):
            self._note(TracedLayer(unit, source, role, given, given))
            return replace(given, silent=given.silent or role == "zero")
        parents = _parents_channels(source) if source else given.parents_width
        if parents is None:
            self._note(TracedLayer(unit, {}, "fresh", given, given))
            return given
        taken = self._take(given, width, parents, unit.name)
        kind: Kind = "sequence" if taken.kind == "unknown" else taken.kind
        groups = parents_groups = 1
        if unit.kind == "statistic":
            groups, parents_groups = self._statistic_groups(unit, module, width, parents)
            self._require_statistics(taken, groups, parents_groups, width, parents)
        self._note(TracedLayer(unit, source, role, taken, taken, groups, parents_groups, parents, parents))
        return taken.of_kind(kind)

    def _require_statistics(self, flow: Flow, groups: int, parents_groups: int, width: int, parents: int) -> None:
        """Note what a normalization over groups requires of its input channels."""
        size, parts = width // groups, flow.parts or ()
        for part in (part.root for part in parts):
            blocks = (parents_groups, groups) if len(parts) == 1 else (1, 1)
            if len(parts) > 1 and size == parents // parents_groups and not (part.width % size or part.parents % size):
                blocks = (part.parents // size, part.width // size)
            part.statistics.add(blocks)

    def _note(self, layer: TracedLayer) -> None:
        before = self.layout.layers.get(layer.unit.name)
        if before is None:
            self.layout.layers[layer.unit.name] = layer
            return
        for one, other in ((before.takes, layer.takes), (before.gives, layer.gives)):  # a module called twice
            self._join(one, other, layer.unit.name)

    def _take(self, given: Flow, features: int, parents: int, name: str) -> Flow:
        """Return the channels of a layer's input; a new dimension where they are unknown."""
        if given.parts is not None and given.fits(features):
            known = given.parents_width
            if known is None and len(given.parts) == 1 and not given.flat:
                given.parts[0].root.parents_width = parents
            elif known is not None and (parents % known or (parents != known and not given.flat)):
                self.note_reason(f"{name} took {parents} features in the parent, of {known} channels")
            return given
        if given.parts is not None:
            self._unknown([given], name)
        return Flow((self.new(features, parents, f"{name} takes unknown channels"),), given.kind)

    def _require_groups(self, given: Flow, gives: Flow, groups: tuple[int, int]) -> None:
        """Note what a grouped convolution requires of its input and output channels."""
        if groups != (1, 1) and given.parts != gives.parts:
            for flow in (given, gives):
                parts = [part.root for part in flow.parts or ()]
                if len(parts) == 1:
                    parts[0].blocks.add(groups)
                for part in parts[1:] and parts:
                    # Blocks that cross the pieces of a concatenation stay together if all are copied alike.
                    part.statistics.add((1, 1))

    def _parents_groups(self, unit: Unit, module: nn.Module, given: Flow, per_group: int, features: int) -> int:
        if self.pairs[unit.name].groups:
            return self.pairs[unit.name].groups
        groups = getattr(module, "groups", 1)
        if unit.kind != "conv":
            return groups
        known = given.parents_width if given.parts is not None and given.fits(features) else None
        outputs = self.pairs[unit.name].tensors["weight"].shape[0]
        if known is not None and known % per_group == 0 and outputs % (known // per_group) == 0:
            return known // per_group
        return groups if features // groups == per_group and outputs % groups == 0 else 1

    def _statistic_groups(self, unit: Unit, module: nn.Module, width: int, parents: int) -> tuple[int, int]:
        if not isinstance(module, nn.GroupNorm):
            return 1, 1
        if unit.name in self.pairs and self.pairs[unit.name].groups:
            return module.num_groups, self.pairs[unit.name].groups
        groups, size = module.num_groups, width // module.num_groups
        # A state dict doesn't show it: as many groups, or as large ones where their number doesn't divide the width.
        return groups, groups if parents % groups == 0 else max(1, parents // size)

    # -- all other steps -----------------------------------------------------------------------------------------------

    def _step(self, node: fx.Node, given: list[Flow]) -> Flow:
        call = call_of(node, self.modules)
        if not given or call in SIZES:
            return Flow()
        first = given[0]
        if call in POINTWISE or call in POOLS or call in ("float", "to", "half"):
            return first if len(given) == 1 or call == "to" else self._unknown(given, node.name)
        if call in ADDITIONS | PRODUCTS | {"sub", "isub", "div", "truediv", "maximum", "minimum"}:
            return self._binary(node, given)
        if call in ("cat", "concat", "concatenate"):
            parts = (
                [n for n in node.args[0] if isinstance(n, fx.Node)] if isinstance(node.args[0], list | tuple) else []
            )
            flows = [self.flows.get(n, Flow()) for n in parts] or given
            return concatenated(node, flows) or self._unknown(given, node.name)
        if call in SHAPES | {"mean", "amax", "sum"}:
            module = self.modules.get(str(node.target)) if node.op == "call_module" else None
            return reshaped(node, call, module, first) or self._unknown(given, node.name)
        return self._unknown(given, node.name)

    def _binary(self, node: fx.Node, given: list[Flow]) -> Flow:
        inputs = node.all_input_nodes
        if len(given) == 1:
            return given[0]
        one, other = given
        if one.silent or other.silent:
            silent, other_flow = (one, other) if one.silent else (other, one)
            return other_flow if call_of(node, self.modules) in ADDITIONS else silent
        for at, (tensor, flow) in enumerate(((one, other), (other, one))):
            if inputs[at].op == "get_attr":
                return self._scaled(inputs[at], flow) if tensor.parts is None else flow
        return self._join(one, other, node.name)

    def _join(self, one: Flow, other: Flow, name: str) -> Flow:
        if one.parts is None or other.parts is None:
            self._unknown([one, other], name)
            return one if one.parts is not None else other
        sizes = [[part.root.width for part in flow.parts or ()] for flow in (one, other)]
        if one.flat == other.flat and sizes[0] == sizes[1]:
            return self._unify(one, other)
        if one.flat == other.flat and one.width == other.width and [1] in [[len(each)] for each in sizes]:
            single, several = (one, other) if len(sizes[0]) == 1 else (other, one)
            return self._compose(single, several)
        for narrow, wide in ((one, other), (other, one)):
            if narrow.width == 1 and not any(part.changes for part in narrow.parts or ()):
                return wide  # one number for all channels, as spatial attention has
        return self._unknown([one, other], name)

    def _unify(self, one: Flow, other: Flow) -> Flow:
        for a, b in zip(one.parts or (), other.parts or (), strict=True):
            self.note_reason(unify(a, b))
        return one if one.kind == "map" else other

    def _compose(self, single: Flow, several: Flow) -> Flow:
        """Unify one dimension with a concatenation of several."""
        assert single.parts is not None
        whole = single.parts[0].root
        if whole.made_of or whole.parents_width not in (None, several.parents_width):
            return self._unknown([single, several], "a join with a concatenation")
        whole.made_of, whole.parents_width = several.parts or (), several.parents_width
        return several

    def _scaled(self, node: fx.Node, flow: Flow) -> Flow:
        """A tensor of the user's own that is added to a value, or scales it."""
        path = plain_name(str(node.target))
        unit = self.units.get(path.rpartition(".")[0])
        tensor = unit.tensors.get(path.rpartition(".")[2]) if unit is not None else None
        if tensor is None:
            return self._unknown([flow], path)
        # Positions count from the back: (C, 1, 1) scales maps (N, C, H, W). A map's rank isn't known otherwise.
        axis = -1 if flow.kind in ("vector", "sequence") else 0 if tensor.ndim in (2, 3) else 1
        if tensor.ndim > axis and tensor.ndim > 0 and flow.parts is not None:
            if tensor.shape[axis] == flow.width and not flow.flat:
                self.layout.loose[path] = (flow, axis % tensor.ndim)
                return flow
            if tensor.numel() == 1:
                return flow
        return flow if tensor.numel() == 1 else self._unknown([flow], path)


def _sizes(unit: Unit, module: nn.Module) -> tuple[int, int]:
    """Return a layer's numbers of output and input channels."""
    if isinstance(module, ConvBase):
        return module.out_channels, module.in_channels
    return unit.tensors["weight"].shape[0], unit.tensors["weight"].shape[1]


def _parents_sizes(unit: Unit, weight: Tensor) -> tuple[int, int]:
    """Return the parent's number of output channels, and of input channels per group."""
    if unit.kind == "transposed":
        return weight.shape[1], weight.shape[0]
    return weight.shape[0], weight.shape[1]


def _channels(module: nn.Module, unit: Unit) -> int:
    for name in ("num_features", "num_channels"):
        if hasattr(module, name):
            return getattr(module, name)
    return unit.tensors["weight"].numel()


def _parents_channels(source: Mapping[str, Tensor]) -> int | None:
    return next((tensor.numel() for name, tensor in source.items() if name != "num_batches_tracked"), None)
