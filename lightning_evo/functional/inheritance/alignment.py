"""Alignment of a child's layers with its parent's: two sequences, compared by kind, name and shape."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from lightning_evo._compat.torch import buffers_dict, non_persistent_buffers, parameters_dict
from lightning_evo.functional.graph.operations import groups_of, hyperparameters, kind_of
from lightning_evo.utils.compiled import original_module, plain_name

__all__ = ["SCORINGS", "Scoring", "Unit", "align", "plain_names", "units_of", "units_of_state", "unwrapped"]

WEIGHTED = ("linear", "conv", "transposed", "embedding")


@dataclass(frozen=True)
class Unit:
    """A module with tensors of its own (parameters or buffers), as a module or as part of a state dict.

    Args:
        name: The module's path; empty for the root.
        tensors: Its own tensors by their local names (``weight``, ``running_mean``).
        kind: Its kind of layer (see :func:`kind_of`); empty where only its tensors are known.
        settings: Its other settings that affect what it computes; empty where they aren't known.
        groups: How many groups of channels it treats separately; 0 where that isn't known.
        module: The module itself, if it is the child's.
    """

    name: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    kind: str = ""
    settings: tuple = ()
    groups: int = 0
    module: nn.Module | None = field(default=None, repr=False)

    def path(self, tensor: str) -> str:
        """Return a tensor's full name."""
        return f"{self.name}.{tensor}" if self.name else tensor

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes that ``torch.compile`` and ``DistributedDataParallel`` add to names."""
    plain = {plain_name(name): tensor for name, tensor in state.items()}
    if plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): tensor for name, tensor in plain.items()}
    return plain


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module without the wrappers of ``torch.compile`` and DistributedDataParallel."""
    while True:
        if isinstance(module, DistributedDataParallel):
            module = module.module
        elif (inner := original_module(module)) is not None:
            module = inner
        else:
            return module


def units_of(module: nn.Module, called: str) -> list[Unit]:
    """Return a module's units in the order of registration; a shared module once.

    Args:
        module: The module.
        called: Its name in error messages.

    Raises:
        ValueError: If a parameter is lazy and has no shape yet, or is sharded.
    """
    units = []
    for given, part in module.named_modules():
        name = plain_name(given)
        persistent = [(n, b) for n, b in buffers_dict(part).items() if n not in non_persistent_buffers(part)]
        own = {n: t for n, t in [*parameters_dict(part).items(), *persistent] if t is not None}
        for local, tensor in own.items():
            path = f"{name}.{local}" if name else local
            if is_lazy(tensor):
                raise ValueError(f"{called}: {path} is lazy and has no shape yet; run the model on a batch first")
            if type(tensor).__name__ in ("DTensor", "FlatParameter"):
                raise ValueError(f"{called}: {path} is sharded (FSDP, tensor parallel); inherit before it is")
        if own:
            units.append(Unit(name, own, kind_of(part), hyperparameters(part), groups_of(part), part))
    return units


def units_of_state(
    state: Mapping[str, Tensor], names: Collection[str], layers: Mapping[str, tuple[str, tuple, int]] | None = None
) -> list[Unit]:
    """Return a state dict's units in its order; a shared module, which is in it several times, once.

    Args:
        state: Names without prefixes to tensors.
        names: Names of units that are modules of their own although they share memory with others (tied, not shared).
        layers: Kind, settings and number of groups of each, where known.
    """
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        path, _, local = name.rpartition(".")
        if isinstance(tensor, Tensor) and not is_lazy(tensor):
            grouped.setdefault(path, {})[local] = tensor
    seen: set[tuple] = set()
    units = []
    for name, tensors in grouped.items():
        storage = tuple((local, t.data_ptr(), tuple(t.shape)) for local, t in tensors.items())
        if storage not in seen or name in names:
            units.append(Unit(name, tensors, *(layers or {}).get(name, ())))
        seen.add(storage)
    return units


@dataclass(frozen=True)
class Scoring:
    """Weights of the score of an alignment, besides kinds and shapes.

    Args:
        name: Score of an equal name.
        link: Score of matching two neighbors of a block with two neighbors of a block.
        split: Cost of matching one of two neighbors of a block and not the other.
        split_sequence: The same in a numbered sequence.
        shrunk: Cost of a match whose dimensions shrink.
    """

    name: float = 3.0
    link: float = 5.0
    split: float = 16.0
    split_sequence: float = 4.0
    shrunk: float = 1.0


_ENDS_MATCH = 40.0
"""Score of matching first with first, or last with last: more than everything else together."""
SCORINGS = (
    Scoring(),
    Scoring(shrunk=12.0),
    Scoring(split=4.0),
    Scoring(split=4.0, shrunk=12.0),
    Scoring(name=0.0),
    Scoring(name=12.0),
    Scoring(link=0.0, split=0.0, split_sequence=0.0),
)
"""In the order in which they are tried, where the result of an alignment can be checked."""


def align(child: list[Unit], parent: list[Unit], scoring: Scoring = SCORINGS[0]) -> dict[str, Unit]:
    """Return the parent's unit for each of the child's units that has a counterpart, by the child's name.

    Both are read in the order of registration, and that order is kept. Of all such alignments the one with the highest
    score is chosen: equal kind is required; equal shapes, equal names, both the first or both the last layer, and blocks
    that stay together add to the score. So an inserted layer, which shifts the names of all that follow, is recognized,
    and heads are matched with heads.

    Nothing is aligned if the two are of different families: their first layers differ in kind, or less than half of the
    smaller one's layers have a counterpart that corresponds, by its place in the network or by its shape. (Almost any two
    convolutional networks can be aligned somehow.)

    Source:
        Needleman and Wunsch 1970, A general method applicable to the search for similarities in the amino acid
        sequence of two proteins; here gaps have a cost where they split a block.
    """
    ends = list(zip(_ends(child), _ends(parent), strict=True))
    similarity = [[_similarity(c, p, ends, scoring) for p in parent] for c in child]
    costs, parents_costs = (
        [0.0, *(_gap_cost(*pair, scoring) for pair in pairwise(units))] for units in (child, parent)
    )
    moves = _best_moves(similarity, costs, parents_costs, scoring.link)
    pairs: dict[str, Unit] = {}
    i = j = 0
    state = (False, False)
    while i < len(child) and j < len(parent):
        move = moves[i, j, *state]
        if move == "match":
            pairs[child[i].name] = parent[j]
        i, j, state = _moved(i, j, state, move)
    return pairs if _related(child, parent, pairs) else {}


def _moved(i: int, j: int, state: tuple[bool, bool], move: str) -> tuple[int, int, tuple[bool, bool]]:
    """Return the position after a move, and whether the last unit of the child and of the parent is matched there."""
    if move == "match":
        return i + 1, j + 1, (True, True)
    return (i + 1, j, (False, state[1])) if move == "skip child's" else (i, j + 1, (state[0], False))


def _best_moves(
    similarity: list[list[float]], childs_costs: list[float], parents_costs: list[float], link: float
) -> dict[tuple[int, int, bool, bool], str]:
    """Return the best move from each position: units passed in each sequence, and whether the last of each is matched.

    Args:
        similarity: Of each unit of the child to each of the parent.
        childs_costs: For each unit of the child, the cost of separating it from the one before.
        parents_costs: The same of the parent.
        link: Score of not separating two neighbors.
    """
    n, m = len(childs_costs), len(parents_costs)
    states = [(a, b) for a in (False, True) for b in (False, True)]
    best: dict[tuple[int, int, bool, bool], float] = {}
    moves = {}
    for i in reversed(range(n + 1)):
        for j in reversed(range(m + 1)):
            for a, b in states:
                inner, outer = (childs_costs[i] if i < n else 0.0), (parents_costs[j] if j < m else 0.0)
                if i == n or j == m:
                    best[i, j, a, b] = -(inner * a) - (outer * b)
                    continue
                worth = {
                    "skip child's": best[i + 1, j, False, b] - inner * a,
                    "skip parent's": best[i, j + 1, a, False] - outer * b,
                }
                if similarity[i][j]:
                    linked = link if a and b and inner and outer else 0.0
                    split = inner * (not a) + outer * (not b)
                    worth["match"] = best[i + 1, j + 1, True, True] + similarity[i][j] + linked - split
                move = max(worth, key=lambda name: (worth[name], name == "match"))
                best[i, j, a, b], moves[i, j, a, b] = worth[move], move
    return moves


def _gap_cost(one: Unit, other: Unit, scoring: Scoring) -> float:
    """The cost of separating two neighbors."""
    (block, _, name), (others_block, _, others_name) = one.name.rpartition("."), other.name.rpartition(".")
    if block != others_block:
        return 0.0
    return scoring.split_sequence if name.isdigit() and others_name.isdigit() else scoring.split


def _weighted(unit: Unit) -> bool:
    if unit.kind:
        return unit.kind in WEIGHTED
    return "weight" in unit.tensors and unit.tensors["weight"].ndim > 1


def _ends(units: list[Unit]) -> tuple[str | None, str | None]:
    """The first and the last layer with a weight of two or more dimensions."""
    names = [unit.name for unit in units if _weighted(unit)]
    return (names[0], names[-1]) if names else (None, None)


def _compatible(child: Unit, parent: Unit) -> bool:
    """Whether two units can be the same layer in two widths."""
    if parent.kind and parent.kind != child.kind:
        return False
    if parent.settings and parent.settings[0] != child.settings[0]:
        return False
    if child.kind == "other":
        return {n: len(s) for n, s in child.shapes.items()} == {n: len(s) for n, s in parent.shapes.items()}
    if ("running_mean" in child.tensors) != ("running_mean" in parent.tensors):
        return False
    if not set(parent.tensors) <= {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}:
        return False
    if isinstance(child.module, nn.PReLU):  # one slope for all, or one per channel
        both = [unit.tensors["weight"].numel() == 1 for unit in (child, parent) if "weight" in unit.tensors]
        return "bias" not in parent.tensors and both in ([True, True], [False, False])
    common = set(child.tensors) & set(parent.tensors)
    return bool(common) and all(child.tensors[n].ndim == parent.tensors[n].ndim for n in common)


def _similarity(child: Unit, parent: Unit, ends: list[tuple[str | None, str | None]], scoring: Scoring) -> float:
    """The score of matching two units; 0 if they can't be the same layer."""
    if not _compatible(child, parent):
        return 0.0
    sizes = [
        1.0 if a == b else 0.5 if a > b else -scoring.shrunk  # children grow more often than they shrink
        for name in set(child.tensors) & set(parent.tensors)
        for a, b in zip(child.tensors[name].shape, parent.tensors[name].shape, strict=True)
    ]
    score = 10 + 6 * (sum(sizes) / len(sizes) if sizes else 1)
    local, other = child.name.rpartition(".")[2], parent.name.rpartition(".")[2]
    score += scoring.name * (child.name == parent.name) + 2 * (local == other and not local.isdigit())
    score += 4 * (child.settings == parent.settings)
    if child.kind == "statistic":
        score += 8 * (child.groups == parent.groups)
    score += 4 * (child.name.count(".") == parent.name.count("."))
    return score + sum(_ENDS_MATCH * (child.name == end and parent.name == other) for end, other in ends)


def _related(child: list[Unit], parent: list[Unit], pairs: Mapping[str, Unit]) -> bool:
    layers, others = [u for u in child if _weighted(u)], [u for u in parent if _weighted(u)]
    if not layers or not others:
        return bool(pairs)
    first, other = layers[0], others[0]
    if not _compatible(first, other):
        return False
    corresponding = sum(u.name in pairs and _corresponds(u, pairs[u.name]) for u in layers)
    return 2 * corresponding >= min(len(layers), len(others))


def _corresponds(child: Unit, parent: Unit) -> bool:
    """Whether two units are the same layer by where they are, but for numbers and a wrapper around them, or by shape."""
    if child.shapes == parent.shapes:
        return True
    shorter, longer = sorted((_place(child.name), _place(parent.name)), key=len)
    if shorter in ((), ("#",)):
        return len(longer) <= 2
    return longer[-len(shorter) :] == shorter


def _place(name: str) -> tuple[str, ...]:
    """A path without its numbers: ``layer1.0.conv2`` is ``layer.#.conv``, and ``blocks.0.1`` is ``blocks.#``."""
    parts = [re.sub(r"\d+", "", part) or "#" for part in name.split(".") if part]
    return tuple(part for part, before in zip(parts, ["", *parts], strict=False) if not part == before == "#")
