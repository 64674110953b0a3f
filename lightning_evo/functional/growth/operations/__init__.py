"""The operations by which a network grows: a table of modules with three functions each.

An operation never touches the network; it plans a change that :mod:`lightning_evo.functional.growth.surgery` applies.
Layers are named within the part (:meth:`Part.local`, :meth:`Part.path`); ``step.layer`` is named within the whole module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from lightning_evo.functional.growth.operations import insertion, replacement, widths
from lightning_evo.functional.growth.parts import Part, StructureChange
from lightning_evo.functional.growth.steps import GrowthStep, Operation

__all__ = ["OPERATIONS", "StructureOperation"]


class StructureOperation(Protocol):
    """The functions of a module that implements operations."""

    def sites(self, part: Part) -> dict[str, dict[Operation, str]]:
        """Return, for each layer and operation, why it isn't possible; an empty string if it is."""

    def plan(
        self,
        part: Part,
        operation: Operation,
        layer: str,
        *,
        ratio: float,
        max_added: int | None,
        settings: Mapping[str, Any],
        seed: int,
    ) -> dict[str, Any]:
        """Return the settings of a step in absolute numbers.

        Args:
            part: The part that contains the layer.
            operation: The operation.
            layer: Name of the layer in the part.
            ratio: The requested factor of its size.
            max_added: How many parameters the step may add; ``None`` for any number.
            settings: The requested settings.
            seed: Seed of whatever is drawn.

        Raises:
            GrowthError: If that isn't possible.
        """

    def build(self, part: Part, step: GrowthStep, sample: tuple[Any, ...] | None) -> StructureChange:
        """Return the change that a step makes.

        It is called with PyTorch's random state seeded, and restored afterwards. New modules are made on the CPU, and then
        given the device, dtype and mode of an old one by :func:`~lightning_evo.functional.growth.parts.matched`.

        Args:
            part: The part that contains the layer.
            step: The step, with complete settings.
            sample: Inputs of ``part.module``, if there are any.

        Raises:
            GrowthError: If the step doesn't fit the network.
        """


OPERATIONS: Mapping[Operation, StructureOperation] = {
    "insert": insertion,
    "residual": insertion,
    "widen": widths,
    "prune": widths,
    "kernel": replacement,
    "activation": replacement,
}
"""The module that implements each operation."""
