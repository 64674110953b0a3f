"""The contract of predictors of genomes; a new one is a row of ``CASES`` in ``predictors_examples``."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from predictors_examples import CASES, SPACES, measure, results
from scipy.stats import kendalltau

import lightning_evo.predictors
from lightning_evo.algorithms import Predictor
from lightning_evo.evolution.description import describe
from lightning_evo.predictors import EnsemblePredictor, ForestPredictor, GaussianProcessPredictor

predictors = pytest.mark.parametrize(
    ("name", "make"),
    [pytest.param(*case, id=f"{type(case[1]()).__name__}-{i}-{case[0]}") for i, case in enumerate(CASES)],
)


def bound(name, make, seed=0):
    return make().bind(SPACES[name][0], seed, measure)


def test_the_table_has_every_public_class():
    public = [getattr(lightning_evo.predictors, name) for name in lightning_evo.predictors.__all__]
    expected = {kind for kind in public if inspect.isclass(kind) and issubclass(kind, Predictor)}
    assert {type(make()) for _, make in CASES} == expected


@predictors
def test_it_ranks_what_it_has_not_seen_better_than_chance(name, make):
    genomes, fitness = results(name, 120)
    mean, std = bound(name, make).fit(genomes[:70], fitness[:70]).predict(genomes[70:])
    assert mean.shape == std.shape == (50,)
    assert mean.dtype == std.dtype == np.float64
    assert np.isfinite(mean).all()
    assert (std >= 0).all()
    assert kendalltau(mean, fitness[70:]).statistic > 0.25


@predictors
def test_predictions_are_in_units_of_the_fitness(name, make):
    genomes, fitness = results(name, 60)
    mean, _ = bound(name, make).fit(genomes, fitness).predict(genomes)
    scaled, _ = bound(name, make).fit(genomes, [1000 + 10 * value for value in fitness]).predict(genomes)
    assert np.mean(mean) == pytest.approx(np.mean(fitness), abs=0.5 * np.std(fitness))
    assert scaled == pytest.approx(1000 + 10 * mean, abs=1 * np.std(fitness))


@predictors
def test_arguments_and_seed_decide_a_fit_and_nothing_that_came_before(name, make):
    genomes, fitness = results(name, 40)
    fresh = bound(name, make).fit(genomes, fitness).predict(genomes)
    used = bound(name, make).fit(genomes[:25], fitness[10:35])
    used.predict(genomes[30:])
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    again = used.fit(genomes, fitness).predict(genomes)
    assert [part.tolist() for part in fresh] == [part.tolist() for part in again]


@predictors
def test_global_random_state_and_threads_are_left_as_they_were(name, make):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    threads = torch.get_num_threads()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    genomes, fitness = results(name, 30)
    bound(name, make).fit(genomes, fitness).predict(genomes)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert torch.get_num_threads() == threads


@predictors
def test_a_genome_is_predicted_alike_alone_and_among_others(name, make):
    genomes, fitness = results(name, 40)
    predictor = bound(name, make).fit(genomes[:30], fitness[:30])
    together = predictor.predict(genomes[30:])
    alone = [predictor.predict([genome]) for genome in genomes[30:]]
    for i, part in enumerate(together):
        assert part == pytest.approx([answer[i][0] for answer in alone], rel=1e-4, abs=1e-6)


@predictors
def test_too_few_results_are_refused(name, make):
    predictor = bound(name, make)
    genomes, fitness = results(name, predictor.min_results - 1)
    with pytest.raises(ValueError, match=f"fewer than min_results {predictor.min_results}"):
        predictor.fit(genomes, fitness)
    with pytest.raises(RuntimeError, match="call fit first"):
        predictor.predict(genomes)


@predictors
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_fitness_that_is_not_finite_is_refused(name, make, bad):
    genomes, fitness = results(name, 30)
    with pytest.raises(ValueError, match="is not finite"):
        bound(name, make).fit(genomes, [*fitness[1:], bad])


@predictors
def test_other_lengths_than_each_other_are_refused(name, make):
    genomes, fitness = results(name, 30)
    with pytest.raises(ValueError, match="30 genomes"):
        bound(name, make).fit(genomes, fitness[1:])


@predictors
def test_before_binding_nothing_works_and_it_says_so(name, make):
    genomes, fitness = results(name, 30)
    with pytest.raises(RuntimeError, match="bind"):
        make().fit(genomes, fitness)
    with pytest.raises(RuntimeError, match="fit"):
        make().predict(genomes)


@predictors
def test_binding_again_forgets_what_was_learned(name, make):
    genomes, fitness = results(name, 30)
    predictor = bound(name, make).fit(genomes, fitness)
    with pytest.raises(RuntimeError, match="call fit first"):
        predictor.bind(SPACES[name][0], 0, measure).predict(genomes)


@predictors
def test_an_unbound_one_can_be_copied_pickled_and_described_by_its_arguments(name, make):
    first, second = pickle.loads(pickle.dumps(make())), copy.deepcopy(make())
    description = describe(second)
    assert json.loads(json.dumps(description)) == description == describe(first)
    assert description["init_args"].keys() >= {"members"} or "min_results" in description["init_args"]
    genomes, fitness = results(name, 30)
    for predictor in (first, second):
        predictor.bind(SPACES[name][0], 0, measure).fit(genomes, fitness)
    assert first.predict(genomes)[0].tolist() == second.predict(genomes)[0].tolist()


@predictors
def test_results_that_are_all_alike_teach_nothing_but_do_no_harm(name, make):
    genomes, _ = results(name, 30)
    mean, std = bound(name, make).fit(genomes, [0.5] * 30).predict(genomes)
    assert mean == pytest.approx([0.5] * 30, abs=0.01)
    assert np.isfinite(std).all()


@pytest.mark.parametrize(
    "make", [lambda: ForestPredictor(max_results=40), lambda: GaussianProcessPredictor(max_results=40)]
)
def test_a_bounded_fit_still_knows_good_from_bad(make):
    genomes, fitness = results("cell", 300)
    mean, _ = make().bind(SPACES["cell"][0]).fit(genomes[:200], fitness[:200]).predict(genomes[200:])
    assert kendalltau(mean, fitness[200:]).statistic > 0.4


@pytest.mark.parametrize(
    "make",
    [lambda: ForestPredictor(proxies=["naswot"]), lambda: EnsemblePredictor([ForestPredictor(proxies=["naswot"])])],
)
def test_proxies_that_nothing_measures_are_refused_when_it_is_bound(make):
    with pytest.raises(ValueError, match="needs zero-cost proxies"):
        make().bind(SPACES["cell"][0])


def test_the_room_is_imported_without_torch_and_scikit_learn():
    code = (
        "import sys, lightning_evo.predictors as p; p.PROXIES; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
