"""What does a child start from? Its parent's weights, so that one that only grew computes what its parent computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn

from lightning_evo.functional.graph.channels import NewUnits, choose_maps
from lightning_evo.functional.graph.tracing import chain, trace
from lightning_evo.functional.inheritance.alignment import (
    TASTES,
    Unit,
    align,
    plain_names,
    units_of,
    units_of_state,
    unwrapped,
)
from lightning_evo.functional.inheritance.layout import Layout, lay_out
from lightning_evo.functional.inheritance.placement import Placement, TensorMap, Verdict, place
from lightning_evo.functional.inheritance.roles import Role, make_identities, read
from lightning_evo.utils.compiled import plain_name

__all__ = ["Inheritance", "Structure", "hand_on", "inherit", "read_structure", "structure_of"]

# -- What does a network compute, its weights apart? Plain data, to be kept beside them and compared with --


@dataclass(frozen=True)
class Structure:
    """What a state dict doesn't tell of a network: its layers' settings, and what lies between them.

    Args:
        layers: For each layer with tensors its kind, its settings, and its number of groups.
        steps: What the network computes, one expression a step, which refers to earlier ones by their numbers.
        outputs: Which steps are its outputs; empty where the network can't be traced.
    """

    layers: Mapping[str, tuple[str, tuple, int]]
    steps: tuple[tuple, ...] = ()
    outputs: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Tuples, dicts, numbers and texts, which any checkpoint holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Structure:
        """What :meth:`to_dict` gave."""
        return cls(data["layers"], tuple(data["steps"]), tuple(data["outputs"]))

    def signature(self, table: dict[tuple, int]) -> tuple[int, ...]:
        """Its outputs by the numbers that a table of expressions gives them; it is added to the table."""
        numbers: list[int] = []
        for step in self.steps:
            if step[0] not in ("input", "tensor"):  # the last part holds the arguments
                step = (*step[:-1], tuple(numbers[argument] for argument in step[-1]))
            numbers.append(table.setdefault(step, len(table)))
        return tuple(numbers[output] for output in self.outputs)


def structure_of(module: nn.Module) -> Structure:
    """What a module computes, its weights apart.

    Raises:
        ValueError: If a parameter is lazy (no shape yet) or sharded.

    >>> structure_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU())).steps
    (('input', 0), ('layer', ('0',), ('Linear',), (0,)), ('relu', ('',), (1,)))
    """
    root = unwrapped(module)
    return read_structure(trace(root), root, units_of(root, "parent"))


def read_structure(graph: fx.Graph | str, root: nn.Module, units: list[Unit]) -> Structure:
    """The same of a module that is traced already.

    Args:
        graph: Its graph, or why it has none.
        root: The module.
        units: Its units.
    """
    layers = {unit.name: (unit.kind, unit.settings, unit.groups) for unit in units}
    if not isinstance(graph, fx.Graph):
        return Structure(layers)
    table: dict[tuple, int] = {}
    outputs = read(graph, root, units, {unit.name: unit.name for unit in units}, table).signature
    return Structure(layers, tuple(table), outputs)


@dataclass(frozen=True)
class Inheritance:
    """What became of each of a child's tensors, by their names in its state dict.

    Args:
        copied: As the parent has them.
        sliced: In part the parent's: wider, narrower, of another kernel.
        identity: New, and set so that their layer hands on what it gets, or adds nothing.
        fresh: As they were initialised.
        unused: The parent's tensors that have no counterpart.
        parents: For each tensor that has a counterpart the parent's name of it.
        maps: For each tensor copied or sliced which numbers went where.
        why_not: Why the child may compute something else than its parent; empty where it computes the same.
    """

    copied: tuple[str, ...] = ()
    sliced: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    parents: Mapping[str, str] = field(default_factory=dict, repr=False)
    maps: Mapping[str, TensorMap] = field(default_factory=dict, repr=False)
    why_not: tuple[str, ...] = ()

    @property
    def preserving(self) -> bool:
        """Whether the child computes what its parent does, in train and in eval mode, dropout apart."""
        return not self.why_not


@torch.no_grad()
def inherit(
    child: nn.Module,
    parent: Mapping[str, Tensor] | nn.Module,
    *,
    structure: Structure | None = None,
    new_units: NewUnits = "zero",
    spread: float = 0.0,
    seed: int = 0,
    choose: Callable[[str], bool] | None = None,
) -> Inheritance:
    """Write a parent's weights into a child, in place.

    Layers are aligned as two sequences, by kind, name and shape, so that one inserted or left out doesn't shift the
    others. Then

    - a layer that both have is copied, buffers too; of one that became wider the parent's slices, and what old units
      take from new ones is 0; new units begin fresh. With ``net2wider`` they are copies of old ones, and what is taken
      from a unit is divided among its copies;
    - a new layer is the identity where it stands in line (Net2Deeper), and a new residual branch ends in a layer of
      zeros, the rest of it fresh;
    - kernels are laid centre on centre;
    - a head of another number of outputs begins fresh;
    - where nothing aligns (another family of architecture), everything stays fresh.

    Which channels belong together is read from the child's graph (``torch.fx``): all layers along a residual path,
    depthwise and grouped convolutions, flattening and concatenation use one map. Layers that normalise over channels
    (LayerNorm, GroupNorm with as many groups as before) keep their statistics only if all channels are copied equally
    often; a width that is a multiple of the parent's is therefore filled with copies there, with a spread of at least
    0.5 so that they part in training.

    :attr:`Inheritance.preserving` says whether the child now computes what its parent does, which a growing child does
    unless ``why_not`` says otherwise. A state dict alone doesn't tell what lies between layers (activations, pooling,
    strides), so nothing is promised without the parent's ``structure``; what is written is the same.

    Args:
        child: Written to. Parameters stay the same objects, of the same dtype and device, and share no memory with the
            parent's.
        parent: A state dict, or the module. Prefixes of ``torch.compile`` and DistributedDataParallel don't matter.
        structure: Of the parent, if it is given as a state dict (:func:`structure_of`).
        new_units: ``zero`` or ``net2wider``.
        spread: How unequally copies share what is taken from their unit: from 0, equally as in the paper, to below 1.
        seed: Of copies drawn and of the spread.
        choose: Whether a tensor of the child, by name, may inherit; the others stay fresh. Default: all.

    Returns:
        What was inherited, and how.

    Raises:
        ValueError: If a parameter is lazy (no shape yet) or sharded, or an argument is out of its range.

    Source:
        Chen, Goodfellow and Shlens 2016, Net2Net: Accelerating Learning via Knowledge Transfer, arXiv:1511.05641.

    >>> parent = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> child = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> result = inherit(child, parent)
    >>> result.sliced, result.identity
    (('0.weight', '0.bias', '4.weight'), ('2.weight', '2.bias'))
    >>> inputs = torch.randn(7, 2)
    >>> result.preserving, torch.allclose(child(inputs), parent(inputs), atol=1e-6)
    (True, True)
    """
    if new_units not in get_args(NewUnits):
        raise ValueError(f"new_units: {new_units!r} is neither 'zero' nor 'net2wider'")
    if not 0 <= spread < 1:
        raise ValueError(f"spread: {spread} is not from 0 to below 1")
    root = unwrapped(child)
    units = units_of(root, "child")
    if isinstance(parent, nn.Module):
        structure, state = structure_of(parent), _own_state(parent)
    else:
        state = plain_names(parent)
    layers = structure.layers if structure is not None else None
    parents = units_of_state(state, layers if layers is not None else {unit.name for unit in units}, layers)
    draft = _best_draft(_Task(root, trace(root), units, parents, structure, new_units, spread, seed))
    placements, why_not = draft.placements, draft.why_not
    if choose is not None:
        refused = [p.name for p in placements if p.verdict != "fresh" and not choose(p.name)]
        why_not += [f"{name} was not to inherit" for name in refused]
        placements = [p.left_fresh() if p.name in refused else p for p in placements]
    why_not += _write(placements)
    make_identities(draft.graph, root, {unit for unit, role in draft.roles.items() if role == "identity"})
    return _record(placements, parents, why_not)


@torch.no_grad()
def hand_on(
    root: nn.Module,
    parents: list[Unit],
    structure: Structure,
    index: Mapping[str, Tensor],
    *,
    new_units: NewUnits = "zero",
    spread: float = 0.0,
    seed: int = 0,
) -> Inheritance:
    """Write what a network's layers held before they changed into what they are now; by name, nothing has to be aligned.

    Args:
        root: The network, with the tensors it has now.
        parents: Its units as they were, with the tensors they had. Tensors that are still the network's are left alone.
        structure: What it computed.
        index: For a layer's name which of its old channels its channels are; the others keep all, new ones behind them.
        new_units: As in :func:`inherit`.
        spread: The same.
        seed: The same.
    """
    units = units_of(root, "network")
    before = {unit.name: unit for unit in parents}
    pairs = {unit.name: before[unit.name] for unit in units}
    draft = _draft(_Task(root, trace(root), units, parents, structure, new_units, spread, seed, index), pairs)
    why_not = draft.why_not + _write(draft.placements)
    return _record(draft.placements, parents, why_not)


@dataclass(frozen=True)
class _Task:
    """Who is to inherit from whom, and how."""

    root: nn.Module
    graph: fx.Graph | str
    units: list[Unit]
    parents: list[Unit]
    structure: Structure | None
    new_units: NewUnits
    spread: float
    seed: int
    index: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Draft:
    """What would be written, and what would then speak against equality."""

    graph: fx.Graph
    roles: Mapping[str, Role]
    placements: list[Placement]
    why_not: list[str]


def _best_draft(task: _Task) -> _Draft:
    """The likeliest alignment's; or the first that preserves, where that can be told."""
    known = task.structure is not None and task.structure.outputs
    drafts: dict[tuple, _Draft] = {}
    # Only a parent whose structure is known can tell a right alignment from one that merely fits.
    for taste in TASTES if known else TASTES[:1]:
        pairs = align(task.units, task.parents, taste)
        same = tuple((name, unit.name) for name, unit in pairs.items())
        if same not in drafts:
            drafts[same] = _draft(task, pairs)
            if not drafts[same].why_not:
                return drafts[same]
    return next(iter(drafts.values()))


def _draft(task: _Task, pairs: Mapping[str, Unit]) -> _Draft:
    """All that follows from an alignment."""
    if not pairs:
        fresh = [Placement(unit.path(name), tensor) for unit in task.units for name, tensor in unit.tensors.items()]
        return _Draft(chain([]), {}, fresh, ["no layer of the child matches one of the parent's"])
    graph, roles, layout, why_not = _plan(task, pairs)
    generator = torch.Generator().manual_seed(task.seed)
    for name, index in task.index.items():
        (channels,) = layout.layers[name].gives.parts or ()
        channels.root.index = index
    why_not = [*why_not, *layout.why_not, *choose_maps(layout.dimensions, task.new_units, generator)]
    placements, doubts = place(task.units, pairs, roles, layout, spread=task.spread, seed=task.seed)
    return _Draft(graph, roles, placements, [*why_not, *doubts])


def _plan(task: _Task, pairs: Mapping[str, Unit]) -> tuple[fx.Graph, Mapping[str, Role], Layout, list[str]]:
    """What every unit must be, which channels units share, and what speaks against equality."""
    root, graph, units, structure = task.root, task.graph, task.units, task.structure
    labels = {unit.name: pairs[unit.name].name if unit.name in pairs else None for unit in units}
    met = set(labels.values())
    why_not = [f"{unit.name} of the parent has no counterpart" for unit in task.parents if unit.name not in met]
    if isinstance(graph, str):
        line, roles = chain(_called(root, units)), _guessed(units, pairs)
        return line, roles, lay_out(line, root, units, pairs, roles, guessed=True), [*why_not, graph]
    table: dict[tuple, int] = {}
    reading = read(graph, root, units, labels, table)
    why_not += reading.why_not
    if structure is None or not structure.outputs:
        why_not.append("what lies between the parent's layers isn't known")
    elif not why_not and structure.signature(table) != reading.signature:
        why_not.append("what lies between the layers differs: activations, pooling, strides, padding or joins")
    return graph, reading.roles, lay_out(graph, root, units, pairs, reading.roles), why_not


def _guessed(units: list[Unit], pairs: Mapping[str, Unit]) -> dict[str, Role]:
    """What the units must be of a network that can't be traced."""
    new: dict[str, Role] = {u.name: "identity" if u.kind in ("linear", "conv") else "fresh" for u in units}
    return new | dict.fromkeys(pairs, "inherits")


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors by name, a shared module's once."""
    return {
        unit.path(name): tensor
        for unit in units_of(unwrapped(module), "parent")
        for name, tensor in unit.tensors.items()
    }


def _called(root: nn.Module, units: list[Unit]) -> list[str]:
    """The layers of torch.nn with weights, by the names under which the root holds them, in the order of registration."""
    known = {unit.name for unit in units if unit.kind != "other"}
    paths = {plain_name(name): name for name, _ in root.named_modules()}
    return [path for name, path in paths.items() if name in known]


def _write(placements: list[Placement]) -> list[str]:
    """Set the child's tensors; returns which tied ones were to become two things at once."""
    written: dict[int, Tensor] = {}
    clashes = []
    for placement in placements:
        value = placement.value() if placement.source is not placement.tensor else None
        if value is None:
            continue
        before = written.get(id(placement.tensor))
        if before is not None and not torch.equal(before, value):
            clashes.append(f"{placement.name} is tied to another tensor, which asks for other values")
        written[id(placement.tensor)] = value
        placement.tensor.copy_(value)
    return clashes


def _record(placements: list[Placement], parents: list[Unit], why_not: list[str]) -> Inheritance:
    verdicts = {verdict: tuple(p.name for p in placements if p.verdict == verdict) for verdict in get_args(Verdict)}
    inherited = [p for p in placements if p.verdict in ("copied", "sliced")]
    used = {p.parents_name for p in inherited}
    return Inheritance(
        **verdicts,
        unused=tuple(unit.path(name) for unit in parents for name in unit.tensors if unit.path(name) not in used),
        parents={p.name: p.parents_name for p in placements if p.parents_name},
        maps={p.name: p.map for p in inherited if p.map is not None},
        why_not=tuple(dict.fromkeys(why_not)),
    )
