"""What single predictors and their parts do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from predictors_examples import CELL, CONDITIONAL, LAYERS, QUICK_LSTM, measure, results

from lightning_evo.genome import Genome, SearchSpace, Uniform
from lightning_evo.predictors import (
    EnsemblePredictor,
    ForestPredictor,
    GaussianProcessPredictor,
    LSTMPredictor,
    ZeroCostPredictor,
    sample_efficiency,
)
from lightning_evo.predictors.genomes.features import Features, fill
from lightning_evo.predictors.genomes.lstm import _Net
from lightning_evo.predictors.genomes.results import Scale, keep

finite = st.floats(-1e6, 1e6, allow_nan=False)


# -- which results -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(fitness=st.lists(finite, min_size=1, max_size=60), most=st.integers(4, 30))
def test_the_best_half_and_an_even_sample_of_the_rest_is_kept(fitness, most):
    values = np.array(fitness)
    kept = keep(values, most)
    assert len(kept) == min(most, len(values))
    assert len(set(kept.tolist())) == len(kept)
    assert kept.tolist() == sorted(kept.tolist())
    best = np.sort(values)[::-1][: min(most, len(values)) // 2]
    assert set(best) <= set(values[kept])
    assert values.min() in values[kept]


# -- the scale ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(fitness=st.lists(finite, min_size=2, max_size=40))
def test_the_scale_keeps_the_order_and_leads_back(fitness):
    values = np.array(fitness)
    scale = Scale.of(values)
    scores = scale.to(values)
    assert all(
        (a < b) == (x < y) for a, x in zip(values, scores, strict=True) for b, y in zip(values, scores, strict=True)
    )
    assert scale.back(scores, np.zeros(len(scores)))[0] == pytest.approx(values)


def test_scores_are_the_normal_quantiles_of_the_ranks():
    from scipy.stats import norm

    values = np.array([0.1, 0.9, 0.2, 0.95, 0.5])
    expected = norm.ppf((np.argsort(np.argsort(values)) + 0.5) / 5)
    assert Scale.of(values).to(values) == pytest.approx((expected - expected.mean()) / expected.std())


def test_the_mean_in_units_of_fitness_is_the_mean_over_the_known_errors():
    values = np.linspace(0, 1, 11) ** 3
    errors = np.array([-0.5, 0.0, 0.7])
    scale = Scale.of(values)
    mean, _ = scale.learn(np.append(errors, np.nan)).back(np.zeros(1), np.zeros(1))
    assert mean[0] == pytest.approx(np.mean([scale.back(np.array([e]), np.zeros(1))[0][0] for e in errors]))


# -- features ----------------------------------------------------------------------------------------------------------


def test_genes_with_the_same_choices_are_counted_together():
    features = Features(CELL)
    assert len(features.names) == 6 * 4 + 4
    genome = Genome({f"cell.edge{i}": "conv" if i < 4 else "pool" for i in range(6)})
    assert features.rows([genome])[0, -4:].tolist() == [0, 0, 4, 2]
    assert features.groups() == [list(range(4 * i, 4 * i + 4)) for i in range(7)]


def test_what_is_not_active_is_nan_and_proxies_come_last_as_logarithms():
    features = Features(CONDITIONAL, ["params"], lambda genomes: [{"params": 99.0} for _ in genomes])
    row = dict(
        zip(features.names, features.rows([Genome({"kind": "adam", "lr": 1e-4, "bits": "10101"})])[0], strict=True)
    )
    assert math.isnan(row["momentum"])
    assert row["params"] == pytest.approx(math.log(100))
    assert row["lr"] == 0.0


def test_every_genome_is_measured_once():
    asked = []

    def count(genomes):
        asked.extend(genomes)
        return measure(genomes)

    genomes, fitness = results("conditional", 30)
    forest = ForestPredictor(trees=5, proxies=["naswot"]).bind(CONDITIONAL, 0, count)
    forest.fit(genomes[:20], fitness[:20]).predict(genomes)
    forest.fit(genomes, fitness).predict(genomes)
    assert sorted(map(repr, asked)) == sorted(map(repr, genomes))


def doubled(genome):
    return [2.0 * list(genome.values()).count("conv")]


def growing(genome):
    return [1.0] * list(genome.values()).count("conv")


@pytest.mark.parametrize("predictor", [ForestPredictor, GaussianProcessPredictor])
def test_features_of_ones_own_take_the_place_of_the_genes(predictor):
    genomes, _ = results("cell", 40)
    fitness = [doubled(genome)[0] for genome in genomes]
    mean, _ = predictor(features=doubled).bind(CELL).fit(genomes[:30], fitness[:30]).predict(genomes[30:])
    assert np.corrcoef(mean, fitness[30:])[0, 1] > 0.9
    assert Features(CELL, ["params"], measure, own=doubled).names == ["doubled[0]", "params"]
    with pytest.raises(ValueError, match="growing returns"):
        predictor(features=growing).bind(CELL).fit(genomes, fitness)


def test_of_very_many_rows_the_oldest_are_forgotten_and_right_all_the_same(monkeypatch):
    from lightning_evo.predictors.genomes import features

    genomes, _ = results("cell", 50)
    expected = Features(CELL).rows(genomes)
    monkeypatch.setattr(features.remember, "__defaults__", (10,))
    bounded = Features(CELL)
    for _ in range(2):
        assert bounded.rows(genomes).tolist() == expected.tolist()
        assert len(bounded._rows) == 10


def test_a_gap_is_filled_below_everything_known_of_its_column():
    learned = np.array([[1.0, np.nan], [3.0, np.nan]])
    assert fill(np.array([[np.nan, 5.0], [7.0, np.nan]]), learned).tolist() == [[0.0, 5.0], [7.0, 0.0]]


# -- forest ------------------------------------------------------------------------------------------------------------


def test_the_forests_standard_deviation_is_that_of_its_trees():
    genomes, fitness = results("cell", 60)
    forest = ForestPredictor(trees=20).bind(CELL, 3).fit(genomes, fitness)
    from sklearn.ensemble import ExtraTreesRegressor

    rows = Features(CELL).rows(genomes)
    scale = Scale.of(np.array(fitness))
    arguments = {"max_features": 1 / 3, "bootstrap": True, "oob_score": True, "random_state": 3}
    trees = ExtraTreesRegressor(20, **arguments).fit(rows, scale.to(np.array(fitness)))
    each = np.stack([tree.predict(rows) for tree in trees.estimators_])
    scale = scale.learn(scale.to(np.array(fitness)) - trees.oob_prediction_)
    expected = scale.back(each.mean(axis=0), each.std(axis=0))
    for mine, theirs in zip(forest.predict(genomes), expected, strict=True):
        assert mine == pytest.approx(theirs)


# -- Gaussian process --------------------------------------------------------------------------------------------------


def test_the_process_is_that_of_scikit_learn_with_the_same_kernel():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    space = SearchSpace({"x": Uniform(0, 1)})
    genomes = [Genome({"x": x}) for x in np.linspace(0, 1, 25)]
    fitness = [math.sin(5 * genome["x"]) for genome in genomes]
    process = GaussianProcessPredictor(max_results=25).bind(space).fit(genomes, fitness)
    # A Matérn kernel of order 1/2 is the exponential one.
    kernel = ConstantKernel(process._signal) * Matern(1 / process._weights[0], nu=0.5)
    reference = GaussianProcessRegressor(kernel + WhiteKernel(process._noise + 1e-6), optimizer=None)
    x = np.linspace(0, 1, 25)[:, None]
    scale = Scale.of(np.array(fitness))
    reference.fit(x, scale.to(np.array(fitness)))
    asked = np.array([[0.33], [0.71]])
    mean, std = reference.predict(asked, return_std=True)
    std = np.sqrt(std**2 - process._noise - 1e-6)  # theirs is that of a new observation
    ours = process.predict([Genome({"x": float(v)}) for v in asked[:, 0]])
    for mine, theirs in zip(ours, process._scale.back(mean, std), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)


def test_the_process_learns_which_gene_matters():
    space = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})
    rng = np.random.default_rng(0)
    genomes = [Genome({"x": float(x), "y": float(y)}) for x, y in rng.random((60, 2))]
    process = GaussianProcessPredictor().bind(space).fit(genomes, [math.sin(6 * g["x"]) for g in genomes])
    assert process._weights[0] > 3 * process._weights[1]


def test_the_process_is_less_sure_the_farther_it_is_from_what_it_knows():
    genomes, fitness = results("cell", 80)
    process = GaussianProcessPredictor().bind(CELL).fit(genomes[:40], fitness[:40])
    spread = process._kernel(process._prepare(Features(CELL).rows(genomes)))
    assert spread[:40].max(axis=1).mean() > spread[40:].max(axis=1).mean()


# -- LSTM --------------------------------------------------------------------------------------------------------------


def test_a_space_without_a_sequence_is_refused_naming_the_alternative():
    with pytest.raises(ValueError, match=r"Layers.*ForestPredictor"):
        LSTMPredictor().bind(CELL)


def test_padding_is_never_read():
    torch.manual_seed(0)
    net = _Net(bits=4, extra=0, hidden=8, layers=2, dropout=0.5).eval()
    rows, lengths, extra = torch.rand(3, 6, 4), torch.tensor([2, 6, 4]), torch.zeros(3, 0)
    together = net(rows, lengths, extra)
    for i, length in enumerate(lengths.tolist()):
        alone = net(rows[i : i + 1, :length], torch.tensor([length]), extra[:1])
        assert together[i].item() == pytest.approx(alone.item(), rel=1e-5)
    noise = rows.clone()
    noise[0, 2:], noise[2, 4:] = 9.0, -9.0
    assert torch.equal(net(noise, lengths, extra), together)


def test_the_sequence_says_something_by_itself():
    space = SearchSpace({"layers": LAYERS["layers"]})
    genomes, _ = results("layers", 90)
    genomes = [Genome({"layers": genome["layers"]}) for genome in genomes]
    length = [float(len(genome["layers"])) for genome in genomes]
    lstm = LSTMPredictor(flat=False, nets=2, max_steps=120, lr=2e-2, dropout=0.0).bind(space)
    mean, _ = lstm.fit(genomes[:70], length[:70]).predict(genomes[70:])
    assert np.corrcoef(mean, length[70:])[0, 1] > 0.6


def test_steps_are_bounded_whatever_the_results():
    genomes, fitness = results("layers", 40)
    steps = []
    lstm = LSTMPredictor(nets=2, max_steps=7, hidden=4).bind(LAYERS)
    before = torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: (steps.append(1), before(self, *a, **k))[1])
        lstm.fit(genomes, fitness)
    assert len(steps) == 14


# -- ensemble ----------------------------------------------------------------------------------------------------------


def test_the_ensemble_is_the_mean_and_less_sure_where_members_disagree():
    genomes, fitness = results("cell", 60)
    ensemble = EnsemblePredictor([ForestPredictor(trees=20), GaussianProcessPredictor()]).bind(CELL, 1)
    mean, std = ensemble.fit(genomes[:40], fitness[:40]).predict(genomes[40:])
    answers = [member.predict(genomes[40:]) for member in ensemble._bound]
    means, stds = np.stack([a[0] for a in answers]), np.stack([a[1] for a in answers])
    assert mean == pytest.approx(means.mean(axis=0))
    assert std == pytest.approx(np.sqrt((stds**2).mean(axis=0) + means.var(axis=0)))


@pytest.mark.parametrize(
    ("space", "members"),
    [(CELL, ["ForestPredictor", "GaussianProcessPredictor"]), (LAYERS, ["ForestPredictor", "LSTMPredictor"])],
)
def test_its_members_suit_the_space_where_none_are_named(space, members):
    ensemble = EnsemblePredictor().bind(space)
    assert [type(member).__name__ for member in ensemble._bound] == members
    assert ensemble.min_results == max(member.min_results for member in ensemble._bound)


def test_a_member_that_can_do_nothing_with_the_space_refuses_it():
    with pytest.raises(ValueError, match="LSTMPredictor"):
        EnsemblePredictor([ForestPredictor(), LSTMPredictor()]).bind(CELL)


# -- one proxy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_a_proxy_alone_ranks_by_itself_rising_or_falling(sign):
    genomes, fitness = results("conditional", 40)
    predictor = ZeroCostPredictor("naswot").bind(CONDITIONAL, 0, measure)
    mean, std = predictor.fit(genomes[:30], [sign * value for value in fitness[:30]]).predict(genomes[30:])
    assert np.argsort(mean).tolist() == np.argsort(sign * np.array(fitness[30:])).tolist()
    assert (std > 0).all()


def test_what_could_not_be_measured_is_expected_to_be_poor():
    genomes, fitness = results("conditional", 60)
    values = {g: {"synflow": float("nan") if i >= 50 else math.exp(fitness[i])} for i, g in enumerate(genomes)}
    predictor = ZeroCostPredictor("synflow").bind(CONDITIONAL, 0, lambda asked: [values[g] for g in asked])
    mean, _ = predictor.fit(genomes[:50], fitness[:50]).predict(genomes[50:])
    assert (mean < np.median(fitness[:50])).all()


# -- bad arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForestPredictor(trees=1), "trees: 1 is not at least 2"),
        (lambda: ForestPredictor(max_features=0.0), "max_features: 0.0 is not a share"),
        (lambda: ForestPredictor(max_results=5), "max_results: 5 is not at least 10"),
        (lambda: ForestPredictor(proxies=["snip"]), "'snip' is not one of naswot"),
        (lambda: GaussianProcessPredictor(max_steps=0), "max_steps: 0 is not at least 1"),
        (lambda: GaussianProcessPredictor(min_results=1), "min_results: 1 is not at least 2"),
        (lambda: LSTMPredictor(dropout=1.0), "dropout: 1.0 is not a share"),
        (lambda: LSTMPredictor(lr=0.0), "lr: 0.0 is not above 0"),
        (lambda: LSTMPredictor(nets=0), "nets: 0 is not at least 1"),
        (lambda: EnsemblePredictor([]), r"members: \[\] is not"),
        (lambda: ZeroCostPredictor("grasp"), "'grasp' is not one of naswot"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- evaluation --------------------------------------------------------------------------------------------------------


def test_a_learning_curve_rises_and_stands_beside_that_of_sizes_alone():
    genomes, fitness = results("cell", 160)
    sizes = [{"params": abs(value) + 1, "flops": 1.0} for value in fitness]
    points = sample_efficiency(
        lambda seed: GaussianProcessPredictor().bind(CELL, seed), genomes, fitness, [15, 100], 2, 0, sizes
    )
    assert [(point.size, point.repeat) for point in points] == [(15, 0), (100, 0), (15, 1), (100, 1)]
    small, large = points[:2]
    assert large.tau > small.tau
    assert large.r2 > 0.5
    assert 0 <= large.calibration <= 1
    assert math.isfinite(large.baseline_tau)
    assert large.fit_seconds > 0


def small_forest(seed):
    return ForestPredictor(trees=10).bind(CELL, seed)


def test_a_learning_curve_is_decided_by_its_seed():
    genomes, fitness = results("cell", 60)
    curves = [sample_efficiency(small_forest, genomes, fitness, [20], 2, seed) for seed in (0, 0, 1)]
    first, again, other = ([(point.r2, point.tau) for point in curve] for curve in curves)
    assert first == again != other
    assert math.isnan(curves[0][0].baseline_r2)


def test_sizes_that_leave_nothing_to_judge_by_are_refused():
    genomes, fitness = results("cell", 30)
    with pytest.raises(ValueError, match="don't fit in 30 results"):
        sample_efficiency(small_forest, genomes, fitness, [29])
    with pytest.raises(ValueError, match="29 fitness values"):
        sample_efficiency(small_forest, genomes, fitness[1:], [10])


def test_the_lstm_is_quick_to_copy_unbound_and_reads_only_what_is_there():
    genomes, fitness = results("layers", 30)
    lstm = LSTMPredictor(**QUICK_LSTM).bind(LAYERS).fit(genomes, fitness)
    data = lstm._data(genomes[:2])
    assert data.rows.shape[1] == max(len(genome["layers"]) for genome in genomes[:2])
    assert data.lengths.tolist() == [len(genome["layers"]) for genome in genomes[:2]]
