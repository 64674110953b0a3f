import random

import pytest
from algorithms_searching import ONE, SPACE, TWO, Search, evaluate

from lightning_evo.algorithms import (
    NSGA2,
    GenerationalEvolution,
    LocalSearch,
    Operator,
    RandomSearch,
    RegularizedEvolution,
    SearchSetup,
)
from lightning_evo.genome import Candidate, Integer, Objective, Ordinal, Result, SearchSpace, Uniform

LINE = SearchSpace({"x": Ordinal(list(range(200)))})


def search(algorithm, space, fitness, candidates, objectives=ONE, seed=0):
    """Run on one slot; ``fitness`` maps a genome to a tuple. Gives everything asked, with its fitness."""
    algorithm.bind(SearchSetup(space, objectives, seed))
    history = []
    for _ in range(candidates):
        candidate = algorithm.ask()
        values = fitness(candidate.genome)
        algorithm.tell(candidate, Result("completed", fitness=values))
        history.append((candidate, values))
    return history


def best_after(make, seeds, candidates=80):
    def fitness(genome):
        return (-sum((genome[f"x{i}"] - 0.3) ** 2 for i in range(6)),)

    space = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(6)})
    return sum(max(v[0] for _, v in search(make(), space, fitness, candidates, seed=seed)) for seed in range(seeds))


@pytest.mark.parametrize(
    "make",
    [
        LocalSearch,
        RegularizedEvolution,
        GenerationalEvolution,
        lambda: GenerationalEvolution(strategy="mu+lambda"),
        lambda: GenerationalEvolution(strategy="mu,lambda", offspring=20),
        NSGA2,
        lambda: RegularizedEvolution(mutate=Operator("self_adaptive")),
        lambda: NSGA2(
            mate=Operator("cxSimulatedBinaryBounded", {"eta": 15.0}),
            mutate=Operator("mutPolynomialBounded", {"eta": 20.0, "indpb": 0.2}),
        ),
    ],
)
def test_every_algorithm_beats_random_search_on_a_smooth_hill(make):
    assert best_after(make, 6) > best_after(RandomSearch, 6)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_mode_of_the_objective_points_the_way(mode):
    algorithm = GenerationalEvolution(10)
    search(algorithm, LINE, lambda genome: (float(genome["x"]),), 100, [Objective("x", mode)])
    assert algorithm.hall_of_fame[0].genome["x"] == (199 if mode == "max" else 0)


def test_random_search_draws_everything_from_the_whole_space():
    history = search(RandomSearch(), LINE, lambda genome: (0.0,), 60)
    assert all(candidate.parents == () and candidate.generation == 0 for candidate, _ in history)
    assert all(candidate.duplicate_of is None for candidate, _ in history)


def test_the_oldest_dies_in_regularized_evolution_however_good_it_is():
    algorithm = RegularizedEvolution(population_size=5, tournament_size=5)
    history = search(algorithm, LINE, lambda genome: (1.0 if genome["x"] == 7 else 0.0,), 40)
    assert [each.id for each in algorithm.population] == [35, 36, 37, 38, 39]
    for candidate, _ in history[5:]:
        assert candidate.id - 5 <= candidate.parents[0] < candidate.id


def test_regularized_evolution_lives_in_order_of_arrival():
    algorithm = RegularizedEvolution(population_size=3)
    algorithm.bind(SearchSetup(SPACE, ONE, 0))
    asked = [algorithm.ask() for _ in range(5)]
    for i in (4, 0, 3, 1, 2):
        algorithm.tell(asked[i], evaluate(asked[i], ONE))
    assert [each.id for each in algorithm.population] == [3, 1, 2]


def test_a_tournament_of_one_is_no_selection_and_a_large_one_takes_the_best():
    def share_of_best(size):
        algorithm = RegularizedEvolution(population_size=8, tournament_size=size)
        history = search(algorithm, LINE, lambda genome: (float(genome["x"]),), 120)
        values = [v[0] for _, v in history]
        best = [values[c.parents[0]] == max(values[c.id - 8 : c.id]) for c, _ in history[8:]]
        return sum(best) / len(best)

    assert share_of_best(1) < 0.35 < 0.9 < share_of_best(60)


def test_local_search_moves_one_gene_of_the_best_and_starts_anew_without_improvement():
    space = SearchSpace({"x": Integer(0, 1000, mutation=0.001), "y": Integer(0, 1000, mutation=0.001)})
    algorithm = LocalSearch(population_size=1, patience=12)
    history = search(
        algorithm, space, lambda genome: (-abs(genome["x"] % 100 - 50) - abs(genome["y"] % 100 - 50.0),), 900
    )
    starts = [candidate.id for candidate, _ in history if not candidate.parents]
    assert len(starts) >= 3
    by_id = {candidate.id: candidate for candidate, _ in history}
    for candidate, _ in history:
        for parent in candidate.parents:
            assert len(space.differences(candidate.genome, by_id[parent].genome)) <= 1
    tops = [values for candidate, values in history if values == (0.0,)]
    assert len(tops) >= 2


def test_local_search_ends_a_climb_after_patience_tells_exactly():
    algorithm = LocalSearch(population_size=1, patience=3)
    history = search(algorithm, LINE, lambda genome: (0.0,), 13)
    assert [candidate.id for candidate, _ in history if not candidate.parents] == [0, 4, 8, 12]


def test_a_neighbour_of_an_ended_climb_does_not_continue_it():
    algorithm = LocalSearch(population_size=1, patience=2)
    algorithm.bind(SearchSetup(LINE, ONE, 0))
    start = algorithm.ask()
    algorithm.tell(start, Result("completed", fitness=(0.0,)))
    neighbours = [algorithm.ask() for _ in range(3)]
    for neighbour in neighbours[:2]:
        algorithm.tell(neighbour, Result("completed", fitness=(-1.0,)))
    algorithm.tell(neighbours[2], Result("completed", fitness=(5.0,)))
    assert algorithm.population == []
    assert algorithm.hall_of_fame[0].id == 3
    assert algorithm.ask().parents == ()


def test_local_search_with_several_objectives_moves_to_what_dominates():
    algorithm = LocalSearch(population_size=1)
    algorithm.bind(SearchSetup(LINE, TWO, 0))
    for values, best in (((1.0, 1.0), 0), ((2.0, 2.0), 0), ((1.0, 0.5), 2), ((1.0, 0.5), 2)):
        algorithm.tell(algorithm.ask(), Result("completed", fitness=values))
        assert algorithm.population[0].id == best


@pytest.mark.parametrize("elitism", [0, 1, 3])
def test_a_generation_is_the_elite_and_its_offspring(elitism):
    algorithm = GenerationalEvolution(8, elitism=elitism)
    search(algorithm, LINE, lambda genome: (float(genome["x"]),), 8 + 3 * (8 - elitism))
    ids = [each.id for each in algorithm.population]
    newest = range(8 + 2 * (8 - elitism), 8 + 3 * (8 - elitism))
    assert set(newest) <= set(ids)
    assert len(ids) == 8
    if elitism:
        assert max(each.fitness for each in algorithm.population) == algorithm.hall_of_fame[0].fitness


def test_mu_plus_lambda_keeps_the_best_of_all():
    algorithm = GenerationalEvolution(6, strategy="mu+lambda", offspring=10)
    history = search(algorithm, LINE, lambda genome: (float(genome["x"]),), 6 + 40)
    best = sorted((values[0] for _, values in history), reverse=True)[:6]
    assert [each.fitness.values[0] for each in algorithm.population] == best


def test_mu_comma_lambda_forgets_its_parents():
    algorithm = GenerationalEvolution(4, strategy="mu,lambda", offspring=12, elitism=0)
    search(algorithm, LINE, lambda genome: (float(genome["x"]),), 4 + 36)
    assert all(each.id >= 28 for each in algorithm.population)


def test_places_of_failed_offspring_go_to_the_best_parents():
    algorithm = GenerationalEvolution(6, elitism=1)
    search(algorithm, LINE, lambda genome: (float(genome["x"]),), 6)
    parents = sorted(algorithm.population, key=lambda each: each.fitness, reverse=True)
    for number in range(5):
        candidate = algorithm.ask()
        failed = Result("failed", error="no", error_type="no")
        algorithm.tell(candidate, failed if number else Result("completed", fitness=(0.0,)))
    assert algorithm.population[0] is parents[0]
    assert algorithm.population[1].id == 6
    assert algorithm.population[2:] == parents[1:5]


def test_crossover_probability_decides_how_many_have_two_parents():
    def share(probability):
        algorithm = GenerationalEvolution(10, crossover_probability=probability, elitism=0)
        children = [c for c in Search(lambda: algorithm).run(210) if c.parents]
        return sum(c.origin.startswith("mate") for c in children) / len(children)

    assert share(0.0) == 0.0
    assert 0.35 < share(0.5) < 0.65
    assert share(1.0) == 1.0


def test_mutation_probability_0_leaves_children_of_two_parents_as_mated():
    algorithm = GenerationalEvolution(10, crossover_probability=1.0, mutation_probability=0.0)
    assert {c.origin for c in Search(lambda: algorithm).run(60)} == {"sample", "mate"}


def zdt1(genome):
    """A toy front: f2 = 1 - sqrt(f1) where all but the first gene are 0."""
    first = genome["x0"]
    g = 1 + 9 * sum(genome[f"x{i}"] for i in range(1, 8)) / 7
    return first, g * (1 - (first / g) ** 0.5)


def hypervolume(front, reference=(1.1, 8.0)):
    area, below = 0.0, reference[1]
    for first, second in sorted(front):
        if first < reference[0] and second < below:
            area += (reference[0] - first) * (below - second)
            below = second
    return area


def test_nsga2_finds_a_better_front_than_random_search_with_every_seed():
    space = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(8)})
    objectives = [Objective("f1", "min"), Objective("f2", "min")]
    for seed in range(3):
        areas = []
        for algorithm in (NSGA2(population_size=20), RandomSearch()):
            search(algorithm, space, zdt1, 300, objectives, seed)
            front = [each.fitness.values for each in algorithm.hall_of_fame]
            assert not any(a[0] <= b[0] and a[1] <= b[1] and a != b for a in front for b in front)
            areas.append(hypervolume(front))
        assert areas[0] > areas[1] + 0.5


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_nsga2_takes_any_number_of_objectives(count):
    objectives = [Objective(f"f{i}", "min") for i in range(count)]
    space = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(5)})
    algorithm = NSGA2(population_size=10)
    history = search(
        algorithm, space, lambda genome: tuple((genome[f"x{i}"] - 0.2 * i) ** 2 for i in range(count)), 100, objectives
    )
    assert len(algorithm.population) == 10
    assert sum(bool(candidate.parents) for candidate, _ in history) == 90


@pytest.mark.parametrize("algorithm", [LocalSearch(), RegularizedEvolution(), GenerationalEvolution()])
def test_single_objective_algorithms_keep_a_front_of_several(algorithm):
    history = search(algorithm, LINE, lambda genome: (genome["x"] % 20, genome["x"]), 120, TWO)
    front = [each.fitness.values for each in algorithm.hall_of_fame]
    for values in front:
        assert not any(v[0] >= values[0] and v[1] <= values[1] and v != values for _, v in history)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSearch(population_size=0), "population_size: 0 is not at least 1"),
        (lambda: RandomSearch(duplicate_retries=-1), "duplicate_retries: -1 is not at least 0"),
        (lambda: RandomSearch(hall_of_fame_size=0), "hall_of_fame_size: 0 is not at least 1"),
        (lambda: RegularizedEvolution(tournament_size=0), "tournament_size: 0 is not at least 1"),
        (lambda: LocalSearch(patience=0), "patience: 0 is not at least 1"),
        (lambda: GenerationalEvolution(strategy="plus"), "strategy: 'plus' is not one of"),
        (lambda: GenerationalEvolution(4, elitism=4), "elitism: 4 leaves no room"),
        (lambda: GenerationalEvolution(elitism=-1), "elitism: -1 is not at least 0"),
        (lambda: GenerationalEvolution(offspring=3), "offspring: 3 is not population_size - elitism = 14"),
        (lambda: GenerationalEvolution(4, "mu,lambda", offspring=1), "offspring: 1 is not at least 2"),
        (lambda: GenerationalEvolution(4, "mu+lambda", offspring=0), "offspring: 0 is not at least 1"),
        (lambda: GenerationalEvolution(crossover_probability=1.2), "crossover_probability: 1.2 is not a probability"),
        (lambda: NSGA2(mutation_probability=-0.1), "mutation_probability: -0.1 is not a probability"),
        (lambda: NSGA2(crossover_probability=float("nan")), "crossover_probability: nan is not a probability"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [RegularizedEvolution(), NSGA2(population_size=100)])
def test_twenty_thousand_candidates_are_recalled_and_searched_on(algorithm):
    space = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(6)})
    rng = random.Random(0)
    algorithm.bind(SearchSetup(space, TWO, 0))
    for id in range(20_000):
        candidate = Candidate(id, space.sample(rng))
        algorithm.recall(candidate)
        algorithm.tell(candidate, Result("completed", fitness=(candidate.genome["x0"], candidate.genome["x1"])))
    assert algorithm.ask().id == 20_000
    assert len(algorithm.logbook) == 20_000 // algorithm.population_size
