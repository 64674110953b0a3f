"""Swarms share what is built, particles vary the rest; the best swarms breed the next; the record alone decides."""

from __future__ import annotations

import math

import pytest
from algorithms_searching import ONE, TWO, Search

from lightning_evo.algorithms import SearchSetup, SwarmOptimization
from lightning_evo.genome import Categorical, LogUniform, Ordinal, Result, SearchSpace, SpaceError, Uniform

SPACE = SearchSpace(
    {
        "model.width": Ordinal([8, 16, 32, 64]),
        "model.lr": LogUniform(1e-4, 1.0),
        "model.momentum": Uniform(0.0, 0.99, when={"model.kind": ["sgd"]}),
        "model.kind": Categorical(["sgd", "adam"]),
    }
)
OWN = {"model.lr", "model.momentum"}


def swarm(**settings) -> SwarmOptimization:
    return SwarmOptimization(**{"particles": 4, "population_size": 2, **settings})


def bound(algorithm, objectives=ONE) -> SwarmOptimization:
    algorithm.bind(SearchSetup(SPACE, objectives, free_genes=OWN))
    return algorithm


def score(genome) -> float:
    return -((math.log10(genome["model.lr"]) + 2) ** 2) + genome["model.width"] / 64 + (genome["model.kind"] == "sgd")


class Swarms(Search):
    """A search told a score that depends on shared genes and own ones."""

    def end_one(self):
        candidate = self.running.pop(self.order.randrange(len(self.running)))
        failed = self.failing and self.order.random() < self.failing
        result = (
            Result("failed", error="it broke", error_type="E")
            if failed
            else Result("completed", fitness=(score(candidate.genome),))
        )
        self.algorithm.tell(candidate, result)
        self.told.append((candidate, result))


def search(swarms, slots=1, order=0, failing=0.0, seed=0, **settings) -> Swarms:
    made = Swarms(lambda: swarm(**settings), ONE, seed, slots, order, failing, SPACE, free_genes=OWN)
    made.run(swarms * made.algorithm.particles)
    while made.running:
        made.end_one()
    return made


def by_swarm(made):
    size = made.algorithm.particles
    return [made.asked[first : first + size] for first in range(0, len(made.asked), size)]


def shared(candidate):
    return {path: value for path, value in candidate.genome.items() if path not in OWN}


def test_the_particles_of_a_swarm_share_all_genes_but_their_own():
    for particles in by_swarm(search(8)):
        assert all(shared(each) == shared(particles[0]) for each in particles)
        assert len({each.genome["model.lr"] for each in particles}) == 4
        assert len({each.seed for each in particles}) == 4
        assert all(SPACE.validate(each.genome) is None for each in particles)


def test_a_generation_is_the_number_of_the_swarm_and_the_algorithm_says_who_belongs_to_it():
    made = search(5)
    for number, particles in enumerate(by_swarm(made)):
        assert {each.generation for each in particles} == {number}
        assert {made.algorithm.swarm(each) for each in particles} == {number}
    assert made.algorithm.swarm_size == 4


def test_a_swarm_is_asked_for_whole_and_the_next_one_waits_for_all_of_it():
    algorithm = bound(swarm())
    asked = [algorithm.ask() for _ in range(4)]
    assert algorithm.ask() is None
    for candidate in asked:
        assert algorithm.ask() is None
        algorithm.tell(candidate, Result("completed", fitness=(0.5,)))
    assert algorithm.ask().id == 4


def test_the_first_swarms_are_drawn_and_later_ones_bred_of_the_best_particles_of_those_alive():
    made = search(8)
    swarms = by_swarm(made)
    assert all(not each.parents and each.origin == "sample" for particles in swarms[:2] for each in particles)
    for number, particles in enumerate(swarms[2:], start=2):
        champions = {max(earlier, key=lambda each: score(each.genome)).id for earlier in swarms[:number]}
        assert set(particles[0].parents) <= champions
        assert all(each.parents == particles[0].parents for each in particles)
        assert particles[0].origin in {"mutate", "mate", "mate+mutate"}
        assert {each.origin for each in particles[1:]} == {"explore"}


def test_the_first_particle_of_a_bred_swarm_takes_the_own_genes_of_the_parents_best_particle():
    made = search(6)
    for particles in by_swarm(made)[2:]:
        first, parent = particles[0].genome, made.asked[particles[0].parents[0]].genome
        assert first["model.lr"] == parent["model.lr"]
        assert all(each.genome["model.lr"] != first["model.lr"] for each in particles[1:])


def test_a_swarm_is_as_good_as_its_best_particle():
    made = search(6)
    alive = made.algorithm.population
    best = sorted((max(score(each.genome) for each in particles) for particles in by_swarm(made)), reverse=True)
    assert sorted((each.fitness.values[0] for each in alive), reverse=True) == best[:2]


def test_shared_genes_that_a_swarm_had_are_bred_again_while_there_is_something_new():
    kinds = [
        (particles[0].genome["model.width"], particles[0].genome["model.kind"]) for particles in by_swarm(search(6))
    ]
    assert len(set(kinds[2:])) == 4


def test_it_finds_better_particles_than_were_drawn():
    made = search(12)
    first = max(score(each.genome) for particles in by_swarm(made)[:2] for each in particles)
    assert made.algorithm.hall_of_fame[0].fitness.values[0] > first
    assert made.algorithm.hall_of_fame[0].fitness.values[0] > 1.8


def test_a_swarm_that_fails_as_a_whole_leaves_the_others_alive():
    made = search(2)
    alive = {each.id for each in made.algorithm.population}
    asked = [made.algorithm.ask() for _ in range(4)]
    for candidate in asked:
        made.algorithm.tell(candidate, Result("failed", error="it broke", error_type="E"))
    assert {each.id for each in made.algorithm.population} == alive
    assert set(made.algorithm.ask().parents) <= alive


def test_without_shared_genes_later_swarms_search_around_the_best_particle():
    algorithm = SwarmOptimization(particles=3, population_size=1)
    algorithm.bind(SearchSetup(SearchSpace({"lr": LogUniform(1e-4, 1.0)}), ONE, free_genes={"lr"}))
    asked = [algorithm.ask() for _ in range(3)]
    for number, candidate in enumerate(asked):
        algorithm.tell(candidate, Result("completed", fitness=(float(number),)))
    following = [algorithm.ask() for _ in range(3)]
    assert following[0].genome == asked[2].genome
    assert following[0].origin == "continue"
    assert all(each.parents == (2,) for each in following)


def test_without_own_genes_all_particles_have_one_genome_and_are_no_duplicates():
    algorithm = SwarmOptimization(particles=3, population_size=1)
    algorithm.bind(SearchSetup(SPACE, ONE, free_genes=()))
    asked = [algorithm.ask() for _ in range(3)]
    assert len({candidate.genome for candidate in asked}) == 1
    assert {candidate.duplicate_of for candidate in asked} == {None}
    assert len({candidate.seed for candidate in asked}) == 3


def test_where_genes_were_not_examined_every_numeric_gene_is_a_particles_own():
    algorithm = SwarmOptimization(particles=4)
    algorithm.bind(SearchSetup(SPACE, ONE, 0))
    asked = [algorithm.ask() for _ in range(4)]
    assert len({candidate.genome["model.kind"] for candidate in asked}) == 1
    assert len({candidate.genome["model.width"] for candidate in asked}) > 1


def test_several_objectives_keep_a_front_of_swarms():
    algorithm = bound(swarm(), TWO)
    for _ in range(20):
        candidate = algorithm.ask()
        algorithm.tell(
            candidate, Result("completed", fitness=(score(candidate.genome), candidate.genome["model.width"]))
        )
    assert len(algorithm.population) == 2
    assert algorithm.hall_of_fame


def test_initial_genomes_are_particles_and_share_what_their_first_one_has():
    algorithm = bound(swarm(initial=[{"model.width": 32, "model.lr": 0.1}, {"model.lr": 0.2}, {"model.lr": 0.3}]))
    asked = [algorithm.ask() for _ in range(4)]
    assert [candidate.genome["model.lr"] for candidate in asked[:3]] == [0.1, 0.2, 0.3]
    assert {candidate.genome["model.width"] for candidate in asked} == {32}
    assert [candidate.origin for candidate in asked] == ["initial"] * 3 + ["sample"]


def test_initial_genomes_of_one_swarm_that_disagree_are_refused():
    with pytest.raises(SpaceError, match=r"initial\[1\]\.model\.width: is shared by a swarm, whose first particle"):
        bound(swarm(initial=[{"model.width": 32}, {"model.width": 8}]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"particles": 1}, "particles: 1 is not at least 2; one particle is no swarm"),
        ({"population_size": 0}, "population_size: 0 is not at least 1"),
        ({"resample_probability": 1.5}, "resample_probability: 1.5 is not a probability"),
        ({"crossover_probability": -1}, "crossover_probability: -1 is not a probability"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        SwarmOptimization(**settings)
