"""The gene of a network's growth: a list of steps from the initial network, to which mutation adds one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_evo.genome.genes import Gene, Json, Value, identity

__all__ = ["GROWTH_OPERATIONS", "GrowthSteps"]

GROWTH_OPERATIONS = ("insert", "widen", "residual", "prune", "kernel", "activation")
"""What a step can do to a layer (the words of ``lightning_evo.functional.grow``)."""

MUTATIONS = ("append", "drop", "alter")

_SCALED = ("widen", "prune")
"""Operations that have a ratio."""

_DIGITS = 3
"""Places and ratios are rounded to so many decimals, so that numbers and steps translate into each other exactly."""

_PER_STEP = 3
"""Numbers per step: operation, place, ratio."""


class GrowthSteps(Gene):
    """Growth of a network from the one in the config: steps applied in sequence before training.

    A value is a list of steps such as ``{"operation": "widen", "place": 0.37, "ratio": 1.5}``. ``place`` selects one of
    the layers that support the operation, in the order of the network: 0 is the first, 1 the last. The gene's config
    path is ``trainer.callbacks.StructuralGrowth.init_args.initial``, and ``trainer.callbacks`` must contain a
    :class:`~lightning_evo.callbacks.StructuralGrowth`.

    A mutation mostly appends a step. So a child is its parent plus one step, and with
    :class:`~lightning_evo.callbacks.WeightInheritance` it starts with its parent's weights and function: evolution by
    network morphisms. The steps of two parents aren't mixed, because a step depends on the network built by the
    previous steps. The whole list can come from either parent (see :meth:`SearchSpace.crossover
    <lightning_evo.genome.SearchSpace.crossover>`).

    Args:
        operations: Operations that a step may use: ``insert``, ``widen``, ``residual``, ``prune``, ``kernel``,
            ``activation``. The first three preserve the network's function; the others may not.
        max_steps: Maximum number of steps, at least 1.
        ratios: Factors by which ``widen`` widens a layer, ascending, each above 1 and at most 100. ``prune`` keeps the
            inverse of a factor.
        initial_steps: Maximum number of steps of a sampled value, from 0 to ``max_steps``. Default 0: every initial
            candidate is the network in the config.
        mutations: Weights with which ``append``, ``drop`` (the last step) or ``alter`` (the last step) is chosen; 0 for
            those left out. Default: 8, 1 and 1.
        when: See :class:`Gene`.

    Raises:
        ValueError: For an unknown operation or mutation, or a number out of its range.

    >>> gene = GrowthSteps(["widen"], max_steps=2)
    >>> gene.sample(random.Random(0))
    []
    >>> gene.mutate([], random.Random(0))
    [{'operation': 'widen', 'place': 0.04, 'ratio': 2.0}]
    """

    def __init__(
        self,
        operations: Sequence[str] = ("widen", "insert", "residual"),
        max_steps: int = 6,
        ratios: Sequence[float] = (1.25, 1.5, 2.0),
        initial_steps: int = 0,
        mutations: Mapping[str, float] | None = None,
        when: Mapping[str, Sequence[Json]] | None = None,
    ) -> None:
        super().__init__(when)
        if isinstance(operations, str) or not operations or len(set(operations)) != len(operations):
            raise ValueError(f"operations: {operations!r} is not a non-empty list of operations, each once")
        unknown = [name for name in operations if name not in GROWTH_OPERATIONS]
        if unknown:
            raise ValueError(f"operations: {unknown[0]!r} is not one of {', '.join(GROWTH_OPERATIONS)}")
        if max_steps < 1:
            raise ValueError(f"max_steps: {max_steps!r} is not at least 1")
        if max_steps > 1000:
            raise ValueError(f"max_steps: {max_steps} is not at most 1000")
        if not 0 <= initial_steps <= max_steps:
            raise ValueError(f"initial_steps: {initial_steps!r} is not from 0 to max_steps, {max_steps}")
        rounded = [round(float(ratio), _DIGITS) for ratio in ratios]
        if not rounded or rounded != sorted(set(rounded)) or not all(1 < ratio <= 100 for ratio in rounded):
            raise ValueError(f"ratios: {ratios!r} are not ascending numbers above 1 and at most 100: [1.25, 1.5, 2.0]")
        self.operations, self.max_steps, self.initial_steps = list(operations), max_steps, initial_steps
        self.ratios = rounded
        self.mutations = _weights(mutations)
        self._by_operation = {"widen": rounded, "prune": sorted({round(1 / ratio, _DIGITS) for ratio in rounded})}

    # -- the gene ------------------------------------------------------------------------------------------------------

    def sample(self, rng: random.Random) -> list[dict[str, Any]]:
        return [self._step(rng) for _ in range(rng.randint(0, self.initial_steps))]

    def mutate(self, value: Value, rng: random.Random, operation: str | None = None) -> list[dict[str, Any]]:
        """Append a step, drop the last or alter the last.

        Args:
            value: The parent.
            rng: Source of all randomness.
            operation: Which of them; default: drawn by the weights in ``mutations`` among those that are possible. With
                no step only ``append`` is, with ``max_steps`` only the others are.
        """
        possible = ["append"] if not value else ["drop", "alter"] if len(value) >= self.max_steps else list(MUTATIONS)
        if operation not in possible:
            weights = [self.mutations.get(name, 0.0) for name in possible]
            operation = rng.choices(possible, weights if any(weights) else None)[0]
        steps = [dict(step) for step in value]
        if operation == "append":
            return [*steps, self._step(rng)]
        if operation == "drop":
            return steps[:-1]
        return [*steps[:-1], self._altered(steps[-1], rng)]

    def validate(self, value: Value) -> None:
        if identity(self.read(value)) != identity(value):
            raise ValueError(f"{value!r} is not in its stored form, {self.read(value)!r}")

    def read(self, value: Value) -> list[dict[str, Any]]:
        """Steps by hand: numbers rounded, and where ``ratio`` is left out the middle one of ``ratios``."""
        if not isinstance(value, list) or len(value) > self.max_steps:
            raise ValueError(f"{value!r} is not a list of at most {self.max_steps} steps")
        return [self._read(number, step) for number, step in enumerate(value, 1)]

    def extremes(self) -> list[Value]:
        """No step, and for each operation as many as possible, at the first and last layer."""
        return [
            [],
            *([self._made(name, float(i % 2), -1) for i in range(self.max_steps)] for name in self.operations),
        ]

    def canonical(self, value: Value) -> list[dict[str, Any]]:
        return self.read(value)

    # -- numbers -------------------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        return _PER_STEP * self.max_steps

    def encode(self, value: Value) -> list[float]:
        """For each step its operation, place and ratio, and zeros up to ``max_steps``."""
        numbers: list[float] = []
        for step in value:
            ratios = self._by_operation.get(step["operation"], [])
            at = ratios.index(step["ratio"]) / (len(ratios) - 1) if len(ratios) > 1 else 0.0
            numbers += [(self.operations.index(step["operation"]) + 1) / len(self.operations), step["place"], at]
        return numbers + [0.0] * (self.width - len(numbers))

    def decode(self, numbers: Sequence[float]) -> list[dict[str, Any]]:
        steps = []
        for start in range(0, self.width, _PER_STEP):
            kind, place, ratio = (min(1.0, max(0.0, number)) for number in numbers[start : start + _PER_STEP])
            which = round(kind * len(self.operations))
            if which > 0:
                name = self.operations[which - 1]
                count = len(self._by_operation.get(name, [0.0]))
                steps.append(self._made(name, place, round(ratio * (count - 1))))
        return steps

    @property
    def one_hot_width(self) -> int:
        return (len(self.operations) + 2) * self.max_steps

    def one_hot(self, value: Value) -> list[float]:
        """As :meth:`encode`, but a column for each operation."""
        encoded = self.encode(value)
        row: list[float] = []
        for i in range(self.max_steps):
            name = value[i]["operation"] if i < len(value) else None
            row += [float(name == each) for each in self.operations]
            row += encoded[_PER_STEP * i + 1 : _PER_STEP * (i + 1)]
        return row

    def features(self, value: Value) -> list[float]:
        """How many steps of each operation there are, and by how many doublings they widen altogether."""
        counts = [float(sum(step["operation"] == name for step in value)) for name in self.operations]
        return [*counts, sum((math.log2(step["ratio"]) for step in value if "ratio" in step), 0.0)]

    @property
    def feature_names(self) -> list[str]:
        return [*self.operations, "doublings"]

    def __repr__(self) -> str:
        return f"GrowthSteps({self.operations}, max_steps={self.max_steps}, ratios={self.ratios})"

    # -- one step ------------------------------------------------------------------------------------------------------

    def _step(self, rng: random.Random) -> dict[str, Any]:
        name = rng.choice(self.operations)
        return self._made(name, rng.random(), rng.randrange(len(self._by_operation.get(name, [0.0]))))

    def _altered(self, step: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
        """Another step in the place of ``step``."""
        while True:
            other = self._step(rng)
            if other != step:
                return other

    def _made(self, operation: str, place: float, ratio: int) -> dict[str, Any]:
        step = {"operation": operation, "place": round(place, _DIGITS)}
        return {**step, "ratio": self._by_operation[operation][ratio]} if operation in _SCALED else step

    def _read(self, number: int, step: Any) -> dict[str, Any]:
        where = f"step {number}"
        if not isinstance(step, Mapping):
            raise ValueError(f'{where}: {step!r} is not a mapping such as {{"operation": "widen", "place": 0.5}}')
        operation = step.get("operation")
        if operation not in self.operations:
            raise ValueError(f"{where}: operation: {operation!r} is not one of {self.operations}")
        known = ["operation", "place", *(["ratio"] if operation in _SCALED else [])]
        unknown = [name for name in step if name not in known]
        if unknown:
            raise ValueError(f"{where}: {unknown[0]!r} is not one of {known}, which {operation} has")
        place = _number(step.get("place"))
        if place is None or not 0 <= place <= 1:
            given = step.get("place")
            raise ValueError(f"{where}: place: {given!r} is not a number from 0 (the first layer) to 1 (the last)")
        if operation not in _SCALED:
            return self._made(operation, place, 0)
        ratios = self._by_operation[operation]
        ratio = _number(step.get("ratio", ratios[len(ratios) // 2]))
        if ratio is None or round(ratio, _DIGITS) not in ratios:
            raise ValueError(f"{where}: ratio: {step.get('ratio')!r} is not one of {ratios}")
        return self._made(operation, place, ratios.index(round(ratio, _DIGITS)))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _weights(given: Mapping[str, float] | None) -> dict[str, float]:
    weights = dict(zip(MUTATIONS, (8.0, 1.0, 1.0), strict=True)) if given is None else dict(given)
    unknown = [name for name in weights if name not in MUTATIONS]
    if unknown:
        raise ValueError(f"mutations: {unknown[0]!r} is not one of {', '.join(MUTATIONS)}")
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise ValueError(f"mutations: {given!r} must be weights of at least 0, one of them above 0")
    return weights
