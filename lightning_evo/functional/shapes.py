"""Where are the channels after a change of shape? Flattening, pooling, permuting and concatenating."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from lightning_evo.functional.channels import Flow
from lightning_evo.functional.operations import argument

__all__ = ["concatenated", "reshaped"]

_POSITIONS = ((2, 3), (3, 2), (-1, -2), (-2, -1), (2, 3, 4), (-3, -2, -1))
_TO_BACK, _TO_FRONT = ((0, 2, 3, 1), (0, 2, 3, 4, 1)), ((0, 3, 1, 2), (0, 4, 1, 2, 3))


def reshaped(node: fx.Node, call: str, module: nn.Module | None, flow: Flow) -> Flow | None:
    """What a step that changes the shape gives; ``None`` where its channels can't be followed.

    Args:
        node: The step.
        call: Its name (:func:`~lightning_evo.functional.operations.call_of`).
        module: What it calls, if it is a module.
        flow: What it takes.
    """
    if call in ("mean", "amax", "sum"):
        return _pooled(node, flow)
    if call in ("permute", "transpose"):
        return _permuted(node, module, flow)
    if call == "squeeze":
        return flow.of_kind("vector") if flow.kind == "map" and len(node.args) == 1 else None
    if not (_flattens(node, module) if call == "flatten" else _keeps_rows(node)):
        return None
    if flow.kind == "map":
        return flow.of_kind("vector", flat=True)
    if flow.parts is None:
        return Flow(kind="vector")
    return flow if flow.kind == "vector" else None


def concatenated(node: fx.Node, flows: Sequence[Flow]) -> Flow | None:
    """What a concatenation along the channels gives; ``None`` if it isn't one, or of unknown channels."""
    axes = {"map": (1,), "vector": (1, -1), "sequence": (-1,), "unknown": ()}
    kind = flows[0].kind
    known = all(flow.kind == kind and flow.parts is not None and not flow.flat for flow in flows)
    if not known or argument(node, 1, "dim", 0) not in axes[kind]:
        return None
    return Flow(tuple(part for flow in flows for part in flow.parts or ()), kind)


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    begin = module.start_dim if isinstance(module, nn.Flatten) else argument(node, 1, "start_dim", 0)
    end = module.end_dim if isinstance(module, nn.Flatten) else argument(node, 2, "end_dim", -1)
    return bool(begin == 1 and end == -1)


def _keeps_rows(node: fx.Node) -> bool:
    """Whether a view is of the form ``x.view(x.size(0), -1)``."""
    sizes = node.args[1:] if len(node.args) > 2 else argument(node, 1, "shape", ())
    if not isinstance(sizes, tuple | list) or len(sizes) != 2:
        return False
    return isinstance(sizes[0], fx.Node) and isinstance(sizes[1], int) and sizes[1] == -1


def _pooled(node: fx.Node, flow: Flow) -> Flow | None:
    dims = argument(node, 1, "dim")
    if flow.kind != "map" or not isinstance(dims, tuple | list) or tuple(dims) not in _POSITIONS:
        return None
    return flow.of_kind("map" if argument(node, 2, "keepdim", False) else "vector")


def _permuted(node: fx.Node, module: nn.Module | None, flow: Flow) -> Flow | None:
    order = getattr(module, "dims", node.args[1:] if len(node.args) > 2 else argument(node, 1, "dims"))
    order = tuple(order) if isinstance(order, tuple | list) else ()
    if flow.kind == "map" and order in _TO_BACK:
        return flow.of_kind("sequence")
    return flow.of_kind("map") if flow.kind == "sequence" and order in _TO_FRONT else None
