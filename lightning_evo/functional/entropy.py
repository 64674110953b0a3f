"""Entropies of activations and predictions: of histograms, of the spectrum of a covariance, of probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "covariance",
    "covariance_entropy",
    "histogram",
    "histogram_entropy",
    "prediction_entropy",
    "shannon_entropy",
    "spectral_entropy",
    "take_samples",
]

_STEP = 0.6180339887498949
"""Samples are taken by this share of their number apart (the golden section): evenly spread, whatever the maps' width."""


def histogram_entropy(
    values: Tensor, bins: int = 64, range: tuple[float, float] | None = None, normalised: bool = True
) -> Tensor:
    """Shannon entropy of a histogram of all values.

    With p_b the share of values in bin b: −Σ p_b log p_b, over log(``bins``) if ``normalised``. The bins are equally wide
    and cover ``range``; as in NumPy, the last one contains its upper edge, and what lies outside is left out. So are NaN
    and infinities. The smallest to the largest value as a range (the default) makes the entropy independent of the
    values' scale and origin.

    Args:
        values: Floats or integers of any shape.
        bins: How many, at least 2 (default 64).
        range: Lower and upper edge (default: the least and greatest finite value).
        normalised: In [0, 1] (default), 1 where all bins are equally full; else in nats.

    Returns:
        A scalar on the device of ``values``, float64 if they are, else float32. 0 if all values are equal, NaN if none
        is in the range.

    Raises:
        ValueError: If ``bins`` is below 2, or ``range`` isn't two finite numbers, the lower one first.

    Source:
        Shannon 1948, A mathematical theory of communication.

    >>> round(histogram_entropy(torch.arange(64.0)).item(), 4), histogram_entropy(torch.ones(5)).item()
    (1.0, 0.0)
    >>> histogram_entropy(torch.tensor([0.0, 0.0, 0.0, 1.0]), bins=2, normalised=False)  # −¾ log ¾ − ¼ log ¼
    tensor(0.5623)
    """
    counts = histogram(values, bins, range)
    return shannon_entropy(counts.to(_precise(values.new_zeros(0)).dtype), normalised)


@torch.no_grad()
def histogram(values: Tensor, bins: int = 64, range: tuple[float, float] | None = None) -> Tensor:
    """How many values fall into each bin, as :func:`histogram_entropy` counts them; no device is waited for.

    Returns:
        (bins,) int64.

    Raises:
        ValueError: See :func:`histogram_entropy`.

    >>> histogram(torch.tensor([0.0, 0.1, 0.6, 1.0, float("nan")]), bins=2)
    tensor([2, 2])
    """
    if bins < 2:
        raise ValueError(f"bins: {bins!r} is not at least 2")
    if range is not None and not (len(range) == 2 and -math.inf < range[0] < range[1] < math.inf):
        raise ValueError(f"range: {range!r} is not two finite numbers, the lower one first")
    flat = _precise(values.detach()).flatten()
    counts = torch.zeros(bins, dtype=torch.int64, device=flat.device)
    if not flat.numel():
        return counts
    finite = flat.isfinite()
    if range is None:
        low, high = flat.masked_fill(~finite, math.inf).amin(), flat.masked_fill(~finite, -math.inf).amax()
    else:
        low, high = flat.new_full((), range[0]), flat.new_full((), range[1])
    inside = finite & (flat >= low) & (flat <= high)
    # Halves, as the whole width of what a float can hold is none.
    width = high / 2 - low / 2
    share = ((flat / 2 - low / 2) / width).where(inside & (width > 0), flat.new_zeros(()))
    index = (share * bins).long().clamp_(max=bins - 1)
    return counts.scatter_add_(0, index, inside.long())


def covariance_entropy(
    activations: Tensor,
    channel: int = 1,
    normalised: bool = True,
    max_samples: int | None = None,
    max_channels: int | None = None,
) -> Tensor:
    """Shannon entropy of the spectrum of the channels' covariance: how many directions a layer's units really use.

    The covariance (C, C) of the channels has the eigenvalues λ; with p = λ / Σ λ the entropy is −Σ p log p, over
    log(min(C, N − 1)) if ``normalised``, as no more eigenvalues than that can be above 0. Its exponential is the
    effective rank: 1 where all channels are multiples of one, C where they are uncorrelated and equally strong. The
    activations' scale and means don't matter. From few samples (N not well above C) it is estimated too low in nats,
    and normalized somewhat too high.

    Args:
        activations: (N, C, ...), or with the channels elsewhere (``channel``). All further dimensions, such as the
            positions of a map, count as samples. Samples that hold NaN or an infinity are left out.
        channel: The channels' dimension (default 1; −1 for (N, T, C)).
        normalised: In [0, 1] (default); else in nats.
        max_samples: Take so many samples at most, evenly spread, always the same ones (default: all).
        max_channels: Take so many channels at most, evenly spread, always the same ones (default: all).

    Returns:
        A scalar on the same device, float64 if the activations are, else float32. 0 where they are constant or C is 1,
        NaN where fewer than two samples are finite.

    Raises:
        ValueError: If there are fewer than two dimensions, or a limit is below 2.

    Source:
        Roy & Vetterli 2007, The effective rank: a measure of effective dimensionality, there of singular values; of a
        covariance's eigenvalues it is the von Neumann entropy of quantum mechanics' density matrices.

    >>> activations = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    >>> covariance_entropy(activations).item() > 0.999
    True
    >>> covariance_entropy(activations[:, :1] * torch.arange(8.0)).abs().item() < 1e-5
    True
    """
    matrix, count = covariance(activations, channel, max_samples, max_channels)
    return spectral_entropy(matrix, count, normalised)


@torch.no_grad()
def covariance(
    activations: Tensor, channel: int = 1, max_samples: int | None = None, max_channels: int | None = None
) -> tuple[Tensor, Tensor]:
    """The channels' covariance up to a factor, and of how many finite samples; no device is waited for.

    Args:
        activations: As in :func:`covariance_entropy`, like the others.

    Returns:
        (C, C), of activations scaled so that the largest range of a channel is 1, and the number of samples, a scalar.

    Raises:
        ValueError: See :func:`covariance_entropy`.

    >>> matrix, count = covariance(torch.tensor([[0.0, 1.0], [4.0, 1.0]]))
    >>> matrix.tolist(), count.item()
    ([[0.5, 0.0], [0.0, 0.0]], 2)
    """
    samples = take_samples(activations, channel, max_samples, max_channels)
    if not samples.numel():
        return samples.new_zeros(samples.shape[1], samples.shape[1]), torch.tensor(0, device=samples.device)
    finite = samples.isfinite().all(1, keepdim=True)
    count = finite.sum()
    # From the least value on, so that a constant channel's covariance is exactly 0; halves, against overflow.
    low = samples.masked_fill(~finite, math.inf).amin(0) / 2
    above = (samples / 2 - low).masked_fill(~finite, 0)
    above = above / above.max().clamp(min=torch.finfo(samples.dtype).tiny)
    mean = above.sum(0) / count.clamp(min=1)
    centred = (above - mean).masked_fill(~finite, 0)
    return centred.T @ centred / (count - 1).clamp(min=1), count


@torch.no_grad()
def take_samples(
    activations: Tensor, channel: int = 1, max_samples: int | None = None, max_channels: int | None = None
) -> Tensor:
    """The (samples, channels) on which a covariance rests, as :func:`covariance_entropy` takes them.

    Returns:
        (min(N, max_samples), min(C, max_channels)), float64 if the activations are, else float32.

    Raises:
        ValueError: See :func:`covariance_entropy`.

    >>> take_samples(torch.arange(24).reshape(2, 3, 4), max_samples=3, max_channels=2)
    tensor([[ 0.,  8.],
            [13., 21.],
            [ 2., 10.]])
    """
    for name, limit in (("max_samples", max_samples), ("max_channels", max_channels)):
        if limit is not None and limit < 2:
            raise ValueError(f"{name}: {limit!r} is not at least 2")
    if activations.ndim < 2:
        raise ValueError(f"activations of shape {tuple(activations.shape)} are not (N, C, ...)")
    # A view: only what is taken is copied.
    maps = activations.detach().movedim(channel, 1)
    if max_channels is not None and maps.shape[1] > max_channels:
        kept = torch.arange(max_channels, device=maps.device) * (maps.shape[1] - 1) // (max_channels - 1)
        maps = maps.index_select(1, kept)
    sizes = (maps.shape[0], *maps.shape[2:])
    total = math.prod(sizes)
    if max_samples is None or total <= max_samples:
        return _precise(maps.movedim(1, -1).reshape(-1, maps.shape[1]))
    number = torch.arange(max_samples, device=maps.device) * _coprime(total) % total
    indices: list[Tensor] = []
    for size in reversed(sizes):
        indices.insert(0, number % size)
        number = number // size
    where: tuple[slice | Tensor, ...] = (indices[0], slice(None), *indices[1:])
    return _precise(maps[where])


def spectral_entropy(matrix: Tensor, count: Tensor | int | None = None, normalised: bool = True) -> Tensor:
    """Shannon entropy of the eigenvalues of a covariance (or any matrix that is symmetric and positive semidefinite).

    Args:
        matrix: (..., C, C).
        count: (...) from how many samples N it was estimated (default: enough).
        normalised: Over log(min(C, N − 1)), in [0, 1] (default); else in nats.

    Returns:
        (...): 0 where the matrix is 0 or has one row, NaN where ``count`` is below 2 or the matrix isn't finite.

    >>> spectral_entropy(torch.eye(4)), spectral_entropy(torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])))
    (tensor(1.), tensor(0.5000))
    """
    size = matrix.shape[-1]
    counts = torch.as_tensor(size + 1 if count is None else count, device=matrix.device)
    known = matrix.isfinite().all(-1).all(-1) & (counts >= 2)
    values = torch.linalg.eigvalsh(matrix.masked_fill(~known[..., None, None], 0)).clamp(min=0)
    # What rounding makes of eigenvalues that are 0.
    least = values[..., -1:] * size * torch.finfo(values.dtype).eps
    # A matrix of zeros says nothing: entropy 0.
    entropy = shannon_entropy(values.masked_fill(values <= least, 0), normalised=False).nan_to_num(0.0)
    if normalised:
        largest = (counts - 1).clamp(max=size).to(entropy.dtype)
        entropy = (entropy / largest.clamp(min=2).log()).clamp(max=1)
    return entropy.masked_fill(~known, math.nan)


def shannon_entropy(weights: Tensor, normalised: bool = True) -> Tensor:
    """−Σ p log p along the last dimension, p being the weights over their sum.

    Args:
        weights: (..., n), not negative, such as counts.
        normalised: Over log(n), in [0, 1] (default); else in nats.

    Returns:
        (...): NaN where all weights are 0.

    Raises:
        ValueError: If it shall be normalized and there are fewer than two weights.

    >>> shannon_entropy(torch.tensor([[1.0, 1.0], [3.0, 0.0]]))
    tensor([1., 0.])
    """
    size = weights.shape[-1]
    if normalised and size < 2:
        raise ValueError(f"{size} weights have no entropy that could be normalised: at least 2 are needed")
    shares = weights / weights.sum(-1, keepdim=True)
    # + 0.0, as −0.0 would be odd to read.
    entropy = -torch.special.xlogy(shares, shares).sum(-1) + 0.0
    return (entropy / math.log(size)).clamp(max=1) if normalised else entropy


def prediction_entropy(logits: Tensor, dim: int = 1, normalised: bool = True) -> Tensor:
    """Mean Shannon entropy of softmax(``logits``): how undecided predictions are. NeuroExapt's measure of saturation.

    Args:
        logits: (N, classes, ...), or with the classes elsewhere (``dim``). Predictions that hold NaN or +∞ are left out;
            −∞ is a class that can't be.
        dim: The classes' dimension (default 1).
        normalised: Over log(classes), in [0, 1] (default); else in nats.

    Returns:
        A scalar on the same device, float64 if the logits are, else float32; NaN if there is no prediction.

    Raises:
        ValueError: If there are fewer than two classes.

    >>> [round(prediction_entropy(torch.tensor([logits])).item(), 4) for logits in ([0.0, 0.0], [2.0, 0.0], [99.0, 0.0])]
    [1.0, 0.5271, 0.0]
    """
    classes = logits.shape[dim]
    if classes < 2:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} hold {classes} classes in dimension {dim}, not at least 2"
        )
    logs = _precise(logits).log_softmax(dim)
    entropy = -(logs.exp() * logs.where(logs > -math.inf, logs.new_zeros(()))).sum(dim)
    mean = entropy.nanmean()
    return mean / math.log(classes) if normalised else mean


def _precise(values: Tensor) -> Tensor:
    """As float32, unless they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def _coprime(total: int) -> int:
    """The step nearest to the golden section of ``total`` that reaches every number below it."""
    step = max(1, round(_STEP * total))
    while math.gcd(step, total) != 1:
        step += 1
    return step
