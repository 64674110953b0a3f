"""In which part of a module can layers grow, and what is a change of it? The seam between operations and surgery.

An operation is a module of three functions, which never touch the network:

- ``sites(part) -> dict[layer, dict[operation, reason]]``: what can be done to which layer; an empty reason: it can.
- ``plan(part, operation, layer, *, ratio, max_added, settings, seed) -> dict``: the step's settings, absolute numbers.
- ``build(part, step, sample) -> Change``: what would be put where. It is called with PyTorch's random numbers seeded and
  restored afterwards; new modules are made on the CPU and handed to :func:`matched`.

Layers are named within the part (:meth:`Part.local`, :meth:`Part.path`); ``step.layer`` is named within the whole module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_evo.functional.alignment import Unit, units_of, unwrapped
from lightning_evo.functional.layout import Layout, lay_out
from lightning_evo.functional.randomness import isolated
from lightning_evo.functional.tensors import TensorMap
from lightning_evo.functional.tracing import trace

__all__ = ["Change", "Part", "holds_parameters", "matched", "parts_of", "plain"]


@dataclass(frozen=True)
class Part:
    """A piece of a network whose graph is known, and whose inputs and outputs stay as they are.

    Args:
        module: The whole network, to which names in steps refer.
        prefix: The part's path in it; empty if it is the whole.
        root: The part.
        graph: What it computes. Nodes' targets are paths in ``root.named_modules()``, with prefixes of ``torch.compile``.
        units: Its modules with tensors of their own; names are relative to it, without these prefixes.
        layout: Which of its layers give and take which channels (``layout.layers[name].gives``), and what runs along each
            edge (``layout.flows[node]``).
    """

    module: nn.Module
    prefix: str
    root: nn.Module
    graph: fx.Graph
    units: list[Unit] = field(repr=False)
    layout: Layout = field(repr=False)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Its modules by the nodes' targets; one that is registered twice under both names."""
        return dict(self.root.named_modules(remove_duplicate=False))

    @cached_property
    def named(self) -> dict[str, nn.Module]:
        """Its modules by plain names, a shared one once."""
        found: dict[str, nn.Module] = {}
        for name, part in self.root.named_modules():
            found[plain(name)] = part  # of a compiled module and the one inside it the latter
        return found

    @cached_property
    def targets(self) -> dict[int, str]:
        """For each module, by ``id``, the name that ``named`` gives it."""
        return {id(part): name for name, part in self.named.items()}

    def path(self, local: str) -> str:
        """A name in the part as one in the whole module."""
        return ".".join(filter(None, (self.prefix, local)))

    def local(self, path: str) -> str:
        """A name in the whole module as one in the part."""
        return path.removeprefix(self.prefix).removeprefix(".") if self.prefix else path

    def called(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def unseen(self, local: str) -> str:
        """Why a layer that the layout doesn't know can't change."""
        if not local:  # a single layer whose parent can't be traced
            return "what runs before and after it isn't known"
        run = {plain(str(node.target)) for node in self.graph.nodes if node.op == "call_module"}
        outer = next((name for name in run if local.startswith(f"{name}.")), None)
        if outer is not None:
            return f"{self.path(outer)} ({type(self.named[outer]).__name__}) computes with its tensors itself"
        return "no module's call runs it: forward reads its tensors itself, or not at all"

    def stuck(self, unit: Unit) -> str:
        """Why a layer's tensors can't take other shapes; empty if they can."""
        module, name = unit.module, self.path(unit.name)
        readers = [plain(str(n.target)) for n in self.graph.nodes if n.op == "get_attr"]
        if any(reader.rpartition(".")[0] == unit.name for reader in readers):
            return f"forward reads the tensors of {name} itself"
        if getattr(module, "max_norm", None) is not None:
            return f"{name} bounds the norm of its vectors, which would be longer"
        return next((reason for local in unit.tensors if (reason := self.tied(unit.path(local)))), "")

    def tied(self, path: str) -> str:
        """Why a tensor can't be exchanged for another; empty if it can."""
        home, _, local = path.rpartition(".")
        module = self.named[home]
        tensor = module._parameters.get(local)
        if tensor is None:
            return ""
        others = [name for name in self.owners[id(tensor)] if name != self.path(path)]
        if others:
            return f"{self.path(path)} is tied to {others[0]}"
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            return f"{self.path(path)} has gradient hooks, which a new parameter wouldn't have"
        return ""

    @cached_property
    def owners(self) -> dict[int, list[str]]:
        """For each parameter of the whole module, by ``id``, its names; a shared module's once."""
        owners: dict[int, list[str]] = {}
        for name, part in self.module.named_modules():
            for local, tensor in part._parameters.items():
                if tensor is not None:
                    owners.setdefault(id(tensor), []).append(plain(f"{name}.{local}" if name else local))
        return owners

    def calls(self, local: str) -> list[fx.Node]:
        """The nodes that call a module, by its plain name."""
        module = self.named.get(local)
        return [node for node in self.graph.nodes if module is not None and self.called(node) is module]


@dataclass(frozen=True)
class Change:
    """What a step puts where; made before anything is touched. Names are relative to the part.

    Args:
        modules: For a module's name what takes its place: a new one, or one that holds the old one.
        tensors: For a tensor's name what takes its place: parameters and buffers of another shape, freshly initialised.
        attributes: For a module's name attributes to set.
        index: For a layer's name which of its channels stay; layers that aren't named keep all.
        moved: For the name of a parameter in a new module that of the one whose place it takes, and which of that one's
            numbers it holds where. (Of ``tensors`` that follows from the layout.)
        why_not: Why the network computes something else afterwards; empty where it doesn't.
        notes: What else a reader should know.
    """

    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    index: Mapping[str, Tensor] = field(default_factory=dict)
    moved: Mapping[str, tuple[str, TensorMap]] = field(default_factory=dict)
    why_not: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plain(name: str) -> str:
    """A module's or tensor's name without what ``torch.compile`` put into it."""
    return name.replace("_orig_mod.", "").removesuffix("_orig_mod").removesuffix(".")


def holds_parameters(module: nn.Module) -> bool:
    """Whether a module or any of its children has parameters."""
    return next(module.parameters(), None) is not None


def parts_of(module: nn.Module) -> tuple[list[Part], dict[str, str]]:
    """The parts of a network that can be looked into, and for each module that can't be the reason.

    The whole is one part if its ``forward`` can be traced and runs all its parameters. Where it can't, or where parameters
    are left over that something else runs (a ``training_step``, a second head), its children are taken one by one: what
    runs between them isn't known, so their inputs and outputs stay as they are.

    Raises:
        ValueError: If a parameter is lazy (no shape yet) or sharded.
    """
    parts: list[Part] = []
    refused: dict[str, str] = {}
    whole = unwrapped(module)
    with isolated(0, whole):  # a forward may draw
        pieces = list(_parts(whole, whole, ""))
    for name, found in pieces:
        if isinstance(found, Part):
            parts.append(found)
        else:
            refused[name] = found
    return parts, refused


def _parts(module: nn.Module, root: nn.Module, prefix: str) -> Iterator[tuple[str, Part | str]]:
    if not holds_parameters(root):
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
        yield from _parts(module, inner, ".".join(filter(None, (prefix, plain(name)))))


def _not_run(part: Part) -> list[str]:
    """Layers with parameters that the part's graph doesn't run."""
    run = {plain(str(node.target)) for node in part.graph.nodes if node.op == "call_module"}
    read = {plain(str(node.target)).rpartition(".")[0] for node in part.graph.nodes if node.op == "get_attr"}
    return [
        unit.name
        for unit in part.units
        if any(isinstance(tensor, nn.Parameter) for tensor in unit.tensors.values())
        and unit.name not in read
        and not any(unit.name == name or unit.name.startswith(f"{name}.") for name in run)
    ]


def matched(module: nn.Module, like: nn.Module) -> nn.Module:
    """A new module as an old one is: device, dtype, train or eval mode, frozen or not, channels last or not.

    Args:
        module: New, on the CPU.
        like: One whose tensors tell; without any the new module stays as it is.
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
    """A tensor in another one's memory format, if it has as many axes."""
    for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.ndim == like.ndim == ndim and not like.is_contiguous():
            return tensor.contiguous(memory_format=memory_format)
    return tensor
