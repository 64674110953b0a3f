"""The role of each of a child's layers: inherited, identity, zero or fresh, so that the child computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx, nn

from lightning_evo._compat.torch import BatchNormBase, ConvBase
from lightning_evo.functional.graph.operations import (
    ACTIVATIONS,
    ADDITIONS,
    ANY,
    DROPS,
    KEEPS_ZERO,
    NOTHING,
    POOLS,
    PRODUCTS,
    Interval,
    call_of,
    hyperparameters,
    interval,
    paddings,
    settings,
)
from lightning_evo.functional.inheritance.alignment import Unit
from lightning_evo.utils.compiled import plain_name

__all__ = ["Analysis", "Role", "analyse", "expected", "make_identities"]


Role = Literal["inherits", "identity", "zero", "fresh"]


@dataclass(frozen=True)
class Analysis:
    """What a network computes, as far as its structure shows.

    Args:
        signature: Equal for two networks that compute the same, given equal layers; new identities leave no trace in it.
        roles: The role of each unit.
        why_not: Why it can't be concluded that the child computes what the parent does.
    """

    signature: tuple[int, ...]
    roles: dict[str, Role]
    why_not: list[str]


@dataclass(frozen=True)
class _Value:
    signature: int
    bounds: Interval = ANY


@dataclass
class _Analyser:
    """Goes through one graph, node by node."""

    graph: fx.Graph
    modules: dict[str, nn.Module]
    units: dict[str, Unit]
    labels: Mapping[str, str | None]
    table: dict[tuple, int]
    values: dict[fx.Node, _Value] = field(default_factory=dict)
    zeroed: dict[fx.Node, str] = field(default_factory=dict)
    skips: dict[fx.Node, fx.Node] = field(default_factory=dict)
    notes: dict[fx.Node, str] = field(default_factory=dict)

    def sign(self, *parts: Hashable) -> int:
        """Return a number for an expression, the same for equal ones. (Nested tuples would grow with every addition.)"""
        return self.table.setdefault(parts, len(self.table))

    def inside(self, node: fx.Node) -> list[Unit]:
        """Return the units that a call of a module runs."""
        if node.op != "call_module":
            return []
        path = plain_name(str(node.target))
        return [u for name, u in self.units.items() if name == path or name.startswith(path + ".")]

    def is_new(self, node: fx.Node) -> bool:
        return any(self.labels.get(unit.name) is None for unit in self.inside(node))

    def run(self) -> None:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = _Value(self.sign("input", sum(n.op == "placeholder" for n in self.values)))
            elif node.op == "get_attr":
                path, _, local = plain_name(str(node.target)).rpartition(".")
                label = self.labels.get(path)
                if label is None:
                    self.notes[node] = f"{node.target} is new"
                self.values[node] = _Value(self.sign("tensor", local, label if label is not None else ("new", path)))
            elif self.inside(node):
                self.values[node] = self._layer(node)
            elif node.op != "output":
                self.values[node] = self._step(node)

    def _layer(self, node: fx.Node) -> _Value:
        units, given = self.inside(node), [self.values[n] for n in node.all_input_nodes]
        signatures = tuple(value.signature for value in given)
        module = self.modules[str(node.target)]
        if not self.is_new(node):
            labels = tuple(self.labels[unit.name] for unit in units)
            if isinstance(module, nn.PReLU) and given[0].bounds[0] >= 0:
                return given[0]  # whatever its slopes
            return _Value(self.sign("layer", labels, hyperparameters(module), signatures))
        if len(units) == 1 and len(given) == 1 and units[0].kind in ("linear", "conv", "channelwise"):
            note = _not_quite_identity(units[0])
            if note:
                self.notes[node] = note
            return given[0]
        self.notes[node] = f"{units[0].name} ({type(module).__name__}) is new and cannot be the identity"
        return _Value(self.sign("new", str(node.target), signatures))

    def _step(self, node: fx.Node) -> _Value:
        call = call_of(node, self.modules)
        given = [self.values[n] for n in node.all_input_nodes if n in self.values]
        if call in ADDITIONS and len(node.all_input_nodes) == 2 and not node.kwargs:
            skip = self._residual(node)
            if skip is not None:
                return self.values[skip]
            low, high = (given[0].bounds[i] + given[1].bounds[i] for i in (0, 1))
            bounds: Interval = (low, high)
        elif len(given) == 1:
            bounds, unchanged = interval(call, node, self.modules, given[0].bounds)
            if unchanged:
                return _Value(given[0].signature, bounds)
        else:
            positive = call in PRODUCTS | {"cat", "concat"} and all(value.bounds[0] >= 0 for value in given)
            bounds = (0.0, math.inf) if positive else ANY
        arguments = tuple(value.signature for value in given)
        return _Value(self.sign(call, settings(node, self.modules), arguments), bounds)

    def _residual(self, node: fx.Node) -> fx.Node | None:
        """Return the node whose value an addition gives once a branch that the parent doesn't have is zero."""
        first, second = node.all_input_nodes
        found = [(self._new_in_branch(a, self._skipped(b)), a, b) for a, b in ((first, second), (second, first))]
        for layers, branch, skip in sorted(found, key=lambda one: -one[0]):
            last = self._silencer(branch) if layers else None
            if last is not None and self._ends_in(last[0], node):
                self.zeroed[last[0]] = last[1]
                self.skips[node] = skip
                return skip
        return None

    def _skipped(self, node: fx.Node) -> set[fx.Node]:
        """Return a node and those with the same value: the input of a new layer in a shortcut."""
        repeats = {node}
        while len(node.all_input_nodes) == 1:
            new = bool(self.inside(node)) and self.is_new(node)
            if not new and (self.inside(node) or call_of(node, self.modules) not in NOTHING | DROPS):
                break
            node = node.all_input_nodes[0]
            repeats.add(node)
        return repeats

    def _new_in_branch(self, branch: fx.Node, ends: set[fx.Node]) -> int:
        """Count the new layers of a branch; 0 if the parent has something in it."""
        new, seen, left = 0, set(), [branch]
        while left:
            node = left.pop()
            if node in ends or node in seen:
                continue
            seen.add(node)
            if node.op == "placeholder" or (node.op == "get_attr" and node not in self.notes):
                return 0
            if self.inside(node) and not self.is_new(node):
                return 0
            new += bool(self.inside(node))
            left += node.all_input_nodes
        return new

    def _silencer(self, node: fx.Node) -> tuple[fx.Node, str] | None:
        """Return the last layer of a branch, and which of its units to set to zero so that the branch gives 0."""
        call = call_of(node, self.modules)
        units = self.inside(node)
        if isinstance(self.modules.get(str(node.target)), nn.MultiheadAttention) and self.is_new(node):
            return node, next(unit.name for unit in units if unit.name.endswith("out_proj"))
        if units and call != "prelu":
            usable = len(units) == 1 and units[0].kind != "other" and "weight" in units[0].tensors and self.is_new(node)
            return (node, units[0].name) if usable else None
        if call in KEEPS_ZERO or call in PRODUCTS or (call == "getitem" and node.args[1] == 0):
            return next((found for n in node.all_input_nodes if (found := self._silencer(n))), None)
        return None

    def _ends_in(self, node: fx.Node, join: fx.Node) -> bool:
        """Whether every path from a node to the output goes through an addition."""
        left, seen = [node], set()
        while left:
            for user in left.pop().users:
                if user.op == "output":
                    return False
                if user is not join and user not in seen:
                    seen.add(user)
                    left.append(user)
        return True

    def live(self) -> list[fx.Node]:
        """Return the nodes that the output depends on once branches are zero."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        seen: dict[fx.Node, None] = {}
        left = [output]
        while left:
            node = left.pop()
            if node in seen or node in self.zeroed:
                continue
            seen[node] = None
            left += [self.skips[node]] if node in self.skips else node.all_input_nodes
        return list(seen)


def analyse(
    graph: fx.Graph,
    root: nn.Module,
    units: list[Unit],
    labels: Mapping[str, str | None],
    table: dict[tuple, int],
) -> Analysis:
    """Determine what a network computes, and the role of each of its units.

    Args:
        graph: The network's graph.
        root: The network.
        units: Its units.
        labels: For each unit that both networks have, a name common to both; ``None`` for the others.
        table: Numbers of expressions, shared by all networks to compare; initially empty.
    """
    modules = dict(root.named_modules(remove_duplicate=False))
    analyser = _Analyser(graph, modules, {unit.name: unit for unit in units}, labels, table)
    analyser.run()
    live = analyser.live()
    running = {unit.name for node in live for unit in analyser.inside(node)}
    roles: dict[str, Role] = {}
    for unit in units:
        if labels.get(unit.name) is not None:
            roles[unit.name] = "inherits"
        elif unit.name in analyser.zeroed.values():
            roles[unit.name] = "zero"
        else:
            able = unit.name in running and unit.kind in ("linear", "conv", "channelwise")
            roles[unit.name] = "identity" if able else "fresh"
    output = next(node for node in graph.nodes if node.op == "output")
    signature = tuple(analyser.values[node].signature for node in output.all_input_nodes)
    return Analysis(
        signature, roles, list(dict.fromkeys(analyser.notes[node] for node in live if node in analyser.notes))
    )


def _not_quite_identity(unit: Unit) -> str:
    """Return why a new layer isn't the identity even with the weights of one; empty if it is."""
    module = unit.module
    if isinstance(module, ConvBase):
        same = all(
            step == 1 and size % 2 == 1 and pad == spread * (size - 1) // 2
            for step, size, pad, spread in zip(
                module.stride, module.kernel_size, paddings(module), module.dilation, strict=True
            )
        )
        return "" if same else f"{unit.name} is new and changes the size of its maps"
    if unit.kind == "channelwise" and not isinstance(module, nn.PReLU):
        return f"{unit.name} ({type(module).__name__}) is new and normalises in train mode"
    return ""


# New batch normalizations

_POINTS = 512


@torch.no_grad()
def make_identities(graph: fx.Graph, root: nn.Module, new: set[str]) -> None:
    """Set new batch normalizations to the identity in eval mode, and nearly so in train mode.

    With mean μ, variance v, scale sqrt(v + ε) and shift μ, a normalization returns its input, whatever μ and v are. In
    train mode it does so as far as a batch has that mean and variance. They are estimated from the preceding batch
    normalization, whose output is roughly normal with its shift as mean and its scale as standard deviation; activations
    between the two are applied to that distribution. Without a preceding one they are 0 and 1.

    Args:
        graph: The network's graph; its weights are set already.
        root: The network.
        new: Names of the layers that are identities.
    """
    modules = dict(root.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        path = plain_name(str(node.target))
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if path in new and isinstance(module, BatchNormBase) and module.affine and module.running_var is not None:
            mean, variance = expected(node, modules, new, module)
            assert module.running_mean is not None
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)
            module.weight.copy_((variance + module.eps).sqrt())
            module.bias.copy_(mean)


def expected(
    node: fx.Node, modules: dict[str, nn.Module], new: set[str], module: BatchNormBase
) -> tuple[Tensor, Tensor]:
    """Estimate the mean and variance of each channel of a node's input.

    Args:
        node: A node of a network's graph.
        modules: The network's modules, by name.
        new: Names of layers that are identities.
        module: A batch normalization over as many channels.
    """
    steps: list[Callable[[Tensor], Tensor]] = []
    at = node
    plain = torch.zeros(module.num_features), torch.ones(module.num_features)
    while len(at.all_input_nodes) == 1:
        at = at.all_input_nodes[0]
        path = plain_name(str(at.target))
        layer = modules.get(str(at.target)) if at.op == "call_module" else None
        if isinstance(layer, BatchNormBase):
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
    """Return an activation as a function of a tensor."""
    if layer is not None:
        return layer
    more, named = node.args[1:], {k: v for k, v in node.kwargs.items() if k != "inplace"}
    if isinstance(node.target, str):
        name = node.target
        return lambda values: getattr(values.clone(), name)(*more, **named)
    function = node.target
    assert callable(function)
    return lambda values: function(values, *more, **named)
