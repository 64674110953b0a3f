import copy
import inspect
import json
import math
import pickle
import random
import subprocess
import sys

import numpy
import pytest
from algorithms_searching import BREEDING, MAKERS, ONE, SPACE, STEADY, SYNCHRONOUS, THREE, TWO, Search, evaluate
from deap import tools
from jsonargparse import ArgumentError, ArgumentParser

from lightning_evo import algorithms
from lightning_evo.algorithms import (
    NSGA2,
    Algorithm,
    GenerationalEvolution,
    LocalSearch,
    Operator,
    ParetoFront,
    RandomSearch,
    RegularizedEvolution,
    SearchSetup,
)
from lightning_evo.evolution.description import describe
from lightning_evo.genome import (
    Boolean,
    Categorical,
    Integer,
    Objective,
    Ordinal,
    Result,
    SearchSpace,
    SpaceError,
    Uniform,
)
from lightning_evo.utils.signatures import constructor_parameters

every_algorithm = pytest.mark.parametrize("name", [name for name in MAKERS if name != "nsga3"])
every_one_that_breeds_singly = pytest.mark.parametrize("name", [name for name in BREEDING if name != "nsga3"])
every_synchronous_one = pytest.mark.parametrize("name", SYNCHRONOUS)
every_steady_one = pytest.mark.parametrize("name", STEADY)


def pareto(name):
    return TWO if name.startswith("nsga") else ONE


def told_all(search, count):
    search.run(count)
    while search.running:
        search.end_one()
    return search


def state_of(algorithm):
    """All that decides what follows, as seen from outside."""
    return (
        [(each.id, each.fitness.values) for each in algorithm.population],
        [(each.id, each.fitness.values) for each in algorithm.hall_of_fame],
        str(algorithm.logbook) if algorithm.logbook else "",
    )


def test_the_table_has_every_public_algorithm():
    public = [getattr(algorithms, name) for name in algorithms.__all__]
    expected = {kind for kind in public if inspect.isclass(kind) and issubclass(kind, Algorithm)} - {Algorithm}
    assert {type(make()) for make in MAKERS.values()} == expected


@every_algorithm
def test_what_every_candidate_promises(name):
    candidates = Search(MAKERS[name], pareto(name), slots=3).run(60)
    assert [candidate.id for candidate in candidates] == list(range(60))
    for candidate in candidates:
        SPACE.validate(candidate.genome)
        assert all(parent < candidate.id for parent in candidate.parents)
        assert pickle.loads(pickle.dumps(candidate)) == candidate


@every_algorithm
def test_several_objectives_give_a_front_and_fitness_for_each(name):
    search = told_all(Search(MAKERS[name], TWO, slots=2), 40)
    front = search.algorithm.hall_of_fame
    assert isinstance(front, ParetoFront)
    assert {len(each.fitness.values) for each in (*front, *search.algorithm.population)} == {2}
    assert not any(one.fitness.dominates(other.fitness) for one in front for other in front)
    assert set(search.algorithm.logbook.chapters) == {"val_acc", "cost/params"}


@every_algorithm
def test_the_hall_of_fame_is_that_of_all_results_in_whatever_order_they_came(name):
    for order in (1, 2):
        search = told_all(Search(MAKERS[name], ONE, slots=6, order=order), 30)
        best = max(result.fitness[0] for _, result in search.told)
        assert search.algorithm.hall_of_fame[0].fitness.values == (best,)


@every_algorithm
def test_an_algorithm_is_pickled_copied_and_described_by_its_arguments_as_json(name):
    description = describe(MAKERS[name]())
    assert json.loads(json.dumps(description)) == description
    expected = Search(MAKERS[name], pareto(name)).run(20)
    for again in (pickle.loads(pickle.dumps(MAKERS[name]())), copy.deepcopy(MAKERS[name]())):
        assert describe(again) == description
        assert Search(lambda made=again: made, pareto(name)).run(20) == expected
        assert describe(again) == description


@every_one_that_breeds_singly
def test_candidates_are_valid_numbered_in_order_and_name_earlier_parents(name):
    candidates = Search(MAKERS[name], pareto(name), slots=3).run(60)
    for number, candidate in enumerate(candidates):
        SPACE.validate(candidate.genome)
        assert candidate.id == number
        assert all(parent < number for parent in candidate.parents)
        generations = [candidates[parent].generation for parent in candidate.parents]
        assert candidate.generation == (1 + max(generations) if generations else 0)
        assert candidate.inherits is None
    assert len({candidate.seed for candidate in candidates}) == 60


@every_one_that_breeds_singly
def test_the_origin_says_how_a_candidate_was_made(name):
    origins = {c.origin for c in Search(MAKERS[name], pareto(name)).run(60)}
    expected = {"sample"} if name.startswith("random") else {"sample", "mutate"}
    assert expected <= origins <= {*expected, "mate", "mate+mutate"}


@every_algorithm
def test_the_seed_decides_the_candidates(name):
    first, again = (Search(MAKERS[name], pareto(name), seed=5).run(50) for _ in range(2))
    assert first == again
    other = Search(MAKERS[name], pareto(name), seed=6).run(50)
    assert [c.genome for c in first] != [c.genome for c in other]
    assert {c.seed for c in first}.isdisjoint({c.seed for c in other})


@every_algorithm
def test_the_global_random_states_neither_matter_nor_change(name):
    random.seed(1)
    numpy.random.seed(1)
    numpy.random.normal()  # leaves a second normal number waiting inside the state
    states = random.getstate(), pickle.dumps(numpy.random.get_state())
    first = told_all(Search(MAKERS[name], pareto(name)), 40).asked
    assert (random.getstate(), pickle.dumps(numpy.random.get_state())) == states
    random.seed(2)
    numpy.random.seed(2)
    assert told_all(Search(MAKERS[name], pareto(name)), 40).asked == first


@pytest.mark.parametrize("failing", [0.0, 0.4])
@every_synchronous_one
def test_a_synchronous_algorithm_asks_the_same_on_any_number_of_slots_in_any_order(name, failing):
    one = told_all(Search(MAKERS[name], pareto(name), failing=failing), 60)
    for slots, order in ((4, 1), (4, 2), (100, 3)):
        several = told_all(Search(MAKERS[name], pareto(name), slots=slots, order=order, failing=failing), 60)
        assert several.asked == one.asked
        assert state_of(several.algorithm) == state_of(one.algorithm)


@every_synchronous_one
def test_a_synchronous_algorithm_waits_for_its_generation_and_says_so(name):
    algorithm = MAKERS[name]()
    assert algorithm.synchronous
    algorithm.bind(SearchSetup(SPACE, pareto(name), 0))
    generation = []
    while (candidate := algorithm.ask()) is not None:
        generation.append(candidate)
    assert len(generation) == algorithm.population_size
    for candidate in generation[1:]:
        algorithm.tell(candidate, evaluate(candidate, pareto(name)))
        assert algorithm.ask() is None
    algorithm.tell(generation[0], evaluate(generation[0], pareto(name)))
    assert algorithm.ask() is not None


@every_steady_one
def test_a_steady_state_algorithm_never_makes_a_slot_wait(name):
    algorithm = MAKERS[name]()
    assert not algorithm.synchronous
    algorithm.bind(SearchSetup(SPACE, ONE, 0))
    assert all(algorithm.ask() is not None for _ in range(50))


@pytest.mark.parametrize("failing", [0.0, 0.4])
@pytest.mark.parametrize("interrupted", [1, 6, 17, 31])
@pytest.mark.parametrize("name", list(MAKERS))
def test_a_resumed_search_equals_one_never_interrupted(name, interrupted, failing):
    objectives = THREE if name == "nsga3" else pareto(name)
    live = Search(MAKERS[name], objectives, slots=3, order=7, failing=failing)
    live.run(interrupted)

    resumed = Search(MAKERS[name], objectives, slots=3, failing=failing)
    for candidate in live.asked:
        resumed.algorithm.recall(candidate)
    for candidate, result in live.told:
        resumed.algorithm.tell(candidate, result)
    assert state_of(resumed.algorithm) == state_of(live.algorithm)

    resumed.order = copy.deepcopy(live.order)
    resumed.asked, resumed.running = list(live.asked), list(live.running)
    assert told_all(resumed, 45).asked == told_all(live, 45).asked
    assert state_of(resumed.algorithm) == state_of(live.algorithm)


@every_algorithm
def test_failed_candidates_pass_nothing_on_nor_enter_the_hall_of_fame(name):
    search = told_all(Search(MAKERS[name], pareto(name), slots=2, failing=0.5), 80)
    failed = {candidate.id for candidate, result in search.told if result.status == "failed"}
    assert 20 < len(failed) < 60
    if search.algorithm.continues:  # a member's last candidate is named as a parent, also where it failed
        assert failed.isdisjoint(candidate.inherits for candidate in search.asked)
    else:
        assert failed.isdisjoint(parent for candidate in search.asked for parent in candidate.parents)
    assert failed.isdisjoint(each.id for each in search.algorithm.hall_of_fame)
    assert sum(search.algorithm.logbook.select("failed")) <= len(failed)


@every_algorithm
def test_a_search_whose_candidates_all_fail_goes_on_sampling(name):
    search = told_all(Search(MAKERS[name], pareto(name), failing=1.0), 40)
    assert {candidate.origin for candidate in search.asked} == {"sample"}
    assert len(search.algorithm.hall_of_fame) == len(search.algorithm.population) == 0
    assert all(math.isnan(value) for value in search.algorithm.logbook.chapters["val_acc"].select("max"))
    assert str(search.algorithm.logbook)


@pytest.mark.parametrize("name", [name for name in SYNCHRONOUS if name in BREEDING])
def test_a_generation_that_fails_as_a_whole_leaves_its_parents_alive(name):
    search = Search(MAKERS[name], pareto(name))
    told_all(search, search.algorithm.population_size)
    alive = {each.id for each in search.algorithm.population}
    search.failing = 1.0
    told_all(search, len(search.asked) + search.algorithm.generation_size)
    assert {each.id for each in search.algorithm.population} == alive
    search.failing = 0.0
    assert search.algorithm.ask().parents


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@every_algorithm
def test_a_fitness_that_is_not_finite_counts_as_a_failure(name, value):
    algorithm = MAKERS[name]()
    algorithm.bind(SearchSetup(SPACE, ONE, 0))
    asked = [algorithm.ask() for _ in range(4)]
    algorithm.tell(asked[0], Result("completed", fitness=(value,)))
    for candidate in asked[1:]:
        algorithm.tell(candidate, Result("completed", fitness=(0.5,)))
    assert 0 not in {each.id for each in algorithm.hall_of_fame}
    assert 0 not in {each.id for each in algorithm.population}


@every_algorithm
def test_a_stopped_candidate_counts_with_its_predicted_fitness(name):
    algorithm = MAKERS[name]()
    algorithm.bind(SearchSetup(SPACE, ONE, 0))
    candidate = algorithm.ask()
    algorithm.tell(candidate, Result("stopped", fitness=(0.9,)))
    assert [each.id for each in algorithm.hall_of_fame] == [0]


@every_one_that_breeds_singly
def test_a_small_space_is_searched_without_asking_anything_twice_while_there_is_something_new(name):
    space = SearchSpace({"a": Boolean(), "b": Ordinal([1, 2, 3])})

    def result(genome):
        return Result("completed", fitness=(float(genome["a"] + genome["b"]),))

    algorithm = MAKERS[name]()
    algorithm.bind(SearchSetup(space, ONE, 3))
    asked = []
    for _ in range(24):
        candidate = algorithm.ask()
        asked.append(candidate)
        algorithm.tell(candidate, result(candidate.genome))
    first = {}
    for candidate in asked:
        phenotype = space.phenotype(candidate.genome)
        assert candidate.duplicate_of == first.get(phenotype)
        first.setdefault(phenotype, candidate.id)
    assert len(first) >= 5
    assert sum(candidate.duplicate_of is None for candidate in asked[:5]) >= 4
    assert algorithm.hall_of_fame[0].fitness.values == (4.0,)
    phenotypes = [each.phenotype for each in algorithm.hall_of_fame]
    assert len(set(phenotypes)) == len(phenotypes)


def test_without_retries_a_duplicate_is_returned_at_once():
    algorithm = RandomSearch(duplicate_retries=0)
    algorithm.bind(SearchSetup(SearchSpace({"a": Boolean()}), ONE, 0))
    asked = [algorithm.ask() for _ in range(6)]
    firsts = {}
    for candidate in asked:
        assert candidate.duplicate_of == firsts.get(candidate.genome)
        firsts.setdefault(candidate.genome, candidate.id)


def test_a_duplicate_recalled_is_still_known():
    live, resumed = RandomSearch(duplicate_retries=0), RandomSearch(duplicate_retries=0)
    for algorithm in (live, resumed):
        algorithm.bind(SearchSetup(SearchSpace({"a": Boolean()}), ONE, 0))
    for _ in range(5):
        resumed.recall(live.ask())
    following = live.ask()
    assert following.duplicate_of is not None
    assert resumed.ask() == following


@every_one_that_breeds_singly
def test_initial_genomes_come_first_and_are_completed(name):
    space = SearchSpace(
        {"kind": Categorical(["a", "b"]), "size": Integer(1, 9, when={"kind": ["b"]}), "x": Uniform(0, 1)}
    )
    algorithm = MAKERS[name]()
    algorithm.initial = [{"kind": "b", "size": 7}, {"x": 0.25}, {"kind": "a", "x": 0.5}] * 3
    algorithm.bind(SearchSetup(space, ONE, 0))
    asked = [algorithm.ask() for _ in range(9)]
    assert asked[0].genome["size"] == 7
    assert asked[1].genome["x"] == 0.25
    assert dict(asked[2].genome) == {"kind": "a", "x": 0.5}
    assert {candidate.origin for candidate in asked} == {"initial"}
    assert asked[5].duplicate_of == 2
    for candidate in asked:
        space.validate(candidate.genome)
        algorithm.tell(candidate, Result("completed", fitness=(0.5,)))
    assert algorithm.ask().origin != "initial"


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ([{"nothing": 1}], r"initial\[0\]\.nothing: not in the search space"),
        ([{}, {"model.width": 17}], r"initial\[1\]\.model\.width: 17 is not one of"),
        ([{"model.kernel": 3}], r"initial\[0\]\.model\.kernel: is active only when"),
        ([{"model.kernel": 3, "model.kind": "linear"}], r"initial\[0\]\.model\.kernel: is active only when"),
    ],
)
def test_an_initial_genome_that_does_not_fit_is_refused_by_path(initial, message):
    with pytest.raises(SpaceError, match=message):
        RandomSearch(initial=initial).bind(SearchSetup(SPACE, ONE, 0))


def test_tells_and_recalls_out_of_place_are_refused():
    algorithm = RandomSearch()
    with pytest.raises(RuntimeError, match="bind"):
        algorithm.ask()
    algorithm.bind(SearchSetup(SPACE, ONE, 0))
    candidate = algorithm.ask()
    with pytest.raises(ValueError, match=r"one value for each of the objectives \['val_acc'\]"):
        algorithm.tell(candidate, Result("completed", fitness=(0.1, 0.2)))
    with pytest.raises(ValueError, match="one value for each"):
        algorithm.tell(candidate, Result("completed"))
    algorithm.tell(candidate, Result("completed", fitness=(0.1,)))
    with pytest.raises(ValueError, match="candidate 0 was told before"):
        algorithm.tell(candidate, Result("completed", fitness=(0.1,)))
    with pytest.raises(ValueError, match="candidate 0 is recalled, but 1 comes next"):
        algorithm.recall(candidate)


@pytest.mark.parametrize("objectives", [[], [Objective("val_acc"), Objective("val_acc", "min")]])
def test_no_objective_or_one_twice_is_refused(objectives):
    with pytest.raises(ValueError, match="give at least one, and none twice"):
        RandomSearch().bind(SearchSetup(SPACE, objectives, 0))


def test_binding_again_starts_afresh():
    algorithm = RegularizedEvolution(population_size=3)
    runs = []
    for _ in range(2):
        algorithm.bind(SearchSetup(SPACE, ONE, 0))
        asked = []
        for _ in range(12):
            asked.append(algorithm.ask())
            algorithm.tell(asked[-1], evaluate(asked[-1], ONE))
        runs.append(asked)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", ["generational", "regularized", "nsga2"])
def test_the_logbook_describes_each_generation(name):
    search = told_all(Search(MAKERS[name], TWO, failing=0.2), 36)
    logbook = search.algorithm.logbook
    assert isinstance(logbook, tools.Logbook)
    assert logbook.select("gen") == list(range(len(logbook)))
    assert sum(logbook.select("nevals")) <= 36
    assert all(0 < diversity <= 1 for diversity in logbook.select("diversity"))
    last = logbook.chapters["cost/params"][-1]
    values = [each.fitness.values[1] for each in search.algorithm.population]
    if name != "regularized":
        assert (last["min"], last["max"]) == (min(values), max(values))
        assert last["mean"] == pytest.approx(numpy.mean(values))
        assert last["std"] == pytest.approx(numpy.std(values))
    assert "diversity" in str(logbook)


def test_individuals_and_halls_of_fame_can_be_pickled():
    for objectives in (ONE, TWO):
        search = told_all(Search(MAKERS["regularized"], objectives), 20)
        again = pickle.loads(pickle.dumps(search.algorithm.hall_of_fame))
        assert [each.candidate for each in again] == [each.candidate for each in search.algorithm.hall_of_fame]
        assert again[0].fitness == search.algorithm.hall_of_fame[0].fitness
        assert copy.deepcopy(again[0].fitness) == again[0].fitness


class TwoGenerationsApart(Algorithm):
    """A user's own synchronous algorithm, in ten lines."""

    synchronous = True

    def select_parents(self):
        return self.toolbox.select(self.population, 2)

    def vary(self, parents):
        return self.toolbox.mutate(self.toolbox.mate(parents[0].genome, parents[1].genome)[0])

    def survive(self, population):
        return tools.selBest(population, self.population_size // 2) + tools.selRandom(population, 2)


@pytest.mark.parametrize("objectives", [ONE, TWO])
def test_a_users_own_algorithm_keeps_all_promises(objectives):
    def make():
        return TwoGenerationsApart(8, mutate=Operator("mutGaussian", {"mu": 0, "sigma": 0.3, "indpb": 0.5}))

    one = told_all(Search(make, objectives), 64)
    four = told_all(Search(make, objectives, slots=4, order=3), 64)
    assert one.asked == four.asked
    assert {candidate.origin for candidate in one.asked} == {"sample", "mate+mutate"}
    best = max(result.fitness[0] for _, result in one.told)
    assert best == one.algorithm.hall_of_fame[0].fitness.values[0]


@pytest.mark.parametrize("room", ["genome", "algorithms"])
def test_importing_the_room_imports_neither_torch_nor_lightning(room):
    code = f"import sys, lightning_evo.{room}; sys.exit(bool({{'torch', 'lightning'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SHARED = ("initial", "duplicate_retries", "hall_of_fame_size", "prescreen")


@pytest.mark.parametrize("kind", [RandomSearch, LocalSearch, RegularizedEvolution, GenerationalEvolution, NSGA2])
def test_the_command_line_knows_the_arguments_that_algorithms_share(kind, capsys):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--algorithm", type=Algorithm)
    taken = vars(parser.parse_args([f"--algorithm={kind.__module__}.{kind.__name__}"]).algorithm.init_args)
    assert taken == {
        name: parameter.default
        for name, parameter in constructor_parameters(kind).items()
        if name in SHARED or name in inspect.signature(kind).parameters
    }
    with pytest.raises(SystemExit):
        parser.parse_args([f"--algorithm.help={kind.__module__}.{kind.__name__}"])
    shown = capsys.readouterr().out
    assert all(f"--algorithm.{name} " in shown for name in taken)
    assert "How often to breed again" in shown
    with pytest.raises(ArgumentError, match="duplicate_retris"):
        parser.parse_args([f"--algorithm={kind.__module__}.{kind.__name__}", "--algorithm.duplicate_retris=3"])


@pytest.mark.parametrize("kind", [RandomSearch, LocalSearch, RegularizedEvolution, GenerationalEvolution, NSGA2])
def test_the_arguments_that_algorithms_share_are_described_and_shown(kind):
    made = kind(initial=[{"x": 1}], duplicate_retries=3)
    assert {name: describe(made)["init_args"].get(name) for name in SHARED} == {
        "initial": [{"x": 1}],
        "duplicate_retries": 3,
        "hall_of_fame_size": 10,
        "prescreen": None,
    }
    assert repr(made).endswith("initial=[{'x': 1}], duplicate_retries=3)")
    with pytest.raises(TypeError, match="duplicate_retris"):
        kind(duplicate_retris=3)
