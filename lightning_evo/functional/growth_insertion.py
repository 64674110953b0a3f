"""What layers can be put into a trained network so that it computes the same? Identities, and branches that give nothing."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_evo.functional.growth_check import outputs
from lightning_evo.functional.growth_frame import Change, Part, matched
from lightning_evo.functional.growth_intermediate import build_intermediate, plan_intermediate
from lightning_evo.functional.growth_places import Place, place_behind, refusal
from lightning_evo.functional.growth_steps import GrowthError, GrowthStep
from lightning_evo.functional.growth_wishes import Wishes
from lightning_evo.functional.layers import kind_of
from lightning_evo.functional.normalisation import expected
from lightning_evo.functional.residual import CONVOLUTIONS, NORMS, ZeroResidual

__all__ = ["build", "plan", "sites"]


def sites(part: Part) -> dict[str, dict[str, str]]:
    """For each layer behind which something can be put what that is: operation -> why not; empty: it can."""
    found: dict[str, dict[str, str]] = {}
    for unit in part.units:
        if unit.kind not in ("linear", "conv"):
            continue
        reason = refusal(part, unit.name)
        end = "" if reason else _at_the_end(part, unit.name)
        found[unit.name] = {"insert": reason or (end if unit.kind == "conv" else ""), "residual": reason or end}
    return found


def plan(
    part: Part,
    operation: str,
    layer: str,
    *,
    ratio: float = 1.5,
    max_added: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The settings of a step: all that decides what is built, in absolute numbers.

    Args:
        part: Where the layer is.
        operation: ``insert`` or ``residual``.
        layer: Its name in the part.
        ratio: Not used: an inserted layer's width follows from its neighbours'.
        max_added: How many parameters the step may add. So that they are no more, an intermediate layer or a residual
            block gets fewer units, an inserted convolution a kernel of 1.
        settings: Wishes. Behind a linear layer ``hidden``, or ``width: same`` for as many units as the layer has; behind a
            convolution ``kernel`` (odd, default 3) and ``norm`` (``batch`` or ``none``); of a residual block ``hidden`` and
            ``kernel``. A step's own settings, complete, are taken as they are.
        seed: Not used.

    Raises:
        GrowthError: If that can't be, or adds more than ``max_added``.
    """
    reason = sites(part).get(layer, {operation: "is neither linear nor a convolution"})[operation]
    wishes = Wishes(f"{part.path(layer)}: {operation}", dict(settings or {}), max_added)
    if reason:
        raise wishes.refuse(reason)
    module = part.named[layer]
    if operation == "residual":
        return _plan_residual(part, layer, module, wishes)
    if isinstance(module, nn.Linear):
        return plan_intermediate(part, layer, module, wishes)
    assert isinstance(module, _ConvNd)
    return _plan_convolution(part, layer, module, wishes)


def build(part: Part, step: GrowthStep, sample: tuple[Any, ...] | None = None) -> Change:
    """What an ``insert`` or ``residual`` step puts where.

    Args:
        part: Where the layer is; it stays as it is.
        step: With all settings, as :func:`plan` gives them.
        sample: Inputs of ``part.module``: new batch normalisations get the statistics that their input has on them. Default:
            those it is likely to have.

    Raises:
        GrowthError: If the step doesn't fit the network.
    """
    layer, where = part.local(step.layer), f"{step.layer}: {step.operation}"
    module = part.named.get(layer)
    if module is None or kind_of(module) not in ("linear", "conv"):
        raise GrowthError(f"{where}: is neither linear nor a convolution of the network")
    settings = dict(step.settings)
    try:
        if step.operation == "insert" and isinstance(module, nn.Linear):
            return build_intermediate(layer, module, settings)
        place = Place(part.local(settings["at"]), settings["side"])
        if place.module not in part.named:
            raise GrowthError(f"{where}: at: {settings['at']!r} is not in the network")
        if step.operation == "residual":
            block = ZeroResidual(_channels(module), settings["hidden"], _dimensions(module), settings.get("kernel", 1))
            return _placed(part, place, [("residual", matched(block, module))])
        assert isinstance(module, _ConvNd)
        return _placed(part, place, _convolution_block(part, place, module, settings, sample))
    except KeyError as missing:
        raise GrowthError(f"{where}: settings: {missing} is missing") from None


def _at_the_end(part: Part, layer: str) -> str:
    users = part.calls(layer)[0].users
    return "gives the network's output" if any(user.op == "output" for user in users) else ""


def _channels(module: nn.Module) -> int:
    return int(module.out_channels if isinstance(module, _ConvNd) else module.out_features)  # type: ignore[arg-type]


def _dimensions(module: nn.Module) -> int:
    """Of its maps; 0 of a linear layer."""
    return len(module.kernel_size) if isinstance(module, _ConvNd) else 0


def _placed(part: Part, place: Place, block: list[tuple[str, nn.Module]]) -> Change:
    base = ("base", part.named[place.module])
    line = nn.Sequential(OrderedDict([base, *block] if place.side == "behind" else [*block, base]))
    line.training = base[1].training
    return Change(modules={place.module: line})


# Behind a convolution: convolution, batch normalisation, activation -------------------------------------------------


def _plan_convolution(part: Part, layer: str, module: _ConvNd, wishes: Wishes) -> dict[str, Any]:
    if set(wishes.settings) - {"leads"} == {"kernel", "norm", "activation", "at", "side"}:
        return dict(wishes.settings)
    wishes.only("kernel", "norm")
    norm = wishes.settings.get("norm", "batch")
    if norm not in ("batch", "none"):
        raise wishes.refuse(f"norm: {norm!r} is neither 'batch' nor 'none'")
    place = place_behind(part, layer)
    activation = place.keeps or "PReLU"
    channels, dimensions = module.out_channels, len(module.kernel_size)

    def added(kernel: int) -> int:
        return channels**2 * kernel**dimensions + (2 if norm == "batch" else 1) * channels + (activation == "PReLU")

    kernels = [wishes.kernel(3)] if "kernel" in wishes.settings else [3, 1]
    wishes.check(added(kernels[-1]))
    kernel = next(size for size in kernels if wishes.allows(added(size)))
    at = {"at": part.path(place.module), "side": place.side}
    return {"kernel": kernel, "norm": norm, "activation": activation, **at} | ({"leads": True} if place.leads else {})


def _convolution_block(
    part: Part, place: Place, module: _ConvNd, settings: Mapping[str, Any], sample: tuple[Any, ...] | None
) -> list[tuple[str, nn.Module]]:
    channels, kernel, dimensions = module.out_channels, settings["kernel"], len(module.kernel_size)
    with_norm = settings["norm"] == "batch"
    convolution: Any = CONVOLUTIONS[dimensions](channels, channels, kernel, padding=kernel // 2, bias=not with_norm)
    nn.init.dirac_(convolution.weight)
    if not with_norm:
        nn.init.zeros_(convolution.bias)
    block: list[tuple[str, nn.Module]] = [("conv", matched(convolution, module))]
    if with_norm:
        norm = NORMS[dimensions](channels)
        _make_identity(norm, *_statistics(part, place, norm, sample, settings.get("leads", False)))
        block.append(("norm", matched(norm, module)))
    near, name = part.named[place.module], settings["activation"]
    if name == "PReLU":
        act: nn.Module = nn.PReLU(init=1.0)  # of slope 1: the identity
    else:
        act = copy.deepcopy(near) if type(near) is getattr(nn, name) else getattr(nn, name)()
    acts = [("act", matched(act, module))]
    return [*acts, *block] if settings.get("leads", False) else [*block, *acts]


@torch.no_grad()
def _make_identity(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Set it so that it undoes its own normalising: exactly in eval mode, up to a batch's noise in train mode."""
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(mean)


@torch.no_grad()
def _statistics(
    part: Part, place: Place, norm: nn.Module, sample: tuple[Any, ...] | None, rectified: bool
) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel at a place: on a sample, or those that they are likely to have.

    Args:
        part: Where the place is.
        place: Itself.
        norm: The batch normalisation that is to stand there.
        sample: Inputs of ``part.module``.
        rectified: Whether a ReLU stands between the place and the normalisation.
    """
    assert isinstance(norm, _BatchNorm)
    values = _values(part, place, sample) if sample is not None else None
    if values is not None and bool(torch.isfinite(values).all()):
        values = (values.relu() if rectified else values).float().transpose(0, 1).flatten(1)
        return values.mean(1).cpu(), values.var(1, correction=0).cpu()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in part.graph.nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda other: copies[other])
    call = part.calls(place.module)[0]
    values_there = copies[call if place.side == "behind" else call.all_input_nodes[0]]
    last = graph.call_module("new", (graph.call_function(torch.relu, (values_there,)) if rectified else values_there,))
    mean, variance = expected(last, part.modules, set(), norm)
    return mean.cpu(), variance.cpu()


def _values(part: Part, place: Place, sample: tuple[Any, ...]) -> Tensor | None:
    """What runs through a place on a sample, in eval mode; ``None`` where the sample doesn't get there."""
    seen: list[Tensor] = []
    module = part.named[place.module]

    def see(values: Tensor) -> None:
        seen.append(values.detach().clone())  # what follows may change it in place

    if place.side == "behind":
        handle = module.register_forward_hook(lambda _, inputs, output: see(output))
    else:
        handle = module.register_forward_pre_hook(lambda _, inputs: see(inputs[0]))
    try:
        outputs(part.module, sample, 0)
    finally:
        handle.remove()
    return seen[0] if seen and seen[0].ndim > 1 else None


# A residual block -----------------------------------------------------------------------------------------------------


def _plan_residual(part: Part, layer: str, module: nn.Module, wishes: Wishes) -> dict[str, Any]:
    channels, dimensions = _channels(module), _dimensions(module)
    sizes = ("hidden", "kernel") if dimensions else ("hidden",)
    if set(wishes.settings) == {*sizes, "at", "side"}:
        return dict(wishes.settings)
    wishes.only(*sizes)
    kernel = wishes.kernel(3) if dimensions else 1

    def added(hidden: int) -> int:
        weights = 2 * channels * hidden * kernel**dimensions
        return weights + (2 * (hidden + channels) if dimensions else hidden + channels)

    hidden = wishes.number("hidden", channels)
    if "hidden" in wishes.settings:
        wishes.check(added(hidden))
    else:
        wishes.check(added(1))
        while not wishes.allows(added(hidden)):
            hidden -= 1
    place = place_behind(part, layer)
    return {**dict(zip(sizes, (hidden, kernel), strict=False)), "at": part.path(place.module), "side": place.side}
