"""How is a network changed in place, and how undone? Tensors and modules are exchanged; all others stay the same objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_evo.functional.growth_frame import Change, Part, plain
from lightning_evo.functional.growth_steps import Added, Moved
from lightning_evo.functional.tensors import TensorMap

__all__ = ["Undo", "added_parameters", "apply", "count", "describe", "difference", "named_tensors"]


def count(module: nn.Module) -> int:
    """How many parameters a module has, a shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def named_tensors(module: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """A module's parameters and buffers by ``id``, with their plain names; a shared one under its first."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        found.setdefault(id(tensor), (plain(name), tensor))
    return found


def describe(module: nn.Module) -> list[tuple]:
    """All that a step can change: modules, their settings, the shapes of their tensors."""
    return [
        (plain(name), type(part), part.extra_repr(), [(n, t.shape) for n, t in _own(part).items()])
        for name, part in module.named_modules()
    ]


def apply(part: Part, change: Change) -> None:
    """Put a change's tensors, attributes and modules in their places.

    Modules whose tensors only change their shapes stay the same objects: whoever holds one (hooks, a list of the user's, a
    compiled wrapper) holds it still.
    """
    for name, values in change.attributes.items():
        part.named[name].__dict__.update(values)
    for path, tensor in change.tensors.items():
        home, _, local = path.rpartition(".")
        module = part.named[home]
        held: Any = module._parameters if local in module._parameters else module._buffers
        held[local] = tensor
    for name, new in change.modules.items():
        _exchange(part, part.named[name], new)


def added_parameters(part: Part, change: Change) -> int:
    """How many parameters a change will add to the whole module."""
    total = 0
    for path, tensor in change.tensors.items():
        home, _, local = path.rpartition(".")
        old = part.named[home]._parameters.get(local)
        total += tensor.numel() - old.numel() if old is not None else 0
    before = {id(p): p for p in part.module.parameters()}
    new = {id(p): p for module in change.modules.values() for p in module.parameters()}
    replaced = {id(p): p for name in change.modules for p in part.named[name].parameters()}
    inside = {id(m) for name in change.modules for m in part.named[name].modules()}
    elsewhere = {id(p) for m in part.module.modules() if id(m) not in inside for p in m.parameters(recurse=False)}
    total += sum(p.numel() for key, p in new.items() if key not in before)
    return total - sum(p.numel() for key, p in replaced.items() if key not in new and key not in elsewhere)


def difference(
    part: Part, layer: str, before: Mapping[int, tuple[str, Tensor]], maps: Mapping[str, TensorMap], change: Change
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


_HELD = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


def _contents(part: nn.Module) -> dict[str, dict]:
    return {key: dict(part.__dict__[key]) for key in _HELD}


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in [*module._parameters.items(), *module._buffers.items()] if t is not None}


def _exchange(part: Part, old: nn.Module, new: nn.Module) -> None:
    """Register a module wherever another one was."""
    inside = {id(each) for each in new.modules()}
    for parent in list(part.module.modules()):
        if id(parent) in inside:
            continue
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _found(part: Part, path: str) -> Tensor:
    home, _, local = path.rpartition(".")
    for name, module in part.root.named_modules():
        if plain(name) == home and (found := _own(module).get(local)) is not None:
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
