"""How does a network get deeper without computing anything else? By a residual branch that begins as nothing."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from lightning_evo._compat.torch import BatchNormBase, ConvBase, parameters_dict, shallow_copy
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
from lightning_evo.functional.growth.frame import Part, StructureChange, matched, outputs
from lightning_evo.functional.growth.steps import GrowthError, GrowthStep, Wishes
from lightning_evo.functional.inheritance.placement import TensorMap
from lightning_evo.functional.inheritance.roles import expected
from lightning_evo.utils.compiled import plain_name

__all__ = [
    "CONVOLUTIONS",
    "NORMS",
    "InsertionPoint",
    "ZeroResidual",
    "build",
    "build_intermediate",
    "place_behind",
    "plan",
    "plan_intermediate",
    "refusal",
    "sites",
]


CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""By the number of dimensions of the maps."""
NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""The same."""


class ZeroResidual(nn.Module):
    """``x + branch(x)``, where the branch gives exactly 0 until it is trained: the identity in train and in eval mode.

    For maps the branch is convolution - batch normalisation - ReLU - convolution - batch normalisation, whose last scale
    is 0. For vectors (``dimensions=0``) it is linear - ReLU - linear, whose last weights are 0. The gradient reaches
    that scale, or these weights, with the first batch, and all others with the second.

    Args:
        channels: Channels (features) of the input, and of the output.
        hidden: Channels in between. Default: as many.
        dimensions: Of the maps: 1, 2 or 3; 0 for vectors (..., channels).
        kernel: Side of both kernels, odd; maps keep their size.

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
                raise ValueError(f"{name} {number} is not at least 1")
        if dimensions not in (0, 1, 2, 3):
            raise ValueError(f"dimensions {dimensions} is none of 0, 1, 2, 3")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is not odd: maps would not keep their size")
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
        """The input and what the branch makes of it, summed; of the input's shape."""
        return values + self.branch(values)


# -- Where behind a layer can something be put? Behind its activation, at a module that is called once an --


@dataclass(frozen=True)
class InsertionPoint:
    """A place in a network: right behind a module, or right before it.

    Args:
        module: Its name in the part.
        side: Which.
        keeps: Class of an activation that changes nothing there, if one is known.
        leads: Whether it changes nothing only because the same follows. What is put there then begins with it, so that it
            stands between two layers.
    """

    module: str
    side: Literal["behind", "before"]
    keeps: str = ""
    leads: bool = False


def refusal(part: Part, layer: str) -> str:
    """Why nothing can be put behind a layer; empty if it can."""
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


def place_behind(part: Part, layer: str) -> InsertionPoint:
    """The best place behind a layer: after its normalisation and activation, if these are its own.

    A module that is called once is wrapped together with what is put behind it. Where the activation is a function, or is
    shared with other layers, the module that takes its values is wrapped, with the new one in front. Where there is none
    either, the place is right behind the layer, or its normalisation.

    Args:
        part: Where the layer is.
        layer: Its name; :func:`refusal` says nothing against it.
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
"""What gives the same before a ReLU as behind it."""


def _rectified(part: Part, node: fx.Node) -> bool:
    """Whether a ReLU cuts the values wherever they go, so that one here would change nothing."""
    calls = [(user, call_of(user, part.modules)) for user in node.users]
    return bool(calls) and all(
        call == "relu" or (call in _COMMUTING and _rectified(part, user)) for user, call in calls
    )


def _same_channels(part: Part, node: fx.Node, user: fx.Node) -> bool:
    """Whether a step gives the channels it takes, in the same form, and takes nothing else."""
    before, after = part.layout.flows[node], part.layout.flows[user]
    alike = before.parts is not None and after.parts == before.parts and after.kind == before.kind
    return alike and len(user.all_input_nodes) == 1


def _name(part: Part, node: fx.Node) -> str:
    module = part.called(node)
    return part.targets[id(module)]


def _holds(part: Part, node: fx.Node) -> bool:
    """Whether a module can be wrapped: it takes one value, is called once, held once, and nobody reads its tensors."""
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
    """An activation that changes nothing between these bounds: the module's own class if it is one."""
    own = type(module).__name__ if module is not None else ""
    if own in ("ReLU6", "Hardtanh"):
        return own
    return "ReLU" if bounds[0] >= 0 else ""


# -- What is a layer between two others that changes nothing? Two linear layers in place of one, and an a --

_SHARE = 0.75
"""Width of an intermediate layer, as a share of a layer's inputs and outputs together (NeuroExapt's value)."""
_PROJECTIONS = ("ReLU", "ReLU6", "Hardtanh")
"""Activations that change nothing when applied twice."""
_MIRRORED = ("ReLU", "LeakyReLU", "GELU", "SiLU", "Hardswish")
"""Activations f of which f(a) - f(-a) is a multiple of a."""


@dataclass(frozen=True)
class _Way:
    """How an activation between two linear layers lets the first one's old outputs pass.

    Args:
        activation: Its class.
        arguments: How it is made.
        copies: In how many units each old output is: 1, or 2: itself and its negative.
    """

    activation: str
    arguments: tuple[float, ...] = ()
    copies: int = 1


_NARROW = _Way("PReLU", (1, 1.0))
"""A PReLU of slope 1 lets everything pass, and learns to bend."""


def plan_intermediate(part: Part, layer: str, module: nn.Linear, wishes: Wishes) -> dict[str, Any]:
    """The settings of an intermediate layer in a linear layer's place: ``hidden`` units, ``activation``, ``copies``.

    A layer y = Wx + b becomes Linear(inputs, hidden) - activation - Linear(hidden, outputs), as in NeuroExapt, where
    hidden is 75 % of inputs and outputs together; here it computes the same at birth. The first holds W, so that moments
    stay, and fresh units that the second ignores at first. How W's outputs pass the activation:

    - if a projection such as ReLU follows the layer, it is used in between as well: applied twice it does what it did;
    - else each is there twice, as itself and its negative: relu(a) - relu(-a) = a, and so with LeakyReLU, GELU, SiLU,
      Hardswish;
    - where that takes more units than there may be, the activation is a PReLU of slope 1.

    The least hidden is the number of outputs, or twice that; ``width: same`` gives just the outputs (Net2Deeper).

    Raises:
        GrowthError: If the wishes can't be fulfilled.
    """
    if set(wishes.settings) == {"hidden", "activation", "arguments", "copies"}:
        return dict(wishes.settings)
    wishes.only("hidden", "width")
    if wishes.settings.get("width", "same") != "same":
        raise wishes.refuse(f"width: {wishes.settings['width']!r} is not 'same'; `hidden` takes a number")
    inputs, outputs, bias = module.in_features, module.out_features, module.bias is not None
    way = _way_through(part, layer)

    def added(hidden: int, way: _Way) -> int:
        both = hidden * (inputs + bias) + outputs * (hidden + bias) + (way.activation == "PReLU")
        return both - outputs * (inputs + bias)

    asked = outputs if "width" in wishes.settings else max(way.copies * outputs, int(_SHARE * (inputs + outputs)))
    hidden = wishes.number("hidden", asked, outputs)
    exact = bool(wishes.settings)
    if way.copies * outputs > hidden or (not exact and not wishes.allows(added(way.copies * outputs, way))):
        way = _NARROW
    wishes.check(added(hidden if exact else way.copies * outputs, way))
    while not wishes.allows(added(hidden, way)):
        hidden -= 1
    if hidden > outputs and _tied(part, module):
        raise wishes.refuse("its weights are tied to another layer's; width: same would leave them alone")
    return {"hidden": hidden, "activation": way.activation, "arguments": list(way.arguments), "copies": way.copies}


@torch.no_grad()
def build_intermediate(layer: str, module: nn.Linear, settings: Mapping[str, Any]) -> StructureChange:
    """``Sequential(base, act, linear)`` in the layer's place; base is the layer, or its copy with more outputs.

    Args:
        layer: Its name.
        module: Itself; stays as it is.
        settings: As :func:`plan_intermediate` gives them.

    Raises:
        GrowthError: If the settings don't fit the layer.
    """
    hidden, copies, outputs = settings["hidden"], settings["copies"], module.out_features
    if hidden < copies * outputs:
        raise GrowthError(f"{layer}: insert: hidden: {hidden} is below {copies * outputs}")
    act = getattr(nn, settings["activation"])(*settings["arguments"])
    last = nn.Linear(hidden, outputs, bias=module.bias is not None)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    one = torch.ones(1, dtype=torch.float64)
    passes = (act(one) - act(-one)).item() if copies == 2 else 1.0
    for copied in range(copies):
        begin = copied * outputs
        last.weight[:, begin : begin + outputs] = torch.eye(outputs) * (-1 if copied else 1) / passes
    base, moved = (module, {}) if hidden == outputs else _widened(layer, module, hidden, copies)
    line = nn.Sequential(OrderedDict(base=base, act=matched(act, module), linear=matched(last, module)))
    line.training = module.training
    return StructureChange(modules={layer: line}, moved=moved)


def _widened(
    layer: str, module: nn.Linear, hidden: int, copies: int
) -> tuple[nn.Linear, dict[str, tuple[str, TensorMap]]]:
    """The layer with more outputs: its own, their negatives if need be, fresh ones; and where its numbers went."""
    outputs = module.out_features
    fresh = matched(nn.Linear(module.in_features, hidden, bias=module.bias is not None), module)
    base = shallow_copy(module)  # with its hooks, and whatever it has come to hold besides
    base.out_features = hidden
    rows = torch.cat([torch.arange(outputs), torch.full((hidden - outputs,), -1)])
    own = {name: tensor for name, tensor in parameters_dict(module).items() if tensor is not None}
    # An output that is 0 for every input would never learn: ReLU hands on no gradient at 0. It becomes a - a instead.
    idle = torch.stack([tensor.reshape(outputs, -1).eq(0).all(1) for tensor in own.values()]).all(0) & (copies == 2)
    moved = {}
    for name, old in own.items():
        new = getattr(fresh, name)
        twin = idle.reshape(-1, *[1] * (old.ndim - 1))
        new[:outputs] = torch.where(twin, new[:outputs], old)
        if copies == 2:
            new[outputs : 2 * outputs] = torch.where(twin, new[:outputs], -old)
        parameters_dict(base)[name] = new.requires_grad_(old.requires_grad)
        columns = torch.arange(module.in_features)[None] if old.ndim > 1 else None
        moved[f"{layer}.base.{name}"] = (f"{layer}.{name}", TensorMap(rows, columns))
    return base, moved


def _tied(part: Part, module: nn.Linear) -> bool:
    own = {id(parameter) for parameter in module.parameters()}
    held = [value for _, value in part.module.named_parameters(remove_duplicate=False) if id(value) in own]
    return len(held) > len(own)


def _way_through(part: Part, layer: str) -> _Way:
    """The activation that follows the layer, if values can pass it unchanged; else the network's first that lets them."""
    node = part.calls(layer)[0]
    while len(node.users) == 1 and call_of(next(iter(node.users)), part.modules) in DROPS | NOTHING:
        node = next(iter(node.users))
    follows = [_made(user, part) for user in node.users]
    if len(follows) == 1 and follows[0] is not None and follows[0][0] in _PROJECTIONS:
        return _Way(*follows[0])
    known = [made for made in [*follows, *(_made(each, part) for each in part.graph.nodes)] if made is not None]
    return next((_Way(*made, copies=2) for made in known if made[0] in _MIRRORED), _Way("ReLU", copies=2))


def _made(node: fx.Node, part: Part) -> tuple[str, tuple[float, ...]] | None:
    """An activation's class, and the arguments that make it; ``None`` for other steps."""
    module = part.called(node)
    if module is not None:
        name = type(module).__name__
        if type(module) is not getattr(nn, name, None) or getattr(module, "approximate", "none") != "none":
            return None
        arguments = {"LeakyReLU": ("negative_slope",), "Hardtanh": ("min_val", "max_val")}.get(name, ())
        return name, tuple(getattr(module, argument) for argument in arguments)
    if node.op not in ("call_function", "call_method") or node.args[1:] or set(node.kwargs) - {"inplace"}:
        return None
    functions = {"relu": "ReLU", "relu6": "ReLU6", "gelu": "GELU", "silu": "SiLU", "hardswish": "Hardswish"}
    found = functions.get(call_of(node, part.modules))
    return None if found is None else (found, ())


# -- What layers can be put into a trained network so that it computes the same? Identities, and branches --


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
    assert isinstance(module, ConvBase)
    return _plan_convolution(part, layer, module, wishes)


def build(part: Part, step: GrowthStep, sample: tuple[Any, ...] | None = None) -> StructureChange:
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
        place = InsertionPoint(part.local(settings["at"]), settings["side"])
        if place.module not in part.named:
            raise GrowthError(f"{where}: at: {settings['at']!r} is not in the network")
        if step.operation == "residual":
            block = ZeroResidual(_channels(module), settings["hidden"], _dimensions(module), settings.get("kernel", 1))
            return _placed(part, place, [("residual", matched(block, module))])
        assert isinstance(module, ConvBase)
        return _placed(part, place, _convolution_block(part, place, module, settings, sample))
    except KeyError as missing:
        raise GrowthError(f"{where}: settings: {missing} is missing") from None


def _at_the_end(part: Part, layer: str) -> str:
    users = part.calls(layer)[0].users
    return "gives the network's output" if any(user.op == "output" for user in users) else ""


def _channels(module: nn.Module) -> int:
    return int(module.out_channels if isinstance(module, ConvBase) else module.out_features)  # type: ignore[arg-type]


def _dimensions(module: nn.Module) -> int:
    """Of its maps; 0 of a linear layer."""
    return len(module.kernel_size) if isinstance(module, ConvBase) else 0


def _placed(part: Part, place: InsertionPoint, block: list[tuple[str, nn.Module]]) -> StructureChange:
    base = ("base", part.named[place.module])
    line = nn.Sequential(OrderedDict([base, *block] if place.side == "behind" else [*block, base]))
    line.training = base[1].training
    return StructureChange(modules={place.module: line})


# Behind a convolution: convolution, batch normalisation, activation -------------------------------------------------


def _plan_convolution(part: Part, layer: str, module: ConvBase, wishes: Wishes) -> dict[str, Any]:
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
    part: Part, place: InsertionPoint, module: ConvBase, settings: Mapping[str, Any], sample: tuple[Any, ...] | None
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
    part: Part, place: InsertionPoint, norm: nn.Module, sample: tuple[Any, ...] | None, rectified: bool
) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel at a place: on a sample, or those that they are likely to have.

    Args:
        part: Where the place is.
        place: Itself.
        norm: The batch normalisation that is to stand there.
        sample: Inputs of ``part.module``.
        rectified: Whether a ReLU stands between the place and the normalisation.
    """
    assert isinstance(norm, BatchNormBase)
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


def _values(part: Part, place: InsertionPoint, sample: tuple[Any, ...]) -> Tensor | None:
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
