"""Changing a network in place: applying a change, undoing it, accounting for it, and checking the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_evo._compat.torch import (
    FORWARD_HOOKS,
    REGISTRIES,
    BatchNormBase,
    buffers_dict,
    modules_dict,
    parameters_dict,
    tree_leaves,
)
from lightning_evo.functional.growth.parts import Part, StructureChange
from lightning_evo.functional.growth.steps import Added, GrowthError, Moved
from lightning_evo.functional.inheritance.placement import TensorMap
from lightning_evo.utils.compiled import plain_name
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = [
    "Snapshot",
    "added_parameters",
    "apply",
    "calibrate",
    "compare",
    "count",
    "describe",
    "difference",
    "named_tensors",
    "outputs",
]

TOLERANCE = 1e-5
_COARSE = {torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""In these dtypes a sum over more units rounds differently, even though the new ones add zeros."""
_HELD = (*REGISTRIES, *FORWARD_HOOKS)


def apply(part: Part, change: StructureChange) -> None:
    """Put a change's tensors, attributes and modules in their places.

    Modules whose tensors only change their shapes stay the same objects, so that references to them (in hooks, lists of the
    user's, compiled wrappers) stay valid.
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


class Snapshot:
    """A module's submodules, parameters, buffers, attributes and modes at one time, to be restored.

    Buffers are copied, since running a network changes them. Values of parameters are not, as a step replaces parameters and
    doesn't write to them.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts = [(part, dict(part.__dict__), _contents(part)) for part in module.modules()]
        self.buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the module."""
        for part, attributes, contents in self.parts:
            part.__dict__.clear()
            part.__dict__.update(attributes)
            for key, held in contents.items():
                part.__dict__[key].clear()
                part.__dict__[key].update(held)
        self.restore_buffers()

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Restore the values of buffers alone."""
        for buffer, values in self.buffers:
            buffer.copy_(values)


def count(module: nn.Module) -> int:
    """Return a module's number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def named_tensors(module: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """Return a module's parameters and buffers by ``id``, with their plain names; a shared one under its first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        found.setdefault(id(tensor), (plain_name(name), tensor))
    return found


def describe(module: nn.Module) -> list[tuple]:
    """Return everything that a step can change: modules, their settings, the shapes of their tensors."""
    return [
        (plain_name(name), type(part), part.extra_repr(), [(n, t.shape) for n, t in _own(part).items()])
        for name, part in module.named_modules()
    ]


def added_parameters(part: Part, change: StructureChange) -> int:
    """Return how many parameters a change will add to the whole module."""
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
    """Return the tensors that a change moved, added, removed and renamed.

    Args:
        part: The part as it was before the change, with its units' old tensors.
        layer: The layer that was changed.
        before: The module's tensors before (:func:`named_tensors`).
        maps: The maps of the change's ``tensors``.
        change: The change, which was applied.
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


@torch.no_grad()
def outputs(module: nn.Module, sample: tuple[Any, ...], seed: int) -> list[Tensor]:
    """Return all tensors that a module gives on a sample, in eval mode and full precision; restore modes and buffers."""
    modes = [(part, part.training) for part in module.modules()]
    snapshot = Snapshot(module)
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
        snapshot.restore_buffers()


def compare(before: list[Tensor], after: list[Tensor], preserving: bool, where: str) -> None:
    """Check that outputs have the same shapes and, if ``preserving``, the same values as before.

    Raises:
        GrowthError: If they don't.
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
    """Set the statistics of new channels of batch normalizations to those of their input on a sample.

    Args:
        part: The part, changed already.
        fresh: The new channels by the name of their batch normalization; their outgoing weights are still 0.
        sample: Inputs of ``part.module``.
        seed: Seed of random numbers that the network draws.
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


def _contents(part: nn.Module) -> dict[str, dict]:
    return {key: dict(part.__dict__[key]) for key in _HELD}


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in [*parameters_dict(module).items(), *buffers_dict(module).items()] if t is not None}


def _exchange(part: Part, old: nn.Module, new: nn.Module) -> None:
    """Replace a module wherever it is registered."""
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
    """Return a parameter of the same sort near a layer: optimizers often group weights apart from biases and scales.

    For a weight of two or more axes it is another such weight, for a bias or scale another one; if there is none, the
    layer's weight.
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


@contextmanager
def _precise(device: str) -> Iterator[None]:
    """Disable autocast and TensorFloat32, which would round both runs differently."""
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
