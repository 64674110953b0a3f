"""Operations that insert layers: an identity behind a layer, or a residual branch that is initially zero."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn

from lightning_evo._compat.torch import BatchNormBase, ConvBase
from lightning_evo.functional.graph.operations import (
    ACTIVATIONS,
    ANY,
    DROPS,
    NOTHING,
    POOLS,
    Interval,
    call_of,
    interval,
    kind_of,
)
from lightning_evo.functional.growth.operations.replacement import build_intermediate, plan_intermediate
from lightning_evo.functional.growth.parts import Part, StructureChange, matched
from lightning_evo.functional.growth.steps import GrowthError, GrowthStep, Operation, StepRequest
from lightning_evo.functional.growth.surgery import outputs
from lightning_evo.functional.inheritance.roles import expected
from lightning_evo.utils.compiled import plain_name

__all__ = ["ZeroResidual", "build", "plan", "sites"]


CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""By the number of dimensions of maps."""
NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""By the number of dimensions of maps."""


class ZeroResidual(nn.Module):
    """``x + branch(x)``, where the branch is exactly 0 until it is trained: the identity in train and in eval mode.

    For maps the branch is convolution - batch normalization - ReLU - convolution - batch normalization, whose last scale
    is 0. For vectors (``dimensions=0``) it is linear - ReLU - linear, whose last weights are 0. The first batch gives these
    parameters a gradient, the second all others.

    Args:
        channels: Number of channels (features) of the input and the output.
        hidden: Number of channels in between. The default is ``channels``.
        dimensions: Number of dimensions of the maps: 1, 2 or 3; 0 for vectors (..., channels).
        kernel: Side of both kernels, odd, so that maps keep their size.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        He et al. 2016, Deep residual learning, arXiv:1512.03385; the scale of 0: Goyal et al. 2017, Accurate, large
        minibatch SGD, arXiv:1706.02677.

    >>> block, maps = ZeroResidual(4, hidden=2), torch.randn(3, 4, 5, 5)
    >>> torch.equal(block(maps), maps), block.branch.norm2.weight.requires_grad
    (True, True)
    """

    def __init__(self, channels: int, hidden: int | None = None, dimensions: int = 2, kernel: int = 3) -> None:
        super().__init__()
        hidden = channels if hidden is None else hidden
        for name, number in (("channels", channels), ("hidden", hidden)):
            if number < 1:
                raise ValueError(f"{name}: {number!r} is not at least 1")
        if dimensions not in (0, 1, 2, 3):
            raise ValueError(f"dimensions: {dimensions!r} is not one of 0, 1, 2, 3")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel: {kernel!r} is not odd; maps would not keep their size")
        layers: list[tuple[str, nn.Module]]
        if dimensions == 0:
            layers = [
                ("linear1", nn.Linear(channels, hidden)),
                ("act", nn.ReLU()),
                ("linear2", nn.Linear(hidden, channels)),
            ]
            silent = layers[-1][1]
        else:
            convolution, norm = CONVOLUTIONS[dimensions], NORMS[dimensions]
            layers = [
                ("conv1", convolution(channels, hidden, kernel, padding=kernel // 2, bias=False)),
                ("norm1", norm(hidden)),
                ("act", nn.ReLU()),
                ("conv2", convolution(hidden, channels, kernel, padding=kernel // 2, bias=False)),
                ("norm2", norm(channels)),
            ]
            silent = layers[-1][1]
        self.branch = nn.Sequential(OrderedDict(layers))
        with torch.no_grad():
            for parameter in silent.parameters():
                parameter.zero_()

    def forward(self, values: Tensor) -> Tensor:
        """Return the sum of the input and the branch's output, in the input's shape."""
        return values + self.branch(values)


def sites(part: Part) -> dict[str, dict[Operation, str]]:
    """Return, for each linear layer and convolution, why each operation isn't possible; empty if it is."""
    found: dict[str, dict[Operation, str]] = {}
    for unit in part.units:
        if unit.kind not in ("linear", "conv"):
            continue
        reason = why_not_insertable(part, unit.name)
        end = "" if reason else _at_the_end(part, unit.name)
        found[unit.name] = {"insert": reason or (end if unit.kind == "conv" else ""), "residual": reason or end}
    return found


def plan(
    part: Part,
    operation: Operation,
    layer: str,
    *,
    ratio: float = 1.5,
    max_added: int | None = None,
    settings: Mapping[str, Any],
    seed: int = 0,
) -> dict[str, Any]:
    """Return the settings of a step in absolute numbers.

    Args:
        part: The part that contains the layer.
        operation: ``insert`` or ``residual``.
        layer: Its name in the part.
        ratio: Not used: an inserted layer's width follows from its neighbors'.
        max_added: How many parameters the step may add. To stay below, an intermediate layer or a residual block gets
            fewer units, an inserted convolution a kernel of 1.
        settings: Requested settings. Behind a linear layer ``hidden``, or ``width: same`` for as many units as it has;
            behind a convolution ``kernel`` (odd, default 3) and ``norm`` (``batch`` or ``none``); of a residual block
            ``hidden`` and ``kernel``. The complete settings of a step are taken as they are.
        seed: Not used.

    Raises:
        GrowthError: If the step isn't possible, or adds more than ``max_added``.
    """
    reason = sites(part).get(layer, {operation: "is neither linear nor a convolution"})[operation]
    request = StepRequest(f"{part.path(layer)}: {operation}", dict(settings), max_added)
    if reason:
        raise request.refuse(reason)
    module = part.named[layer]
    if operation == "residual":
        return _plan_residual(part, layer, module, request)
    if isinstance(module, nn.Linear):
        return plan_intermediate(part, layer, module, request)
    assert isinstance(module, ConvBase)
    return _plan_convolution(part, layer, module, request)


def build(part: Part, step: GrowthStep, sample: tuple[Any, ...] | None = None) -> StructureChange:
    """Return the change that an ``insert`` or ``residual`` step makes.

    Args:
        part: The part that contains the layer; it stays as it is.
        step: The step with all settings, as :func:`plan` returns them.
        sample: Inputs of ``part.module``, from which new batch normalizations get the statistics of their input. By default
            they are estimated.

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
        point = InsertionPoint(part.local(settings["at"]), settings["side"])
        if point.module not in part.named:
            raise GrowthError(f"{where}: at: {settings['at']!r} is not in the network")
        if step.operation == "residual":
            block = ZeroResidual(_channels(module), settings["hidden"], _dimensions(module), settings.get("kernel", 1))
            return _placed(part, point, [("residual", matched(block, module))])
        assert isinstance(module, ConvBase)
        return _placed(part, point, _convolution_block(part, point, module, settings, sample))
    except KeyError as missing:
        raise GrowthError(f"{where}: settings: {missing} is missing") from None


def _at_the_end(part: Part, layer: str) -> str:
    users = part.calls(layer)[0].users
    return "gives the network's output" if any(user.op == "output" for user in users) else ""


def _channels(module: nn.Module) -> int:
    return module.out_channels if isinstance(module, ConvBase) else cast(nn.Linear, module).out_features


def _dimensions(module: nn.Module) -> int:
    """Return the number of dimensions of a layer's maps; 0 for a linear layer."""
    return len(module.kernel_size) if isinstance(module, ConvBase) else 0


def _placed(part: Part, point: InsertionPoint, block: list[tuple[str, nn.Module]]) -> StructureChange:
    base = ("base", part.named[point.module])
    line = nn.Sequential(OrderedDict([base, *block] if point.side == "behind" else [*block, base]))
    line.training = base[1].training
    return StructureChange(modules={point.module: line})


# Behind a convolution: convolution, batch normalization, activation


def _plan_convolution(part: Part, layer: str, module: ConvBase, request: StepRequest) -> dict[str, Any]:
    if set(request.settings) - {"leads"} == {"kernel", "norm", "activation", "at", "side"}:
        return dict(request.settings)
    request.only("kernel", "norm")
    norm = request.settings.get("norm", "batch")
    if norm not in ("batch", "none"):
        raise request.refuse(f"norm: {norm!r} is not 'batch' or 'none'")
    point = insertion_point_after(part, layer)
    activation = point.keeps or "PReLU"
    channels, dimensions = module.out_channels, len(module.kernel_size)

    def added(kernel: int) -> int:
        return channels**2 * kernel**dimensions + (2 if norm == "batch" else 1) * channels + (activation == "PReLU")

    kernels = [request.kernel(3)] if "kernel" in request.settings else [3, 1]
    request.check(added(kernels[-1]))
    kernel = next(size for size in kernels if request.allows(added(size)))
    at = {"at": part.path(point.module), "side": point.side}
    return {"kernel": kernel, "norm": norm, "activation": activation, **at} | ({"leads": True} if point.leads else {})


def _convolution_block(
    part: Part, point: InsertionPoint, module: ConvBase, settings: Mapping[str, Any], sample: tuple[Any, ...] | None
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
        _make_identity(norm, *_statistics(part, point, norm, sample, settings.get("leads", False)))
        block.append(("norm", matched(norm, module)))
    near, name = part.named[point.module], settings["activation"]
    if name == "PReLU":
        act: nn.Module = nn.PReLU(init=1.0)  # of slope 1: the identity
    else:
        act = copy.deepcopy(near) if type(near) is getattr(nn, name) else getattr(nn, name)()
    acts = [("act", matched(act, module))]
    return [*acts, *block] if settings.get("leads", False) else [*block, *acts]


@torch.no_grad()
def _make_identity(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Set a normalization to the identity: exactly in eval mode, up to the noise of a batch in train mode."""
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(mean)


@torch.no_grad()
def _statistics(
    part: Part, point: InsertionPoint, norm: nn.Module, sample: tuple[Any, ...] | None, rectified: bool
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel at a point, measured on a sample or else estimated.

    Args:
        part: The part.
        point: A point in it.
        norm: The batch normalization to be inserted there.
        sample: Inputs of ``part.module``.
        rectified: Whether a ReLU is between the point and the normalization.
    """
    assert isinstance(norm, BatchNormBase)
    values = _values(part, point, sample) if sample is not None else None
    if values is not None and bool(torch.isfinite(values).all()):
        values = (values.relu() if rectified else values).float().transpose(0, 1).flatten(1)
        return values.mean(1).cpu(), values.var(1, correction=0).cpu()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in part.graph.nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda other: copies[other])
    call = part.calls(point.module)[0]
    values_there = copies[call if point.side == "behind" else call.all_input_nodes[0]]
    last = graph.call_module("new", (graph.call_function(torch.relu, (values_there,)) if rectified else values_there,))
    mean, variance = expected(last, part.modules, set(), norm)
    return mean.cpu(), variance.cpu()


def _values(part: Part, point: InsertionPoint, sample: tuple[Any, ...]) -> Tensor | None:
    """Return the values at a point on a sample, in eval mode; ``None`` if the sample doesn't get there."""
    seen: list[Tensor] = []
    module = part.named[point.module]

    def see(values: Tensor) -> None:
        seen.append(values.detach().clone())  # what follows may change it in place

    if point.side == "behind":
        handle = module.register_forward_hook(lambda _, inputs, output: see(output))
    else:
        handle = module.register_forward_pre_hook(lambda _, inputs: see(inputs[0]))
    try:
        outputs(part.module, sample, 0)
    finally:
        handle.remove()
    return seen[0] if seen and seen[0].ndim > 1 else None


# Residual blocks


def _plan_residual(part: Part, layer: str, module: nn.Module, request: StepRequest) -> dict[str, Any]:
    channels, dimensions = _channels(module), _dimensions(module)
    sizes = ("hidden", "kernel") if dimensions else ("hidden",)
    if set(request.settings) == {*sizes, "at", "side"}:
        return dict(request.settings)
    request.only(*sizes)
    kernel = request.kernel(3) if dimensions else 1

    def added(hidden: int) -> int:
        weights = 2 * channels * hidden * kernel**dimensions
        return weights + (2 * (hidden + channels) if dimensions else hidden + channels)

    hidden = request.number("hidden", channels)
    if "hidden" in request.settings:
        request.check(added(hidden))
    else:
        request.check(added(1))
        while not request.allows(added(hidden)):
            hidden -= 1
    point = insertion_point_after(part, layer)
    return {**dict(zip(sizes, (hidden, kernel), strict=False)), "at": part.path(point.module), "side": point.side}


# Insertion points


@dataclass(frozen=True)
class InsertionPoint:
    """A point in a network: right behind a module, or right before it.

    Args:
        module: The module's name in the part.
        side: On which side of it.
        keeps: Class of an activation that changes nothing there, if one is known.
        leads: Whether it changes nothing only because the same activation follows. It then comes first in what is inserted,
            so that it is between two layers.
    """

    module: str
    side: Literal["behind", "before"]
    keeps: str = ""
    leads: bool = False


def why_not_insertable(part: Part, layer: str) -> str:
    """Return why nothing can be inserted behind a layer; empty if it can."""
    module, calls = part.named[layer], part.calls(layer)
    if len(calls) != 1:
        return "is not called by itself" if not calls else f"is called {len(calls)} times"
    if _read(part, layer):
        return "its tensors are read by others"
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return "is frozen, and so would be what is added to it"
    if not layer:
        return "is the whole network"
    return ""


def insertion_point_after(part: Part, layer: str) -> InsertionPoint:
    """Return the best point behind a layer: after its normalization and activation, if these are its own.

    A module that is called once is wrapped together with what is inserted behind it. If the activation is a function, or is
    shared with other layers, the module that follows it is wrapped, with the new one in front. If there is none either, the
    point is right behind the layer, or its normalization.

    Args:
        part: The part that contains the layer.
        layer: Its name; :func:`why_not_insertable` is empty for it.
    """
    node = part.calls(layer)[0]
    nearest, at, activated, bounds = InsertionPoint(layer, "behind"), node, False, ANY
    while len(node.users) == 1:
        user = next(iter(node.users))
        call = call_of(user, part.modules)
        holds = _holds(part, user)
        if activated and holds:
            return InsertionPoint(_name(part, user), "before", _keeping(bounds))
        acts = call in ACTIVATIONS or call == "prelu"
        passes = acts or call in DROPS | NOTHING | POOLS or _normalises(part, user)
        if not passes or (activated and acts) or not _same_channels(part, node, user):
            break
        node, bounds = user, _bounds(part, user, call, bounds)
        if acts and holds:
            return InsertionPoint(_name(part, user), "behind", _keeping(bounds, part.called(user)))
        activated = activated or acts
        if holds and not activated and _normalises(part, user):
            nearest, at = InsertionPoint(_name(part, user), "behind"), user
    return replace(nearest, keeps="ReLU", leads=True) if _rectified(part, at) else nearest


_COMMUTING = NOTHING | {"cat", "concat", "concatenate", "dropout", "flatten", "maxpool", "adaptivemaxpool"}
"""Operations that commute with a ReLU."""


def _rectified(part: Part, node: fx.Node) -> bool:
    """Whether a ReLU follows on every path, so that one here would change nothing."""
    calls = [(user, call_of(user, part.modules)) for user in node.users]
    return bool(calls) and all(
        call == "relu" or (call in _COMMUTING and _rectified(part, user)) for user, call in calls
    )


def _same_channels(part: Part, node: fx.Node, user: fx.Node) -> bool:
    """Whether a step has the channels of its input, in the same form, and no other input."""
    before, after = part.layout.flows[node], part.layout.flows[user]
    alike = before.parts is not None and after.parts == before.parts and after.kind == before.kind
    return alike and len(user.all_input_nodes) == 1


def _name(part: Part, node: fx.Node) -> str:
    module = part.called(node)
    return part.targets[id(module)]


def _holds(part: Part, node: fx.Node) -> bool:
    """Whether a module can be wrapped: it has one input, is called once, registered once, and its tensors aren't read."""
    module = part.called(node)
    if module is None or node.kwargs or tuple(node.args) != tuple(node.all_input_nodes):
        return False
    name = part.targets.get(id(module), "")
    held = sum(each is module for each in part.modules.values())
    return bool(name) and len(node.args) == 1 and len(part.calls(name)) == 1 and held == 1 and not _read(part, name)


def _read(part: Part, name: str) -> bool:
    return any(
        node.op == "get_attr" and plain_name(str(node.target)).rpartition(".")[0] == name for node in part.graph.nodes
    )


def _normalises(part: Part, node: fx.Node) -> bool:
    module = part.called(node)
    return module is not None and kind_of(module) in ("channelwise", "statistic") and not isinstance(module, nn.PReLU)


def _bounds(part: Part, node: fx.Node, call: str, given: Interval) -> Interval:
    return ANY if _normalises(part, node) else interval(call, node, part.modules, given)[0]


def _keeping(bounds: Interval, module: nn.Module | None = None) -> str:
    """Return an activation that changes nothing between these bounds: the module's own class if possible."""
    own = type(module).__name__ if module is not None else ""
    if own in ("ReLU6", "Hardtanh"):
        return own
    return "ReLU" if bounds[0] >= 0 else ""
