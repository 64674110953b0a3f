"""Where behind a layer can something be put? Behind its activation, at a module that is called once and can hold it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import fx, nn

from lightning_evo.functional.growth_frame import Part, plain
from lightning_evo.functional.layers import kind_of
from lightning_evo.functional.operations import ACTIVATIONS, ANY, DROPS, NOTHING, POOLS, Interval, call_of, interval

__all__ = ["Place", "place_behind", "refusal"]


@dataclass(frozen=True)
class Place:
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


def place_behind(part: Part, layer: str) -> Place:
    """The best place behind a layer: after its normalisation and activation, if these are its own.

    A module that is called once is wrapped together with what is put behind it. Where the activation is a function, or is
    shared with other layers, the module that takes its values is wrapped, with the new one in front. Where there is none
    either, the place is right behind the layer, or its normalisation.

    Args:
        part: Where the layer is.
        layer: Its name; :func:`refusal` says nothing against it.
    """
    node = part.calls(layer)[0]
    nearest, at, activated, bounds = Place(layer, "behind"), node, False, ANY
    while len(node.users) == 1:
        user = next(iter(node.users))
        call = call_of(user, part.modules)
        holds = _holds(part, user)
        if activated and holds:
            return Place(_name(part, user), "before", _keeping(bounds))
        acts = call in ACTIVATIONS or call == "prelu"
        passes = acts or call in DROPS | NOTHING | POOLS or _normalises(part, user)
        if not passes or (activated and acts) or not _same_channels(part, node, user):
            break
        node, bounds = user, _bounds(part, user, call, bounds)
        if acts and holds:
            return Place(_name(part, user), "behind", _keeping(bounds, part.called(user)))
        activated = activated or acts
        if holds and not activated and _normalises(part, user):
            nearest, at = Place(_name(part, user), "behind"), user
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
        node.op == "get_attr" and plain(str(node.target)).rpartition(".")[0] == name for node in part.graph.nodes
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
