"""Population-based training, which finds schedules of hyperparameters: the worst members copy the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_at_least, check_probability
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.perturbation import perturb
from lightning_evo.algorithms.randomness import streams
from lightning_evo.algorithms.search_setup import SearchSetup
from lightning_evo.genome import Candidate, Genome, Json, Result, Segment, derive_seed

__all__ = ["PopulationBasedTraining"]


@dataclass(frozen=True)
class _Step:
    """A member's next step: continue its own state, or a donor's, or start anew (neither)."""

    last: Individual
    source: Individual | None


class PopulationBasedTraining(Algorithm):
    """Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): train in segments; the worst copy the best.

    Each of ``population_size`` members trains ``interval`` epochs at a time; each such segment is a candidate.
    Afterwards, a member in the worst ``quantile`` *exploits*: it copies the whole training state (weights, optimizers,
    position in schedules, random state) of a random better member from the best ``quantile``. Then it *explores*: each
    gene is resampled with ``resample_probability``, otherwise perturbed (see :meth:`explore`). All others continue
    unchanged. With several objectives, members are ranked by non-domination, then by crowding, and only a dominating
    member is copied.

    The result is a *schedule* of hyperparameters rather than one value for each: the winner's segments, each continuing
    the one it inherits from, form one training. Genes must not change the shape of the network, because states are
    copied between members.

    A candidate's parents are the member's last candidate and, if it exploits, the donor; it inherits from the one whose
    state it continues and keeps that one's seed, so that data splits derived from the seed don't change. A member that
    failed copies the best one; if there is none, it starts over. Duplicates are trained, because the same genome
    continues another state.

    Args:
        population_size: Number of members (default 16).
        interval: Epochs in a segment (default 1): short enough to follow a schedule, long enough to distinguish good
            from bad.
        epochs: Total epochs of a member. Default: the Trainer's ``max_epochs``; without a Trainer, members train until
            the budget ends the search. The last segment may be shorter. This also limits the number of segments per
            member, whichever member it copies.
        quantile: Fraction of the population that is replaced, and that can be copied (default 0.25; at most 0.5).
        resample_probability: Probability that a gene is resampled when exploring (default 0.25).
        factors: Random factors by which numbers are multiplied when perturbed (default 0.8 and 1.2).
        synchronous: Wait until all members have trained their segment, so that the candidates are the same on any
            number of slots (default). ``false``: a member is compared with the latest segments of all others as soon as
            it ends, and no slot waits while a member is ready.
        initial: Genomes to start from, at most ``population_size``; missing genes are sampled.
        hall_of_fame_size: Number of best individuals to keep (default 10).

    Raises:
        ValueError: For a value out of range.

    Example:
        >>> from lightning_evo.genome import LogUniform, Objective, SearchSpace
        >>> algorithm = PopulationBasedTraining(population_size=4, interval=2, epochs=6)
        >>> space = SearchSpace({"model.lr": LogUniform(1e-4, 1.0)})
        >>> algorithm.bind(SearchSetup(space, [Objective("val_acc")], seed=1))
        >>> while (candidate := algorithm.ask()) is not None:
        ...     algorithm.tell(candidate, Result("completed", fitness=(candidate.genome["model.lr"],)))
        >>> algorithm.exhausted, [member.candidate.segment for member in algorithm.population]
        (True, [Segment(start=4, end=6), Segment(start=4, end=6), Segment(start=4, end=6), Segment(start=4, end=6)])
    """

    continues = True
    survival_draws = False

    def __init__(
        self,
        population_size: int = 16,
        interval: int = 1,
        epochs: int | None = None,
        quantile: float = 0.25,
        resample_probability: float = 0.25,
        factors: Sequence[float] = (0.8, 1.2),
        synchronous: bool = True,
        initial: list[dict[str, Json]] | None = None,
        hall_of_fame_size: int = 10,
    ) -> None:
        super().__init__(population_size, initial=initial, hall_of_fame_size=hall_of_fame_size)
        check_at_least("population_size", population_size, 2)
        check_at_least("interval", interval, 1)
        if epochs is not None:
            check_at_least("epochs", epochs, interval)
        check_probability("resample_probability", resample_probability)
        if not 0 < quantile <= 0.5:
            raise ValueError(f"quantile: {quantile!r} is not a part of the population above 0 and at most 0.5")
        if not factors or not all(math.isfinite(factor) and factor > 0 and factor != 1 for factor in factors):
            raise ValueError(f"factors: {factors!r} are not numbers above 0, other than 1")
        if len(self.initial) > population_size:
            raise ValueError(f"initial: {len(self.initial)} genomes are more than population_size {population_size}")
        self.interval, self.epochs, self.quantile = interval, epochs, quantile
        self.resample_probability, self.factors = resample_probability, tuple(factors)
        self.synchronous = synchronous

    # -- what a subclass may change ------------------------------------------------------------------------------------

    def explore(self, genome: Genome) -> Genome:
        """A changed copy of a donor's genome; it differs wherever the space allows.

        Each active gene is drawn anew with :attr:`resample_probability`, else perturbed: real numbers are multiplied by
        one of :attr:`factors`, ordered choices and whole numbers move to a neighbor (on a logarithmic scale by the
        factor), what has no order stays. All within their ranges.
        """
        changed = {}
        for path, value in genome.items():
            gene = self.space[path]
            anew = self.rng.random() < self.resample_probability
            changed[path] = gene.sample(self.rng) if anew else perturb(gene, value, self.factors, self.rng)
        child = self.space.complete(changed, self.rng, genome.rates)
        # Rate 0 hits no gene, and then exactly one mutates.
        return child if child != genome else self.space.mutate(genome, self.rng, rate=0.0)

    def select_parents(self) -> list[Individual]:
        """The members that may be copied: the best :attr:`quantile`, best first."""
        return self._ranked()[: self._replaced]

    def vary(self, parents: list[Individual]) -> Genome:
        return self.explore(parents[-1].genome)

    def survive(self, population: list[Individual]) -> list[Individual]:
        """Each member's latest candidate."""
        latest = {self._member[individual.id]: individual for individual in population}
        return [latest[member] for member in sorted(latest)]

    # -- ask and tell --------------------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """Whether all members have trained all their epochs."""
        return self._asked >= self.population_size and not self._pending and not self._steps

    @property
    def ancestors(self) -> set[int]:
        """Ids of the candidates whose state a future candidate may continue."""
        planned = {step.source.id for step in self._steps.values() if step.source is not None}
        told = [individual for individual, _ in self._ended.values() if individual.fitness.valid]
        return planned | {individual.id for individual in (*self.population, *told) if self._goes_on(individual)}

    def bind(self, setup: SearchSetup) -> None:
        super().bind(setup)
        self._epochs = setup.max_epochs if self.epochs is None else self.epochs
        self._member: dict[int, int] = {}  # a candidate's id -> its member
        self._number: dict[int, int] = {}  # a candidate's id -> how many segments its member was asked with it
        self._newest: dict[int, int] = {}  # each member's last candidate that was asked
        self._last: dict[int, Individual] = {}  # each member's last candidate that was told, failed or not
        self._steps: dict[int, _Step] = {}  # members that are ready, in the order in which they will be asked

    def ask(self) -> Candidate | None:
        if hasattr(self, "space") and self._asked >= self.population_size and not self._steps:
            return None
        return super().ask()

    def tell(self, candidate: Candidate, result: Result) -> None:
        individual = self._pending.get(candidate.id)
        member = self._member.get(candidate.id)
        if individual is not None and self._usable_fitness(candidate, result) is None:
            # Its state is lost, so the member is no longer what it was.
            self.population = [one for one in self.population if self._member[one.id] != member]
        super().tell(candidate, result)
        assert individual is not None
        assert member is not None
        self._last[member] = individual
        if not self.synchronous:
            self._plan([member])
        elif self._told % self.population_size == 0:
            self._plan(range(self.population_size))

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _replaced(self) -> int:
        """How many of those with a fitness are among the best, and how many among the worst."""
        return min(math.ceil(len(self.population) * self.quantile), len(self.population) // 2)

    def _ranked(self) -> list[Individual]:
        return self.toolbox.survive(self.population, len(self.population)) if self.population else []

    def _goes_on(self, individual: Individual) -> bool:
        """Whether epochs are left to train from an individual's state."""
        return self._epochs is None or _segment(individual).end < self._epochs

    def _plan(self, members: Sequence[int]) -> None:
        """Decide what members that have just ended a segment do next; those that trained all of theirs do nothing."""
        with streams(self.rng, self.seed, "exploit", self._told):
            ranked = self._ranked()
            best = self.select_parents()
            worst = {individual.id for individual in ranked[len(ranked) - self._replaced :]}
            for member in members:
                last = self._last[member]
                source: Individual | None = last
                if self._epochs is not None and self._number[last.id] * self.interval >= self._epochs:
                    continue
                if not last.fitness.valid:
                    source = next((one for one in ranked if self._goes_on(one)), None)
                elif last.id in worst:
                    donors = [one for one in best if self._goes_on(one) and one.fitness.dominates(last.fitness)]
                    source = self.rng.choice(donors) if donors else last
                # What a member recalled does next may have been asked before; the others draw as they did then.
                if self._newest[member] == last.id and (source is None or self._goes_on(source)):
                    self._steps[member] = _Step(last, source)

    def _breed(self, id: int) -> Individual:
        if id < self.population_size:
            individual = super()._breed(id)
            candidate = replace(individual.candidate, segment=self._after(0), duplicate_of=None, inherits=None)
            return self._individual(candidate, individual.phenotype)
        step = next(iter(self._steps.values()))
        with streams(self.rng, self.seed, "breed", id, 0):
            if step.source is None:
                genome, origin = self.initialise(), "sample"
            elif step.source is step.last:
                genome, origin = step.last.genome, "continue"
            else:
                genome, origin = self.vary([step.source]), "exploit+explore"
        source = step.source
        relatives = [step.last] if source in (None, step.last) else [step.last, source]
        candidate = Candidate(
            id=id,
            genome=genome,
            parents=tuple(relative.id for relative in relatives if relative is not None),
            generation=1 + max(relative.candidate.generation for relative in relatives if relative is not None),
            seed=derive_seed(self.seed, "train", id) if source is None else source.candidate.seed,
            origin=origin,
            inherits=None if source is None else source.id,
            segment=self._after(0 if source is None else _segment(source).end),
        )
        return self._individual(candidate, self.space.phenotype(genome))

    def _after(self, epochs: int) -> Segment:
        """The segment that follows so many epochs."""
        end = epochs + self.interval
        return Segment(epochs, end if self._epochs is None else min(end, self._epochs))

    def _register(self, individual: Individual) -> None:
        super()._register(individual)
        parents = individual.candidate.parents
        member = self._member[parents[0]] if parents else individual.id
        self._member[individual.id] = member
        self._number[individual.id] = 1 + (self._number[self._newest[member]] if parents else 0)
        self._newest[member] = individual.id
        self._steps.pop(member, None)


def _segment(individual: Individual) -> Segment:
    segment = individual.candidate.segment
    assert segment is not None, "every candidate of this algorithm is a segment"
    return segment
