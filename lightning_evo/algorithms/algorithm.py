"""The base of all algorithms: four parts (initialize, select parents, vary, survive) behind ask and tell."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

from deap import base, tools

from lightning_evo.algorithms.checks import check_at_least, read_initial
from lightning_evo.algorithms.hall_of_fame import HallOfFame, ParetoFront
from lightning_evo.algorithms.individual import Fitness, Individual, Toolbox
from lightning_evo.algorithms.logbook import make_logbook, no_statistics
from lightning_evo.algorithms.operators import Operator, Role
from lightning_evo.algorithms.prescreen import Prescreen, Screen
from lightning_evo.algorithms.quality import Quality
from lightning_evo.algorithms.randomness import streams
from lightning_evo.algorithms.search_setup import SearchSetup
from lightning_evo.algorithms.selection import selection
from lightning_evo.algorithms.variation import mating, mutation
from lightning_evo.genome import (
    FAILED,
    Candidate,
    Genome,
    Json,
    Objective,
    Prediction,
    Result,
    SearchSpace,
    derive_seed,
)
from lightning_evo.genome.representation import constructed, html_table, listed

if TYPE_CHECKING:

    class Shared(TypedDict, total=False):
        """Arguments that every algorithm which breeds takes, as ``**shared``.

        Only type checkers see it. jsonargparse finds the parameters, with their defaults and descriptions, by following
        ``**shared`` into :class:`Algorithm`; from a ``TypedDict`` that it can import it would take types alone.
        """

        initial: list[dict[str, Json]] | None
        duplicate_retries: int
        hall_of_fame_size: int
        prescreen: Prescreen | None


__all__ = ["Algorithm"]

_BEST_SHOWN = 10
"""Rows of the table in a notebook."""

CLIMBERS = 4
"""Number of the most promising children that each round of local search over a predictor mutates further."""


@dataclass(frozen=True)
class _Child:
    """A new genome that isn't a candidate yet."""

    genome: Genome
    phenotype: str
    parents: list[Individual]
    origin: str


class Algorithm(ABC):
    """Proposes candidates and receives their results; subclasses define survival, and may define the other parts.

    A complete custom algorithm (steady state: it breeds on every ask, and never makes a slot wait):

    >>> from lightning_evo.algorithms import Algorithm
    >>> class KeepTheBest(Algorithm):
    ...     def select_parents(self):
    ...         return self.toolbox.select(self.population, 1)
    ...
    ...     def vary(self, parents):
    ...         return self.toolbox.mutate(parents[0].genome)
    ...
    ...     def survive(self, population):
    ...         return self.toolbox.survive(population, self.population_size)

    Its use:

    >>> from lightning_evo.algorithms import Operator, SearchSetup
    >>> from lightning_evo.genome import Integer, Objective, Result, SearchSpace
    >>> algorithm = KeepTheBest(population_size=4, select=Operator("selTournament", {"tournsize": 2}))
    >>> space = SearchSpace({"model.x": Integer(0, 100)})
    >>> algorithm.bind(SearchSetup(space, [Objective("val_acc")], seed=1))
    >>> for _ in range(60):
    ...     candidate = algorithm.ask()
    ...     algorithm.tell(candidate, Result("completed", fitness=(-abs(candidate.genome["model.x"] - 42),)))
    >>> algorithm.hall_of_fame[0].genome["model.x"]
    42

    Inside the four methods :attr:`rng`, Python's global ``random`` (DEAP's operators use it) and NumPy's global state
    are seeded for each call, so that the run's seed, the candidate's id and the results so far determine the outcome.
    Don't keep state that :meth:`ask` changes: a resumed search recalls candidates without breeding them.

    Set ``synchronous = True`` for a generational algorithm: it provides ``population_size`` candidates
    (:attr:`generation_size` after the first generation), then makes the slots wait (:meth:`ask` returns ``None``) until
    all results are in, and only then calls :meth:`survive`; so it gives the same candidates on any number of slots.

    Args:
        population_size: Size of the population, and number of initial random candidates (default 16).
        select: Operator registered as ``toolbox.select`` (parents). Default: tournament of 3; with several objectives
            ``selTournamentDCD``.
        mate: Operator registered as ``toolbox.mate``. Default: ``uniform``.
        mutate: Operator registered as ``toolbox.mutate``. Default: ``per_gene``.
        survive: Operator registered as ``toolbox.survive``. Default: ``selBest``; with several objectives ``selNSGA2``.
        initial: Genomes to start from, as config path -> value; missing genes are sampled.
        duplicate_retries: How often to breed again when a child duplicates an earlier candidate (default 10); after
            that the duplicate is returned, with ``duplicate_of`` set.
        hall_of_fame_size: Number of best individuals to keep (default 10); with several objectives the whole front is
            kept.
        prescreen: Breed many children and train the one with the best predicted fitness. Default: train every child.

    Raises:
        ValueError: If a value is out of range, or an operator doesn't exist or doesn't take its arguments.
    """

    segment_callback: str = "lightning_evo.callbacks.Continuation"
    """Import path of the callback that trains a segment (``Candidate.segment``), for an algorithm that ``continues``."""
    schedule_callback: str = "lightning_evo.callbacks.HyperparameterSchedule"
    """Import path of the callback that repeats, in one fit, what the segments of an algorithm that ``continues`` did."""
    swarm_callback: Mapping[str, Any] | None = None
    """The callback that averages a swarm's weights where the search names none: ``class_path`` and ``init_args``."""
    synchronous: bool = False
    """Whether :meth:`ask` returns ``None``, making slots wait, until a generation is complete."""
    continues: bool = False
    """Whether its candidates continue the training of others (``Candidate.segment``), from their checkpoints."""
    epochs: int | None = None
    """Epochs of a whole training, for an algorithm that ``continues``; ``None``: :attr:`SearchSetup.max_epochs`."""
    swarm_size: int | None = None
    """Number of consecutive candidates that form a swarm and train together; ``None``: each trains by itself."""
    tournament_size: int = 3
    """Individuals in each tournament of the default operator ``select``, where there is one objective."""
    crossover_probability: float = 0.0
    """Probability of two parents in place of one, in the default :meth:`select_parents`."""
    mutation_probability: float = 1.0
    """Probability that a child of two parents mutates, in the default :meth:`vary`."""
    survival_draws: bool = True
    """Whether :meth:`survive` needs random numbers; ``False`` saves a steady-state algorithm 0.15 ms per tell."""

    setup: SearchSetup
    """The search that it is bound to, with :attr:`space`, :attr:`objectives` and :attr:`seed`."""
    space: SearchSpace
    objectives: tuple[Objective, ...]
    seed: int
    rng: random.Random
    """Random numbers for the search space's methods, seeded anew for each ask."""
    toolbox: Toolbox
    """DEAP's: ``select(individuals, k)``, ``mate(genome, genome)``, ``mutate(genome)``, ``survive(individuals, k)``."""
    population: list[Individual]
    """The individuals that :meth:`survive` kept; all have a fitness."""
    operators: dict[Role, Operator]
    """The operators given by the user, without the defaults."""
    screen: Screen | None
    """The prescreen in use; ``None`` without one."""
    hall_of_fame: HallOfFame | ParetoFront
    logbook: tools.Logbook
    """One record per generation, or per :attr:`log_every` tells: ``gen``, ``nevals``, ``failed``, ``diversity`` (the
    fraction of distinct phenotypes), and for each objective a chapter with ``min``, ``mean``, ``max``, ``std``, all
    over the population."""

    def __init__(
        self,
        population_size: int = 16,
        select: Operator | None = None,
        mate: Operator | None = None,
        mutate: Operator | None = None,
        survive: Operator | None = None,
        initial: list[dict[str, Json]] | None = None,
        duplicate_retries: int = 10,
        hall_of_fame_size: int = 10,
        prescreen: Prescreen | None = None,
    ) -> None:
        check_at_least("population_size", population_size, 1)
        check_at_least("duplicate_retries", duplicate_retries, 0)
        check_at_least("hall_of_fame_size", hall_of_fame_size, 1)
        self.population_size = population_size
        self.duplicate_retries = duplicate_retries
        self.hall_of_fame_size = hall_of_fame_size
        self.initial = list(initial or [])
        self.prescreen = prescreen
        chosen: dict[Role, Operator | None] = {"select": select, "mate": mate, "mutate": mutate, "survive": survive}
        self.operators = {role: operator for role, operator in chosen.items() if operator is not None}
        for role, operator in self.operators.items():
            operator.resolve(role)

    def __repr__(self) -> str:
        """The class with the arguments that aren't defaults; once bound, also the progress of the search."""
        arguments = ", ".join(constructed(self, getattr(self, "operators", {})))
        return f"{type(self).__name__}({arguments})" + (f" <{state}>" if (state := self._state()) else "")

    def _repr_html_(self) -> str:
        best = list(self.hall_of_fame)[:_BEST_SHOWN] if hasattr(self, "space") else []
        monitors = [objective.monitor for objective in self.objectives] if best else []
        rows = [[each.id, *each.fitness.values, listed(each.genome), list(each.candidate.parents)] for each in best]
        table = html_table(["id", *monitors, "genome", "parents"], rows) if rows else ""
        return f"{html_table([], [], repr(self))}{table}"

    def _state(self) -> str:
        if not hasattr(self, "space"):
            return ""
        best = self.hall_of_fame[0] if len(self.hall_of_fame) else None
        values = [] if best is None else zip(self.objectives, best.fitness.values, strict=True)
        fitness = ", ".join(f"{objective.monitor} {value:.4g}" for objective, value in values)
        where = f"; {fitness} (candidate {best.id})" if best is not None else ""
        return f"{self._told} of {self._asked} told{where}"

    # -- the four parts ------------------------------------------------------------------------------------------------

    def initialise(self) -> Genome:
        """Make a genome without parents; by default drawn from the whole space."""
        return self.space.sample(self.rng)

    def select_parents(self) -> list[Individual]:
        """Choose the parents of one child from :attr:`population`, which holds at least one individual.

        By default two with :attr:`crossover_probability`, else one.
        """
        return self.toolbox.select(self.population, 2 if self.rng.random() < self.crossover_probability else 1)

    def vary(self, parents: list[Individual]) -> Genome:
        """Make one child's genome; by default with :meth:`recombine` and :attr:`mutation_probability`."""
        return self.recombine(parents, self.mutation_probability)

    @abstractmethod
    def survive(self, population: list[Individual]) -> list[Individual]:
        """Choose the survivors.

        Args:
            population: Those alive (:attr:`population`, in its order), then the newcomers by age; a steady-state
                algorithm gets one newcomer at a time. None of them failed.
        """

    # -- what an algorithm may change besides --------------------------------------------------------------------------

    @property
    def generation_size(self) -> int:
        """Number of candidates in each generation after the first (synchronous algorithms)."""
        return self.population_size

    @property
    def log_every(self) -> int:
        """Number of tells per record in the logbook (steady-state algorithms)."""
        return self.population_size

    @property
    def exhausted(self) -> bool:
        """Whether there are no further candidates, whatever the budget; :meth:`ask` then returns ``None``."""
        return False

    @property
    def visible_before(self) -> int | None:
        """Running candidates may see the results of candidates below this id; ``None``: all results.

        In a synchronous algorithm those of earlier generations, so that the order in which candidates end doesn't matter.
        """
        return self._generation.start if self.synchronous else None

    @property
    def ancestors(self) -> set[int]:
        """Ids of candidates whose weights future candidates may start from; their checkpoints are kept.

        By default those alive, and those that may survive when the generation in progress ends.
        """
        told = (individual for individual, _ in self._ended.values() if individual.fitness.valid)
        return {_weights_of(individual) for individual in (*self.population, *told)}

    def swarm(self, candidate: Candidate) -> int | None:
        """The number of the swarm that a candidate belongs to; ``None`` without swarms."""
        return None if self.swarm_size is None else candidate.id // self.swarm_size

    def default_operators(self) -> dict[Role, Operator]:
        """The operators used unless the user names others; :attr:`objectives` are set by then."""
        several = len(self.objectives) > 1
        tournament = Operator("selTournament", {"tournsize": self.tournament_size})
        return {
            "select": Operator("selTournamentDCD") if several else tournament,
            "mate": Operator("uniform"),
            "mutate": Operator("per_gene"),
            "survive": Operator("selNSGA2") if several else Operator("selBest"),
        }

    @property
    def predictor_quality(self) -> list[Quality]:
        """The result of every validation of the prescreen's predictors so far; empty without a prescreen."""
        return [] if self.screen is None else self.screen.quality

    def recombine(self, parents: list[Individual], mutation_probability: float = 1.0) -> Genome:
        """Mate two parents, then mutate with ``mutation_probability``; a single parent is always mutated."""
        child = parents[0].genome
        if len(parents) > 1:
            child, _ = self.toolbox.mate(child, parents[1].genome)
        if len(parents) == 1 or self.rng.random() < mutation_probability:
            child = self.toolbox.mutate(child)
        return child

    # -- ask and tell --------------------------------------------------------------------------------------------------

    def bind(self, setup: SearchSetup) -> None:
        """Start afresh on a search.

        Raises:
            ValueError: If an operator or initial genome doesn't fit the search space.
        """
        self._initial = read_initial(self.initial, setup.space)
        self.setup, self.space, self.objectives, self.seed = setup, setup.space, tuple(setup.objectives), setup.seed
        self.rng = random.Random()
        self._origin: list[str] = []
        with streams(self.rng, self.seed, "bind"):
            self.toolbox = self._make_toolbox()
        self.population = []
        self.screen = None if self.prescreen is None else Screen(self.prescreen, setup)
        monitors = [objective.monitor for objective in self.objectives]
        several = len(monitors) > 1
        self.hall_of_fame = ParetoFront(len(monitors)) if several else HallOfFame(self.hall_of_fame_size)
        self.logbook, self._statistics = make_logbook(monitors)
        self._pending: dict[int, Individual] = {}
        self._first_asked: dict[str, int] = {}
        self._asked = self._told = self._failed = 0
        self._sampled = max(self.population_size, len(self.initial))
        self._generation = range(self._sampled)  # ids of the generation in progress, where synchronous
        self._ended: dict[int, tuple[Individual, Result]] = {}  # those of it that are told

    def ask(self) -> Candidate | None:
        """The next candidate, or ``None`` where a synchronous algorithm has to be told first."""
        if not hasattr(self, "space"):
            raise RuntimeError(
                f"{type(self).__name__} has no search space yet: call bind(SearchSetup(space, objectives, seed)) first"
            )
        if self.synchronous and self._asked >= self._generation.stop:
            return None
        individual = self._breed(self._asked)
        self._register(individual)
        return individual.candidate

    def recall(self, candidate: Candidate) -> None:
        """Register a candidate that an earlier process asked for, exactly as :meth:`ask` did then.

        To resume, recall all candidates by id, then tell the results in the order in which they were told.

        Raises:
            ValueError: If another id comes next.
        """
        if candidate.id != self._asked:
            raise ValueError(f"candidate {candidate.id} is recalled, but {self._asked} comes next: recall them by id")
        self._register(self._individual(candidate, self.space.phenotype(candidate.genome)))

    def tell(self, candidate: Candidate, result: Result) -> None:
        """Record a candidate's result; one that failed, or with a fitness that isn't finite, never becomes a parent.

        Raises:
            ValueError: If the candidate isn't pending, or its fitness doesn't have one value per objective.
        """
        individual = self._pending.get(candidate.id)
        if individual is None:
            raise ValueError(f"candidate {candidate.id} was told before, or never asked for")
        fitness = self._usable_fitness(candidate, result)
        del self._pending[candidate.id]
        self._told += 1
        if fitness is None:
            self._failed += 1
        else:
            individual.fitness.values = fitness
            self.hall_of_fame.update([individual])
        if self.synchronous:
            self._ended[candidate.id] = individual, result
            while all(i in self._ended for i in self._generation):
                self._end_generation()
            return
        self._learn(individual, result)
        if individual.fitness.valid:
            self._survive([individual], self._told)
        if self._told % self.log_every == 0:
            self._log(self._told // self.log_every - 1, self.log_every)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _breed(self, id: int) -> Individual:
        """Breed an individual: the first child that is new, or the most promising of many by the predictor."""
        if self.screen is None:
            return self._individual_of(id, self._litter(id, 1)[0], None)
        filtered = self.screen.ready() and id >= len(self.initial) and not self.screen.explores(id)
        litter = self._litter(id, self.screen.settings.pool if filtered else 1)
        predictions = self.screen.predict([child.genome for child in litter])
        if not filtered:
            return self._individual_of(id, litter[0], predictions[0])
        rng = random.Random(derive_seed(self.seed, "screen", id))
        # Not the hall of fame, which changes within a generation in the order in which slots happen to end.
        alive = [individual.fitness.values for individual in self.population]
        order = self.screen.order(predictions, alive, rng)
        for round in range(self.screen.settings.rounds):
            further = self._further(id, round, litter, [litter[i] for i in order[:CLIMBERS]])
            if not further:
                break
            litter += further
            predictions += self.screen.predict([child.genome for child in further])
            order = self.screen.order(predictions, alive, rng)
        return self._individual_of(id, litter[order[0]], replace(predictions[order[0]], used=True))

    def _litter(self, id: int, count: int) -> list[_Child]:
        """Breed up to ``count`` distinct new children, each again from other streams while it isn't new.

        Fewer if retries run out; if none is new, the last child as it is.
        """
        litter: dict[str, _Child] = {}
        for attempt in range(count * (self.duplicate_retries + 1)):
            with streams(self.rng, self.seed, "breed", id, attempt):
                child = self._child(*self._make_genome(id))
            if child.phenotype not in self._first_asked:
                litter.setdefault(child.phenotype, child)
            if len(litter) == count:
                break
        return list(litter.values()) or [child]

    def _further(self, id: int, round: int, litter: list[_Child], climbers: list[_Child]) -> list[_Child]:
        """Mutate the most promising children, to as many new ones as the pool; they have those children's parents."""
        assert self.screen is not None
        known = {child.phenotype for child in litter}
        further = []
        with streams(self.rng, self.seed, "climb", id, round):
            for i in range(self.screen.settings.pool):
                climber = climbers[i % len(climbers)]
                child = self._child(self.toolbox.mutate(climber.genome), climber.parents, climber.origin)
                if child.phenotype not in self._first_asked and child.phenotype not in known:
                    known.add(child.phenotype)
                    further.append(child)
        return further

    def _child(self, genome: Genome, parents: list[Individual], origin: str) -> _Child:
        return _Child(genome, self.space.phenotype(genome), parents, origin)

    def _individual_of(self, id: int, child: _Child, prediction: Prediction | None) -> Individual:
        original = self._first_asked.get(child.phenotype)
        inherits = self.setup.inherits and bool(child.parents) and original is None
        candidate = Candidate(
            id=id,
            genome=child.genome,
            parents=tuple(dict.fromkeys(parent.id for parent in child.parents)),
            generation=1 + max((parent.candidate.generation for parent in child.parents), default=-1),
            seed=derive_seed(self.seed, "train", id),
            origin=child.origin,
            inherits=_weights_of(child.parents[0]) if inherits else None,
            duplicate_of=original,
            prediction=prediction,
        )
        return self._individual(candidate, child.phenotype)

    def _make_genome(self, id: int) -> tuple[Genome, list[Individual], str]:
        if id < len(self.initial):
            return self.space.complete(self._initial[id], self.rng), [], "initial"
        if id < self._sampled or not self.population:
            return self.initialise(), [], "sample"
        parents = self.select_parents()
        self._origin.clear()
        genome = self.vary(parents)
        return genome, parents, "+".join(self._origin) or ("vary" if parents else "sample")

    def _individual(self, candidate: Candidate, phenotype: str) -> Individual:
        return Individual(candidate, phenotype, Fitness([objective.weight for objective in self.objectives]))

    def _register(self, individual: Individual) -> None:
        self._asked = individual.id + 1
        self._pending[individual.id] = individual
        if self.screen is not None:
            self.screen.remember(individual.phenotype, individual.candidate.prediction)
        self._first_asked.setdefault(individual.phenotype, individual.id)

    def _usable_fitness(self, candidate: Candidate, result: Result) -> tuple[float, ...] | None:
        """The fitness, or ``None`` for a failure. NaN would win DEAP's comparisons; infinities ruin its distances."""
        if result.status == FAILED:
            return None
        if result.fitness is None or len(result.fitness) != len(self.objectives):
            raise ValueError(
                f"candidate {candidate.id}: fitness: {result.fitness!r} is not one value for each of the objectives "
                f"{[objective.monitor for objective in self.objectives]}"
            )
        values = tuple(float(value) for value in result.fitness)
        return values if all(math.isfinite(value) for value in values) else None

    def _end_generation(self) -> None:
        ids = self._generation
        told = [self._ended.pop(id) for id in ids]
        for individual, result in told:  # by id, so that the order of their ends doesn't matter
            self._learn(individual, result)
        newcomers = [individual for individual, _ in told if individual.fitness.valid]
        if newcomers:
            self._survive(newcomers, ids.stop)
        self._failed = len(told) - len(newcomers)
        self._log(len(self.logbook), len(told))
        self._generation = range(ids.stop, ids.stop + self.generation_size)

    def _learn(self, individual: Individual, result: Result) -> None:
        if self.screen is not None and individual.candidate.duplicate_of is None:
            fitness = individual.fitness.values if individual.fitness.valid else None
            self.screen.told(individual.genome, individual.phenotype, fitness, result)

    def _survive(self, newcomers: list[Individual], told: int) -> None:
        everyone = [*self.population, *newcomers]
        if self.synchronous or self.survival_draws:
            with streams(self.rng, self.seed, "survive", told):
                self.population = self.survive(everyone)
        else:
            self.population = self.survive(everyone)

    def _log(self, generation: int, evaluations: int) -> None:
        phenotypes = [individual.phenotype for individual in self.population]
        compiled = self._statistics.compile(self.population) if self.population else no_statistics(self.objectives)
        own = {
            "gen": generation,
            "nevals": evaluations,
            "failed": self._failed,
            "diversity": len(set(phenotypes)) / len(phenotypes) if phenotypes else 0.0,
        }
        self.logbook.record(**{**compiled, **own})
        self._failed = 0

    def _make_toolbox(self) -> Toolbox:
        toolbox: Any = base.Toolbox()
        operators = {**self.default_operators(), **self.operators}
        toolbox.register("select", selection(operators["select"], "select", self.objectives))
        toolbox.register("survive", selection(operators["survive"], "survive", self.objectives))
        mate, mutate = mating(operators["mate"], self.space), mutation(operators["mutate"], self.space)
        toolbox.register("mate", self._noted("mate", mate), rng=self.rng)
        toolbox.register("mutate", self._noted("mutate", mutate), rng=self.rng)
        return toolbox

    def _noted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``function`` so that it adds its name to the origin of the candidate being bred."""

        def call(*genomes: Genome, rng: random.Random) -> Any:
            self._origin.append(name)
            return function(*genomes, rng)

        return call


def _weights_of(individual: Individual) -> int:
    """Id of the candidate that has an individual's weights: its original, if it is a duplicate that wasn't trained."""
    original = individual.candidate.duplicate_of
    return individual.id if original is None else original
