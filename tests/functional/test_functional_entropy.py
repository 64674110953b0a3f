"""Entropies equal what NumPy and SciPy compute, whatever is sampled, and say so where there is nothing to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_evo.functional.entropy import (
    covariance,
    covariance_entropy,
    histogram,
    histogram_entropy,
    prediction_entropy,
    spectral_entropy,
    take_samples,
)

INF, NAN = math.inf, math.nan


def drawn(seed: int, *shape: int, spread: float = 1.0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, shape)


def spectrum(samples: np.ndarray, normalised: bool = True) -> float:
    """By NumPy and SciPy, of (N, C)."""
    values = np.clip(np.linalg.eigvalsh(np.cov(samples.T).reshape(samples.shape[1], -1)), 0, None)
    entropy = float(scipy.stats.entropy(values))
    return entropy / math.log(min(samples.shape[1], len(samples) - 1)) if normalised else entropy


# -- histogram ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(2, 500),
    bins=st.integers(2, 100),
    spread=st.sampled_from([1e-6, 1.0, 1e6]),
    mean=st.sampled_from([0.0, -3.0, 100.0]),
    given_range=st.sampled_from([None, (-1.0, 2.0), (50.0, 200.0)]),
)
def test_histogram_entropy_is_scipys_entropy_of_numpys_histogram(seed, count, bins, spread, mean, given_range):
    values = drawn(seed, count, spread=spread, mean=mean)
    counts, _ = np.histogram(values, bins, given_range)
    np.testing.assert_array_equal(histogram(torch.tensor(values), bins, given_range).numpy(), counts)
    nats = histogram_entropy(torch.tensor(values), bins, given_range, normalised=False).item()
    share = histogram_entropy(torch.tensor(values), bins, given_range).item()
    if counts.sum():
        assert nats == pytest.approx(scipy.stats.entropy(counts), abs=1e-12)
        assert share == pytest.approx(scipy.stats.entropy(counts) / math.log(bins), abs=1e-12)
    else:
        assert math.isnan(nats)
        assert math.isnan(share)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=30), bins=st.integers(2, 20))
def test_whatever_the_values_a_histogram_counts_the_finite_ones_and_its_entropy_is_in_0_to_1(values, bins):
    finite = sum(map(math.isfinite, values))
    for dtype in (torch.float32, torch.float64):
        tensor = torch.tensor(values, dtype=dtype)
        assert histogram(tensor, bins).sum() == finite
        entropy = histogram_entropy(tensor, bins).item()
        assert 0 <= entropy <= 1 if finite else math.isnan(entropy)


def test_the_last_bin_holds_its_upper_edge_and_what_lies_outside_is_left_out():
    values = torch.tensor([-0.1, 0.0, 0.4, 0.5, 1.0, 1.1])
    assert histogram(values, bins=2, range=(0.0, 1.0)).tolist() == [2, 2]


def test_histogram_entropy_does_not_depend_on_scale_and_origin():
    values = torch.tensor(drawn(0, 300))
    assert histogram_entropy(8 * values - 4).item() == pytest.approx(histogram_entropy(values).item(), abs=1e-2)


@pytest.mark.parametrize("values", [torch.ones(7), torch.full((2, 3), -1e30), torch.tensor([5]), torch.zeros(4).half()])
def test_equal_values_have_no_histogram_entropy(values):
    assert histogram_entropy(values).item() == 0


@pytest.mark.parametrize("values", [torch.empty(0), torch.tensor([NAN, INF, -INF])])
def test_no_finite_value_is_nan(values):
    assert histogram_entropy(values).isnan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 1}, "bins: 1 is not at least 2"),
        ({"range": (1.0, 1.0)}, r"range: \(1.0, 1.0\)"),
        ({"range": (0.0, INF)}, "range"),
        ({"range": (NAN, 1.0)}, "range"),
    ],
)
def test_a_histogram_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        histogram_entropy(torch.ones(3), **arguments)


# -- covariance --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(3, 80),
    channels=st.integers(2, 24),
    rank=st.integers(1, 24),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e20]),
    mean=st.sampled_from([0.0, 5.0]),
)
def test_covariance_entropy_is_scipys_entropy_of_numpys_eigenvalues(seed, count, channels, rank, scale, mean):
    samples = (drawn(seed, count, rank) @ drawn(seed + 1, rank, channels) + mean) * scale
    tensor = torch.tensor(samples)
    assert covariance_entropy(tensor).item() == pytest.approx(spectrum(samples / scale), abs=1e-6)
    nats = covariance_entropy(tensor, normalised=False).item()
    assert nats == pytest.approx(spectrum(samples / scale, normalised=False), abs=1e-6)
    single = covariance_entropy((tensor / scale).float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(spectrum(samples / scale), abs=2e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 4), max_size=3), channels=st.integers(2, 5))
def test_positions_of_maps_are_samples_and_the_channels_may_lie_anywhere(seed, sizes, channels):
    maps = drawn(seed, 6, channels, *sizes)
    samples = np.moveaxis(maps, 1, -1).reshape(-1, channels)
    expected = spectrum(samples)
    assert covariance_entropy(torch.tensor(maps)).item() == pytest.approx(expected, abs=1e-9)
    last = torch.tensor(np.moveaxis(maps, 1, -1).copy())
    assert covariance_entropy(last, channel=-1).item() == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=2, max_size=12))
def test_samples_that_are_not_finite_are_left_out_and_nothing_leaves_0_to_1(rows):
    finite = [row for row in rows if all(map(math.isfinite, row))]
    entropy = covariance_entropy(torch.tensor(rows)).item()
    if len(finite) < 2:
        assert math.isnan(entropy)
    else:
        assert 0 <= entropy <= 1
        assert entropy == pytest.approx(covariance_entropy(torch.tensor(finite)).item(), abs=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e30, -7.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_activations_have_no_covariance_entropy(constant, dtype):
    activations = torch.full((64, 5, 3, 3), constant, dtype=dtype) * torch.arange(5, dtype=dtype)[:, None, None]
    assert covariance_entropy(activations).item() == 0


def test_one_channel_has_no_entropy_and_one_sample_none_that_is_known():
    assert covariance_entropy(torch.randn(9, 1)).item() == 0
    assert covariance_entropy(torch.randn(1, 9)).isnan()
    assert covariance_entropy(torch.empty(0, 9)).isnan()


def test_half_precision_counts_as_float32():
    activations = torch.tensor(drawn(0, 200, 6) @ drawn(1, 6, 6)).bfloat16()
    entropy = covariance_entropy(activations)
    assert entropy.dtype == torch.float32
    assert entropy.item() == pytest.approx(spectrum(activations.double().numpy()), abs=1e-4)


@pytest.mark.parametrize("shape", [(100, 8), (16, 8, 5), (4, 8, 12, 16), (2, 8, 3, 4, 5)])
@pytest.mark.parametrize("limit", [2, 17, 40])
def test_samples_are_taken_evenly_without_repetition_and_always_the_same(shape, limit):
    count = math.prod(shape) // shape[1]
    numbered = torch.arange(count).reshape(shape[0], 1, *shape[2:]).expand(shape)
    taken = take_samples(numbered, max_samples=limit)
    assert taken.shape == (min(limit, count), 8)
    assert (taken == taken[:, :1]).all()
    assert len(taken[:, 0].unique()) == len(taken)
    assert torch.equal(taken, take_samples(numbered, max_samples=limit))
    if count > limit > 10:
        # No gap is more than three times as wide as the mean one.
        gaps = taken[:, 0].sort().values.diff()
        assert gaps.max() <= 3 * count / limit


def test_few_channels_are_taken_evenly_first_and_last_included():
    numbered = torch.arange(10.0).expand(3, 10)
    assert take_samples(numbered, max_channels=4)[0].tolist() == [0, 3, 6, 9]


def test_what_is_taken_of_many_samples_says_the_same():
    maps = torch.tensor(drawn(0, 64, 12, 16, 16) * np.arange(1, 13)[:, None, None])
    assert covariance_entropy(maps, max_samples=2000).item() == pytest.approx(covariance_entropy(maps).item(), abs=0.01)


def test_many_spectra_are_measured_at_once():
    samples = [torch.tensor(drawn(seed, 30, 4)) for seed in range(3)]
    pairs = [covariance(each) for each in samples]
    together = spectral_entropy(
        torch.stack([matrix for matrix, _ in pairs]), torch.stack([count for _, count in pairs])
    )
    assert together.tolist() == pytest.approx([covariance_entropy(each).item() for each in samples], abs=1e-12)


def test_nothing_is_kept_for_gradients():
    activations = torch.randn(8, 3, requires_grad=True)
    assert not covariance_entropy(activations).requires_grad
    assert not histogram_entropy(activations).requires_grad


@pytest.mark.parametrize("arguments", [{"max_samples": 1}, {"max_channels": 0}])
def test_limits_below_two_are_refused(arguments):
    with pytest.raises(ValueError, match="is not at least 2"):
        covariance_entropy(torch.ones(4, 4), **arguments)


def test_activations_without_channels_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4,\) are not \(N, C, ...\)"):
        covariance_entropy(torch.ones(4))


# -- predictions -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 12), spread=st.sampled_from([0.1, 1.0, 30.0]))
def test_prediction_entropy_is_the_mean_entropy_of_softmax(seed, classes, spread):
    logits = drawn(seed, 7, classes, spread=spread)
    expected = scipy.stats.entropy(scipy.special.softmax(logits, axis=1), axis=1).mean()
    assert prediction_entropy(torch.tensor(logits), normalised=False).item() == pytest.approx(expected, abs=1e-9)
    share = prediction_entropy(torch.tensor(logits.T.copy()), dim=0).item()
    assert share == pytest.approx(expected / math.log(classes), abs=1e-9)


def test_a_class_that_cannot_be_counts_as_none_and_a_prediction_that_is_nan_is_left_out():
    logits = torch.tensor([[0.0, 0.0, -INF], [NAN, 0.0, 0.0], [INF, 0.0, 0.0]])
    assert prediction_entropy(logits, normalised=False).item() == pytest.approx(math.log(2))
    assert prediction_entropy(logits[1:]).isnan()


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="1 classes in dimension 1"):
        prediction_entropy(torch.ones(3, 1))
