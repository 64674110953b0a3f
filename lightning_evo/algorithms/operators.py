"""Operators by name, as in YAML: DEAP's, ours, or the user's own function, with checked arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deap import tools

from lightning_evo.algorithms.sequences import LAYER_MATES, LAYER_MUTATIONS
from lightning_evo.genome import SearchSpace
from lightning_evo.utils.imports import import_by_name

__all__ = ["REFUSED", "Operator", "Role", "Scale"]

Role = Literal["select", "mate", "mutate", "survive"]
Scale = Literal["values", "unit", "bits"]

SELECTION = (
    "selAutomaticEpsilonLexicase",
    "selBest",
    "selDoubleTournament",
    "selEpsilonLexicase",
    "selLexicase",
    "selNSGA2",
    "selNSGA3",
    "selRandom",
    "selRoulette",
    "selSPEA2",
    "selStochasticUniversalSampling",
    "selTournament",
    "selTournamentDCD",
    "selWorst",
)

SCALES: Mapping[str, tuple[Scale, ...]] = {
    "cxBlend": ("unit",),
    "cxOnePoint": ("values", "unit", "bits"),
    "cxSimulatedBinary": ("unit",),
    "cxSimulatedBinaryBounded": ("unit",),
    "cxTwoPoint": ("values", "unit", "bits"),
    "cxUniform": ("values", "unit", "bits"),
    "mutFlipBit": ("bits",),
    "mutGaussian": ("unit",),
    "mutInversion": ("bits",),
    "mutPolynomialBounded": ("unit",),
    "mutShuffleIndexes": ("bits",),
    "mutUniformInt": ("bits",),
}
"""DEAP's crossovers and mutations: what each can act on, the default first."""

OURS: Mapping[str, Callable[..., Any]] = {
    "uniform": SearchSpace.crossover,
    "per_gene": SearchSpace.mutate,
    "self_adaptive": SearchSpace.mutate_self_adaptive,
    **LAYER_MATES,
    **LAYER_MUTATIONS,
}
"""Our own operators: functions of the search space, genomes and a random stream."""

_PERMUTATION = "it expects a permutation of indices, which a genome is not"
_STRATEGY = "it expects an individual with a strategy vector; mutate: {name: self_adaptive} evolves the rates instead"
REFUSED: Mapping[str, str] = {
    "cxESBlend": _STRATEGY,
    "cxESTwoPoint": _STRATEGY,
    "cxESTwoPoints": _STRATEGY,
    "cxMessyOnePoint": "it changes the length of an individual, and a genome has one value per gene",
    "cxOrdered": _PERMUTATION,
    "cxPartialyMatched": _PERMUTATION,
    "cxTwoPoints": "DEAP renamed it cxTwoPoint",
    "cxUniformPartialyMatched": _PERMUTATION,
    "mutESLogNormal": _STRATEGY,
    "selNSGA3WithMemory": "it keeps a memory between calls that a resumed search would not have; selNSGA3 keeps none",
}
"""DEAP's operators that cannot act on a genome, with the reason."""

FIXED: Mapping[str, Mapping[str, Any]] = {
    "cxSimulatedBinaryBounded": {"low": 0.0, "up": 1.0},
    "mutPolynomialBounded": {"low": 0.0, "up": 1.0},
    "mutUniformInt": {"low": 0, "up": 1},
    "selNSGA2": {"nd": "log"},
    "selNSGA3": {"nd": "log"},
}
"""Arguments that have one right value here."""

_PROBABILITIES = ("indpb", "rate", "swap", "initial")
_FAMILY: Mapping[Role, tuple[str, tuple[str, ...], int]] = {
    "select": ("sel", (), 2),
    "survive": ("sel", (), 2),
    "mate": ("cx", ("uniform", *LAYER_MATES), 2),
    "mutate": ("mut", ("per_gene", "self_adaptive", *LAYER_MUTATIONS), 1),
}
"""Role -> the prefix of DEAP's names, our names, and how many leading arguments the algorithm itself supplies."""


@dataclass(frozen=True)
class Operator:
    """An operator by name, as written in YAML: ``{name: selTournament, arguments: {tournsize: 5}}``.

    Args:
        name: One of DEAP's (``selTournament``, ``cxTwoPoint``, ``mutGaussian``, ...); ours: ``uniform`` (mate; argument
            ``swap``), ``per_gene`` (mutate; ``rate``), ``self_adaptive`` (mutate; ``initial``, ``ladder``), and for
            spaces with a Layers gene ``insert_layer``, ``delete_layer``, ``duplicate_layer``, ``swap_layers``,
            ``alter_layer`` (mutate; ``rate``), ``one_point_layers`` and ``homologous_layers`` (mate; ``swap``); or the
            import path of your own function with DEAP's signature: ``select(individuals, k)`` returns a list,
            ``mate(list1, list2)`` a pair of lists, ``mutate(list1)`` a tuple of one list.
        arguments: Additional arguments. ``low`` and ``up`` are the ends of the scale and need not be given;
            ``ref_points`` of ``selNSGA3`` can be a number of divisions.
        acts_on: The list that a crossover or mutation acts on. ``values``: one unmodified element per gene of the space
            (:data:`~lightning_evo.algorithms.INACTIVE` for inactive genes). ``unit``: the numbers in [0, 1] of
            ``SearchSpace.encode``, clipped to [0, 1] and decoded afterwards; unordered values are represented by their
            index. ``bits``: the bits of the active Bitstring and Boolean genes. Default: suitable for the operator;
            ``values`` for your own function.

    Raises:
        ValueError: If the name is unknown or unsupported, or ``acts_on`` doesn't suit it.

    >>> Operator("selTournment")
    Traceback (most recent call last):
    ValueError: 'selTournment' is not an operator; did you mean 'selTournament'?
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    acts_on: Scale | None = None  # not `on`, which YAML reads as true

    def __post_init__(self) -> None:
        plain = self.name.removeprefix("deap.tools.")
        if plain != self.name and (plain in SELECTION or plain in SCALES or plain in REFUSED):
            object.__setattr__(self, "name", plain)
        if self.name in REFUSED:
            raise ValueError(f"{self.name!r} cannot be used: {REFUSED[self.name]}")
        known = [*SELECTION, *SCALES, *OURS]
        if "." not in self.name and self.name not in known:
            close = difflib.get_close_matches(self.name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"{self.name!r} is not an operator; {hint}")
        if self.acts_on is not None:
            accepted = SCALES.get(self.name, ("values", "unit", "bits") if "." in self.name else ())
            if self.acts_on not in accepted:
                raise ValueError(f"acts_on: {self.acts_on!r} is not one of {list(accepted)}, which {self.name!r} takes")

    @property
    def scale(self) -> Scale:
        """The list it acts on: ``acts_on``, or what suits the operator."""
        return self.acts_on or SCALES.get(self.name, ("values",))[0]

    def resolve(self, role: Role) -> Callable[..., Any]:
        """The function to use as ``role``, with its arguments checked against its signature.

        Raises:
            ValueError: If the operator is of another kind, can't be imported, or doesn't take its arguments.
        """
        prefix, ours, leading = _FAMILY[role]
        names = [*(name for name in (*SELECTION, *SCALES) if name.startswith(prefix)), *ours]
        if "." in self.name:
            function = _imported(self.name, role)
        elif self.name not in names:
            raise ValueError(f"{role}: {self.name!r} is of another kind; there are {', '.join(names)}")
        else:
            function = OURS.get(self.name) or getattr(tools, self.name)
        if role in ("select", "survive") and self.acts_on is not None:
            raise ValueError(f"{role}: acts_on {self.acts_on!r} has no meaning for a selection; leave it out")
        # Our operators are methods of the search space that take the random stream: both are supplied.
        self._check_arguments(function, role, leading + 2 if self.name in OURS else leading)
        return function

    def complete_arguments(self) -> dict[str, Any]:
        """The arguments given and those that have one right value here."""
        return {**self.arguments, **FIXED.get(self.name, {})}

    def _check_arguments(self, function: Callable[..., Any], role: Role, leading: int) -> None:
        where = f"{role}: {self.name}"
        for name, value in FIXED.get(self.name, {}).items():
            if name in self.arguments and self.arguments[name] != value:
                raise ValueError(
                    f"{where}: {name} is always {value!r} here, not {self.arguments[name]!r}; leave it out"
                )
        try:
            signature = inspect.signature(function)
            signature.bind(*[None] * leading, **self.complete_arguments())
        except TypeError as error:
            free = [n for n in list(signature.parameters)[leading:] if n not in FIXED.get(self.name, {})]
            raise ValueError(f"{where}: {error}; its arguments are {', '.join(free) or 'none'}") from None
        for name in _PROBABILITIES:
            value = self.arguments.get(name)
            if value is not None and (not isinstance(value, (int, float)) or not 0 <= value <= 1):
                raise ValueError(f"{where}: {name}: {value!r} is not a probability between 0 and 1")
        ladder = self.arguments.get("ladder")
        if ladder is not None and (
            not ladder or sorted(ladder) != list(ladder) or not 0 < ladder[0] <= ladder[-1] <= 1
        ):
            raise ValueError(f"{where}: ladder {ladder!r} does not rise from above 0 to at most 1")


def _imported(path: str, role: Role) -> Callable[..., Any]:
    try:
        function = import_by_name(path)
    except ImportError as error:
        raise ValueError(f"{role}: cannot import {path!r}: {error}") from error
    if not callable(function):
        raise ValueError(f"{role}: {path!r} is {function!r}, not a function")
    return function
