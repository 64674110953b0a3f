"""Search for swarms: particles that share an architecture train together, and the best swarms breed the next."""

from __future__ import annotations

from collections.abc import Collection

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_at_least, check_probability
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.operators import Operator
from lightning_evo.algorithms.randomness import streams
from lightning_evo.algorithms.search_setup import SearchSetup
from lightning_evo.genome import Candidate, Gene, Genome, Json, SpaceError, Value, derive_seed
from lightning_evo.genome.genes import identity

__all__ = ["SwarmOptimization", "is_numeric"]


def is_numeric(gene: Gene) -> bool:
    """Whether all of a gene's values are numbers.

    >>> from lightning_evo.genome import Boolean, Ordinal
    >>> is_numeric(Ordinal([16, 32])), is_numeric(Boolean())
    (True, False)
    """
    values = getattr(gene, "choices", None) or gene.extremes()
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


class SwarmOptimization(Algorithm):
    """Search for swarms: each is ``particles`` candidates of one architecture that train and average together.

    All particles of a swarm share the genes that determine structure and data; each has its *own* values for the others
    (learning rate, weight decay, momentum), and its own initial weights. The whole swarm trains as one stack;
    :class:`~lightning_evo.callbacks.SwarmAveraging` among the search's callbacks pulls its particles together (the
    accelerated particle swarm of Yang 2010 between steps of gradient descent, as in the Nytorch tutorial).

    The first ``population_size`` swarms are sampled from the whole space, own genes evenly over their ranges. Later
    ones are bred: parents are selected from the population of swarms by tournament; a new swarm's shared genes are
    theirs, recombined and mutated; its first particle inherits the own genes of the parent's best particle, and the
    others mutate them (see :meth:`explore`). A swarm's fitness is that of its best particle, which represents it in the
    population. If all genes are own genes, later swarms share everything else with the first, and search around the
    best particle.

    Synchronous: the particles of a swarm are asked for together, and those of the next swarm after all results are in.
    ``generation`` is the swarm's number. Equal genomes in one swarm aren't duplicates, because their initial weights
    differ.

    Which genes can be own genes is determined by building networks (:attr:`SearchSetup.free_genes
    <lightning_evo.algorithms.SearchSetup.free_genes>`); if they weren't examined, every numeric gene counts as one.

    Args:
        particles: Candidates in each swarm (default 12).
        population_size: Number of swarms in the population, and of initial random swarms (default 4).
        tournament_size: Number of swarms that compete to be a parent (default 2). With several objectives,
            ``selTournamentDCD`` is used instead.
        crossover_probability: Probability that a swarm's shared genes have two parents (default 0.5).
        mutation_probability: Probability that shared genes of two parents are also mutated (default 1).
        resample_probability: Probability that an own gene is resampled instead of mutated (default 0.1).
        select: Operator that replaces the tournament.
        mate: Crossover of the shared genes (default ``uniform``).
        mutate: Mutation of the shared genes (default ``per_gene``).
        survive: Operator that ranks swarms by their best particles (default ``selBest``; with several objectives
            ``selNSGA2``).
        initial: Genomes of the first candidates, in order; missing genes are sampled, or shared with the first particle
            of the swarm.
        duplicate_retries: How often to breed again when shared genes duplicate an earlier swarm (default 10).
        hall_of_fame_size: Number of best particles to keep (default 10).

    Raises:
        ValueError: For a value out of range, or an operator that doesn't exist or doesn't take its arguments.

    Example:
        >>> from lightning_evo.genome import LogUniform, Objective, Ordinal, SearchSpace
        >>> algorithm = SwarmOptimization(particles=3)
        >>> space = SearchSpace({"model.width": Ordinal([8, 16, 32]), "model.lr": LogUniform(1e-4, 1.0)})
        >>> algorithm.bind(SearchSetup(space, [Objective("val_acc")], seed=1, free_genes={"model.lr"}))
        >>> swarm = [algorithm.ask() for _ in range(3)]
        >>> len({particle.genome["model.width"] for particle in swarm}), algorithm.ask() is None
        (1, True)
    """

    synchronous = True

    def __init__(
        self,
        particles: int = 12,
        population_size: int = 4,
        tournament_size: int = 2,
        crossover_probability: float = 0.5,
        mutation_probability: float = 1.0,
        resample_probability: float = 0.1,
        select: Operator | None = None,
        mate: Operator | None = None,
        mutate: Operator | None = None,
        survive: Operator | None = None,
        initial: list[dict[str, Json]] | None = None,
        duplicate_retries: int = 10,
        hall_of_fame_size: int = 10,
    ) -> None:
        super().__init__(
            population_size,
            select=select,
            mate=mate,
            mutate=mutate,
            survive=survive,
            initial=initial,
            duplicate_retries=duplicate_retries,
            hall_of_fame_size=hall_of_fame_size,
        )
        if particles < 2:
            raise ValueError(f"particles: {particles!r} is not at least 2; one particle is no swarm")
        check_at_least("tournament_size", tournament_size, 1)
        check_probability("crossover_probability", crossover_probability)
        check_probability("mutation_probability", mutation_probability)
        check_probability("resample_probability", resample_probability)
        self.particles, self.tournament_size = particles, tournament_size
        self.crossover_probability, self.mutation_probability = crossover_probability, mutation_probability
        self.resample_probability = resample_probability
        self.swarm_size = particles
        # The rule and settings of the particle swarm in Nytorch's example, over half of the swarm.
        averaging = {"method": "apso", "subset": max(2, particles // 2), "alpha": 0.5, "every_n_steps": 16}
        self.swarm_callback = {"class_path": "lightning_evo.callbacks.SwarmAveraging", "init_args": averaging}

    # -- what a subclass may change ------------------------------------------------------------------------------------

    def explore(self, genome: Genome) -> Genome:
        """A variation of a genome's own genes, all else as it is.

        Each is drawn anew with :attr:`resample_probability`, else mutates: a Gaussian step on its scale, or a step to a
        neighbor (``mutation`` of the gene says how far).
        """
        changed = dict(genome)
        for path in self._own(genome):
            gene = self.space[path]
            anew = self.rng.random() < self.resample_probability
            changed[path] = gene.sample(self.rng) if anew else gene.mutate(genome[path], self.rng)
        return self.space.complete(changed, self.rng, genome.rates)

    def survive(self, population: list[Individual]) -> list[Individual]:
        """The best particle of each of the best swarms."""
        count = len(self.population)
        swarms, newcomers = population[:count], population[count:]
        champions = [*swarms, *(self.toolbox.survive(newcomers, 1) if newcomers else [])]
        return self.toolbox.survive(champions, min(self.population_size, len(champions)))

    # -- ask and tell --------------------------------------------------------------------------------------------------

    @property
    def generation_size(self) -> int:
        """A swarm."""
        return self.particles

    def bind(self, setup: SearchSetup) -> None:
        super().bind(setup)
        self._owned: Collection[str] = (
            {path for path, gene in self.space.items() if is_numeric(gene)}
            if setup.free_genes is None
            else setup.free_genes
        )
        self._generation = range(self.particles)
        self._shared_before: set[str] = set()
        self._leader: Individual | None = None  # the first particle of the swarm that is being asked for
        self._check_initial()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _own(self, genome: Genome) -> list[str]:
        return [path for path in genome if path in self._owned]

    def _shared(self, genome: Genome) -> dict[str, Value]:
        return {path: value for path, value in genome.items() if path not in self._owned}

    def _check_initial(self) -> None:
        for i, values in enumerate(self._initial):
            first = i // self.particles * self.particles
            for path, value in values.items():
                if path in self._owned or i == first:
                    continue
                leader = self._initial[first]
                if path not in leader or identity(leader[path]) != identity(value):
                    raise SpaceError(
                        f"initial[{i}].{path}: is shared by a swarm, whose first particle is initial[{first}] with "
                        f"{leader.get(path, 'no value')!r}; give the same value there"
                    )

    def _breed(self, id: int) -> Individual:
        if id % self.particles:
            leader = self._leader
            assert leader is not None, "a swarm's first particle is asked for first"
            with streams(self.rng, self.seed, "breed", id, 0):
                return self._particle(id, self._follow(id, leader), leader.candidate.parents)
        for attempt in range(self.duplicate_retries + 1):
            with streams(self.rng, self.seed, "breed", id, attempt):
                (genome, origin), parents = self._lead(id)
            if identity(self._shared(genome)) not in self._shared_before:
                break
        return self._particle(id, (genome, origin), tuple(dict.fromkeys(parent.id for parent in parents)))

    def _lead(self, id: int) -> tuple[tuple[Genome, str], list[Individual]]:
        """The genome of a new swarm's first particle and how it was made, and the parents."""
        if id < len(self._initial):
            return (self.space.complete(self._initial[id], self.rng), "initial"), []
        if id < self.population_size * self.particles or not self.population:
            return (self.initialise(), "sample"), []
        parents = self.select_parents()
        best = parents[0].genome
        if not self._shared(best):
            return (best, "continue"), parents[:1]
        self._origin.clear()
        child = self.vary(parents)
        own = {path: best[path] for path in self._own(best)}
        genome = self.space.complete({**child, **own}, self.rng, child.rates)
        return (genome, "+".join(self._origin) or "vary"), parents

    def _follow(self, id: int, leader: Individual) -> tuple[Genome, str]:
        """The genome of a swarm's further particle, and how it was made."""
        shared = self._shared(leader.genome)
        if id < len(self._initial):
            return self.space.complete({**shared, **self._initial[id]}, self.rng, leader.genome.rates), "initial"
        if not leader.candidate.parents:
            return self.space.complete(shared, self.rng, leader.genome.rates), "sample"
        return self.explore(leader.genome), "explore"

    def _particle(self, id: int, made: tuple[Genome, str], parents: tuple[int, ...]) -> Individual:
        genome, origin = made
        candidate = Candidate(
            id=id,
            genome=genome,
            parents=parents,
            generation=id // self.particles,
            seed=derive_seed(self.seed, "train", id),
            origin=origin,
        )
        return self._individual(candidate, self.space.phenotype(genome))

    def _register(self, individual: Individual) -> None:
        super()._register(individual)
        if individual.id % self.particles == 0:
            self._leader = individual
            self._shared_before.add(identity(self._shared(individual.genome)))
