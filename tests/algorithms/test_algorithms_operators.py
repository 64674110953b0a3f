import random
from collections import Counter

import pytest
from algorithms_searching import ONE, SPACE, THREE, TWO, Search, evaluate
from deap import tools

from lightning_evo.algorithms import (
    INACTIVE,
    NSGA2,
    Fitness,
    GenerationalEvolution,
    Individual,
    LocalSearch,
    Operator,
    RegularizedEvolution,
    SearchSetup,
)
from lightning_evo.algorithms.operators import REFUSED, SCALES, SELECTION
from lightning_evo.algorithms.randomness import streams
from lightning_evo.algorithms.selection import selection
from lightning_evo.algorithms.variation import mating, mutation
from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Candidate,
    Categorical,
    Genome,
    Integer,
    Objective,
    Ordinal,
    SearchSpace,
    Uniform,
)

ARGUMENTS = {
    "cxBlend": {"alpha": 0.5},
    "cxSimulatedBinary": {"eta": 2.0},
    "cxSimulatedBinaryBounded": {"eta": 2.0},
    "cxUniform": {"indpb": 0.5},
    "mutFlipBit": {"indpb": 0.2},
    "mutGaussian": {"mu": 0.0, "sigma": 0.2, "indpb": 0.3},
    "mutPolynomialBounded": {"eta": 2.0, "indpb": 0.3},
    "mutShuffleIndexes": {"indpb": 0.3},
    "mutUniformInt": {"indpb": 0.3},
    "selDoubleTournament": {"fitness_size": 3, "parsimony_size": 1.4, "fitness_first": True},
    "selEpsilonLexicase": {"epsilon": 0.1},
    "selNSGA3": {"ref_points": 12},
    "selTournament": {"tournsize": 3},
}
FAMILIES = [n for n, found in vars(tools).items() if n.startswith(("cx", "mut", "sel")) and callable(found)]
SPACES = {
    "conditional": SPACE,
    "one boolean": SearchSpace({"a": Boolean()}),
    "one choice of one": SearchSpace({"a": Categorical(["x"])}),
    "one bitstring": SearchSpace({"bits": Bitstring(12)}),
    "bits that come and go": SearchSpace({"on": Boolean(), "bits": Bitstring(4, when={"on": [True]})}),
}


def individuals(values, weights=(1.0,)):
    return [
        Individual(Candidate(i, Genome({"a": i})), str(i), Fitness(weights, fitness))
        for i, fitness in enumerate(values)
    ]


def crossovers_and_mutations():
    return [(name, on) for name, scales in SCALES.items() for on in scales]


def test_every_operator_of_deap_is_either_usable_or_refused_for_a_stated_reason():
    assert sorted(FAMILIES) == sorted([*SELECTION, *SCALES, *REFUSED])
    assert set(REFUSED) == {
        "cxESBlend",
        "cxESTwoPoint",
        "cxESTwoPoints",
        "cxMessyOnePoint",
        "cxOrdered",
        "cxPartialyMatched",
        "cxTwoPoints",
        "cxUniformPartialyMatched",
        "mutESLogNormal",
        "selNSGA3WithMemory",
    }


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_operator_says_why(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot be used: "):
        Operator(name)


@pytest.mark.parametrize("objectives", [ONE, TWO, [Objective("val_loss", "min")]], ids=["one", "two", "min"])
@pytest.mark.parametrize("name", SELECTION)
def test_every_selection_drives_a_search_as_parents_and_as_survivors(name, objectives):
    operator = Operator(name, ARGUMENTS.get(name, {}))
    if name == "selNSGA3" and len(objectives) == 1:
        with pytest.raises(ValueError, match="selNSGA3 needs two objectives or more"):
            NSGA2(select=operator).bind(SearchSetup(SPACE, objectives, 0))
        return
    for make in (
        lambda: GenerationalEvolution(5, select=operator, survive=operator, crossover_probability=1.0),
        lambda: RegularizedEvolution(5, select=operator),
    ):
        candidates = Search(make, objectives, failing=0.3).run(30)
        assert sum(bool(candidate.parents) for candidate in candidates) >= 15


@pytest.mark.parametrize(("name", "on"), crossovers_and_mutations())
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_crossover_and_mutation_gives_valid_genomes(name, on, space):
    operator = Operator(name, ARGUMENTS.get(name, {}), on)
    if on == "bits" and not any(isinstance(gene, (Bitstring, Boolean)) for gene in space.values()):
        with pytest.raises(ValueError, match="this space has none"):
            (mating if name.startswith("cx") else mutation)(operator, space)
        return
    rng, changed = random.Random(0), 0
    for i in range(40):
        first, second = space.sample(rng), space.sample(rng)
        with streams(rng, "test", i):
            if name.startswith("cx"):
                children = mating(operator, space)(first, second, rng)
            else:
                children = (mutation(operator, space)(first, rng),)
        for child, parent in zip(children, (first, second), strict=False):
            space.validate(child)
            assert child.rates == parent.rates
            changed += child != parent
    if space is SPACE:
        assert changed > 10


@pytest.mark.parametrize("on", ["values", "unit", "bits"])
@pytest.mark.parametrize("name", ["cxOnePoint", "cxTwoPoint", "cxUniform"])
def test_swapping_crossovers_take_every_value_exactly_from_a_parent(name, on):
    space = SearchSpace({"a": Uniform(0, 1), "b": Boolean(), "c": Ordinal([1, 2, 3]), "d": Categorical(["x", "y"])})
    mate, rng = mating(Operator(name, ARGUMENTS.get(name, {}), on), space), random.Random(1)
    for _ in range(30):
        first, second = space.sample(rng), space.sample(rng)
        for child in mate(first, second, rng):
            assert all(child[path] in (first[path], second[path]) for path in space)


def test_numeric_mutation_leaves_untouched_genes_exactly_as_they_were():
    space = SearchSpace({f"x{i}": Uniform(0.1, 0.7) for i in range(10)})
    mutate, rng = mutation(Operator("mutGaussian", {"mu": 0, "sigma": 0.2, "indpb": 0.2}), space), random.Random(0)
    genome = space.sample(rng)
    random.seed(0)
    kept = [sum(genome[path] == child[path] for path in space) for child in (mutate(genome, rng) for _ in range(50))]
    assert 6.5 < sum(kept) / 50 < 9.5


def test_numeric_operators_stay_within_the_range_however_far_they_reach():
    space = SearchSpace({"x": Uniform(0.1, 0.7), "n": Integer(2, 9, log=True), "bits": Bitstring(3)})
    mutate = mutation(Operator("mutGaussian", {"mu": 5.0, "sigma": 0.0, "indpb": 1.0}), space)
    assert dict(mutate(space.sample(random.Random(0)), random.Random(0))) == {"x": 0.7, "n": 9, "bits": "111"}


def test_a_gene_that_is_off_is_not_mutated_and_one_switched_on_is_drawn_anew():
    space = SearchSpace({"on": Boolean(), "x": Uniform(0, 1, when={"on": [True]})})
    mutate = mutation(Operator("mutGaussian", {"mu": 1.0, "sigma": 0.0, "indpb": 1.0}), space)
    values = {mutate(Genome({"on": False}), random.Random(seed))["x"] for seed in range(10)}
    assert len(values) == 10
    flip = mutation(Operator("mutFlipBit", {"indpb": 1.0}), space)
    assert dict(flip(Genome({"on": True, "x": 0.5}), random.Random(0))) == {"on": False}


def test_blending_with_a_parent_that_lacks_a_gene_keeps_the_value_there_is():
    space = SearchSpace({"on": Boolean(), "x": Uniform(0, 1, when={"on": [True]}), "y": Uniform(0, 1)})
    mate = mating(Operator("cxBlend", {"alpha": 0.0}), space)
    for seed in range(20):
        random.seed(seed)
        children = mate(Genome({"on": True, "x": 0.25, "y": 0.0}), Genome({"on": False, "y": 1.0}), random.Random(seed))
        for child in children:
            assert child.get("x", 0.25) == 0.25
            assert 0 < child["y"] < 1


def test_bits_are_flipped_within_bitstrings_and_booleans_alone():
    space = SearchSpace({"bits": Bitstring(4), "flag": Boolean(), "x": Uniform(0, 1), "kind": Categorical(["a", "b"])})
    genome = Genome({"bits": "0101", "flag": True, "x": 0.3, "kind": "a"})
    flip = mutation(Operator("mutFlipBit", {"indpb": 1.0}), space)
    assert dict(flip(genome, random.Random(0))) == {"bits": "1010", "flag": False, "x": 0.3, "kind": "a"}


def test_roulette_prefers_the_better_whichever_way_fitness_points():
    for weight, values in ((1.0, [(1.0,), (3.0,)]), (-1.0, [(3.0,), (1.0,)]), (1.0, [(-3.0,), (-1.0,)])):
        objective = Objective("fitness", "max" if weight > 0 else "min")
        for name in ("selRoulette", "selStochasticUniversalSampling"):
            select = selection(Operator(name), "select", [objective])
            population = individuals(values, (weight,))
            random.seed(0)
            counts = Counter(select(population, 1)[0].id for _ in range(400))
            assert counts[1] > 1.5 * counts[0] > 0
    equal = individuals([(0.0,)] * 3)
    assert {selection(Operator("selRoulette"), "select", ONE)(equal, 1)[0].id for _ in range(60)} == {0, 1, 2}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("k", [1, 2, 4, 5, 8])
def test_the_crowded_tournament_gives_k_from_a_population_of_any_size(size, k):
    select = selection(Operator("selTournamentDCD"), "select", TWO)
    population = individuals([(float(i % 3), float(i % 2)) for i in range(size)], (1.0, -1.0))
    chosen = select(population, k)
    assert len(chosen) == k
    assert all(each in population for each in chosen)


def test_the_crowded_tournament_prefers_the_dominating_and_then_the_lonely():
    select = selection(Operator("selTournamentDCD"), "select", TWO)
    front = [(0.0, 0.0), (0.48, 0.48), (0.5, 0.5), (0.52, 0.52), (1.0, 1.0), (0.0, 2.0)]  # accuracy, size; the last bad
    random.seed(0)
    counts = Counter(each.id for _ in range(500) for each in select(individuals(front, (1.0, -1.0)), 2))
    assert counts[5] == 0
    assert min(counts[0], counts[4]) > counts[2]


def test_reference_points_may_be_a_number_of_divisions():
    select = selection(Operator("selNSGA3", {"ref_points": 3}), "survive", THREE)
    rng = random.Random(0)
    population = individuals([[rng.random() for _ in range(3)] for _ in range(20)], (1.0, -1.0, -1.0))
    assert len(select(population, 7)) == 7
    assert len(select(population[:3], 7)) == 3


def halve(individual, by=2):
    individual[0] /= by
    return (individual,)


def swap_first(first, second):
    first[0], second[0] = second[0], first[0]
    return first, second


def newest(individuals, k):
    return individuals[-k:]


def grows(individual):
    return (individual * 2,)


def forgets_to_return(individual):
    individual.reverse()


def out_of_range(individual):
    individual[0] = "elsewhere"
    return (individual,)


def remember(individual):
    REMEMBERED.append(list(individual))
    return (individual,)


REMEMBERED = []


def test_a_users_own_functions_are_named_by_import_path():
    space = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})
    here = __name__
    mutate = mutation(Operator(f"{here}.halve", {"by": 4}), space)
    assert mutate(Genome({"x": 0.8, "y": 0.3}), random.Random(0)) == Genome({"x": 0.2, "y": 0.3})
    mate = mating(Operator(f"{here}.swap_first", acts_on="unit"), space)
    children = mate(Genome({"x": 0.1, "y": 0.2}), Genome({"x": 0.3, "y": 0.4}), random.Random(0))
    assert children == (Genome({"x": 0.3, "y": 0.2}), Genome({"x": 0.1, "y": 0.4}))
    search = Search(lambda: RegularizedEvolution(4, select=Operator(f"{here}.newest")))
    assert search.run(12)[-1].parents == (10,)


def test_a_users_function_sees_which_genes_are_off():
    space = SearchSpace({"on": Boolean(), "x": Uniform(0, 1, when={"on": [True]})})
    mutate = mutation(Operator(f"{__name__}.remember"), space)
    assert mutate(Genome({"on": False}), random.Random(0)) == Genome({"on": False})
    assert REMEMBERED[-1] == [False, INACTIVE]


def test_deap_operators_may_be_named_by_their_import_path_too():
    assert Operator("deap.tools.mutFlipBit", {"indpb": 0.5}) == Operator("mutFlipBit", {"indpb": 0.5})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Operator("selTournment"), "'selTournment' is not an operator; did you mean 'selTournament'"),
        (lambda: Operator("zzz"), "'zzz' is not an operator; there are .*cxBlend.*uniform"),
        (lambda: Operator("mutGaussian", acts_on="values"), r"acts_on: 'values' is not one of \['unit'\]"),
        (lambda: Operator("per_gene", acts_on="unit"), r"acts_on: 'unit' is not one of \[\]"),
        (
            lambda: GenerationalEvolution(mate=Operator("mutFlipBit")),
            "mate: 'mutFlipBit' is of another kind; there are cx",
        ),
        (lambda: GenerationalEvolution(mutate=Operator("uniform")), "mutate: 'uniform' is of another kind"),
        (lambda: GenerationalEvolution(mate=Operator("cxUniform")), "mate: cxUniform: missing .*'indpb'"),
        (
            lambda: GenerationalEvolution(select=Operator("selTournament", {"size": 3})),
            r"select: selTournament: .*; its arguments are tournsize, fit_attr",
        ),
        (
            lambda: GenerationalEvolution(mutate=Operator("mutFlipBit", {"indpb": 1.5})),
            "indpb: 1.5 is not a probability",
        ),
        (lambda: LocalSearch(mutate=Operator("per_gene", {"rate": "0.1"})), "rate: '0.1' is not a probability"),
        (
            lambda: LocalSearch(mutate=Operator("self_adaptive", {"ladder": [0.2, 0.1]})),
            r"ladder \[0.2, 0.1\] does not",
        ),
        (lambda: NSGA2(survive=Operator("selNSGA2", {"nd": "standard"})), "nd is always 'log' here"),
        (
            lambda: NSGA2(mutate=Operator("mutPolynomialBounded", {"eta": 1, "indpb": 0.1, "up": 5})),
            "up is always 1.0 here, not 5",
        ),
        (lambda: NSGA2(select=Operator("nowhere.at_all")), "select: cannot import 'nowhere.at_all'"),
        (lambda: NSGA2(select=Operator("math.nothing")), "select: cannot import 'math.nothing'"),
        (lambda: NSGA2(select=Operator("math.pi")), "'math.pi' is 3.14.*, not a function"),
        (
            lambda: NSGA2(select=Operator(f"{__name__}.newest", acts_on="unit")),
            "acts_on 'unit' has no meaning for a selection",
        ),
    ],
)
def test_a_wrong_operator_is_refused_when_the_algorithm_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select": Operator("selTournament", {"tournsize": "five"})}, "select: selTournament with arguments .* fails"),
        ({"select": Operator("selTournament", {"tournsize": 0})}, "select: selTournament with arguments .* fails"),
        ({"mutate": Operator("mutGaussian", {"mu": 0, "sigma": [0.1], "indpb": 0.1})}, "mutate: mutGaussian .* fails"),
        ({"mutate": Operator(f"{__name__}.grows")}, "must return 1 lists of 7 in a tuple"),
        ({"mutate": Operator(f"{__name__}.forgets_to_return")}, "must return 1 lists of 7 in a tuple, not None"),
        ({"mutate": Operator(f"{__name__}.out_of_range")}, r"model\.kind: 'elsewhere' is not one of"),
        ({"survive": Operator(f"{__name__}.halve")}, "survive: .*halve with arguments .* fails"),
    ],
)
def test_a_wrong_argument_is_found_before_the_search_starts(arguments, message):
    with pytest.raises(ValueError, match=message):
        GenerationalEvolution(**arguments).bind(SearchSetup(SPACE, ONE, 0))


def test_self_adaptive_rates_travel_with_the_genomes_of_a_search():
    search = Search(lambda: RegularizedEvolution(5, mutate=Operator("self_adaptive", {"ladder": [0.1, 0.2, 0.3]})))
    bred = [candidate for candidate in search.run(60) if candidate.parents]
    assert all(set(candidate.genome.rates.values()) <= {0.1, 0.2, 0.3} for candidate in bred)
    assert len({tuple(candidate.genome.rates.items()) for candidate in bred}) > 20


def test_operators_are_read_from_yaml(tmp_path):
    from jsonargparse import ArgumentParser

    from lightning_evo.algorithms import Algorithm

    config = tmp_path / "search.yaml"
    config.write_text(
        """
algorithm:
  class_path: GenerationalEvolution
  init_args:
    population_size: 6
    strategy: mu+lambda
    select: {name: selTournament, arguments: {tournsize: 5}}
    mate: {name: cxUniform, arguments: {indpb: 0.5}, acts_on: unit}
    mutate: {name: mutGaussian, arguments: {mu: 0, sigma: 0.2, indpb: 0.3}}
    initial:
      - {model.width: 32, model.kind: conv, model.kernel: 3}
"""
    )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Algorithm, "algorithm")
    algorithm = parser.instantiate(parser.parse_args([f"--config={config}"])).algorithm
    assert isinstance(algorithm, GenerationalEvolution)
    algorithm.bind(SearchSetup(SPACE, ONE, 0))
    for _ in range(20):
        candidate = algorithm.ask()
        algorithm.tell(candidate, evaluate(candidate, ONE))
    assert algorithm.ask().parents


@pytest.mark.parametrize("name", ["RandomSearch", "RegularizedEvolution", "NSGA2", "LocalSearch"])
def test_every_algorithm_is_read_from_yaml_by_its_short_name(name):
    from jsonargparse import ArgumentParser

    from lightning_evo.algorithms import Algorithm

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Algorithm, "algorithm")
    made = parser.instantiate(
        parser.parse_object({"algorithm": {"class_path": name, "init_args": {"population_size": 12}}})
    ).algorithm
    assert type(made).__name__ == name
    assert made.population_size == 12
