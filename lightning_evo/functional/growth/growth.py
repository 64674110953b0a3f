"""Growing a network in place: where it can grow, planning a step, taking it, and repeating steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_evo._compat.torch import BatchNormBase, parameters_dict
from lightning_evo.functional.growth.operations import OPERATIONS, StructureOperation, replacement, widths
from lightning_evo.functional.growth.parts import Part, StructureChange, parts_of
from lightning_evo.functional.growth.steps import (
    Growth,
    GrowthError,
    GrowthStep,
    NewWeights,
    NothingChanged,
    Operation,
    Site,
    check_operation,
    check_request,
    number,
)
from lightning_evo.functional.growth.surgery import (
    Snapshot,
    added_parameters,
    apply,
    calibrate,
    compare,
    count,
    describe,
    difference,
    named_tensors,
    outputs,
)
from lightning_evo.functional.inheritance.alignment import unwrapped
from lightning_evo.functional.inheritance.inheritance import Inheritance, read_structure, transfer_weights
from lightning_evo.functional.inheritance.placement import TensorMap
from lightning_evo.utils.compiled import plain_name
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["added_by", "grow", "growth_sites", "plan_step", "replay", "resolve"]

_CHANGES = ("prune", "activation")
"""Operations after which the network computes something else."""


def growth_sites(module: nn.Module) -> dict[str, Site]:
    """Return the layers that can grow, by name in the order of registration, and what can be done to each.

    Layers are found in the graph of the module's ``forward`` (``torch.fx``). If that can't be traced, or something else
    runs a part of the network (a ``training_step``), they are found in the graphs of its children: what runs between these
    isn't known, so their outputs keep their width.

    Args:
        module: A network, or a LightningModule that contains one.

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
    """Plan a step on a network: replace relative sizes by absolute numbers.

    Args:
        module: The network; it stays as it is.
        operation: ``widen``, ``insert``, ``residual``, ``prune``, ``kernel`` or ``activation``.
        layer: Name of a layer that offers it (:func:`growth_sites`). For ``activation`` the activation, or the layer before
            it.
        ratio: For ``widen``, the factor of the number of channels, above 1 (default 1.5); for ``prune``, the share of them
            that is kept, below 1 (default 2/3). Rounded up, and to what grouped convolutions and normalizations allow.
        max_added: How many parameters the step may add at most. New layers and widths are made smaller accordingly.
        settings: Absolute numbers, instead of ``ratio``: ``width``, ``kept``, ``kernel``, ``activation`` and those of
            insertions.
        seed: Seed of whatever is drawn (an activation that isn't named).

    Raises:
        GrowthError: If the step isn't possible; the message names the layer and the reason.

    >>> plan_step(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)), "widen", "0")
    GrowthStep(operation='widen', layer='0', settings={'width': 12})
    """
    name = check_operation(operation)
    part, layer = _locate(module, layer, operation)
    local = part.local(layer)
    implementation = _operation_for(part, name, local)
    if ratio is None:
        ratio = 2 / 3 if operation == "prune" else 1.5
    ratio = number(f"{layer}: ratio", ratio)
    planned = implementation.plan(
        part, name, local, ratio=ratio, max_added=max_added, settings=dict(settings or {}), seed=seed
    )
    return GrowthStep(name, layer, planned)


def added_by(module: nn.Module, step: GrowthStep) -> int:
    """Return how many parameters a step would add to a network (negative: remove).

    Raises:
        GrowthError: If the step can't be taken.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> added_by(net, GrowthStep("widen", "0", {"width": 10}))
    12
    """
    part, change = _planned_change(module, step, 0, None)
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
    """Take one step, in place. If anything goes wrong, the network is restored.

    Layers that get another shape stay the same modules, with new parameters in place of the old ones; parameters that don't
    have to change stay the same objects. New tensors have the device, dtype and memory format of the layer they belong to,
    and are frozen if it is. Optimizers have to follow (:func:`~lightning_evo.functional.grow_optimizer`).

    Args:
        module: The network. Layers that can't be grown safely are refused by name: tied or parametrized weights, shapes
            that are written as numbers in ``forward``, outputs of the network.
        step: The step (:func:`plan_step`, :func:`resolve`).
        new_units: How new units of a widened layer are initialized. ``zero``: like those of a new layer, with outgoing
            weights of 0. ``net2wider``: as copies of old ones, among which the outgoing weights are divided. ``gradmax``:
            with incoming weights of 0 and the outgoing weights that make their gradient as large as possible; where that
            isn't possible, as ``zero``, with the reason in :attr:`Growth.notes`. Normalizations over channels (LayerNorm,
            GroupNorm) need copies.
        spread: How unequally copies share the outgoing weights, from 0 to below 1 (``net2wider``).
        seed: Seed of everything drawn; the process's random state is neither used nor changed.
        sample: Inputs of the module's ``forward``. The network is run on them before and after, in eval mode. The step is
            undone if shapes differ or, where it is to preserve the function, values: by more than 1e-5 of the largest (3e-2
            in bfloat16, 4e-3 in float16). New batch normalizations get their statistics from them.
        loss: Returns the loss of the module, on a batch of its own; for ``gradmax``.

    Returns:
        An account of the step and its parameters.

    Raises:
        GrowthError: If the step can't be taken, changed nothing, or something other than announced.

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
        raise GrowthError(f"new_units: {new_units!r} is not one of {', '.join(get_args(NewWeights))}")
    if not 0 <= number("spread", spread) < 1:
        raise GrowthError(f"spread: {spread!r} is not in [0, 1)")
    where = f"{step.layer}: {step.operation}"
    whole = unwrapped(module)
    snapshot = Snapshot(whole)
    try:
        with isolated_random_state(seed, whole):
            return _grow(whole, step, where, new_units, spread, seed, sample, loss)
    except GrowthError:
        snapshot.restore()
        raise
    except Exception as error:  # whatever a user's forward raises once a layer has another shape
        snapshot.restore()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GrowthError(f"{where}: it was undone, as this was raised: {reason}") from error
    except BaseException:  # Ctrl-C
        snapshot.restore()
        raise


def replay(module: nn.Module, steps: Iterable[GrowthStep], *, seed: int = 0) -> None:
    """Repeat the structure of steps, with fresh weights, so that a grown network's state can be loaded strictly.

    If anything goes wrong, the network is restored.

    Args:
        module: A module built as the network was before its first step; changed in place.
        steps: The steps in the order in which they were taken.
        seed: Seed of the fresh weights.

    Raises:
        GrowthError: If a step can't be taken.

    >>> grown, other = (nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    >>> step = plan_step(grown, "widen", "0", ratio=2)
    >>> _ = grow(grown, step)
    >>> replay(other, [step])
    >>> other.load_state_dict(grown.state_dict())
    <All keys matched successfully>
    """
    whole = unwrapped(module)
    snapshot = Snapshot(whole)
    try:
        for step in steps:
            part, change = _planned_change(whole, step, seed, None)
            apply(part, change)
    except BaseException:  # Ctrl-C, too
        snapshot.restore()
        raise


def resolve(
    module: nn.Module, request: Mapping[str, Any], *, seed: int = 0, max_added: int | None = None
) -> GrowthStep:
    """Return the step that a request, as in a config, means on a network.

    Args:
        module: The network.
        request: ``operation``; ``layer``, a name, or ``place``, a number from 0 to 1 that selects one of the layers that
            offer the operation, in their order; and optionally ``ratio`` and ``settings`` (:func:`plan_step`). The dict of a
            step is a request, too.
        seed: As in :func:`plan_step`.
        max_added: As in :func:`plan_step`.

    Raises:
        GrowthError: If the request is malformed, or can't be met.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> resolve(net, {"operation": "widen", "place": 0.9, "ratio": 2}).layer
    '2'
    """
    check_request(request)
    operation, layer = request["operation"], request.get("layer")
    if layer is None:
        names = [name for name, site in growth_sites(module).items() if operation in site.operations]
        if not names:
            raise GrowthError(f"{operation}: no layer offers it")
        layer = names[min(int(request["place"] * len(names)), len(names) - 1)]
    ratio, settings = request.get("ratio"), request.get("settings")
    return plan_step(module, operation, layer, ratio=ratio, max_added=max_added, settings=settings, seed=seed)


# Where it can grow


def _parts(module: nn.Module) -> tuple[list[Part], dict[str, str]]:
    try:
        return parts_of(module)
    except ValueError as error:
        raise GrowthError(str(error)) from None


def _sites(part: Part) -> dict[str, Site]:
    """Return a part's sites by local names."""
    offers: dict[str, dict[Operation, str]] = {}
    for implementation in dict.fromkeys([widths, *OPERATIONS.values()]):
        for name, reasons in implementation.sites(part).items():
            offers.setdefault(name, {}).update(reasons)
    kinds = {unit.name: unit.kind for unit in part.units}
    found: dict[str, Site] = {}
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


def _locate(module: nn.Module, layer: str, operation: str) -> tuple[Part, str]:
    """Return the part that contains a layer, and the layer's plain name."""
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


def _operation_for(part: Part, operation: Operation, local: str) -> StructureOperation:
    """Return the module that implements an operation, once it is checked that the layer offers it."""
    implementation = OPERATIONS[operation]
    reasons = implementation.sites(part).get(local)
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
    return implementation


# How it grows


def _grow(
    whole: nn.Module,
    step: GrowthStep,
    where: str,
    new_units: NewWeights,
    spread: float,
    seed: int,
    sample: tuple[Any, ...] | None,
    loss: Callable[[nn.Module], Tensor] | None,
) -> Growth:
    """Take a step; see :func:`grow`, which undoes it if this raises."""
    earlier = outputs(whole, sample, seed) if sample is not None else None
    part, change = _planned_change(whole, step, seed, sample)
    layer, announced = part.local(step.layer), added_parameters(part, change)
    before, tensors, description = count(whole), named_tensors(whole), describe(whole)
    structure = read_structure(part.graph, part.root, part.units)
    apply(part, change)
    transferred = Inheritance()
    if change.tensors:
        units: Literal["zero", "net2wider"] = "net2wider" if new_units == "net2wider" else "zero"
        transferred = transfer_weights(
            part.root, part.units, structure, change.index, new_units=units, spread=spread, seed=seed
        )
    why_not = _check_preserving(step, change, transferred, where)
    moved, added, removed, renamed = difference(part, layer, tensors, transferred.maps, change)
    after = count(whole)
    if describe(whole) == description:
        raise NothingChanged(f"{where}: it changed nothing")
    if after - before != announced:
        raise GrowthError(f"{where}: it added {after - before:,} parameters, not the {announced:,} announced")
    _check_run(whole, part, where)
    notes = list(change.notes)
    if step.operation == "widen" and new_units == "gradmax":
        notes += _gradmax(part, layer, transferred, loss, seed)
    if sample is not None and earlier is not None:
        if fresh := _new_statistics(part, transferred):
            calibrate(part, fresh, sample, seed)
        compare(earlier, outputs(whole, sample, seed), not why_not, where)
    return Growth(step, before, after, moved, added, removed, renamed, why_not, tuple(notes))


def _planned_change(module: nn.Module, step: GrowthStep, seed: int, sample: Any) -> tuple[Part, StructureChange]:
    """Return the change that a step makes; nothing is touched yet."""
    part, layer = _locate(module, step.layer, step.operation)
    implementation = _operation_for(part, step.operation, part.local(layer))
    plain_step = GrowthStep(step.operation, layer, step.settings)
    with isolated_random_state(seed, unwrapped(module)):
        return part, implementation.build(part, plain_step, sample)


def _check_preserving(
    step: GrowthStep, change: StructureChange, transferred: Inheritance, where: str
) -> tuple[str, ...]:
    """Return why the network may compute something else; raise an error if the operation promises that it doesn't."""
    why_not = (*change.why_not, *transferred.why_not)
    smaller = step.operation == "kernel" and all(reason.endswith("smaller kernel") for reason in why_not)
    if why_not and step.operation not in _CHANGES and not smaller:
        raise GrowthError(f"{where}: the network would compute something else: {'; '.join(why_not)}")
    return why_not


def _check_run(whole: nn.Module, part: Part, where: str) -> None:
    """Raise an error for a change after which the part can't be traced any more, or isn't run."""
    parts, refused = _parts(whole)
    if part.prefix not in [each.prefix for each in parts]:
        raise GrowthError(f"{where}: the changed network isn't run as a whole: {refused.get(part.prefix, '')}")


def _gradmax(
    part: Part, layer: str, transferred: Inheritance, loss: Callable[[nn.Module], Tensor] | None, seed: int
) -> list[str]:
    """Initialise a widened layer's new units by GradMax; return why that isn't possible, if so."""
    if loss is None:
        raise GrowthError(f"{part.path(layer)}: new_units: gradmax needs a loss")
    new = _new(transferred.maps[f"{layer}.weight" if layer else "weight"])
    if not len(new):
        return ["gradmax: a normalisation over channels needs copies"]
    from lightning_evo.functional.growth import gradmax  # few trainings need it

    target = str(part.calls(layer)[0].target)
    why_not = gradmax.initialise(part.root, part.graph, target, new.tolist(), loss, whole=part.module, seed=seed)
    return [f"gradmax: {why_not}"] if why_not else []


def _new_statistics(part: Part, transferred: Inheritance) -> dict[str, Tensor]:
    """Return the batch normalizations that got new channels, and the indices of these."""
    found = {}
    for unit in part.units:
        plan = transferred.maps.get(unit.path("running_mean"))
        if isinstance(unit.module, BatchNormBase) and plan is not None and len(new := _new(plan)):
            found[unit.name] = new
    return found


def _new(plan: TensorMap) -> Tensor:
    """Return the indices of a tensor's new rows."""
    return torch.empty(0, dtype=torch.long) if plan.rows is None else (plan.rows < 0).nonzero().flatten()
