"""Averaging rules give the coefficients they say, and combining computes the sums they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_evo.functional.mixing import apso, combine, draw_subset, papa, papa_all, papa_pairs, pso, ranked, soup

NAN = float("nan")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_of(coefficients):
    return [[round(value, 6) for value in row] for row in coefficients.tolist()]


matrices = st.integers(1, 6).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.25, 0.5, 1.0, 2.0]), min_size=size, max_size=size),
        min_size=1,
        max_size=6,
    )
)


# -- combine -----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(matrices, st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]))
def test_a_combination_is_the_matrix_product(rows, dtype):
    coefficients = torch.tensor(rows, dtype=torch.float64)
    values = torch.randn(coefficients.shape[1], 3, 2, dtype=dtype, generator=seeded(len(rows)))
    result = combine({"w": values}, coefficients)["w"]
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = torch.einsum("ij,jkl->ikl", coefficients.to(wide), values.to(wide))
    rounding = {torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-6)
    assert result.dtype == dtype
    torch.testing.assert_close(result.to(wide), expected, atol=8 * rounding, rtol=rounding)


@pytest.mark.parametrize("rule", [lambda n: papa(n, range(n), 0.3), lambda n: papa_all(n, range(n))])
def test_what_all_take_alike_is_summed_once_and_comes_to_the_same(rule):
    values = torch.randn(7, 5, dtype=torch.float64, generator=seeded())
    matrix = rule(7)
    torch.testing.assert_close(combine({"w": values}, matrix)["w"], matrix @ values)


def test_a_network_that_has_diverged_spoils_only_those_that_take_of_it():
    values = torch.tensor([[1.0], [NAN], [3.0], [5.0]])
    mixed = combine({"w": values}, papa_all(4, [0, 2, 3]))["w"]
    assert mixed[[0, 2, 3]].tolist() == [[3.0]] * 3
    assert mixed[1].isnan().all()


def test_a_network_that_keeps_all_of_itself_is_unchanged_to_the_bit():
    values = {"w": torch.tensor([[1e-45], [3e38]]), "h": torch.tensor([6e-8, 6e4], dtype=torch.float16)}
    same = combine(values, torch.eye(2))
    assert all(torch.equal(same[name], values[name]) for name in values)


def test_the_mean_of_half_precision_numbers_does_not_overflow():
    values = torch.full((4, 1), 60000.0, dtype=torch.float16)
    assert combine({"w": values}, papa_all(4, range(4)))["w"].tolist() == [[60000.0]] * 4


@pytest.mark.parametrize(
    ("row", "own", "taken"),
    [([0.2, 0.3, 0.5], 0, 2), ([0.5, 0.0, 0.5], 2, 2), ([0.5, 0.0, 0.5], 0, 0), ([0.4, 0.2, 0.4], 1, 0)],
)
def test_integers_come_from_the_largest_coefficient_and_of_equal_ones_from_the_own(row, own, taken):
    values = {"count": torch.tensor([[10], [20], [30]]), "flag": torch.tensor([True, False, False])}
    mixed = combine(values, torch.tensor([row]), own=[own])
    assert mixed["count"].tolist() == [values["count"][taken].tolist()]
    assert mixed["flag"].tolist() == [values["flag"][taken].item()]


def test_nothing_is_shared_with_what_went_in_and_autograd_knows_nothing():
    values = {"w": torch.ones(2, 3, requires_grad=True), "n": torch.tensor([1, 2])}
    mixed = combine(values, torch.eye(2))
    assert not mixed["w"].requires_grad
    for tensor in mixed.values():
        tensor.zero_()
    assert values["w"].detach().eq(1).all()
    assert values["n"].tolist() == [1, 2]


def test_a_half_precision_matmul_setting_does_not_reach_the_weights():
    values = torch.randn(4, 1000, generator=seeded())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        mixed = combine({"w": values}, papa(4, range(4), 0.5))["w"]
    finally:
        torch.set_float32_matmul_precision(before)
    exact = papa(4, range(4), 0.5) @ values.double()
    assert (mixed.double() - exact).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("values", "coefficients", "said"),
    [
        ({"w": torch.zeros(3, 1)}, torch.eye(2), r"w of shape \(3, 1\) does not hold 2 networks"),
        ({"w": torch.tensor(1.0)}, torch.eye(2), "does not hold 2 networks"),
        ({"w": torch.zeros(2)}, torch.ones(2), r"shape \(2,\) are not \(rows, size\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(values, coefficients, said):
    with pytest.raises(ValueError, match=said):
        combine(values, coefficients)


# -- rules -------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 8), st.integers(0, 1000), st.floats(0.01, 0.99))
def test_every_rule_is_convex_and_leaves_others_alone(size, seed, alpha):
    members = draw_subset(size, max(2, size // 2), seeded(seed))
    losses = torch.rand(size, generator=seeded(seed))
    for matrix in (
        apso(losses, members, alpha),
        papa(size, members, alpha),
        papa_all(size, members),
        papa_pairs(size, members, seeded(seed)),
        soup(size, members, members[0]),
    ):
        assert (matrix >= 0).all()
        torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64))
        others = [one for one in range(size) if one not in members]
        assert torch.equal(matrix[others], torch.eye(size, dtype=torch.float64)[others])
        assert (matrix[members][:, others] == 0).all()


def test_apso_pulls_members_to_the_best_of_them_and_leaves_the_best():
    matrix = apso(torch.tensor([3.0, 0.1, 2.0, 1.0]), [0, 2, 3], 0.5)
    assert rows_of(matrix) == [[0.5, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]]


@pytest.mark.parametrize("lost", [NAN, float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_no_best_in_apso_and_nobody_moves_where_none_is(lost):
    assert rows_of(apso(torch.tensor([lost, 2.0]), [0, 1], 0.5)) == [[0.5, 0.5], [0, 1]]
    assert rows_of(apso(torch.tensor([lost, lost]), [0, 1], 0.5)) == [[1, 0], [0, 1]]


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, NAN])
def test_apso_refuses_an_alpha_outside_0_and_1(alpha):
    with pytest.raises(ValueError, match=r"alpha: .* is not above 0 and below 1"):
        apso(torch.zeros(2), [0, 1], alpha)


def test_papa_pulls_each_by_its_own_alpha():
    matrix = papa(3, [0, 1, 2], torch.tensor([0.0, 0.3, 0.6]))
    assert rows_of(matrix) == [[1, 0, 0], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]


def test_papa_keeps_the_mean_of_the_swarm_where_it_is():
    values = torch.randn(5, 4, dtype=torch.float64, generator=seeded())
    moved = combine({"w": values}, papa(5, range(5), 0.2))["w"]
    torch.testing.assert_close(moved.mean(0), values.mean(0))


def test_pairs_are_of_two_different_members_and_no_pair_comes_twice():
    matrix = papa_pairs(6, [0, 1, 2, 4, 5], seeded(3))
    pairs = [tuple(matrix[one].nonzero().flatten().tolist()) for one in (0, 1, 2, 4, 5)]
    assert all(len(pair) == 2 and 3 not in pair for pair in pairs)
    assert len(set(pairs)) == 5
    assert rows_of(papa_pairs(2, [1], seeded())) == [[1, 0], [0, 1]]


def test_a_subset_is_drawn_without_replacement_and_every_network_has_its_turn():
    drawn = [draw_subset(12, 6, seeded(seed)) for seed in range(200)]
    assert all(len(set(one)) == 6 and one == sorted(one) for one in drawn)
    shares = torch.bincount(torch.tensor(drawn).flatten(), minlength=12) / 200
    assert shares.min() > 0.35
    assert shares.max() < 0.65
    with pytest.raises(ValueError, match="subset: 13 is not from 1 to the swarm's size, 12"):
        draw_subset(12, 13, seeded())


@given(st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True)), min_size=1, max_size=8))
def test_ranking_puts_the_lowest_first_and_nan_last(scores):
    order = ranked(torch.tensor(scores, dtype=torch.float64))
    sorted_scores = [scores[one] for one in order]
    numbers = [score for score in sorted_scores if score == score]
    assert numbers == sorted(numbers)
    assert sorted_scores[: len(numbers)] == numbers
    assert sorted(order) == list(range(len(scores)))


def test_particle_swarm_optimisation_finds_the_lowest_place():
    generator = seeded(1)
    target = torch.tensor([3.0, -2.0])
    places = torch.randn(10, 2, generator=generator)
    velocities, bests = torch.zeros(10, 2), places.clone()
    for _ in range(80):
        losses = ((bests - target) ** 2).sum(1)
        best = bests[losses.argmin()].clone()
        for one in range(10):
            places[one], velocities[one] = pso(places[one], velocities[one], bests[one], best, 0.7, 1.4, 1.4, generator)
        better = ((places - target) ** 2).sum(1) < losses
        bests[better] = places[better]
    assert ((bests - target) ** 2).sum(1).min() < 1e-3


def test_a_velocity_and_a_place_keep_their_dtypes():
    half = torch.ones(3, dtype=torch.bfloat16)
    place, velocity = pso(half, half, half, half, 0.5, 1.0, 1.0, seeded())
    assert place.dtype == velocity.dtype == torch.bfloat16
