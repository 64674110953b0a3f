"""Members train in segments; the worst copy the best; whatever happens, the record alone decides what comes next."""

from __future__ import annotations

import random

import pytest
from algorithms_searching import ONE, SPACE, TWO
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_evo.algorithms import PopulationBasedTraining, SearchSetup
from lightning_evo.algorithms.perturbation import perturb
from lightning_evo.genome import (
    Boolean,
    Categorical,
    Integer,
    LogUniform,
    Objective,
    Ordinal,
    Result,
    SearchSpace,
    Segment,
    Uniform,
)

LR = SearchSpace({"lr": LogUniform(1e-4, 1.0), "momentum": Uniform(0.0, 0.9)})
FAILED = Result("failed", error="it broke", error_type="RuntimeError: it broke")


class Training:
    """Simulated slots: a candidate's state is its progress so far, which grows best where the rate suits the epoch."""

    def __init__(self, algorithm, slots=1, order=0, failing=0.0, space=LR, objectives=ONE, seed=1):
        algorithm.bind(SearchSetup(space, objectives, seed))
        self.algorithm, self.slots, self.failing, self.objectives = algorithm, slots, failing, objectives
        self.order = random.Random(order)
        self.asked, self.running, self.journal = [], [], []
        self.progress = {}

    def step(self):
        """Ask where a slot is free and something is ready; else end one. False: nothing is left to do."""
        candidate = self.algorithm.ask() if len(self.running) < self.slots else None
        if candidate is not None:
            self.asked.append(candidate)
            self.running.append(candidate)
            self.journal.append((candidate, None))
        elif self.running:
            self.end(self.running[self.order.randrange(len(self.running))])
        else:
            return False
        return True

    def end(self, candidate):
        self.running.remove(candidate)
        result = self.result(candidate)
        self.journal.append((candidate, result))
        self.algorithm.tell(candidate, result)

    def result(self, candidate):
        if random.Random(f"fails {candidate.id}").random() < self.failing:
            return FAILED
        before = self.progress.get(candidate.inherits, 0.0)
        assert (candidate.inherits is None) == (candidate.segment.start == 0)
        lr = candidate.genome["lr"]
        self.progress[candidate.id] = before + 1.0 - abs(lr - 0.5 ** (1 + candidate.segment.start))
        return Result("completed", fitness=(self.progress[candidate.id], lr)[: len(self.objectives)])

    def run(self):
        while self.step():
            pass
        return self


def member_of(training):
    """The member each candidate belongs to, told from the record alone."""
    member = {}
    for candidate in training.asked:
        member[candidate.id] = member[candidate.parents[0]] if candidate.parents else candidate.id
    return member


def make(**arguments):
    return PopulationBasedTraining(**{"population_size": 8, "interval": 2, "epochs": 10, **arguments})


def test_every_member_trains_all_its_epochs_in_segments_that_follow_one_another():
    training = Training(make(interval=4)).run()
    assert training.algorithm.exhausted
    member = member_of(training)
    for each in range(8):
        own = [candidate.segment for candidate in training.asked if member[candidate.id] == each]
        assert own == [Segment(0, 4), Segment(4, 8), Segment(8, 10)]


def test_lineage_says_whose_state_is_continued_and_why():
    training = Training(make()).run()
    by_id = {candidate.id: candidate for candidate in training.asked}
    kinds = set()
    for candidate in training.asked:
        kinds.add(candidate.origin)
        assert candidate.duplicate_of is None
        if not candidate.parents:
            assert candidate.inherits is None
            assert candidate.segment.start == 0
            continue
        source = by_id[candidate.inherits]
        assert candidate.segment.start == source.segment.end
        assert candidate.seed == source.seed  # one training, one seed
        if candidate.origin == "continue":
            assert candidate.parents == (candidate.inherits,)
            assert candidate.genome == source.genome
        else:
            assert candidate.parents[1] == candidate.inherits != candidate.parents[0]
            assert candidate.genome != source.genome
    assert kinds == {"sample", "continue", "exploit+explore"}


def test_the_worst_quantile_copies_from_the_best_and_from_nobody_else():
    algorithm = make(quantile=0.25, epochs=4)
    training = Training(algorithm)
    while not (len(training.journal) == 16 and not training.running):
        training.step()
    fitness = {c.id: r.fitness[0] for c, r in training.journal if r is not None}
    order = sorted(fitness, key=fitness.get)
    training.run()
    second = training.asked[8:]
    assert {c.parents[0] for c in second if len(c.parents) == 2} == set(order[:2])
    assert {c.inherits for c in second if len(c.parents) == 2} <= set(order[-2:])


def test_a_population_without_differences_copies_nothing():
    algorithm = make()
    algorithm.bind(SearchSetup(LR, ONE, 0))
    origins = set()
    while (candidate := algorithm.ask()) is not None:
        origins.add(candidate.origin)
        algorithm.tell(candidate, Result("completed", fitness=(1.0,)))
    assert origins == {"sample", "continue"}


@pytest.mark.parametrize("failing", [0.0, 0.2])
def test_a_synchronous_population_is_the_same_on_any_number_of_slots(failing):
    whole = Training(make(), failing=failing).run()
    for slots, order in ((3, 1), (8, 2), (50, 3)):
        assert Training(make(), slots, order, failing).run().asked == whole.asked


def test_a_synchronous_population_waits_for_the_last_of_a_generation():
    training = Training(make(), slots=8)
    for _ in range(8):
        training.step()
    for candidate in training.running[1:].copy():
        training.end(candidate)
    assert training.algorithm.ask() is None
    assert not training.algorithm.exhausted
    training.end(training.running[0])
    assert training.algorithm.ask().segment == Segment(2, 4)


@pytest.mark.parametrize("failing", [0.0, 0.3])
def test_an_asynchronous_population_never_makes_a_slot_wait_while_a_member_is_ready(failing):
    algorithm = make(synchronous=False)
    training = Training(algorithm, slots=5, order=4, failing=failing)
    left = dict.fromkeys(range(8), 5)
    while not algorithm.exhausted:
        candidate = algorithm.ask() if len(training.running) < 5 else None
        if candidate is None:
            if len(training.running) < 5:
                # Whoever isn't running has nothing more to train.
                member = member_of(training)
                running = {member[candidate.id] for candidate in training.running}
                ended = {each for each in range(8) if each not in running}
                last = {member[c.id]: c for c in training.asked}
                assert all(left[each] == 0 or last[each].segment.end == 10 for each in ended)
            training.end(training.running[training.order.randrange(len(training.running))])
        else:
            training.asked.append(candidate)
            training.running.append(candidate)
            left[member_of(training)[candidate.id]] -= 1
    assert min(left.values()) >= 0


def test_an_asynchronous_member_is_compared_with_the_latest_of_the_others_at_once():
    algorithm = make(population_size=2, quantile=0.5, synchronous=False)
    algorithm.bind(SearchSetup(LR, ONE, 0))
    slow, fast = algorithm.ask(), algorithm.ask()
    algorithm.tell(fast, Result("completed", fitness=(1.0,)))
    fast = algorithm.ask()
    algorithm.tell(fast, Result("completed", fitness=(2.0,)))
    algorithm.tell(slow, Result("completed", fitness=(0.0,)))
    going_on, copying = algorithm.ask(), algorithm.ask()
    assert (going_on.origin, going_on.inherits, going_on.segment) == ("continue", fast.id, Segment(4, 6))
    assert (copying.origin, copying.parents) == ("exploit+explore", (slow.id, fast.id))
    assert copying.segment == Segment(4, 6)


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("cut", [3, 20, 37, 61])
def test_a_search_recalled_in_the_recorded_order_goes_on_as_the_undisturbed_one(synchronous, cut):
    def fresh():
        return Training(make(synchronous=synchronous), slots=4, order=5, failing=0.1)

    whole = fresh().run()
    resumed = fresh()
    for candidate, result in whole.journal[:cut]:
        resumed.algorithm.recall(candidate) if result is None else resumed.algorithm.tell(candidate, result)
    for candidate, result in whole.journal[cut:]:
        if result is None:
            assert resumed.algorithm.ask() == candidate
        else:
            resumed.algorithm.tell(candidate, result)
    assert resumed.algorithm.ask() is None
    assert resumed.algorithm.exhausted


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("cut", [3, 20, 37, 61])
def test_all_candidates_may_be_recalled_before_the_first_is_told(synchronous, cut):
    def fresh():
        return Training(make(synchronous=synchronous), slots=4, order=5, failing=0.2)

    whole = fresh().run()
    resumed = fresh().algorithm
    for candidate, result in whole.journal[:cut]:
        if result is None:
            resumed.recall(candidate)
    for candidate, result in whole.journal:
        if (candidate, result) in whole.journal[:cut]:
            if result is not None:
                resumed.tell(candidate, result)
        elif result is None:
            assert resumed.ask() == candidate
        else:
            resumed.tell(candidate, result)
    assert resumed.exhausted


def test_the_logbook_of_a_synchronous_population_is_the_same_on_any_number_of_slots():
    books = [
        str(Training(make(), slots, order, failing=0.3).run().algorithm.logbook) for slots, order in ((1, 0), (8, 1))
    ]
    assert books[0] == books[1]


def test_a_failed_member_takes_over_the_best_and_where_there_is_none_starts_anew():
    algorithm = make(population_size=4, interval=1, epochs=3)
    algorithm.bind(SearchSetup(LR, ONE, 0))
    first = [algorithm.ask() for _ in range(4)]
    for candidate in first:
        algorithm.tell(candidate, FAILED)
    second = [algorithm.ask() for _ in range(4)]
    assert [(c.parents, c.inherits, c.segment, c.origin) for c in second] == [
        ((i,), None, Segment(0, 1), "sample") for i in range(4)
    ]
    for candidate, value in zip(second, (0.1, 0.3, 0.2, None), strict=True):
        algorithm.tell(candidate, FAILED if value is None else Result("completed", fitness=(value,)))
    third = [algorithm.ask() for _ in range(4)]
    assert third[3].parents == (second[3].id, second[1].id)
    assert third[3].segment == Segment(1, 2)


def test_what_may_still_be_continued_is_among_the_ancestors_until_it_is_asked():
    training = Training(make(), slots=3, order=7, failing=0.1)
    needed = []
    while True:
        needed.append((len(training.asked), training.algorithm.ancestors))
        if not training.step():
            break
    for candidate in training.asked:
        if candidate.inherits is not None:
            before = [kept for asked, kept in needed if candidate.inherits < asked <= candidate.id]
            told = [kept for kept in before if candidate.inherits in kept]
            assert told
            assert before[-1] is told[-1]
    assert needed[-1][1] == set()
    assert max(len(kept) for _, kept in needed) <= 16


def test_several_objectives_copy_only_what_dominates():
    training = Training(make(), objectives=TWO).run()
    fitness = {c.id: r.fitness for c, r in training.journal if r is not None}
    copies = [c for c in training.asked if c.origin == "exploit+explore"]
    assert copies
    for candidate in copies:
        worse, better = (fitness[parent] for parent in candidate.parents)
        assert better[0] >= worse[0]
        assert better[1] <= worse[1]
        assert better != worse


@pytest.mark.parametrize(("own", "end"), [(None, 7), (4, 4)])
def test_members_train_the_epochs_of_the_search_unless_they_have_their_own(own, end):
    algorithm = make(epochs=own)
    algorithm.bind(SearchSetup(LR, ONE, max_epochs=7))
    while (candidate := algorithm.ask()) is not None:
        algorithm.tell(candidate, Result("completed", fitness=(1.0,)))
    assert {each.candidate.segment.end for each in algorithm.population} == {end}
    assert algorithm.epochs == own


def test_without_a_number_of_epochs_the_population_trains_on():
    training = Training(make(epochs=None))
    for _ in range(400):
        assert training.step()
    assert not training.algorithm.exhausted
    assert training.asked[-1].segment.end > 40


def test_a_schedule_is_found_that_no_fixed_value_matches():
    """The best rate halves each epoch: a fixed one is right once."""
    best = max(
        Training(make(interval=1, population_size=16), seed=s).run().algorithm.hall_of_fame[0].fitness.values[0]
        for s in range(3)
    )
    fixed = max(sum(1 - abs(lr / 1000 - 0.5 ** (1 + epoch)) for epoch in range(10)) for lr in range(1, 1001))
    assert best > fixed + 0.3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), probability=st.sampled_from([0.0, 0.25, 1.0]))
def test_exploring_stays_in_the_space_and_changes_something(seed, probability):
    algorithm = make(resample_probability=probability)
    algorithm.bind(SearchSetup(SPACE, ONE, seed))
    algorithm.rng.seed(seed)
    genome = SPACE.sample(random.Random(seed))
    for _ in range(20):
        child = algorithm.explore(genome)
        SPACE.validate(child)
        assert child != genome
        genome = child


@settings(max_examples=100, deadline=None)
@given(
    gene=st.sampled_from(
        [
            Uniform(-1, 1),
            Uniform(0, 1),
            LogUniform(1e-5, 10),
            Integer(0, 9),
            Integer(3, 30, step=3),
            Integer(1, 1000, log=True),
            Ordinal([16, 32, 64]),
            Categorical(["a", "b"]),
            Boolean(),
            Integer(1, 1),
        ]
    ),
    seed=st.integers(0, 10_000),
)
def test_a_perturbed_value_is_in_range_and_near(gene, seed):
    rng = random.Random(seed)
    value = gene.sample(rng)
    moved = perturb(gene, value, (0.8, 1.2), rng)
    gene.validate(moved)
    if isinstance(gene, (Categorical, Boolean)):
        assert moved == value
    elif isinstance(gene, Integer) and gene.log:
        assert abs(moved - value) <= max(1, 0.2 * value + 1)
    elif isinstance(gene, Integer):
        assert abs(moved - value) == (0 if gene.low == gene.high else gene.step)
    elif isinstance(gene, LogUniform) and gene.low * 1.2 < value < gene.high / 1.2:
        assert moved in (value * 0.8, value * 1.2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_number_at_an_end_or_zero_moves_all_the_same(value):
    moved = {perturb(Uniform(0, 1), value, (0.8, 1.2), random.Random(seed)) for seed in range(20)}
    assert value not in moved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population_size": 1}, "population_size: 1 is not at least 2"),
        ({"interval": 0}, "interval: 0 is not at least 1"),
        ({"interval": 5, "epochs": 4}, "epochs: 4 is not at least 5"),
        ({"quantile": 0.6}, "quantile: 0.6 is not a part of the population above 0 and at most 0.5"),
        ({"quantile": 0.0}, "quantile: 0.0 is not"),
        ({"resample_probability": 1.5}, "resample_probability: 1.5 is not a probability"),
        ({"factors": [1.0]}, "factors: .* are not numbers above 0, other than 1"),
        ({"factors": []}, "factors"),
        ({"population_size": 2, "initial": [{}, {}, {}]}, "initial: 3 genomes are more than population_size 2"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        PopulationBasedTraining(**arguments)


def test_a_prescreen_is_not_taken():
    with pytest.raises(TypeError, match="prescreen"):
        PopulationBasedTraining(prescreen=None)


def test_initial_genomes_are_where_members_begin():
    algorithm = make(initial=[{"lr": 0.125}])
    algorithm.bind(SearchSetup(LR, [Objective("val_acc")], 0))
    first = algorithm.ask()
    assert first.genome["lr"] == 0.125
    assert (first.origin, first.segment) == ("initial", Segment(0, 2))
