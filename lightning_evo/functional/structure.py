"""What does a network compute, its weights apart? Plain data, to be kept beside them and compared with another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx, nn

from lightning_evo.functional.alignment import Unit, units_of, unwrapped
from lightning_evo.functional.roles import read
from lightning_evo.functional.tracing import trace

__all__ = ["Structure", "read_structure", "structure_of"]


@dataclass(frozen=True)
class Structure:
    """What a state dict doesn't tell of a network: its layers' settings, and what lies between them.

    Args:
        layers: For each layer with tensors its kind, its settings, and its number of groups.
        steps: What the network computes, one expression a step, which refers to earlier ones by their numbers.
        outputs: Which steps are its outputs; empty where the network can't be traced.
    """

    layers: Mapping[str, tuple[str, tuple, int]]
    steps: tuple[tuple, ...] = ()
    outputs: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Tuples, dicts, numbers and texts, which any checkpoint holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Structure:
        """What :meth:`to_dict` gave."""
        return cls(data["layers"], tuple(data["steps"]), tuple(data["outputs"]))

    def signature(self, table: dict[tuple, int]) -> tuple[int, ...]:
        """Its outputs by the numbers that a table of expressions gives them; it is added to the table."""
        numbers: list[int] = []
        for step in self.steps:
            if step[0] not in ("input", "tensor"):  # the last part holds the arguments
                step = (*step[:-1], tuple(numbers[argument] for argument in step[-1]))
            numbers.append(table.setdefault(step, len(table)))
        return tuple(numbers[output] for output in self.outputs)


def structure_of(module: nn.Module) -> Structure:
    """What a module computes, its weights apart.

    Raises:
        ValueError: If a parameter is lazy (no shape yet) or sharded.

    >>> structure_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU())).steps
    (('input', 0), ('layer', ('0',), ('Linear',), (0,)), ('relu', ('',), (1,)))
    """
    root = unwrapped(module)
    return read_structure(trace(root), root, units_of(root, "parent"))


def read_structure(graph: fx.Graph | str, root: nn.Module, units: list[Unit]) -> Structure:
    """The same of a module that is traced already.

    Args:
        graph: Its graph, or why it has none.
        root: The module.
        units: Its units.
    """
    layers = {unit.name: (unit.kind, unit.settings, unit.groups) for unit in units}
    if not isinstance(graph, fx.Graph):
        return Structure(layers)
    table: dict[tuple, int] = {}
    outputs = read(graph, root, units, {unit.name: unit.name for unit in units}, table).signature
    return Structure(layers, tuple(table), outputs)
