"""Inheritance of a parent's weights, such that a child that only grew computes what its parent computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn

from lightning_evo.functional.graph.channels import NewUnits, choose_channel_maps
from lightning_evo.functional.graph.tracing import chain, trace
from lightning_evo.functional.inheritance.alignment import (
    SCORINGS,
    Unit,
    align,
    plain_names,
    units_of,
    units_of_state,
    unwrapped,
)
from lightning_evo.functional.inheritance.layout import Layout, lay_out
from lightning_evo.functional.inheritance.placement import Outcome, Placement, TensorMap, place
from lightning_evo.functional.inheritance.roles import Role, analyse, make_identities
from lightning_evo.utils.compiled import plain_name

__all__ = ["Inheritance", "Structure", "inherit", "read_structure", "structure_of", "transfer_weights"]


NO_MATCH = "no layer of the child matches one of the parent's, or too few do: they are of different families"


@dataclass(frozen=True)
class Inheritance:
    """The outcome for each of a child's tensors, by name in its state dict.

    Args:
        copied: Equal to the parent's.
        sliced: In part the parent's: wider, narrower, or of another kernel.
        identity: New, and set so that their layer returns its input, or adds nothing.
        fresh: As they were initialized.
        unused: The parent's tensors that have no counterpart.
        parents: For each tensor with a counterpart its name in the parent.
        maps: For each tensor copied or sliced where the parent's numbers went.
        why_not: Why the child may compute something other than its parent; empty if it computes the same.
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
        """Whether the child computes what its parent does, in train and in eval mode, apart from dropout."""
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

    - a layer that both have is copied with its buffers. In one that became wider, the parent's slices are copied, new units
      are fresh, and the weights from new units to old ones are 0. With ``net2wider`` new units are copies of old ones, and
      the outgoing weights of a unit are divided among its copies;
    - a new layer between two others is the identity (Net2Deeper), and a new residual branch ends in a layer of zeros, with
      the rest of it fresh;
    - kernels are aligned at their centers;
    - a head with another number of outputs stays fresh;
    - where nothing can be aligned (another family of architecture), everything stays fresh.

    Which channels belong together is read from the child's graph (``torch.fx``): all layers along a residual path,
    depthwise and grouped convolutions, flattening and concatenation use one map. Layers that normalize over channels
    (LayerNorm, GroupNorm with as many groups as before) keep their statistics only if all channels are copied equally
    often. A width that is a multiple of the parent's is therefore filled with copies there, with a spread of at least
    0.5 so that they differ after some training.

    :attr:`Inheritance.preserving` tells whether the child now computes what its parent does, which a child that only grew
    does unless ``why_not`` has a reason. A state dict alone doesn't show what lies between layers (activations, pooling,
    strides), so nothing is promised without the parent's ``structure``; what is written is the same.

    Args:
        child: The module to write to. Its parameters stay the same objects, with their dtype and device, and share no
            memory with the parent's.
        parent: A state dict, or the module. Prefixes of ``torch.compile`` and DistributedDataParallel are ignored.
        structure: The parent's structure, if it is given as a state dict (:func:`structure_of`).
        new_units: ``zero`` or ``net2wider``.
        spread: How unequally copies share the outgoing weights of their unit, from 0 (equally, as in the paper) to below 1.
        seed: Seed of the choice of copies and of the spread.
        choose: Whether a tensor of the child, given by name, may inherit; the others stay fresh. The default is all.

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
        raise ValueError(f"new_units: {new_units!r} is not 'zero' or 'net2wider'")
    if not 0 <= spread < 1:
        raise ValueError(f"spread: {spread!r} is not in [0, 1)")
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
        refused = [p.name for p in placements if p.outcome != "fresh" and not choose(p.name)]
        why_not += [f"{name} was not to inherit" for name in refused]
        placements = [p.left_fresh() if p.name in refused else p for p in placements]
    why_not += _write(placements)
    make_identities(draft.graph, root, {unit for unit, role in draft.roles.items() if role == "identity"})
    return _record(placements, parents, why_not)


@torch.no_grad()
def transfer_weights(
    root: nn.Module,
    parents: list[Unit],
    structure: Structure,
    index: Mapping[str, Tensor],
    *,
    new_units: NewUnits = "zero",
    spread: float = 0.0,
    seed: int = 0,
) -> Inheritance:
    """Write the weights that a network's layers had before a change of shape into the layers as they are now.

    Layers are matched by name, so nothing has to be aligned.

    Args:
        root: The network, with its present tensors.
        parents: Its units before the change, with their tensors. Tensors that the network still has are left alone.
        structure: What it computed before.
        index: For the names of some layers, the old channel of each present one; all others keep theirs, followed by new
            ones.
        new_units: As in :func:`inherit`.
        spread: As in :func:`inherit`.
        seed: As in :func:`inherit`.
    """
    units = units_of(root, "network")
    before = {unit.name: unit for unit in parents}
    pairs = {unit.name: before[unit.name] for unit in units}
    draft = _draft(_Task(root, trace(root), units, parents, structure, new_units, spread, seed, index), pairs)
    why_not = draft.why_not + _write(draft.placements)
    return _record(draft.placements, parents, why_not)


@dataclass(frozen=True)
class Structure:
    """The part of a network that a state dict doesn't show: the settings of its layers, and what lies between them.

    Args:
        layers: For each layer with tensors its kind, its settings, and its number of groups.
        steps: What the network computes, one expression per step, which refers to earlier ones by their numbers.
        outputs: The numbers of the steps that are its outputs; empty where the network can't be traced.
    """

    layers: Mapping[str, tuple[str, tuple, int]]
    steps: tuple[tuple, ...] = ()
    outputs: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as tuples, dicts, numbers and strings, which any checkpoint can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Structure:
        """Make it from the result of :meth:`to_dict`."""
        return cls(data["layers"], tuple(data["steps"]), tuple(data["outputs"]))

    def signature(self, table: dict[tuple, int]) -> tuple[int, ...]:
        """Return its outputs as numbers in a table of expressions, to which its own are added."""
        numbers: list[int] = []
        for step in self.steps:
            if step[0] not in ("input", "tensor"):  # the last part holds the arguments
                step = (*step[:-1], tuple(numbers[argument] for argument in step[-1]))
            numbers.append(table.setdefault(step, len(table)))
        return tuple(numbers[output] for output in self.outputs)


def structure_of(module: nn.Module) -> Structure:
    """Return what a module computes, apart from its weights.

    Raises:
        ValueError: If a parameter is lazy (no shape yet) or sharded.

    >>> structure_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU())).steps
    (('input', 0), ('layer', ('0',), ('Linear',), (0,)), ('relu', ('',), (1,)))
    """
    root = unwrapped(module)
    return read_structure(trace(root), root, units_of(root, "parent"))


def read_structure(graph: fx.Graph | str, root: nn.Module, units: list[Unit]) -> Structure:
    """Return the same for a module that is traced already.

    Args:
        graph: Its graph, or why it has none.
        root: The module.
        units: Its units.
    """
    layers = {unit.name: (unit.kind, unit.settings, unit.groups) for unit in units}
    if not isinstance(graph, fx.Graph):
        return Structure(layers)
    table: dict[tuple, int] = {}
    outputs = analyse(graph, root, units, {unit.name: unit.name for unit in units}, table).signature
    return Structure(layers, tuple(table), outputs)


@dataclass(frozen=True)
class _Task:
    """The child, the parent, and the settings of an inheritance."""

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
    """What would be written under one alignment, and why the child may then compute something else."""

    graph: fx.Graph
    roles: Mapping[str, Role]
    placements: list[Placement]
    why_not: list[str]


def _best_draft(task: _Task) -> _Draft:
    """Return the draft of the likeliest alignment, or the first that preserves, where that can be checked."""
    known = task.structure is not None and task.structure.outputs
    drafts: dict[tuple, _Draft] = {}
    # Only with the parent's structure can a right alignment be told from one that merely fits.
    for scoring in SCORINGS if known else SCORINGS[:1]:
        pairs = align(task.units, task.parents, scoring)
        same = tuple((name, unit.name) for name, unit in pairs.items())
        if same not in drafts:
            drafts[same] = _draft(task, pairs)
            if not drafts[same].why_not:
                return drafts[same]
    return next(iter(drafts.values()))


def _draft(task: _Task, pairs: Mapping[str, Unit]) -> _Draft:
    """Return the draft that follows from an alignment."""
    if not pairs:
        fresh = [Placement(unit.path(name), tensor) for unit in task.units for name, tensor in unit.tensors.items()]
        return _Draft(chain([]), {}, fresh, [NO_MATCH])
    graph, roles, layout, why_not = _plan(task, pairs)
    generator = torch.Generator().manual_seed(task.seed)
    for name, index in task.index.items():
        (channels,) = layout.layers[name].gives.parts or ()
        channels.root.index = index
    why_not = [*why_not, *layout.why_not, *choose_channel_maps(layout.dimensions, task.new_units, generator)]
    placements, reasons = place(task.units, pairs, roles, layout, spread=task.spread, seed=task.seed)
    return _Draft(graph, roles, placements, [*why_not, *reasons])


def _plan(task: _Task, pairs: Mapping[str, Unit]) -> tuple[fx.Graph, Mapping[str, Role], Layout, list[str]]:
    """Determine the roles of units, the channels they share, and why the child may compute something else."""
    root, graph, units, structure = task.root, task.graph, task.units, task.structure
    labels = {unit.name: pairs[unit.name].name if unit.name in pairs else None for unit in units}
    met = set(labels.values())
    why_not = [f"{unit.name} of the parent has no counterpart" for unit in task.parents if unit.name not in met]
    if isinstance(graph, str):
        line, roles = chain(_called(root, units)), _guessed(units, pairs)
        return line, roles, lay_out(line, root, units, pairs, roles, guessed=True), [*why_not, graph]
    table: dict[tuple, int] = {}
    analysis = analyse(graph, root, units, labels, table)
    why_not += analysis.why_not
    if structure is None or not structure.outputs:
        why_not.append("what lies between the parent's layers isn't known")
    elif not why_not and structure.signature(table) != analysis.signature:
        why_not.append("what lies between the layers differs: activations, pooling, strides, padding or joins")
    return graph, analysis.roles, lay_out(graph, root, units, pairs, analysis.roles), why_not


def _guessed(units: list[Unit], pairs: Mapping[str, Unit]) -> dict[str, Role]:
    """The roles of the units of a network that can't be traced."""
    new: dict[str, Role] = {u.name: "identity" if u.kind in ("linear", "conv") else "fresh" for u in units}
    return new | dict.fromkeys(pairs, "inherits")


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's tensors by name, those of a shared module once."""
    return {
        unit.path(name): tensor
        for unit in units_of(unwrapped(module), "parent")
        for name, tensor in unit.tensors.items()
    }


def _called(root: nn.Module, units: list[Unit]) -> list[str]:
    """Return the names of the layers of torch.nn with weights, as the root has them, in the order of registration."""
    known = {unit.name for unit in units if unit.kind != "other"}
    paths = {plain_name(name): name for name, _ in root.named_modules()}
    return [path for name, path in paths.items() if name in known]


def _write(placements: list[Placement]) -> list[str]:
    """Set the child's tensors; return the tied ones for which two different values were asked."""
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
    outcomes = {outcome: tuple(p.name for p in placements if p.outcome == outcome) for outcome in get_args(Outcome)}
    inherited = [p for p in placements if p.outcome in ("copied", "sliced")]
    used = {p.parents_name for p in inherited}
    return Inheritance(
        **outcomes,
        unused=tuple(unit.path(name) for unit in parents for name in unit.tensors if unit.path(name) not in used),
        parents={p.name: p.parents_name for p in placements if p.parents_name},
        maps={p.name: p.map for p in inherited if p.map is not None},
        why_not=tuple(dict.fromkeys(why_not)),
    )
