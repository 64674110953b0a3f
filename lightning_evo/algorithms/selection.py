"""DEAP's selections, prepared so that they work on any population."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import cycle, islice
from typing import Any

from deap import tools
from deap.tools.emo import assignCrowdingDist

from lightning_evo.algorithms.individual import Fitness, Individual
from lightning_evo.algorithms.operators import Operator, Role
from lightning_evo.genome import Candidate, Genome, Objective

__all__ = ["Select", "selection"]

Select = Callable[[Sequence[Individual], int], list[Individual]]


def selection(operator: Operator, role: Role, objectives: Sequence[Objective]) -> Select:
    """Make a function that picks ``k`` of some individuals, and at least one.

    Args:
        operator: The operator to use.
        role: ``select`` (parents) or ``survive``; errors name it.
        objectives: The objectives of the individuals' fitness.

    Raises:
        ValueError: If the operator doesn't fit the objectives, or fails on a trial population.
    """
    function = operator.resolve(role)
    arguments = operator.complete_arguments()
    if operator.name == "selNSGA3":
        if len(objectives) < 2:
            raise ValueError(f"{role}: selNSGA3 needs two objectives or more; with one, selBest does the same")
        points = arguments["ref_points"]
        if isinstance(points, int):
            arguments["ref_points"] = tools.uniform_reference_points(len(objectives), p=points)
    prepared = _TournamentByCrowding() if operator.name == "selTournamentDCD" else _PREPARED.get(operator.name, _as_is)
    chosen_by = partial(prepared, partial(function, **arguments))

    def select(individuals: Sequence[Individual], k: int) -> list[Individual]:
        # Rounding may leave the roulette empty-handed.
        return chosen_by(list(individuals), k) or [random.choice(individuals)]

    _try(select, f"{role}: {operator.name} with arguments {operator.arguments}", objectives)
    return select


class _StandIn:
    """Takes an individual's place in a selection, with another fitness."""

    def __init__(self, index: int, fitness: Fitness) -> None:
        self.index = index
        self.fitness = fitness


def _as_is(function: Callable[..., Any], individuals: list[Individual], k: int) -> list[Individual]:
    return function(individuals, k)


class _TournamentByCrowding:
    """DEAP draws in fours, from at least as many individuals, whose crowding distances it expects to find.

    They are computed once per population, on stand-ins: ``selNSGA2`` writes others, over a larger set, to the
    individuals themselves, and a resumed search must not depend on which of the two came last.
    """

    def __init__(self) -> None:
        self._population: list[Individual] = []
        self._stand_ins: list[_StandIn] = []

    def __call__(self, function: Callable[..., Any], individuals: list[Individual], k: int) -> list[Individual]:
        if individuals != self._population:
            self._population = individuals
            self._stand_ins = [_StandIn(i, deepcopy(each.fitness)) for i, each in enumerate(individuals)]
            _assign_crowding(self._stand_ins)
        fours = -(-k // 4) * 4
        pool = list(islice(cycle(self._stand_ins), max(fours, len(individuals))))
        return [individuals[chosen.index] for chosen in function(pool, fours)[:k]]


def _assign_crowding(individuals: Sequence[Individual | _StandIn]) -> None:
    if len(individuals[0].fitness.wvalues) == 1:  # one objective: rank alone decides
        for individual in individuals:
            individual.fitness.crowding_dist = 0.0
        return
    for front in tools.sortLogNondominated(individuals, len(individuals)):
        assignCrowdingDist(front)


def _nsga2(function: Callable[..., Any], individuals: list[Individual], k: int) -> list[Individual]:
    """With one objective NSGA-II's order is that of fitness; DEAP's fast sort fails there (IndexError, DEAP 1.4.4)."""
    if len(individuals[0].fitness.wvalues) == 1:
        _assign_crowding(individuals)
        return tools.selBest(individuals, k)
    return function(individuals, k)


def _at_most_all(function: Callable[..., Any], individuals: list[Individual], k: int) -> list[Individual]:
    return function(individuals, min(k, len(individuals)))


def _proportional(function: Callable[..., Any], individuals: list[Individual], k: int) -> list[Individual]:
    """Fitness-proportional selection needs positive fitness to maximize; otherwise shares count from the worst.

    The worst then gets a tenth of the range, so that it can still be drawn.
    """
    shares = [individual.fitness.wvalues[0] for individual in individuals]
    low, high = min(shares), max(shares)
    if individuals[0].fitness.weights[0] < 0 or low <= 0:
        shares = [share - low + ((high - low) / 10 or 1.0) for share in shares]
    stand_ins = [_StandIn(i, Fitness((1.0,), (share,))) for i, share in enumerate(shares)]
    return [individuals[chosen.index] for chosen in function(stand_ins, k)]


_PREPARED: dict[str, Callable[[Callable[..., Any], list[Individual], int], list[Individual]]] = {
    "selNSGA2": _nsga2,
    "selNSGA3": _at_most_all,
    "selRoulette": _proportional,
    "selSPEA2": _at_most_all,
    "selStochasticUniversalSampling": _proportional,
}


def _try(select: Select, what: str, objectives: Sequence[Objective]) -> None:
    """Select from a made-up population, so that a wrong argument shows before the search rather than in it."""
    weights = [objective.weight for objective in objectives]
    made_up = []
    for i in range(8):
        values = [float((i * (j + 3)) % 8 + 1) for j in range(len(weights))]
        made_up.append(Individual(Candidate(i, Genome({"gene": i})), str(i), Fitness(weights, values)))
    try:
        chosen = select(made_up, 2)
    except Exception as error:
        raise ValueError(f"{what} fails: {type(error).__name__}: {error}") from error
    if not isinstance(chosen, list) or any(individual not in made_up for individual in chosen):
        raise ValueError(f"{what} gives {chosen!r}, not a list of the individuals to choose from")
