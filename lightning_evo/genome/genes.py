"""Genes: the type and range of one varying value, and how it is sampled, mutated and encoded."""

from __future__ import annotations

import json
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_evo.genome.representation import constructed

__all__ = [
    "Bitstring",
    "Boolean",
    "Categorical",
    "Gene",
    "Integer",
    "Json",
    "LogUniform",
    "Ordinal",
    "Uniform",
    "Value",
]

Value = Any
"""A gene's value: anything JSON can hold (number, string, boolean, null, list, mapping)."""

# Spelled out where YAML is read: where a type is `Any`, jsonargparse would build what has a `class_path`. Strings come
# first, or "1" would become a number.
Json = str | bool | int | float | list | dict | None


def identity(value: Value) -> str:
    """The text by which two JSON values are compared: ``1`` and ``1.0`` and ``True`` stay different."""
    return json.dumps(value, sort_keys=True)


class Gene(ABC):
    """The type and range of one value that varies.

    A user's own gene implements :meth:`sample`, :meth:`mutate`, :meth:`validate`, :meth:`extremes`, :meth:`encode` and
    :meth:`decode`. All random draws must use the given ``rng``, so that the seed determines the result.

    Args:
        when: Conditions under which the gene is active: config path of another gene -> values for which this gene is
            active. All must hold. ``None`` (default): always active.
    """

    def __init__(self, when: Mapping[str, Sequence[Json]] | None = None) -> None:
        for path, accepted in (when or {}).items():
            if isinstance(accepted, str) or not isinstance(accepted, Sequence) or not accepted:
                raise ValueError(f"when.{path}: {accepted!r} is not a non-empty list of values")
        self.when: dict[str, list[Any]] = {path: list(accepted) for path, accepted in (when or {}).items()}

    @abstractmethod
    def sample(self, rng: random.Random) -> Value:
        """Draw a value from the whole range."""

    @abstractmethod
    def mutate(self, value: Value, rng: random.Random) -> Value:
        """Return a changed value; the same one only where the range holds no other."""

    @abstractmethod
    def validate(self, value: Value) -> None:
        """Raise ``ValueError`` saying what was given and what is accepted, if ``value`` is out of range."""

    def read(self, value: Value) -> Value:
        """The value as it is stored, of a value as a user may write it (in ``initial``); by default the same.

        Raises:
            ValueError: If it can't be read.
        """
        return value

    @abstractmethod
    def extremes(self) -> list[Value]:
        """Values at the edges of the range; each is tried on the config parser before a search starts."""

    @abstractmethod
    def encode(self, value: Value) -> list[float]:
        """The value as numbers in [0, 1], always :attr:`width` of them."""

    @abstractmethod
    def decode(self, numbers: Sequence[float]) -> Value:
        """The nearest value to ``numbers`` (clamped to [0, 1]); the inverse of :meth:`encode`."""

    @property
    def width(self) -> int:
        """How many numbers :meth:`encode` gives."""
        return 1

    def one_hot(self, value: Value) -> list[float]:
        """The value for models that must not read an order into it; :meth:`encode` where there is an order."""
        return self.encode(value)

    @property
    def one_hot_width(self) -> int:
        """How many numbers :meth:`one_hot` gives."""
        return self.width

    def features(self, value: Value) -> list[float]:
        """What a predictor should know of the value: numbers without bounds, as many as :attr:`feature_names`.

        By default :meth:`one_hot`; a gene that holds a whole architecture says more (counts, depth, parameters).
        """
        return self.one_hot(value)

    @property
    def feature_names(self) -> list[str]:
        """A short name for each number that :meth:`features` gives; ``""`` where there is only one."""
        width = self.one_hot_width
        return [""] if width == 1 else [str(i) for i in range(width)]

    def crossover(self, first: Value, second: Value, rng: random.Random) -> tuple[Value, Value]:
        """Recombine inside one gene; by default nothing is recombined (genes swap whole, see the search space)."""
        return first, second

    def canonical(self, value: Value) -> Value:
        """The one value that stands for all values that build the same network; by default the value itself."""
        return value

    def __repr__(self) -> str:
        """The class with its arguments, as far as they are kept under their names and aren't the defaults."""
        return f"{type(self).__name__}({', '.join(constructed(self))})"


class _Choice(Gene):
    """A gene over a finite list of values."""

    def __init__(self, choices: Sequence[Json], when: Mapping[str, Sequence[Json]] | None = None) -> None:
        super().__init__(when)
        if isinstance(choices, str) or len(choices) == 0:
            raise ValueError(f"choices: {choices!r} is not a non-empty list of values")
        self.choices = list(choices)
        self._index = {identity(choice): i for i, choice in enumerate(self.choices)}
        if len(self._index) != len(self.choices):
            raise ValueError(f"choices: {self.choices!r} contains a value twice")

    def index(self, value: Value) -> int:
        """Position of ``value`` among the choices; raises ``ValueError`` where it is none of them."""
        try:
            return self._index[identity(value)]
        except (KeyError, TypeError):
            raise ValueError(f"{value!r} is not one of {self.choices!r}") from None

    def sample(self, rng: random.Random) -> Value:
        return rng.choice(self.choices)

    def validate(self, value: Value) -> None:
        self.index(value)

    def encode(self, value: Value) -> list[float]:
        return [self.index(value) / max(1, len(self.choices) - 1)]

    def decode(self, numbers: Sequence[float]) -> Value:
        return self.choices[round(_clamp(numbers[0]) * (len(self.choices) - 1))]


class Categorical(_Choice):
    """One of several unordered values; a value can be any JSON, including a whole ``class_path`` section.

    Args:
        choices: The values, each once.
        when: See :class:`Gene`.

    >>> Categorical(["relu", "gelu"]).one_hot("gelu")
    [0.0, 1.0]
    """

    def mutate(self, value: Value, rng: random.Random) -> Value:
        at = self.index(value)
        others = self.choices[:at] + self.choices[at + 1 :]
        return rng.choice(others) if others else value

    def extremes(self) -> list[Value]:
        return list(self.choices)

    def one_hot(self, value: Value) -> list[float]:
        hot = [0.0] * len(self.choices)
        hot[self.index(value)] = 1.0
        return hot

    @property
    def one_hot_width(self) -> int:
        return len(self.choices)


class Ordinal(_Choice):
    """One of several ordered values; mutation steps to a neighboring value.

    Args:
        choices: The values in order, each once.
        when: See :class:`Gene`.

    >>> Ordinal([16, 32, 64]).mutate(16, random.Random(0))
    32
    """

    def mutate(self, value: Value, rng: random.Random) -> Value:
        return self.choices[_step(self.index(value), 1, len(self.choices) - 1, rng)]

    def extremes(self) -> list[Value]:
        return self.choices[:1] if len(self.choices) == 1 else [self.choices[0], self.choices[-1]]


class Integer(Gene):
    """An integer from ``low`` to ``high``, both included.

    Args:
        low: Smallest value.
        high: Largest value, at least ``low``.
        step: Distance between neighboring values (default 1), counted from ``low``.
        log: Sample and mutate on a logarithmic scale; requires ``low`` >= 1.
        mutation: Maximum step of a mutation, as a fraction of the range (default 0.2); at least one step.
        when: See :class:`Gene`.
    """

    def __init__(
        self,
        low: int,
        high: int,
        step: int = 1,
        log: bool = False,
        mutation: float = 0.2,
        when: Mapping[str, Sequence[Json]] | None = None,
    ) -> None:
        super().__init__(when)
        if low > high:
            raise ValueError(f"low: {low!r} is not at most high {high}")
        if step < 1:
            raise ValueError(f"step: {step!r} is not at least 1")
        if log and low < 1:
            raise ValueError(f"low: {low!r} is not at least 1, which a logarithmic range needs")
        _check_mutation(mutation)
        self.low, self.step, self.log, self.mutation = low, step, log, mutation
        self.high = low + (high - low) // step * step

    def sample(self, rng: random.Random) -> int:
        if self.log:
            half = self.step / 2
            return self._snap(_exp_between(max(self.low - half, self.low / 2), self.high + half, rng.random()))
        return rng.randrange(self.low, self.high + 1, self.step)

    def mutate(self, value: Value, rng: random.Random) -> int:
        if self.low == self.high:
            return self.low
        if self.log:
            moved = self.decode([self.encode(value)[0] + rng.uniform(-self.mutation, self.mutation)])
            return moved if moved != value else self._neighbor(value, 1, rng)
        count = (self.high - self.low) // self.step
        return self._neighbor(value, max(1, round(self.mutation * count)), rng)

    def _neighbor(self, value: int, reach: int, rng: random.Random) -> int:
        at, count = (value - self.low) // self.step, (self.high - self.low) // self.step
        return self.low + self.step * _step(at, reach, count, rng)

    def validate(self, value: Value) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{value!r} is not an integer")
        if not self.low <= value <= self.high or (value - self.low) % self.step:
            raise ValueError(f"{value!r} is not in {self.low}..{self.high} in steps of {self.step}")

    def extremes(self) -> list[Value]:
        return [self.low] if self.low == self.high else [self.low, self.high]

    def encode(self, value: Value) -> list[float]:
        if self.low == self.high:
            return [0.0]
        if self.log:
            return [math.log(value / self.low) / math.log(self.high / self.low)]
        return [(value - self.low) / (self.high - self.low)]

    def decode(self, numbers: Sequence[float]) -> int:
        at = _clamp(numbers[0])
        if self.log:
            return self._snap(_exp_between(self.low, self.high, at))
        return self.low + self.step * round(at * (self.high - self.low) / self.step)

    def _snap(self, number: float) -> int:
        nearest = self.low + self.step * round((number - self.low) / self.step)
        return min(self.high, max(self.low, nearest))


class Uniform(Gene):
    """A real number between ``low`` and ``high``, sampled uniformly.

    Args:
        low: Lower end.
        high: Upper end, above ``low``.
        mutation: Standard deviation of a mutation's Gaussian step, as a fraction of the range (default 0.2); steps are
            reflected at the ends.
        when: See :class:`Gene`.
        step: Distance between neighboring values, counted from ``low``. ``None`` (default): any number in the range.
    """

    def __init__(
        self,
        low: float,
        high: float,
        mutation: float = 0.2,
        when: Mapping[str, Sequence[Json]] | None = None,
        step: float | None = None,
    ) -> None:
        super().__init__(when)
        for name, bound in (("low", low), ("high", high)):
            if not math.isfinite(bound):
                raise ValueError(f"{name}: {bound!r} is not finite")
        if low >= high:
            raise ValueError(f"low: {low!r} is not below high {high}")
        _check_mutation(mutation)
        self.low, self.high, self.mutation, self.step = float(low), float(high), mutation, step
        if step is not None:
            if not 0 < step <= high - low:
                raise ValueError(f"step: {step!r} is not above 0 and at most high - low, {high - low:.12g}")
            self.high = self._at(math.floor((high - low) / step * (1 + 1e-12)))

    def sample(self, rng: random.Random) -> float:
        return self.decode([rng.random()])

    def mutate(self, value: Value, rng: random.Random) -> float:
        moved = self.decode([_reflect(self.encode(value)[0] + rng.gauss(0.0, self.mutation))])
        if self.step is None or moved != value:
            return moved
        return self._at(_step(self._count(value), 1, self._count(self.high), rng))

    def validate(self, value: Value) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{value!r} is not a number")
        if not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is not between {self.low} and {self.high}")
        if self.step is not None and not math.isclose(self._at(self._count(value)), value, abs_tol=1e-6 * self.step):
            raise ValueError(f"{value!r} is not in {self.low}..{self.high} in steps of {self.step}")

    def extremes(self) -> list[Value]:
        return [self.low, self.high]

    def encode(self, value: Value) -> list[float]:
        return [(value - self.low) / (self.high - self.low)]

    def decode(self, numbers: Sequence[float]) -> float:
        return self.snap(self.low + _clamp(numbers[0]) * (self.high - self.low))

    def snap(self, number: float) -> float:
        """The value in range that is nearest to a number."""
        inside = min(self.high, max(self.low, number))
        return inside if self.step is None else self._at(self._count(inside))

    def _count(self, value: float) -> int:
        assert self.step is not None
        return round((value - self.low) / self.step)

    def _at(self, count: int) -> float:
        assert self.step is not None
        return max(self.low, float(f"{self.low + count * self.step:.15g}"))  # 0.3, not 0.30000000000000004


class LogUniform(Uniform):
    """A positive real number between ``low`` and ``high``, sampled uniformly on a logarithmic scale.

    Args:
        low: Lower end, above 0.
        high: Upper end, above ``low``.
        mutation: Standard deviation of a mutation's step, as a fraction of the logarithmic range (default 0.2).
        when: See :class:`Gene`.
        step: See :class:`Uniform`.
    """

    def __init__(
        self,
        low: float,
        high: float,
        mutation: float = 0.2,
        when: Mapping[str, Sequence[Json]] | None = None,
        step: float | None = None,
    ) -> None:
        super().__init__(low, high, mutation, when, step)
        if low <= 0:
            raise ValueError(f"low: {low!r} is not above 0, which a logarithmic range needs")

    def encode(self, value: Value) -> list[float]:
        return [math.log(value / self.low) / math.log(self.high / self.low)]

    def decode(self, numbers: Sequence[float]) -> float:
        return self.snap(_exp_between(self.low, self.high, _clamp(numbers[0])))


class Boolean(Gene):
    """``true`` or ``false``; mutation flips the value.

    Args:
        when: See :class:`Gene`.
    """

    def sample(self, rng: random.Random) -> bool:
        return rng.random() < 0.5

    def mutate(self, value: Value, rng: random.Random) -> bool:
        return not value

    def validate(self, value: Value) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is not true or false")

    def extremes(self) -> list[Value]:
        return [False, True]

    def encode(self, value: Value) -> list[float]:
        return [float(value)]

    def decode(self, numbers: Sequence[float]) -> bool:
        return numbers[0] >= 0.5


class Bitstring(Gene):
    """A string of ``length`` characters 0 and 1: a chromosome that the model itself decodes.

    Args:
        length: Number of bits, at least 1.
        flip: Probability that a mutation flips each bit (default: 1 / ``length``); at least one bit always flips.
        canonical: Function, or its import path, that maps a bitstring to the representative of all bitstrings that
            build the same network, so that each network is trained only once. Default: every bitstring builds a
            different network.
        when: See :class:`Gene`.
    """

    def __init__(
        self,
        length: int,
        flip: float | None = None,
        canonical: Callable[[str], str] | None = None,
        when: Mapping[str, Sequence[Json]] | None = None,
    ) -> None:
        super().__init__(when)
        if length < 1:
            raise ValueError(f"length: {length!r} is not at least 1")
        if length > 100_000:
            raise ValueError(f"length: {length} is not at most 100000")
        if flip is not None and not 0 < flip <= 1:
            raise ValueError(f"flip: {flip!r} is not a probability above 0")
        self.length = length
        self.flip = 1 / length if flip is None else flip
        self._canonical = canonical

    def sample(self, rng: random.Random) -> str:
        return format(rng.getrandbits(self.length), f"0{self.length}b")

    def mutate(self, value: Value, rng: random.Random) -> str:
        flips = [rng.random() < self.flip for _ in value]
        if not any(flips):
            flips[rng.randrange(self.length)] = True
        return "".join("01"[bit == "0"] if flip else bit for bit, flip in zip(value, flips, strict=True))

    def crossover(self, first: Value, second: Value, rng: random.Random) -> tuple[str, str]:
        """One-point crossover of the two strings; a single bit has no inner point and stays."""
        if self.length == 1:
            return first, second
        cut = rng.randint(1, self.length - 1)
        return first[:cut] + second[cut:], second[:cut] + first[cut:]

    def canonical(self, value: Value) -> Value:
        return value if self._canonical is None else self._canonical(value)

    def validate(self, value: Value) -> None:
        if not isinstance(value, str) or len(value) != self.length or set(value) - {"0", "1"}:
            raise ValueError(f"{value!r} is not a string of {self.length} characters 0 and 1")

    def extremes(self) -> list[Value]:
        return ["0" * self.length, "1" * self.length]

    def encode(self, value: Value) -> list[float]:
        return [float(bit) for bit in value]

    def decode(self, numbers: Sequence[float]) -> str:
        return "".join("1" if number >= 0.5 else "0" for number in numbers)

    @property
    def width(self) -> int:
        return self.length


def _clamp(number: float) -> float:
    return min(1.0, max(0.0, number))


def _reflect(number: float) -> float:
    """Fold the real line into [0, 1], so that steps over an end come back instead of piling up on it."""
    number = abs(number) % 2.0
    return 2.0 - number if number > 1.0 else number


def _exp_between(low: float, high: float, at: float) -> float:
    return low * (high / low) ** at


def _step(at: int, reach: int, top: int, rng: random.Random, floor: int = 0) -> int:
    """Move ``at`` by 1..reach up or down within floor..top, never staying where there is another place."""
    if top == floor:
        return at
    lowest, highest = max(floor, at - reach), min(top, at + reach)
    # Drawn as `rng.choice` would from a list of these places, which in a wide range would fill the memory.
    place = lowest + rng.randrange(highest - lowest)
    return place if place < at else place + 1


def _check_mutation(mutation: float) -> None:
    if not 0 < mutation <= 1:
        raise ValueError(f"mutation: {mutation!r} is not a fraction of the range above 0 and at most 1")
