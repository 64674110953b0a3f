"""Parts of a network whose graph is known, and planned changes to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_evo._compat.torch import has_gradient_hooks, parameters_dict
from lightning_evo.functional.graph.tracing import trace
from lightning_evo.functional.inheritance.alignment import Unit, units_of, unwrapped
from lightning_evo.functional.inheritance.layout import Layout, lay_out
from lightning_evo.functional.inheritance.placement import TensorMap
from lightning_evo.utils.compiled import plain_name
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["Part", "StructureChange", "formatted", "matched", "parts_of"]


@dataclass(frozen=True)
class Part:
    """A part of a network whose graph is known, and whose inputs and outputs stay as they are.

    Args:
        module: The whole network, to which names in steps refer.
        prefix: The part's path in it; empty if it is the whole.
        root: The part's module.
        graph: Its graph. Nodes' targets are paths in ``root.named_modules()``, with prefixes of ``torch.compile``.
        units: Its modules with tensors of their own; names are relative to it, without these prefixes.
        layout: The input and output channels of its layers (``layout.layers[name].gives``), and the channels of each node's
            value (``layout.flows[node]``).
    """

    module: nn.Module
    prefix: str
    root: nn.Module
    graph: fx.Graph
    units: list[Unit] = field(repr=False)
    layout: Layout = field(repr=False)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Its modules by the nodes' targets; one that is registered twice, under both names."""
        return dict(self.root.named_modules(remove_duplicate=False))

    @cached_property
    def named(self) -> dict[str, nn.Module]:
        """Its modules by plain names, a shared one once."""
        found: dict[str, nn.Module] = {}
        for name, part in self.root.named_modules():
            found[plain_name(name)] = part  # of a compiled module and the one inside it the latter
        return found

    @cached_property
    def targets(self) -> dict[int, str]:
        """For each module, by ``id``, the name that ``named`` gives it."""
        return {id(part): name for name, part in self.named.items()}

    def path(self, local: str) -> str:
        """Return a name in the part as a name in the whole module."""
        return ".".join(filter(None, (self.prefix, local)))

    def local(self, path: str) -> str:
        """Return a name in the whole module as a name in the part."""
        return path.removeprefix(self.prefix).removeprefix(".") if self.prefix else path

    def called(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls, if any."""
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def why_not_traced(self, local: str) -> str:
        """Return why a layer that isn't in the layout can't change."""
        if not local:  # a single layer whose parent can't be traced
            return "what runs before and after it isn't known"
        run = {plain_name(str(node.target)) for node in self.graph.nodes if node.op == "call_module"}
        outer = next((name for name in run if local.startswith(f"{name}.")), None)
        if outer is not None:
            return f"{self.path(outer)} ({type(self.named[outer]).__name__}) computes with its tensors itself"
        return "no module's call runs it: forward reads its tensors itself, or not at all"

    def why_not_resizable(self, unit: Unit) -> str:
        """Return why a layer's tensors can't take other shapes; empty if they can."""
        module, name = unit.module, self.path(unit.name)
        readers = [plain_name(str(n.target)) for n in self.graph.nodes if n.op == "get_attr"]
        if any(reader.rpartition(".")[0] == unit.name for reader in readers):
            return f"forward reads the tensors of {name} itself"
        if getattr(module, "max_norm", None) is not None:
            return f"{name} bounds the norm of its vectors, which would be longer"
        return next((reason for local in unit.tensors if (reason := self.why_not_replaceable(unit.path(local)))), "")

    def why_not_replaceable(self, path: str) -> str:
        """Return why a tensor can't be replaced by another; empty if it can."""
        home, _, local = path.rpartition(".")
        module = self.named[home]
        tensor = parameters_dict(module).get(local)
        if tensor is None:
            return ""
        others = [name for name in self.owners[id(tensor)] if name != self.path(path)]
        if others:
            return f"{self.path(path)} is tied to {others[0]}"
        if has_gradient_hooks(tensor):
            return f"{self.path(path)} has gradient hooks, which a new parameter wouldn't have"
        return ""

    @cached_property
    def owners(self) -> dict[int, list[str]]:
        """For each parameter of the whole module, by ``id``, its names; those in a shared module once."""
        owners: dict[int, list[str]] = {}
        for name, part in self.module.named_modules():
            for local, tensor in parameters_dict(part).items():
                if tensor is not None:
                    owners.setdefault(id(tensor), []).append(plain_name(f"{name}.{local}" if name else local))
        return owners

    def calls(self, local: str) -> list[fx.Node]:
        """Return the nodes that call a module, given by its plain name."""
        module = self.named.get(local)
        return [node for node in self.graph.nodes if module is not None and self.called(node) is module]


@dataclass(frozen=True)
class StructureChange:
    """A planned change, made before anything is touched. Names are relative to the part.

    Args:
        modules: Modules by the name of the one they replace: a new one, or one that contains the old one.
        tensors: Tensors by the name of the one they replace: parameters and buffers of another shape, freshly initialized.
        attributes: Attributes to set, by module name.
        index: The channels that a layer keeps, by layer name; other layers keep all.
        moved: For the name of a parameter in a new module, the name of the one it replaces, and the map between the two.
            (For ``tensors`` it follows from the layout.)
        why_not: Why the network computes something else afterwards; empty if it doesn't.
        notes: Further remarks for the report.
    """

    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    index: Mapping[str, Tensor] = field(default_factory=dict)
    moved: Mapping[str, tuple[str, TensorMap]] = field(default_factory=dict)
    why_not: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parts_of(module: nn.Module) -> tuple[list[Part], dict[str, str]]:
    """Return the parts of a network whose graph is known, and for each other module why its graph isn't.

    The whole network is one part if its ``forward`` can be traced and runs all its parameters. If it can't, or if some
    parameters are run by something else (a ``training_step``, a second head), its children are taken one by one: what
    runs between them isn't known, so their inputs and outputs stay as they are.

    Raises:
        ValueError: If a parameter is lazy (no shape yet) or sharded.
    """
    parts: list[Part] = []
    refused: dict[str, str] = {}
    whole = unwrapped(module)
    with isolated_random_state(0, whole):  # a forward may draw
        pieces = list(_parts(whole, whole, ""))
    for name, found in pieces:
        if isinstance(found, Part):
            parts.append(found)
        else:
            refused[name] = found
    return parts, refused


def matched(module: nn.Module, like: nn.Module) -> nn.Module:
    """Give a new module the device, dtype, memory format and mode of an old one, and freeze it if that is frozen.

    Args:
        module: The new module, on the CPU.
        like: The old one; if it has no tensors the new module stays as it is.
    """
    module.train(like.training)
    tensors = [t for t in [*like.parameters(), *like.buffers()] if t.is_floating_point()]
    if tensors:
        module.to(device=tensors[0].device, dtype=tensors[0].dtype)
    parameters = list(like.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.requires_grad_(False)
    for tensor in module.parameters():
        tensor.data = formatted(tensor.data, tensors[0]) if tensors else tensor.data
    return module


def formatted(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor in another one's memory format, if both have the same number of axes."""
    for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.ndim == like.ndim == ndim and not like.is_contiguous():
            return tensor.contiguous(memory_format=memory_format)
    return tensor


def _parts(module: nn.Module, root: nn.Module, prefix: str) -> Iterator[tuple[str, Part | str]]:
    if next(root.parameters(), None) is None:
        return
    graph = trace(root)
    if isinstance(graph, fx.Graph):
        units = units_of(root, "network")
        same = {unit.name: unit for unit in units}
        layout = lay_out(graph, root, units, same, dict.fromkeys(same, "inherits"))
        part = Part(module, prefix, root, graph, units, layout)
        left = _not_run(part)
        if not left:
            yield prefix, part
            return
        reason = f"{left[0]} is not run by forward"
    else:
        reason = graph
    yield prefix, reason
    own = type(root).__module__.startswith("torch.nn")
    if own and not isinstance(root, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return  # attention and its like read their children's tensors themselves
    for name, child in root.named_children():
        inner = unwrapped(child)
        yield from _parts(module, inner, ".".join(filter(None, (prefix, plain_name(name)))))


def _not_run(part: Part) -> list[str]:
    """Return the layers with parameters that the part's graph doesn't run."""
    run = {plain_name(str(node.target)) for node in part.graph.nodes if node.op == "call_module"}
    read = {plain_name(str(node.target)).rpartition(".")[0] for node in part.graph.nodes if node.op == "get_attr"}
    return [
        unit.name
        for unit in part.units
        if any(isinstance(tensor, nn.Parameter) for tensor in unit.tensors.values())
        and unit.name not in read
        and not any(unit.name == name or unit.name.startswith(f"{name}.") for name in run)
    ]
