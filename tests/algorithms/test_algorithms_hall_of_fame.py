import random

import pytest
from deap import base, tools

from lightning_evo.algorithms import Fitness, HallOfFame, Individual, ParetoFront
from lightning_evo.genome import Candidate, Genome


def individual(id, values, weights, phenotype=None):
    return Individual(Candidate(id, Genome({"a": id})), phenotype or str(id), Fitness(weights, values))


def crowd(seed, count, weights, levels=6, phenotypes=None):
    """Individuals with many equal fitness values, and twins where ``phenotypes`` are few."""
    rng = random.Random(seed)
    return [
        individual(
            i,
            [float(rng.randrange(levels)) for _ in weights],
            weights,
            str(rng.randrange(phenotypes)) if phenotypes else None,
        )
        for i in range(count)
    ]


def contents(hall):
    return [(each.id, each.fitness.values) for each in hall]


@pytest.mark.parametrize("weights", [(1.0, -1.0), (1.0, 1.0, -1.0), (-1.0, -1.0, -1.0, 1.0)])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_holds_what_deaps_own_holds(weights, seed):
    ours, deaps = ParetoFront(len(weights)), tools.ParetoFront(similar=lambda a, b: a.phenotype == b.phenotype)
    for each in crowd(seed, 200, weights, levels=12):
        ours.update([each])
        deaps.update([each])
        assert sorted(contents(ours)) == sorted(contents(deaps))
    first = [each.fitness for each in ours]
    assert first == sorted(first, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_the_hall_of_fame_holds_fitness_like_deaps_own(seed):
    ours, deaps = HallOfFame(7), tools.HallOfFame(7, similar=lambda a, b: a.phenotype == b.phenotype)
    people = crowd(seed, 100, (-1.0,), levels=60)
    ours.update(people)
    deaps.update(people)
    assert [each.fitness for each in ours] == [each.fitness for each in deaps]
    assert contents(ours) == contents(sorted(people, key=lambda each: (each.fitness.values, each.id)))[:7]


@pytest.mark.parametrize("phenotypes", [None, 8])
@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_arrival_does_not_matter(seed, phenotypes):
    if phenotypes:  # twins are answered alike: the fitness follows from the phenotype
        people = [individual(i, (i * 7 % 8 % 3 * 1.0, i % 8 % 2), (1.0, -1.0), str(i % 8)) for i in range(40)]
    else:
        people = crowd(seed, 60, (1.0, -1.0))
    shuffled = random.Random(seed).sample(people, len(people))
    for make in (lambda: HallOfFame(5), lambda: ParetoFront(2)):
        one, other = make(), make()
        one.update(people)
        other.update(shuffled)
        assert contents(one) == contents(other)


def test_a_twin_counts_once_with_its_better_fitness():
    hall = HallOfFame(3)
    hall.update([individual(i, (value,), (1.0,), "twin") for i, value in enumerate([0.1, 0.5, 0.3])])
    assert contents(hall) == [(1, (0.5,))]


def test_a_front_that_only_grows_keeps_everybody():
    front = ParetoFront(2)
    for i in random.Random(0).sample(range(500), 500):
        front.update([individual(i, (float(i), float(i)), (1.0, -1.0))])
    assert [each.id for each in front] == list(range(499, -1, -1))
    front.update([individual(1000, (1e6, -1e6), (1.0, -1.0))])
    assert [each.id for each in front] == [1000]
    front.clear()
    assert len(front) == 0
    front.update([individual(7, (0.0, 0.0), (1.0, -1.0))])
    assert [each.id for each in front] == [7]


def test_fitness_compares_as_deaps_own_does():
    class DeapFitness(base.Fitness):
        weights = (1.0, -1.0)

    rng = random.Random(0)
    for _ in range(100):
        one, two = ([rng.randrange(3), rng.randrange(3)] for _ in range(2))
        ours, deaps = [Fitness((1.0, -1.0), v) for v in (one, two)], [DeapFitness(v) for v in (one, two)]
        assert (ours[0] < ours[1], ours[0] == ours[1]) == (deaps[0] < deaps[1], deaps[0] == deaps[1])
        assert ours[0].dominates(ours[1]) == deaps[0].dominates(deaps[1])
        assert ours[0].values == deaps[0].values
    assert not Fitness((1.0,)).valid
