"""How does a network change its structure while it lives? By steps: planned, named, measured, undone where they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_evo._compat.torch import BatchNormBase, parameters_dict
from lightning_evo.functional.growth import gradmax, insertion, replacement, widths
from lightning_evo.functional.growth.frame import (
    Part,
    StructureChange,
    Undo,
    added_parameters,
    apply,
    calibrate,
    compare,
    count,
    describe,
    difference,
    named_tensors,
    outputs,
    parts_of,
)
from lightning_evo.functional.growth.steps import (
    Added,
    Growth,
    GrowthError,
    GrowthStep,
    Moved,
    NewWeights,
    NothingChanged,
    Operation,
    Site,
    check_operation,
    check_wish,
    number,
)
from lightning_evo.functional.inheritance.alignment import unwrapped
from lightning_evo.functional.inheritance.inheritance import Inheritance, read_structure, transfer_weights
from lightning_evo.functional.inheritance.placement import TensorMap
from lightning_evo.utils.compiled import plain_name
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = [
    "Added",
    "Growth",
    "GrowthError",
    "GrowthStep",
    "Moved",
    "NewWeights",
    "NothingChanged",
    "Operation",
    "Site",
    "added_by",
    "grow",
    "growth_sites",
    "plan_step",
    "replay",
    "resolve",
]

_MAKERS: dict[str, ModuleType] = {
    "insert": insertion,
    "residual": insertion,
    "widen": widths,
    "prune": widths,
    "kernel": replacement,
    "activation": replacement,
}
"""For each operation the module whose ``sites``, ``plan`` and ``build`` make it."""
_CHANGES = ("prune", "activation")
"""What makes a network compute something else."""


def growth_sites(module: nn.Module) -> dict[str, Site]:
    """Where a network can grow: its layers by name, in the order of registration, and what can be done to each.

    Layers are found in the graph of the module's ``forward`` (``torch.fx``). Where that can't be traced, or something else
    runs a part of the network (a ``training_step``), in the graphs of its children: what runs between these isn't known, so
    their outputs keep their width.

    Args:
        module: A network, or a LightningModule that holds one.

    Raises:
        GrowthError: If a parameter is lazy (no shape yet) or sharded.

    >>> sites = growth_sites(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> sites["0"].operations, sites["0"].shares
    (('widen', 'prune', 'insert', 'residual'), ('2',))
    >>> sites["2"].why_not["widen"]
    'its channels are outputs of the network'
    """
    found: dict[str, Site] = {}
    for part in _parts(module)[0]:
        found |= {part.path(name): site for name, site in _sites(part).items()}
    order = {plain_name(name): at for at, (name, _) in enumerate(unwrapped(module).named_modules())}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


def plan_step(
    module: nn.Module,
    operation: str,
    layer: str,
    *,
    ratio: float | None = None,
    max_added: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> GrowthStep:
    """Make a wish absolute: the step that takes it, on this network.

    Args:
        module: The network; stays as it is.
        operation: ``widen``, ``insert``, ``residual``, ``prune``, ``kernel`` or ``activation``.
        layer: Name of a layer that offers it (:func:`growth_sites`). For ``activation`` the activation, or a layer that it
            stands behind.
        ratio: Of ``widen``, how many times as many channels, above 1 (default 1.5); of ``prune``, which share of them
            stays, below 1 (default 2/3). Rounded up, and to what grouped convolutions and normalisations admit.
        max_added: How many parameters the step may add at most. New layers and widths become smaller where they would add
            more.
        settings: Absolute wishes, instead of ``ratio``: ``width``, ``kept``, ``kernel``, ``activation`` and those of
            insertions.
        seed: Of what is drawn (an activation that isn't named).

    Raises:
        GrowthError: If that can't be done, named with the reason.

    >>> plan_step(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)), "widen", "0")
    GrowthStep(operation='widen', layer='0', settings={'width': 12})
    """
    check_operation(operation)
    part, layer = _home(module, layer, operation)
    local = part.local(layer)
    maker = _offered(part, operation, local)
    if ratio is None:
        ratio = 2 / 3 if operation == "prune" else 1.5
    ratio = number(f"{layer}: ratio", ratio)
    wishes = dict(settings or {})
    planned = maker.plan(part, operation, local, ratio=ratio, max_added=max_added, settings=wishes, seed=seed)
    return GrowthStep(operation, layer, planned)  # type: ignore[arg-type]


def added_by(module: nn.Module, step: GrowthStep) -> int:
    """How many parameters a step would add to a network (fewer than 0: remove).

    Raises:
        GrowthError: If it can't be taken.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> added_by(net, GrowthStep("widen", "0", {"width": 10}))
    12
    """
    part, change = _changed(module, step, 0, None)
    return added_parameters(part, change)


def grow(
    module: nn.Module,
    step: GrowthStep,
    *,
    new_units: NewWeights = "zero",
    spread: float = 0.5,
    seed: int = 0,
    sample: tuple[Any, ...] | None = None,
    loss: Callable[[nn.Module], Tensor] | None = None,
) -> Growth:
    """Take one step, in place. If anything goes wrong, the network is what it was before.

    Layers that take another shape stay the same modules, with new parameters in the old ones' places; parameters that
    needn't change stay the same objects. What is new has the device, dtype and memory format of what it joins, and is
    frozen if that is. Optimizers must be told (:func:`~lightning_evo.functional.grow_optimizer`).

    Args:
        module: The network. Layers that can't be grown safely are refused by name: tied or parametrised weights,
            shapes that ``forward`` states as numbers, outputs of the network.
        step: What to do (:func:`plan_step`, :func:`resolve`).
        new_units: What new units of a widened layer begin with. ``zero``: as a new layer's, but nothing takes what they
            give yet. ``net2wider``: copies of old ones, which share what is taken from these. ``gradmax``: they give
            nothing yet, but are taken so that their gradient is as large as it can be; where that isn't possible, zero,
            and :attr:`Growth.notes` says why. Normalisations over channels (LayerNorm, GroupNorm) need copies.
        spread: How unequally copies share, from 0 to below 1 (``net2wider``).
        seed: Of everything drawn; nothing depends on, or changes, the process's random state.
        sample: Inputs of the module's ``forward``. The network is run on them before and after, in eval mode: the step is
            undone unless shapes and, if it is to preserve the function, values are the same, to 1e-5 of the largest (3e-2
            in bfloat16, 4e-3 in float16). New batch normalisations get statistics from them.
        loss: Gives the loss of the module, on a batch of its own; for ``gradmax``.

    Returns:
        What became of the parameters, counted.

    Raises:
        GrowthError: If the step can't be taken, changed nothing, or changed other than announced.

    Source:
        Chen, Goodfellow and Shlens 2016, Net2Net, arXiv:1511.05641; Evci et al. 2022, GradMax, arXiv:2201.05125.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> inputs = torch.randn(5, 2)
    >>> before = net(inputs)
    >>> growth = grow(net, plan_step(net, "widen", "0"), new_units="net2wider")
    >>> growth.before, growth.after, [moved.name for moved in growth.moved]
    (51, 75, ['0.weight', '0.bias', '2.weight'])
    >>> torch.allclose(net(inputs), before, atol=1e-6)
    True
    """
    if new_units not in get_args(NewWeights):
        raise GrowthError(f"new_units: {new_units!r} is none of {', '.join(get_args(NewWeights))}")
    if not 0 <= number("spread", spread) < 1:
        raise GrowthError(f"spread: {spread} is not from 0 to below 1")
    where = f"{step.layer}: {step.operation}"
    whole = unwrapped(module)
    undo = Undo(whole)
    try:
        with isolated_random_state(seed, whole):
            earlier = outputs(whole, sample, seed) if sample is not None else None
            part, change = _changed(whole, step, seed, sample)
            announced = added_parameters(part, change)
            before, tensors, looked = count(whole), named_tensors(whole), describe(whole)
            structure = read_structure(part.graph, part.root, part.units)
            apply(part, change)
            transferred = Inheritance()
            if change.tensors:
                units: Literal["zero", "net2wider"] = "net2wider" if new_units == "net2wider" else "zero"
                transferred = transfer_weights(
                    part.root, part.units, structure, change.index, new_units=units, spread=spread, seed=seed
                )
            why_not = _doubts(step, change, transferred, where)
            notes = list(change.notes)
            moved, added, removed, renamed = difference(part, part.local(step.layer), tensors, transferred.maps, change)
            after = count(whole)
            if describe(whole) == looked:
                raise NothingChanged(f"{where}: it changed nothing")
            if after - before != announced:
                raise GrowthError(f"{where}: it added {after - before:,} parameters, not the {announced:,} announced")
            _check_run(whole, part, step, where)
            if step.operation == "widen" and new_units == "gradmax":
                notes += _gradmax(part, part.local(step.layer), transferred, loss, seed)
            if sample is not None and (fresh := _new_statistics(part, transferred)):
                calibrate(part, fresh, sample, seed)
            if earlier is not None:
                compare(earlier, outputs(whole, sample or (), seed), not why_not, where)
    except GrowthError:
        undo.undo()
        raise
    except Exception as error:  # whatever a user's forward raises once a layer has another shape
        undo.undo()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GrowthError(f"{where}: it was undone, as this was raised: {reason}") from error
    except BaseException:  # Ctrl-C
        undo.undo()
        raise
    return Growth(step, before, after, moved, added, removed, renamed, why_not, tuple(notes))


def replay(module: nn.Module, steps: Iterable[GrowthStep], *, seed: int = 0) -> None:
    """Take steps for their structure alone, with fresh weights: what a strict load of a grown network's state needs.

    Args:
        module: Built as the network was before its first step; changed in place.
        steps: In the order in which they were taken.
        seed: Of the fresh weights.

    Raises:
        GrowthError: If a step can't be taken; the network is then what it was.

    >>> grown, other = (nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    >>> step = plan_step(grown, "widen", "0", ratio=2)
    >>> _ = grow(grown, step)
    >>> replay(other, [step])
    >>> other.load_state_dict(grown.state_dict())
    <All keys matched successfully>
    """
    whole = unwrapped(module)
    undo = Undo(whole)
    try:
        for step in steps:
            part, change = _changed(whole, step, seed, None)
            apply(part, change)
    except BaseException:  # Ctrl-C, too
        undo.undo()
        raise


def resolve(module: nn.Module, wish: Mapping[str, Any], *, seed: int = 0, max_added: int | None = None) -> GrowthStep:
    """The step that a wish means on this network.

    Args:
        module: The network.
        wish: ``operation``; ``layer``, a name, or ``place``, a number from 0 to 1 that picks among the layers that offer the
            operation, in their order; and, if need be, ``ratio`` and ``settings`` (:func:`plan_step`). A step's own dict is
            a wish, too.
        seed: As in :func:`plan_step`.
        max_added: The same.

    Raises:
        GrowthError: If the wish isn't one, or can't be fulfilled.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> resolve(net, {"operation": "widen", "place": 0.9, "ratio": 2}).layer
    '2'
    """
    check_wish(wish)
    operation, layer = wish["operation"], wish.get("layer")
    if layer is None:
        names = [name for name, site in growth_sites(module).items() if operation in site.operations]
        if not names:
            raise GrowthError(f"{operation}: no layer offers it")
        layer = names[min(int(wish["place"] * len(names)), len(names) - 1)]
    ratio, settings = wish.get("ratio"), wish.get("settings")
    return plan_step(module, operation, layer, ratio=ratio, max_added=max_added, settings=settings, seed=seed)


# Where --------------------------------------------------------------------------------------------------------------------


def _parts(module: nn.Module) -> tuple[list[Part], dict[str, str]]:
    try:
        return parts_of(module)
    except ValueError as error:
        raise GrowthError(str(error)) from None


def _sites(part: Part) -> dict[str, Site]:
    """A part's sites by local names."""
    offers: dict[str, dict[str, str]] = {}
    for maker in dict.fromkeys([widths, *_MAKERS.values()]):
        for name, reasons in maker.sites(part).items():
            offers.setdefault(name, {}).update(reasons)
    kinds = {unit.name: unit.kind for unit in part.units}
    found = {}
    for name, reasons in offers.items():
        wide = kinds.get(name) in widths.WIDENED
        found[name] = Site(
            layer=part.path(name),
            kind=kinds[name] if wide else "activation",
            operations=tuple(operation for operation, reason in reasons.items() if not reason),
            why_not={operation: reason for operation, reason in reasons.items() if reason},
            width=widths.width_of(part, name) if wide else 0,
            shares=tuple(part.path(other) for other in widths.shares(part, name)) if wide else (),
        )
    return found


def _home(module: nn.Module, layer: str, operation: str) -> tuple[Part, str]:
    """The part in which a layer is, and the layer's plain name."""
    if not isinstance(layer, str):
        raise GrowthError(f"layer: {layer!r} is not a name; names are strings, as in named_modules()")
    whole, layer = unwrapped(module), plain_name(layer)
    names = {plain_name(name) for name, _ in whole.named_modules()}
    if layer not in names:
        near = get_close_matches(layer, names, n=3)
        raise GrowthError(f"layer: there is no {layer!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    parts, refused = _parts(whole)
    for part in parts:
        if not part.prefix or layer == part.prefix or layer.startswith(f"{part.prefix}."):
            if operation == "activation":
                layer = part.path(replacement.activation_behind(part, part.local(layer)))
            return part, layer
    around = [name for name in refused if not name or layer == name or layer.startswith(f"{name}.")]
    raise GrowthError(f"{layer}: {refused[max(around, key=len)] if around else 'it holds no parameters'}")


def _offered(part: Part, operation: str, local: str) -> ModuleType:
    """What makes an operation; after a check that the layer offers it."""
    maker = _MAKERS[operation]
    reasons = maker.sites(part).get(local)
    if reasons is None or operation not in reasons:
        module = part.named[local]
        if is_parametrized(module) or {"weight_g", "weight_orig"} & set(parameters_dict(module)):
            raise GrowthError(
                f"{part.path(local)}: {operation}: its weight is parametrised: computed from other tensors"
            )
        raise GrowthError(f"{part.path(local)}: {operation} isn't for a layer of type {type(module).__name__}")
    # A larger kernel than kernels grow to by themselves may be asked for: the plan checks it.
    if reasons[operation] and operation != "kernel":
        raise GrowthError(f"{part.path(local)}: {operation}: {reasons[operation]}")
    return maker


# How ----------------------------------------------------------------------------------------------------------------------


def _changed(module: nn.Module, step: GrowthStep, seed: int, sample: Any) -> tuple[Part, StructureChange]:
    """What a step puts where; nothing is touched yet."""
    part, layer = _home(module, step.layer, step.operation)
    maker = _offered(part, step.operation, part.local(layer))
    plain_step = GrowthStep(step.operation, layer, step.settings)
    with isolated_random_state(seed, unwrapped(module)):
        return part, maker.build(part, plain_step, sample)


def _doubts(step: GrowthStep, change: StructureChange, transferred: Inheritance, where: str) -> tuple[str, ...]:
    """Why the network may compute something else; an error where the operation promises that it doesn't."""
    why_not = (*change.why_not, *transferred.why_not)
    smaller = step.operation == "kernel" and all(reason.endswith("smaller kernel") for reason in why_not)
    if why_not and step.operation not in _CHANGES and not smaller:
        raise GrowthError(f"{where}: the network would compute something else: {'; '.join(why_not)}")
    return why_not


def _check_run(whole: nn.Module, part: Part, step: GrowthStep, where: str) -> None:
    """Refuse a change by which the part can't be looked into any more, or that isn't run."""
    parts, refused = _parts(whole)
    if part.prefix not in [each.prefix for each in parts]:
        raise GrowthError(f"{where}: the changed network isn't run as a whole: {refused.get(part.prefix, '')}")


def _gradmax(
    part: Part, layer: str, transferred: Inheritance, loss: Callable[[nn.Module], Tensor] | None, seed: int
) -> list[str]:
    """Give a widened layer's new units GradMax's weights; why not, if that isn't possible."""
    if loss is None:
        raise GrowthError(f"{part.path(layer)}: new_units: gradmax needs a loss")
    new = _new(transferred.maps[f"{layer}.weight" if layer else "weight"])
    if not len(new):
        return ["gradmax: a normalisation over channels needs copies"]
    target = str(part.calls(layer)[0].target)
    why_not = gradmax.initialise(part.root, part.graph, target, new.tolist(), loss, whole=part.module, seed=seed)
    return [f"gradmax: {why_not}"] if why_not else []


def _new_statistics(part: Part, transferred: Inheritance) -> dict[str, Tensor]:
    """The batch normalisations that got new channels, and which these are."""
    found = {}
    for unit in part.units:
        plan = transferred.maps.get(unit.path("running_mean"))
        if isinstance(unit.module, BatchNormBase) and plan is not None and len(new := _new(plan)):
            found[unit.name] = new
    return found


def _new(plan: TensorMap) -> Tensor:
    """Which rows of a tensor are new."""
    return torch.empty(0, dtype=torch.long) if plan.rows is None else (plan.rows < 0).nonzero().flatten()
