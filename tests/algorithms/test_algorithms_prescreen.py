import itertools
import math

import numpy
import pytest
from algorithms_searching import MAKERS, ONE, SPACE, TWO, Neighbours, Search, screen

from lightning_evo.algorithms import (
    NSGA2,
    GenerationalEvolution,
    Predictor,
    PredictorSearch,
    Prescreen,
    RandomSearch,
    RegularizedEvolution,
    SearchSetup,
)
from lightning_evo.algorithms.prescreen import milestone
from lightning_evo.algorithms.quality import cross_validate, kendall
from lightning_evo.genome import Genome, Objective, Ordinal, Result, SearchSpace, Uniform

HILL = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(4)})


def height(genome):
    return -sum((genome[f"x{i}"] - 0.3) ** 2 for i in range(4))


class Oracle(Predictor):
    """Knows the truth, or its opposite; counts what it is asked."""

    min_results = 5

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign
        self.fits = 0

    def fit(self, genomes, fitness):
        self.fits += 1
        return self

    def predict(self, genomes):
        return self.sign * numpy.array([height(genome) for genome in genomes]), numpy.zeros(len(genomes))


class Guess(Oracle):
    """Knows nothing: its predictions have no order that the truth has."""

    def predict(self, genomes):
        return numpy.array([math.sin(1e6 * genome["x0"]) for genome in genomes]), numpy.zeros(len(genomes))


def climb(algorithm, candidates=60, objectives=ONE, cost=None, space=HILL, fitness=None, seed=0, **setup):
    """Run on one slot; gives every candidate with its fitness."""
    algorithm.bind(SearchSetup(space, objectives, seed, **setup))
    history = []
    for _ in range(candidates):
        candidate = algorithm.ask()
        values = fitness(candidate.genome) if fitness else (height(candidate.genome),)
        costs = cost(candidate.genome) if cost else {}
        algorithm.tell(candidate, Result("completed", fitness=values, cost=costs))
        history.append((candidate, values))
    return history


def means(history):
    """Mean fitness of those a predictor chose, and of those it didn't."""
    used = [values[0] for candidate, values in history if candidate.prediction.used]
    rest = [values[0] for candidate, values in history if not candidate.prediction.used]
    return numpy.mean(used), numpy.mean(rest)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_most_promising_of_many_children_is_trained(mode):
    sign = 1 if mode == "max" else -1
    history = climb(
        RandomSearch(prescreen=Prescreen(Oracle())),
        objectives=[Objective("val", mode)],
        fitness=lambda genome: (sign * height(genome),),
    )
    used, rest = means(history)
    assert sign * used > sign * rest + 0.1
    assert {c.prediction.used for c, _ in history[:7]} == {False}  # nothing was known yet
    explored = sum(not c.prediction.used for c, _ in history[7:])
    assert 4 <= explored <= 20  # a fifth of 53


def test_predictions_are_archived_in_the_objectives_own_sense():
    history = climb(
        RandomSearch(prescreen=Prescreen(Oracle())),
        objectives=[Objective("loss", "min")],
        fitness=lambda genome: (-height(genome),),
    )
    assert all(not c.prediction.mean for c, _ in history[:7])
    for candidate, values in history[7:]:  # those left unfiltered as well
        assert candidate.prediction.mean == pytest.approx(values)


def test_every_algorithm_gains_by_a_good_predictor():
    def best(make, seeds=6):
        return numpy.mean([max(values[0] for _, values in climb(make(), 40, seed=seed)) for seed in range(seeds)])

    with_screen = {"prescreen": Prescreen(Oracle(), explore=0.1)}
    screened = {}
    for kind in (RandomSearch, RegularizedEvolution, GenerationalEvolution, NSGA2):
        screened[kind] = best(lambda kind=kind: kind(**with_screen))
        assert screened[kind] > best(kind)
    assert best(lambda: PredictorSearch(Oracle())) > screened[RandomSearch]


def test_rounds_of_local_search_come_further_than_the_pool():
    def reached(rounds):
        return means(climb(RandomSearch(prescreen=Prescreen(Oracle(), pool=6, rounds=rounds))))[0]

    assert reached(5) > reached(0)


@pytest.mark.parametrize("predictor", [Guess(), Oracle(sign=-1.0)], ids=["guess", "opposite"])
def test_a_predictor_that_does_not_beat_size_alone_is_not_used(predictor):
    size = lambda genome: {"params": -height(genome), "flops": 1.0}  # noqa: E731 - as good as it gets
    algorithm = RandomSearch(prescreen=Prescreen(predictor))
    history = climb(algorithm, cost=size)
    assert not any(candidate.prediction.used for candidate, _ in history)
    assert all(quality.baseline == pytest.approx(1.0) and not quality.earned for quality in algorithm.predictor_quality)


def test_a_predictor_has_to_beat_parameters_and_flops_strictly():
    algorithm = RandomSearch(prescreen=Prescreen(Oracle()))
    history = climb(algorithm, cost=lambda genome: {"params": -height(genome)})
    assert [quality.tau for quality in algorithm.predictor_quality] == pytest.approx([1.0] * 9)
    assert not any(candidate.prediction.used for candidate, _ in history)


def test_a_cost_that_is_an_objective_is_no_baseline_for_itself():
    algorithm = NSGA2(population_size=8, prescreen=screen())
    Search(lambda: algorithm, TWO).run(60)
    by_monitor = {quality.monitor: quality for quality in algorithm.predictor_quality}
    assert by_monitor["cost/params"].baseline == 0.0


def test_the_quality_of_every_validation_is_kept_and_refits_are_bounded():
    predictor_fits = []
    algorithm = RandomSearch(prescreen=Prescreen(Oracle()))
    climb(algorithm, 400)
    qualities = algorithm.predictor_quality
    counts = [quality.results for quality in qualities]
    assert counts == sorted(set(counts))
    assert counts[0] == 7  # of which four fifths are five
    assert all(later >= 1.2 * earlier for earlier, later in itertools.pairwise(counts[4:]))
    assert all(quality.tau > 0.999 and quality.r2 == 1.0 and quality.earned for quality in qualities)
    predictor_fits = algorithm.screen.predictors[0].fits
    assert predictor_fits < 5 * len(counts) + 60


def test_results_of_earlier_searches_make_a_predictor_ready_at_once():
    earlier = [(candidate.genome, values) for candidate, values in climb(RandomSearch(), 30, seed=9)]
    history = climb(RandomSearch(prescreen=Prescreen(Oracle())), 30, prior=earlier)
    assert any(candidate.prediction.used for candidate, _ in history[:5])
    assert history[0][0].prediction.results == 30


def test_an_earlier_search_that_misleads_is_found_out():
    misled = [(candidate.genome, (-values[0],)) for candidate, values in climb(RandomSearch(), 60, seed=9)]
    algorithm = RandomSearch(prescreen=Prescreen(Neighbours()))
    history = climb(algorithm, 30, prior=misled)
    first, *later = [quality for quality in algorithm.predictor_quality if quality.results in (0, 8)]
    assert first.earned
    assert later[0].tau < first.tau
    assert any(candidate.prediction.used for candidate, _ in history[:6])


def test_what_failed_counts_as_the_worst_that_was_seen():
    class Seen(Oracle):
        def fit(self, genomes, fitness):
            assert all(math.isfinite(value) for value in fitness)
            self.seen = dict(zip(genomes, fitness, strict=True))
            return super().fit(genomes, fitness)

    algorithm = RandomSearch(prescreen=Prescreen(Seen()))
    algorithm.bind(SearchSetup(HILL, ONE, 0))
    told = {}
    for i in range(30):
        candidate = algorithm.ask()
        value = height(candidate.genome)
        result = Result("failed", error="it broke", error_type="E") if i % 3 == 0 else Result("completed", (value,))
        algorithm.tell(candidate, result)
        told[candidate.genome] = None if i % 3 == 0 else value
    seen = algorithm.screen.predictors[0].seen
    worst = min(value for genome, value in told.items() if value is not None and genome in seen)
    assert any(told[genome] is None for genome in seen)
    assert all(seen[genome] == (worst if told[genome] is None else told[genome]) for genome in seen)


def test_the_same_network_is_never_trained_for_a_better_prediction():
    line = SearchSpace({"x0": Ordinal([i / 40 for i in range(40)])})
    search = RegularizedEvolution(prescreen=Prescreen(Neighbours()), duplicate_retries=2)
    history = climb(search, 39, space=line, fitness=lambda genome: (genome["x0"],))
    used = [candidate for candidate, _ in history if candidate.prediction.used]
    trained = [candidate.genome for candidate in used if candidate.duplicate_of is None]
    assert len(trained) == len(set(trained)) > 5


def test_proxies_are_measured_once_per_network_and_recorded():
    measured = []

    def measure(genomes):
        measured.extend(genomes)
        return [{"naswot": height(genome), "synflow": math.nan} for genome in genomes]

    class ByProxy(Neighbours):
        proxies = ("naswot", "synflow")

        def predict(self, genomes):
            return numpy.array([row["naswot"] for row in self.measure(genomes)]), numpy.zeros(len(genomes))

        def fit(self, genomes, fitness):
            self.measure(genomes)
            return self

    algorithm = RandomSearch(prescreen=Prescreen(ByProxy(), pool=4))
    history = climb(algorithm, 30, measure=measure)
    assert len(measured) == len(set(measured))
    assert all(c.prediction.proxies == {"naswot": height(c.genome)} for c, _ in history)

    resumed = RandomSearch(prescreen=Prescreen(ByProxy(), pool=4))
    resumed.bind(SearchSetup(HILL, ONE, measure=measure))
    before = len(measured)
    for candidate, values in history:
        resumed.recall(candidate)
        resumed.tell(candidate, Result("completed", fitness=values))
    assert len(measured) == before
    assert resumed.ask() == algorithm.ask()


def test_a_predictor_that_wants_proxies_where_nothing_measures_them_is_refused():
    class Wants(Neighbours):
        proxies = ("naswot",)

    with pytest.raises(ValueError, match=r"Wants needs zero-cost proxies \(naswot\), and nothing measures them here"):
        RandomSearch(prescreen=Prescreen(Wants())).bind(SearchSetup(HILL, ONE, 0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 1}, "pool: 1 is not at least 2"),
        ({"explore": 1.0}, "explore: 1.0 is not a fraction"),
        ({"explore": -0.1}, "explore: -0.1 is not a fraction"),
        ({"confidence": -1.0}, "confidence: -1.0 is not a finite number"),
        ({"confidence": math.inf}, "confidence: inf is not a finite number"),
        ({"rounds": -1}, "rounds: -1 is not at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        screen(**settings)


@pytest.mark.parametrize("name", [name for name in MAKERS if "prescreened" in name or name == "predictor search"])
def test_a_search_resumed_after_validations_chooses_as_the_undisturbed_one(name):
    objectives = TWO if name.startswith("nsga") else ONE
    live = Search(MAKERS[name], objectives, slots=2, order=3, failing=0.2)
    live.run(45)
    resumed = Search(MAKERS[name], objectives, slots=2, failing=0.2)
    for candidate in live.asked:
        resumed.algorithm.recall(candidate)
    for candidate, result in live.told:
        resumed.algorithm.tell(candidate, result)
    assert any(candidate.prediction.mean for candidate in live.asked)
    for _ in range(3):
        assert resumed.algorithm.ask() == live.algorithm.ask()


def test_milestones_are_reached_whatever_was_looked_at_between():
    marks = sorted({milestone(count, 10, 1.1) for count in range(2000)})
    assert marks[:4] == [0, 10, 11, 13]
    assert all(milestone(mark, 10, 1.1) == mark for mark in marks)
    assert len(marks) < 60


def test_cross_validation_never_predicts_what_it_has_seen():
    class Remembers(Neighbours):
        def fit(self, genomes, fitness):
            self.known = set(genomes)
            return self

        def predict(self, genomes):
            assert self.known.isdisjoint(genomes)
            return numpy.zeros(len(genomes)), numpy.zeros(len(genomes))

    genomes = [Genome({"x": i}) for i in range(23)]
    assert (cross_validate(Remembers(), genomes, range(23)) == 0).all()


def test_kendall_of_a_constant_is_zero():
    assert kendall([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.0
    assert kendall([1.0], [2.0]) == 0.0
    assert kendall([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == -1.0


def test_parents_of_a_child_found_by_local_search_are_candidates():
    candidates = Search(MAKERS["predictor search"], ONE).run(40)
    later = [candidate for candidate in candidates if candidate.prediction.used]
    assert later
    for candidate in later:
        SPACE.validate(candidate.genome)
        assert candidate.parents
        assert max(candidate.parents) < candidate.id
