"""In which part of a module can layers grow, and what is a change of it? The seam between operations and surgery.

An operation is a module of three functions, which never touch the network:

- ``sites(part) -> dict[layer, dict[operation, reason]]``: what can be done to which layer; an empty reason: it can.
- ``plan(part, operation, layer, *, ratio, max_added, settings, seed) -> dict``: the step's settings, absolute numbers.
- ``build(part, step, sample) -> StructureChange``: what would be put where. It is called with PyTorch's random numbers
  seeded and restored afterwards; new modules are made on the CPU and transferred to :func:`matched`.

Layers are named within the part (:meth:`Part.local`, :meth:`Part.path`); ``step.layer`` is named within the whole module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_evo._compat.torch import (
    FORWARD_HOOKS,
    REGISTRIES,
    BatchNormBase,
    buffers_dict,
    has_gradient_hooks,
    modules_dict,
    parameters_dict,
    tree_leaves,
)
from lightning_evo.functional.graph.tracing import trace
from lightning_evo.functional.growth.steps import Added, GrowthError, Moved
from lightning_evo.functional.inheritance.alignment import Unit, units_of, unwrapped
from lightning_evo.functional.inheritance.layout import Layout, lay_out
from lightning_evo.functional.inheritance.placement import TensorMap
from lightning_evo.utils.compiled import plain_name
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = [
    "Part",
    "StructureChange",
    "Undo",
    "added_parameters",
    "apply",
    "calibrate",
    "compare",
    "count",
    "describe",
    "difference",
    "holds_parameters",
    "matched",
    "named_tensors",
    "outputs",
    "parts_of",
]


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
            found[plain_name(name)] = part  # of a compiled module and the one inside it the latter
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
        run = {plain_name(str(node.target)) for node in self.graph.nodes if node.op == "call_module"}
        outer = next((name for name in run if local.startswith(f"{name}.")), None)
        if outer is not None:
            return f"{self.path(outer)} ({type(self.named[outer]).__name__}) computes with its tensors itself"
        return "no module's call runs it: forward reads its tensors itself, or not at all"

    def stuck(self, unit: Unit) -> str:
        """Why a layer's tensors can't take other shapes; empty if they can."""
        module, name = unit.module, self.path(unit.name)
        readers = [plain_name(str(n.target)) for n in self.graph.nodes if n.op == "get_attr"]
        if any(reader.rpartition(".")[0] == unit.name for reader in readers):
            return f"forward reads the tensors of {name} itself"
        if getattr(module, "max_norm", None) is not None:
            return f"{name} bounds the norm of its vectors, which would be longer"
        return next((reason for local in unit.tensors if (reason := self.tied(unit.path(local)))), "")

    def tied(self, path: str) -> str:
        """Why a tensor can't be exchanged for another; empty if it can."""
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
        """For each parameter of the whole module, by ``id``, its names; a shared module's once."""
        owners: dict[int, list[str]] = {}
        for name, part in self.module.named_modules():
            for local, tensor in parameters_dict(part).items():
                if tensor is not None:
                    owners.setdefault(id(tensor), []).append(plain_name(f"{name}.{local}" if name else local))
        return owners

    def calls(self, local: str) -> list[fx.Node]:
        """The nodes that call a module, by its plain name."""
        module = self.named.get(local)
        return [node for node in self.graph.nodes if module is not None and self.called(node) is module]


@dataclass(frozen=True)
class StructureChange:
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
    with isolated_random_state(0, whole):  # a forward may draw
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
        yield from _parts(module, inner, ".".join(filter(None, (prefix, plain_name(name)))))


def _not_run(part: Part) -> list[str]:
    """Layers with parameters that the part's graph doesn't run."""
    run = {plain_name(str(node.target)) for node in part.graph.nodes if node.op == "call_module"}
    read = {plain_name(str(node.target)).rpartition(".")[0] for node in part.graph.nodes if node.op == "get_attr"}
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


# -- How is a network changed in place, and how undone? Tensors and modules are exchanged; all others sta --


def count(module: nn.Module) -> int:
    """How many parameters a module has, a shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def named_tensors(module: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """A module's parameters and buffers by ``id``, with their plain names; a shared one under its first."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        found.setdefault(id(tensor), (plain_name(name), tensor))
    return found


def describe(module: nn.Module) -> list[tuple]:
    """All that a step can change: modules, their settings, the shapes of their tensors."""
    return [
        (plain_name(name), type(part), part.extra_repr(), [(n, t.shape) for n, t in _own(part).items()])
        for name, part in module.named_modules()
    ]


def apply(part: Part, change: StructureChange) -> None:
    """Put a change's tensors, attributes and modules in their places.

    Modules whose tensors only change their shapes stay the same objects: whoever holds one (hooks, a list of the user's, a
    compiled wrapper) holds it still.
    """
    for name, values in change.attributes.items():
        part.named[name].__dict__.update(values)
    for path, tensor in change.tensors.items():
        home, _, local = path.rpartition(".")
        module = part.named[home]
        held: Any = parameters_dict(module) if local in parameters_dict(module) else buffers_dict(module)
        held[local] = tensor
    for name, new in change.modules.items():
        _exchange(part, part.named[name], new)


def added_parameters(part: Part, change: StructureChange) -> int:
    """How many parameters a change will add to the whole module."""
    total = 0
    for path, tensor in change.tensors.items():
        home, _, local = path.rpartition(".")
        old = parameters_dict(part.named[home]).get(local)
        total += tensor.numel() - old.numel() if old is not None else 0
    before = {id(p): p for p in part.module.parameters()}
    new = {id(p): p for module in change.modules.values() for p in module.parameters()}
    replaced = {id(p): p for name in change.modules for p in part.named[name].parameters()}
    inside = {id(m) for name in change.modules for m in part.named[name].modules()}
    elsewhere = {id(p) for m in part.module.modules() if id(m) not in inside for p in m.parameters(recurse=False)}
    total += sum(p.numel() for key, p in new.items() if key not in before)
    return total - sum(p.numel() for key, p in replaced.items() if key not in new and key not in elsewhere)


def difference(
    part: Part,
    layer: str,
    before: Mapping[int, tuple[str, Tensor]],
    maps: Mapping[str, TensorMap],
    change: StructureChange,
) -> tuple[tuple[Moved, ...], tuple[Added, ...], tuple[nn.Parameter, ...], dict[str, str]]:
    """What became of a module's tensors: moved, added, removed and renamed ones.

    Args:
        part: As it was before the change, with its units' old tensors.
        layer: Its layer that was changed.
        before: The module's tensors before (:func:`named_tensors`).
        maps: Of the change's ``tensors``.
        change: What was done.
    """
    after = named_tensors(part.module)
    by_name = dict(before.values())
    moved, taken = [], set()
    sources = {path: (path, maps.get(path)) for path in change.tensors} | dict(change.moved)
    for path, (source, plan) in sources.items():
        old, new = by_name[part.path(source)], _found(part, path)
        taken.add(id(old))
        if isinstance(old, nn.Parameter) and isinstance(new, nn.Parameter):
            assert plan is not None
            moved.append(Moved(part.path(path), old, new, plan))
    known = {id(one.new) for one in moved} | set(before)
    stays = [t for key, (_, t) in before.items() if key in after]
    added = tuple(
        Added(name, tensor, _beside(part, layer, name, tensor, stays, moved))
        for key, (name, tensor) in after.items()
        if key not in known and isinstance(tensor, nn.Parameter)
    )
    removed = tuple(
        tensor
        for key, (_, tensor) in before.items()
        if key not in after and key not in taken and isinstance(tensor, nn.Parameter)
    )
    renamed = {name: after[key][0] for key, (name, _) in before.items() if key in after and after[key][0] != name}
    return tuple(moved), added, removed, renamed


class Undo:
    """A module as it was: its modules, parameters, buffers, attributes and modes. Numbers of parameters aren't kept.

    Buffers are copied, since running a network changes them; parameters that a step changes are exchanged, not written to.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts = [(part, dict(part.__dict__), _contents(part)) for part in module.modules()]
        self.buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]

    @torch.no_grad()
    def undo(self) -> None:
        """Make the module what it was."""
        for part, attributes, contents in self.parts:
            part.__dict__.clear()
            part.__dict__.update(attributes)
            for key, held in contents.items():
                part.__dict__[key].clear()
                part.__dict__[key].update(held)
        self.restore_buffers()

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Write back the numbers that the buffers had."""
        for buffer, values in self.buffers:
            buffer.copy_(values)


_HELD = (*REGISTRIES, *FORWARD_HOOKS)


def _contents(part: nn.Module) -> dict[str, dict]:
    return {key: dict(part.__dict__[key]) for key in _HELD}


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in [*parameters_dict(module).items(), *buffers_dict(module).items()] if t is not None}


def _exchange(part: Part, old: nn.Module, new: nn.Module) -> None:
    """Register a module wherever another one was."""
    inside = {id(each) for each in new.modules()}
    for parent in list(part.module.modules()):
        if id(parent) in inside:
            continue
        for name, child in modules_dict(parent).items():
            if child is old:
                modules_dict(parent)[name] = new


def _found(part: Part, path: str) -> Tensor:
    home, _, local = path.rpartition(".")
    for name, module in part.root.named_modules():
        if plain_name(name) == home and (found := _own(module).get(local)) is not None:
            return found
    raise KeyError(path)


def _beside(
    part: Part, layer: str, name: str, new: nn.Parameter, stays: list[Tensor], moved: list[Moved]
) -> nn.Parameter | None:
    """A parameter of the same sort near a layer: optimizers often group weights apart from biases and scales.

    A weight of two or more axes goes beside another one, a bias or scale beside one; where there is none, beside the layer's
    weight.
    """
    alive = {id(t): t for t in stays if isinstance(t, nn.Parameter)}
    alive |= {id(one.old): one.new for one in moved}
    names = [unit.name for unit in part.units]
    at = (
        names.index(layer)
        if layer in names
        else min(range(len(names)), key=lambda i: -len(_common(names[i], layer)), default=0)
    )
    near = sorted(range(len(names)), key=lambda i: (abs(i - at), i))
    own = [(local, alive[id(t)]) for i in near for local, t in part.units[i].tensors.items() if id(t) in alive]
    local = name.rpartition(".")[2]
    tests = (
        lambda n, p: (p.ndim > 1) == (new.ndim > 1) and n == local,
        lambda n, p: (p.ndim > 1) == (new.ndim > 1),
        lambda n, p: True,
    )
    return next((p for test in tests for n, p in own if test(n, p) and p.requires_grad == new.requires_grad), None)


def _common(one: str, other: str) -> str:
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return one[:same]


# -- Does a network still compute what it did? It is run on a sample before and after a step, in eval mod --

TOLERANCE = 1e-5
_COARSE = {torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""In these dtypes summing over more units, though they add zeros, rounds otherwise."""


@torch.no_grad()
def outputs(module: nn.Module, sample: tuple[Any, ...], seed: int) -> list[Tensor]:
    """All tensors that a module gives on a sample: eval mode, full precision, modes and buffers as they were."""
    modes = [(part, part.training) for part in module.modules()]
    undo = Undo(module)
    device = next((t.device.type for t in module.parameters()), "cpu")
    try:
        for part, _ in modes:
            part.training = False
        with isolated_random_state(seed, module), _precise(device):
            given = module(*sample)
        return [leaf.detach().clone() for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    finally:
        for part, mode in modes:
            part.training = mode
        undo.restore_buffers()


def compare(before: list[Tensor], after: list[Tensor], preserving: bool, where: str) -> None:
    """Check that outputs have the shapes they had and, if they shall, the numbers.

    Raises:
        GrowthError: If not.
    """
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        shapes = [" and ".join(str(tuple(tensor.shape)) for tensor in each) for each in (before, after)]
        raise GrowthError(f"{where}: the network would give {shapes[1]} in place of {shapes[0]}")
    if not preserving:
        return
    for old, new in zip(before, after, strict=True):
        if not old.is_floating_point() or not old.numel():
            continue
        bound = _COARSE.get(old.dtype, TOLERANCE)
        largest = old.double().abs().max()
        off = (new.double() - old.double()).abs().max()
        if not bool(off <= bound * largest) and bool(torch.isfinite(largest)):
            raise GrowthError(
                f"{where}: the network would compute something else: {off.item():.1e} off, where {largest.item():.1e} is "
                f"the largest number it gives"
            )


@torch.no_grad()
def calibrate(part: Part, fresh: dict[str, Tensor], sample: tuple[Any, ...], seed: int) -> None:
    """Give the new channels of batch normalisations the mean and variance that their input has on a sample.

    Args:
        part: The part, changed already.
        fresh: For the names of batch normalisations which of their channels are new; nothing takes what these give yet.
        sample: Inputs of ``part.module``.
        seed: Of random numbers that the network draws.
    """
    handles = []
    for name, new in fresh.items():
        module = part.named[name]

        def note(norm: nn.Module, inputs: tuple[Any, ...], new: Tensor = new) -> None:
            assert isinstance(norm, BatchNormBase)
            values = inputs[0].detach().float().transpose(0, 1).flatten(1)
            if values.shape[1] > 1 and norm.running_mean is not None and norm.running_var is not None:
                seen.append((norm.running_mean, new, values.mean(1)[new]))
                seen.append((norm.running_var, new, values.var(1)[new]))

        handles.append(module.register_forward_pre_hook(note))
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        outputs(part.module, sample, seed)
    finally:
        for handle in handles:
            handle.remove()
    for statistic, new, values in seen:
        statistic[new] = values.to(statistic)


@contextmanager
def _precise(device: str) -> Iterator[None]:
    """Without autocast and TensorFloat32, which would round both runs differently."""
    with torch.autocast(device, enabled=False):
        if device != "cuda":
            yield
            return
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
